//! What a search needs of the records of one wall, in memory: their vectors as bytes, their lengths, their conversations.
//!
//! It is derived from the store and can be built again at any time. What it finds is settled by the exact vectors.

use std::collections::HashMap;

pub(crate) use crate::vectors::Needle;
use crate::vectors::{Bits, ByteVectors, Scan, pages};

/// Removed rows that are left in their places before the rest is moved together.
const MIN_GONE_ROWS: usize = 1_024;

/// The records of one wall, with the vectors of one model. In the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    rows: Vec<Row>,
    /// The places of those that may be found at any time, a bit each: a scan asks for thousands, and none of them is a way to
    /// memory.
    lasting: Bits,
    vectors: ByteVectors,
    /// Places of the messages of each conversation.
    sessions: HashMap<u64, Vec<u32>>,
    counts: Counts,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    gone: usize,
    words: u64,
    /// Active records without a vector, and with one; one of zeros is one.
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

    fn is_active(&self, now: i64) -> bool {
        !self.is_gone() && !self.archived && self.expires_at > now
    }

    /// Returns whether it is active until it is changed.
    fn is_lasting(&self) -> bool {
        self.is_active(i64::MAX - 1)
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

impl Segment {
    pub fn new(dimensions: usize) -> Segment {
        Segment::from_parts(Vec::new(), ByteVectors::new(dimensions))
    }

    /// Puts a segment together that was taken apart: rows in the order of their numbers.
    pub fn from_parts(rows: Vec<Row>, vectors: ByteVectors) -> Segment {
        let mut segment = Segment { rows, vectors, ..Segment::default() };
        (0..segment.rows.len()).for_each(|place| segment.count_in(place));
        segment.arrange();
        segment
    }

    /// Returns whether there is a record at a place.
    pub fn is_there(&self, place: u32) -> bool {
        !self.row(place).is_gone()
    }

    /// Returns the vectors, each at the place of its record.
    pub fn vectors(&self) -> &ByteVectors {
        &self.vectors
    }

    pub fn dimensions(&self) -> usize {
        self.vectors.dimensions()
    }

    /// Makes room for so many rows more.
    pub fn reserve(&mut self, rows: usize) {
        pages::reserve(&mut self.rows, rows);
        self.vectors.reserve(rows);
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

    /// Returns some places, evenly over all: `most`, or each where there are fewer.
    pub fn spread(&self, most: u32) -> impl Iterator<Item = u32> {
        let (all, count) = (u64::from(self.places()), self.places().min(most));
        (0..count).map(move |number| (u64::from(number) * all / u64::from(count)) as u32)
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.vectors.bytes()
            + self.rows.capacity() * size_of::<Row>()
            + self.lasting.bytes()
            + self.sessions.values().map(|places| (places.capacity() + 12) * size_of::<u32>()).sum::<usize>()
    }

    /// Puts a record and its vector of length one, in place of what was there of it.
    pub fn put(&mut self, row: Row, vector: Option<&[f32]>) {
        let row = Row { words: row.words.min(GONE - 1), ..row };
        let place = match self.rows.binary_search_by_key(&row.seq, |row| row.seq) {
            Ok(place) => {
                self.take_back(place);
                if self.rows[place].is_gone() {
                    self.counts.gone -= 1;
                }
                let moved = self.rows[place].session != row.session;
                self.rows[place] = row;
                self.vectors.replace(place, vector);
                if moved {
                    self.arrange();
                } else {
                    self.mark(place);
                }
                place
            }
            Err(place) => {
                let is_last = place == self.rows.len();
                self.rows.insert(place, row);
                self.vectors.insert(place, vector);
                if is_last {
                    self.note(place);
                } else {
                    self.arrange();
                }
                place
            }
        };
        self.count_in(place);
    }

    /// Removes a record; nothing of its vector is left.
    pub fn remove(&mut self, seq: i64) {
        let Some(place) = self.find_any(seq).filter(|place| !self.rows[*place].is_gone()) else { return };
        self.take_back(place);
        self.rows[place] = Row { words: GONE, archived: true, expires_at: 0, ..self.rows[place] };
        self.mark(place);
        self.vectors.replace(place, None);
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
        // Where no other wall wrote in between, it lies as many places below as its number does.
        let below = self.rows[..limit].last().and_then(|last| usize::try_from(last.seq - seq).ok());
        if let Some(place) = below.and_then(|below| (limit - 1).checked_sub(below))
            && self.rows[place].seq == seq
        {
            return (!self.rows[place].is_gone()).then_some(place as u32);
        }
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
        match keep {
            Keep::Active(now) => self.lasting.has(place as usize) || self.row(place).is_active(*now),
            Keep::Only(places) => places.binary_search(&place).is_ok(),
        }
    }

    /// Returns the approximate cosines of the vectors at some places; `None` where there is none.
    pub fn cosines(&self, needle: &Needle, places: &[u32]) -> Vec<Option<f32>> {
        self.vectors.cosines_at(needle, places)
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
        match keep {
            Keep::Only(places) => self.vectors.nearest_of(needle, count, places.iter().copied()),
            Keep::Active(_) => self.vectors.nearest(needle, count, |place| self.keeps(keep, place)),
        }
    }

    fn find_any(&self, seq: i64) -> Option<usize> {
        self.rows.binary_search_by_key(&seq, |row| row.seq).ok()
    }

    /// Adds what a row counts for to the sums.
    fn count_in(&mut self, place: usize) {
        let (row, has_vector) = (self.rows[place], self.vectors.has_any(place));
        self.counts.words += u64::from(row.words);
        self.counts.missing += usize::from(!has_vector && !row.archived);
        self.counts.with_vector += usize::from(has_vector && !row.archived);
    }

    /// Takes what a row counts for off the sums.
    fn take_back(&mut self, place: usize) {
        let (row, has_vector) = (self.rows[place], self.vectors.has_any(place));
        if !row.is_gone() {
            self.counts.words -= u64::from(row.words);
            self.counts.missing -= usize::from(!has_vector && !row.archived);
            self.counts.with_vector -= usize::from(has_vector && !row.archived);
        }
    }

    /// Takes note anew of where everything is.
    fn arrange(&mut self) {
        self.sessions.clear();
        self.lasting.clear();
        (0..self.rows.len()).for_each(|place| self.note(place));
    }

    /// Takes note of where the last row is.
    fn note(&mut self, place: usize) {
        let session = self.rows[place].session;
        if session != 0 {
            self.sessions.entry(session).or_default().push(place as u32);
        }
        self.mark(place);
    }

    /// Marks whether a row may be found at any time.
    fn mark(&mut self, place: usize) {
        self.lasting.set(place, self.rows[place].is_lasting());
    }

    /// Closes the places that removed rows have left.
    fn move_together(&mut self) {
        let mut to = 0;
        for from in 0..self.rows.len() {
            if !self.rows[from].is_gone() {
                self.rows[to] = self.rows[from];
                self.vectors.copy(from, to);
                to += 1;
            }
        }
        self.rows.truncate(to);
        self.vectors.truncate(to);
        self.counts.gone = 0;
        self.arrange();
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
        segment.put(row(4), Some(&[0.0, 0.0]));
        assert_eq!((segment.missing(), segment.with_vector()), (0, 2), "zeros are near nothing, and not missing");
        assert_eq!(found(&segment, &[1.0, 0.0], 9, &Keep::Active(0)), [2]);
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
        let with_values = (0..segment.vectors.len()).filter(|place| segment.vectors.parts(*place)[0][0] != 0);
        assert_eq!(with_values.count(), 2_500);
        let place = segment.find(5).unwrap();
        let neighbors = segment.neighbors(&Keep::Active(0), place);
        assert_eq!(neighbors.map(|place| place.map(|place| segment.row(place).seq)), [Some(3), Some(7)]);
    }
}
