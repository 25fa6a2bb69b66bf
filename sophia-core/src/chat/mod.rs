//! Cached chat: one client for every provider, and the same protection for any coroutine.
//!
//! The answer to a question that was asked before costs microseconds; the answer to a new one costs the provider's time
//! and nothing else. And never a wrong, foreign or half answer.
//!
//! A request passes, in this order:
//!
//! | stage | open |
//! |---|---|
//! | what is asked and answered | [`ChatRequest`], [`ChatResponse`]: `request.rs`, `response.rs` |
//! | the methods, and the order of the stages | [`Chat`]: `engine.rs` |
//! | the key of a question | `key.rs`, `canonical.rs` |
//! | answers kept in this process, and for how long | `cache.rs`, `ttl.rs` |
//! | one call for all who ask the same | `flight.rs`, read by [`ChatStream`]: `stream.rs` |
//! | answers that processes share, and one call for all of them | `shared.rs`, `shared_redis.rs` |
//! | what may be kept is kept | `keeper.rs` |
//! | an answer to a question that means the same | [`SemanticReport`]: `semantic/` |
//! | so many calls at once, within limits | `limited.rs` |
//! | what they cost | [`Costs`], [`LimitConfig`]: `accounting/` |
//! | who is asked, and who is next | `router.rs`, `hedge.rs` |
//! | the provider's own cache of beginnings | `prefix/` |
//! | each call to a provider, for OpenTelemetry | `traced.rs` |
//! | who answers | [`ChatProvider`]: `provider.rs`; `openai.rs`, `anthropic.rs`, `responses.rs` |
//! | how a server is reached | `endpoint.rs`, `sse.rs`, `failure.rs` |
//! | the memory's embedder over HTTP | `embedder.rs` |
//! | protocols, inward and outward | [`dialect`] |
//! | memory and tools around a question | [`UseMemory`], [`ToolBox`]: `assist/` |
//! | any other coroutine | [`Chat::run`]: `run.rs`, `engine/run.rs` |
//! | what each stage did | [`Explanation`]: `explain.rs` |
//! | what was measured | [`ChatMetrics`]: `metrics.rs` |
//!
//! From `shared.rs` down, each stage implements [`ChatProvider`] around the next one.

mod accounting;
mod anthropic;
mod assist;
mod cache;
mod canonical;
mod config;
pub mod dialect;
mod embedder;
mod endpoint;
mod engine;
mod explain;
mod extractor;
mod failure;
mod flight;
mod hedge;
mod keeper;
mod key;
mod limited;
mod metrics;
mod openai;
mod operations;
mod prefix;
mod provider;
mod request;
mod response;
mod responses;
mod router;
mod run;
mod semantic;
mod shared;
#[cfg(feature = "redis")]
mod shared_redis;
mod sse;
mod stream;
mod traced;
mod ttl;

pub use accounting::{CostGroup, CostQuery, CostRow, Costs, LimitConfig, LimitKind, LimitStatus, Price};
pub(crate) use assist::Assistants;
pub use assist::{Assistance, CallbackTools, Recalled, ToolAsk, ToolBox, ToolStep, UseMemory};
pub use cache::Invalidate;
pub use config::{
    CacheConfig, ChatConfig, ContextTtl, HedgeConfig, ProviderConfig, ProviderKind, RetryConfig, SharedCacheConfig,
    ToolsConfig, TtlConfig,
};
pub(crate) use embedder::HttpEmbedder;
pub use engine::Chat;
pub use explain::{Explanation, StageNote};
pub use extractor::ChatExtractor;
#[cfg(feature = "http-server")]
pub(crate) use failure::is_spent;
pub use metrics::ChatMetrics;
pub(crate) use operations::OPERATIONS;
pub use prefix::{PrefixConfig, PromptCacheKey};
pub use provider::{
    ChatProvider, Completion, EmbedCall, Embeddings, Model, ProviderCall, ProviderEvent, ProviderStream, SharedDeadline,
};
pub use request::{CacheMode, ChatRequest, Message, Share};
pub use response::{Answer, Attempt, CacheInfo, CacheStatus, ChatChunk, ChatResponse, Delta, Usage};
pub use run::{Produced, RunOptions, RunResult, around};
pub use semantic::{
    SemanticConfig, SemanticDecision, SemanticFeedback, SemanticGroup, SemanticMode, SemanticProfile, SemanticReport,
    SemanticVerdict,
};
pub use stream::ChatStream;
