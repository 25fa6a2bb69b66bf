//! The report in the shape that a unified dashboard reads.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Alert, OverallStatus, Recommendation, ServiceHealth, Status, SystemHealth, config::SECTIONS, report::round,
};

/// How everything is, by section.
///
/// A section holds the services of its name or group. Those of the engine itself that are in no section (`memory`, `chat`,
/// `registry` and what is below them) are in `ai_memory`, and all others in `other`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct UnifiedHealth {
    /// 0..100: the sections by their weights; `None` when none could be measured.
    pub overall_health: Option<f64>,
    /// The score in a word.
    pub status: OverallStatus,
    /// Machines, databases, networks.
    pub infrastructure: Option<Section>,
    /// Memory, chat and tools.
    pub ai_memory: Option<Section>,
    /// What is deployed, and how.
    pub deployment: Option<Section>,
    /// What it is for.
    pub business: Option<Section>,
    /// What is in none of these.
    pub other: Option<Section>,
    /// Alerts that hold.
    pub alerts: Vec<Alert>,
    /// What to do.
    pub recommendations: Vec<Recommendation>,
    /// When this was made.
    pub timestamp: Timestamp,
}

/// How one section is.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Section {
    /// 0..100, or `None` while unknown.
    pub score: Option<f64>,
    /// The score in a word.
    pub status: Status,
    /// Its part in the overall score, of 1.
    pub weight: f64,
    /// Its services.
    pub services: BTreeMap<String, ServiceHealth>,
}

const ENGINE: [&str; 3] = ["memory", "chat", "registry"];

/// Makes the unified health of a report.
pub(super) fn unify(report: SystemHealth, weights: &BTreeMap<String, f64>) -> UnifiedHealth {
    let mut sections: BTreeMap<&str, BTreeMap<String, ServiceHealth>> = BTreeMap::new();
    for (name, service) in report.services {
        sections.entry(section_of(&name, &service)).or_default().insert(name, service);
    }
    let mut section = |name: &str| {
        let services = sections.remove(name)?;
        let score = mean(&services);
        let status = score.map_or(Status::Unknown, Status::of_score);
        Some(Section { score, status, weight: weights.get(name).copied().unwrap_or_default(), services })
    };
    let [infrastructure, ai_memory, deployment, business, other] = SECTIONS.map(&mut section);
    let measured: Vec<_> = [&infrastructure, &ai_memory, &deployment, &business, &other]
        .into_iter()
        .flatten()
        .filter_map(|section| Some((section.score?, section.weight)))
        .collect();
    let weight: f64 = measured.iter().map(|(_, weight)| weight).sum();
    let overall_health =
        (weight > 0.0).then(|| round(measured.iter().map(|(score, weight)| score * weight).sum::<f64>() / weight));
    UnifiedHealth {
        overall_health,
        status: match report.overall.status {
            OverallStatus::Critical => OverallStatus::Critical,
            _ => OverallStatus::of(overall_health),
        },
        infrastructure,
        ai_memory,
        deployment,
        business,
        other,
        alerts: report.alerts,
        recommendations: report.recommendations,
        timestamp: report.timestamp,
    }
}

fn section_of(name: &str, service: &ServiceHealth) -> &'static str {
    let group = service.group.as_deref();
    let named = SECTIONS.into_iter().find(|section| name == *section || group == Some(section));
    let root = name.split('.').next().unwrap_or(name);
    named.unwrap_or(if ENGINE.contains(&root) { "ai_memory" } else { "other" })
}

/// Returns the mean of the scores, by weight where there are weights.
fn mean(services: &BTreeMap<String, ServiceHealth>) -> Option<f64> {
    // Services without a weight of their own (signals only) are told apart from those whose weight is zero by choice by
    // having no one else in their section.
    let any_weight = services.values().any(|service| service.counted);
    let (sum, weights) = services
        .values()
        .filter(|service| service.maintenance_until.is_none())
        .filter_map(|service| Some((service.score?, if any_weight { service.weight } else { 1.0 })))
        .fold((0.0, 0.0), |(sum, weights), (score, weight)| (sum + score * weight, weights + weight));
    (weights > 0.0).then(|| round(sum / weights))
}
