//! What the memory says about itself.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Scope;

/// How a tier is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TierStatus {
    /// It answers.
    Healthy,
    /// It answers, with something missing.
    Degraded,
    /// It does not answer.
    Unhealthy,
    /// It is not configured.
    Disabled,
}

/// One tier.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct TierHealth {
    /// How it is.
    pub status: TierStatus,
    /// Time of one look-up just now, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Entries that it holds.
    pub entries: Option<u64>,
    /// Share of look-ups since the start that it answered, 0..1; null before the first.
    pub hit_ratio: Option<f64>,
    /// What else is worth knowing: where the data is, or what is wrong.
    pub detail: Option<String>,
}

impl TierHealth {
    /// Creates a tier of which nothing is known but its status.
    pub fn new(status: TierStatus) -> TierHealth {
        TierHealth { status, latency_ms: None, entries: None, hit_ratio: None, detail: None }
    }

    /// Sets the detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> TierHealth {
        self.detail = Some(detail.into());
        self
    }
}

/// The memory and its tiers.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct MemoryHealth {
    /// The worst of what is configured; where the shared tier alone is away, it is degraded.
    pub status: TierStatus,
    /// `l1` in this process, `l2` shared cache, `l3` durable.
    pub tiers: BTreeMap<&'static str, TierHealth>,
    /// What turns text into vectors; null where nothing does.
    pub embedder: Option<EmbedderHealth>,
}

/// What turns text into vectors.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct EmbedderHealth {
    /// Its model.
    pub model: String,
    /// Length of its vectors; null where that is not known yet.
    pub dimensions: Option<usize>,
    /// Whether its last call succeeded; healthy before the first.
    pub status: TierStatus,
    /// Why it did not.
    pub detail: Option<String>,
    /// Whether records are being embedded anew.
    pub reembedding: bool,
    /// Records that were still to be embedded when that was last looked at.
    pub stale: u64,
}

/// Counts of what is held.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct MemoryStats {
    /// Records, archived ones included.
    pub records: u64,
    /// Of them archived.
    pub archived: u64,
    /// Pairs of tenant and user.
    pub scopes: u64,
    /// Former versions.
    pub versions: u64,
    /// Vectors.
    pub vectors: u64,
    /// Keys with a value.
    pub keys: u64,
    /// Facts of the graph.
    pub facts: u64,
    /// Size of the data, in bytes.
    pub bytes: u64,
    /// Records that have no vector of the embedder's model: they are embedded in the background. Null without an embedder.
    pub stale_vectors: Option<u64>,
}

/// One conversation.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Session {
    /// Its name: the `session` of its scope.
    pub session: String,
    /// Whose it is.
    pub scope: Scope,
    /// Messages in it.
    pub messages: u64,
    /// When its first message came to be.
    pub started_at: Timestamp,
    /// When its last message came to be.
    pub last_at: Timestamp,
}

/// One call of the last ones.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct RecentOperation {
    /// Grows with every call.
    pub id: u64,
    /// Name, such as `"memory.search"`.
    pub operation: &'static str,
    /// Time that it took, in milliseconds.
    pub duration: f64,
    /// `"ok"`, or the code of its error.
    pub status: &'static str,
    /// When it ended.
    pub timestamp: Timestamp,
}
