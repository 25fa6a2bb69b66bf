//! Every signal's last hour, by service and metric.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::{
    analysis::LARGEST,
    detector::{ALARM, Detector},
    names::is_name,
    window::{BUCKETS, Window, minute_of},
};
use crate::{Direction, names_map::NamesMap};

/// One signal.
#[derive(Debug)]
pub(super) struct Series {
    pub service: Arc<str>,
    pub metric: Arc<str>,
    state: Mutex<SeriesState>,
}

/// What is known of one signal.
#[derive(Debug)]
pub(super) struct SeriesState {
    pub window: Window,
    pub direction: Option<Direction>,
    pub unit: Option<Arc<str>>,
    /// The newest point: its time in microseconds, and its value.
    pub newest: Option<(i64, f64)>,
    /// The minute of the newest point that the engine itself sent.
    pub engine_minute: Option<i64>,
    /// The newest surprise: its time in microseconds, the value, and its score.
    pub surprise: Option<(i64, f64, f64)>,
    detector: Option<Box<Detector>>,
}

/// Who measured a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The engine's own memory, chat and registry: many points, each worth little.
    Engine,
    /// The user, or a probe: each point is a statement.
    Observed,
}

impl Series {
    /// Runs `work` with the state locked.
    pub fn with<T>(&self, work: impl FnOnce(&mut SeriesState) -> T) -> T {
        work(&mut self.state.lock())
    }
}

impl SeriesState {
    /// Adds a finite value measured at `at_us`, and returns whether it is the newest so far.
    pub fn add(&mut self, at_us: i64, value: f64, weight: u32, origin: Origin) -> bool {
        let minute = minute_of(at_us.div_euclid(1_000_000));
        let newest = self.newest.is_none_or(|(newest, _)| at_us >= newest);
        match origin {
            // Each point is a statement. One that comes late would be a look ahead for those after it.
            Origin::Observed if newest => self.detect(at_us, value),
            Origin::Observed => {}
            // A minute is a statement, once it is over.
            Origin::Engine => {
                if let Some(last) = self.engine_minute.filter(|last| *last < minute)
                    && let Some(mean) = self.window.bucket(last).mean()
                {
                    self.detect(last * 60_000_000, mean);
                }
                self.engine_minute = self.engine_minute.max(Some(minute));
            }
        }
        self.window.add(minute, value, weight);
        if newest {
            self.newest = Some((at_us, value));
        }
        newest
    }

    fn detect(&mut self, at_us: i64, value: f64) {
        let detector = self.detector.get_or_insert_with(|| Box::new(Detector::new()));
        let score = detector.update(at_us as f64 / 1e6, value.clamp(-LARGEST, LARGEST));
        if score >= ALARM {
            self.surprise = Some((at_us, value, score));
        }
    }

    /// Returns which way is bad: as told, or as the name says.
    pub fn direction(&self, metric: &str) -> Direction {
        self.direction.unwrap_or_else(|| direction_of(metric))
    }
}

/// Guesses which way is bad from the name of a metric, where nobody said it.
pub(super) fn direction_of(metric: &str) -> Direction {
    const GOOD: [&str; 10] =
        ["hit", "hits", "availability", "available", "uptime", "success", "free", "remaining", "up", "throughput"];
    const BAD: [&str; 4] = ["error", "errors", "miss", "failure"];
    const NEUTRAL: [&str; 5] = ["requests", "traffic", "count", "rate", "operations"];
    let has = |known: &[&str]| metric.split(['_', '.', '-']).any(|word| known.contains(&word));
    match () {
        () if has(&BAD) => Direction::LowerIsBetter,
        () if has(&GOOD) => Direction::HigherIsBetter,
        () if has(&NEUTRAL) => Direction::Both,
        () => Direction::LowerIsBetter,
    }
}

/// All signals. Bounded.
#[derive(Debug)]
pub(super) struct SeriesMap {
    /// Looked into for each point of each call.
    map: NamesMap<Arc<Series>>,
    max: usize,
    /// Signals that made room for others, and of which nobody was told yet.
    forgotten: Mutex<Vec<Arc<Series>>>,
    /// Points that were not kept: values that are no numbers, and new signals while there is no room.
    pub dropped: AtomicU64,
}

impl SeriesMap {
    pub fn new(max: usize) -> SeriesMap {
        SeriesMap { map: NamesMap::default(), max, forgotten: Mutex::default(), dropped: AtomicU64::new(0) }
    }

    /// Returns a signal that exists.
    pub fn get(&self, service: &str, metric: &str) -> Option<Arc<Series>> {
        self.map.get([service, metric])
    }

    /// Returns a signal, made when there is none; `None` when there is no room, or it cannot be named so.
    pub fn get_or_insert(&self, service: &str, metric: &str, now_us: i64) -> Option<Arc<Series>> {
        if let Some(found) = self.get(service, metric) {
            return Some(found);
        }
        if !is_name(service) || !is_name(metric) || (self.map.len() >= self.max && !self.make_room(now_us)) {
            return None;
        }
        let state = SeriesState {
            window: Window::default(),
            direction: None,
            unit: None,
            newest: None,
            engine_minute: None,
            surprise: None,
            detector: None,
        };
        let series = Series { service: service.into(), metric: metric.into(), state: Mutex::new(state) };
        Some(self.map.get_or_insert([service, metric], Arc::new(series)))
    }

    /// Adds a point and forgets about it when that is not possible.
    pub fn record(&self, service: &str, metric: &str, direction: Direction, at_us: i64, value: f64, now_us: i64) {
        if !value.is_finite() {
            return self.drop_one();
        }
        let add = |series: &Series| {
            series.with(|state| {
                state.direction = Some(direction);
                state.add(at_us, value, 1, Origin::Engine);
            });
        };
        // Without a clone of the handle where the signal is known: two writes to a shared counter for each point.
        if self.map.with([service, metric], |known| add(known)).is_some() {
            return;
        }
        match self.get_or_insert(service, metric, now_us) {
            Some(series) => add(&series),
            None => self.drop_one(),
        }
    }

    /// Counts a point that was not kept.
    pub fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns all signals, sorted by name, so that what is computed from them does not depend on chance.
    pub fn all(&self) -> Vec<Arc<Series>> {
        let mut all: Vec<_> = self.map.values().collect();
        all.sort_by(|a, b| (&a.service, &a.metric).cmp(&(&b.service, &b.metric)));
        all
    }

    /// Runs `work` for every signal, in no order.
    pub fn for_each(&self, mut work: impl FnMut(&Series)) {
        self.map.values().for_each(|series| work(&series));
    }

    /// Forgets the signals of a service.
    pub fn remove_service(&self, service: &str) {
        self.map.retain(|series| &*series.service != service);
    }

    /// Forgets signals that had no point for an hour; returns whether there is room.
    fn make_room(&self, now_us: i64) -> bool {
        let oldest = now_us.saturating_sub(BUCKETS as i64 * 60 * 1_000_000);
        let mut forgotten = Vec::new();
        self.map.retain(|series| {
            let lives = series.with(|state| state.newest.is_some_and(|(at, _)| at >= oldest));
            if !lives {
                forgotten.push(Arc::clone(series));
            }
            lives
        });
        self.forgotten.lock().append(&mut forgotten);
        self.map.len() < self.max
    }

    /// Returns the signals that made room since the last call.
    pub fn take_forgotten(&self) -> Vec<Arc<Series>> {
        std::mem::take(&mut *self.forgotten.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_found_by_both_its_names() {
        let map = SeriesMap::new(10);
        map.record("chat", "latency_ms", Direction::LowerIsBetter, 0, 1.0, 0);
        assert!(map.get("chat", "latency_ms").is_some());
        assert!(map.get("chat", "latency").is_none() && map.get("chatlatency", "_ms").is_none());
    }

    #[test]
    fn signals_are_bounded_and_the_stale_make_room() {
        let map = SeriesMap::new(2);
        map.record("a", "x", Direction::Both, 0, 1.0, 0);
        map.record("b", "x", Direction::Both, 0, 1.0, 0);
        map.record("c", "x", Direction::Both, 0, 1.0, 0);
        assert!(map.get("c", "x").is_none());
        let later = 2 * 3_600_000_000;
        map.record("c", "x", Direction::Both, later, 1.0, later);
        assert!(map.get("c", "x").is_some() && map.get("a", "x").is_none());
        assert_eq!(map.dropped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_is_no_number_is_dropped() {
        let map = SeriesMap::new(2);
        for value in [f64::NAN, f64::INFINITY] {
            map.record("a", "x", Direction::Both, 0, value, 0);
        }
        assert!(map.get("a", "x").is_none());
    }

    #[test]
    fn which_way_is_bad_is_read_from_the_name() {
        for (metric, direction) in [
            ("cache_hit_ratio", Direction::HigherIsBetter),
            ("up", Direction::HigherIsBetter),
            ("latency_ms", Direction::LowerIsBetter),
            ("disk_used_ratio", Direction::LowerIsBetter),
            ("cpu_ratio", Direction::LowerIsBetter),
            ("error_rate", Direction::LowerIsBetter),
            ("requests", Direction::Both),
        ] {
            assert_eq!(direction_of(metric), direction, "{metric}");
        }
    }
}
