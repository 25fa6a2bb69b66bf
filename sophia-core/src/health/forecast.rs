//! When a level will reach a threshold.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Severity,
    analysis::{Hour, LEAST_MINUTES, quantile},
    report::round,
    rules::{Rule, Rules},
    window::{BUCKET_S, BUCKETS},
};
use crate::Direction;

/// Furthest that is predicted: an hour of history says nothing about tomorrow.
const HORIZON_S: f64 = 6.0 * 3_600.0;
/// Least agreement of all pairs of minutes on the direction (Kendall's τ), as a deviate: far beyond chance.
const LEAST_TREND: f64 = 4.0;
/// A fall by more than this share of the range, against the trend, is a reset: what was before is another saw tooth.
const RESET_SHARE: f64 = 0.4;

/// Most minutes since the last point: of what is silent nobody knows where it is.
const MOST_SILENT: f64 = 5.0;
/// Minutes with points that tell where a level is, and whether it still follows the line.
const RECENT: usize = 10;
/// Minutes with points that tell whether the trend goes on: along the steepest of them it does at half its slope.
const LATEST: usize = 15;
const LEAST_SLOPE: f64 = 0.5;

/// When a level will reach a threshold.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Prediction {
    /// The service.
    pub service: String,
    /// The metric.
    pub metric: String,
    /// The threshold, which is that of a rule.
    pub threshold: f64,
    /// How bad that would be.
    pub severity: Severity,
    /// The level now.
    pub value: f64,
    /// Change of the level each hour.
    pub slope_per_hour: f64,
    /// Seconds until the threshold is reached.
    pub eta_s: f64,
    /// As early as this in one of ten cases.
    pub eta_p10: f64,
    /// As late as this in one of ten cases; `None` when it may never be.
    pub eta_p90: Option<f64>,
    /// How much of the history agrees with the trend, 0..1.
    pub confidence: f64,
}

/// Predicts for every signal that has a rule, the most urgent first.
pub(super) fn predictions(hours: &[Hour], rules: &Rules) -> Vec<Prediction> {
    let mut found: Vec<Prediction> =
        hours.iter().filter_map(|hour| predict(hour, rules.of(&hour.service, &hour.metric)?)).collect();
    found.sort_by(|a, b| {
        a.eta_s.total_cmp(&b.eta_s).then_with(|| (&a.service, &a.metric).cmp(&(&b.service, &b.metric)))
    });
    found
}

fn predict(hour: &Hour, rule: &Rule) -> Option<Prediction> {
    // Turned so that a rise is bad.
    let sign = match rule.direction {
        Direction::LowerIsBetter => 1.0,
        Direction::HigherIsBetter => -1.0,
        Direction::Both => return None,
    };
    // Minutes before the last one, which is the present.
    let points: Vec<(f64, f64)> = (0..BUCKETS)
        .filter_map(|minute| Some((minute as f64 - (BUCKETS - 1) as f64, hour.means[minute]? * sign)))
        .collect();
    let points = since_reset(&points);
    if points.len() < LEAST_MINUTES || points.last().is_some_and(|(minute, _)| *minute < -MOST_SILENT) {
        return None;
    }
    let trend = Trend::of(points)?;
    if trend.slope <= 0.0 || trend.deviate < LEAST_TREND {
        return None;
    }
    let level = trend.level_now(points)?;
    let last = points.last()?.1;
    let thresholds = [(rule.warning, Severity::Warning), (rule.critical, Severity::Critical)];
    let next = thresholds.into_iter().find_map(|(threshold, severity)| {
        threshold.filter(|threshold| level.max(last) < threshold * sign).map(|threshold| (threshold, severity))
    });
    let (threshold, severity) = next?;
    let gap = threshold * sign - level;
    // A level that starts far below has far to go, and much can happen.
    if rule.direction == Direction::LowerIsBetter && threshold > 0.0 && level < threshold / 2.0 {
        return None;
    }
    let seconds = |gap: f64, slope: f64| gap / slope * BUCKET_S as f64;
    let eta_s = seconds(gap, trend.slope);
    if !(0.0..=HORIZON_S).contains(&eta_s) {
        return None;
    }
    let early = seconds((gap - trend.high).max(0.0), trend.steep.max(trend.slope));
    let late = (trend.flat > 0.0).then(|| seconds(gap - trend.low, trend.flat.min(trend.slope)));
    Some(Prediction {
        service: hour.service.to_string(),
        metric: hour.metric.to_string(),
        threshold,
        severity,
        value: level * sign,
        slope_per_hour: trend.slope * sign * 60.0,
        eta_s: eta_s.round(),
        eta_p10: early.min(eta_s).round(),
        eta_p90: late.map(|late| late.max(eta_s).round()),
        confidence: round(trend.tau),
    })
}

/// Drops what was before the last reset.
fn since_reset(points: &[(f64, f64)]) -> &[(f64, f64)] {
    let values = || points.iter().map(|(_, value)| *value);
    let range = values().fold(f64::MIN, f64::max) - values().fold(f64::MAX, f64::min);
    if range <= 0.0 {
        return points;
    }
    let fell = |pair: &[(f64, f64)]| pair[0].1 - pair[1].1 > RESET_SHARE * range;
    match points.windows(2).rposition(fell) {
        Some(at) => &points[at + 1..],
        None => points,
    }
}

/// A line through points, by repeated medians (Siegel 1982), which half of them being wrong does not move.
struct Trend {
    slope: f64,
    /// Where the line is now.
    level: f64,
    /// One in ten points is this far below the line, and this far above.
    low: f64,
    high: f64,
    /// One in ten points sees the others along a line this flat, and this steep.
    flat: f64,
    steep: f64,
    /// Kendall's τ, and that as a deviate.
    tau: f64,
    deviate: f64,
}

impl Trend {
    fn of(points: &[(f64, f64)]) -> Option<Trend> {
        let mut concordant = 0i64;
        let mut medians = Vec::with_capacity(points.len());
        let mut slopes = Vec::with_capacity(points.len());
        for (i, (x, y)) in points.iter().enumerate() {
            slopes.clear();
            for (j, (other_x, other_y)) in points.iter().enumerate() {
                if i == j {
                    continue;
                }
                let slope = (other_y - y) / (other_x - x);
                slopes.push(slope);
                if j > i {
                    concordant += i64::from(slope > 0.0) - i64::from(slope < 0.0);
                }
            }
            slopes.sort_by(f64::total_cmp);
            medians.push(quantile(&slopes, 0.5));
        }
        medians.sort_by(f64::total_cmp);
        let slope = quantile(&medians, 0.5);
        let mut levels: Vec<f64> = points.iter().map(|(x, y)| y - slope * x).collect();
        levels.sort_by(f64::total_cmp);
        let level = quantile(&levels, 0.5);
        let n = points.len() as f64;
        let pairs = n * (n - 1.0) / 2.0;
        let tau = concordant as f64 / pairs;
        let deviate = concordant as f64 / (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
        slope.is_finite().then_some(Trend {
            slope,
            level,
            low: quantile(&levels, 0.1) - level,
            high: quantile(&levels, 0.9) - level,
            flat: quantile(&medians, 0.1),
            steep: quantile(&medians, 0.9),
            tau,
            deviate,
        })
    }

    /// Returns where the level is now, by the line and by the last points; `None` where they no longer follow it.
    fn level_now(&self, points: &[(f64, f64)]) -> Option<f64> {
        let recent = &points[points.len().saturating_sub(RECENT)..];
        let off: Vec<f64> = recent.iter().map(|(x, y)| y - self.slope * x - self.level).collect();
        // Rounding alone is neither below nor above.
        let least = 1e-9 * self.level.abs();
        let most_are = |out: &dyn Fn(&f64) -> bool| off.iter().filter(|off| out(off)).count() * 2 >= off.len();
        if most_are(&|off| *off < self.low - least) {
            return None;
        }
        let latest = Trend::of(&points[points.len().saturating_sub(LATEST)..])?;
        if latest.steep < LEAST_SLOPE * self.slope {
            return None;
        }
        if most_are(&|off| *off > self.high + least) {
            // It is faster than the line: the last three say where it is.
            let mut last: Vec<f64> = off.iter().rev().take(3).copied().collect();
            last.sort_by(f64::total_cmp);
            return Some(self.level + quantile(&last, 0.5));
        }
        Some(self.level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: impl Iterator<Item = f64>) -> Vec<(f64, f64)> {
        points.enumerate().map(|(at, value)| (at as f64, value)).collect()
    }

    #[test]
    fn a_third_of_wild_points_does_not_move_the_line() {
        let points = line((0..60).map(|at| if at % 3 == 0 { 1_000.0 } else { f64::from(at) * 0.5 }));
        let trend = Trend::of(&points).unwrap();
        assert!((trend.slope - 0.5).abs() < 0.2, "{}", trend.slope);
    }

    #[test]
    fn a_saw_tooth_begins_anew_at_its_last_reset() {
        let points = line((0..60).map(|at| f64::from(at % 25)));
        assert_eq!(since_reset(&points).len(), 10);
    }
}
