//! When a measured value is an alert.

use std::{collections::HashMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{alerts::Severity, names::check_name};
use crate::{Direction, Error, Result};

/// When the values of a metric are an alert.
///
/// A value is bad when it reaches a threshold from the good side: at or above it where lower is better, at or below it where
/// higher is better.
///
/// - Values that a user or a probe observes are judged one by one, in the order of their time.
/// - Points that the engine itself sends (an outcome or a cache look-up is 0 or 1) say nothing alone: they are judged by their
///   mean over the last five minutes, or `for_n` minutes if that is more, once there are 20 of them.
///
/// ```
/// use sophia_core::{Direction, health::Rule};
///
/// let rule = Rule::new("cache_hit_ratio", Direction::HigherIsBetter).warning(0.6).critical(0.4);
/// assert_eq!(rule.critical, Some(0.4));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Rule {
    /// The metric whose values are judged.
    pub metric: String,
    /// The service whose values are judged; all without it. A rule for one service stands in for the one for all.
    #[serde(default)]
    pub service: Option<String>,
    /// From here on it is a warning.
    #[serde(default)]
    pub warning: Option<f64>,
    /// From here on it is critical.
    #[serde(default)]
    pub critical: Option<f64>,
    /// Which way is bad.
    pub direction: Direction,
    /// How many values in a row have to be bad. 1 by default.
    #[serde(default = "one")]
    pub for_n: u32,
    /// How long a resolved alert stays the same alert when it returns no worse. Its return is told when this time is over and it
    /// still holds. 300 s by default.
    #[serde(default = "five_minutes", with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub cooldown: Duration,
    /// Whether the alert resolves itself when the value is good again. True by default.
    #[serde(default = "yes")]
    pub auto_resolve: bool,
}

const fn one() -> u32 {
    1
}

const fn yes() -> bool {
    true
}

const fn five_minutes() -> Duration {
    Duration::from_secs(300)
}

/// Most values in a row that a rule may ask for: the buckets of a window.
const MAX_FOR_N: u32 = 60;
/// Minutes over which points of the engine are averaged.
pub(super) const ENGINE_MINUTES: usize = 5;
/// Points of the engine that make a mean worth judging.
pub(super) const ENGINE_POINTS: u32 = 20;

impl Rule {
    /// Creates a rule without thresholds.
    pub fn new(metric: impl Into<String>, direction: Direction) -> Rule {
        Rule {
            metric: metric.into(),
            service: None,
            warning: None,
            critical: None,
            direction,
            for_n: one(),
            cooldown: five_minutes(),
            auto_resolve: yes(),
        }
    }

    /// Restricts it to one service.
    #[must_use]
    pub fn service(mut self, service: impl Into<String>) -> Rule {
        self.service = Some(service.into());
        self
    }

    /// Sets from where on it is a warning.
    #[must_use]
    pub fn warning(mut self, threshold: f64) -> Rule {
        self.warning = Some(threshold);
        self
    }

    /// Sets from where on it is critical.
    #[must_use]
    pub fn critical(mut self, threshold: f64) -> Rule {
        self.critical = Some(threshold);
        self
    }

    /// Sets how many values in a row have to be bad.
    #[must_use]
    pub fn for_n(mut self, values: u32) -> Rule {
        self.for_n = values;
        self
    }

    /// Sets how long a resolved alert stays the same alert.
    #[must_use]
    pub fn cooldown(mut self, cooldown: Duration) -> Rule {
        self.cooldown = cooldown;
        self
    }

    /// Keeps the alert until someone resolves it.
    #[must_use]
    pub fn keep_until_resolved(mut self) -> Rule {
        self.auto_resolve = false;
        self
    }

    pub(super) fn validate(&self) -> Result<()> {
        const OPERATION: &str = "health.rule";
        let wrong = |field, message: &str| Err(Error::invalid(OPERATION, field, message));
        check_name(OPERATION, "metric", &self.metric)?;
        if let Some(service) = &self.service {
            check_name(OPERATION, "service", service)?;
        }
        for (field, threshold) in [("warning", self.warning), ("critical", self.critical)] {
            if threshold.is_some_and(|threshold| !threshold.is_finite()) {
                return wrong(field, "must be finite");
            }
        }
        match (self.direction, self.warning, self.critical) {
            (Direction::Both, ..) => {
                return wrong(
                    "direction",
                    "must be higher_is_better or lower_is_better: a threshold has one good side",
                );
            }
            (_, None, None) => return wrong("critical", "or `warning` is required: a rule needs a threshold"),
            (Direction::LowerIsBetter, Some(warning), Some(critical)) if critical < warning => {
                return wrong("critical", "must not be below `warning` where lower is better");
            }
            (Direction::HigherIsBetter, Some(warning), Some(critical)) if critical > warning => {
                return wrong("critical", "must not be above `warning` where higher is better");
            }
            _ => {}
        }
        if !(1..=MAX_FOR_N).contains(&self.for_n) {
            return wrong("for_n", "must be from 1 to 60");
        }
        if self.cooldown > Duration::from_secs(86_400) {
            return wrong("cooldown", "must be at most a day");
        }
        Ok(())
    }

    /// Returns the threshold that a value reaches, if it is bad, and how bad.
    pub(super) fn breach(&self, value: f64) -> Option<(Severity, f64)> {
        let reached = |threshold: &f64| match self.direction {
            Direction::LowerIsBetter => value >= *threshold,
            Direction::HigherIsBetter => value <= *threshold,
            Direction::Both => false,
        };
        let critical = self.critical.filter(reached).map(|threshold| (Severity::Critical, threshold));
        critical.or_else(|| self.warning.filter(reached).map(|threshold| (Severity::Warning, threshold)))
    }
}

/// What a rule makes of one more value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    /// It is bad, for as long as the rule asks.
    Bad(Severity, f64),
    /// It is bad, but not yet for long enough.
    NotYet,
    /// It is good.
    Good,
}

/// The rules, and how many values in a row were bad for each service.
#[derive(Debug, Default)]
pub(super) struct Rules {
    by_metric: HashMap<String, Vec<Rule>>,
    runs: HashMap<(String, String), Run>,
}

/// Values in a row that were bad, and critical.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    bad: u32,
    critical: u32,
}

impl Rules {
    /// Sets a rule, in place of one for the same metric and service.
    pub fn set(&mut self, rule: Rule) {
        self.runs.retain(|(service, metric), _| {
            *metric != rule.metric || rule.service.as_ref().is_some_and(|s| s != service)
        });
        let rules = self.by_metric.entry(rule.metric.clone()).or_default();
        rules.retain(|other| other.service != rule.service);
        rules.push(rule);
    }

    /// Returns whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.by_metric.is_empty()
    }

    /// Returns how many rules there are.
    pub fn len(&self) -> usize {
        self.by_metric.values().map(Vec::len).sum()
    }

    /// Returns the rule for a signal: the one for its service before the one for all.
    pub fn of(&self, service: &str, metric: &str) -> Option<&Rule> {
        let rules = self.by_metric.get(metric)?;
        let own = rules.iter().find(|rule| rule.service.as_deref() == Some(service));
        own.or_else(|| rules.iter().find(|rule| rule.service.is_none()))
    }

    /// Takes one more value in order, and says what the rule for it makes of it.
    pub fn judge(&mut self, service: &str, metric: &str, value: f64) -> Option<(Rule, Verdict)> {
        let rule = self.of(service, metric)?.clone();
        let verdict = match rule.breach(value) {
            None => {
                self.runs.remove(&(service.to_owned(), metric.to_owned()));
                Verdict::Good
            }
            Some((severity, threshold)) => {
                let run = self.runs.entry((service.to_owned(), metric.to_owned())).or_default();
                run.bad = run.bad.saturating_add(1);
                run.critical = if severity == Severity::Critical { run.critical.saturating_add(1) } else { 0 };
                if run.critical >= rule.for_n {
                    Verdict::Bad(Severity::Critical, threshold)
                } else if run.bad >= rule.for_n {
                    // Some of them were warnings only: the run as a whole is one, where the rule has such a threshold.
                    match (severity, rule.warning) {
                        (Severity::Critical, Some(warning)) => Verdict::Bad(Severity::Warning, warning),
                        _ => Verdict::Bad(severity, threshold),
                    }
                } else {
                    Verdict::NotYet
                }
            }
        };
        Some((rule, verdict))
    }

    /// Forgets what was counted for a signal.
    pub fn forget_signal(&mut self, service: &str, metric: &str) {
        self.runs.remove(&(service.to_owned(), metric.to_owned()));
    }

    /// Forgets what was counted for a service.
    pub fn forget_service(&mut self, service: &str) {
        self.runs.retain(|(other, _), _| other != service);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit_ratio() -> Rule {
        Rule::new("cache_hit_ratio", Direction::HigherIsBetter).warning(0.6).critical(0.4)
    }

    #[test]
    fn which_way_is_bad_is_part_of_the_rule() {
        let rule = hit_ratio();
        assert_eq!(rule.breach(0.97), None);
        assert_eq!(rule.breach(0.5), Some((Severity::Warning, 0.6)));
        assert_eq!(rule.breach(0.05), Some((Severity::Critical, 0.4)));
        let latency = Rule::new("latency_ms", Direction::LowerIsBetter).critical(500.0);
        assert_eq!((latency.breach(499.0), latency.breach(500.0)), (None, Some((Severity::Critical, 500.0))));
    }

    #[test]
    fn a_rule_that_cannot_work_is_refused() {
        let base = || Rule::new("x", Direction::LowerIsBetter);
        for (rule, field) in [
            (base(), "critical"),
            (base().warning(2.0).critical(1.0), "critical"),
            (base().warning(f64::NAN), "warning"),
            (base().critical(1.0).for_n(0), "for_n"),
            (Rule::new("x", Direction::Both).critical(1.0), "direction"),
            (Rule::new("", Direction::LowerIsBetter).critical(1.0), "metric"),
            (base().critical(1.0).service("a\0"), "service"),
        ] {
            assert_eq!(rule.validate().unwrap_err().get("field"), Some(field), "{rule:?}");
        }
    }

    #[test]
    fn one_good_value_starts_the_count_again() {
        let mut rules = Rules::default();
        rules.set(hit_ratio().for_n(3));
        let mut judge = |value| rules.judge("chat", "cache_hit_ratio", value).unwrap().1;
        assert_eq!([judge(0.1), judge(0.1), judge(0.9)], [Verdict::NotYet, Verdict::NotYet, Verdict::Good]);
        assert_eq!(
            [judge(0.1), judge(0.5), judge(0.1)],
            [Verdict::NotYet, Verdict::NotYet, Verdict::Bad(Severity::Warning, 0.6)]
        );
        assert_eq!([judge(0.1), judge(0.1)][1], Verdict::Bad(Severity::Critical, 0.4));
    }

    #[test]
    fn a_rule_for_one_service_stands_in_for_the_one_for_all() {
        let mut rules = Rules::default();
        rules.set(hit_ratio());
        rules.set(hit_ratio().service("batch").critical(0.01));
        assert_eq!(rules.of("batch", "cache_hit_ratio").unwrap().critical, Some(0.01));
        assert_eq!(rules.of("chat", "cache_hit_ratio").unwrap().critical, Some(0.4));
    }
}
