//! The memory's own figures, in the shape that dashboards read. What was not measured is null.

use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    call::Call,
    reply::{Failure, json_response},
    surface::Response,
};
use crate::{
    Sophia, Timestamp,
    health::{SeriesQuery, SeriesView},
    memory::RecentOperation,
};

/// Calls that percentiles and ratios are taken over; as many as the memory remembers.
const WINDOW: usize = 1_000;
/// Calls that are listed.
const LISTED: usize = 20;
/// Steps of a trend: five minutes each.
const STEPS: usize = 12;
/// Name under which health knows the memory.
const SERVICE: &str = "memory";

/// How the memory is doing.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AiMemoryHealth {
    /// 0..100, as health scores the memory; null while there are too few calls.
    performance_score: Option<f64>,
    /// Durations of the last 1,000 calls, in milliseconds.
    response_times: ResponseTimes,
    /// Look-ups of keys in this process.
    cache_performance: CachePerformance,
    /// The last 1,000 calls.
    operation_stats: OperationStats,
    /// Size of the data, in bytes.
    memory_usage: MemoryUsage,
    /// The last calls, newest first.
    recent_operations: Vec<RecentOperation>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ResponseTimes {
    average: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct CachePerformance {
    /// 0..1.
    hit_rate: Option<f64>,
    /// Entries.
    size: Option<u64>,
    /// Not measured.
    efficiency: Option<f64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct OperationStats {
    total_operations: usize,
    successful_operations: usize,
    /// 0..1.
    error_rate: Option<f64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct MemoryUsage {
    current: u64,
    /// Not measured.
    peak: Option<u64>,
    /// Not measured.
    efficiency: Option<f64>,
}

/// The last hour in steps of five minutes, oldest first.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct PerformanceTrends {
    /// Where each step begins.
    labels: Vec<Timestamp>,
    /// Mean, in milliseconds.
    response_times: Vec<Option<f64>>,
    /// Mean, 0..1.
    cache_hit_rates: Vec<Option<f64>>,
    /// Mean, 0..1.
    error_rates: Vec<Option<f64>>,
    operation_counts: Vec<u64>,
}

/// `GET /api/v1/ai-memory/health`
pub(super) async fn health(call: Call) -> Result<Response, Failure> {
    let sophia = call.surface.sophia();
    let memory = sophia.memory();
    let operations = memory.recent_operations(WINDOW);
    let report = sophia.health().report().await?;
    let near = memory.health().await.tiers.remove("l1");
    let successful = operations.iter().filter(|operation| operation.status == "ok").count();
    let total = operations.len();
    let health = AiMemoryHealth {
        performance_score: report.services.get(SERVICE).and_then(|service| service.score),
        response_times: response_times(&operations),
        cache_performance: CachePerformance {
            hit_rate: near.as_ref().and_then(|tier| tier.hit_ratio),
            size: near.as_ref().and_then(|tier| tier.entries),
            efficiency: None,
        },
        operation_stats: OperationStats {
            total_operations: total,
            successful_operations: successful,
            error_rate: (total > 0).then(|| (total - successful) as f64 / total as f64),
        },
        memory_usage: MemoryUsage { current: memory.stats().await?.bytes, peak: None, efficiency: None },
        // What others did concerns nobody but an admin.
        recent_operations: if call.caller.admin { operations.into_iter().take(LISTED).collect() } else { Vec::new() },
    };
    Ok(json_response(StatusCode::OK, &health))
}

/// `GET /api/v1/ai-memory/performance-trends`
pub(super) async fn trends(call: Call) -> Result<Response, Failure> {
    let sophia = call.surface.sophia();
    let (latency, hits, errors) =
        (series(sophia, "latency_ms"), series(sophia, "cache_hit_ratio"), series(sophia, "error_ratio"));
    let means = |view: &Option<SeriesView>| -> Vec<Option<f64>> {
        view.as_ref().map_or(vec![None; STEPS], |view| view.points.iter().map(|point| point.mean).collect())
    };
    let longest = [&latency, &hits, &errors].into_iter().flatten().next();
    let trends = match longest {
        // Nothing was measured yet.
        None => PerformanceTrends::default(),
        Some(view) => PerformanceTrends {
            labels: view.points.iter().map(|point| point.at).collect(),
            response_times: means(&latency),
            cache_hit_rates: means(&hits),
            error_rates: means(&errors),
            operation_counts: latency
                .as_ref()
                .map_or(vec![0; STEPS], |view| view.points.iter().map(|point| point.count).collect()),
        },
    };
    Ok(json_response(StatusCode::OK, &trends))
}

fn series(sophia: &Sophia, metric: &str) -> Option<SeriesView> {
    sophia.health().series(SeriesQuery::new(SERVICE, metric).buckets(STEPS)).ok()
}

fn response_times(operations: &[RecentOperation]) -> ResponseTimes {
    let mut times: Vec<f64> = operations.iter().map(|operation| operation.duration).collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| {
        // Nearest rank.
        let rank = (share * times.len() as f64).ceil() as usize;
        times.get(rank.saturating_sub(1)).copied()
    };
    let average = (!times.is_empty()).then(|| times.iter().sum::<f64>() / times.len() as f64);
    ResponseTimes { average, p95: at(0.95), p99: at(0.99) }
}
