//! Admission: calls that keep the limits of their scope, at most so many at once, first come first served.
//!
//! What an answer used is written down here as well: a call is paid for where it was let through.

use std::borrow::Borrow;

use async_trait::async_trait;
use futures::StreamExt;

use super::{
    accounting::Accounts,
    provider::{ChatProvider, Completion, EmbedCall, Embeddings, Model, ProviderCall, ProviderEvent, ProviderStream},
};
use crate::{
    Result,
    resilience::{Deadline, Limiter},
};

/// Lets at most so many calls through to the provider below, and none beyond the limits of its scope.
#[derive(Debug)]
pub(crate) struct Limited<P> {
    inner: P,
    accounts: Accounts,
    limiter: Limiter,
    timeout: std::time::Duration,
}

impl<P: ChatProvider> Limited<P> {
    pub fn new(inner: P, accounts: Accounts, limiter: Limiter, timeout: std::time::Duration) -> Limited<P> {
        Limited { inner, accounts, limiter, timeout }
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
        // Before the queue: who is over a limit takes nobody's place in it.
        let start = call.trace.start();
        self.accounts.admit(call.operation, &call.scope).await?;
        let _permit = self.limiter.acquire(call.operation, forever()).await?;
        call.trace.note("admission", "admitted", start);
        let open = Open { accounts: &self.accounts, call, heard: 0 };
        let mut completion = self.inner.complete(call).await?;
        open.close(&completion.answer.provider);
        self.accounts.settle(call, &mut completion.answer);
        Ok(completion)
    }

    async fn stream(&self, call: &ProviderCall) -> Result<ProviderStream> {
        let start = call.trace.start();
        self.accounts.admit(call.operation, &call.scope).await?;
        let permit = self.limiter.acquire(call.operation, forever()).await?;
        call.trace.note("admission", "admitted", start);
        let (accounts, call) = (self.accounts.clone(), call.clone());
        let mut open = Some(Open { accounts: accounts.clone(), call: call.clone(), heard: 0 });
        let stream = self.inner.stream(&call).await?;
        let settled = stream.map(move |event| {
            // The permit lives as long as the stream.
            let _ = &permit;
            match event {
                Ok(ProviderEvent::Done(mut completion)) => {
                    open.take().into_iter().for_each(|open| open.close(&completion.answer.provider));
                    accounts.settle(&call, &mut completion.answer);
                    Ok(ProviderEvent::Done(completion))
                }
                Ok(ProviderEvent::Delta(delta)) => {
                    open.iter_mut().for_each(|open| open.heard += delta.bytes());
                    Ok(ProviderEvent::Delta(delta))
                }
                // What was heard until then is paid for, too.
                error => error,
            }
        });
        Ok(settled.boxed())
    }

    async fn models(&self) -> Result<Vec<Model>> {
        let _permit = self.limiter.acquire("chat.models", Deadline::after(self.timeout)).await?;
        self.inner.models().await
    }

    async fn embed(&self, call: &EmbedCall) -> Result<Embeddings> {
        const OPERATION: &str = "chat.embed";
        let scope = call.scope.clone().unwrap_or_default();
        self.accounts.admit(OPERATION, &scope).await?;
        let _permit = self.limiter.acquire(OPERATION, Deadline::after(self.timeout)).await?;
        let vectors = self.inner.embed(call).await?;
        self.accounts.settle_vectors(call.model.as_deref().unwrap_or_default(), &vectors, &scope);
        Ok(vectors)
    }
}

/// A call that a provider was asked and whose end nobody has heard yet. Where nobody ever will, because all have left or it
/// broke off, what it used is estimated.
struct Open<A: Borrow<Accounts>, C: Borrow<ProviderCall>> {
    accounts: A,
    call: C,
    /// Bytes of the answer so far.
    heard: usize,
}

impl<A: Borrow<Accounts>, C: Borrow<ProviderCall>> Open<A, C> {
    /// Says that the end of this one was heard. Another that was asked beside it was left.
    fn close(mut self, provider: &str) {
        self.heard = 0;
        self.call.borrow().asked_of.end(provider);
    }
}

impl<A: Borrow<Accounts>, C: Borrow<ProviderCall>> Drop for Open<A, C> {
    fn drop(&mut self) {
        for provider in self.call.borrow().asked_of.rest() {
            self.accounts.borrow().settle_unheard(self.call.borrow(), &provider, std::mem::take(&mut self.heard));
        }
    }
}

/// Those who wait for a call each have their own deadline; the call itself ends when the last of them has left.
pub(crate) fn forever() -> Deadline {
    Deadline::after(std::time::Duration::MAX)
}
