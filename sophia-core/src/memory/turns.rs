//! The messages that a search ranks by their conversations: those that match, and those beside them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    bm25,
    conversation::Turn,
    lexicon::{Nearness, TurnWords},
    query::{Explain, MatchType},
    rank::{self, Ranked},
    record::Record,
    search::{Part, Search, Source},
};
use crate::Result;

/// Messages that tell how frequent near words are, spread over the wall; all of them where there are no more.
pub(crate) const SAMPLE: u32 = 512;

/// Messages of all walls of a search.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub turns: Vec<Turn>,
    found: Vec<FoundTurn>,
}

#[derive(Debug)]
struct FoundTurn {
    seq: i64,
    /// Whether a word of the question, in one of its forms, stands in it.
    has_word: bool,
}

impl Gathered {
    /// Returns BM25 and cosine of each message.
    pub(crate) fn measures(&self) -> impl Iterator<Item = (Option<f64>, Option<f64>)> {
        self.turns.iter().map(|turn| (Some(turn.keyword), turn.semantic))
    }

    /// Returns the messages in their places of the ranking: those that match, and those whose neighbours do.
    pub(crate) fn rank(&self, weighed: Vec<Explain>, floor: f64) -> Vec<Ranked> {
        let found = self.turns.iter().zip(&self.found);
        let own: Vec<_> = found.map(|(turn, found)| match_type(turn, found, floor)).collect();
        let of = |(place, explain): (usize, Explain)| {
            let has_context = || self.turns[place].neighbors.iter().flatten().any(|beside| own[*beside].is_some());
            let match_type = own[place].or_else(|| has_context().then_some(MatchType::Context))?;
            Some(Ranked::exact(self.found[place].seq, match_type, explain))
        };
        weighed.into_iter().enumerate().filter_map(of).collect()
    }
}

fn match_type(turn: &Turn, found: &FoundTurn, floor: f64) -> Option<MatchType> {
    let is_near = turn.semantic.is_some_and(|cosine| rank::is_near(cosine, floor)) || turn.keyword > 0.0;
    match (found.has_word, is_near && turn.semantic.is_some()) {
        (true, true) => Some(MatchType::Hybrid),
        (true, false) => Some(MatchType::Keyword),
        (false, true) => Some(MatchType::Semantic),
        (false, false) => None,
    }
}

/// Measures the messages at `places`, and those beside them.
pub(crate) async fn gather<S: Source, P: Part>(
    search: &Search<'_>,
    source: &S,
    part: &P,
    places: &[u32],
    gathered: &mut Gathered,
) -> Result<()> {
    let ring = Ring::around(part, places);
    let sample = part.sample();
    let wanted: BTreeSet<u32> = ring.outer.iter().chain(&sample).copied().collect();
    let (texts, nearness) = read_turns(search, source, part, &wanted).await?;
    let measure = Measure::new(part, &texts, &sample, &nearness);

    let found: Vec<i64> = places.iter().map(|place| part.row(*place).seq).collect();
    let exact = source.cosines(&found).await?;
    let rough: HashMap<u32, f64> = {
        let all = &ring.outer;
        all.iter().zip(part.cosines(all)).filter_map(|(place, cosine)| Some((*place, cosine?))).collect()
    };
    let first = gathered.turns.len();
    let numbers: BTreeMap<u32, usize> =
        ring.ranked.iter().zip(first..).map(|(place, number)| (*place, number)).collect();
    let named = named(search, texts.values());
    for place in &ring.ranked {
        let row = part.row(*place);
        let neighbors = part.neighbors(*place);
        let window: Vec<u32> = neighbors.iter().flatten().copied().chain([*place]).collect();
        let cosines: Vec<f64> = window.iter().filter_map(|place| rough.get(place).copied()).collect();
        let speaker = texts.get(place).map(|turn| &turn.speaker);
        gathered.turns.push(Turn {
            session: (part.wall(), row.session),
            keyword: measure.score(&[*place]),
            window_keyword: measure.score(&window),
            semantic: exact.get(&row.seq).or(rough.get(place)).copied(),
            window_semantic: (!cosines.is_empty()).then(|| cosines.iter().sum::<f64>() / cosines.len() as f64),
            is_by_the_named: named.is_some() && speaker == named.as_ref(),
            neighbors: neighbors.map(|beside| beside.and_then(|beside| numbers.get(&beside).copied())),
        });
        gathered.found.push(FoundTurn { seq: row.seq, has_word: part.keyword(*place).is_some() });
    }
    Ok(())
}

/// Messages that match, those beside them, and those beside these: the first two are ranked, the last complete windows.
struct Ring {
    ranked: Vec<u32>,
    outer: Vec<u32>,
}

impl Ring {
    fn around<P: Part>(part: &P, places: &[u32]) -> Ring {
        let beside = |place: &u32| part.neighbors(*place).into_iter().flatten();
        let grown = |places: &[u32]| {
            let mut grown: Vec<u32> = places.iter().flat_map(beside).chain(places.iter().copied()).collect();
            grown.sort_unstable();
            grown.dedup();
            grown
        };
        let ranked = grown(places);
        let outer = grown(&ranked);
        Ring { ranked, outer }
    }
}

/// Returns the words of messages, and how near these are to the words of the question.
async fn read_turns<S: Source, P: Part>(
    search: &Search<'_>,
    source: &S,
    part: &P,
    places: &BTreeSet<u32>,
) -> Result<(BTreeMap<u32, Arc<TurnWords>>, Nearness)> {
    let words = search.plan.words.as_deref();
    // What another search throws out of the lexicon meanwhile is taken from here.
    let mut read: HashMap<i64, Option<Record>> = HashMap::new();
    loop {
        let mut missing = Vec::new();
        {
            let mut lexicon = part.lexicon().lock();
            lexicon.make_room(words);
            let mut turns = BTreeMap::new();
            for place in places {
                let seq = part.row(*place).seq;
                match (lexicon.turn(seq), read.get(&seq)) {
                    (Some(turn), _) => drop(turns.insert(*place, turn)),
                    (None, Some(Some(record))) => drop(turns.insert(*place, lexicon.read(record, words))),
                    (None, Some(None)) => {}
                    (None, None) => missing.push(seq),
                }
            }
            if missing.is_empty() {
                return Ok((turns, lexicon.nearness(part.terms(), words)));
            }
        }
        let mut found = source.texts(&missing).await?;
        read.extend(missing.into_iter().map(|seq| (seq, found.remove(&seq))));
    }
}

/// Returns the one speaker whom the question names, if it names one and no other.
fn named<'t>(search: &Search<'_>, turns: impl Iterator<Item = &'t Arc<TurnWords>>) -> Option<Vec<String>> {
    let mut named: Vec<&Vec<String>> = turns
        .map(|turn| &turn.speaker)
        .filter(|speaker| speaker.first().is_some_and(|name| search.terms.iter().any(|term| term.word == *name)))
        .collect();
    named.sort_unstable();
    named.dedup();
    match named[..] {
        [one] => Some(one.clone()),
        _ => None,
    }
}

/// BM25 of messages and windows, with near words.
struct Measure {
    /// How often each term stands in a message, near words included, and how many words the message has.
    frequencies: BTreeMap<u32, (Vec<f64>, f64)>,
    worth: Vec<f64>,
    window_worth: Vec<f64>,
    mean: f64,
    mean_window: f64,
}

impl Measure {
    fn new<P: Part>(part: &P, texts: &BTreeMap<u32, Arc<TurnWords>>, sample: &[u32], nearness: &Nearness) -> Measure {
        let frequencies: BTreeMap<u32, (Vec<f64>, f64)> =
            texts.iter().map(|(place, turn)| (*place, (nearness.frequencies(turn), f64::from(turn.length)))).collect();
        let sampled: Vec<_> = sample.iter().filter_map(|place| frequencies.get(place)).collect();
        let count = part.count() as f64;
        let share = |sum: f64| if sampled.is_empty() { 0.0 } else { sum / sampled.len() as f64 };
        let shares: Vec<f64> = part
            .weights()
            .frequencies()
            .iter()
            .enumerate()
            .map(|(term, exact)| {
                let near = share(sampled.iter().map(|(times, _)| times[term].min(1.0)).sum());
                near.max(exact / count.max(1.0)).min(1.0)
            })
            .collect();
        let mean = share(sampled.iter().map(|(_, length)| length).sum());
        let mean_window = {
            let window = |place: &u32| {
                let beside = part.neighbors(*place).into_iter().flatten();
                beside.chain([*place]).map(|place| f64::from(part.row(place).words)).sum::<f64>()
            };
            share(sample.iter().map(window).sum())
        };
        Measure {
            worth: shares.iter().map(|share| bm25::idf(share * count, count)).collect(),
            // A window has a word where one of its three messages has it.
            window_worth: shares.iter().map(|share| bm25::idf((1.0 - (1.0 - share).powi(3)) * count, count)).collect(),
            frequencies,
            mean,
            mean_window,
        }
    }

    /// Returns the score of messages that are taken as one text.
    fn score(&self, places: &[u32]) -> f64 {
        let (worth, mean) =
            if places.len() == 1 { (&self.worth, self.mean) } else { (&self.window_worth, self.mean_window) };
        let parts = || places.iter().filter_map(|place| self.frequencies.get(place));
        let length: f64 = parts().map(|(_, length)| length).sum();
        let of = |(term, worth): (usize, &f64)| {
            worth * bm25::saturation(parts().map(|(times, _)| times[term]).sum(), length, mean)
        };
        worth.iter().enumerate().map(of).sum()
    }
}
