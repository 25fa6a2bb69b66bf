//! Admission: at most so many calls at once, first come first served.

use async_trait::async_trait;
use futures::StreamExt;

use super::provider::{ChatProvider, Completion, EmbedCall, Embeddings, Model, ProviderCall, ProviderStream};
use crate::{
    Result,
    resilience::{Deadline, Limiter},
};

/// Lets at most so many calls through to the provider below.
#[derive(Debug)]
pub(crate) struct Limited<P> {
    inner: P,
    limiter: Limiter,
    timeout: std::time::Duration,
}

impl<P: ChatProvider> Limited<P> {
    pub fn new(inner: P, limiter: Limiter, timeout: std::time::Duration) -> Limited<P> {
        Limited { inner, limiter, timeout }
    }

    pub fn inner(&self) -> &P {
        &self.inner
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<P: ChatProvider> ChatProvider for Limited<P> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn complete(&self, call: &ProviderCall) -> Result<Completion> {
        let _permit = self.limiter.acquire(call.operation, forever()).await?;
        self.inner.complete(call).await
    }

    async fn stream(&self, call: &ProviderCall) -> Result<ProviderStream> {
        let permit = self.limiter.acquire(call.operation, forever()).await?;
        let stream = self.inner.stream(call).await?;
        // The permit lives as long as the stream.
        Ok(stream
            .inspect(move |_| {
                let _ = &permit;
            })
            .boxed())
    }

    async fn models(&self) -> Result<Vec<Model>> {
        let _permit = self.limiter.acquire("chat.models", Deadline::after(self.timeout)).await?;
        self.inner.models().await
    }

    async fn embed(&self, call: &EmbedCall) -> Result<Embeddings> {
        let _permit = self.limiter.acquire("chat.embed", Deadline::after(self.timeout)).await?;
        self.inner.embed(call).await
    }
}

/// Those who wait for a call each have their own deadline; the call itself ends when the last of them has left.
pub(crate) fn forever() -> Deadline {
    Deadline::after(std::time::Duration::MAX)
}
