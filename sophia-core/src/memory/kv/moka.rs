//! [`MokaTier`]: values in the memory of this process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ::moka::sync::Cache;
use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    keys::is_reserved,
    seal::{Seal, Seals},
    tier::{Invalidation, KvEntry, KvKey, KvKeyRef, KvTier},
};
use crate::{
    Clock, Result,
    memory::health::{TierHealth, TierStatus},
};

/// What an entry takes besides its key and value, in bytes.
const OVERHEAD: usize = 256;

/// Values in the memory of this process, the most used ones (W-TinyLFU), bounded in bytes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MokaTier {
    cache: Cache<KvKey, Copy>,
    /// What tells of changes elsewhere, where there is something.
    seals: Option<Arc<Seals>>,
    clock: Arc<dyn Clock>,
    hits: Arc<AtomicU64>,
    misses: Arc<AtomicU64>,
}

/// A copy, and what it depends on.
#[derive(Debug, Clone)]
struct Copy {
    entry: Arc<KvEntry>,
    seal: Seal,
}

impl MokaTier {
    /// Creates an empty tier that holds `max_bytes`, each entry for `ttl` at most.
    pub fn new(max_bytes: u64, ttl: Option<Duration>, clock: Arc<dyn Clock>) -> MokaTier {
        let weigh =
            |key: &KvKey, copy: &Copy| u32::try_from(key.bytes() + copy.entry.bytes() + OVERHEAD).unwrap_or(u32::MAX);
        let builder = Cache::builder().weigher(weigh).max_capacity(max_bytes);
        let cache = match ttl {
            Some(ttl) => builder.time_to_live(ttl).build(),
            None => builder.build(),
        };
        MokaTier { cache, seals: None, clock, hits: Arc::default(), misses: Arc::default() }
    }

    /// Sets what tells of changes elsewhere.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "nothing is shared in this build"))]
    #[must_use]
    pub(crate) fn with_seals(mut self, seals: Arc<Seals>) -> MokaTier {
        self.seals = Some(seals);
        self
    }

    /// Returns the entry under a key, at once.
    pub fn get_now(&self, key: KvKeyRef<'_>) -> Option<Arc<KvEntry>> {
        let found = self.cache.get(&key).filter(|copy| {
            (copy.entry.stale_until.is_none() || !copy.entry.is_dead(self.clock.now()))
                && self.seals.as_ref().is_none_or(|seals| seals.holds(copy.seal))
        });
        let found = found.map(|copy| copy.entry);
        if found.is_some() { &self.hits } else { &self.misses }.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Sets the entry under a key, at once.
    pub fn set_now(&self, key: KvKey, entry: Arc<KvEntry>) {
        self.set_sealed(key, entry, Seal::default());
    }

    /// Sets the entry under a key, at once, until something changes elsewhere.
    pub(crate) fn set_sealed(&self, key: KvKey, entry: Arc<KvEntry>, seal: Seal) {
        self.cache.insert(key, Copy { entry, seal });
    }

    /// Removes a key, at once; returns whether a living value was there.
    pub fn delete_now(&self, key: &KvKey) -> bool {
        let now = self.clock.now();
        self.cache.remove(key).is_some_and(|copy| copy.entry.value.is_some() && !copy.entry.is_dead(now))
    }

    /// Removes all keys that are meant, at once, and returns how many living values there were.
    pub fn invalidate_now(&self, invalidation: &Invalidation) -> u64 {
        let now = self.clock.now();
        self.remove_where(|key, entry| invalidation.means(key, &entry.tags), now)
    }

    /// Removes every key of a wall.
    pub(crate) fn clear_wall(&self, is_meant: impl Fn(&KvKey) -> bool) -> u64 {
        let now = self.clock.now();
        self.remove_where(|key, _| is_meant(key), now)
    }

    /// Removes everything.
    pub fn clear(&self) {
        self.cache.invalidate_all();
    }

    /// Returns hits and look-ups since the start.
    pub(crate) fn look_ups(&self) -> (u64, u64) {
        let hits = self.hits.load(Ordering::Relaxed);
        (hits, hits + self.misses.load(Ordering::Relaxed))
    }

    fn remove_where(&self, is_meant: impl Fn(&KvKey, &KvEntry) -> bool, now: Timestamp) -> u64 {
        let mut removed = 0;
        for (key, Copy { entry, .. }) in &self.cache {
            if is_meant(&key, &entry) {
                self.cache.invalidate(&*key);
                removed += u64::from(entry.value.is_some() && !entry.is_dead(now) && !is_reserved(key.key()));
            }
        }
        removed
    }
}

#[async_trait]
impl KvTier for MokaTier {
    async fn get(&self, key: &KvKey) -> Result<Option<Arc<KvEntry>>> {
        Ok(self.get_now(key.borrowed()))
    }

    async fn set(&self, key: &KvKey, entry: Arc<KvEntry>) -> Result<()> {
        self.set_now(key.clone(), entry);
        Ok(())
    }

    async fn delete(&self, key: &KvKey) -> Result<bool> {
        Ok(self.delete_now(key))
    }

    async fn invalidate(&self, invalidation: &Invalidation) -> Result<u64> {
        Ok(self.invalidate_now(invalidation))
    }

    async fn health(&self) -> TierHealth {
        self.cache.run_pending_tasks();
        let (hits, all) = self.look_ups();
        TierHealth {
            latency_ms: Some(0.0),
            entries: Some(self.cache.entry_count()),
            hit_ratio: (all > 0).then(|| hits as f64 / all as f64),
            ..TierHealth::new(TierStatus::Healthy).detail("moka, in this process")
        }
    }
}
