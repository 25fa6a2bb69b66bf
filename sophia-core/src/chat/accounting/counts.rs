//! Where limits and costs are counted: in this process, and where processes share it, if they do.
//!
//! Who asks for leave is counted at once and for all. What answers used is shared a moment later, in the background. While
//! the shared store is away, this process goes on from what it saw last, and adds what it counted when the store is back.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use uuid::Uuid;

use crate::{
    Clock, Result,
    resilience::{BreakerConfig, CircuitBreaker},
    tally::{Applied, LocalTallies, TallyChange, TallyStore},
};

/// Changes that wait to be shared, at most: beyond, those of numbers that nothing waits for yet are lost.
const MAX_PENDING: usize = 65_536;
/// Batches that are in doubt, at most: beyond, what is in doubt may count twice.
const MAX_DOUBTED: usize = 1_024;
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
    waiting: Mutex<Waiting>,
    /// Held while changes are shared: who comes meanwhile waits until they are.
    sharing: Arc<tokio::sync::Mutex<()>>,
}

/// What is not shared yet.
#[derive(Debug, Default)]
struct Waiting {
    pending: HashMap<(String, String), TallyChange>,
    /// What the store was asked for and did not confirm: a timeout does not say whether it was done.
    doubted: VecDeque<Batch>,
}

/// Changes that are applied once under their name, however often they are tried.
#[derive(Debug)]
struct Batch {
    name: String,
    changes: Vec<TallyChange>,
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
            waiting: Mutex::default(),
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
        let name = name_of_batch();
        let asked = self.ask(shared.apply_once(&name, changes)).await;
        if let Some(Ok(applied)) = asked {
            if applied.applied {
                self.0.local.take_over(changes, &applied.numbers);
            }
            return applied;
        }
        let applied = self.0.local.apply_now(changes);
        if applied.applied {
            let added = changes.iter().filter(|change| change.amount != 0.0);
            let changes = added.map(|change| TallyChange { at_most: None, ..change.clone() }).collect();
            match asked {
                Some(_) => self.doubt(Batch { name, changes }),
                None => self.pend(changes),
            }
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
        let pending = &mut self.0.waiting.lock().pending;
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
        let waiting = self.0.waiting.lock();
        waiting.pending.is_empty() && waiting.doubted.is_empty()
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
        let Some(shared) = &self.0.shared else { return false };
        let Some(batch) = self.next_batch() else { return false };
        let is_shared = matches!(self.ask(shared.apply_once(&batch.name, &batch.changes)).await, Some(Ok(_)));
        if !is_shared {
            self.doubt(batch);
        }
        is_shared
    }

    fn next_batch(&self) -> Option<Batch> {
        let now = self.0.clock.now();
        let mut waiting = self.0.waiting.lock();
        let Waiting { pending, doubted } = &mut *waiting;
        doubted.retain(|batch| batch.changes.iter().any(|change| change.expires_at > now));
        if let Some(batch) = doubted.pop_front() {
            return Some(batch);
        }
        pending.retain(|_, change| change.expires_at > now);
        let names: Vec<_> = pending.keys().take(MAX_STEP).cloned().collect();
        let changes: Vec<_> = names.iter().filter_map(|name| pending.remove(name)).collect();
        (!changes.is_empty()).then(|| Batch { name: name_of_batch(), changes })
    }

    /// Notes changes of which nobody knows whether they were applied.
    fn doubt(&self, batch: Batch) {
        let mut waiting = self.0.waiting.lock();
        if waiting.doubted.len() < MAX_DOUBTED {
            return waiting.doubted.push_back(batch);
        }
        drop(waiting);
        self.pend(batch.changes);
    }

    /// Returns the numbers of a group, as far as this process can know them.
    pub async fn read(&self, group: &str) -> Vec<(String, f64)> {
        if let Some(shared) = &self.0.shared
            && let Some(Ok(numbers)) = self.ask(shared.read(group)).await
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

    /// Asks the store, unless it failed lately: then it is `None`.
    async fn ask<T>(&self, work: impl Future<Output = Result<T>>) -> Option<Result<T>> {
        let call = self.0.breaker.acquire("chat.tally").ok()?;
        let outcome = work.await;
        match &outcome {
            Ok(_) => call.success(),
            Err(error) => {
                tracing::debug!(code = error.code(), "counted in this process alone");
                call.failure();
            }
        }
        Some(outcome)
    }

    #[cfg(test)]
    pub fn local(&self) -> &LocalTallies {
        &self.0.local
    }
}

fn name_of_batch() -> String {
    Uuid::now_v7().simple().to_string()
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        sync::atomic::{AtomicBool, Ordering},
    };

    use async_trait::async_trait;

    use super::*;
    use crate::{Error, ErrorKind, ManualClock, Timestamp};

    /// A store that does what it is asked and, while it is slow, says so too late.
    #[derive(Debug)]
    struct Late {
        numbers: LocalTallies,
        known: Mutex<HashSet<String>>,
        is_slow: AtomicBool,
    }

    #[async_trait]
    impl TallyStore for Late {
        async fn apply(&self, changes: &[TallyChange]) -> Result<Applied> {
            let applied = self.numbers.apply_now(changes);
            match self.is_slow.load(Ordering::SeqCst) {
                true => Err(Error::new(ErrorKind::Timeout, "test", "too late")),
                false => Ok(applied),
            }
        }

        async fn apply_once(&self, batch: &str, changes: &[TallyChange]) -> Result<Applied> {
            let is_new = self.known.lock().insert(batch.to_owned());
            self.apply(if is_new { changes } else { &[] }).await
        }

        async fn read(&self, group: &str) -> Result<Vec<(String, f64)>> {
            Ok(self.numbers.read_now(group))
        }
    }

    #[tokio::test]
    async fn what_was_done_and_said_too_late_counts_once() {
        let clock = Arc::new(ManualClock::default());
        let (numbers, known) = (LocalTallies::new(clock.clone()), Mutex::default());
        let store = Arc::new(Late { numbers, known, is_slow: AtomicBool::new(true) });
        let counts = Counts::new(clock.clone(), Some(store.clone()));
        let add = |field: &str| TallyChange::add("g", field, 1.0, Timestamp::MAX);
        assert!(counts.try_apply(&[add("asked").at_most(10.0)]).await.applied);
        counts.add(vec![add("used")]);
        counts.share().await;
        counts.add(vec![add("used")]);
        store.is_slow.store(false, Ordering::SeqCst);
        clock.advance(Duration::from_secs(60));
        counts.share().await;
        let mut shared = counts.read_shared("g").await.unwrap();
        shared.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(shared, [("asked".to_owned(), 1.0), ("used".to_owned(), 2.0)]);
        assert!(counts.is_in_step());
    }
}
