//! Search: candidates by words and by vectors, with the messages around them, and what else ranking asks for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use parking_lot::Mutex;
use tokio_postgres::Row as SqlRow;

use super::{
    filter::{self, Condition, Wall},
    link::{Taken, column},
    near::{self, Aim},
    read, timestamp,
    vectors::{self, Values},
};
use crate::{
    Result,
    memory::{
        bm25::Weights,
        lexicon::Lexicon,
        query::{Fusion, MatchType, Mode},
        record::Record,
        search::{Part as SearchPart, Search, Source, best_of_all, nothing, whole},
        segment::{Keep, Row, Segment, session_key},
        stages::Facts,
        store::{Found, Match, NamedVector, Plan},
        turns, typos,
        words::{self, Term},
    },
};

/// Most records that are looked at for one word: the newest. Beyond, the word says little anyway.
const MAX_RECORDS_OF_A_WORD: usize = 16_384;
/// Most records that are looked at for all words of one question together.
const MAX_RECORDS: usize = 65_536;
/// Records of a wall, the newest, among whose words those are looked for that a typo may have been meant as.
const MAX_VOCABULARY_RECORDS: i64 = 20_000;
/// Messages before and after a candidate that are read: those beside it, and those beside these.
const AROUND_CANDIDATES: i32 = 2;
/// The same of a message of the sample: only how long its window is has to be known.
const AROUND_SAMPLE: i32 = 1;

pub(super) async fn search(taken: &Taken, plan: &Plan) -> Result<Found> {
    let condition = filter::condition(taken, &plan.filter).await?;
    if condition.is_empty() {
        return Ok(nothing(plan));
    }
    if plan.is_by_filter() {
        return by_filter(taken, condition, plan).await;
    }
    match plan.mode {
        Mode::Exact => by_text(taken, condition, plan).await,
        _ => by_words_and_meaning(taken, condition, plan).await,
    }
}

async fn by_filter(taken: &Taken, condition: Condition, plan: &Plan) -> Result<Found> {
    let total = read::matching(taken, &condition).await?;
    let records = read::newest(taken, condition, plan.limit, plan.offset).await?;
    let matches = records.into_iter().map(|record| whole(record, MatchType::Filter)).collect();
    Ok(Found { matches, total, warnings: Vec::new() })
}

async fn by_text(taken: &Taken, mut condition: Condition, plan: &Plan) -> Result<Found> {
    // What Postgres cannot hold stands nowhere.
    if plan.text.contains('\0') {
        return Ok(Found::default());
    }
    let text = condition.bind(plan.text.clone());
    condition.sql.push_str(&format!(" AND strpos(r.content, {text}) > 0"));
    let total = read::matching(taken, &condition).await?;
    let records = read::newest(taken, condition, plan.limit, plan.offset).await?;
    let matches = records.into_iter().map(|record| {
        let highlights = words::around(&record.content, &plan.text);
        Match { highlights, ..whole(record, MatchType::Exact) }
    });
    Ok(Found { matches: matches.collect(), total, warnings: Vec::new() })
}

async fn by_words_and_meaning(taken: &Taken, condition: Condition, plan: &Plan) -> Result<Found> {
    let mut search = Search::new(plan);
    let aims = aims(taken, plan, &search).await?;
    let mut by_words = Vec::new();
    for wall in condition.walls.clone() {
        by_words.push(Words::find(taken, &condition, wall, &mut search).await?);
    }
    let (mut candidates, mut least) = (Vec::new(), None);
    for count in search.steps() {
        let best = by_words.iter().flat_map(Words::scored);
        let mut chosen: BTreeSet<i64> = best_of_all(best.collect(), *count).collect();
        let (mut lowest, mut by_meaning) = (0.0_f64, Vec::new());
        for aim in &aims {
            let near = near::find(taken, &condition, aim, *count).await?;
            by_meaning.extend(near.best.into_iter().map(|(seq, cosine)| (cosine, seq, seq)));
            lowest = near.least.map_or(lowest, |other| lowest.min(other));
        }
        chosen.extend(best_of_all(by_meaning, *count));
        candidates.push(chosen);
        // That of the first step holds for all.
        least.get_or_insert(lowest);
    }
    let least = least.unwrap_or_default();

    let around = Around::read(taken, &condition, &candidates, &search).await?;
    let cosines = near::cosines(taken, &aims, &around.candidates_and_beside()).await?;
    let mut missing = missing(taken, &condition, &aims).await?;
    let mut parts = Vec::with_capacity(by_words.len());
    for words in by_words {
        parts.push(Part::new(words, &around, &candidates, &cosines, least, std::mem::take(&mut missing)));
    }
    search.finish(&Reading { taken, model: plan.vector.as_ref().map(|vector| vector.model.as_str()) }, parts).await
}

/// Returns what to look for in each model that has vectors here; the question's own first.
async fn aims(taken: &Taken, plan: &Plan, search: &Search<'_>) -> Result<Vec<Aim>> {
    let mut aims: Vec<Aim> = Vec::new();
    for NamedVector { model, values } in plan.vector.iter().chain(&plan.former) {
        if !search.has_direction(values) {
            continue;
        }
        if let Some(model) = vectors::find_model(taken, model).await?
            && model.dimensions == values.len()
            && aims.iter().all(|known| known.model != model)
        {
            aims.push(Aim { model, values: Values(values.clone()) });
        }
    }
    Ok(aims)
}

/// Counts active records of the walls that have no vector to compare.
async fn missing(taken: &Taken, condition: &Condition, aims: &[Aim]) -> Result<usize> {
    let walls: Vec<i64> = condition.walls.iter().map(|wall| wall.number).collect();
    let mut models: Vec<i32> = aims.iter().map(|aim| aim.model.number).collect();
    models.sort_unstable();
    // The gaps between the models, each a range of the index: nearly always they are empty.
    let edges = std::iter::once(None).chain(models.iter().map(Some)).zip(models.iter().map(Some).chain([None]));
    let gaps = edges.map(|(low, high)| {
        let low = low.map_or("true".to_owned(), |low| format!("r.model > {low}"));
        let high = high.map_or("true".to_owned(), |high| format!("r.model < {high}"));
        format!("(r.model IS NOT NULL AND {low} AND {high})")
    });
    let sql = format!(
        "SELECT count(*) FROM records AS r WHERE r.wall = ANY($1) AND NOT r.archived AND (r.model IS NULL OR {})",
        gaps.collect::<Vec<_>>().join(" OR ")
    );
    let count: i64 = taken.query_value(&sql, &[&walls]).await?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// What the words of a question are in one wall.
struct Words {
    wall: Wall,
    terms: Vec<Term>,
    weights: Weights,
    /// The set of words that stand in a record, one bit for each, and how many words it has.
    matches: HashMap<i64, (u64, u32)>,
    cut: Vec<usize>,
}

impl Words {
    async fn find(taken: &Taken, condition: &Condition, wall: Wall, search: &mut Search<'_>) -> Result<Words> {
        let terms = terms(taken, &wall, search).await?;
        let weights = Weights::new(wall.mean_words());
        let mut words = Words { wall, terms, weights, matches: HashMap::new(), cut: Vec::new() };
        if words.terms.is_empty() {
            return Ok(words);
        }
        let most = MAX_RECORDS_OF_A_WORD.min(MAX_RECORDS / words.terms.len());
        let mut values = condition.values();
        let queries: Vec<String> = words.terms.iter().map(|term| query(words.wall.number, term)).collect();
        values.push(&queries);
        let sql = format!(
            "SELECT found.count, found.seqs, found.lengths FROM unnest(${}::text[]) WITH ORDINALITY AS asked (words, place), \
             LATERAL (SELECT count(*) AS count, (array_agg(seq ORDER BY seq DESC) FILTER (WHERE kept))[1:{most}] AS seqs, \
             (array_agg(length ORDER BY seq DESC) FILTER (WHERE kept))[1:{most}] AS lengths \
             FROM (SELECT r.seq, r.length, {} AS kept FROM records AS r WHERE r.words @@ asked.words::tsquery) AS one) \
             AS found ORDER BY asked.place",
            values.len(),
            condition.sql
        );
        let rows = taken.query(&sql, &values).await?;
        for (term, row) in rows.iter().enumerate() {
            let count: i64 = column(row, 0)?;
            let seqs: Vec<i64> = column::<Option<_>>(row, 1)?.unwrap_or_default();
            let lengths: Vec<i32> = column::<Option<_>>(row, 2)?.unwrap_or_default();
            words.weights.push(count as f64, words.wall.records as f64);
            if seqs.len() == most && count > most as i64 {
                words.cut.push(term);
            }
            for (seq, length) in seqs.into_iter().zip(lengths) {
                words.matches.entry(seq).or_insert((0, length.unsigned_abs())).0 |= 1 << term;
            }
        }
        Ok(words)
    }

    /// Returns the records in which words stand, each with its BM25, about.
    fn scored(&self) -> impl Iterator<Item = (f64, i64, i64)> {
        self.matches.iter().map(|(seq, (set, length))| (self.weights.approximate(*set, *length), *seq, *seq))
    }
}

/// Returns the words of the question, with those words of a wall that typos may have been meant as.
async fn terms(taken: &Taken, wall: &Wall, search: &mut Search<'_>) -> Result<Vec<Term>> {
    let mut terms = search.terms.clone();
    if search.plan.stages.typo_tolerant && !terms.is_empty() {
        let prefix = words::index_prefix(wall.number);
        // The statement is text within the statement: both of its numbers are ours.
        let sql = format!(
            "SELECT word FROM ts_stat('SELECT words FROM records WHERE wall = {} ORDER BY seq DESC LIMIT \
             {MAX_VOCABULARY_RECORDS}')",
            wall.number
        );
        let rows = taken.query(&sql, &[]).await?;
        let vocabulary = rows
            .iter()
            .map(|row| column::<&str>(row, 0).map(|word| word.strip_prefix(&prefix).unwrap_or(word)))
            .collect::<Result<Vec<_>>>()?;
        for term in &mut terms {
            term.meant = typos::meant(&term.stem, vocabulary.iter().copied());
        }
        if wall.records > MAX_VOCABULARY_RECORDS {
            search.warn_of_words();
        }
    }
    Ok(terms)
}

/// Returns a word, in any of the forms that it may have been meant as, as a query. Quoted, so that nothing in it is a command.
fn query(wall: i64, term: &Term) -> String {
    let quoted =
        |stem: &String| format!("'{}'", words::index_term(wall, stem).replace('\\', "\\\\").replace('\'', "''"));
    std::iter::once(&term.stem).chain(&term.meant).map(quoted).collect::<Vec<_>>().join(" | ")
}

/// The candidates, the messages around those that are messages, and a sample of each of their walls.
#[derive(Debug, Default)]
struct Around {
    rows: BTreeMap<i64, (i64, Row)>,
    /// Which of them are there for the length of a window only.
    sample: BTreeSet<i64>,
    beside_sample: BTreeSet<i64>,
}

impl Around {
    async fn read(
        taken: &Taken,
        condition: &Condition,
        candidates: &[BTreeSet<i64>],
        search: &Search<'_>,
    ) -> Result<Around> {
        let mut around = Around::default();
        let seqs: Vec<i64> = candidates.iter().flatten().copied().collect();
        let sql = format!("SELECT {ROW} FROM records AS r WHERE r.seq = ANY($1)");
        for row in &taken.query(&sql, &[&seqs]).await? {
            around.take(row)?;
        }
        let plan = search.plan;
        let in_conversation =
            plan.mode == Mode::Hybrid && plan.stages.fusion == Fusion::Linear && !search.terms.is_empty();
        let messages: Vec<i64> =
            around.rows.values().filter(|(_, row)| row.session != 0).map(|(_, row)| row.seq).collect();
        if !in_conversation || messages.is_empty() {
            return Ok(around);
        }
        let walls: BTreeSet<i64> =
            around.rows.values().filter(|(_, row)| row.session != 0).map(|(wall, _)| *wall).collect();
        for row in &beside(taken, condition, &messages, AROUND_CANDIDATES).await? {
            around.take(row)?;
        }
        let sampled = sample(taken, condition, &Vec::from_iter(walls)).await?;
        let sampled = sampled.iter().map(|row| column(row, 0)).collect::<Result<Vec<i64>>>()?;
        let known: BTreeSet<i64> = around.rows.keys().copied().collect();
        for row in &beside(taken, condition, &sampled, AROUND_SAMPLE).await? {
            around.take(row)?;
        }
        around.sample.extend(sampled);
        around.beside_sample = around.rows.keys().copied().filter(|seq| !known.contains(seq)).collect();
        Ok(around)
    }

    fn take(&mut self, row: &SqlRow) -> Result<()> {
        let session: Option<&str> = column(row, 2)?;
        let length: i32 = column(row, 3)?;
        let known = Row {
            seq: column(row, 0)?,
            expires_at: i64::MAX,
            session: session.map_or(0, session_key),
            words: length.unsigned_abs(),
            archived: false,
        };
        self.rows.insert(known.seq, (column(row, 1)?, known));
        Ok(())
    }

    /// Returns the numbers of those whose cosines count.
    fn candidates_and_beside(&self) -> Vec<i64> {
        self.rows.keys().copied().filter(|seq| !self.beside_sample.contains(seq)).collect()
    }
}

/// What is known of a record. Conversations are made of messages; other records that name a session are none.
const ROW: &str = "r.seq, r.wall, CASE r.kind WHEN 'message' THEN r.session END, r.length";

/// Returns messages, and as many before and after each in its conversation, of those that may be found.
async fn beside(taken: &Taken, condition: &Condition, seqs: &[i64], count: i32) -> Result<Vec<SqlRow>> {
    let mut values = condition.values();
    values.push(&seqs);
    let side = |than: &str, order: &str| {
        format!(
            "(SELECT {ROW} FROM records AS r WHERE r.wall = one.wall AND r.session = one.session AND r.kind = 'message' \
             AND r.seq {than} one.seq AND {} ORDER BY r.seq {order} LIMIT {})",
            condition.sql,
            if than == ">" { count } else { count + 1 },
        )
    };
    let sql = format!(
        "SELECT DISTINCT beside.* FROM records AS one, LATERAL ({} UNION ALL {}) AS beside \
         WHERE one.seq = ANY(${}) AND one.kind = 'message' AND one.session IS NOT NULL",
        side("<=", "DESC"),
        side(">", "ASC"),
        values.len()
    );
    taken.query(&sql, &values).await
}

/// Chooses records evenly over the numbers of each wall, of those that may be found.
async fn sample(taken: &Taken, condition: &Condition, walls: &[i64]) -> Result<Vec<SqlRow>> {
    let mut values = condition.values();
    values.push(&walls);
    let count = turns::SAMPLE;
    let sql = format!(
        "SELECT DISTINCT r.seq FROM (SELECT wall, (SELECT min(seq) FROM records AS f WHERE f.wall = w.wall) AS first, \
         (SELECT max(seq) FROM records AS l WHERE l.wall = w.wall) AS last FROM walls AS w WHERE wall = ANY(${})) AS ends, \
         generate_series(0, {count} - 1) AS step, \
         LATERAL (SELECT * FROM records AS n WHERE n.wall = ends.wall \
         AND n.seq >= ends.first + step::bigint * (ends.last - ends.first + 1) / {count} ORDER BY n.seq LIMIT 1) AS r \
         WHERE r.kind = 'message' AND r.session IS NOT NULL AND {}",
        values.len(),
        condition.sql
    );
    taken.query(&sql, &values).await
}

/// One wall of a search, and what was found in it.
struct Part {
    words: Words,
    segment: Segment,
    keep: Keep,
    /// Places of candidates, for each step.
    candidates: Vec<BTreeSet<u32>>,
    sample: Vec<u32>,
    cosines: HashMap<i64, f64>,
    least: f64,
    missing: usize,
    lexicon: Mutex<Lexicon>,
}

impl Part {
    fn new(
        words: Words,
        around: &Around,
        candidates: &[BTreeSet<i64>],
        cosines: &HashMap<i64, f64>,
        least: f64,
        missing: usize,
    ) -> Part {
        let mut segment = Segment::new(0);
        let rows = around.rows.values().filter(|(wall, _)| *wall == words.wall.number);
        rows.for_each(|(_, row)| segment.put(*row, None));
        let places = |seqs: &BTreeSet<i64>| seqs.iter().filter_map(|seq| segment.find(*seq)).collect::<Vec<u32>>();
        let candidates = candidates.iter().map(|seqs| places(seqs).into_iter().collect()).collect();
        let sample = places(&around.sample);
        let cosines = cosines.iter().filter(|(seq, _)| segment.find(**seq).is_some());
        let cosines = cosines.map(|(seq, cosine)| (*seq, *cosine)).collect();
        // Only what may be found was read.
        let keep = Keep::Active(0);
        Part { words, segment, keep, candidates, sample, cosines, least, missing, lexicon: Mutex::default() }
    }
}

impl SearchPart for Part {
    fn wall(&self) -> i64 {
        self.words.wall.number
    }

    fn terms(&self) -> &[Term] {
        &self.words.terms
    }

    fn weights(&self) -> &Weights {
        &self.words.weights
    }

    fn count(&self) -> usize {
        usize::try_from(self.words.wall.records).unwrap_or(0)
    }

    fn missing(&self) -> usize {
        self.missing
    }

    fn cut(&self) -> &[usize] {
        &self.words.cut
    }

    fn least(&self) -> f64 {
        self.least
    }

    fn candidates(&self) -> &[BTreeSet<u32>] {
        &self.candidates
    }

    fn sample(&self) -> Vec<u32> {
        self.sample.clone()
    }

    fn row(&self, place: u32) -> &Row {
        self.segment.row(place)
    }

    fn keyword(&self, place: u32) -> Option<f64> {
        let row = self.segment.row(place);
        let (set, _) = self.words.matches.get(&row.seq)?;
        Some(self.words.weights.approximate(*set, row.words))
    }

    fn cosines(&self, places: &[u32]) -> Vec<Option<f64>> {
        places.iter().map(|place| self.cosines.get(&self.segment.row(*place).seq).copied()).collect()
    }

    fn neighbors(&self, place: u32) -> [Option<u32>; 2] {
        self.segment.neighbors(&self.keep, place)
    }

    fn lexicon(&self) -> &Mutex<Lexicon> {
        &self.lexicon
    }
}

/// Reads what ranking asks for.
struct Reading<'a> {
    taken: &'a Taken,
    /// Model of the question's own vector, also where nothing is compared with that.
    model: Option<&'a str>,
}

impl Source for Reading<'_> {
    async fn texts(&self, seqs: &[i64]) -> Result<HashMap<i64, Record>> {
        read::texts(self.taken, seqs).await
    }

    async fn cosines(&self, _: &[i64]) -> Result<HashMap<i64, f64>> {
        // Those of the parts are exact.
        Ok(HashMap::new())
    }

    async fn facts(&self, seqs: &[i64]) -> Result<HashMap<i64, Facts>> {
        let sql = "SELECT seq, created_at, importance FROM records WHERE seq = ANY($1)";
        let rows = self.taken.query(sql, &[&seqs]).await?;
        rows.iter()
            .map(|row| {
                let facts = Facts { created_at: timestamp(column(row, 1)?), importance: column(row, 2)? };
                Ok((column(row, 0)?, facts))
            })
            .collect()
    }

    async fn vectors(&self, seqs: &[i64]) -> Result<HashMap<i64, Vec<f32>>> {
        let sql = "SELECT v.seq, v.data FROM vectors AS v JOIN models AS m ON m.model = v.model \
                   WHERE v.seq = ANY($1) AND m.name = $2";
        let rows = self.taken.query(sql, &[&seqs, &self.model]).await?;
        rows.iter().map(|row| Ok((column(row, 0)?, column::<Values>(row, 1)?.0))).collect()
    }

    async fn records(&self, seqs: &[i64]) -> Result<HashMap<i64, Record>> {
        read::by_seq(self.taken, seqs).await
    }
}
