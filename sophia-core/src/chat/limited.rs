//! Admission: calls that keep the limits of their scope, at most so many at once, first come first served.
//!
//! What an answer used is written down here as well: a call is paid for where it was let through.

use std::{borrow::Borrow, sync::Arc};

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    accounting::Accounts,
    provider::{ChatProvider, Completion, EmbedCall, Embeddings, Model, ProviderCall, ProviderEvent, ProviderStream},
    response::Answer,
    router::Router,
};
use crate::{
    Result, Scope,
    resilience::{Deadline, Limiter, Permit},
};

/// Lets at most so many calls through to the providers below, and none beyond the limits of its scope.
#[derive(Debug)]
pub(crate) struct Limited {
    inner: Router,
    accounts: Accounts,
    limiter: Limiter,
}

impl Limited {
    pub fn new(inner: Router, accounts: Accounts, limiter: Limiter) -> Limited {
        Limited { inner, accounts, limiter }
    }

    pub fn inner(&self) -> &Router {
        &self.inner
    }

    async fn enter(&self, operation: &'static str, scope: &Scope) -> Result<Permit> {
        self.accounts.enter(operation, scope, self.limiter.acquire(operation, forever())).await
    }

    async fn admit(&self, call: &ProviderCall) -> Result<Entered> {
        let start = call.trace.start();
        let permit = self.enter(call.operation, &call.scope).await?;
        call.trace.note("admission", "admitted", start);
        *call.pass.0.lock() = Some((permit, self.limiter.clone()));
        Ok(Entered(call.pass.clone()))
    }
}

/// The permit of a call, which it does without while it waits for a provider. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pass(Arc<Mutex<Option<(Permit, Limiter)>>>);

impl Pass {
    /// Waits without the permit, so that others may ask meanwhile, and then in line for another one.
    ///
    /// # Errors
    /// None as long as time does not end.
    pub async fn wait_until(&self, at: Instant, operation: &'static str) -> Result<()> {
        let held = self.0.lock().take().map(|(_, limiter)| limiter);
        tokio::time::sleep_until(at).await;
        if let Some(limiter) = held {
            let permit = limiter.acquire(operation, forever()).await?;
            *self.0.lock() = Some((permit, limiter));
        }
        Ok(())
    }

    /// Returns a permit for a call beside, if one is free.
    pub fn beside(&self) -> Option<Permit> {
        self.0.lock().as_ref()?.1.try_acquire()
    }
}

/// Gives the permit of a call back.
struct Entered(Pass);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.lock().take();
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ChatProvider for Limited {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn complete(&self, call: &ProviderCall) -> Result<Completion> {
        let entered = self.admit(call).await?;
        let open = Open { accounts: &self.accounts, call, heard: 0, _entered: entered };
        let mut completion = self.inner.complete(call).await?;
        open.settle(&mut completion.answer);
        Ok(completion)
    }

    async fn stream(&self, call: &ProviderCall) -> Result<ProviderStream> {
        let entered = self.admit(call).await?;
        let mut open = Some(Open { accounts: self.accounts.clone(), call: call.clone(), heard: 0, _entered: entered });
        let stream = self.inner.stream(call).await?;
        let settled = stream.map(move |event| match event {
            Ok(ProviderEvent::Done(mut completion)) => {
                open.take().into_iter().for_each(|open| open.settle(&mut completion.answer));
                Ok(ProviderEvent::Done(completion))
            }
            Ok(ProviderEvent::Delta(delta)) => {
                open.iter_mut().for_each(|open| open.heard += delta.bytes());
                Ok(ProviderEvent::Delta(delta))
            }
            // What was heard until then is paid for, too.
            error => error,
        });
        Ok(settled.boxed())
    }

    async fn models(&self) -> Result<Vec<Model>> {
        let _permit = self.limiter.acquire("chat.models", forever()).await?;
        self.inner.models().await
    }

    async fn embed(&self, call: &EmbedCall) -> Result<Embeddings> {
        let scope = call.scope.clone().unwrap_or_default();
        let _permit = self.enter("chat.embed", &scope).await?;
        let (provider, model) = self.inner.embedder(call.model.as_deref())?;
        let open = OpenTexts { accounts: &self.accounts, texts: &call.texts, provider: provider.name(), model, scope };
        let vectors = self.inner.embed(call).await;
        open.settle(vectors)
    }
}

/// A call that a provider was asked and whose end nobody has heard yet. Where nobody ever will, because all have left or it
/// broke off, what it used is estimated.
struct Open<A: Borrow<Accounts>, C: Borrow<ProviderCall>> {
    accounts: A,
    call: C,
    /// Bytes of the answer so far.
    heard: usize,
    /// Given back when all is written down: who waits for it is asked again for what is left.
    _entered: Entered,
}

impl<A: Borrow<Accounts>, C: Borrow<ProviderCall>> Open<A, C> {
    /// Writes down what the answer used. Another provider that was asked beside its own was left.
    fn settle(mut self, answer: &mut Arc<Answer>) {
        self.heard = 0;
        self.call.borrow().asked_of.end(&answer.provider);
        self.accounts.borrow().settle(self.call.borrow(), answer);
    }
}

impl<A: Borrow<Accounts>, C: Borrow<ProviderCall>> Drop for Open<A, C> {
    fn drop(&mut self) {
        for provider in self.call.borrow().asked_of.rest() {
            self.accounts.borrow().settle_unheard(self.call.borrow(), &provider, std::mem::take(&mut self.heard));
        }
    }
}

/// Texts that a provider was sent, and whose vectors nobody has heard of yet.
struct OpenTexts<'a> {
    accounts: &'a Accounts,
    texts: &'a [String],
    provider: &'a str,
    model: &'a str,
    scope: Scope,
}

impl OpenTexts<'_> {
    /// Writes down what the vectors used. Nobody bills a failure.
    fn settle(mut self, vectors: Result<Embeddings>) -> Result<Embeddings> {
        self.texts = &[];
        let vectors = vectors?;
        self.accounts.settle_vectors(self.model, &vectors, &self.scope);
        Ok(vectors)
    }
}

impl Drop for OpenTexts<'_> {
    fn drop(&mut self) {
        if !self.texts.is_empty() {
            self.accounts.settle_unheard_vectors(self.texts, self.provider, self.model, &self.scope);
        }
    }
}

/// Those who wait for a call each have their own deadline; the call itself ends when the last of them has left.
pub(crate) fn forever() -> Deadline {
    Deadline::after(std::time::Duration::MAX)
}
