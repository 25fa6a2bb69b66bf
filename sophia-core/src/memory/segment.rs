//! One contiguous block of int8 vectors, scanned whole: exact in practice, and nothing to corrupt.
//!
//! It is derived from the store and can be built again at any time. What it finds is settled by the exact vectors.

use std::{cmp::Reverse, collections::BinaryHeap, collections::HashMap};

/// Vectors of one model in one scope wall.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    dimensions: usize,
    values: Vec<i8>,
    scales: Vec<f32>,
    rows: Vec<Row>,
    places: HashMap<i64, usize>,
}

/// What a vector belongs to, and until when it may be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub seq: i64,
    pub archived: bool,
    /// Microseconds since 1970; `i64::MAX` is never.
    pub expires_at: i64,
}

/// A vector that was found: an approximate cosine, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Near {
    pub cosine: f32,
    pub seq: i64,
}

/// What a scan found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Best first.
    pub near: Vec<Near>,
    /// Least and greatest cosine of all that was scanned.
    pub range: Option<(f32, f32)>,
}

impl Segment {
    pub fn new(dimensions: usize) -> Segment {
        Segment { dimensions, ..Segment::default() }
    }

    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Vectors that it holds.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.values.capacity()
            + self.rows.capacity() * (size_of::<Row>() + size_of::<f32>() + 2 * size_of::<(i64, usize)>())
    }

    /// Puts a vector of length one, in place of the one that its row had.
    pub fn put(&mut self, row: Row, vector: &[f32]) {
        if vector.len() != self.dimensions {
            self.remove(row.seq);
            return;
        }
        let (quantized, scale) = quantize(vector);
        match self.places.get(&row.seq) {
            Some(&place) => {
                self.values[place * self.dimensions..][..self.dimensions].copy_from_slice(&quantized);
                self.scales[place] = scale;
                self.rows[place] = row;
            }
            None => {
                self.places.insert(row.seq, self.rows.len());
                self.values.extend_from_slice(&quantized);
                self.scales.push(scale);
                self.rows.push(row);
            }
        }
    }

    /// Removes a vector; the last one takes its place.
    pub fn remove(&mut self, seq: i64) {
        let Some(place) = self.places.remove(&seq) else { return };
        let last = self.rows.len() - 1;
        self.values.copy_within(last * self.dimensions..(last + 1) * self.dimensions, place * self.dimensions);
        self.values.truncate(last * self.dimensions);
        self.scales.swap_remove(place);
        self.rows.swap_remove(place);
        if place < last {
            self.places.insert(self.rows[place].seq, place);
        }
    }

    /// Finds the `count` nearest rows that `keep` lets through.
    pub fn scan(&self, query: &[f32], count: usize, keep: impl Fn(&Row) -> bool) -> Scan {
        if query.len() != self.dimensions || self.dimensions == 0 || count == 0 {
            return Scan::default();
        }
        let (quantized, query_scale) = quantize(query);
        let mut best: BinaryHeap<Reverse<Ranked>> = BinaryHeap::with_capacity(count + 1);
        let mut range: Option<(f32, f32)> = None;
        for ((values, scale), row) in self.values.chunks_exact(self.dimensions).zip(&self.scales).zip(&self.rows) {
            if !keep(row) {
                continue;
            }
            let cosine = dot(&quantized, values) as f32 * scale * query_scale;
            range = Some(range.map_or((cosine, cosine), |(low, high)| (low.min(cosine), high.max(cosine))));
            let ranked = Ranked { cosine, seq: row.seq };
            if best.len() < count {
                best.push(Reverse(ranked));
            } else if best.peek().is_some_and(|Reverse(least)| ranked > *least) {
                best.pop();
                best.push(Reverse(ranked));
            }
        }
        // Ascending order of `Reverse` is descending order of what it holds.
        let near = best.into_sorted_vec().into_iter().map(|Reverse(r)| Near { cosine: r.cosine, seq: r.seq }).collect();
        Scan { near, range }
    }
}

/// Ordered by cosine, then by age, so that equal cosines give the same answer every time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ranked {
    cosine: f32,
    seq: i64,
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.cosine.total_cmp(&other.cosine).then(self.seq.cmp(&other.seq))
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

/// Multiplies two vectors of bytes. The compiler makes SIMD code of it; kernels chosen at run time go here.
fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seq: i64) -> Row {
        Row { seq, archived: false, expires_at: i64::MAX }
    }

    fn seqs(scan: &Scan) -> Vec<i64> {
        scan.near.iter().map(|near| near.seq).collect()
    }

    #[test]
    fn the_nearest_come_first_and_the_newer_of_equals() {
        let mut segment = Segment::new(2);
        for (seq, vector) in [(1, [1.0, 0.0]), (2, [0.0, 1.0]), (3, [0.6, 0.8]), (4, [1.0, 0.0])] {
            segment.put(row(seq), &vector);
        }
        let scan = segment.scan(&[1.0, 0.0], 3, |_| true);
        assert_eq!(seqs(&scan), [4, 1, 3]);
        assert!((scan.near[2].cosine - 0.6).abs() < 0.02, "{scan:?}");
    }

    #[test]
    fn what_is_removed_or_replaced_is_not_found() {
        let mut segment = Segment::new(2);
        for seq in 1..=4 {
            segment.put(row(seq), &[1.0, 0.0]);
        }
        segment.remove(1);
        segment.remove(3);
        segment.put(row(2), &[0.0, 1.0]);
        assert_eq!((seqs(&segment.scan(&[1.0, 0.0], 9, |_| true)), segment.len()), (vec![4, 2], 2));
        segment.put(row(4), &[1.0]);
        assert_eq!(seqs(&segment.scan(&[1.0, 0.0], 9, |_| true)), [2]);
    }
}
