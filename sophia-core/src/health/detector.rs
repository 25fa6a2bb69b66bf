//! Anomalies in one stream, in constant memory and without a look ahead.
//!
//! Five views of the stream (its short against its long level, its steps, how much its steps vary, and what is left of it after
//! its daily and its weekly profile) are each turned into surprise by the tail of their own 30 largest values, and averaged. An
//! alarm raises the bar for the next, and the bar relaxes; within a cooldown only what is far more surprising is an alarm.
//!
//! The tail is that of peaks over a threshold (Siffer et al.: "Anomaly Detection in Streams with Extreme Value Theory", KDD
//! 2017) with a predictive exponential (Lomax) instead of a fitted Pareto, which needs no optimisation.

/// Largest values that make up a tail.
const TOP: usize = 30;
/// Points before anything can be surprising.
const BURN_IN: u32 = 100;
/// Length of the long memory, in points.
const LONG: f64 = 1_000.0;
/// Length of the short memory, in points.
const SHORT: f64 = 8.0;
/// Points after an alarm in which only an escalation is one.
const COOLDOWN: u32 = 80;
/// Surprise that is an alarm, in powers of ten.
const BASE: f64 = 0.75;
/// What an alarm adds to the bar.
const RAISE: f64 = 0.1;
/// Points in which the bar relaxes to a third.
const RELAX: f64 = 5_000.0;
/// How much more surprising than the last alarm an escalation is.
const ESCALATION: f64 = 2.0;
/// Score at which a point is an anomaly.
pub(super) const ALARM: f64 = BASE / (BASE + 2.0);

/// The state of one stream: 4 KB.
#[derive(Debug)]
pub(super) struct Detector {
    tails: [Tail; 5],
    day: Season<48>,
    week: Season<168>,
    points: u32,
    last: f64,
    short: f64,
    long: f64,
    level_var: f64,
    step_var: f64,
    step_short: f64,
    step_mean: f64,
    step_log_var: f64,
    bar: f64,
    alarm_at: Option<u32>,
    alarm_surprise: f64,
}

impl Detector {
    pub fn new() -> Detector {
        Detector {
            tails: std::array::from_fn(|_| Tail::new()),
            day: Season::new(86_400.0, 0.2),
            week: Season::new(604_800.0, 0.3),
            points: 0,
            last: 0.0,
            short: 0.0,
            long: 0.0,
            level_var: 0.0,
            step_var: 0.0,
            step_short: 0.0,
            step_mean: 0.0,
            step_log_var: 0.0,
            bar: 0.0,
            alarm_at: None,
            alarm_surprise: 0.0,
        }
    }

    /// Takes the next point, measured at `second`; returns how anomalous it is, 0..1. From [`ALARM`] on it is an anomaly.
    pub fn update(&mut self, second: f64, value: f64) -> f64 {
        let point = self.points;
        let surprise = self.surprise(second, value);
        self.bar *= (-1.0 / RELAX).exp();
        let over = surprise / (1.0 + self.bar);
        let mut out = 0.0;
        if self.alarm_at.is_some_and(|alarm| point - alarm <= COOLDOWN) {
            if surprise > self.alarm_surprise * ESCALATION && over >= BASE {
                out = over;
                self.alarm_surprise = surprise;
            }
        } else {
            out = over;
            if over >= BASE {
                self.alarm_at = Some(point);
                self.bar += RAISE;
                self.alarm_surprise = surprise;
            }
        }
        out / (out + 2.0)
    }

    /// Returns how surprising a point is: the mean over the views of −log10 of their probability.
    fn surprise(&mut self, second: f64, value: f64) -> f64 {
        let seen = f64::from(self.points);
        if self.points == 0 {
            (self.short, self.long, self.last) = (value, value, value);
        }
        let settled = self.points > 20;
        self.short += (1.0 / SHORT).max(1.0 / (seen + 1.0)) * (value - self.short);
        let off = self.short - self.long;
        let level = match settled {
            true => off.abs() / (self.level_var.sqrt() + 1e-9 * self.long.abs() + 1e-12),
            false => 0.0,
        };
        let rate = (1.0 / LONG).max(1.0 / (seen + 1.0));
        self.level_var = (1.0 - rate) * (self.level_var + rate * off * off);
        self.long += rate * (value - self.long);
        let (mut step, mut variation) = (0.0, 0.0);
        if self.points > 0 {
            let rate = (1.0 / LONG).max(1.0 / seen);
            let by = value - self.last;
            if settled {
                step = by.abs() / (self.step_var.sqrt() + 1e-12);
            }
            self.step_var = (1.0 - rate) * self.step_var + rate * by * by;
            self.step_short += (1.0 / SHORT).max(1.0 / seen) * (by * by - self.step_short);
            let log = (self.step_short + 1e-12 * (1.0 + value * value)).ln();
            let off = log - self.step_mean;
            if settled {
                variation = off.abs() / (self.step_log_var.sqrt() + 0.05);
            }
            self.step_log_var = (1.0 - rate) * (self.step_log_var + rate * off * off);
            self.step_mean += rate * off;
        }
        self.last = value;
        let scored = self.points >= BURN_IN;
        let views = [level, step, variation, self.day.step(second, value), self.week.step(second, value)];
        self.points = self.points.saturating_add(1);
        let sum: f64 = self.tails.iter_mut().zip(views).map(|(tail, view)| tail.step(view, scored)).sum();
        sum / 5.0
    }
}

/// The largest values of one view, by their logarithm, smallest first.
#[derive(Debug)]
struct Tail {
    top: [f64; TOP],
    len: usize,
    seen: u32,
    sum: f64,
}

impl Tail {
    fn new() -> Tail {
        Tail { top: [0.0; TOP], len: 0, seen: 0, sum: 0.0 }
    }

    /// Returns −log10 of the probability of a value at least this large, and takes it in.
    fn step(&mut self, view: f64, scored: bool) -> f64 {
        let count = TOP as f64;
        let log = (view + 1e-3).ln();
        let mut surprise = 0.0;
        if scored && self.len == TOP && log > self.top[0] {
            let least = self.top[0];
            let excess = (self.sum - count * least) / (count - 1.0) + 0.1;
            let tail = count * ((log - least) / excess / count).ln_1p();
            surprise = ((f64::from(self.seen) / count).ln() + tail) / std::f64::consts::LN_10;
        }
        self.seen = self.seen.saturating_add(1);
        if self.len < TOP {
            let at = self.top[..self.len].partition_point(|value| *value <= log);
            self.top.copy_within(at..self.len, at + 1);
            self.top[at] = log;
            self.len += 1;
            self.sum += log;
        } else if log > self.top[0] {
            self.sum += log - self.top[0];
            let at = self.top.partition_point(|value| *value <= log);
            self.top.copy_within(1..at, 0);
            self.top[at - 1] = log;
        }
        surprise
    }
}

/// What is usual at each part of a period, and how far a smoothed residual is from it.
#[derive(Debug)]
struct Season<const BINS: usize> {
    period_s: f64,
    rate: f64,
    mean: [f64; BINS],
    count: [u32; BINS],
    residual: f64,
    var: f64,
    seen: u32,
}

impl<const BINS: usize> Season<BINS> {
    fn new(period_s: f64, rate: f64) -> Season<BINS> {
        Season { period_s, rate, mean: [0.0; BINS], count: [0; BINS], residual: 0.0, var: 0.0, seen: 0 }
    }

    fn step(&mut self, second: f64, value: f64) -> f64 {
        let bin = (second.rem_euclid(self.period_s) / self.period_s * BINS as f64) as usize % BINS;
        let mut out = 0.0;
        if self.count[bin] > 0 {
            self.seen = self.seen.saturating_add(1);
            let seen = f64::from(self.seen);
            self.residual += (1.0 / SHORT).max(1.0 / seen) * (value - self.mean[bin] - self.residual);
            if self.seen > 100 {
                out = self.residual.abs() / (self.var.sqrt() + 1e-12);
            }
            let rate = (1.0 / LONG).max(1.0 / seen);
            self.var = (1.0 - rate) * self.var + rate * self.residual * self.residual;
        }
        self.count[bin] = self.count[bin].saturating_add(1);
        self.mean[bin] += self.rate.max(1.0 / f64::from(self.count[bin])) * (value - self.mean[bin]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points of a daily sine with noise, a spike, a shift for 100 points and a dip.
    fn history() -> impl Iterator<Item = (f64, f64)> {
        let mut state = 12_345u64;
        (0..4_000).map(move |i| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let noise = (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5;
            let second = 1_700_000_000.0 + f64::from(i) * 300.0;
            let mut value = 50.0 + 10.0 * (2.0 * std::f64::consts::PI * second / 86_400.0).sin() + 4.0 * noise;
            value += match i {
                1_500 => 60.0,
                2_500..2_600 => 25.0,
                3_300 | 3_301 => -40.0,
                _ => 0.0,
            };
            (second, value)
        })
    }

    #[test]
    fn scores_are_those_of_the_reference() {
        let mut detector = Detector::new();
        let scores: Vec<f64> = history().map(|(second, value)| detector.update(second, value)).collect();
        // Computed by the Python prototype from the same history.
        assert!((scores.iter().sum::<f64>() - 46.775_930_668_576_315).abs() < 1e-9);
        let at = [
            (0, 0.0),
            (150, 0.0),
            (1_500, 0.675_467_439_224_453_2),
            (2_500, 0.511_166_395_661_541_2),
            (3_300, 0.322_267_133_464_605),
        ];
        for (point, score) in at {
            assert!((scores[point] - score).abs() < 1e-9, "{point}: {} for {score}", scores[point]);
        }
        let alarms: Vec<_> = (0..scores.len()).filter(|point| scores[*point] >= ALARM).collect();
        assert_eq!(alarms, [110, 111, 209, 1_500, 2_500, 2_600, 3_300]);
    }

    #[test]
    fn a_detector_is_small() {
        assert!(size_of::<Detector>() <= 4_352, "{}", size_of::<Detector>());
    }

    #[test]
    fn a_constant_stream_and_extreme_values_give_numbers() {
        let mut detector = Detector::new();
        for i in 0..1_000 {
            let value = if i % 250 == 249 { f64::MAX / 4.0 } else { 1.0 };
            let score = detector.update(f64::from(i) * 60.0, value);
            assert!((0.0..=1.0).contains(&score) || score.is_nan(), "{score}");
        }
    }
}
