//! Configuration of health.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Configuration of health.
///
/// ```
/// use sophia_core::Config;
///
/// let config = Config::from_toml("[health]\ninterval = '15s'")?;
/// assert_eq!(config.health.interval.as_secs(), 15);
/// # Ok::<(), sophia_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HealthConfig {
    /// Time between two looks at a service, where its registration does not say it. 60 s.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub interval: Duration,
    /// Time for one look. 5 s.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub timeout: Duration,
    /// Failures in a row that make a service unhealthy. 3.
    pub fail_after: u32,
    /// Successes in a row that make it healthy again. 2.
    pub ok_after: u32,
    /// How far an interval may be stretched or shortened, as a share of it, so that looks do not come all at once. 0.1.
    pub jitter: f64,
    /// Most probes that run at once. 64.
    pub concurrency: usize,
    /// Most services that can be registered. 10,000.
    pub max_services: usize,
    /// Most signals that are kept, at 12 KB each at most. 4,096.
    pub max_signals: usize,
    /// How long a resolved alert stays the same alert when its cause returns no worse. Its return is told when this time is over
    /// and it still holds. 5 min.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub alert_cooldown: Duration,
    /// Most alert events that are sent in an hour, and a tenth of them of one signal or group; alerts beyond are still listed. 100.
    pub alerts_per_hour: u32,
    /// Parts of the overall score for services that are known by their signals alone, such as `{"chat": 0.2}`. Without an entry
    /// such a service counts only while nothing is registered.
    pub weights: BTreeMap<String, f64>,
    /// Parts of the unified health. `infrastructure` 0.4, `ai_memory` 0.3, `deployment` 0.3, `other` 0.3.
    pub unified_weights: BTreeMap<String, f64>,
}

impl Default for HealthConfig {
    fn default() -> Self {
        HealthConfig {
            interval: Duration::from_secs(60),
            timeout: Duration::from_secs(5),
            fail_after: 3,
            ok_after: 2,
            jitter: 0.1,
            concurrency: 64,
            max_services: 10_000,
            max_signals: 4_096,
            alert_cooldown: Duration::from_secs(300),
            alerts_per_hour: 100,
            weights: BTreeMap::new(),
            unified_weights: [("infrastructure", 0.4), ("ai_memory", 0.3), ("deployment", 0.3), ("other", 0.3)]
                .map(|(section, weight)| (section.to_owned(), weight))
                .into(),
        }
    }
}

/// Sections of the unified health, which are the names that `unified_weights` may hold.
pub(super) const SECTIONS: [&str; 5] = ["infrastructure", "ai_memory", "deployment", "business", "other"];

impl HealthConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        const DAY: Duration = Duration::from_secs(86_400);
        let periods = [
            ("health.interval", self.interval, Duration::from_millis(100)),
            ("health.timeout", self.timeout, Duration::from_millis(1)),
        ];
        for (path, period, least) in periods {
            if period < least || period > DAY {
                return Err(Error::invalid_config(path, format!("must be from {} s to a day", least.as_secs_f64())));
            }
        }
        if self.alert_cooldown > DAY {
            return Err(Error::invalid_config("health.alert_cooldown", "must be at most a day"));
        }
        let counts = [
            ("health.fail_after", self.fail_after as usize),
            ("health.ok_after", self.ok_after as usize),
            ("health.concurrency", self.concurrency),
            ("health.max_services", self.max_services),
            ("health.max_signals", self.max_signals),
            ("health.alerts_per_hour", self.alerts_per_hour as usize),
        ];
        for (path, count) in counts {
            if count == 0 {
                return Err(Error::invalid_config(path, "must be at least 1"));
            }
        }
        if !(0.0..=0.5).contains(&self.jitter) {
            return Err(Error::invalid_config("health.jitter", "must be from 0 to 0.5"));
        }
        let weights = [("health.weights", &self.weights), ("health.unified_weights", &self.unified_weights)];
        for (path, weights) in weights {
            if let Some((name, _)) = weights.iter().find(|(_, weight)| !weight.is_finite() || **weight < 0.0) {
                return Err(Error::invalid_config(&format!("{path}.{name}"), "must be finite and not negative"));
            }
        }
        if let Some(name) = self.unified_weights.keys().find(|name| !SECTIONS.contains(&name.as_str())) {
            let message = format!("is not a section; known are {}", SECTIONS.join(", "));
            return Err(Error::invalid_config(&format!("health.unified_weights.{name}"), message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn what_cannot_work_is_refused_by_its_path() {
        for (text, path) in [
            ("fail_after = 0", "health.fail_after"),
            ("jitter = 0.9", "health.jitter"),
            ("interval = 0", "health.interval"),
            ("weights = { chat = -1.0 }", "health.weights.chat"),
            ("unified_weights = { sales = 1.0 }", "health.unified_weights.sales"),
        ] {
            let config = Config::from_toml(&format!("[health]\n{text}")).unwrap();
            assert_eq!(config.health.validate().unwrap_err().get("field"), Some(path));
        }
        assert!(HealthConfig::default().validate().is_ok());
    }
}
