//! What goes on with one server: its breaker, how busy and how quick it is, what it said last.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{check::ServerStatus, config::RegistryConfig, server::Server, tools::Tool, upstream::mcp::Link};
use crate::{
    Clock,
    resilience::{CircuitBreaker, Limiter},
};

/// Time after which a measured latency counts for a third: peak-EWMA as in Twitter's Finagle, whose default is 10 s.
const DECAY: Duration = Duration::from_secs(10);
/// What a failure counts as, at least: a server that refuses quickly must not look quick.
const FAILURE_COST_MS: f64 = 1_000.0;
/// Weight of the newest outcome in the share of failures.
const ERROR_ALPHA: f64 = 0.1;

/// What goes on with one server.
#[derive(Debug)]
pub(crate) struct Live {
    pub breaker: CircuitBreaker,
    pub limiter: Option<Limiter>,
    pub link: Arc<Link>,
    in_flight: AtomicUsize,
    calls: AtomicU64,
    errors: AtomicU64,
    load: Mutex<Load>,
    status: Mutex<ServerStatus>,
    tools: Mutex<Listed>,
}

/// What came of asking for the tools.
#[derive(Debug, Default)]
struct Listed {
    /// The last list that was good.
    good: Option<Arc<Vec<Tool>>>,
    /// Why there was none the last time.
    error: Option<String>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Load {
    cost_ms: f64,
    at: Duration,
    error_ratio: f64,
}

/// Counters of one server at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub in_flight: usize,
    pub calls: u64,
    pub errors: u64,
    pub error_ratio: f64,
    /// Peak-EWMA of the latency, fading while nobody calls, so that a slow server gets another chance.
    pub cost_ms: f64,
    /// Peak-EWMA of the latency at the last call; nothing before the first.
    pub latency_ms: Option<f64>,
}

/// One call under way; counts as long as it is held.
#[derive(Debug)]
pub(crate) struct InFlight<'a>(&'a Live);

impl Live {
    pub(crate) fn new(server: &Server, config: &RegistryConfig, clock: &Arc<dyn Clock>) -> Live {
        Live {
            breaker: CircuitBreaker::new(server.id.as_str(), config.breaker.clone(), clock.clone()),
            limiter: server.max_connections.map(Limiter::new),
            link: Arc::default(),
            in_flight: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            load: Mutex::default(),
            status: Mutex::default(),
            tools: Mutex::default(),
        }
    }

    /// Counts a call from now on.
    pub(crate) fn enter(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    /// Takes note of how a call went.
    pub(crate) fn record(&self, now: Duration, latency_ms: f64, failed: bool) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        let cost = if failed { latency_ms.max(FAILURE_COST_MS) } else { latency_ms };
        let mut load = self.load.lock();
        load.error_ratio += ERROR_ALPHA * (f64::from(u8::from(failed)) - load.error_ratio);
        let kept = decay(now.saturating_sub(load.at));
        // A rise counts at once, a fall with time: it is the peak that callers feel.
        load.cost_ms = if cost > load.cost_ms { cost } else { load.cost_ms * kept + cost * (1.0 - kept) };
        load.at = now;
    }

    pub(crate) fn counts(&self, now: Duration) -> Counts {
        let (load, calls) = (*self.load.lock(), self.calls.load(Ordering::Relaxed));
        Counts {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            calls,
            errors: self.errors.load(Ordering::Relaxed),
            error_ratio: load.error_ratio,
            cost_ms: load.cost_ms * decay(now.saturating_sub(load.at)),
            latency_ms: (calls > 0).then_some(load.cost_ms),
        }
    }

    pub(crate) fn status(&self) -> ServerStatus {
        self.status.lock().clone()
    }

    /// Puts a new status in place; returns the old one.
    pub(crate) fn set_status(&self, status: ServerStatus) -> ServerStatus {
        std::mem::replace(&mut *self.status.lock(), status)
    }

    /// Returns the last list of tools that was good.
    pub(crate) fn tools(&self) -> Option<Arc<Vec<Tool>>> {
        self.tools.lock().good.clone()
    }

    pub(crate) fn set_tools(&self, tools: Arc<Vec<Tool>>) {
        *self.tools.lock() = Listed { good: Some(tools), error: None };
    }

    /// Returns why its tools could not be listed the last time.
    pub(crate) fn tools_error(&self) -> Option<String> {
        self.tools.lock().error.clone()
    }

    /// Takes note of why they could not; the last good list stays.
    pub(crate) fn set_tools_error(&self, error: String) {
        self.tools.lock().error = Some(error);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn decay(elapsed: Duration) -> f64 {
    (-elapsed.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
        let live = Live::new(&Server::new("a"), &RegistryConfig::default(), &clock);
        assert_eq!(live.counts(Duration::ZERO).latency_ms, None);
        live.record(Duration::ZERO, 10.0, false);
        live.record(Duration::from_secs(1), 500.0, false);
        assert_eq!(live.counts(Duration::from_secs(1)).latency_ms, Some(500.0));
        live.record(Duration::from_secs(11), 10.0, false);
        let faded = live.counts(Duration::from_secs(11)).latency_ms.unwrap();
        assert!(faded > 150.0 && faded < 250.0, "{faded}");
    }

    #[test]
    fn a_quick_refusal_does_not_look_quick() {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
        let live = Live::new(&Server::new("a"), &RegistryConfig::default(), &clock);
        live.record(Duration::ZERO, 0.1, true);
        let counts = live.counts(Duration::ZERO);
        assert_eq!((counts.latency_ms, counts.errors, counts.error_ratio), (Some(1_000.0), 1, 0.1));
    }
}
