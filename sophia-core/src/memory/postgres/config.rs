//! Configuration of the connection to Postgres.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Secret};

/// Longest accepted timeout.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);
/// Most connections of one engine.
const MAX_POOL_SIZE: u32 = 500;
/// Longest name of a schema, in bytes: Postgres cuts names at 63, and the channel of changes is named after it.
const MAX_SCHEMA_BYTES: usize = 48;

/// Connection to Postgres, 14 or newer, with pgvector 0.8 or newer if it is there: where records, values, facts and checkpoints
/// are kept in place of `data_dir`. Without `url` there is none.
///
/// ```
/// use sophia_core::{Config, Sophia};
///
/// let config = Config::from_toml("[postgres]\nurl = 'postgres://sophia@127.0.0.1/app'")?;
/// assert_eq!(config.postgres.schema, "sophia");
/// let wrong = Config::from_toml("[postgres]\nurl = 'http://127.0.0.1'")?;
/// assert_eq!(Sophia::new(wrong).unwrap_err().get("field"), Some("postgres.url"));
/// # Ok::<(), sophia_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct PostgresConfig {
    /// The database: `postgres://user:password@host[:port]/database[?sslmode=…]`, several hosts with commas between; over a
    /// Unix socket `postgres://user@/database?host=/run/postgresql`. `sslmode` is as libpq knows it, `prefer` by default;
    /// `verify-full` is what protects. Default none.
    pub url: Option<Secret>,
    /// File with the certificates (PEM) that `sslmode=verify-ca` and `verify-full` trust. Default those of the system.
    pub ca_file: Option<PathBuf>,
    /// Schema that holds the tables; made if it is not there. Engines with different data need different ones. Default
    /// `"sophia"`.
    pub schema: String,
    /// Most connections at once, beside one that listens. Default 10.
    pub pool_size: u32,
    /// Time in which a call must be answered, waiting for a connection included. Default 10 s.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub timeout: Duration,
    /// Time in which a connection must be there. Default 5 s.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub connect_timeout: Duration,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        PostgresConfig {
            url: None,
            ca_file: None,
            schema: "sophia".to_owned(),
            pool_size: 10,
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

impl PostgresConfig {
    /// Describes a database.
    pub fn url(url: impl Into<String>) -> PostgresConfig {
        PostgresConfig { url: Some(Secret::new(url)), ..PostgresConfig::default() }
    }

    /// Sets the schema that holds the tables.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> PostgresConfig {
        self.schema = schema.into();
        self
    }

    pub(crate) fn is_set(&self) -> bool {
        self.url.is_some()
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.is_set() && cfg!(not(feature = "postgres")) {
            return Err(Error::invalid_config("postgres", "is not in this build: turn the feature `postgres` on"));
        }
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let starts_well = self.schema.starts_with(|c: char| c.is_ascii_lowercase()) && !self.schema.starts_with("pg_");
        if !starts_well || self.schema.len() > MAX_SCHEMA_BYTES || !self.schema.bytes().all(plain) {
            let message = format!(
                "must be a lower-case letter and at most {} letters, digits and `_` more, not `pg_…`",
                MAX_SCHEMA_BYTES - 1
            );
            return Err(Error::invalid_config("postgres.schema", message));
        }
        if !(1..=MAX_POOL_SIZE).contains(&self.pool_size) {
            return Err(Error::invalid_config("postgres.pool_size", format!("must be from 1 to {MAX_POOL_SIZE}")));
        }
        for (path, timeout) in [("postgres.timeout", self.timeout), ("postgres.connect_timeout", self.connect_timeout)]
        {
            if timeout.is_zero() || timeout > MAX_TIMEOUT {
                let message = format!("must be more than 0 and at most {} s", MAX_TIMEOUT.as_secs());
                return Err(Error::invalid_config(path, message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_named_with_its_path() {
        let one = || PostgresConfig::url("postgres://127.0.0.1/app");
        let cases = [
            (one().schema(""), "postgres.schema"),
            (one().schema("a\"; DROP"), "postgres.schema"),
            (one().schema("pg_own"), "postgres.schema"),
            (PostgresConfig { pool_size: 0, ..one() }, "postgres.pool_size"),
            (PostgresConfig { timeout: Duration::ZERO, ..one() }, "postgres.timeout"),
            (PostgresConfig { connect_timeout: Duration::from_secs(3600), ..one() }, "postgres.connect_timeout"),
        ];
        for (config, field) in cases {
            assert_eq!(config.validate().unwrap_err().get("field"), Some(field));
        }
        assert!(PostgresConfig::default().validate().is_ok());
    }

    #[test]
    fn a_password_in_a_url_is_never_shown() {
        let shown = format!("{:?}", PostgresConfig::url("postgres://u:hunter2@127.0.0.1/app"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
