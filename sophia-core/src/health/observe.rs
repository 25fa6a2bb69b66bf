//! Points, as they come in.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    alerts::Condition,
    engine::Shared,
    names::check_name,
    rules::{ENGINE_MINUTES, ENGINE_POINTS, Rule, Verdict},
    series::{Origin, Series},
    window::{BUCKETS, minute_of},
};
use crate::{Direction, Error, ErrorKind, Result};

/// Oldest point that is taken: the window, and a little for a history that was made a moment ago.
const OLDEST: SignedDuration = SignedDuration::from_mins(62);
/// Furthest point in the future that is taken, as now: two machines' clocks differ a little.
const FUTURE: SignedDuration = SignedDuration::from_mins(5);
/// Most that one point may count for.
const MAX_WEIGHT: u32 = 1_000_000;

/// One measured point.
///
/// ```
/// use sophia_core::health::Observation;
///
/// let point = Observation::new("redis", "latency_ms", 4.2).unit("ms");
/// assert_eq!(point.value, 4.2);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Observation {
    /// Who was measured.
    pub service: String,
    /// What was measured, with its unit in the name, such as `"latency_ms"`.
    pub metric: String,
    /// The value, finite.
    pub value: f64,
    /// When; now without it. At most an hour ago.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// The unit, for those who show it.
    #[serde(default)]
    pub unit: Option<String>,
    /// Which way is bad; guessed from the name without it.
    #[serde(default)]
    pub direction: Option<Direction>,
    /// How many measurements it stands for. 1 by default.
    #[serde(default = "one")]
    pub weight: u32,
}

const fn one() -> u32 {
    1
}

impl Observation {
    /// Creates a point of now.
    pub fn new(service: impl Into<String>, metric: impl Into<String>, value: f64) -> Observation {
        Observation {
            service: service.into(),
            metric: metric.into(),
            value,
            at: None,
            unit: None,
            direction: None,
            weight: one(),
        }
    }

    /// Sets when it was measured.
    #[must_use]
    pub fn at(mut self, at: Timestamp) -> Observation {
        self.at = Some(at);
        self
    }

    /// Sets the unit.
    #[must_use]
    pub fn unit(mut self, unit: impl Into<String>) -> Observation {
        self.unit = Some(unit.into());
        self
    }

    /// Sets which way is bad.
    #[must_use]
    pub fn direction(mut self, direction: Direction) -> Observation {
        self.direction = Some(direction);
        self
    }

    /// Sets how many measurements it stands for.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Observation {
        self.weight = weight;
        self
    }
}

impl Shared {
    /// Takes in one observed point.
    pub(super) fn observe(&self, point: &Observation) -> Result<()> {
        const OPERATION: &str = "health.observe";
        let wrong = |field, message: &str| Err(Error::invalid(OPERATION, field, message));
        check_name(OPERATION, "service", &point.service)?;
        check_name(OPERATION, "metric", &point.metric)?;
        if !point.value.is_finite() {
            return wrong("value", "must be a finite number: leave out what could not be measured");
        }
        if !(1..=MAX_WEIGHT).contains(&point.weight) {
            return wrong("weight", "must be from 1 to 1,000,000");
        }
        if let Some(unit) = &point.unit {
            check_name(OPERATION, "unit", unit)?;
        }
        let now = self.clock.now();
        let at = point.at.unwrap_or(now);
        let age = now.duration_since(at);
        if age > OLDEST {
            return wrong("at", "is older than the window of an hour");
        }
        if age < -FUTURE {
            return wrong("at", "is in the future: give the time at which it was measured, with its time zone");
        }
        let at = at.min(now);
        let now_us = now.as_microsecond();
        let series = self.series.get_or_insert(&point.service, &point.metric, now_us);
        self.forget_signals();
        let Some(series) = series else {
            self.series.drop_one();
            return Err(Error::new(
                ErrorKind::RateLimited,
                OPERATION,
                "as many signals as `health.max_signals` allows are in use; those without a point for an hour make room",
            )
            .with("max_signals", self.config.max_signals));
        };
        let newest = series.with(|state| {
            if point.direction.is_some() {
                state.direction = point.direction;
            }
            if let Some(unit) = &point.unit
                && state.unit.as_deref() != Some(unit)
            {
                state.unit = Some(unit.as_str().into());
            }
            state.add(at.as_microsecond(), point.value, point.weight, Origin::Observed)
        });
        // A point that comes late tells how it was, not how it is.
        if newest {
            self.judge(&series, point.value, at);
        }
        Ok(())
    }

    /// Takes in what a look at a service measured: each is a statement, as one that is observed. It is dropped where there is no
    /// room for it.
    pub(super) fn measured(&self, service: &str, metric: &str, direction: Direction, value: f64, at: Timestamp) {
        let at_us = at.as_microsecond();
        let Some(series) = self.series.get_or_insert(service, metric, at_us) else { return self.series.drop_one() };
        let newest = series.with(|state| {
            state.direction = Some(direction);
            state.add(at_us, value, 1, Origin::Observed)
        });
        if newest {
            self.judge(&series, value, at);
        }
    }

    /// Sets a rule, and judges what is known already by it.
    pub(super) fn set_rule(&self, rule: Rule) -> Result<()> {
        const FRESH: SignedDuration = SignedDuration::from_mins(5);
        rule.validate()?;
        if self.rules.read().len() >= self.config.max_signals {
            return Err(Error::new(ErrorKind::RateLimited, "health.rule", "there are as many rules as signals may be"));
        }
        let (service, metric) = (rule.service.clone(), rule.metric.clone());
        self.rules.write().set(rule);
        let now = self.clock.now();
        for series in self.series.all() {
            if *series.metric != *metric || service.as_deref().is_some_and(|service| service != &*series.service) {
                continue;
            }
            let newest = series.with(|state| state.newest.filter(|_| state.engine_minute.is_none()));
            if let Some((at_us, value)) = newest
                && let Ok(at) = Timestamp::from_microsecond(at_us)
                && now.duration_since(at) <= FRESH
            {
                self.judge(&series, value, at);
            }
        }
        self.judge_engine(now);
        Ok(())
    }

    /// Ends the alerts of signals that made room for others: nothing is known of them any more. One that is to be kept until
    /// someone resolves it stays.
    pub(super) fn forget_signals(&self) {
        for series in self.series.take_forgotten() {
            let (service, metric) = (&*series.service, &*series.metric);
            let mut rules = self.rules.write();
            rules.forget_signal(service, metric);
            if rules.of(service, metric).is_none_or(|rule| rule.auto_resolve) {
                let mut alerts = self.alerts.lock();
                alerts.clear(&rule_key(service, metric));
                alerts.clear(&mean_key(service, metric));
            }
        }
    }

    /// Judges one observed value by the rule for it.
    fn judge(&self, series: &Series, value: f64, at: Timestamp) {
        let (service, metric) = (&*series.service, &*series.metric);
        if self.rules.read().of(service, metric).is_none() {
            return;
        }
        if self.in_maintenance(service, at) {
            // What was bad before it and is bad after it was not so in a row.
            return self.rules.write().forget_signal(service, metric);
        }
        // Held while the alert is written, so that values are judged in one order.
        let mut rules = self.rules.write();
        let Some((rule, verdict)) = rules.judge(service, metric, value) else { return };
        let key = rule_key(service, metric);
        match verdict {
            Verdict::Bad(severity, threshold) => {
                let condition = condition(series, &rule, severity, value, threshold, at, "");
                self.alerts.lock().raise(&key, condition, at);
            }
            Verdict::Good if rule.auto_resolve => self.alerts.lock().clear(&key),
            Verdict::Good | Verdict::NotYet => return,
        }
        self.reconcile(at);
    }

    /// Judges what the engine sent itself, by its mean over the last minutes.
    pub(super) fn judge_engine(&self, now: Timestamp) {
        self.forget_signals();
        let rules = self.rules.read();
        if rules.is_empty() {
            return;
        }
        let minute = minute_of(now.as_second());
        self.series.for_each(|series| {
            let Some(rule) = rules.of(&series.service, &series.metric) else { return };
            let minutes = ENGINE_MINUTES.max(rule.for_n as usize);
            let recent = series.with(|state| {
                let newest = state.engine_minute?;
                (minute - newest < BUCKETS as i64).then(|| state.window.last(minute, minutes))
            });
            let key = mean_key(&series.service, &series.metric);
            let Some(recent) = recent else { return };
            match recent.mean() {
                Some(mean) if recent.count >= ENGINE_POINTS && !self.in_maintenance(&series.service, now) => {
                    match rule.breach(mean) {
                        Some((severity, threshold)) => {
                            let over = format!(" over {minutes} min");
                            let condition = condition(series, rule, severity, mean, threshold, now, &over);
                            self.alerts.lock().raise(&key, condition, now);
                        }
                        None if rule.auto_resolve => self.alerts.lock().clear(&key),
                        None => {}
                    }
                }
                // Nothing was measured: nothing is known to be wrong any more.
                None if rule.auto_resolve => self.alerts.lock().clear(&key),
                _ => {}
            }
        });
        drop(rules);
        self.reconcile(now);
    }
}

fn rule_key(service: &str, metric: &str) -> String {
    format!("rule:{metric}:{service}")
}

/// The key of a condition of the mean of many points.
fn mean_key(service: &str, metric: &str) -> String {
    format!("{}#mean", rule_key(service, metric))
}

fn condition(
    series: &Series,
    rule: &Rule,
    severity: super::Severity,
    value: f64,
    threshold: f64,
    at: Timestamp,
    over: &str,
) -> Condition {
    let side = match rule.direction {
        Direction::HigherIsBetter => "at or below",
        Direction::LowerIsBetter | Direction::Both => "at or above",
    };
    let (service, metric) = (&series.service, &series.metric);
    let cooldown: Duration = rule.cooldown;
    Condition {
        service: service.to_string(),
        severity,
        title: format!("{metric} of {service} is {}", severity.name()),
        message: format!("{metric} of {service} is {}{over}, {side} {}", short(value), short(threshold)),
        metric: Some(metric.to_string()),
        value: Some(value),
        threshold: Some(threshold),
        group: None,
        since: at,
        cooldown,
    }
}

/// Writes a number with four significant digits, for people.
pub(super) fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let digits = (3.0 - value.abs().log10().floor()).clamp(0.0, 12.0);
    let scale = 10f64.powi(digits as i32);
    let rounded = (value * scale).round() / scale;
    format!("{rounded}")
}
