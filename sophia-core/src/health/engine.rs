//! What all clones of one [`Health`](super::Health) share.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::{Arc, atomic::Ordering},
};

use jiff::{SignedDuration, Timestamp};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{Notify, broadcast},
    task::AbortHandle,
};

use super::{
    HealthConfig, Status,
    actions::ActionBook,
    alerts::{AlertBook, Change},
    events::{BACKLOG, EventKind, HealthEvent, StatusChange},
    graph::Graph,
    probes,
    rules::Rules,
    series::SeriesMap,
    service::Service,
};
use crate::{Clock, http_client::HttpClient, telemetry::Telemetry};

/// Scores kept for `delta_1h`, one a minute.
const MAX_SCORES: usize = 70;

/// Part of the hour's alert events that one signal, or one group, may use up.
const SHARE_OF_ONE: u32 = 10;
/// Least that is: a beginning and an end.
const LEAST_OF_ONE: u32 = 2;

/// The alert events of the last hour, and whose they were.
#[derive(Debug, Default)]
struct SentEvents {
    order: VecDeque<(Timestamp, String)>,
    of_one: HashMap<String, u32>,
}

impl SentEvents {
    /// Counts one more event, unless there were too many of all, or of this one.
    fn admit(&mut self, whose: String, at: Timestamp, limit: u32) -> bool {
        while self.order.front().is_some_and(|(first, _)| at.duration_since(*first) >= SignedDuration::from_hours(1)) {
            let Some((_, whose)) = self.order.pop_front() else { break };
            if let Some(count) = self.of_one.get_mut(&whose) {
                *count -= 1;
                if *count == 0 {
                    self.of_one.remove(&whose);
                }
            }
        }
        let count = self.of_one.get(&whose).copied().unwrap_or_default();
        if self.order.len() >= limit as usize || count >= (limit / SHARE_OF_ONE).max(LEAST_OF_ONE) {
            return false;
        }
        self.of_one.insert(whose.clone(), count + 1);
        self.order.push_back((at, whose));
        true
    }
}

/// The state of one engine's health.
///
/// Locks are taken in the order of the fields, and never held over an await.
pub(super) struct Shared {
    pub config: HealthConfig,
    pub clock: Arc<dyn Clock>,
    pub telemetry: Telemetry,
    pub client: Arc<HttpClient>,
    pub services: RwLock<BTreeMap<String, Arc<Service>>>,
    pub rules: RwLock<Rules>,
    pub graph: RwLock<Graph>,
    pub alerts: Mutex<AlertBook>,
    pub series: SeriesMap,
    pub actions: Mutex<ActionBook>,
    pub maintenance: RwLock<HashMap<String, Timestamp>>,
    pub scores: Mutex<VecDeque<(Timestamp, f64)>>,
    /// Held while metrics are written: the scores of services are cleared and set anew.
    pub scrape: Mutex<()>,
    sent: Mutex<SentEvents>,
    /// `None` while it is shut down: those who listened heard the end.
    events: Mutex<Option<broadcast::Sender<HealthEvent>>>,
    /// Services that the background task has not seen yet.
    pub fresh: Mutex<Vec<Arc<Service>>>,
    pub wake: Arc<Notify>,
    pub task: Mutex<Option<AbortHandle>>,
}

impl Shared {
    pub fn new(config: &HealthConfig, clock: Arc<dyn Clock>, telemetry: Telemetry) -> Shared {
        Shared {
            clock,
            telemetry,
            client: probes::client(),
            services: RwLock::default(),
            rules: RwLock::default(),
            graph: RwLock::default(),
            alerts: Mutex::default(),
            series: SeriesMap::new(config.max_signals),
            actions: Mutex::default(),
            maintenance: RwLock::default(),
            scores: Mutex::default(),
            scrape: Mutex::default(),
            sent: Mutex::default(),
            events: Mutex::new(Some(broadcast::Sender::new(BACKLOG))),
            fresh: Mutex::default(),
            wake: Arc::default(),
            task: Mutex::default(),
            config: config.clone(),
        }
    }

    /// Returns whether a service is being worked on at this time.
    pub fn in_maintenance(&self, service: &str, at: Timestamp) -> bool {
        self.maintenance.read().get(service).is_some_and(|until| at < *until)
    }

    /// Makes alerts of the conditions, and tells of what changed.
    pub fn reconcile(&self, at: Timestamp) {
        let changes = {
            let graph = self.graph.read();
            self.alerts.lock().reconcile(&graph, at)
        };
        for (change, alert) in changes {
            let alert = self.alerts.lock().shown(&alert, at);
            let whose = alert.group.as_ref().or(alert.services.first()).cloned().unwrap_or_default();
            let whose = format!("{whose}\n{}", alert.metric.as_deref().unwrap_or_default());
            let kind = match change {
                Change::Opened => EventKind::AlertOpened(alert),
                Change::Changed => EventKind::AlertChanged(alert),
                Change::Resolved => EventKind::AlertResolved(alert),
            };
            self.emit_limited(kind, whose, at);
        }
    }

    /// Tells of services whose status changed.
    pub fn emit_status(&self, changes: Vec<(String, Status, Status)>, at: Timestamp) {
        if changes.is_empty() {
            return;
        }
        let changes = changes.into_iter().map(|(service, from, to)| StatusChange { service, from, to }).collect();
        self.emit(EventKind::ReportChanged(changes), at);
    }

    pub fn emit(&self, kind: EventKind, at: Timestamp) {
        if let Some(events) = &*self.events.lock() {
            // An error means that nobody listens.
            let _ = events.send(HealthEvent { kind, timestamp: at });
        }
    }

    /// Returns a place among those who listen; `None` while it is shut down.
    pub fn listen(&self) -> Option<broadcast::Receiver<HealthEvent>> {
        self.events.lock().as_ref().map(broadcast::Sender::subscribe)
    }

    /// Lets those listen who come from now on.
    pub fn open_events(&self) {
        self.events.lock().get_or_insert_with(|| broadcast::Sender::new(BACKLOG));
    }

    /// Ends the streams of those who listen, after what happened until now.
    pub fn end_events(&self) {
        self.events.lock().take();
    }

    /// Tells of an alert, unless too many were told of within the hour.
    fn emit_limited(&self, kind: EventKind, whose: String, at: Timestamp) {
        let limit = self.config.alerts_per_hour;
        if self.sent.lock().admit(whose, at, limit) {
            self.emit(kind, at);
        } else {
            tracing::warn!(limit, "an alert event was not sent: too many within an hour");
        }
    }

    /// Remembers the overall score, once a minute.
    pub fn remember_score(&self, at: Timestamp, score: f64) {
        let mut scores = self.scores.lock();
        if scores.back().is_some_and(|(last, _)| at.duration_since(*last) < SignedDuration::from_mins(1)) {
            return;
        }
        if scores.len() >= MAX_SCORES {
            scores.pop_front();
        }
        scores.push_back((at, score));
    }

    /// Does what is to be done now and then.
    pub fn housekeep(&self) {
        let now = self.clock.now();
        self.judge_engine(now);
        self.reconcile(now);
        self.maintenance.write().retain(|_, until| now < *until);
        if let Some(score) = self.overall_score(now) {
            self.remember_score(now, score);
        }
    }

    /// Returns the registered services, sorted by name.
    pub fn registered(&self) -> Vec<Arc<Service>> {
        self.services.read().values().cloned().collect()
    }

    /// Hands every registered service to a new background task.
    pub fn refresh_all(&self) {
        *self.fresh.lock() = self.registered();
    }

    /// Lets go of a service that was unregistered or replaced.
    pub fn retire(&self, service: &Service) {
        service.retired.store(true, Ordering::SeqCst);
        self.fresh.lock().retain(|fresh| !fresh.retired.load(Ordering::SeqCst));
        // The background task lets go of it as well.
        self.wake.notify_one();
    }

    /// Forgets a service; returns whether it was registered.
    pub fn remove(&self, name: &str) -> bool {
        let removed = self.services.write().remove(name);
        let existed = removed.is_some();
        if let Some(service) = removed {
            self.retire(&service);
        }
        self.rules.write().forget_service(name);
        self.graph.write().remove_service(name);
        self.alerts.lock().forget_service(name);
        self.series.remove_service(name);
        self.maintenance.write().remove(name);
        existed
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("services", &self.services.read().len()).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().take() {
            task.abort();
        }
    }
}
