//! What a search needs of the records of one wall, in memory: their vectors as bytes, their lengths, their conversations.
//!
//! It is derived from the store and can be built again at any time. What it finds is settled by the exact vectors.

use std::{cmp::Reverse, collections::BinaryHeap, collections::HashMap};

use super::kernel::{self, quantize};

/// Vectors that one call of a kernel compares: the results stay in the fastest cache.
const CHUNK_ROWS: usize = 256;
/// Rows above which signs are compared before bytes: below, comparing all bytes takes a few milliseconds.
const SIGNS_ABOVE_ROWS: usize = 200_000;
/// Of what the signs let through, at least this many rows for each that is wanted, and this share of all rows, are compared
/// byte by byte. So 99 of 100 nearest are found (measured by `benches/rust/search.rs`).
const SIGNS_KEEP_EACH: usize = 64;
const SIGNS_KEEP_SHARE: usize = 40;
/// Removed rows that are left in their places before the rest is moved together.
const MIN_GONE_ROWS: usize = 1_024;

/// The records of one wall, with the vectors of one model. In the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    dimensions: usize,
    rows: Vec<Row>,
    values: Vec<i8>,
    scales: Vec<f32>,
    /// One bit for each value that is positive; empty where there are few rows.
    signs: Vec<u64>,
    /// Places of the messages of each conversation.
    sessions: HashMap<u64, Vec<u32>>,
    counts: Counts,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    gone: usize,
    words: u64,
    /// Active records without a vector, and with one.
    missing: usize,
    with_vector: usize,
}

/// What is known of a record beside its vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub seq: i64,
    /// Microseconds since 1970; `i64::MAX` is never.
    pub expires_at: i64,
    /// Which conversation it is a message of; 0 is none. Made by [`session_key`].
    pub session: u64,
    /// How many words it has.
    pub words: u32,
    pub archived: bool,
}

/// What marks the place of a record that was removed.
const GONE: u32 = u32::MAX;

impl Row {
    fn is_gone(&self) -> bool {
        self.words == GONE
    }
}

/// Returns what stands for a conversation in a [`Row`].
pub(crate) fn session_key(session: &str) -> u64 {
    let mut key = [0; 8];
    key.copy_from_slice(&blake3::hash(session.as_bytes()).as_bytes()[..8]);
    u64::from_le_bytes(key).max(1)
}

/// Which rows may be found.
#[derive(Debug)]
pub(crate) enum Keep {
    /// What is not archived, and has not expired by then.
    Active(i64),
    /// The rows at these places, in ascending order.
    Only(Vec<u32>),
}

impl Keep {
    fn lets(&self, place: u32, row: &Row) -> bool {
        match self {
            Keep::Active(now) => !row.is_gone() && !row.archived && row.expires_at > *now,
            Keep::Only(places) => places.binary_search(&place).is_ok(),
        }
    }
}

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
    /// Least and greatest cosine of all that was compared.
    pub range: Option<(f32, f32)>,
}

/// A vector to compare with, as bytes.
#[derive(Debug)]
pub(crate) struct Needle {
    values: Vec<i8>,
    scale: f32,
    signs: Vec<u64>,
}

impl Needle {
    pub fn new(vector: &[f32]) -> Needle {
        let (values, scale) = quantize(vector);
        let mut bits = Vec::new();
        push_signs(&values, &mut bits);
        Needle { values, scale, signs: bits }
    }
}

impl Segment {
    pub fn new(dimensions: usize) -> Segment {
        Segment { dimensions, ..Segment::default() }
    }

    /// Puts a segment together that was taken apart: rows in the order of their numbers.
    pub fn from_parts(dimensions: usize, rows: Vec<Row>, scales: Vec<f32>, values: Vec<i8>) -> Segment {
        let mut segment = Segment { dimensions, rows, values, scales, ..Segment::default() };
        for (row, scale) in segment.rows.iter().zip(&segment.scales) {
            segment.counts.words += u64::from(row.words);
            segment.counts.missing += usize::from(*scale == NO_VECTOR && !row.archived);
            segment.counts.with_vector += usize::from(*scale != NO_VECTOR && !row.archived);
        }
        segment.group_sessions();
        segment.make_signs();
        segment
    }

    /// Returns whether there is a record at a place.
    pub fn is_there(&self, place: u32) -> bool {
        !self.row(place).is_gone()
    }

    /// Returns the values at a place, and what they are multiplied with.
    pub fn stored_vector(&self, place: u32) -> (&[i8], f32) {
        let place = place as usize;
        (&self.values[place * self.dimensions..][..self.dimensions], self.scales[place])
    }

    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Makes room for so many rows more.
    pub fn reserve(&mut self, rows: usize) {
        self.rows.reserve_exact(rows);
        self.scales.reserve_exact(rows);
        self.values.reserve_exact(rows * self.dimensions);
    }

    /// Rows that it holds.
    pub fn len(&self) -> usize {
        self.rows.len() - self.counts.gone
    }

    /// Mean number of words of a row.
    pub fn mean_words(&self) -> f64 {
        if self.len() == 0 { 0.0 } else { self.counts.words as f64 / self.len() as f64 }
    }

    /// Active rows without a vector.
    pub fn missing(&self) -> usize {
        self.counts.missing
    }

    /// Active rows with a vector.
    pub fn with_vector(&self) -> usize {
        self.counts.with_vector
    }

    /// Places of rows, also of those that were removed: every place is below.
    pub fn places(&self) -> u32 {
        self.rows.len() as u32
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.values.capacity()
            + self.scales.capacity() * size_of::<f32>()
            + self.rows.capacity() * size_of::<Row>()
            + self.signs.capacity() * size_of::<u64>()
            + self.sessions.values().map(|places| (places.capacity() + 12) * size_of::<u32>()).sum::<usize>()
    }

    /// Puts a record and its vector of length one, in place of what was there of it.
    pub fn put(&mut self, row: Row, vector: Option<&[f32]>) {
        let row = Row { words: row.words.min(GONE - 1), ..row };
        let (values, scale) = match vector.filter(|vector| vector.len() == self.dimensions) {
            Some(vector) => quantize(vector),
            None => (vec![0; self.dimensions], NO_VECTOR),
        };
        match self.rows.binary_search_by_key(&row.seq, |row| row.seq) {
            Ok(place) => {
                self.take_back(place);
                if self.rows[place].is_gone() {
                    self.counts.gone -= 1;
                }
                let moved = self.rows[place].session != row.session;
                self.rows[place] = row;
                self.scales[place] = scale;
                self.values[place * self.dimensions..][..self.dimensions].copy_from_slice(&values);
                if moved {
                    self.group_sessions();
                }
            }
            Err(place) if place == self.rows.len() => {
                if row.session != 0 {
                    self.sessions.entry(row.session).or_default().push(place as u32);
                }
                self.rows.push(row);
                self.scales.push(scale);
                self.values.extend_from_slice(&values);
            }
            Err(place) => {
                self.rows.insert(place, row);
                self.scales.insert(place, scale);
                let at = place * self.dimensions;
                self.values.splice(at..at, values.iter().copied());
                self.signs.clear();
                self.group_sessions();
            }
        }
        self.counts.words += u64::from(row.words);
        self.counts.missing += usize::from(scale == NO_VECTOR && !row.archived);
        self.counts.with_vector += usize::from(scale != NO_VECTOR && !row.archived);
        self.keep_signs(row.seq, &values);
    }

    /// Removes a record; nothing of its vector is left.
    pub fn remove(&mut self, seq: i64) {
        let Some(place) = self.find_any(seq).filter(|place| !self.rows[*place].is_gone()) else { return };
        self.take_back(place);
        self.rows[place] = Row { words: GONE, archived: true, expires_at: 0, ..self.rows[place] };
        self.scales[place] = NO_VECTOR;
        self.values[place * self.dimensions..][..self.dimensions].fill(0);
        if !self.signs.is_empty() {
            let words = sign_words(self.dimensions);
            self.signs[place * words..][..words].fill(0);
        }
        self.counts.gone += 1;
        if self.counts.gone > MIN_GONE_ROWS.max(self.rows.len() / 4) {
            self.move_together();
        }
    }

    /// Returns the place of a record.
    pub fn find(&self, seq: i64) -> Option<u32> {
        self.find_any(seq).filter(|place| !self.rows[*place].is_gone()).map(|place| place as u32)
    }

    /// Returns the place of a record that lies below `limit`: quick where it lies close below.
    pub fn find_below(&self, seq: i64, limit: u32) -> Option<u32> {
        let limit = limit as usize;
        let mut step = 1;
        while step < limit && self.rows[limit - step].seq > seq {
            step *= 2;
        }
        let from = limit.saturating_sub(step);
        let place = from + self.rows[from..limit].binary_search_by_key(&seq, |row| row.seq).ok()?;
        (!self.rows[place].is_gone()).then_some(place as u32)
    }

    /// Returns what is known of the record at a place.
    pub fn row(&self, place: u32) -> &Row {
        &self.rows[place as usize]
    }

    /// Returns whether the record at a place may be found.
    pub fn keeps(&self, keep: &Keep, place: u32) -> bool {
        keep.lets(place, self.row(place))
    }

    /// Returns the approximate cosine of the vector at a place; `None` where there is none.
    pub fn cosine(&self, needle: &Needle, place: u32) -> Option<f32> {
        let place = place as usize;
        if needle.values.len() != self.dimensions || self.scales[place] == NO_VECTOR {
            return None;
        }
        let mut dot = [0];
        kernel::dots(&needle.values, &self.values[place * self.dimensions..][..self.dimensions], &mut dot);
        Some(dot[0] as f32 * self.scales[place] * needle.scale)
    }

    /// Returns the messages before and after the one at a place, of those that may be found.
    pub fn neighbors(&self, keep: &Keep, place: u32) -> [Option<u32>; 2] {
        let Some(places) = self.sessions.get(&self.row(place).session) else { return [None, None] };
        let Ok(at) = places.binary_search(&place) else { return [None, None] };
        let kept = |place: &&u32| self.keeps(keep, **place);
        [places[..at].iter().rev().find(kept).copied(), places[at + 1..].iter().find(kept).copied()]
    }

    /// Finds the `count` nearest rows that may be found.
    pub fn scan(&self, needle: &Needle, count: usize, keep: &Keep) -> Scan {
        if needle.values.len() != self.dimensions || self.dimensions == 0 || count == 0 {
            return Scan::default();
        }
        let mut best = Best::new(count);
        match keep {
            Keep::Only(places) => {
                for place in places {
                    if let Some(cosine) = self.cosine(needle, *place) {
                        best.offer(Near { cosine, place: *place }, |_| true);
                    }
                }
            }
            Keep::Active(_) if !self.signs.is_empty() => self.scan_by_signs(needle, count, keep, &mut best),
            Keep::Active(_) => self.scan_all(needle, keep, &mut best),
        }
        best.into_scan()
    }

    fn scan_all(&self, needle: &Needle, keep: &Keep, best: &mut Best) {
        let (mut dots, mut cosines) = ([0; CHUNK_ROWS], [0.0; CHUNK_ROWS]);
        let chunks = self.values.chunks(CHUNK_ROWS * self.dimensions).zip(self.scales.chunks(CHUNK_ROWS));
        for (chunk, (values, scales)) in chunks.enumerate() {
            let (dots, cosines) = (&mut dots[..scales.len()], &mut cosines[..scales.len()]);
            kernel::dots(&needle.values, values, dots);
            for ((cosine, dot), scale) in cosines.iter_mut().zip(&*dots).zip(scales) {
                *cosine = *dot as f32 * scale * needle.scale;
            }
            best.see(cosines, scales);
            for (offset, (cosine, scale)) in cosines.iter().zip(scales).enumerate() {
                if *cosine >= best.floor && *scale != NO_VECTOR {
                    let near = Near { cosine: *cosine, place: (chunk * CHUNK_ROWS + offset) as u32 };
                    best.take(near, |place| self.keeps(keep, place));
                }
            }
        }
    }

    /// Compares the bytes of those rows only whose values have most of their signs in common with the needle.
    fn scan_by_signs(&self, needle: &Needle, count: usize, keep: &Keep, best: &mut Best) {
        let words = sign_words(self.dimensions);
        let mut distances = vec![0_u32; self.rows.len()];
        kernel::distances(&needle.signs, &self.signs, &mut distances);
        let mut histogram = vec![0_usize; words * 64 + 1];
        for (distance, scale) in distances.iter().zip(&self.scales) {
            if *scale != NO_VECTOR {
                histogram[*distance as usize] += 1;
            }
        }
        let wanted = (count * SIGNS_KEEP_EACH).max(self.rows.len() / SIGNS_KEEP_SHARE);
        let mut seen = 0;
        let within = histogram.iter().position(|rows| {
            seen += rows;
            seen >= wanted
        });
        let within = within.unwrap_or(histogram.len()) as u32;
        for (place, _) in distances.iter().enumerate().filter(|(_, distance)| **distance <= within) {
            if let Some(cosine) = self.cosine(needle, place as u32) {
                best.offer(Near { cosine, place: place as u32 }, |place| self.keeps(keep, place));
            }
        }
    }

    fn find_any(&self, seq: i64) -> Option<usize> {
        self.rows.binary_search_by_key(&seq, |row| row.seq).ok()
    }

    /// Takes what a row counts for off the sums.
    fn take_back(&mut self, place: usize) {
        let row = self.rows[place];
        if !row.is_gone() {
            self.counts.words -= u64::from(row.words);
            self.counts.missing -= usize::from(self.scales[place] == NO_VECTOR && !row.archived);
            self.counts.with_vector -= usize::from(self.scales[place] != NO_VECTOR && !row.archived);
        }
    }

    fn group_sessions(&mut self) {
        self.sessions.clear();
        for (place, row) in self.rows.iter().enumerate().filter(|(_, row)| row.session != 0) {
            self.sessions.entry(row.session).or_default().push(place as u32);
        }
    }

    fn keep_signs(&mut self, seq: i64, values: &[i8]) {
        let words = sign_words(self.dimensions);
        if self.signs.len() == (self.rows.len() - 1) * words && !self.signs.is_empty() {
            push_signs(values, &mut self.signs);
        } else if self.signs.len() == self.rows.len() * words && words > 0 {
            if let Some(place) = self.find_any(seq) {
                let mut bits = Vec::with_capacity(words);
                push_signs(values, &mut bits);
                self.signs[place * words..][..words].copy_from_slice(&bits);
            }
        } else {
            self.make_signs();
        }
    }

    /// Makes the signs of all rows, if they are many.
    fn make_signs(&mut self) {
        self.signs.clear();
        if self.rows.len() > SIGNS_ABOVE_ROWS && self.dimensions > 0 {
            self.signs.reserve_exact(self.rows.capacity() * sign_words(self.dimensions));
            for values in self.values.chunks_exact(self.dimensions) {
                push_signs(values, &mut self.signs);
            }
        }
    }

    /// Closes the places that removed rows have left.
    fn move_together(&mut self) {
        let mut to = 0;
        for from in 0..self.rows.len() {
            if !self.rows[from].is_gone() {
                self.rows[to] = self.rows[from];
                self.scales[to] = self.scales[from];
                self.values.copy_within(from * self.dimensions..(from + 1) * self.dimensions, to * self.dimensions);
                to += 1;
            }
        }
        self.rows.truncate(to);
        self.scales.truncate(to);
        self.values.truncate(to * self.dimensions);
        self.counts.gone = 0;
        self.make_signs();
        self.group_sessions();
    }
}

/// Scale of a row without a vector, and of one that is zero.
const NO_VECTOR: f32 = 0.0;

/// The best of what was offered.
struct Best {
    count: usize,
    heap: BinaryHeap<Reverse<Ordered>>,
    /// What is below is not among the best.
    floor: f32,
    lowest: f32,
    highest: f32,
}

impl Best {
    fn new(count: usize) -> Best {
        Best {
            count,
            heap: BinaryHeap::with_capacity(count.min(1 << 16) + 1),
            floor: f32::NEG_INFINITY,
            lowest: f32::INFINITY,
            highest: f32::NEG_INFINITY,
        }
    }

    /// Takes what was compared into the range.
    fn see(&mut self, cosines: &[f32], scales: &[f32]) {
        // Side by side, so that the compiler compares them together.
        const LANES: usize = 8;
        let (mut lowest, mut highest) = ([self.lowest; LANES], [self.highest; LANES]);
        for (cosines, scales) in cosines.chunks(LANES).zip(scales.chunks(LANES)) {
            for (lane, (cosine, scale)) in cosines.iter().zip(scales).enumerate() {
                let is_there = *scale != NO_VECTOR;
                lowest[lane] = if is_there && *cosine < lowest[lane] { *cosine } else { lowest[lane] };
                highest[lane] = if is_there && *cosine > highest[lane] { *cosine } else { highest[lane] };
            }
        }
        self.lowest = lowest.into_iter().fold(self.lowest, f32::min);
        self.highest = highest.into_iter().fold(self.highest, f32::max);
    }

    /// Takes what is among the best and may be found. Asks that only of what is good enough.
    fn take(&mut self, near: Near, may_be_found: impl Fn(u32) -> bool) {
        let ordered = Ordered(near);
        let is_full = self.heap.len() == self.count;
        if is_full && self.heap.peek().is_some_and(|Reverse(least)| ordered <= *least) || !may_be_found(near.place) {
            return;
        }
        if is_full {
            self.heap.pop();
        }
        self.heap.push(Reverse(ordered));
        if self.heap.len() == self.count {
            self.floor = self.heap.peek().map_or(self.floor, |Reverse(Ordered(least))| least.cosine);
        }
    }

    fn offer(&mut self, near: Near, may_be_found: impl Fn(u32) -> bool) {
        self.lowest = self.lowest.min(near.cosine);
        self.highest = self.highest.max(near.cosine);
        self.take(near, may_be_found);
    }

    fn into_scan(self) -> Scan {
        // Ascending order of `Reverse` is descending order of what it holds.
        let near = self.heap.into_sorted_vec().into_iter().map(|Reverse(Ordered(near))| near).collect();
        Scan { near, range: (self.lowest <= self.highest).then_some((self.lowest, self.highest)) }
    }
}

/// Ordered by cosine, then by age, so that equal cosines give the same answer every time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ordered(Near);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cosine.total_cmp(&other.0.cosine).then(self.0.place.cmp(&other.0.place))
    }
}

fn sign_words(dimensions: usize) -> usize {
    dimensions.div_ceil(64)
}

fn push_signs(values: &[i8], signs: &mut Vec<u64>) {
    for values in values.chunks(64) {
        let bits = values.iter().enumerate().map(|(bit, value)| u64::from(*value > 0) << bit);
        signs.push(bits.sum());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seq: i64) -> Row {
        Row { seq, archived: false, expires_at: i64::MAX, session: 0, words: 3 }
    }

    fn found(segment: &Segment, vector: &[f32], count: usize, keep: &Keep) -> Vec<i64> {
        let scan = segment.scan(&Needle::new(vector), count, keep);
        scan.near.iter().map(|near| segment.row(near.place).seq).collect()
    }

    #[test]
    fn the_nearest_come_first_and_the_newer_of_equals() {
        let mut segment = Segment::new(2);
        for (seq, vector) in [(1, [1.0, 0.0]), (2, [0.0, 1.0]), (3, [0.6, 0.8]), (4, [1.0, 0.0])] {
            segment.put(row(seq), Some(&vector));
        }
        let scan = segment.scan(&Needle::new(&[1.0, 0.0]), 3, &Keep::Active(0));
        assert_eq!(scan.near.iter().map(|near| near.place).collect::<Vec<_>>(), [3, 0, 2]);
        assert!((scan.near[2].cosine - 0.6).abs() < 0.02, "{scan:?}");
        assert_eq!(found(&segment, &[1.0, 0.0], 9, &Keep::Only(vec![1, 2])), [3, 2]);
    }

    #[test]
    fn what_is_removed_replaced_archived_or_expired_is_not_found() {
        let mut segment = Segment::new(2);
        for seq in 1..=5 {
            segment.put(row(seq), Some(&[1.0, 0.0]));
        }
        segment.remove(1);
        segment.remove(3);
        segment.put(Row { archived: true, ..row(5) }, Some(&[1.0, 0.0]));
        segment.put(row(2), Some(&[0.0, 1.0]));
        assert_eq!((found(&segment, &[1.0, 0.0], 9, &Keep::Active(7)), segment.len()), (vec![4, 2], 3));
        segment.put(row(4), None);
        segment.put(Row { expires_at: 7, ..row(2) }, Some(&[0.0, 1.0]));
        assert_eq!(found(&segment, &[1.0, 0.0], 9, &Keep::Active(7)), Vec::<i64>::new());
        assert_eq!((segment.missing(), segment.mean_words()), (1, 3.0));
        segment.put(row(3), Some(&[1.0, 0.0]));
        assert_eq!((segment.find(3), segment.find(1)), (Some(2), None));
        let below = |limit| (0..=6).map(|seq| segment.find_below(seq, limit)).collect::<Vec<_>>();
        assert_eq!(below(5), [None, None, Some(1), Some(2), Some(3), Some(4), None]);
        assert_eq!(below(3), [None, None, Some(1), Some(2), None, None, None]);
    }

    #[test]
    fn messages_know_their_neighbors_of_the_same_conversation() {
        let mut segment = Segment::new(0);
        for (seq, session) in [(1, 7), (2, 8), (4, 7), (6, 7)] {
            segment.put(Row { session, ..row(seq) }, None);
        }
        segment.put(Row { session: 8, ..row(3) }, None);
        let keep = Keep::Active(0);
        assert_eq!(segment.neighbors(&keep, segment.find(4).unwrap()), [segment.find(1), segment.find(6)]);
        segment.remove(4);
        assert_eq!(segment.neighbors(&keep, segment.find(1).unwrap()), [None, segment.find(6)]);
        assert_eq!(segment.neighbors(&keep, segment.find(2).unwrap()), [None, segment.find(3)]);
    }

    #[test]
    fn removed_rows_leave_no_values_and_the_rest_moves_together() {
        let mut segment = Segment::new(1);
        for seq in 0..4_000 {
            segment.put(Row { session: 1, ..row(seq) }, Some(&[1.0]));
        }
        for seq in 0..1_500 {
            segment.remove(seq * 2);
        }
        assert_eq!(segment.len(), 2_500);
        assert!(segment.places() < 3_500, "{} places", segment.places());
        assert_eq!(segment.values.iter().filter(|value| **value != 0).count(), 2_500);
        let place = segment.find(5).unwrap();
        let neighbors = segment.neighbors(&Keep::Active(0), place);
        assert_eq!(neighbors.map(|place| place.map(|place| segment.row(place).seq)), [Some(3), Some(7)]);
    }
}
