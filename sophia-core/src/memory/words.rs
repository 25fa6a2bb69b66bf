//! The words of a text: how it is cut into them, which of them are asked for, and where they stand.

use std::{collections::HashSet, ops::Range};

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

use super::{record::Record, stem::stem};

/// Most words of a question that are looked up: the first ones. A set of them fits 64 bits.
const MAX_TERMS: usize = 48;
/// Bytes of text on each side in a highlight.
const CONTEXT_BYTES: usize = 80;
/// Words of a highlight.
const HIGHLIGHT_WORDS: usize = 24;
/// Longest word that is indexed, in bytes: longer ones are data, not language.
const MAX_WORD_BYTES: usize = 128;

/// English words that stand in nearly every text and say nothing about it. Sorted.
const STOP_WORDS: &[&str] = &[
    "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "because", "been",
    "before", "being", "but", "by", "can", "could", "did", "do", "does", "doing", "for", "from", "had", "has", "have",
    "having", "he", "her", "here", "hers", "him", "his", "how", "i", "if", "in", "into", "is", "it", "its", "just",
    "me", "more", "most", "my", "no", "nor", "not", "of", "on", "only", "or", "other", "our", "out", "over", "own",
    "same", "she", "should", "so", "some", "such", "than", "that", "the", "their", "them", "then", "there", "these",
    "they", "this", "those", "through", "to", "too", "under", "until", "up", "very", "was", "we", "were", "what",
    "when", "where", "which", "while", "who", "whom", "why", "will", "with", "would", "you", "your",
];

/// A word of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Term {
    /// In lower case, without diacritics.
    pub word: String,
    /// What it is indexed by.
    pub stem: String,
    /// Stems that count as well: it may have been meant as one of them.
    pub meant: Vec<String>,
}

impl Term {
    /// Returns whether a stem is one of its own.
    pub fn is(&self, stem: &str) -> bool {
        self.stem == stem || self.meant.iter().any(|meant| meant == stem)
    }
}

/// Returns the words of a question that have distinct stems, without stop words unless there is nothing else.
pub(crate) fn terms(question: &str) -> Vec<Term> {
    let mut seen = HashSet::new();
    let mut all: Vec<Term> = Vec::new();
    for_each_word(question, |_, word| {
        if all.len() < 4 * MAX_TERMS {
            let stem = stemmed(word);
            if seen.insert(stem.clone()) {
                all.push(Term { word: word.to_owned(), stem, meant: Vec::new() });
            }
        }
    });
    let telling: Vec<_> = all.iter().filter(|term| !is_stop_word(&term.word)).take(MAX_TERMS).cloned().collect();
    if telling.is_empty() { all.into_iter().take(MAX_TERMS).collect() } else { telling }
}

/// Returns whether a word, in lower case, says nothing about a text.
pub(crate) fn is_stop_word(word: &str) -> bool {
    // Sorted, as a test sees to.
    STOP_WORDS.binary_search(&word).is_ok()
}

/// Returns the texts of a record that are searched by words.
pub(crate) fn texts(record: &Record) -> impl Iterator<Item = &str> {
    std::iter::once(record.content.as_str())
        .chain(record.summary.as_deref())
        .chain(record.tags.iter().map(String::as_str))
}

/// Writes the words of a record as they are indexed: each with its wall, so that a word of one wall is no word of another.
pub(crate) fn index_text(wall: i64, record: &Record) -> String {
    let prefix = index_prefix(wall);
    let mut written = String::with_capacity(record.content.len() * 2);
    for text in texts(record) {
        for_each_stem(text, |_, stem| {
            written.push_str(&prefix);
            written.push_str(stem);
            written.push(' ');
        });
    }
    written
}

/// Returns a stem as it is indexed.
pub(crate) fn index_term(wall: i64, stem: &str) -> String {
    // Digits end at the first letter, so no two pairs of wall and stem are written alike.
    format!("{wall}w{stem}")
}

/// Returns what the indexed words of a wall begin with.
pub(crate) fn index_prefix(wall: i64) -> String {
    index_term(wall, "")
}

/// Returns how often each term stands in a record, and how many words the record has.
pub(crate) fn frequencies(terms: &[Term], record: &Record) -> (Vec<u32>, u32) {
    let mut counts = vec![0; terms.len()];
    let mut length = 0;
    for text in texts(record) {
        for_each_term(text, terms, |_, term| {
            length += 1;
            if let Some(place) = term {
                counts[place] += 1;
            }
        });
    }
    (counts, length)
}

/// Returns the share of the terms that stand in a record.
pub(crate) fn coverage(terms: &[Term], record: &Record) -> f64 {
    if terms.is_empty() {
        return 0.0;
    }
    let (counts, _) = frequencies(terms, record);
    counts.iter().filter(|count| **count > 0).count() as f64 / terms.len() as f64
}

/// Returns the part of a text where most of the terms stand together, with them between `**`.
pub(crate) fn highlight(terms: &[Term], text: &str) -> Option<String> {
    let mut words: Vec<(Range<usize>, Option<usize>)> = Vec::new();
    for_each_term(text, terms, |range, term| words.push((range, term)));
    let distinct = |from: usize| {
        let part = words[from..].iter().take(HIGHLIGHT_WORDS);
        part.filter_map(|(_, term)| *term).fold(0_u64, |seen, term| seen | 1 << term).count_ones()
    };
    let hits = (0..words.len()).filter(|place| words[*place].1.is_some());
    // Of equals the first.
    let first = hits.rev().max_by_key(|place| distinct(*place))?;
    // Some words before the first hit, if what is cut off behind leaves room for them.
    let start = first.saturating_sub(HIGHLIGHT_WORDS / 4).min(words.len().saturating_sub(HIGHLIGHT_WORDS));
    let end = (start + HIGHLIGHT_WORDS).min(words.len());
    let from = if start == 0 { 0 } else { words[start].0.start };
    let to = if end == words.len() { text.len() } else { words[end - 1].0.end };
    let mut shown = String::from(if from > 0 { "…" } else { "" });
    let mut done = from;
    for (range, _) in words[start..end].iter().filter(|(_, term)| term.is_some()) {
        // Pairs of characters overlap.
        let from = range.start.max(done);
        if from < range.end {
            shown.push_str(&text[done..from]);
            shown.push_str("**");
            shown.push_str(&text[from..range.end]);
            shown.push_str("**");
            done = range.end;
        }
    }
    shown.push_str(&text[done..to.max(done)]);
    if to < text.len() {
        shown.push('…');
    }
    Some(shown)
}

/// Returns the parts of a text around the first place where `needle` stands, with it between `**`.
pub(crate) fn around(text: &str, needle: &str) -> Vec<String> {
    let Some(start) = text.find(needle).filter(|_| !needle.is_empty()) else { return Vec::new() };
    let end = start + needle.len();
    let from = text.floor_char_boundary(start.saturating_sub(CONTEXT_BYTES));
    let to = text.ceil_char_boundary((end + CONTEXT_BYTES).min(text.len()));
    let before = if from > 0 { "…" } else { "" };
    let after = if to < text.len() { "…" } else { "" };
    vec![format!("{before}{}**{needle}**{}{after}", &text[from..start], &text[end..to])]
}

/// Returns the stem of a word as [`for_each_word`] gives it.
pub(crate) fn stemmed(word: &str) -> String {
    let mut stemmed = word.to_owned();
    stem(&mut stemmed);
    stemmed
}

/// Cuts a text into words, and gives each with the place of the term that it is a form of.
fn for_each_term(text: &str, terms: &[Term], mut take: impl FnMut(Range<usize>, Option<usize>)) {
    // A stem begins as its word does: most words need not be brought to theirs.
    let mut begins = [false; 256];
    for stem in terms.iter().flat_map(|term| term.meant.iter().chain([&term.stem])) {
        stem.bytes().take(1).for_each(|byte| begins[usize::from(byte)] = true);
    }
    let mut stemmed = String::new();
    for_each_word(text, |range, word| {
        let may_be = word.bytes().next().is_some_and(|byte| begins[usize::from(byte)]);
        let term = may_be.then(|| {
            stemmed.clear();
            stemmed.push_str(word);
            stem(&mut stemmed);
            terms.iter().position(|term| term.is(&stemmed))
        });
        take(range, term.flatten());
    });
}

/// Cuts a text into words, and gives each with its stem.
fn for_each_stem(text: &str, mut take: impl FnMut(Range<usize>, &str)) {
    let mut stemmed = String::new();
    for_each_word(text, |range, word| {
        stemmed.clear();
        stemmed.push_str(word);
        stem(&mut stemmed);
        take(range, &stemmed);
    });
}

/// Cuts a text into words: lower case, without diacritics, each with where it stands. Scripts that put no space between
/// words are cut into pairs of characters.
pub(crate) fn for_each_word(text: &str, mut take: impl FnMut(Range<usize>, &str)) {
    let mut word = String::new();
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        let is_part =
            if c.is_ascii() { c.is_ascii_alphanumeric() } else { c.is_alphanumeric() || is_combining_mark(c) };
        match start {
            None if is_part => start = Some(at),
            Some(from) if !is_part => {
                take_run(&text[from..at], from, &mut word, &mut take);
                start = None;
            }
            _ => {}
        }
    }
}

fn take_run(run: &str, from: usize, word: &mut String, take: &mut impl FnMut(Range<usize>, &str)) {
    word.clear();
    if run.is_ascii() {
        word.extend(run.bytes().map(|byte| char::from(byte.to_ascii_lowercase())));
        if word.len() <= MAX_WORD_BYTES {
            take(from..from + run.len(), word);
        }
        return;
    }
    let mut rest = run;
    while let Some(first) = rest.chars().next() {
        let unspaced = is_unspaced(first);
        let length = rest.find(|c| is_unspaced(c) != unspaced).unwrap_or(rest.len());
        let (part, after) = rest.split_at(length);
        let at = from + run.len() - rest.len();
        if unspaced {
            take_pairs(part, at, word, take);
        } else {
            word.clear();
            word.extend(part.nfkd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase));
            if !word.is_empty() && word.len() <= MAX_WORD_BYTES {
                take(at..at + part.len(), word);
            }
        }
        rest = after;
    }
}

fn take_pairs(part: &str, from: usize, word: &mut String, take: &mut impl FnMut(Range<usize>, &str)) {
    let places: Vec<_> = part.char_indices().map(|(at, _)| at).chain([part.len()]).collect();
    let size = if places.len() > 2 { 2 } else { 1 };
    for window in places.windows(size + 1) {
        let (start, end) = (window[0], window[size]);
        word.clear();
        word.push_str(&part[start..end]);
        take(from + start..from + end, word);
    }
}

/// Returns whether a character is of a script that puts no space between words: Han, Hiragana, Katakana.
fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3134f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(question: &str) -> Vec<String> {
        terms(question).into_iter().map(|term| term.word).collect()
    }

    fn words(text: &str) -> Vec<String> {
        let mut words = Vec::new();
        for_each_word(text, |range, word| {
            assert!(text.get(range).is_some());
            words.push(word.to_owned());
        });
        words
    }

    #[test]
    fn stop_words_are_left_out_unless_there_is_nothing_else() {
        assert!(STOP_WORDS.is_sorted());
        assert_eq!(asked("Which file-format does SHE like?"), ["file", "format", "like"]);
        assert_eq!(asked("to be or not to be"), ["to", "be", "or", "not"]);
        assert_eq!(asked("?! \0 ()"), Vec::<String>::new());
    }

    #[test]
    fn forms_of_a_word_are_one_term() {
        assert_eq!(asked("report reports reported"), ["report"]);
        assert_eq!(terms("Zürich crashes")[1].stem, terms("crashing")[0].stem);
    }

    #[test]
    fn words_lose_case_and_diacritics() {
        assert_eq!(words("Naïve café, ÉCOLE x86 don't"), ["naive", "cafe", "ecole", "x86", "don", "t"]);
    }

    #[test]
    fn scripts_without_spaces_are_cut_into_pairs() {
        assert_eq!(words("東京都 v2東"), ["東京", "京都", "v2", "東"]);
        assert_eq!(highlight(&terms("東京都"), "私は東京都に"), Some("私は**東京****都**に".into()));
    }

    #[test]
    fn a_highlight_is_where_most_of_the_words_are() {
        let text = format!("tea first. {} then green tea in a pot. {}", "word ".repeat(40), "word ".repeat(40));
        let shown = highlight(&terms("green tea pots"), &text).unwrap();
        assert!(
            shown.contains("then **green** **tea** in a **pot**") && shown.starts_with('…') && shown.ends_with('…')
        );
        assert_eq!(highlight(&terms("coffee"), &text), None);
    }

    #[test]
    fn what_is_around_a_text_is_shown() {
        assert_eq!(around("naïve café", "caf"), ["naïve **caf**é"]);
    }
}
