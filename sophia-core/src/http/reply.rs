//! Answers: JSON, and errors that say what the caller can do and nothing about the inside.

use axum::http::{HeaderValue, StatusCode, header};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Body, surface::Response};
use crate::{
    Error, ErrorKind,
    chat::{dialect, is_spent},
};

/// Type of a JSON body.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// In which form errors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `{"error": {"code", "message", "retryable", "retry_after", "context"}}`
    Sophia,
    /// `{"error": {"message", "type", "param", "code"}}`
    OpenAi,
    /// `{"type": "error", "error": {"type", "message"}, "request_id"}`
    Anthropic,
}

/// An error, and the status where it is more precise than that of the error's kind.
#[derive(Debug)]
pub(super) struct Failure {
    pub status: StatusCode,
    pub error: Error,
    pub header: Option<(header::HeaderName, HeaderValue)>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let status = StatusCode::from_u16(precise_status(&error)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Failure { status, error, header: None }
    }
}

impl Failure {
    pub fn new(status: StatusCode, kind: ErrorKind, message: impl Into<String>) -> Failure {
        Failure { status, error: Error::new(kind, "http", message), header: None }
    }

    /// The caller is nobody known.
    pub fn unauthorized(message: impl Into<String>) -> Failure {
        let mut failure = Failure::new(StatusCode::UNAUTHORIZED, ErrorKind::Unauthorized, message);
        failure.header = Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        failure
    }

    /// The caller is known, and may not.
    pub fn forbidden(message: impl Into<String>, (key, value): (&'static str, String)) -> Failure {
        let mut failure = Failure::new(StatusCode::FORBIDDEN, ErrorKind::Unauthorized, message);
        failure.error = failure.error.with(key, value);
        failure
    }

    /// Writes the error; what is internal goes to the log under the request's id.
    pub fn into_response(self, dialect: Dialect, request_id: &str) -> Response {
        // Clients of other dialects know no other statuses than those of their protocols.
        let own = self.status.as_u16() == self.error.kind().http_status();
        let status = if own && dialect != Dialect::Sophia { status_of(&self.error) } else { self.status };
        let body = match dialect {
            Dialect::Sophia => json!({"error": describe(&self.error, request_id)}),
            Dialect::OpenAi => json!({"error": describe_openai(&self.error, status, request_id)}),
            Dialect::Anthropic => describe_anthropic(&self.error, status, request_id),
        };
        let mut response = json_response(status, &body);
        if let Some(delay) = self.error.retry_after() {
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// Returns what a caller is told about an error.
pub(super) fn describe(error: &Error, request_id: &str) -> Value {
    if error.kind() == ErrorKind::Internal {
        tracing::error!(request_id, ?error, "internal error");
        return json!({
            "code": error.code(),
            "message": "something went wrong inside; the log has it under this request id",
            "retryable": false,
            "retry_after": null,
            "context": {"request_id": request_id},
        });
    }
    let context: Map<String, Value> =
        error.context().iter().map(|(key, value)| ((*key).to_owned(), Value::from(value.as_str()))).collect();
    json!({
        "code": error.code(),
        "message": error.message(),
        "retryable": error.is_retryable(),
        "retry_after": error.retry_after().map(|delay| delay.as_secs_f64()),
        "context": context,
    })
}

/// Returns the status of an error: that of its kind, or a provider's own where that says more.
fn precise_status(error: &Error) -> u16 {
    match (error.kind(), error.get("provider").and(error.get("status"))) {
        (ErrorKind::Unauthorized, Some("403")) => 403,
        (ErrorKind::Unauthorized, Some("429")) => 429,
        _ if is_spent(error) => 402,
        (ErrorKind::InvalidInput, Some("413")) => 413,
        (ErrorKind::InvalidInput, Some("422")) => 422,
        (kind, _) => kind.http_status(),
    }
}

/// Returns the status of an error in other dialects: what a provider's protocol cannot say is the caller's to change, and a
/// provider that is overloaded says so with a status of its own.
pub(super) fn status_of(error: &Error) -> StatusCode {
    let status = match (error.kind(), error.get("status")) {
        (ErrorKind::Unsupported, _) => 400,
        (ErrorKind::Unavailable, Some("529")) => 529,
        _ => precise_status(error),
    };
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Returns the message of an error, or where to find it.
pub(super) fn message_of(error: &Error, request_id: &str) -> String {
    describe(error, request_id)["message"].as_str().unwrap_or_default().to_owned()
}

/// Returns an error in Anthropic's shape.
pub(super) fn describe_anthropic(error: &Error, status: StatusCode, request_id: &str) -> Value {
    dialect::anthropic::write_error(error, &message_of(error, request_id), status.as_u16(), request_id)
}

/// Returns the same in OpenAI's shape, whose `type` is what its clients look at beside the status.
pub(super) fn describe_openai(error: &Error, status: StatusCode, request_id: &str) -> Value {
    let kind = match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    };
    json!({
        "message": describe(error, request_id)["message"],
        "type": error.get("provider_type").unwrap_or(kind),
        "param": dialect::param_of(error),
        "code": dialect::code_of(error),
    })
}

/// Writes `value` as JSON.
pub(super) fn json_response(status: StatusCode, value: &(impl Serialize + ?Sized)) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => bytes_response(status, JSON, bytes),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            bytes_response(StatusCode::INTERNAL_SERVER_ERROR, JSON, r#"{"error": {"code": "INTERNAL"}}"#)
        }
    }
}

pub(super) fn bytes_response(status: StatusCode, content_type: HeaderValue, bytes: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(bytes.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_internal_stays_inside() {
        let error =
            Error::new(ErrorKind::Internal, "memory.store", "row 7 of /var/data is broken").with("path", "/var");
        let told = describe(&error, "r1").to_string();
        assert!(!told.contains("/var") && told.contains("r1"), "{told}");
        assert!(!describe_openai(&error, StatusCode::INTERNAL_SERVER_ERROR, "r1").to_string().contains("/var"));
    }

    #[test]
    fn an_error_says_when_to_come_back() {
        let error =
            Error::new(ErrorKind::RateLimited, "chat", "slow down").with_retry_after(Duration::from_millis(1500));
        let response = Failure::from(error).into_response(Dialect::Sophia, "r1");
        assert_eq!(
            (response.status().as_u16(), &response.headers()[header::RETRY_AFTER]),
            (429, &"2".parse().unwrap())
        );
    }
}
