//! The tables: found, made, or brought up to date, by whoever comes first. A schema that is not ours is left as it is.

use super::link::{Taken, column};
use crate::{Error, ErrorKind, Result};

const SCHEMA: &str = include_str!("schema.sql");
/// What marks a schema as ours.
const PRODUCT: &str = "sophia";
/// Format of the tables. It grows with a change that older builds cannot read.
const FORMAT: i32 = 1;
/// Oldest pgvector that has what is used of it: half precision, and scans that go on.
const OLDEST_PGVECTOR: (u32, u32) = (0, 8);
/// Holds off others that prepare the same schema: a number that nobody else in the database has.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('sophia.memory.schema.' || $1, 0))";

/// What is known of the tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tables {
    pub vectors: Vectors,
    /// Why vectors are compared one by one, where they are.
    pub note: Option<String>,
}

/// How vectors are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Vectors {
    /// As numbers: compared one by one, outside of Postgres.
    #[default]
    Plain,
    /// As `halfvec` of pgvector, with an index.
    Half,
}

/// Finds the tables, or makes them.
///
/// # Errors
/// InvalidConfig for a schema that holds something else; Unsupported for tables of a newer version; Unauthorized.
pub(super) async fn prepare(taken: &Taken, schema: &str) -> Result<Tables> {
    if find(taken, schema).await? == Found::Ours {
        return read(taken).await;
    }
    taken.begin().await?;
    match make(taken, schema).await {
        Ok(()) => taken.commit().await?,
        Err(error) => {
            taken.roll_back().await?;
            return Err(error);
        }
    }
    read(taken).await
}

async fn make(taken: &Taken, schema: &str) -> Result<()> {
    taken.query(LOCK, &[&schema]).await?;
    let missing = match find(taken, schema).await? {
        Found::Ours => return Ok(()),
        Found::Empty => None,
        Found::NoSchema => Some(format!("CREATE SCHEMA \"{schema}\"")),
    };
    let made = async {
        if let Some(sql) = missing {
            taken.run(&sql).await?;
        }
        // Whoever may not install an extension can do without it.
        taken.run("SAVEPOINT extension").await?;
        if taken.run("CREATE EXTENSION IF NOT EXISTS vector").await.is_err() {
            taken.run("ROLLBACK TO extension").await?;
        }
        let has_half = pgvector(taken).await?.is_some_and(|version| is_new_enough(&version));
        // Its types may have come to a schema just now that is not looked in yet.
        taken
            .query(
                "SELECT set_config('search_path', quote_ident($1) || coalesce((SELECT ', ' || quote_ident(n.nspname) FROM \
                 pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'vector'), ''), true)",
                &[&schema],
            )
            .await?;
        let tables = SCHEMA.replace("{vector}", if has_half { "halfvec" } else { "real[]" });
        taken.run(&tables).await?;
        taken.execute("INSERT INTO format (product, format) VALUES ($1, $2)", &[&PRODUCT, &FORMAT]).await.map(drop)
    };
    made.await.map_err(|error| match error.kind() {
        ErrorKind::Unauthorized => {
            let fix = format!(
                "the user of `postgres.url` may not make the schema `{schema}` or its tables: let it \
                 (GRANT CREATE ON DATABASE …), or make the schema for it (CREATE SCHEMA {schema} AUTHORIZATION …)"
            );
            Error::new(ErrorKind::Unauthorized, "memory.open", fix).with("schema", schema)
        }
        _ => error,
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// There is no such schema.
    NoSchema,
    /// Nothing is in it.
    Empty,
    /// Tables of this format.
    Ours,
}

async fn find(taken: &Taken, schema: &str) -> Result<Found> {
    let row = taken
        .query_opt(
            "SELECT n.oid IS NOT NULL, (SELECT count(*) FROM pg_class AS c WHERE c.relnamespace = n.oid), \
             to_regclass(quote_ident($1) || '.format') IS NOT NULL AND to_regclass(quote_ident($1) || '.walls') IS NOT NULL \
             FROM (SELECT 1) AS one LEFT JOIN pg_namespace AS n ON n.nspname = $1",
            &[&schema],
        )
        .await?;
    let Some(row) = row else { return Ok(Found::NoSchema) };
    let (is_there, relations, has_mark): (bool, i64, bool) = (column(&row, 0)?, column(&row, 1)?, column(&row, 2)?);
    if !is_there {
        return Ok(Found::NoSchema);
    }
    if relations == 0 {
        return Ok(Found::Empty);
    }
    let mark = match has_mark {
        true => taken.query_opt(&format!("SELECT product, format FROM \"{schema}\".format"), &[]).await?,
        false => None,
    };
    match mark.map(|row| Ok::<_, Error>((column::<String>(&row, 0)?, column::<i32>(&row, 1)?))).transpose()? {
        Some((product, FORMAT)) if product == PRODUCT => Ok(Found::Ours),
        Some((product, found)) if product == PRODUCT => Err(Error::new(
            ErrorKind::Unsupported,
            "memory.open",
            format!(
                "the schema `{schema}` was written by a newer version: its format is {found}, this build reads up to {FORMAT}"
            ),
        )
        .with("schema", schema)
        .with("found", found)
        .with("expected", FORMAT)),
        _ => Err(Error::invalid_config(
            "postgres.schema",
            format!("`{schema}` holds tables that are not Sophia's: name another one"),
        )
        .with("schema", schema)),
    }
}

async fn read(taken: &Taken) -> Result<Tables> {
    let kind: String = taken
        .query_value(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = to_regclass('vectors') \
             AND attname = 'data'",
            &[],
        )
        .await?;
    if kind.ends_with("halfvec") {
        return Ok(Tables { vectors: Vectors::Half, note: None });
    }
    let note = match pgvector(taken).await? {
        None => "pgvector is not installed: vectors are compared one by one".to_owned(),
        Some(version) if !is_new_enough(&version) => {
            format!("pgvector {version} is older than 0.8: vectors are compared one by one")
        }
        Some(_) => {
            "the tables were made before pgvector was installed: vectors are compared one by one; to change it: \
                    ALTER TABLE vectors ALTER COLUMN data TYPE halfvec, and start anew"
                .to_owned()
        }
    };
    Ok(Tables { vectors: Vectors::Plain, note: Some(note) })
}

/// Returns the version of pgvector, if it is installed.
async fn pgvector(taken: &Taken) -> Result<Option<String>> {
    let row = taken.query_opt("SELECT extversion FROM pg_extension WHERE extname = 'vector'", &[]).await?;
    row.map(|row| column(&row, 0)).transpose()
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= OLDEST_PGVECTOR
}

#[cfg(test)]
mod tests {
    use super::is_new_enough;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_new_enough("0.8.5") && is_new_enough("0.10") && is_new_enough("1.0"));
        assert!(!is_new_enough("0.7.4") && !is_new_enough("0.5"));
    }
}
