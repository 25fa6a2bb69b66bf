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
/// What the keys begin with of what was said over OpenAI's Responses.
#[cfg(feature = "http-server")]
pub(crate) const CONVERSATION_KEYS: &str = "\u{1}responses/";
/// What the tags begin with by which something is forgotten with a session or an agent.
const NARROW: &str = "\u{1}narrow/";

/// Digits of the hash of a session and an agent.
const NAME_DIGITS: usize = 32;

/// Returns whether a key is the engine's own.
pub(crate) fn is_reserved(key: &str) -> bool {
    key.starts_with(RESERVED)
}

/// Returns a name of the session and the agent of a scope that no other pair shares.
pub(crate) fn narrow_name(scope: &Scope) -> String {
    let narrow = Scope { tenant: None, user: None, ..scope.clone() };
    blake3::hash(narrow.key().as_bytes()).to_hex()[..NAME_DIGITS].to_owned()
}

/// Returns the tag by which all is forgotten that is kept for the session of a scope, its agent, or both.
pub(crate) fn narrow_tag(scope: &Scope) -> String {
    format!("{NARROW}{}", narrow_name(scope))
}

/// Returns the tags of what is kept for the session and the agent of a scope: it is forgotten with each of them.
#[cfg(feature = "http-server")]
pub(crate) fn narrow_tags(scope: &Scope) -> Vec<String> {
    let parts = [Scope { agent: None, ..scope.clone() }, Scope { session: None, ..scope.clone() }, scope.clone()];
    let mut tags: Vec<_> =
        parts.iter().filter(|part| part.session.is_some() || part.agent.is_some()).map(narrow_tag).collect();
    tags.sort_unstable();
    tags.dedup();
    tags
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
