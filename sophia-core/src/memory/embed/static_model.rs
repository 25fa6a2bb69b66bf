//! The default embedder: one stored vector for each word piece, averaged over the text.
//!
//! The vectors are distilled from the MiniLM sentence transformer by `model/distill.py`, after
//! model2vec (<https://github.com/MinishLab/model2vec>) with the smooth inverse frequency weights
//! of Arora, Liang and Ma, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings" (ICLR
//! 2017). `model/README.md` describes how, and the layout of the file.

use std::borrow::Cow;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use async_trait::async_trait;

use super::{BUNDLED_MIN_SIMILARITY, Embedder, ModelClass, VocabularyError, WordPiece, WordVectors};

/// Identifier of the bundled model. Vectors are stored under it: a changed table needs a new one.
const BUNDLED_MODEL: &str = "sophia-static-256-v1";
static BUNDLED_TABLE: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/model/static.bin"));
static BUNDLED_VOCAB: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/model/vocab.txt"));

/// First bytes of every table file.
const MAGIC: &[u8; 8] = b"SOPHSTAT";
/// Version of the layout that this loader reads.
const FORMAT_VERSION: u32 = 1;
/// Length of the header in bytes; the rows follow it.
const HEADER_LEN: usize = 64;
/// Bytes of text after which `embed` lets other tasks run: 0.2 to 2 ms of work, depending on the text.
const YIELD_EVERY_BYTES: usize = 16 * 1024;

/// Embeds text by averaging the stored vectors of its word pieces: microseconds a text, with no
/// download, no key and no network.
///
/// The vectors have 256 dimensions and unit length, so their dot product is their cosine. A text
/// without a single known word piece (empty, only spaces, only unknown symbols) yields the zero
/// vector, which is orthogonal to everything. Word pieces that the vocabulary lacks are left out
/// of the average. There is no limit on the length of a text; a long one blurs, so cut documents
/// into passages. The model is English; other Latin scripts work by shared words only.
///
/// Cheap to clone. The same text gives the same bits on every platform.
///
/// ```
/// use sophia_core::memory::embed::StaticEmbedder;
///
/// let embedder = StaticEmbedder::bundled();
/// let [cat, kitten, tax] = ["a cat", "a kitten", "income tax"].map(|t| embedder.embed_one(t));
/// let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
/// assert!(cosine(&cat, &kitten) > cosine(&cat, &tax));
/// ```
#[derive(Clone)]
pub struct StaticEmbedder {
    shared: Arc<Shared>,
}

struct Shared {
    model: Cow<'static, str>,
    table: Table,
    /// Of the bundled model: built by the first text, so that a process which never embeds does
    /// not pay for it.
    tokenizer: OnceLock<WordPiece>,
}

impl StaticEmbedder {
    /// Returns the model that is compiled into the library.
    ///
    /// The table is read in place from the executable: only the pages of the pieces that are used
    /// become resident. The first text builds the index of the vocabulary (0.4 MB, about a
    /// millisecond), once in the process.
    pub fn bundled() -> Self {
        // Shared by the whole process, because it is a function of constants.
        static BUNDLED: OnceLock<StaticEmbedder> = OnceLock::new();
        // Checked by the compiler, so that a damaged file is a build error.
        const LAYOUT: Layout = match Layout::read(BUNDLED_TABLE) {
            Ok(layout) => layout,
            Err(_) => panic!("model/static.bin is not a table of this format"),
        };
        BUNDLED
            .get_or_init(|| Self {
                shared: Arc::new(Shared {
                    model: Cow::Borrowed(BUNDLED_MODEL),
                    table: Table { bytes: Cow::Borrowed(BUNDLED_TABLE), layout: LAYOUT },
                    tokenizer: OnceLock::new(),
                }),
            })
            .clone()
    }

    /// Returns a model of your own, made by `model/distill.py`.
    ///
    /// `model` is its stable identifier, `table` the content of its `static.bin`, `vocab` that of
    /// its `vocab.txt`.
    ///
    /// # Errors
    /// [`ModelFileError`] when the table is no such file, of another version, cut short, or does
    /// not belong to the vocabulary.
    pub fn new(
        model: impl Into<Cow<'static, str>>,
        table: impl Into<Cow<'static, [u8]>>,
        vocab: impl Into<Cow<'static, str>>,
    ) -> Result<Self, ModelFileError> {
        let bytes = table.into();
        let vocab = vocab.into();
        let layout = Layout::read(&bytes)?;
        if fnv1a(vocab.as_bytes()) != layout.vocab_hash {
            return Err(ModelFileError::OtherVocabulary);
        }
        let tokenizer = WordPiece::new(vocab).map_err(ModelFileError::Vocabulary)?;
        if tokenizer.len() != layout.pieces {
            return Err(ModelFileError::OtherVocabulary);
        }
        Ok(Self {
            shared: Arc::new(Shared {
                model: model.into(),
                table: Table { bytes, layout },
                tokenizer: OnceLock::from(tokenizer),
            }),
        })
    }

    /// Returns the mean of the vectors of the word pieces of `text`, scaled to unit length; the
    /// zero vector if it has no known piece.
    ///
    /// Takes about 1 µs for a sentence of 15 words, growing linearly. Does no I/O.
    pub fn embed_one(&self, text: &str) -> Vec<f32> {
        let tokenizer = self.tokenizer();
        let unknown = tokenizer.unknown();
        let mut sum = vec![0.0; self.shared.table.layout.dimensions];
        tokenizer.for_each_piece(text, |id| {
            if id != unknown {
                self.shared.table.add_row(id as usize, &mut sum);
            }
        });
        // The length of the sum is arbitrary, so the mean need not be taken before this.
        normalise(&mut sum);
        sum
    }

    /// Returns the tokenizer that this model reads its text with.
    #[expect(clippy::expect_used, reason = "a test rules it out")]
    pub fn tokenizer(&self) -> &WordPiece {
        self.shared.tokenizer.get_or_init(|| {
            // Cannot fail: `new` fills the cell itself, and a test indexes the bundled vocabulary.
            WordPiece::new(BUNDLED_VOCAB).expect("the bundled vocabulary is valid")
        })
    }
}

#[async_trait]
impl Embedder for StaticEmbedder {
    fn model(&self) -> &str {
        &self.shared.model
    }

    fn dimensions(&self) -> Option<usize> {
        Some(self.shared.table.layout.dimensions)
    }

    fn class(&self) -> ModelClass {
        ModelClass::Static
    }

    /// Known of the bundled model alone.
    fn min_similarity(&self) -> Option<f64> {
        (self.shared.model == BUNDLED_MODEL).then_some(BUNDLED_MIN_SIMILARITY)
    }

    /// Computes in place and lets other tasks run every 16 KiB of text, between two texts.
    ///
    /// # Errors
    /// None.
    ///
    /// # Cancel safety
    /// Can be dropped at any time.
    async fn embed(&self, texts: &[&str]) -> crate::Result<Vec<Vec<f32>>> {
        let mut vectors = Vec::with_capacity(texts.len());
        let mut since_yield = 0;
        for text in texts {
            if since_yield >= YIELD_EVERY_BYTES {
                since_yield = 0;
                yield_now().await;
            }
            vectors.push(self.embed_one(text));
            since_yield += text.len();
        }
        Ok(vectors)
    }
}

impl WordVectors for StaticEmbedder {
    fn word_dimensions(&self) -> usize {
        self.shared.table.layout.dimensions
    }

    fn word(&self, word: &str) -> Option<Vec<f32>> {
        let vector = self.embed_one(word);
        vector.iter().any(|value| *value != 0.0).then_some(vector)
    }
}

impl fmt::Debug for StaticEmbedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticEmbedder")
            .field("model", &self.shared.model)
            .field("dimensions", &self.shared.table.layout.dimensions)
            .field("pieces", &self.shared.table.layout.pieces)
            .finish_non_exhaustive()
    }
}

/// Tells why a table file cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelFileError {
    /// The file does not begin as a table of a static model does.
    Foreign,
    /// The file has a format version that this loader does not know.
    Version(u32),
    /// The length of the file is not that which its header tells, or the header tells none.
    Length,
    /// The table was made for another vocabulary.
    OtherVocabulary,
    /// The vocabulary itself is of no use.
    Vocabulary(VocabularyError),
}

impl fmt::Display for ModelFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => write!(f, "not the table of a static embedding model"),
            Self::Version(found) => {
                write!(f, "format version {found}, this loader reads {FORMAT_VERSION}")
            }
            Self::Length => write!(f, "the length of the file does not fit its header"),
            Self::OtherVocabulary => write!(f, "the table was made for another vocabulary"),
            Self::Vocabulary(_) => write!(f, "the vocabulary cannot be used"),
        }
    }
}

impl std::error::Error for ModelFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Vocabulary(error) => Some(error),
            _ => None,
        }
    }
}

/// What the header of a table file tells.
#[derive(Clone, Copy)]
struct Layout {
    pieces: usize,
    dimensions: usize,
    vocab_hash: u64,
}

impl Layout {
    const fn read(bytes: &[u8]) -> Result<Self, ModelFileError> {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(ModelFileError::Foreign);
        };
        if u64_at(header, 0) != u64::from_le_bytes(*MAGIC) {
            return Err(ModelFileError::Foreign);
        }
        let version = u32_at(header, 8);
        if version != FORMAT_VERSION {
            return Err(ModelFileError::Version(version));
        }
        let pieces = u32_at(header, 12) as usize;
        let dimensions = u32_at(header, 16) as usize;
        // A row and its scale; neither product overflows for a file that fits in memory.
        let expected = match dimensions.checked_add(size_of::<f32>()) {
            Some(row) => pieces.checked_mul(row),
            None => None,
        };
        match expected {
            Some(length) if length == rest.len() && length > 0 => {
                Ok(Self { pieces, dimensions, vocab_hash: u64_at(header, 24) })
            }
            _ => Err(ModelFileError::Length),
        }
    }
}

// By hand, because slices of arrays are not yet const. The offsets are constants within the header.
const fn u32_at(header: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

const fn u64_at(header: &[u8; HEADER_LEN], at: usize) -> u64 {
    u32_at(header, at) as u64 | (u32_at(header, at + 4) as u64) << 32
}

/// The int8 rows of all pieces, then their f32 scales.
struct Table {
    bytes: Cow<'static, [u8]>,
    layout: Layout,
}

impl Table {
    /// Adds the vector of piece `id` to `sum`; adds nothing if there is no such piece.
    fn add_row(&self, id: usize, sum: &mut [f32]) {
        let Layout { pieces, dimensions, .. } = self.layout;
        if id >= pieces {
            return;
        }
        let row_at = HEADER_LEN + id * dimensions;
        let scale_at = HEADER_LEN + pieces * dimensions + id * size_of::<f32>();
        // Both are in bounds: `Layout::read` has compared the length of the file with the header.
        let row = &self.bytes[row_at..row_at + dimensions];
        let Some(&scale) = self.bytes[scale_at..].first_chunk() else {
            return;
        };
        let scale = f32::from_le_bytes(scale);
        for (total, &cell) in sum.iter_mut().zip(row) {
            *total += scale * f32::from(cell as i8);
        }
    }
}

/// Scales `vector` to unit length; leaves the zero vector as it is.
fn normalise(vector: &mut [f32]) {
    // Eight running sums instead of one let the compiler use vector instructions.
    let mut lanes = [0.0_f32; 8];
    let mut chunks = vector.chunks_exact(lanes.len());
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value * value;
        }
    }
    let rest: f32 = chunks.remainder().iter().map(|value| value * value).sum();
    let length = (lanes.iter().sum::<f32>() + rest).sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value /= length);
    }
}

/// 64-bit FNV-1a, as `model/distill.py` computes it: catches a mistaken file, not a forged one.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

/// Hands the thread to other tasks once; needs no particular runtime.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    /// Two dimensions; the rows of `[UNK]`, `up`, `left`, `##ward`.
    const TINY_VOCAB: &str = "[UNK]\nup\nleft\n##ward\n";

    fn tiny_table() -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        [FORMAT_VERSION, 4, 2, 0].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend(fnv1a(TINY_VOCAB.as_bytes()).to_le_bytes());
        bytes.resize(HEADER_LEN, 0);
        bytes.extend([9_i8, 9, 0, 127, -127, 0, 0, 2].map(|cell| cell as u8));
        [1.0_f32, 0.1, 0.1, 0.1].iter().for_each(|scale| bytes.extend(scale.to_le_bytes()));
        bytes
    }

    fn tiny() -> StaticEmbedder {
        StaticEmbedder::new("tiny", tiny_table(), TINY_VOCAB).unwrap()
    }

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn a_changed_table_needs_a_new_identifier() {
        // If this fails: stored vectors are compared by `BUNDLED_MODEL`, so change both.
        let identity = (BUNDLED_MODEL, fnv1a(BUNDLED_TABLE));
        assert_eq!(identity, ("sophia-static-256-v1", 0x5981_FC78_F078_93AA));
    }

    #[test]
    fn the_bundled_vocabulary_belongs_to_the_bundled_table() {
        let loaded = StaticEmbedder::new("same", BUNDLED_TABLE, BUNDLED_VOCAB).unwrap();
        let bundled = StaticEmbedder::bundled();
        assert_eq!(loaded.embed_one("memory"), bundled.embed_one("memory"));
        assert_eq!(bundled.dimensions(), Some(256));
        assert_eq!(bundled.model(), BUNDLED_MODEL);
    }

    #[test]
    fn vectors_agree_with_the_distilling_script() {
        // Computed from the same file with numpy in double precision.
        let expected = [
            ("memory", [-0.213_341_46, 0.220_279_4, -0.022_548_28, -0.053_768_99, 0.026_017_25]),
            ("Hello, World!", [-0.060_249_31, 0.015_170_73, -0.073_189_95, 0.024_704_23, -0.084_799_32]),
        ];
        for (text, expected) in expected {
            let vector = StaticEmbedder::bundled().embed_one(text);
            let found = [vector[0], vector[1], vector[2], vector[3], vector[255]];
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{text}: {found} instead of {expected}");
            }
        }
    }

    #[test]
    fn close_meanings_have_close_vectors() {
        let embedder = StaticEmbedder::bundled();
        let question = embedder.embed_one("What pets does she have?");
        let near = embedder.embed_one("She adopted two kittens and a dog.");
        let far = embedder.embed_one("The invoice was paid by bank transfer.");
        assert!(cosine(&question, &near) > cosine(&question, &far) + 0.2);
    }

    #[test]
    fn vectors_have_unit_length() {
        let embedder = StaticEmbedder::bundled();
        for text in ["a", "?", "7", "The quick brown fox.", "日本", &"word ".repeat(20_000)] {
            let vector = embedder.embed_one(text);
            assert!((cosine(&vector, &vector) - 1.0).abs() < 1e-5, "{text:.20}");
        }
    }

    #[test]
    fn a_text_without_a_known_piece_is_the_zero_vector() {
        let embedder = StaticEmbedder::bundled();
        for text in ["", " \n", "\0", "\u{1F600}", &"x".repeat(101)] {
            assert_eq!(embedder.embed_one(text), vec![0.0; 256], "{text:?}");
        }
    }

    #[test]
    fn unknown_pieces_do_not_move_the_mean() {
        let embedder = StaticEmbedder::bundled();
        assert_eq!(embedder.embed_one("good \u{1F600} morning"), embedder.embed_one("good morning"));
    }

    #[test]
    fn rows_are_scaled_added_and_normalised() {
        assert_eq!(tiny().embed_one("Up"), [0.0, 1.0]);
        assert_eq!(tiny().embed_one("left"), [-1.0, 0.0]);
        // (-12.7, 0) + (0, 0.2)
        let leftward = tiny().embed_one("leftward");
        assert!((leftward[1] / leftward[0] + 0.2 / 12.7).abs() < 1e-6);
        assert_eq!(tiny().embed_one("down"), [0.0, 0.0]);
    }

    #[test]
    fn foreign_and_damaged_files_are_refused() {
        let refusal = |table: Vec<u8>, vocab: &'static str| StaticEmbedder::new("bad", table, vocab).unwrap_err();
        let with = |at: usize, byte: u8| {
            let mut table = tiny_table();
            table[at] = byte;
            table
        };
        assert_eq!(refusal(Vec::new(), TINY_VOCAB), ModelFileError::Foreign);
        assert_eq!(refusal(with(0, b'X'), TINY_VOCAB), ModelFileError::Foreign);
        assert_eq!(refusal(with(8, 2), TINY_VOCAB), ModelFileError::Version(2));
        assert_eq!(refusal(with(12, 5), TINY_VOCAB), ModelFileError::Length);
        assert_eq!(refusal(with(19, 0xFF), TINY_VOCAB), ModelFileError::Length);
        assert_eq!(refusal(tiny_table()[..HEADER_LEN + 3].to_vec(), TINY_VOCAB), ModelFileError::Length);
        assert_eq!(refusal(tiny_table(), "[UNK]\nup\nright\n##ward\n"), ModelFileError::OtherVocabulary);
    }

    #[test]
    fn embed_keeps_the_order_and_lets_others_run_after_a_long_text() {
        let long = "many words ".repeat(YIELD_EVERY_BYTES / 8);
        let texts = ["first", &long, "", "last"];
        let embedder: Arc<dyn Embedder> = Arc::new(StaticEmbedder::bundled());
        let mut embedding = embedder.embed(&texts);
        let mut context = Context::from_waker(Waker::noop());
        assert!(embedding.as_mut().poll(&mut context).is_pending());
        let Poll::Ready(vectors) = embedding.as_mut().poll(&mut context) else {
            panic!("yields once for one long text");
        };
        assert_eq!(vectors.unwrap(), texts.map(|text| StaticEmbedder::bundled().embed_one(text)));
    }
}
