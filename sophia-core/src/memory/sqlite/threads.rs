//! The threads that own the connections: one writes, several read.
//!
//! The writer takes all jobs that wait and commits them together: under load, many calls share one commit. Each job runs
//! in a savepoint, so that one that fails takes back only what is its own. Nothing is reported before the commit.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::{
    internal,
    open::{self, Place},
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
    opened: Arc<Opened>,
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
        let (writer, tasks) = mpsc::channel(QUEUE);
        let opened = Arc::new(Opened::default());
        let writing = spawn("sophia-memory-writer", {
            let (place, opened) = (place.clone(), opened.clone());
            move || write_all(&place, tasks, &opened)
        })?;
        let mut reading = Vec::new();
        let readers = match place.file() {
            None => None,
            Some(path) => {
                let (readers, reads) = mpsc::channel(QUEUE);
                let reads: Arc<Mutex<mpsc::Receiver<Read>>> = Arc::new(Mutex::new(reads));
                let count = thread::available_parallelism().map_or(2, |count| count.get().clamp(2, READERS));
                for _ in 0..count {
                    let (path, opened, reads) = (path.clone(), opened.clone(), reads.clone());
                    reading.push(spawn("sophia-memory-reader", move || {
                        let open = || opened.wait().and_then(|()| open::open_reader(&path));
                        let mut connection = open();
                        while let Some(read) = next(&reads) {
                            // Most often there were no file descriptors left, and there are again.
                            if connection.is_err() {
                                connection = open();
                            }
                            read(connection.as_ref().map_err(Error::clone));
                        }
                    })?);
                }
                Some(readers)
            }
        };
        Ok(Threads { writer, readers, writing, reading, opened })
    }

    /// Returns whether these threads can still be used: not so after a failure to open.
    pub(super) fn is_usable(&self) -> bool {
        !self.writer.is_closed() && !matches!(&*self.opened.outcome.lock(), Some(Err(_)))
    }

    pub(super) fn sender(&self) -> Sender {
        Sender { writer: self.writer.clone(), readers: self.readers.clone(), opened: self.opened.clone() }
    }

    /// Lets the threads finish what is queued, and waits for them. The one that writes ends last: only the last connection
    /// removes the log.
    pub(super) fn join(self) {
        let Threads { writer, readers, writing, reading, .. } = self;
        drop(readers);
        // A thread that panicked has nothing left to flush.
        reading.into_iter().for_each(|thread| drop(thread.join()));
        drop(writer);
        drop(writing.join());
    }
}

/// Hands jobs to the threads.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    writer: mpsc::Sender<Task>,
    readers: Option<mpsc::Sender<Read>>,
    opened: Arc<Opened>,
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
        let (reply, outcome) = oneshot::channel();
        let read: Read = Box::new(move |connection| {
            let result = connection.and_then(|connection| {
                let snapshot = connection.unchecked_transaction().map_err(internal("memory.read"))?;
                caught(|| work(&snapshot))
            });
            let _ = reply.send(result);
        });
        match &self.readers {
            Some(readers) => readers.send(read).await.map_err(|_| self.closed())?,
            None => self.writer.send(Task::Read(read)).await.map_err(|_| self.closed())?,
        }
        outcome.await.map_err(|_| self.closed())?
    }

    /// Runs `work` on a reading thread when one has time; not at all where too much waits already.
    pub(super) fn read_later(&self, work: impl FnOnce() + Send + 'static) {
        if let Some(readers) = &self.readers {
            // A queue that is full, or closed, is a good reason to do less.
            let _ = readers.try_send(Box::new(move |_| work()));
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
        match &*self.opened.outcome.lock() {
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

/// Waits for the next read. One reader waits for it, the others wait for their turn to wait.
fn next(reads: &Mutex<mpsc::Receiver<Read>>) -> Option<Read> {
    reads.lock().blocking_recv()
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

fn write_all(place: &Place, mut tasks: mpsc::Receiver<Task>, opened: &Opened) {
    let mut connection = match open::open_writer(place) {
        Ok(connection) => connection,
        Err(error) => {
            opened.set(Err(error.clone()));
            tasks.close();
            while let Some(task) = tasks.blocking_recv() {
                refuse(task, &error);
            }
            return;
        }
    };
    opened.set(Ok(()));
    let mut next = None;
    while let Some(task) = next.take().or_else(|| tasks.blocking_recv()) {
        match task {
            Task::Write(job) => next = commit(&mut connection, job, &mut tasks),
            Task::Read(work) | Task::Bare(work) => work(Ok(&connection)),
        }
    }
    if *place != Place::Memory {
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

/// Commits `first` and the write jobs that wait behind it; returns the task that ended the row, if one did.
fn commit(connection: &mut Connection, first: Box<dyn Write>, tasks: &mut mpsc::Receiver<Task>) -> Option<Task> {
    let mut jobs = vec![first];
    let mut next = None;
    let committed = (|| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut done = 0;
        while done < jobs.len() {
            transaction.execute_batch("SAVEPOINT job")?;
            let keep = jobs[done].run(&transaction);
            done += 1;
            // A full disk, for one, ends the transaction by itself: then nothing of the batch is kept.
            if transaction.is_autocommit() {
                return Err(rusqlite::Error::QueryReturnedNoRows);
            }
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
    .map_err(|error: rusqlite::Error| match error {
        error if open::is_busy(&error) => {
            Error::new(ErrorKind::Unavailable, "memory.write", "another process holds the write lock")
                .with_source(error)
        }
        rusqlite::Error::QueryReturnedNoRows => {
            Error::new(ErrorKind::Unavailable, "memory.write", "another write of the same commit broke it; try again")
        }
        error => internal("memory.write")(error),
    });
    for job in jobs {
        job.report(&committed);
    }
    next
}

#[cfg(test)]
mod tests {
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
}
