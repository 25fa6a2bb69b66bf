//! Which signals were out of line together, and which first.

use std::cmp::Ordering;

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    analysis::{Hour, OUT},
    window::{BUCKET_S, BUCKETS},
};

/// Most minutes by which one may follow the other.
const MAX_LAG: usize = 5;
/// Most signals that are compared with each other: those that were furthest out of line.
const MAX_SIGNALS: usize = 120;
/// Most pairs that are listed.
const MAX_LISTED: usize = 50;
/// Least correlation that is listed, and most of the listed ones that are chance.
const LEAST_R: f64 = 0.5;
const MOST_P: f64 = 0.1;

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
    /// Probability that they coincide so by chance, corrected for the number of comparisons: one single coincidence is never
    /// less likely than one minute in sixty.
    pub p: f64,
}

/// Finds what was out of line together, the surest first.
///
/// Compared is the excess of each minute over what is usual, in the bad direction of each, at lags of up to five minutes.
///
/// Minutes of one stretch out of line are not independent of each other: that two stretches lie together is one coincidence,
/// however long they are. So the probability is that of event coincidence analysis (Donges, Schleussner, Siegmund, Donner: "Event
/// coincidence analysis for quantifying statistical interrelationships between event time series", EPJ ST 225, 2016): that of as
/// many stretches beginning as near to one of the other signal as they do, if they began anywhere within the hour. It is corrected
/// for the number of pairs by the false discovery rate (Benjamini and Hochberg 1995).
pub(super) fn correlations(hours: &[Hour]) -> Vec<Correlation> {
    let mut out: Vec<(&Hour, [f64; BUCKETS])> =
        hours.iter().filter(|hour| hour.episode.is_some()).map(|hour| (hour, hour.excess())).collect();
    let far = |excess: &[f64; BUCKETS]| excess.iter().sum::<f64>();
    out.sort_by(|a, b| far(&b.1).total_cmp(&far(&a.1)).then_with(|| names(a.0, b.0)));
    out.truncate(MAX_SIGNALS);
    out.sort_by(|a, b| names(a.0, b.0));
    let begins: Vec<Vec<usize>> = out.iter().map(|(hour, _)| begins(hour)).collect();

    let mut comparisons = 0;
    let mut found = Vec::new();
    for (i, j) in (0..out.len()).flat_map(|i| (i + 1..out.len()).map(move |j| (i, j))) {
        let ((a, x), (b, y)) = (&out[i], &out[j]);
        if a.service == b.service {
            continue;
        }
        comparisons += 1;
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
        let shift = lag.unsigned_abs() as usize;
        let p = coincidence(&begins[i], &begins[j], shift);
        let name = |hour: &Hour| SignalName { service: hour.service.to_string(), metric: hour.metric.to_string() };
        let (first, second) = if lag >= 0 { (a, b) } else { (b, a) };
        let n = BUCKETS - shift;
        found.push(Correlation { a: name(first), b: name(second), r, lag_s: lag.abs() * BUCKET_S, n, p });
    }
    found.sort_by(|a, b| a.p.total_cmp(&b.p).then(b.r.total_cmp(&a.r)).then_with(|| (&a.a, &a.b).cmp(&(&b.a, &b.b))));
    let mut least = 1.0;
    for (rank, found) in found.iter_mut().enumerate().rev() {
        least = f64::min(least, found.p * comparisons as f64 / (rank + 1) as f64);
        found.p = least;
    }
    found.retain(|found| found.p <= MOST_P);
    found.truncate(MAX_LISTED);
    found
}

/// Returns the minutes at which the stretches out of line begin, of which those that are less than the largest lag apart are one.
/// One that was there when the hour began is left out: nobody knows when it began.
fn begins(hour: &Hour) -> Vec<usize> {
    let mut begins = Vec::new();
    let mut last: Option<usize> = None;
    for minute in (0..BUCKETS).filter(|minute| hour.deviation(*minute).is_some_and(|off| off >= OUT)) {
        if minute > 0 && last.is_none_or(|last| minute - last > MAX_LAG) {
            begins.push(minute);
        }
        last = Some(minute);
    }
    begins
}

/// Returns the probability that as many stretches begin within `lag` minutes of one of the other signal, or within the least
/// distance that any two have, by chance; 1 where none do.
fn coincidence(a: &[usize], b: &[usize], lag: usize) -> f64 {
    let (few, many) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let nearest: Vec<usize> =
        few.iter().filter_map(|begin| many.iter().map(|other| begin.abs_diff(*other)).min()).collect();
    let Some(within) = nearest.iter().min().map(|least| lag.max(*least)).filter(|within| *within <= MAX_LAG) else {
        return 1.0;
    };
    let coincide = nearest.iter().filter(|distance| **distance <= within).count();
    let chance = (many.len() as f64 * (2 * within + 1) as f64 / BUCKETS as f64).min(1.0);
    at_least(few.len(), chance, coincide)
}

/// Returns the probability of at least `hits` of `trials` independent ones (the upper tail of the binomial distribution).
fn at_least(trials: usize, chance: f64, hits: usize) -> f64 {
    let mut term = 1.0;
    let mut sum = 0.0;
    for k in 0..=trials {
        if k >= hits {
            sum += term * chance.powi(k as i32) * (1.0 - chance).powi((trials - k) as i32);
        }
        term *= (trials - k) as f64 / (k + 1) as f64;
    }
    sum.min(1.0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coincidences_are_as_likely_as_minutes_are_near() {
        let near = |a: &[usize], b: &[usize], lag| coincidence(a, b, lag);
        assert!((near(&[20], &[20], 0) - 1.0 / 60.0).abs() < 1e-12);
        assert!((near(&[20], &[21], 1) - 3.0 / 60.0).abs() < 1e-12);
        assert_eq!((near(&[20], &[40], 0), near(&[], &[40], 0)), (1.0, 1.0));
        // Three of three, each with three minutes in sixty.
        assert!((near(&[5, 20, 40], &[5, 20, 40], 0) - 0.05f64.powi(3)).abs() < 1e-12);
        assert!((at_least(4, 0.5, 3) - 5.0 / 16.0).abs() < 1e-12);
    }

    #[test]
    fn correlation_of_what_never_changes_is_zero() {
        assert_eq!(pearson(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]), 0.0);
        assert!((pearson(&[1.0, 2.0, 3.0], &[-2.0, -4.0, -6.0]) + 1.0).abs() < 1e-12);
    }
}
