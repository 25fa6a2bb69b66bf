//! Quantiles of a stream in bounded memory.
//!
//! DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees",
//! VLDB 2019): values fall into bins that grow by a constant factor, and when there are too many bins the lowest collapse.

use std::collections::BTreeMap;

/// Relative error of a quantile.
const ACCURACY: f64 = 0.04;
/// ln γ with γ = (1 + accuracy) / (1 − accuracy).
const LN_GAMMA: f64 = 0.080_042_707_673_536_56;
/// Bins of values above zero: a range of 362,000 : 1 before the lowest collapse.
const MAX_POSITIVE_BINS: usize = 160;
/// Bins of values below zero, which are rare: 167 : 1.
const MAX_NEGATIVE_BINS: usize = 64;
/// Nearer to zero than this is zero.
const SMALLEST: f64 = 1e-9;

/// Counts of values by logarithmic bin: at most 0.9 KB.
#[derive(Debug, Clone, Default)]
pub(super) struct Sketch {
    positive: Bins,
    negative: Bins,
    zeros: u32,
}

impl Sketch {
    /// Adds one finite value, `weight` times.
    pub fn add(&mut self, value: f64, weight: u32) {
        if value > SMALLEST {
            self.positive.add(key(value), MAX_POSITIVE_BINS, weight);
        } else if value < -SMALLEST {
            self.negative.add(key(-value), MAX_NEGATIVE_BINS, weight);
        } else {
            self.zeros = self.zeros.saturating_add(weight);
        }
    }

    /// Forgets everything, and keeps the room.
    pub fn clear(&mut self) {
        self.positive.counts.clear();
        self.negative.counts.clear();
        self.zeros = 0;
    }
}

/// Returns the quantiles `qs` (0..1) over all sketches, or `None` when they hold nothing.
pub(super) fn quantiles<'a, const N: usize>(
    sketches: impl Iterator<Item = &'a Sketch>,
    qs: [f64; N],
) -> Option<[f64; N]> {
    // Ordered by value: negative bins from the largest magnitude, zero, positive bins.
    let mut counts: BTreeMap<(i8, i64), u64> = BTreeMap::new();
    for sketch in sketches {
        for (key, count) in sketch.negative.iter() {
            *counts.entry((-1, -i64::from(key))).or_default() += u64::from(count);
        }
        if sketch.zeros > 0 {
            *counts.entry((0, 0)).or_default() += u64::from(sketch.zeros);
        }
        for (key, count) in sketch.positive.iter() {
            *counts.entry((1, i64::from(key))).or_default() += u64::from(count);
        }
    }
    let total: u64 = counts.values().sum();
    if total == 0 {
        return None;
    }
    Some(qs.map(|q| {
        let rank = (q.clamp(0.0, 1.0) * (total - 1) as f64).round() as u64;
        let mut seen = 0;
        for ((sign, key), count) in &counts {
            seen += count;
            if seen > rank {
                let sign = f64::from(*sign);
                return sign * magnitude(*key as f64 * sign);
            }
        }
        0.0
    }))
}

fn key(value: f64) -> i32 {
    // A double's logarithm over ln γ stays below 10,000 either way.
    (value.ln() / LN_GAMMA).ceil() as i32
}

/// The value in the middle of a bin, in the sense of relative error.
fn magnitude(key: f64) -> f64 {
    (key * LN_GAMMA).exp() * (1.0 - ACCURACY)
}

#[derive(Debug, Clone, Default)]
struct Bins {
    lowest: i32,
    counts: Vec<u32>,
}

impl Bins {
    fn add(&mut self, key: i32, max: usize, weight: u32) {
        if self.counts.is_empty() {
            self.lowest = key;
        }
        let mut at = i64::from(key) - i64::from(self.lowest);
        if at < 0 {
            let room = max - self.counts.len();
            let more = usize::try_from(-at).unwrap_or(usize::MAX).min(room);
            self.counts.reserve_exact(more);
            self.counts.splice(0..0, std::iter::repeat_n(0, more));
            // At most `max`, which fits.
            self.lowest -= more as i32;
            at = 0;
        } else if at >= max as i64 {
            // The lowest bins collapse into the one that becomes the lowest.
            let excess = usize::try_from(at - max as i64 + 1).unwrap_or(usize::MAX);
            let gone = excess.min(self.counts.len());
            let collapsed: u32 = self.counts.drain(..gone).fold(0, u32::saturating_add);
            self.lowest = key - (max as i32 - 1);
            match self.counts.first_mut() {
                Some(first) => *first = first.saturating_add(collapsed),
                None => self.counts.push(collapsed),
            }
            at = max as i64 - 1;
        }
        // Within 0..max by the lines above.
        let at = at as usize;
        if at >= self.counts.len() {
            self.counts.reserve_exact(at + 1 - self.counts.len());
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] = self.counts[at].saturating_add(weight);
    }

    fn iter(&self) -> impl Iterator<Item = (i32, u32)> {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(at, count)| (self.lowest + at as i32, *count))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch(values: impl IntoIterator<Item = f64>) -> Sketch {
        let mut sketch = Sketch::default();
        values.into_iter().for_each(|value| sketch.add(value, 1));
        sketch
    }

    #[test]
    fn an_empty_sketch_knows_no_quantile() {
        assert_eq!(quantiles([Sketch::default()].iter(), [0.5]), None);
    }

    #[test]
    fn ln_gamma_is_that_of_the_accuracy() {
        assert!((LN_GAMMA - ((1.0 + ACCURACY) / (1.0 - ACCURACY)).ln()).abs() < 1e-12);
    }

    #[test]
    fn quantiles_of_several_sketches_are_those_of_all_values() {
        let halves = [sketch((1..=500).map(f64::from)), sketch((501..=1000).map(f64::from))];
        let [p50, p99] = quantiles(halves.iter(), [0.5, 0.99]).unwrap();
        assert!((p50 / 500.0 - 1.0).abs() < 0.05 && (p99 / 990.0 - 1.0).abs() < 0.05, "{p50} {p99}");
    }

    #[test]
    fn a_range_that_is_too_wide_keeps_its_upper_quantiles() {
        let sketch = sketch((-200..=200).map(|exponent| 10f64.powi(exponent)));
        assert!(sketch.positive.counts.len() <= MAX_POSITIVE_BINS);
        let [max] = quantiles([sketch].iter(), [1.0]).unwrap();
        assert!((max / 1e200 - 1.0).abs() < 0.05, "{max}");
    }

    #[test]
    fn values_below_zero_keep_their_order() {
        let [low, middle, high] = quantiles([sketch([-100.0, -1.0, 0.0, 5.0, 50.0])].iter(), [0.0, 0.5, 1.0]).unwrap();
        assert!(
            (low / -100.0 - 1.0).abs() < 0.05 && middle == 0.0 && (high / 50.0 - 1.0).abs() < 0.05,
            "{low} {middle} {high}"
        );
    }

    proptest! {
        #[test]
        fn quantiles_have_a_bounded_relative_error(mut values in prop::collection::vec(0.5f64..50_000.0, 1..300), q in 0.0f64..1.0) {
            let [got] = quantiles([sketch(values.iter().copied())].iter(), [q]).unwrap();
            values.sort_by(f64::total_cmp);
            let want = values[(q * (values.len() - 1) as f64).round() as usize];
            prop_assert!((got / want - 1.0).abs() <= ACCURACY + 1e-9, "{} for {}", got, want);
        }
    }
}
