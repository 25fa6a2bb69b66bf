//! Forgetting: what is asked, and the receipt of what was removed.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Scope;

/// What to forget. One of the two is required.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ForgetRequest {
    /// All that this scope covers, or all about `subject` in it.
    pub scope: Option<Scope>,
    /// Everything about this person: all scopes, of any tenant, whose user it is. With `scope`, of that tenant only.
    pub subject: Option<String>,
}

impl ForgetRequest {
    /// Forgets all that a scope covers.
    pub fn scope(scope: impl Into<Scope>) -> ForgetRequest {
        ForgetRequest { scope: Some(scope.into()), subject: None }
    }

    /// Forgets a person, in every tenant.
    pub fn subject(subject: impl Into<String>) -> ForgetRequest {
        ForgetRequest { scope: None, subject: Some(subject.into()) }
    }
}

/// What was removed, and where.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ForgetReceipt {
    /// Records.
    pub records: u64,
    /// Former versions of them.
    pub versions: u64,
    /// Facts of the graph.
    pub facts: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Values under keys.
    pub cached: u64,
    /// Answers of chat that this process kept for the scope or the person.
    pub answers: u64,
    /// Vectors.
    pub embeddings: u64,
    /// Tiers that were cleared.
    pub tiers: Vec<&'static str>,
    /// Walls that were forgotten, for tiers that cannot look for them.
    #[serde(skip)]
    pub(crate) walls: Vec<Scope>,
}

/// Who else holds something of a scope or a person, and forgets it: returns how much it held.
pub(crate) struct AlsoForgets(Box<dyn Fn(&ForgetRequest) -> u64 + Send + Sync>);

impl AlsoForgets {
    pub fn new(forget: impl Fn(&ForgetRequest) -> u64 + Send + Sync + 'static) -> AlsoForgets {
        AlsoForgets(Box::new(forget))
    }

    pub fn forget(&self, request: &ForgetRequest) -> u64 {
        (self.0)(request)
    }
}

impl fmt::Debug for AlsoForgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AlsoForgets")
    }
}
