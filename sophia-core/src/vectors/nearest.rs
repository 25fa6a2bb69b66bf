//! The nearest of many vectors, in two passes: all by the upper halves of their bytes, and the best of these by all.

use std::cmp::Ordering;

use super::bytes::{ByteVectors, CHUNK_ROWS, Needle};

/// For each row that is wanted, so many of the nearest by half of their bytes are compared by all. So nothing that is among
/// the nearest is missed in practice (measured by `benches/rust/search.rs`).
const ROUGH_EACH: usize = 2;

/// A vector that was found: an approximate cosine, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Near {
    pub cosine: f32,
    pub place: u32,
}

/// What a scan found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Best first; of equals the newest first.
    pub near: Vec<Near>,
    /// Least cosine of all that was compared, about; 0 at most.
    pub least: f32,
}

impl ByteVectors {
    /// Finds the `count` nearest of the rows that may be found, which is asked only of those that are near.
    pub fn nearest(&self, needle: &Needle, count: usize, may: impl Fn(u32) -> bool) -> Scan {
        if !self.compares(needle) || count == 0 {
            return Scan::default();
        }
        let enough = count.saturating_mul(ROUGH_EACH);
        if self.len() <= enough {
            return self.go_through(count, may, |first, cosines| self.cosines(needle, first, cosines));
        }
        let rough = self.go_through(enough, may, |first, cosines| self.rough_cosines(needle, first, cosines));
        let near = self.nearest_of(needle, count, rough.near.iter().map(|near| near.place)).near;
        Scan { near, least: rough.least }
    }

    /// Finds the `count` nearest of these rows.
    pub fn nearest_of(&self, needle: &Needle, count: usize, places: impl Iterator<Item = u32>) -> Scan {
        if !self.compares(needle) || count == 0 {
            return Scan::default();
        }
        let mut best = Best::new(count);
        for place in places {
            if let Some(cosine) = self.cosine(needle, place as usize) {
                best.least[0] = best.least[0].min(cosine);
                best.take(Near { cosine, place });
            }
        }
        best.into_scan()
    }

    fn compares(&self, needle: &Needle) -> bool {
        needle.dimensions() == self.dimensions() && self.dimensions() > 0
    }

    /// Finds the nearest of all rows, by what `compare` makes of those from a place on.
    fn go_through(&self, count: usize, may: impl Fn(u32) -> bool, compare: impl Fn(usize, &mut [f32])) -> Scan {
        let mut best = Best::new(count);
        let mut cosines = [0.0; CHUNK_ROWS];
        for first in (0..self.len()).step_by(CHUNK_ROWS) {
            let rows = CHUNK_ROWS.min(self.len() - first);
            compare(first, &mut cosines[..rows]);
            // What is left of the last chunk is near nothing.
            cosines[rows..].fill(0.0);
            for (number, few) in cosines.as_chunks::<FEW_ROWS>().0.iter().enumerate() {
                // Nearly always none is good enough.
                if !best.sees(few) {
                    continue;
                }
                for (place, cosine) in (first + number * FEW_ROWS..first + rows).zip(few) {
                    let near = Near { cosine: *cosine, place: place as u32 };
                    if *cosine >= best.floor && self.has(place) && may(near.place) {
                        best.take(near);
                    }
                }
            }
        }
        best.into_scan()
    }
}

/// Rows whose cosines are compared together, and how many at once.
const FEW_ROWS: usize = 32;
const LANES: usize = 8;

/// The best of what was offered.
struct Best {
    count: usize,
    /// At most twice as many as are wanted: half of them go at once, which is cheaper than to keep them in order.
    kept: Vec<Near>,
    /// What is below is not among the best.
    floor: f32,
    /// The least that was seen, 0 at most; together they are one.
    least: [f32; LANES],
}

impl Best {
    fn new(count: usize) -> Best {
        Best { count, kept: Vec::new(), floor: f32::NEG_INFINITY, least: [0.0; LANES] }
    }

    /// Takes note of what was compared; returns whether some of it may be among the best.
    fn sees(&mut self, cosines: &[f32; FEW_ROWS]) -> bool {
        // Side by side, so that the compiler compares several at once.
        let mut greatest = [f32::NEG_INFINITY; LANES];
        for lanes in cosines.as_chunks::<LANES>().0 {
            for ((cosine, least), greatest) in lanes.iter().zip(&mut self.least).zip(&mut greatest) {
                *least = if *cosine < *least { *cosine } else { *least };
                *greatest = if *cosine > *greatest { *cosine } else { *greatest };
            }
        }
        greatest.iter().any(|greatest| *greatest >= self.floor)
    }

    /// Takes what may be among the best.
    fn take(&mut self, near: Near) {
        if near.cosine < self.floor {
            return;
        }
        self.kept.push(near);
        if self.kept.len() >= 2 * self.count {
            self.kept.select_nth_unstable_by(self.count - 1, best_first);
            self.kept.truncate(self.count);
            self.floor = self.kept[self.count - 1].cosine;
        }
    }

    fn into_scan(mut self) -> Scan {
        self.kept.sort_unstable_by(best_first);
        self.kept.truncate(self.count);
        Scan { near: self.kept, least: self.least.into_iter().fold(0.0, f32::min) }
    }
}

/// By cosine, of equals the newest, so that equal cosines give the same answer every time.
fn best_first(a: &Near, b: &Near) -> Ordering {
    b.cosine.total_cmp(&a.cosine).then(b.place.cmp(&a.place))
}
