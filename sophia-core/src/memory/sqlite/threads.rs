//! Who runs the statements: a thread that writes, threads that read, and calls that are alone.
//!
//! The writer takes all jobs that wait and commits them together: under load, many calls share one commit. Each job runs
//! in a savepoint, so that one that fails takes back only what is its own. Nothing is reported before the commit.
//!
//! A call beside which there is no other runs where it was made, if it may hold up that thread: to wake another one, and to be
//! woken by it, takes longer than most calls do.

use std::{
    future, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    thread,
    time::Duration,
};

use parking_lot::{Condvar, MappedMutexGuard, Mutex, MutexGuard};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::{
    runtime::{self, Handle, RuntimeFlavor},
    sync::{mpsc, oneshot},
    task,
};

use super::{
    internal,
    open::{self, Place},
    readers::Readers,
};
use crate::{Error, ErrorKind, Result};

/// Jobs that may wait for a thread; whoever brings more waits to hand it over.
const QUEUE: usize = 1024;
/// Most jobs in one commit.
const BATCH: usize = 256;
/// Threads that read.
const READERS: usize = 4;

/// The running threads. Dropping it lets them finish what is queued and end.
#[derive(Debug)]
pub(super) struct Threads {
    writer: mpsc::Sender<Task>,
    readers: Option<mpsc::Sender<Read>>,
    writing: thread::JoinHandle<()>,
    reading: Vec<thread::JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// What the threads, and calls that run by themselves, have in common.
#[derive(Debug)]
struct Shared {
    opened: Opened,
    /// The connection that writes; `None` before it is open, and when it is closed.
    writer: Mutex<Option<Connection>>,
    /// `None` where the one that writes is the only one.
    readers: Option<Readers>,
    /// Calls that write, and calls that read, from their beginning to their end.
    writes: AtomicUsize,
    reads: AtomicUsize,
}

type Read = Box<dyn FnOnce(Result<&Connection>) + Send>;

enum Task {
    Write(Box<dyn Write>),
    Read(Read),
    /// Runs outside a transaction.
    Bare(Read),
}

/// A write job of any result.
trait Write: Send {
    /// Runs inside the savepoint; returns whether to keep what it did.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Reports, after the commit.
    fn report(self: Box<Self>, committed: &Result<()>);
}

struct WriteJob<F, T> {
    work: Option<F>,
    outcome: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<F, T> Write for WriteJob<F, T>
where
    F: FnOnce(&Connection) -> Result<T> + Send,
    T: Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        self.outcome = self.work.take().map(|work| caught(|| work(connection)));
        matches!(self.outcome, Some(Ok(_)))
    }

    fn report(self: Box<Self>, committed: &Result<()>) {
        let outcome = match (self.outcome, committed) {
            (Some(Err(error)), _) => Err(error),
            (_, Err(error)) => Err(error.clone()),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (None, Ok(())) => Err(closed()),
        };
        // Nobody may be waiting any more.
        let _ = self.reply.send(outcome);
    }
}

/// Tells the readers that the writer has opened, or failed to open, the file.
#[derive(Debug, Default)]
struct Opened {
    outcome: Mutex<Option<Result<()>>>,
    changed: Condvar,
}

impl Opened {
    fn set(&self, outcome: Result<()>) {
        *self.outcome.lock() = Some(outcome);
        self.changed.notify_all();
    }

    fn wait(&self) -> Result<()> {
        let mut outcome = self.outcome.lock();
        loop {
            match &*outcome {
                Some(outcome) => return outcome.clone(),
                None => self.changed.wait(&mut outcome),
            }
        }
    }
}

impl Threads {
    /// Starts the threads; the file is opened by the writer, so that the caller does not wait for the disk.
    pub(super) fn start(place: &Place) -> Result<Threads> {
        let count = thread::available_parallelism().map_or(2, |count| count.get().clamp(2, READERS));
        let shared = Arc::new(Shared {
            opened: Opened::default(),
            writer: Mutex::default(),
            readers: place.file().map(|path| Readers::new(path, count)),
            writes: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
        });
        let (writer, tasks) = mpsc::channel(QUEUE);
        let writing = spawn("sophia-memory-writer", {
            let (place, shared) = (place.clone(), shared.clone());
            move || write_all(&place, tasks, &shared)
        })?;
        let (mut reading, mut readers) = (Vec::new(), None);
        if shared.readers.is_some() {
            let (sender, reads) = mpsc::channel(QUEUE);
            let reads: Arc<Mutex<mpsc::Receiver<Read>>> = Arc::new(Mutex::new(reads));
            for _ in 0..count {
                let (shared, reads) = (shared.clone(), reads.clone());
                reading.push(spawn("sophia-memory-reader", move || read_all(&reads, &shared))?);
            }
            readers = Some(sender);
        }
        Ok(Threads { writer, readers, writing, reading, shared })
    }

    /// Returns whether these threads can still be used: not so after a failure to open.
    pub(super) fn is_usable(&self) -> bool {
        !self.writer.is_closed() && !matches!(&*self.shared.opened.outcome.lock(), Some(Err(_)))
    }

    pub(super) fn sender(&self) -> Sender {
        Sender { writer: self.writer.clone(), readers: self.readers.clone(), shared: self.shared.clone() }
    }

    /// Lets the threads finish what is queued, and waits for them. The one that writes ends last: only the last connection
    /// removes the log.
    pub(super) fn join(self) {
        let Threads { writer, readers, writing, reading, shared } = self;
        drop(readers);
        // A thread that panicked has nothing left to flush.
        reading.into_iter().for_each(|thread| drop(thread.join()));
        shared.readers.iter().for_each(Readers::close);
        drop(writer);
        drop(writing.join());
    }
}

/// Runs jobs, or hands them to the threads.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    writer: mpsc::Sender<Task>,
    readers: Option<mpsc::Sender<Read>>,
    shared: Arc<Shared>,
}

impl Sender {
    /// Runs `work` in the next commit and returns its result after that commit.
    ///
    /// # Cancel safety
    /// A call that is dropped after the job was handed over does not stop the job.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let call = Call::begin(&self.shared.writes);
        let work = match self.write_here(&call, work).await {
            Ok(outcome) => return outcome,
            Err(work) => work,
        };
        let (reply, outcome) = oneshot::channel();
        let job = WriteJob { work: Some(work), outcome: None, reply };
        self.writer.send(Task::Write(Box::new(job))).await.map_err(|_| self.closed())?;
        outcome.await.map_err(|_| self.closed())?
    }

    /// Runs `work` on a reading connection, all of it in one snapshot.
    pub(super) async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let call = Call::begin(&self.shared.reads);
        let work = match self.read_here(&call, work).await {
            Ok(outcome) => return outcome,
            Err(work) => work,
        };
        let (reply, outcome) = oneshot::channel();
        let read: Read = Box::new(move |connection| {
            let _ = reply.send(connection.and_then(|connection| in_snapshot(connection, work)));
        });
        match &self.readers {
            Some(readers) => readers.send(read).await.map_err(|_| self.closed())?,
            None => self.writer.send(Task::Read(read)).await.map_err(|_| self.closed())?,
        }
        outcome.await.map_err(|_| self.closed())?
    }

    /// Commits `work` by itself, where the call may; hands it back where it may not, or somebody writes.
    async fn write_here<T, F>(&self, call: &Call<'_>, work: F) -> Result<Result<T>, F>
    where
        F: FnOnce(&Connection) -> Result<T>,
    {
        if !call.may_run_here().await {
            return Err(work);
        }
        let Some(connection) = self.idle_writer() else { return Err(work) };
        task::block_in_place(|| match begin_at_once(&connection) {
            Ok(transaction) => Ok(commit_one(transaction, work)),
            // Another process writes: the thread waits for it. Whatever else it is, it will meet as well.
            Err(_) => Err(work),
        })
    }

    /// Reads by itself, where the call may; hands `work` back where it may not, or no connection is free.
    async fn read_here<T, F>(&self, call: &Call<'_>, work: F) -> Result<Result<T>, F>
    where
        F: FnOnce(&Connection) -> Result<T>,
    {
        if !call.may_run_here().await {
            return Err(work);
        }
        let Some(readers) = &self.shared.readers else {
            let Some(connection) = self.idle_writer() else { return Err(work) };
            return Ok(task::block_in_place(|| in_snapshot(&connection, work)));
        };
        let Some(connection) = readers.try_take() else { return Err(work) };
        let outcome = task::block_in_place(|| in_snapshot(&connection, work));
        readers.give_back(connection);
        Ok(outcome)
    }

    /// Returns the connection that writes, where nobody uses it or waits for it.
    fn idle_writer(&self) -> Option<MappedMutexGuard<'_, Connection>> {
        let writer = self.shared.writer.try_lock().filter(|_| self.writer.capacity() == QUEUE)?;
        MutexGuard::try_map(writer, Option::as_mut).ok()
    }

    /// Runs `work` on a reading thread when one has time; not at all where too much waits already.
    pub(super) fn read_later(&self, work: impl FnOnce(&Connection) -> Result<()> + Send + 'static) {
        if let Some(readers) = &self.readers {
            // A queue that is full, or closed, is a good reason to do less.
            let _ = readers.try_send(Box::new(move |connection| {
                if let Err(error) = connection.and_then(|connection| caught(|| work(connection))) {
                    tracing::debug!(%error, "nobody waits for what failed");
                }
            }));
        }
    }

    /// Runs `work` on the writing connection, between the writes of others, for as long as it says that there is more to do; not
    /// where too much waits already, nor when the threads are to end.
    pub(super) fn write_later(&self, work: impl FnMut(&Connection) -> bool + Send + 'static) {
        fn queue(writer: &mpsc::Sender<Task>, mut work: impl FnMut(&Connection) -> bool + Send + 'static) {
            // Not a hold on the thread: it ends when all others have let go of it.
            let again = writer.downgrade();
            let step = move |connection: Result<&Connection>| {
                let has_more = connection.and_then(|connection| caught(|| Ok(work(connection))));
                if let (Ok(true), Some(writer)) = (has_more, again.upgrade()) {
                    queue(&writer, work);
                }
            };
            let _ = writer.try_send(Task::Bare(Box::new(step)));
        }
        queue(&self.writer, work);
    }

    /// Runs `work` on the writing connection, outside a transaction.
    pub(super) async fn bare<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let (reply, outcome) = oneshot::channel();
        let bare: Read = Box::new(move |connection| {
            let _ = reply.send(connection.and_then(|connection| caught(|| work(connection))));
        });
        self.writer.send(Task::Bare(bare)).await.map_err(|_| self.closed())?;
        outcome.await.map_err(|_| self.closed())?
    }

    /// Says why the threads take no job: the file could not be opened, or was closed.
    fn closed(&self) -> Error {
        match &*self.shared.opened.outcome.lock() {
            Some(Err(error)) => error.clone(),
            _ => closed(),
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map_err(|error| {
        Error::new(ErrorKind::Internal, "memory.open", "the system refused a thread").with_source(error)
    })
}

/// One call, from its beginning to its end.
struct Call<'a>(&'a AtomicUsize);

impl Call<'_> {
    /// Begins one of the calls that are counted there.
    fn begin(calls: &AtomicUsize) -> Call<'_> {
        calls.fetch_add(1, Ordering::Relaxed);
        Call(calls)
    }

    /// Returns whether this call is the only one, and made where it may hold up the thread. Those that are made in one go are
    /// begun before the first of them is answered.
    async fn may_run_here(&self) -> bool {
        let is_in = |runtime: &Handle| runtime.runtime_flavor() == RuntimeFlavor::MultiThread;
        if !Handle::try_current().as_ref().is_ok_and(is_in) {
            return false;
        }
        let mut is_first = true;
        future::poll_fn(|context| match mem::take(&mut is_first) {
            true => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            false => Poll::Ready(()),
        })
        .await;
        self.0.load(Ordering::Relaxed) == 1 && runtime::worker_index().is_some()
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn read_all(reads: &Mutex<mpsc::Receiver<Read>>, shared: &Shared) {
    // Only threads of a store that has readers read.
    let Some(readers) = &shared.readers else { return };
    let opened = shared.opened.wait();
    if opened.is_ok() {
        readers.open_ahead();
    }
    while let Some(read) = next(reads) {
        match opened.clone().and_then(|()| readers.take()) {
            Ok(connection) => {
                read(Ok(&connection));
                readers.give_back(connection);
            }
            Err(error) => read(Err(error)),
        }
    }
}

/// Waits for the next read. One reader waits for it, the others wait for their turn to wait.
fn next(reads: &Mutex<mpsc::Receiver<Read>>) -> Option<Read> {
    reads.lock().blocking_recv()
}

fn in_snapshot<T>(connection: &Connection, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    let snapshot = connection.unchecked_transaction().map_err(internal("memory.read"))?;
    caught(|| work(&snapshot))
}

/// Runs what a caller handed over. Where it panics, that is the failure of this call alone: the thread, and with it all that is
/// in memory, stays. What it had written is taken back with its savepoint.
fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Internal, "memory", "a defect ended this call; nothing of it was kept"))
    })
}

fn closed() -> Error {
    Error::new(ErrorKind::Cancelled, "memory", "the data file was closed meanwhile")
}

fn write_all(place: &Place, mut tasks: mpsc::Receiver<Task>, shared: &Shared) {
    match open::open_writer(place) {
        Ok(connection) => *shared.writer.lock() = Some(connection),
        Err(error) => {
            shared.opened.set(Err(error.clone()));
            tasks.close();
            while let Some(task) = tasks.blocking_recv() {
                refuse(task, &error);
            }
            return;
        }
    }
    shared.opened.set(Ok(()));
    let mut next = None;
    while let Some(task) = next.take().or_else(|| tasks.blocking_recv()) {
        let mut writer = shared.writer.lock();
        // Only this thread closes it.
        let Some(connection) = writer.as_mut() else { break };
        match task {
            Task::Write(job) => {
                let batch = commit(connection, job, &mut tasks);
                // Free before anyone hears of it: whoever goes on at once finds nobody there.
                drop(writer);
                next = batch.report();
            }
            Task::Read(work) | Task::Bare(work) => work(Ok(connection)),
        }
    }
    let connection = shared.writer.lock().take();
    if let Some(connection) = connection.filter(|_| *place != Place::Memory) {
        // Merges the log, so that the directory holds one file; a failure loses nothing.
        let _ = connection.execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(PASSIVE)");
    }
}

fn refuse(task: Task, error: &Error) {
    match task {
        Task::Write(job) => job.report(&Err(error.clone())),
        Task::Read(work) | Task::Bare(work) => work(Err(error.clone())),
    }
}

/// Commits `first` and the write jobs that wait behind it.
fn commit(connection: &mut Connection, first: Box<dyn Write>, tasks: &mut mpsc::Receiver<Task>) -> Batch {
    let mut jobs = vec![first];
    let mut next = None;
    let committed = (|| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut done = 0;
        while done < jobs.len() {
            transaction.execute_batch("SAVEPOINT job")?;
            let keep = jobs[done].run(&transaction);
            done += 1;
            still_open(&transaction)?;
            transaction.execute_batch(if keep { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" })?;
            if done == jobs.len() && done < BATCH {
                match tasks.try_recv() {
                    Ok(Task::Write(job)) => jobs.push(job),
                    Ok(other) => next = Some(other),
                    Err(_) => {}
                }
            }
        }
        transaction.commit()
    })()
    .map_err(not_committed);
    Batch { jobs, committed, next }
}

/// Jobs of one commit, of which nobody has heard.
struct Batch {
    jobs: Vec<Box<dyn Write>>,
    committed: Result<()>,
    /// The task that ended the row, if one did.
    next: Option<Task>,
}

impl Batch {
    /// Tells all who wait, and returns the task that comes next.
    fn report(self) -> Option<Task> {
        for job in self.jobs {
            job.report(&self.committed);
        }
        self.next
    }
}

/// Begins to write, unless another process does.
fn begin_at_once(connection: &Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.busy_timeout(Duration::ZERO)?;
    let begun = Transaction::new_unchecked(connection, TransactionBehavior::Immediate);
    connection.busy_timeout(open::BUSY_TIMEOUT)?;
    begun
}

/// Commits one job, or nothing of it.
fn commit_one<T>(transaction: Transaction<'_>, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    let value = caught(|| work(&transaction))?;
    still_open(&transaction).and_then(|()| transaction.commit()).map_err(not_committed)?;
    Ok(value)
}

/// Fails where a transaction has ended by itself, as a full disk, for one, ends it: then nothing of it is kept.
fn still_open(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    if transaction.is_autocommit() { Err(rusqlite::Error::QueryReturnedNoRows) } else { Ok(()) }
}

fn not_committed(error: rusqlite::Error) -> Error {
    match error {
        error if open::is_busy(&error) => {
            Error::new(ErrorKind::Unavailable, "memory.write", "another process holds the write lock")
                .with_source(error)
        }
        rusqlite::Error::QueryReturnedNoRows => {
            Error::new(ErrorKind::Unavailable, "memory.write", "another write of the same commit broke it; try again")
        }
        error => internal("memory.write")(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::atomic::AtomicBool};

    use super::*;

    #[tokio::test]
    async fn what_panics_fails_alone_and_leaves_nothing_behind() {
        let threads = Threads::start(&Place::Memory).unwrap();
        let sender = threads.sender();
        let run = |sql: &'static str| {
            move |connection: &Connection| connection.execute_batch(sql).map_err(internal("memory.write"))
        };
        sender.write(run("CREATE TABLE kept (x); INSERT INTO kept VALUES (1)")).await.unwrap();
        let failed = sender.write(move |connection| {
            run("INSERT INTO kept VALUES (2)")(connection)?;
            panic!("a defect");
            #[allow(unreachable_code, reason = "its type")]
            Ok(())
        });
        assert_eq!(failed.await.unwrap_err().kind(), ErrorKind::Internal);
        let read = sender.read(|_| -> Result<()> { panic!("a defect") });
        assert_eq!(read.await.unwrap_err().kind(), ErrorKind::Internal);
        let bare = sender.bare(|_| -> Result<()> { panic!("a defect") });
        assert_eq!(bare.await.unwrap_err().kind(), ErrorKind::Internal);
        let count = sender.write(|connection| {
            let count = connection.query_row("SELECT count(*) FROM kept", [], |row| row.get::<_, i64>(0));
            count.map_err(internal("memory.write"))
        });
        assert_eq!(count.await.unwrap(), 1);
    }

    const WORKERS: [usize; 2] = [1, 2];

    fn on_workers<T: Send + 'static>(workers: usize, work: impl Future<Output = T> + Send + 'static) -> T {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap();
        runtime.block_on(async { runtime.spawn(work).await.unwrap() })
    }

    fn thread_name() -> String {
        thread::current().name().unwrap_or_default().to_owned()
    }

    /// Makes many calls, of which none ends before all have begun, and returns which threads did them.
    async fn together<F: Future<Output = Result<String>>>(
        call: impl Fn(Box<dyn Fn() -> String + Send>) -> F,
    ) -> Vec<Result<String>> {
        let have_begun = Arc::new(AtomicBool::new(false));
        let job = || {
            let have_begun = have_begun.clone();
            move || {
                while !have_begun.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
                thread_name()
            }
        };
        let begin = async {
            for _ in 0..3 {
                task::yield_now().await;
            }
            have_begun.store(true, Ordering::Relaxed);
        };
        futures::future::join(futures::future::join_all((0..20).map(|_| call(Box::new(job())))), begin).await.0
    }

    fn in_a_file() -> (tempfile::TempDir, Place) {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::Directory(directory.path().to_owned());
        (directory, place)
    }

    #[test]
    fn a_call_that_is_alone_runs_where_it_was_made() {
        for workers in WORKERS {
            let (_directory, place) = in_a_file();
            for place in [place, Place::Memory] {
                on_workers(workers, async move {
                    let threads = Threads::start(&place).unwrap();
                    let sender = threads.sender();
                    let make = |connection: &Connection| {
                        connection.execute_batch("CREATE TABLE kept (x)").map_err(internal("memory.write"))
                    };
                    sender.write(make).await.unwrap();
                    // Until the threads have opened all connections, and let go of them.
                    loop {
                        let wrote = sender.write(|_| Ok(thread_name())).await.unwrap();
                        let read = sender.read(|_| Ok(thread_name())).await.unwrap();
                        if ![wrote, read].iter().any(|name| name.starts_with("sophia-memory")) {
                            break;
                        }
                        thread::sleep(Duration::from_millis(1));
                    }
                    let insert = |connection: &Connection| {
                        connection.execute_batch("INSERT INTO kept VALUES (1)").unwrap();
                        Ok(())
                    };
                    sender.write(insert).await.unwrap();
                    let refused =
                        sender.write(move |connection| insert(connection).and_then(|()| Err::<(), _>(closed())));
                    assert_eq!(refused.await.unwrap_err().kind(), ErrorKind::Cancelled);
                    let panicked =
                        sender.write(move |connection| insert(connection).map(|()| -> () { panic!("a defect") }));
                    assert_eq!(panicked.await.unwrap_err().kind(), ErrorKind::Internal);
                    let kept = sender.read(|connection| {
                        let count = connection.query_row("SELECT count(*) FROM kept", [], |row| row.get::<_, i64>(0));
                        count.map_err(internal("memory.read"))
                    });
                    assert_eq!(kept.await.unwrap(), 1);
                });
            }
        }
    }

    #[test]
    fn calls_that_are_made_together_share_a_commit_and_the_readers() {
        let (_directory, place) = in_a_file();
        let (wrote, read) = on_workers(2, async move {
            let threads = Threads::start(&place).unwrap();
            let sender = threads.sender();
            sender.write(|_| Ok(())).await.unwrap();
            let wrote = together(|job| sender.write(move |_| Ok(job()))).await;
            let read = together(|job| sender.read(move |_| Ok(job()))).await;
            (wrote, read)
        });
        let all = |names: Vec<Result<String>>| BTreeSet::from_iter(names.into_iter().map(|name| name.unwrap()));
        assert_eq!(all(wrote), BTreeSet::from(["sophia-memory-writer".to_owned()]));
        assert_eq!(all(read), BTreeSet::from(["sophia-memory-reader".to_owned()]));
    }

    #[test]
    fn a_write_waits_for_another_process_in_the_thread() {
        let (directory, place) = in_a_file();
        let name = on_workers(2, async move {
            let threads = Threads::start(&place).unwrap();
            let sender = threads.sender();
            sender.write(|_| Ok(())).await.unwrap();
            let other = Connection::open(directory.path().join(open::FILE_NAME)).unwrap();
            other.execute_batch("BEGIN IMMEDIATE").unwrap();
            let write = tokio::spawn(async move { sender.write(|_| Ok(thread_name())).await });
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!write.is_finished());
            other.execute_batch("COMMIT").unwrap();
            write.await.unwrap().unwrap()
        });
        assert_eq!(name, "sophia-memory-writer");
    }

    #[test]
    fn a_call_of_a_local_task_leaves_its_thread_alone() {
        let (_directory, place) = in_a_file();
        let runtime = runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let local = task::LocalSet::new();
        let name = local.block_on(&runtime, async move {
            let threads = Threads::start(&place).unwrap();
            let sender = threads.sender();
            sender.write(|_| Ok(())).await.unwrap();
            task::spawn_local(async move { sender.write(|_| Ok(thread_name())).await.unwrap() }).await.unwrap()
        });
        assert_eq!(name, "sophia-memory-writer");
    }

    #[test]
    fn the_log_is_gone_when_the_store_is_closed() {
        let (directory, place) = in_a_file();
        on_workers(2, async move {
            let threads = Threads::start(&place).unwrap();
            let sender = threads.sender();
            for _ in 0..20 {
                sender.write(|_| Ok(())).await.unwrap();
                sender.read(|connection| Ok(connection.is_autocommit())).await.unwrap();
            }
            drop(sender);
            task::spawn_blocking(|| threads.join()).await.unwrap();
        });
        let files = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(files.collect::<Vec<_>>(), [open::FILE_NAME]);
    }
}
