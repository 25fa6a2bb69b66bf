//! Embedding anew, in the background, what has no vector of the embedder's model.
//!
//! That is all records after a change of the model, and those that were stored while the embedder was down. The newest come
//! first. What was done is in the store: whoever begins again goes on from there. Of all processes that share the store, one
//! at a time does it. Meanwhile, records with a vector of a former model are found by it, as long as its embedder is at hand.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, sync::watch, task::AbortHandle};
use uuid::Uuid;

use super::{
    Memory,
    embeddings::{Embeddings, Source, Text, told},
    store::{MemoryStore, ModelUse, NewVector, StaleVector},
};
use crate::{ErrorKind, Result, resilience::Backoff};

/// What the right to do it is called.
const LEASE: &str = "memory.reembed";
/// How long the right lasts without being prolonged: longer than a batch takes, and no longer than others should wait for one
/// who died.
const LEASE_LASTS: Duration = Duration::from_secs(30);
/// How often to look whether another has finished.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Records of one batch.
const BATCH: usize = 64;
/// Tries after a failure: for ever, since the embedder may come back at any time.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(60), retries: usize::MAX };
/// Time that [`Memory::reembed`] waits where it is not told.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Arguments of `memory.reembed`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Reembed {
    /// Longest time to wait, in seconds. Default 30 s; it goes on in the background after that.
    #[serde(with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub timeout: Option<Duration>,
}

/// How far embedding anew has come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Reembedded {
    /// Model that records are embedded with; null without an embedder.
    pub model: Option<String>,
    /// Records that this process has embedded anew since it began.
    pub done: u64,
    /// Records that are still to be embedded.
    pub left: u64,
    /// Whether it is under way.
    pub running: bool,
    /// Why the last try failed; null where it did not.
    pub failure: Option<String>,
}

/// The background work of one memory. Ends when nothing is left to do, and is woken when there may be.
#[derive(Debug)]
pub(super) struct Reembedding {
    work: Arc<Work>,
    task: Mutex<Option<AbortHandle>>,
}

#[derive(Debug)]
struct Work {
    store: Arc<dyn MemoryStore>,
    embeddings: Embeddings,
    /// Tells this process from others.
    holder: String,
    state: Mutex<State>,
    progress: watch::Sender<Reembedded>,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    /// Whether there may be more to do than was seen.
    again: bool,
}

/// What comes after a pass over the store.
enum Next {
    /// Another pass.
    Again,
    /// Another pass, after a while.
    Wait,
    /// Another try, later and later.
    Retry,
    Done,
}

impl Reembedding {
    pub fn new(store: Arc<dyn MemoryStore>, embeddings: Embeddings) -> Reembedding {
        let (progress, _) = watch::channel(Reembedded::default());
        let holder = Uuid::now_v7().to_string();
        Reembedding {
            work: Arc::new(Work { store, embeddings, holder, state: Mutex::default(), progress }),
            task: Mutex::default(),
        }
    }

    /// Sees to it that what is stale is embedded anew. Does nothing outside of a runtime.
    pub fn wake(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        let mut task = self.task.lock();
        let mut state = self.work.state.lock();
        state.again = true;
        if state.running && task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        state.running = true;
        self.work.progress.send_modify(|progress| progress.running = true);
        *task = Some(runtime.spawn(self.work.clone().run()).abort_handle());
    }

    /// Stops it. What was done stays done.
    pub fn stop(&self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
        self.work.state.lock().running = false;
        self.work.progress.send_modify(|progress| progress.running = false);
    }

    /// Returns how far it has come.
    pub fn progress(&self) -> Reembedded {
        self.work.progress.borrow().clone()
    }

    /// Returns whose vectors there are, and takes note of it.
    pub async fn models(&self) -> Result<Vec<ModelUse>> {
        self.work.models().await
    }
}

impl Drop for Reembedding {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Memory {
    /// Embeds anew what has no vector of the embedder's model, waits for the end, and returns how far it has come. It happens
    /// in the background anyway; this is for scripts that want to see it done.
    ///
    /// # Errors
    /// What the store says.
    ///
    /// # Cancel safety
    /// A call that is dropped does not stop it.
    pub async fn reembed(&self, reembed: Reembed) -> Result<Reembedded> {
        let work = async {
            self.reembedding().wake();
            let mut progress = self.reembedding().work.progress.subscribe();
            let ended = progress.wait_for(|progress| !progress.running);
            // The sender lives as long as this memory.
            let _ = tokio::time::timeout(reembed.timeout.unwrap_or(DEFAULT_TIMEOUT), ended).await;
            let (source, used) = (self.embeddings().source(), self.reembedding().models().await?);
            let model = source.map(|source| source.model().to_owned());
            let left = model.as_deref().map_or(0, |model| stale(&used, model));
            Ok(Reembedded { model, left, ..self.reembedding().progress() })
        };
        self.metrics().timed("memory.reembed", work).await
    }
}

/// Counts the records without a vector of `model`.
pub(super) fn stale(used: &[ModelUse], model: &str) -> u64 {
    used.iter().filter(|used| used.model.as_deref() != Some(model)).map(|used| used.records).sum()
}

impl Work {
    async fn run(self: Arc<Work>) {
        let mut delays = BACKOFF.delays();
        loop {
            self.state.lock().again = false;
            let next = self.pass().await;
            let failure = match &next {
                Err(error) => Some(error.clone()),
                Ok(_) => self.embeddings.source().and_then(|source| source.failure()),
            };
            self.progress.send_modify(|progress| progress.failure = failure.as_ref().map(told));
            let delay = match next {
                Ok(Next::Again) => {
                    delays = BACKOFF.delays();
                    continue;
                }
                Ok(Next::Done) if self.is_over() => return,
                Ok(Next::Done) => continue,
                Ok(Next::Wait) => LOOK_EVERY,
                Ok(Next::Retry) => delays.next().unwrap_or(BACKOFF.max),
                Err(error) => {
                    tracing::warn!(code = error.code(), "records cannot be embedded anew; tried again later");
                    delays.next().unwrap_or(BACKOFF.max)
                }
            };
            tokio::time::sleep(delay).await;
        }
    }

    /// Returns whether it is over: nobody has woken it since the last pass began.
    fn is_over(&self) -> bool {
        let mut state = self.state.lock();
        if !state.again {
            state.running = false;
            self.progress.send_modify(|progress| progress.running = false);
        }
        !state.again
    }

    async fn models(&self) -> Result<Vec<ModelUse>> {
        let used = self.store.vector_models().await?;
        self.embeddings.note_models(&used);
        Ok(used)
    }

    /// Goes once over all that is stale, the newest first.
    async fn pass(&self) -> Result<Next> {
        let used = self.models().await?;
        let source = self.embeddings.source();
        let left = source.as_ref().map_or(0, |source| stale(&used, source.model()));
        self.progress.send_modify(|progress| progress.left = left);
        let Some(source) = source.filter(|_| left > 0) else { return Ok(Next::Done) };
        if !self.lease(LEASE_LASTS).await? {
            return Ok(Next::Wait);
        }
        tracing::info!(model = source.model(), left, "records are embedded anew");
        let next = self.batches(&source).await;
        self.lease(Duration::ZERO).await?;
        next
    }

    async fn lease(&self, lasts: Duration) -> Result<bool> {
        self.store.lease(LEASE, &self.holder, lasts).await
    }

    async fn batches(&self, source: &Arc<Source>) -> Result<Next> {
        let mut before = None;
        loop {
            let stale = self.store.stale_vectors(source.model(), before, BATCH).await?;
            let Some(last) = stale.last() else { return Ok(Next::Again) };
            before = Some(last.seq);
            let set = self.embed(source, &stale).await?;
            if set == 0 {
                return Ok(Next::Retry);
            }
            self.progress.send_modify(|progress| {
                progress.done += set;
                progress.left = progress.left.saturating_sub(set);
            });
            if !self.lease(LEASE_LASTS).await? {
                return Ok(Next::Wait);
            }
            if self.embeddings.source().is_none_or(|current| current.model() != source.model()) {
                return Ok(Next::Again);
            }
        }
    }

    /// Embeds one batch, those that the embedder refuses together one by one; returns how many vectors were set.
    async fn embed(&self, source: &Arc<Source>, stale: &[StaleVector]) -> Result<u64> {
        let mut made = self.vectors(source, stale).await;
        let is_refused =
            |made: &Result<NewVector>| made.as_ref().is_err_and(|error| error.kind() == ErrorKind::InvalidInput);
        for (one, vector) in stale.iter().zip(&mut made).filter(|(_, made)| stale.len() > 1 && is_refused(made)) {
            if let Some(again) = self.vectors(source, std::slice::from_ref(one)).await.pop() {
                *vector = again;
            }
        }
        let made: Vec<_> = made.into_iter().flatten().collect();
        if made.is_empty() { Ok(0) } else { self.store.set_vectors(made).await }
    }

    async fn vectors(&self, source: &Arc<Source>, stale: &[StaleVector]) -> Vec<Result<NewVector>> {
        let texts: Vec<_> = stale.iter().map(|stale| Text { scope: &stale.scope, text: &stale.content }).collect();
        let made = self.embeddings.embed(source, &texts).await;
        let named = |(stale, vector): (&StaleVector, Result<Arc<Vec<f32>>>)| {
            vector.map(|values| NewVector { seq: stale.seq, version: stale.version, vector: source.named(&values) })
        };
        stale.iter().zip(made).map(named).collect()
    }
}
