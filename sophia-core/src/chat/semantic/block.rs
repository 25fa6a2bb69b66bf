//! The vectors of one wall, side by side in memory, each with what it may be compared within.

use crate::vectors::{ByteVectors, Near, Needle};

/// So many of the nearest are looked for: the first of them are then the nearest by all of their bytes, too.
const EXAMINED: usize = 32;

/// Vectors of unit length, each within a fence.
#[derive(Debug, Default)]
pub(super) struct Block {
    vectors: ByteVectors,
    fences: Vec<u64>,
}

impl Block {
    pub fn new(dimensions: usize) -> Block {
        Block { vectors: ByteVectors::new(dimensions), fences: Vec::new() }
    }

    /// Returns how many bytes a vector takes.
    pub fn row_bytes(dimensions: usize) -> usize {
        ByteVectors::row_bytes(dimensions) + size_of::<u64>()
    }

    /// Puts a vector of unit length at the end, within a fence.
    pub fn push(&mut self, vector: &[f32], fence: u64) {
        self.vectors.insert(self.fences.len(), Some(vector));
        self.fences.push(fence);
    }

    /// Removes a vector; the last one takes its place.
    pub fn swap_remove(&mut self, place: usize) {
        self.fences.swap_remove(place);
        self.vectors.copy(self.fences.len(), place);
        self.vectors.truncate(self.fences.len());
    }

    /// Finds the `count` nearest of at least this cosine, best first: those within a fence, or all.
    pub fn nearest(&self, query: &[f32], fence: Option<u64>, count: usize, least: f32) -> Vec<Near> {
        let is_within = |place: u32| fence.is_none_or(|fence| fence == self.fences[place as usize]);
        let mut near = self.vectors.nearest(&Needle::new(query), count.max(EXAMINED), is_within).near;
        near.truncate(count);
        near.retain(|near| near.cosine >= least);
        near
    }
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
        assert!((found[0].cosine - 0.1_f32.cos()).abs() < 0.005);
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
            found += usize::from(
                first.is_some_and(|first| first.place as usize == place && (first.cosine - exact).abs() < 0.005),
            );
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
