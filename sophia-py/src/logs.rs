//! The engine's log, told to Python's `logging` by a thread of its own.
//!
//! Who logs may hold locks of the engine, or be the thread of an event loop: an entry waits in a queue, never for the
//! interpreter.

use std::{
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant, UNIX_EPOCH},
};

use parking_lot::{Condvar, Mutex};
use pyo3::{intern, prelude::*};
use sophia_core::logs::{self, Entry, Filter, Queue};

use crate::{
    per_process::PerProcess,
    runtime::{EXIT_GRACE, SIGNAL_TICK},
};

/// How often the levels of the loggers are read: a change of them is heard within it.
const LEVEL_TICK: Duration = Duration::from_secs(1);

static FILTER: LazyLock<Arc<Filter>> = LazyLock::new(Arc::default);
/// That of this process. A child makes its own: the thread is not there, and a lock may stay taken for ever.
static TELLER: PerProcess<Teller> = PerProcess::new();

/// The thread that tells, and what waits for it.
#[derive(Default)]
struct Teller {
    queue: Queue,
    thread: OnceLock<Thread>,
    /// Set at the exit: the thread tells what waits and ends, or ends at once.
    ending: AtomicBool,
    abandoned: AtomicBool,
    has_ended: Mutex<bool>,
    end: Condvar,
}

/// Hears the engine from now on, at the levels that the loggers have.
pub fn install(py: Python<'_>) -> PyResult<()> {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    let directives: String = module(py)?.call_method0(intern!(py, "directives"))?.extract()?;
    // Made by us: it can be read.
    let _ = FILTER.set(&directives);
    if !INSTALLED.swap(true, Ordering::SeqCst) {
        // Where the command line runs, its own log stays.
        logs::install(FILTER.clone(), hear);
    }
    Ok(())
}

fn module(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import(intern!(py, "sophia._logs"))
}

fn hear(entry: Entry) {
    let teller = current();
    if teller.queue.push(entry)
        && let Some(thread) = teller.thread.get()
    {
        thread.unpark();
    }
}

fn current() -> &'static Teller {
    TELLER.get().unwrap_or_else(|| TELLER.set(Teller::default()).0)
}

/// Forgets what belongs to the parent; for the child of a fork, where nothing but a store is allowed.
pub fn forget() {
    TELLER.forget();
}

/// Begins to tell. Without a thread, what is logged waits for `stop`.
pub fn start() {
    let teller = current();
    if let Ok(started) = thread::Builder::new().name("sophia-logs".to_owned()).spawn(|| teller.run()) {
        // Here too, so that an exit right after this waits for it.
        let _ = teller.thread.set(started.thread().clone());
    }
}

/// Tells what waits, and ends; for the exit of the interpreter.
///
/// After a grace, what still waits is let go. The entry that a handler has is waited for, as `logging` itself does at the exit: no
/// thread may be in Python when the interpreter goes.
pub fn stop(py: Python<'_>) -> PyResult<()> {
    let (teller, began) = (current(), Instant::now());
    teller.ending.store(true, Ordering::SeqCst);
    if let Some(thread) = teller.thread.get() {
        thread.unpark();
        while !py.detach(|| teller.has_ended_within(SIGNAL_TICK)) {
            teller.abandoned.store(began.elapsed() > EXIT_GRACE, Ordering::SeqCst);
            py.check_signals()?;
        }
    }
    teller.tell(py);
    Ok(())
}

impl Teller {
    fn run(&self) {
        // The same as in `start`, which may come later.
        let _ = self.thread.set(thread::current());
        let mut known = String::new();
        loop {
            let ending = self.ending.load(Ordering::SeqCst);
            let told = Python::try_attach(|py| {
                self.tell(py);
                let directives: String = module(py)?.call_method0(intern!(py, "directives"))?.extract()?;
                if directives != known && FILTER.set(&directives).is_ok() {
                    known = directives;
                }
                PyResult::Ok(())
            });
            if ending || told.is_none() {
                break;
            }
            thread::park_timeout(LEVEL_TICK);
        }
        *self.has_ended.lock() = true;
        self.end.notify_all();
    }

    fn has_ended_within(&self, wait: Duration) -> bool {
        let mut has_ended = self.has_ended.lock();
        self.end.wait_while_for(&mut has_ended, |ended| !*ended, wait);
        *has_ended
    }

    /// Gives what waits to its loggers. One for which a filter or a handler raises keeps no other back.
    fn tell(&self, py: Python<'_>) {
        for entry in self.queue.take() {
            if self.abandoned.load(Ordering::SeqCst) {
                return;
            }
            if let Err(failure) = tell(py, entry) {
                failure.write_unraisable(py, None);
            }
        }
    }
}

fn tell(py: Python<'_>, entry: Entry) -> PyResult<()> {
    let at = entry.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let ((file, line), text) = (entry.place, entry.to_string());
    let told = (entry.level, entry.target, text, at, file, line);
    module(py)?.call_method1(intern!(py, "tell"), told).map(drop)
}
