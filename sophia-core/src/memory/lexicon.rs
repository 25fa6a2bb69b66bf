//! The words of messages, kept between searches, and how near they are to the words of a question.
//!
//! "Which bands has she seen?" is answered by "the concert was great": neither word is a form of the other. Words whose
//! vectors are alike count as well, the less the less alike they are: a soft form of BM25.

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;

use super::{embed::WordVectors, record::Record, words, words::Term};
use crate::vectors::{ByteVectors, Needle};

/// Cosine of two words below which they have nothing in common. Of the bundled model's pairs of unrelated words, nearly all
/// lie below it.
const NEAR_FLOOR: f32 = 0.35;
/// Words and messages that are kept; beyond, all are read again. A message takes about 200 bytes, a word 400.
const MAX_WORDS: usize = 16_384;
const MAX_TURNS: usize = 16_384;
/// Roles that say what someone is, not who.
const ROLES: &[&str] = &["ai", "assistant", "bot", "developer", "function", "human", "model", "system", "tool", "user"];
/// Longest name of a speaker that is read off the text of a message, in bytes.
const MAX_SPEAKER_BYTES: usize = 40;

/// The words of messages of one wall.
#[derive(Debug, Default)]
pub(crate) struct Lexicon {
    numbers: HashMap<String, u32>,
    words: Vec<Word>,
    /// Vectors of the words.
    vectors: ByteVectors,
    turns: HashMap<i64, Arc<TurnWords>>,
}

#[derive(Debug)]
struct Word {
    stem: String,
    is_stop_word: bool,
}

/// The words of one message.
#[derive(Debug, Default)]
pub(crate) struct TurnWords {
    /// Numbers of its words, each with how often it stands there.
    counts: Vec<(u32, u32)>,
    pub length: u32,
    /// Who speaks, as far as it is known: the words of the name.
    pub speaker: Vec<String>,
}

impl Lexicon {
    /// Returns the words of a message that was read before.
    pub fn turn(&self, seq: i64) -> Option<Arc<TurnWords>> {
        self.turns.get(&seq).cloned()
    }

    /// Forgets everything: a message has changed or is gone.
    pub fn clear(&mut self) {
        *self = Lexicon::default();
    }

    /// Makes room where there is none left. Numbers of words that were given before are void then.
    pub fn make_room(&mut self, vectors: Option<&dyn WordVectors>) {
        let is_of_other_vectors = self.vectors.len() != if vectors.is_some() { self.words.len() } else { 0 };
        if self.words.len() > MAX_WORDS || self.turns.len() > MAX_TURNS || is_of_other_vectors {
            self.clear();
        }
    }

    /// Takes a message in.
    pub fn read(&mut self, record: &Record, vectors: Option<&dyn WordVectors>) -> Arc<TurnWords> {
        let (speaker, is_in_text) = speaker(record);
        let mut counts: HashMap<u32, u32> = HashMap::new();
        let mut length = 0;
        let mut take = |lexicon: &mut Lexicon, word: &str| {
            length += 1;
            *counts.entry(lexicon.number(word, vectors)).or_default() += 1;
        };
        for text in words::texts(record) {
            words::for_each_word(text, |_, word| take(self, word));
        }
        if !is_in_text {
            speaker.iter().for_each(|word| take(self, word));
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_unstable();
        let turn = Arc::new(TurnWords { counts, length, speaker });
        self.turns.insert(record.seq, turn.clone());
        turn
    }

    /// Returns how near each word is to each term: 1 for a form of it, 0 for what has nothing in common with it.
    pub fn nearness(&self, terms: &[Term], vectors: Option<&dyn WordVectors>) -> Nearness {
        let mut near = vec![0.0; terms.len() * self.words.len()];
        let mut cosines = vec![0.0; self.words.len()];
        for (place, term) in terms.iter().enumerate() {
            let near = &mut near[place * self.words.len()..][..self.words.len()];
            let vectors = vectors.filter(|_| self.vectors.len() == self.words.len());
            if let Some(vector) = vectors.and_then(|vectors| vectors.word(&term.word)) {
                self.vectors.cosines(&Needle::new(&vector), 0, &mut cosines);
                for ((near, cosine), word) in near.iter_mut().zip(&cosines).zip(&self.words) {
                    if !word.is_stop_word {
                        *near = ((cosine - NEAR_FLOOR) / (1.0 - NEAR_FLOOR)).clamp(0.0, 1.0);
                    }
                }
            }
            for (near, word) in near.iter_mut().zip(&self.words) {
                if term.is(&word.stem) {
                    *near = 1.0;
                }
            }
        }
        Nearness { near, words: self.words.len(), terms: terms.len() }
    }

    fn number(&mut self, word: &str, vectors: Option<&dyn WordVectors>) -> u32 {
        if let Some(number) = self.numbers.get(word) {
            return *number;
        }
        let number = self.words.len() as u32;
        self.numbers.insert(word.to_owned(), number);
        self.words.push(Word { stem: words::stemmed(word), is_stop_word: words::is_stop_word(word) });
        if let Some(vectors) = vectors {
            if self.vectors.len() == 0 {
                self.vectors = ByteVectors::new(vectors.word_dimensions());
            }
            self.vectors.insert(self.vectors.len(), vectors.word(word).as_deref());
        }
        number
    }
}

/// How near the words of a [`Lexicon`] are to the terms of a question.
#[derive(Debug)]
pub(crate) struct Nearness {
    near: Vec<f32>,
    words: usize,
    terms: usize,
}

impl Nearness {
    /// Returns how often each term stands in a message, near words counted as far as they are near.
    pub fn frequencies(&self, turn: &TurnWords) -> Vec<f64> {
        let of = |term: usize| {
            let near = &self.near[term * self.words..][..self.words];
            turn.counts.iter().map(|(word, count)| f64::from(near[*word as usize]) * f64::from(*count)).sum()
        };
        (0..self.terms).map(of).collect()
    }
}

/// Returns the words of the name of who speaks, and whether it stands in the text.
fn speaker(record: &Record) -> (Vec<String>, bool) {
    let said = ["speaker", "name"].iter().find_map(|key| record.metadata.get(*key).and_then(Value::as_str));
    let role = record.role.as_deref().filter(|role| !ROLES.contains(&role.to_lowercase().as_str()));
    let in_text = leading_name(&record.content);
    match (said.or(role), in_text) {
        (Some(name), in_text) => {
            let name = cut(name);
            let is_in_text = in_text.is_some_and(|other| cut(other) == name);
            (name, is_in_text)
        }
        (None, Some(name)) => (cut(name), true),
        (None, None) => (Vec::new(), true),
    }
}

fn cut(text: &str) -> Vec<String> {
    let mut cut = Vec::new();
    words::for_each_word(text, |_, word| cut.push(word.to_owned()));
    cut
}

/// Returns the name that a text begins with, as in `Ada: "…"` and `Ada said, "…"`.
fn leading_name(text: &str) -> Option<&str> {
    let name = [": ", " said, "].iter().filter_map(|mark| text.split_once(mark)).map(|(name, _)| name);
    let name = name.min_by_key(|name| name.len())?;
    let is_name = name.len() <= MAX_SPEAKER_BYTES
        && name.split(' ').count() <= 3
        && name.split(' ').all(|part| part.starts_with(char::is_uppercase));
    is_name.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(content: &str) -> Record {
        serde_json::from_value(serde_json::json!({
            "id": content, "seq": content.len(), "version": 1, "content": content, "kind": "message", "category": null,
            "tags": [], "metadata": {}, "summary": null, "source": null, "role": "user", "importance": 0.5,
            "priority": "medium", "status": "active", "scope": {}, "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z", "expires_at": null
        }))
        .unwrap()
    }

    #[test]
    fn who_speaks_is_read_off_metadata_role_or_text() {
        let mut record = message("We met. Ada: hello");
        assert_eq!(speaker(&record), (vec![], true));
        record.content = "Ada Lovelace: hello".into();
        assert_eq!(speaker(&record), (vec!["ada".into(), "lovelace".into()], true));
        record.content = "Ada said, \"hello\"".into();
        assert_eq!(speaker(&record), (vec!["ada".into()], true));
        record.role = Some("Grace".into());
        assert_eq!(speaker(&record), (vec!["grace".into()], false));
        record.metadata.insert("speaker".into(), "Ada".into());
        assert_eq!(speaker(&record), (vec!["ada".into()], true));
    }

    #[cfg(feature = "static-embedder")]
    #[test]
    fn near_words_count_less_than_the_word_and_more_than_others() {
        let model = crate::memory::embed::StaticEmbedder::bundled();
        let terms = words::terms("children");
        let mut lexicon = Lexicon::default();
        let of = |lexicon: &mut Lexicon, text: &str| {
            let turn = lexicon.read(&message(text), Some(&model));
            lexicon.nearness(&terms, Some(&model)).frequencies(&turn)[0]
        };
        let [same, near, other] = ["the children", "my kids", "a theorem"].map(|text| of(&mut lexicon, text));
        assert!((same - 1.0).abs() < 1e-9 && near > 0.1 && near < 1.0 && other < 0.1, "{same} {near} {other}");
        let turn = lexicon.read(&message("kids"), None);
        assert_eq!(lexicon.nearness(&terms, None).frequencies(&turn), [0.0]);
    }
}
