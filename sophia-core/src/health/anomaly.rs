//! What was out of line within the hour.

use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    analysis::Hour,
    observe::short,
    report::round,
    series::Series,
    window::{BUCKET_S, BUCKETS, minute_of},
};

/// How an anomaly was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AnomalyKind {
    /// Minutes far from the median of the hour.
    Level,
    /// A point that surprises all that is known of the stream, its daily and weekly profile included.
    Surprise,
}

/// Something that was out of line within the hour.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Anomaly {
    /// The service.
    pub service: String,
    /// The metric.
    pub metric: String,
    /// How it was found.
    pub kind: AnomalyKind,
    /// When it began.
    pub at: Timestamp,
    /// When it ended; `None` while it lasts.
    pub until: Option<Timestamp>,
    /// The value furthest out.
    pub value: f64,
    /// What is usual, where that is one number.
    pub expected: Option<f64>,
    /// How far out of line, 0..1.
    pub score: f64,
    /// What happened, in a sentence.
    pub message: String,
}

/// Lists what was out of line, the worst first.
pub(super) fn anomalies(all: &[Arc<Series>], hours: &[Hour], now: Timestamp) -> Vec<Anomaly> {
    let minute = minute_of(now.as_second());
    let mut found: Vec<Anomaly> = hours.iter().filter_map(|hour| level(hour, minute)).collect();
    for series in all {
        let hit = series.with(|state| state.surprise);
        let Some((at_us, value, score)) = hit else { continue };
        let Ok(at) = Timestamp::from_microsecond(at_us) else { continue };
        if minute - minute_of(at.as_second()) >= BUCKETS as i64 {
            continue;
        }
        found.push(Anomaly {
            service: series.service.to_string(),
            metric: series.metric.to_string(),
            kind: AnomalyKind::Surprise,
            at,
            until: Some(at),
            value,
            expected: None,
            score: round(score),
            message: format!(
                "{} of {} was {}, which its history does not explain",
                series.metric,
                series.service,
                short(value)
            ),
        });
    }
    found.sort_by(|a, b| {
        b.score
            .total_cmp(&a.score)
            .then_with(|| a.at.cmp(&b.at))
            .then_with(|| (&a.service, &a.metric).cmp(&(&b.service, &b.metric)))
    });
    found
}

fn level(hour: &Hour, minute: i64) -> Option<Anomaly> {
    let (first, last) = hour.episode?;
    let time = |index: usize| Timestamp::from_second((minute - (BUCKETS - 1 - index) as i64) * BUCKET_S).ok();
    let worst = (first..=last).filter_map(|index| Some((hour.deviation(index)?, hour.means[index]?)));
    let (deviation, value) = worst.max_by(|a, b| a.0.total_cmp(&b.0))?;
    let ended = (last + 1..BUCKETS).find(|index| hour.means[*index].is_some());
    Some(Anomaly {
        service: hour.service.to_string(),
        metric: hour.metric.to_string(),
        kind: AnomalyKind::Level,
        at: time(first)?,
        until: ended.and_then(time),
        value,
        expected: Some(hour.usual),
        score: round(deviation / (deviation + 10.0)),
        message: format!(
            "{} of {} went to {} for {} min, usually {}",
            hour.metric,
            hour.service,
            short(value),
            last - first + 1,
            short(hour.usual)
        ),
    })
}
