//! Configuration of the semantic tier.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Most questions of one wall: a scan of them stays far below a millisecond.
const MAX_ENTRIES: usize = 100_000;
/// Below this likeness, half of the words differ.
const MIN_THRESHOLD: f64 = 0.5;

/// Answers to questions that mean the same as one that was asked before.
///
/// Off by default. Questions are compared only inside of one scope, model, system prompt and set of options; numbers,
/// names, negations and the like must agree; the rest is served above a threshold that comparisons with new answers have
/// earned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SemanticConfig {
    /// Whether it looks at all. Default false.
    pub enabled: bool,
    /// When it serves. Default auto.
    pub mode: SemanticMode,
    /// How careful it is where the next two fields say nothing. Default default.
    pub profile: SemanticProfile,
    /// Least similarity that is ever served, 0.5 to 1. Default 0.75; 0.9 if strict.
    pub threshold: Option<f64>,
    /// Largest share of wrong hits that is accepted, 0.001 to 0.5. Default 0.05; 0.02 if strict.
    pub max_error: Option<f64>,
    /// Share of hits that are asked all the same, to compare the answers, 0..1. Default 0.03.
    pub audit: f64,
    /// Most questions of one scope, model and system prompt. Default 10,000.
    pub max_entries: usize,
    /// Most memory that all questions take, in bytes; the answers are counted by the cache. Default 32 MiB.
    pub max_bytes: u64,
}

/// When the semantic tier serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SemanticMode {
    /// Never: it only reports what it would have served.
    Shadow,
    /// Where enough new answers agreed with the kept ones to bound the error; until then as shadow.
    #[default]
    Auto,
    /// At once, until new answers speak against it.
    Serve,
}

/// How careful the semantic tier is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SemanticProfile {
    /// Threshold 0.75, at most 5 % wrong hits.
    #[default]
    Default,
    /// Threshold 0.9, at most 2 % wrong hits.
    Strict,
}

impl Default for SemanticConfig {
    fn default() -> Self {
        SemanticConfig {
            enabled: false,
            mode: SemanticMode::Auto,
            profile: SemanticProfile::Default,
            threshold: None,
            max_error: None,
            audit: 0.03,
            max_entries: 10_000,
            max_bytes: 32 << 20,
        }
    }
}

impl SemanticConfig {
    /// Returns the least similarity that is ever served.
    pub(crate) fn floor(&self) -> f64 {
        self.threshold.unwrap_or(match self.profile {
            SemanticProfile::Default => 0.75,
            SemanticProfile::Strict => 0.9,
        })
    }

    /// Returns the largest share of wrong hits that is accepted.
    pub(crate) fn max_error(&self) -> f64 {
        self.max_error.unwrap_or(match self.profile {
            SemanticProfile::Default => 0.05,
            SemanticProfile::Strict => 0.02,
        })
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let wrong = |field: &str, what: String| Err(Error::invalid_config(&format!("chat.semantic.{field}"), what));
        if !(MIN_THRESHOLD..=1.0).contains(&self.floor()) {
            return wrong("threshold", format!("must be between {MIN_THRESHOLD} and 1"));
        }
        if !(0.001..=0.5).contains(&self.max_error()) {
            return wrong("max_error", "must be between 0.001 and 0.5".to_owned());
        }
        if !(0.0..=1.0).contains(&self.audit) {
            return wrong("audit", "must be between 0 and 1".to_owned());
        }
        if !(1..=MAX_ENTRIES).contains(&self.max_entries) {
            return wrong("max_entries", format!("must be 1 to {MAX_ENTRIES}"));
        }
        if self.enabled && cfg!(not(feature = "static-embedder")) {
            return wrong("enabled", "needs an embedder: build with the feature `static-embedder`".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_gives_what_is_not_given() {
        let strict = SemanticConfig { profile: SemanticProfile::Strict, ..SemanticConfig::default() };
        assert_eq!((strict.floor(), strict.max_error()), (0.9, 0.02));
        let own = SemanticConfig { threshold: Some(0.8), ..strict };
        assert_eq!((own.floor(), own.max_error()), (0.8, 0.02));
    }

    #[test]
    fn values_that_cannot_work_are_refused_with_their_path() {
        let default = SemanticConfig::default;
        for (config, field) in [
            (SemanticConfig { threshold: Some(0.4), ..default() }, "threshold"),
            (SemanticConfig { threshold: Some(f64::NAN), ..default() }, "threshold"),
            (SemanticConfig { max_error: Some(0.0), ..default() }, "max_error"),
            (SemanticConfig { audit: 1.5, ..default() }, "audit"),
            (SemanticConfig { max_entries: 0, ..default() }, "max_entries"),
        ] {
            let error = config.validate().unwrap_err();
            assert_eq!(error.get("field").unwrap(), format!("chat.semantic.{field}"));
        }
        assert!(default().validate().is_ok());
    }
}
