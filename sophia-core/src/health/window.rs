//! The last hour of one signal: a ring of 60 buckets of 60 s, and its quantiles.

use super::sketch::{Sketch, quantiles};

/// Length of a bucket.
pub(super) const BUCKET_S: i64 = 60;
/// Buckets in a window.
pub(super) const BUCKETS: usize = 60;
/// Buckets in the ring: a little more than the window, so that a point that was in it a moment ago still has a place.
const RING: usize = 64;
/// Quantiles are kept for ten minutes at a time: 60 sketches would be too much, and one could not forget. The seventh is the one
/// of which only a part is within the hour.
const SLICE_MINUTES: i64 = 10;
const SLICES: usize = 7;

/// What fell into one minute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bucket {
    minute: i32,
    pub count: u32,
    /// The sum, times [`SCALE`].
    sum: f64,
    pub min: f64,
    pub max: f64,
}

/// Sums are kept at 2⁻⁶⁴ of their size, which is exact and leaves room for as many of the largest numbers as can be counted.
const SCALE: f64 = 1.0 / (1u128 << 64) as f64;

const EMPTY: Bucket = Bucket { minute: i32::MIN, count: 0, sum: 0.0, min: 0.0, max: 0.0 };

impl Default for Bucket {
    fn default() -> Self {
        EMPTY
    }
}

impl Bucket {
    /// Returns the mean, unless nothing fell into it.
    pub fn mean(&self) -> Option<f64> {
        // Rounded, the largest number's mean may be a little larger.
        (self.count > 0).then(|| (self.sum / f64::from(self.count) / SCALE).clamp(self.min, self.max))
    }

    /// Takes in what fell into another bucket.
    pub fn merge(&mut self, other: &Bucket) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = Bucket { minute: self.minute, ..*other };
            return;
        }
        self.count = self.count.saturating_add(other.count);
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

/// The last hour of one signal. At most 8 KB.
#[derive(Debug)]
pub(super) struct Window {
    ring: Box<[Bucket; RING]>,
    slices: Box<[(i64, Sketch); SLICES]>,
}

impl Default for Window {
    fn default() -> Self {
        Window {
            ring: Box::new([EMPTY; RING]),
            slices: Box::new(std::array::from_fn(|_| (i64::MIN, Sketch::default()))),
        }
    }
}

/// Returns the minute since 1970 that a time in seconds falls into.
pub(super) fn minute_of(second: i64) -> i64 {
    second.div_euclid(BUCKET_S)
}

impl Window {
    /// Adds a finite value, `weight` times, to the bucket of its minute; one that is older than the ring is passed over.
    pub fn add(&mut self, minute: i64, value: f64, weight: u32) {
        // Minutes fit 32 bits until the year 6053.
        let Ok(short) = i32::try_from(minute) else { return };
        let bucket = &mut self.ring[minute.rem_euclid(RING as i64) as usize];
        if bucket.minute < short {
            *bucket =
                Bucket { minute: short, count: weight, sum: value * SCALE * f64::from(weight), min: value, max: value };
        } else if bucket.minute == short {
            bucket.count = bucket.count.saturating_add(weight);
            bucket.sum += value * SCALE * f64::from(weight);
            bucket.min = bucket.min.min(value);
            bucket.max = bucket.max.max(value);
        } else {
            return;
        }
        let slice = minute.div_euclid(SLICE_MINUTES);
        let (epoch, sketch) = &mut self.slices[slice.rem_euclid(SLICES as i64) as usize];
        if *epoch < slice {
            *epoch = slice;
            sketch.clear();
        }
        if *epoch == slice {
            sketch.add(value, weight);
        }
    }

    /// Returns the bucket of a minute, empty when nothing fell into it.
    pub fn bucket(&self, minute: i64) -> Bucket {
        let bucket = self.ring[minute.rem_euclid(RING as i64) as usize];
        if i64::from(bucket.minute) == minute { bucket } else { EMPTY }
    }

    /// Returns the buckets of the hour that ends with the minute `now`, oldest first.
    pub fn hour(&self, now: i64) -> impl Iterator<Item = Bucket> {
        (0..BUCKETS as i64).rev().map(move |back| self.bucket(now - back))
    }

    /// Returns what fell into the `minutes` that end with the minute `now`.
    pub fn last(&self, now: i64, minutes: usize) -> Bucket {
        let mut total = EMPTY;
        for back in 0..minutes.min(BUCKETS) as i64 {
            total.merge(&self.bucket(now - back));
        }
        total
    }

    /// Returns p50, p95 and p99 of the hour that ends with the minute `now`. Of the ten minutes that are partly within it, as much
    /// counts as there are points in that part.
    pub fn quantiles(&self, now: i64) -> Option<[f64; 3]> {
        let first = now - BUCKETS as i64 + 1;
        let points = |from: i64, to: i64| (from..to).map(|minute| f64::from(self.bucket(minute).count)).sum::<f64>();
        let live = self.slices.iter().filter_map(|(slice, sketch)| {
            let begin = slice.checked_mul(SLICE_MINUTES)?;
            let end = begin + SLICE_MINUTES;
            let share = match () {
                () if end <= first || begin > now => return None,
                () if begin >= first => 1.0,
                // The ring holds four minutes before the hour; a slice counts all that fell into it.
                () => points(first, end) / f64::from(sketch.count().max(1)),
            };
            Some((sketch, share))
        });
        quantiles(live, [0.5, 0.95, 0.99])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 29_000_000;

    #[test]
    fn points_land_in_the_bucket_of_their_minute() {
        let mut window = Window::default();
        window.add(NOW - 59, 1.0, 1);
        window.add(NOW, 2.0, 1);
        window.add(NOW, 4.0, 1);
        let hour: Vec<_> = window.hour(NOW).collect();
        assert_eq!((hour.len(), hour[0].mean(), hour[1].mean(), hour[59].mean()), (60, Some(1.0), None, Some(3.0)));
        assert_eq!((hour[59].count, hour[59].min, hour[59].max), (2, 2.0, 4.0));
    }

    #[test]
    fn an_hour_later_nothing_is_left() {
        let mut window = Window::default();
        window.add(NOW, 1.0, 1);
        assert!(window.hour(NOW + 60).all(|bucket| bucket.count == 0));
        assert_eq!(window.quantiles(NOW + 60), None);
    }

    #[test]
    fn quantiles_are_those_of_a_full_hour_at_each_minute_of_it() {
        for now in NOW..NOW + 10 {
            for back in [0, 30, 50, 55, 59] {
                let mut window = Window::default();
                window.add(now - back, 7.0, 100);
                let [p50, ..] = window.quantiles(now).unwrap();
                assert!((p50 / 7.0 - 1.0).abs() < 0.05, "{back} min ago: {p50}");
                assert_eq!(window.quantiles(now + 60 - back), None, "{back} min ago, an hour later");
            }
            // Eight of sixty minutes are slow: at the 86th percentile and above.
            let mut window = Window::default();
            for back in (0..70).rev() {
                window.add(now - back, if (52..60).contains(&back) { 1_000.0 } else { 10.0 }, 5);
            }
            let [p50, p95, p99] = window.quantiles(now).unwrap();
            assert!(p50 < 11.0 && p95 > 950.0 && p99 > 950.0, "{p50} {p95} {p99}");
        }
    }

    #[test]
    fn a_point_from_before_the_ring_does_not_overwrite_a_later_one() {
        let mut window = Window::default();
        window.add(NOW, 1.0, 1);
        window.add(NOW - RING as i64, 9.0, 1);
        assert_eq!(window.bucket(NOW).mean(), Some(1.0));
    }

    #[test]
    fn a_window_is_small() {
        let mut window = Window::default();
        for minute in 0..70 {
            for exponent in -100..100 {
                window.add(NOW + minute, 10f64.powi(exponent), 1);
                window.add(NOW + minute, -(10f64.powi(exponent)), 1);
            }
        }
        let sketches: usize = window.slices.iter().map(|(_, sketch)| sketch.size()).sum();
        let size = sketches + size_of_val(&*window.ring) + size_of_val(&*window.slices);
        assert!(size <= 8_192, "{size}");
    }

    #[test]
    fn quantiles_are_those_of_the_hour() {
        let mut window = Window::default();
        for minute in 0..60 {
            for value in 1..=100 {
                window.add(NOW - minute, f64::from(value), 1);
            }
        }
        let [p50, p95, p99] = window.quantiles(NOW).unwrap();
        assert!((p50 / 50.0 - 1.0).abs() < 0.06 && (p95 / 95.0 - 1.0).abs() < 0.06 && (p99 / 99.0 - 1.0).abs() < 0.06);
    }
}
