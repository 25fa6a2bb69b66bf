//! A circuit breaker: what failed lately is not asked, and a probe finds out when it is well.
//!
//! The pattern is Nygard's (*Release It!*, 2007): closed, open, half-open.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Clock, Error, ErrorKind, Result};

/// Most calls that a breaker remembers, a byte each.
const MAX_WINDOW: usize = 100_000;
/// Longest time that a breaker stays open: a day.
const MAX_OPEN: Duration = Duration::from_secs(24 * 3600);

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BreakerConfig {
    /// Failures in a row that open it. Default 5.
    pub consecutive_failures: u32,
    /// Number of last calls over which the share of failures is taken. Default 20; half of it must be filled.
    pub window: usize,
    /// Share of failures in the window that opens it, 0..1. Default 0.5.
    pub failure_ratio: f64,
    /// How long it stays open the first time. Doubles with every failed probe, up to `max_open`. Default 10 s.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub open_for: Duration,
    /// Longest time it stays open. Default 5 min.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub max_open: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        BreakerConfig {
            consecutive_failures: 5,
            window: 20,
            failure_ratio: 0.5,
            open_for: Duration::from_secs(10),
            max_open: Duration::from_secs(300),
        }
    }
}

impl BreakerConfig {
    /// Refuses what no breaker can do; `path` is where it is configured.
    pub(crate) fn validate(&self, path: &str) -> Result<()> {
        let refuse = |field: &str, why: String| Err(Error::invalid_config(&format!("{path}.{field}"), why));
        if self.consecutive_failures == 0 {
            return refuse("consecutive_failures", "must be at least 1".to_owned());
        }
        if !(1..=MAX_WINDOW).contains(&self.window) {
            return refuse("window", format!("must be 1 to {MAX_WINDOW} calls"));
        }
        if !(self.failure_ratio > 0.0 && self.failure_ratio <= 1.0) {
            return refuse("failure_ratio", "must be above 0 and at most 1".to_owned());
        }
        if self.open_for.is_zero() {
            return refuse("open_for", "must be above 0 seconds".to_owned());
        }
        if self.max_open < self.open_for || self.max_open > MAX_OPEN {
            return refuse("max_open", format!("must be at least `{path}.open_for`, and at most one day"));
        }
        Ok(())
    }
}

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Calls go through.
    Closed,
    /// Calls are refused.
    Open,
    /// One call at a time goes through, as a probe.
    HalfOpen,
}

/// A breaker at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct BreakerSnapshot {
    /// Where it stands.
    pub state: BreakerState,
    /// Failures in a row.
    pub failures: u32,
    /// When it opened; null while closed.
    pub opened_at: Option<Timestamp>,
    /// When the next probe may go; null while closed.
    pub retry_at: Option<Timestamp>,
}

/// A circuit breaker around one dependency. Cheap to clone.
///
/// ```
/// use std::sync::Arc;
/// use sophia_core::{SystemClock, resilience::{BreakerConfig, BreakerState, CircuitBreaker}};
///
/// let breaker = CircuitBreaker::new("github", BreakerConfig::default(), Arc::new(SystemClock::default()));
/// for _ in 0..5 {
///     breaker.acquire("registry.call")?.failure();
/// }
/// assert_eq!(breaker.snapshot().state, BreakerState::Open);
/// assert_eq!(breaker.acquire("registry.call").unwrap_err().code(), "CIRCUIT_OPEN");
/// # Ok::<(), sophia_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct CircuitBreaker {
    name: Arc<str>,
    config: Arc<BreakerConfig>,
    clock: Arc<dyn Clock>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Outcomes of the last calls, true for a failure.
    recent: VecDeque<bool>,
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    since: Timestamp,
    retry: Duration,
    lasts: Duration,
    probing: bool,
}

/// One call that was let through. Say how it went; dropping it says nothing either way.
#[derive(Debug)]
#[must_use = "say success() or failure()"]
pub struct Call<'a> {
    breaker: &'a CircuitBreaker,
    probe: bool,
}

impl CircuitBreaker {
    /// Creates a closed breaker; `name` stands in its errors.
    pub fn new(name: impl Into<Arc<str>>, config: BreakerConfig, clock: Arc<dyn Clock>) -> CircuitBreaker {
        CircuitBreaker { name: name.into(), config: Arc::new(config), clock, inner: Arc::default() }
    }

    /// Asks to make one call.
    ///
    /// # Errors
    /// [`ErrorKind::CircuitOpen`] with `retry_after`, at once.
    pub fn acquire(&self, operation: &'static str) -> Result<Call<'_>> {
        let mut inner = self.inner.lock();
        let Some(open) = &mut inner.open else { return Ok(Call { breaker: self, probe: false }) };
        let wait = open.retry.saturating_sub(self.clock.monotonic());
        if wait.is_zero() && !open.probing {
            open.probing = true;
            return Ok(Call { breaker: self, probe: true });
        }
        Err(Error::new(ErrorKind::CircuitOpen, operation, format!("`{}` failed lately and is not asked", self.name))
            .with("failures", inner.failures)
            .with_retry_after(wait))
    }

    /// Returns where it stands.
    pub fn snapshot(&self) -> BreakerSnapshot {
        let inner = self.inner.lock();
        let Some(open) = &inner.open else {
            return BreakerSnapshot {
                state: BreakerState::Closed,
                failures: inner.failures,
                opened_at: None,
                retry_at: None,
            };
        };
        let wait = open.retry.saturating_sub(self.clock.monotonic());
        let state = if wait.is_zero() { BreakerState::HalfOpen } else { BreakerState::Open };
        let retry_at = self
            .clock
            .now()
            .checked_add(jiff::SignedDuration::try_from(wait).unwrap_or(jiff::SignedDuration::MAX))
            .ok();
        BreakerSnapshot { state, failures: inner.failures, opened_at: Some(open.since), retry_at }
    }

    /// Closes it and forgets what it saw.
    pub fn reset(&self) {
        *self.inner.lock() = Inner::default();
    }

    fn succeeded(&self, probe: bool) {
        let mut inner = self.inner.lock();
        inner.failures = 0;
        if probe {
            *inner = Inner::default();
        } else {
            self.remember(&mut inner, false);
        }
    }

    fn failed(&self, probe: bool) {
        let mut inner = self.inner.lock();
        inner.failures = inner.failures.saturating_add(1);
        self.remember(&mut inner, true);
        let (now, trips) = (self.clock.monotonic(), self.trips(&inner));
        match &mut inner.open {
            Some(open) if probe => {
                open.lasts = (open.lasts * 2).min(self.config.max_open);
                open.retry = now + open.lasts;
                open.probing = false;
            }
            // A call that began before it opened.
            Some(_) => {}
            None if trips => {
                let lasts = self.config.open_for;
                inner.open = Some(Open { since: self.clock.now(), retry: now + lasts, lasts, probing: false });
                tracing::warn!(breaker = %self.name, failures = inner.failures, "circuit opened");
            }
            None => {}
        }
    }

    fn remember(&self, inner: &mut Inner, failed: bool) {
        if inner.recent.len() >= self.config.window.max(1) {
            inner.recent.pop_front();
        }
        inner.recent.push_back(failed);
    }

    fn trips(&self, inner: &Inner) -> bool {
        let failed = inner.recent.iter().filter(|failed| **failed).count();
        let filled = inner.recent.len() * 2 >= self.config.window;
        inner.failures >= self.config.consecutive_failures
            || (filled && failed as f64 >= self.config.failure_ratio * inner.recent.len() as f64)
    }
}

impl Call<'_> {
    /// Says that the dependency answered.
    pub fn success(mut self) {
        self.breaker.succeeded(std::mem::take(&mut self.probe));
    }

    /// Says that the dependency failed: it timed out, was not there, or answered with its own fault.
    pub fn failure(mut self) {
        self.breaker.failed(std::mem::take(&mut self.probe));
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        // A probe that was cancelled must let another one go.
        if self.probe
            && let Some(open) = &mut self.breaker.inner.lock().open
        {
            open.probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;

    fn breaker() -> (CircuitBreaker, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        (CircuitBreaker::new("test", BreakerConfig::default(), clock.clone()), clock)
    }

    fn fail(breaker: &CircuitBreaker) {
        breaker.acquire("test").unwrap().failure();
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_a_good_probe_closes_it() {
        let (breaker, clock) = breaker();
        (0..5).for_each(|_| fail(&breaker));
        let refused = breaker.acquire("test").unwrap_err();
        assert_eq!((refused.code(), refused.retry_after()), ("CIRCUIT_OPEN", Some(Duration::from_secs(10))));
        clock.advance(Duration::from_secs(10));
        assert_eq!(breaker.snapshot().state, BreakerState::HalfOpen);
        breaker.acquire("test").unwrap().success();
        assert_eq!(breaker.snapshot().state, BreakerState::Closed);
    }

    #[test]
    fn half_of_the_window_opens_it_without_a_run() {
        let (breaker, _) = breaker();
        for _ in 0..5 {
            breaker.acquire("test").unwrap().success();
            fail(&breaker);
        }
        assert_eq!(breaker.snapshot().state, BreakerState::Open);
    }

    #[test]
    fn only_one_probe_goes_at_a_time_and_a_cancelled_one_frees_its_place() {
        let (breaker, clock) = breaker();
        (0..5).for_each(|_| fail(&breaker));
        clock.advance(Duration::from_secs(10));
        let probe = breaker.acquire("test").unwrap();
        assert!(breaker.acquire("test").is_err());
        drop(probe);
        assert!(breaker.acquire("test").is_ok());
    }

    #[test]
    fn every_failed_probe_doubles_the_wait() {
        let (breaker, clock) = breaker();
        (0..5).for_each(|_| fail(&breaker));
        clock.advance(Duration::from_secs(10));
        fail(&breaker);
        clock.advance(Duration::from_secs(10));
        assert_eq!(breaker.acquire("test").unwrap_err().retry_after(), Some(Duration::from_secs(10)));
    }
}
