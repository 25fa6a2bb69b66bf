//! The uncased BERT tokenizer: basic tokenization, then greedy WordPiece.
//!
//! After Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (2018), in the
//! variant of the `tokenizers` library (`BertNormalizer`, `BertPreTokenizer`, `WordPiece`).
//! Special tokens written out in a text (`[CLS]`) are plain text here, so that nobody can smuggle
//! them in.

use std::borrow::Cow;
use std::fmt;

use unicode_normalization::char::decompose_canonical;

use super::unicode_tables::{NONSPACING_MARKS, PUNCTUATION, REMOVED};

/// Longest word that is cut into pieces, in characters; a longer one is unknown (BERT's own limit,
/// which also bounds the work spent on text without spaces).
const MAX_WORD_CHARS: usize = 100;
/// Room for such a word; a character takes at most 4 bytes of UTF-8.
const MAX_WORD_BYTES: usize = 4 * MAX_WORD_CHARS;
/// Marks the pieces of the vocabulary that continue a word.
const CONTINUATION: &str = "##";
/// The piece that stands for a word which the vocabulary cannot spell.
const UNKNOWN: &str = "[UNK]";
/// Largest number of pieces: ids are 16 bits long in the index, and one value marks an empty slot.
const MAX_PIECES: usize = u16::MAX as usize;
/// Hash slots for each piece; with two, a look-up takes about one probe, and the index of a
/// BERT vocabulary 256 kB.
const SLOTS_PER_PIECE: usize = 2;

/// Tells why a vocabulary cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VocabularyError {
    /// More than 65,535 pieces.
    TooManyPieces,
    /// No line reads `[UNK]`.
    NoUnknownPiece,
}

impl fmt::Display for VocabularyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyPieces => write!(f, "the vocabulary has more than {MAX_PIECES} pieces"),
            Self::NoUnknownPiece => write!(f, "the vocabulary has no piece {UNKNOWN}"),
        }
    }
}

impl std::error::Error for VocabularyError {}

/// Cuts text into the word pieces of a BERT vocabulary.
///
/// The vocabulary text is kept as it is and not copied; the index beside it takes 12 bytes a piece
/// (0.4 MB for BERT) and is built in about a millisecond.
///
/// ```
/// use sophia_core::memory::embed::WordPiece;
///
/// let tokenizer = WordPiece::new("[UNK]\nembed\n##ding\n##s\n!")?;
/// assert_eq!(tokenizer.encode("Embeddings!"), [1, 2, 3, 4]);
/// # Ok::<(), sophia_core::memory::embed::VocabularyError>(())
/// ```
pub struct WordPiece {
    vocab: Cow<'static, str>,
    /// Where the line of each piece ends in `vocab` (without its line break).
    line_ends: Box<[u32]>,
    slots: Box<[Slot]>,
    unknown: u32,
    /// Length in bytes of the longest piece, without `##`.
    max_piece_bytes: usize,
}

impl WordPiece {
    /// Indexes a vocabulary in the form of BERT's `vocab.txt`: one piece a line, its id is the
    /// number of its line counted from 0.
    ///
    /// # Errors
    /// [`VocabularyError`] when there are more than 65,535 pieces or none of them is `[UNK]`.
    pub fn new(vocab: impl Into<Cow<'static, str>>) -> Result<Self, VocabularyError> {
        let vocab = vocab.into();
        let pieces = vocab.lines().count();
        // The second condition keeps every offset within u32.
        if pieces > MAX_PIECES || u32::try_from(vocab.len()).is_err() {
            return Err(VocabularyError::TooManyPieces);
        }
        let mut line_ends = Vec::with_capacity(pieces);
        let mut slots = vec![Slot::EMPTY; (pieces * SLOTS_PER_PIECE).next_power_of_two()];
        let mut max_piece_bytes = 0;
        let mut unknown = None;
        let mut start = 0;
        for (id, line) in vocab.split_terminator('\n').enumerate() {
            let end = start + line.len();
            line_ends.push(end as u32);
            start = end + 1;
            if line == UNKNOWN {
                unknown = Some(id as u32);
            }
            let (position, piece) = match line.strip_prefix(CONTINUATION) {
                // The piece `##` alone would be empty and end a word before its last character.
                Some(rest) if !rest.is_empty() => (Position::Inside, rest),
                _ => (Position::Start, line),
            };
            max_piece_bytes = max_piece_bytes.max(piece.len());
            let hash = piece.bytes().fold(position.seed(), extend_hash);
            let mask = slots.len() - 1;
            let mut at = slot_of(hash, mask);
            while !slots[at].is_empty() {
                at = (at + 1) & mask;
            }
            slots[at] = Slot { id: id as u16, tag: tag_of(hash) };
        }
        Ok(Self {
            unknown: unknown.ok_or(VocabularyError::NoUnknownPiece)?,
            line_ends: line_ends.into(),
            slots: slots.into(),
            max_piece_bytes: max_piece_bytes.min(MAX_WORD_BYTES),
            vocab,
        })
    }

    /// Returns the number of pieces.
    pub fn len(&self) -> usize {
        self.line_ends.len()
    }

    /// Always false: a vocabulary has at least the piece `[UNK]`.
    pub fn is_empty(&self) -> bool {
        self.line_ends.is_empty()
    }

    /// Returns the id of `[UNK]`.
    pub fn unknown(&self) -> u32 {
        self.unknown
    }

    /// Returns the piece with this id as the vocabulary spells it (`##ing`).
    pub fn piece(&self, id: u32) -> Option<&str> {
        let id = id as usize;
        let end = *self.line_ends.get(id)? as usize;
        let start = match id.checked_sub(1) {
            Some(before) => *self.line_ends.get(before)? as usize + 1,
            None => 0,
        };
        self.vocab.get(start..end)
    }

    /// Returns the ids of the pieces of `text`, in order, without `[CLS]` and `[SEP]`.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.for_each_piece(text, |id| ids.push(id));
        ids
    }

    /// Calls `emit` with the id of each piece of `text`, in order, without allocating.
    pub fn for_each_piece(&self, text: &str, mut emit: impl FnMut(u32)) {
        let mut hashes = [0; MAX_WORD_BYTES];
        for_each_word(text, |word| match word {
            Word::Whole(bytes) => self.cut(bytes, &mut hashes, &mut emit),
            Word::TooLong => emit(self.unknown),
        });
    }

    /// Cuts one word, longest piece first; emits `[UNK]` alone if any part of it is not known.
    fn cut(&self, word: &[u8], hashes: &mut [u64], emit: &mut impl FnMut(u32)) {
        let (first, len) = match self.longest_prefix(word, Position::Start, hashes) {
            Some((id, len)) if len == word.len() => return emit(id),
            Some(found) => found,
            None => return emit(self.unknown),
        };
        // A word has at most one piece for each character.
        let mut ids = [first; MAX_WORD_CHARS];
        let mut count = 1;
        let mut rest = &word[len..];
        while !rest.is_empty() && count < MAX_WORD_CHARS {
            let Some((id, len)) = self.longest_prefix(rest, Position::Inside, hashes) else {
                return emit(self.unknown);
            };
            ids[count] = id;
            count += 1;
            rest = &rest[len..];
        }
        ids[..count].iter().for_each(|&id| emit(id));
    }

    /// Finds the longest piece that `text` begins with; returns its id and its length in bytes,
    /// at least 1. `hashes` is scratch space.
    ///
    /// Works on bytes: a prefix that cuts a character in two equals no piece, since pieces are
    /// valid UTF-8.
    fn longest_prefix(&self, text: &[u8], position: Position, hashes: &mut [u64]) -> Option<(u32, usize)> {
        let text = &text[..text.len().min(self.max_piece_bytes)];
        let mut hash = position.seed();
        for (prefix_hash, &byte) in hashes.iter_mut().zip(text) {
            hash = extend_hash(hash, byte);
            *prefix_hash = hash;
        }
        (1..=text.len()).rev().find_map(|len| {
            let id = self.find(hashes[len - 1], &text[..len], position)?;
            Some((id, len))
        })
    }

    fn find(&self, hash: u64, text: &[u8], position: Position) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let tag = tag_of(hash);
        let mut at = slot_of(hash, mask);
        // Ends: at least half of the slots are empty.
        loop {
            let slot = self.slots[at];
            if slot.is_empty() {
                return None;
            }
            let id = u32::from(slot.id);
            if slot.tag == tag && self.spells(id, text, position) {
                return Some(id);
            }
            at = (at + 1) & mask;
        }
    }

    fn spells(&self, id: u32, text: &[u8], position: Position) -> bool {
        let Some(piece) = self.piece(id) else {
            return false;
        };
        match position {
            Position::Start => piece.as_bytes() == text,
            Position::Inside => piece.as_bytes().strip_prefix(CONTINUATION.as_bytes()) == Some(text),
        }
    }
}

impl fmt::Debug for WordPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WordPiece").field("pieces", &self.len()).finish_non_exhaustive()
    }
}

/// Where in its word a piece stands.
#[derive(Clone, Copy)]
enum Position {
    Start,
    Inside,
}

impl Position {
    /// Starts the hash, so that `ing` and `##ing` fall in different slots.
    fn seed(self) -> u64 {
        match self {
            Self::Start => 0,
            Self::Inside => 0x9E37_79B9_7F4A_7C15,
        }
    }
}

/// FxHash, byte by byte: yields the hash of every prefix on the way. The table that it guards is
/// fixed, so nobody can choose colliding keys.
fn extend_hash(hash: u64, byte: u8) -> u64 {
    (hash.rotate_left(5) ^ u64::from(byte)).wrapping_mul(0x517C_C1B7_2722_0A95)
}

/// The upper bits are the well mixed ones of a product: 16 of them are the tag ...
fn tag_of(hash: u64) -> u16 {
    (hash >> 48) as u16
}

/// ... and those below choose the slot.
fn slot_of(hash: u64, mask: usize) -> usize {
    (hash >> 24) as usize & mask
}

/// One entry of the hash table: a piece and a part of its hash.
#[derive(Clone, Copy)]
struct Slot {
    id: u16,
    tag: u16,
}

impl Slot {
    /// No vocabulary has this id: see `MAX_PIECES`.
    const EMPTY: Self = Self { id: u16::MAX, tag: 0 };

    fn is_empty(self) -> bool {
        self.id == Self::EMPTY.id
    }
}

/// A word of the normalised text.
enum Word<'a> {
    /// At least one character, in UTF-8.
    Whole(&'a [u8]),
    /// More than `MAX_WORD_CHARS` characters.
    TooLong,
}

/// Calls `emit` with each word of `text`: cleaned, lower-cased, without accents, split at spaces
/// and around punctuation and CJK characters.
fn for_each_word(text: &str, mut emit: impl FnMut(Word<'_>)) {
    let mut splitter = Splitter { word: [0; MAX_WORD_BYTES], len: 0, chars: 0, emit: &mut emit };
    for c in text.chars() {
        if c.is_ascii() {
            splitter.push_ascii(c as u8);
        } else {
            splitter.push_unicode(c);
        }
    }
    splitter.end_word();
}

struct Splitter<'a, F> {
    word: [u8; MAX_WORD_BYTES],
    /// Bytes of `word` in use.
    len: usize,
    /// Characters seen in this word, also those for which `word` had no room.
    chars: usize,
    emit: &'a mut F,
}

impl<F: FnMut(Word<'_>)> Splitter<'_, F> {
    fn push_ascii(&mut self, byte: u8) {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => self.end_word(),
            b'a'..=b'z' | b'0'..=b'9' => self.append(&[byte]),
            b'A'..=b'Z' => self.append(&[byte.to_ascii_lowercase()]),
            _ if byte.is_ascii_punctuation() => self.push_alone(&[byte]),
            // What remains are control characters: dropped, without ending the word.
            _ => {}
        }
    }

    /// Normalises a character outside ASCII in the order of the reference: clean, space out CJK,
    /// decompose, drop marks, lower-case, split.
    fn push_unicode(&mut self, c: char) {
        if contains(&REMOVED, c) {
            return;
        }
        if c.is_whitespace() {
            return self.end_word();
        }
        let cjk = is_cjk(c);
        if cjk {
            self.end_word();
        }
        decompose_canonical(c, |part| {
            if !contains(&NONSPACING_MARKS, part) {
                part.to_lowercase().for_each(|lower| self.push_normalised(lower));
            }
        });
        if cjk {
            self.end_word();
        }
    }

    fn push_normalised(&mut self, c: char) {
        if c.is_ascii() {
            // Decomposition leads back to ASCII: `é`, or the Greek question mark U+037E.
            return self.push_ascii(c as u8);
        }
        let mut buffer = [0; 4];
        let bytes = c.encode_utf8(&mut buffer).as_bytes();
        if contains(&PUNCTUATION, c) {
            self.push_alone(bytes);
        } else {
            self.append(bytes);
        }
    }

    fn push_alone(&mut self, character: &[u8]) {
        self.end_word();
        (self.emit)(Word::Whole(character));
    }

    fn append(&mut self, character: &[u8]) {
        self.chars += 1;
        if self.chars <= MAX_WORD_CHARS {
            // In bounds: at most MAX_WORD_CHARS characters of at most 4 bytes come here.
            self.word[self.len..self.len + character.len()].copy_from_slice(character);
            self.len += character.len();
        }
    }

    fn end_word(&mut self) {
        match self.chars {
            0 => return,
            1..=MAX_WORD_CHARS => (self.emit)(Word::Whole(&self.word[..self.len])),
            _ => (self.emit)(Word::TooLong),
        }
        self.len = 0;
        self.chars = 0;
    }
}

/// The CJK ideographs, each of which is a word in BERT (kana and hangul are not among them).
fn is_cjk(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4E00..=0x9FFF
            | 0x3400..=0x4DBF
            | 0x20000..=0x2A6DF
            | 0x2A700..=0x2B73F
            | 0x2B740..=0x2B81F
            // Not 0x2B820, where the block begins: the reference has it so.
            | 0x2B920..=0x2CEAF
            | 0xF900..=0xFAFF
            | 0x2F800..=0x2FA1F
    )
}

fn contains(ranges: &[(u32, u32)], c: char) -> bool {
    let code = u32::from(c);
    let at = ranges.partition_point(|&(_, last)| last < code);
    ranges.get(at).is_some_and(|&(first, _)| first <= code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bert() -> WordPiece {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/model/vocab.txt");
        WordPiece::new(std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// Checks texts against their pieces, as the `tokenizers` library (0.23.3) cuts them.
    fn assert_pieces(cases: &[(&str, &str)]) {
        let tokenizer = bert();
        for (text, expected) in cases {
            let ids = tokenizer.encode(text);
            let pieces: Vec<&str> = ids.iter().map(|&id| tokenizer.piece(id).unwrap()).collect();
            assert_eq!(pieces.join(" "), *expected, "pieces of {text:?}");
        }
    }

    #[test]
    fn words_are_lower_cased_and_split_from_punctuation() {
        assert_pieces(&[
            ("hello world", "hello world"),
            ("Hello, World!", "hello , world !"),
            ("don't stop", "don ' t stop"),
            ("3.14 + 2 = 5.14", "3 . 14 + 2 = 5 . 14"),
            ("10,000", "10 , 000"),
            ("user@example.com", "user @ example . com"),
            ("https://a.io/x?y=1&z#q", "https : / / a . io / x ? y = 1 & z # q"),
            ("C++ & c#", "c + + & c #"),
            ("$5\u{2013}\u{20AC}6\u{2026}", "$ 5 \u{2013} \u{20AC} ##6 \u{2026}"),
        ]);
    }

    #[test]
    fn unknown_words_are_cut_longest_piece_first() {
        assert_pieces(&[
            ("unaffable", "una ##ffa ##ble"),
            ("embeddings", "em ##bed ##ding ##s"),
            ("WordPiece tokenization", "word ##piece token ##ization"),
            ("antidisestablishmentarianism", "anti ##dis ##est ##ab ##lish ##ment ##arian ##ism"),
            ("covid-19", "co ##vid - 19"),
            ("an LGBTQ group", "an lgbt ##q group"),
        ]);
    }

    #[test]
    fn accents_are_stripped_in_composed_and_decomposed_text() {
        assert_pieces(&[
            ("na\u{EF}ve caf\u{E9}", "naive cafe"),
            ("e\u{301}te\u{301}", "et ##e"),
            ("\u{C5}NGSTR\u{D6}M", "ang ##strom"),
            ("\u{130}stanbul", "istanbul"),
            // What decomposes to ASCII punctuation is punctuation.
            ("\u{37E}", ";"),
            ("\u{2260}", "="),
        ]);
    }

    #[test]
    fn other_scripts_are_cut_as_bert_does() {
        assert_pieces(&[
            ("Привет, мир", "п ##р ##и ##в ##е ##т , м ##и ##р"),
            // Each capital is lower-cased alone: no final sigma.
            ("ΑΣ σοφός", "α ##σ σ ##ο ##φ ##ος"),
            ("straße", "st ##raße"),
            ("日本語のテスト", "日 本 語 の ##テ ##ス ##ト"),
            ("中文abc字", "中 文 abc [UNK]"),
            ("안녕", "ᄋ ##ᅡ ##ᆫ ##ᄂ ##ᅧ ##ᆼ"),
            ("\u{5E9}\u{5B8}\u{5DC}\u{5D5}\u{5B9}\u{5DD}", "ש ##ל ##ו ##ם"),
            ("हिन्दी", "ह ##ि ##न ##द ##ी"),
            ("\u{FB01}ne", "\u{FB01} ##ne"),
        ]);
    }

    #[test]
    fn control_characters_vanish_and_unicode_spaces_separate() {
        assert_pieces(&[
            ("", ""),
            ("   \t\r\n ", ""),
            ("a\0b", "ab"),
            ("a\u{200B}b", "ab"),
            ("a\u{FFFD}b", "ab"),
            ("a\u{AD}b", "ab"),
            ("a\u{B}b\u{85}c", "abc"),
            ("\u{E0041}", ""),
            ("soft\u{A0}space\u{3000}wide", "soft space wide"),
            ("line\u{2028}break", "line break"),
        ]);
    }

    #[test]
    fn what_the_vocabulary_cannot_spell_is_unknown() {
        assert_pieces(&[
            ("I \u{2764} you \u{1F600}", "i [UNK] you [UNK]"),
            ("\u{2460}\u{2461}", "[UNK]"),
            ("\u{2F800}", "[UNK]"),
            ("\u{1D4B3}", "[UNK]"),
        ]);
    }

    #[test]
    fn special_tokens_in_text_are_plain_text() {
        assert_pieces(&[("[CLS] hi [SEP]", "[ cl ##s ] hi [ sep ]"), ("##ing", "# # ing")]);
    }

    #[test]
    fn words_of_more_than_a_hundred_characters_are_unknown() {
        let tokenizer = bert();
        assert_eq!(tokenizer.encode(&"x".repeat(100)).len(), 50);
        assert_eq!(tokenizer.encode(&"x".repeat(101)), [tokenizer.unknown()]);
        // Characters count after decomposition, and not bytes.
        assert_eq!(tokenizer.encode(&"é".repeat(100)).len(), 50);
        assert_eq!(tokenizer.encode(&"é".repeat(101)), [tokenizer.unknown()]);
    }

    #[test]
    fn a_megabyte_without_a_space_is_one_unknown_word() {
        let tokenizer = bert();
        assert_eq!(tokenizer.encode(&"a\u{301}".repeat(350_000)), [tokenizer.unknown()]);
    }

    #[test]
    fn every_character_is_accepted() {
        let tokenizer = bert();
        for c in '\0'..=char::MAX {
            let alone = tokenizer.encode(c.encode_utf8(&mut [0; 4])).len();
            // The longest decomposition of one character.
            assert!(alone <= 4, "{c:?}");
        }
    }

    #[test]
    fn every_piece_that_is_a_word_is_found_by_its_spelling() {
        let tokenizer = bert();
        for id in 0..tokenizer.len() as u32 {
            let piece = tokenizer.piece(id).unwrap();
            if piece.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                assert_eq!(tokenizer.encode(piece), [id], "{piece}");
            }
        }
        assert_eq!(tokenizer.piece(tokenizer.len() as u32), None);
    }

    #[test]
    fn unusable_vocabularies_are_refused() {
        assert_eq!(WordPiece::new("").unwrap_err(), VocabularyError::NoUnknownPiece);
        assert_eq!(WordPiece::new("a\nb\n").unwrap_err(), VocabularyError::NoUnknownPiece);
        let many: String = (0..=MAX_PIECES).map(|id| format!("p{id}\n")).collect();
        assert_eq!(WordPiece::new(many).unwrap_err(), VocabularyError::TooManyPieces);
    }
}
