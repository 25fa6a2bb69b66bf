//! One error for every capability, with a stable code that is the same in Rust, Python, Node and HTTP.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

/// Result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, chosen by what the caller can do about it. `docs/errors.md` is the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// What was asked for does not exist in this scope.
    NotFound,
    /// An argument is malformed; the message names the field and the fix.
    InvalidInput,
    /// A configuration field is unknown, malformed or out of range; the message names its path.
    InvalidConfig,
    /// The caller, or a credential of ours, was refused.
    Unauthorized,
    /// A limit of ours or of a provider was reached; `retry_after` says when to come back, if known.
    RateLimited,
    /// The deadline passed first.
    Timeout,
    /// A dependency cannot be reached, or answers with its own failure.
    Unavailable,
    /// A breaker is open: the dependency failed lately and is not asked.
    CircuitOpen,
    /// The state changed meanwhile, such as a version that is no longer current.
    Conflict,
    /// The operation is not offered by this implementation, build or configuration.
    Unsupported,
    /// The caller, or a shutdown, cancelled the work.
    Cancelled,
    /// A fault of ours.
    Internal,
}

impl ErrorKind {
    /// Every kind, in the order of the table in `docs/errors.md`.
    pub const ALL: [ErrorKind; 12] = [
        ErrorKind::NotFound,
        ErrorKind::InvalidInput,
        ErrorKind::InvalidConfig,
        ErrorKind::Unauthorized,
        ErrorKind::RateLimited,
        ErrorKind::Timeout,
        ErrorKind::Unavailable,
        ErrorKind::CircuitOpen,
        ErrorKind::Conflict,
        ErrorKind::Unsupported,
        ErrorKind::Cancelled,
        ErrorKind::Internal,
    ];

    /// Returns the stable code, such as `"NOT_FOUND"`.
    pub const fn code(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "NOT_FOUND",
            ErrorKind::InvalidInput => "INVALID_INPUT",
            ErrorKind::InvalidConfig => "INVALID_CONFIG",
            ErrorKind::Unauthorized => "UNAUTHORIZED",
            ErrorKind::RateLimited => "RATE_LIMITED",
            ErrorKind::Timeout => "TIMEOUT",
            ErrorKind::Unavailable => "UNAVAILABLE",
            ErrorKind::CircuitOpen => "CIRCUIT_OPEN",
            ErrorKind::Conflict => "CONFLICT",
            ErrorKind::Unsupported => "UNSUPPORTED",
            ErrorKind::Cancelled => "CANCELLED",
            ErrorKind::Internal => "INTERNAL",
        }
    }

    /// Returns the kind with this code, if there is one.
    pub fn from_code(code: &str) -> Option<ErrorKind> {
        ErrorKind::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Returns whether the same call may succeed later, unchanged.
    pub const fn is_retryable(self) -> bool {
        matches!(self, ErrorKind::RateLimited | ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::CircuitOpen)
    }

    /// Returns the HTTP status that the surface answers with.
    pub const fn http_status(self) -> u16 {
        match self {
            ErrorKind::NotFound => 404,
            ErrorKind::InvalidInput | ErrorKind::InvalidConfig => 400,
            ErrorKind::Unauthorized => 401,
            ErrorKind::RateLimited => 429,
            ErrorKind::Timeout => 504,
            ErrorKind::Unavailable | ErrorKind::CircuitOpen => 503,
            ErrorKind::Conflict => 409,
            ErrorKind::Unsupported => 501,
            ErrorKind::Cancelled => 499,
            ErrorKind::Internal => 500,
        }
    }
}

/// Longest message, and longest fact, of an error in bytes: what a caller sent is not told back, or logged, at its whole length.
const MAX_TEXT_BYTES: usize = 1_000;

/// An error of any capability: a kind, the operation, a message for people, and its context.
///
/// Cheap to clone, since one failed flight reports to all its waiters.
///
/// ```
/// use sophia_core::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::Timeout, "memory.search", "redis did not answer").with("tier", "l2");
/// assert_eq!(error.code(), "TIMEOUT");
/// assert!(error.is_retryable());
/// assert_eq!(error.to_string(), "memory.search: redis did not answer (tier: l2)");
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    operation: Cow<'static, str>,
    message: String,
    context: Vec<(&'static str, String)>,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Creates an error of `kind` in `operation`, such as `"memory.search"`.
    pub fn new(kind: ErrorKind, operation: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Error {
        Error(Arc::new(Inner {
            kind,
            operation: operation.into(),
            message: shortened(message.into(), MAX_TEXT_BYTES),
            context: Vec::new(),
            retry_after: None,
            source: None,
        }))
    }

    /// Creates an [`ErrorKind::InvalidInput`] error that names the field and what it must be.
    pub fn invalid(operation: impl Into<Cow<'static, str>>, field: &str, message: impl fmt::Display) -> Error {
        Error::new(ErrorKind::InvalidInput, operation, format!("`{field}` {message}")).with("field", field)
    }

    /// Creates an [`ErrorKind::InvalidConfig`] error that names the path of the field, such as `"chat.ttl.max"`.
    pub fn invalid_config(path: &str, message: impl fmt::Display) -> Error {
        Error::new(ErrorKind::InvalidConfig, "config", format!("`{path}` {message}")).with("field", path)
    }

    /// Adds a fact about the failure. Never a secret.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Error {
        self.inner().context.push((key, shortened(value.to_string(), MAX_TEXT_BYTES)));
        self
    }

    /// Sets how long to wait before another try.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Error {
        self.inner().retry_after = Some(delay);
        self
    }

    /// Sets the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.inner().source = Some(Arc::from(source.into()));
        self
    }

    /// Names the operation that was called, where what failed is a part of it.
    #[must_use]
    pub(crate) fn in_operation(mut self, operation: &'static str) -> Error {
        self.inner().operation = operation.into();
        self
    }

    /// Returns the kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the stable code of the kind, such as `"NOT_FOUND"`.
    pub fn code(&self) -> &'static str {
        self.0.kind.code()
    }

    /// Returns whether the same call may succeed later, unchanged.
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable()
    }

    /// Returns how long to wait before another try, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Returns the operation that failed, such as `"memory.search"`.
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// Returns what went wrong, without the operation and the context.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the facts that [`Error::with`] added, in order.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// Returns the fact named `key`, if it was added.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.context.iter().find(|(k, _)| *k == key).map(|(_, value)| value.as_str())
    }

    /// Returns the messages of the sources, outermost first.
    pub fn causes(&self) -> Vec<String> {
        let mut source = std::error::Error::source(self);
        std::iter::from_fn(|| {
            let error = source?;
            source = error.source();
            Some(error.to_string())
        })
        .collect()
    }

    /// Gives the field at fault the name that the caller knows.
    pub(crate) fn renamed(mut self, field: &str) -> Error {
        let Some(known) = self.get("field").filter(|known| *known != field).map(str::to_owned) else { return self };
        let inner = self.inner();
        inner.message = inner.message.replace(&format!("`{known}`"), &format!("`{field}`"));
        for (_, value) in inner.context.iter_mut().filter(|(key, _)| *key == "field") {
            field.clone_into(value);
        }
        self
    }

    fn inner(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.operation, self.0.message)?;
        // The field already stands in the message.
        let mut facts = self.0.context.iter().filter(|(key, _)| *key != "field").peekable();
        if facts.peek().is_some() {
            let facts: Vec<_> = facts.map(|(key, value)| format!("{key}: {value}")).collect();
            write!(f, " ({})", facts.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {self}", self.code())?;
        for cause in self.causes() {
            write!(f, "\n  caused by: {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Cuts out the middle of a text that is longer than `max` bytes: its end often says what was expected.
pub(crate) fn shortened(text: String, max: usize) -> String {
    if text.len() <= max {
        return text;
    }
    let (start, end) = (text.floor_char_boundary(max / 2), text.ceil_char_boundary(text.len() - max / 2));
    format!("{}…{}", &text[..start], &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_unique_and_finds_its_kind() {
        let codes: std::collections::HashSet<_> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_code(kind.code()), Some(kind));
        }
    }

    #[test]
    fn the_table_in_the_docs_lists_every_kind() {
        let table = include_str!("../../docs/errors.md");
        for kind in ErrorKind::ALL {
            let retryable = if kind.is_retryable() { "yes" } else { "no" };
            let row = table.lines().find(|line| line.starts_with(&format!("| `{}` |", kind.code())));
            let row = row.unwrap_or_else(|| panic!("docs/errors.md has no row for {}", kind.code()));
            assert!(row.contains(&format!("| {retryable} | {} |", kind.http_status())), "{row}");
        }
    }

    #[test]
    fn causes_are_listed_outermost_first() {
        let io = std::io::Error::new(std::io::ErrorKind::PermissionDenied, "read-only file system");
        let error =
            Error::new(ErrorKind::Unavailable, "memory.store", "the data file cannot be written").with_source(io);
        assert_eq!(error.causes(), ["read-only file system"]);
    }
}
