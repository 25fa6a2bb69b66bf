//! [`PostgresStore`]: the handle, and the traits that it implements.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    config::PostgresConfig,
    forget, kv,
    link::{Link, SERVICE},
    listen::Ears,
    read, search, stale, write,
};
use crate::{
    Clock, Error, ErrorKind, NoSignals, Result, Scope, Signals,
    memory::{
        RetentionConfig,
        forget::{ForgetReceipt, ForgetRequest},
        health::{MemoryStats, Session, TierHealth, TierStatus},
        record::Record,
        store::{
            Atomicity, Change, Depth, Draft, Filter, Found, Inserted, Listing, Lookup, MemoryStore, ModelUse,
            NewVector, Plan, StaleVector,
        },
    },
};

/// Time between two purges of what has expired.
const PURGE_EVERY: Duration = Duration::from_secs(60);

/// Records, keys, facts and checkpoints in Postgres. Cheap to clone; all clones are one store.
///
/// Connects with its first use. Any number of processes, on any number of machines, may use one schema.
#[derive(Debug, Clone)]
pub struct PostgresStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Link,
    clock: Arc<dyn Clock>,
    retention: RetentionConfig,
    ears: Ears,
    /// Monotonic time of the last purge, in milliseconds.
    purged_ms: AtomicI64,
}

impl PostgresStore {
    /// Sets up a store in the schema that the configuration names. Connects to nobody.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for a URL or a file that cannot be used.
    pub fn new(config: &PostgresConfig, clock: Arc<dyn Clock>) -> Result<PostgresStore> {
        PostgresStore::with_retention(config, RetentionConfig::default(), clock)
    }

    /// As [`PostgresStore::new`], with what is dropped by itself: its cap and half-life; times to live come with the records.
    ///
    /// # Errors
    /// As [`PostgresStore::new`].
    pub fn with_retention(
        config: &PostgresConfig,
        retention: RetentionConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<PostgresStore> {
        PostgresStore::with_signals(config, retention, clock, Arc::new(NoSignals))
    }

    pub(crate) fn with_signals(
        config: &PostgresConfig,
        retention: RetentionConfig,
        clock: Arc<dyn Clock>,
        signals: Signals,
    ) -> Result<PostgresStore> {
        config.validate()?;
        signals.depends("memory", SERVICE);
        let link = Link::new(config, signals)?;
        let (ears, purged_ms) = (Ears::new(&link), AtomicI64::new(i64::MIN));
        Ok(PostgresStore(Arc::new(Inner { link, clock, retention, ears, purged_ms })))
    }

    pub(super) fn link(&self) -> &Link {
        &self.0.link
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    pub(super) fn ears(&self) -> &Ears {
        &self.0.ears
    }

    /// Removes some of what has expired, from time to time.
    pub(super) async fn purge(&self) -> Result<()> {
        if self.is_time_to_purge() {
            let now = self.0.clock.now();
            write::purge(self.link(), now).await?;
            write::trim(self.link(), &self.0.retention, now).await?;
            kv::purge(self.link(), now).await?;
        }
        Ok(())
    }

    fn is_time_to_purge(&self) -> bool {
        let now = i64::try_from(self.0.clock.monotonic().as_millis()).unwrap_or(i64::MAX);
        let last = self.0.purged_ms.load(Ordering::Relaxed);
        let due = now >= last.saturating_add(PURGE_EVERY.as_millis() as i64);
        due && self.0.purged_ms.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[async_trait]
impl MemoryStore for PostgresStore {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn insert(&self, drafts: Vec<Draft>, atomicity: Atomicity) -> Result<Vec<Result<Inserted>>> {
        let work = async {
            self.purge().await?;
            write::insert_all(self.link(), drafts, atomicity).await
        };
        self.link().within("memory.store", work).await
    }

    async fn update(&self, change: Change) -> Result<Record> {
        self.link().within("memory.update", write::update(self.link(), change)).await
    }

    async fn get(&self, lookup: Lookup) -> Result<Option<Record>> {
        const OPERATION: &str = "memory.get";
        let work = async { read::get(&self.link().session(OPERATION).await?, &lookup).await };
        self.link().within(OPERATION, work).await
    }

    async fn versions(&self, lookup: Lookup) -> Result<Vec<Record>> {
        const OPERATION: &str = "memory.versions";
        let work = async { read::versions(&self.link().session(OPERATION).await?, &lookup).await };
        self.link().within(OPERATION, work).await
    }

    async fn search(&self, plan: Plan) -> Result<Found> {
        const OPERATION: &str = "memory.search";
        let work = async { search::search(&self.link().session(OPERATION).await?, &plan).await };
        self.link().within(OPERATION, work).await
    }

    async fn list(&self, listing: Listing) -> Result<Vec<Record>> {
        const OPERATION: &str = "memory.list";
        let work = async { read::list(&self.link().session(OPERATION).await?, &listing).await };
        self.link().within(OPERATION, work).await
    }

    async fn delete(&self, filter: Filter, depth: Depth) -> Result<u64> {
        self.link().within("memory.delete", write::delete(self.link(), &filter, depth)).await
    }

    async fn sessions(&self, filter: Filter, limit: usize) -> Result<Vec<Session>> {
        const OPERATION: &str = "memory.sessions";
        let work = async { read::sessions(&self.link().session(OPERATION).await?, &filter, limit).await };
        self.link().within(OPERATION, work).await
    }

    async fn scopes_of(&self, user: &str) -> Result<Vec<Scope>> {
        const OPERATION: &str = "memory.forget";
        let work = async { forget::scopes_of(&self.link().session(OPERATION).await?, user).await };
        self.link().within(OPERATION, work).await
    }

    async fn forget(&self, request: ForgetRequest) -> Result<ForgetReceipt> {
        self.link().within("memory.forget", forget::forget(self.link(), self.ears(), &request)).await
    }

    async fn vector_models(&self) -> Result<Vec<ModelUse>> {
        const OPERATION: &str = "memory.stats";
        self.link().within(OPERATION, async { stale::models(&self.link().session(OPERATION).await?).await }).await
    }

    async fn stale_vectors(&self, model: &str, before: Option<i64>, limit: usize) -> Result<Vec<StaleVector>> {
        const OPERATION: &str = "memory.reembed";
        let work = async { stale::find(&self.link().session(OPERATION).await?, model, before, limit).await };
        self.link().within(OPERATION, work).await
    }

    async fn set_vectors(&self, vectors: Vec<NewVector>) -> Result<u64> {
        self.link().within("memory.reembed", stale::set(self.link(), vectors)).await
    }

    async fn lease(&self, name: &str, holder: &str, lasts: Duration) -> Result<bool> {
        const OPERATION: &str = "memory.lease";
        let now = micros(self.0.clock.now());
        let until = now.saturating_add(i64::try_from(lasts.as_micros()).unwrap_or(i64::MAX));
        let work = async {
            let sql = "INSERT INTO leases (name, holder, until) VALUES ($1, $2, $3) ON CONFLICT (name) DO UPDATE \
                 SET holder = excluded.holder, until = excluded.until \
                 WHERE leases.holder = excluded.holder OR leases.until <= $4";
            let taken = self.link().session(OPERATION).await?;
            taken.execute(sql, &[&name, &holder, &until, &now]).await.map(|changed| changed > 0)
        };
        self.link().within(OPERATION, work).await
    }

    async fn stats(&self) -> Result<MemoryStats> {
        const OPERATION: &str = "memory.stats";
        self.link().within(OPERATION, async { read::stats(&self.link().session(OPERATION).await?).await }).await
    }

    async fn health(&self) -> TierHealth {
        const OPERATION: &str = "memory.health";
        let start = Instant::now();
        let work = async {
            let taken = self.link().session(OPERATION).await?;
            Ok((read::count(&taken).await?, taken.tables.note.clone()))
        };
        match self.link().within(OPERATION, work).await {
            Ok((entries, note)) => {
                let note = note.map(|note| format!("; {note}")).unwrap_or_default();
                TierHealth {
                    latency_ms: Some(start.elapsed().as_secs_f64() * 1e3),
                    entries: Some(entries),
                    ..TierHealth::new(TierStatus::Healthy).detail(format!("Postgres, {}{note}", self.link().describe()))
                }
            }
            Err(error) => TierHealth::new(TierStatus::Unhealthy).detail(format!(
                "Postgres, {}: {}",
                self.link().describe(),
                error.message()
            )),
        }
    }

    async fn open(&self) -> Result<()> {
        const OPERATION: &str = "memory.open";
        self.link().within(OPERATION, async { self.link().session(OPERATION).await.map(drop) }).await?;
        self.ears().start();
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.ears().stop();
        self.link().close();
        Ok(())
    }
}

/// Returns a time as the tables hold it: microseconds since 1970.
pub(super) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// Returns a time from the tables.
pub(super) fn timestamp(micros: i64) -> Timestamp {
    // Only times that were timestamps are written.
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Writes what always can be written as JSON: text, numbers that were validated, and maps with text keys.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Reads JSON that was written by [`json`].
pub(super) fn read_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        Error::new(ErrorKind::Internal, "memory.postgres", "what is stored cannot be read").with_source(error)
    })
}
