//! The recent history of one signal.

use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Quantiles,
    engine::Shared,
    names::check_name,
    window::{BUCKET_S, BUCKETS, minute_of},
};
use crate::{Direction, Error, ErrorKind, Result};

/// Which history of which signal.
///
/// ```
/// use std::time::Duration;
/// use sophia_core::health::SeriesQuery;
///
/// let query = SeriesQuery::new("chat", "latency_ms").window(Duration::from_secs(600)).buckets(10);
/// assert_eq!(query.buckets, 10);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SeriesQuery {
    /// The service.
    pub service: String,
    /// The metric.
    pub metric: String,
    /// How far back; an hour by default, and at most.
    #[serde(default = "hour", with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub window: Duration,
    /// In how many parts; 60 by default, and at most one for each minute.
    #[serde(default = "sixty")]
    pub buckets: usize,
}

const fn hour() -> Duration {
    Duration::from_secs(3_600)
}

const fn sixty() -> usize {
    BUCKETS
}

impl SeriesQuery {
    /// Creates a query of the last hour, minute by minute.
    pub fn new(service: impl Into<String>, metric: impl Into<String>) -> SeriesQuery {
        SeriesQuery { service: service.into(), metric: metric.into(), window: hour(), buckets: sixty() }
    }

    /// Sets how far back.
    #[must_use]
    pub fn window(mut self, window: Duration) -> SeriesQuery {
        self.window = window;
        self
    }

    /// Sets in how many parts.
    #[must_use]
    pub fn buckets(mut self, buckets: usize) -> SeriesQuery {
        self.buckets = buckets;
        self
    }
}

/// The recent history of one signal.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct SeriesView {
    /// The service.
    pub service: String,
    /// The metric.
    pub metric: String,
    /// The unit, where one was given.
    pub unit: Option<String>,
    /// Which way is bad.
    pub direction: Direction,
    /// The parts, oldest first.
    pub points: Vec<SeriesPoint>,
    /// How the values of the last hour are spread.
    pub hour: Option<Quantiles>,
}

/// One part of a history.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct SeriesPoint {
    /// Where it begins.
    pub at: Timestamp,
    /// How many points fell into it.
    pub count: u64,
    /// Their mean.
    pub mean: Option<f64>,
    /// The smallest.
    pub min: Option<f64>,
    /// The largest.
    pub max: Option<f64>,
}

/// Reads the history.
pub(super) fn view(shared: &Shared, query: &SeriesQuery) -> Result<SeriesView> {
    const OPERATION: &str = "health.series";
    check_name(OPERATION, "service", &query.service)?;
    check_name(OPERATION, "metric", &query.metric)?;
    // Bounded by the check to 60.
    let minutes = query.window.as_secs().div_ceil(BUCKET_S as u64) as usize;
    if !(1..=BUCKETS).contains(&minutes) {
        return Err(Error::invalid(OPERATION, "window", "must be more than zero and at most an hour"));
    }
    if query.buckets == 0 {
        return Err(Error::invalid(OPERATION, "buckets", "must be at least 1"));
    }
    let now = minute_of(shared.clock.now().as_second());
    let series = shared.series.get(&query.service, &query.metric).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, OPERATION, "nothing was measured")
            .with("service", &query.service)
            .with("metric", &query.metric)
    })?;
    let each = minutes.div_ceil(query.buckets.min(minutes));
    let parts = minutes.div_ceil(each);
    Ok(series.with(|state| SeriesView {
        service: query.service.clone(),
        metric: query.metric.clone(),
        unit: state.unit.as_deref().map(str::to_owned),
        direction: state.direction(&series.metric),
        points: (0..parts)
            .rev()
            .map(|back| {
                let newest = now - (back * each) as i64;
                let bucket = state.window.last(newest, each);
                let some = |value: f64| (bucket.count > 0).then_some(value);
                let begin = (newest - each as i64 + 1) * BUCKET_S;
                SeriesPoint {
                    at: Timestamp::from_second(begin).unwrap_or(Timestamp::UNIX_EPOCH),
                    count: bucket.count.into(),
                    mean: bucket.mean(),
                    min: some(bucket.min),
                    max: some(bucket.max),
                }
            })
            .collect(),
        hour: Quantiles::of(&state.window, now),
    }))
}
