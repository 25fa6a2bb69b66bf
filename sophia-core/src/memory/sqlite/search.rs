//! Search: candidates by words and by vectors, settled by what stands in the file, and one page of them read whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use parking_lot::RwLockReadGuard;
use rusqlite::{Connection, OptionalExtension, params_from_iter, types::Value as Sql};

use super::{
    filter::{self, Condition},
    internal, micros,
    postings::{self, Postings},
    read, timestamp,
    turns::{self, Gathered},
    vectors::{self, Block, Blocks, Key},
};
use crate::{
    Result,
    memory::{
        conversation::{self, Weights},
        query::{Explain, Fusion, MatchType, Mode},
        rank::{self, Candidate, Ranked},
        record::Record,
        segment::{Keep, Needle, Segment},
        stages::{self, Facts},
        store::{Found, Match, Plan},
        typos,
        words::{self, Term},
    },
};

/// Least candidates of each kind, whatever the page: what a fused order can choose from.
const MIN_CANDIDATES: usize = 256;
/// Records that are compared exactly, whatever the page: the best by what is in memory.
const MIN_SETTLED: usize = 40;
/// A model that no vector has.
const NO_MODEL: i64 = -1;

pub(super) fn search(connection: &Connection, blocks: &Blocks, plan: &Plan) -> Result<Found> {
    let condition = filter::condition(connection, &plan.filter)?;
    if condition.walls.is_empty() {
        return Ok(Found::default());
    }
    if plan.text.trim().is_empty() && plan.vector.is_none() {
        return by_filter(connection, &condition, plan);
    }
    match plan.mode {
        Mode::Exact => by_text(connection, condition, plan),
        _ => Search::new(connection, plan)?.run(blocks, &condition),
    }
}

fn by_filter(connection: &Connection, condition: &Condition, plan: &Plan) -> Result<Found> {
    let records = read::newest(connection, condition, plan.limit, plan.offset)?;
    let matches = records.into_iter().map(|record| whole(record, MatchType::Filter)).collect();
    Ok(Found { matches, total: read::matching(connection, condition)?, warnings: Vec::new() })
}

fn by_text(connection: &Connection, mut condition: Condition, plan: &Plan) -> Result<Found> {
    condition.sql.push_str(" AND instr(r.content, ?) > 0");
    condition.values.push(Sql::Text(plan.text.clone()));
    let records = read::newest(connection, &condition, plan.limit, plan.offset)?;
    let matches = records
        .into_iter()
        .map(|record| {
            let highlights = words::around(&record.content, &plan.text);
            Match { highlights, ..whole(record, MatchType::Exact) }
        })
        .collect();
    Ok(Found { matches, total: read::matching(connection, &condition)?, warnings: Vec::new() })
}

fn whole(record: Record, match_type: MatchType) -> Match {
    let explain = Explain { fused: 1.0, relevance: 1.0, ..Explain::default() };
    Match { record, score: 1.0, match_type, highlights: Vec::new(), explain }
}

/// A search by words and meaning.
pub(super) struct Search<'a> {
    pub connection: &'a Connection,
    pub plan: &'a Plan,
    pub terms: Vec<Term>,
    needle: Option<Needle>,
    model: i64,
    former: Vec<Former<'a>>,
    warnings: Vec<String>,
}

/// The question in a model of which some records still have their vectors.
struct Former<'a> {
    model: i64,
    values: &'a [f32],
    needle: Needle,
}

/// One wall of a search, and what was found in it.
pub(super) struct Part<'a> {
    pub wall: i64,
    pub block: RwLockReadGuard<'a, Block>,
    pub keep: Keep,
    /// The vectors of each former model, and which of them may be found.
    former: Vec<(Keep, RwLockReadGuard<'a, Block>)>,
    /// The words of the question, with what they may have been meant as in this wall.
    pub terms: Vec<Term>,
    pub postings: Postings,
    /// Least and greatest cosine.
    range: Option<(f32, f32)>,
    /// Places of candidates.
    candidates: BTreeSet<u32>,
}

impl Part<'_> {
    pub(super) fn segment(&self) -> &Segment {
        &self.block.segment
    }

    /// Returns the approximate cosine with the vector at a place, whichever model made it.
    pub(super) fn cosine(&self, search: &Search<'_>, place: u32) -> Option<f64> {
        let of = |(block, former): (&RwLockReadGuard<'_, Block>, &Former<'_>)| {
            let place = block.segment.find(self.segment().row(place).seq)?;
            block.segment.cosine(&former.needle, place)
        };
        let own = search.needle.as_ref().and_then(|needle| self.segment().cosine(needle, place));
        let blocks = self.former.iter().map(|(_, block)| block);
        own.or_else(|| blocks.zip(&search.former).find_map(of)).map(f64::from)
    }

    /// Counts active records that have no vector of any model of the search.
    fn missing(&self) -> usize {
        let former: usize = self.former.iter().map(|(_, block)| block.segment.with_vector()).sum();
        self.segment().missing().saturating_sub(former)
    }
}

impl<'a> Search<'a> {
    fn new(connection: &'a Connection, plan: &'a Plan) -> Result<Search<'a>> {
        let mut search = Search {
            connection,
            plan,
            terms: if plan.mode == Mode::Semantic { Vec::new() } else { words::terms(&plan.text) },
            needle: None,
            model: NO_MODEL,
            former: Vec::new(),
            warnings: Vec::new(),
        };
        match &plan.vector {
            Some(vector) => {
                search.model = vectors::find_model(connection, &vector.model)?.unwrap_or(NO_MODEL);
                search.needle = needle(plan.mode, &vector.values);
            }
            None if plan.mode == Mode::Keyword => {}
            None => search.warnings.push("semantic: the query has no vector; answered by words alone".to_owned()),
        }
        for vector in &plan.former {
            if let Some(model) = vectors::find_model(connection, &vector.model)?
                && let Some(needle) = needle(plan.mode, &vector.values)
                && model != search.model
                && search.former.iter().all(|known| known.model != model)
            {
                search.former.push(Former { model, values: &vector.values, needle });
            }
        }
        Ok(search)
    }

    fn run(mut self, blocks: &Blocks, condition: &Condition) -> Result<Found> {
        // One order for all searches: two that wait for each other's blocks would wait for ever.
        let walls = BTreeSet::from_iter(condition.walls.iter().copied());
        let dimensions = self.plan.vector.as_ref().filter(|_| self.model != NO_MODEL).map_or(0, |v| v.values.len());
        let held = walls
            .iter()
            .map(|wall| blocks.current(self.connection, Key { wall: *wall, model: self.model }, dimensions))
            .collect::<Result<Vec<_>>>()?;
        let held_former = self.blocks_of_former(blocks, &walls)?;
        let mut allowed = if condition.is_narrow { Some(self.allowed(condition)?) } else { None };
        let mut parts = Vec::with_capacity(held.len());
        for ((wall, block), former) in walls.iter().zip(&held).zip(&held_former) {
            let models: Vec<_> = self.former.iter().map(|former| former.model).collect();
            let blocks: BTreeMap<_, _> = models.iter().copied().zip(former).chain([(self.model, block)]).collect();
            let mut blocks: BTreeMap<_, _> = blocks.into_iter().map(|(model, block)| (model, block.read())).collect();
            let Some(block) = blocks.remove(&self.model) else { continue };
            let seqs = allowed.as_mut().map(|seqs| seqs.remove(wall).unwrap_or_default());
            let keep = |block: &Block| match &seqs {
                None => Keep::Active(micros(self.plan.filter.now)),
                Some(seqs) => Keep::Only(places(&block.segment, seqs)),
            };
            let former = models.iter().filter_map(|model| blocks.remove(model));
            let former = former.map(|block| (keep(&block), block)).collect();
            let keep = keep(&block);
            let terms = self.terms_of(*wall)?;
            let postings = Postings::read(self.connection, *wall, &terms, &block.segment, &keep)?;
            let (range, candidates) = (None, BTreeSet::new());
            parts.push(Part { wall: *wall, block, keep, former, terms, postings, range, candidates });
        }
        self.choose_candidates(&mut parts);
        self.warn(&parts);
        let mut ranking = self.rank(&parts)?;
        for term in parts.iter().flat_map(|part| part.terms.iter().enumerate()) {
            self.terms[term.0].meant.extend(term.1.meant.iter().cloned());
        }
        drop(parts);
        self.reorder(&mut ranking)?;
        self.page(ranking)
    }

    /// Returns the blocks of the former models, for each wall.
    fn blocks_of_former(&self, blocks: &Blocks, walls: &BTreeSet<i64>) -> Result<Vec<Vec<vectors::Shared>>> {
        let of = |wall: &i64, former: &Former<'_>| {
            blocks.current(self.connection, Key { wall: *wall, model: former.model }, former.values.len())
        };
        walls.iter().map(|wall| self.former.iter().map(|former| of(wall, former)).collect()).collect()
    }

    /// Returns the words of the question, with those words of a wall that typos may have been meant as.
    fn terms_of(&mut self, wall: i64) -> Result<Vec<Term>> {
        let mut terms = self.terms.clone();
        if self.plan.stages.typo_tolerant && !terms.is_empty() {
            let (vocabulary, is_all) = postings::vocabulary(self.connection, wall)?;
            for term in &mut terms {
                term.meant = typos::meant(&term.stem, vocabulary.iter().map(String::as_str));
            }
            if !is_all {
                self.warnings
                    .push("keyword: there are very many words; typos were compared with a part of them".into());
            }
        }
        Ok(terms)
    }

    /// Returns the numbers that a condition lets through, for each wall in ascending order.
    fn allowed(&self, condition: &Condition) -> Result<BTreeMap<i64, Vec<i64>>> {
        let mut allowed: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        let mut take = |(wall, seq)| allowed.entry(wall).or_default().push(seq);
        self.connection
            .prepare_cached(&format!("SELECT r.wall, r.seq FROM records AS r WHERE {}", condition.sql))
            .and_then(|mut statement| {
                statement
                    .query_map(params_from_iter(&condition.values), |row| Ok((row.get(0)?, row.get(1)?)))?
                    .try_for_each(|row| row.map(&mut take))
            })
            .map_err(internal("memory.search"))?;
        allowed.values_mut().for_each(|seqs| seqs.sort_unstable());
        Ok(allowed)
    }

    /// Chooses the best by words and the best by meaning, of all walls together.
    fn choose_candidates(&self, parts: &mut [Part<'_>]) {
        let count = MIN_CANDIDATES.max(self.plan.limit + self.plan.offset);
        let (mut by_words, mut by_meaning) = (Vec::new(), Vec::new());
        for (number, part) in parts.iter_mut().enumerate() {
            let segment = &part.block.segment;
            let best = part.postings.best(segment, count);
            by_words.extend(best.into_iter().map(|(place, score)| (score, segment.row(place).seq, number, place)));
            if let Some(needle) = &self.needle {
                let scan = segment.scan(needle, count, &part.keep);
                by_meaning.extend(
                    scan.near
                        .iter()
                        .map(|near| (f64::from(near.cosine), segment.row(near.place).seq, number, near.place)),
                );
                part.range = scan.range;
            }
            for ((keep, block), former) in part.former.iter().zip(&self.former) {
                let scan = block.segment.scan(&former.needle, count, keep);
                by_meaning.extend(scan.near.iter().filter_map(|near| {
                    let seq = block.segment.row(near.place).seq;
                    Some((f64::from(near.cosine), seq, number, segment.find(seq)?))
                }));
                part.range = part.range.into_iter().chain(scan.range).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
            }
        }
        for found in [&mut by_words, &mut by_meaning] {
            found.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
            for (_, _, number, place) in found.iter().take(count) {
                parts[*number].candidates.insert(*place);
            }
        }
    }

    fn warn(&mut self, parts: &[Part<'_>]) {
        let missing: usize = parts.iter().map(Part::missing).sum();
        if let Some(vector) = self.plan.vector.as_ref().filter(|_| self.needle.is_some() && missing > 0) {
            self.warnings.push(format!(
                "semantic: {missing} records have no vector of the model {}; found by words alone",
                vector.model
            ));
        }
        let cut: BTreeSet<_> = parts.iter().flat_map(|part| &part.postings.cut).copied().collect();
        for term in cut {
            let word = &self.terms[term].word;
            self.warnings
                .push(format!("keyword: `{word}` stands in very many records; looked for in the newest of them only"));
        }
    }

    /// Ranks messages by their conversations, and all else by itself.
    fn rank(&self, parts: &[Part<'_>]) -> Result<Vec<Ranked>> {
        let is_linear = self.plan.stages.fusion == Fusion::Linear;
        let in_conversation = self.plan.mode == Mode::Hybrid && is_linear && !self.terms.is_empty();
        let mut candidates = Vec::new();
        let mut gathered = Gathered::default();
        for part in parts {
            let is_turn = |place: &u32| in_conversation && part.segment().row(*place).session != 0;
            let (of_talk, others): (Vec<u32>, Vec<u32>) = part.candidates.iter().partition(|place| is_turn(place));
            candidates.extend(others.into_iter().map(|place| (part, place, self.candidate(part, place))));
            if !of_talk.is_empty() {
                turns::gather(self, part, &of_talk, &mut gathered)?;
            }
        }
        let range = self.range(parts);
        self.settle(&mut candidates, range)?;
        let candidates: Vec<_> = candidates.into_iter().map(|(_, _, candidate)| candidate).collect();
        let scale = rank::scale(candidates.iter().map(|c| (c.keyword, c.semantic)).chain(gathered.measures()), range);
        let mut ranking = match self.plan.mode {
            Mode::Hybrid if !is_linear => rank::fuse_by_rank(&candidates, scale),
            mode => rank::fuse(mode, &candidates, scale),
        };
        let weighed = conversation::weigh(&gathered.turns, scale, Weights::of(self.plan.class));
        ranking.extend(gathered.rank(weighed));
        rank::sort(&mut ranking);
        Ok(ranking)
    }

    fn candidate(&self, part: &Part<'_>, place: u32) -> Candidate {
        let segment = part.segment();
        Candidate {
            seq: segment.row(place).seq,
            keyword: part.postings.score(segment, place),
            semantic: part.cosine(self, place),
        }
    }

    /// Returns the least and greatest cosine of everything that was compared.
    fn range(&self, parts: &[Part<'_>]) -> Option<(f64, f64)> {
        let ranges = parts.iter().filter_map(|part| part.range);
        ranges.map(|(low, high)| (f64::from(low), f64::from(high))).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// Measures the best candidates exactly: by the words as they stand there, and by the whole vectors.
    fn settle(&self, candidates: &mut [(&Part<'_>, u32, Candidate)], range: Option<(f64, f64)>) -> Result<()> {
        let page = (self.plan.limit + self.plan.offset).next_multiple_of(MIN_SETTLED);
        let measures = candidates.iter().map(|(_, _, candidate)| (candidate.keyword, candidate.semantic));
        let scale = rank::scale(measures, range);
        candidates.sort_by_cached_key(|(_, _, candidate)| rank::order(self.plan.mode, candidate, scale));
        for (part, _, candidate) in candidates.iter_mut().take(page) {
            if candidate.keyword.is_some()
                && let Some(record) = read::text_by_seq(self.connection, candidate.seq)?
            {
                let (times, length) = words::frequencies(&part.terms, &record);
                candidate.keyword = part.postings.exact(&times, length).or(candidate.keyword);
            }
            candidate.semantic = self.exact_cosine(candidate.seq)?.or(candidate.semantic);
        }
        Ok(())
    }

    /// Returns the cosine with the vector in the file.
    pub(super) fn exact_cosine(&self, seq: i64) -> Result<Option<f64>> {
        let own = self.plan.vector.as_ref().filter(|_| self.needle.is_some());
        let own = own.map(|vector| (self.model, vector.values.as_slice()));
        for (model, values) in own.into_iter().chain(self.former.iter().map(|former| (former.model, former.values))) {
            if let Some(cosine) = vectors::cosine(self.connection, model, seq, values)? {
                return Ok(Some(f64::from(cosine)));
            }
        }
        Ok(None)
    }

    /// Lets age, importance and likeness change the order, where they are to.
    fn reorder(&self, ranking: &mut [Ranked]) -> Result<()> {
        let stages = &self.plan.stages;
        if stages::needs_facts(stages) {
            let mut facts = HashMap::with_capacity(ranking.len());
            for ranked in ranking.iter() {
                if let Some(known) = self.facts(ranked.seq)? {
                    facts.insert(ranked.seq, known);
                }
            }
            stages::lift(ranking, &facts, stages, self.plan.filter.now);
        }
        if let Some(lambda) = stages.mmr_lambda {
            let wanted = self.plan.limit + self.plan.offset;
            let mut known = HashMap::new();
            for ranked in ranking.iter().take(stages::mmr_pool(wanted)) {
                if let Some(vector) = vectors::vector(self.connection, self.model, ranked.seq)? {
                    known.insert(ranked.seq, vector);
                }
            }
            stages::diversify(ranking, &known, lambda, wanted);
        }
        Ok(())
    }

    fn facts(&self, seq: i64) -> Result<Option<Facts>> {
        self.connection
            .prepare_cached("SELECT created_at, importance FROM records WHERE seq = ?1")
            .and_then(|mut statement| {
                let of =
                    |row: &rusqlite::Row<'_>| Ok(Facts { created_at: timestamp(row.get(0)?), importance: row.get(1)? });
                statement.query_row([seq], of).optional()
            })
            .map_err(internal("memory.search"))
    }

    /// Reads one page of a ranking.
    fn page(self, ranking: Vec<Ranked>) -> Result<Found> {
        let plan = self.plan;
        let nothing = |warnings| Ok(Found { warnings, ..Found::default() });
        let Some(first) = ranking.first() else { return nothing(self.warnings) };
        let Some(best) = read::by_seq(self.connection, first.seq)? else { return nothing(self.warnings) };
        let relevance = rank::relevance(first, words::coverage(&self.terms, &best));
        let scored: Vec<_> = ranking
            .iter()
            .map(|ranked| (ranked, rank::score(plan.mode, &plan.stages, ranked, first, relevance)))
            .filter(|(_, score)| *score >= plan.min_score)
            .collect();
        let total = scored.len();
        let mut matches = Vec::with_capacity(plan.limit.min(total));
        for (ranked, score) in scored.into_iter().skip(plan.offset).take(plan.limit) {
            let Some(record) = read::by_seq(self.connection, ranked.seq)? else { continue };
            let highlights = words::highlight(&self.terms, &record.content).into_iter().collect();
            let explain = Explain { relevance, ..ranked.explain };
            matches.push(Match { record, score, match_type: ranked.match_type, highlights, explain });
        }
        Ok(Found { matches, total, warnings: self.warnings })
    }
}

/// Returns what to compare vectors with; `None` where nothing that the model knows stands in the question, so that nothing is
/// near it.
fn needle(mode: Mode, values: &[f32]) -> Option<Needle> {
    (mode != Mode::Keyword && values.iter().any(|value| *value != 0.0)).then(|| Needle::new(values))
}

fn places(segment: &Segment, seqs: &[i64]) -> Vec<u32> {
    seqs.iter().filter_map(|seq| segment.find(*seq)).collect()
}
