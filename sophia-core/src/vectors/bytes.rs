//! Vectors as bytes, one after the other, the upper half of each byte apart from the lower one, and those of the first half of
//! the dimensions apart from the rest.
//!
//! The upper halves alone say what is near: they are half the memory to read, which is what a scan costs. Most models of today
//! are trained, or their dimensions put in order, so that the first of them say most; then a quarter of the memory says what
//! is worth a second look. All together give the dot product of the whole bytes.

use std::ops::Range;

use super::{bits::Bits, kernel, nearest::Near, pages};

/// What a byte is raised by before it is cut in two, so that both halves are 0 to 15.
const RAISED: i32 = 128;
/// What a lower half is on average.
const MEAN_LOWER: f32 = 7.5;
/// Its standard deviation: that of 0 to 15.
const LOWER_DEVIATION: f32 = 4.61;
/// What is left of [`RAISED`] where only the upper halves are compared.
const RAISED_UPPER: f32 = RAISED as f32 - MEAN_LOWER;
/// Scale of a row without a vector.
const NO_VECTOR: f32 = 0.0;
/// Scale of a row of zeros: to a scan there is no vector either, and only the sign says that there is one.
const NO_DIRECTION: f32 = -0.0;

/// Parts that rows are kept in: the upper halves of the first dimensions, those of the rest, and the lower halves of all.
pub(super) const FRONT: usize = 0;
pub(super) const BACK: usize = 1;
const LOWER: usize = 2;
pub(crate) const PLANES: usize = 3;

/// Rows of values from -127 to 127, each row with what its values are multiplied with.
#[derive(Debug, Default)]
pub(crate) struct ByteVectors {
    dimensions: usize,
    scales: Vec<f32>,
    planes: [Vec<u8>; PLANES],
    /// Rows of which the second half of the dimensions says more than the first one.
    back_heavy: Bits,
}

/// A vector to compare with.
#[derive(Debug)]
pub(crate) struct Needle {
    dimensions: usize,
    scale: f32,
    sides: [Side; PLANES],
}

/// What of a needle is compared with one plane: values of the first half of its dimensions, and of the second one.
#[derive(Debug)]
struct Side {
    values: [Vec<i8>; 2],
    sum: i32,
    /// Sum of the squares.
    energy: f32,
}

impl Side {
    fn new(values: &[i8]) -> Side {
        let mut first = values.to_vec();
        let mut second = first.split_off(first.len().div_ceil(2));
        second.resize(first.len(), 0);
        let energy = values.iter().map(|value| f32::from(*value).powi(2)).sum();
        Side { values: [first, second], sum: values.iter().map(|value| i32::from(*value)).sum(), energy }
    }

    fn dots(&self, rows: &[u8], out: &mut [i32]) {
        kernel::dots([&self.values[0], &self.values[1]], rows, out);
    }
}

impl Needle {
    pub fn new(vector: &[f32]) -> Needle {
        let (values, scale) = quantize(vector);
        let sides = ranges(vector.len()).map(|range| Side::new(&values[range]));
        Needle { dimensions: vector.len(), scale, sides }
    }

    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Returns the share of its length, squared, that is not in the first dimensions.
    fn rest(&self) -> f32 {
        self.sides[BACK].energy / self.sides[LOWER].energy.max(f32::MIN_POSITIVE)
    }
}

impl ByteVectors {
    pub fn new(dimensions: usize) -> ByteVectors {
        ByteVectors { dimensions, ..ByteVectors::default() }
    }

    /// Puts together what [`ByteVectors::scale`] and [`ByteVectors::parts`] gave.
    pub fn from_parts(dimensions: usize, scales: Vec<f32>, planes: [Vec<u8>; PLANES]) -> ByteVectors {
        let mut vectors = ByteVectors { dimensions, scales, planes, back_heavy: Bits::default() };
        debug_assert!((0..PLANES).all(|plane| vectors.planes[plane].len() == vectors.len() * vectors.width(plane)));
        for place in 0..vectors.len() {
            vectors.back_heavy.set(place, is_back_heavy(vectors.parts(place)));
        }
        vectors
    }

    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    pub fn len(&self) -> usize {
        self.scales.len()
    }

    /// Returns how many bytes a row of each plane takes.
    pub fn widths(dimensions: usize) -> [usize; PLANES] {
        ranges(dimensions).map(|range| range.len().div_ceil(2))
    }

    /// Returns how many bytes a row takes.
    pub fn row_bytes(dimensions: usize) -> usize {
        ByteVectors::widths(dimensions).iter().sum::<usize>() + size_of::<f32>()
    }

    fn width(&self, plane: usize) -> usize {
        ByteVectors::widths(self.dimensions)[plane]
    }

    /// Memory that they take, in bytes.
    pub fn bytes(&self) -> usize {
        self.planes.iter().map(Vec::capacity).sum::<usize>()
            + self.scales.capacity() * size_of::<f32>()
            + self.back_heavy.bytes()
    }

    /// Makes room for so many rows more.
    pub fn reserve(&mut self, rows: usize) {
        pages::reserve(&mut self.scales, rows);
        for (plane, width) in self.planes.iter_mut().zip(ByteVectors::widths(self.dimensions)) {
            pages::reserve(plane, rows * width);
        }
    }

    /// Returns whether there is a vector to compare in this row.
    pub fn has(&self, place: usize) -> bool {
        self.scales[place] != NO_VECTOR
    }

    /// Returns whether there is a vector in this row, be it one of zeros.
    pub fn has_any(&self, place: usize) -> bool {
        self.scales[place].to_bits() != NO_VECTOR.to_bits()
    }

    /// Returns what the values of a row are multiplied with.
    pub fn scale(&self, place: usize) -> f32 {
        self.scales[place]
    }

    /// Returns the parts of a row, as they are kept.
    pub fn parts(&self, place: usize) -> [&[u8]; PLANES] {
        std::array::from_fn(|plane| &self.planes[plane][place * self.width(plane)..][..self.width(plane)])
    }

    /// Adds a row at a place, which may be the end. What is not a vector of these dimensions is none.
    pub fn insert(&mut self, place: usize, vector: Option<&[f32]>) {
        let (parts, scale) = self.cut(vector);
        self.scales.insert(place, scale);
        self.back_heavy.insert(place, is_back_heavy(parts.each_ref().map(Vec::as_slice)));
        for (plane, part) in self.planes.iter_mut().zip(parts) {
            let from = place * part.len();
            pages::grow(plane, part.len());
            plane.splice(from..from, part);
        }
    }

    /// Puts a vector in place of what a row had; nothing of that is left.
    pub fn replace(&mut self, place: usize, vector: Option<&[f32]>) {
        let (parts, scale) = self.cut(vector);
        self.scales[place] = scale;
        self.back_heavy.set(place, is_back_heavy(parts.each_ref().map(Vec::as_slice)));
        for (plane, part) in self.planes.iter_mut().zip(parts) {
            plane[place * part.len()..][..part.len()].copy_from_slice(&part);
        }
    }

    /// Copies a row to a place before it.
    pub fn copy(&mut self, from: usize, to: usize) {
        self.scales[to] = self.scales[from];
        self.back_heavy.set(to, self.back_heavy.has(from));
        for (plane, width) in self.planes.iter_mut().zip(ByteVectors::widths(self.dimensions)) {
            plane.copy_within(from * width..(from + 1) * width, to * width);
        }
    }

    /// Leaves the first rows only.
    pub fn truncate(&mut self, rows: usize) {
        self.scales.truncate(rows);
        self.back_heavy.truncate(rows);
        for (plane, width) in self.planes.iter_mut().zip(ByteVectors::widths(self.dimensions)) {
            plane.truncate(rows * width);
        }
    }

    /// Writes the cosines of the rows from `first` on; 0 where there is no vector. Needs a needle of these dimensions.
    pub fn cosines(&self, needle: &Needle, first: usize, out: &mut [f32]) {
        each(out, first, |at, out| {
            let mut dots = [[0; CHUNK_ROWS]; PLANES];
            dots.iter_mut().enumerate().for_each(|(plane, dots)| self.dots(needle, plane, at, &mut dots[..out.len()]));
            let [front, back, lower] = dots;
            let dots = front.iter().zip(&back).zip(&lower).map(|((front, back), lower)| [*front, *back, *lower]);
            for ((out, dots), scale) in out.iter_mut().zip(dots).zip(&self.scales[at..]) {
                *out = whole(needle, *scale, dots);
            }
        });
    }

    /// Writes about the cosines, by the upper halves alone.
    pub fn rough_cosines(&self, needle: &Needle, first: usize, out: &mut [f32]) {
        let raised = RAISED_UPPER * needle.sides[LOWER].sum as f32;
        each(out, first, |at, out| {
            let (mut front, mut back) = ([0; CHUNK_ROWS], [0; CHUNK_ROWS]);
            self.dots(needle, FRONT, at, &mut front[..out.len()]);
            self.dots(needle, BACK, at, &mut back[..out.len()]);
            for (((out, front), back), scale) in out.iter_mut().zip(front).zip(back).zip(&self.scales[at..]) {
                *out = ((16 * (front + back)) as f32 - raised) * scale * needle.scale;
            }
        });
    }

    /// Returns how far whole cosines lie from rough ones: a standard deviation, for needles of length one, of rows like these.
    pub fn rough_error(&self, near: &[Near]) -> f32 {
        let scales: f32 = near.iter().map(|near| self.scales[near.place as usize]).sum();
        LOWER_DEVIATION * scales / near.len().max(1) as f32
    }

    /// Writes what the upper halves of a plane give of the cosines.
    pub fn upper_cosines(&self, needle: &Needle, plane: usize, first: usize, out: &mut [f32]) {
        let raised = RAISED_UPPER * needle.sides[plane].sum as f32;
        each(out, first, |at, out| {
            let mut dots = [0; CHUNK_ROWS];
            self.dots(needle, plane, at, &mut dots[..out.len()]);
            for ((out, dot), scale) in out.iter_mut().zip(dots).zip(&self.scales[at..]) {
                *out = ((16 * dot) as f32 - raised) * scale * needle.scale;
            }
        });
    }

    /// Adds what the upper halves of a plane give to the cosines of some rows.
    pub fn add_upper(&self, needle: &Needle, plane: usize, near: &mut [Near]) {
        let raised = RAISED_UPPER * needle.sides[plane].sum as f32;
        let mut rows = Vec::new();
        for near in near.chunks_mut(CHUNK_ROWS) {
            let mut dots = [0; CHUNK_ROWS];
            self.dots_of(needle, plane, near.iter().map(|near| near.place), &mut rows, &mut dots[..near.len()]);
            for (near, dot) in near.iter_mut().zip(dots) {
                near.cosine += ((16 * dot) as f32 - raised) * self.scales[near.place as usize] * needle.scale;
            }
        }
    }

    /// Returns the places of vectors of which the second half of the dimensions says more than the first one.
    pub fn back_heavy(&self) -> &Bits {
        &self.back_heavy
    }

    /// Writes the cosines of some rows; 0 where there is no vector. Needs a needle of these dimensions.
    pub fn cosines_of(&self, needle: &Needle, near: &mut [Near]) {
        let mut rows = Vec::new();
        for near in near.chunks_mut(CHUNK_ROWS) {
            let mut dots = [[0; CHUNK_ROWS]; PLANES];
            for (plane, dots) in dots.iter_mut().enumerate() {
                self.dots_of(needle, plane, near.iter().map(|near| near.place), &mut rows, &mut dots[..near.len()]);
            }
            let [front, back, lower] = dots;
            for (row, near) in near.iter_mut().enumerate() {
                near.cosine = whole(needle, self.scales[near.place as usize], [front[row], back[row], lower[row]]);
            }
        }
    }

    /// Returns whether the first dimensions say so much, of nearly all rows, that what they find near holds nearly all that is.
    ///
    /// What they leave out of a cosine varies by about the lengths of what is left of both vectors, multiplied, over the root
    /// of the number of dimensions.
    pub fn says_most_in_front(&self, needle: &Needle) -> bool {
        /// Rows that are looked at, evenly over all.
        const SAMPLE: usize = 64;
        /// Most that may be left of both, squared and multiplied: a half of the length of each.
        const MOST: f32 = 0.0625;
        /// Most rows of which they do not, one in so many: these are looked at one by one.
        const EXCEPTIONS: usize = 16;
        let places = (0..SAMPLE).map(|number| number * self.len() / SAMPLE).filter(|place| self.has(*place));
        let (mut all, mut left) = (0, 0);
        for place in places {
            let [front, back, _] = self.parts(place).map(energy);
            all += front + back;
            left += back;
        }
        all > 0
            && needle.rest() * left as f32 / all as f32 <= MOST
            && self.back_heavy.count() <= self.len() / EXCEPTIONS
    }

    /// Writes the dot products of one plane from a row on.
    fn dots(&self, needle: &Needle, plane: usize, at: usize, out: &mut [i32]) {
        let width = self.width(plane);
        needle.sides[plane].dots(&self.planes[plane][at * width..(at + out.len()) * width], out);
    }

    /// Writes the dot products of one plane with rows here and there. They are put side by side in `rows` first: one call of the
    /// kernel compares them all, and none waits for another's way from memory.
    fn dots_of(
        &self,
        needle: &Needle,
        plane: usize,
        places: impl Iterator<Item = u32> + Clone,
        rows: &mut Vec<u8>,
        out: &mut [i32],
    ) {
        let width = self.width(plane);
        let row = |place: u32| &self.planes[plane][place as usize * width..][..width];
        places.clone().for_each(|place| kernel::ask_for(row(place)));
        rows.clear();
        places.for_each(|place| rows.extend_from_slice(row(place)));
        needle.sides[plane].dots(rows, out);
    }

    /// Cuts a vector into the parts that are kept of it; what is none leaves zeros.
    fn cut(&self, vector: Option<&[f32]>) -> ([Vec<u8>; PLANES], f32) {
        let mut parts = ByteVectors::widths(self.dimensions).map(|width| vec![0; width]);
        let vector = vector.filter(|vector| vector.len() == self.dimensions);
        let Some((values, scale)) = vector.map(quantize) else { return (parts, NO_VECTOR) };
        if scale == NO_DIRECTION {
            return (parts, scale);
        }
        for (plane, range) in ranges(self.dimensions).into_iter().enumerate() {
            let part = &mut parts[plane];
            let width = part.len();
            for (number, value) in values[range].iter().enumerate() {
                let raised = (i32::from(*value) + RAISED) as u8;
                let half = if plane == LOWER { raised & 0x0f } else { raised >> 4 };
                part[number % width] |= if number < width { half } else { half << 4 };
            }
        }
        (parts, scale)
    }
}

/// Puts the dot products of the parts of a row together.
fn whole(needle: &Needle, scale: f32, [front, back, lower]: [i32; PLANES]) -> f32 {
    let dot = 16 * (front + back) + lower - RAISED * needle.sides[LOWER].sum;
    dot as f32 * scale * needle.scale
}

/// Returns which dimensions each plane is of.
fn ranges(dimensions: usize) -> [Range<usize>; PLANES] {
    let front = dimensions.div_ceil(2);
    [0..front, front..dimensions, 0..dimensions]
}

/// Goes through rows in chunks: the first of each, and where what they give goes.
fn each(out: &mut [f32], first: usize, mut of: impl FnMut(usize, &mut [f32])) {
    out.chunks_mut(CHUNK_ROWS).enumerate().for_each(|(number, out)| of(first + number * CHUNK_ROWS, out));
}

/// Returns about the sum of the squares of upper halves, in no unit.
fn energy(halves: &[u8]) -> u32 {
    /// Squares are at most 225: so many bytes fit 16 bits.
    const FEW: usize = 64;
    // Twice as far from the middle, so that it is a whole number.
    let square = |half: u8| {
        let distance = 2 * i16::from(half) - 15;
        (distance * distance) as u16
    };
    let few = |bytes: &[u8]| bytes.iter().map(|byte| square(byte & 0x0f) + square(byte >> 4)).sum::<u16>();
    halves.chunks(FEW).map(|bytes| u32::from(few(bytes))).sum()
}

fn is_back_heavy(parts: [&[u8]; PLANES]) -> bool {
    let [front, back, _] = parts.map(energy);
    back > front
}

/// Scales a vector to bytes; its values are the bytes times the scale, which is -0 for the vector of zeros.
fn quantize(vector: &[f32]) -> (Vec<i8>, f32) {
    let greatest = vector.iter().fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
    if greatest == 0.0 {
        return (vec![0; vector.len()], NO_DIRECTION);
    }
    let scale = greatest / f32::from(i8::MAX);
    (vector.iter().map(|value| (value / scale).round() as i8).collect(), scale)
}

/// Rows that one call of a kernel compares: the results stay in the fastest cache.
pub(super) const CHUNK_ROWS: usize = 256;

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
            let (mut exact, mut rough, mut front) = ([9.0; 5], [9.0; 5], [9.0; 5]);
            kept.cosines(&needle, 0, &mut exact);
            kept.rough_cosines(&needle, 0, &mut rough);
            kept.upper_cosines(&needle, FRONT, 0, &mut front);
            let (query, query_scale) = quantize(query);
            for (place, row) in rows.iter().enumerate() {
                let (row, scale) = quantize(row);
                let dot: i32 = query.iter().zip(&row).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
                let sum: i32 = query.iter().map(|value| i32::from(*value).abs()).sum();
                prop_assert_eq!(exact[place], dot as f32 * scale * query_scale);
                prop_assert!((rough[place] - exact[place]).abs() <= 8.0 * sum as f32 * scale * query_scale);
                let mut near = [Near { cosine: front[place], place: place as u32 }];
                kept.add_upper(&needle, BACK, &mut near);
                prop_assert!((near[0].cosine - rough[place]).abs() <= 1e-3 * sum as f32 * scale * query_scale + 1e-6);
                kept.cosines_of(&needle, &mut near);
                prop_assert_eq!(near[0].cosine, exact[place]);
                prop_assert_eq!(kept.cosines_at(&needle, &[place as u32]), [(scale != 0.0).then_some(exact[place])]);
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
        assert_eq!((kept.parts(0), kept.has(0)), ([&[0_u8][..], &[0], &[0, 0]], false));
        assert_eq!(kept.cosines_at(&Needle::new(&[0.6, 0.0, 0.8]), &[0]), [None]);
    }
}
