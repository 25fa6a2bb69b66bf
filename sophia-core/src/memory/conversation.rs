//! How the messages of conversations are ranked: a message is understood by what was said around it.
//!
//! A message counts by itself and with its neighbours (a window of the message before, itself and the message after), its
//! neighbours lend it some of their worth, so do the best messages of its conversation, and so does being said by the one
//! person that the question names. The weights come from two-person chats (LoCoMo, Maharana et al., 2024).

use super::{
    embed::ModelClass,
    query::{ConversationExplain, Explain},
};

/// Weight of a message against its window.
const OWN_WEIGHT: f64 = 0.6;
/// Share of the worth of its conversation that a message gets.
const SESSION_SHARE: f64 = 0.3;
/// Messages that make the worth of a conversation: its best.
const SESSION_BEST: usize = 3;

/// What depends on how well the model reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Weights {
    /// Of words against meaning.
    pub keyword: f64,
    /// Share of its neighbours' worth that a message gets.
    neighbors: f64,
    /// What being said by the one who is named in the question is worth.
    speaker: f64,
}

impl Weights {
    pub fn of(class: ModelClass) -> Weights {
        match class {
            ModelClass::Static => Weights { keyword: 0.7, neighbors: 0.2, speaker: 0.15 },
            ModelClass::Contextual => Weights { keyword: 0.4, neighbors: 0.15, speaker: 0.1 },
        }
    }
}

/// A message that may be found, with what was measured of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turn {
    /// Which conversation it belongs to.
    pub session: (i64, u64),
    /// BM25, near words included.
    pub keyword: f64,
    /// The same of its window.
    pub window_keyword: f64,
    /// Cosine; `None` where there is no vector to compare.
    pub semantic: Option<f64>,
    /// Mean cosine of its window.
    pub window_semantic: Option<f64>,
    /// Whether the one who speaks is the one who is named in the question.
    pub is_by_the_named: bool,
    /// Places of the messages before and after it, among those that are ranked.
    pub neighbors: [Option<usize>; 2],
}

/// What scores are measured against, within one search.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Best BM25 of all records.
    pub keyword: f64,
    /// Least and greatest cosine of all records.
    pub semantic: (f64, f64),
}

impl Scale {
    pub fn keyword(&self, score: f64) -> f64 {
        if self.keyword > 0.0 { (score / self.keyword).clamp(0.0, 1.0) } else { 0.0 }
    }

    pub fn semantic(&self, cosine: Option<f64>) -> f64 {
        let (low, high) = self.semantic;
        cosine.filter(|_| high > low).map_or(0.0, |cosine| ((cosine - low) / (high - low)).clamp(0.0, 1.0))
    }
}

/// Weighs messages; the results are in the order of the messages.
pub(crate) fn weigh(turns: &[Turn], scale: Scale, weights: Weights) -> Vec<Explain> {
    let windows = window_scale(turns);
    let mut explained: Vec<_> = turns.iter().map(|turn| by_itself(turn, scale, windows, weights.keyword)).collect();
    let own: Vec<f64> = explained.iter().map(|(explain, _)| explain.fused).collect();
    let sessions = session_worth(turns, &own);
    for ((turn, (explain, parts)), session) in turns.iter().zip(&mut explained).zip(sessions) {
        parts.own = explain.fused;
        parts.neighbors = weights.neighbors * turn.neighbors.iter().flatten().map(|place| own[*place]).sum::<f64>();
        parts.session = SESSION_SHARE * session;
        parts.speaker = if turn.is_by_the_named { weights.speaker } else { 0.0 };
        explain.fused += parts.neighbors + parts.session + parts.speaker;
    }
    // What lifts messages orders them among themselves: against other records the best counts as much as by itself.
    let best = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let lifted = best(&mut explained.iter().map(|(explain, _)| explain.fused));
    let factor = if lifted > 0.0 { best(&mut own.iter().copied()) / lifted } else { 1.0 };
    explained
        .into_iter()
        .map(|(explain, parts)| Explain {
            fused: explain.fused * factor,
            conversation: Some(ConversationExplain { factor, ..parts }),
            ..explain
        })
        .collect()
}

fn window_scale(turns: &[Turn]) -> Scale {
    let keyword = turns.iter().map(|turn| turn.window_keyword).fold(0.0, f64::max);
    let cosines = turns.iter().filter_map(|turn| turn.window_semantic);
    let semantic = cosines.fold((f64::MAX, f64::MIN), |(low, high), cosine| (low.min(cosine), high.max(cosine)));
    Scale { keyword, semantic }
}

/// Weighs a message with its window, without what lifts it.
fn by_itself(turn: &Turn, scale: Scale, windows: Scale, keyword_weight: f64) -> (Explain, ConversationExplain) {
    let window = |own: f64, window: f64| OWN_WEIGHT * own + (1.0 - OWN_WEIGHT) * window;
    let parts = ConversationExplain {
        window_keyword_normalized: windows.keyword(turn.window_keyword),
        window_semantic_normalized: windows.semantic(turn.window_semantic),
        ..ConversationExplain::default()
    };
    let keyword_normalized = scale.keyword(turn.keyword);
    let semantic_normalized = scale.semantic(turn.semantic);
    let words = window(keyword_normalized, parts.window_keyword_normalized);
    let meaning = window(semantic_normalized, parts.window_semantic_normalized);
    let explain = Explain {
        keyword: (turn.keyword > 0.0).then_some(turn.keyword),
        keyword_normalized,
        semantic: turn.semantic,
        semantic_normalized,
        keyword_weight,
        semantic_weight: 1.0 - keyword_weight,
        fused: keyword_weight * words + (1.0 - keyword_weight) * meaning,
        ..Explain::default()
    };
    (explain, parts)
}

/// Returns for each message the worth of its conversation: the mean of its best messages.
fn session_worth(turns: &[Turn], own: &[f64]) -> Vec<f64> {
    let mut places: Vec<usize> = (0..turns.len()).collect();
    places.sort_by(|a, b| turns[*a].session.cmp(&turns[*b].session).then(own[*b].total_cmp(&own[*a])));
    let mut worth = vec![0.0; turns.len()];
    for session in places.chunk_by(|a, b| turns[*a].session == turns[*b].session) {
        let best = &session[..session.len().min(SESSION_BEST)];
        let mean = best.iter().map(|place| own[*place]).sum::<f64>() / best.len() as f64;
        session.iter().for_each(|place| worth[*place] = mean);
    }
    worth
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALE: Scale = Scale { keyword: 2.0, semantic: (0.0, 1.0) };
    const WEIGHTS: Weights = Weights { keyword: 0.7, neighbors: 0.2, speaker: 0.15 };

    fn turn(session: u64, keyword: f64, neighbors: [Option<usize>; 2]) -> Turn {
        Turn { session: (1, session), keyword, window_keyword: keyword, neighbors, ..Turn::default() }
    }

    #[test]
    fn a_message_beside_the_answer_comes_before_one_elsewhere() {
        let turns = [
            turn(1, 2.0, [None, Some(1)]),
            turn(1, 0.1, [Some(0), None]),
            turn(2, 0.1, [None, Some(3)]),
            turn(2, 0.1, [Some(2), None]),
        ];
        let fused: Vec<_> = weigh(&turns, SCALE, WEIGHTS).iter().map(|explain| explain.fused).collect();
        assert!(fused[0] > fused[1] && fused[1] > fused[2] && fused[2] == fused[3], "{fused:?}");
    }

    #[test]
    fn who_is_named_comes_first_of_equals() {
        let by_named = Turn { is_by_the_named: true, ..turn(1, 1.0, [None, None]) };
        let explained = weigh(&[turn(2, 1.0, [None, None]), by_named], SCALE, WEIGHTS);
        assert!(explained[1].fused > explained[0].fused);
        assert_eq!(explained[1].conversation.map(|parts| parts.speaker), Some(WEIGHTS.speaker));
    }

    #[test]
    fn every_part_of_the_score_is_explained() {
        let mut turns = [turn(1, 2.0, [None, Some(1)]), turn(1, 1.0, [Some(0), None])];
        turns[0].semantic = Some(0.5);
        turns[0].window_semantic = Some(0.4);
        for explain in weigh(&turns, SCALE, WEIGHTS) {
            let parts = explain.conversation.unwrap();
            let words = 0.6 * explain.keyword_normalized + 0.4 * parts.window_keyword_normalized;
            let meaning = 0.6 * explain.semantic_normalized + 0.4 * parts.window_semantic_normalized;
            let own = explain.keyword_weight * words + explain.semantic_weight * meaning;
            assert!((own - parts.own).abs() < 1e-12, "{explain:?}");
            let lifted = parts.own + parts.neighbors + parts.session + parts.speaker;
            assert!((explain.fused - lifted * parts.factor).abs() < 1e-12, "{explain:?}");
        }
    }

    #[test]
    fn the_best_message_counts_as_much_as_by_itself() {
        let explained = weigh(&[turn(1, 2.0, [None, None]), turn(1, 1.0, [None, None])], SCALE, WEIGHTS);
        let parts = explained[0].conversation.unwrap();
        assert!((explained[0].fused - parts.own).abs() < 1e-12);
    }
}
