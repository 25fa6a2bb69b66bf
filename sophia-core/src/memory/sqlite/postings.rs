//! Where the words of a question stand, within one wall.

use std::{collections::HashMap, mem, sync::Arc};

use parking_lot::{Mutex, RwLock};
use rusqlite::Connection;

use super::{internal, read, vectors::Block};
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
/// Records of words that are kept between searches, and what a word takes beside them, counted in records: 4 MB a wall.
const MAX_KEPT: usize = 1 << 20;
const WORD: usize = 32;
/// Records of a wall that tell which words are frequent in it, and in how many of them such a word stands.
const SAMPLE: u32 = 512;
const FREQUENT: usize = 8;
/// Most records that are looked at for all words of one question together.
const MAX_RECORDS: usize = 65_536;

/// Most words of a wall among which those are looked for that a typo may have been meant as.
const MAX_VOCABULARY: usize = 200_000;

/// Words of a wall that were asked for lately, with the places of the newest records in which they stand: what is asked for often
/// is read once, and after that only what was added.
///
/// Places are those of the segment, and only what was added behind them is unknown: with any other change, all is forgotten.
#[derive(Debug, Default)]
pub(super) struct KnownWords(Mutex<Known>);

/// Two generations: when the younger one has taken half of the room, the older one goes.
#[derive(Debug, Default)]
struct Known {
    young: HashMap<String, Standing>,
    old: HashMap<String, Standing>,
    /// What the younger generation takes.
    size: usize,
}

/// Where a word stands.
#[derive(Debug, Clone)]
struct Standing {
    /// Newest first.
    places: Arc<[u32]>,
    /// Whether it stands in more records, older ones.
    is_cut: bool,
    /// The newest record that it stands in.
    newest: i64,
    /// The last change that was looked at.
    change: i64,
}

impl Known {
    fn get(&mut self, stem: &str) -> Option<Standing> {
        if let Some(standing) = self.young.get(stem) {
            return Some(standing.clone());
        }
        let (stem, standing) = self.old.remove_entry(stem)?;
        self.keep(stem, standing.clone());
        Some(standing)
    }

    fn keep(&mut self, stem: String, standing: Standing) {
        let size = |standing: &Standing| standing.places.len() + WORD;
        self.size += size(&standing);
        self.size -= self.young.insert(stem, standing).as_ref().map_or(0, size);
        if self.size > MAX_KEPT / 2 {
            self.old = mem::take(&mut self.young);
            self.size = 0;
        }
    }
}

impl KnownWords {
    pub(super) fn clear(&mut self) {
        *self.0.get_mut() = Known::default();
    }

    /// Returns where a word stands in the block that `segment` is of, which holds the changes up to `change`.
    fn standing(
        &self,
        connection: &Connection,
        wall: i64,
        term: &Term,
        segment: &Segment,
        change: i64,
    ) -> Result<Standing> {
        // What typos may have been meant as is another set of words each time.
        let known = if term.meant.is_empty() { self.0.lock().get(&term.stem) } else { None };
        if let Some(known) = known.as_ref().filter(|known| known.change >= change) {
            return Ok(known.clone());
        }
        let after = known.as_ref().map_or(0, |known| known.newest);
        // A connection may see more than the block holds: that is read when the block has caught up.
        let last = segment.places().checked_sub(1).map_or(0, |last| segment.row(last).seq);
        let seqs = records_of(connection, wall, term, (after, last), MAX_RECORDS_OF_A_WORD + 1)?;
        let newest = seqs.first().copied().unwrap_or(after);
        let mut below = segment.places();
        let mut places: Vec<u32> = Vec::with_capacity(seqs.len());
        for seq in &seqs {
            if let Some(place) = segment.find_below(*seq, below) {
                below = place;
                places.push(place);
            }
        }
        if let Some(known) = &known {
            places.extend_from_slice(&known.places);
        }
        let is_cut = seqs.len().max(places.len()) > MAX_RECORDS_OF_A_WORD || known.is_some_and(|known| known.is_cut);
        places.truncate(MAX_RECORDS_OF_A_WORD);
        let standing = Standing { places: places.into(), is_cut, newest, change };
        if term.meant.is_empty() && is_as_new(connection, change)? {
            self.0.lock().keep(term.stem.clone(), standing.clone());
        }
        Ok(standing)
    }
}

/// Returns whether a connection sees all that a block holds. One that began before sees less, and must not keep it.
fn is_as_new(connection: &Connection, change: i64) -> Result<bool> {
    connection
        .prepare_cached("SELECT coalesce(max(change), 0) >= ?1 FROM changes")
        .and_then(|mut statement| statement.query_row([change], |row| row.get(0)))
        .map_err(internal("memory.search"))
}

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
        block: &Block,
        keep: &Keep,
    ) -> Result<Postings> {
        let segment = &block.segment;
        let mut keys: Vec<u64> = Vec::new();
        let mut postings = Postings { weights: Weights::new(segment.mean_words()), ..Postings::default() };
        let mut left = MAX_RECORDS;
        for (term, asked) in terms.iter().enumerate() {
            let standing = block.words.standing(connection, wall, asked, segment, block.last_change())?;
            let places = &standing.places[..standing.places.len().min(left)];
            let is_cut = standing.is_cut || places.len() < standing.places.len();
            left -= places.len();
            let kept = places.iter().filter(|place| segment.keeps(keep, **place));
            keys.extend(kept.map(|place| u64::from(*place) << TERM_BITS | term as u64));
            let (frequency, below) = (places.len() as f64, places.last().copied().unwrap_or(segment.places()));
            if is_cut {
                postings.cut.push(term);
            }
            let looked_at = if is_cut { f64::from(segment.places() - below) } else { f64::from(segment.places()) };
            // Of a word that is everywhere, the newest records tell how frequent it is.
            let all = f64::from(segment.places()) / looked_at.max(1.0);
            let frequency = (frequency * all).min(segment.len() as f64);
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

    /// Returns the best records and their scores, in no order; of equals the newest.
    pub(super) fn best(&self, segment: &Segment, count: usize) -> Vec<(u32, f64)> {
        let mut scored: Vec<_> = self.matches.iter().map(|found| (found.0, self.score_of(segment, *found))).collect();
        if scored.len() > count {
            scored.select_nth_unstable_by(count, |a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
            scored.truncate(count);
        }
        scored
    }

    fn score_of(&self, segment: &Segment, (place, set): (u32, u64)) -> f64 {
        self.weights.approximate(set, segment.row(place).words)
    }
}

/// Reads where the most frequent words of a wall stand, so that no question waits for them.
pub(super) fn read_ahead(connection: &Connection, wall: i64, block: &RwLock<Block>) -> Result<()> {
    let seqs: Vec<i64> = {
        let segment = &block.read().segment;
        segment.spread(SAMPLE).map(|place| segment.row(place).seq).collect()
    };
    let mut counts: HashMap<String, (usize, Term)> = HashMap::new();
    for seq in seqs {
        if let Some(record) = read::text_by_seq(connection, seq)? {
            for term in words::terms(&record.content) {
                counts.entry(term.stem.clone()).or_insert((0, term)).0 += 1;
            }
        }
    }
    let mut frequent: Vec<(usize, Term)> = counts.into_values().filter(|(count, _)| *count >= FREQUENT).collect();
    frequent.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.stem.cmp(&b.1.stem)));
    let mut room = MAX_KEPT / 2;
    for (_, term) in frequent {
        // Questions come first: each word takes the block anew.
        let block = block.read();
        let standing = block.words.standing(connection, wall, &term, &block.segment, block.last_change())?;
        match room.checked_sub(standing.places.len() + WORD) {
            Some(left) => room = left,
            None => break,
        }
    }
    Ok(())
}

/// Puts the index of words together, a few pages at a time, so that a word is looked up in one place instead of many. `is_first`
/// begins it. Returns whether there is more to do.
pub(super) fn merge(connection: &Connection, is_first: bool) -> rusqlite::Result<bool> {
    /// Pages of one step: some milliseconds, for which a write may have to wait.
    const PAGES: i64 = 16;
    let before = connection.total_changes();
    connection
        .prepare_cached("INSERT INTO record_words (record_words, rank) VALUES ('merge', ?1)")?
        .execute([if is_first { -PAGES } else { PAGES }])?;
    // The statement itself is one change.
    Ok(connection.total_changes() - before > 1)
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

/// Returns the newest records after one, up to another one, in which a word stands.
fn records_of(
    connection: &Connection,
    wall: i64,
    term: &Term,
    (after, last): (i64, i64),
    most: usize,
) -> Result<Vec<i64>> {
    // Quoted, so that nothing in it is a command.
    let quoted = |stem: &String| format!("\"{}\"", words::index_term(wall, stem));
    let query = std::iter::once(&term.stem).chain(&term.meant).map(quoted).collect::<Vec<_>>().join(" OR ");
    connection
        .prepare_cached(
            "SELECT rowid FROM record_words WHERE record_words MATCH ?1 AND rowid > ?2 AND rowid <= ?3 ORDER BY rowid DESC \
             LIMIT ?4",
        )
        .and_then(|mut statement| statement.query_map((query, after, last, most as i64), |row| row.get(0))?.collect())
        .map_err(internal("memory.search"))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        Scope,
        memory::{
            sqlite::{
                filter,
                open::{Place, open_writer},
                vectors::{Blocks, Key},
                write,
            },
            store::{Atomicity, Draft},
        },
        testing::memory::record,
    };

    #[test]
    fn words_are_found_as_before_where_the_index_is_put_together() {
        let connection = open_writer(&Place::Memory).unwrap();
        for seq in 1..=3_000_i64 {
            let words = format!(
                "{} {}",
                words::index_term(7, &words::terms("every")[0].stem),
                words::index_term(7, &words::terms(&format!("w{}", seq % 40))[0].stem)
            );
            let sql = "INSERT INTO record_words (rowid, words) VALUES (?1, ?2)";
            connection.execute(sql, (seq, words)).unwrap();
        }
        let term = |word: &str| words::terms(word).remove(0);
        let found =
            || ["w3", "every", "none"].map(|word| records_of(&connection, 7, &term(word), (0, 3_000), 2_000).unwrap());
        let before = found();
        let count = |word: usize| before[word].len();
        assert_eq!((count(0), count(1), count(2)), (75, 2_000, 0));
        let (mut is_first, mut steps) = (true, 0);
        while merge(&connection, std::mem::take(&mut is_first)).unwrap() {
            steps += 1;
        }
        assert!(steps > 0);
        assert_eq!(found(), before);
        assert!(!merge(&connection, true).unwrap(), "there is one piece");
    }

    #[test]
    fn the_words_of_most_records_are_read_ahead() {
        let connection = open_writer(&Place::Memory).unwrap();
        let wall = filter::make_wall(&connection, &Scope::default()).unwrap();
        let store = |number: usize| {
            let text = format!("every {} w{number}", if number.is_multiple_of(10) { "tenth" } else { "the" });
            let draft = Draft::new(record(&Scope::default(), &number.to_string(), &text, Timestamp::UNIX_EPOCH));
            write::insert_all(&connection, vec![draft], Atomicity::Together).unwrap();
        };
        let blocks = Blocks::new(1 << 20, None);
        let current = || blocks.current(&connection, Key { wall, model: -1 }, 0).unwrap();
        read_ahead(&connection, wall, &current()).unwrap();
        (0..1_000).for_each(store);
        let block = current();
        // Written meanwhile: the block does not hold it yet.
        store(1_000);
        read_ahead(&connection, wall, &block).unwrap();
        let known =
            |word: &str| block.read().words.0.lock().get(&words::terms(word)[0].stem).map(|known| known.places.len());
        assert_eq!((known("every"), known("tenth"), known("w7"), known("the")), (Some(1_000), Some(100), None, None));
        let block = current();
        let block = block.read();
        let every = &words::terms("every")[0];
        let standing = block.words.standing(&connection, wall, every, &block.segment, block.last_change());
        assert_eq!(standing.unwrap().places.len(), 1_001);
    }

    #[test]
    fn of_known_words_the_older_half_is_forgotten() {
        let mut known = Known::default();
        let standing = || Standing { places: vec![1; MAX_KEPT / 8].into(), is_cut: false, newest: 0, change: 0 };
        known.keep("often".into(), standing());
        for number in 0..12 {
            known.keep(format!("w{number}"), standing());
            assert!(known.get("often").is_some(), "{number}");
        }
        assert!(known.get("w0").is_none() && known.get("w11").is_some());
        let kept = known.young.values().chain(known.old.values());
        assert!(kept.map(|standing| standing.places.len()).sum::<usize>() <= MAX_KEPT + MAX_KEPT / 8);
    }
}
