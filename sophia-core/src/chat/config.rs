//! Configuration of chat: providers, cache, limits.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    accounting::{LimitConfig, Price},
    prefix::PrefixConfig,
    semantic::SemanticConfig,
};
use crate::{Error, Result, Secret, resilience::BreakerConfig};

/// Longest accepted deadline: a provider that thinks for a day is a batch job.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Longest time that a refusal is kept: who repairs what was wrong does not wait longer.
const MAX_NEGATIVE: Duration = Duration::from_secs(5);
/// Longest time that an answer is given after its own, in seconds: a day.
const MAX_STALE_S: u64 = 24 * 3600;
/// Most providers: each request may try them all.
const MAX_PROVIDERS: usize = 64;

/// Configuration of chat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ChatConfig {
    /// Calls to providers at once, and beside them as many producers of `run` at each depth; further ones wait in line.
    /// Default 50.
    pub max_concurrent: usize,
    /// Time in which a call must have answered, unless it says otherwise. Default 30 s.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub timeout: Duration,
    /// Model of a request that names none. Default: the only model that is configured, if there is but one.
    pub default_model: Option<String>,
    /// Where answers come from, in order of preference. Default none.
    pub providers: Vec<ProviderConfig>,
    /// The cache of answers.
    pub cache: CacheConfig,
    /// Answers to questions that mean the same.
    pub semantic: SemanticConfig,
    /// The providers' own caches of beginnings.
    pub prefix: PrefixConfig,
    /// How long answers are kept.
    pub ttl: TtlConfig,
    /// Further tries after a failure that may pass.
    pub retry: RetryConfig,
    /// A second call beside one that is slow.
    pub hedge: HedgeConfig,
    /// When a model of a provider is no longer asked.
    pub breaker: BreakerConfig,
    /// The rounds of a question with tools that are called here.
    pub tools: ToolsConfig,
    /// What models cost, by the model's name or `provider/model`. Default none known: a cost that is not known is null.
    pub prices: BTreeMap<String, Price>,
    /// A `.toml` or `.json` file of further prices, by the same names; `prices` counts more. Default none.
    pub prices_file: Option<PathBuf>,
    /// How much calls may use, a minute, a day and a month. Default any amount.
    pub limits: Vec<LimitConfig>,
    /// Largest accepted request, in bytes of its canonical JSON. Default 8 MiB.
    pub max_request_bytes: usize,
    /// Largest accepted answer, in bytes. Default 16 MiB.
    pub max_response_bytes: usize,
}

/// The rounds of a question with tools that are called here: `tools="registry"`, or functions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ToolsConfig {
    /// Most rounds in which tools are called; after them the model must answer without. Default 8.
    pub max_rounds: usize,
    /// Most calls of one round at once. Default 8.
    pub parallel: usize,
    /// Cost in US dollars after which no more tools are called, as far as prices are known. Default none.
    pub max_cost_usd: Option<f64>,
}

impl Default for ToolsConfig {
    fn default() -> Self {
        ToolsConfig { max_rounds: 8, parallel: 8, max_cost_usd: None }
    }
}

/// One server of models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ProviderConfig {
    /// Name, unique: it stands in answers, attempts and metrics.
    pub name: String,
    /// Protocol that it speaks. Default `"openai"`.
    #[serde(default)]
    pub kind: ProviderKind,
    /// Where the protocol's paths begin, such as `"https://api.openai.com/v1"`. Default OpenAI's or Anthropic's own, by
    /// `kind`.
    #[serde(default)]
    pub base_url: Option<String>,
    /// Credential; `${NAME}` in it is replaced by that environment variable. Default none.
    #[serde(default)]
    pub api_key: Option<Secret>,
    /// Models that it offers; none listed means any. Default none listed.
    #[serde(default)]
    pub models: Vec<String>,
    /// Further headers of each request; `${NAME}` is replaced as in `api_key`. Default none.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// Longest silence: until the answer begins, and between two parts of it. Shorter than `chat.timeout`, where the next
    /// provider is to be asked in its place. Default 60 s.
    #[serde(default = "provider_timeout", with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub timeout: Duration,
    /// Whether streams ask for token counts, with `stream_options`. Default true; false for servers that refuse it.
    #[serde(default = "yes")]
    pub stream_usage: bool,
    /// Most tokens of an answer where the request sets none; only for `anthropic`, whose protocol wants a number.
    /// Default 4096.
    #[serde(default = "max_tokens")]
    pub max_tokens: u64,
}

/// Protocol of a server of models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProviderKind {
    /// OpenAI's chat completions, as most servers speak them.
    #[default]
    #[serde(rename = "openai")]
    OpenAi,
    /// Anthropic's Messages.
    Anthropic,
    /// OpenAI's Responses.
    Responses,
}

/// The cache of answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CacheConfig {
    /// Whether answers are kept at all. Default true.
    pub enabled: bool,
    /// Most memory that answers take in this process, in bytes. Default 64 MiB.
    pub max_bytes: u64,
    /// Whether answers that call tools are kept. Default false: what a tool says changes.
    pub tool_calls: bool,
    /// How long a provider's refusal that will not pass by itself (bad request, unknown model, bad credential) is given
    /// to those who ask the same. At most 5 s. Default 0: every one of them asks.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub negative: Duration,
    /// The cache that processes share, in Redis.
    pub l2: SharedCacheConfig,
}

/// The cache that processes share: used where `redis` names a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SharedCacheConfig {
    /// Whether it is used. Default true.
    pub enabled: bool,
    /// Time in which Redis must answer a look-up; after it, the question is asked as if it were not known. Default 25 ms.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub timeout: Duration,
}

/// How long answers are kept, in whole seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TtlConfig {
    /// For contexts without a rule. Default 300.
    pub default: u64,
    /// Shortest by rule. Default 60.
    pub min: u64,
    /// Longest, by rule and by request. Default 900.
    pub max: u64,
    /// Share by which rules are varied at random, so that what was asked together does not expire together. Default 0.1.
    pub jitter: f64,
    /// Whether an answer that is the same when it is asked for anew is kept twice as long as before, and one that is not
    /// half as long, between `min` and `max`. Default true. A `ttl` of a request is kept as it is.
    pub adaptive: bool,
    /// How long after its time an answer is still given, marked stale, while it is asked for anew in the background; in
    /// seconds. Default 0: not at all. Not where a request says `ttl`.
    pub stale: u64,
    /// Rules by context, over the built-in ones (infrastructure 60, ceo_deep_research 900, business_intelligence 600,
    /// or 120 for an answer about the present).
    pub contexts: BTreeMap<String, ContextTtl>,
}

/// How long answers of one context are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ContextTtl {
    /// Seconds.
    pub ttl: u64,
    /// Seconds where the answer says current, today, now or live. Default as `ttl`.
    #[serde(default)]
    pub volatile: Option<u64>,
}

/// Further tries after a failure that may pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RetryConfig {
    /// Further rounds through the providers that offer the model. Default 1.
    pub retries: usize,
    /// Delay before the first further round; it doubles. A provider's Retry-After counts more. Default 200 ms.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub first_delay: Duration,
    /// Longest delay of ours. Default 2 s.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub max_delay: Duration,
}

/// A second call beside one that is slow: the first to answer counts, the other is closed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HedgeConfig {
    /// Whether a call that outlasts the 95th percentile of its provider and model is asked a second time, at the next
    /// provider that offers the model, or at the same one. Default false: the second call is paid for as well.
    pub enabled: bool,
    /// Share of calls that may be asked a second time, 0..1. Default 0.05.
    pub budget: f64,
}

fn provider_timeout() -> Duration {
    Duration::from_secs(60)
}

fn yes() -> bool {
    true
}

fn max_tokens() -> u64 {
    4096
}

impl ProviderKind {
    /// Returns its name in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            ProviderKind::OpenAi => "openai",
            ProviderKind::Anthropic => "anthropic",
            ProviderKind::Responses => "responses",
        }
    }

    fn own_url(self) -> &'static str {
        match self {
            ProviderKind::OpenAi | ProviderKind::Responses => "https://api.openai.com/v1",
            ProviderKind::Anthropic => "https://api.anthropic.com/v1",
        }
    }
}

impl Default for ChatConfig {
    fn default() -> Self {
        ChatConfig {
            max_concurrent: 50,
            timeout: Duration::from_secs(30),
            default_model: None,
            providers: Vec::new(),
            cache: CacheConfig::default(),
            semantic: SemanticConfig::default(),
            prefix: PrefixConfig::default(),
            ttl: TtlConfig::default(),
            tools: ToolsConfig::default(),
            retry: RetryConfig::default(),
            hedge: HedgeConfig::default(),
            breaker: BreakerConfig::default(),
            prices: BTreeMap::new(),
            prices_file: None,
            limits: Vec::new(),
            max_request_bytes: 8 << 20,
            max_response_bytes: 16 << 20,
        }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        CacheConfig {
            enabled: true,
            max_bytes: 64 << 20,
            tool_calls: false,
            negative: Duration::ZERO,
            l2: SharedCacheConfig::default(),
        }
    }
}

impl Default for SharedCacheConfig {
    fn default() -> Self {
        SharedCacheConfig { enabled: true, timeout: Duration::from_millis(25) }
    }
}

impl Default for TtlConfig {
    fn default() -> Self {
        TtlConfig { default: 300, min: 60, max: 900, jitter: 0.1, adaptive: true, stale: 0, contexts: BTreeMap::new() }
    }
}

impl Default for RetryConfig {
    fn default() -> Self {
        RetryConfig { retries: 1, first_delay: Duration::from_millis(200), max_delay: Duration::from_secs(2) }
    }
}

impl Default for HedgeConfig {
    fn default() -> Self {
        HedgeConfig { enabled: false, budget: 0.05 }
    }
}

impl ProviderConfig {
    /// Describes a server that speaks OpenAI's chat completions at `base_url`.
    pub fn openai(name: impl Into<String>, base_url: impl Into<String>) -> ProviderConfig {
        ProviderConfig::new(ProviderKind::OpenAi, name, base_url)
    }

    /// Describes a server that speaks Anthropic's Messages at `base_url`, which ends in `/v1`.
    pub fn anthropic(name: impl Into<String>, base_url: impl Into<String>) -> ProviderConfig {
        ProviderConfig::new(ProviderKind::Anthropic, name, base_url)
    }

    /// Describes a server that speaks OpenAI's Responses at `base_url`.
    pub fn responses(name: impl Into<String>, base_url: impl Into<String>) -> ProviderConfig {
        ProviderConfig::new(ProviderKind::Responses, name, base_url)
    }

    fn new(kind: ProviderKind, name: impl Into<String>, base_url: impl Into<String>) -> ProviderConfig {
        ProviderConfig {
            name: name.into(),
            kind,
            base_url: Some(base_url.into()),
            api_key: None,
            models: Vec::new(),
            headers: BTreeMap::new(),
            timeout: provider_timeout(),
            stream_usage: true,
            max_tokens: max_tokens(),
        }
    }

    /// Returns where the protocol's paths begin.
    pub(crate) fn base_url(&self) -> &str {
        self.base_url.as_deref().unwrap_or(self.kind.own_url())
    }

    /// Sets the credential.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> ProviderConfig {
        self.api_key = Some(Secret::new(key));
        self
    }

    /// Sets the models that it offers.
    #[must_use]
    pub fn models<S: Into<String>>(mut self, models: impl IntoIterator<Item = S>) -> ProviderConfig {
        self.models = models.into_iter().map(Into::into).collect();
        self
    }
}

impl ChatConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        let positive = |path: &str, value: usize| match value {
            0 => Err(Error::invalid_config(path, "must be at least 1")),
            _ => Ok(()),
        };
        positive("chat.max_concurrent", self.max_concurrent)?;
        positive("chat.max_request_bytes", self.max_request_bytes)?;
        positive("chat.max_response_bytes", self.max_response_bytes)?;
        positive("chat.tools.max_rounds", self.tools.max_rounds)?;
        positive("chat.tools.parallel", self.tools.parallel)?;
        if self.tools.max_cost_usd.is_some_and(|cost| !cost.is_finite() || cost < 0.0) {
            return Err(Error::invalid_config("chat.tools.max_cost_usd", "must be a finite number of at least 0"));
        }
        timeout("chat.timeout", self.timeout)?;
        timeout("chat.cache.l2.timeout", self.cache.l2.timeout)?;
        self.semantic.validate()?;
        self.ttl.validate()?;
        if self.cache.negative > MAX_NEGATIVE {
            return Err(Error::invalid_config("chat.cache.negative", "must be at most 5 s"));
        }
        if self.retry.retries > 10 {
            return Err(Error::invalid_config("chat.retry.retries", "must be at most 10"));
        }
        for (path, delay) in
            [("chat.retry.first_delay", self.retry.first_delay), ("chat.retry.max_delay", self.retry.max_delay)]
        {
            if delay > MAX_TIMEOUT {
                return Err(Error::invalid_config(path, "must be at most one day"));
            }
        }
        if !(0.0..=1.0).contains(&self.hedge.budget) {
            return Err(Error::invalid_config("chat.hedge.budget", "must be between 0 and 1"));
        }
        self.breaker.validate("chat.breaker")?;
        if self.providers.len() > MAX_PROVIDERS {
            return Err(Error::invalid_config("chat.providers", format!("must be at most {MAX_PROVIDERS}")));
        }
        for (index, provider) in self.providers.iter().enumerate() {
            provider.validate(&format!("chat.providers[{index}]"))?;
            if self.providers[..index].iter().any(|other| other.name == provider.name) {
                let path = format!("chat.providers[{index}].name");
                return Err(Error::invalid_config(&path, format!("`{}` is taken by another provider", provider.name)));
            }
        }
        Ok(())
    }
}

impl ProviderConfig {
    fn validate(&self, path: &str) -> Result<()> {
        if self.name.is_empty() || self.name.len() > 128 || self.name.chars().any(char::is_control) {
            return Err(Error::invalid_config(&format!("{path}.name"), "must be 1 to 128 printable characters"));
        }
        if self.max_tokens == 0 {
            return Err(Error::invalid_config(&format!("{path}.max_tokens"), "must be at least 1"));
        }
        if self.models.iter().any(|model| model.is_empty() || model.len() > super::request::MAX_MODEL_BYTES) {
            return Err(Error::invalid_config(&format!("{path}.models"), "must hold names of 1 to 256 bytes"));
        }
        timeout(&format!("{path}.timeout"), self.timeout)
    }
}

impl TtlConfig {
    fn validate(&self) -> Result<()> {
        if self.min == 0 || self.min > self.max {
            return Err(Error::invalid_config("chat.ttl.min", "must be at least 1 and at most `chat.ttl.max`"));
        }
        if self.max > MAX_TIMEOUT.as_secs() * 365 {
            return Err(Error::invalid_config("chat.ttl.max", "must be at most one year"));
        }
        if !(0.0..=0.5).contains(&self.jitter) {
            return Err(Error::invalid_config("chat.ttl.jitter", "must be between 0 and 0.5"));
        }
        if self.stale > MAX_STALE_S {
            return Err(Error::invalid_config("chat.ttl.stale", format!("must be at most {MAX_STALE_S} seconds")));
        }
        let range = |path: &str, ttl: u64| match (self.min..=self.max).contains(&ttl) {
            true => Ok(()),
            false => Err(Error::invalid_config(path, format!("must be {} to {} seconds", self.min, self.max))),
        };
        range("chat.ttl.default", self.default)?;
        for (context, rule) in &self.contexts {
            range(&format!("chat.ttl.contexts.{context}.ttl"), rule.ttl)?;
            if let Some(ttl) = rule.volatile {
                range(&format!("chat.ttl.contexts.{context}.volatile"), ttl)?;
            }
        }
        Ok(())
    }
}

fn timeout(path: &str, timeout: Duration) -> Result<()> {
    match timeout.is_zero() || timeout > MAX_TIMEOUT {
        true => Err(Error::invalid_config(path, "must be more than 0 and at most one day")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: ChatConfig) -> String {
        let error = config.validate().unwrap_err();
        assert_eq!(error.code(), "INVALID_CONFIG");
        error.get("field").unwrap().to_owned()
    }

    #[test]
    fn a_kind_says_the_protocol_and_where_its_own_server_is() {
        let read = |kind: &str| {
            crate::Config::from_layers([serde_json::json!({"chat": {"providers": [{"name": "a", "kind": kind}]}})])
        };
        for (kind, url) in [
            ("openai", "https://api.openai.com/v1"),
            ("responses", "https://api.openai.com/v1"),
            ("anthropic", "https://api.anthropic.com/v1"),
        ] {
            let config = read(kind).unwrap();
            let provider = &config.chat.providers[0];
            assert_eq!((provider.kind.name(), provider.base_url()), (kind, url));
        }
        let error = read("antropic").unwrap_err();
        assert_eq!((error.code(), error.get("field")), ("INVALID_CONFIG", Some("chat.providers[0].kind")));
        assert!(error.message().contains("`anthropic`"), "{error}");
    }

    #[test]
    fn values_that_cannot_work_are_refused_with_their_path() {
        let twice = vec![ProviderConfig::openai("a", "http://x"), ProviderConfig::openai("a", "http://y")];
        assert_eq!(refused(ChatConfig { max_concurrent: 0, ..Default::default() }), "chat.max_concurrent");
        assert_eq!(refused(ChatConfig { timeout: Duration::ZERO, ..Default::default() }), "chat.timeout");
        assert_eq!(refused(ChatConfig { providers: twice, ..Default::default() }), "chat.providers[1].name");
        let contexts = BTreeMap::from([("x".to_owned(), ContextTtl { ttl: 5, volatile: None })]);
        let ttl = TtlConfig { contexts, ..Default::default() };
        assert_eq!(refused(ChatConfig { ttl, ..Default::default() }), "chat.ttl.contexts.x.ttl");
        let retry = |first_delay, max_delay| {
            let retry = RetryConfig { first_delay, max_delay, ..Default::default() };
            refused(ChatConfig { retry, ..Default::default() })
        };
        let (day, long) = (MAX_TIMEOUT, Duration::from_secs_f64(1.8e19));
        assert_eq!(
            (retry(long, day), retry(day, long)),
            ("chat.retry.first_delay".into(), "chat.retry.max_delay".into())
        );
    }

    #[test]
    fn a_breaker_that_cannot_work_is_refused_with_its_path() {
        let change = |change: fn(&mut BreakerConfig)| {
            let mut breaker = BreakerConfig::default();
            change(&mut breaker);
            refused(ChatConfig { breaker, ..Default::default() })
        };
        assert_eq!(change(|breaker| breaker.consecutive_failures = 0), "chat.breaker.consecutive_failures");
        assert_eq!(change(|breaker| breaker.window = 0), "chat.breaker.window");
        assert_eq!(change(|breaker| breaker.window = 1 << 62), "chat.breaker.window");
        assert_eq!(change(|breaker| breaker.failure_ratio = f64::NAN), "chat.breaker.failure_ratio");
        assert_eq!(change(|breaker| breaker.open_for = Duration::ZERO), "chat.breaker.open_for");
        assert_eq!(change(|breaker| breaker.max_open = Duration::from_secs(1)), "chat.breaker.max_open");
        assert_eq!(change(|breaker| breaker.max_open = Duration::MAX), "chat.breaker.max_open");
    }
}
