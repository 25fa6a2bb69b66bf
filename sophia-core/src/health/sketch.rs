//! Quantiles of a stream in bounded memory.
//!
//! DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees",
//! VLDB 2019): values fall into bins that grow by a constant factor, and when there are too many bins the lowest collapse. Bins in
//! which nothing fell take no room (the paper's sparse store): a few values far from the others cost the others nothing.

use std::collections::BTreeMap;

/// Relative error of a quantile.
const ACCURACY: f64 = 0.04;
/// ln γ with γ = (1 + accuracy) / (1 − accuracy).
const LN_GAMMA: f64 = 0.080_042_707_673_536_56;
/// Bins of values above zero: a range of 2,170 : 1 without a gap before the lowest collapse.
const MAX_POSITIVE_BINS: usize = 96;
/// Bins of values below zero, which are rare: 13 : 1.
const MAX_NEGATIVE_BINS: usize = 32;
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

    /// Returns how many values were added.
    pub fn count(&self) -> u32 {
        let sum = |bins: &Bins| bins.counts.iter().fold(0, |sum: u32, count| sum.saturating_add(*count));
        sum(&self.positive).saturating_add(sum(&self.negative)).saturating_add(self.zeros)
    }

    /// Forgets everything, and keeps the room.
    pub fn clear(&mut self) {
        self.positive.clear();
        self.negative.clear();
        self.zeros = 0;
    }
}

/// Returns the quantiles `qs` (0..1) over all sketches, of each of which only a share (0..1) of its counts is taken, or `None`
/// when they hold nothing.
pub(super) fn quantiles<'a, const N: usize>(
    sketches: impl Iterator<Item = (&'a Sketch, f64)>,
    qs: [f64; N],
) -> Option<[f64; N]> {
    // Ordered by value: negative bins from the largest magnitude, zero, positive bins.
    let mut counts: BTreeMap<(i8, i32), f64> = BTreeMap::new();
    for (sketch, share) in sketches.filter(|(_, share)| *share > 0.0) {
        for (key, count) in sketch.negative.iter() {
            *counts.entry((-1, -key)).or_default() += f64::from(count) * share;
        }
        if sketch.zeros > 0 {
            *counts.entry((0, 0)).or_default() += f64::from(sketch.zeros) * share;
        }
        for (key, count) in sketch.positive.iter() {
            *counts.entry((1, key)).or_default() += f64::from(count) * share;
        }
    }
    let total: f64 = counts.values().sum();
    let last = *counts.last_key_value()?.0;
    Some(qs.map(|q| {
        let rank = (q.clamp(0.0, 1.0) * (total - 1.0).max(0.0)).round();
        let mut seen = 0.0;
        let reached = counts.iter().find(|(_, count)| {
            seen += **count;
            seen > rank
        });
        let (sign, key) = reached.map_or(last, |(key, _)| *key);
        f64::from(sign) * magnitude(f64::from(key * i32::from(sign)))
    }))
}

fn key(value: f64) -> i16 {
    // A double's logarithm over ln γ stays below 10,000 either way.
    (value.ln() / LN_GAMMA).ceil() as i16
}

/// The value in the middle of a bin, in the sense of relative error.
fn magnitude(key: f64) -> f64 {
    (key * LN_GAMMA).exp() * (1.0 - ACCURACY)
}

/// Bins in which something fell, the lowest first.
#[derive(Debug, Clone, Default)]
struct Bins {
    keys: Vec<i16>,
    counts: Vec<u32>,
}

impl Bins {
    fn add(&mut self, key: i16, max: usize, weight: u32) {
        match self.keys.binary_search(&key) {
            Ok(at) => self.counts[at] = self.counts[at].saturating_add(weight),
            Err(at) if self.keys.len() < max => {
                if self.keys.len() == self.keys.capacity() {
                    let room = max - self.keys.len();
                    let more = self.keys.len().clamp(4.min(room), room);
                    self.keys.reserve_exact(more);
                    self.counts.reserve_exact(more);
                }
                self.keys.insert(at, key);
                self.counts.insert(at, weight);
            }
            // Lower than all: it falls into what collapsed.
            Err(0) => self.counts[0] = self.counts[0].saturating_add(weight),
            // The lowest collapses into the second lowest, which is this one,
            Err(1) => {
                self.keys[0] = key;
                self.counts[0] = self.counts[0].saturating_add(weight);
            }
            // or the next one, and those below this one move down.
            Err(at) => {
                self.counts[1] = self.counts[1].saturating_add(self.counts[0]);
                self.keys.copy_within(1..at, 0);
                self.counts.copy_within(1..at, 0);
                (self.keys[at - 1], self.counts[at - 1]) = (key, weight);
            }
        }
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.counts.clear();
    }

    fn iter(&self) -> impl Iterator<Item = (i32, u32)> {
        self.keys.iter().map(|key| i32::from(*key)).zip(self.counts.iter().copied())
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

    /// The quantiles of whole sketches.
    fn whole<const N: usize>(sketches: &[Sketch], qs: [f64; N]) -> Option<[f64; N]> {
        quantiles(sketches.iter().map(|sketch| (sketch, 1.0)), qs)
    }

    #[test]
    fn an_empty_sketch_knows_no_quantile() {
        assert_eq!(whole(&[Sketch::default()], [0.5]), None);
    }

    #[test]
    fn ln_gamma_is_that_of_the_accuracy() {
        assert!((LN_GAMMA - ((1.0 + ACCURACY) / (1.0 - ACCURACY)).ln()).abs() < 1e-12);
    }

    #[test]
    fn quantiles_of_several_sketches_are_those_of_all_values() {
        let halves = [sketch((1..=500).map(f64::from)), sketch((501..=1000).map(f64::from))];
        let [p50, p99] = whole(&halves, [0.5, 0.99]).unwrap();
        assert!((p50 / 500.0 - 1.0).abs() < 0.05 && (p99 / 990.0 - 1.0).abs() < 0.05, "{p50} {p99}");
    }

    #[test]
    fn a_range_that_is_too_wide_keeps_its_upper_quantiles() {
        let sketch = sketch((-200..=200).map(|exponent| 10f64.powi(exponent)));
        assert_eq!(
            (sketch.positive.keys.len(), sketch.positive.keys.capacity()),
            (MAX_POSITIVE_BINS, MAX_POSITIVE_BINS)
        );
        // Of 401 powers of ten the highest 95 are in bins of their own.
        let [p80, max] = whole(&[sketch], [0.8, 1.0]).unwrap();
        assert!((p80 / 1e120 - 1.0).abs() < 0.05 && (max / 1e200 - 1.0).abs() < 0.05, "{p80} {max}");
    }

    #[test]
    fn values_far_from_each_other_keep_their_quantiles() {
        let many = |few: f64, count: usize, rest: f64| {
            let values = std::iter::repeat_n(few, count).chain(std::iter::repeat_n(rest, 1_000 - count));
            let mut ways = [sketch(values.clone()), Sketch::default()];
            values.collect::<Vec<_>>().iter().rev().for_each(|value| ways[1].add(*value, 1));
            ways.map(|sketch| whole(&[sketch], [0.5, 0.99]).unwrap())
        };
        for (few, count, rest) in [(0.001, 900, 1e6), (512.0, 600, 1e9), (5.0, 985, 1e9), (-1.0, 900, -1_000.0)] {
            for [p50, p99] in many(few, count, rest) {
                let (low, high) = if rest < few { (few, few) } else { (few, rest) };
                assert!((p50 / low - 1.0).abs() < 0.05 && (p99 / high - 1.0).abs() < 0.05, "{few}: {p50} {p99}");
            }
        }
    }

    #[test]
    fn values_below_zero_keep_their_order() {
        let [low, middle, high] = whole(&[sketch([-100.0, -1.0, 0.0, 5.0, 50.0])], [0.0, 0.5, 1.0]).unwrap();
        assert!(
            (low / -100.0 - 1.0).abs() < 0.05 && middle == 0.0 && (high / 50.0 - 1.0).abs() < 0.05,
            "{low} {middle} {high}"
        );
    }

    proptest! {
        #[test]
        fn quantiles_have_a_bounded_relative_error(mut values in prop::collection::vec(25f64..50_000.0, 1..300), q in 0.0f64..1.0) {
            let [got] = whole(&[sketch(values.iter().copied())], [q]).unwrap();
            values.sort_by(f64::total_cmp);
            let want = values[(q * (values.len() - 1) as f64).round() as usize];
            prop_assert!((got / want - 1.0).abs() <= ACCURACY + 1e-9, "{} for {}", got, want);
        }
    }
}
