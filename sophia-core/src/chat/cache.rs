//! L1: answers kept in this process, weighed in bytes, each with its own time.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::{Expiry, sync::Cache};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    config::ChatConfig,
    key::Key,
    provider::Keeping,
    response::{Answer, value_weight},
};
use crate::{Clock, Error, Result, Scope, resilience::jitter::random};

/// Invalidations that are remembered for calls under way. A call that began before the oldest keeps nothing.
const REMEMBERED_INVALIDATIONS: usize = 256;
/// What an entry takes beside its payload: key, map and timer, in bytes.
const ENTRY_OVERHEAD: usize = 256;
/// A kept answer may take at most this share of the whole cache.
const MAX_ENTRY_SHARE: u64 = 8;

/// What is kept.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    Answer(Arc<Answer>),
    Value(Arc<Value>),
}

impl Payload {
    fn weight(&self) -> usize {
        match self {
            Payload::Answer(answer) => answer.weight(),
            Payload::Value(value) => value_weight(value),
        }
    }
}

/// A kept answer.
#[derive(Debug)]
pub(crate) struct Entry {
    pub payload: Payload,
    pub ttl: Duration,
    pub stored_at: Duration,
    /// How old it was when it came here from another tier.
    pub older_by: Duration,
    pub key_hex: Arc<str>,
    scope: Scope,
    context: String,
    tags: Vec<String>,
    weight: u32,
}

impl Entry {
    pub fn ttl_s(&self) -> u64 {
        self.ttl.as_secs() + self.older_by.as_secs()
    }

    fn is_fresh(&self, now: Duration) -> bool {
        now.saturating_sub(self.stored_at) < self.ttl
    }
}

/// Which kept answers to remove. All that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Invalidate {
    /// The one with this key.
    pub key: Option<String>,
    /// Those of this context.
    pub context: Option<String>,
    /// Those with one of these tags.
    pub tags: Option<Vec<String>>,
    /// Those that are kept under a scope that this one covers.
    pub scope: Option<Scope>,
    /// All.
    pub all: bool,
}

impl Invalidate {
    /// Removes all.
    pub fn all() -> Invalidate {
        Invalidate { all: true, ..Invalidate::default() }
    }

    /// Removes the one with this key.
    pub fn key(key: impl Into<String>) -> Invalidate {
        Invalidate { key: Some(key.into()), ..Invalidate::default() }
    }

    /// Removes those of this context.
    pub fn context(context: impl Into<String>) -> Invalidate {
        Invalidate { context: Some(context.into()), ..Invalidate::default() }
    }

    /// Removes those with this tag.
    pub fn tag(tag: impl Into<String>) -> Invalidate {
        Invalidate { tags: Some(vec![tag.into()]), ..Invalidate::default() }
    }

    /// Removes those that are kept under a scope that this one covers.
    pub fn scope(scope: impl Into<Scope>) -> Invalidate {
        Invalidate { scope: Some(scope.into()), ..Invalidate::default() }
    }

    pub(super) fn filter(&self) -> Result<Filter> {
        const OPERATION: &str = "chat.invalidate";
        if !self.all && self.key.is_none() && self.context.is_none() && self.tags.is_none() && self.scope.is_none() {
            return Err(Error::invalid(OPERATION, "key", "or `context`, `tags`, `scope` or `all` must be given"));
        }
        if let Some(scope) = &self.scope {
            scope.validate(OPERATION)?;
        }
        let key = match &self.key {
            Some(key) => {
                Some(key.parse().map_err(|()| Error::invalid(OPERATION, "key", "must be 64 hexadecimal digits"))?)
            }
            None => None,
        };
        Ok(Filter { key, context: self.context.clone(), tags: self.tags.clone(), scope: self.scope.clone() })
    }
}

#[derive(Debug)]
pub(super) struct Filter {
    key: Option<Key>,
    context: Option<String>,
    tags: Option<Vec<String>>,
    scope: Option<Scope>,
}

impl Filter {
    pub(super) fn matches(&self, key: &Key, scope: &Scope, context: &str, tags: &[String]) -> bool {
        self.key.is_none_or(|own| own == *key)
            && self.context.as_deref().is_none_or(|own| own == context)
            && self.tags.as_ref().is_none_or(|own| own.iter().any(|tag| tags.contains(tag)))
            && self.scope.as_ref().is_none_or(|own| own.covers(scope))
    }
}

/// Answers kept in this process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct AnswerCache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    entries: Cache<Key, Arc<Entry>, blake3_state::KeyState>,
    max_entry: u64,
    clock: Arc<dyn Clock>,
    config: Arc<ChatConfig>,
    epoch: AtomicU64,
    invalidations: Mutex<VecDeque<(u64, Filter)>>,
}

/// Keys are hashes already: their first bytes do for the map.
mod blake3_state {
    use std::hash::{BuildHasher, Hasher};

    #[derive(Debug, Clone, Copy, Default)]
    pub struct KeyState;

    #[derive(Debug, Clone, Copy, Default)]
    pub struct KeyHasher(u64);

    impl BuildHasher for KeyState {
        type Hasher = KeyHasher;

        fn build_hasher(&self) -> KeyHasher {
            KeyHasher(0)
        }
    }

    impl Hasher for KeyHasher {
        fn write(&mut self, bytes: &[u8]) {
            if let Some(first) = bytes.first_chunk::<8>() {
                self.0 ^= u64::from_le_bytes(*first);
            }
        }

        fn write_usize(&mut self, _: usize) {}

        fn finish(&self) -> u64 {
            self.0
        }
    }
}

/// Lets the cache free what has expired; whether an entry may be served is decided by our own clock.
struct ByEntry;

impl Expiry<Key, Arc<Entry>> for ByEntry {
    fn expire_after_create(&self, _: &Key, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        Some(entry.ttl)
    }

    fn expire_after_update(&self, _: &Key, entry: &Arc<Entry>, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(entry.ttl)
    }
}

impl AnswerCache {
    pub fn new(config: Arc<ChatConfig>, clock: Arc<dyn Clock>) -> AnswerCache {
        let max_bytes = if config.cache.enabled { config.cache.max_bytes } else { 0 };
        let entries = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_, entry: &Arc<Entry>| entry.weight)
            .expire_after(ByEntry)
            .build_with_hasher(blake3_state::KeyState);
        AnswerCache(Arc::new(Inner {
            entries,
            max_entry: max_bytes / MAX_ENTRY_SHARE,
            clock,
            config,
            epoch: AtomicU64::new(0),
            invalidations: Mutex::default(),
        }))
    }

    pub fn is_enabled(&self) -> bool {
        self.0.config.cache.enabled
    }

    /// Returns the number of the last invalidation.
    pub fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::Acquire)
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        let entry = self.0.entries.get(key)?;
        entry.is_fresh(self.0.clock.monotonic()).then_some(entry)
    }

    /// Returns how long ago an entry was kept, in seconds.
    pub fn age_s(&self, entry: &Entry) -> f64 {
        (self.0.clock.monotonic().saturating_sub(entry.stored_at) + entry.older_by).as_secs_f64()
    }

    /// Keeps what `text` speaks for, unless it was invalidated meanwhile or is too large. Returns for how many seconds.
    pub fn put(&self, keeping: &Keeping, payload: Payload, text: &str) -> Option<u64> {
        self.put_older(keeping, payload, text, Duration::ZERO)
    }

    /// Does what [`AnswerCache::put`] does, with an answer that was kept elsewhere before.
    pub fn put_older(&self, keeping: &Keeping, payload: Payload, text: &str, older_by: Duration) -> Option<u64> {
        if !self.is_enabled() {
            return None;
        }
        let ttl = keeping.ttl.unwrap_or_else(|| {
            let rules = &self.0.config.ttl;
            rules.jittered(rules.for_answer(&keeping.context, text), random())
        });
        let labels = keeping.context.len() + keeping.tags.iter().map(String::len).sum::<usize>();
        let weight = payload.weight() + labels + ENTRY_OVERHEAD;
        if weight as u64 > self.0.max_entry {
            return None;
        }
        let entry = Arc::new(Entry {
            payload,
            ttl: Duration::from_secs(ttl),
            stored_at: self.0.clock.monotonic(),
            older_by,
            key_hex: keeping.key.to_hex().into(),
            scope: keeping.scope.clone(),
            context: keeping.context.clone(),
            tags: keeping.tags.clone(),
            weight: u32::try_from(weight).unwrap_or(u32::MAX),
        });
        // Under the lock, so that an invalidation either sees the entry or is seen here.
        let invalidations = self.0.invalidations.lock();
        if self.is_invalidated(&invalidations, keeping) {
            return None;
        }
        self.0.entries.insert(keeping.key, entry);
        Some(ttl)
    }

    /// Removes what matches, and returns how many entries of this process could have been served.
    pub fn invalidate(&self, which: &Invalidate) -> Result<u64> {
        let filter = which.filter()?;
        let mut invalidations = self.0.invalidations.lock();
        let now = self.0.clock.monotonic();
        let mut removed = 0;
        let mut remove = |key: &Key, entry: &Entry| {
            if filter.matches(key, &entry.scope, &entry.context, &entry.tags) {
                self.0.entries.invalidate(key);
                removed += u64::from(entry.is_fresh(now));
            }
        };
        match filter.key {
            Some(key) => self.0.entries.get(&key).iter().for_each(|entry| remove(&key, entry)),
            None => self.0.entries.iter().for_each(|(key, entry)| remove(&key, &entry)),
        }
        let epoch = self.0.epoch.load(Ordering::Relaxed) + 1;
        if invalidations.len() == REMEMBERED_INVALIDATIONS {
            invalidations.pop_front();
        }
        invalidations.push_back((epoch, filter));
        self.0.epoch.store(epoch, Ordering::Release);
        Ok(removed)
    }

    /// Returns how many entries there are, and how many bytes they take.
    pub fn size(&self) -> (u64, u64) {
        self.0.entries.run_pending_tasks();
        (self.0.entries.entry_count(), self.0.entries.weighted_size())
    }

    fn is_invalidated(&self, invalidations: &VecDeque<(u64, Filter)>, keeping: &Keeping) -> bool {
        if self.epoch() == keeping.epoch {
            return false;
        }
        let forgotten = invalidations.front().is_some_and(|(oldest, _)| *oldest > keeping.epoch + 1);
        let since = invalidations.iter().filter(|(epoch, _)| *epoch > keeping.epoch);
        forgotten
            || since
                .into_iter()
                .any(|(_, filter)| filter.matches(&keeping.key, &keeping.scope, &keeping.context, &keeping.tags))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        ManualClock,
        chat::{key, request::Share},
    };

    fn cache(max_bytes: u64) -> (AnswerCache, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        let mut config = ChatConfig::default();
        config.cache.max_bytes = max_bytes;
        (AnswerCache::new(Arc::new(config), clock.clone()), clock)
    }

    fn keeping(message: &str, scope: &Scope, cache: &AnswerCache) -> Keeping {
        Keeping {
            key: key::of_run(message, "default", Some(scope), Share::User),
            scope: Share::User.narrow(scope),
            context: "default".into(),
            tags: vec![format!("tag-{message}")],
            ttl: Some(60),
            epoch: cache.epoch(),
            look: true,
        }
    }

    fn put(cache: &AnswerCache, message: &str, scope: &Scope) -> Key {
        let keeping = keeping(message, scope, cache);
        assert_eq!(cache.put(&keeping, Payload::Value(Arc::new(json!(message))), ""), Some(60));
        keeping.key
    }

    #[test]
    fn an_entry_is_served_until_its_time_is_over() {
        let (cache, clock) = cache(1 << 20);
        let key = put(&cache, "a", &Scope::new());
        clock.advance(Duration::from_secs(59));
        assert!(cache.get(&key).is_some());
        clock.advance(Duration::from_secs(1));
        assert!(cache.get(&key).is_none());
        assert_eq!(cache.invalidate(&Invalidate::all()).unwrap(), 0);
    }

    #[test]
    fn rules_with_jitter_stay_within_the_bounds() {
        let (cache, _) = cache(1 << 20);
        for context in ["infrastructure", "ceo_deep_research", "default"] {
            let keeping = Keeping { ttl: None, context: context.into(), ..keeping("x", &Scope::new(), &cache) };
            for _ in 0..50 {
                let ttl = cache.put(&keeping, Payload::Value(Arc::new(json!(1))), "").unwrap();
                assert!((60..=900).contains(&ttl), "{ttl}");
            }
        }
    }

    #[test]
    fn entries_are_removed_by_key_context_tag_and_scope_and_counted() {
        let (cache, _) = cache(1 << 20);
        let (ada, bob) = (Scope::new().tenant("t").user("ada"), Scope::new().tenant("t").user("bob"));
        let fill = || {
            let a = put(&cache, "a", &ada);
            put(&cache, "b", &ada);
            put(&cache, "a", &bob);
            a
        };
        let removes = |which: Invalidate, count: u64| {
            let key = fill();
            assert_eq!(cache.invalidate(&which).unwrap(), count, "{which:?}");
            key
        };
        let key = removes(Invalidate::scope(&ada), 2);
        assert!(cache.get(&key).is_none());
        removes(Invalidate::key(key.to_hex()), 1);
        removes(Invalidate::tag("tag-a"), 2);
        removes(Invalidate::context("default"), 3);
        removes(Invalidate { scope: Some(bob.clone()), ..Invalidate::tag("tag-b") }, 0);
        removes(Invalidate::scope(Scope::new().tenant("t")), 0);
        removes(Invalidate::all(), 3);
        assert_eq!(cache.invalidate(&Invalidate::default()).unwrap_err().code(), "INVALID_INPUT");
        assert_eq!(cache.invalidate(&Invalidate::key("x")).unwrap_err().code(), "INVALID_INPUT");
    }

    #[test]
    fn what_was_invalidated_while_it_was_asked_for_is_not_kept() {
        let (cache, _) = cache(1 << 20);
        let (ada, bob) = (Scope::new().user("ada"), Scope::new().user("bob"));
        let (hers, his) = (keeping("a", &ada, &cache), keeping("a", &bob, &cache));
        cache.invalidate(&Invalidate::scope(&ada)).unwrap();
        let payload = || Payload::Value(Arc::new(json!(1)));
        assert_eq!(cache.put(&hers, payload(), ""), None);
        assert_eq!(cache.put(&his, payload(), ""), Some(60));
        for _ in 0..=REMEMBERED_INVALIDATIONS {
            cache.invalidate(&Invalidate::tag("other")).unwrap();
        }
        assert_eq!(cache.put(&his, payload(), ""), None, "what is not remembered counts as invalidated");
    }

    #[test]
    fn memory_stays_within_its_bound_and_giants_are_not_kept() {
        let (cache, _) = cache(100_000);
        for index in 0..1000 {
            put(&cache, &format!("{index}"), &Scope::new());
        }
        let (_, bytes) = cache.size();
        assert!(bytes <= 100_000, "{bytes}");
        let giant = Payload::Value(Arc::new(json!("x".repeat(20_000))));
        assert_eq!(cache.put(&keeping("giant", &Scope::new(), &cache), giant, ""), None);
    }
}
