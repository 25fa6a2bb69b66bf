//! Chat in Sophia's own form.

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use super::{
    call::Call,
    exposed,
    openai::traceparent,
    reply::{Failure, describe, json_response},
    sse::{self, Frames},
    surface::Response,
};
use crate::{
    Error, ErrorKind,
    chat::{CacheInfo, ChatChunk, ChatRequest, ChatResponse},
    wire,
};

const OPERATION: &str = "chat.complete";

/// Answers a question, whole or in parts.
pub(super) async fn chat(call: Call) -> Result<Response, Failure> {
    let exposed = exposed::find(OPERATION)
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, OPERATION, "is not part of this build"))?;
    let mut arguments = call.arguments(exposed)?;
    let stream = take_flag(&mut arguments, "stream")?;
    let mut request: ChatRequest = wire::read(ErrorKind::InvalidInput, OPERATION, Value::Object(arguments))?;
    request.traceparent = request.traceparent.or_else(|| traceparent(&call));
    let chat = call.surface.sophia().chat();
    if stream {
        return sse::answer(chat.stream(request), Parts { request_id: call.request_id.clone() }).await;
    }
    let answer = chat.complete(request).await?;
    let mut response = json_response(StatusCode::OK, &answer);
    answer_headers(response.headers_mut(), &answer);
    Ok(response)
}

/// Takes a field that is true, false, or not there.
fn take_flag(arguments: &mut Map<String, Value>, name: &str) -> Result<bool, Error> {
    match arguments.shift_remove(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(Error::invalid(OPERATION, name, "must be true or false")),
    }
}

/// Parts as they are, ended by `[DONE]`.
struct Parts {
    request_id: String,
}

impl Frames for Parts {
    fn chunk(&mut self, chunk: &ChatChunk) -> String {
        // A part is plain data; what cannot be written is told as null.
        let data = serde_json::to_string(chunk).unwrap_or_else(|_| "null".to_owned());
        let end = if chunk.answer.is_some() { "data: [DONE]\n\n" } else { "" };
        format!("data: {data}\n\n{end}")
    }

    fn error(&mut self, error: &Error) -> String {
        format!("event: error\ndata: {}\n\n", json!({"error": describe(error, &self.request_id)}))
    }
}

/// Tells in headers how an answer relates to the cache, and what it took.
pub(super) fn answer_headers(headers: &mut HeaderMap, answer: &ChatResponse) {
    cache_headers(headers, &answer.cache);
    set(headers, "x-sophia-provider", Some(&answer.provider));
    set(headers, "x-sophia-latency-ms", Some(format!("{:.3}", answer.latency_ms)));
    set(headers, "x-sophia-cost-usd", answer.cost_usd);
    set(headers, "x-sophia-prompt-tokens", answer.usage.prompt_tokens);
    set(headers, "x-sophia-completion-tokens", answer.usage.completion_tokens);
    set(headers, "x-sophia-cached-tokens", answer.usage.cached_tokens);
}

/// Tells in headers how an answer relates to the cache.
pub(super) fn cache_headers(headers: &mut HeaderMap, cache: &CacheInfo) {
    let status = serde_json::to_value(cache.status).ok();
    set(headers, "x-sophia-cache", status.as_ref().and_then(Value::as_str));
    set(headers, "x-sophia-cache-tier", cache.tier);
    set(headers, "x-sophia-cache-age-s", cache.age_s.map(|age| format!("{age:.3}")));
    set(headers, "x-sophia-cache-key", cache.key.as_deref());
}

/// Sets a header to what is known; what is not known, or fits into no header, is left out.
fn set(headers: &mut HeaderMap, name: &'static str, value: Option<impl ToString>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value.to_string()).ok()) {
        headers.insert(name, value);
    }
}
