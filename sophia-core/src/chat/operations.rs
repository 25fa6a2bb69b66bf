//! The operations of this capability.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    ChatMetrics, ChatRequest, ChatResponse, CostQuery, Costs, EmbedCall, Embeddings, Invalidate, LimitStatus, Model,
    SemanticFeedback, SemanticReport,
};
use crate::{Scope, operations::NoArguments};

/// A message to be classified.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Classify {
    message: String,
}

/// An answer whose time is asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TtlFor {
    context: String,
    #[serde(default)]
    text: String,
}

/// Whose limits to show.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Whose {
    scope: Option<Scope>,
}

crate::operations::operations! {
    /// Answers a question: from the cache, from a call that is under way, or from a provider.
    "chat.complete"(sophia, request: ChatRequest) -> ChatResponse { sophia.chat().complete(request).await }

    /// Turns texts into vectors.
    "chat.embed"(sophia, call: EmbedCall) -> Embeddings { sophia.chat().embed(call).await }

    /// Lists the models of all providers.
    "chat.models"(sophia, _arguments: NoArguments) -> Vec<Model> { sophia.chat().models().await }

    /// Returns the context that the words of a message speak for.
    "chat.classify"(sophia, classify: Classify) -> String { Ok(sophia.chat().classify(&classify.message).to_owned()) }

    /// Returns the key that the answer to a request is kept under.
    "chat.cache_key"(sophia, request: ChatRequest) -> String { sophia.chat().cache_key(&request) }

    /// Returns how long an answer is kept, in seconds.
    "chat.ttl_for"(sophia, ask: TtlFor) -> u64 { Ok(sophia.chat().ttl_for(&ask.context, &ask.text)) }

    /// Removes kept answers, and returns how many.
    "chat.invalidate"(sophia, which: Invalidate) -> u64 { sophia.chat().invalidate(&which).await }

    /// Returns what calls to providers cost, and what kept answers saved.
    "chat.costs"(sophia, query: CostQuery) -> Costs { sophia.chat().costs(&query).await }

    /// Returns the limits that concern a scope, and how much of each is used.
    "chat.budget"(sophia, whose: Whose) -> Vec<LimitStatus> {
        sophia.chat().budget(&whose.scope.unwrap_or_default()).await
    }

    /// Returns what the semantic tier did, or would have done.
    "chat.semantic_report"(sophia, _arguments: NoArguments) -> SemanticReport { Ok(sophia.chat().semantic_report()) }

    /// Takes what a user says of an answer that was kept for another question, and returns whether it is known.
    "chat.semantic_feedback"(sophia, feedback: SemanticFeedback) -> bool { sophia.chat().semantic_feedback(&feedback) }

    /// Returns what chat measured.
    "chat.metrics"(sophia, _arguments: NoArguments) -> ChatMetrics { Ok(sophia.chat().metrics()) }
}
