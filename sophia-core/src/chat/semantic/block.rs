//! The vectors of one wall, side by side in memory: all are looked at, in two passes.
//!
//! The first pass reads the leading part of each vector, which bounds the cosine from above (Cauchy and Schwarz for the
//! rest); the second takes the exact cosine of those with the highest bounds. The static model puts most of what tells
//! texts apart into its leading dimensions, being made of principal components.

use std::cmp::Ordering;

/// Leading dimensions that the first pass reads: two thirds of what the static model knows.
const LEADING: usize = 96;
/// Vectors of which the second pass takes the exact cosine. Of 500 texts, the nearest of 10,000 others was among them for
/// 99.4 %, and a question that is put in other words is far nearer than that.
const EXAMINED: usize = 64;
/// Values are stored as 16-bit integers, so that the processor's multiply-and-add of pairs is used on every machine.
const SCALE: f32 = 8192.0;

/// Vectors of unit length, with 16 bits a value.
#[derive(Debug, Default)]
pub(super) struct Block {
    dimensions: usize,
    /// How many dimensions lead.
    leading: usize,
    leads: Vec<i16>,
    rests: Vec<i16>,
    /// Length of the rest of each vector.
    rest_norms: Vec<f32>,
    /// What each vector may only be compared within.
    fences: Vec<u64>,
}

/// A vector that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Near {
    pub place: usize,
    /// Cosine, to about a thousandth.
    pub cosine: f32,
}

impl Block {
    pub fn new(dimensions: usize) -> Block {
        Block { dimensions, leading: dimensions.min(LEADING), ..Block::default() }
    }

    /// Returns how many bytes a vector takes.
    pub fn row_bytes(dimensions: usize) -> usize {
        dimensions * size_of::<i16>() + size_of::<f32>() + size_of::<u64>()
    }

    /// Puts a vector of unit length at the end, within a fence.
    pub fn push(&mut self, vector: &[f32], fence: u64) {
        let mut values = quantize(vector);
        values.resize(self.dimensions, 0);
        let (lead, rest) = values.split_at(self.leading);
        self.leads.extend_from_slice(lead);
        self.rests.extend_from_slice(rest);
        self.rest_norms.push(norm(rest));
        self.fences.push(fence);
    }

    /// Removes a vector; the last one takes its place.
    pub fn swap_remove(&mut self, place: usize) {
        swap_remove_row(&mut self.leads, self.leading, place);
        swap_remove_row(&mut self.rests, self.dimensions - self.leading, place);
        self.rest_norms.swap_remove(place);
        self.fences.swap_remove(place);
    }

    /// Finds the `count` nearest of at least this cosine, best first: those within a fence, or all.
    pub fn nearest(&self, query: &[f32], fence: Option<u64>, count: usize, least: f32) -> Vec<Near> {
        if query.len() != self.dimensions || self.dimensions == 0 {
            return Vec::new();
        }
        let query = quantize(query);
        let (lead, rest) = query.split_at(self.leading);
        let mut found: Vec<Near> = self
            .promising(lead, norm(rest), fence, least)
            .into_iter()
            .map(|(place, partial)| Near { place, cosine: partial + dot(rest, self.rest(place)) })
            .filter(|near| near.cosine >= least)
            .collect();
        found.sort_unstable_by(|a, b| b.cosine.total_cmp(&a.cosine).then(a.place.cmp(&b.place)));
        found.truncate(count);
        found
    }

    /// Returns the places whose cosine may be highest, and the part of it that the leading dimensions make.
    fn promising(&self, lead: &[i16], rest_norm: f32, fence: Option<u64>, least: f32) -> Vec<(usize, f32)> {
        let mut best: Vec<(f32, usize, f32)> = Vec::with_capacity(2 * EXAMINED);
        let mut least = least;
        for (place, (own, own_rest)) in self.leads.chunks_exact(self.leading).zip(&self.rest_norms).enumerate() {
            if fence.is_some_and(|fence| fence != self.fences[place]) {
                continue;
            }
            let partial = dot(lead, own);
            let bound = partial + rest_norm * own_rest;
            if bound < least {
                continue;
            }
            best.push((bound, place, partial));
            if best.len() == 2 * EXAMINED {
                // Half of them go at once: cheaper than to keep them in order.
                best.select_nth_unstable_by(EXAMINED - 1, by_bound);
                best.truncate(EXAMINED);
                least = best[EXAMINED - 1].0;
            }
        }
        if best.len() > EXAMINED {
            best.select_nth_unstable_by(EXAMINED - 1, by_bound);
            best.truncate(EXAMINED);
        }
        best.into_iter().map(|(_, place, partial)| (place, partial)).collect()
    }

    fn rest(&self, place: usize) -> &[i16] {
        let length = self.dimensions - self.leading;
        &self.rests[place * length..][..length]
    }
}

fn by_bound(a: &(f32, usize, f32), b: &(f32, usize, f32)) -> Ordering {
    b.0.total_cmp(&a.0)
}

fn swap_remove_row(rows: &mut Vec<i16>, length: usize, place: usize) {
    let last = rows.len().saturating_sub(length);
    rows.copy_within(last.., place * length);
    rows.truncate(last);
}

fn quantize(vector: &[f32]) -> Vec<i16> {
    vector.iter().map(|value| (value * SCALE).round() as i16).collect()
}

fn norm(values: &[i16]) -> f32 {
    dot(values, values).max(0.0).sqrt()
}

/// Multiplies two vectors. The compiler makes vector instructions of it. For vectors of unit length, nothing overflows.
fn dot(a: &[i16], b: &[i16]) -> f32 {
    let sum: i32 = a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
    sum as f32 / (SCALE * SCALE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(angle: f32) -> Vec<f32> {
        vec![angle.cos(), angle.sin(), 0.0, 0.0]
    }

    #[test]
    fn the_nearest_come_first_and_the_far_not_at_all() {
        let mut block = Block::new(4);
        [0.1, 3.0, 0.3, 0.2, 1.5].into_iter().for_each(|angle| block.push(&unit(angle), 0));
        let found = block.nearest(&unit(0.0), Some(0), 2, 0.5);
        assert_eq!(found.iter().map(|near| near.place).collect::<Vec<_>>(), [0, 3]);
        assert!((found[0].cosine - 0.1_f32.cos()).abs() < 0.001);
        assert_eq!(block.nearest(&unit(0.0), None, 9, 0.5).len(), 3);
        assert!(block.nearest(&unit(0.0), Some(1), 9, 0.5).is_empty(), "nothing is within that fence");
        assert!(block.nearest(&[0.0; 4], None, 9, 0.5).is_empty(), "a text without words is near nothing");
    }

    #[test]
    fn what_a_scan_of_all_finds_is_found() {
        // A generator of Marsaglia's (xorshift, 2003); any numbers would do.
        let mut state = 1_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let mut vector = |near: &[f32], share: f32| {
            // Falling, as principal components do.
            let noise = |at: usize, value: f32| value / (1.0 + at as f32 / 40.0);
            let values: Vec<f32> =
                (0..256).map(|at| near.get(at).unwrap_or(&0.0) * share + noise(at, random()) * (1.0 - share)).collect();
            let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
            values.into_iter().map(|value| value / length).collect::<Vec<f32>>()
        };
        let mut block = Block::new(256);
        let others: Vec<_> = (0..2000).map(|_| vector(&[], 0.0)).collect();
        let mut found = 0;
        others.iter().for_each(|other| block.push(other, 0));
        for place in (0..2000).step_by(20) {
            let scaled: Vec<f32> = others[place].iter().map(|value| value * 4.0).collect();
            let near = vector(&scaled, 0.5);
            let exact: f32 = near.iter().zip(&others[place]).map(|(a, b)| a * b).sum();
            let first = block.nearest(&near, Some(0), 4, 0.5).first().copied();
            assert!(exact > 0.5, "{exact}");
            found +=
                usize::from(first.is_some_and(|first| first.place == place && (first.cosine - exact).abs() < 0.005));
        }
        assert_eq!(found, 100);
    }

    #[test]
    fn the_last_takes_the_place_of_what_is_removed() {
        let mut block = Block::new(4);
        [0.0, 1.0, 2.0].into_iter().for_each(|angle| block.push(&unit(angle), 0));
        block.swap_remove(0);
        assert_eq!(block.nearest(&unit(2.0), Some(0), 1, 0.9)[0].place, 0);
        block.swap_remove(1);
        block.swap_remove(0);
        assert!(block.nearest(&unit(2.0), Some(0), 1, -1.0).is_empty());
    }
}
