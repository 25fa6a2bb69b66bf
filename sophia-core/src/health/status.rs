//! How a service is, and the many ways in which services say so.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

/// How a service is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// Works.
    Healthy,
    /// Works, with something missing or slow.
    Degraded,
    /// Does not work.
    Unhealthy,
    /// Not measured, or measured by a prober that was not well itself.
    #[default]
    Unknown,
}

impl Status {
    /// Reads what a service says about itself: `ok`, `healthy`, `up`, `pass`, `200`; `warn`, `degraded`; `fail`, `down`,
    /// `503` and the like, in any case. What is not known is `None`.
    ///
    /// ```
    /// use sophia_core::health::Status;
    ///
    /// assert_eq!(Status::parse("UP"), Some(Status::Healthy));
    /// assert_eq!(Status::parse("503"), Some(Status::Unhealthy));
    /// assert_eq!(Status::parse("purple"), None);
    /// ```
    pub fn parse(text: &str) -> Option<Status> {
        let text = text.trim();
        if let Ok(code) = text.parse::<u16>() {
            return Status::from_http(code);
        }
        match text.to_ascii_lowercase().as_str() {
            "ok" | "okay" | "healthy" | "up" | "pass" | "passing" | "passed" | "green" | "running" | "ready"
            | "alive" | "available" | "online" | "operational" | "good" | "success" | "serving" | "active" | "true" => {
                Some(Status::Healthy)
            }
            "warn" | "warning" | "degraded" | "yellow" | "partial" | "slow" | "fair" | "starting"
            | "out_of_service" | "maintenance" => Some(Status::Degraded),
            "fail" | "failed" | "failing" | "failure" | "down" | "unhealthy" | "error" | "critical" | "red"
            | "unavailable" | "offline" | "dead" | "stopped" | "not_serving" | "poor" | "false" => {
                Some(Status::Unhealthy)
            }
            "unknown" | "none" | "null" | "n/a" => Some(Status::Unknown),
            _ => None,
        }
    }

    /// Reads an HTTP status code: 2xx and 3xx work, 429 works too slowly, everything else does not work.
    pub fn from_http(code: u16) -> Option<Status> {
        match code {
            200..=399 => Some(Status::Healthy),
            429 => Some(Status::Degraded),
            100..=599 => Some(Status::Unhealthy),
            _ => None,
        }
    }

    /// Returns the score that stands for a status when nothing finer is known: 100, 60 or 0; unknown has none.
    pub fn score(self) -> Option<f64> {
        match self {
            Status::Healthy => Some(100.0),
            Status::Degraded => Some(60.0),
            Status::Unhealthy => Some(0.0),
            Status::Unknown => None,
        }
    }

    /// Returns the status that stands for a score: from 75 healthy, from 40 degraded.
    pub fn of_score(score: f64) -> Status {
        match score {
            score if score >= 75.0 => Status::Healthy,
            score if score >= 40.0 => Status::Degraded,
            _ => Status::Unhealthy,
        }
    }

    /// Returns the name that it has on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Healthy => "healthy",
            Status::Degraded => "degraded",
            Status::Unhealthy => "unhealthy",
            Status::Unknown => "unknown",
        }
    }
}

/// What one probe saw.
///
/// Read from a bare status (`"ok"`, `503`, `true`) or from `{status, score, detail}`, so that a callback in any language can
/// answer in its own habit.
///
/// ```
/// use sophia_core::health::{ProbeOutcome, Status};
///
/// let outcome: ProbeOutcome = serde_json::from_str(r#"{"status": "degraded", "score": 70}"#)?;
/// assert_eq!((outcome.status, outcome.score), (Status::Degraded, Some(70.0)));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ProbeOutcome {
    /// How the service is.
    pub status: Status,
    /// 0..100 where the probe can tell; else the status decides.
    pub score: Option<f64>,
    /// What there is to say about it, for people.
    pub detail: Option<String>,
}

/// Longest detail that is kept, in characters: enough for a sentence, too little for a page of HTML.
const MAX_DETAIL: usize = 500;

impl ProbeOutcome {
    /// Creates an outcome without score and detail.
    pub fn new(status: Status) -> ProbeOutcome {
        ProbeOutcome { status, score: None, detail: None }
    }

    /// Sets the score, 0..100; one outside is moved to the nearer end, and NaN is none.
    #[must_use]
    pub fn score(mut self, score: f64) -> ProbeOutcome {
        self.score = (!score.is_nan()).then(|| score.clamp(0.0, 100.0));
        self
    }

    /// Sets what there is to say.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> ProbeOutcome {
        let mut detail = detail.into();
        if let Some((end, _)) = detail.char_indices().nth(MAX_DETAIL) {
            detail.truncate(end);
        }
        self.detail = (!detail.is_empty()).then_some(detail);
        self
    }

    /// Reads a status, `{status, score, detail}` or an `application/health+json` document
    /// (draft-inadarei-api-health-check: `status` pass, warn or fail; `output` says why).
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn read(value: &Value) -> Result<ProbeOutcome, String> {
        let status = |value: &Value| {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(up) => up.to_string(),
                _ => return Err("must be a text such as \"ok\", \"degraded\" or \"down\"".to_owned()),
            };
            Status::parse(&text).ok_or_else(|| {
                format!(
                    "`{}` is not a status: say \"ok\", \"degraded\" or \"down\"",
                    text.chars().take(40).collect::<String>()
                )
            })
        };
        let Value::Object(fields) = value else { return status(value).map(ProbeOutcome::new) };
        let said = fields.get("status").or_else(|| fields.get("state")).or_else(|| fields.get("health"));
        let mut outcome = ProbeOutcome::new(status(said.ok_or("`status` is missing")?)?);
        match fields.get("score") {
            None | Some(Value::Null) => {}
            Some(score) => match score.as_f64().filter(|score| (0.0..=100.0).contains(score)) {
                Some(score) => outcome.score = Some(score),
                None => return Err("`score` must be a number from 0 to 100".to_owned()),
            },
        }
        let detail =
            ["detail", "output", "message", "error", "description"].iter().find_map(|name| fields.get(*name)?.as_str());
        Ok(match detail {
            Some(detail) => outcome.detail(detail),
            None => outcome,
        })
    }
}

impl<'de> Deserialize<'de> for ProbeOutcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ProbeOutcome::read(&Value::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_say_how_they_are_in_many_ways() {
        for (status, words) in [
            (Status::Healthy, ["ok", "healthy", "UP", " pass ", "200", "Serving"]),
            (Status::Degraded, ["warn", "degraded", "WARNING", "yellow", "429", "partial"]),
            (Status::Unhealthy, ["fail", "down", "503", "unhealthy", "NOT_SERVING", "error"]),
        ] {
            for word in words {
                assert_eq!(Status::parse(word), Some(status), "{word}");
            }
        }
        assert_eq!((Status::parse(""), Status::parse("99999")), (None, None));
    }

    #[test]
    fn a_health_json_document_is_read() {
        let outcome =
            ProbeOutcome::read(&json!({"status": "warn", "version": "1", "output": "disk at 91 %", "checks": {}}));
        assert_eq!(outcome, Ok(ProbeOutcome::new(Status::Degraded).detail("disk at 91 %")));
    }

    #[test]
    fn an_outcome_that_makes_no_sense_says_why() {
        for bad in [
            json!({}),
            json!([]),
            json!(null),
            json!("purple"),
            json!({"status": "ok", "score": 101}),
            json!({"status": {}}),
        ] {
            assert!(ProbeOutcome::read(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_page_of_detail_is_cut() {
        assert_eq!(
            ProbeOutcome::new(Status::Healthy).detail("é".repeat(10_000)).detail.unwrap().chars().count(),
            MAX_DETAIL
        );
    }
}
