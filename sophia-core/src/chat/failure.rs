//! What a provider's failure means to the caller.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

use crate::{Error, ErrorKind, Secret};

/// How much of a provider's message is worth showing, in bytes.
const MAX_MESSAGE_BYTES: usize = 300;
/// How much of an answer that cannot be read is worth showing, in bytes.
const MAX_QUOTE_BYTES: usize = 80;
/// How much of it is read for that.
const MAX_READ_BYTES: usize = 4 << 10;

/// Longest name that a provider gives to a failure, in bytes.
const MAX_NAME_BYTES: usize = 100;
/// What a provider says of a failure beside its message, and the fact of the error that holds it.
const NAMED: [(&str, &str); 3] = [("code", "provider_code"), ("param", "provider_param"), ("type", "provider_type")];
/// Names of an account that has nothing left to pay with.
const SPENT: [&str; 4] = ["billing_error", "billing_hard_limit_reached", "billing_not_active", "insufficient_quota"];

/// What is said of a status 401.
const REFUSED: &str = "refused our credential";
/// What is said of a status 403.
const NOT_PERMITTED: &str = "does not permit this with our credential";

/// Makes errors about one provider, without its credentials in them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure<'a> {
    pub operation: &'static str,
    pub provider: &'a str,
    pub secrets: &'a [Secret],
}

impl Failure<'_> {
    /// It could not be reached, or the connection broke.
    pub fn transport(&self, error: reqwest::Error) -> Error {
        // The address may carry what is nobody's business.
        let error = error.without_url();
        let what = if error.is_connect() { "cannot be reached" } else { "broke the connection off" };
        self.error(ErrorKind::Unavailable, what).with_source(error)
    }

    /// It was silent for too long.
    pub fn silent(&self, timeout: Duration) -> Error {
        self.error(ErrorKind::Timeout, &format!("was silent for {:.3} s", timeout.as_secs_f64()))
    }

    /// It answered with something that is not its protocol.
    pub fn garbage(&self, body: &[u8]) -> Error {
        // More than is shown, so that a credential is not cut before it is seen.
        let quote = self.clean(&String::from_utf8_lossy(&body[..body.len().min(MAX_READ_BYTES)]), MAX_QUOTE_BYTES);
        self.error(ErrorKind::Unavailable, &format!("answered with garbage: {quote:?}"))
    }

    /// It answered with a number that would reach a tool as another one.
    pub fn lost(&self, integer: &str) -> Error {
        self.error(ErrorKind::Unavailable, &format!("answered with the integer {integer}, which is beyond 64 bits"))
    }

    /// Its answer is larger than allowed.
    pub fn too_large(&self, max_bytes: usize) -> Error {
        self.error(ErrorKind::Unavailable, &format!("answered with more than {max_bytes} bytes"))
    }

    /// The stream ended before the answer did.
    pub fn cut_off(&self) -> Error {
        self.error(ErrorKind::Unavailable, "cut the stream off before its end")
    }

    /// It answered with a status that is not success.
    pub fn status(&self, status: u16, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Error {
        let body = serde_json::from_slice::<Value>(body).unwrap_or_default();
        let told = body.get("error").unwrap_or(&body);
        let says = match message_of(told) {
            Some(message) => format!("says: {}", self.clean(&message, MAX_MESSAGE_BYTES)),
            None => format!("answered with status {status}"),
        };
        let error = match status {
            402 => self.error(ErrorKind::Unauthorized, &says),
            400..=499 if says_spent(told) => self.error(ErrorKind::Unauthorized, &says),
            // What it says about a credential may quote it.
            401 => self.error(ErrorKind::Unauthorized, REFUSED),
            403 => self.error(ErrorKind::Unauthorized, NOT_PERMITTED),
            404 => self.error(ErrorKind::NotFound, &says),
            429 => self.error(ErrorKind::RateLimited, &says),
            408 | 409 | 425 => self.error(ErrorKind::Unavailable, &says),
            400..=499 => self.error(ErrorKind::InvalidInput, &says),
            _ => self.error(ErrorKind::Unavailable, &says),
        };
        let error = self.named(error, told).with("status", status);
        match retry_after(headers, now) {
            Some(delay) if error.is_retryable() => error.with_retry_after(delay),
            _ => error,
        }
    }

    /// It sent an event that is named an error, whatever its data is.
    pub fn event(&self, data: &str) -> Error {
        let told: Value = serde_json::from_str(data).unwrap_or_else(|_| data.into());
        self.reported(told.get("error").filter(|error| is_failure(error)).unwrap_or(&told))
    }

    /// It reported a failure inside of an answer that had begun well.
    pub fn reported(&self, error: &Value) -> Error {
        let number = error.get("code").and_then(|code| code.as_u64().or_else(|| code.as_str()?.parse().ok()));
        let named = |field: &str| kind_of(error.get(field)?.as_str()?);
        let is_spent = number == Some(402) || says_spent(error);
        let kind = match number {
            _ if is_spent => ErrorKind::Unauthorized,
            Some(401 | 403) => ErrorKind::Unauthorized,
            Some(429) => ErrorKind::RateLimited,
            Some(400 | 413 | 422) => ErrorKind::InvalidInput,
            _ => named("type").or_else(|| named("code")).unwrap_or(ErrorKind::Unavailable),
        };
        let status = match (number, error.get("type").and_then(Value::as_str)) {
            (Some(403), _) | (_, Some("permission_error")) => Some(403),
            (Some(413), _) | (_, Some("request_too_large")) => Some(413),
            (Some(422), _) => Some(422),
            _ if is_spent => Some(402),
            (Some(529), _) | (_, Some("overloaded_error")) => Some(529),
            _ => None,
        };
        let failure = match (kind, status) {
            // What it says about a credential may quote it.
            (ErrorKind::Unauthorized, Some(403)) => self.error(kind, NOT_PERMITTED),
            (ErrorKind::Unauthorized, _) if !is_spent => self.error(kind, REFUSED),
            _ => {
                let message = message_of(error).unwrap_or_else(|| "no message".to_owned());
                self.error(kind, &format!("failed: {}", self.clean(&message, MAX_MESSAGE_BYTES)))
            }
        };
        let failure = self.named(failure, error);
        match status {
            Some(status) => failure.with("status", status),
            None => failure,
        }
    }

    /// Adds how the provider names a failure.
    fn named(&self, error: Error, told: &Value) -> Error {
        NAMED.into_iter().fold(error, |error, (field, fact)| match told.get(field).and_then(Value::as_str) {
            Some(name) if !name.is_empty() => error.with(fact, self.clean(name, MAX_NAME_BYTES)),
            _ => error,
        })
    }

    fn error(&self, kind: ErrorKind, what: &str) -> Error {
        Error::new(kind, self.operation, format!("provider `{}` {what}", self.provider)).with("provider", self.provider)
    }

    /// Cuts text to a length, on one line, without our credentials.
    fn clean(&self, text: &str, max_bytes: usize) -> String {
        let mut text = text.to_owned();
        for secret in self.secrets {
            text = text.replace(secret.expose(), "***");
        }
        text.truncate(text.floor_char_boundary(max_bytes));
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// Returns whether what stands in `error` is one: some servers write an empty one beside each answer.
pub(crate) fn is_failure(error: &Value) -> bool {
    match error {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

/// Returns whether a provider has answered that our account with it has nothing left to pay with: another one may be asked, but
/// not the same again.
pub(crate) fn is_spent(error: &Error) -> bool {
    let named = |fact: &str| error.get(fact).is_some_and(|name| SPENT.contains(&name));
    error.kind() == ErrorKind::Unauthorized
        && (error.get("status") == Some("402") || named("provider_code") || named("provider_type"))
}

fn says_spent(told: &Value) -> bool {
    ["code", "type"].into_iter().filter_map(|name| told.get(name)?.as_str()).any(|name| SPENT.contains(&name))
}

/// Returns what a named failure means: names of Anthropic's and of OpenAI's protocols.
fn kind_of(name: &str) -> Option<ErrorKind> {
    Some(match name {
        "authentication_error" | "permission_error" | "invalid_api_key" => ErrorKind::Unauthorized,
        "rate_limit_error" | "rate_limit_exceeded" => ErrorKind::RateLimited,
        "invalid_request_error" | "request_too_large" | "invalid_prompt" | "context_length_exceeded" => {
            ErrorKind::InvalidInput
        }
        "not_found_error" | "model_not_found" => ErrorKind::NotFound,
        "overloaded_error" | "api_error" | "server_error" | "timeout_error" => ErrorKind::Unavailable,
        _ => return None,
    })
}

fn message_of(error: &Value) -> Option<String> {
    let message = error.get("message").or_else(|| error.get("detail")).unwrap_or(error);
    match message {
        Value::String(message) => Some(message.clone()),
        Value::Object(fields) if fields.is_empty() => None,
        Value::Null => None,
        other => Some(other.to_string()),
    }
}

/// Reads when to come back: milliseconds (`retry-after-ms`), seconds or an HTTP date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(ms) = text("retry-after-ms").and_then(|ms| ms.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(ms / 1000.0).ok();
    }
    let value = text(RETRY_AFTER.as_str())?;
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let at = DateTimeParser::new().parse_timestamp(value).ok()?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn failure(status: u16, headers: &[(&'static str, &str)], body: &str) -> Error {
        let secrets = [Secret::new("sk-secret"), Secret::new("of a header")];
        let failure = Failure { operation: "test", provider: "p", secrets: &secrets };
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        failure.status(status, &headers, body.as_bytes(), Timestamp::constant(784_111_777, 0))
    }

    #[test]
    fn every_status_says_what_the_caller_can_do() {
        for (status, code) in [
            (400, "INVALID_INPUT"),
            (401, "UNAUTHORIZED"),
            (402, "UNAUTHORIZED"),
            (403, "UNAUTHORIZED"),
            (404, "NOT_FOUND"),
            (413, "INVALID_INPUT"),
            (422, "INVALID_INPUT"),
            (429, "RATE_LIMITED"),
            (302, "UNAVAILABLE"),
            (500, "UNAVAILABLE"),
            (503, "UNAVAILABLE"),
            (529, "UNAVAILABLE"),
        ] {
            assert_eq!(failure(status, &[], "{}").code(), code, "{status}");
        }
    }

    #[test]
    fn a_failure_inside_of_an_answer_has_the_status_that_it_names() {
        let failure = Failure { operation: "test", provider: "p", secrets: &[] };
        for (error, code, status) in [
            (json!({"type": "permission_error", "message": "no"}), "UNAUTHORIZED", Some("403")),
            (json!({"type": "authentication_error"}), "UNAUTHORIZED", None),
            (json!({"type": "request_too_large"}), "INVALID_INPUT", Some("413")),
            (json!({"code": 403}), "UNAUTHORIZED", Some("403")),
            (json!({"code": "413"}), "INVALID_INPUT", Some("413")),
            (json!({"code": 422, "message": "no"}), "INVALID_INPUT", Some("422")),
            (json!({"code": 429}), "RATE_LIMITED", None),
            (json!({"code": 402, "message": "Insufficient credits"}), "UNAUTHORIZED", Some("402")),
            (json!({"type": "billing_error"}), "UNAUTHORIZED", Some("402")),
            (json!({"type": "overloaded_error"}), "UNAVAILABLE", Some("529")),
            (json!({"code": 529}), "UNAVAILABLE", Some("529")),
        ] {
            let told = failure.reported(&error);
            assert_eq!((told.code(), told.get("status")), (code, status), "{error}");
        }
    }

    #[test]
    fn how_a_provider_names_a_failure_is_a_fact_of_the_error() {
        let told = |status: u16, told: Value| {
            let error = failure(status, &[], &json!({"error": told}).to_string());
            let fact = |name: &str| error.get(name).unwrap_or("-").to_owned();
            [fact("provider_code"), fact("provider_param"), fact("provider_type")]
        };
        let window = json!({"message": "x", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"});
        assert_eq!(told(400, window), ["context_length_exceeded", "messages", "invalid_request_error"]);
        assert_eq!(told(400, json!({"code": 400, "type": null, "param": "of sk-secret"})), ["-", "of ***", "-"]);
        assert_eq!(told(503, json!("down")), ["-", "-", "-"]);
    }

    #[test]
    fn an_account_that_is_spent_is_one_kind_however_it_is_told() {
        let quota =
            json!({"message": "You exceeded your quota.", "type": "insufficient_quota", "code": "insufficient_quota"});
        let inside = Failure { operation: "test", provider: "p", secrets: &[] };
        for error in [
            failure(402, &[], "{}"),
            failure(429, &[], &json!({"error": quota}).to_string()),
            failure(400, &[], &json!({"error": {"type": "billing_error"}}).to_string()),
            inside.reported(&quota),
            inside.reported(&json!({"code": 402})),
            inside.reported(&json!({"type": "billing_error"})),
        ] {
            assert!(is_spent(&error) && !error.is_retryable(), "{error}");
            assert_eq!(error.code(), "UNAUTHORIZED", "{error}");
        }
        assert!(inside.reported(&quota).message().ends_with("failed: You exceeded your quota."));
        assert!(!is_spent(&failure(429, &[], "{}")) && !is_spent(&failure(401, &[], "{}")));
    }

    #[test]
    fn the_providers_message_is_told_without_our_credential() {
        let error = failure(400, &[], r#"{"error": {"message": "bad max_tokens\nfor sk-secret (of a header)"}}"#);
        assert_eq!(error.message(), "provider `p` says: bad max_tokens for *** (***)");
        let refused = failure(401, &[], r#"{"error": {"message": "Incorrect API key provided: sk-se***"}}"#);
        assert!(!refused.message().contains("sk-"), "{refused}");
        assert!(failure(500, &[], &"x".repeat(10_000)).message().len() < 400);
    }

    #[test]
    fn retry_after_is_seconds_or_milliseconds_or_a_date() {
        let delay = |headers: &[(&'static str, &str)]| failure(429, headers, "{}").retry_after();
        assert_eq!(delay(&[("retry-after", "2")]), Some(Duration::from_secs(2)));
        assert_eq!(delay(&[("retry-after-ms", "250"), ("retry-after", "9")]), Some(Duration::from_millis(250)));
        assert_eq!(delay(&[("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT")]), Some(Duration::from_secs(10)));
        assert_eq!(delay(&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]), Some(Duration::ZERO));
        for nonsense in ["-1", "soon", "NaN"] {
            assert_eq!(delay(&[("retry-after", nonsense)]), None, "{nonsense}");
        }
    }
}
