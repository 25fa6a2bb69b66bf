//! Turns text into vectors whose cosine tells how close two texts are in meaning.
//!
//! - [`Embedder`]: the trait that the memory store calls.
//! - `static_model`: [`StaticEmbedder`], the default; needs no download, no key and no network.
//! - `minilm`: [`MiniLmEmbedder`], the transformer in this process.
//! - `callback`: [`CallbackEmbedder`], a function. A server's `/embeddings` is spoken by `chat/embedder.rs`.
//! - [`without_waiting`]: for a call that holds up what the embedder runs on.
//! - `batch`: how texts are cut into calls, and what an answer must be.
//! - [`EmbedderConfig`] (`config.rs`): which of them.
//! - [`WordVectors`]: what gives the vector of a single word, for searches of conversations.
//! - `wordpiece`: [`WordPiece`], the BERT tokenizer that both models read their text with.

pub(crate) mod batch;
mod callback;
pub(crate) mod config;
#[cfg(feature = "minilm")]
mod minilm;
#[cfg(feature = "static-embedder")]
mod static_model;
mod unicode_tables;
mod wordpiece;

pub use callback::CallbackEmbedder;
pub use config::{EmbedderConfig, EmbedderKind};
#[cfg(feature = "minilm")]
pub use minilm::MiniLmEmbedder;
#[cfg(feature = "static-embedder")]
pub use static_model::{ModelFileError, StaticEmbedder};
pub use wordpiece::{VocabularyError, WordPiece};

use async_trait::async_trait;

pub use super::embeddings::without_waiting;

/// Cosine below which a text has nothing to do with a question. With the bundled model, 99 of 100 texts that answer a
/// question lie above it (measured on LoCoMo's development half), and most texts of another subject below. MiniLM's recall was
/// measured with it as well.
pub(crate) const BUNDLED_MIN_SIMILARITY: f64 = 0.25;

/// Turns texts into vectors of one fixed length.
///
/// ```
/// # use sophia_core::memory::embed::{Embedder, StaticEmbedder};
/// # async fn example() -> sophia_core::Result<()> {
/// let embedder = StaticEmbedder::bundled();
/// let vectors = embedder.embed(&["The cat sleeps.", "A kitten naps."]).await?;
/// assert_eq!(vectors.len(), 2);
/// assert_eq!(Some(vectors[0].len()), embedder.dimensions());
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Embedder: std::fmt::Debug + Send + Sync + 'static {
    /// Stable identifier of the model; vectors of different models are never compared. A model whose vectors have another
    /// length is another model.
    fn model(&self) -> &str;

    /// Length of every vector that `embed` returns; `None` while that is not known: before the first answer of a server.
    fn dimensions(&self) -> Option<usize>;

    /// How the model comes to its vectors.
    fn class(&self) -> ModelClass {
        ModelClass::Contextual
    }

    /// Least cosine of texts that have to do with each other, where it was measured of the model: what is less like a question
    /// does not match it by meaning. `None`: whatever has a vector matches, the nearest first.
    fn min_similarity(&self) -> Option<f64> {
        None
    }

    /// Embeds each text, in order. A vector may be of any length but zero; one of zeros says that the text means nothing to
    /// the model.
    ///
    /// # Errors
    /// By what the caller can do. Records whose text could not be embedded are kept, and tried again later.
    async fn embed(&self, texts: &[&str]) -> crate::Result<Vec<Vec<f32>>>;
}

/// How a model comes to its vectors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelClass {
    /// Out of a table of words: faster than a vector can be looked up, so that none is kept to be looked up.
    Static,
    /// By reading the whole text: slow, so that what was made is kept, and precise, so that it weighs more in searches of
    /// conversations.
    #[default]
    Contextual,
}

/// Gives the vector of one word at once. Searches of conversations compare words by it.
pub trait WordVectors: std::fmt::Debug + Send + Sync + 'static {
    /// Length of every vector.
    fn word_dimensions(&self) -> usize;
    /// Returns the vector of a word in lower case, of length one; `None` for a word that is not known.
    fn word(&self, word: &str) -> Option<Vec<f32>>;
}
