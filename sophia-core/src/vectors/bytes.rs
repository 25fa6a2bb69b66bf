//! Vectors as bytes, one after the other, the upper half of each byte apart from the lower one.
//!
//! The upper halves alone say what is near: they are half the memory to read, which is what a scan costs. Both together give
//! the dot product of the whole bytes.

use super::kernel;

/// What a byte is raised by before it is cut in two, so that both halves are 0 to 15.
const RAISED: i32 = 128;
/// What a lower half is on average.
const MEAN_LOWER: f32 = 7.5;
/// Scale of a row without a vector, and of one that is zero.
const NO_VECTOR: f32 = 0.0;

/// Rows of values from -127 to 127, each row with what its values are multiplied with.
#[derive(Debug, Default)]
pub(crate) struct ByteVectors {
    dimensions: usize,
    scales: Vec<f32>,
    upper: Vec<u8>,
    lower: Vec<u8>,
}

/// A vector to compare with.
#[derive(Debug)]
pub(crate) struct Needle {
    /// As the rows have them: values of the first half of the dimensions, and of the second one.
    values: [Vec<i8>; 2],
    dimensions: usize,
    sum: i32,
    scale: f32,
}

impl Needle {
    pub fn new(vector: &[f32]) -> Needle {
        let (mut first, scale) = quantize(vector);
        let sum = first.iter().map(|value| i32::from(*value)).sum();
        let mut second = first.split_off(width(first.len()));
        second.resize(first.len(), 0);
        Needle { values: [first, second], dimensions: vector.len(), sum, scale }
    }

    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn dots(&self, rows: &[u8], out: &mut [i32]) {
        kernel::dots([&self.values[0], &self.values[1]], rows, out);
    }
}

impl ByteVectors {
    pub fn new(dimensions: usize) -> ByteVectors {
        ByteVectors { dimensions, ..ByteVectors::default() }
    }

    /// Puts together what [`ByteVectors::scale`] and [`ByteVectors::halves`] gave.
    pub fn from_parts(dimensions: usize, scales: Vec<f32>, upper: Vec<u8>, lower: Vec<u8>) -> ByteVectors {
        debug_assert!([&upper, &lower].iter().all(|half| half.len() == scales.len() * width(dimensions)));
        ByteVectors { dimensions, scales, upper, lower }
    }

    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    pub fn len(&self) -> usize {
        self.scales.len()
    }

    /// Returns how many bytes a row takes.
    pub fn row_bytes(dimensions: usize) -> usize {
        2 * width(dimensions) + size_of::<f32>()
    }

    /// Memory that they take, in bytes.
    pub fn bytes(&self) -> usize {
        self.upper.capacity() + self.lower.capacity() + self.scales.capacity() * size_of::<f32>()
    }

    /// Makes room for so many rows more.
    pub fn reserve(&mut self, rows: usize) {
        self.scales.reserve_exact(rows);
        self.upper.reserve_exact(rows * width(self.dimensions));
        self.lower.reserve_exact(rows * width(self.dimensions));
    }

    /// Returns whether there is a vector in this row.
    pub fn has(&self, place: usize) -> bool {
        self.scales[place] != NO_VECTOR
    }

    /// Returns what the values of a row are multiplied with.
    pub fn scale(&self, place: usize) -> f32 {
        self.scales[place]
    }

    /// Returns the upper and the lower halves of a row, as they are kept.
    pub fn halves(&self, place: usize) -> [&[u8]; 2] {
        let (from, width) = (place * width(self.dimensions), width(self.dimensions));
        [&self.upper[from..][..width], &self.lower[from..][..width]]
    }

    /// Adds a row at a place, which may be the end. What is not a vector of these dimensions is none.
    pub fn insert(&mut self, place: usize, vector: Option<&[f32]>) {
        let (upper, lower, scale) = self.cut(vector);
        let from = place * upper.len();
        self.scales.insert(place, scale);
        self.upper.splice(from..from, upper);
        self.lower.splice(from..from, lower);
    }

    /// Puts a vector in place of what a row had; nothing of that is left.
    pub fn replace(&mut self, place: usize, vector: Option<&[f32]>) {
        let (upper, lower, scale) = self.cut(vector);
        let (from, width) = (place * upper.len(), upper.len());
        self.scales[place] = scale;
        self.upper[from..][..width].copy_from_slice(&upper);
        self.lower[from..][..width].copy_from_slice(&lower);
    }

    /// Copies a row to a place before it.
    pub fn copy(&mut self, from: usize, to: usize) {
        let width = width(self.dimensions);
        self.scales[to] = self.scales[from];
        for half in [&mut self.upper, &mut self.lower] {
            half.copy_within(from * width..(from + 1) * width, to * width);
        }
    }

    /// Leaves the first rows only.
    pub fn truncate(&mut self, rows: usize) {
        self.scales.truncate(rows);
        self.upper.truncate(rows * width(self.dimensions));
        self.lower.truncate(rows * width(self.dimensions));
    }

    /// Returns the cosine of one row with the needle, both of length one; `None` where there is no vector to compare.
    pub fn cosine(&self, needle: &Needle, place: usize) -> Option<f32> {
        if needle.dimensions != self.dimensions || !self.has(place) {
            return None;
        }
        let mut cosine = [0.0];
        self.cosines(needle, place, &mut cosine);
        Some(cosine[0])
    }

    /// Writes the cosines of the rows from `first` on; 0 where there is no vector. Needs a needle of these dimensions.
    pub fn cosines(&self, needle: &Needle, first: usize, out: &mut [f32]) {
        self.each(out, first, |at, rows, out| {
            let (mut upper, mut lower) = ([0; CHUNK_ROWS], [0; CHUNK_ROWS]);
            let (upper, lower) = (&mut upper[..out.len()], &mut lower[..out.len()]);
            needle.dots(&self.upper[rows.clone()], upper);
            needle.dots(&self.lower[rows], lower);
            for (((out, upper), lower), scale) in out.iter_mut().zip(upper).zip(lower).zip(&self.scales[at..]) {
                *out = (16 * *upper + *lower - RAISED * needle.sum) as f32 * scale * needle.scale;
            }
        });
    }

    /// Writes about the cosines, by the upper halves alone.
    pub fn rough_cosines(&self, needle: &Needle, first: usize, out: &mut [f32]) {
        let raised = (RAISED as f32 - MEAN_LOWER) * needle.sum as f32;
        self.each(out, first, |at, rows, out| {
            let mut upper = [0; CHUNK_ROWS];
            let upper = &mut upper[..out.len()];
            needle.dots(&self.upper[rows], upper);
            for ((out, upper), scale) in out.iter_mut().zip(upper).zip(&self.scales[at..]) {
                *out = ((16 * *upper) as f32 - raised) * scale * needle.scale;
            }
        });
    }

    /// Goes through rows in chunks: the first of each, which bytes they are, and where what they give goes.
    fn each(&self, out: &mut [f32], first: usize, mut of: impl FnMut(usize, std::ops::Range<usize>, &mut [f32])) {
        let width = width(self.dimensions);
        for (number, out) in out.chunks_mut(CHUNK_ROWS).enumerate() {
            let at = first + number * CHUNK_ROWS;
            of(at, at * width..(at + out.len()) * width, out);
        }
    }

    /// Cuts a vector into the upper and the lower halves of its bytes; what is none leaves zeros.
    fn cut(&self, vector: Option<&[f32]>) -> (Vec<u8>, Vec<u8>, f32) {
        let width = width(self.dimensions);
        let (mut upper, mut lower) = (vec![0; width], vec![0; width]);
        let Some(vector) = vector.filter(|vector| vector.len() == self.dimensions) else {
            return (upper, lower, NO_VECTOR);
        };
        let (values, scale) = quantize(vector);
        if scale == NO_VECTOR {
            return (upper, lower, NO_VECTOR);
        }
        for (number, value) in values.into_iter().enumerate() {
            let raised = (i32::from(value) + RAISED) as u8;
            let (at, shift) = if number < width { (number, 0) } else { (number - width, 4) };
            upper[at] |= raised >> 4 << shift;
            lower[at] |= (raised & 0x0f) << shift;
        }
        (upper, lower, scale)
    }
}

/// Scales a vector to bytes; its values are the bytes times the scale, which is 0 for the vector of zeros.
fn quantize(vector: &[f32]) -> (Vec<i8>, f32) {
    let greatest = vector.iter().fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
    if greatest == 0.0 {
        return (vec![0; vector.len()], NO_VECTOR);
    }
    let scale = greatest / f32::from(i8::MAX);
    (vector.iter().map(|value| (value / scale).round() as i8).collect(), scale)
}

/// Rows that one call of a kernel compares: the results stay in the fastest cache.
pub(super) const CHUNK_ROWS: usize = 256;

/// Bytes that half a row takes: the halves of two dimensions each.
fn width(dimensions: usize) -> usize {
    dimensions.div_ceil(2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vectors(dimensions: usize, count: usize) -> impl Strategy<Value = Vec<Vec<f32>>> {
        proptest::collection::vec(proptest::collection::vec(-1.0_f32..1.0, dimensions), count)
    }

    proptest! {
        #[test]
        fn cosines_are_those_of_the_bytes(
            vectors in (0_usize..300).prop_flat_map(|dimensions| vectors(dimensions, 6)),
        ) {
            let (query, rows) = (&vectors[0], &vectors[1..]);
            let needle = Needle::new(query);
            let mut kept = ByteVectors::new(query.len());
            rows.iter().rev().for_each(|row| kept.insert(0, Some(row)));
            let (mut exact, mut rough) = ([9.0; 5], [9.0; 5]);
            kept.cosines(&needle, 0, &mut exact);
            kept.rough_cosines(&needle, 0, &mut rough);
            let (query, query_scale) = quantize(query);
            for (place, row) in rows.iter().enumerate() {
                let (row, scale) = quantize(row);
                let dot: i32 = query.iter().zip(&row).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
                let sum: i32 = query.iter().map(|value| i32::from(*value).abs()).sum();
                prop_assert_eq!(exact[place], dot as f32 * scale * query_scale);
                prop_assert!((rough[place] - exact[place]).abs() <= 8.0 * sum as f32 * scale * query_scale);
                prop_assert_eq!(kept.cosine(&needle, place), (scale != 0.0).then_some(exact[place]));
            }
        }
    }

    #[test]
    fn of_what_is_replaced_nothing_is_left() {
        let mut kept = ByteVectors::new(3);
        kept.insert(0, Some(&[0.6, 0.0, 0.8]));
        kept.insert(1, Some(&[1.0, 0.0]));
        assert!(kept.has(0) && !kept.has(1), "of other dimensions");
        kept.replace(0, None);
        assert_eq!((kept.halves(0), kept.has(0)), ([&[0_u8, 0][..], &[0, 0]], false));
        assert_eq!(kept.cosine(&Needle::new(&[0.6, 0.0, 0.8]), 0), None);
    }
}
