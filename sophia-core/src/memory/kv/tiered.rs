//! [`TieredKv`]: tiers that work as one.
//!
//! A read asks the nearest tier first and brings what a farther one knew nearer. A write goes to the farthest tier first:
//! it is acknowledged when the durable one has it. A tier that fails is stepped over; only the last one,
//! the durable one, must answer a write.
//!
//! What is brought nearer may be old by the time it arrives. So each key belongs to a stripe that counts the writes under
//! way: what was read before a write began is not put over what the write left.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{
    moka::MokaTier,
    tier::{Elsewhere, Invalidation, KvEntry, KvKey, KvKeyRef, KvTier},
};
use crate::{
    Clock, Result,
    memory::health::{TierHealth, TierStatus},
};

/// Counters of writes; more of them only makes false alarms rarer.
const STRIPES: usize = 256;
/// How long a look-up may trust that no other process has written, in microseconds.
const TRUST_US: u64 = 5_000;
/// How long a write whose caller has left may still be under way, in microseconds: longer than a tier waits for a lock.
const DOUBT_US: u64 = 30_000_000;

/// Tiers that work as one.
#[derive(Debug)]
pub struct TieredKv {
    near: Option<MokaTier>,
    /// Nearest first; the last one is durable.
    far: Vec<Arc<dyn KvTier>>,
    clock: Arc<dyn Clock>,
    stripes: Vec<Mutex<u64>>,
    hasher: RandomState,
    /// Monotonic time of the last look at what others have changed, in microseconds.
    looked_us: AtomicU64,
    /// Keys whose writer has left before the end, each with the time until which its write may still land.
    doubtful: Mutex<Vec<(KvKey, u64)>>,
}

/// How many writes of a stripe had begun or ended at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment {
    stripe: usize,
    writes: u64,
}

impl TieredKv {
    /// Puts tiers together: `near` in this process, `far` from the nearest to the durable one.
    pub fn new(near: Option<MokaTier>, far: Vec<Arc<dyn KvTier>>, clock: Arc<dyn Clock>) -> TieredKv {
        let stripes = (0..STRIPES).map(|_| Mutex::new(0)).collect();
        TieredKv {
            near,
            far,
            clock,
            stripes,
            hasher: RandomState::new(),
            looked_us: AtomicU64::new(0),
            doubtful: Mutex::default(),
        }
    }

    /// Returns what this process knows of a key, at once: `None` if it knows nothing.
    pub fn get_now(&self, key: KvKeyRef<'_>) -> Option<Arc<KvEntry>> {
        let near = self.near.as_ref()?;
        self.drop_what_others_changed();
        near.get_now(key)
    }

    /// Returns the tier in this process.
    pub(crate) fn near(&self) -> Option<&MokaTier> {
        self.near.as_ref()
    }

    fn drop_what_others_changed(&self) {
        let Some(near) = &self.near else { return };
        let now = self.now_us();
        let looked = self.looked_us.load(Ordering::Relaxed);
        let is_due = now.saturating_sub(looked) >= TRUST_US;
        if !is_due || self.looked_us.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        self.doubtful.lock().retain(|(key, until)| {
            self.begin(key);
            now < *until
        });
        for tier in &self.far {
            tier.changed_elsewhere(&mut |change| match change {
                Elsewhere::Key(key) => {
                    self.begin(&key);
                }
                Elsewhere::Everything => self.forget_all(near),
            });
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_micros()).unwrap_or(u64::MAX)
    }

    fn forget_all(&self, near: &MokaTier) {
        for stripe in &self.stripes {
            *stripe.lock() += 1;
        }
        near.clear();
    }

    fn moment(&self, key: &KvKey) -> Moment {
        let stripe = (self.hasher.hash_one(key) % STRIPES as u64) as usize;
        Moment { stripe, writes: *self.stripes[stripe].lock() }
    }

    /// Begins a write: takes the key out of the near tier, and outdates what was read of it before.
    fn begin(&self, key: &KvKey) -> Moment {
        let mut moment = self.moment(key);
        let mut writes = self.stripes[moment.stripe].lock();
        *writes += 1;
        moment.writes = *writes;
        if let Some(near) = &self.near {
            near.delete_now(key);
        }
        moment
    }

    /// Ends a write or a read: puts an entry near, unless another write was under way.
    fn settle(&self, key: &KvKey, moment: Moment, entry: Option<Arc<KvEntry>>) {
        let Some(near) = &self.near else { return };
        let mut writes = self.stripes[moment.stripe].lock();
        if *writes == moment.writes {
            if let Some(entry) = entry {
                near.set_now(key.clone(), entry);
            }
        } else {
            near.delete_now(key);
        }
        *writes += 1;
    }

    /// Brings what was read nearer, unless a write was begun or ended since.
    fn promote(&self, key: &KvKey, moment: Moment, entry: Arc<KvEntry>) {
        let Some(near) = &self.near else { return };
        let writes = self.stripes[moment.stripe].lock();
        if *writes == moment.writes {
            near.set_now(key.clone(), entry);
        }
    }

    async fn read_far(&self, key: &KvKey) -> Result<Option<Arc<KvEntry>>> {
        let mut failure = None;
        for (place, tier) in self.far.iter().enumerate() {
            match tier.get(key).await {
                Ok(Some(entry)) => {
                    for nearer in &self.far[..place] {
                        // A tier that cannot take it is asked again next time.
                        let _ = nearer.set(key, entry.clone()).await;
                    }
                    return Ok(Some(entry));
                }
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(None), Err)
    }
}

#[async_trait]
impl KvTier for TieredKv {
    async fn get(&self, key: &KvKey) -> Result<Option<Arc<KvEntry>>> {
        if let Some(entry) = self.get_now(key.borrowed()) {
            return Ok(Some(entry).filter(|entry| entry.value.is_some()));
        }
        let moment = self.moment(key);
        let entry = self.read_far(key).await?;
        match &entry {
            Some(entry) => self.promote(key, moment, entry.clone()),
            None => {
                let absent = KvEntry { value: None, expires_at: None, stale_until: None, tags: Vec::new() };
                self.promote(key, moment, Arc::new(absent));
            }
        }
        Ok(entry)
    }

    async fn set(&self, key: &KvKey, entry: Arc<KvEntry>) -> Result<()> {
        let moment = self.begin(key);
        let write = Writing { tiers: self, key, moment, settled: false };
        for (place, tier) in self.far.iter().enumerate().rev() {
            let result = tier.set(key, entry.clone()).await;
            if place + 1 == self.far.len() {
                result?;
            }
        }
        write.settle(Some(entry));
        Ok(())
    }

    async fn delete(&self, key: &KvKey) -> Result<bool> {
        let near = self.near.as_ref().is_some_and(|near| near.delete_now(key));
        let moment = self.begin(key);
        let write = Writing { tiers: self, key, moment, settled: false };
        let mut found = near && self.far.is_empty();
        for (place, tier) in self.far.iter().enumerate().rev() {
            match tier.delete(key).await {
                Ok(deleted) => found |= deleted,
                Err(error) if place + 1 == self.far.len() => return Err(error),
                Err(_) => {}
            }
        }
        write.settle(None);
        Ok(found)
    }

    async fn invalidate(&self, invalidation: &Invalidation) -> Result<u64> {
        let mut removed = 0;
        for (place, tier) in self.far.iter().enumerate().rev() {
            match tier.invalidate(invalidation).await {
                Ok(count) => removed = removed.max(count),
                Err(error) if place + 1 == self.far.len() => return Err(error),
                Err(_) => {}
            }
        }
        if let Some(near) = &self.near {
            // What is being brought nearer right now may be meant, too.
            for stripe in &self.stripes {
                *stripe.lock() += 1;
            }
            removed = removed.max(near.invalidate_now(invalidation));
        }
        Ok(removed)
    }

    async fn health(&self) -> TierHealth {
        match (&self.near, self.far.last()) {
            (_, Some(far)) => far.health().await,
            (Some(near), None) => near.health().await,
            (None, None) => TierHealth::new(TierStatus::Disabled),
        }
    }
}

/// A write that is under way. Dropped before it has ended, it may still land: until it must have, its key is not kept near
/// for long.
struct Writing<'a> {
    tiers: &'a TieredKv,
    key: &'a KvKey,
    moment: Moment,
    settled: bool,
}

impl Writing<'_> {
    fn settle(mut self, entry: Option<Arc<KvEntry>>) {
        self.settled = true;
        self.tiers.settle(self.key, self.moment, entry);
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.tiers.begin(self.key);
            let until = self.tiers.now_us().saturating_add(DOUBT_US);
            self.tiers.doubtful.lock().push((self.key.clone(), until));
        }
    }
}
