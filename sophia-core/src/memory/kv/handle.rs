//! [`Kv`]: what users call.

use std::{future::Future, sync::Arc, time::Duration};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    alone::{Alone, Turn},
    keys::is_reserved,
    loads::Loading,
    tier::{Invalidation, KvEntry, KvKey, KvKeyRef, KvTier, KvValue},
    tiered::TieredKv,
};
use crate::{
    Clock, Error, Result, Scope,
    memory::{config::MemoryConfig, metrics::Metrics, record::or_default, validate},
    resilience::{Deadline, SingleFlight, jitter::random},
};

/// Time in which `get_or_set` must have a value where a call does not say: that of a question to a model.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Values under keys. Cheap to clone; all clones are one.
///
/// A key belongs to the tenant and user of its scope; session and agent do not count.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sophia_core::Result<()> {
/// use std::time::Duration;
/// use serde_json::json;
/// use sophia_core::{Scope, Sophia, memory::KvOptions};
///
/// let sophia = Sophia::builder().start().await?;
/// let (kv, ada) = (sophia.memory().kv(), Scope::new().user("ada"));
/// let options = KvOptions::new().scope(&ada).ttl(Duration::from_secs(60)).tags(["billing"]);
/// let plan = kv.get_or_set("plan", options, || async { Ok(json!({"plan": "pro"})) }).await?;
/// assert_eq!(plan.value(), &json!({"plan": "pro"}));
/// assert_eq!(kv.get("plan", &Scope::new().user("bob")).await?, None);
/// assert!(kv.get_now("plan", &ada).is_some());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Kv(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tiers: TieredKv,
    /// By key and load: who asks after a change of the key does not get what is of the time before it.
    flights: SingleFlight<(KvKey, u64), Arc<KvValue>>,
    alone: Alone,
    /// Share by which the TTL of what `get_or_set` makes is shortened at random, at most.
    jitter: f64,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    max_value_bytes: usize,
}

/// How a value is kept.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KvOptions {
    /// Whose it is.
    #[serde(deserialize_with = "or_default")]
    pub scope: Scope,
    /// How long it is fresh, in seconds. Default for ever.
    #[serde(with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub ttl: Option<Duration>,
    /// How long after that it is still served while it is made anew, in seconds. Default not at all.
    #[serde(with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub stale: Option<Duration>,
    /// Time in which `get_or_set` must have it, in seconds. Default 30 s.
    #[serde(with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub timeout: Option<Duration>,
    /// What it can be invalidated by.
    #[serde(deserialize_with = "or_default")]
    pub tags: Vec<String>,
}

impl KvOptions {
    /// Creates options for a value that stays for ever, in the scope in which nothing is set.
    pub fn new() -> KvOptions {
        KvOptions::default()
    }

    /// Sets whose it is.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> KvOptions {
        self.scope = scope.into();
        self
    }

    /// Sets how long it is fresh.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> KvOptions {
        self.ttl = Some(ttl);
        self
    }

    /// Sets how long after that it is still served while it is made anew.
    #[must_use]
    pub fn stale(mut self, stale: Duration) -> KvOptions {
        self.stale = Some(stale);
        self
    }

    /// Sets the time in which `get_or_set` must have it.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> KvOptions {
        self.timeout = Some(timeout);
        self
    }

    /// Sets what it can be invalidated by.
    #[must_use]
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> KvOptions {
        self.tags = tags.into_iter().map(Into::into).collect();
        self
    }
}

/// Arguments of `memory.kv.set`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KvSet {
    /// Key.
    pub key: String,
    /// Any JSON value.
    pub value: Value,
    /// Whose it is.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// How long it is kept, in seconds. Default for ever.
    #[serde(default, with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub ttl: Option<Duration>,
    /// What it can be invalidated by.
    #[serde(default, deserialize_with = "or_default")]
    pub tags: Vec<String>,
}

/// Arguments of `memory.kv.delete`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KvDelete {
    /// Key.
    pub key: String,
    /// Whose it is.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
}

/// Arguments of `memory.kv.get`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KvGet {
    /// Key.
    pub key: String,
    /// Whose it is.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// What to return where there is no value. Default null.
    #[serde(default)]
    pub default: Value,
}

/// A value, and how it was found.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct KvFound {
    /// Whether there is a value.
    pub found: bool,
    /// The value; null where there is none.
    #[schemars(with = "Option<Value>")]
    pub value: Option<Arc<KvValue>>,
    /// Tier that knew it: `"l1"` in this process, `"l2"` shared, `"l3"` durable; null where there is none.
    pub tier: Option<&'static str>,
    /// Whether it is past its time, and served only until it is made anew.
    pub stale: bool,
    /// When it stops to be fresh; null for never.
    pub expires_at: Option<Timestamp>,
    /// What it can be invalidated by.
    pub tags: Vec<String>,
    /// Whether a tier was stepped over because it is away.
    pub degraded: bool,
    /// Tiers that were stepped over.
    pub stepped_over: Vec<&'static str>,
}

/// Arguments of `memory.kv.look_up`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KvLookUp {
    /// Key.
    pub key: String,
    /// Whose it is.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
}

/// Arguments of `memory.kv.invalidate`. One of prefix and tags is required.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KvInvalidate {
    /// Keys that begin so.
    pub prefix: Option<String>,
    /// Keys that have any of these tags.
    pub tags: Option<Vec<String>>,
    /// Whose they are.
    #[serde(deserialize_with = "or_default")]
    pub scope: Scope,
}

impl Kv {
    pub(crate) fn new(tiers: TieredKv, alone: Alone, config: &MemoryConfig, metrics: Arc<Metrics>) -> Kv {
        let flights = SingleFlight::new("memory.kv.get_or_set");
        let max_value_bytes = usize::try_from(config.max_content_bytes).unwrap_or(usize::MAX);
        let clock = tiers.clock().clone();
        Kv(Arc::new(Inner { tiers, flights, alone, jitter: config.ttl_jitter, clock, metrics, max_value_bytes }))
    }

    pub(crate) fn tiers(&self) -> &TieredKv {
        &self.0.tiers
    }

    /// Returns what this process knows of a key, at once and without waiting for anything.
    ///
    /// `None`: nothing is known, ask [`Kv::get`]. `Some(None)`: there is no such key. Another process's change is known
    /// after 5 ms at most.
    pub fn get_now(&self, key: &str, scope: &Scope) -> Option<Option<Arc<KvValue>>> {
        let entry = self.0.tiers.get_now(KvKeyRef::new(scope, key))?;
        // Also what is to be made anew before it is stale: who can do that should be asked.
        if entry.expires_at.is_some() && is_due(&entry, self.0.clock.now()) {
            return None;
        }
        self.0.metrics.look_up(entry.value.is_some());
        Some(entry.value.clone())
    }

    /// Returns the value under a key, if there is one.
    ///
    /// # Errors
    /// `InvalidInput` for a key that cannot be; what the durable tier says.
    pub async fn get(&self, key: &str, scope: &Scope) -> Result<Option<Arc<KvValue>>> {
        if let Some(known) = self.get_now(key, scope) {
            return Ok(known);
        }
        check("memory.kv.get", key, scope)?;
        let entry = self.0.tiers.get(&KvKey::new(scope, key)).await?;
        let value = entry.filter(|entry| entry.is_fresh(self.0.clock.now())).and_then(|entry| entry.value.clone());
        self.0.metrics.look_up(value.is_some());
        Ok(value)
    }

    /// Looks a key up and says how: which tier knew it, whether it is stale, and which tiers were stepped over.
    ///
    /// # Errors
    /// As [`Kv::get`].
    pub async fn look_up(&self, key: &str, scope: &Scope) -> Result<KvFound> {
        check("memory.kv.look_up", key, scope)?;
        let looked = self.0.tiers.look(&KvKey::new(scope, key)).await?;
        self.0.metrics.look_up(looked.entry.is_some());
        let entry = looked.entry.as_deref();
        Ok(KvFound {
            found: entry.is_some(),
            value: entry.and_then(|entry| entry.value.clone()),
            tier: looked.tier,
            stale: entry.is_some_and(|entry| !entry.is_fresh(self.0.clock.now())),
            expires_at: entry.and_then(|entry| entry.expires_at),
            tags: entry.map(|entry| entry.tags.clone()).unwrap_or_default(),
            degraded: !looked.stepped_over.is_empty(),
            stepped_over: looked.stepped_over,
        })
    }

    /// Sets the value under a key. It is durable when this returns.
    ///
    /// # Errors
    /// `InvalidInput` for a key, value, tag or TTL that cannot be; what the durable tier says.
    ///
    /// # Cancel safety
    /// A call that is dropped has set the value or not; readers see one of the two.
    pub async fn set(&self, key: &str, value: impl Into<KvValue>, options: KvOptions) -> Result<()> {
        const OPERATION: &str = "memory.kv.set";
        check(OPERATION, key, &options.scope)?;
        let key = KvKey::new(&options.scope, key);
        let entry = self.entry(OPERATION, &Arc::new(value.into()), &options, None)?;
        self.0.metrics.set();
        self.0.tiers.set(&key, entry).await
    }

    /// Returns the value under a key; where there is none, makes it with `load`, once for all who ask at the same time, in
    /// every process that shares a Redis.
    ///
    /// A value that expires soon is made anew in the background while it is still served: the sooner it expires and the
    /// longer it took to make, the likelier (XFetch: Vattani, Chierichetti, Lowenstein, VLDB 2015). Its TTL is shortened by
    /// a random share, so that what was made together does not expire together.
    ///
    /// A key that is set, removed or invalidated while `load` runs stays as that left it: those who wait get what `load`
    /// returns, and it is not kept. Who asks after such a change does not wait for it.
    ///
    /// # Errors
    /// As [`Kv::set`]; what `load` returns; [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) for all who wait where it does
    /// not return in time. A failure is not kept. Where `load` ends with the runtime or the event loop that runs it, one of the
    /// others begins theirs.
    ///
    /// # Cancel safety
    /// A caller may leave; `load` goes on for the others and is aborted when the last one leaves, or its time is over.
    pub async fn get_or_set<F, W>(&self, key: &str, options: KvOptions, load: F) -> Result<Arc<KvValue>>
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Result<Value>> + Send + 'static,
    {
        const OPERATION: &str = "memory.kv.get_or_set";
        check(OPERATION, key, &options.scope)?;
        check_options(OPERATION, &options)?;
        let now = self.0.clock.now();
        let near = self.0.tiers.get_now(KvKeyRef::new(&options.scope, key));
        let (owned, known) = match near.filter(|entry| entry.value.is_some() && entry.is_fresh(now)) {
            Some(entry) if !is_due(&entry, now) => {
                self.0.metrics.look_up(true);
                return Ok(entry.value.clone().unwrap_or_else(null));
            }
            Some(entry) => (KvKey::new(&options.scope, key), Some(entry)),
            None => {
                let owned = KvKey::new(&options.scope, key);
                let known = self.0.tiers.get(&owned).await?.filter(|entry| entry.value.is_some());
                (owned, known)
            }
        };
        let known = known.filter(|entry| !entry.is_dead(now));
        self.0.metrics.look_up(known.is_some());
        if let Some(entry) = known.as_ref().filter(|entry| !is_due(entry, now)) {
            return Ok(entry.value.clone().unwrap_or_else(null));
        }
        let loading = self.0.tiers.join_load(&owned, &options.tags);
        let flight = (owned.clone(), loading.id());
        let deadline = Deadline::after(options.timeout.unwrap_or(LOAD_TIMEOUT));
        let load = {
            let (kv, known) = (self.clone(), known.clone());
            move || async move {
                let made = kv.make(OPERATION, &owned, known.as_deref(), &options, load, loading);
                deadline.run(OPERATION, made).await
            }
        };
        let Some(entry) = known else {
            // Who joins a flight has a time of their own, and ends with the flight at the latest.
            return Ok(deadline.run(OPERATION, self.0.flights.run(flight, load)).await?.value);
        };
        self.refresh(flight, load);
        Ok(entry.value.clone().unwrap_or_else(null))
    }

    /// Makes a value, unless another flight or another process has made one since `known` was read. Keeps it, unless the key
    /// was changed meanwhile.
    async fn make<F, W>(
        &self,
        operation: &'static str,
        key: &KvKey,
        known: Option<&KvEntry>,
        options: &KvOptions,
        load: F,
        loading: Loading,
    ) -> Result<Arc<KvValue>>
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Result<Value>> + Send + 'static,
    {
        let is_newer = |entry: &KvEntry| {
            entry.value.is_some()
                && entry.is_fresh(self.0.clock.now())
                && known.is_none_or(|known| entry.expires_at != known.expires_at)
        };
        if let Some(entry) = self.0.tiers.get_now(key.borrowed()).filter(|entry| is_newer(entry)) {
            return Ok(entry.value.clone().unwrap_or_else(null));
        }
        let turn = if loading.overtakes() {
            // What it overtakes has the lease, and is not waited for.
            Turn::now(key, &self.0.tiers, is_newer).await?
        } else {
            self.0.alone.turn(operation, key, &self.0.tiers, is_newer).await?
        };
        let (lease, baseline) = match turn {
            Turn::Made(entry) => return Ok(entry.value.clone().unwrap_or_else(null)),
            Turn::Ours(lease, baseline) => (lease, baseline),
        };
        let began = self.0.clock.monotonic();
        let value = Arc::new(KvValue::new(load().await?));
        let cost = self.0.clock.monotonic().saturating_sub(began);
        // Who was not heard of for so long that another began does not overwrite what that one makes.
        if lease.is_held(operation).await && !loading.is_changed() {
            let options = KvOptions { ttl: options.ttl.map(|ttl| self.jittered(ttl)), ..options.clone() };
            let entry = self.entry(operation, &value, &options, Some(cost))?;
            if self.0.tiers.set_unchanged(key, entry, baseline).await? {
                self.0.metrics.set();
            }
        }
        lease.end(operation).await;
        Ok(value)
    }

    fn jittered(&self, ttl: Duration) -> Duration {
        ttl.mul_f64(1.0 - self.0.jitter * random())
    }

    /// Makes a value anew while the old one is still served.
    fn refresh<F, W>(&self, flight: (KvKey, u64), load: F)
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Result<Arc<KvValue>>> + Send + 'static,
    {
        // Bound: one flight for each key. It ends with its work; without a runtime the next caller after the stale time
        // makes the value.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let flights = self.0.flights.clone();
        runtime.spawn(async move {
            if let Err(error) = flights.run(flight, load).await {
                tracing::warn!(code = error.code(), "a value could not be made anew");
            }
        });
    }

    /// Takes note that a key was written to the durable tier itself.
    pub(crate) fn written_beside(&self, key: &KvKey) {
        self.0.tiers.written_beside(key);
    }

    /// Removes a key; returns whether it was there.
    ///
    /// # Errors
    /// As [`Kv::get`].
    pub async fn delete(&self, key: &str, scope: &Scope) -> Result<bool> {
        check("memory.kv.delete", key, scope)?;
        self.0.tiers.delete(&KvKey::new(scope, key)).await
    }

    /// Removes the keys of one scope wall that begin with a prefix or have a tag; returns how many there were.
    ///
    /// # Errors
    /// `InvalidInput` where neither is given; what the durable tier says.
    pub async fn invalidate(&self, what: KvInvalidate) -> Result<u64> {
        const OPERATION: &str = "memory.kv.invalidate";
        what.scope.validate(OPERATION)?;
        let tags = what.tags.unwrap_or_default();
        validate::labels(OPERATION, &tags)?;
        if what.prefix.is_none() && tags.is_empty() {
            return Err(Error::invalid(
                OPERATION,
                "prefix",
                "or `tags` must say which keys; an empty prefix means all",
            ));
        }
        self.0.metrics.invalidated();
        self.0.tiers.invalidate(&Invalidation { scope: what.scope, prefix: what.prefix, tags }).await
    }

    fn entry(
        &self,
        operation: &'static str,
        value: &Arc<KvValue>,
        options: &KvOptions,
        cost: Option<Duration>,
    ) -> Result<Arc<KvEntry>> {
        check_options(operation, options)?;
        if value.json().len() > self.0.max_value_bytes {
            let message =
                format!("is {} bytes as JSON; at most {} are stored", value.json().len(), self.0.max_value_bytes);
            return Err(Error::invalid(operation, "value", message));
        }
        validate::nesting(operation, "value", value.value())?;
        let now = self.0.clock.now();
        let expires_at = validate::expiry(operation, now, options.ttl)?;
        let stale_until = match (expires_at, options.stale.filter(|stale| !stale.is_zero())) {
            (Some(expires_at), Some(stale)) => validate::expiry(operation, expires_at, Some(stale))?,
            (expires_at, _) => expires_at,
        };
        let cost_ms = cost.map(|cost| u32::try_from(cost.as_millis()).unwrap_or(u32::MAX));
        let entry =
            KvEntry { value: Some(value.clone()), expires_at, stale_until, cost_ms, tags: options.tags.clone() };
        Ok(Arc::new(entry))
    }
}

/// Returns whether a value is to be made anew: it is stale, or will be before long, by chance.
fn is_due(entry: &KvEntry, now: Timestamp) -> bool {
    let Some(expires_at) = entry.expires_at else { return false };
    let Some(cost_ms) = entry.cost_ms else { return now >= expires_at };
    let left_ms = expires_at.duration_since(now).as_secs_f64() * 1e3;
    left_ms <= f64::from(cost_ms) * -(1.0 - random()).ln()
}

fn null() -> Arc<KvValue> {
    Arc::new(Value::Null.into())
}

fn check(operation: &'static str, key: &str, scope: &Scope) -> Result<()> {
    scope.validate(operation)?;
    if is_reserved(key) {
        return Err(Error::invalid(operation, "key", "begins with the character U+0001, which is reserved"));
    }
    validate::name(operation, "key", key)
}

fn check_options(operation: &'static str, options: &KvOptions) -> Result<()> {
    if options.timeout.is_some_and(|timeout| timeout.is_zero()) {
        return Err(Error::invalid(operation, "timeout", "must be more than 0"));
    }
    validate::labels(operation, &options.tags)
}
