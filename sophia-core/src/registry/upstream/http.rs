//! What an HTTP server's failures mean.

use reqwest::StatusCode;

use crate::ErrorKind;

/// Longest text of a failed answer that is put into an error, in bytes.
const MAX_ERROR_TEXT: usize = 300;

/// Returns the kind of failure that a status means.
pub(crate) fn kind_of(status: StatusCode) -> ErrorKind {
    match status.as_u16() {
        401 | 403 | 407 => ErrorKind::Unauthorized,
        404 | 410 => ErrorKind::NotFound,
        408 | 504 => ErrorKind::Timeout,
        409 | 412 => ErrorKind::Conflict,
        429 => ErrorKind::RateLimited,
        501 => ErrorKind::Unsupported,
        status if status >= 500 => ErrorKind::Unavailable,
        _ => ErrorKind::InvalidInput,
    }
}

/// Returns the innermost cause, which is what a person wants to know of a failed request.
pub(crate) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Shortens what a server said, to stand in an error.
pub(crate) fn excerpt(text: &str) -> String {
    let text = text.trim();
    let end = text.floor_char_boundary(MAX_ERROR_TEXT);
    let more = if end < text.len() { "…" } else { "" };
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>() + more
}
