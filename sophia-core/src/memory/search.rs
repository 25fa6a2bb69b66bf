//! Search, the same for every store: what was found by words and by meaning becomes one order, and a page of it is read.
//!
//! A store finds candidates in its own way and gives them as a [`Part`] for each wall; what else is needed to rank them is
//! asked of it as a [`Source`], in batches.

use std::collections::{BTreeSet, HashMap, HashSet};

use parking_lot::Mutex;

use super::{
    bm25::Weights,
    conversation::{self, Scale},
    lexicon::Lexicon,
    query::{Explain, Fusion, MatchType, Mode},
    rank::{self, Candidate, Ranked},
    record::Record,
    segment::Row,
    stages::{self, Facts},
    store::{Found, Match, Plan},
    turns::{self, Gathered},
    validate,
    words::{self, Term},
};
use crate::Result;

/// Candidates of each kind that an order is made of: first so many, and, for pages that lie deeper, what more of them adds. The
/// numbers are fixed, so that every page is a part of the same order.
const STEPS: [usize; 4] = [256, 1_024, 4_096, validate::MAX_OFFSET + validate::MAX_LIMIT + 1];
/// Records that are put in order by exact measures together: so many after so many of the order by what is known of all.
const BLOCK: usize = 40;

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
    /// Returns the places of the candidates, for each of the [`steps`](Search::steps).
    fn candidates(&self) -> &[BTreeSet<u32>];
    /// Chooses messages evenly over the wall: they tell how frequent near words are.
    fn sample(&self) -> Vec<u32>;
    /// Returns what is known of the record at a place.
    fn row(&self, place: u32) -> &Row;
    /// Returns the BM25 of a record, each word taken to stand there once; `None` where none does.
    fn keyword(&self, place: u32) -> Option<f64>;
    /// Returns the cosine with the question of each record, about; `None` where there is no vector to compare.
    fn cosines(&self, places: &[u32]) -> Vec<Option<f64>>;
    /// Returns the messages before and after, of those that may be found.
    fn neighbors(&self, place: u32) -> [Option<u32>; 2];
    /// Returns the words of messages that were read lately.
    fn lexicon(&self) -> &Mutex<Lexicon>;
}

/// What the words of a question are in one wall, and what they are worth there.
type Asked = (Vec<Term>, Weights);

/// What was found, in the order by what is known of all.
#[derive(Debug, Default)]
struct Ranking {
    /// What each step adds, best first.
    steps: Vec<Vec<Ranked>>,
    /// That of the first step holds for all.
    scale: Option<Scale>,
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
        if terms.is_empty() && plan.mode != Mode::Semantic && !plan.text.trim().is_empty() {
            warnings.push(
                "keyword: nothing in the query is a word that is indexed; mode `exact` finds signs, too".to_owned(),
            );
        }
        Search { plan, terms, warnings }
    }

    /// Returns how many candidates of each kind are to be found: of all numbers those that the page needs. With the last of
    /// them there are more than the page shows, if there are any.
    pub fn steps(&self) -> &'static [usize] {
        let depth = self.depth();
        let enough = STEPS.iter().position(|step| *step > depth).unwrap_or(STEPS.len() - 1);
        &STEPS[..=enough]
    }

    /// Returns how many of the first places of the order decide what is on the page.
    fn depth(&self) -> usize {
        let end = self.plan.limit + self.plan.offset;
        if self.plan.stages.mmr_lambda.is_some() { stages::mmr_pool(end).max(end) } else { end }
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
        let asked: Vec<Asked> = parts.iter().map(|part| (part.terms().to_vec(), part.weights().clone())).collect();
        let ranking = self.rank(source, &parts, &asked).await?;
        for (place, term) in parts.iter().flat_map(|part| part.terms().iter().enumerate()) {
            self.terms[place].meant.extend(term.meant.iter().cloned());
        }
        drop(parts);
        let order = self.settle(source, ranking, &asked).await?;
        self.page(source, order).await
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

    /// Ranks the candidates of each step; one that an earlier step has keeps its place.
    async fn rank<S: Source, P: Part>(&self, source: &S, parts: &[P], asked: &[Asked]) -> Result<Ranking> {
        let mut ranking = Ranking::default();
        let mut seen = HashSet::new();
        for step in 0..self.steps().len() {
            let mut found = self.rank_step(source, parts, asked, step, &mut ranking.scale).await?;
            found.retain(|ranked| seen.insert(ranked.seq));
            ranking.steps.push(found);
        }
        Ok(ranking)
    }

    /// Ranks messages by their conversations, and all else by itself.
    async fn rank_step<S: Source, P: Part>(
        &self,
        source: &S,
        parts: &[P],
        asked: &[Asked],
        step: usize,
        scale: &mut Option<Scale>,
    ) -> Result<Vec<Ranked>> {
        let is_linear = self.plan.stages.fusion == Fusion::Linear;
        let in_conversation = self.plan.mode == Mode::Hybrid && is_linear && !self.terms.is_empty();
        let mut candidates = Vec::new();
        let mut gathered = Gathered::default();
        for (number, part) in parts.iter().enumerate() {
            let is_turn = |place: &u32| in_conversation && part.row(*place).session != 0;
            let (of_talk, others): (Vec<u32>, Vec<u32>) =
                part.candidates()[step].iter().partition(|place| is_turn(place));
            let of = |(place, semantic): (&u32, Option<f64>)| Candidate {
                seq: part.row(*place).seq,
                keyword: part.keyword(*place),
                semantic,
                rough_in: Some(number),
            };
            candidates.extend(others.iter().zip(part.cosines(&others)).map(of));
            if !of_talk.is_empty() {
                turns::gather(self, source, part, &of_talk, &mut gathered).await?;
            }
        }
        let least = parts.iter().map(Part::least).fold(0.0, f64::min);
        // The best are measured exactly before anything else: scores are seen against theirs.
        let rough = rank::scale(candidates.iter().map(|c| (c.keyword, c.semantic)), least);
        candidates.sort_by_cached_key(|candidate| rank::order(self.plan.mode, candidate, rough));
        let best = BLOCK.min(candidates.len());
        self.measure(source, asked, &mut candidates[..best]).await?;
        let measures = candidates.iter().map(|c| (c.keyword, c.semantic)).chain(gathered.measures());
        let scale = *scale.get_or_insert_with(|| rank::scale(measures, least));
        let floor = self.plan.min_similarity;
        let mut ranking = match self.plan.mode {
            Mode::Hybrid if !is_linear => rank::fuse_by_rank(&candidates, scale, floor),
            mode => rank::fuse(mode, &candidates, scale, floor),
        };
        let weighed = conversation::weigh(&gathered.turns, scale, conversation::Weights::of(self.plan.class));
        ranking.extend(gathered.rank(weighed, floor));
        rank::sort(&mut ranking);
        Ok(ranking)
    }

    /// Measures candidates exactly: by the words as they stand there, and by the whole vectors.
    async fn measure<S: Source>(&self, source: &S, asked: &[Asked], candidates: &mut [Candidate]) -> Result<()> {
        let with_words: Vec<i64> = candidates.iter().filter(|c| c.keyword.is_some()).map(|c| c.seq).collect();
        let seqs: Vec<i64> = candidates.iter().map(|candidate| candidate.seq).collect();
        if seqs.is_empty() {
            return Ok(());
        }
        let texts = source.texts(&with_words).await?;
        let cosines = source.cosines(&seqs).await?;
        for candidate in candidates {
            let asked = candidate.rough_in.take().and_then(|part| asked.get(part));
            if let (Some((terms, weights)), Some(record)) = (asked, texts.get(&candidate.seq)) {
                let (times, length) = words::frequencies(terms, record);
                candidate.keyword = weights.exact(&times, length).or(candidate.keyword);
            }
            candidate.semantic = cosines.get(&candidate.seq).copied().or(candidate.semantic);
        }
        Ok(())
    }

    /// Lets age and importance change the order, where they are to, and then exact measures: those within each block, as far
    /// as the page needs. What is in a block does not change, so a deeper page leaves the ones before it as they are.
    async fn settle<S: Source>(&self, source: &S, ranking: Ranking, asked: &[Asked]) -> Result<Vec<Ranked>> {
        let Ranking { mut steps, scale } = ranking;
        let stages = &self.plan.stages;
        let best = steps.iter().flatten().next().map_or(0.0, |first| first.explain.fused);
        let mut facts = HashMap::new();
        if stages::needs_facts(stages) {
            for step in &mut steps {
                facts.extend(source.facts(&seqs(step)).await?);
                stages::lift(step, &facts, best, stages, self.plan.filter.now);
            }
        }
        // Ranks know nothing of measures: they are those of the first block, exact, among the rest.
        let Some(scale) = scale.filter(|_| stages.fusion == Fusion::Linear) else { return Ok(steps.concat()) };
        let mut depth = self.depth();
        for step in &mut steps {
            let needed = depth.next_multiple_of(BLOCK).min(step.len());
            depth = depth.saturating_sub(step.len());
            let needed = &mut step[..needed];
            let rough = needed.iter_mut().filter(|ranked| ranked.rough_in.is_some());
            let mut rough: Vec<&mut Ranked> = rough.collect();
            let mut candidates: Vec<Candidate> = rough.iter().map(|ranked| Candidate::from(&**ranked)).collect();
            self.measure(source, asked, &mut candidates).await?;
            for (ranked, candidate) in rough.iter_mut().zip(&candidates) {
                **ranked = rank::measured(self.plan.mode, ranked, candidate, scale, self.plan.min_similarity);
                stages::lift(std::slice::from_mut(&mut **ranked), &facts, best, stages, self.plan.filter.now);
            }
            needed.chunks_mut(BLOCK).for_each(rank::sort);
        }
        Ok(steps.concat())
    }

    /// Reads one page of a ranking.
    async fn page<S: Source>(self, source: &S, mut ranking: Vec<Ranked>) -> Result<Found> {
        let plan = self.plan;
        let nothing = |warnings| Ok(Found { warnings, ..Found::default() });
        let Some(first) = ranking.first().copied() else { return nothing(self.warnings) };
        // The page is this one, unless the least score cuts it, or likeness changes it.
        let likely = if plan.stages.mmr_lambda.is_some() { 0 } else { plan.limit };
        let likely = ranking.iter().skip(plan.offset).take(likely);
        let wanted: BTreeSet<i64> = likely.map(|ranked| ranked.seq).chain([first.seq]).collect();
        let mut records = source.records(&Vec::from_iter(wanted)).await?;
        let Some(best) = records.get(&first.seq) else { return nothing(self.warnings) };
        let relevance = rank::relevance(&first, words::coverage(&self.terms, best));
        // Exact measures are in order within their block only: no score is above one before it.
        let mut least = 1.0_f64;
        for ranked in &mut ranking {
            least = least.min(rank::score(plan.mode, &plan.stages, ranked, &first, relevance));
            ranked.score = least;
        }
        ranking.truncate(ranking.partition_point(|ranked| ranked.score >= plan.min_score));
        if let Some(lambda) = plan.stages.mmr_lambda {
            let end = plan.limit + plan.offset;
            let pool = stages::mmr_pool(end).min(ranking.len());
            let vectors = source.vectors(&seqs(&ranking[..pool])).await?;
            stages::diversify(&mut ranking, &vectors, lambda, end);
        }
        let total = ranking.len();
        let page: Vec<Ranked> = ranking.into_iter().skip(plan.offset).take(plan.limit).collect();
        let left: Vec<_> = page.iter().map(|ranked| ranked.seq).filter(|seq| !records.contains_key(seq)).collect();
        if !left.is_empty() {
            records.extend(source.records(&left).await?);
        }
        let mut matches = Vec::with_capacity(page.len());
        for ranked in page {
            let Some(record) = records.remove(&ranked.seq) else { continue };
            let highlights = words::highlight(&self.terms, &record.content).into_iter().collect();
            let explain = Explain { relevance, ..ranked.explain };
            matches.push(Match { record, score: ranked.score, match_type: ranked.match_type, highlights, explain });
        }
        Ok(Found { matches, total, warnings: self.warnings })
    }
}

/// Returns the best `count` of what was found in several walls, in no order; of equals the newest. An item is a score, a
/// number, and what it stands for.
pub(crate) fn best_of_all<T>(mut found: Vec<(f64, i64, T)>, count: usize) -> impl Iterator<Item = T> {
    if found.len() > count {
        found.select_nth_unstable_by(count, |a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
        found.truncate(count);
    }
    found.into_iter().map(|(_, _, item)| item)
}

/// Returns what is found where nothing was ever written: nothing, and what is wrong with the question all the same.
pub(crate) fn nothing(plan: &Plan) -> Found {
    let is_ranked = !plan.is_by_filter() && plan.mode != Mode::Exact;
    let warnings = if is_ranked { Search::new(plan).warnings } else { Vec::new() };
    Found { warnings, ..Found::default() }
}

/// Makes a match of a record that was found without a score.
pub(crate) fn whole(record: Record, match_type: MatchType) -> Match {
    let explain = Explain { fused: 1.0, relevance: 1.0, ..Explain::default() };
    Match { record, score: 1.0, match_type, highlights: Vec::new(), explain }
}

fn seqs(ranking: &[Ranked]) -> Vec<i64> {
    ranking.iter().map(|ranked| ranked.seq).collect()
}
