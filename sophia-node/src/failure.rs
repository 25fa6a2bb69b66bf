//! An error of the core as plain data, from which the facade builds its `SophiaError`.

use napi_derive::napi;
use sophia_core::{Error, ErrorKind};

use crate::callback;

/// An error as plain data.
#[napi(object)]
pub struct Failure {
    /// Stable code, such as `NOT_FOUND`.
    pub code: String,
    /// What failed, such as `memory.store`.
    pub operation: String,
    /// What went wrong, without the operation and the facts.
    pub message: String,
    /// Whether the same call may succeed later, unchanged.
    pub retryable: bool,
    /// How long to wait before another try.
    pub retry_after_ms: Option<f64>,
    /// Facts, as pairs of name and value.
    pub context: Vec<Vec<String>>,
    /// Messages of the causes, outermost first.
    pub causes: Vec<String>,
    /// Where the facade keeps the value that a callback threw, if that is the cause.
    pub thrown: Option<u32>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Failure {
        Failure {
            code: error.code().to_owned(),
            operation: error.operation().to_owned(),
            message: error.message().to_owned(),
            retryable: error.is_retryable(),
            retry_after_ms: error.retry_after().map(|delay| delay.as_secs_f64() * 1_000.0),
            context: error.context().iter().map(|(key, value)| vec![(*key).to_owned(), value.clone()]).collect(),
            causes: error.causes(),
            thrown: callback::thrown(error),
        }
    }
}

/// Turns a panic, which is a fault of ours, into an error.
pub fn panicked(operation: &str, payload: &(dyn std::any::Any + Send)) -> Error {
    let said = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Error::new(ErrorKind::Internal, operation.to_owned(), format!("panicked: {said}"))
}
