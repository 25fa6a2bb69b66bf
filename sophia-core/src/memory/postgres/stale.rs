//! Records whose vector is of another model, or that have none.

use std::collections::HashMap;

use super::{
    link::{Link, Taken, column},
    read, vectors, write,
};
use crate::{
    Result, Scope,
    memory::store::{ModelUse, NewVector, StaleVector},
};

/// Counts all records by the model of their vector.
pub(super) async fn models(taken: &Taken) -> Result<Vec<ModelUse>> {
    let sql = "SELECT m.name, count(*) FROM records AS r LEFT JOIN models AS m USING (model) GROUP BY m.model, m.name \
               ORDER BY m.model NULLS LAST";
    let rows = taken.query(sql, &[]).await?;
    rows.iter()
        .map(|row| Ok(ModelUse { model: column(row, 0)?, records: column::<i64>(row, 1)?.unsigned_abs() }))
        .collect()
}

/// Returns the newest records below `before` that have no vector of `model`.
pub(super) async fn find(taken: &Taken, model: &str, before: Option<i64>, limit: usize) -> Result<Vec<StaleVector>> {
    let model = vectors::find_model(taken, model).await?.map(|model| model.number);
    let sql = "SELECT r.seq, r.version, w.tenant, w.\"user\", r.session, r.agent, r.content \
               FROM records AS r JOIN walls AS w USING (wall) \
               WHERE r.seq < $1 AND (r.model IS NULL OR r.model IS DISTINCT FROM $2) ORDER BY r.seq DESC LIMIT $3";
    let (before, limit) = (before.unwrap_or(i64::MAX), read::integer(limit));
    let rows = taken.query(sql, &[&before, &model, &limit]).await?;
    rows.iter()
        .map(|row| {
            let scope = Scope {
                tenant: column(row, 2)?,
                user: column(row, 3)?,
                session: column(row, 4)?,
                agent: column(row, 5)?,
            };
            Ok(StaleVector { seq: column(row, 0)?, version: column(row, 1)?, scope, content: column(row, 6)? })
        })
        .collect()
}

/// Sets the vectors of records that have not changed meanwhile.
pub(super) async fn set(link: &Link, made: Vec<NewVector>) -> Result<u64> {
    const OPERATION: &str = "memory.reembed";
    let mut models = HashMap::new();
    for NewVector { vector, .. } in &made {
        if !models.contains_key(&vector.model) {
            models.insert(
                vector.model.clone(),
                link.model(OPERATION, "embedding", &vector.model, vector.values.len()).await?,
            );
        }
    }
    let taken = link.begin(OPERATION).await?;
    let seqs: Vec<i64> = made.iter().map(|made| made.seq).collect();
    // In order, so that no two who set vectors wait for each other.
    let sql = "SELECT seq, version, tenant FROM records WHERE seq = ANY($1) ORDER BY seq FOR UPDATE";
    let rows = taken.query(sql, &[&seqs]).await?;
    let mut found: HashMap<i64, (i64, Option<String>)> = HashMap::new();
    for row in &rows {
        found.insert(column(row, 0)?, (column(row, 1)?, column(row, 2)?));
    }
    let mut count = 0;
    for NewVector { seq, version, vector } in &made {
        let Some((_, tenant)) = found.get(seq).filter(|(current, _)| current == version) else { continue };
        let Some(model) = models.get(&vector.model) else { continue };
        write::set_vector(&taken, *seq, tenant.as_deref(), Some((vector, *model))).await?;
        count += 1;
    }
    taken.commit().await?;
    Ok(count)
}
