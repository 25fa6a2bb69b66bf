//! What the semantic tier did, or would have done.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::verdict::Veto;
use crate::{Scope, chat::SemanticMode};

/// What a user says of an answer that was kept for another question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SemanticVerdict {
    /// It answers the question that was asked.
    Right,
    /// It answers another question.
    Wrong,
}

/// A user's verdict on an answer that was kept for another question.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SemanticFeedback {
    /// Key of the answer, as `cache.key` of the response says it.
    pub key: String,
    /// What the user says.
    pub verdict: SemanticVerdict,
    /// Scope under which it was asked.
    #[serde(default)]
    pub scope: Option<Scope>,
}

impl SemanticFeedback {
    /// Says what a user says of the answer with this key.
    pub fn new(key: impl Into<String>, verdict: SemanticVerdict) -> SemanticFeedback {
        SemanticFeedback { key: key.into(), verdict, scope: None }
    }

    /// Sets the scope under which it was asked.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> SemanticFeedback {
        self.scope = Some(scope.into());
        self
    }
}

/// What the semantic tier did since the engine was made, or would have done. No text of any question is in it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct SemanticReport {
    /// Whether it is asked for, by `chat.semantic.enabled`.
    pub enabled: bool,
    /// When it serves.
    pub mode: SemanticMode,
    /// Least similarity that is ever served, 0..1.
    pub floor: f64,
    /// Largest share of wrong hits that is accepted, 0..1.
    pub max_error: f64,
    /// Questions for which it looked: no answer was kept under their own key.
    pub lookups: u64,
    /// Those for which a kept question was near enough to be read.
    pub near: u64,
    /// Those that were answered from it.
    pub served: u64,
    /// Those that would have been served, but were asked: in shadow mode, or as an audit.
    pub would_have_served: u64,
    /// Of these, the audits of a threshold that serves.
    pub audited: u64,
    /// Those whose nearest question was like them, but too little.
    pub below_threshold: u64,
    /// Those whose nearest questions were all ruled out, by why.
    pub vetoed: BTreeMap<&'static str, u64>,
    /// Comparisons with a new answer in which the kept one said the same.
    pub right: u64,
    /// Those in which it said something else.
    pub wrong: u64,
    /// Those in which it could not be told; they count as wrong in every bound.
    pub unknown: u64,
    /// Hits that their users judged; they count among the right and the wrong.
    pub judged: u64,
    /// Entries that are not served any more, since a new answer differed or a user said that they were wrong.
    pub demoted: u64,
    /// Questions that are kept.
    pub entries: u64,
    /// Memory that they take, about, in bytes.
    pub bytes: u64,
    /// The walls with the most look-ups, at most 20.
    pub groups: Vec<SemanticGroup>,
    /// The last decisions, newest first, at most 50.
    pub recent: Vec<SemanticDecision>,
}

/// Questions that are compared with each other: one scope as far as it is shared, one model, one system prompt.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct SemanticGroup {
    /// Scope as far as it is shared.
    pub scope: Scope,
    /// Model.
    pub model: String,
    /// Beginning of the hash of the system prompt; null where there is none.
    pub system: Option<String>,
    /// Questions that are kept.
    pub entries: u64,
    /// Questions for which it looked.
    pub lookups: u64,
    /// Those that were answered.
    pub served: u64,
    /// Those that would have been.
    pub would_have_served: u64,
    /// Similarity from which it serves; null in shadow mode.
    pub threshold: Option<f64>,
    /// Bound on the share of wrong hits at this threshold, or at the floor in shadow mode; null where nothing is known.
    pub error_bound: Option<f64>,
    /// Comparisons that this rests on.
    pub labels: u64,
}

/// What was decided for one question that had a near one.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct SemanticDecision {
    /// `"served"`, `"shadow"`, `"audit"`, `"below_threshold"` or `"vetoed"`.
    pub outcome: &'static str,
    /// Key of the kept answer.
    pub key: String,
    /// Cosine of the two embeddings.
    pub cosine: f64,
    /// How alike the questions are, 0..1; null where it was vetoed.
    pub similarity: Option<f64>,
    /// Why it was vetoed; null otherwise.
    pub veto: Option<&'static str>,
    /// Whether a new answer said the same as the kept one; null where none was asked for, or it could not be told.
    pub right: Option<bool>,
}

impl Veto {
    pub(super) fn name(self) -> &'static str {
        match self {
            Veto::Conversation => "conversation",
            Veto::Numbers => "numbers",
            Veto::Units => "units",
            Veto::Signs => "signs",
            Veto::Negation => "negation",
            Veto::Opposites => "opposites",
            Veto::Asked => "asked",
            Veto::Direction => "direction",
            Veto::Person => "person",
            Veto::Names => "names",
            Veto::Words => "words",
            Veto::Added => "added",
        }
    }
}
