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
/// Bins: a range of 14,000 : 1 without a gap before the lowest collapse; half of that, by its logarithm, where values lie on both
/// sides of zero.
const MAX_BINS: usize = 120;
/// Nearer to zero than this is zero.
const SMALLEST: f64 = 1e-9;
/// Makes the bin of the smallest value positive, so that the sign of a bin is that of its values.
const OFFSET: i16 = 300;

/// Counts of values by logarithmic bin: at most 0.8 KB.
#[derive(Debug, Clone, Default)]
pub(super) struct Sketch {
    /// Bins in which something fell, in the order of their values: below zero, zero, above.
    bins: Vec<i16>,
    counts: Vec<u32>,
}

impl Sketch {
    /// Adds one finite value, `weight` times.
    pub fn add(&mut self, value: f64, weight: u32) {
        let bin = bin_of(value);
        match self.bins.binary_search(&bin) {
            Ok(at) => self.counts[at] = self.counts[at].saturating_add(weight),
            Err(at) => {
                if self.bins.len() == self.bins.capacity() {
                    // One more than there may be, for the moment before it collapses.
                    let room = MAX_BINS + 1 - self.bins.len();
                    let more = self.bins.len().clamp(4.min(room), room);
                    self.bins.reserve_exact(more);
                    self.counts.reserve_exact(more);
                }
                self.bins.insert(at, bin);
                self.counts.insert(at, weight);
                if self.bins.len() > MAX_BINS {
                    self.collapse();
                }
            }
        }
    }

    /// Puts the values nearest to zero into the next bin away from it.
    fn collapse(&mut self) {
        let below = self.bins.partition_point(|bin| *bin < 0);
        let above = self.bins.partition_point(|bin| *bin <= 0);
        let negative = below.checked_sub(1).and_then(|at| Some((at, at.checked_sub(1)?)));
        let positive = (above + 1 < self.bins.len()).then_some((above, above + 1));
        let size = |(at, _): &(usize, usize)| self.bins[*at].unsigned_abs();
        let Some((from, to)) = [negative, positive].into_iter().flatten().min_by_key(size) else { return };
        self.counts[to] = self.counts[to].saturating_add(self.counts[from]);
        self.bins.remove(from);
        self.counts.remove(from);
    }

    /// Returns how many values were added.
    pub fn count(&self) -> u32 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Returns how many bytes the bins take.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.bins.capacity() * size_of::<i16>() + self.counts.capacity() * size_of::<u32>()
    }

    /// Forgets everything, and keeps the room.
    pub fn clear(&mut self) {
        self.bins.clear();
        self.counts.clear();
    }
}

/// Returns the quantiles `qs` (0..1) over all sketches, of each of which only a share (0..1) of its counts is taken, or `None`
/// when they hold nothing.
pub(super) fn quantiles<'a, const N: usize>(
    sketches: impl Iterator<Item = (&'a Sketch, f64)>,
    qs: [f64; N],
) -> Option<[f64; N]> {
    let mut counts: BTreeMap<i16, f64> = BTreeMap::new();
    for (sketch, share) in sketches.filter(|(_, share)| *share > 0.0) {
        for (bin, count) in sketch.bins.iter().zip(&sketch.counts) {
            *counts.entry(*bin).or_default() += f64::from(*count) * share;
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
        value_of(reached.map_or(last, |(bin, _)| *bin))
    }))
}

fn bin_of(value: f64) -> i16 {
    let size = value.abs();
    if size <= SMALLEST {
        return 0;
    }
    // From −258 for the smallest to 8,868 for the largest double.
    let bin = (size.ln() / LN_GAMMA).ceil() as i16 + OFFSET;
    if value < 0.0 { -bin } else { bin }
}

/// The value in the middle of a bin, in the sense of relative error.
fn value_of(bin: i16) -> f64 {
    let size = (f64::from(bin.unsigned_abs()) - f64::from(OFFSET)) * LN_GAMMA;
    if bin == 0 { 0.0 } else { (size.exp() * (1.0 - ACCURACY)).copysign(f64::from(bin)) }
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
        assert!(sketch.bins.len() == MAX_BINS && sketch.bins.capacity() <= MAX_BINS + 1);
        // Of 401 powers of ten the highest 119 are in bins of their own.
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
        fn quantiles_have_a_bounded_relative_error(mut values in prop::collection::vec(prop_oneof![50.0f64..50_000.0, -2_000.0f64..-500.0], 1..300), q in 0.0f64..1.0) {
            let [got] = whole(&[sketch(values.iter().copied())], [q]).unwrap();
            values.sort_by(f64::total_cmp);
            let want = values[(q * (values.len() - 1) as f64).round() as usize];
            prop_assert!((got / want - 1.0).abs() <= ACCURACY + 1e-9, "{} for {}", got, want);
        }
    }
}
