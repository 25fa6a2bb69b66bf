//! Where the words of a question stand, within one wall.

use rusqlite::Connection;

use super::internal;
use crate::{
    Result,
    memory::{
        bm25::Weights,
        segment::{Keep, Segment},
        words::{self, Term},
    },
};

/// Most records that are looked at for one word: the newest. Beyond, the word says little anyway.
const MAX_RECORDS_OF_A_WORD: usize = 16_384;
/// Most records that are looked at for all words of one question together.
const MAX_RECORDS: usize = 65_536;

/// Most words of a wall among which those are looked for that a typo may have been meant as.
const MAX_VOCABULARY: usize = 200_000;

/// The records of a wall in which words of a question stand.
#[derive(Debug, Default)]
pub(super) struct Postings {
    /// Places in the segment, ascending, each with the set of words that stand there.
    matches: Vec<(u32, u64)>,
    /// In how many records a word stands is counted, or estimated where there are too many.
    pub weights: Weights,
    /// Words that stand in more records than were looked at.
    pub cut: Vec<usize>,
}

impl Postings {
    pub(super) fn read(
        connection: &Connection,
        wall: i64,
        terms: &[Term],
        segment: &Segment,
        keep: &Keep,
    ) -> Result<Postings> {
        let mut keys: Vec<u64> = Vec::new();
        let mut postings = Postings { weights: Weights::new(segment.mean_words()), ..Postings::default() };
        let mut left = MAX_RECORDS;
        for (term, asked) in terms.iter().enumerate() {
            let most = left.min(MAX_RECORDS_OF_A_WORD);
            let seqs = records_of(connection, wall, asked, most + 1)?;
            let is_cut = seqs.len() > most;
            left -= seqs.len().min(most);
            let mut below = segment.places();
            let mut frequency = 0;
            for seq in seqs.into_iter().take(most) {
                let Some(place) = segment.find_below(seq, below) else { continue };
                below = place;
                frequency += 1;
                if segment.keeps(keep, place) {
                    keys.push(u64::from(place) << TERM_BITS | term as u64);
                }
            }
            if is_cut {
                postings.cut.push(term);
            }
            let looked_at = if is_cut { f64::from(segment.places() - below) } else { f64::from(segment.places()) };
            // Of a word that is everywhere, the newest records tell how frequent it is.
            let all = f64::from(segment.places()) / looked_at.max(1.0);
            let frequency = (f64::from(frequency) * all).min(segment.len() as f64);
            postings.weights.push(frequency, segment.len() as f64);
        }
        // Runs in descending order: what a merge sort is good at.
        keys.sort();
        for key in keys {
            let (place, bit) = ((key >> TERM_BITS) as u32, 1_u64 << (key & ((1 << TERM_BITS) - 1)));
            match postings.matches.last_mut() {
                Some((last, set)) if *last == place => *set |= bit,
                _ => postings.matches.push((place, bit)),
            }
        }
        Ok(postings)
    }

    /// Returns the BM25 of the record at a place, each word taken to stand there once; `None` where none does.
    pub(super) fn score(&self, segment: &Segment, place: u32) -> Option<f64> {
        let at = self.matches.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        Some(self.score_of(segment, self.matches[at]))
    }

    /// Returns the best records and their scores, best first; of equals the newest first.
    pub(super) fn best(&self, segment: &Segment, count: usize) -> Vec<(u32, f64)> {
        let mut scored: Vec<_> = self.matches.iter().map(|found| (found.0, self.score_of(segment, *found))).collect();
        let order = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0));
        if scored.len() > count {
            scored.select_nth_unstable_by(count, order);
            scored.truncate(count);
        }
        scored.sort_by(order);
        scored
    }

    fn score_of(&self, segment: &Segment, (place, set): (u32, u64)) -> f64 {
        self.weights.approximate(set, segment.row(place).words)
    }
}

/// Returns the words of a wall, as stems, and whether these are all: the first ones are read.
pub(super) fn vocabulary(connection: &Connection, wall: i64) -> Result<(Vec<String>, bool)> {
    let failed = internal("memory.search");
    connection
        .execute_batch(
            "CREATE VIRTUAL TABLE IF NOT EXISTS temp.record_vocabulary USING fts5vocab (main, record_words, row)",
        )
        .map_err(&failed)?;
    let prefix = words::index_prefix(wall);
    // No stem begins with what comes after `w`.
    let end = format!("{wall}x");
    let stems: Vec<String> = connection
        .prepare_cached("SELECT term FROM temp.record_vocabulary WHERE term >= ?1 AND term < ?2 LIMIT ?3")
        .and_then(|mut statement| {
            let stem = |row: &rusqlite::Row<'_>| {
                let term = row.get_ref(0)?.as_str()?;
                Ok(term.strip_prefix(&prefix).unwrap_or(term).to_owned())
            };
            statement.query_map((&prefix, &end, MAX_VOCABULARY as i64 + 1), stem)?.collect()
        })
        .map_err(&failed)?;
    let is_all = stems.len() <= MAX_VOCABULARY;
    Ok((stems, is_all))
}

/// Bits for the number of a term in a key that is sorted; a set of terms has 64.
const TERM_BITS: u32 = 6;

/// Returns the newest records in which a word stands.
fn records_of(connection: &Connection, wall: i64, term: &Term, most: usize) -> Result<Vec<i64>> {
    // Quoted, so that nothing in it is a command.
    let quoted = |stem: &String| format!("\"{}\"", words::index_term(wall, stem));
    let query = std::iter::once(&term.stem).chain(&term.meant).map(quoted).collect::<Vec<_>>().join(" OR ");
    connection
        .prepare_cached("SELECT rowid FROM record_words WHERE record_words MATCH ?1 ORDER BY rowid DESC LIMIT ?2")
        .and_then(|mut statement| statement.query_map((query, most as i64), |row| row.get(0))?.collect())
        .map_err(internal("memory.search"))
}
