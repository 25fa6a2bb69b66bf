//! Errors of the engine as Python exceptions, and back.

use std::fmt;

use pyo3::{exceptions::PyTimeoutError, prelude::*, sync::PyOnceLock, types::PyDict};
use sophia_core::{Error, ErrorKind, resilience::abandoned};

pyo3::import_exception!(asyncio, CancelledError);

/// A Python exception on its way through the engine: who awaits the answer gets this very object.
pub struct Raised {
    exception: PyErr,
    /// What it says, read once: who logs or shows the error may not wait for the interpreter.
    text: String,
}

impl Raised {
    /// Wraps what a callback raised, for the waiters of `operation`.
    pub fn wrap(operation: &'static str, raised: PyErr) -> Error {
        // Its task was, and not theirs: to them it is an error like another.
        if Python::try_attach(|py| raised.is_instance_of::<CancelledError>(py)).unwrap_or_default() {
            return abandoned(operation, "the task of the callback was cancelled");
        }
        let kind = Python::try_attach(|py| kind_of(py, &raised)).unwrap_or(ErrorKind::Unavailable);
        let text = raised.to_string();
        Error::new(kind, operation, format!("the callback raised {text}"))
            .with_source(Raised { exception: raised, text })
    }
}

/// Returns what an exception is to the engine: what it says itself, or a thing outside that does not work.
fn kind_of(py: Python<'_>, raised: &PyErr) -> ErrorKind {
    let code = raised.value(py).getattr("code").and_then(|code| code.extract::<String>());
    if let Some(kind) = code.ok().and_then(|code| ErrorKind::from_code(&code)) {
        return kind;
    }
    if raised.is_instance_of::<PyTimeoutError>(py) { ErrorKind::Timeout } else { ErrorKind::Unavailable }
}

impl fmt::Debug for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raised({})", self.text)
    }
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Raised {}

/// Turns an error of the engine into the exception of its kind.
pub fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(raised) = inner.downcast_ref::<Raised>() {
            return raised.exception.clone_ref(py);
        }
        source = inner.source();
    }
    construct(py, error).unwrap_or_else(|failure| failure)
}

fn construct(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    static FROM_CODE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let from_code = FROM_CODE.import(py, "sophia.errors", "from_code")?;
    let context = PyDict::new(py);
    for (key, value) in error.context() {
        context.set_item(key, value)?;
    }
    let retry_after = error.retry_after().map(|delay| delay.as_secs_f64());
    let exception = from_code.call1((error.code(), error.to_string(), retry_after, error.operation(), context))?;
    for cause in error.causes() {
        exception.call_method1("add_note", (format!("caused by: {cause}"),))?;
    }
    Ok(PyErr::from_value(exception))
}

/// Returns every code with whether it is retryable, for the test that walks them.
#[pyfunction]
pub fn error_codes() -> Vec<(&'static str, bool)> {
    ErrorKind::ALL.iter().map(|kind| (kind.code(), kind.is_retryable())).collect()
}
