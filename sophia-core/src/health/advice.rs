//! What the alerts amount to, and what to do.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Alert, Prediction, RootCause, ServiceHealth, Severity, Source, Status, engine::Shared, observe::short};

/// Alerts with the same cause.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Incident {
    /// The `incident` of its alerts.
    pub id: String,
    /// The first alert's title.
    pub title: String,
    /// The worst of its alerts.
    pub severity: Severity,
    /// Every service that it affects, the cause first.
    pub services: Vec<String>,
    /// Its alerts' ids.
    pub alerts: Vec<String>,
    /// Since when it lasts.
    pub started_at: Timestamp,
}

/// How much harm an action can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Risk {
    /// May be done without asking.
    Low,
    /// May be done without asking when it is clear that it helps.
    Medium,
    /// Needs someone's approval.
    High,
    /// Needs the approval of two.
    Critical,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Recommendation {
    /// Stays the same for the same advice.
    pub id: String,
    /// One line.
    pub title: String,
    /// Why.
    pub description: String,
    /// The healing action that does it, if one is known.
    pub action: Option<String>,
    /// How much harm it can do, where an action does it.
    pub risk: Option<Risk>,
}

impl Shared {
    /// Says what to do, the likeliest cause first.
    pub(super) fn recommendations(
        &self,
        services: &BTreeMap<String, ServiceHealth>,
        alerts: &[Alert],
        causes: &[RootCause],
        predictions: &[Prediction],
    ) -> Vec<Recommendation> {
        let advice = |id: String, title: String, description: String| Recommendation {
            id,
            title,
            description,
            action: None,
            risk: None,
        };
        let mut all = Vec::new();
        if let Some(cause) = causes.first() {
            let title = format!("Look at {} first", cause.service);
            let mut first = advice(format!("cause:{}", cause.service), title, cause.evidence.clone());
            if let Some((action, risk)) = self.action_for(&cause.service) {
                (first.action, first.risk) = (Some(action), Some(risk));
            }
            all.push(first);
        }
        for prediction in predictions {
            let Prediction { service, metric, threshold, eta_s, .. } = prediction;
            let title = format!("Act before {metric} of {service} reaches {}", short(*threshold));
            let description = format!("At its trend that is in {:.0} min.", eta_s / 60.0);
            all.push(advice(format!("prediction:{service}:{metric}"), title, description));
        }
        for alert in alerts {
            let cause = alert.services.first().map_or("the service", String::as_str);
            let title = match alert.metric {
                Some(ref metric) => format!("Look at {metric} of {cause}"),
                None => format!("Restore {cause}"),
            };
            all.push(advice(format!("alert:{}", alert.id), title, alert.message.clone()));
        }
        for (name, service) in services {
            if service.source == Source::Signals && service.status == Status::Unhealthy {
                let errors = service.error_ratio.map(|ratio| format!("{:.0} % of its calls failed", ratio * 100.0));
                let description = errors.unwrap_or_else(|| "It is much slower than usual".to_owned());
                all.push(advice(
                    format!("signals:{name}"),
                    format!("Look at {name}"),
                    format!("{description} in the last 5 min."),
                ));
            }
        }
        let mut unknown: Vec<_> = services
            .iter()
            .filter(|(_, service)| service.source == Source::Probe && service.score.is_none())
            .map(|(name, _)| name.as_str())
            .collect();
        if !unknown.is_empty() {
            let count = unknown.len();
            unknown.truncate(5);
            let more = if count > unknown.len() { " and others" } else { "" };
            let description = format!("{}{more} could not be measured and are not in the score.", unknown.join(", "));
            all.push(advice("unknown".to_owned(), format!("Find out how {count} services are"), description));
        }
        all
    }
}

/// Gathers the alerts that have the same cause.
pub(super) fn incidents(alerts: &[Alert]) -> Vec<Incident> {
    let mut incidents: Vec<Incident> = Vec::new();
    for alert in alerts {
        match incidents.iter_mut().find(|incident| incident.id == alert.incident) {
            Some(incident) => {
                incident.severity = incident.severity.max(alert.severity);
                incident.alerts.push(alert.id.clone());
                for service in &alert.services {
                    if !incident.services.contains(service) {
                        incident.services.push(service.clone());
                    }
                }
                if alert.started_at < incident.started_at {
                    incident.started_at = alert.started_at;
                    incident.title.clone_from(&alert.title);
                }
            }
            None => incidents.push(Incident {
                id: alert.incident.clone(),
                title: alert.title.clone(),
                severity: alert.severity,
                services: alert.services.clone(),
                alerts: vec![alert.id.clone()],
                started_at: alert.started_at,
            }),
        }
    }
    incidents
}
