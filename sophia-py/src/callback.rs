//! A Python function that Rust calls: on the event loop it belongs to, or on a thread of its own.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures::future::OptionFuture;
use parking_lot::Mutex;
use pyo3::{IntoPyObjectExt, intern, prelude::*, sync::PyOnceLock, types::PyTuple};
use serde::de::DeserializeOwned;
use sophia_core::{Error, ErrorKind, Result, resilience::abandoned};
use tokio::sync::oneshot;

use crate::{convert::Reader, error::Raised, pending::LoopQueue};

/// The event loop on which an engine was started: where functions run that were given outside of one.
#[derive(Clone, Default)]
pub struct Home(Arc<Mutex<Option<LoopQueue>>>);

impl Home {
    /// Remembers the loop that runs now.
    pub fn settle(&self, event_loop: LoopQueue) {
        *self.0.lock() = Some(event_loop);
    }

    fn event_loop(&self) -> Option<LoopQueue> {
        self.0.lock().clone()
    }
}

/// Operation of functions that embed.
pub const EMBED: &str = "memory.embed";

/// Calls of such functions under way.
static EMBEDDING: AtomicUsize = AtomicUsize::new(0);

/// Counts one of them, until it is dropped.
struct Embedding;

impl Embedding {
    fn begin() -> Embedding {
        EMBEDDING.fetch_add(1, Ordering::Relaxed);
        Embedding
    }
}

impl Drop for Embedding {
    fn drop(&mut self) {
        EMBEDDING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A Python function, sync or async, with the loop and the context variables of where it was given.
pub struct Callback {
    operation: &'static str,
    function: Py<PyAny>,
    event_loop: Option<LoopQueue>,
    context: Py<PyAny>,
    home: Home,
}

impl Callback {
    /// Takes a function; `operation` stands in its errors.
    pub fn new(operation: &'static str, function: Bound<'_, PyAny>, home: &Home) -> PyResult<Callback> {
        static COPY_CONTEXT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = function.py();
        Ok(Callback {
            operation,
            event_loop: LoopQueue::current(py).ok(),
            context: COPY_CONTEXT.import(py, "contextvars", "copy_context")?.call0()?.unbind(),
            function: function.unbind(),
            home: home.clone(),
        })
    }

    /// Calls the function with one argument, or none, and reads what it returns or resolves to.
    ///
    /// Dropping the call cancels the Python task.
    pub async fn call<A, T>(&self, argument: Option<A>) -> Result<T>
    where
        A: for<'py> IntoPyObject<'py>,
        T: DeserializeOwned,
    {
        let _counted = (self.operation == EMBED).then(Embedding::begin);
        let Begun { answer, event_loop, _cancel } =
            Python::attach(|py| self.begin(py, argument)).map_err(|raised| Raised::wrap(self.operation, raised))?;
        let closed = OptionFuture::from(event_loop.as_ref().map(LoopQueue::closed));
        let answer = tokio::select! {
            biased;
            answer = answer => answer.ok(),
            Some(()) = closed => None,
        };
        match answer {
            Some(Ok(value)) => Python::attach(|py| self.read(value.bind(py))),
            Some(Err(raised)) => Err(Raised::wrap(self.operation, raised)),
            None => Err(abandoned(self.operation, "the event loop of the callback was closed")),
        }
    }

    fn read<T: DeserializeOwned>(&self, value: &Bound<'_, PyAny>) -> Result<T> {
        T::deserialize(Reader::new(value)).map_err(|mismatch| {
            Error::new(
                ErrorKind::InvalidInput,
                self.operation,
                format!("the callback returned what cannot be read: {mismatch}"),
            )
        })
    }

    fn begin<A>(&self, py: Python<'_>, argument: Option<A>) -> PyResult<Begun>
    where
        A: for<'py> IntoPyObject<'py>,
    {
        static CALL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let (send, answer) = oneshot::channel();
        let report = Report { send: Mutex::new(Some(send)) };
        let arguments = match argument {
            Some(argument) => PyTuple::new(py, [argument.into_bound_py_any(py)?])?,
            None => PyTuple::empty(py),
        };
        let event_loop = self.event_loop.clone().or_else(|| self.home.event_loop());
        let its_loop = event_loop.as_ref().map(LoopQueue::event_loop);
        let call = CALL.import(py, "sophia._callbacks", "Call")?;
        let (context, function) = (self.context.clone_ref(py), self.function.clone_ref(py));
        let call = call.call1((its_loop, context, function, arguments, report, self.operation))?;
        let is_on_loop = call.call_method0(intern!(py, "start"))?.is_truthy()?;
        let event_loop = event_loop.filter(|_| is_on_loop);
        Ok(Begun { answer, event_loop, _cancel: Cancel { call: call.unbind() } })
    }
}

/// A call under way.
struct Begun {
    answer: oneshot::Receiver<PyResult<Py<PyAny>>>,
    /// The loop that it runs on; `None` on a thread.
    event_loop: Option<LoopQueue>,
    _cancel: Cancel,
}

/// Lets a function go on that waits for the event loop of this thread, while a synchronous call holds that up.
pub fn held_up(py: Python<'_>) -> PyResult<()> {
    static HELD_UP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    HELD_UP.import(py, "sophia._callbacks", "held_up")?.call0().map(drop)
}

/// Whether something embeds on the event loop of this thread: a synchronous call that waits for it would wait in vain.
pub fn holds_up_embedding(py: Python<'_>) -> PyResult<bool> {
    static HOLDS_UP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if EMBEDDING.load(Ordering::Relaxed) == 0 {
        return Ok(false);
    }
    HOLDS_UP.import(py, "sophia._callbacks", "holds_up_embedding")?.call0()?.is_truthy()
}

/// Cancels the Python side when the Rust side is dropped; does nothing once it has ended.
struct Cancel {
    call: Py<PyAny>,
}

impl Drop for Cancel {
    fn drop(&mut self) {
        // At the interpreter's exit there is nothing left to cancel.
        Python::try_attach(|py| {
            if let Err(failure) = self.call.bind(py).call_method0(intern!(py, "cancel")) {
                failure.write_unraisable(py, None);
            }
        });
    }
}

/// Where the Python side reports its end, once.
#[pyclass(frozen)]
struct Report {
    send: Mutex<Option<oneshot::Sender<PyResult<Py<PyAny>>>>>,
}

#[pymethods]
impl Report {
    fn __call__(&self, value: Bound<'_, PyAny>, raised: Option<Bound<'_, PyAny>>) {
        let outcome = match raised {
            Some(raised) => Err(PyErr::from_value(raised)),
            None => Ok(value.unbind()),
        };
        if let Some(send) = self.send.lock().take() {
            // Nobody waits any more: the Rust side was dropped.
            let _ = send.send(outcome);
        }
    }
}
