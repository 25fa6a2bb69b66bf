//! A text as its words: what is compared when two questions are.

use std::{collections::HashSet, ops::Range};

use unicode_normalization::UnicodeNormalization;

use super::lexicon::{self, Kind};

/// A text, read word by word. It holds the words, not the text.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Reading {
    /// All words and their stems, one after the other.
    letters: Box<str>,
    words: Box<[Word]>,
    /// Numbers, dates and moments, sorted.
    pub numbers: Box<[Box<str>]>,
}

#[derive(Debug, Clone, PartialEq)]
struct Word {
    text: (u32, u32),
    stem: (u32, u32),
    kind: Kind,
    name: bool,
}

/// One word of a reading.
#[derive(Debug, Clone, Copy)]
pub(super) struct WordRef<'a> {
    pub text: &'a str,
    pub stem: &'a str,
    pub kind: Kind,
    /// Whether it is written as a name: with a capital where none is due.
    pub is_name: bool,
}

impl Reading {
    pub fn of(text: &str) -> Reading {
        let mut letters = String::with_capacity(2 * text.len());
        let mut words = Vec::new();
        let mut numbers = Vec::new();
        for token in tokens(text) {
            let stem = lexicon::stem(&token.text);
            numbers.extend(token.number());
            let mut put = |text: &str| {
                let start = letters.len() as u32;
                letters.push_str(text);
                (start, letters.len() as u32)
            };
            let text = put(&token.text);
            let stem = if stem == token.text { text } else { put(&stem) };
            words.push(Word { text, stem, kind: lexicon::kind(&token.text), name: token.is_name });
        }
        numbers.sort_unstable();
        Reading { letters: letters.into(), words: words.into(), numbers: numbers.into() }
    }

    pub fn words(&self) -> impl DoubleEndedIterator<Item = WordRef<'_>> + Clone {
        self.words.iter().map(|word| WordRef {
            text: self.slice(word.text),
            stem: self.slice(word.stem),
            kind: word.kind,
            is_name: word.name,
        })
    }

    /// Returns the words that carry meaning.
    pub fn content(&self) -> impl Iterator<Item = WordRef<'_>> + Clone {
        self.words().filter(|word| word.kind == Kind::Content)
    }

    pub fn stems(&self) -> HashSet<&str> {
        self.words().map(|word| word.stem).collect()
    }

    /// Returns whether it denies.
    pub fn is_negated(&self) -> bool {
        self.words().filter(|word| word.kind == Kind::Negator).count() % 2 == 1
    }

    /// Returns whether what is known of words applies to it: a share of its words are English ones that join others.
    pub fn is_english(&self) -> bool {
        const SHARE: usize = 4;
        let joining = self.words().filter(|word| matches!(word.kind, Kind::Function | Kind::Filler)).count();
        self.words.len() <= joining * SHARE
    }

    /// Returns about how much memory it takes, in bytes.
    pub fn weight(&self) -> usize {
        let numbers: usize = self.numbers.iter().map(|number| size_of::<Box<str>>() + number.len()).sum();
        size_of::<Reading>() + self.letters.len() + size_of_val(&*self.words) + numbers
    }

    fn slice(&self, (start, end): (u32, u32)) -> &str {
        let range: Range<usize> = start as usize..end as usize;
        // Both ends were the length of the buffer at a time when a whole word had been written.
        &self.letters[range]
    }
}

#[derive(Debug, PartialEq)]
struct Token {
    text: String,
    is_name: bool,
}

impl Token {
    /// Returns the number, date or moment that it is.
    fn number(&self) -> Option<Box<str>> {
        let text = self.text.as_str();
        if text.bytes().any(|byte| byte.is_ascii_digit()) {
            let plain = text.replace(',', "");
            let plain = match plain.split_once('.') {
                Some((whole, part)) if part.bytes().all(|byte| byte == b'0') => whole,
                _ => &plain,
            };
            return Some(plain.into());
        }
        if lexicon::is_moment(text) {
            return Some(text.into());
        }
        lexicon::number(text).map(|number| number.to_string().into())
    }
}

/// Cuts a text into words in lower case, numbers, identifiers and signs of money and share.
fn tokens(text: &str) -> Vec<Token> {
    let text: Vec<char> = text.nfkc().collect();
    let mut out = Vec::new();
    let mut at = 0;
    let mut sentence_starts = true;
    while at < text.len() {
        let first = text[at];
        let end = if first.is_alphanumeric() { run(&text, at) } else { at + 1 };
        let part = &text[at..end];
        if first.is_alphanumeric() {
            let is_capital = first.is_uppercase();
            let is_shouted = part.len() > 1 && part.iter().all(|c| !c.is_lowercase());
            let is_name = part.iter().any(|c| c.is_alphabetic())
                && is_capital
                && (!sentence_starts || is_shouted)
                && !(part.len() == 1 || part.starts_with(&['I', '\'']) || part.starts_with(&['I', '’']));
            let lower: String = part.iter().flat_map(|c| c.to_lowercase()).collect();
            split(&lower, is_name, &mut out);
            sentence_starts = false;
        } else if matches!(first, '$' | '£' | '€' | '%') {
            out.push(Token { text: first.to_string(), is_name: false });
        } else if matches!(first, '.' | '!' | '?' | ':' | '\n' | '"' | '“') {
            sentence_starts = true;
        }
        at = end;
    }
    out
}

/// Returns where the word or number that begins at `at` ends.
fn run(text: &[char], at: usize) -> usize {
    let is_inner = |at: usize| {
        let (Some(before), Some(after)) = (text.get(at - 1), text.get(at + 1)) else { return false };
        match text[at] {
            '\'' | '’' => before.is_alphabetic() && after.is_alphabetic(),
            '.' | ',' | ':' | '/' | '-' => before.is_ascii_digit() && after.is_ascii_digit(),
            _ => false,
        }
    };
    (at + 1..text.len()).find(|&at| !text[at].is_alphanumeric() && !is_inner(at)).unwrap_or(text.len())
}

/// Puts a run of letters and digits as the words that it is.
fn split(lower: &str, is_name: bool, out: &mut Vec<Token>) {
    let mut put = |text: &str| out.push(Token { text: text.to_owned(), is_name });
    if lower.starts_with(|c: char| c.is_ascii_digit()) {
        // `3pm` is a number and its unit; `3b7` is an identifier.
        let number = lower.trim_end_matches(|c: char| c.is_alphabetic());
        let unit = &lower[number.len()..];
        let is_plain = number.bytes().all(|byte| !byte.is_ascii_alphabetic()) && unit.len() <= 4;
        match is_plain && !unit.is_empty() {
            true if matches!(unit, "st" | "nd" | "rd" | "th") => put(number),
            true => [number, unit].into_iter().for_each(put),
            false => put(lower),
        }
        return;
    }
    if lower.bytes().any(|byte| byte.is_ascii_digit()) {
        return put(lower);
    }
    let lower = lower.replace('’', "'");
    if let Some(base) = negated(&lower) {
        put(base);
        return put("not");
    }
    for part in lower.split('\'').filter(|part| !part.is_empty()) {
        put(part);
    }
}

/// Returns the verb of a verb with `n't`, also where the apostrophe was left out.
fn negated(word: &str) -> Option<&str> {
    const AUXILIARIES: [&str; 15] = [
        "do", "does", "did", "is", "are", "was", "were", "should", "would", "could", "has", "have", "had", "must",
        "need",
    ];
    match word {
        "can't" | "cant" | "cannot" => return Some("can"),
        "won't" | "wont" => return Some("will"),
        "shan't" | "shant" => return Some("shall"),
        "ain't" | "aint" => return Some("is"),
        _ => {}
    }
    let base = word.strip_suffix("n't").or_else(|| word.strip_suffix("nt"))?;
    AUXILIARIES.contains(&base).then_some(base)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        tokens(text).into_iter().map(|token| token.text).collect()
    }

    fn numbers(text: &str) -> Vec<String> {
        Reading::of(text).numbers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn contractions_are_the_words_that_they_stand_for() {
        assert_eq!(
            words("I can't, won’t and dont; what's new?"),
            ["i", "can", "not", "will", "not", "and", "do", "not", "what", "s", "new"]
        );
    }

    #[test]
    fn numbers_dates_and_identifiers_are_found_in_any_form() {
        assert_eq!(numbers("1,000.00 at 3pm on the 2nd of May, or two"), ["1000", "2", "2", "3"]);
        assert_eq!(numbers("12/05 and 05/12"), ["05/12", "12/05"]);
        assert_ne!(numbers("order AB12CD34"), numbers("order AB34CD12"));
        assert_eq!(numbers("next Tuesday"), ["tuesday"]);
        assert!(numbers("one of these").is_empty());
    }

    #[test]
    fn a_capital_inside_of_a_sentence_makes_a_name() {
        let names = |text: &str| -> Vec<String> {
            tokens(text).into_iter().filter(|token| token.is_name).map(|token| token.text).collect()
        };
        assert_eq!(names("Is Paris in France? Yes. I'd say NASA, and I say so."), ["paris", "france", "nasa"]);
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(text in ".{0,80}") {
            let reading = Reading::of(&text);
            prop_assert!(reading.words().all(|word| !word.text.is_empty()));
        }
    }
}
