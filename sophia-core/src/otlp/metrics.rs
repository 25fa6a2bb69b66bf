//! Sums and histograms since the engine was made, by their attributes.

use std::collections::HashMap;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::{
    names::Metric,
    span::nanos,
    wire::{AttributeValue, Message},
};

/// Most combinations of attributes of one metric, since models are named by callers; what comes later is counted together.
const MAX_POINTS: usize = 1_000;
/// Marks what is counted together.
const OVERFLOW: &str = "otel.metric.overflow";
/// Counted since the beginning, not since the last time.
const CUMULATIVE: u64 = 2;

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<HashMap<&'static str, Series>>);

#[derive(Debug)]
struct Series {
    metric: &'static Metric,
    /// By the attributes as they are sent.
    points: HashMap<Vec<u8>, Point>,
}

#[derive(Debug)]
struct Point {
    attributes: Vec<(&'static str, AttributeValue)>,
    count: u64,
    sum: f64,
    least: f64,
    most: f64,
    buckets: Vec<u64>,
}

impl Metrics {
    pub fn record(&self, metric: &'static Metric, value: f64, attributes: Vec<(&'static str, AttributeValue)>) {
        let mut all = self.0.lock();
        let series = all.entry(metric.name).or_insert_with(|| Series { metric, points: HashMap::new() });
        series.record(value, attributes);
    }

    /// Returns all metrics as they are sent; empty where nothing was measured.
    pub fn encoded(&self, since: Timestamp, now: Timestamp) -> Vec<Message> {
        self.0.lock().values().map(|series| series.encoded(nanos(since), nanos(now))).collect()
    }
}

impl Series {
    fn record(&mut self, value: f64, mut attributes: Vec<(&'static str, AttributeValue)>) {
        attributes.sort_by_key(|(name, _)| *name);
        let mut key = named(&attributes);
        if self.points.len() >= MAX_POINTS && !self.points.contains_key(&key) {
            attributes = vec![(OVERFLOW, AttributeValue::Bool(true))];
            key = named(&attributes);
        }
        let bounds = self.metric.bounds;
        let point = self.points.entry(key).or_insert_with(|| Point {
            attributes,
            count: 0,
            sum: 0.0,
            least: f64::INFINITY,
            most: f64::NEG_INFINITY,
            buckets: vec![0; bounds.len() + 1],
        });
        point.count += 1;
        point.sum += value;
        point.least = point.least.min(value);
        point.most = point.most.max(value);
        point.buckets[bounds.partition_point(|bound| *bound < value)] += 1;
    }

    fn encoded(&self, since: u64, now: u64) -> Message {
        let mut message = Message::default();
        let Metric { name, unit, description, bounds } = self.metric;
        message.bytes(1, name.as_bytes()).bytes(2, description.as_bytes()).bytes(3, unit.as_bytes());
        let mut data = Message::default();
        for point in self.points.values() {
            data.message(
                1,
                if bounds.is_empty() { point.sum(since, now) } else { point.histogram(bounds, since, now) },
            );
        }
        data.int(2, CUMULATIVE);
        if bounds.is_empty() {
            data.int(3, 1);
            message.message(7, data);
        } else {
            message.message(9, data);
        }
        message
    }
}

impl Point {
    fn sum(&self, since: u64, now: u64) -> Message {
        let mut point = Message::default();
        point.fixed(2, since).fixed(3, now).double(4, self.sum);
        self.describe(&mut point, 7);
        point
    }

    fn histogram(&self, bounds: &[f64], since: u64, now: u64) -> Message {
        let mut point = Message::default();
        let counts: Vec<u8> = self.buckets.iter().flat_map(|count| count.to_le_bytes()).collect();
        let bounds: Vec<u8> = bounds.iter().flat_map(|bound| bound.to_le_bytes()).collect();
        point
            .fixed(2, since)
            .fixed(3, now)
            .fixed(4, self.count)
            .double(5, self.sum)
            .bytes(6, &counts)
            .bytes(7, &bounds);
        self.describe(&mut point, 9);
        point.double(11, self.least).double(12, self.most);
        point
    }

    fn describe(&self, point: &mut Message, field: u32) {
        for (name, value) in &self.attributes {
            point.attribute(field, name, value);
        }
    }
}

fn named(attributes: &[(&'static str, AttributeValue)]) -> Vec<u8> {
    let mut key = Message::default();
    for (name, value) in attributes {
        key.attribute(1, name, value);
    }
    key.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::names::{REQUESTS, TOKEN_USAGE};

    #[test]
    fn combinations_of_attributes_are_bounded_and_nothing_is_lost() {
        let metrics = Metrics::default();
        for index in 0..MAX_POINTS as u64 + 500 {
            metrics.record(&REQUESTS, 1.0, vec![("model", index.into())]);
        }
        let all = metrics.0.lock();
        let points = &all["sophia.chat.requests"].points;
        assert_eq!(points.len(), MAX_POINTS + 1);
        assert_eq!(points.values().map(|point| point.count).sum::<u64>(), MAX_POINTS as u64 + 500);
    }

    #[test]
    fn a_bucket_holds_what_is_at_most_its_bound() {
        let metrics = Metrics::default();
        for value in [1.0, 1.5, 4.0, 1e12] {
            metrics.record(&TOKEN_USAGE, value, vec![("b", "x".into()), ("a", "y".into())]);
        }
        metrics.record(&TOKEN_USAGE, 2.0, vec![("a", "y".into()), ("b", "x".into())]);
        let all = metrics.0.lock();
        let points = &all["gen_ai.client.token.usage"].points;
        let point = points.values().next().unwrap();
        assert_eq!(
            (points.len(), point.count, point.least, point.most),
            (1, 5, 1.0, 1e12),
            "their order does not count"
        );
        assert_eq!((point.buckets[0], point.buckets[1], *point.buckets.last().unwrap()), (1, 3, 1));
    }
}
