//! The report: how everything is, and why.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Alert, AlertState, Anomaly, Correlation, EdgeSource, Incident, Kpis, Prediction, Recommendation, RootCause, Status,
    Trends, advice, analysis, anomaly, causes, correlation,
    engine::Shared,
    forecast,
    series::Series,
    trends,
    window::{BUCKETS, Window, minute_of},
};

/// How everything is. What is not known is `None`, and never a guess.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct SystemHealth {
    /// When the report was made.
    pub timestamp: Timestamp,
    /// All in one.
    pub overall: Overall,
    /// Every service that is registered or sent a signal within the hour, by name.
    pub services: BTreeMap<String, ServiceHealth>,
    /// What was out of line within the hour, the worst first.
    pub anomalies: Vec<Anomaly>,
    /// What was out of line together, the surest first.
    pub correlations: Vec<Correlation>,
    /// Who is likely to blame, the likeliest first.
    pub root_causes: Vec<RootCause>,
    /// Which thresholds will be reached, the most urgent first.
    pub predictions: Vec<Prediction>,
    /// Alerts that hold, one for each incident's effect.
    pub alerts: Vec<Alert>,
    /// Alerts by their cause.
    pub incidents: Vec<Incident>,
    /// What to do.
    pub recommendations: Vec<Recommendation>,
    /// The last hour in steps of five minutes.
    pub trends: Trends,
    /// The last hour in a few numbers.
    pub kpis: Kpis,
}

/// All in one.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Overall {
    /// 0..100: the weighted mean of the components that could be measured; `None` when none could.
    pub score: Option<f64>,
    /// The score in a word; `critical` also while a critical service does not work.
    pub status: OverallStatus,
    /// The score less that of an hour ago; `None` when that is not known.
    pub delta_1h: Option<f64>,
    /// How many components are in the score.
    pub components_evaluated: usize,
    /// The components that could not be measured, and are not in the score.
    pub components_unknown: Vec<String>,
}

/// A score in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OverallStatus {
    /// From 90.
    Excellent,
    /// From 75.
    Good,
    /// From 60.
    Fair,
    /// From 40.
    Poor,
    /// Below 40, or something without which nothing works is down.
    Critical,
    /// Nothing could be measured.
    Unknown,
}

impl OverallStatus {
    pub(super) fn of(score: Option<f64>) -> OverallStatus {
        match score {
            None => OverallStatus::Unknown,
            Some(score) if score >= 90.0 => OverallStatus::Excellent,
            Some(score) if score >= 75.0 => OverallStatus::Good,
            Some(score) if score >= 60.0 => OverallStatus::Fair,
            Some(score) if score >= 40.0 => OverallStatus::Poor,
            Some(_) => OverallStatus::Critical,
        }
    }
}

/// Where what is known of a service comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Source {
    /// It is registered and looked at.
    Probe,
    /// It only sent signals, or they were observed for it.
    Signals,
}

/// How one service is.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ServiceHealth {
    /// How it is.
    pub status: Status,
    /// 0..100. A probe's own score, or that of its status. Without a probe, from its signals of the last five minutes: 100 less
    /// twice the percentage of errors, less up to 30 points for a latency above its own median of the hour (10 points each
    /// doubling). `None` while there are fewer than 5 points.
    pub score: Option<f64>,
    /// Its part in the overall score, relative to the others'.
    pub weight: f64,
    /// Whether it is in the overall score.
    pub counted: bool,
    /// Whether nothing works without it.
    pub critical: bool,
    /// Where this comes from.
    pub source: Source,
    /// The group with which it shares an alert.
    pub group: Option<String>,
    /// What there is to say about it.
    pub detail: Option<String>,
    /// Since when it has this status.
    pub since: Option<Timestamp>,
    /// When it was last looked at.
    pub last_check: Option<Timestamp>,
    /// How long the last look that was answered took.
    pub probe_latency_ms: Option<f64>,
    /// Looks in a row that failed.
    pub consecutive_failures: u32,
    /// Until when it is being worked on, and raises nothing.
    pub maintenance_until: Option<Timestamp>,
    /// What it calls.
    pub depends_on: Vec<Dependency>,
    /// Its latency over the hour.
    pub latency_ms: Option<Quantiles>,
    /// Its errors over the last five minutes, 0..1.
    pub error_ratio: Option<f64>,
    /// Its cache over the last five minutes, 0..1.
    pub cache_hit_ratio: Option<f64>,
    /// The metrics that it has.
    pub metrics: Vec<String>,
}

/// A service that is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Dependency {
    /// Its name.
    pub service: String,
    /// How it came to be known.
    pub source: EdgeSource,
}

/// How a value was spread over the last hour, within 4 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Quantiles {
    /// The mean, exact.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// 95 % are below.
    pub p95: f64,
    /// 99 % are below.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Quantiles {
    /// Returns how the values of the hour that ends with the minute `now` are spread, if there are any.
    pub(super) fn of(window: &Window, now: i64) -> Option<Quantiles> {
        let hour = window.last(now, BUCKETS);
        let mean = hour.mean()?;
        // Bins are 4 % wide; nothing is beyond the extremes.
        let [p50, p95, p99] = window.quantiles(now)?.map(|quantile| quantile.clamp(hour.min, hour.max));
        Some(Quantiles { mean, p50, p95, p99, max: hour.max })
    }
}

/// Minutes that tell how a service is now.
const NOW_MINUTES: usize = 5;
/// Points that are worth a score.
const LEAST_POINTS: u32 = 5;
/// Minutes with points before a latency can be compared with its own median.
const LEAST_HISTORY: usize = 15;
/// Points of score for each doubling of the latency, and the most of them.
const LATENCY_PENALTY: f64 = 10.0;
const MAX_LATENCY_PENALTY: f64 = 30.0;

impl Shared {
    /// Makes the report.
    pub(super) fn report(&self) -> SystemHealth {
        let now = self.clock.now();
        self.judge_engine(now);
        let all = self.series.all();
        let services = self.service_health(&all, now);
        let alerts: Vec<_> =
            self.alerts.lock().list(now).into_iter().filter(|alert| alert.state != AlertState::Resolved).collect();
        let overall = self.overall(&services, now);
        if let Some(score) = overall.score {
            self.remember_score(now, score);
        }
        let hours = analysis::hours(&all, now.as_second());
        let root_causes = causes::root_causes(&hours, &self.graph.read());
        let predictions = forecast::predictions(&hours, &self.rules.read());
        SystemHealth {
            timestamp: now,
            incidents: advice::incidents(&alerts),
            recommendations: self.recommendations(&services, &alerts, &root_causes, &predictions),
            anomalies: anomaly::anomalies(&all, &hours, now),
            correlations: correlation::correlations(&hours),
            root_causes,
            predictions,
            trends: trends::trends(&all, now),
            kpis: trends::kpis(&all, &services, &alerts, now),
            overall,
            services,
            alerts,
        }
    }

    /// Returns the overall score alone.
    pub(super) fn overall_score(&self, now: Timestamp) -> Option<f64> {
        weighted(&self.service_health(&self.series.all(), now))
    }

    /// Returns how every service is that is registered or sent a signal within the hour.
    pub(super) fn service_health(
        &self,
        all: &[std::sync::Arc<Series>],
        now: Timestamp,
    ) -> BTreeMap<String, ServiceHealth> {
        let minute = minute_of(now.as_second());
        let registered = self.registered();
        let mut services = BTreeMap::new();
        for service in &registered {
            let state = service.state();
            services.insert(
                service.name().to_owned(),
                ServiceHealth {
                    status: state.status,
                    score: state.score,
                    weight: service.registration.weight,
                    counted: false,
                    critical: service.registration.critical,
                    source: Source::Probe,
                    group: service.registration.group.clone(),
                    detail: state.detail,
                    since: state.since,
                    last_check: state.last_check,
                    probe_latency_ms: state.latency_ms,
                    consecutive_failures: state.failures,
                    ..self.unmeasured(service.name(), now)
                },
            );
        }
        for series in all {
            let known = services.contains_key(&*series.service);
            let lives = series.with(|state| state.window.last(minute, BUCKETS).count > 0);
            if !known && !lives {
                continue;
            }
            let service = services.entry(series.service.to_string()).or_insert_with(|| {
                let weight = self.config.weights.get(&*series.service).copied();
                let weight = weight.unwrap_or(if registered.is_empty() { 1.0 } else { 0.0 });
                ServiceHealth { weight, ..self.unmeasured(&series.service, now) }
            });
            service.metrics.push(series.metric.to_string());
            add_metric(service, series, minute);
        }
        for service in services.values_mut() {
            if let Some(score) = service.score.filter(|_| service.source == Source::Signals) {
                service.status = Status::of_score(score);
            }
            service.counted = service.score.is_some() && service.weight > 0.0 && service.maintenance_until.is_none();
        }
        services
    }

    fn unmeasured(&self, service: &str, now: Timestamp) -> ServiceHealth {
        let depends_on = self.graph.read();
        let depends_on = depends_on.callees(service);
        ServiceHealth {
            status: Status::Unknown,
            score: None,
            weight: 0.0,
            counted: false,
            critical: false,
            source: Source::Signals,
            group: None,
            detail: None,
            since: None,
            last_check: None,
            probe_latency_ms: None,
            consecutive_failures: 0,
            maintenance_until: self.maintenance.read().get(service).copied().filter(|until| now < *until),
            depends_on: depends_on.map(|(callee, source)| Dependency { service: callee.to_owned(), source }).collect(),
            latency_ms: None,
            error_ratio: None,
            cache_hit_ratio: None,
            metrics: Vec::new(),
        }
    }

    fn overall(&self, services: &BTreeMap<String, ServiceHealth>, now: Timestamp) -> Overall {
        let score = weighted(services);
        let is_down = |service: &ServiceHealth| {
            service.critical && service.status == Status::Unhealthy && service.maintenance_until.is_none()
        };
        let status = if services.values().any(is_down) { OverallStatus::Critical } else { OverallStatus::of(score) };
        let unknown = services.iter().filter(|(_, service)| service.weight > 0.0 && service.score.is_none());
        Overall {
            score,
            status,
            delta_1h: score.and_then(|score| Some(round(score - self.score_an_hour_ago(now)?))),
            components_evaluated: services.values().filter(|service| service.counted).count(),
            components_unknown: unknown.map(|(name, _)| name.clone()).collect(),
        }
    }

    fn score_an_hour_ago(&self, now: Timestamp) -> Option<f64> {
        // Somewhere from 55 to 65 minutes ago, as near to an hour as there is.
        let off = |at: &Timestamp| (now.duration_since(*at).as_secs() - 3_600).abs();
        let scores = self.scores.lock();
        let nearest = scores.iter().min_by_key(|(at, _)| off(at))?;
        (off(&nearest.0) <= 300).then_some(nearest.1)
    }
}

/// Adds what one signal says to its service.
fn add_metric(service: &mut ServiceHealth, series: &Series, minute: i64) {
    series.with(|state| {
        let recent = state.window.last(minute, NOW_MINUTES);
        match &*series.metric {
            "error_ratio" => {
                service.error_ratio = recent.mean();
                if service.source == Source::Signals && recent.count >= LEAST_POINTS {
                    let penalty = 200.0 * recent.mean().unwrap_or_default().clamp(0.0, 1.0);
                    service.score = Some(round((service.score.unwrap_or(100.0) - penalty).max(0.0)));
                }
            }
            "latency_ms" => {
                service.latency_ms = Quantiles::of(&state.window, minute);
                let mut means: Vec<f64> = state.window.hour(minute).filter_map(|bucket| bucket.mean()).collect();
                if service.source == Source::Signals && recent.count >= LEAST_POINTS && means.len() >= LEAST_HISTORY {
                    means.sort_by(f64::total_cmp);
                    let usual = means[means.len() / 2].max(f64::MIN_POSITIVE);
                    let doublings = (recent.mean().unwrap_or(usual) / usual).log2().max(0.0);
                    let penalty = (LATENCY_PENALTY * doublings).min(MAX_LATENCY_PENALTY);
                    service.score = Some(round((service.score.unwrap_or(100.0) - penalty).max(0.0)));
                }
            }
            "cache_hit_ratio" => service.cache_hit_ratio = recent.mean(),
            _ => {}
        }
    });
}

/// Returns the weighted mean of the scores that count.
fn weighted(services: &BTreeMap<String, ServiceHealth>) -> Option<f64> {
    let counted = services.values().filter(|service| service.counted);
    let (sum, weights) = counted.fold((0.0, 0.0), |(sum, weights), service| {
        (sum + service.weight * service.score.unwrap_or_default(), weights + service.weight)
    });
    (weights > 0.0).then(|| round(sum / weights))
}

/// Rounds to two decimals: more would be noise.
pub(super) fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
