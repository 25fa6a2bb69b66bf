//! The words of a question: what is asked of a full-text index, and how much of it a text holds.

use std::collections::HashSet;

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

use super::record::Record;

/// Most words of a question that are looked up: the first ones.
const MAX_TERMS: usize = 48;
/// Bytes of text on each side in a highlight.
const CONTEXT_BYTES: usize = 80;

/// English words that stand in nearly every text and say nothing about it.
const STOP_WORDS: &[&str] = &[
    "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "because", "been",
    "before", "being", "but", "by", "can", "could", "did", "do", "does", "doing", "for", "from", "had", "has", "have",
    "having", "he", "her", "here", "hers", "him", "his", "how", "i", "if", "in", "into", "is", "it", "its", "just",
    "me", "more", "most", "my", "no", "nor", "not", "of", "on", "only", "or", "other", "our", "out", "over", "own",
    "same", "she", "should", "so", "some", "such", "than", "that", "the", "their", "them", "then", "there", "these",
    "they", "this", "those", "through", "to", "too", "under", "until", "up", "very", "was", "we", "were", "what",
    "when", "where", "which", "while", "who", "whom", "why", "will", "with", "would", "you", "your",
];

/// Returns the distinct words of a question, in lower case, without stop words unless there is nothing else.
pub(crate) fn terms(question: &str) -> Vec<String> {
    let mut seen = HashSet::new();
    let all: Vec<_> = tokens(question).filter(|token| seen.insert(token.clone())).take(4 * MAX_TERMS).collect();
    let telling: Vec<_> =
        all.iter().filter(|term| !STOP_WORDS.contains(&term.as_str())).take(MAX_TERMS).cloned().collect();
    if telling.is_empty() { all.into_iter().take(MAX_TERMS).collect() } else { telling }
}

/// Returns an FTS5 query for any of the words in any of the walls. Each word is quoted: none is a command.
pub(crate) fn fts_query(walls: &[i64], terms: &[String]) -> Option<String> {
    if terms.is_empty() {
        return None;
    }
    let walls: Vec<_> = walls.iter().map(|wall| format!("n{wall}")).collect();
    let words: Vec<_> = terms.iter().map(|term| format!("\"{term}\"")).collect();
    Some(format!("ns : ({}) AND {{content summary tags}} : ({})", walls.join(" OR "), words.join(" OR ")))
}

/// Returns the share of the words that stand in the text of a record, in one of their forms.
pub(crate) fn coverage(terms: &[String], record: &Record) -> f64 {
    if terms.is_empty() {
        return 0.0;
    }
    let texts = std::iter::once(&record.content).chain(&record.summary).chain(&record.tags);
    let present: HashSet<String> = texts.flat_map(|text| tokens(text)).map(|word| fold(&word)).collect();
    let is_present = |term: &String| {
        let term = fold(term);
        present.contains(&term) || present.iter().any(|word| is_form(word, &term))
    };
    terms.iter().filter(|term| is_present(term)).count() as f64 / terms.len() as f64
}

/// Returns whether two words look like forms of one: the same beginning, and short endings.
fn is_form(a: &str, b: &str) -> bool {
    const STEM: usize = 3;
    const ENDING: usize = 3;
    let common = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    common >= STEM && a.len() - common <= ENDING && b.len() - common <= ENDING && common * 2 > a.len().max(b.len())
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

/// Splits into words, lower case. A full-text index folds them further by itself.
fn tokens(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric() && !is_combining_mark(c))
        .filter(|word| word.contains(char::is_alphanumeric))
        .map(str::to_lowercase)
}

/// Takes the diacritics off a word.
fn fold(word: &str) -> String {
    word.nfkd().filter(|c| !is_combining_mark(*c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_words_are_left_out_unless_there_is_nothing_else() {
        assert_eq!(terms("Which file-format does SHE like?"), ["file", "format", "like"]);
        assert_eq!(terms("to be or not to be"), ["to", "be", "or", "not"]);
        assert_eq!(terms("?! \0 ()"), Vec::<String>::new());
    }

    #[test]
    fn nothing_in_a_question_is_a_command() {
        let query = fts_query(&[7], &terms("a\" OR ns:n8 NEAR(x) -y* ^z")).unwrap();
        assert_eq!(
            query,
            "ns : (n7) AND {content summary tags} : (\"ns\" OR \"n8\" OR \"near\" OR \"x\" OR \"y\" OR \"z\")"
        );
    }

    #[test]
    fn forms_of_a_word_count() {
        assert!(is_form("reports", "report") && is_form("crashed", "crashing") && !is_form("port", "report"));
        assert!(!is_form("can", "candle") && !is_form("ada", "a"));
    }

    #[test]
    fn a_highlight_shows_what_is_around_it() {
        assert_eq!(around("naïve café", "caf"), ["naïve **caf**é"]);
    }
}
