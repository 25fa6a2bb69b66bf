//! [`Embeddings`]: the embedder in use, and what it has made.
//!
//! What a slow model made is kept in the tiers of values under keys, beneath a key that no user can name, in the wall of
//! whoever brought the text: who is forgotten takes it along. Who asks for the same text at the same time waits for the same
//! call, and a model that fails is not asked for a while.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use futures::{
    FutureExt,
    future::{self, BoxFuture, Shared},
};
use parking_lot::Mutex;
use serde_json::Value;

use super::{
    embed::{Embedder, ModelClass, batch},
    half,
    handle::Embedders,
    kv::{EMBEDDING_KEYS, Kv, KvEntry, KvKey, KvTier},
    store::{ModelUse, NamedVector},
};
use crate::{
    Clock, Error, ErrorKind, Result, Scope, Signal, Signals,
    context::Context,
    resilience::{BreakerConfig, CircuitBreaker, Deadline, Limiter, SingleFlight},
};

const OPERATION: &str = "memory.embed";
/// Service that signals are about.
const SERVICE: &str = "memory.embedder";
/// Most texts, and most bytes of text, of one call of a slow model: a call that fails fails no more than these.
const MAX_TEXTS: usize = 64;
const MAX_BYTES: usize = 256 * 1024;
/// Calls of a slow model at once.
const MAX_CALLS: usize = 4;
/// Time for a call to get its turn. How long it may take is the embedder's to say.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Look-ups of kept vectors at once.
const LOOK_UPS: usize = 16;
/// How long a vector is kept to be looked up: a text that did not come again within a month is not worth its place.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

tokio::task_local! {
    static WITHOUT_WAITING: ();
}

/// Runs a call that waits for no vector which is being made, and for no turn: it goes on as if the embedder were down. For a
/// call that holds up what the embedder runs on.
pub async fn without_waiting<F: Future>(call: F) -> F::Output {
    WITHOUT_WAITING.scope((), call).await
}

/// A text, and whose it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    pub scope: &'a Scope,
    pub text: &'a str,
}

/// A vector of length one, or of zeros.
type Made = Result<Arc<Vec<f32>>>;

/// Several texts that are embedded together.
type Batch = Shared<BoxFuture<'static, Result<Arc<Vec<Arc<Vec<f32>>>>>>>;

/// The embedder in use, the former ones that are at hand, and the vectors that were made. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Embeddings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: ArcSwapOption<Source>,
    /// Former embedders that are at hand.
    at_hand: Mutex<Vec<Arc<Source>>>,
    /// Those of them whose vectors some records still have.
    former: ArcSwap<Vec<Arc<Source>>>,
    kv: Kv,
    flights: SingleFlight<KvKey, Arc<Vec<f32>>>,
    limiter: Limiter,
    clock: Arc<dyn Clock>,
    signals: Signals,
}

/// An embedder, and how it did lately.
#[derive(Debug)]
pub(crate) struct Source {
    pub embedder: Arc<dyn Embedder>,
    breaker: CircuitBreaker,
    failure: Mutex<Option<Error>>,
}

impl Source {
    pub fn model(&self) -> &str {
        self.embedder.model()
    }

    /// Returns why the last call failed, if it did.
    pub fn failure(&self) -> Option<Error> {
        self.failure.lock().clone()
    }

    /// Returns a vector of its model.
    pub fn named(&self, values: &[f32]) -> NamedVector {
        NamedVector { model: self.model().to_owned(), values: values.to_vec() }
    }
}

impl Embeddings {
    pub fn new(embedders: Embedders, kv: Kv, context: &Context) -> Embeddings {
        let embeddings = Embeddings(Arc::new(Inner {
            source: ArcSwapOption::default(),
            at_hand: Mutex::default(),
            former: ArcSwap::default(),
            kv,
            flights: SingleFlight::new(OPERATION),
            limiter: Limiter::new(MAX_CALLS),
            clock: context.clock.clone(),
            signals: context.signals.clone(),
        }));
        let sources = embedders.former.into_iter().map(|embedder| embeddings.source_of(embedder)).collect();
        *embeddings.0.at_hand.lock() = sources;
        if let Some(embedder) = embedders.current {
            embeddings.set(embedder);
        }
        embeddings
    }

    fn source_of(&self, embedder: Arc<dyn Embedder>) -> Arc<Source> {
        let breaker = CircuitBreaker::new(embedder.model().to_owned(), BreakerConfig::default(), self.0.clock.clone());
        Arc::new(Source { embedder, breaker, failure: Mutex::default() })
    }

    /// Sets the embedder; the one before stays at hand.
    pub fn set(&self, embedder: Arc<dyn Embedder>) {
        if embedder.class() != ModelClass::Static {
            self.0.signals.depends("memory", SERVICE);
        }
        if let Some(before) = self.0.source.swap(Some(self.source_of(embedder))) {
            let mut former = Vec::clone(&self.former());
            former.insert(0, before.clone());
            self.0.former.store(Arc::new(former));
            self.0.at_hand.lock().insert(0, before);
        }
    }

    /// Returns whether vectors of texts may be kept.
    pub fn keeps_vectors(&self) -> bool {
        let is_slow = |source: &Arc<Source>| source.embedder.class() != ModelClass::Static;
        self.source().is_some_and(|source| is_slow(&source)) || self.0.at_hand.lock().iter().any(is_slow)
    }

    /// Returns the embedder in use.
    pub fn source(&self) -> Option<Arc<Source>> {
        self.0.source.load_full()
    }

    /// Returns the former embedders whose vectors some records still have.
    pub fn former(&self) -> Arc<Vec<Arc<Source>>> {
        self.0.former.load_full()
    }

    /// Takes note of the models whose vectors there are.
    pub fn note_models(&self, used: &[ModelUse]) {
        let current = self.source();
        let is_current = |model: &str| current.as_ref().is_some_and(|source| source.model() == model);
        let models = used.iter().filter_map(|used| used.model.as_deref()).filter(|model| !is_current(model));
        let at_hand = self.0.at_hand.lock();
        let find = |model: &str| at_hand.iter().find(|source| source.model() == model).cloned();
        self.0.former.store(Arc::new(models.filter_map(find).collect()));
    }

    /// Returns the vector of each text, in order.
    pub async fn embed(&self, source: &Arc<Source>, texts: &[Text<'_>]) -> Vec<Made> {
        if source.embedder.class() == ModelClass::Static {
            let plain: Vec<_> = texts.iter().map(|text| text.text).collect();
            let made = source.embedder.embed(&plain).await;
            return each(texts.len(), made.and_then(|made| batch::checked(&*source.embedder, texts.len(), made)));
        }
        let keys: Vec<_> = texts.iter().map(|text| key(source.model(), *text)).collect();
        let dimensions = source.embedder.dimensions();
        let mut known: HashMap<KvKey, Made> = HashMap::new();
        for keys in keys.chunks(LOOK_UPS) {
            let found = future::join_all(keys.iter().map(|key| self.look_up(key, dimensions))).await;
            known.extend(keys.iter().cloned().zip(found).filter_map(|(key, found)| Some((key, Ok(found?)))));
        }
        let mut seen = HashSet::new();
        let missing = keys.iter().zip(texts).filter(|(key, _)| !known.contains_key(*key) && seen.insert(*key));
        let missing = missing.map(|(key, text)| (key.clone(), text.text)).collect();
        known.extend(self.make(source, missing).await);
        let lost = || Err(Error::new(ErrorKind::Internal, OPERATION, "a text was lost"));
        keys.iter().map(|key| known.get(key).cloned().unwrap_or_else(lost)).collect()
    }

    /// Makes vectors that are not kept; who asks for the same at the same time waits for the same call.
    async fn make(&self, source: &Arc<Source>, mut missing: Vec<(KvKey, &str)>) -> Vec<(KvKey, Made)> {
        let mut given_up = Vec::new();
        if WITHOUT_WAITING.try_with(|()| ()).is_ok() {
            let is_busy = self.0.limiter.in_flight() >= MAX_CALLS;
            let waits = |(key, _): &mut (KvKey, &str)| is_busy || self.0.flights.is_under_way(key);
            given_up.extend(missing.extract_if(.., waits).map(|(key, _)| (key, Err(held_up()))));
        }
        let fresh: Vec<Fresh> = missing
            .iter()
            .filter(|(key, _)| !self.0.flights.is_under_way(key))
            .map(|(key, text)| Fresh { key: key.clone(), text: (*text).to_owned() })
            .collect();
        let mut places = HashMap::new();
        for run in batch::runs(&fresh, MAX_TEXTS, MAX_BYTES) {
            let batch = self.batch(source, run.to_vec());
            places.extend(run.iter().enumerate().map(|(place, fresh)| (fresh.key.clone(), (batch.clone(), place))));
        }
        let flights = missing.into_iter().map(|(key, text)| {
            let (batch, place) = places.get(&key).cloned().unwrap_or_else(|| {
                // It was under way a moment ago.
                (self.batch(source, vec![Fresh { key: key.clone(), text: text.to_owned() }]), 0)
            });
            async move {
                let of_batch = || async move {
                    let lost = || Error::new(ErrorKind::Internal, OPERATION, "a text was lost");
                    batch.await.and_then(|made| made.get(place).cloned().ok_or_else(lost))
                };
                let made = self.0.flights.run(key.clone(), of_batch).await.map(|flown| flown.value);
                (key, made)
            }
        });
        given_up.extend(future::join_all(flights).await);
        given_up
    }

    /// Sets up one call; it begins when somebody waits for it.
    fn batch(&self, source: &Arc<Source>, texts: Vec<Fresh>) -> Batch {
        let (embeddings, source) = (self.clone(), source.clone());
        let call = async move {
            let _permit = embeddings.0.limiter.acquire(OPERATION, Deadline::after(MAX_WAIT)).await?;
            let plain: Vec<_> = texts.iter().map(|fresh| fresh.text.as_str()).collect();
            let made = embeddings.call(&source, &plain).await?;
            // As it will be looked up: the same question gives the same answer.
            let made: Vec<_> = made.iter().map(|vector| Arc::new(half::decode(&half::encode(vector)))).collect();
            future::join_all(texts.iter().zip(&made).map(|(fresh, vector)| embeddings.keep(&fresh.key, vector))).await;
            Ok(Arc::new(made))
        };
        call.boxed().shared()
    }

    /// Asks the embedder, unless it failed lately.
    async fn call(&self, source: &Source, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let permission = source.breaker.acquire(OPERATION)?;
        let began = self.0.clock.monotonic();
        let made = source.embedder.embed(texts).await;
        let made = made.and_then(|made| batch::checked(&*source.embedder, texts.len(), made));
        let failed = made.as_ref().err().filter(|error| is_away(error));
        match failed {
            Some(_) => permission.failure(),
            None => permission.success(),
        }
        let took = self.0.clock.monotonic().saturating_sub(began);
        self.0.signals.signals(&[
            Signal::latency_ms(SERVICE, took.as_secs_f64() * 1e3),
            Signal::outcome(SERVICE, failed.is_some()),
        ]);
        *source.failure.lock() = made.as_ref().err().cloned();
        made
    }

    async fn look_up(&self, key: &KvKey, dimensions: Option<usize>) -> Option<Arc<Vec<f32>>> {
        // A cache that cannot be read is one that holds nothing.
        let entry = self.0.kv.tiers().look(key).await.ok()?.entry?;
        let text = entry.value.as_ref().filter(|_| entry.is_fresh(self.0.clock.now()))?.value().as_str()?.to_owned();
        let vector = half::decode(&BASE64.decode(text).ok()?);
        (dimensions.is_none_or(|dimensions| dimensions == vector.len())).then(|| Arc::new(vector))
    }

    async fn keep(&self, key: &KvKey, vector: &[f32]) {
        let mut entry = KvEntry::new(Arc::new(Value::String(BASE64.encode(half::encode(vector))).into()));
        entry.expires_at = self.0.clock.now().checked_add(KEPT).ok();
        entry.stale_until = entry.expires_at;
        if let Err(error) = self.0.kv.tiers().set(key, Arc::new(entry)).await {
            tracing::debug!(code = error.code(), "a vector was not kept");
        }
    }
}

/// A text that nobody is embedding yet.
#[derive(Debug, Clone)]
struct Fresh {
    key: KvKey,
    text: String,
}

impl AsRef<str> for Fresh {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// Returns what an error says, with its cause: a function's own words are there.
pub(crate) fn told(error: &Error) -> String {
    match error.causes().first() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Returns whether an error says that the embedder is down, and not that it did not like a text.
fn is_away(error: &Error) -> bool {
    error.kind() != ErrorKind::InvalidInput
}

fn held_up() -> Error {
    let message = "the embedder is busy with what this call holds up: await the asynchronous method";
    Error::new(ErrorKind::Unsupported, OPERATION, message)
}

fn each(count: usize, made: Result<Vec<Vec<f32>>>) -> Vec<Made> {
    match made {
        Ok(made) => made.into_iter().map(|vector| Ok(Arc::new(vector))).collect(),
        Err(error) => vec![Err(error); count],
    }
}

/// Returns where the vector of a text is kept.
fn key(model: &str, text: Text<'_>) -> KvKey {
    let mut hash = blake3::Hasher::new();
    hash.update(&(model.len() as u64).to_le_bytes()).update(model.as_bytes()).update(text.text.as_bytes());
    KvKey::new(text.scope, &format!("{EMBEDDING_KEYS}{}", hash.finalize().to_hex()))
}
