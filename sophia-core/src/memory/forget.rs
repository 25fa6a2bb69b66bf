//! Forgetting: what is asked, and the receipt of what was removed.

use std::fmt;

use futures::future::BoxFuture;
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

    /// Returns whose it is: a scope, or else a person in every tenant.
    pub(crate) fn whose(&self) -> (Option<Scope>, Option<String>) {
        match (&self.scope, &self.subject) {
            (Some(scope), Some(subject)) => (Some(Scope { user: Some(subject.clone()), ..scope.clone() }), None),
            (scope, subject) => (scope.clone(), subject.clone()),
        }
    }

    /// Returns whether what belongs to this scope is forgotten.
    pub(crate) fn covers(&self, scope: &Scope) -> bool {
        match self.whose() {
            (Some(own), _) => own.covers(scope),
            (None, subject) => subject.is_some() && subject == scope.user,
        }
    }

    /// Returns what is forgotten as a whole, with what belongs to tenant and user alone; `None` where a session or an agent
    /// narrows it to records.
    pub(crate) fn whole(&self) -> Option<Whole> {
        match self.whose() {
            (Some(scope), _) if scope.session.is_some() || scope.agent.is_some() => None,
            (Some(scope), _) => Some(Whole::Wall(scope)),
            (None, subject) => subject.map(Whole::Person),
        }
    }
}

/// What is forgotten as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whole {
    /// One pair of tenant and user.
    Wall(Scope),
    /// A person, in every tenant.
    Person(String),
}

impl Whole {
    /// Returns whether what belongs to this pair of tenant and user is meant.
    pub fn covers(&self, wall: &Scope) -> bool {
        match self {
            Whole::Wall(own) => own.tenant == wall.tenant && own.user == wall.user,
            Whole::Person(name) => wall.user.as_ref() == Some(name),
        }
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
    /// Tiers that are away: this process clears them when they are back.
    pub pending: Vec<&'static str>,
    /// Walls that were forgotten, for tiers that cannot look for them.
    #[serde(skip)]
    pub(crate) walls: Vec<Scope>,
}

/// Who else holds something of what is forgotten, and forgets it.
pub(crate) struct AlsoForgets(Box<Forgetting>);

type Forgetting = dyn Fn(&ForgetRequest) -> BoxFuture<'static, AlsoForgotten> + Send + Sync;

/// What somebody else has forgotten.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AlsoForgotten {
    /// Answers of chat that this process kept.
    pub answers: u64,
    /// Whether what is shared could not be reached.
    pub is_pending: bool,
}

impl AlsoForgets {
    pub fn new(
        forget: impl Fn(&ForgetRequest) -> BoxFuture<'static, AlsoForgotten> + Send + Sync + 'static,
    ) -> AlsoForgets {
        AlsoForgets(Box::new(forget))
    }

    pub async fn forget(&self, what: &ForgetRequest) -> AlsoForgotten {
        (self.0)(what).await
    }
}

impl fmt::Debug for AlsoForgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AlsoForgets")
    }
}
