//! [`KvTier`]: what a technology must do to hold values under keys.

use std::{
    fmt::Debug,
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;

use crate::{Error, ErrorKind, Result, Scope, memory::health::TierHealth};

/// What the keys begin with that stand for invalidations where changes are told by key.
const NOTED: &str = "\u{1}invalidated/";

/// A tier of values under keys. An implementation runs `testing::memory::kv_tier`.
///
/// A key belongs to the wall of its scope: the same key of another tenant or user is another key. Session and agent do
/// not count.
#[async_trait]
pub trait KvTier: Debug + Send + Sync + 'static {
    /// Returns the value under a key until it is dead; whether it is still fresh is the caller's to judge.
    async fn get(&self, key: &KvKey) -> Result<Option<Arc<KvEntry>>>;

    /// Sets the value under a key. A durable tier has it safe when this returns.
    async fn set(&self, key: &KvKey, entry: Arc<KvEntry>) -> Result<()>;

    /// Removes a key; returns whether it was there.
    async fn delete(&self, key: &KvKey) -> Result<bool>;

    /// Removes all keys that are meant, and returns how many there were.
    async fn invalidate(&self, invalidation: &Invalidation) -> Result<u64>;

    /// Asks the technology how it is. Never fails: a failure is a status.
    async fn health(&self) -> TierHealth;

    /// Says that a farther tier is about to take a write of this key; what stands here is not given out any more.
    ///
    /// A tier that is not shared between processes has nothing to do.
    async fn begin(&self, _key: &KvKey) -> Result<Ticket> {
        Ok(Ticket::default())
    }

    /// Ends the write that `ticket` stands for: sets the value, or removes it for `None`, unless another writer came
    /// between; then nothing is given out here until it is settled who was last.
    async fn commit(&self, key: &KvKey, entry: Option<Arc<KvEntry>>, _ticket: Ticket) -> Result<()> {
        match entry {
            Some(entry) => self.set(key, entry).await,
            None => self.delete(key).await.map(drop),
        }
    }

    /// Takes what a farther tier was found to have `read_for` after the look-up began, unless the key was changed since.
    async fn promote(&self, key: &KvKey, entry: Arc<KvEntry>, _read_for: Duration) -> Result<()> {
        self.set(key, entry).await
    }

    /// Removes everything, of every wall. Only a tier that can lose everything needs to.
    async fn clear(&self) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "memory.kv.clear", "this tier is not cleared as a whole"))
    }

    /// Returns what [`KvTier::set_unchanged`] compares with. To be called before that is read which a value is made of.
    ///
    /// A tier that never decides what is kept has nothing to say.
    async fn version(&self, _key: &KvKey) -> Result<i64> {
        Ok(0)
    }

    /// Sets the value under a key unless the key was set or removed, or an invalidation meant it, since `version`; returns
    /// whether it was set. It is one step with the comparison: nobody comes in between.
    async fn set_unchanged(&self, key: &KvKey, entry: Arc<KvEntry>, _version: i64) -> Result<bool> {
        self.set(key, entry).await.map(|()| true)
    }

    /// Names what others have changed since the last call, so that a nearer tier can drop it. Never waits.
    ///
    /// What this process changed itself need not be named.
    fn changed_elsewhere(&self, _drop: &mut dyn FnMut(Elsewhere)) {}
}

/// Stands for a write that has begun.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Ticket {
    /// Tells this write from others.
    pub token: u128,
    /// Whether a living value was there.
    pub found: bool,
}

/// What others have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// The value under this key.
    Key(KvKey),
    /// More than can be told.
    Everything,
}

/// A key and the wall that it belongs to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KvKey(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    tenant: Option<Box<str>>,
    user: Option<Box<str>>,
    key: Box<str>,
}

/// A borrowed [`KvKey`]: to look up without allocating. Compared whole, so that no two keys are ever taken for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvKeyRef<'a> {
    pub(super) tenant: Option<&'a str>,
    pub(super) user: Option<&'a str>,
    pub(super) key: &'a str,
}

impl<'a> KvKeyRef<'a> {
    /// Names a key in the wall of a scope.
    pub fn new(scope: &'a Scope, key: &'a str) -> KvKeyRef<'a> {
        KvKeyRef { tenant: scope.tenant.as_deref(), user: scope.user.as_deref(), key }
    }
}

impl KvKey {
    /// Names a key in the wall of a scope.
    pub fn new(scope: &Scope, key: &str) -> KvKey {
        let part = |part: &Option<String>| part.as_deref().map(Box::from);
        KvKey(Arc::new(Parts { tenant: part(&scope.tenant), user: part(&scope.user), key: key.into() }))
    }

    /// Returns the key.
    pub fn key(&self) -> &str {
        &self.0.key
    }

    /// Returns the wall, as a scope with tenant and user alone.
    pub fn scope(&self) -> Scope {
        let part = |part: &Option<Box<str>>| part.as_deref().map(str::to_owned);
        Scope { tenant: part(&self.0.tenant), user: part(&self.0.user), session: None, agent: None }
    }

    /// Returns it borrowed.
    pub fn borrowed(&self) -> KvKeyRef<'_> {
        KvKeyRef { tenant: self.0.tenant.as_deref(), user: self.0.user.as_deref(), key: &self.0.key }
    }

    /// Memory that it takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let part = |part: &Option<Box<str>>| part.as_ref().map_or(0, |part| part.len());
        part(&self.0.tenant) + part(&self.0.user) + self.0.key.len()
    }
}

impl PartialEq for KvKey {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.borrowed() == other.borrowed()
    }
}

impl Eq for KvKey {}

impl Hash for KvKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.borrowed().hash(state);
    }
}

impl ::moka::Equivalent<KvKey> for KvKeyRef<'_> {
    fn equivalent(&self, key: &KvKey) -> bool {
        *self == key.borrowed()
    }
}

/// A value in both of its forms, made once and read many times: a tree for those who walk it, JSON for those who parse it.
#[derive(Debug, Clone, PartialEq)]
pub struct KvValue {
    value: Value,
    json: Box<str>,
}

impl serde::Serialize for KvValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl KvValue {
    /// Takes a value.
    pub fn new(value: Value) -> KvValue {
        KvValue { json: value.to_string().into(), value }
    }

    /// Reads a value from JSON, which is kept as it is.
    ///
    /// # Errors
    /// Where the text is not JSON.
    pub fn from_json(json: impl Into<Box<str>>) -> serde_json::Result<KvValue> {
        let json = json.into();
        Ok(KvValue { value: serde_json::from_str(&json)?, json })
    }

    /// Returns the value.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Returns the value as JSON.
    pub fn json(&self) -> &str {
        &self.json
    }
}

impl From<Value> for KvValue {
    fn from(value: Value) -> Self {
        KvValue::new(value)
    }
}

/// A value, how long it lives, and what it can be invalidated by.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct KvEntry {
    /// The value; `None` is known to be absent, and kept in the nearest tier only.
    pub value: Option<Arc<KvValue>>,
    /// When it stops to be fresh; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// When it stops to be worth serving while it is made anew: `expires_at` or later.
    pub stale_until: Option<Timestamp>,
    /// How long it took to make, in milliseconds, if that is known: the longer, the earlier it is made anew.
    pub cost_ms: Option<u32>,
    /// What it can be invalidated by.
    pub tags: Vec<String>,
}

impl KvEntry {
    /// Creates an entry that stays for ever.
    pub fn new(value: impl Into<Arc<KvValue>>) -> KvEntry {
        KvEntry { value: Some(value.into()), expires_at: None, stale_until: None, cost_ms: None, tags: Vec::new() }
    }

    /// Creates what says that there is no value.
    pub(crate) fn absent() -> KvEntry {
        KvEntry { value: None, expires_at: None, stale_until: None, cost_ms: None, tags: Vec::new() }
    }

    /// Returns whether it is fresh at `now`.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|expires_at| now < expires_at)
    }

    /// Returns whether it is gone at `now`, stale time included.
    pub fn is_dead(&self, now: Timestamp) -> bool {
        self.stale_until.is_some_and(|stale_until| now >= stale_until)
    }

    /// Memory that it takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        // The tree takes about as much again as its text.
        self.value.as_ref().map_or(0, |value| 3 * value.json.len()) + self.tags.iter().map(String::len).sum::<usize>()
    }
}

/// Which keys to remove, in one wall.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Invalidation {
    /// The wall.
    pub scope: Scope,
    /// Keys that begin so.
    pub prefix: Option<String>,
    /// Keys that have any of these tags.
    pub tags: Vec<String>,
}

impl Invalidation {
    /// Removes keys that begin with `prefix`.
    pub fn prefix(scope: &Scope, prefix: impl Into<String>) -> Invalidation {
        Invalidation { scope: scope.clone(), prefix: Some(prefix.into()), tags: Vec::new() }
    }

    /// Removes keys that have any of these tags.
    pub fn tags<T: Into<String>>(scope: &Scope, tags: impl IntoIterator<Item = T>) -> Invalidation {
        Invalidation { scope: scope.clone(), prefix: None, tags: tags.into_iter().map(Into::into).collect() }
    }

    /// Returns whether a key is meant: by its prefix or by one of its tags.
    pub fn means(&self, key: &KvKey, tags: &[String]) -> bool {
        let parts = key.borrowed();
        parts.tenant == self.scope.tenant.as_deref()
            && parts.user == self.scope.user.as_deref()
            && (self.prefix.as_ref().is_some_and(|prefix| parts.key.starts_with(prefix))
                || self.tags.iter().any(|tag| tags.contains(tag)))
    }

    /// Returns the keys that stand for it where changes are told by key: what is about to be set under a key that is meant
    /// cannot be told by its own.
    pub(crate) fn notes(&self) -> impl Iterator<Item = String> {
        let prefix = self.prefix.iter().map(|prefix| format!("{NOTED}prefix/{prefix}"));
        prefix.chain(self.tags.iter().map(|tag| format!("{NOTED}tag/{tag}")))
    }

    /// Returns the invalidation that a key stands for, if it stands for one.
    pub(crate) fn noted(key: &KvKey) -> Option<Invalidation> {
        let (by, name) = key.key().strip_prefix(NOTED)?.split_once('/')?;
        match by {
            "prefix" => Some(Invalidation::prefix(&key.scope(), name)),
            "tag" => Some(Invalidation::tags(&key.scope(), [name])),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use ::moka::Equivalent;

    use super::*;

    #[test]
    fn an_invalidation_is_told_by_keys_and_read_from_them() {
        let ada = Scope::new().tenant("acme").user("ada");
        let what = Invalidation { prefix: Some("a/".to_owned()), ..Invalidation::tags(&ada, ["x/y"]) };
        let noted: Vec<_> = what.notes().filter_map(|note| Invalidation::noted(&KvKey::new(&ada, &note))).collect();
        assert_eq!(noted, [Invalidation::prefix(&ada, "a/"), Invalidation::tags(&ada, ["x/y"])]);
        assert!(what.notes().all(|note| crate::memory::kv::is_reserved(&note)));
        assert_eq!(Invalidation::noted(&KvKey::new(&ada, "plan")), None);
    }

    #[test]
    fn a_borrowed_key_finds_its_owned_twin_and_no_other() {
        let hasher = std::hash::RandomState::new();
        let (ada, bob) = (Scope::new().user("ada"), Scope::new().user("bob"));
        let owned = KvKey::new(&ada, "plan");
        let borrowed = KvKeyRef::new(&ada, "plan");
        assert!(borrowed.equivalent(&owned));
        assert_eq!(hasher.hash_one(borrowed), hasher.hash_one(&owned));
        for other in [KvKey::new(&bob, "plan"), KvKey::new(&Scope::new(), "plan"), KvKey::new(&ada, "plans")] {
            assert!(!borrowed.equivalent(&other));
        }
    }
}
