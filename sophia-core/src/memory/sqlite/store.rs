//! [`SqliteStore`]: the handle, and the traits that it implements.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::watch;

use super::{
    block_files::{self, BlockFiles},
    check,
    checkpoint_values::Lists,
    forget, kv, leases,
    open::Place,
    postings, read, search, stale, tallies,
    threads::{Sender, Threads},
    vectors::Blocks,
    write,
};
use crate::{
    Clock, Error, ErrorKind, Result, Scope, SystemClock,
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
/// Changes of records after which the index of words is put together; many more where there are many.
const MERGE_AFTER: i64 = 1_000;
/// Memory for vectors, in bytes, unless told otherwise.
const DEFAULT_VECTOR_BYTES: u64 = 512 * 1024 * 1024;

/// Records, keys and facts in one SQLite file, or in memory. Cheap to clone; all clones are one store.
///
/// Opens the file with its first use. Several processes may use one directory.
#[derive(Debug, Clone)]
pub struct SqliteStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: Place,
    clock: Arc<dyn Clock>,
    threads: Mutex<Option<Threads>>,
    vectors: Arc<Blocks>,
    lists: Arc<Lists>,
    retention: Arc<RetentionConfig>,
    watch: kv::Watch,
    /// Monotonic time of the last purge, in milliseconds.
    purged_ms: AtomicI64,
    /// The last change that searches had seen when the index of words was put together; 0 before that.
    merged_up_to: AtomicI64,
    suspended: watch::Sender<bool>,
}

/// Sets up a [`SqliteStore`].
#[derive(Debug)]
#[must_use = "call build()"]
pub struct SqliteBuilder {
    place: Place,
    clock: Arc<dyn Clock>,
    vector_bytes: u64,
    retention: RetentionConfig,
}

impl SqliteBuilder {
    /// Sets the clock; the system's by default.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> SqliteBuilder {
        self.clock = clock;
        self
    }

    /// Sets the memory that vectors may take, in bytes. Default 512 MiB.
    pub fn max_vector_bytes(mut self, bytes: u64) -> SqliteBuilder {
        self.vector_bytes = bytes;
        self
    }

    /// Sets what is dropped by itself: its cap and half-life; times to live come with the records. Default nothing.
    pub fn retention(mut self, retention: RetentionConfig) -> SqliteBuilder {
        self.retention = retention;
        self
    }

    /// Returns the store. Opens nothing.
    pub fn build(self) -> SqliteStore {
        SqliteStore(Arc::new(Inner {
            watch: kv::Watch::new(self.place.file()),
            clock: self.clock,
            threads: Mutex::new(None),
            vectors: Arc::new(Blocks::new(self.vector_bytes, self.place.file().map(BlockFiles::beside))),
            lists: Arc::new(Lists::new()),
            retention: Arc::new(self.retention),
            purged_ms: AtomicI64::new(i64::MIN),
            merged_up_to: AtomicI64::new(0),
            place: self.place,
            suspended: watch::Sender::new(false),
        }))
    }
}

impl SqliteStore {
    /// Sets up a store in `sophia.db` in this directory, which is made if it is not there.
    pub fn in_directory(directory: impl Into<PathBuf>) -> SqliteBuilder {
        SqliteStore::at(Place::Directory(directory.into()))
    }

    /// Sets up a store that is private to this process and gone at its end.
    pub fn in_memory() -> SqliteBuilder {
        SqliteStore::at(Place::Memory)
    }

    fn at(place: Place) -> SqliteBuilder {
        SqliteBuilder {
            place,
            clock: Arc::new(SystemClock::default()),
            vector_bytes: DEFAULT_VECTOR_BYTES,
            retention: RetentionConfig::default(),
        }
    }

    pub(super) fn watch(&self) -> &kv::Watch {
        &self.0.watch
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    pub(super) async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let sender = self.sender().await?;
        let purge = self.is_time_to_purge();
        let (now, retention) = (self.0.clock.now(), self.0.retention.clone());
        sender
            .write(move |connection| {
                if purge {
                    write::purge(connection, now)?;
                    write::trim(connection, &retention, now)?;
                    kv::purge(connection, now)?;
                    tallies::purge(connection, now)?;
                }
                work(connection)
            })
            .await
    }

    pub(super) async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.sender().await?.read(work).await
    }

    /// Runs `work` on the writing connection, outside a transaction.
    pub(super) async fn bare<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.sender().await?.bare(work).await
    }

    /// Returns the data file, if there is one.
    pub(super) fn file(&self) -> Option<PathBuf> {
        self.0.place.file()
    }

    pub(super) fn lists(&self) -> Arc<Lists> {
        self.0.lists.clone()
    }

    /// Drops what is held in memory of the file.
    pub(super) fn forget_held(&self) {
        self.0.vectors.clear();
        self.0.lists.clear();
    }

    /// Returns a way to the threads, starting them if there are none that work.
    async fn sender(&self) -> Result<Sender> {
        loop {
            if let Some(sender) = self.sender_unless_suspended() {
                return sender;
            }
            // Fails only without the other end, which this store holds.
            let _ = self.0.suspended.subscribe().wait_for(|suspended| !suspended).await;
        }
    }

    fn sender_unless_suspended(&self) -> Option<Result<Sender>> {
        let mut threads = self.0.threads.lock();
        // Looked at under the lock: what `suspend` closes after it was said, it closes for good.
        (!self.is_suspended()).then(|| self.sender_of(&mut threads))
    }

    /// Returns whether nothing may be opened.
    pub(super) fn is_suspended(&self) -> bool {
        *self.0.suspended.borrow()
    }

    fn sender_of(&self, threads: &mut Option<Threads>) -> Result<Sender> {
        if let Some(threads) = threads.as_ref().filter(|threads| threads.is_usable()) {
            return Ok(threads.sender());
        }
        // What was held in memory may be of another file by now.
        self.forget_held();
        let started = Threads::start(&self.0.place)?;
        let sender = started.sender();
        *threads = Some(started);
        Ok(sender)
    }

    /// Removes files that hold what was erased.
    pub(super) async fn sweep(&self) -> Result<()> {
        let Some(path) = self.0.place.file() else { return Ok(()) };
        self.sender().await?.bare(move |connection| block_files::sweep(connection, &path)).await
    }

    fn is_time_to_purge(&self) -> bool {
        let now = i64::try_from(self.0.clock.monotonic().as_millis()).unwrap_or(i64::MAX);
        let last = self.0.purged_ms.load(Ordering::Relaxed);
        let due = now >= last.saturating_add(PURGE_EVERY.as_millis() as i64);
        due && self.0.purged_ms.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Returns whether so much was written that the index of words lies in many pieces.
    fn is_time_to_merge(&self) -> bool {
        let seen = self.0.vectors.seen();
        let last = self.0.merged_up_to.load(Ordering::Relaxed);
        let due = seen - last > MERGE_AFTER.max(seen / 10);
        due && self.0.merged_up_to.compare_exchange(last, seen, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[async_trait]
impl MemoryStore for SqliteStore {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    async fn insert(&self, drafts: Vec<Draft>, atomicity: Atomicity) -> Result<Vec<Result<Inserted>>> {
        self.write(move |connection| write::insert_all(connection, drafts, atomicity)).await
    }

    async fn update(&self, change: Change) -> Result<Record> {
        self.write(move |connection| write::update(connection, change)).await
    }

    async fn get(&self, lookup: Lookup) -> Result<Option<Record>> {
        self.read(move |connection| read::get(connection, &lookup)).await
    }

    async fn versions(&self, lookup: Lookup) -> Result<Vec<Record>> {
        self.read(move |connection| read::versions(connection, &lookup)).await
    }

    async fn search(&self, plan: Plan) -> Result<Found> {
        let vectors = self.0.vectors.clone();
        let found = self.read(move |connection| search::search(connection, &vectors, &plan)).await?;
        if let Some(key) = self.0.vectors.unsaved() {
            let vectors = self.0.vectors.clone();
            self.sender().await?.read_later(move |_| {
                vectors.save(key);
                Ok(())
            });
        }
        if let Some(key) = self.0.vectors.unread() {
            let vectors = self.0.vectors.clone();
            self.sender().await?.read_later(move |connection| vectors.read_ahead(connection, key));
        }
        if self.is_time_to_merge() {
            let mut is_first = true;
            self.sender().await?.write_later(move |connection| {
                postings::merge(connection, std::mem::take(&mut is_first)).unwrap_or_else(|error| {
                    // Another process may be writing: then it is done another time.
                    tracing::debug!(%error, "the index of words stays as it is");
                    false
                })
            });
        }
        Ok(found)
    }

    async fn list(&self, listing: Listing) -> Result<Vec<Record>> {
        self.read(move |connection| read::list(connection, &listing)).await
    }

    async fn delete(&self, filter: Filter, depth: Depth) -> Result<u64> {
        let count = self.write(move |connection| write::delete(connection, &filter, depth)).await?;
        if depth == Depth::Erase {
            self.sweep().await?;
        }
        Ok(count)
    }

    async fn sessions(&self, filter: Filter, limit: usize) -> Result<Vec<Session>> {
        self.read(move |connection| read::sessions(connection, &filter, limit)).await
    }

    async fn scopes_of(&self, user: &str) -> Result<Vec<Scope>> {
        let request = ForgetRequest::subject(user);
        self.read(move |connection| forget::scopes(connection, &request)).await
    }

    async fn forget(&self, request: ForgetRequest) -> Result<ForgetReceipt> {
        let origin = self.0.watch.origin();
        let receipt = self.write(move |connection| forget::forget(connection, &request, origin)).await?;
        self.0.lists.clear();
        self.sweep().await?;
        self.sender().await?.bare(forget::compact).await?;
        Ok(receipt)
    }

    async fn vector_models(&self) -> Result<Vec<ModelUse>> {
        self.read(stale::models).await
    }

    async fn stale_vectors(&self, model: &str, before: Option<i64>, limit: usize) -> Result<Vec<StaleVector>> {
        let model = model.to_owned();
        self.read(move |connection| stale::find(connection, &model, before, limit)).await
    }

    async fn set_vectors(&self, vectors: Vec<NewVector>) -> Result<u64> {
        self.write(move |connection| stale::set(connection, vectors)).await
    }

    async fn lease(&self, name: &str, holder: &str, lasts: Duration) -> Result<bool> {
        let (name, holder, now) = (name.to_owned(), holder.to_owned(), self.0.clock.now());
        self.write(move |connection| leases::take(connection, &name, &holder, lasts, now)).await
    }

    async fn stats(&self) -> Result<MemoryStats> {
        self.read(read::stats).await
    }

    async fn health(&self) -> TierHealth {
        let start = Instant::now();
        let detail = match self.0.place.file() {
            Some(path) => format!("SQLite, {}", path.display()),
            None => "SQLite in memory: gone with this process; set `data_dir` to keep it".to_owned(),
        };
        match self.read(read::count).await {
            Ok(entries) => TierHealth {
                latency_ms: Some(start.elapsed().as_secs_f64() * 1e3),
                entries: Some(entries),
                ..TierHealth::new(TierStatus::Healthy).detail(detail)
            },
            Err(error) => TierHealth::new(TierStatus::Unhealthy).detail(error.to_string()),
        }
    }

    async fn open(&self) -> Result<()> {
        self.write(|_| Ok(())).await
    }

    async fn close(&self) -> Result<()> {
        if self.0.place == Place::Memory {
            // The data lives in the connection: closing it would lose what was acknowledged.
            return Ok(());
        }
        self.0.watch.close();
        let Some(threads) = self.0.threads.lock().take() else { return Ok(()) };
        let (done, ended) = tokio::sync::oneshot::channel();
        let joined = std::thread::Builder::new().name("sophia-memory-close".to_owned()).spawn(move || {
            threads.join();
            let _ = done.send(());
        });
        if joined.is_ok() {
            // Fails only if the thread is gone, and then it is done.
            let _ = ended.await;
        }
        Ok(())
    }

    async fn suspend(&self) -> Result<()> {
        if self.0.place != Place::Memory {
            self.0.suspended.send_replace(true);
        }
        self.close().await
    }

    fn resume(&self) {
        self.0.suspended.send_replace(false);
    }
}

/// Turns a failure of SQLite into an error of `operation`.
pub(in crate::memory) fn internal(operation: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |error| {
        let (kind, message) = match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                (ErrorKind::Unavailable, "another process holds the data file")
            }
            Some(rusqlite::ErrorCode::DiskFull) => (ErrorKind::Unavailable, "the disk is full"),
            Some(rusqlite::ErrorCode::SystemIoFailure | rusqlite::ErrorCode::CannotOpen) => {
                (ErrorKind::Unavailable, "the data file cannot be read or written")
            }
            Some(rusqlite::ErrorCode::ReadOnly) => (ErrorKind::Unavailable, "the data file cannot be written"),
            Some(rusqlite::ErrorCode::DatabaseCorrupt) if is_derived(&error) => {
                (ErrorKind::Internal, "the index of words is damaged: `sophia memory check --repair` makes it anew")
            }
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                let message = format!("the data file is damaged: {}", check::RESTORE);
                return Error::new(ErrorKind::Internal, operation, message).with_source(error);
            }
            _ => (ErrorKind::Internal, "the data file refused a statement"),
        };
        Error::new(kind, operation, message).with_source(error)
    }
}

/// Returns whether damage is in the index of words, which is made of the rest.
fn is_derived(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_CORRUPT_VTAB)
}

/// Returns a time as the data file holds it: microseconds since 1970.
pub(super) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// Returns a time from the data file.
pub(super) fn timestamp(micros: i64) -> Timestamp {
    // Only times that were timestamps are written.
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}
