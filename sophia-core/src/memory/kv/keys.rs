//! [`KvKeys`]: which keys there are.

use std::fmt::Debug;

use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{Result, Scope, memory::record::or_default};

/// What keys of the engine's own begin with: users can neither name nor list them.
const RESERVED: char = '\u{1}';
/// What the keys of kept vectors begin with.
pub(crate) const EMBEDDING_KEYS: &str = "\u{1}embedding/";

/// Returns whether a key is the engine's own.
pub(crate) fn is_reserved(key: &str) -> bool {
    key.starts_with(RESERVED)
}

/// Which keys to list.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KvKeys {
    /// Whose they are.
    #[serde(deserialize_with = "or_default")]
    pub scope: Scope,
    /// How they begin. Default anyhow.
    #[serde(deserialize_with = "or_default")]
    pub prefix: String,
    /// After this key: the last one of the page before.
    pub after: Option<String>,
    /// Most keys, from 1 to 1,000. Default 1,000.
    pub limit: Option<usize>,
}

impl KvKeys {
    /// Lists the keys that begin so, in the scope in which nothing is set.
    pub fn prefix(prefix: impl Into<String>) -> KvKeys {
        KvKeys { prefix: prefix.into(), ..KvKeys::default() }
    }

    /// Sets whose they are.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> KvKeys {
        self.scope = scope.into();
        self
    }
}

/// A tier that knows all its keys: the durable one.
#[async_trait]
pub trait KvIndex: Debug + Send + Sync + 'static {
    /// Returns at most `limit` keys that are alive at `now`, sorted by their bytes.
    async fn keys(&self, query: KvKeys, limit: usize, now: Timestamp) -> Result<Vec<String>>;
}
