//! The hour of every signal, side by side: when each was out of line, and by how much.

use std::sync::Arc;

use super::{
    series::Series,
    window::{BUCKETS, minute_of},
};
use crate::Direction;

/// Fewest minutes with points from which anything is concluded.
pub(super) const LEAST_MINUTES: usize = 10;
/// Distance from the usual, in deviations, that is out of line.
pub(super) const OUT: f64 = 4.0;
/// Minutes in a row that must be out of line: one is an accident.
const LEAST_RUN: usize = 2;
/// Fewest minutes of which it can be said what is usual, where the others are one long stretch out of line.
const LEAST_USUAL: usize = 5;
/// Share of such a stretch that must be out of line, and of what is out of line that must be one stretch.
const LEAST_APART: f64 = 0.9;
const LEAST_TOGETHER: f64 = 0.8;

/// A number beyond is none that anyone measured. Squares of sums of such are numbers, and so are their products.
pub(super) const LARGEST: f64 = 1e60;

/// The hour of one signal.
#[derive(Debug, Clone)]
pub(super) struct Hour {
    pub service: Arc<str>,
    pub metric: Arc<str>,
    pub direction: Direction,
    /// Mean of each minute, oldest first.
    pub means: [Option<f64>; BUCKETS],
    /// Points of each minute.
    pub counts: [u32; BUCKETS],
    /// What is usual: the median of the minutes, without a stretch out of line that is too long for a median.
    pub usual: f64,
    /// How far from the usual a minute usually is: the largest of IQR / 1.349, MAD and 1 % of the usual; where most are equal,
    /// of 1.253 times the mean distance.
    pub spread: f64,
    /// The last and longest stretch that was out of line: first and last minute of the hour.
    pub episode: Option<(usize, usize)>,
}

impl Hour {
    /// Reads the hour that ends with the minute `now`; `None` when there is too little of it.
    pub fn of(series: &Series, now: i64) -> Option<Hour> {
        let (mut means, mut counts) = ([None; BUCKETS], [0; BUCKETS]);
        let direction = series.with(|state| {
            for (at, bucket) in state.window.hour(now).enumerate() {
                means[at] = bucket.mean().map(|mean| mean.clamp(-LARGEST, LARGEST));
                counts[at] = bucket.count;
            }
            state.direction(&series.metric)
        });
        let mut hour = Hour {
            service: Arc::clone(&series.service),
            metric: Arc::clone(&series.metric),
            direction,
            means,
            counts,
            usual: 0.0,
            spread: 1.0,
            episode: None,
        };
        let values: Vec<f64> = means.iter().flatten().copied().collect();
        if values.len() < LEAST_MINUTES {
            return None;
        }
        (hour.usual, hour.spread) = middle(&values);
        hour.episode = hour.longest_episode().map(|(first, last, _)| (first, last));
        if hour.episode.is_none() {
            hour.find_long_episode(&values);
        }
        Some(hour)
    }

    /// Looks for a stretch that is so long that it widens the spread, or moves the median, by which it is judged.
    ///
    /// The minutes are parted in two where the groups differ most (Otsu 1979), and the bad ones are judged by the good ones
    /// alone. They are a stretch out of line if they lie together, and nearly all of them far from the good ones: what rises,
    /// swings or wanders has no such gap.
    fn find_long_episode(&mut self, values: &[f64]) {
        let Some((low, high)) = parted(values) else { return };
        let low_first = values.first().is_some_and(|first| low.contains(first));
        let (good, bad) = match self.direction {
            Direction::LowerIsBetter => (low, high),
            Direction::HigherIsBetter => (high, low),
            // Where neither way is bad, what was first is usual.
            Direction::Both if low_first => (low, high),
            Direction::Both => (high, low),
        };
        if good.len() < LEAST_USUAL || bad.len() < LEAST_RUN {
            return;
        }
        let before = (self.usual, self.spread);
        (self.usual, self.spread) = middle(&good);
        let mut off: Vec<f64> = bad.iter().map(|value| self.off(*value)).collect();
        off.sort_by(f64::total_cmp);
        let is_apart = quantile(&off, 1.0 - LEAST_APART) >= OUT;
        let episode =
            self.longest_episode().filter(|(_, _, length)| *length as f64 >= LEAST_TOGETHER * bad.len() as f64);
        match episode {
            Some((first, last, _)) if is_apart => self.episode = Some((first, last)),
            _ => (self.usual, self.spread) = before,
        }
    }

    /// Returns how far a minute was out of line in its bad direction, in deviations.
    pub fn deviation(&self, minute: usize) -> Option<f64> {
        Some(self.off(self.means.get(minute).copied().flatten()?))
    }

    fn off(&self, value: f64) -> f64 {
        let off = (value - self.usual) / self.spread;
        match self.direction {
            Direction::LowerIsBetter => off,
            Direction::HigherIsBetter => -off,
            Direction::Both => off.abs(),
        }
    }

    /// Returns the excess of each minute on a scale on which ten times as far is not ten times as much; no points, no excess.
    pub fn excess(&self) -> [f64; BUCKETS] {
        std::array::from_fn(|minute| (self.deviation(minute).unwrap_or_default() - OUT / 2.0).max(0.0).ln_1p())
    }

    /// Returns the longest stretch out of line, the last of equal ones: its first and last minute, and how many of them have
    /// points. A minute without points does not end it.
    fn longest_episode(&self) -> Option<(usize, usize, usize)> {
        let mut best: Option<(usize, usize, usize)> = None;
        let mut run: Option<(usize, usize, usize)> = None;
        for minute in 0..BUCKETS {
            match self.deviation(minute) {
                None => {}
                Some(off) if off >= OUT => {
                    let (first, _, length) = run.unwrap_or((minute, minute, 0));
                    run = Some((first, minute, length + 1));
                    if best.is_none_or(|(_, _, longest)| length + 1 >= longest) {
                        best = run;
                    }
                }
                Some(_) => run = None,
            }
        }
        best.filter(|(_, _, length)| *length >= LEAST_RUN)
    }
}

/// Reads the hour of every signal.
pub(super) fn hours(all: &[Arc<Series>], now_s: i64) -> Vec<Hour> {
    let now = minute_of(now_s);
    all.iter().filter_map(|series| Hour::of(series, now)).collect()
}

/// Parts values in two where the means of the groups differ most for their sizes; `None` where all are equal.
fn parted(values: &[f64]) -> Option<(Vec<f64>, Vec<f64>)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (count, total) = (sorted.len() as f64, sorted.iter().sum::<f64>());
    let (mut below, mut best) = (0.0, None);
    for (at, pair) in sorted.windows(2).enumerate() {
        below += pair[0];
        if pair[0] == pair[1] {
            continue;
        }
        let low = (at + 1) as f64;
        let apart = below / low - (total - below) / (count - low);
        let between = apart * apart * low * (count - low);
        if best.is_none_or(|(most, _)| between > most) {
            best = Some((between, at + 1));
        }
    }
    let high = sorted.split_off(best?.1);
    Some((sorted, high))
}

/// Returns the median of values, and how far from it they usually are.
pub(super) fn middle(values: &[f64]) -> (f64, f64) {
    /// A difference of less than this share of the value is of no interest to anyone.
    const LEAST_SHARE: f64 = 0.01;
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = quantile(&sorted, 0.5);
    let iqr = quantile(&sorted, 0.75) - quantile(&sorted, 0.25);
    let mut off: Vec<f64> = sorted.iter().map(|value| (value - median).abs()).collect();
    off.sort_by(f64::total_cmp);
    let mad = quantile(&off, 0.5);
    let mut spread = (iqr / 1.349).max(mad);
    if spread == 0.0 {
        // Most are equal, such as counts of what is rare: the mean distance knows of the others (Iglewicz and Hoaglin 1993).
        spread = 1.253 * off.iter().sum::<f64>() / off.len().max(1) as f64;
    }
    (median, spread.max(LEAST_SHARE * median.abs()).max(1e-9))
}

/// Returns a quantile of sorted values, between two of them where it falls there; 0 of none.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let low = at.floor() as usize;
    let high = (low + 1).min(last);
    sorted[low] + (sorted[high] - sorted[low]) * (at - at.floor())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_values() {
        assert_eq!([quantile(&[], 0.5), quantile(&[7.0], 0.9), quantile(&[1.0, 2.0, 4.0], 0.75)], [0.0, 7.0, 3.0]);
    }

    #[test]
    fn the_spread_is_not_zero_where_nothing_moves() {
        assert_eq!(middle(&[100.0; 20]), (100.0, 1.0));
    }
}
