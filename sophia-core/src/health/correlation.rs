//! Which signals were out of line together, and which first.

use std::cmp::Ordering;

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    analysis::Hour,
    window::{BUCKET_S, BUCKETS},
};

/// Most minutes by which one may follow the other.
const MAX_LAG: usize = 5;
/// Most signals that are compared with each other: those that were furthest out of line.
const MAX_SIGNALS: usize = 120;
/// Most pairs that are listed.
const MAX_LISTED: usize = 50;
/// Least correlation, and largest corrected probability of chance, that are listed.
const LEAST_R: f64 = 0.5;
const MOST_P: f64 = 0.01;

/// One metric of one service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct SignalName {
    /// The service.
    pub service: String,
    /// The metric.
    pub metric: String,
}

/// Two signals that were out of line together.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Correlation {
    /// The one that was first, or the first by name.
    pub a: SignalName,
    /// The one that followed.
    pub b: SignalName,
    /// Correlation of how far they were out of line in their bad directions, 0.5..1.
    pub r: f64,
    /// By how many seconds `b` followed `a`.
    pub lag_s: i64,
    /// Minutes that were compared.
    pub n: usize,
    /// Probability of such a correlation by chance, corrected for the number of comparisons.
    pub p: f64,
}

/// Finds what was out of line together, the surest first.
///
/// Compared is the excess of each minute over what is usual, in the bad direction of each, at lags of up to five minutes. The
/// probability is that of Fisher's z, with fewer independent minutes where both change slowly (Bartlett 1946), times the number
/// of comparisons (Bonferroni).
pub(super) fn correlations(hours: &[Hour]) -> Vec<Correlation> {
    let mut out: Vec<(&Hour, [f64; BUCKETS])> =
        hours.iter().filter(|hour| hour.episode.is_some()).map(|hour| (hour, hour.excess())).collect();
    let far = |excess: &[f64; BUCKETS]| excess.iter().sum::<f64>();
    out.sort_by(|a, b| far(&b.1).total_cmp(&far(&a.1)).then_with(|| names(a.0, b.0)));
    out.truncate(MAX_SIGNALS);
    out.sort_by(|a, b| names(a.0, b.0));
    let pairs = || (0..out.len()).flat_map(|i| (i + 1..out.len()).map(move |j| (i, j)));
    let across = pairs().filter(|(i, j)| out[*i].0.service != out[*j].0.service).count();
    let comparisons = (across * (2 * MAX_LAG + 1)) as f64;
    let memory: Vec<f64> = out.iter().map(|(_, excess)| autocorrelation(excess)).collect();

    let mut found = Vec::new();
    for (i, j) in pairs() {
        let ((a, x), (b, y)) = (&out[i], &out[j]);
        if a.service == b.service {
            continue;
        }
        // The smallest lag of equal ones.
        let mut best: Option<(f64, i64)> = None;
        for lag in (0..=MAX_LAG as i64).flat_map(|lag| [lag, -lag]) {
            let (early, late) = if lag >= 0 { (x, y) } else { (y, x) };
            let shift = lag.unsigned_abs() as usize;
            let r = pearson(&early[..BUCKETS - shift], &late[shift..]);
            if best.is_none_or(|(most, _)| r > most + 1e-9) {
                best = Some((r, lag));
            }
        }
        let Some((r, lag)) = best.filter(|(r, _)| *r >= LEAST_R) else { continue };
        let n = BUCKETS - lag.unsigned_abs() as usize;
        let shared = (memory[i] * memory[j]).clamp(0.0, 0.99);
        let independent = (n as f64 * (1.0 - shared) / (1.0 + shared)).max(4.0);
        let z = r.min(0.999_999).atanh() * (independent - 3.0).sqrt();
        let p = (two_sided(z) * comparisons).min(1.0);
        if p > MOST_P {
            continue;
        }
        let name = |hour: &Hour| SignalName { service: hour.service.to_string(), metric: hour.metric.to_string() };
        let (first, second) = if lag >= 0 { (a, b) } else { (b, a) };
        found.push(Correlation { a: name(first), b: name(second), r, lag_s: lag.abs() * BUCKET_S, n, p });
    }
    found.sort_by(|a, b| a.p.total_cmp(&b.p).then(b.r.total_cmp(&a.r)).then_with(|| (&a.a, &a.b).cmp(&(&b.a, &b.b))));
    found.truncate(MAX_LISTED);
    found
}

fn names(a: &Hour, b: &Hour) -> Ordering {
    (&a.service, &a.metric).cmp(&(&b.service, &b.metric))
}

/// Returns Pearson's correlation; 0 where one of them never changes.
pub(super) fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len().min(y.len()) as f64;
    let (mx, my) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (x, y) = (x - mx, y - my);
        xy += x * y;
        xx += x * x;
        yy += y * y;
    }
    if xx <= 0.0 || yy <= 0.0 { 0.0 } else { xy / (xx * yy).sqrt() }
}

/// Returns how much a minute is like the one before.
fn autocorrelation(x: &[f64; BUCKETS]) -> f64 {
    pearson(&x[..BUCKETS - 1], &x[1..])
}

/// Returns the probability of a normal deviate at least this far from zero on either side.
///
/// The complementary error function by Numerical Recipes' rational Chebyshev fit, good to 1.2e-7 of its value.
pub(super) fn two_sided(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * x);
    const FIT: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let poly = FIT.iter().rev().fold(0.0, |sum, factor| sum * t + factor);
    t * (-x * x + poly).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_tails_are_those_of_the_tables() {
        for (z, p) in [(0.0, 1.0), (1.959_964, 0.05), (2.575_829, 0.01), (4.891_638, 1e-6)] {
            assert!((two_sided(z) / p - 1.0).abs() < 1e-5, "{z}: {}", two_sided(z));
        }
    }

    #[test]
    fn correlation_of_what_never_changes_is_zero() {
        assert_eq!(pearson(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]), 0.0);
        assert!((pearson(&[1.0, 2.0, 3.0], &[-2.0, -4.0, -6.0]) + 1.0).abs() < 1e-12);
    }
}
