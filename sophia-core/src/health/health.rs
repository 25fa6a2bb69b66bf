//! The handle.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
};

use futures::Stream;
use jiff::Timestamp;

use super::{
    Alert, AlertMatch, AlertState, EdgeSource, EventKind, HealthConfig, HealthEvent, Observation, Probe, Registration,
    Rule, SeriesQuery, SeriesView, ServiceCheck, Severity, SystemHealth, UnifiedHealth, engine::Shared, events,
    history, names::check_name, prober, service::Service, unified,
};
use crate::{
    Clock, Error, ErrorKind, Result, Signal, SignalSink,
    resilience::{CheckAll, Deadline},
    telemetry::Telemetry,
};

/// What is wrong, what caused it, and what may be done about it. Cheap to clone; all clones are one.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sophia_core::Result<()> {
/// use sophia_core::{Direction, Sophia, health::{Rule, Severity}};
///
/// let sophia = Sophia::builder().build()?;
/// let health = sophia.health();
/// health.rule(Rule::new("cache_hit_ratio", Direction::HigherIsBetter).warning(0.6).critical(0.4))?;
/// health.observe("redis", "cache_hit_ratio", 0.97);
/// health.observe("chat", "cache_hit_ratio", 0.05);
/// let alerts = health.alerts(None);
/// assert_eq!((alerts.len(), alerts[0].severity), (1, Severity::Critical));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Health {
    shared: Arc<Shared>,
}

impl Health {
    pub(crate) fn new(config: &HealthConfig, clock: Arc<dyn Clock>, telemetry: Telemetry) -> Result<Health> {
        config.validate()?;
        Ok(Health { shared: Arc::new(Shared::new(config, clock, telemetry)) })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) async fn start(&self) -> Result<()> {
        self.shared.open_events();
        let mut task = self.shared.task.lock();
        if task.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        self.shared.refresh_all();
        *task = Some(tokio::spawn(prober::run(Arc::downgrade(&self.shared))).abort_handle());
        Ok(())
    }

    pub(crate) async fn shutdown(&self) -> Result<()> {
        self.pause();
        self.shared.end_events();
        Ok(())
    }

    /// Stops the background work; those who listen go on.
    pub(crate) fn pause(&self) {
        if let Some(task) = self.shared.task.lock().take() {
            task.abort();
        }
    }

    /// Looks after a service from now on, in place of one of the same name.
    ///
    /// The first look comes within 5 s of it where the engine is started, and then one each interval.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`], naming the field; [`ErrorKind::RateLimited`] when `health.max_services` are registered.
    pub fn register(&self, registration: Registration, probe: Arc<dyn Probe>) -> Result<()> {
        registration.validate()?;
        let service = Arc::new(Service::new(registration, probe, &self.shared.config));
        {
            let mut services = self.shared.services.write();
            if services.len() >= self.shared.config.max_services && !services.contains_key(service.name()) {
                let message = "as many services as `health.max_services` allows are registered";
                return Err(Error::new(ErrorKind::RateLimited, "health.register", message));
            }
            if let Some(replaced) = services.insert(service.name().to_owned(), Arc::clone(&service)) {
                let said = &replaced.registration.depends_on;
                let gone = said.iter().filter(|on| !service.registration.depends_on.contains(on));
                let mut graph = self.shared.graph.write();
                gone.for_each(|on| graph.remove(service.name(), on));
                drop(graph);
                self.shared.retire(&replaced);
                self.shared.alerts.lock().clear(&format!("probe:{}", service.name()));
            }
        }
        for dependency in &service.registration.depends_on {
            self.add_dependency(service.name(), dependency, EdgeSource::Declared)?;
        }
        self.shared.fresh.lock().push(service);
        self.shared.wake.notify_one();
        self.shared.reconcile(self.shared.clock.now());
        Ok(())
    }

    /// Looks after a service with the probe that its registration writes down.
    ///
    /// # Errors
    /// As [`Health::register`]; also where there is no such probe.
    pub fn register_spec(&self, registration: Registration) -> Result<()> {
        registration.validate()?;
        let Some(probe) = &registration.probe else {
            return Err(Error::invalid("health.register", "probe", "is required: say how to look at the service"));
        };
        let probe = probe.build_sharing(&self.shared.client)?;
        self.register(registration, probe)
    }

    /// Forgets a service, its signals and its alerts; returns whether it was registered.
    pub fn unregister(&self, service: &str) -> bool {
        let existed = self.shared.remove(service);
        self.shared.reconcile(self.shared.clock.now());
        existed
    }

    /// Says that `service` calls `on`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`], naming the field.
    pub fn depends(&self, service: &str, on: &str) -> Result<()> {
        check_name("health.depends", "service", service)?;
        check_name("health.depends", "on", on)?;
        if service == on {
            return Err(Error::invalid("health.depends", "on", "is the service itself"));
        }
        self.add_dependency(service, on, EdgeSource::Declared)
    }

    fn add_dependency(&self, service: &str, on: &str, source: EdgeSource) -> Result<()> {
        if self.shared.graph.write().add(service, on, source) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::RateLimited, "health.depends", "there are too many dependencies"))
    }

    /// Says that a service is being worked on until then: it raises nothing and is not in the score.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`], naming the field.
    pub fn maintenance(&self, service: &str, until: Timestamp) -> Result<()> {
        check_name("health.maintenance", "service", service)?;
        let now = self.shared.clock.now();
        let mut maintenance = self.shared.maintenance.write();
        maintenance.retain(|_, until| now < *until);
        if maintenance.len() >= self.shared.config.max_services {
            return Err(Error::new(
                ErrorKind::RateLimited,
                "health.maintenance",
                "too many services are in maintenance",
            ));
        }
        // One that is over ends the maintenance.
        maintenance.insert(service.to_owned(), until);
        drop(maintenance);
        if now < until {
            self.shared.alerts.lock().forget_service(service);
            self.shared.reconcile(now);
        }
        Ok(())
    }

    /// Takes in a point of now. One that is no number, or has no name, is dropped: see [`Health::observe_point`].
    pub fn observe(&self, service: &str, metric: &str, value: f64) {
        if let Err(error) = self.observe_point(Observation::new(service, metric, value)) {
            self.shared.series.drop_one();
            tracing::debug!(code = error.code(), field = error.get("field"), "a point was dropped");
        }
    }

    /// Takes in a point.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`], naming the field: a value that is no number, a time more than an hour ago or in the future;
    /// [`ErrorKind::RateLimited`] when there is no room for one more signal.
    pub fn observe_point(&self, point: Observation) -> Result<()> {
        self.shared.observe(&point)
    }

    /// Sets when the values of a metric are an alert, in place of a rule for the same metric and service. What was measured
    /// within five minutes is judged at once.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`], naming the field.
    pub fn rule(&self, rule: Rule) -> Result<()> {
        self.shared.set_rule(rule)
    }

    /// Looks at one service now.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is not registered.
    ///
    /// # Cancel safety
    /// What was seen so far is forgotten.
    pub async fn check(&self, service: &str) -> Result<ServiceCheck> {
        let found = self.shared.services.read().get(service).cloned();
        let found = found.ok_or_else(|| self.not_registered("health.check", service))?;
        let deadline = Deadline::after(found.timeout);
        let mut checks = prober::check_many(&self.shared, vec![found], 1, deadline).await;
        checks.remove(service).ok_or_else(|| self.not_registered("health.check", service))
    }

    /// Looks at all services now, all before one deadline: those that hang cost one deadline together.
    ///
    /// A service that could not be asked in time is `unknown`, which raises nothing.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`], naming the field.
    ///
    /// # Cancel safety
    /// What was seen so far is forgotten.
    pub async fn check_all(&self, options: CheckAll) -> Result<BTreeMap<String, ServiceCheck>> {
        options.validate("health.check_all")?;
        let services = self.shared.registered();
        let deadline = Deadline::after(options.deadline);
        Ok(prober::check_many(&self.shared, services, options.concurrency, deadline).await)
    }

    /// Returns how everything is, and why.
    ///
    /// # Errors
    /// None at present.
    pub async fn report(&self) -> Result<SystemHealth> {
        Ok(self.shared.report())
    }

    /// Returns how everything is, in the shape that a unified dashboard reads.
    ///
    /// # Errors
    /// None at present.
    pub async fn unified(&self) -> Result<UnifiedHealth> {
        Ok(unified::unify(self.shared.report(), &self.shared.config.unified_weights))
    }

    /// Returns the recent history of one signal.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when nothing was measured; [`ErrorKind::InvalidInput`], naming the field.
    pub fn series(&self, query: SeriesQuery) -> Result<SeriesView> {
        history::view(&self.shared, &query)
    }

    /// Returns the alerts in a state (active ones by default: those that hold, and that nobody took or silenced), newest first.
    pub fn alerts(&self, state: Option<AlertState>) -> Vec<Alert> {
        let state = state.unwrap_or(AlertState::Active);
        self.all_alerts().into_iter().filter(|alert| alert.state == state).collect()
    }

    /// Returns the alerts in every state: those that hold, newest first, and then the last 1,000 that are over.
    pub fn all_alerts(&self) -> Vec<Alert> {
        let now = self.shared.clock.now();
        self.shared.judge_engine(now);
        self.shared.alerts.lock().list(now)
    }

    /// Marks an alert as taken by someone.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when no such alert holds; [`ErrorKind::InvalidInput`], naming the field.
    pub fn ack(&self, id: &str, by: &str) -> Result<Alert> {
        check_name("health.ack", "by", by)?;
        let now = self.shared.clock.now();
        let alert = self.shared.alerts.lock().acknowledge(id, by, now);
        let alert = alert.ok_or_else(|| no_alert("health.ack", id))?;
        self.shared.emit(EventKind::AlertChanged(alert.clone()), now);
        Ok(alert)
    }

    /// Ends an alert by hand. It returns after its cooldown if what it is about still holds, or at once if that gets worse.
    ///
    /// # Errors
    /// As [`Health::ack`].
    pub fn resolve(&self, id: &str, by: &str) -> Result<Alert> {
        check_name("health.resolve", "by", by)?;
        let now = self.shared.clock.now();
        let alert = self.shared.alerts.lock().resolve(id, by, now);
        let alert = alert.ok_or_else(|| no_alert("health.resolve", id))?;
        self.shared.emit(EventKind::AlertResolved(alert.clone()), now);
        Ok(alert)
    }

    /// Silences the alerts that match, those that hold and those to come, until then.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where it would match everything, or is over already.
    pub fn silence(&self, matching: AlertMatch, until: Timestamp) -> Result<()> {
        let now = self.shared.clock.now();
        if matching.is_empty() {
            return Err(Error::invalid("health.silence", "match", "is empty: name what is to be silent"));
        }
        if until <= now {
            return Err(Error::invalid("health.silence", "until", "is over already"));
        }
        if self.shared.alerts.lock().silence(matching, until, now) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::RateLimited, "health.silence", "there are too many silences"))
    }

    /// Returns what happens from now on. A listener that is 1,024 events behind gets [`EventKind::Missed`] and goes on; the
    /// stream ends when the engine is shut down, or gone.
    pub fn subscribe(&self) -> impl Stream<Item = HealthEvent> + Send + 'static {
        let clock = Arc::clone(&self.shared.clock);
        events::stream(self.shared.listen(), move || clock.now())
    }

    /// Returns the engine's metrics, the scores of services and the number of alerts, as Prometheus text (OpenMetrics 1.0).
    pub fn prometheus(&self) -> String {
        let now = self.shared.clock.now();
        let services = self.shared.service_health(&self.shared.series.all(), now);
        let held: Vec<_> = self.all_alerts().into_iter().filter(|alert| alert.state != AlertState::Resolved).collect();
        let _scrape = self.shared.scrape.lock();
        let scores = &self.shared.telemetry.service_score;
        scores.clear();
        for (service, health) in &services {
            if let Some(score) = health.score {
                let labels = crate::telemetry::ServiceLabels { service: service.clone() };
                scores.get_or_create(&labels).set(score);
            }
        }
        let mut own = String::from(
            "# HELP sophia_alerts_active Alerts that hold, by severity\n# TYPE sophia_alerts_active gauge\n",
        );
        for severity in [Severity::Info, Severity::Warning, Severity::Critical] {
            let count = held.iter().filter(|alert| alert.severity == severity).count();
            // Writing to a String cannot fail; the signature is the trait's.
            let _ = writeln!(own, "sophia_alerts_active{{severity=\"{}\"}} {count}", severity.name());
        }
        let dropped = self.shared.series.dropped.load(Ordering::Relaxed);
        let _ = writeln!(
            own,
            "# HELP sophia_signals_dropped Points that were not kept\n# TYPE sophia_signals_dropped counter"
        );
        let _ = writeln!(own, "sophia_signals_dropped_total {dropped}");
        let mut text = self.shared.telemetry.prometheus();
        // What ends the text stays its end.
        let end = text.rfind("# EOF").unwrap_or(text.len());
        text.insert_str(end, &own);
        text
    }

    fn not_registered(&self, operation: &'static str, service: &str) -> Error {
        let services = self.shared.services.read();
        let names: Vec<&str> = services.keys().map(String::as_str).collect();
        let hint =
            crate::wire::nearest(service, &names).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        Error::new(ErrorKind::NotFound, operation, format!("no service `{service}` is registered{hint}"))
    }
}

fn no_alert(operation: &'static str, id: &str) -> Error {
    Error::new(ErrorKind::NotFound, operation, "no alert of this id holds").with("id", id)
}

impl SignalSink for Health {
    fn signal(&self, signal: Signal) {
        self.signals(&[signal]);
    }

    fn signals(&self, signals: &[Signal]) {
        let now = self.shared.clock.now().as_microsecond();
        for signal in signals {
            // What is told of the future is of now: two clocks differ.
            let at = signal.at.map_or(now, |at| at.as_microsecond().min(now));
            self.shared.series.record(&signal.service, signal.metric, signal.direction, at, signal.value, now);
        }
    }

    fn depends(&self, service: &str, dependency: &str) {
        if service != dependency && !self.shared.graph.read().contains(service, dependency) {
            self.shared.graph.write().add(service, dependency, EdgeSource::Observed);
        }
    }
}
