//! Each question and each call to a provider as a span and as measurements, where OpenTelemetry is asked for.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::StreamExt;
use serde_json::{Map, Value, json};

use super::{
    assist::ToolStep,
    metrics::Operation,
    provider::{ChatProvider, Completion, EmbedCall, Embeddings, Model, ProviderCall, ProviderEvent, ProviderStream},
    response::{Answer, CacheInfo, ChatResponse, Usage},
};
use crate::{
    Error, ErrorKind, Result,
    otlp::{AttributeValue, Kind, Otel, Span, SpanContext, names},
};

/// Longest content of one attribute, in bytes: collectors refuse what is much longer.
const MAX_CONTENT_BYTES: usize = 64 << 10;
const CHAT: &str = "chat";
const EMBEDDINGS: &str = "embeddings";
const EXECUTE_TOOL: &str = "execute_tool";

/// Tells of the calls to a provider.
#[derive(Debug)]
pub(crate) struct Traced {
    inner: Arc<dyn ChatProvider>,
    otel: Otel,
    /// What every call is told with.
    about: About,
}

#[derive(Debug, Clone)]
struct About {
    protocol: &'static str,
    address: String,
    port: Option<u16>,
}

/// A call under way.
#[derive(Debug)]
struct Seen {
    otel: Otel,
    span: Span,
    about: About,
    operation: &'static str,
    model: String,
    has_ended: bool,
}

/// A question on its way through the stages.
#[derive(Debug)]
pub(crate) struct Asked {
    otel: Otel,
    span: Span,
    operation: Operation,
}

impl Asked {
    /// Begins to tell of a question, in the trace of the caller if it names one.
    pub fn begin(otel: &Otel, operation: Operation, traceparent: Option<&str>) -> Asked {
        let span = otel.span(operation.name(), Kind::Internal, traceparent.and_then(SpanContext::parse));
        Asked { otel: otel.clone(), span, operation }
    }

    /// Returns where it stands, for the calls that it leads to.
    pub fn context(&self) -> SpanContext {
        self.span.context()
    }

    /// Ends it as it ended.
    pub fn ended(self, outcome: &Result<ChatResponse>) {
        match outcome {
            Ok(response) => self.answered(&response.cache, &response.answer, Some(response.attempts.len())),
            Err(error) => self.failed(error),
        }
    }

    /// Ends it with an answer, for which providers were asked so often.
    pub fn answered(mut self, cache: &CacheInfo, answer: &Answer, attempts: Option<usize>) {
        let span = &mut self.span;
        span.set(names::RESPONSE_MODEL, answer.model.as_str());
        span.set(names::SOPHIA_PROVIDER, answer.provider.as_str());
        span.set_known(names::ATTEMPTS, attempts.map(|attempts| attempts as u64));
        span.set_known(names::COST_USD, answer.cost_usd);
        if let Some(cost) = answer.cost_usd.filter(|_| !cache.status.saves()) {
            let whose = vec![
                (names::SOPHIA_PROVIDER, answer.provider.as_str().into()),
                (names::RESPONSE_MODEL, answer.model.as_str().into()),
            ];
            self.otel.record(&names::COST, cost, whose);
        }
        self.found(cache);
    }

    /// Ends it with what was found or made.
    pub fn found(mut self, cache: &CacheInfo) {
        let status = cache.status.name();
        let span = &mut self.span;
        span.set(names::CACHE_STATUS, status);
        span.set_known(names::CACHE_TIER, cache.tier);
        span.set_known(names::CACHE_AGE, cache.age_s);
        span.set_known(names::CACHE_SIMILARITY, cache.similarity);
        self.count(vec![(names::CACHE_STATUS, status.into())]);
        self.span.end();
    }

    /// Ends it with an error.
    pub fn failed(mut self, error: &Error) {
        self.count(vec![(names::ERROR_TYPE, error.code().into())]);
        self.span.fail(error);
    }

    fn count(&self, mut attributes: Vec<(&'static str, AttributeValue)>) {
        attributes.push((names::SOPHIA_OPERATION, self.operation.name().into()));
        self.otel.record(&names::REQUESTS, 1.0, attributes);
    }
}

/// Tells of tools that were called.
pub(super) fn tool_steps(otel: &Otel, parent: Option<&str>, steps: &[ToolStep]) {
    let parent = parent.and_then(SpanContext::parse);
    for step in steps {
        let attributes =
            vec![(names::OPERATION_NAME, EXECUTE_TOOL.into()), (names::TOOL_NAME, step.tool.as_str().into())];
        let took = Duration::try_from_secs_f64(step.latency_ms / 1e3).unwrap_or_default();
        otel.past(format!("{EXECUTE_TOOL} {}", step.tool), parent, took, attributes, step.error_code);
    }
}

impl Traced {
    /// Wraps a provider that speaks `protocol`, at the server of this address.
    pub fn new(
        inner: Arc<dyn ChatProvider>,
        otel: Otel,
        protocol: &'static str,
        server: (&str, Option<u16>),
    ) -> Traced {
        let about = About { protocol, address: server.0.to_owned(), port: server.1 };
        Traced { inner, otel, about }
    }

    fn begin(&self, operation: &'static str, model: &str, parent: Option<SpanContext>) -> Seen {
        let mut span = self.otel.span(format!("{operation} {model}"), Kind::Client, parent);
        for (name, value) in self.about.attributes(operation, model) {
            span.set(name, value);
        }
        span.set(names::SOPHIA_PROVIDER, self.inner.name());
        let (otel, about, model) = (self.otel.clone(), self.about.clone(), model.to_owned());
        Seen { otel, span, about, operation, model, has_ended: false }
    }

    fn begin_chat(&self, call: &ProviderCall) -> Seen {
        let mut seen = self.begin(CHAT, &call.model, call.parent);
        let span = &mut seen.span;
        span.set_known(names::REQUEST_TEMPERATURE, call.body.get("temperature").and_then(Value::as_f64));
        span.set_known(names::REQUEST_TOP_P, call.body.get("top_p").and_then(Value::as_f64));
        span.set_known(names::REQUEST_SEED, call.body.get("seed").and_then(Value::as_u64));
        let most = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
        span.set_known(names::REQUEST_MAX_TOKENS, most.iter().find_map(|name| call.body.get(*name)?.as_u64()));
        if self.otel.has_content() {
            span.set_with(names::INPUT_MESSAGES, || asked(&call.body));
        }
        seen
    }
}

impl About {
    fn attributes(&self, operation: &'static str, model: &str) -> Vec<(&'static str, AttributeValue)> {
        let mut attributes = vec![
            (names::OPERATION_NAME, operation.into()),
            (names::PROVIDER_NAME, self.protocol.into()),
            (names::REQUEST_MODEL, model.into()),
            (names::SERVER_ADDRESS, self.address.as_str().into()),
        ];
        attributes.extend(self.port.map(|port| (names::SERVER_PORT, AttributeValue::Int(port.into()))));
        attributes
    }
}

impl Seen {
    fn first_part(&self) {
        let attributes = self.about.attributes(self.operation, &self.model);
        self.otel.record(&names::TIME_TO_FIRST_CHUNK_S, self.span.elapsed().as_secs_f64(), attributes);
    }

    fn answered(mut self, answer: &Answer) {
        let span = &mut self.span;
        span.set(names::RESPONSE_MODEL, answer.model.as_str());
        span.set_known(names::RESPONSE_ID, answer.envelope.fields().get("id").and_then(Value::as_str));
        let reasons = answer.finish_reason.clone().map(|reason| AttributeValue::Texts(vec![reason]));
        span.set_known(names::RESPONSE_FINISH_REASONS, reasons);
        if self.otel.has_content() {
            span.set_with(names::OUTPUT_MESSAGES, || said(answer));
        }
        self.ended(&answer.model, &answer.usage);
    }

    /// Ends it, with what was counted.
    fn ended(mut self, model: &str, usage: &Usage) {
        let span = &mut self.span;
        span.set_known(names::USAGE_INPUT_TOKENS, usage.prompt_tokens);
        span.set_known(names::USAGE_OUTPUT_TOKENS, usage.completion_tokens);
        span.set_known(names::USAGE_CACHED_TOKENS, usage.cached_tokens);
        span.set_known(names::USAGE_CACHE_WRITE_TOKENS, usage.cache_write_tokens);
        span.set_known(names::USAGE_REASONING_TOKENS, usage.reasoning_tokens);
        let mut attributes = self.about.attributes(self.operation, &self.model);
        attributes.push((names::RESPONSE_MODEL, model.into()));
        for (kind, count) in [("input", usage.prompt_tokens), ("output", usage.completion_tokens)] {
            let Some(count) = count else { continue };
            let mut attributes = attributes.clone();
            attributes.push((names::TOKEN_TYPE, kind.into()));
            self.otel.record(&names::TOKEN_USAGE, count as f64, attributes);
        }
        self.took(attributes);
        self.span.end();
    }

    fn failed(mut self, error: &Error) {
        self.took_until(error.code());
        self.span.fail(error);
    }

    fn took_until(&mut self, error: &'static str) {
        let mut attributes = self.about.attributes(self.operation, &self.model);
        attributes.push((names::ERROR_TYPE, error.into()));
        self.took(attributes);
    }

    fn took(&mut self, attributes: Vec<(&'static str, AttributeValue)>) {
        self.has_ended = true;
        self.otel.record(&names::DURATION_S, self.span.elapsed().as_secs_f64(), attributes);
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        if !self.has_ended {
            self.took_until(ErrorKind::Cancelled.code());
        }
    }
}

/// Returns what was asked, in the form of the conventions. `None` where it is too long.
fn asked(body: &Map<String, Value>) -> Option<String> {
    let messages = ["messages", "input"].iter().find_map(|name| body.get(*name))?;
    let message = |message: &Value| {
        let role = message.get("role").and_then(Value::as_str).unwrap_or("user");
        json!({"role": role, "parts": parts(message.get("content").unwrap_or(message), message.get("tool_calls"))})
    };
    let told: Vec<_> = match messages {
        Value::Array(messages) => messages.iter().map(message).collect(),
        text => vec![json!({"role": "user", "parts": parts(text, None)})],
    };
    bounded(&Value::Array(told))
}

/// Returns what was answered, in the form of the conventions.
fn said(answer: &Answer) -> Option<String> {
    let text = Value::from(answer.text.as_str());
    let parts = parts(&text, Some(&Value::Array(answer.tool_calls.clone())));
    bounded(&json!([{"role": "assistant", "parts": parts, "finish_reason": answer.finish_reason}]))
}

fn parts(content: &Value, calls: Option<&Value>) -> Vec<Value> {
    let part = |part: &Value| match part.get("text").and_then(Value::as_str) {
        Some(text) => json!({"type": "text", "content": text}),
        None => json!({"type": part["type"], "content": part}),
    };
    let mut parts = match content {
        Value::String(text) if text.is_empty() => Vec::new(),
        Value::String(text) => vec![json!({"type": "text", "content": text})],
        Value::Array(parts) => parts.iter().map(part).collect(),
        _ => Vec::new(),
    };
    for call in calls.and_then(Value::as_array).into_iter().flatten() {
        let function = &call["function"];
        let (name, arguments) = (&function["name"], &function["arguments"]);
        parts.push(json!({"type": "tool_call", "id": call["id"], "name": name, "arguments": arguments}));
    }
    parts
}

fn bounded(value: &Value) -> Option<String> {
    let text = value.to_string();
    (text.len() <= MAX_CONTENT_BYTES).then_some(text)
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ChatProvider for Traced {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn complete(&self, call: &ProviderCall) -> Result<Completion> {
        let seen = self.begin_chat(call);
        let outcome = self.inner.complete(call).await;
        match &outcome {
            Ok(completion) => seen.answered(&completion.answer),
            Err(error) => seen.failed(error),
        }
        outcome
    }

    async fn stream(&self, call: &ProviderCall) -> Result<ProviderStream> {
        let mut seen = self.begin_chat(call);
        seen.span.set(names::REQUEST_STREAM, AttributeValue::Bool(true));
        let stream = match self.inner.stream(call).await {
            Ok(stream) => stream,
            Err(error) => {
                seen.failed(&error);
                return Err(error);
            }
        };
        // A stream that is left takes its span along, which ends as cancelled.
        let (mut seen, mut has_begun) = (Some(seen), false);
        let told = stream.inspect(move |event| {
            if !std::mem::replace(&mut has_begun, true) {
                seen.iter().for_each(Seen::first_part);
            }
            match event {
                Ok(ProviderEvent::Delta(_)) => {}
                Ok(ProviderEvent::Done(completion)) => {
                    if let Some(seen) = seen.take() {
                        seen.answered(&completion.answer);
                    }
                }
                Err(error) => {
                    if let Some(seen) = seen.take() {
                        seen.failed(error);
                    }
                }
            }
        });
        Ok(told.boxed())
    }

    async fn models(&self) -> Result<Vec<Model>> {
        self.inner.models().await
    }

    async fn embed(&self, call: &EmbedCall) -> Result<Embeddings> {
        let parent = call.traceparent.as_deref().and_then(SpanContext::parse);
        let seen = self.begin(EMBEDDINGS, call.model.as_deref().unwrap_or_default(), parent);
        let outcome = self.inner.embed(call).await;
        match &outcome {
            Ok(vectors) => seen.ended(&vectors.model, &vectors.usage),
            Err(error) => seen.failed(error),
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_told_in_the_form_of_the_conventions() {
        let body = json!({"messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {}}]},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": {"name": "look", "arguments": "{}"}}]},
        ]});
        let told: Value = serde_json::from_str(&asked(body.as_object().unwrap()).unwrap()).unwrap();
        assert_eq!(told[0], json!({"role": "system", "parts": [{"type": "text", "content": "Be brief."}]}));
        assert_eq!(told[1]["parts"][0], json!({"type": "text", "content": "What is it?"}));
        assert_eq!(told[1]["parts"][1]["type"], "image_url");
        assert_eq!(told[2]["parts"], json!([{"type": "tool_call", "id": "1", "name": "look", "arguments": "{}"}]));
        let input = json!({"input": "Hello"});
        assert!(asked(input.as_object().unwrap()).unwrap().contains("Hello"));
        let long = json!({"input": "x".repeat(MAX_CONTENT_BYTES)});
        assert_eq!(asked(long.as_object().unwrap()), None);
    }
}
