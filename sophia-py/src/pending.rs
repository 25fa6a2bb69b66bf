//! An await: answered on the spot where the engine knows, else settled through its event loop in batches.
//!
//! A future is polled once in place. If it is ready, its value is returned and Python awaits nothing. If not, that same
//! future is spawned, and its end is queued for the event loop: tasks that end together wake the loop once, with a byte on
//! a socket, without the interpreter's lock.

use std::{
    cell::RefCell,
    io::{Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    sync::Arc,
    task::Poll,
};

use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use pyo3::{
    exceptions::PyRuntimeError,
    intern,
    prelude::*,
    sync::PyOnceLock,
    types::{IntoPyDict, PyCFunction},
};
use sophia_core::{Result, memory::embed::without_waiting, operations::Reply};
use tokio::{sync::watch, task::AbortHandle};

use crate::{callback, convert, error, runtime};

/// What an engine call ends with.
pub type Outcome = Result<Reply>;

/// Runs a call: its value if that is known at once, else an `asyncio.Future` of it, of that very class with every loop.
pub fn run<'py>(py: Python<'py>, mut future: BoxFuture<'static, Outcome>) -> PyResult<Bound<'py, PyAny>> {
    let runtime = runtime::get()?;
    let polled = py.detach(|| runtime::poll_once(runtime, &mut future));
    if let Poll::Ready(outcome) = polled {
        return settle(py, outcome);
    }
    let LoopQueue { event_loop, queue, .. } = LoopQueue::current(py)?;
    let awaited = new_future(py, &event_loop)?;
    let slot = queue.slot(awaited.clone().unbind());
    let task = runtime::spawn(runtime, async move { slot.fill(future.await) });
    let cancel = Canceller { task: task.abort_handle() };
    awaited.call_method1(intern!(py, "add_done_callback"), (cancel,))?;
    Ok(awaited)
}

fn new_future<'py>(py: Python<'py>, event_loop: &Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static FUTURE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let of_loop = [("loop", event_loop)].into_py_dict(py)?;
    FUTURE.import(py, "asyncio", "Future")?.call((), Some(&of_loop))
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

/// Drops the engine's future when the awaiting task is cancelled.
#[pyclass(frozen)]
struct Canceller {
    task: AbortHandle,
}

#[pymethods]
impl Canceller {
    fn __call__(&self, future: &Bound<'_, PyAny>) -> PyResult<()> {
        if future.call_method0(intern!(future.py(), "cancelled"))?.is_truthy()? {
            self.task.abort();
        }
        Ok(())
    }
}

/// Ended calls of one event loop, and the socket that wakes it.
struct Queue {
    ended: Mutex<Vec<(Py<PyAny>, Outcome)>>,
    wake: UnixStream,
}

/// The place of one call in the queue of its loop.
struct Slot {
    queue: Arc<Queue>,
    future: Py<PyAny>,
}

impl Slot {
    fn fill(self, outcome: Outcome) {
        let first = {
            let mut ended = self.queue.ended.lock();
            ended.push((self.future, outcome));
            ended.len() == 1
        };
        // The reader empties the whole queue: one byte is enough. A full socket has woken it already, and a closed one
        // has nobody left who waits.
        if first {
            let _ = (&self.queue.wake).write(&[1]);
        }
    }
}

impl Queue {
    fn slot(self: &Arc<Self>, future: Py<PyAny>) -> Slot {
        Slot { queue: self.clone(), future }
    }
}

/// What an event loop calls when it is woken, and drops when it is closed.
struct Drain {
    queue: Arc<Queue>,
    wake: UnixStream,
    _is_open: watch::Sender<()>,
}

impl Drain {
    /// Settles everything that ended.
    fn run(&self, py: Python<'_>) {
        let mut bytes = [0; 64];
        while (&self.wake).read(&mut bytes).is_ok_and(|read| read == bytes.len()) {}
        let ended = std::mem::take(&mut *self.queue.ended.lock());
        for (future, outcome) in ended {
            let future = future.bind(py);
            if let Err(failure) = resolve(py, future, outcome) {
                failure.write_unraisable(py, Some(future));
            }
        }
    }
}

fn resolve(py: Python<'_>, future: &Bound<'_, PyAny>, outcome: Outcome) -> PyResult<()> {
    if future.call_method0(intern!(py, "done"))?.is_truthy()? {
        return Ok(());
    }
    match settle(py, outcome) {
        Ok(value) => future.call_method1(intern!(py, "set_result"), (value,))?,
        Err(failure) => future.call_method1(intern!(py, "set_exception"), (failure,))?,
    };
    Ok(())
}

/// An event loop, and the queue of what ended for it.
#[derive(Clone)]
pub struct LoopQueue {
    event_loop: Arc<Py<PyAny>>,
    queue: Arc<Queue>,
    /// Its sender is gone when the loop is closed.
    open: watch::Receiver<()>,
}

thread_local! {
    /// Holding the loop keeps its address from being given to another one.
    static CURRENT: RefCell<Option<(LoopQueue, u64)>> = const { RefCell::new(None) };
}

impl LoopQueue {
    /// The one of the loop that runs on this thread.
    pub fn current(py: Python<'_>) -> PyResult<LoopQueue> {
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
        let (woken, wake) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        wake.set_nonblocking(true)?;
        let descriptor = woken.as_raw_fd();
        let (is_open, open) = watch::channel(());
        let queue = Arc::new(Queue { ended: Mutex::default(), wake });
        let drain = Drain { queue: queue.clone(), wake: woken, _is_open: is_open };
        let drain = PyCFunction::new_closure(py, None, None, move |arguments, _| drain.run(arguments.py()))?;
        event_loop.call_method1(intern!(py, "add_reader"), (descriptor, drain))?;
        Ok(LoopQueue { event_loop: Arc::new(event_loop.unbind()), queue, open })
    }

    pub fn event_loop(&self) -> &Py<PyAny> {
        &self.event_loop
    }

    /// Waits until the loop is closed.
    pub async fn closed(&self) {
        let mut open = self.open.clone();
        while open.changed().await.is_ok() {}
    }
}

/// Returns the event loop that runs on this thread.
fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
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
