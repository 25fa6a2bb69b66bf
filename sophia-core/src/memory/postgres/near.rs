//! What is near to a question by meaning: all vectors compared where there are few, an index walked where there are many.

use std::{cmp::Ordering, collections::BinaryHeap, collections::HashMap};

use super::{
    filter::Condition,
    link::{Taken, Value, column},
    migrate::Vectors,
    vectors::{self, Model, Values, cosine},
};
use crate::Result;

/// Records up to which all vectors are compared: a matter of milliseconds, and exact, whatever the filter is. Fewer in the
/// tests of this file, which need not store so many.
const ALL_UP_TO: i64 = if cfg!(test) { 100 } else { 10_000 };
/// Leaves out vectors of zeros, which are near nothing. Their cosine is 0: of others nothing more is read.
const HAS_DIRECTION: &str = "(cosine <> 0 OR l2_norm(data) > 0)";

/// The question in one model.
#[derive(Debug)]
pub(super) struct Aim {
    pub model: Model,
    pub values: Values,
}

/// What is near.
#[derive(Debug, Default)]
pub(super) struct Near {
    /// Numbers with their cosines, best first.
    pub best: Vec<(i64, f64)>,
    /// Least cosine, where all were compared.
    pub least: Option<f64>,
}

/// Finds the nearest that a condition lets through.
pub(super) async fn find(taken: &Taken, condition: &Condition, aim: &Aim, count: usize) -> Result<Near> {
    if vectors::is_indexed(taken, aim.model) && !is_few(taken, condition).await? {
        let near = by_index(taken, condition, aim, count).await?;
        if near.best.len() == count {
            return Ok(near);
        }
        // The walk ended before it had met enough that passes the filter.
    }
    match taken.tables.vectors {
        Vectors::Half => by_all(taken, condition, aim, count).await,
        Vectors::Plain => by_hand(taken, condition, aim, count).await,
    }
}

/// Returns whether a condition lets few records through.
async fn is_few(taken: &Taken, condition: &Condition) -> Result<bool> {
    if condition.walls.iter().map(|wall| wall.records).sum::<i64>() <= ALL_UP_TO {
        return Ok(true);
    }
    let sql = format!(
        "SELECT count(*) FROM (SELECT 1 FROM records AS r WHERE {} LIMIT {}) AS few",
        condition.sql,
        ALL_UP_TO + 1
    );
    Ok(taken.query_value::<i64>(&sql, &condition.values()).await? <= ALL_UP_TO)
}

async fn by_all(taken: &Taken, condition: &Condition, aim: &Aim, count: usize) -> Result<Near> {
    let (values, question) = with_question(condition, aim);
    let sql = format!(
        "WITH near AS MATERIALIZED (SELECT seq, cosine FROM (SELECT r.seq, v.data, -(v.data <#> {question}) AS cosine \
         FROM records AS r JOIN vectors AS v ON v.seq = r.seq WHERE v.model = {} AND {} OFFSET 0) AS compared \
         WHERE {HAS_DIRECTION}) SELECT seq, cosine, (SELECT min(cosine) FROM near) FROM near \
         ORDER BY cosine DESC, seq DESC LIMIT {count}",
        aim.model.number, condition.sql
    );
    let rows = taken.query(&sql, &values).await?;
    let least = rows.first().map(|row| column(row, 2)).transpose()?;
    let best = rows.iter().map(|row| Ok((column(row, 0)?, column(row, 1)?))).collect::<Result<_>>()?;
    Ok(Near { best, least })
}

async fn by_index(taken: &Taken, condition: &Condition, aim: &Aim, count: usize) -> Result<Near> {
    let (values, question) = with_question(condition, aim);
    // As the index is made: of this model alone, and of a type with its number of dimensions.
    let distance = format!("v.data::halfvec({}) <#> {question}", aim.model.dimensions);
    let sql = format!(
        "SELECT r.seq, -({distance}) FROM vectors AS v JOIN records AS r ON r.seq = v.seq \
         WHERE v.model = {} AND {} AND ({distance} <> 0 OR l2_norm(v.data) > 0) ORDER BY {distance} LIMIT {count}",
        aim.model.number, condition.sql
    );
    let rows = taken.query(&sql, &values).await?;
    let mut best =
        rows.iter().map(|row| Ok((column(row, 0)?, column(row, 1)?))).collect::<Result<Vec<(i64, f64)>>>()?;
    // The walk gives them in about this order only.
    best.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
    Ok(Near { best, least: None })
}

fn with_question<'a>(condition: &'a Condition, aim: &'a Aim) -> (Vec<Value<'a>>, String) {
    let mut values = condition.values();
    values.push(&aim.values);
    let question = format!("${}::halfvec", values.len());
    (values, question)
}

/// A vector that was met; the greatest is the one that is given up first.
#[derive(PartialEq)]
struct Met(f64, i64);

impl Eq for Met {}

impl PartialOrd for Met {
    fn partial_cmp(&self, other: &Met) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Met {
    fn cmp(&self, other: &Met) -> Ordering {
        other.0.total_cmp(&self.0).then(other.1.cmp(&self.1))
    }
}

/// Compares here what Postgres cannot compare by itself. The vectors pass by; none is kept.
async fn by_hand(taken: &Taken, condition: &Condition, aim: &Aim, count: usize) -> Result<Near> {
    let sql = format!(
        "SELECT r.seq, v.data FROM records AS r JOIN vectors AS v ON v.seq = r.seq WHERE v.model = {} AND {}",
        aim.model.number, condition.sql
    );
    let mut best = BinaryHeap::with_capacity(count + 1);
    let mut least: Option<f64> = None;
    taken
        .each(&sql, &condition.values(), |row| {
            let data: Values = column(row, 1)?;
            let Some(cosine) = cosine(&data.0, &aim.values.0) else { return Ok(()) };
            least = Some(least.map_or(cosine, |least| least.min(cosine)));
            best.push(Met(cosine, column(row, 0)?));
            if best.len() > count {
                best.pop();
            }
            Ok(())
        })
        .await?;
    let best = best.into_sorted_vec().into_iter().map(|Met(cosine, seq)| (seq, cosine)).collect();
    Ok(Near { best, least })
}

/// Returns the cosines of records with the question, whichever model made their vectors.
pub(super) async fn cosines(taken: &Taken, aims: &[Aim], seqs: &[i64]) -> Result<HashMap<i64, f64>> {
    let mut found = HashMap::with_capacity(seqs.len());
    if seqs.is_empty() {
        return Ok(found);
    }
    for aim in aims {
        let number = aim.model.number;
        match taken.tables.vectors {
            Vectors::Half => {
                let sql = format!(
                    "SELECT seq, cosine FROM (SELECT seq, data, -(data <#> $2::halfvec) AS cosine FROM vectors \
                     WHERE seq = ANY($1) AND model = $3 OFFSET 0) AS compared WHERE {HAS_DIRECTION}"
                );
                for row in &taken.query(&sql, &[&seqs, &aim.values, &number]).await? {
                    found.insert(column(row, 0)?, column(row, 1)?);
                }
            }
            Vectors::Plain => {
                let sql = "SELECT seq, data FROM vectors WHERE seq = ANY($1) AND model = $2";
                let take = |row: &tokio_postgres::Row| {
                    let data: Values = column(row, 1)?;
                    if let Some(cosine) = cosine(&data.0, &aim.values.0) {
                        found.insert(column(row, 0)?, cosine);
                    }
                    Ok(())
                };
                taken.each(sql, &[&seqs, &number], take).await?;
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        NoSignals, Scope, SystemClock,
        memory::{
            MemoryStore, PostgresConfig, PostgresStore, Record,
            postgres::{filter, link::Link},
            store::{Atomicity, Draft, Filter, NamedVector},
        },
        testing::PostgresServer,
    };

    fn draft(number: usize, values: Vec<f32>) -> Draft {
        let record: Record = serde_json::from_value(serde_json::json!({
            "id": format!("r{number}"), "seq": 0, "version": 1, "content": "x", "kind": if number.is_multiple_of(2) { "even" } else { "odd" },
            "category": null, "tags": [], "metadata": {}, "summary": null, "source": null, "role": null, "importance": 0.5,
            "priority": "medium", "status": "active", "scope": {"user": "ada"}, "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z", "expires_at": null
        }))
        .unwrap();
        Draft { vector: Some(NamedVector { model: "m".into(), values }), ..Draft::new(record) }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_vectors_are_found_by_the_index_and_few_one_by_one() {
        let server = PostgresServer::start();
        let config = PostgresConfig::url(server.url());
        let store = PostgresStore::new(&config, Arc::new(SystemClock::default())).unwrap();
        // Around a circle: the nearest are known.
        let around = |number: usize| (number as f32 / 400.0 * std::f32::consts::TAU).sin_cos();
        let drafts = (0..400).map(|number| draft(number, vec![around(number).1, around(number).0, 0.0])).collect();
        store.insert(drafts, Atomicity::Together).await.unwrap();
        let link = Link::new(&config, Arc::new(NoSignals)).unwrap();
        let taken = link.session("test").await.unwrap();
        let aim =
            Aim { model: link.model("test", "embedding", "m", 3).await.unwrap(), values: Values(vec![1.0, 0.0, 0.0]) };
        assert!(vectors::is_indexed(&taken, aim.model));
        let filter = Filter::new(vec![Scope::new().user("ada")], jiff::Timestamp::now());
        let all = filter::condition(&taken, &filter).await.unwrap();
        let found = find(&taken, &all, &aim, 5).await.unwrap();
        assert!(found.least.is_none(), "by the index, not all are compared");
        let mut seqs: Vec<i64> = found.best.iter().map(|(seq, _)| *seq).collect();
        seqs.sort_unstable();
        let first = seqs[0];
        // The first, and those on both sides of it.
        assert_eq!(seqs, [first, first + 1, first + 2, first + 398, first + 399]);
        assert!((found.best[0].1 - 1.0).abs() < 1e-3 && found.best.is_sorted_by(|a, b| a.1 >= b.1), "{found:?}");

        // More than the filter lets through by half: the walk goes on until it has them.
        let even = Filter { kinds: Some(vec!["even".into()]), ..filter.clone() };
        let even = filter::condition(&taken, &even).await.unwrap();
        let found = find(&taken, &even, &aim, 150).await.unwrap();
        assert!(found.least.is_none() && found.best.len() == 150, "{}", found.best.len());
        let few = Filter { ids: Some(vec!["r1".into(), "r2".into()]), ..filter };
        let few = filter::condition(&taken, &few).await.unwrap();
        let found = find(&taken, &few, &aim, 5).await.unwrap();
        assert!(found.least.is_some() && found.best.len() == 2);
    }
}
