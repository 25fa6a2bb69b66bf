//! [`Far`]: a shared tier that may be away.
//!
//! It is asked through a breaker, and stepped over while that is open. What was written meanwhile is written down, and
//! the tier is not read until it has caught up: what was deleted while it was away does not come back with it.

use std::{
    collections::HashSet,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, task::AbortHandle};

use super::{
    debts::Debts,
    tier::{Invalidation, KvEntry, KvKey, KvTier, Ticket},
};
use crate::{
    Clock, Result,
    memory::health::{TierHealth, TierStatus},
    resilience::{BreakerConfig, BreakerState, CircuitBreaker},
};

/// Keys and invalidations that are written down while a tier is away; with more, it is cleared when it is back.
const MOST_MISSED: usize = 10_000;
/// First and longest wait between two tries to catch up.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A shared tier that may be away. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Far(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: &'static str,
    tier: Arc<dyn KvTier>,
    breaker: CircuitBreaker,
    /// What is set again when it is back, where it is the truth; else keys are removed, and read again from farther on.
    source: Option<Arc<dyn KvTier>>,
    missed: Mutex<Missed>,
    /// What outlives this process, where there is a directory for it.
    debts: Option<Debts>,
    has_inherited: AtomicBool,
}

/// What a tier has missed.
#[derive(Debug, Default)]
struct Missed {
    keys: HashSet<KvKey>,
    invalidations: Vec<Invalidation>,
    everything: bool,
    /// Keys that were written while it is away, where it is the truth. As many as its source holds, and no more than that.
    written: HashSet<KvKey>,
    /// What is being caught up with: how many changes, and whether it is cleared.
    applying: Option<(usize, bool)>,
    /// Whether it is away or behind: until it has caught up, also with what is missed while it does.
    is_behind: bool,
    catching_up: Option<AbortHandle>,
}

/// What a tier says of a key.
#[derive(Debug)]
pub(super) enum Said {
    Entry(Arc<KvEntry>),
    Nothing,
    /// It was not asked, or did not answer.
    SteppedOver,
}

impl Far {
    pub fn new(
        name: &'static str,
        tier: Arc<dyn KvTier>,
        source: Option<Arc<dyn KvTier>>,
        debts: Option<Debts>,
        clock: Arc<dyn Clock>,
    ) -> Far {
        let config = BreakerConfig {
            consecutive_failures: 3,
            // A look costs one deadline, and a shared tier is worth having back soon.
            open_for: Duration::from_millis(500),
            max_open: Duration::from_secs(5),
            ..BreakerConfig::default()
        };
        let breaker = CircuitBreaker::new(format!("memory.{name}"), config, clock);
        Far(Arc::new(Inner {
            name,
            tier,
            breaker,
            source,
            missed: Mutex::default(),
            debts,
            has_inherited: AtomicBool::new(false),
        }))
    }

    pub fn name(&self) -> &'static str {
        self.0.name
    }

    pub async fn get(&self, key: &KvKey) -> Said {
        match self.ask(self.0.tier.get(key)).await {
            Some(Some(entry)) => Said::Entry(entry),
            Some(None) => Said::Nothing,
            None => Said::SteppedOver,
        }
    }

    pub async fn promote(&self, key: &KvKey, entry: Arc<KvEntry>, read_for: Duration) {
        // It is asked again next time.
        let _ = self.ask(self.0.tier.promote(key, entry, read_for)).await;
    }

    /// Begins a write; `None` where it will have to catch up with it.
    pub async fn begin(&self, key: &KvKey) -> Option<Ticket> {
        let ticket = self.ask(self.0.tier.begin(key)).await;
        if ticket.is_none() {
            self.miss(|missed| missed.key(key));
        }
        ticket
    }

    /// Ends a write.
    pub async fn commit(&self, key: &KvKey, entry: Option<Arc<KvEntry>>, ticket: Option<Ticket>) {
        let done = match ticket {
            Some(ticket) => self.ask(self.0.tier.commit(key, entry, ticket)).await,
            // Once more: what it caught up with meanwhile was the state before this write.
            None => None,
        };
        if done.is_none() {
            self.owe(key);
        }
    }

    /// Notes that its source has a write of this key, with which it will have to catch up.
    pub fn owe(&self, key: &KvKey) {
        self.miss(|missed| {
            missed.key(key);
            if self.0.source.is_some() {
                missed.written.insert(key.clone());
            }
        });
    }

    /// Returns whether its source has a write of this key that it has not.
    pub fn owes(&self, key: &KvKey) -> bool {
        self.0.missed.lock().written.contains(key)
    }

    /// Returns what a later write compares with; `None` where it did not answer.
    pub async fn version(&self, key: &KvKey) -> Option<i64> {
        self.ask(self.0.tier.version(key)).await
    }

    /// Sets what was made since `version`, and returns whether nothing was changed since; `None` where it did not answer.
    pub async fn set_unchanged(&self, key: &KvKey, entry: Arc<KvEntry>, version: i64) -> Option<bool> {
        self.ask(self.0.tier.set_unchanged(key, entry, version)).await
    }

    /// Returns how many keys were removed; `None` where it will have to catch up with it.
    pub async fn invalidate(&self, what: &Invalidation) -> Option<u64> {
        let removed = self.ask(self.0.tier.invalidate(what)).await;
        if removed.is_none() {
            self.miss(|missed| missed.invalidation(what));
        }
        removed
    }

    /// Returns whether it is stepped over just now.
    pub fn is_away(&self) -> bool {
        self.0.missed.lock().is_behind || self.0.breaker.snapshot().state == BreakerState::Open
    }

    pub async fn health(&self) -> TierHealth {
        let health = self.0.tier.health().await;
        let behind = {
            let missed = self.0.missed.lock();
            missed.is_behind.then(|| missed.describe())
        };
        match behind {
            None => health,
            Some(behind) => {
                let detail = health.detail.as_ref().map_or(behind.clone(), |detail| format!("{detail}; {behind}"));
                // It may answer again already; until it has caught up, it is not asked.
                let status = if health.status == TierStatus::Healthy { TierStatus::Degraded } else { health.status };
                TierHealth { status, ..health.detail(detail) }
            }
        }
    }

    pub fn changed_elsewhere(&self, drop: &mut dyn FnMut(super::tier::Elsewhere)) {
        self.0.tier.changed_elsewhere(drop);
    }

    /// Asks the tier, unless it is away; `None` where it did not answer.
    async fn ask<T>(&self, work: impl Future<Output = Result<T>>) -> Option<T> {
        if let Some(debts) = self.0.debts.as_ref().filter(|_| !self.0.has_inherited.swap(true, Ordering::AcqRel))
            && debts.inherit()
        {
            self.miss(|missed| missed.everything = true);
        }
        if self.0.missed.lock().is_behind {
            return None;
        }
        let call = self.0.breaker.acquire("memory.kv").ok()?;
        match work.await {
            Ok(value) => {
                call.success();
                Some(value)
            }
            Err(error) => {
                tracing::debug!(tier = self.0.name, code = error.code(), "stepped over a tier");
                call.failure();
                None
            }
        }
    }

    fn miss(&self, note: impl FnOnce(&mut Missed)) {
        let mut missed = self.0.missed.lock();
        note(&mut missed);
        if !std::mem::replace(&mut missed.is_behind, true)
            && let Some(debts) = &self.0.debts
        {
            // Before the durable tier has the change: one small file for each outage.
            debts.owe();
        }
        if missed.catching_up.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        // Without a runtime, the next write that is missed begins to catch up.
        let Ok(runtime) = Handle::try_current() else { return };
        tracing::warn!(tier = self.0.name, "a tier is away, and will have to catch up");
        missed.catching_up = Some(runtime.spawn(catch_up(Arc::downgrade(&self.0))).abort_handle());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = self.missed.get_mut().catching_up.take() {
            task.abort();
        }
    }
}

/// Tries until the tier has caught up with everything.
async fn catch_up(inner: Weak<Inner>) {
    let mut wait = RETRY.0;
    loop {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
        let Some(inner) = inner.upgrade() else { return };
        while let Some(missed) = inner.take() {
            if inner.apply(missed).await.is_err() {
                break;
            }
            // It answers: no need to wait for what came in meanwhile.
            wait = RETRY.0;
        }
        if inner.is_settled() {
            inner.breaker.reset();
            tracing::info!(tier = inner.name, "a tier has caught up");
            return;
        }
    }
}

impl Inner {
    fn take(&self) -> Option<Missed> {
        let mut missed = self.missed.lock();
        let taken = Missed {
            keys: std::mem::take(&mut missed.keys),
            invalidations: std::mem::take(&mut missed.invalidations),
            everything: std::mem::take(&mut missed.everything),
            ..Missed::default()
        };
        if taken.is_empty() {
            return None;
        }
        missed.applying = Some((taken.count(), taken.everything));
        Some(taken)
    }

    /// Returns whether nothing is left; from then on the tier is asked again.
    fn is_settled(&self) -> bool {
        let mut missed = self.missed.lock();
        let is_settled = missed.is_empty();
        if is_settled {
            missed.is_behind = false;
            missed.written = HashSet::new();
            missed.catching_up = None;
            self.debts.iter().for_each(Debts::settle);
        }
        is_settled
    }

    /// Writes what was missed, and puts back what could not be written.
    async fn apply(&self, mut missed: Missed) -> Result<()> {
        let outcome = self.write(&mut missed).await;
        let mut now = self.missed.lock();
        now.applying = None;
        if outcome.is_err() {
            now.everything |= missed.everything;
            missed.keys.iter().for_each(|key| now.key(key));
            missed.invalidations.iter().for_each(|what| now.invalidation(what));
        }
        outcome
    }

    async fn write(&self, missed: &mut Missed) -> Result<()> {
        if missed.everything {
            self.tier.clear().await?;
            *missed = Missed::default();
        }
        while let Some(what) = missed.invalidations.last() {
            self.tier.invalidate(what).await?;
            missed.invalidations.pop();
        }
        while let Some(key) = missed.keys.iter().next().cloned() {
            let entry = match &self.source {
                Some(source) => source.get(&key).await?,
                None => None,
            };
            match entry {
                Some(entry) => self.tier.set(&key, entry).await?,
                None => self.tier.delete(&key).await.map(drop)?,
            }
            missed.keys.remove(&key);
        }
        Ok(())
    }
}

impl Missed {
    fn key(&mut self, key: &KvKey) {
        if !self.everything {
            self.keys.insert(key.clone());
            self.bound();
        }
    }

    fn invalidation(&mut self, what: &Invalidation) {
        if !self.everything && !self.invalidations.contains(what) {
            self.invalidations.push(what.clone());
            self.bound();
        }
    }

    fn bound(&mut self) {
        if self.count() > MOST_MISSED {
            (self.keys, self.invalidations, self.everything) = (HashSet::new(), Vec::new(), true);
        }
    }

    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.invalidations.is_empty() && !self.everything
    }

    fn describe(&self) -> String {
        let (applying, clearing) = self.applying.unwrap_or_default();
        if self.everything || clearing {
            return "away, and cleared when it is back".to_owned();
        }
        format!("away, and {} changes behind", self.count() + applying)
    }

    fn count(&self) -> usize {
        self.keys.len() + self.invalidations.len()
    }
}
