//! The nearest of many vectors, in two passes: all by the upper halves of their bytes, and the best of these by all. Of very
//! many, there is one before them, by the first dimensions alone, where these say most. A pass that turns out to have let go of
//! what is near is done again without its short cut.

use std::cmp::Ordering;

use super::bytes::{BACK, ByteVectors, CHUNK_ROWS, FRONT, Needle};

/// For each row that is wanted, so many of the nearest by half of their bytes are compared by all. So nothing that is among
/// the nearest is missed in practice (measured by `benches/rust/search.rs`).
const ROUGH_EACH: usize = 2;
/// The same for the first dimensions alone.
const FRONT_EACH: usize = 8;
/// It is worth a pass where no more than one in so many is left.
const FRONT_SAVES: usize = 24;
/// Chunks, evenly over all, by which it is guessed what is among the nearest by the first dimensions, and how many times as
/// many as are wanted are let through, so that there are enough.
const GUESS_CHUNKS: usize = 16;
const GUESS_MORE: usize = 2;
/// Rows of these chunks that were let go of by the first dimensions and are among the nearest by all: so many are no accident.
const MANY_LOST: usize = 2;
/// Chunks with the least that was seen by the first dimensions, which are compared whole.
const LEAST_CHUNKS: usize = 4;

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
            let compare = |first: usize, cosines: &mut [f32]| self.cosines(needle, first, cosines);
            return self.look_through(Best::new(count), may, compare, |_, _| {}).into_scan();
        }
        let worth_a_look = count.saturating_mul(FRONT_EACH);
        let least_rows = worth_a_look.saturating_mul(FRONT_SAVES).max(CHUNK_ROWS);
        let rough = if self.len() >= least_rows && self.says_most_in_front(needle) {
            self.rough_by_front(needle, enough, worth_a_look, &may)
        } else {
            None
        };
        let rough = rough.unwrap_or_else(|| {
            let compare = |first: usize, cosines: &mut [f32]| self.rough_cosines(needle, first, cosines);
            self.look_through(Best::new(enough), &may, compare, |_, _| {}).chosen()
        });
        let mut whole = rough.kept.clone();
        self.cosines_of(needle, &mut whole);
        let is_all = whole.len() < enough;
        let reach = lowest(&rough.kept) + mean(&whole) - mean(&rough.kept) + self.rough_error(&rough.kept);
        let near = best_of(whole, count).into_scan().near;
        // What was let go of may reach so far.
        if !is_all && near.last().is_some_and(|last| last.cosine < reach) {
            let compare = |first: usize, cosines: &mut [f32]| self.cosines(needle, first, cosines);
            return self.look_through(Best::new(count), may, compare, |_, _| {}).into_scan();
        }
        Scan { near, least: rough.least() }
    }

    /// Finds about the `count` nearest by the upper halves, among the `enough` that are so by the first dimensions and those of
    /// which these do not say most. `None` where there are not enough, because most of those may not be found, or where this
    /// lets go of what is near.
    fn rough_by_front(&self, needle: &Needle, count: usize, enough: usize, may: impl Fn(u32) -> bool) -> Option<Best> {
        let mut chunks = [(0.0, None); LEAST_CHUNKS];
        let compare = |first: usize, cosines: &mut [f32]| self.upper_cosines(needle, FRONT, first, cosines);
        let note = |first: usize, least: f32| {
            // The greatest of them stands last.
            if least < chunks[LEAST_CHUNKS - 1].0 {
                chunks[LEAST_CHUNKS - 1] = (least, Some(first));
                chunks.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            }
        };
        let sample = self.sample(needle);
        let guess = Best { floor: self.guess_floor(&sample, enough * GUESS_MORE), ..Best::new(enough) };
        let says_most = |place: u32| !self.back_heavy().has(place as usize);
        let mut kept = self.look_through(guess, |place| says_most(place) && may(place), compare, note).kept;
        if kept.len() < enough {
            return None;
        }
        leave_best(&mut kept, enough);
        let front_floor = lowest(&kept);
        let others = self.back_heavy().places().map(|place| Near { cosine: 0.0, place: place as u32 });
        let mut others: Vec<Near> = others.filter(|near| self.has(near.place as usize) && may(near.place)).collect();
        self.add_upper(needle, FRONT, &mut others);
        kept.append(&mut others);
        self.add_upper(needle, BACK, &mut kept);
        leave_best(&mut kept, count);
        let floor = lowest(&kept);
        let is_lost =
            |sampled: &&Sampled| sampled.front < front_floor && sampled.rough > floor && says_most(sampled.place);
        let is_found = |sampled: &&Sampled| self.has(sampled.place as usize) && may(sampled.place);
        if sample.iter().filter(is_lost).filter(is_found).count() >= MANY_LOST {
            return None;
        }
        let mut best = Best { kept, ..Best::new(count) };
        let mut cosines = [0.0; CHUNK_ROWS];
        for first in chunks.into_iter().filter_map(|(_, first)| first) {
            let rows = CHUNK_ROWS.min(self.len() - first);
            self.rough_cosines(needle, first, &mut cosines[..rows]);
            best.least[0] = cosines[..rows].iter().fold(best.least[0], |least, cosine| least.min(*cosine));
        }
        Some(best)
    }

    /// Compares some chunks, evenly over all, in both ways.
    fn sample(&self, needle: &Needle) -> Vec<Sampled> {
        let mut sample = Vec::with_capacity(GUESS_CHUNKS * CHUNK_ROWS);
        let (mut front, mut back) = ([0.0; CHUNK_ROWS], [0.0; CHUNK_ROWS]);
        for number in 0..GUESS_CHUNKS {
            let first = number * (self.len() - CHUNK_ROWS) / (GUESS_CHUNKS - 1);
            self.upper_cosines(needle, FRONT, first, &mut front);
            self.upper_cosines(needle, BACK, first, &mut back);
            let cosines = front.iter().zip(back).zip(first as u32..);
            sample.extend(cosines.map(|((front, back), place)| Sampled { place, front: *front, rough: front + back }));
        }
        sample
    }

    /// Guesses what about `count` of all rows are above.
    fn guess_floor(&self, sample: &[Sampled], count: usize) -> f32 {
        let mut seen: Vec<f32> = sample.iter().map(|sampled| sampled.front).collect();
        let rank = count * seen.len() / self.len();
        *seen.select_nth_unstable_by(rank, |a, b| b.total_cmp(a)).1
    }

    /// Finds the `count` nearest of these rows.
    pub fn nearest_of(&self, needle: &Needle, count: usize, places: impl Iterator<Item = u32>) -> Scan {
        if !self.compares(needle) || count == 0 {
            return Scan::default();
        }
        let with_vector = places.filter(|place| self.has(*place as usize));
        let mut near: Vec<Near> = with_vector.map(|place| Near { cosine: 0.0, place }).collect();
        self.cosines_of(needle, &mut near);
        best_of(near, count).into_scan()
    }

    /// Returns the cosines of these rows; `None` where there is no vector to compare.
    pub fn cosines_at(&self, needle: &Needle, places: &[u32]) -> Vec<Option<f32>> {
        if !self.compares(needle) {
            return vec![None; places.len()];
        }
        let mut near: Vec<Near> = places.iter().map(|place| Near { cosine: 0.0, place: *place }).collect();
        self.cosines_of(needle, &mut near);
        near.iter().map(|near| self.has(near.place as usize).then_some(near.cosine)).collect()
    }

    fn compares(&self, needle: &Needle) -> bool {
        needle.dimensions() == self.dimensions() && self.dimensions() > 0
    }

    /// Looks through all rows for the best that may be found, by what `compare` makes of those from a place on. `note` is told the
    /// least of each chunk, and where that begins.
    fn look_through(
        &self,
        mut best: Best,
        may: impl Fn(u32) -> bool,
        compare: impl Fn(usize, &mut [f32]),
        mut note: impl FnMut(usize, f32),
    ) -> Best {
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
            note(first, best.least_of_chunk());
        }
        best
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
    /// The same of what was seen since it was last asked for.
    of_chunk: [f32; LANES],
}

impl Best {
    fn new(count: usize) -> Best {
        Best { count, kept: Vec::new(), floor: f32::NEG_INFINITY, least: [0.0; LANES], of_chunk: [0.0; LANES] }
    }

    /// Takes note of what was compared; returns whether some of it may be among the best.
    fn sees(&mut self, cosines: &[f32; FEW_ROWS]) -> bool {
        // Side by side, so that the compiler compares several at once.
        let mut greatest = [f32::NEG_INFINITY; LANES];
        for lanes in cosines.as_chunks::<LANES>().0 {
            for ((cosine, least), greatest) in lanes.iter().zip(&mut self.of_chunk).zip(&mut greatest) {
                *least = if *cosine < *least { *cosine } else { *least };
                *greatest = if *cosine > *greatest { *cosine } else { *greatest };
            }
        }
        greatest.iter().any(|greatest| *greatest >= self.floor)
    }

    /// Returns the least that was seen since the last call, 0 at most.
    fn least_of_chunk(&mut self) -> f32 {
        let seen = std::mem::replace(&mut self.of_chunk, [0.0; LANES]);
        self.least.iter_mut().zip(seen).for_each(|(least, seen)| *least = least.min(seen));
        seen.into_iter().fold(0.0, f32::min)
    }

    /// Takes what may be among the best.
    fn take(&mut self, near: Near) {
        if near.cosine < self.floor {
            return;
        }
        self.kept.push(near);
        if self.kept.len() >= 2 * self.count {
            self.cut();
            self.floor = self.kept[self.count - 1].cosine;
        }
    }

    /// Lets go of what is not among the best.
    fn cut(&mut self) {
        if self.kept.len() > self.count {
            self.kept.select_nth_unstable_by(self.count - 1, best_first);
            self.kept.truncate(self.count);
        }
    }

    fn least(&self) -> f32 {
        self.least.into_iter().fold(0.0, f32::min)
    }

    /// Leaves the best, in no order.
    fn chosen(mut self) -> Best {
        self.cut();
        self
    }

    fn into_scan(self) -> Scan {
        let mut best = self.chosen();
        best.kept.sort_unstable_by(best_first);
        Scan { least: best.least(), near: best.kept }
    }
}

/// A row that was compared by the first dimensions, and by all of them.
struct Sampled {
    place: u32,
    front: f32,
    rough: f32,
}

/// Takes the best `count` of what was compared.
fn best_of(near: Vec<Near>, count: usize) -> Best {
    let mut best = Best::new(count);
    for near in near {
        best.least[0] = best.least[0].min(near.cosine);
        best.take(near);
    }
    best
}

fn mean(near: &[Near]) -> f32 {
    near.iter().map(|near| near.cosine).sum::<f32>() / near.len().max(1) as f32
}

fn lowest(near: &[Near]) -> f32 {
    near.iter().map(|near| near.cosine).fold(f32::INFINITY, f32::min)
}

/// Leaves about the best `count`, in the order in which they are: that of their places, in which they are read fastest.
fn leave_best(near: &mut Vec<Near>, count: usize) {
    if near.len() > count {
        let mut cosines: Vec<f32> = near.iter().map(|near| near.cosine).collect();
        let floor = *cosines.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1;
        near.retain(|near| near.cosine >= floor);
    }
}

/// By cosine, of equals the newest, so that equal cosines give the same answer every time.
fn best_first(a: &Near, b: &Near) -> Ordering {
    b.cosine.total_cmp(&a.cosine).then(b.place.cmp(&a.place))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows for which a pass by the first dimensions is worth it.
    const ROWS: usize = FRONT_SAVES * FRONT_EACH * COUNT;
    const COUNT: usize = 8;
    const DIMENSIONS: usize = 32;

    /// Returns vectors of length one, whose first dimensions hold all but `rest` of it, squared.
    fn vectors(rest: f32, rows: usize) -> Vec<Vec<f32>> {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let scaled = |values: &[f32], length: f32| {
            let own = values.iter().map(|value| value * value).sum::<f32>().sqrt();
            values.iter().map(|value| value * length / own).collect::<Vec<_>>()
        };
        let vector = || {
            let values: Vec<f32> = (0..DIMENSIONS).map(|_| next()).collect();
            let (front, back) = values.split_at(DIMENSIONS / 2);
            [scaled(front, (1.0 - rest).sqrt()), scaled(back, rest.sqrt())].concat()
        };
        std::iter::repeat_with(vector).take(rows).collect()
    }

    fn kept(vectors: &[Vec<f32>]) -> ByteVectors {
        let mut kept = ByteVectors::new(DIMENSIONS);
        vectors.iter().enumerate().for_each(|(place, vector)| kept.insert(place, Some(vector)));
        kept
    }

    #[test]
    fn what_the_first_dimensions_find_is_what_all_find() {
        let all = vectors(0.1, ROWS + 1);
        let (query, rows) = all.split_last().unwrap();
        let (kept, needle) = (kept(rows), Needle::new(query));
        assert!(kept.says_most_in_front(&needle));
        let may = |place: u32| !place.is_multiple_of(3);
        let found = kept.nearest(&needle, COUNT, may);
        let exact = kept.nearest_of(&needle, COUNT, (0..ROWS as u32).filter(|place| may(*place)));
        assert_eq!(found.near, exact.near);
        let least = kept.nearest_of(&needle, 1, 0..ROWS as u32).least;
        assert!((found.least - least).abs() < 0.05, "{} {least}", found.least);
    }

    #[test]
    fn the_nearest_one_of_few_rows_is_found() {
        let all = vectors(0.1, CHUNK_ROWS);
        let (query, rows) = all.split_last().unwrap();
        let (kept, needle) = (kept(rows), Needle::new(query));
        let exact = kept.nearest_of(&needle, 1, 0..kept.len() as u32);
        assert_eq!(kept.nearest(&needle, 1, |_| true).near, exact.near);
    }

    #[test]
    fn where_they_do_not_say_most_all_are_asked() {
        let all = vectors(0.5, ROWS + 1);
        let (query, rows) = all.split_last().unwrap();
        let (kept, needle) = (kept(rows), Needle::new(query));
        assert!(!kept.says_most_in_front(&needle));
        let found = kept.nearest(&needle, COUNT, |_| true);
        assert_eq!(found.near[0], kept.nearest_of(&needle, 1, 0..ROWS as u32).near[0]);
    }

    /// Returns how many of the `COUNT` nearest of all rows a scan finds.
    fn found(rows: &[Vec<f32>], query: &[f32]) -> usize {
        let (kept, needle) = (kept(rows), Needle::new(query));
        let found = kept.nearest(&needle, COUNT, |_| true).near;
        let exact = kept.nearest_of(&needle, COUNT, 0..rows.len() as u32).near;
        found.iter().filter(|near| exact.contains(near)).count()
    }

    #[test]
    fn the_few_that_the_first_dimensions_say_nothing_of_are_found() {
        let mut rows = vectors(0.01, ROWS);
        let mut query = vec![0.0; DIMENSIONS / 2];
        query.extend(vec![1.0 / (DIMENSIONS as f32 / 2.0).sqrt(); DIMENSIONS / 2]);
        for (number, row) in rows.iter_mut().step_by(ROWS / COUNT).enumerate() {
            row.clone_from(&query);
            row[0] += 0.01 * number as f32;
        }
        assert_eq!(found(&rows, &query), COUNT);
    }

    #[test]
    fn where_the_first_dimensions_are_alike_the_others_decide() {
        // One text with many pictures: what differs is in the second half, though it is the smaller part.
        let mut rows = vectors(0.1, ROWS + 1);
        let front = rows[0][..DIMENSIONS / 2].to_vec();
        for (number, row) in rows.iter_mut().enumerate().take(ROWS / 2) {
            row[..DIMENSIONS / 2].copy_from_slice(&front);
            row[number % (DIMENSIONS / 2)] += 0.05;
        }
        let query = rows.remove(1);
        assert!(kept(&rows).says_most_in_front(&Needle::new(&query)));
        assert!(found(&rows, &query) >= COUNT - 1);
    }

    #[test]
    fn one_great_value_does_not_hide_the_others() {
        let mut rows = vectors(0.5, ROWS + 1);
        for row in &mut rows {
            row.iter_mut().for_each(|value| *value *= 0.2);
            row[3] = 0.96_f32.sqrt();
        }
        let query = rows.remove(0);
        assert_eq!(found(&rows, &query), COUNT);
    }
}
