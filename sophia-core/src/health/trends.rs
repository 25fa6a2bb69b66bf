//! The last hour in numbers.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Alert, ServiceHealth, Status,
    series::Series,
    window::{BUCKETS, Bucket, minute_of},
};

/// Length of a step of the trends.
const STEP_MINUTES: usize = 5;
/// The last hour in steps of five minutes, oldest first. Means over all services; `None` where nothing was measured.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Trends {
    /// Where each step begins.
    pub labels: Vec<Timestamp>,
    /// Mean `latency_ms`.
    pub response_times: Vec<Option<f64>>,
    /// Mean `cache_hit_ratio`, 0..1.
    pub cache_hit_rates: Vec<Option<f64>>,
    /// Mean `error_ratio`, 0..1.
    pub error_rates: Vec<Option<f64>>,
    /// Points of `latency_ms`: one for each operation.
    pub operation_counts: Vec<u64>,
}

/// The last hour in a few numbers, over all services.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Kpis {
    /// Share of looks at services that found them working, 0..1.
    pub availability: Option<f64>,
    /// Mean `error_ratio`, 0..1.
    pub error_ratio: Option<f64>,
    /// Mean `cache_hit_ratio`, 0..1.
    pub cache_hit_ratio: Option<f64>,
    /// Mean `latency_ms`.
    pub latency_mean_ms: Option<f64>,
    /// Points of `latency_ms`: one for each operation.
    pub operations: u64,
    /// Services that work.
    pub services_healthy: usize,
    /// All services.
    pub services_total: usize,
    /// Alerts that hold.
    pub alerts_active: usize,
}

/// Sums one metric over all services, for each of the given spans of minutes.
fn total(all: &[Arc<Series>], metric: &str, newest: i64, minutes: usize) -> Bucket {
    let mut total = Bucket::default();
    for series in all.iter().filter(|series| &*series.metric == metric) {
        total.merge(&series.with(|state| state.window.last(newest, minutes)));
    }
    total
}

/// Makes the trends.
pub(super) fn trends(all: &[Arc<Series>], now: Timestamp) -> Trends {
    let minute = minute_of(now.as_second());
    let steps: Vec<i64> = (0..BUCKETS / STEP_MINUTES).rev().map(|back| minute - (back * STEP_MINUTES) as i64).collect();
    let means = |metric| steps.iter().map(|step| total(all, metric, *step, STEP_MINUTES).mean()).collect();
    let first = |step: &i64| Timestamp::from_second((step - STEP_MINUTES as i64 + 1) * 60).unwrap_or(now);
    Trends {
        labels: steps.iter().map(first).collect(),
        response_times: means("latency_ms"),
        cache_hit_rates: means("cache_hit_ratio"),
        error_rates: means("error_ratio"),
        operation_counts: steps.iter().map(|step| total(all, "latency_ms", *step, STEP_MINUTES).count.into()).collect(),
    }
}

/// Makes the figures.
pub(super) fn kpis(
    all: &[Arc<Series>],
    services: &BTreeMap<String, ServiceHealth>,
    alerts: &[Alert],
    now: Timestamp,
) -> Kpis {
    let minute = minute_of(now.as_second());
    let hour = |metric| total(all, metric, minute, BUCKETS);
    let latency = hour("latency_ms");
    Kpis {
        availability: hour("up").mean(),
        error_ratio: hour("error_ratio").mean(),
        cache_hit_ratio: hour("cache_hit_ratio").mean(),
        latency_mean_ms: latency.mean(),
        operations: latency.count.into(),
        services_healthy: services.values().filter(|service| service.status == Status::Healthy).count(),
        services_total: services.len(),
        alerts_active: alerts.len(),
    }
}
