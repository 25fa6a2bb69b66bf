//! Where limits and costs are counted: in this process, and where processes share it, if they do.
//!
//! Who asks for leave is counted at once and for all. What answers used is shared a moment later, in the background. While
//! the shared store is away, this process goes on from what it saw last, and adds what it counted when the store is back.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::{
    Clock, Result,
    resilience::{BreakerConfig, CircuitBreaker},
    tally::{Applied, LocalTallies, TallyChange, TallyStore},
};

/// Changes that wait to be shared, at most: beyond, those of numbers that nothing waits for yet are lost.
const MAX_PENDING: usize = 65_536;
/// Changes in one step, so that nobody else waits for long.
const MAX_STEP: usize = 512;

/// What was counted. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Counts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    local: LocalTallies,
    shared: Option<Arc<dyn TallyStore>>,
    breaker: CircuitBreaker,
    pending: Mutex<HashMap<(String, String), TallyChange>>,
    /// Held while changes are shared: who comes meanwhile waits until they are.
    sharing: Arc<tokio::sync::Mutex<()>>,
}

impl Counts {
    pub fn new(clock: Arc<dyn Clock>, shared: Option<Arc<dyn TallyStore>>) -> Counts {
        let breaker = BreakerConfig {
            consecutive_failures: 3,
            open_for: Duration::from_millis(500),
            max_open: Duration::from_secs(5),
            ..BreakerConfig::default()
        };
        Counts(Arc::new(Inner {
            local: LocalTallies::new(clock.clone()),
            breaker: CircuitBreaker::new("chat.tally", breaker, clock.clone()),
            clock,
            shared,
            pending: Mutex::default(),
            sharing: Arc::default(),
        }))
    }

    pub fn is_shared(&self) -> bool {
        self.0.shared.is_some()
    }

    /// Applies changes of different numbers, if every number may become what it would.
    pub async fn try_apply(&self, changes: &[TallyChange]) -> Applied {
        let Some(shared) = &self.0.shared else { return self.0.local.apply_now(changes) };
        self.share().await;
        if let Some(applied) = self.ask(shared.apply(changes)).await {
            if applied.applied {
                self.0.local.take_over(changes, &applied.numbers);
            }
            return applied;
        }
        let applied = self.0.local.apply_now(changes);
        if applied.applied {
            self.pend(changes.iter().filter(|change| change.amount != 0.0).cloned());
        }
        applied
    }

    /// Applies changes whatever the numbers become.
    pub fn add(&self, changes: Vec<TallyChange>) {
        self.0.local.apply_now(&changes);
        self.pend(changes);
    }

    /// Notes changes to be shared.
    pub fn pend(&self, changes: impl IntoIterator<Item = TallyChange>) {
        if !self.is_shared() {
            return;
        }
        let mut pending = self.0.pending.lock();
        for change in changes {
            let name = (change.group.clone(), change.field.clone());
            if let Some(waiting) = pending.get_mut(&name) {
                waiting.amount += change.amount;
                waiting.floor = waiting.floor.max(change.floor);
                waiting.expires_at = waiting.expires_at.max(change.expires_at);
            } else if pending.len() < MAX_PENDING {
                pending.insert(name, TallyChange { at_most: None, ..change });
            }
        }
    }

    /// Returns whether nothing waits to be shared.
    pub fn is_in_step(&self) -> bool {
        self.0.pending.lock().is_empty()
    }

    /// Shares what waits for it, as far as the store can be reached.
    pub async fn share(&self) {
        // Who finds nothing waiting may still have to wait for what is on its way.
        if self.is_in_step() && self.0.sharing.try_lock().is_ok() {
            return;
        }
        let held = self.0.sharing.clone().lock_owned().await;
        if self.is_in_step() {
            return;
        }
        let counts = self.clone();
        // A task of its own: who is cancelled meanwhile must not lose what was taken, nor let it count twice.
        let work = tokio::spawn(async move {
            let _held = held;
            while counts.share_some().await {}
        });
        // Fails only where the runtime ends, and with it this process.
        let _ = work.await;
    }

    async fn share_some(&self) -> bool {
        let now = self.0.clock.now();
        let some: Vec<TallyChange> = {
            let mut pending = self.0.pending.lock();
            pending.retain(|_, change| change.expires_at > now);
            let names: Vec<_> = pending.keys().take(MAX_STEP).cloned().collect();
            names.iter().filter_map(|name| pending.remove(name)).collect()
        };
        let Some(shared) = self.0.shared.as_ref().filter(|_| !some.is_empty()) else { return false };
        let is_shared = self.ask(shared.apply(&some)).await.is_some();
        if !is_shared {
            self.pend(some);
        }
        is_shared
    }

    /// Returns the numbers of a group, as far as this process can know them.
    pub async fn read(&self, group: &str) -> Vec<(String, f64)> {
        if let Some(shared) = &self.0.shared
            && let Some(numbers) = self.ask(shared.read(group)).await
        {
            return numbers;
        }
        self.0.local.read_now(group)
    }

    /// Returns the numbers of a group in the shared store, if there is one.
    pub async fn read_shared(&self, group: &str) -> Result<Vec<(String, f64)>> {
        match &self.0.shared {
            Some(shared) => shared.read(group).await,
            None => Ok(Vec::new()),
        }
    }

    async fn ask<T>(&self, work: impl Future<Output = Result<T>>) -> Option<T> {
        let call = self.0.breaker.acquire("chat.tally").ok()?;
        match work.await {
            Ok(value) => {
                call.success();
                Some(value)
            }
            Err(error) => {
                tracing::debug!(code = error.code(), "counted in this process alone");
                call.failure();
                None
            }
        }
    }

    #[cfg(test)]
    pub fn local(&self) -> &LocalTallies {
        &self.0.local
    }
}
