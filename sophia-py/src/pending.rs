//! An await: answered on the spot where the engine knows, else settled through its event loop in batches.
//!
//! A future is polled once in place. If it is ready, its value is returned and Python awaits nothing. If not, that same
//! future is spawned, and its end is queued for the event loop: tasks that end together wake the loop once, with a byte on
//! a socket, without the interpreter's lock. What is awaited is a future as asyncio understands one.

use std::{
    cell::RefCell,
    io::{Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyRuntimeError, PyStopIteration},
    intern,
    prelude::*,
    sync::PyOnceLock,
    types::{IntoPyDict, PyCFunction},
};
use sophia_core::{Result, memory::embed::without_waiting, operations::Reply};
use tokio::task::AbortHandle;

use crate::{callback, convert, error, runtime};

/// What an engine call ends with.
pub type Outcome = Result<Reply>;

/// Runs a call: its value if that is known at once, else a [`Pending`] to await.
pub fn run<'py>(py: Python<'py>, mut future: BoxFuture<'static, Outcome>) -> PyResult<Bound<'py, PyAny>> {
    let runtime = runtime::get()?;
    let polled = py.detach(|| runtime::poll_once(runtime, &mut future));
    if let Poll::Ready(outcome) = polled {
        return settle(py, outcome);
    }
    let LoopQueue { event_loop, queue } = LoopQueue::current(py)?;
    let pending = Bound::new(py, Pending::new(event_loop))?;
    let slot = queue.slot(pending.clone().unbind());
    let task = runtime::spawn(runtime, async move { slot.fill(future.await) });
    // Only just made.
    let _ = pending.get().task.set(task.abort_handle());
    Ok(pending.into_any())
}

/// Blocks until a call ends.
pub fn run_sync<'py>(py: Python<'py>, mut future: BoxFuture<'static, Outcome>) -> PyResult<Bound<'py, PyAny>> {
    let runtime = runtime::get()?;
    if callback::holds_up_embedding(py)? {
        future = without_waiting(future).boxed();
    }
    let polled = py.detach(|| runtime::poll_once(runtime, &mut future));
    let outcome = match polled {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => runtime::block_on(py, future)?,
    };
    settle(py, outcome)
}

fn settle(py: Python<'_>, outcome: Outcome) -> PyResult<Bound<'_, PyAny>> {
    match outcome {
        Ok(reply) => convert::to_python(py, &*reply),
        Err(failure) => Err(error::to_python(py, &failure)),
    }
}

/// A call under way: a future of its event loop, as asyncio understands one.
#[pyclass(frozen, module = "sophia._sophia")]
pub struct Pending {
    event_loop: Arc<Py<PyAny>>,
    state: Mutex<State>,
    /// Drops the engine's future.
    task: OnceLock<AbortHandle>,
    /// How a task that yields it says that it waits for it.
    is_awaited: AtomicBool,
}

enum State {
    Waiting(Vec<Waiter>),
    Ended(PyResult<Py<PyAny>>),
    Cancelled,
}

/// One who is called at the end, and the context to call it in.
struct Waiter {
    callback: Py<PyAny>,
    context: Py<PyAny>,
}

impl Pending {
    fn new(event_loop: Arc<Py<PyAny>>) -> Pending {
        Pending {
            event_loop,
            state: Mutex::new(State::Waiting(Vec::new())),
            task: OnceLock::new(),
            is_awaited: AtomicBool::new(false),
        }
    }

    /// Ends it, unless it has ended; returns those who waited.
    fn end(&self, state: State) -> Option<Vec<Waiter>> {
        let mut own = self.state.lock();
        match &mut *own {
            State::Waiting(waiters) => {
                let waiters = std::mem::take(waiters);
                *own = state;
                Some(waiters)
            }
            State::Ended(_) | State::Cancelled => None,
        }
    }

    /// Takes how it ended, and has those who waited called. Runs on the event loop.
    fn settle(slf: &Bound<'_, Pending>, outcome: Outcome) -> PyResult<()> {
        let outcome = settle(slf.py(), outcome).map(Bound::unbind);
        let waiters = slf.get().end(State::Ended(outcome)).unwrap_or_default();
        waiters.into_iter().try_for_each(|waiter| call_soon(slf, waiter))
    }

    fn outcome(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        match &*self.state.lock() {
            State::Waiting(_) => Ok(None),
            State::Ended(Ok(value)) => Ok(Some(value.clone_ref(py))),
            State::Ended(Err(failure)) => Err(failure.clone_ref(py)),
            State::Cancelled => Err(asyncio_error(py, "CancelledError")),
        }
    }
}

fn asyncio_error(py: Python<'_>, name: &str) -> PyErr {
    let raise = |kind: Bound<'_, PyAny>| kind.call0().map(PyErr::from_value);
    py.import("asyncio").and_then(|asyncio| asyncio.getattr(name)).and_then(raise).unwrap_or_else(|failure| failure)
}

#[pymethods]
impl Pending {
    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        let py = slf.py();
        match slf.get().outcome(py)? {
            // In a tuple, since one of its own would be taken apart.
            Some(value) => Err(PyStopIteration::new_err((value,))),
            None => {
                slf.get().is_awaited.store(true, Ordering::Relaxed);
                Ok(slf)
            }
        }
    }

    #[getter]
    fn _asyncio_future_blocking(&self) -> bool {
        self.is_awaited.load(Ordering::Relaxed)
    }

    #[setter(_asyncio_future_blocking)]
    fn set_asyncio_future_blocking(&self, is_awaited: bool) {
        self.is_awaited.store(is_awaited, Ordering::Relaxed);
    }

    fn get_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.event_loop.clone_ref(py)
    }

    fn done(&self) -> bool {
        !matches!(&*self.state.lock(), State::Waiting(_))
    }

    fn cancelled(&self) -> bool {
        matches!(&*self.state.lock(), State::Cancelled)
    }

    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.outcome(py)?.ok_or_else(|| asyncio_error(py, "InvalidStateError"))
    }

    fn exception(&self, py: Python<'_>) -> PyResult<Option<PyErr>> {
        match &*self.state.lock() {
            State::Waiting(_) => Err(asyncio_error(py, "InvalidStateError")),
            State::Ended(outcome) => Ok(outcome.as_ref().err().map(|failure| failure.clone_ref(py))),
            State::Cancelled => Err(asyncio_error(py, "CancelledError")),
        }
    }

    #[pyo3(signature = (callback, *, context=None))]
    fn add_done_callback(
        slf: &Bound<'_, Self>,
        callback: Bound<'_, PyAny>,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        static COPY_CONTEXT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = slf.py();
        let context = match context {
            Some(context) => context,
            None => COPY_CONTEXT.import(py, "contextvars", "copy_context")?.call0()?,
        };
        let waiter = Waiter { callback: callback.unbind(), context: context.unbind() };
        match &mut *slf.get().state.lock() {
            State::Waiting(waiters) => {
                waiters.push(waiter);
                return Ok(());
            }
            State::Ended(_) | State::Cancelled => {}
        }
        call_soon(slf, waiter)
    }

    fn remove_done_callback(&self, callback: &Bound<'_, PyAny>) -> PyResult<usize> {
        let py = callback.py();
        let waiters = match &mut *self.state.lock() {
            State::Waiting(waiters) => std::mem::take(waiters),
            State::Ended(_) | State::Cancelled => return Ok(0),
        };
        // Compared outside of the lock: that runs Python.
        let (before, mut left) = (waiters.len(), Vec::with_capacity(waiters.len()));
        for waiter in waiters {
            if !waiter.callback.bind(py).eq(callback)? {
                left.push(waiter);
            }
        }
        let removed = before - left.len();
        if let State::Waiting(waiters) = &mut *self.state.lock() {
            waiters.splice(0..0, left);
        }
        Ok(removed)
    }

    /// Drops the engine's future.
    #[pyo3(signature = (msg=None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Bound<'_, PyAny>>) -> PyResult<bool> {
        // Deprecated in asyncio, and in nobody's way.
        drop(msg);
        let Some(waiters) = slf.get().end(State::Cancelled) else { return Ok(false) };
        slf.get().task.get().into_iter().for_each(AbortHandle::abort);
        waiters.into_iter().try_for_each(|waiter| call_soon(slf, waiter))?;
        Ok(true)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        visit.call(&*self.event_loop)?;
        // Held by nobody while the collector runs, but on a thread that is about to let go of it.
        let Some(state) = self.state.try_lock() else { return Ok(()) };
        match &*state {
            State::Waiting(waiters) => waiters.iter().try_for_each(|waiter| {
                visit.call(&waiter.callback)?;
                visit.call(&waiter.context)
            }),
            State::Ended(Ok(value)) => visit.call(value),
            State::Ended(Err(_)) | State::Cancelled => Ok(()),
        }
    }

    fn __clear__(&self) {
        drop(self.end(State::Cancelled));
    }
}

fn call_soon(pending: &Bound<'_, Pending>, Waiter { callback, context }: Waiter) -> PyResult<()> {
    let py = pending.py();
    let named = [("context", context)].into_py_dict(py)?;
    let event_loop = pending.get().event_loop.bind(py);
    event_loop.call_method(intern!(py, "call_soon"), (callback, pending), Some(&named)).map(drop)
}

/// Ended calls of one event loop, and the socket that wakes it.
struct Queue {
    ended: Mutex<Vec<(Py<Pending>, Outcome)>>,
    wake: UnixStream,
}

/// The place of one call in the queue of its loop.
struct Slot {
    queue: Arc<Queue>,
    pending: Py<Pending>,
}

impl Slot {
    fn fill(self, outcome: Outcome) {
        let first = {
            let mut ended = self.queue.ended.lock();
            ended.push((self.pending, outcome));
            ended.len() == 1
        };
        // The reader empties the whole queue: one byte is enough. A full socket has woken it already, and a closed one has
        // nobody left who waits.
        if first {
            let _ = (&self.queue.wake).write(&[1]);
        }
    }
}

impl Queue {
    fn slot(self: &Arc<Self>, pending: Py<Pending>) -> Slot {
        Slot { queue: self.clone(), pending }
    }

    /// Settles what has ended; runs on the event loop.
    fn drain(&self, py: Python<'_>, wake: &UnixStream) {
        let mut bytes = [0; 64];
        while (&*wake).read(&mut bytes).is_ok_and(|read| read == bytes.len()) {}
        let ended = std::mem::take(&mut *self.ended.lock());
        for (pending, outcome) in ended {
            let pending = pending.bind(py);
            if let Err(failure) = Pending::settle(pending, outcome) {
                failure.write_unraisable(py, Some(pending));
            }
        }
    }
}

/// The queue of the loop that runs on this thread.
#[derive(Clone)]
struct LoopQueue {
    event_loop: Arc<Py<PyAny>>,
    queue: Arc<Queue>,
}

thread_local! {
    /// Holding the loop keeps its address from being given to another one.
    static CURRENT: RefCell<Option<(LoopQueue, u64)>> = const { RefCell::new(None) };
}

impl LoopQueue {
    fn current(py: Python<'_>) -> PyResult<LoopQueue> {
        let event_loop = running_loop(py)?;
        let known = CURRENT.with_borrow(|current| {
            let (known, generation) = current.as_ref()?;
            (known.event_loop.bind(py).is(&event_loop) && *generation == runtime::generation()).then(|| known.clone())
        });
        match known {
            Some(known) => Ok(known),
            None => {
                let made = LoopQueue::new(py, event_loop)?;
                let previous = CURRENT.replace(Some((made.clone(), runtime::generation())));
                drop(previous);
                Ok(made)
            }
        }
    }

    fn new(py: Python<'_>, event_loop: Bound<'_, PyAny>) -> PyResult<LoopQueue> {
        let (reader, wake) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        wake.set_nonblocking(true)?;
        let queue = Arc::new(Queue { ended: Mutex::default(), wake });
        let descriptor = reader.as_raw_fd();
        let drain = PyCFunction::new_closure(py, None, None, {
            let queue = queue.clone();
            move |arguments, _| queue.drain(arguments.py(), &reader)
        })?;
        event_loop.call_method1(intern!(py, "add_reader"), (descriptor, drain))?;
        Ok(LoopQueue { event_loop: Arc::new(event_loop.unbind()), queue })
    }
}

/// Returns the event loop that runs on this thread.
pub fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    GET.import(py, "asyncio", "get_running_loop")?.call0().map_err(|failure| {
        if !failure.is_instance_of::<PyRuntimeError>(py) {
            return failure;
        }
        let hint = "an await needs one of asyncio; elsewhere, call the method that ends in `_sync`";
        PyRuntimeError::new_err(format!("{}: {hint}", failure.value(py)))
    })
}

/// Boxes the reply of a call that is not an operation.
pub fn reply<T>(future: impl Future<Output = Result<T>> + Send + 'static) -> BoxFuture<'static, Outcome>
where
    T: serde::Serialize + Send + 'static,
{
    async move { Ok(Box::new(future.await?) as Reply) }.boxed()
}
