//! How candidates become an order, and an order becomes scores. Pure functions, the same for every store.
//!
//! Linear min-max fusion: each kind of score is brought to 0..1 within one search, and the two are added with weights.
//! Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval" (2023), find it better than reciprocal
//! rank fusion, and so it is on conversations.

use std::{cmp::Reverse, collections::HashMap};

use super::{
    conversation::Scale,
    query::{Explain, MatchType, Mode},
    store::Stages,
};

/// Weight of words against meaning.
const KEYWORD_WEIGHT: f64 = 0.5;
/// What keeps the first places from outweighing all others, as the authors of reciprocal rank fusion chose it.
const RRF_K: f64 = 60.0;

/// A record that may match: what its words and its vector say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    pub seq: i64,
    /// BM25, greater is better; `None` where no word matches.
    pub keyword: Option<f64>,
    /// Cosine; `None` where there is no vector to compare.
    pub semantic: Option<f64>,
    /// The part of the search that it was found in; `None` once it is measured exactly.
    pub rough_in: Option<usize>,
}

impl From<&Ranked> for Candidate {
    fn from(ranked: &Ranked) -> Candidate {
        let Ranked { seq, explain, rough_in, .. } = *ranked;
        Candidate { seq, keyword: explain.keyword, semantic: explain.semantic, rough_in }
    }
}

/// A candidate in its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ranked {
    pub seq: i64,
    pub match_type: MatchType,
    pub explain: Explain,
    /// As that of a [`Candidate`].
    pub rough_in: Option<usize>,
    /// What the caller sees, 0..1; 0 until the order is known.
    pub score: f64,
}

impl Ranked {
    /// Puts what was measured exactly in its place.
    pub fn exact(seq: i64, match_type: MatchType, explain: Explain) -> Ranked {
        Ranked { seq, match_type, explain, rough_in: None, score: 0.0 }
    }
}

/// Returns what scores are measured against: BM25 and cosine of everything that is ranked, and the least of all cosines, 0 at
/// most.
pub(crate) fn scale(measures: impl Iterator<Item = (Option<f64>, Option<f64>)>, least: f64) -> Scale {
    // Zero is in the range: a single weak record is not a perfect one.
    let mut scale = Scale { keyword: 0.0, semantic: (least, 0.0) };
    for (keyword, semantic) in measures {
        scale.keyword = scale.keyword.max(keyword.unwrap_or(0.0));
        let (low, high) = &mut scale.semantic;
        *low = low.min(semantic.unwrap_or(0.0));
        *high = high.max(semantic.unwrap_or(0.0));
    }
    scale
}

/// Returns the candidates that match at all, with their scores, in no order.
pub(crate) fn fuse(mode: Mode, candidates: &[Candidate], scale: Scale, floor: f64) -> Vec<Ranked> {
    candidates
        .iter()
        .filter_map(|candidate| {
            let ranked = Ranked::exact(candidate.seq, match_type(candidate, floor)?, explain(mode, candidate, scale));
            Some(Ranked { rough_in: candidate.rough_in, ..ranked })
        })
        .collect()
}

/// Returns what was ranked by rough measures with its exact ones. It stays a match: how many there are is known before.
pub(crate) fn measured(mode: Mode, ranked: &Ranked, candidate: &Candidate, scale: Scale, floor: f64) -> Ranked {
    let match_type = match_type(candidate, floor).unwrap_or(ranked.match_type);
    Ranked::exact(ranked.seq, match_type, explain(mode, candidate, scale))
}

fn match_type(candidate: &Candidate, floor: f64) -> Option<MatchType> {
    match (candidate.keyword.is_some(), candidate.semantic.is_some_and(|cosine| is_near(cosine, floor))) {
        (true, true) => Some(MatchType::Hybrid),
        (true, false) => Some(MatchType::Keyword),
        (false, true) => Some(MatchType::Semantic),
        (false, false) => None,
    }
}

/// Returns the candidates that match at all, with scores that come from their places by words and by meaning alone.
pub(crate) fn fuse_by_rank(candidates: &[Candidate], scale: Scale, floor: f64) -> Vec<Ranked> {
    let mut ranking = fuse(Mode::Hybrid, candidates, scale, floor);
    let ranks = |of: &dyn Fn(&Ranked) -> Option<f64>| {
        let mut places: Vec<_> = ranking.iter().filter_map(|ranked| Some((of(ranked)?, ranked.seq))).collect();
        places.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
        places.into_iter().zip(1_usize..).map(|((_, seq), rank)| (seq, rank)).collect::<HashMap<_, _>>()
    };
    let by_words = ranks(&|ranked| ranked.explain.keyword);
    let by_meaning = ranks(&|ranked| ranked.explain.semantic.filter(|cosine| is_near(*cosine, floor)));
    for ranked in &mut ranking {
        let explain = &mut ranked.explain;
        explain.keyword_rank = by_words.get(&ranked.seq).copied();
        explain.semantic_rank = by_meaning.get(&ranked.seq).copied();
        (explain.keyword_weight, explain.semantic_weight) = (1.0, 1.0);
        let worth = |rank: Option<usize>| rank.map_or(0.0, |rank| 1.0 / (RRF_K + rank as f64));
        explain.fused = worth(explain.keyword_rank) + worth(explain.semantic_rank);
    }
    ranking
}

/// Puts the best first; of equals the newest.
pub(crate) fn sort(ranking: &mut [Ranked]) {
    ranking.sort_by(|a, b| b.explain.fused.total_cmp(&a.explain.fused).then(b.seq.cmp(&a.seq)));
}

/// Returns a key that puts the best candidate first; of equals the newest.
pub(crate) fn order(mode: Mode, candidate: &Candidate, scale: Scale) -> Reverse<(i64, i64)> {
    // The bits of positive numbers are in the order of the numbers.
    let fused = explain(mode, candidate, scale).fused.max(0.0).to_bits() as i64;
    Reverse((fused, candidate.seq))
}

/// Returns whether a cosine is that of texts which have to do with each other: at least `floor`.
pub(crate) fn is_near(cosine: f64, floor: f64) -> bool {
    // What is rounded may lie a little below the least that there is.
    floor <= -1.0 || cosine >= floor
}

fn explain(mode: Mode, candidate: &Candidate, scale: Scale) -> Explain {
    let (keyword_weight, semantic_weight) = match mode {
        Mode::Keyword => (1.0, 0.0),
        Mode::Semantic => (0.0, 1.0),
        _ => (KEYWORD_WEIGHT, 1.0 - KEYWORD_WEIGHT),
    };
    // A word that is in every text weighs next to nothing, but it matches.
    let keyword_normalized = match candidate.keyword {
        Some(_) if scale.keyword <= 0.0 => 1.0,
        keyword => scale.keyword(keyword.unwrap_or(0.0)),
    };
    let semantic_normalized = scale.semantic(candidate.semantic);
    Explain {
        keyword: candidate.keyword,
        keyword_normalized,
        semantic: candidate.semantic,
        semantic_normalized,
        keyword_weight,
        semantic_weight,
        fused: keyword_weight * keyword_normalized + semantic_weight * semantic_normalized,
        ..Explain::default()
    }
}

/// Returns how relevant the best match is by itself: its cosine, or the share of the question's words that it has.
pub(crate) fn relevance(best: &Ranked, coverage: f64) -> f64 {
    let cosine = best.explain.semantic.unwrap_or(0.0).clamp(0.0, 1.0);
    let coverage = if best.explain.keyword.is_some() { coverage } else { 0.0 };
    cosine.max(coverage).clamp(0.0, 1.0)
}

/// Returns the score of a match, 0..1: in the order of the ranking, and comparable between searches.
pub(crate) fn score(mode: Mode, stages: &Stages, ranked: &Ranked, best: &Ranked, relevance: f64) -> f64 {
    let is_lifted = stages.recency_half_life.is_some() || stages.importance_weight > 0.0;
    if mode == Mode::Semantic && !is_lifted {
        return ranked.explain.semantic.unwrap_or(0.0).clamp(0.0, 1.0);
    }
    if best.explain.fused <= 0.0 {
        0.0
    } else {
        (relevance * ranked.explain.fused / best.explain.fused).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(seq: i64, keyword: impl Into<Option<f64>>, semantic: impl Into<Option<f64>>) -> Candidate {
        Candidate { seq, keyword: keyword.into(), semantic: semantic.into(), rough_in: None }
    }

    fn ranked(mode: Mode, candidates: &[Candidate]) -> Vec<Ranked> {
        let measures = candidates.iter().map(|candidate| (candidate.keyword, candidate.semantic));
        let mut ranking = fuse(mode, candidates, scale(measures, 0.0), 0.25);
        sort(&mut ranking);
        ranking
    }

    fn order(ranking: &[Ranked]) -> Vec<i64> {
        ranking.iter().map(|ranked| ranked.seq).collect()
    }

    #[test]
    fn both_kinds_of_evidence_beat_one() {
        let candidates = [candidate(1, 3.0, 0.1), candidate(2, None, 0.6), candidate(3, 2.0, 0.5)];
        assert_eq!(order(&ranked(Mode::Hybrid, &candidates)), [3, 1, 2]);
    }

    #[test]
    fn what_is_near_nothing_is_no_match() {
        let candidates = [candidate(1, None, 0.1), candidate(2, None, -0.3), candidate(3, None, None)];
        assert_eq!(ranked(Mode::Hybrid, &candidates), []);
    }

    #[test]
    fn the_only_match_is_as_good_as_it_is_by_itself() {
        let ranking = ranked(Mode::Hybrid, &[candidate(1, None, 0.3)]);
        let relevance = relevance(&ranking[0], 0.0);
        assert!((score(Mode::Hybrid, &Stages::default(), &ranking[0], &ranking[0], relevance) - 0.3).abs() < 1e-9);
    }

    #[test]
    fn ranks_alone_count_where_they_are_asked_for() {
        let candidates = [candidate(1, 100.0, 0.3), candidate(2, 2.0, 0.9), candidate(3, 1.0, None)];
        let measures = candidates.iter().map(|candidate| (candidate.keyword, candidate.semantic));
        let mut ranking = fuse_by_rank(&candidates, scale(measures, 0.0), 0.25);
        sort(&mut ranking);
        assert_eq!(order(&ranking), [2, 1, 3]);
        let first = ranking[0].explain;
        assert_eq!((first.keyword_rank, first.semantic_rank), (Some(2), Some(1)));
        assert!((first.fused - (1.0 / 62.0 + 1.0 / 61.0)).abs() < 1e-12);
    }

    #[test]
    fn of_equals_the_newest_comes_first() {
        let candidates = [candidate(1, 1.0, 0.5), candidate(2, 1.0, 0.5)];
        assert_eq!(order(&ranked(Mode::Hybrid, &candidates)), [2, 1]);
    }
}
