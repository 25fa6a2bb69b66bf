//! Search, the same for every store: what was found by words and by meaning becomes one order, and a page of it is read.
//!
//! A store finds candidates in its own way and gives them as a [`Part`] for each wall; what else is needed to rank them is
//! asked of it as a [`Source`], in batches.

use std::collections::{BTreeSet, HashMap};

use parking_lot::Mutex;

use super::{
    bm25::Weights,
    conversation,
    lexicon::Lexicon,
    query::{Explain, Fusion, MatchType, Mode},
    rank::{self, Candidate, Ranked},
    record::Record,
    segment::Row,
    stages::{self, Facts},
    store::{Found, Match, Plan},
    turns::{self, Gathered},
    words::{self, Term},
};
use crate::Result;

/// Least candidates of each kind, whatever the page: what a fused order can choose from.
const MIN_CANDIDATES: usize = 256;
/// Records that are compared exactly, whatever the page: the best by what is known of all.
const MIN_SETTLED: usize = 40;

/// What a search reads of a store, by the numbers of records. What is not there is left out.
#[allow(async_fn_in_trait, reason = "its futures are sent where the store's are")]
pub(crate) trait Source {
    /// Reads what is searched by words, and who speaks; all else of the records is left empty.
    async fn texts(&self, seqs: &[i64]) -> Result<HashMap<i64, Record>>;

    /// Reads the exact cosines with the question, where those of the parts are not exact.
    async fn cosines(&self, seqs: &[i64]) -> Result<HashMap<i64, f64>>;

    /// Reads ages and importances.
    async fn facts(&self, seqs: &[i64]) -> Result<HashMap<i64, Facts>>;

    /// Reads the vectors of the model of the question.
    async fn vectors(&self, seqs: &[i64]) -> Result<HashMap<i64, Vec<f32>>>;

    /// Reads records whole.
    async fn records(&self, seqs: &[i64]) -> Result<HashMap<i64, Record>>;
}

/// One wall of a search, and what was found in it. Records have places, ascending with their numbers.
pub(crate) trait Part {
    /// Returns the number of the wall.
    fn wall(&self) -> i64;
    /// Returns the words of the question, with what they may have been meant as in this wall.
    fn terms(&self) -> &[Term];
    /// Returns what the words are worth here.
    fn weights(&self) -> &Weights;
    /// Counts the records of the wall.
    fn count(&self) -> usize;
    /// Counts active records that have no vector to compare.
    fn missing(&self) -> usize;
    /// Returns the words that stand in more records than were looked at.
    fn cut(&self) -> &[usize];
    /// Returns the least cosine of all that was compared, about; 0 at most.
    fn least(&self) -> f64;
    /// Returns the places of the candidates.
    fn candidates(&self) -> &BTreeSet<u32>;
    /// Chooses messages evenly over the wall: they tell how frequent near words are.
    fn sample(&self) -> Vec<u32>;
    /// Returns what is known of the record at a place.
    fn row(&self, place: u32) -> &Row;
    /// Returns the BM25 of a record, each word taken to stand there once; `None` where none does.
    fn keyword(&self, place: u32) -> Option<f64>;
    /// Returns the cosine with the question, about; `None` where there is no vector to compare.
    fn cosine(&self, place: u32) -> Option<f64>;
    /// Returns the messages before and after, of those that may be found.
    fn neighbors(&self, place: u32) -> [Option<u32>; 2];
    /// Returns the words of messages that were read lately.
    fn lexicon(&self) -> &Mutex<Lexicon>;
}

/// A question by words and meaning.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    pub plan: &'a Plan,
    pub terms: Vec<Term>,
    pub warnings: Vec<String>,
}

impl<'a> Search<'a> {
    pub fn new(plan: &'a Plan) -> Search<'a> {
        let terms = if plan.mode == Mode::Semantic { Vec::new() } else { words::terms(&plan.text) };
        let mut warnings = Vec::new();
        if plan.vector.is_none() && plan.mode != Mode::Keyword {
            warnings.push("semantic: the query has no vector; answered by words alone".to_owned());
        }
        Search { plan, terms, warnings }
    }

    /// Returns how many candidates of each kind are to be found.
    pub fn wanted(&self) -> usize {
        MIN_CANDIDATES.max(self.plan.limit + self.plan.offset)
    }

    /// Returns whether a vector of the question says anything: not one of zeros, of which nothing is near.
    pub fn has_direction(&self, values: &[f32]) -> bool {
        self.plan.mode != Mode::Keyword && values.iter().any(|value| *value != 0.0)
    }

    /// Says that typos were compared with a part of the words only.
    pub fn warn_of_words(&mut self) {
        self.warnings.push("keyword: there are very many words; typos were compared with a part of them".into());
    }

    /// Ranks what was found, and reads one page of it. `source` is asked after the parts are let go, as far as it can be.
    pub async fn finish<S: Source, P: Part>(mut self, source: &S, parts: Vec<P>) -> Result<Found> {
        self.warn(&parts);
        let mut ranking = self.rank(source, &parts).await?;
        for (place, term) in parts.iter().flat_map(|part| part.terms().iter().enumerate()) {
            self.terms[place].meant.extend(term.meant.iter().cloned());
        }
        drop(parts);
        self.reorder(source, &mut ranking).await?;
        self.page(source, ranking).await
    }

    fn warn<P: Part>(&mut self, parts: &[P]) {
        let missing: usize = parts.iter().map(Part::missing).sum();
        if let Some(vector) =
            self.plan.vector.as_ref().filter(|vector| missing > 0 && self.has_direction(&vector.values))
        {
            self.warnings.push(format!(
                "semantic: {missing} records have no vector of the model {}; found by words alone",
                vector.model
            ));
        }
        let cut: BTreeSet<_> = parts.iter().flat_map(Part::cut).copied().collect();
        for term in cut {
            let word = &self.terms[term].word;
            self.warnings
                .push(format!("keyword: `{word}` stands in very many records; looked for in the newest of them only"));
        }
    }

    /// Ranks messages by their conversations, and all else by itself.
    async fn rank<S: Source, P: Part>(&self, source: &S, parts: &[P]) -> Result<Vec<Ranked>> {
        let is_linear = self.plan.stages.fusion == Fusion::Linear;
        let in_conversation = self.plan.mode == Mode::Hybrid && is_linear && !self.terms.is_empty();
        let mut candidates = Vec::new();
        let mut gathered = Gathered::default();
        for part in parts {
            let is_turn = |place: &u32| in_conversation && part.row(*place).session != 0;
            let (of_talk, others): (Vec<u32>, Vec<u32>) = part.candidates().iter().partition(|place| is_turn(place));
            candidates.extend(others.into_iter().map(|place| (part, candidate(part, place))));
            if !of_talk.is_empty() {
                turns::gather(self, source, part, &of_talk, &mut gathered).await?;
            }
        }
        let least = parts.iter().map(Part::least).fold(0.0, f64::min);
        self.settle(source, &mut candidates, least).await?;
        let candidates: Vec<_> = candidates.into_iter().map(|(_, candidate)| candidate).collect();
        let scale = rank::scale(candidates.iter().map(|c| (c.keyword, c.semantic)).chain(gathered.measures()), least);
        let mut ranking = match self.plan.mode {
            Mode::Hybrid if !is_linear => rank::fuse_by_rank(&candidates, scale),
            mode => rank::fuse(mode, &candidates, scale),
        };
        let weighed = conversation::weigh(&gathered.turns, scale, conversation::Weights::of(self.plan.class));
        ranking.extend(gathered.rank(weighed));
        rank::sort(&mut ranking);
        Ok(ranking)
    }

    /// Measures the best candidates exactly: by the words as they stand there, and by the whole vectors.
    async fn settle<S: Source, P: Part>(
        &self,
        source: &S,
        candidates: &mut [(&P, Candidate)],
        least: f64,
    ) -> Result<()> {
        let measures = candidates.iter().map(|(_, candidate)| (candidate.keyword, candidate.semantic));
        let scale = rank::scale(measures, least);
        candidates.sort_by_cached_key(|(_, candidate)| rank::order(self.plan.mode, candidate, scale));
        let page = (self.plan.limit + self.plan.offset).next_multiple_of(MIN_SETTLED).min(candidates.len());
        let best = &mut candidates[..page];
        let with_words: Vec<i64> = best.iter().filter(|(_, c)| c.keyword.is_some()).map(|(_, c)| c.seq).collect();
        let texts = source.texts(&with_words).await?;
        let seqs: Vec<i64> = best.iter().map(|(_, candidate)| candidate.seq).collect();
        let cosines = source.cosines(&seqs).await?;
        for (part, candidate) in best {
            if let Some(record) = texts.get(&candidate.seq) {
                let (times, length) = words::frequencies(part.terms(), record);
                candidate.keyword = part.weights().exact(&times, length).or(candidate.keyword);
            }
            candidate.semantic = cosines.get(&candidate.seq).copied().or(candidate.semantic);
        }
        Ok(())
    }

    /// Lets age, importance and likeness change the order, where they are to.
    async fn reorder<S: Source>(&self, source: &S, ranking: &mut [Ranked]) -> Result<()> {
        let stages = &self.plan.stages;
        if stages::needs_facts(stages) {
            let facts = source.facts(&seqs(ranking)).await?;
            stages::lift(ranking, &facts, stages, self.plan.filter.now);
        }
        if let Some(lambda) = stages.mmr_lambda {
            let wanted = self.plan.limit + self.plan.offset;
            let pool = stages::mmr_pool(wanted).min(ranking.len());
            let vectors = source.vectors(&seqs(&ranking[..pool])).await?;
            stages::diversify(ranking, &vectors, lambda, wanted);
        }
        Ok(())
    }

    /// Reads one page of a ranking.
    async fn page<S: Source>(self, source: &S, ranking: Vec<Ranked>) -> Result<Found> {
        let plan = self.plan;
        let nothing = |warnings| Ok(Found { warnings, ..Found::default() });
        let Some(first) = ranking.first() else { return nothing(self.warnings) };
        // The page is this one, unless the least score cuts it.
        let page = ranking.iter().skip(plan.offset).take(plan.limit);
        let wanted: BTreeSet<i64> = page.map(|ranked| ranked.seq).chain([first.seq]).collect();
        let mut records = source.records(&Vec::from_iter(wanted)).await?;
        let Some(best) = records.get(&first.seq) else { return nothing(self.warnings) };
        let relevance = rank::relevance(first, words::coverage(&self.terms, best));
        let scored: Vec<_> = ranking
            .iter()
            .map(|ranked| (ranked, rank::score(plan.mode, &plan.stages, ranked, first, relevance)))
            .filter(|(_, score)| *score >= plan.min_score)
            .collect();
        let total = scored.len();
        let page: Vec<_> = scored.into_iter().skip(plan.offset).take(plan.limit).collect();
        let left: Vec<_> = page.iter().map(|(ranked, _)| ranked.seq).filter(|seq| !records.contains_key(seq)).collect();
        if !left.is_empty() {
            records.extend(source.records(&left).await?);
        }
        let mut matches = Vec::with_capacity(page.len());
        for (ranked, score) in page {
            let Some(record) = records.remove(&ranked.seq) else { continue };
            let highlights = words::highlight(&self.terms, &record.content).into_iter().collect();
            let explain = Explain { relevance, ..ranked.explain };
            matches.push(Match { record, score, match_type: ranked.match_type, highlights, explain });
        }
        Ok(Found { matches, total, warnings: self.warnings })
    }
}

/// Returns the best `count` of what was found in several walls; of equals the newest. An item is a score, a number, and what
/// it stands for.
pub(crate) fn best_of_all<T>(mut found: Vec<(f64, i64, T)>, count: usize) -> impl Iterator<Item = T> {
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    found.into_iter().take(count).map(|(_, _, item)| item)
}

/// Makes a match of a record that was found without a score.
pub(crate) fn whole(record: Record, match_type: MatchType) -> Match {
    let explain = Explain { fused: 1.0, relevance: 1.0, ..Explain::default() };
    Match { record, score: 1.0, match_type, highlights: Vec::new(), explain }
}

fn candidate<P: Part>(part: &P, place: u32) -> Candidate {
    Candidate { seq: part.row(place).seq, keyword: part.keyword(place), semantic: part.cosine(place) }
}

fn seqs(ranking: &[Ranked]) -> Vec<i64> {
    ranking.iter().map(|ranked| ranked.seq).collect()
}
