//! What a client hears.

use serde_json::{Map, Value, json};

use super::inbound::OWN_SIGNATURE;
use crate::{
    Error, ErrorKind, Result,
    chat::{
        ChatChunk, ChatResponse,
        dialect::{
            Dialect, body_of, calls::Calls, code_of, frame, fresh_id, integers::inexact, named_model, native, param_of,
        },
        response::{Answer, Usage},
    },
};

/// Writes an answer for a client: the provider's own body, or what it amounts to in this protocol.
///
/// # Errors
/// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) where the provider's body cannot be read again.
pub fn write_response(response: &ChatResponse) -> Result<Value> {
    let answer = &response.answer;
    match answer.envelope.dialect() {
        Dialect::Messages => body_of(answer),
        Dialect::Chat | Dialect::Responses => Ok(translate(answer)),
    }
}

fn translate(answer: &Answer) -> Value {
    let mut content = Vec::new();
    if let Some(thought) = reasoning_of(answer) {
        content.push(json!({"type": "thinking", "thinking": thought, "signature": OWN_SIGNATURE}));
    }
    if !answer.text.is_empty() {
        content.push(json!({"type": "text", "text": answer.text}));
    }
    if let Some(refusal) = answer.message.get("refusal").and_then(Value::as_str).filter(|text| !text.is_empty()) {
        content.push(json!({"type": "text", "text": refusal}));
    }
    for call in &answer.tool_calls {
        // What is no object is a model's mistake, and shown as such; what would lose digits is shown as it is.
        let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
        let input = match serde_json::from_str(arguments) {
            Ok(input @ Value::Object(_)) if inexact(arguments.as_bytes()).is_none() => input,
            _ if arguments.trim().is_empty() => json!({}),
            _ => json!({"arguments": arguments}),
        };
        let id = call.get("id").cloned().unwrap_or_else(|| fresh_id("toolu").into());
        content.push(json!({"type": "tool_use", "id": id, "name": call["function"]["name"], "input": input}));
    }
    json!({
        "id": fresh_id("msg"), "type": "message", "role": "assistant", "model": answer.model, "content": content,
        "stop_reason": stop_reason(answer), "stop_sequence": null, "usage": usage(&answer.usage),
    })
}

fn reasoning_of(answer: &Answer) -> Option<&str> {
    let names = ["reasoning_content", "reasoning"];
    names.iter().find_map(|name| answer.message.get(*name)?.as_str()).filter(|text| !text.is_empty())
}

fn stop_reason(answer: &Answer) -> Option<&str> {
    if answer.message.get("refusal").is_some_and(|refusal| refusal.as_str().is_some_and(|text| !text.is_empty())) {
        return Some("refusal");
    }
    Some(match answer.finish_reason.as_deref()? {
        "stop" if !answer.tool_calls.is_empty() => "tool_use",
        "stop" | "eos" => "end_turn",
        "length" => "max_tokens",
        "tool_calls" | "function_call" => "tool_use",
        "content_filter" => "refusal",
        other => other,
    })
}

/// The protocol wants numbers: what is not known is 0 there, as nothing else can be said.
fn usage(usage: &Usage) -> Value {
    let (read, written) = (usage.cached_tokens.unwrap_or(0), usage.cache_write_tokens.unwrap_or(0));
    json!({
        "input_tokens": usage.prompt_tokens.unwrap_or(0).saturating_sub(read + written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.completion_tokens.unwrap_or(0),
    })
}

/// Writes an error for a client, in the protocol's form. `status` is what it is answered with.
pub fn write_error(error: &Error, message: &str, status: u16, request_id: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        _ if error.kind() == ErrorKind::Timeout => "timeout_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    };
    let mut told = json!({"type": kind, "message": message, "code": code_of(error)});
    if let Some(field) = param_of(error) {
        told["param"] = field.into();
    }
    json!({"type": "error", "error": told, "request_id": request_id})
}

/// Writes the events of one stream for a client.
#[derive(Debug, Default)]
pub struct FrameWriter {
    model: String,
    begun: bool,
    /// Index of the next block.
    next: usize,
    open: Option<Open>,
    calls: Calls,
    /// Whether the provider's own event has told why the answer ends.
    is_told: bool,
    /// The provider's own last event, where it says more than that it is the last.
    last: Option<Value>,
}

#[derive(Debug, Clone, PartialEq)]
enum Open {
    Text,
    Thinking,
    /// The call of this index.
    Tool(Value),
    /// As the provider has it.
    Native,
}

impl FrameWriter {
    /// Begins a stream of `model`.
    pub fn new(model: impl Into<String>) -> FrameWriter {
        FrameWriter { model: model.into(), ..FrameWriter::default() }
    }

    /// Writes one chunk as server-sent events; the last one closes the stream.
    pub fn chunk(&mut self, chunk: &ChatChunk) -> String {
        let mut out = String::new();
        match native(&chunk.extra) {
            // Another protocol's events are told in the common form.
            Some(event)
                if event.get("type").and_then(Value::as_str).is_some_and(|kind| !kind.starts_with("response.")) =>
            {
                self.native(event, &mut out);
            }
            _ => self.common(chunk, &mut out),
        }
        if let Some(answer) = &chunk.answer {
            self.end(answer, &mut out);
        }
        out
    }

    fn begin(&mut self, out: &mut String) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let message = json!({
            "id": fresh_id("msg"), "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": usage(&Usage::default()),
        });
        *out += &frame(&json!({"type": "message_start", "message": message}));
    }

    fn native(&mut self, event: &Map<String, Value>, out: &mut String) {
        let mut event = event.clone();
        match event.get("type").and_then(Value::as_str) {
            Some("message_start") if self.begun => return,
            Some("message_start") => self.begun = true,
            Some("content_block_start") => {
                self.close(out);
                self.begin(out);
                event.insert("index".to_owned(), self.next.into());
                self.next += 1;
                self.open = Some(Open::Native);
            }
            Some("content_block_delta") => {
                event.insert("index".to_owned(), self.next.saturating_sub(1).into());
            }
            Some("message_delta") => {
                self.close(out);
                self.begin(out);
                self.is_told |= event.get("delta").is_some_and(|delta| delta["stop_reason"].is_string());
            }
            Some("message_stop") => {
                self.last = Some(event.into());
                return;
            }
            _ => self.begin(out),
        }
        *out += &frame(&Value::Object(event));
    }

    fn common(&mut self, chunk: &ChatChunk, out: &mut String) {
        if let Some(model) = named_model(&chunk.extra) {
            self.model = model.to_owned();
        }
        self.begin(out);
        if let Some(thought) = chunk.reasoning.as_deref().filter(|text| !text.is_empty()) {
            self.open(Open::Thinking, json!({"type": "thinking", "thinking": "", "signature": ""}), out);
            self.delta(json!({"type": "thinking_delta", "thinking": thought}), out);
        }
        let text = self.calls.say(&chunk.delta);
        self.text(&text, out);
        for call in &chunk.tool_calls {
            if self.open == Some(Open::Native) {
                // As it came, empty or not.
                self.arguments(call["function"]["arguments"].as_str().unwrap_or_default(), out);
            } else {
                self.calls.take(call).iter().for_each(|part| self.tool(part, out));
            }
        }
    }

    fn text(&mut self, text: &str, out: &mut String) {
        if !text.is_empty() {
            self.open(Open::Text, json!({"type": "text", "text": ""}), out);
            self.delta(json!({"type": "text_delta", "text": text}), out);
        }
    }

    fn tool(&mut self, call: &Value, out: &mut String) {
        let id = call.get("id").filter(|id| id.is_string()).cloned().unwrap_or_else(|| fresh_id("toolu").into());
        let name = call["function"]["name"].as_str().unwrap_or_default();
        let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
        self.open(Open::Tool(call["index"].clone()), block, out);
        let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
        if !arguments.is_empty() {
            self.arguments(arguments, out);
        }
    }

    fn arguments(&self, arguments: &str, out: &mut String) {
        self.delta(json!({"type": "input_json_delta", "partial_json": arguments}), out);
    }

    /// Writes what had to wait for the end.
    fn rest(&mut self, out: &mut String) {
        let (calls, late) = self.calls.rest();
        calls.iter().for_each(|call| self.tool(call, out));
        self.text(&late, out);
    }

    /// Makes sure that a block of this kind is open.
    fn open(&mut self, kind: Open, block: Value, out: &mut String) {
        // A block of the provider's own was begun by its own event.
        if self.open.as_ref().is_some_and(|open| *open == kind || *open == Open::Native) {
            return;
        }
        self.close(out);
        *out += &frame(&json!({"type": "content_block_start", "index": self.next, "content_block": block}));
        self.next += 1;
        self.open = Some(kind);
    }

    fn delta(&self, delta: Value, out: &mut String) {
        let index = self.next.saturating_sub(1);
        *out += &frame(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
    }

    fn close(&mut self, out: &mut String) {
        if self.open == Some(Open::Thinking) {
            self.delta(json!({"type": "signature_delta", "signature": OWN_SIGNATURE}), out);
        }
        if self.open.take().is_some() {
            *out += &frame(&json!({"type": "content_block_stop", "index": self.next - 1}));
        }
    }

    fn end(&mut self, answer: &Answer, out: &mut String) {
        self.begin(out);
        self.rest(out);
        let refusal = answer.message.get("refusal").and_then(Value::as_str);
        if let Some(refusal) = refusal.filter(|_| answer.envelope.dialect() != Dialect::Messages) {
            self.text(refusal, out);
        }
        self.close(out);
        if !self.is_told {
            self.reason(answer, out);
        }
        *out += &frame(&self.last.take().unwrap_or_else(|| json!({"type": "message_stop"})));
    }

    fn reason(&self, answer: &Answer, out: &mut String) {
        let mut delta = Map::new();
        let counts = if answer.envelope.dialect() == Dialect::Messages {
            let fields = answer.envelope.fields();
            for name in ["stop_reason", "stop_sequence", "stop_details", "container"] {
                if let Some(value) = fields.get(name) {
                    delta.insert(name.to_owned(), value.clone());
                }
            }
            fields.get("usage").cloned().unwrap_or_default()
        } else {
            delta.insert("stop_reason".to_owned(), stop_reason(answer).into());
            delta.insert("stop_sequence".to_owned(), Value::Null);
            usage(&answer.usage)
        };
        *out += &frame(&json!({"type": "message_delta", "delta": delta, "usage": counts}));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chat::{
        dialect::anthropic::Assembler,
        endpoint::{Assemble, Heard},
        response::{CacheInfo, CacheStatus},
    };

    /// Tells what the events of a provider amount to.
    fn told(events: &[Value]) -> (Vec<Value>, Answer) {
        let (mut assembler, mut deltas) = (Assembler::default(), Vec::new());
        for event in events {
            match assembler.hear(&event.to_string()) {
                Heard::Delta(delta) | Heard::Last(delta) => deltas.push(delta),
                Heard::Nothing | Heard::End => {}
                Heard::Failed(_) | Heard::Garbage => panic!("{event}"),
            }
        }
        let answer = assembler.into_answer("p", "m", true).unwrap();
        let end = ChatChunk::end(Arc::new(answer.clone()), CacheInfo::new(CacheStatus::Miss));
        let mut writer = FrameWriter::new("m");
        let text: String = deltas.into_iter().map(ChatChunk::of).chain([end]).map(|part| writer.chunk(&part)).collect();
        let data = |line: &str| Some(serde_json::from_str(line.strip_prefix("data: ")?).unwrap());
        (text.lines().filter_map(data).collect(), answer)
    }

    fn events() -> Vec<Value> {
        let usage = json!({"input_tokens": 5, "output_tokens": 1});
        vec![
            json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "m",
                "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage}}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "He"}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "llo"}}),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": usage}),
            json!({"type": "message_stop"}),
        ]
    }

    #[test]
    fn events_that_say_more_than_each_does_are_told_as_they_came() {
        let plain = events();
        assert_eq!(told(&plain).0, plain);
        let mut more = events();
        more[3]["delta"]["new"] = 1.into();
        more[5]["delta"]["new"] = 2.into();
        more[5]["context_management"] = json!({"applied_edits": []});
        more[6]["new"] = 3.into();
        let (heard, answer) = told(&more);
        assert_eq!(heard, more);
        assert_eq!((answer.text.as_str(), answer.finish_reason.as_deref()), ("Hello", Some("stop")));
        assert_eq!(answer.body()["context_management"], json!({"applied_edits": []}));
    }

    #[test]
    fn an_empty_error_beside_an_event_is_none() {
        let mut events = events();
        for (event, error) in events.iter_mut().zip([json!(null), json!({}), json!("")]) {
            event["error"] = error;
        }
        assert_eq!(told(&events).1.text, "Hello");
    }

    #[test]
    fn an_integer_that_would_lose_digits_is_shown_as_it_was_said() {
        let call = |arguments: &str| json!({"id": "a", "function": {"name": "f", "arguments": arguments}});
        let body = json!({"choices": [{"message": {"tool_calls": [call("{\"id\":123456789012345678901234}"), call("{\"id\":7}")]}}]});
        let answer = crate::chat::dialect::openai::answer(body.as_object().unwrap().clone(), "p", "m").unwrap();
        let said = translate(&answer);
        assert_eq!(said["content"][0]["input"], json!({"arguments": "{\"id\":123456789012345678901234}"}));
        assert_eq!(said["content"][1]["input"], json!({"id": 7}));
    }
}
