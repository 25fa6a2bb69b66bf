//! Metric names in one place, and their Prometheus text.
//!
//! The names are those that an existing AI backend's dashboards read; a name that changes here breaks someone's alert.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, OnceLock, atomic::AtomicU64},
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::names_map::NamesMap;

/// Bucket bounds of request durations, in seconds: from an L1 hit (2 µs) to the default deadline (30 s).
const DURATION_BUCKETS_S: [f64; 14] =
    [0.000_01, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 30.0];

/// Most values of a label that callers choose: each makes series that stay. Any further one is counted as [`OTHER`].
const MOST_CHOSEN: usize = 256;
/// Label of what is beyond [`MOST_CHOSEN`].
const OTHER: &str = "other";

type FloatCounter = Counter<f64, AtomicU64>;
type FloatGauge = Gauge<f64, AtomicU64>;

/// Labels of `sophia_requests_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// HTTP method, or `"call"` for a library call.
    pub method: String,
    /// Route or operation.
    pub endpoint: String,
    /// HTTP status, or `"ok"` / the error code.
    pub status: String,
}

/// Labels of `sophia_errors_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ErrorLabels {
    /// Capability or dependency that failed.
    pub service: String,
    /// Error code.
    pub error_type: String,
}

/// Labels of `sophia_ai_requests_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AiLabels {
    /// Model as the request named it.
    pub model: String,
    /// Provider's configured name.
    pub provider: String,
    /// Context of the request, such as `"business_intelligence"`.
    pub task_type: String,
}

/// Labels of `sophia_ai_tokens_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TokenLabels {
    /// Model as the request named it.
    pub model: String,
    /// Provider's configured name.
    pub provider: String,
    /// `prompt`, `completion`, `cached`, `cache_write` or `reasoning`.
    pub kind: String,
}

/// Labels of `sophia_cache_hit_ratio`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HitRatioLabels {
    /// `chat` or `memory.kv`.
    pub cache: String,
}

/// Labels of `sophia_cache_operations_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CacheLabels {
    /// `chat` or `memory.kv`.
    pub cache: String,
    /// `hit`, `miss`, `coalesced`, `bypass`, `set` or `invalidate`.
    pub operation: String,
}

/// Labels of what is known of one named thing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ServerLabels {
    /// Server id.
    pub server: String,
}

/// Labels of `sophia_mcp_requests_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct McpLabels {
    /// Server id.
    pub server: String,
    /// `ok` or `error`.
    pub status: String,
}

/// Labels of one service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ServiceLabels {
    /// Service name.
    pub service: String,
}

/// Labels of one operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndpointLabels {
    /// Route or operation.
    pub endpoint: String,
}

/// Handles of what is counted for one model, provider and context, so that a call does not look each up by its labels.
#[derive(Debug)]
pub(crate) struct AiMeters {
    /// `sophia_ai_requests_total`
    pub requests: Counter,
    labels: AiLabels,
    tokens: [OnceLock<Counter>; TOKEN_KINDS.len()],
    cost_dollars: OnceLock<FloatCounter>,
}

/// Kinds of tokens.
const TOKEN_KINDS: [&str; 5] = ["prompt", "completion", "cached", "cache_write", "reasoning"];

/// The metrics of one engine. Cheap to clone.
#[derive(Clone)]
pub struct Telemetry {
    registry: Arc<Mutex<Registry>>,
    models: Chosen,
    contexts: Chosen,
    ai: Arc<NamesMap<Arc<AiMeters>>>,
    /// `sophia_requests_total{method,endpoint,status}`
    pub requests: Family<RequestLabels, Counter>,
    /// `sophia_request_duration_seconds{endpoint}`
    pub request_duration: Family<EndpointLabels, Histogram, fn() -> Histogram>,
    /// `sophia_errors_total{service,error_type}`
    pub errors: Family<ErrorLabels, Counter>,
    /// `sophia_ai_requests_total{model,provider,task_type}`
    pub ai_requests: Family<AiLabels, Counter>,
    /// `sophia_ai_tokens_total{model,provider,kind}`
    pub ai_tokens: Family<TokenLabels, Counter>,
    /// `sophia_ai_cost_dollars_total{model,provider,task_type}`
    pub ai_cost_dollars: Family<AiLabels, FloatCounter>,
    /// `sophia_cache_operations_total{cache,operation}`
    pub cache_operations: Family<CacheLabels, Counter>,
    /// `sophia_cache_hit_ratio{cache}`: of all look-ups, 0..1; absent before the first.
    pub cache_hit_ratio: Family<HitRatioLabels, FloatGauge>,
    /// `sophia_mcp_server_status{server}`: 1 healthy, 0 not.
    pub mcp_server_status: Family<ServerLabels, Gauge>,
    /// `sophia_mcp_requests_total{server,status}`
    pub mcp_requests: Family<McpLabels, Counter>,
    /// `sophia_service_score{service}`: 0..100, absent while unknown.
    pub service_score: Family<ServiceLabels, FloatGauge>,
}

impl Default for Telemetry {
    fn default() -> Self {
        let duration: fn() -> Histogram = || Histogram::new(DURATION_BUCKETS_S);
        let telemetry = Telemetry {
            registry: Arc::new(Mutex::new(Registry::with_prefix("sophia"))),
            models: Chosen::default(),
            contexts: Chosen::default(),
            ai: Arc::default(),
            requests: Family::default(),
            request_duration: Family::new_with_constructor(duration),
            errors: Family::default(),
            ai_requests: Family::default(),
            ai_tokens: Family::default(),
            ai_cost_dollars: Family::default(),
            cache_operations: Family::default(),
            cache_hit_ratio: Family::default(),
            mcp_server_status: Family::default(),
            mcp_requests: Family::default(),
            service_score: Family::default(),
        };
        {
            let mut registry = telemetry.registry.lock();
            registry.register("requests", "Calls served", telemetry.requests.clone());
            registry.register("request_duration_seconds", "Duration of calls", telemetry.request_duration.clone());
            registry.register("errors", "Failures by kind", telemetry.errors.clone());
            registry.register("ai_requests", "Model calls sent to a provider", telemetry.ai_requests.clone());
            registry.register("ai_tokens", "Tokens as the provider counted them", telemetry.ai_tokens.clone());
            registry.register("ai_cost_dollars", "Cost where the price is known", telemetry.ai_cost_dollars.clone());
            registry.register("cache_operations", "Cache look-ups and writes", telemetry.cache_operations.clone());
            registry.register("cache_hit_ratio", "Look-ups that hit, 0 to 1", telemetry.cache_hit_ratio.clone());
            registry.register("mcp_server_status", "1 healthy, 0 not", telemetry.mcp_server_status.clone());
            registry.register("mcp_requests", "Tool calls", telemetry.mcp_requests.clone());
            registry.register("service_score", "Health score, 0 to 100", telemetry.service_score.clone());
        }
        telemetry
    }
}

/// Values of a label that callers have chosen.
#[derive(Clone, Default)]
struct Chosen(Arc<Mutex<HashSet<String>>>);

impl Chosen {
    fn label(&self, value: &str) -> String {
        let mut seen = self.0.lock();
        if !seen.contains(value) {
            if seen.len() >= MOST_CHOSEN {
                return OTHER.to_owned();
            }
            seen.insert(value.to_owned());
        }
        value.to_owned()
    }
}

impl Telemetry {
    /// Returns what counts for a model, provider and context. Those that are too many share one.
    pub(crate) fn ai(&self, provider: &str, model: &str, context: &str) -> Arc<AiMeters> {
        if let Some(known) = self.ai.get([provider, model, context]) {
            return known;
        }
        let labels = AiLabels {
            model: self.models.label(model),
            provider: provider.to_owned(),
            task_type: self.contexts.label(context),
        };
        let meters = AiMeters {
            requests: self.ai_requests.get_or_create_owned(&labels),
            tokens: Default::default(),
            cost_dollars: OnceLock::new(),
            labels,
        };
        let AiLabels { provider, model, task_type } = meters.labels.clone();
        self.ai.get_or_insert([&provider, &model, &task_type], Arc::new(meters))
    }

    /// Counts tokens, where they are known: prompt, completion, cached, cache_write and reasoning.
    pub(crate) fn tokens(&self, meters: &AiMeters, counts: [Option<u64>; TOKEN_KINDS.len()]) {
        for ((kind, own), count) in TOKEN_KINDS.into_iter().zip(&meters.tokens).zip(counts) {
            let Some(count) = count else { continue };
            let counter = own.get_or_init(|| {
                let AiLabels { model, provider, .. } = meters.labels.clone();
                self.ai_tokens.get_or_create_owned(&TokenLabels { model, provider, kind: kind.to_owned() })
            });
            counter.inc_by(count);
        }
    }

    /// Counts a cost, in US dollars.
    pub(crate) fn cost(&self, meters: &AiMeters, usd: f64) {
        let counter = meters.cost_dollars.get_or_init(|| self.ai_cost_dollars.get_or_create_owned(&meters.labels));
        counter.inc_by(usd);
    }

    /// Returns every metric in the Prometheus text format (OpenMetrics 1.0).
    pub fn prometheus(&self) -> String {
        for cache in ["chat", "memory.kv"] {
            let count = |operation: &str| {
                let labels = CacheLabels { cache: cache.to_owned(), operation: operation.to_owned() };
                self.cache_operations.get(&labels).map_or(0, |counter| counter.get())
            };
            let (hits, misses) = (count("hit"), count("miss") + count("coalesced"));
            if hits + misses > 0 {
                let ratio = hits as f64 / (hits + misses) as f64;
                self.cache_hit_ratio.get_or_create(&HitRatioLabels { cache: cache.to_owned() }).set(ratio);
            }
        }
        let mut text = String::new();
        // Writing to a String cannot fail; the signature is the trait's.
        let _ = encode(&mut text, &self.registry.lock());
        text
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}
