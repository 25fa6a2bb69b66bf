//! The one tokio runtime of this process: made at first use, replaced after a fork, stopped before the interpreter.

use std::{
    future::Future,
    pin::pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    task::Poll,
    time::Duration,
};

use pyo3::{exceptions::PyRuntimeError, prelude::*};
use sophia_core::operations::poll_here;
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};

use crate::{callback, logs, per_process::PerProcess};

/// Worker threads: they wait for sockets and files; the work itself is small.
const WORKER_THREADS: usize = 2;

/// How long the interpreter's exit waits for running tasks.
pub const EXIT_GRACE: Duration = Duration::from_secs(1);

/// How often a blocking call looks for Ctrl-C.
pub const SIGNAL_TICK: Duration = Duration::from_millis(50);

static RUNTIME: PerProcess<Runtime> = PerProcess::new();
/// Whether a task was ever given to the runtime of this process.
static USED: AtomicBool = AtomicBool::new(false);
static GENERATION: AtomicU64 = AtomicU64::new(0);
static EXITING: AtomicBool = AtomicBool::new(false);

/// Installs the fork hook and the exit hook.
pub fn install(py: Python<'_>) -> PyResult<()> {
    // SAFETY: the hook only stores to atomics, which is async-signal-safe, as a child of a threaded process requires.
    #[allow(unsafe_code, reason = "no safe interface to pthread_atfork")]
    unsafe {
        libc::pthread_atfork(None, None, Some(after_fork_in_child));
    }
    // What is imported before is stopped after: `logging` still takes what the engine says at its end.
    py.import("logging")?;
    let exit = pyo3::types::PyCFunction::new_closure(py, None, None, |arguments, _| {
        stop(arguments.py());
        logs::stop(arguments.py())
    })?;
    py.import("atexit")?.call_method1("register", (exit,))?;
    Ok(())
}

/// Threads do not survive a fork: the child forgets the parent's runtime, leaking it, and makes its own.
extern "C" fn after_fork_in_child() {
    RUNTIME.forget();
    logs::forget();
    if USED.swap(false, Ordering::SeqCst) {
        GENERATION.fetch_add(1, Ordering::SeqCst);
    }
}

/// Returns a number that changes when this process is forked from one that had begun to work. What belongs to another
/// generation holds connections and threads that are not here.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// Returns whether this process has begun to work: only then is there anything to close before a fork.
#[pyfunction]
pub fn has_begun() -> bool {
    USED.load(Ordering::Relaxed)
}

/// Stops the runtime before the interpreter is gone, so that no task can touch a dead one.
fn stop(py: Python<'_>) {
    EXITING.store(true, Ordering::SeqCst);
    // SAFETY: references that `get` gave out live on threads that call into this module; at exit the interpreter runs none
    // but this one.
    #[allow(unsafe_code, reason = "takes back what `get` made")]
    let runtime = unsafe { RUNTIME.take() };
    if let Some(runtime) = runtime {
        py.detach(|| runtime.shutdown_timeout(EXIT_GRACE));
    }
}

/// Returns the runtime, making it if there is none.
pub fn get() -> PyResult<&'static Runtime> {
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    if EXITING.load(Ordering::SeqCst) {
        return Err(PyRuntimeError::new_err("the interpreter is shutting down"));
    }
    let made = Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .thread_name("sophia")
        .enable_all()
        .build()
        .map_err(|error| PyRuntimeError::new_err(format!("the runtime cannot start: {error}")))?;
    let (runtime, is_first) = RUNTIME.set(made);
    if is_first {
        // Not before: a process that has not begun to work has no threads, and is forked without a warning.
        logs::start();
    }
    Ok(runtime)
}

/// Polls a future once, in place, inside the runtime's context.
pub fn poll_once<F: Future + Unpin>(runtime: &Runtime, future: &mut F) -> Poll<F::Output> {
    let _entered = runtime.enter();
    poll_here(pin!(future))
}

/// Spawns a task.
pub fn spawn<F>(runtime: &Runtime, task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    USED.store(true, Ordering::Relaxed);
    runtime.spawn(task)
}

/// Blocks on a future, without the interpreter's lock, and stops at once on Ctrl-C. What it may wait for does not wait for the
/// event loop of this thread.
pub fn block_on<F>(py: Python<'_>, mut future: F) -> PyResult<F::Output>
where
    F: Future + Unpin + Send,
    F::Output: Send,
{
    let runtime = get()?;
    USED.store(true, Ordering::Relaxed);
    loop {
        let tick = py.detach(|| runtime.block_on(async { tokio::time::timeout(SIGNAL_TICK, &mut future).await }));
        match tick {
            Ok(output) => return Ok(output),
            Err(_) => {
                py.check_signals()?;
                callback::held_up(py)?;
            }
        }
    }
}
