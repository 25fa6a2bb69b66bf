//! [`CallbackEmbedder`]: a function that turns texts into vectors.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::{Embedder, batch};
use crate::{Error, Result, resilience::Deadline};

/// Time in which one call must have answered, unless it is set.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Most texts, and most bytes of text, of one call.
const MAX_TEXTS: usize = 64;
const MAX_BYTES: usize = 256 * 1024;
/// Longest vector.
const MAX_DIMENSIONS: usize = 8_192;

type Function = dyn Fn(Vec<String>) -> BoxFuture<'static, Result<Vec<Vec<f32>>>> + Send + Sync;

/// Embeds with a function: 64 texts a call at most, one call at a time for each who asks, each with a deadline.
///
/// ```
/// use std::sync::Arc;
/// use sophia_core::{Sophia, memory::embed::CallbackEmbedder};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sophia_core::Result<()> {
/// let by_vowels = |texts: Vec<String>| -> futures::future::BoxFuture<'static, _> {
///     Box::pin(async move {
///         let count = |text: &str, letter| text.matches(letter).count() as f32;
///         Ok(texts.iter().map(|text| ["a", "e", "i", "o", "u"].map(|letter| count(text, letter)).to_vec()).collect())
///     })
/// };
/// let sophia = Sophia::builder().embedder(Arc::new(CallbackEmbedder::new("vowels", 5, by_vowels)?)).start().await?;
/// assert_eq!(sophia.memory().health().await.embedder.unwrap().model, "vowels@5");
/// # Ok(()) }
/// ```
pub struct CallbackEmbedder {
    model: String,
    dimensions: usize,
    timeout: Duration,
    function: Box<Function>,
}

impl CallbackEmbedder {
    /// Embeds with `function`, which is given texts and returns a vector of `dimensions` values for each. `model` names what it
    /// does: give it another name when it gives other vectors.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a model without a name, and for a number of dimensions
    /// that cannot be.
    pub fn new(
        model: impl Into<String>,
        dimensions: usize,
        function: impl Fn(Vec<String>) -> BoxFuture<'static, Result<Vec<Vec<f32>>>> + Send + Sync + 'static,
    ) -> Result<CallbackEmbedder> {
        const OPERATION: &str = "memory.set_embedder";
        let model = model.into();
        crate::memory::validate::name(OPERATION, "model", &model)?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            let message = format!("is {dimensions}; it must be from 1 to {MAX_DIMENSIONS}");
            return Err(Error::invalid(OPERATION, "dimensions", message));
        }
        Ok(CallbackEmbedder {
            model: format!("{model}@{dimensions}"),
            dimensions,
            timeout: DEFAULT_TIMEOUT,
            function: Box::new(function),
        })
    }

    /// Sets the time in which one call must have answered. Default 30 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> CallbackEmbedder {
        self.timeout = timeout;
        self
    }
}

impl fmt::Debug for CallbackEmbedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackEmbedder").field("model", &self.model).finish_non_exhaustive()
    }
}

#[async_trait]
impl Embedder for CallbackEmbedder {
    fn model(&self) -> &str {
        &self.model
    }

    fn dimensions(&self) -> Option<usize> {
        Some(self.dimensions)
    }

    /// # Errors
    /// What the function says; `Timeout`; what is wrong with its vectors.
    async fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let mut vectors = Vec::with_capacity(texts.len());
        for run in batch::runs(texts, MAX_TEXTS, MAX_BYTES) {
            let call = (self.function)(run.iter().map(|text| (*text).to_owned()).collect());
            let made = Deadline::after(self.timeout).run("memory.embed", call).await?;
            vectors.extend(batch::checked(self, run.len(), made)?);
        }
        Ok(vectors)
    }
}
