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
    accounting::{Account, Accounts},
    config::ChatConfig,
    key::Key,
    provider::{Keeping, Words},
    response::{Answer, value_weight},
    ttl::Change,
};
use crate::{Clock, Error, ErrorKind, Result, Scope, resilience::jitter::random};

/// Invalidations that are remembered for calls under way. A call that began before the oldest keeps nothing.
const REMEMBERED_INVALIDATIONS: usize = 256;
/// Questions of which it is remembered how long their last answer was kept.
const MAX_LEARNED: u64 = 65_536;
/// Refusals that are remembered.
const MAX_REFUSALS: u64 = 4096;
/// Least time between two tries to refresh one answer: a refresh that fails must not be made by every hit.
const REFRESH_PAUSE: Duration = Duration::from_secs(5);
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
    fn digest(&self) -> [u8; 32] {
        match self {
            Payload::Answer(answer) => answer.digest(),
            Payload::Value(value) => *blake3::hash(value.to_string().as_bytes()).as_bytes(),
        }
    }

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
    /// How long it is fresh.
    pub ttl: Duration,
    /// How long it may be given at all.
    hard_ttl: Duration,
    /// When it may be refreshed, in microseconds of the clock.
    refresh_at_us: AtomicU64,
    pub stored_at: Duration,
    asked_at: Duration,
    /// How old it was when it came here from another tier.
    pub older_by: Duration,
    pub key_hex: Arc<str>,
    scope: Scope,
    context: String,
    tags: Vec<String>,
    weight: u32,
    /// Who is told what a hit saves; found here so that a hit does not look for it.
    account: Option<Arc<Account>>,
}

impl Entry {
    pub fn ttl_s(&self) -> u64 {
        self.ttl.as_secs() + self.older_by.as_secs()
    }

    /// Writes down that this was given without a call.
    pub fn saved(&self) {
        if let (Some(account), Payload::Answer(answer)) = (&self.account, &self.payload) {
            account.saved(answer.cost_usd);
        }
    }

    fn is_fresh(&self, now: Duration) -> bool {
        now.saturating_sub(self.stored_at) < self.ttl
    }

    fn is_servable(&self, now: Duration) -> bool {
        now.saturating_sub(self.stored_at) < self.hard_ttl
    }
}

/// Whether a kept answer is within its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    Fresh,
    /// It is past its time, and may still be given.
    Stale,
}

/// How long the last answer to a question was to be kept, and what it was.
#[derive(Debug, Clone, Copy)]
struct Learned {
    digest: [u8; 32],
    /// By rule alone: where another one holds, what was learned does not.
    by_rule: u64,
    ttl: u64,
}

/// A refusal that will not pass by itself.
#[derive(Debug, Clone)]
struct Refusal {
    error: Error,
    /// In which words it was asked: in others, it may be answered.
    words: Words,
    at: Duration,
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
    /// Those that are kept for this user, of whichever tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
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

    /// Removes those that are kept for this user, of whichever tenant.
    pub fn subject(subject: impl Into<String>) -> Invalidate {
        Invalidate { subject: Some(subject.into()), ..Invalidate::default() }
    }

    pub(super) fn filter(&self) -> Result<Filter> {
        const OPERATION: &str = "chat.invalidate";
        let by_whom = self.scope.is_some() || self.subject.is_some();
        if !self.all && self.key.is_none() && self.context.is_none() && self.tags.is_none() && !by_whom {
            let message = "or `context`, `tags`, `scope`, `subject` or `all` must be given";
            return Err(Error::invalid(OPERATION, "key", message));
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
        let Invalidate { context, tags, scope, subject, .. } = self.clone();
        Ok(Filter { key, context, tags, scope, subject })
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    key: Option<Key>,
    context: Option<String>,
    tags: Option<Vec<String>>,
    scope: Option<Scope>,
    subject: Option<String>,
}

impl Filter {
    pub(super) fn matches(&self, key: &Key, scope: &Scope, context: &str, tags: &[String]) -> bool {
        self.key.is_none_or(|own| own == *key)
            && self.context.as_deref().is_none_or(|own| own == context)
            && self.tags.as_ref().is_none_or(|own| own.iter().any(|tag| tags.contains(tag)))
            && self.scope.as_ref().is_none_or(|own| own.covers(scope))
            && self.subject.as_ref().is_none_or(|own| scope.user.as_ref() == Some(own))
    }
}

/// Answers kept in this process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct AnswerCache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    entries: Cache<Key, Arc<Entry>, blake3_state::KeyState>,
    max_entry: u64,
    learned: Cache<Key, Learned, blake3_state::KeyState>,
    refusals: Cache<Key, Refusal, blake3_state::KeyState>,
    clock: Arc<dyn Clock>,
    config: Arc<ChatConfig>,
    accounts: Accounts,
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
        Some(entry.hard_ttl)
    }

    fn expire_after_update(&self, _: &Key, entry: &Arc<Entry>, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(entry.hard_ttl)
    }
}

impl AnswerCache {
    pub fn new(config: Arc<ChatConfig>, clock: Arc<dyn Clock>, accounts: Accounts) -> AnswerCache {
        let max_bytes = if config.cache.enabled { config.cache.max_bytes } else { 0 };
        let entries = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_, entry: &Arc<Entry>| entry.weight)
            .expire_after(ByEntry)
            .build_with_hasher(blake3_state::KeyState);
        let learned = Cache::builder().max_capacity(MAX_LEARNED).build_with_hasher(blake3_state::KeyState);
        let refusals = Cache::builder().max_capacity(MAX_REFUSALS).build_with_hasher(blake3_state::KeyState);
        AnswerCache(Arc::new(Inner {
            entries,
            max_entry: max_bytes / MAX_ENTRY_SHARE,
            learned,
            refusals,
            clock,
            config,
            accounts,
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

    /// Returns a kept answer that is within its time.
    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.look(key).filter(|(_, freshness)| *freshness == Freshness::Fresh).map(|(entry, _)| entry)
    }

    /// Returns a kept answer that may be given.
    pub fn look(&self, key: &Key) -> Option<(Arc<Entry>, Freshness)> {
        let entry = self.0.entries.get(key)?;
        let now = self.0.clock.monotonic();
        if entry.is_fresh(now) {
            return Some((entry, Freshness::Fresh));
        }
        entry.is_servable(now).then_some((entry, Freshness::Stale))
    }

    /// Returns whether it is for the caller to refresh a stale answer: for one of those who ask, and not too often.
    pub fn claim_refresh(&self, entry: &Entry) -> bool {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let now = self.0.clock.monotonic();
        let next = us(now + REFRESH_PAUSE);
        let due = |at: u64| (at <= us(now)).then_some(next);
        entry.refresh_at_us.fetch_update(Ordering::AcqRel, Ordering::Acquire, due).is_ok()
    }

    /// Returns why a question in these words was refused a moment ago.
    pub fn refusal(&self, key: &Key, words: impl FnOnce() -> Words) -> Option<Error> {
        let refusal = self.0.refusals.get(key)?;
        if refusal.words != words() {
            return None;
        }
        let age = self.0.clock.monotonic().saturating_sub(refusal.at);
        (age < self.0.config.cache.negative).then(|| refusal.error.with("refused_ms_ago", age.as_millis()))
    }

    /// Keeps why a question was refused, if that will not pass by itself.
    pub fn put_refusal(&self, keeping: &Keeping, words: impl FnOnce() -> Words, error: &Error) {
        let lasting = matches!(
            error.kind(),
            ErrorKind::InvalidInput | ErrorKind::NotFound | ErrorKind::Unauthorized | ErrorKind::Unsupported
        );
        // What was asked before an invalidation says nothing about what would be said after it.
        if !lasting || self.0.config.cache.negative.is_zero() || keeping.epoch != self.epoch() {
            return;
        }
        let refusal = Refusal { error: error.clone(), words: words(), at: self.0.clock.monotonic() };
        self.0.refusals.insert(keeping.key, refusal);
    }

    /// Returns how long ago an entry was kept, in seconds.
    pub fn age_s(&self, entry: &Entry) -> f64 {
        (self.0.clock.monotonic().saturating_sub(entry.stored_at) + entry.older_by).as_secs_f64()
    }

    /// Returns the time as this cache tells it.
    pub fn now(&self) -> Duration {
        self.0.clock.monotonic()
    }

    /// Keeps what `text` speaks for, unless it was invalidated or asked for anew meanwhile, or is too large. Returns for how
    /// many seconds.
    pub fn put(&self, keeping: &Keeping, payload: Payload, text: &str) -> Option<u64> {
        let ttl = keeping.ttl.unwrap_or_else(|| self.ttl_by_rule(keeping, &payload, text));
        self.put_older(keeping, payload, ttl, Duration::ZERO)
    }

    /// Does what [`AnswerCache::put`] does, with an answer that was kept elsewhere before, and is fresh for `ttl` seconds more.
    /// One with a time of its own is never stale.
    pub fn put_older(&self, keeping: &Keeping, payload: Payload, ttl: u64, older_by: Duration) -> Option<u64> {
        if !self.is_enabled() {
            return None;
        }
        let labels = keeping.context.len() + keeping.tags.iter().map(String::len).sum::<usize>();
        let weight = payload.weight() + labels + ENTRY_OVERHEAD;
        if weight as u64 > self.0.max_entry {
            return None;
        }
        let stale = if keeping.ttl.is_some() { 0 } else { self.0.config.ttl.stale };
        let account = match &payload {
            Payload::Answer(answer) => Some(self.0.accounts.account(answer, &keeping.scope)),
            Payload::Value(_) => None,
        };
        let entry = Arc::new(Entry {
            payload,
            ttl: Duration::from_secs(ttl),
            hard_ttl: Duration::from_secs(ttl + stale),
            refresh_at_us: AtomicU64::new(0),
            stored_at: self.now(),
            asked_at: keeping.asked_at.saturating_sub(older_by),
            older_by,
            key_hex: keeping.key.hex(),
            scope: keeping.scope.clone(),
            context: keeping.context.clone(),
            tags: keeping.tags.clone(),
            weight: u32::try_from(weight).unwrap_or(u32::MAX),
            account,
        });
        // Under the lock, so that an invalidation either sees the entry or is seen here.
        let invalidations = self.0.invalidations.lock();
        let is_older = |known: Arc<Entry>| known.asked_at > entry.asked_at;
        if self.is_invalidated(&invalidations, keeping) || self.0.entries.get(&keeping.key).is_some_and(is_older) {
            return None;
        }
        self.0.entries.insert(keeping.key, entry);
        Some(ttl)
    }

    /// Removes what matches, and returns how many entries of this process could have been served.
    pub(super) fn remove(&self, filter: Filter) -> u64 {
        let mut invalidations = self.0.invalidations.lock();
        let now = self.0.clock.monotonic();
        // First, so that who finds an entry gone asks for what may be kept.
        let epoch = self.0.epoch.load(Ordering::Relaxed) + 1;
        if invalidations.len() == REMEMBERED_INVALIDATIONS {
            invalidations.pop_front();
        }
        invalidations.push_back((epoch, filter.clone()));
        self.0.epoch.store(epoch, Ordering::Release);
        self.0.refusals.invalidate_all();
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
        removed
    }

    /// Returns whether there are no entries, not even those just put.
    #[cfg(feature = "redis")]
    pub(super) fn is_empty(&self) -> bool {
        self.0.entries.iter().next().is_none()
    }

    /// Returns how many entries there are, and how many bytes they take.
    pub fn size(&self) -> (u64, u64) {
        self.0.entries.run_pending_tasks();
        (self.0.entries.entry_count(), self.0.entries.weighted_size())
    }

    /// Returns how long an answer is kept, by what it says and by whether the last one said the same.
    fn ttl_by_rule(&self, keeping: &Keeping, payload: &Payload, text: &str) -> u64 {
        let rules = &self.0.config.ttl;
        let by_rule = rules.for_answer(&keeping.context, text);
        let mut ttl = by_rule;
        if rules.adaptive {
            let digest = payload.digest();
            if let Some(last) = self.0.learned.get(&keeping.key).filter(|last| last.by_rule == by_rule) {
                let change = if last.digest == digest { Change::Same } else { Change::Different };
                ttl = rules.adapted(last.ttl, change);
            }
            self.0.learned.insert(keeping.key, Learned { digest, by_rule, ttl });
        }
        rules.jittered(ttl, random())
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
        context::Context,
    };

    fn cache(max_bytes: u64) -> (AnswerCache, Arc<ManualClock>) {
        cache_with(|config| config.cache.max_bytes = max_bytes)
    }

    fn cache_with(change: impl FnOnce(&mut ChatConfig)) -> (AnswerCache, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        let mut config = ChatConfig::default();
        change(&mut config);
        let context = Context { clock: clock.clone(), ..Context::default() };
        let accounts = Accounts::new(&config, &context, None).unwrap();
        (AnswerCache::new(Arc::new(config), clock.clone(), accounts), clock)
    }

    fn keeping(message: &str, scope: &Scope, cache: &AnswerCache) -> Keeping {
        Keeping {
            key: key::of_run(message, "default", Some(scope), Share::User),
            scope: Share::User.narrow(scope),
            context: "default".into(),
            tags: vec![format!("tag-{message}")],
            ttl: Some(60),
            epoch: cache.epoch(),
            asked_at: cache.now(),
            look: true,
            question: None,
        }
    }

    fn invalidate(cache: &AnswerCache, which: &Invalidate) -> u64 {
        cache.remove(which.filter().unwrap())
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
        assert_eq!(invalidate(&cache, &Invalidate::all()), 0);
    }

    #[test]
    fn an_answer_past_its_time_is_stale_until_its_hard_end_and_refreshed_by_one() {
        let (cache, clock) = cache_with(|config| config.ttl.stale = 100);
        let by_rule = Keeping { ttl: None, ..keeping("a", &Scope::new(), &cache) };
        let ttl = cache.put(&by_rule, Payload::Value(Arc::new(json!(1))), "").unwrap();
        let freshness = || cache.look(&by_rule.key).map(|(_, freshness)| freshness);
        clock.advance(Duration::from_secs(ttl) - Duration::from_millis(1));
        assert_eq!(freshness(), Some(Freshness::Fresh));
        clock.advance(Duration::from_millis(1));
        assert_eq!((freshness(), cache.get(&by_rule.key).is_some()), (Some(Freshness::Stale), false));
        let (entry, _) = cache.look(&by_rule.key).unwrap();
        assert_eq!([cache.claim_refresh(&entry), cache.claim_refresh(&entry)], [true, false]);
        clock.advance(REFRESH_PAUSE);
        assert!(cache.claim_refresh(&entry), "the last refresh failed");
        clock.advance(Duration::from_secs(100));
        assert_eq!(freshness(), None);
        // Who says how long is not given more.
        let key = put(&cache, "explicit", &Scope::new());
        clock.advance(Duration::from_secs(60));
        assert!(cache.look(&key).is_none());
    }

    #[test]
    fn the_time_adapts_to_whether_the_answer_changes() {
        let (cache, clock) = cache_with(|config| config.ttl.jitter = 0.0);
        let ask = |answer: i64| {
            let keeping = Keeping { ttl: None, ..keeping("a", &Scope::new(), &cache) };
            let ttl = cache.put(&keeping, Payload::Value(Arc::new(json!(answer))), "").unwrap();
            clock.advance(Duration::from_secs(ttl));
            ttl
        };
        assert_eq!([1, 1, 1, 1, 2, 3, 4, 5, 5].map(ask), [300, 600, 900, 900, 450, 225, 112, 60, 120]);
        let (fixed, _) = cache_with(|config| (config.ttl.jitter, config.ttl.adaptive) = (0.0, false));
        let keeping = Keeping { ttl: None, ..keeping("a", &Scope::new(), &fixed) };
        for _ in 0..3 {
            assert_eq!(fixed.put(&keeping, Payload::Value(Arc::new(json!(1))), ""), Some(300));
        }
    }

    #[test]
    fn what_was_learned_under_one_rule_does_not_hold_under_another() {
        let (cache, _) = cache_with(|config| config.ttl.jitter = 0.0);
        let put = |context: &str, text: &str| {
            let keeping = Keeping { ttl: None, context: context.into(), ..keeping("a", &Scope::new(), &cache) };
            cache.put(&keeping, Payload::Value(Arc::new(json!(text))), text).unwrap()
        };
        assert_eq!(put("ceo_deep_research", "x"), 900);
        assert_eq!((put("infrastructure", "x"), put("infrastructure", "x")), (60, 120));
        let figures = "business_intelligence";
        assert_eq!((put(figures, "x"), put(figures, "as of today"), put(figures, "as of today")), (600, 120, 240));
    }

    #[test]
    fn what_was_asked_for_later_is_not_replaced() {
        let (cache, clock) = cache(1 << 20);
        let before = keeping("a", &Scope::new(), &cache);
        clock.advance(Duration::from_secs(1));
        let after = Keeping { asked_at: cache.now(), ..before.clone() };
        let value = |value: i64| Payload::Value(Arc::new(json!(value)));
        assert_eq!(cache.put(&after, value(2), ""), Some(60));
        assert_eq!(cache.put(&before, value(1), ""), None);
        let kept = cache.get(&before.key).unwrap();
        assert!(matches!(&kept.payload, Payload::Value(value) if **value == json!(2)));
    }

    #[test]
    fn a_refusal_is_kept_for_moments_and_only_if_it_will_not_pass() {
        let words = || Words([1; 32]);
        let (cache, clock) = cache_with(|config| config.cache.negative = Duration::from_secs(5));
        let keeping = |text: &str| keeping(text, &Scope::new(), &cache);
        for kind in [ErrorKind::Unavailable, ErrorKind::RateLimited, ErrorKind::Timeout, ErrorKind::Cancelled] {
            cache.put_refusal(&keeping("a"), words, &Error::new(kind, "t", "t"));
            assert!(cache.refusal(&keeping("a").key, words).is_none(), "{kind:?}");
        }
        let refuse = || cache.put_refusal(&keeping("a"), words, &Error::new(ErrorKind::InvalidInput, "t", "t"));
        refuse();
        clock.advance(Duration::from_millis(4999));
        assert!(cache.refusal(&keeping("a").key, || Words([2; 32])).is_none());
        assert_eq!(cache.refusal(&keeping("a").key, words).unwrap().get("refused_ms_ago"), Some("4999"));
        clock.advance(Duration::from_millis(1));
        assert!(cache.refusal(&keeping("a").key, words).is_none());
        refuse();
        let before = keeping("b");
        invalidate(&cache, &Invalidate::tag("any"));
        cache.put_refusal(&before, words, &Error::new(ErrorKind::InvalidInput, "t", "t"));
        assert!(cache.refusal(&keeping("a").key, words).is_none() && cache.refusal(&before.key, words).is_none());
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
            assert_eq!(invalidate(&cache, &which), count, "{which:?}");
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
        assert_eq!(Invalidate::default().filter().unwrap_err().code(), "INVALID_INPUT");
        assert_eq!(Invalidate::key("x").filter().unwrap_err().code(), "INVALID_INPUT");
    }

    #[test]
    fn what_was_invalidated_while_it_was_asked_for_is_not_kept() {
        let (cache, _) = cache(1 << 20);
        let (ada, bob) = (Scope::new().user("ada"), Scope::new().user("bob"));
        let (hers, his) = (keeping("a", &ada, &cache), keeping("a", &bob, &cache));
        invalidate(&cache, &Invalidate::scope(&ada));
        let payload = || Payload::Value(Arc::new(json!(1)));
        assert_eq!(cache.put(&hers, payload(), ""), None);
        assert_eq!(cache.put(&his, payload(), ""), Some(60));
        for _ in 0..=REMEMBERED_INVALIDATIONS {
            invalidate(&cache, &Invalidate::tag("other"));
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
