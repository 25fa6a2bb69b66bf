//! Search: candidates by words and by vectors, settled by what stands in the file.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::FutureExt;
use parking_lot::{Mutex, RwLockReadGuard};
use rusqlite::{Connection, OptionalExtension, params_from_iter, types::Value as Sql};

use super::{
    filter::{self, Condition},
    internal, micros,
    postings::{self, Postings},
    read, timestamp,
    vectors::{self, Block, Blocks, Key},
};
use crate::{
    Error, ErrorKind, Result,
    memory::{
        bm25::Weights,
        lexicon::Lexicon,
        query::{MatchType, Mode},
        record::Record,
        search::{Part as SearchPart, Search as Question, Source, best_of_all, nothing, whole},
        segment::{Keep, Needle, Row, Segment},
        stages::Facts,
        store::{Found, Match, Plan},
        turns, typos,
        words::{self, Term},
    },
};

/// A model that no vector has.
const NO_MODEL: i64 = -1;

pub(super) fn search(connection: &Connection, blocks: &Blocks, plan: &Plan) -> Result<Found> {
    let condition = filter::condition(connection, &plan.filter)?;
    if condition.walls.is_empty() {
        return Ok(nothing(plan));
    }
    if plan.is_by_filter() {
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

/// A search by words and meaning.
struct Search<'a> {
    connection: &'a Connection,
    plan: &'a Plan,
    needle: Option<Needle>,
    model: i64,
    former: Vec<Former<'a>>,
}

/// The question in a model of which some records still have their vectors.
struct Former<'a> {
    model: i64,
    values: &'a [f32],
    needle: Needle,
}

/// One wall of a search, and what was found in it.
struct Part<'a> {
    search: &'a Search<'a>,
    wall: i64,
    block: RwLockReadGuard<'a, Block>,
    keep: Keep,
    /// The vectors of each former model, and which of them may be found.
    former: Vec<(Keep, RwLockReadGuard<'a, Block>)>,
    /// The words of the question, with what they may have been meant as in this wall.
    terms: Vec<Term>,
    postings: Postings,
    least: f32,
    /// Places of candidates, for each step.
    candidates: Vec<BTreeSet<u32>>,
}

impl Part<'_> {
    fn segment(&self) -> &Segment {
        &self.block.segment
    }
}

impl SearchPart for Part<'_> {
    fn wall(&self) -> i64 {
        self.wall
    }

    fn terms(&self) -> &[Term] {
        &self.terms
    }

    fn weights(&self) -> &Weights {
        &self.postings.weights
    }

    fn count(&self) -> usize {
        self.segment().len()
    }

    fn missing(&self) -> usize {
        let former: usize = self.former.iter().map(|(_, block)| block.segment.with_vector()).sum();
        self.segment().missing().saturating_sub(former)
    }

    fn cut(&self) -> &[usize] {
        &self.postings.cut
    }

    fn least(&self) -> f64 {
        f64::from(self.least)
    }

    fn candidates(&self) -> &[BTreeSet<u32>] {
        &self.candidates
    }

    fn sample(&self) -> Vec<u32> {
        let segment = self.segment();
        let places = segment.spread(turns::SAMPLE);
        places.filter(|place| segment.row(*place).session != 0 && segment.keeps(&self.keep, *place)).collect()
    }

    fn row(&self, place: u32) -> &Row {
        self.segment().row(place)
    }

    fn keyword(&self, place: u32) -> Option<f64> {
        self.postings.score(self.segment(), place)
    }

    /// Whichever model made the vector.
    fn cosines(&self, places: &[u32]) -> Vec<Option<f64>> {
        let mut cosines = match &self.search.needle {
            Some(needle) => self.segment().cosines(needle, places),
            None => vec![None; places.len()],
        };
        for ((_, block), former) in self.former.iter().zip(&self.search.former) {
            for (cosine, place) in cosines.iter_mut().zip(places).filter(|(cosine, _)| cosine.is_none()) {
                let place = block.segment.find(self.segment().row(*place).seq);
                *cosine = place.and_then(|place| block.segment.cosines(&former.needle, &[place])[0]);
            }
        }
        cosines.into_iter().map(|cosine| cosine.map(f64::from)).collect()
    }

    fn neighbors(&self, place: u32) -> [Option<u32>; 2] {
        self.segment().neighbors(&self.keep, place)
    }

    fn lexicon(&self) -> &Mutex<Lexicon> {
        &self.block.lexicon
    }
}

impl<'a> Search<'a> {
    fn new(connection: &'a Connection, plan: &'a Plan) -> Result<Search<'a>> {
        let mut search = Search { connection, plan, needle: None, model: NO_MODEL, former: Vec::new() };
        if let Some(vector) = &plan.vector {
            search.model = vectors::find_model(connection, &vector.model)?.unwrap_or(NO_MODEL);
        }
        Ok(search)
    }

    fn run(mut self, blocks: &Blocks, condition: &Condition) -> Result<Found> {
        let mut question = Question::new(self.plan);
        let needle = |values: &[f32]| question.has_direction(values).then(|| Needle::new(values));
        self.needle = self.plan.vector.as_ref().and_then(|vector| needle(&vector.values));
        for vector in &self.plan.former {
            if let Some(model) = vectors::find_model(self.connection, &vector.model)?
                && let Some(needle) = needle(&vector.values)
                && model != self.model
                && self.former.iter().all(|known| known.model != model)
            {
                self.former.push(Former { model, values: &vector.values, needle });
            }
        }
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
            let terms = self.terms_of(*wall, &mut question)?;
            let postings = Postings::read(self.connection, *wall, &terms, &block, &keep)?;
            let (least, candidates) = (0.0, Vec::new());
            let search = &self;
            parts.push(Part { search, wall: *wall, block, keep, former, terms, postings, least, candidates });
        }
        for count in question.steps() {
            self.choose_candidates(&mut parts, *count);
        }
        // Reading a file never waits for a wake-up, so the first poll is the last.
        question.finish(&self, parts).now_or_never().unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Internal, "memory.search", "a search of the data file did not end"))
        })
    }

    /// Returns the blocks of the former models, for each wall.
    fn blocks_of_former(&self, blocks: &Blocks, walls: &BTreeSet<i64>) -> Result<Vec<Vec<vectors::Shared>>> {
        let of = |wall: &i64, former: &Former<'_>| {
            blocks.current(self.connection, Key { wall: *wall, model: former.model }, former.values.len())
        };
        walls.iter().map(|wall| self.former.iter().map(|former| of(wall, former)).collect()).collect()
    }

    /// Returns the words of the question, with those words of a wall that typos may have been meant as.
    fn terms_of(&self, wall: i64, question: &mut Question<'_>) -> Result<Vec<Term>> {
        let mut terms = question.terms.clone();
        if self.plan.stages.typo_tolerant && !terms.is_empty() {
            let (vocabulary, is_all) = postings::vocabulary(self.connection, wall)?;
            for term in &mut terms {
                term.meant = typos::meant(&term.stem, vocabulary.iter().map(String::as_str));
            }
            if !is_all {
                question.warn_of_words();
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

    /// Chooses the best by words and the best by meaning, of all walls together, for the next step.
    fn choose_candidates(&self, parts: &mut [Part<'_>], count: usize) {
        let (mut by_words, mut by_meaning) = (Vec::new(), Vec::new());
        for (number, part) in parts.iter_mut().enumerate() {
            let segment = &part.block.segment;
            let mut least = Vec::new();
            let best = part.postings.best(segment, count);
            by_words.extend(best.into_iter().map(|(place, score)| (score, segment.row(place).seq, (number, place))));
            if let Some(needle) = &self.needle {
                let scan = segment.scan(needle, count, &part.keep);
                by_meaning.extend(
                    scan.near
                        .iter()
                        .map(|near| (f64::from(near.cosine), segment.row(near.place).seq, (number, near.place))),
                );
                least.push(scan.least);
            }
            for ((keep, block), former) in part.former.iter().zip(&self.former) {
                let scan = block.segment.scan(&former.needle, count, keep);
                by_meaning.extend(scan.near.iter().filter_map(|near| {
                    let seq = block.segment.row(near.place).seq;
                    Some((f64::from(near.cosine), seq, (number, segment.find(seq)?)))
                }));
                least.push(scan.least);
            }
            // That of the first step holds for all.
            if part.candidates.is_empty() {
                part.least = least.into_iter().fold(0.0, f32::min);
            }
            part.candidates.push(BTreeSet::new());
        }
        for (number, place) in best_of_all(by_words, count).chain(best_of_all(by_meaning, count)) {
            parts[number].candidates.last_mut().map(|candidates| candidates.insert(place));
        }
    }

    /// Returns the cosine with the vector in the file.
    fn exact_cosine(&self, seq: i64) -> Result<Option<f64>> {
        let own = self.plan.vector.as_ref().filter(|_| self.needle.is_some());
        let own = own.map(|vector| (self.model, vector.values.as_slice()));
        for (model, values) in own.into_iter().chain(self.former.iter().map(|former| (former.model, former.values))) {
            if let Some(cosine) = vectors::cosine(self.connection, model, seq, values)? {
                return Ok(Some(f64::from(cosine)));
            }
        }
        Ok(None)
    }
}

impl Source for Search<'_> {
    async fn texts(&self, seqs: &[i64]) -> Result<HashMap<i64, Record>> {
        each(seqs, |seq| read::text_by_seq(self.connection, seq))
    }

    async fn cosines(&self, seqs: &[i64]) -> Result<HashMap<i64, f64>> {
        each(seqs, |seq| self.exact_cosine(seq))
    }

    async fn facts(&self, seqs: &[i64]) -> Result<HashMap<i64, Facts>> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT created_at, importance FROM records WHERE seq = ?1")
            .map_err(internal("memory.search"))?;
        each(seqs, |seq| {
            let of =
                |row: &rusqlite::Row<'_>| Ok(Facts { created_at: timestamp(row.get(0)?), importance: row.get(1)? });
            statement.query_row([seq], of).optional().map_err(internal("memory.search"))
        })
    }

    async fn vectors(&self, seqs: &[i64]) -> Result<HashMap<i64, Vec<f32>>> {
        each(seqs, |seq| vectors::vector(self.connection, self.model, seq))
    }

    async fn records(&self, seqs: &[i64]) -> Result<HashMap<i64, Record>> {
        each(seqs, |seq| read::by_seq(self.connection, seq))
    }
}

/// Reads something of each record; what is not there is left out.
fn each<T>(seqs: &[i64], mut read: impl FnMut(i64) -> Result<Option<T>>) -> Result<HashMap<i64, T>> {
    let mut found = HashMap::with_capacity(seqs.len());
    for seq in seqs {
        if let Some(item) = read(*seq)? {
            found.insert(*seq, item);
        }
    }
    Ok(found)
}

fn places(segment: &Segment, seqs: &[i64]) -> Vec<u32> {
    seqs.iter().filter_map(|seq| segment.find(*seq)).collect()
}
