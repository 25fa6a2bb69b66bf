//! Turns text into vectors whose cosine tells how close two texts are in meaning.
//!
//! - [`Embedder`]: the trait that the memory store calls.
//! - `static_model`: [`StaticEmbedder`], the default; needs no download, no key and no network.
//! - [`WordVectors`]: what gives the vector of a single word, for searches of conversations.
//! - `wordpiece`: [`WordPiece`], the BERT tokenizer that the static model reads its text with.

#[cfg(feature = "static-embedder")]
mod static_model;
mod unicode_tables;
mod wordpiece;

#[cfg(feature = "static-embedder")]
pub use static_model::{ModelFileError, StaticEmbedder};
pub use wordpiece::{VocabularyError, WordPiece};

use async_trait::async_trait;

/// Turns texts into vectors of one fixed length.
///
/// ```
/// # use sophia_core::memory::embed::{Embedder, StaticEmbedder};
/// # async fn example() -> sophia_core::Result<()> {
/// let embedder = StaticEmbedder::bundled();
/// let vectors = embedder.embed(&["The cat sleeps.", "A kitten naps."]).await?;
/// assert_eq!(vectors.len(), 2);
/// assert_eq!(vectors[0].len(), embedder.dimensions());
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Embedder: std::fmt::Debug + Send + Sync + 'static {
    /// Stable identifier of the model; vectors of different models are never compared.
    fn model(&self) -> &str;
    /// Length of every vector that `embed` returns.
    fn dimensions(&self) -> usize;
    /// Embeds each text, in order.
    async fn embed(&self, texts: &[&str]) -> crate::Result<Vec<Vec<f32>>>;
}

/// Gives the vector of one word at once. Searches of conversations compare words by it.
pub trait WordVectors: std::fmt::Debug + Send + Sync + 'static {
    /// Length of every vector.
    fn word_dimensions(&self) -> usize;
    /// Returns the vector of a word in lower case, of length one; `None` for a word that is not known.
    fn word(&self, word: &str) -> Option<Vec<f32>>;
}
