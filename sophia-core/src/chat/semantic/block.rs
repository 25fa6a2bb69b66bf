//! The vectors of one wall, side by side in memory, scanned whole.

use std::cmp::Ordering;

/// Vectors of unit length as bytes, each with its scale.
#[derive(Debug, Default)]
pub(super) struct Block {
    dimensions: usize,
    values: Vec<i8>,
    scales: Vec<f32>,
}

/// A vector that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Near {
    pub place: usize,
    /// Cosine, to about a hundredth.
    pub cosine: f32,
}

impl Block {
    pub fn new(dimensions: usize) -> Block {
        Block { dimensions, ..Block::default() }
    }

    /// Puts a vector at the end.
    pub fn push(&mut self, vector: &[f32]) {
        let (values, scale) = quantize(vector);
        self.values.extend_from_slice(&values);
        self.values.resize((self.scales.len() + 1) * self.dimensions, 0);
        self.scales.push(scale);
    }

    /// Removes a vector; the last one takes its place.
    pub fn swap_remove(&mut self, place: usize) {
        let last = self.scales.len().saturating_sub(1);
        self.values.copy_within(last * self.dimensions.., place * self.dimensions);
        self.values.truncate(last * self.dimensions);
        self.scales.swap_remove(place);
    }

    /// Finds the `count` nearest of at least this cosine, best first.
    pub fn nearest(&self, query: &[f32], count: usize, least: f32) -> Vec<Near> {
        let (query, scale) = quantize(query);
        if query.len() != self.dimensions || self.dimensions == 0 || scale == 0.0 {
            return Vec::new();
        }
        let mut best: Vec<Near> = Vec::with_capacity(count + 1);
        let mut least = least;
        let rows = self.values.chunks_exact(self.dimensions).zip(&self.scales);
        for (place, (values, own)) in rows.enumerate() {
            let cosine = dot(&query, values) as f32 * own * scale;
            if cosine < least {
                continue;
            }
            // Few are as near as this: an ordered list is shorter than a heap.
            let at = best.partition_point(|near| near.cosine.total_cmp(&cosine) != Ordering::Less);
            best.insert(at, Near { place, cosine });
            if best.len() > count {
                best.pop();
                least = best.last().map_or(least, |last| last.cosine);
            }
        }
        best
    }
}

/// Scales a vector to bytes; its values are the bytes times the scale.
fn quantize(vector: &[f32]) -> (Vec<i8>, f32) {
    let greatest = vector.iter().fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
    if greatest == 0.0 {
        return (vec![0; vector.len()], 0.0);
    }
    let scale = greatest / f32::from(i8::MAX);
    (vector.iter().map(|value| (value / scale).round() as i8).collect(), scale)
}

/// Multiplies two vectors of bytes. The compiler makes vector instructions of it.
fn dot(a: &[i8], b: &[i8]) -> i32 {
    // In pieces, so that products of 16 bits are added in pairs, as the instructions do.
    a.iter().zip(b).map(|(a, b)| i32::from(i16::from(*a) * i16::from(*b))).sum()
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
        [0.1, 3.0, 0.3, 0.2, 1.5].into_iter().for_each(|angle| block.push(&unit(angle)));
        let found = block.nearest(&unit(0.0), 2, 0.5);
        assert_eq!(found.iter().map(|near| near.place).collect::<Vec<_>>(), [0, 3]);
        assert!((found[0].cosine - 0.1_f32.cos()).abs() < 0.01);
        assert_eq!(block.nearest(&unit(0.0), 9, 0.5).len(), 3);
        assert!(block.nearest(&[0.0; 4], 9, 0.5).is_empty(), "a text without words is near nothing");
    }

    #[test]
    fn the_last_takes_the_place_of_what_is_removed() {
        let mut block = Block::new(4);
        [0.0, 1.0, 2.0].into_iter().for_each(|angle| block.push(&unit(angle)));
        block.swap_remove(0);
        assert_eq!(block.nearest(&unit(2.0), 1, 0.9)[0].place, 0);
        block.swap_remove(1);
        block.swap_remove(0);
        assert!(block.nearest(&unit(2.0), 1, -1.0).is_empty());
    }
}
