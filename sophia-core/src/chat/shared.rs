//! L2: answers that processes share, and one call to a provider for all of them.

use async_trait::async_trait;
use futures::StreamExt;

#[cfg(feature = "redis")]
pub(super) use super::shared_redis::{Held, SharedCache};
use super::{
    cache::Payload,
    provider::{
        ChatProvider, Completion, EmbedCall, Embeddings, Keeping, Model, ProviderCall, ProviderEvent, ProviderStream,
    },
    response::Found,
};
use crate::{Result, resilience::Deadline};

/// What is known before a question is asked.
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "nothing is shared in this build"))]
pub(super) enum Turn {
    /// Another process has asked it.
    Kept(Kept),
    /// It is ours to ask.
    Ours(Held, Found),
}

/// An answer that another process, or this one, has kept.
pub(super) struct Kept {
    pub payload: Payload,
    pub ttl_s: u64,
    pub found: Found,
}

/// Looks in the shared cache, and waits while another process asks the same; without one, it is always ours to ask.
pub(super) async fn turn(
    shared: Option<&SharedCache>,
    operation: &'static str,
    keeping: Option<&Keeping>,
    deadline: Deadline,
) -> Turn {
    match (shared, keeping) {
        (Some(shared), Some(keeping)) if keeping.look => shared.turn(operation, keeping, deadline).await,
        (Some(shared), Some(_)) => Turn::Ours(shared.unlooked(operation).await, Found::default()),
        _ => Turn::Ours(Held::default(), Found::default()),
    }
}

/// Shares the answers of the stage below.
#[derive(Debug)]
pub(crate) struct SharedTier<P> {
    inner: P,
    shared: Option<SharedCache>,
}

impl<P: ChatProvider> SharedTier<P> {
    pub fn new(inner: P, shared: Option<SharedCache>) -> SharedTier<P> {
        SharedTier { inner, shared }
    }

    pub fn inner(&self) -> &P {
        &self.inner
    }

    async fn turn(&self, call: &ProviderCall) -> Turn {
        let start = call.trace.start();
        let turn = turn(self.shared.as_ref(), call.operation, call.keeping.as_ref(), call.deadline.get()).await;
        let outcome = match &turn {
            _ if self.shared.is_none() => "off",
            Turn::Kept(_) => "hit",
            Turn::Ours(_, found) if found.degraded => "degraded",
            Turn::Ours(..) => "miss",
        };
        call.trace.note("l2", outcome, start);
        turn
    }
}

/// Shares an answer that was kept here, and gives our turn up.
async fn keep(
    shared: Option<&SharedCache>,
    call: &Sharing,
    mut completion: Completion,
    found: Found,
    turn: Held,
) -> Completion {
    completion.found = Found { degraded: completion.found.degraded || found.degraded, ..completion.found };
    let ttl_s = completion.ttl_s.filter(|_| completion.semantic.is_none());
    match (shared, &call.keeping, ttl_s) {
        (Some(shared), Some(keeping), Some(ttl_s)) => {
            shared.keep(call.operation, keeping, &Payload::Answer(completion.answer.clone()), ttl_s, turn).await;
        }
        _ => turn.end(call.operation).await,
    }
    completion
}

/// What has to be known of a call to share its answer.
struct Sharing {
    operation: &'static str,
    keeping: Option<Keeping>,
}

fn completion(kept: Kept) -> Option<Completion> {
    let Payload::Answer(answer) = kept.payload else { return None };
    Some(Completion { answer, attempts: Vec::new(), ttl_s: Some(kept.ttl_s), found: kept.found, semantic: None })
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<P: ChatProvider> ChatProvider for SharedTier<P> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn complete(&self, call: &ProviderCall) -> Result<Completion> {
        match self.shared {
            // Without the room that the other way takes.
            None => {
                call.trace.note("l2", "off", call.trace.start());
                self.inner.complete(call).await
            }
            Some(_) => Box::pin(self.complete_shared(call)).await,
        }
    }

    async fn stream(&self, call: &ProviderCall) -> Result<ProviderStream> {
        let (lease, found) = match self.turn(call).await {
            Turn::Kept(kept) => match completion(kept) {
                Some(kept) => return Ok(futures::stream::iter([Ok(ProviderEvent::Done(kept))]).boxed()),
                None => (Held::default(), Found::default()),
            },
            Turn::Ours(lease, found) => (lease, found),
        };
        let stream = self.inner.stream(call).await?;
        let sharing = Sharing { operation: call.operation, keeping: call.keeping.clone() };
        let state = (stream, self.shared.clone(), sharing, lease, found);
        let shared = futures::stream::unfold(state, |(mut stream, shared, sharing, mut lease, found)| async move {
            let event = match stream.next().await? {
                Ok(ProviderEvent::Done(completion)) => {
                    let lease = std::mem::take(&mut lease);
                    Ok(ProviderEvent::Done(keep(shared.as_ref(), &sharing, completion, found, lease).await))
                }
                event => event,
            };
            Some((event, (stream, shared, sharing, lease, found)))
        });
        Ok(shared.boxed())
    }

    async fn models(&self) -> Result<Vec<Model>> {
        self.inner.models().await
    }

    async fn embed(&self, call: &EmbedCall) -> Result<Embeddings> {
        self.inner.embed(call).await
    }
}

impl<P: ChatProvider> SharedTier<P> {
    async fn complete_shared(&self, call: &ProviderCall) -> Result<Completion> {
        let (lease, found) = match self.turn(call).await {
            Turn::Kept(kept) => match completion(kept) {
                Some(kept) => return Ok(kept),
                None => (Held::default(), Found::default()),
            },
            Turn::Ours(lease, found) => (lease, found),
        };
        let sharing = Sharing { operation: call.operation, keeping: call.keeping.clone() };
        let answered = self.inner.complete(call).await?;
        Ok(keep(self.shared.as_ref(), &sharing, answered, found, lease).await)
    }
}

/// There is no shared cache in this build.
#[cfg(not(feature = "redis"))]
#[derive(Debug, Clone)]
pub(super) enum SharedCache {}

#[cfg(not(feature = "redis"))]
impl SharedCache {
    pub fn new(
        _: &super::config::ChatConfig,
        _: &crate::context::Context,
        _: &super::cache::AnswerCache,
    ) -> Option<SharedCache> {
        None
    }

    pub async fn turn(&self, _: &'static str, _: &Keeping, _: Deadline) -> Turn {
        match *self {}
    }

    pub async fn unlooked(&self, _: &'static str) -> Held {
        match *self {}
    }

    pub async fn keep(&self, _: &'static str, _: &Keeping, _: &Payload, _: u64, _: Held) {
        match *self {}
    }

    pub fn invalidate(&self, _: super::cache::Invalidate) -> std::future::Ready<bool> {
        match *self {}
    }

    pub async fn close(&self) {
        match *self {}
    }

    pub fn forget(&self, _: super::cache::Invalidate) -> std::future::Ready<bool> {
        match *self {}
    }
}

/// There is nobody to share turns with in this build.
#[cfg(not(feature = "redis"))]
#[derive(Default)]
pub(super) struct Held(());

#[cfg(not(feature = "redis"))]
impl Held {
    pub async fn end(self, _: &'static str) {}
}
