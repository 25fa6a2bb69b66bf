//! One registered service, and what is known of it.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;

use super::{HealthConfig, Probe, ProbeOutcome, Registration, Status};

/// One registered service.
#[derive(Debug)]
pub(super) struct Service {
    pub registration: Registration,
    pub interval: Duration,
    pub timeout: Duration,
    pub fail_after: u32,
    pub ok_after: u32,
    pub probe: Arc<dyn Probe>,
    /// Set when it was unregistered or replaced, for those who still hold it.
    pub retired: AtomicBool,
    looks: AtomicU64,
    state: Mutex<ServiceState>,
}

/// What is known of a service.
#[derive(Debug, Clone)]
pub(super) struct ServiceState {
    /// What is believed: changes only after so many looks in a row.
    pub status: Status,
    pub score: Option<f64>,
    pub detail: Option<String>,
    pub failures: u32,
    pub degraded: u32,
    /// Looks in a row that saw nothing.
    unknown: u32,
    pub latency_ms: Option<f64>,
    pub last_check: Option<Timestamp>,
    pub since: Option<Timestamp>,
    successes: u32,
}

/// What one look at a service gave.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ServiceCheck {
    /// The service.
    pub service: String,
    /// How it is believed to be, which takes `fail_after` failures or `ok_after` successes to change. What nobody could see for
    /// `fail_after` looks is unknown, unless it did not work.
    pub status: Status,
    /// What this look alone saw.
    pub observed: Status,
    /// 0..100, or `None` while unknown.
    pub score: Option<f64>,
    /// How long the look took, unless the service gave no answer.
    pub latency_ms: Option<f64>,
    /// What there is to say about it.
    pub detail: Option<String>,
    /// Looks in a row that failed.
    pub consecutive_failures: u32,
    /// When it was looked at.
    pub checked_at: Timestamp,
}

/// What one look saw, before it is weighed.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub outcome: ProbeOutcome,
    pub latency_ms: Option<f64>,
}

impl Service {
    pub fn new(registration: Registration, probe: Arc<dyn Probe>, config: &HealthConfig) -> Service {
        Service {
            interval: registration.interval.unwrap_or(config.interval),
            timeout: registration.timeout.unwrap_or(config.timeout),
            fail_after: registration.fail_after.unwrap_or(config.fail_after),
            ok_after: registration.ok_after.unwrap_or(config.ok_after),
            registration,
            probe,
            retired: AtomicBool::new(false),
            looks: AtomicU64::new(0),
            state: Mutex::new(ServiceState {
                status: Status::Unknown,
                score: None,
                detail: None,
                failures: 0,
                degraded: 0,
                unknown: 0,
                latency_ms: None,
                last_check: None,
                since: None,
                successes: 0,
            }),
        }
    }

    pub fn name(&self) -> &str {
        &self.registration.service
    }

    /// Returns what is known.
    pub fn state(&self) -> ServiceState {
        self.state.lock().clone()
    }

    /// Weighs what a look saw; returns the check, and the status before it.
    pub fn conclude(&self, look: Look, at: Timestamp) -> (ServiceCheck, Status) {
        let mut state = self.state.lock();
        let before = state.status;
        let observed = look.outcome.status;
        state.last_check = Some(at);
        state.unknown = if observed == Status::Unknown { state.unknown.saturating_add(1) } else { 0 };
        match observed {
            // That it works is believed no longer than a failure would take to show; that it does not, until it works.
            Status::Unknown if state.unknown >= self.fail_after && before != Status::Unhealthy => {
                state.status = Status::Unknown;
                state.score = None;
            }
            Status::Unknown => {}
            Status::Unhealthy => {
                state.failures = state.failures.saturating_add(1);
                state.successes = 0;
                state.degraded = 0;
                if state.failures >= self.fail_after {
                    state.status = Status::Unhealthy;
                    state.score = look.outcome.score.or(Status::Unhealthy.score());
                }
            }
            Status::Healthy | Status::Degraded => {
                state.failures = 0;
                state.successes = state.successes.saturating_add(1);
                state.degraded = if observed == Status::Degraded { state.degraded.saturating_add(1) } else { 0 };
                if before != Status::Unhealthy || state.successes >= self.ok_after {
                    state.status = observed;
                    state.score = look.outcome.score.or(observed.score());
                }
            }
        }
        state.detail.clone_from(&look.outcome.detail);
        if look.latency_ms.is_some() {
            state.latency_ms = look.latency_ms;
        }
        if state.status != before {
            state.since = Some(at);
        }
        let check = ServiceCheck {
            service: self.name().to_owned(),
            status: state.status,
            observed,
            score: state.score,
            latency_ms: look.latency_ms,
            detail: look.outcome.detail,
            consecutive_failures: state.failures,
            checked_at: at,
        };
        (check, before)
    }

    /// Returns the time to the next look: the interval, moved by at most `jitter` of it.
    ///
    /// The same service gets the same delays on every run, and no two services the same.
    pub fn next_delay(&self, jitter: f64) -> Duration {
        self.interval.mul_f64(1.0 + jitter * (2.0 * self.chance() - 1.0))
    }

    /// Returns the time to the first look: soon, but not all at once.
    pub fn first_delay(&self) -> Duration {
        const SOON: Duration = Duration::from_secs(5);
        self.interval.min(SOON).mul_f64(self.chance())
    }

    fn chance(&self) -> f64 {
        let mut hasher = DefaultHasher::new();
        (self.name(), self.looks.fetch_add(1, Ordering::Relaxed)).hash(&mut hasher);
        // The upper 53 bits, which a double holds exactly.
        (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::CallbackProbe;

    fn service() -> Service {
        let probe = CallbackProbe::new(|| Box::pin(async { Ok(ProbeOutcome::new(Status::Healthy)) }));
        Service::new(Registration::new("redis"), Arc::new(probe), &HealthConfig::default())
    }

    fn see(service: &Service, status: Status) -> Status {
        let look = Look { outcome: ProbeOutcome::new(status), latency_ms: None };
        service.conclude(look, Timestamp::UNIX_EPOCH).0.status
    }

    #[test]
    fn three_failures_in_a_row_make_it_unhealthy_and_two_successes_healthy() {
        use Status::{Healthy, Unhealthy};
        let service = service();
        let seen = [Healthy, Unhealthy, Unhealthy, Healthy, Unhealthy, Unhealthy, Unhealthy, Healthy, Healthy];
        let believed = seen.map(|status| see(&service, status));
        assert_eq!(believed, [Healthy, Healthy, Healthy, Healthy, Healthy, Healthy, Unhealthy, Unhealthy, Healthy]);
    }

    #[test]
    fn what_is_unknown_changes_nothing() {
        let service = service();
        see(&service, Status::Unhealthy);
        see(&service, Status::Unhealthy);
        assert_eq!(see(&service, Status::Unknown), Status::Unknown);
        assert_eq!(see(&service, Status::Unhealthy), Status::Unhealthy);
    }

    #[test]
    fn delays_stay_within_the_jitter() {
        let service = service();
        let delays: Vec<_> = (0..100).map(|_| service.next_delay(0.1)).collect();
        assert!(delays.iter().all(|delay| (54.0..=66.0).contains(&delay.as_secs_f64())));
        assert!(delays.iter().max() > delays.iter().min());
    }
}
