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
            if taken.tables.vectors == Vectors::Half && dimensions <= MAX_INDEXED {
                taken
                    .run(&format!(
                        "CREATE INDEX vectors_of_{number} ON vectors USING hnsw \
                         ((data::halfvec({dimensions})) halfvec_ip_ops) WHERE model = {number}"
                    ))
                    .await?;
            }
            Some(Model { number, dimensions })
        }
        // Another process has just made it.
        None => find_model(&taken, name).await?,
    };
    taken.commit().await?;
    model.ok_or_else(|| crate::Error::new(crate::ErrorKind::Internal, operation, "a model was not kept"))
}

/// Returns whether searches by meaning may go by an index.
pub(super) fn is_indexed(taken: &Taken, model: Model) -> bool {
    taken.tables.vectors == Vectors::Half && model.dimensions <= MAX_INDEXED
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
