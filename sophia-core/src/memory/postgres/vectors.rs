//! Vectors as Postgres holds them, and the models that made them.

use std::error::Error as StdError;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use super::{
    link::{Link, Taken, column},
    migrate::Vectors,
};
use crate::{
    Result,
    memory::half::{from_half, to_half},
};

/// Most dimensions that an index of pgvector has in half precision.
const MAX_INDEXED: usize = 4_000;

/// Values of a vector, as `halfvec` or as `real[]`, whichever the tables have.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Values(pub Vec<f32>);

impl ToSql for Values {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> std::result::Result<IsNull, Box<dyn StdError + Sync + Send>> {
        if kind.name() != "halfvec" {
            return self.0.to_sql(kind, out);
        }
        // The binary form of pgvector: the number of dimensions, two bytes that are zero, the values.
        out.put_u16(u16::try_from(self.0.len())?);
        out.put_u16(0);
        self.0.iter().for_each(|value| out.put_u16(to_half(*value)));
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        kind.name() == "halfvec" || *kind == Type::FLOAT4_ARRAY
    }

    to_sql_checked!();
}

impl FromSql<'_> for Values {
    fn from_sql(kind: &Type, raw: &[u8]) -> std::result::Result<Values, Box<dyn StdError + Sync + Send>> {
        if kind.name() != "halfvec" {
            return Vec::from_sql(kind, raw).map(Values);
        }
        let values = raw.get(4..).ok_or("a vector is cut")?;
        Ok(Values(values.chunks_exact(2).map(|half| from_half(u16::from_be_bytes([half[0], half[1]]))).collect()))
    }

    fn accepts(kind: &Type) -> bool {
        <Values as ToSql>::accepts(kind)
    }
}

/// A model that has vectors in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Model {
    pub number: i32,
    pub dimensions: usize,
}

/// Returns a model, if anything was stored with it.
pub(super) async fn find_model(taken: &Taken, name: &str) -> Result<Option<Model>> {
    let row = taken.query_opt("SELECT model, dimensions FROM models WHERE name = $1", &[&name]).await?;
    row.map(|row| {
        let dimensions: i32 = column(&row, 1)?;
        Ok(Model { number: column(&row, 0)?, dimensions: usize::try_from(dimensions).unwrap_or(0) })
    })
    .transpose()
}

/// Returns a model, made with its index if it is new.
///
/// In a transaction of its own, and before any other: making an index waits for those who write vectors.
pub(super) async fn make_model(link: &Link, operation: &'static str, name: &str, dimensions: usize) -> Result<Model> {
    let taken = link.session(operation).await?;
    if let Some(model) = find_model(&taken, name).await? {
        return Ok(model);
    }
    taken.begin().await?;
    let count = i32::try_from(dimensions).unwrap_or(i32::MAX);
    let made = taken
        .query_opt(
            "INSERT INTO models (name, dimensions) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING RETURNING model",
            &[&name, &count],
        )
        .await?;
    let model = match made {
        Some(row) => {
            let number: i32 = column(&row, 0)?;
            let model = Model { number, dimensions };
            if is_indexed(&taken, model) {
                taken.run(&make_index(model)).await?;
            }
            Some(model)
        }
        // Another process has just made it.
        None => find_model(&taken, name).await?,
    };
    taken.commit().await?;
    model.ok_or_else(|| crate::Error::new(crate::ErrorKind::Internal, operation, "a model was not kept"))
}

fn make_index(model: Model) -> String {
    let Model { number, dimensions } = model;
    format!(
        "CREATE INDEX vectors_of_{number} ON vectors USING hnsw ((data::halfvec({dimensions})) halfvec_ip_ops) \
         WHERE model = {number}"
    )
}

/// Returns the models that should have an index, and have none that can be used.
pub(super) async fn without_index(taken: &Taken) -> Result<Vec<Model>> {
    let sql = "SELECT model, dimensions FROM models WHERE dimensions <= $1 AND NOT EXISTS (SELECT 1 FROM pg_index AS i \
               JOIN pg_class AS c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass('vectors') \
               AND c.relname = 'vectors_of_' || model AND i.indisvalid)";
    let most = i32::try_from(MAX_INDEXED).unwrap_or(i32::MAX);
    let rows = taken.query(sql, &[&most]).await?;
    rows.iter()
        .map(|row| {
            let dimensions: i32 = column(row, 1)?;
            Ok(Model { number: column(row, 0)?, dimensions: usize::try_from(dimensions).unwrap_or(0) })
        })
        .collect()
}

/// Makes the index of a model anew, however long it takes.
pub(super) async fn index_anew(link: &Link, model: Model) -> Result<()> {
    let taken = link.begin("memory.check").await?;
    taken.run(&format!("SET LOCAL statement_timeout = 0; DROP INDEX IF EXISTS vectors_of_{}", model.number)).await?;
    taken.run(&make_index(model)).await?;
    taken.commit().await
}

/// Removes the vectors of records that are too long or too short, and notes with each record whose vector it has.
pub(super) async fn note_anew(link: &Link, seqs: &[i64]) -> Result<()> {
    let taken = link.begin("memory.check").await?;
    taken.query("SELECT seq FROM records WHERE seq = ANY($1) ORDER BY seq FOR UPDATE", &[&seqs]).await?;
    let sql = format!(
        "DELETE FROM vectors AS v USING models AS m WHERE v.seq = ANY($1) AND m.model = v.model AND {} <> m.dimensions",
        dimensions(&taken)
    );
    taken.execute(&sql, &[&seqs]).await?;
    let sql = "UPDATE records AS r SET model = (SELECT v.model FROM vectors AS v WHERE v.seq = r.seq) \
               WHERE r.seq = ANY($1)";
    taken.execute(sql, &[&seqs]).await?;
    taken.commit().await
}

/// Returns what says how many dimensions a vector of `vectors AS v` has.
pub(super) fn dimensions(taken: &Taken) -> &'static str {
    match taken.tables.vectors {
        Vectors::Half => "vector_dims(v.data)",
        Vectors::Plain => "cardinality(v.data)",
    }
}

/// Returns whether searches by meaning may go by an index.
pub(super) fn is_indexed(taken: &Taken, model: Model) -> bool {
    taken.tables.vectors == Vectors::Half && model.dimensions <= MAX_INDEXED
}

/// Returns the cosine of a record's vector with a question, both of length one; `None` for a vector of zeros.
pub(super) fn cosine(vector: &[f32], question: &[f32]) -> Option<f64> {
    let cosine = vector.iter().zip(question).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    (cosine != 0.0 || vector.iter().any(|value| *value != 0.0)).then_some(cosine)
}
