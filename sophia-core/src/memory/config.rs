//! Configuration of the memory.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::embed::EmbedderConfig;
use crate::{Error, Result};

const MIB: u64 = 1024 * 1024;

/// Largest accepted `max_content_bytes`: SQLite's own limit on one value is 1 GB, and versions keep copies.
const MAX_CONTENT_BYTES_LIMIT: u64 = 64 * MIB;

/// Longest accepted `l2.ttl`.
const MAX_L2_TTL: Duration = Duration::from_secs(365 * 24 * 3600);

/// Configuration of the memory. Everything has a default that needs no service and no key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// The key-value tier in this process.
    pub l1: L1Config,
    /// The key-value tier that processes share, in Redis.
    pub l2: L2Config,
    /// Share by which the TTL of a value that `get_or_set` makes is shortened at random, at most, 0..0.5. Default 0.05: what
    /// was made together does not expire together.
    pub ttl_jitter: f64,
    /// What turns text into vectors: its kind, or a table of what is set of it. Default `static`: the model inside the
    /// library.
    #[schemars(with = "super::embed::config::EmbedderSetting")]
    pub embedder: EmbedderConfig,
    /// What turned text into vectors before: while records are embedded anew, it makes the vectors of questions for those
    /// that still wait. Default none; the model inside the library is always at hand.
    #[schemars(with = "Option<super::embed::config::EmbedderSetting>")]
    pub former_embedder: Option<EmbedderConfig>,
    /// Longest accepted content of a record and value of a key, in bytes. Default 1 MiB.
    pub max_content_bytes: u64,
    /// Memory that vectors may take in this process, in bytes. Default 512 MiB; beyond it, the vectors of scopes that
    /// were not searched lately are read again from the data file.
    pub max_vector_bytes: u64,
    /// What is dropped by itself. Default nothing but what has expired.
    pub retention: RetentionConfig,
}

/// What is dropped by itself. A record of importance 1 is pinned: no rule drops it. What a caller says of one record, such as
/// its TTL, goes before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RetentionConfig {
    /// How long a record is found that names no TTL of its own. Default for ever.
    #[serde(with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub ttl: Option<Duration>,
    /// Most records of a tenant and user; beyond, those that are worth least are erased, within about a minute: archived ones
    /// first, then by importance, then the older ones. Default no limit.
    pub max_records: Option<u64>,
    /// Age at which a record is worth half when it is chosen what to drop, by its last change. Default never.
    #[serde(with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub half_life: Option<Duration>,
}

/// Half-lives from which on age makes no difference.
pub(super) const MAX_HALF_LIVES: f64 = 300.0;

impl RetentionConfig {
    /// Returns what a record is worth that was last changed so long ago: its importance, halved with each half-life.
    pub(super) fn worth(&self, importance: f64, age: Duration) -> f64 {
        match self.half_life {
            Some(half_life) => importance * (-(age.as_secs_f64() / half_life.as_secs_f64()).min(MAX_HALF_LIVES)).exp2(),
            None => importance,
        }
    }
}

/// The key-value tier in this process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct L1Config {
    /// Most bytes of keys and values. Default 64 MiB; 0 turns the tier off.
    pub max_bytes: u64,
    /// Longest stay of an entry, whatever its own TTL is. Default none.
    #[serde(with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub ttl: Option<Duration>,
}

/// The key-value tier that processes share: used where `redis` names a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct L2Config {
    /// Whether it is used. Default true.
    pub enabled: bool,
    /// Longest stay of a value in it, whatever its own TTL is. Default 1 day.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub ttl: Duration,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        MemoryConfig {
            l1: L1Config::default(),
            l2: L2Config::default(),
            ttl_jitter: 0.05,
            embedder: EmbedderConfig::default(),
            former_embedder: None,
            max_content_bytes: MIB,
            max_vector_bytes: 512 * MIB,
            retention: RetentionConfig::default(),
        }
    }
}

impl Default for L1Config {
    fn default() -> Self {
        L1Config { max_bytes: 64 * MIB, ttl: None }
    }
}

impl Default for L2Config {
    fn default() -> Self {
        L2Config { enabled: true, ttl: Duration::from_secs(24 * 3600) }
    }
}

impl MemoryConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        if self.max_content_bytes == 0 || self.max_content_bytes > MAX_CONTENT_BYTES_LIMIT {
            let message = format!("must be from 1 to {MAX_CONTENT_BYTES_LIMIT} bytes");
            return Err(Error::invalid_config("memory.max_content_bytes", message));
        }
        if self.l1.ttl == Some(Duration::ZERO) {
            return Err(Error::invalid_config(
                "memory.l1.ttl",
                "must be above zero; `max_bytes = 0` turns the tier off",
            ));
        }
        if self.retention.max_records == Some(0) {
            return Err(Error::invalid_config("memory.retention.max_records", "must be at least 1, or left out"));
        }
        let ages =
            [("memory.retention.ttl", self.retention.ttl), ("memory.retention.half_life", self.retention.half_life)];
        if let Some((path, _)) = ages.into_iter().find(|(_, age)| *age == Some(Duration::ZERO)) {
            return Err(Error::invalid_config(path, "must be above zero, or left out"));
        }
        if !(0.0..=0.5).contains(&self.ttl_jitter) {
            return Err(Error::invalid_config("memory.ttl_jitter", "must be between 0 and 0.5"));
        }
        if self.l2.ttl < Duration::from_secs(1) || self.l2.ttl > MAX_L2_TTL {
            return Err(Error::invalid_config("memory.l2.ttl", "must be from 1 s to 1 year"));
        }
        self.embedder.validate("memory.embedder")?;
        self.former_embedder.iter().try_for_each(|former| former.validate("memory.former_embedder"))
    }
}
