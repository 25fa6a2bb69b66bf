//! The memory's embedder over HTTP: a server that speaks OpenAI's `/embeddings`.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};

use super::{config::ProviderConfig, endpoint::Endpoint, openai, provider::EmbedCall};
use crate::{
    Clock, Error, Result,
    memory::embed::{Embedder, EmbedderConfig, batch},
    resilience::{Backoff, Deadline},
};

const OPERATION: &str = "memory.embed";
/// Most bytes of text in one request: enough for many texts, and read by a server at once.
const MAX_REQUEST_BYTES: usize = 256 * 1024;
/// Largest accepted answer: 2,048 vectors of 3,072 numbers of ten characters.
const MAX_RESPONSE_BYTES: usize = 64 << 20;
/// Requests of one call at once.
const MAX_CONCURRENT: usize = 4;

/// Embeds with a server that speaks OpenAI's `/embeddings`.
#[derive(Debug)]
pub(crate) struct HttpEmbedder {
    endpoint: Endpoint,
    /// What its vectors are kept under.
    model: String,
    /// What the server is asked for: a model, and the length of its vectors.
    asked_model: String,
    asked_dimensions: Option<usize>,
    /// Length that is expected: what is asked for, or what the first answer had.
    dimensions: OnceLock<usize>,
    timeout: Duration,
    batch: usize,
    max_text_bytes: usize,
}

impl HttpEmbedder {
    /// Sets it up; nothing is opened. `path` is where its configuration stands.
    ///
    /// # Errors
    /// As those of a provider of chat.
    pub fn new(path: &str, config: &EmbedderConfig, clock: Arc<dyn Clock>) -> Result<HttpEmbedder> {
        let model = config.model.clone().unwrap_or_default();
        let provider = ProviderConfig {
            base_url: config.base_url.clone(),
            api_key: config.api_key.clone(),
            headers: config.headers.clone(),
            timeout: config.timeout,
            ..ProviderConfig::openai("memory.embedder", "")
        };
        Ok(HttpEmbedder {
            endpoint: Endpoint::new(path, &provider, MAX_RESPONSE_BYTES, clock)?,
            model: config.dimensions.map_or_else(|| model.clone(), |dimensions| format!("{model}@{dimensions}")),
            asked_model: model,
            asked_dimensions: config.dimensions,
            dimensions: config.dimensions.map(OnceLock::from).unwrap_or_default(),
            timeout: config.timeout,
            batch: config.batch,
            max_text_bytes: config.max_text_bytes,
        })
    }

    /// Asks for the vectors of some texts, again where a failure may pass and there is time.
    async fn ask(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let mut call = EmbedCall::new(texts.iter().map(|text| batch::cut(text, self.max_text_bytes)));
        call.model = Some(self.asked_model.clone());
        if let Some(dimensions) = self.asked_dimensions {
            call.provider_fields.insert("dimensions".to_owned(), dimensions.into());
        }
        let deadline = Deadline::after(self.timeout);
        let mut delays = Backoff::default().delays();
        let answer = loop {
            let failure = match deadline.run(OPERATION, openai::embed(OPERATION, &self.endpoint, &call)).await {
                Ok(answer) => break answer,
                Err(failure) => failure,
            };
            match delays.next().map(|delay| wait(&failure, delay)) {
                Some(delay) if failure.is_retryable() && delay < deadline.remaining() => {
                    tokio::time::sleep(delay).await
                }
                _ => return Err(failure),
            }
        };
        if let Some(first) = answer.vectors.first() {
            self.dimensions.get_or_init(|| first.len());
        }
        batch::checked(self, texts.len(), answer.vectors)
    }
}

/// Returns how long to wait before another try: what the server says, and never less than we would by ourselves.
fn wait(failure: &Error, delay: Duration) -> Duration {
    failure.retry_after().unwrap_or_default().max(delay)
}

#[async_trait]
impl Embedder for HttpEmbedder {
    fn model(&self) -> &str {
        &self.model
    }

    fn dimensions(&self) -> Option<usize> {
        self.dimensions.get().copied()
    }

    async fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let calls: Vec<_> = batch::runs(texts, self.batch, MAX_REQUEST_BYTES).map(|run| self.ask(run)).collect();
        let made: Vec<_> = stream::iter(calls).buffered(MAX_CONCURRENT).try_collect().await?;
        Ok(made.into_iter().flatten().collect())
    }
}
