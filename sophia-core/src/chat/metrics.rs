//! What chat measures about itself: for its callers, for health and for Prometheus.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    accounting::{EMBEDDINGS, is_over_limit},
    cache::AnswerCache,
    provider::{Embeddings, ProviderCall},
    response::{Answer, CacheStatus, Usage},
};
use crate::{
    Clock, Error, ErrorKind, Result, Signal, Signals,
    context::Context,
    resilience::Limiter,
    telemetry::{CacheLabels, EndpointLabels, ErrorLabels, RequestLabels, Telemetry},
};

/// Response times that percentiles are taken over.
const WINDOW: usize = 1000;
/// Name under which health knows chat as a whole.
const SERVICE: &str = "chat";

/// What chat measured since it was made. Null where nothing was measured.
///
/// Rates are over all calls; response times are of the last 1,000, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ChatMetrics {
    /// Calls of complete, stream and run that have ended.
    pub total_requests: u64,
    /// Share of them that were answered, 0..1.
    pub success_rate: Option<f64>,
    /// Share of them that failed, timeouts included, 0..1.
    pub error_rate: Option<f64>,
    /// Share of them that ran out of time, 0..1.
    pub timeout_rate: Option<f64>,
    /// Share of look-ups that found a kept answer, 0..1.
    pub cache_hit_rate: Option<f64>,
    /// Mean.
    pub avg_response_time_ms: Option<f64>,
    /// Shortest.
    pub min_response_time_ms: Option<f64>,
    /// Longest.
    pub max_response_time_ms: Option<f64>,
    /// Median.
    pub p50_response_time_ms: Option<f64>,
    /// 95th percentile.
    pub p95_response_time_ms: Option<f64>,
    /// 99th percentile.
    pub p99_response_time_ms: Option<f64>,
    /// Failures by error code.
    pub error_breakdown: BTreeMap<&'static str, u64>,
    /// Look-ups that found a kept answer.
    pub cache_hits: u64,
    /// Look-ups that found none.
    pub cache_misses: u64,
    /// Calls that were answered by what another call had asked for at the same time.
    pub coalesced: u64,
    /// Kept answers, about.
    pub cache_entries: u64,
    /// Memory that they take, about, in bytes.
    pub cache_bytes: u64,
    /// Calls to providers and producers under way.
    pub in_flight: usize,
    /// Most that ever were at once.
    pub peak_in_flight: usize,
    /// Calls that wait for their turn.
    pub queue_depth: usize,
    /// When this was read.
    pub timestamp: Timestamp,
}

/// Takes measurements.
#[derive(Debug)]
pub(crate) struct Meter {
    clock: Arc<dyn Clock>,
    signals: Signals,
    telemetry: Telemetry,
    calls: [Endpoint; 3],
    lookups: [Counter; 5],
    answered: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    coalesced: AtomicU64,
    failures: Mutex<BTreeMap<&'static str, u64>>,
    times: Mutex<Times>,
}

/// Which call it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Complete,
    Stream,
    Run,
}

impl Operation {
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Complete => "chat.complete",
            Operation::Stream => "chat.stream",
            Operation::Run => "chat.run",
        }
    }
}

/// Handles of one operation's metrics, so that a hit does not look them up.
#[derive(Debug)]
struct Endpoint {
    ok: Counter,
    duration: Histogram,
}

/// The last response times, in milliseconds.
#[derive(Debug, Default)]
struct Times {
    ring: Vec<f32>,
    next: usize,
}

impl Meter {
    pub fn new<'a>(context: &Context, providers: impl Iterator<Item = &'a str>) -> Meter {
        let telemetry = context.telemetry.clone();
        let endpoint = |operation: Operation| {
            let labels = EndpointLabels { endpoint: operation.name().to_owned() };
            Endpoint {
                ok: telemetry.requests.get_or_create_owned(&request_labels(operation, "ok")),
                duration: telemetry.request_duration.get_or_create_owned(&labels),
            }
        };
        let calls = [Operation::Complete, Operation::Stream, Operation::Run].map(endpoint);
        let lookups = ["hit", "miss", "coalesced", "bypass", "invalidate"].map(|operation| {
            let labels = CacheLabels { cache: SERVICE.to_owned(), operation: operation.to_owned() };
            telemetry.cache_operations.get_or_create_owned(&labels)
        });
        for provider in providers {
            context.signals.depends(SERVICE, &service_of(provider));
        }
        Meter {
            clock: context.clock.clone(),
            signals: context.signals.clone(),
            telemetry,
            calls,
            lookups,
            answered: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            coalesced: AtomicU64::new(0),
            failures: Mutex::default(),
            times: Mutex::default(),
        }
    }

    /// Takes a call that was answered.
    pub fn succeeded(&self, operation: Operation, status: CacheStatus, latency_ms: f64) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let found = match status {
            CacheStatus::Hit | CacheStatus::Stale | CacheStatus::SemanticHit => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                self.lookups[0].inc();
                Some(true)
            }
            CacheStatus::Miss => {
                self.misses.fetch_add(1, Ordering::Relaxed);
                self.lookups[1].inc();
                Some(false)
            }
            CacheStatus::Coalesced => {
                self.misses.fetch_add(1, Ordering::Relaxed);
                self.coalesced.fetch_add(1, Ordering::Relaxed);
                self.lookups[2].inc();
                Some(false)
            }
            CacheStatus::Bypass => {
                self.lookups[3].inc();
                None
            }
        };
        let endpoint = &self.calls[operation as usize];
        endpoint.ok.inc();
        endpoint.duration.observe(latency_ms / 1000.0);
        let took = self.took(latency_ms);
        let well = Signal::outcome(SERVICE, false);
        match found {
            Some(hit) => self.signals.signals(&[took, well, Signal::cache(SERVICE, hit)]),
            None => self.signals.signals(&[took, well]),
        }
    }

    /// Takes a call that failed.
    pub fn failed(&self, operation: Operation, error: &Error, latency_ms: f64) {
        *self.failures.lock().entry(error.code()).or_default() += 1;
        self.telemetry.requests.get_or_create(&request_labels(operation, error.code())).inc();
        self.calls[operation as usize].duration.observe(latency_ms / 1000.0);
        self.error(SERVICE, error);
        let took = self.took(latency_ms);
        // Who asks for the impossible, for too much, or goes away, says nothing about chat.
        match is_fault(error) && !is_over_limit(error) {
            true => self.signals.signals(&[took, Signal::outcome(SERVICE, true)]),
            false => self.signals.signal(took),
        }
    }

    /// Takes one try at a provider.
    pub fn asked(&self, provider: &str, call: &ProviderCall, latency: Duration, error: Option<&Error>) {
        self.tried((provider, &call.model, &call.context), latency, error);
    }

    /// Takes a try to make vectors.
    pub fn embedded(&self, provider: &str, model: &str, latency: Duration, vectors: &Result<Embeddings>) {
        self.tried((provider, model, EMBEDDINGS), latency, vectors.as_ref().err());
        if let Ok(vectors) = vectors {
            self.used((provider, model, EMBEDDINGS), &vectors.usage);
        }
    }

    fn tried(&self, (provider, model, task): (&str, &str, &str), latency: Duration, error: Option<&Error>) {
        self.telemetry.ai(provider, model, task).requests.inc();
        let service = service_of(provider);
        self.signals.signals(&[
            Signal::latency_ms(service.clone(), latency.as_secs_f64() * 1000.0),
            Signal::outcome(service.clone(), error.is_some_and(is_fault)),
        ]);
        if let Some(error) = error {
            self.error(&service, error);
        }
    }

    /// Takes a try at a provider that everyone has left: where their time was over, it was too slow.
    pub fn left(&self, provider: &str, call: &ProviderCall, latency: Duration, is_late: bool) {
        if is_late {
            let error = Error::new(ErrorKind::Timeout, call.operation, "nobody waits any more");
            return self.asked(provider, call, latency, Some(&error));
        }
        self.telemetry.ai(provider, &call.model, &call.context).requests.inc();
    }

    /// Takes a stream that broke off after it had begun.
    pub fn broke_off(&self, provider: &str, error: &Error) {
        let service = service_of(provider);
        self.signals.signal(Signal::outcome(service.clone(), true));
        self.error(&service, error);
    }

    /// Takes the tokens of an answer.
    pub fn answered(&self, call: &ProviderCall, answer: &Answer) {
        self.used((&answer.provider, &call.model, &call.context), &answer.usage);
    }

    fn used(&self, (provider, model, task): (&str, &str, &str), usage: &Usage) {
        let counts = [
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            usage.cache_write_tokens,
            usage.reasoning_tokens,
        ];
        self.telemetry.tokens(&self.telemetry.ai(provider, model, task), counts);
    }

    /// Takes an invalidation.
    pub fn invalidated(&self) {
        self.lookups[4].inc();
    }

    pub fn snapshot(&self, cache: &AnswerCache, limiter: &Limiter) -> ChatMetrics {
        let error_breakdown = self.failures.lock().clone();
        let failed: u64 = error_breakdown.values().sum();
        let answered = self.answered.load(Ordering::Relaxed);
        let total = answered + failed;
        let (hits, misses) = (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed));
        let times = self.times.lock().sorted();
        let percentile = |share: f64| {
            let rank = (share * times.len() as f64).ceil() as usize;
            times.get(rank.saturating_sub(1)).copied().map(f64::from)
        };
        let mean = times.iter().copied().map(f64::from).sum::<f64>() / times.len() as f64;
        let (cache_entries, cache_bytes) = cache.size();
        ChatMetrics {
            total_requests: total,
            success_rate: ratio(answered, total),
            error_rate: ratio(failed, total),
            timeout_rate: ratio(error_breakdown.get(ErrorKind::Timeout.code()).copied().unwrap_or(0), total),
            cache_hit_rate: ratio(hits, hits + misses),
            avg_response_time_ms: (!times.is_empty()).then_some(mean),
            min_response_time_ms: times.first().copied().map(f64::from),
            max_response_time_ms: times.last().copied().map(f64::from),
            p50_response_time_ms: percentile(0.50),
            p95_response_time_ms: percentile(0.95),
            p99_response_time_ms: percentile(0.99),
            error_breakdown,
            cache_hits: hits,
            cache_misses: misses,
            coalesced: self.coalesced.load(Ordering::Relaxed),
            cache_entries,
            cache_bytes,
            in_flight: limiter.in_flight(),
            peak_in_flight: limiter.peak(),
            queue_depth: limiter.queue_depth(),
            timestamp: self.clock.now(),
        }
    }

    /// Takes a response time, and returns it as health is told it.
    fn took(&self, latency_ms: f64) -> Signal {
        self.times.lock().push(latency_ms as f32);
        Signal::latency_ms(SERVICE, latency_ms)
    }

    fn error(&self, service: &str, error: &Error) {
        let labels = ErrorLabels { service: service.to_owned(), error_type: error.code().to_owned() };
        self.telemetry.errors.get_or_create(&labels).inc();
    }
}

impl Times {
    fn push(&mut self, ms: f32) {
        if self.ring.len() < WINDOW {
            self.ring.push(ms);
        } else {
            self.ring[self.next] = ms;
            self.next = (self.next + 1) % WINDOW;
        }
    }

    fn sorted(&self) -> Vec<f32> {
        let mut times = self.ring.clone();
        times.sort_unstable_by(f32::total_cmp);
        times
    }
}

fn service_of(provider: &str) -> String {
    format!("{SERVICE}.{provider}")
}

fn request_labels(operation: Operation, status: &str) -> RequestLabels {
    RequestLabels { method: "call".to_owned(), endpoint: operation.name().to_owned(), status: status.to_owned() }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn is_fault(error: &Error) -> bool {
    error.is_retryable() || matches!(error.kind(), ErrorKind::Unauthorized | ErrorKind::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{accounting::Accounts, config::ChatConfig};

    fn meter() -> (Meter, AnswerCache, Limiter) {
        let context = Context::default();
        let accounts = Accounts::new(&ChatConfig::default(), &context, None).unwrap();
        let cache = AnswerCache::new(Arc::default(), context.clock.clone(), accounts);
        (Meter::new(&context, std::iter::empty()), cache, Limiter::new(50))
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let (meter, cache, limiter) = meter();
        let metrics = serde_json::to_value(meter.snapshot(&cache, &limiter)).unwrap();
        for name in ["success_rate", "error_rate", "cache_hit_rate", "avg_response_time_ms", "p95_response_time_ms"] {
            assert!(metrics[name].is_null(), "{name}");
        }
        assert_eq!(metrics["total_requests"], 0);
    }

    #[test]
    fn rates_are_over_all_calls_and_times_over_the_last_thousand() {
        let (meter, cache, limiter) = meter();
        for _ in 0..1000 {
            meter.succeeded(Operation::Run, CacheStatus::Miss, 900.0);
        }
        for index in 1..=998 {
            meter.succeeded(Operation::Complete, CacheStatus::Hit, f64::from(index));
        }
        meter.failed(Operation::Complete, &Error::new(ErrorKind::Timeout, "t", "t"), 999.0);
        meter.failed(Operation::Complete, &Error::new(ErrorKind::Unavailable, "t", "t"), 1000.0);
        let metrics = meter.snapshot(&cache, &limiter);
        assert_eq!(metrics.total_requests, 2000);
        assert_eq!((metrics.error_rate, metrics.timeout_rate), (Some(0.001), Some(0.0005)));
        assert_eq!(metrics.cache_hit_rate, Some(998.0 / 1998.0));
        assert_eq!((metrics.min_response_time_ms, metrics.max_response_time_ms), (Some(1.0), Some(1000.0)));
        assert_eq!((metrics.p50_response_time_ms, metrics.p99_response_time_ms), (Some(500.0), Some(990.0)));
        assert_eq!(metrics.error_breakdown, BTreeMap::from([("TIMEOUT", 1), ("UNAVAILABLE", 1)]));
    }
}
