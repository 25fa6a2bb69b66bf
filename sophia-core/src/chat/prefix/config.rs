//! Configuration of the prefix optimiser.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is done so that providers find the beginning of a request in their own caches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct PrefixConfig {
    /// Whether anything is done. Default true. Marks of the caller's own are always left alone.
    pub enabled: bool,
    /// Whether `prompt_cache_key` is sent to servers that speak OpenAI's protocols. Default auto.
    pub prompt_cache_key: PromptCacheKey,
}

/// To whom `prompt_cache_key` is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PromptCacheKey {
    /// To OpenAI's own servers: others may refuse a field that they do not know.
    #[default]
    Auto,
    /// To every server that speaks OpenAI's protocols.
    Always,
    /// To none.
    Never,
}

impl Default for PrefixConfig {
    fn default() -> Self {
        PrefixConfig { enabled: true, prompt_cache_key: PromptCacheKey::Auto }
    }
}
