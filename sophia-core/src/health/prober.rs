//! Looking at services: on demand, and in the background.

use std::{
    cmp::{Ordering as Order, Reverse},
    collections::{BTreeMap, BinaryHeap},
    panic::AssertUnwindSafe,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{
    ProbeOutcome, ServiceCheck, Status,
    alerts::{Condition, Severity},
    engine::Shared,
    service::{Look, Service},
    stall::{BEAT, StallWatch},
};
use crate::{Direction, ErrorKind, resilience::Deadline};

/// Time between two rounds of housekeeping.
const HOUSEKEEPING: Duration = Duration::from_secs(10);
/// Least time after which a look that the caller's deadline cut short says something about the service.
const LEAST_FAIR_TIME: Duration = Duration::from_secs(1);
/// Least loss of time that makes a look doubtful, for those with a very short timeout.
const LEAST_DOUBT: Duration = Duration::from_millis(500);

/// Looks at many services, at most `concurrency` at once, all before `deadline`.
pub(super) async fn check_many(
    shared: &Arc<Shared>,
    services: Vec<Arc<Service>>,
    concurrency: usize,
    deadline: Deadline,
) -> BTreeMap<String, ServiceCheck> {
    let watch = Arc::new(StallWatch::new(Arc::clone(&shared.clock)));
    let looks = futures::stream::iter(services.into_iter().map(|service| {
        let watch = Arc::clone(&watch);
        async move {
            let look = look(&service, deadline, &watch).await;
            (service, look)
        }
    }));
    let gather = looks.buffer_unordered(concurrency).collect::<Vec<_>>();
    let beats = async {
        loop {
            sleep(BEAT).await;
            watch.beat();
        }
    };
    tokio::pin!(gather);
    let looks = tokio::select! {
        looks = &mut gather => looks,
        () = beats => Vec::new(),
    };
    conclude(shared, looks)
}

/// Looks at one service once.
async fn look(service: &Service, deadline: Deadline, watch: &StallWatch) -> Look {
    let unknown = |why: &str| Look { outcome: ProbeOutcome::new(Status::Unknown).detail(why), latency_ms: None };
    let given = service.timeout.min(deadline.remaining());
    if given.is_zero() {
        return unknown("not looked at: the deadline passed first");
    }
    let lost_before = watch.lost();
    let began = Instant::now();
    let own = Deadline::after(given);
    let probing = AssertUnwindSafe(service.probe.probe(own)).catch_unwind();
    let (outcome, latency_ms) = match timeout_at(own.instant(), probing).await {
        Ok(Ok(Ok(outcome))) => (outcome, Some(began.elapsed().as_secs_f64() * 1_000.0)),
        // It could not be looked at from there, which says nothing of the service.
        Ok(Ok(Err(error))) if error.kind() == ErrorKind::Unsupported => return unknown(&explain(&error)),
        Ok(Ok(Err(error))) => (ProbeOutcome::new(Status::Unhealthy).detail(explain(&error)), None),
        Ok(Err(_)) => (ProbeOutcome::new(Status::Unhealthy).detail("the probe panicked"), None),
        Err(_) => {
            if given < service.timeout && given < LEAST_FAIR_TIME.min(service.timeout / 2) {
                return unknown("cut short by the deadline");
            }
            let detail = format!("no answer within {:.3} s", given.as_secs_f64());
            (ProbeOutcome::new(Status::Unhealthy).detail(detail), None)
        }
    };
    let lost = watch.lost().saturating_sub(lost_before);
    if outcome.status == Status::Unhealthy && lost >= (given / 2).max(LEAST_DOUBT) {
        let why = format!("the prober itself stood still for {:.1} s", lost.as_secs_f64());
        tracing::warn!(
            service = service.name(),
            lost_s = lost.as_secs_f64(),
            "what was seen says nothing: the prober was late"
        );
        return unknown(&why);
    }
    Look { outcome, latency_ms }
}

fn explain(error: &crate::Error) -> String {
    let mut text = error.message().to_owned();
    if let Some(cause) = error.causes().last() {
        text.push_str(": ");
        text.push_str(cause);
    }
    text
}

/// Takes in what looks saw, all as of one moment, so that what belongs together becomes one alert.
pub(super) fn conclude(shared: &Shared, looks: Vec<(Arc<Service>, Look)>) -> BTreeMap<String, ServiceCheck> {
    let at = shared.clock.now();
    let mut checks = BTreeMap::new();
    let mut changes = Vec::new();
    for (service, look) in looks {
        let (check, before) = service.conclude(look, at);
        if service.retired.load(Ordering::SeqCst) {
            checks.insert(check.service.clone(), check);
            continue;
        }
        let up = match check.observed {
            Status::Healthy | Status::Degraded => Some(1.0),
            Status::Unhealthy => Some(0.0),
            Status::Unknown => None,
        };
        let measured =
            [("up", Direction::HigherIsBetter, up), ("probe_latency_ms", Direction::LowerIsBetter, check.latency_ms)];
        for (metric, direction, value) in measured {
            if let Some(value) = value {
                shared.measured(&check.service, metric, direction, value, at);
            }
        }
        if check.status != before {
            changes.push((check.service.clone(), before, check.status));
        }
        weigh(shared, &service, &check, at);
        checks.insert(check.service.clone(), check);
    }
    shared.reconcile(at);
    shared.emit_status(changes, at);
    checks
}

/// Raises or clears the condition of one service.
fn weigh(shared: &Shared, service: &Service, check: &ServiceCheck, at: jiff::Timestamp) {
    let key = format!("probe:{}", check.service);
    let detail = check.detail.as_deref().unwrap_or("no detail");
    let (severity, title) = match check.status {
        Status::Unhealthy => (Severity::Critical, format!("{} does not work", check.service)),
        Status::Degraded if service.state().degraded >= service.fail_after => {
            (Severity::Warning, format!("{} is degraded", check.service))
        }
        Status::Unknown => return,
        Status::Degraded | Status::Healthy => {
            shared.alerts.lock().clear(&key);
            return;
        }
    };
    if shared.in_maintenance(&check.service, at) {
        return;
    }
    let condition = Condition {
        service: check.service.clone(),
        severity,
        title,
        message: format!("{}: {detail}", check.service),
        metric: None,
        value: None,
        threshold: None,
        group: service.registration.group.clone(),
        since: at,
        cooldown: shared.config.alert_cooldown,
    };
    shared.alerts.lock().raise(&key, condition, at);
}

/// A service and when to look at it next.
struct Due {
    at: Instant,
    service: Arc<Service>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Order {
        self.at.cmp(&other.at).then_with(|| self.service.name().cmp(other.service.name()))
    }
}

/// Looks at every registered service at its interval, until the engine is gone.
pub(super) async fn run(shared: Weak<Shared>) {
    let Some((clock, wake, jitter, concurrency)) = shared.upgrade().map(|shared| {
        let config = &shared.config;
        (Arc::clone(&shared.clock), Arc::clone(&shared.wake), config.jitter, config.concurrency)
    }) else {
        return;
    };
    let watch = Arc::new(StallWatch::new(clock));
    let mut queue: BinaryHeap<Reverse<Due>> = BinaryHeap::new();
    let mut flying: FuturesUnordered<BoxFuture<'static, (Arc<Service>, Look)>> = FuturesUnordered::new();
    let mut housekeeping = Instant::now() + HOUSEKEEPING;
    let mut woken = false;
    loop {
        let now = Instant::now();
        if !flying.is_empty() {
            watch.beat();
        }
        {
            // Held for this block only, so that dropping the engine ends this task.
            let Some(shared) = shared.upgrade() else { return };
            if std::mem::take(&mut woken) {
                queue.retain(|Reverse(due)| !due.service.retired.load(Ordering::SeqCst));
            }
            for service in std::mem::take(&mut *shared.fresh.lock()) {
                queue.push(Reverse(Due { at: now + service.first_delay(), service }));
            }
            if now >= housekeeping {
                shared.housekeep();
                housekeeping = now + HOUSEKEEPING;
            }
        }
        while flying.len() < concurrency
            && let Some(Reverse(due)) = queue.peek()
            && due.at <= now
            && let Some(Reverse(due)) = queue.pop()
        {
            if due.service.retired.load(Ordering::SeqCst) {
                continue;
            }
            if flying.is_empty() {
                watch.restart();
            }
            let watch = Arc::clone(&watch);
            flying.push(Box::pin(async move {
                let look = look(&due.service, Deadline::after(due.service.timeout), &watch).await;
                (due.service, look)
            }));
        }
        let next = match queue.peek() {
            Some(Reverse(due)) if flying.len() < concurrency => due.at.min(housekeeping),
            _ => housekeeping,
        };
        tokio::select! {
            () = sleep_until(next) => {}
            () = wake.notified() => woken = true,
            () = sleep(BEAT), if !flying.is_empty() => {}
            Some(first) = flying.next(), if !flying.is_empty() => {
                // Those that ended together are concluded together.
                let mut done = vec![first];
                while let Some(Some(next)) = flying.next().now_or_never() {
                    done.push(next);
                }
                let Some(shared) = shared.upgrade() else { return };
                for (service, _) in done.iter().filter(|(service, _)| !service.retired.load(Ordering::SeqCst)) {
                    let at = Instant::now() + service.next_delay(jitter);
                    queue.push(Reverse(Due { at, service: Arc::clone(service) }));
                }
                conclude(&shared, done);
            }
        }
    }
}
