//! What the memory tells health and telemetry about itself.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use super::health::RecentOperation;
use crate::{
    Error, ErrorKind, Result, Signal,
    context::Context,
    telemetry::{CacheLabels, EndpointLabels, ErrorLabels, RequestLabels},
};

/// Service that signals are about.
const SERVICE: &str = "memory";
/// Calls that are remembered.
const RECENT: usize = 1_000;
/// Look-ups of the key-value tiers in one signal: an answer from memory must not pay for a signal of its own.
const LOOK_UPS_PER_SIGNAL: u64 = 64;

/// Counts calls and look-ups.
#[derive(Debug)]
pub(crate) struct Metrics {
    context: Context,
    recent: Mutex<VecDeque<RecentOperation>>,
    next_id: AtomicU64,
    hit: Counter,
    miss: Counter,
    set: Counter,
    invalidate: Counter,
    /// Hits and look-ups since the last signal.
    window: (AtomicU64, AtomicU64),
}

impl Metrics {
    pub(crate) fn new(context: &Context) -> Metrics {
        let counter = |operation: &str| {
            let labels = CacheLabels { cache: "memory.kv".to_owned(), operation: operation.to_owned() };
            context.telemetry.cache_operations.get_or_create_owned(&labels)
        };
        Metrics {
            hit: counter("hit"),
            miss: counter("miss"),
            set: counter("set"),
            invalidate: counter("invalidate"),
            context: context.clone(),
            recent: Mutex::new(VecDeque::new()),
            next_id: AtomicU64::new(1),
            window: (AtomicU64::new(0), AtomicU64::new(0)),
        }
    }

    /// Runs one call and takes note of how it went. An error names the call, whichever part of it failed.
    pub(crate) async fn timed<T>(&self, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let start = self.context.clock.monotonic();
        let result = call.await.map_err(|error| error.in_operation(operation));
        self.note(operation, self.context.clock.monotonic().saturating_sub(start), result.as_ref().err());
        result
    }

    fn note(&self, operation: &'static str, took: Duration, error: Option<&Error>) {
        let status = error.map_or("ok", Error::code);
        let telemetry = &self.context.telemetry;
        let labels = RequestLabels { method: "call".into(), endpoint: operation.into(), status: status.into() };
        telemetry.requests.get_or_create(&labels).inc();
        let labels = EndpointLabels { endpoint: operation.into() };
        telemetry.request_duration.get_or_create(&labels).observe(took.as_secs_f64());
        let milliseconds = took.as_secs_f64() * 1e3;
        self.context.signals.signal(Signal::latency_ms(SERVICE, milliseconds));
        // A caller's mistake is no failure of the memory.
        let failed = error.is_some_and(|error| {
            !matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound | ErrorKind::Conflict)
        });
        self.context.signals.signal(Signal::outcome(SERVICE, failed));
        if failed {
            let labels = ErrorLabels { service: SERVICE.into(), error_type: status.into() };
            telemetry.errors.get_or_create(&labels).inc();
        }
        let recent = RecentOperation {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            operation,
            duration: milliseconds,
            status,
            timestamp: self.context.clock.now(),
        };
        let mut operations = self.recent.lock();
        if operations.len() == RECENT {
            operations.pop_front();
        }
        operations.push_back(recent);
    }

    /// Returns the last calls, the newest first.
    pub(crate) fn recent(&self, count: usize) -> Vec<RecentOperation> {
        self.recent.lock().iter().rev().take(count).cloned().collect()
    }

    /// Takes note of a look-up of the key-value tiers.
    pub(crate) fn look_up(&self, hit: bool) {
        if hit { &self.hit } else { &self.miss }.inc();
        let (hits, all) = &self.window;
        hits.fetch_add(u64::from(hit), Ordering::Relaxed);
        if all.fetch_add(1, Ordering::Relaxed) + 1 == LOOK_UPS_PER_SIGNAL {
            let all = all.swap(0, Ordering::Relaxed).max(1);
            let ratio = (hits.swap(0, Ordering::Relaxed) as f64 / all as f64).min(1.0);
            let direction = crate::Direction::HigherIsBetter;
            self.context.signals.signal(Signal::new(SERVICE, "cache_hit_ratio", ratio, direction));
        }
    }

    pub(crate) fn set(&self) {
        self.set.inc();
    }

    pub(crate) fn invalidated(&self) {
        self.invalidate.inc();
    }
}

/// Shared counters.
pub(crate) type SharedMetrics = Arc<Metrics>;
