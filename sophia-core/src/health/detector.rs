//! Anomalies in one stream, in constant memory and without a look ahead.
//!
//! Five views of the stream (its short against its long level, its steps, how much its steps vary, and what is left of it after
//! its daily and its weekly profile) are each turned into surprise by the tail of their own 30 largest values, and averaged. An
//! alarm raises the bar for the next, and the bar relaxes; within a cooldown, which ends early where it is calm, only what is more
//! surprising is an alarm.
//!
//! The tail is that of peaks over a threshold (Siffer et al.: "Anomaly Detection in Streams with Extreme Value Theory", KDD
//! 2017) with a predictive exponential (Lomax) instead of a fitted Pareto, which needs no optimisation. As there, a threshold is
//! initialised by the first values of what it judges: each view says nothing before it has a measure, and its tail nothing
//! before it has taken in 100 of them; until much was seen, the bar is higher.
//!
//! On steady normal noise it raises two false alarms in the first 1,000 points, and one in each 1,000 after them (means of many
//! streams); on noise with a long tail (log-normal) four, and three.

/// Largest values that make up a tail.
const TOP: usize = 30;
/// Values of a view before one can be surprising.
const BURN_IN: u32 = 100;
/// Points before a view has a measure of itself.
const SETTLED: u32 = 20;
/// Length of the long memory, in points.
const LONG: f64 = 1_000.0;
/// Length of the short memory, in points.
const SHORT: f64 = 8.0;
/// Deviations from the level beyond which a value counts as so far: one absurd value must not widen everything for the length of
/// the long memory. Where values stay there the deviation grows with each.
const FURTHEST: f64 = 100.0;
/// Points after an alarm in which only an escalation is one, unless nothing was surprising for so many of them: then what comes
/// is something else.
const COOLDOWN: u32 = 80;
const CALM: u32 = 20;
/// Surprise that is an alarm, in powers of ten.
const BASE: f64 = 0.75;
/// The bar at first.
const FIRST_BAR: f64 = 0.4;
/// What an alarm adds to the bar.
const RAISE: f64 = 0.1;
/// Points in which the bar relaxes to a third.
const RELAX: f64 = 5_000.0;
/// How much more surprising than the last alarm an escalation is, right after it; later it need only be more surprising.
const ESCALATION: f64 = 2.0;
/// Points in which that relaxes to a third.
const ESCALATION_RELAX: f64 = 80.0;
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
    /// The last point that was surprising, alarm or not.
    surprised_at: u32,
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
            bar: FIRST_BAR,
            alarm_at: None,
            alarm_surprise: 0.0,
            surprised_at: 0,
        }
    }

    /// Takes the next point, measured at `second`; returns how anomalous it is, 0..1. From [`ALARM`] on it is an anomaly.
    pub fn update(&mut self, second: f64, value: f64) -> f64 {
        let point = self.points;
        let surprise = self.surprise(second, value);
        self.bar *= (-1.0 / RELAX).exp();
        let over = surprise / (1.0 + self.bar);
        let mut out = 0.0;
        let is_calm = point - self.surprised_at >= CALM;
        match self.alarm_at.map(|alarm| point - alarm).filter(|since| *since <= COOLDOWN && !is_calm) {
            Some(since) => {
                let escalation = (ESCALATION * (-f64::from(since) / ESCALATION_RELAX).exp()).max(1.0);
                if surprise > self.alarm_surprise * escalation && over >= BASE {
                    out = over;
                    self.alarm_surprise = surprise;
                }
            }
            None => {
                out = over;
                if over >= BASE {
                    self.alarm_at = Some(point);
                    self.bar += RAISE;
                    self.alarm_surprise = surprise;
                }
            }
        }
        if surprise >= BASE {
            self.surprised_at = point;
        }
        out / (out + 2.0)
    }

    /// Moves a value that is absurdly far from the level nearer to it.
    fn within_reach(&self, value: f64) -> f64 {
        let deviation = self.level_var.max(self.step_var).sqrt();
        let is_still = deviation <= 1e-9 * self.long.abs() + 1e-12;
        if self.points <= BURN_IN || is_still || !deviation.is_finite() {
            return value;
        }
        value.clamp(self.long - FURTHEST * deviation, self.long + FURTHEST * deviation)
    }

    /// Returns how surprising a point is: the mean over the views of −log10 of their probability.
    fn surprise(&mut self, second: f64, value: f64) -> f64 {
        let seen = f64::from(self.points);
        if self.points == 0 {
            (self.short, self.long, self.last) = (value, value, value);
        }
        let value = self.within_reach(value);
        let settled = self.points > SETTLED;
        self.short += (1.0 / SHORT).max(1.0 / (seen + 1.0)) * (value - self.short);
        let off = self.short - self.long;
        let level = settled.then(|| off.abs() / (self.level_var.sqrt() + 1e-9 * self.long.abs() + 1e-12));
        let rate = (1.0 / LONG).max(1.0 / (seen + 1.0));
        self.level_var = (1.0 - rate) * (self.level_var + rate * off * off);
        self.long += rate * (value - self.long);
        let (mut step, mut variation) = (None, None);
        if self.points > 0 {
            let rate = (1.0 / LONG).max(1.0 / seen);
            let by = value - self.last;
            if settled {
                step = Some(by.abs() / (self.step_var.sqrt() + 1e-12));
            }
            self.step_var = (1.0 - rate) * self.step_var + rate * by * by;
            self.step_short += (1.0 / SHORT).max(1.0 / seen) * (by * by - self.step_short);
            let log = (self.step_short + 1e-12 * (1.0 + value * value)).ln();
            let off = log - self.step_mean;
            if settled {
                variation = Some(off.abs() / (self.step_log_var.sqrt() + 0.05));
            }
            self.step_log_var = (1.0 - rate) * (self.step_log_var + rate * off * off);
            self.step_mean += rate * off;
        }
        self.last = value;
        let views = [level, step, variation, self.day.step(second, value), self.week.step(second, value)];
        self.points = self.points.saturating_add(1);
        let sum: f64 =
            self.tails.iter_mut().zip(views).map(|(tail, view)| view.map_or(0.0, |view| tail.step(view))).sum();
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
    fn step(&mut self, view: f64) -> f64 {
        let count = TOP as f64;
        let log = (view + 1e-3).ln();
        let mut surprise = 0.0;
        if self.seen >= BURN_IN && log > self.top[0] {
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

    /// Takes a value; returns how far it is from the profile, once that is known.
    fn step(&mut self, second: f64, value: f64) -> Option<f64> {
        let bin = (second.rem_euclid(self.period_s) / self.period_s * BINS as f64) as usize % BINS;
        let mut out = None;
        if self.count[bin] > 0 {
            self.seen = self.seen.saturating_add(1);
            let seen = f64::from(self.seen);
            self.residual += (1.0 / SHORT).max(1.0 / seen) * (value - self.mean[bin] - self.residual);
            if self.seen > BURN_IN {
                out = Some(self.residual.abs() / (self.var.sqrt() + 1e-12));
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
        assert!((scores.iter().sum::<f64>() - 43.454_271_995_608_934).abs() < 1e-9);
        let at = [
            (0, 0.0),
            (150, 0.0),
            (1_500, 0.648_058_080_607_202_8),
            (2_500, 0.486_332_822_560_170_74),
            (3_300, 0.306_667_172_446_878_13),
        ];
        for (point, score) in at {
            assert!((scores[point] - score).abs() < 1e-9, "{point}: {} for {score}", scores[point]);
        }
        let alarms: Vec<_> = (0..scores.len()).filter(|point| scores[*point] >= ALARM).collect();
        assert_eq!(alarms, [1_500, 2_500, 2_600, 3_300]);
    }

    /// Deviates that are nearly normal: the sum of twelve even ones.
    fn noise(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        let mut even = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        move || (0..12).map(|_| even()).sum::<f64>() - 6.0
    }

    /// Points at which 100 with noise of 3, and what `extra` adds, is an alarm.
    fn alarms(seed: u64, points: u32, extra: impl Fn(u32) -> f64) -> Vec<u32> {
        let (mut detector, mut noise) = (Detector::new(), noise(seed));
        let second = |point| 1_700_000_000.0 + f64::from(point) * 60.0;
        (0..points)
            .filter(|point| detector.update(second(*point), 100.0 + 3.0 * noise() + extra(*point)) >= ALARM)
            .collect()
    }

    #[test]
    fn steady_noise_raises_as_few_alarms_as_is_said() {
        let all: Vec<u32> = (1..=40).flat_map(|seed| alarms(seed, 3_000, |_| 0.0)).collect();
        let within = |from, to| all.iter().filter(|point| (from..to).contains(*point)).count() as f64 / 40.0;
        assert!(within(0, 150) < 0.1, "no view is surprised by its own beginning: {}", within(0, 150));
        assert!(within(0, 1_000) < 2.5 && within(1_000, 3_000) < 3.0, "{} {}", within(0, 1_000), within(1_000, 3_000));
    }

    #[test]
    fn a_clear_excursion_is_seen_from_early_on() {
        for at in [130, 160, 250, 800] {
            let high = |point| if (at..at + 5).contains(&point) { 45.0 } else { 0.0 };
            let seen = (1..=40).filter(|seed| alarms(*seed, at + 5, high).iter().any(|point| *point >= at)).count();
            assert!(seen >= 36, "at {at}: {seen} of 40");
        }
    }

    #[test]
    fn one_absurd_value_blinds_nobody() {
        for absurd in [1e6, 1e12, -1e60] {
            let extra = |point| match point {
                200 => absurd,
                2_000.. => 900.0,
                _ => 0.0,
            };
            let seen = (1..=20).filter(|seed| alarms(*seed, 2_010, extra).iter().any(|point| *point >= 2_000)).count();
            assert!(seen >= 18, "{absurd}: {seen} of 20");
        }
    }

    #[test]
    fn a_clear_step_after_an_alarm_is_seen() {
        let two = |point| if (500..505).contains(&point) || point >= 540 { 45.0 } else { 0.0 };
        let seen = (1..=40).filter(|seed| alarms(*seed, 550, two).iter().any(|point| *point >= 540)).count();
        assert!(seen >= 34, "{seen} of 40");
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
