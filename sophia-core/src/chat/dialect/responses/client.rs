//! What a client hears.

use serde_json::{Map, Value, json};

use super::assembler::{Place, SUMMARY, TEXT};
use crate::{
    Error, Result, Timestamp,
    chat::{
        ChatChunk, ChatResponse,
        dialect::{Dialect, asker, body_of, calls::Calls, code_of, frame, fresh_id, named_model, native, param_of},
        keeper::is_end,
        response::{Answer, Usage},
    },
};

/// Writes an answer for a client: the provider's own body, or what it amounts to in this protocol. `repeated` is what the
/// request said.
///
/// # Errors
/// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) where the provider's body cannot be read again.
pub fn write_response(response: &ChatResponse, repeated: &Map<String, Value>, now: Timestamp) -> Result<Value> {
    let answer = &response.answer;
    match answer.envelope.dialect() {
        Dialect::Responses => {
            let mut body = body_of(answer)?;
            if let Value::Object(fields) = &mut body {
                asker::put_in(fields, repeated);
            }
            Ok(body)
        }
        Dialect::Chat | Dialect::Messages => {
            let mut body = skeleton(&answer.model, repeated, now);
            complete(&mut body, answer, items(answer));
            Ok(Value::Object(body))
        }
    }
}

/// Returns a response that has just begun.
fn skeleton(model: &str, repeated: &Map<String, Value>, now: Timestamp) -> Map<String, Value> {
    let mut body = Map::new();
    let own = [
        ("id", json!(fresh_id("resp"))),
        ("object", json!("response")),
        ("created_at", json!(now.as_second())),
        ("status", json!("in_progress")),
        ("error", Value::Null),
        ("incomplete_details", Value::Null),
        ("instructions", Value::Null),
        ("max_output_tokens", Value::Null),
        ("model", json!(model)),
        ("output", json!([])),
        ("parallel_tool_calls", json!(true)),
        ("previous_response_id", Value::Null),
        ("store", json!(false)),
        ("temperature", Value::Null),
        ("text", json!({"format": {"type": "text"}})),
        ("tool_choice", json!("auto")),
        ("tools", json!([])),
        ("top_p", Value::Null),
        ("truncation", json!("disabled")),
        ("usage", Value::Null),
        ("metadata", json!({})),
    ];
    body.extend(own.map(|(name, value)| (name.to_owned(), value)));
    let said = repeated.iter().filter(|(_, value)| !value.is_null());
    body.extend(said.map(|(name, value)| (name.clone(), value.clone())));
    body
}

fn complete(body: &mut Map<String, Value>, answer: &Answer, output: Vec<Value>) {
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    let (status, reason) = match answer.finish_reason.as_deref() {
        Some("length") => ("incomplete", Some("max_output_tokens")),
        Some(reason) if is_end(reason) => ("completed", None),
        // Cut for a reason that the protocol has no word for, or for none that was told.
        reason => ("incomplete", reason),
    };
    set("status", status.into());
    if let Some(reason) = reason {
        set("incomplete_details", json!({"reason": reason}));
    }
    set("model", answer.model.as_str().into());
    set("output", output.into());
    set("usage", usage(&answer.usage));
}

/// Returns the counts, or nothing where they are not known.
fn usage(usage: &Usage) -> Value {
    let (Some(input), Some(output)) = (usage.prompt_tokens, usage.completion_tokens) else { return Value::Null };
    json!({
        "input_tokens": input,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens.unwrap_or(0),
            "cache_write_tokens": usage.cache_write_tokens.unwrap_or(0),
        },
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens.unwrap_or(0)},
        "total_tokens": input + output,
    })
}

/// Returns the items that an answer of another protocol amounts to.
fn items(answer: &Answer) -> Vec<Value> {
    let mut items = Vec::new();
    let names = ["reasoning_content", "reasoning"];
    let thought = names.iter().find_map(|name| answer.message.get(*name)?.as_str()).filter(|text| !text.is_empty());
    if let Some(thought) = thought {
        let summary = json!([{"type": "summary_text", "text": thought}]);
        items.push(json!({"id": fresh_id("rs"), "type": "reasoning", "summary": summary}));
    }
    let mut parts = Vec::new();
    if !answer.text.is_empty() {
        parts.push(text_part(&answer.text));
    }
    if let Some(refusal) = refusal_of(answer) {
        parts.push(json!({"type": "refusal", "refusal": refusal}));
    }
    if !parts.is_empty() {
        items.push(message_item(&fresh_id("msg"), "completed", parts));
    }
    for call in &answer.tool_calls {
        let text = |path: &str| call.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (call_id, name, arguments) = (text("/id"), text("/function/name"), text("/function/arguments"));
        items.push(call_item(&fresh_id("fc"), "completed", call_id, name, arguments));
    }
    items
}

fn refusal_of(answer: &Answer) -> Option<&str> {
    answer.message.get("refusal").and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn message_item(id: &str, status: &str, content: Vec<Value>) -> Value {
    json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": content})
}

fn call_item(id: &str, status: &str, call_id: &str, name: &str, arguments: &str) -> Value {
    json!({"id": id, "type": "function_call", "status": status, "call_id": call_id, "name": name, "arguments": arguments})
}

/// Writes the events of one stream for a client.
#[derive(Debug)]
pub struct FrameWriter {
    response: Map<String, Value>,
    /// What the request says of who asks.
    asker: Map<String, Value>,
    begun: bool,
    number: u64,
    /// Items that are complete.
    output: Vec<Value>,
    open: Option<Open>,
    calls: Calls,
    /// Where the provider's own events are.
    place: Place,
    /// Whether the provider's own events are given on.
    native: bool,
    /// What was written, once it is whole, and whether it is the provider's own.
    given: Option<(Map<String, Value>, bool)>,
}

/// The item under way, as we write it.
#[derive(Debug)]
struct Open {
    id: String,
    kind: Kind,
    text: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Reasoning,
    Text,
    Call { index: String, call_id: String, name: String },
}

impl FrameWriter {
    /// Begins a stream of `model`; `repeated` is what the request said.
    pub fn new(model: &str, repeated: &Map<String, Value>, now: Timestamp) -> FrameWriter {
        let response = skeleton(model, repeated, now);
        FrameWriter {
            response,
            asker: asker::of(repeated),
            begun: false,
            number: 0,
            output: Vec::new(),
            open: None,
            calls: Calls::default(),
            place: Place::default(),
            native: false,
            given: None,
        }
    }

    /// Writes one chunk as server-sent events; the last one closes the stream.
    pub fn chunk(&mut self, chunk: &ChatChunk) -> String {
        let mut out = String::new();
        match native(&chunk.extra) {
            // Another protocol's events are told in the common form.
            Some(event)
                if event.get("type").and_then(Value::as_str).is_some_and(|kind| kind.starts_with("response.")) =>
            {
                self.begun = true;
                self.native = true;
                self.place.follow(event);
                let mut event = event.clone();
                if let Some(Value::Object(response)) = event.get_mut("response") {
                    asker::put_in(response, &self.asker);
                }
                self.event(Value::Object(event), &mut out);
            }
            _ if self.native => self.plain(chunk, &mut out),
            _ => self.common(chunk, &mut out),
        }
        if let Some(answer) = &chunk.answer {
            self.end(answer, &mut out);
        }
        out
    }

    /// Takes the response that was written, once it is whole, and whether it is the provider's own.
    pub fn take_given(&mut self) -> Option<(Map<String, Value>, bool)> {
        self.given.take()
    }

    /// Writes an error that ends the stream.
    pub fn error(&mut self, error: &Error, message: &str) -> String {
        let mut out = String::new();
        let told = json!({"type": "error", "code": code_of(error), "message": message, "param": param_of(error)});
        let mut event = told.clone();
        // Where OpenAI's documentation has it, and where its servers have it.
        event["error"] = told;
        self.event(event, &mut out);
        out
    }

    fn event(&mut self, mut event: Value, out: &mut String) {
        event["sequence_number"] = self.number.into();
        self.number += 1;
        *out += &frame(&event);
    }

    /// Writes a delta of the provider that needs nothing but its place.
    fn plain(&mut self, chunk: &ChatChunk, out: &mut String) {
        let arguments = chunk.tool_calls.first().and_then(|call| call["function"]["arguments"].as_str());
        let delta = arguments.or(chunk.reasoning.as_deref()).unwrap_or(&chunk.delta);
        if delta.is_empty() {
            return;
        }
        let Place { item_id, output_index, part_index, kind, logprobs } = self.place.clone();
        let mut event = json!({"type": kind, "item_id": item_id, "output_index": output_index, "delta": delta});
        if !part_index.is_null() {
            event[if kind == SUMMARY { "summary_index" } else { "content_index" }] = part_index;
        }
        if kind == TEXT && logprobs {
            event["logprobs"] = json!([]);
        }
        self.event(event, out);
    }

    fn begin(&mut self, out: &mut String) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        for kind in ["response.created", "response.in_progress"] {
            self.event(json!({"type": kind, "response": self.response}), out);
        }
    }

    fn common(&mut self, chunk: &ChatChunk, out: &mut String) {
        if let Some(model) = named_model(&chunk.extra) {
            self.response.insert("model".to_owned(), model.into());
        }
        self.begin(out);
        if let Some(thought) = chunk.reasoning.as_deref().filter(|text| !text.is_empty()) {
            self.open(Kind::Reasoning, out);
            self.delta(thought, out);
        }
        let text = self.calls.say(&chunk.delta);
        self.text(&text, out);
        for call in &chunk.tool_calls {
            for part in self.calls.take(call) {
                self.call(&part, out);
            }
        }
    }

    fn text(&mut self, text: &str, out: &mut String) {
        if !text.is_empty() {
            self.open(Kind::Text, out);
            self.delta(text, out);
        }
    }

    fn call(&mut self, call: &Value, out: &mut String) {
        let (index, function) = (call["index"].to_string(), &call["function"]);
        let known = matches!(&self.open, Some(Open { kind: Kind::Call { index: own, .. }, .. }) if *own == index);
        if !known {
            let call_id = call["id"].as_str().map_or_else(|| fresh_id("call"), str::to_owned);
            let name = function["name"].as_str().unwrap_or_default().to_owned();
            self.open(Kind::Call { index, call_id, name }, out);
        }
        if let Some(arguments) = function["arguments"].as_str().filter(|text| !text.is_empty()) {
            self.delta(arguments, out);
        }
    }

    /// Writes what had to wait for the end.
    fn rest(&mut self, out: &mut String) {
        let (calls, late) = self.calls.rest();
        calls.iter().for_each(|call| self.call(call, out));
        self.text(&late, out);
    }

    /// Makes sure that an item of this kind is open.
    fn open(&mut self, kind: Kind, out: &mut String) {
        if self.open.as_ref().is_some_and(|open| open.kind == kind) {
            return;
        }
        self.close(out);
        let index = self.output.len();
        let (id, item) = match &kind {
            Kind::Reasoning => {
                let id = fresh_id("rs");
                (id.clone(), json!({"id": id, "type": "reasoning", "summary": []}))
            }
            Kind::Text => {
                let id = fresh_id("msg");
                (id.clone(), message_item(&id, "in_progress", Vec::new()))
            }
            Kind::Call { call_id, name, .. } => {
                let id = fresh_id("fc");
                (id.clone(), call_item(&id, "in_progress", call_id, name, ""))
            }
        };
        self.event(json!({"type": "response.output_item.added", "output_index": index, "item": item}), out);
        match &kind {
            Kind::Reasoning => {
                let part = json!({"type": "summary_text", "text": ""});
                let more = json!({"summary_index": 0, "part": part});
                self.at("response.reasoning_summary_part.added", &id, more, out);
            }
            Kind::Text => {
                let more = json!({"content_index": 0, "part": text_part("")});
                self.at("response.content_part.added", &id, more, out);
            }
            Kind::Call { .. } => {}
        }
        self.open = Some(Open { id, kind, text: String::new() });
    }

    /// Writes an event about the item under way.
    fn at(&mut self, kind: &str, id: &str, more: Value, out: &mut String) {
        let mut event = json!({"type": kind, "item_id": id, "output_index": self.output.len()});
        if let (Value::Object(event), Value::Object(more)) = (&mut event, more) {
            event.extend(more);
        }
        self.event(event, out);
    }

    fn delta(&mut self, text: &str, out: &mut String) {
        let Some(open) = &mut self.open else { return };
        open.text += text;
        let id = open.id.clone();
        match open.kind {
            Kind::Reasoning => {
                self.at("response.reasoning_summary_text.delta", &id, json!({"summary_index": 0, "delta": text}), out);
            }
            Kind::Text => {
                let more = json!({"content_index": 0, "delta": text, "logprobs": []});
                self.at("response.output_text.delta", &id, more, out);
            }
            Kind::Call { .. } => {
                self.at("response.function_call_arguments.delta", &id, json!({"delta": text}), out);
            }
        }
    }

    fn close(&mut self, out: &mut String) {
        let Some(Open { id, kind, text }) = self.open.take() else { return };
        let item = match kind {
            Kind::Reasoning => {
                let part = json!({"type": "summary_text", "text": text});
                let done = json!({"summary_index": 0, "text": text});
                self.at("response.reasoning_summary_text.done", &id, done, out);
                let done = json!({"summary_index": 0, "part": part});
                self.at("response.reasoning_summary_part.done", &id, done, out);
                json!({"id": id, "type": "reasoning", "summary": [part]})
            }
            Kind::Text => {
                let done = json!({"content_index": 0, "text": text, "logprobs": []});
                self.at("response.output_text.done", &id, done, out);
                let done = json!({"content_index": 0, "part": text_part(&text)});
                self.at("response.content_part.done", &id, done, out);
                message_item(&id, "completed", vec![text_part(&text)])
            }
            Kind::Call { call_id, name, .. } => {
                let done = json!({"name": name, "arguments": text});
                self.at("response.function_call_arguments.done", &id, done, out);
                call_item(&id, "completed", &call_id, &name, &text)
            }
        };
        let index = self.output.len();
        self.event(json!({"type": "response.output_item.done", "output_index": index, "item": item}), out);
        self.output.push(item);
    }

    fn end(&mut self, answer: &Answer, out: &mut String) {
        let is_providers = answer.envelope.dialect() == Dialect::Responses;
        let response = if is_providers {
            let mut response = answer.envelope.fields().into_owned();
            asker::put_in(&mut response, &self.asker);
            response
        } else {
            self.begin(out);
            self.rest(out);
            self.close(out);
            self.refusal(answer, out);
            let mut response = self.response.clone();
            complete(&mut response, answer, std::mem::take(&mut self.output));
            response
        };
        self.given = Some((response.clone(), is_providers));
        let kind = match response.get("status").and_then(Value::as_str) {
            Some("incomplete") => "response.incomplete",
            _ => "response.completed",
        };
        self.event(json!({"type": kind, "response": response}), out);
    }

    fn refusal(&mut self, answer: &Answer, out: &mut String) {
        let Some(refusal) = refusal_of(answer) else { return };
        let (id, index) = (fresh_id("msg"), self.output.len());
        let item = message_item(&id, "in_progress", Vec::new());
        self.event(json!({"type": "response.output_item.added", "output_index": index, "item": item}), out);
        let part = json!({"type": "refusal", "refusal": refusal});
        let empty = json!({"content_index": 0, "part": {"type": "refusal", "refusal": ""}});
        self.at("response.content_part.added", &id, empty, out);
        self.at("response.refusal.delta", &id, json!({"content_index": 0, "delta": refusal}), out);
        self.at("response.refusal.done", &id, json!({"content_index": 0, "refusal": refusal}), out);
        self.at("response.content_part.done", &id, json!({"content_index": 0, "part": part}), out);
        let item = message_item(&id, "completed", vec![part]);
        self.event(json!({"type": "response.output_item.done", "output_index": index, "item": item}), out);
        self.output.push(item);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chat::{
        dialect::{openai, responses::Assembler},
        response::{CacheInfo, CacheStatus},
    };

    #[test]
    fn a_delta_of_text_has_a_list_of_log_probabilities_where_the_providers_has_one() {
        let place = |mut event: Value| {
            event["item_id"] = "msg_1".into();
            event["output_index"] = 0.into();
            event["content_index"] = 0.into();
            event
        };
        for logprobs in [None, Some(json!([]))] {
            let delta = |text: &str| {
                let mut event = place(json!({"type": "response.output_text.delta", "delta": text}));
                if let Some(logprobs) = &logprobs {
                    event["logprobs"] = logprobs.clone();
                }
                event
            };
            let item = json!({"type": "response.output_item.added", "output_index": 0, "item": {"id": "msg_1", "type": "message"}});
            let part =
                place(json!({"type": "response.content_part.added", "part": {"type": "output_text", "text": ""}}));
            let events = [item, part, delta("a"), delta("b"), delta("c")];
            let (mut assembler, mut carried, mut heard) = (Assembler::default(), 0, Vec::new());
            let mut writer = FrameWriter::new("m", &Map::new(), Timestamp::UNIX_EPOCH);
            for event in &events {
                let delta = assembler.push(event.as_object().unwrap().clone()).unwrap().unwrap();
                carried += usize::from(native(&delta.extra).is_some());
                let text = writer.chunk(&ChatChunk::of(delta));
                let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
                let mut told: Value = serde_json::from_str(data).unwrap();
                told.as_object_mut().unwrap().shift_remove("sequence_number");
                heard.push(told);
            }
            assert_eq!(heard, events);
            assert_eq!(carried, if logprobs.is_some() { 3 } else { 2 });
        }
    }

    #[test]
    fn an_answer_whose_end_is_not_told_is_incomplete() {
        for (reason, status, told) in [
            (json!("stop"), "completed", Value::Null),
            (json!("tool_calls"), "completed", Value::Null),
            (json!("length"), "incomplete", json!("max_output_tokens")),
            (json!("insufficient_system_resource"), "incomplete", json!("insufficient_system_resource")),
            (Value::Null, "incomplete", Value::Null),
        ] {
            let body = json!({"choices": [{"message": {"content": "Half"}, "finish_reason": reason}]});
            let answer = openai::answer(body.as_object().unwrap().clone(), "p", "m").unwrap();
            let mut writer = FrameWriter::new("m", &Map::new(), Timestamp::UNIX_EPOCH);
            writer.chunk(&ChatChunk::end(Arc::new(answer), CacheInfo::new(CacheStatus::Miss)));
            let (response, _) = writer.take_given().unwrap();
            assert_eq!(response["status"], status);
            assert_eq!(response["incomplete_details"].get("reason").unwrap_or(&Value::Null), &told, "{reason}");
        }
    }
}
