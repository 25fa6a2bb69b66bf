//! [`TieredKv`]: tiers that work as one.
//!
//! A read asks the nearest tier first and brings what a farther one knew nearer. A write goes to the farthest tier first:
//! it is acknowledged when the durable one has it. A shared tier that fails is stepped over, and catches up when it is back
//! (`far.rs`); the durable one has no breaker, since there is nothing behind it to ask instead.
//!
//! What is brought nearer may be old by the time it arrives. So each key belongs to a stripe that counts the writes under
//! way: what was read before a write began is not put over what the write left.
//!
//! The same holds for what is made rather than read: the tier that is right where tiers differ says what it knew before
//! ([`Baseline`]), and takes what was made only if that is still so.

use std::{
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{
    debts::Debts,
    far::{Far, Said},
    loads::{Loading, Loads},
    moka::MokaTier,
    seal::{Seal, Seals},
    tier::{Elsewhere, Invalidation, KvEntry, KvKey, KvKeyRef, KvTier, Ticket},
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
/// Writers that left early and are remembered each by itself; with more, nothing is kept near for as long.
const MOST_DOUBTFUL: usize = 1_024;
/// How long this process remembers that a key is absent, where others may set it.
const ABSENT: Duration = Duration::from_secs(5);
/// Names of the tiers between the near and the durable one.
const SHARED_NAMES: [&str; 2] = ["l2", "l2b"];

/// Returns the number by which changes of a key are counted.
pub(crate) type StripeOf = fn(&KvKey) -> u64;

/// Tiers that work as one.
#[derive(Debug)]
pub struct TieredKv {
    near: Option<MokaTier>,
    /// Shared between processes, nearest first; each may be away.
    shared: Vec<Far>,
    durable: Option<Arc<dyn KvTier>>,
    truth: Truth,
    clock: Arc<dyn Clock>,
    stripes: Vec<Mutex<u64>>,
    hasher: RandomState,
    /// Counts of changes elsewhere, and how a key finds its own.
    seals: Option<(Arc<Seals>, StripeOf)>,
    /// Monotonic time of the last look at what others have changed, in microseconds.
    looked_us: AtomicU64,
    doubt: Mutex<Doubt>,
    loads: Loads,
}

/// Which tier is right where they differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Truth {
    /// The durable one: all processes have the same.
    #[default]
    Durable,
    /// The shared one: each process has a last tier of its own, which is asked only while the shared one is away.
    Shared,
}

/// Writes whose caller has left before the end.
#[derive(Debug, Default)]
struct Doubt {
    /// Their keys, each with the time until which it may still land.
    keys: Vec<(KvKey, u64)>,
    /// Time until which any may.
    any_until: u64,
}

/// What a look-up found, and where.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Looked {
    /// The entry, until it is dead.
    pub entry: Option<Arc<KvEntry>>,
    /// Tier that had it: `"l1"`, `"l2"`, `"l3"`.
    pub tier: Option<&'static str>,
    /// Tiers that were stepped over.
    pub stepped_over: Vec<&'static str>,
}

/// What was known of a key before a value was made for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Baseline {
    seal: Seal,
    durable: i64,
    /// `None` where the shared tier is not right, or did not answer.
    shared: Option<i64>,
}

/// How many writes of a stripe had begun or ended at some moment.
#[derive(Debug, Clone, Copy)]
struct Moment {
    stripe: usize,
    writes: u64,
    seal: Seal,
}

impl TieredKv {
    /// Puts tiers together: `near` in this process, `far` from the nearest to the durable one.
    pub fn new(near: Option<MokaTier>, far: Vec<Arc<dyn KvTier>>, clock: Arc<dyn Clock>) -> TieredKv {
        TieredKv::with_truth(near, far, Truth::Durable, None, clock)
    }

    /// Puts tiers together and says which of them is right where they differ, and where a shared one's debts are noted.
    pub(crate) fn with_truth(
        near: Option<MokaTier>,
        mut far: Vec<Arc<dyn KvTier>>,
        truth: Truth,
        data_dir: Option<&Path>,
        clock: Arc<dyn Clock>,
    ) -> TieredKv {
        let durable = far.pop();
        let source = durable.clone().filter(|_| truth == Truth::Shared);
        let shared = far.into_iter().zip(SHARED_NAMES);
        let shared = shared
            .map(|(tier, name)| Far::new(name, tier, source.clone(), data_dir.map(Debts::new), clock.clone()))
            .collect();
        let stripes = (0..STRIPES).map(|_| Mutex::new(0)).collect();
        TieredKv {
            near,
            shared,
            durable,
            truth,
            clock,
            stripes,
            hasher: RandomState::new(),
            seals: None,
            looked_us: AtomicU64::new(0),
            doubt: Mutex::default(),
            loads: Loads::default(),
        }
    }

    /// Sets what tells the near tier of changes elsewhere.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "nothing is shared in this build"))]
    #[must_use]
    pub(crate) fn with_seals(mut self, seals: Arc<Seals>, stripe: StripeOf) -> TieredKv {
        if self.truth == Truth::Shared {
            // Otherwise the durable tier says it, too.
            seals.need_ears();
        }
        self.near = self.near.map(|near| near.with_seals(seals.clone()));
        self.seals = Some((seals, stripe));
        self
    }

    /// Returns what this process knows of a key, at once: `None` if it knows nothing.
    pub fn get_now(&self, key: KvKeyRef<'_>) -> Option<Arc<KvEntry>> {
        let near = self.near.as_ref()?;
        self.drop_what_others_changed();
        near.get_now(key)
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
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
        let any = {
            let mut doubt = self.doubt.lock();
            doubt.keys.retain(|(key, until)| {
                self.begin(key);
                now < *until
            });
            now < doubt.any_until
        };
        if any {
            self.forget_all(near);
        }
        let mut drop = |change| match change {
            Elsewhere::Key(key) => match Invalidation::noted(&key) {
                Some(what) => self.loads.invalidated(&what),
                None => {
                    self.loads.changed_elsewhere(&key);
                    self.begin(&key);
                }
            },
            Elsewhere::Everything => self.forget_all(near),
        };
        self.shared.iter().for_each(|tier| tier.changed_elsewhere(&mut drop));
        self.durable.iter().for_each(|tier| tier.changed_elsewhere(&mut drop));
    }

    /// Returns the tiers that are stepped over just now.
    pub(crate) fn away(&self) -> Vec<&'static str> {
        self.shared.iter().filter(|tier| tier.is_away()).map(Far::name).collect()
    }

    /// Asks the nearest shared tier how it is, if there is one.
    pub(crate) async fn shared_health(&self) -> Option<TierHealth> {
        match self.shared.first() {
            Some(tier) => Some(tier.health().await),
            None => None,
        }
    }

    /// Removes keys from all tiers but the durable one, which has forgotten them by itself; returns how many were in the
    /// shared ones, `None` where one of them will have to catch up with it.
    pub(crate) async fn forget_shared(&self, what: &Invalidation) -> Option<u64> {
        let removed = self.invalidate_shared(what).await;
        self.invalidate_near(what);
        removed
    }

    async fn invalidate_shared(&self, what: &Invalidation) -> Option<u64> {
        let mut removed = Some(0);
        for tier in &self.shared {
            let here = tier.invalidate(what).await;
            removed = removed.zip(here).map(|(before, here)| here.max(before));
        }
        removed
    }

    fn invalidate_near(&self, what: &Invalidation) -> u64 {
        self.loads.invalidated(what);
        // What is being brought nearer right now may be meant, too.
        for stripe in &self.stripes {
            *stripe.lock() += 1;
        }
        self.near.as_ref().map_or(0, |near| near.invalidate_now(what))
    }

    pub(crate) fn has_shared(&self) -> bool {
        !self.shared.is_empty()
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
        // Before anything is read: what changes from now on is seen in the count.
        let seal = self.seals.as_ref().map_or_else(Seal::default, |(seals, stripe)| seals.seal(stripe(key)));
        Moment { stripe, writes: *self.stripes[stripe].lock(), seal }
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

    /// Takes note that a key was written beside the tiers, where the durable one has it.
    pub(crate) fn written_beside(&self, key: &KvKey) {
        self.loads.changed_elsewhere(key);
        self.begin(key);
    }

    /// Ends a write or a read: puts an entry near, unless another write was under way.
    fn settle(&self, key: &KvKey, moment: Moment, entry: Option<Arc<KvEntry>>) {
        let Some(near) = &self.near else { return };
        let mut writes = self.stripes[moment.stripe].lock();
        if *writes == moment.writes {
            if let Some(entry) = entry {
                near.set_sealed(key.clone(), entry, moment.seal);
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
            near.set_sealed(key.clone(), entry, moment.seal);
        }
    }

    /// Looks a key up, nearest tier first, and says where it was found.
    ///
    /// # Errors
    /// What the durable tier says, where it had to be asked.
    pub async fn look(&self, key: &KvKey) -> Result<Looked> {
        if let Some(entry) = self.get_now(key.borrowed()) {
            let entry = Some(entry).filter(|entry| entry.value.is_some());
            return Ok(Looked { tier: entry.is_some().then_some("l1"), entry, stepped_over: self.away() });
        }
        self.look_far(key).await
    }

    /// Looks a key up without asking the tier in this process, which then has what was found.
    pub(crate) async fn look_far(&self, key: &KvKey) -> Result<Looked> {
        let moment = self.moment(key);
        let looked = self.read_far(key).await?;
        // Where a shared tier is right, what it has not confirmed is read again when it is back.
        if self.truth == Truth::Shared && !looked.stepped_over.is_empty() {
            return Ok(looked);
        }
        match &looked.entry {
            Some(entry) => self.promote(key, moment, entry.clone()),
            None => {
                let until = self.has_shared().then(|| self.clock.now().checked_add(ABSENT).ok()).flatten();
                let absent = KvEntry { expires_at: until, stale_until: until, ..KvEntry::absent() };
                self.promote(key, moment, Arc::new(absent));
            }
        }
        Ok(looked)
    }

    async fn read_far(&self, key: &KvKey) -> Result<Looked> {
        let began = self.clock.monotonic();
        let mut looked = Looked::default();
        let mut empty = Vec::new();
        for tier in &self.shared {
            match tier.get(key).await {
                Said::Entry(entry) => {
                    self.bring_up(&empty, key, &entry, began).await;
                    return Ok(Looked { entry: Some(entry), tier: Some(tier.name()), ..looked });
                }
                Said::Nothing => empty.push(tier),
                Said::SteppedOver => looked.stepped_over.push(tier.name()),
            }
        }
        // Others may have changed what this process alone has, unless it was written since the shared tier is away.
        let counts =
            self.truth == Truth::Durable || (empty.is_empty() && self.shared.iter().any(|tier| tier.owes(key)));
        let Some(durable) = self.durable.as_ref().filter(|_| counts) else { return Ok(looked) };
        looked.entry = durable.get(key).await?;
        if let Some(entry) = &looked.entry {
            looked.tier = Some("l3");
            self.bring_up(&empty, key, entry, began).await;
        }
        Ok(looked)
    }

    async fn bring_up(&self, tiers: &[&Far], key: &KvKey, entry: &Arc<KvEntry>, began: Duration) {
        for tier in tiers {
            tier.promote(key, entry.clone(), self.clock.monotonic().saturating_sub(began)).await;
        }
    }

    /// Writes to the durable tier between the two steps of the shared ones; returns whether the key was there: the tier that
    /// is right says so, if it is reached.
    async fn write(&self, key: &KvKey, entry: Option<Arc<KvEntry>>) -> Result<bool> {
        let mut begun = Vec::with_capacity(self.shared.len());
        for tier in &self.shared {
            begun.push((tier, tier.begin(key).await));
        }
        let said = |(_, ticket): &(&Far, Option<Ticket>)| ticket.map(|ticket| ticket.found);
        let decided = begun.first().filter(|_| self.truth == Truth::Shared).and_then(said);
        let mut found = begun.iter().filter_map(said).any(|found| found);
        if let Some(durable) = &self.durable {
            match &entry {
                Some(entry) => durable.set(key, entry.clone()).await?,
                None => found |= durable.delete(key).await?,
            }
        }
        for (tier, ticket) in begun.into_iter().rev() {
            tier.commit(key, entry.clone(), ticket).await;
        }
        Ok(decided.unwrap_or(found))
    }

    /// Takes a place on the load of a key: on the one that is under way, unless the key was changed since it began.
    pub(super) fn join_load(&self, key: &KvKey, tags: &[String]) -> Loading {
        self.loads.join(key, tags, self.moment(key).seal)
    }

    /// Takes note of what is known of a key, before a value is made for it.
    ///
    /// # Errors
    /// What the durable tier says.
    pub(super) async fn baseline(&self, key: &KvKey) -> Result<Baseline> {
        let seal = self.moment(key).seal;
        let shared = match self.decider() {
            Some(tier) => tier.version(key).await,
            None => None,
        };
        let durable = match &self.durable {
            Some(durable) => durable.version(key).await?,
            None => 0,
        };
        Ok(Baseline { seal, durable, shared })
    }

    /// Sets what was made since `baseline`, unless the key was changed since; returns whether it was set.
    ///
    /// # Errors
    /// What the durable tier says.
    pub(super) async fn set_unchanged(&self, key: &KvKey, entry: Arc<KvEntry>, baseline: Baseline) -> Result<bool> {
        let moment = self.begin(key);
        let write = Writing { tiers: self, key, moment, settled: false };
        let is_set = match self.decider() {
            Some(shared) => self.share_unchanged(shared, key, &entry, baseline).await?,
            None => self.write_unchanged(key, &entry, baseline).await?,
        };
        write.settle(is_set.then_some(entry));
        Ok(is_set)
    }

    /// Returns the shared tier that says what is right, if it is one.
    fn decider(&self) -> Option<&Far> {
        self.shared.first().filter(|_| self.truth == Truth::Shared)
    }

    /// Lets the durable tier decide, between the two steps of the shared ones.
    async fn write_unchanged(&self, key: &KvKey, entry: &Arc<KvEntry>, baseline: Baseline) -> Result<bool> {
        let mut begun = Vec::with_capacity(self.shared.len());
        for tier in &self.shared {
            begun.push((tier, tier.begin(key).await));
        }
        let (mut is_set, mut left) = (true, Some(entry.clone()));
        if let Some(durable) = &self.durable {
            is_set = durable.set_unchanged(key, entry.clone(), baseline.durable).await?;
            if !is_set {
                // What took the place of the marks comes back in theirs.
                left = durable.get(key).await?;
            }
        }
        for (tier, ticket) in begun.into_iter().rev() {
            tier.commit(key, left.clone(), ticket).await;
        }
        Ok(is_set)
    }

    /// Lets the shared tier decide; where it is away, this process's own, as far as it has heard of the others.
    async fn share_unchanged(
        &self,
        shared: &Far,
        key: &KvKey,
        entry: &Arc<KvEntry>,
        baseline: Baseline,
    ) -> Result<bool> {
        let said = match baseline.shared {
            Some(version) => shared.set_unchanged(key, entry.clone(), version).await,
            None => None,
        };
        let Some(durable) = &self.durable else { return Ok(said.unwrap_or(false)) };
        match said {
            Some(true) => durable.set(key, entry.clone()).await?,
            Some(false) => return Ok(false),
            None => {
                let is_heard_of = self.moment(key).seal != baseline.seal;
                if is_heard_of || !durable.set_unchanged(key, entry.clone(), baseline.durable).await? {
                    return Ok(false);
                }
                shared.owe(key);
            }
        }
        Ok(true)
    }
}

#[async_trait]
impl KvTier for TieredKv {
    async fn get(&self, key: &KvKey) -> Result<Option<Arc<KvEntry>>> {
        Ok(self.look(key).await?.entry)
    }

    async fn set(&self, key: &KvKey, entry: Arc<KvEntry>) -> Result<()> {
        let moment = self.begin(key);
        let write = Writing { tiers: self, key, moment, settled: false };
        self.loads.changed(key);
        self.write(key, Some(entry.clone())).await?;
        write.settle(Some(entry));
        // Once more: who began meanwhile may have begun before the value was there.
        self.loads.changed(key);
        Ok(())
    }

    async fn delete(&self, key: &KvKey) -> Result<bool> {
        let near = self.near.as_ref().is_some_and(|near| near.delete_now(key));
        let moment = self.begin(key);
        let write = Writing { tiers: self, key, moment, settled: false };
        self.loads.changed(key);
        let found = self.write(key, None).await?;
        write.settle(None);
        self.loads.changed(key);
        let is_alone = self.durable.is_none() && self.shared.is_empty();
        Ok(found || (near && is_alone))
    }

    async fn invalidate(&self, invalidation: &Invalidation) -> Result<u64> {
        // Before the durable tier and after it: a crash in between leaves nothing that is not there any more, and what was
        // brought up meanwhile goes again.
        self.loads.invalidated(invalidation);
        let shared = self.invalidate_shared(invalidation).await;
        let mut removed = shared.unwrap_or(0);
        if let Some(durable) = &self.durable {
            removed = removed.max(durable.invalidate(invalidation).await?);
            self.invalidate_shared(invalidation).await;
        }
        removed = removed.max(self.invalidate_near(invalidation));
        Ok(shared.filter(|_| self.truth == Truth::Shared).unwrap_or(removed))
    }

    async fn health(&self) -> TierHealth {
        match (&self.near, &self.durable) {
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
            let mut doubt = self.tiers.doubt.lock();
            if doubt.keys.len() < MOST_DOUBTFUL {
                doubt.keys.push((self.key.clone(), until));
            } else {
                doubt.any_until = until;
            }
        }
    }
}
