//! Search: candidates by words and by vectors, fused, and one page of them read whole.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension, params_from_iter, types::Value as Sql};

use super::{
    filter::{self, Condition},
    internal, micros, read,
    vectors::{self, VectorBlocks},
};
use crate::{
    Result,
    memory::{
        query::{Explain, MatchType, Mode},
        rank::{self, Candidate},
        record::Record,
        store::{Found, Match, Plan},
        words,
    },
};

/// Least candidates of each kind, whatever the page: what a fused order can choose from.
const MIN_CANDIDATES: usize = 64;
/// Most rows whose words are weighed in one search, the newest first: FTS5 weighs every row that matches.
const MAX_WEIGHED_ROWS: i64 = 50_000;
/// Words on each side in a highlight.
const SNIPPET_TOKENS: i64 = 24;

pub(super) fn search(connection: &Connection, blocks: &VectorBlocks, plan: &Plan) -> Result<Found> {
    let condition = filter::condition(connection, &plan.filter)?;
    if condition.walls.is_empty() {
        return Ok(Found::default());
    }
    if plan.text.trim().is_empty() && plan.vector.is_none() {
        return by_filter(connection, &condition, plan);
    }
    match plan.mode {
        Mode::Exact => by_text(connection, condition, plan),
        _ => fused(connection, blocks, &condition, plan),
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

fn fused(connection: &Connection, blocks: &VectorBlocks, condition: &Condition, plan: &Plan) -> Result<Found> {
    let count = MIN_CANDIDATES.max(plan.limit + plan.offset);
    let terms = words::terms(&plan.text);
    let text_query = match plan.mode {
        Mode::Semantic => None,
        _ => words::fts_query(&condition.walls, &terms),
    };
    let mut candidates: HashMap<i64, Candidate> = HashMap::new();
    if let Some(query) = &text_query {
        for (seq, score) in by_words(connection, condition, query, count)? {
            candidates.insert(seq, Candidate { seq, keyword: Some(score), semantic: None });
        }
    }
    let mut warnings = Vec::new();
    let mut range = None;
    if plan.mode != Mode::Keyword {
        match &plan.vector {
            Some(_) => range = by_vector(connection, blocks, condition, plan, count, &mut candidates, &mut warnings)?,
            None => warnings.push("semantic: the query has no vector; answered by words alone".to_owned()),
        }
    }
    let candidates: Vec<_> = candidates.into_values().collect();
    let ranking = rank::fuse(plan.mode, &candidates, range);
    let Some(first) = ranking.first() else { return Ok(Found { warnings, ..Found::default() }) };
    let Some(best) = read::by_seq(connection, first.seq)? else { return Ok(Found { warnings, ..Found::default() }) };
    let relevance = rank::relevance(first, words::coverage(&terms, &best));
    let scored: Vec<_> = ranking
        .iter()
        .map(|ranked| (ranked, rank::score(plan.mode, ranked, first, relevance)))
        .filter(|(_, score)| *score >= plan.min_score)
        .collect();
    let total = scored.len();
    let mut matches = Vec::with_capacity(plan.limit.min(total));
    for (ranked, score) in scored.into_iter().skip(plan.offset).take(plan.limit) {
        let Some(record) = read::by_seq(connection, ranked.seq)? else { continue };
        let highlights = match &text_query {
            Some(query) if ranked.explain.keyword.is_some() => highlights(connection, query, ranked.seq)?,
            _ => Vec::new(),
        };
        let explain = Explain { relevance, ..ranked.explain };
        matches.push(Match { record, score, match_type: ranked.match_type, highlights, explain });
    }
    Ok(Found { matches, total, warnings })
}

/// Finds by words; the score is greater for a better match.
fn by_words(connection: &Connection, condition: &Condition, query: &str, count: usize) -> Result<Vec<(i64, f64)>> {
    let sql = format!(
        "SELECT seq, score FROM (\
           SELECT r.seq AS seq, -bm25(record_text, 0.0, 1.0, 1.0, 1.0) AS score \
           FROM record_text JOIN records AS r ON r.seq = record_text.rowid \
           WHERE record_text MATCH ? AND {} ORDER BY record_text.rowid DESC LIMIT {MAX_WEIGHED_ROWS}) \
         ORDER BY score DESC, seq DESC LIMIT ?",
        condition.sql
    );
    let values = std::iter::once(Sql::Text(query.to_owned()))
        .chain(condition.values.iter().cloned())
        .chain([Sql::Integer(i64::try_from(count).unwrap_or(i64::MAX))]);
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| {
            statement.query_map(params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .map_err(internal("memory.search"))
}

/// Finds by meaning, and compares what the words found as well. Returns the range of all cosines.
fn by_vector(
    connection: &Connection,
    blocks: &VectorBlocks,
    condition: &Condition,
    plan: &Plan,
    count: usize,
    candidates: &mut HashMap<i64, Candidate>,
    warnings: &mut Vec<String>,
) -> Result<Option<(f64, f64)>> {
    let Some(vector) = &plan.vector else { return Ok(None) };
    if vector.values.iter().all(|value| *value == 0.0) {
        // Nothing that the model knows stands in the query: nothing is near it.
        return Ok(None);
    }
    // A model that is new to the file has no vectors; its number is one that no vector has.
    let model = vectors::find_model(connection, &vector.model)?.unwrap_or(-1);
    let allowed = if condition.is_narrow { Some(allowed(connection, condition)?) } else { None };
    let now = micros(plan.filter.now);
    let mut range: Option<(f64, f64)> = None;
    let mut missing = 0;
    let mut near = Vec::new();
    for wall in &condition.walls {
        let found = blocks.scan(connection, (*wall, model), &vector.values, count, |row| match &allowed {
            Some(allowed) => allowed.contains(&row.seq),
            None => !row.archived && row.expires_at > now,
        })?;
        missing += found.missing;
        if let Some((low, high)) = found.scan.range {
            let (low, high) = (f64::from(low), f64::from(high));
            range = Some(range.map_or((low, high), |(least, most)| (least.min(low), most.max(high))));
        }
        near.extend(found.scan.near);
    }
    near.sort_by(|a, b| b.cosine.total_cmp(&a.cosine).then(b.seq.cmp(&a.seq)));
    for near in near.into_iter().take(count) {
        candidates.entry(near.seq).or_insert(Candidate { seq: near.seq, keyword: None, semantic: None });
    }
    for candidate in candidates.values_mut() {
        candidate.semantic = vectors::cosine(connection, model, candidate.seq, &vector.values)?.map(f64::from);
    }
    if missing > 0 {
        warnings.push(format!(
            "semantic: {missing} records have no vector of the model {}; found by words alone",
            vector.model
        ));
    }
    Ok(range)
}

/// Returns the numbers that a condition lets through.
fn allowed(connection: &Connection, condition: &Condition) -> Result<HashSet<i64>> {
    connection
        .prepare_cached(&format!("SELECT r.seq FROM records AS r WHERE {}", condition.sql))
        .and_then(|mut statement| statement.query_map(params_from_iter(&condition.values), |row| row.get(0))?.collect())
        .map_err(internal("memory.search"))
}

fn highlights(connection: &Connection, query: &str, seq: i64) -> Result<Vec<String>> {
    connection
        .prepare_cached(
            "SELECT snippet(record_text, 1, '**', '**', '…', ?3) FROM record_text WHERE record_text MATCH ?1 AND rowid = ?2",
        )
        .and_then(|mut statement| {
            let text: Option<String> = statement
                .query_row((query, seq, SNIPPET_TOKENS), |row| row.get::<_, Option<String>>(0))
                .optional()?
                .flatten();
            Ok(text.into_iter().filter(|text| text.contains("**")).collect())
        })
        .map_err(internal("memory.search"))
}
