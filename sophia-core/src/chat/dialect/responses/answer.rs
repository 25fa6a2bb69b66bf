//! What a provider says, as a whole.

use serde_json::{Map, Value, json};

use super::{Assembler, inbound::Said};
use crate::chat::{
    dialect::{Envelope, OUTPUT_ITEMS},
    request::content_text,
    response::{Answer, Delta, Usage},
};

/// Reads the body of an answer. `None` if it is none.
pub(crate) fn answer(mut body: Map<String, Value>, provider: &str, model: &str) -> Option<Answer> {
    let items = body.get("output")?.as_array()?;
    let said = Said::of(items);
    let text = content_text(&Value::Array(said.texts)).into_owned();
    let mut message = Map::new();
    message.insert("role".to_owned(), "assistant".into());
    let silent = text.is_empty() && (!said.calls.is_empty() || said.refusal.is_some());
    message.insert("content".to_owned(), if silent { Value::Null } else { text.as_str().into() });
    if let Some(refusal) = said.refusal {
        message.insert("refusal".to_owned(), refusal.into());
    }
    if !said.thought.is_empty() {
        message.insert("reasoning_content".to_owned(), said.thought.into());
    }
    if !said.calls.is_empty() {
        message.insert("tool_calls".to_owned(), said.calls.clone().into());
    }
    if !said.whole {
        message.insert(OUTPUT_ITEMS.to_owned(), Value::Array(items.clone()));
    }
    let calls = items.iter().any(|item| item["type"].as_str().is_some_and(|kind| kind.ends_with("_call")));
    let finish_reason = match body.get("status").and_then(Value::as_str) {
        Some("completed") if !said.calls.is_empty() => Some("tool_calls".to_owned()),
        // A tool of the provider's own, whose result this is, or that waits for somebody.
        Some("completed") if calls && text.is_empty() => Some("tool_calls".to_owned()),
        Some("completed") => Some("stop".to_owned()),
        Some("incomplete") => Some(
            match body.get("incomplete_details").and_then(|details| details.get("reason")).and_then(Value::as_str) {
                Some("max_output_tokens") | None => "length".to_owned(),
                Some(other) => other.to_owned(),
            },
        ),
        _ => None,
    };
    let named = body.get("model").and_then(Value::as_str).filter(|name| !name.is_empty()).unwrap_or(model).to_owned();
    let usage = body.get("usage").map(usage).unwrap_or_default();
    // By which it is known for what it is.
    body.insert("object".to_owned(), "response".into());
    Some(Answer {
        text,
        message,
        model: named,
        provider: provider.to_owned(),
        usage,
        cost_usd: None,
        finish_reason,
        tool_calls: said.calls,
        envelope: Envelope::of(body),
        deltas: Vec::new(),
        terminated: true,
    })
}

/// Reads token counts.
fn usage(usage: &Value) -> Usage {
    Usage {
        prompt_tokens: Usage::count(&usage["input_tokens"]),
        completion_tokens: Usage::count(&usage["output_tokens"]),
        cached_tokens: Usage::count(&usage["input_tokens_details"]["cached_tokens"]),
        cache_write_tokens: Usage::count(&usage["input_tokens_details"]["cache_write_tokens"]),
        reasoning_tokens: Usage::count(&usage["output_tokens_details"]["reasoning_tokens"]),
    }
}

/// Returns the parts in which a whole answer is given to someone who asked for a stream.
pub(crate) fn replay(answer: &Answer) -> Vec<Delta> {
    let mut assembler = Assembler::default();
    let mut deltas = Vec::new();
    let mut push = |event: Value| {
        if let Value::Object(event) = event {
            deltas.extend(assembler.push(event).ok().flatten());
        }
    };
    let fields = answer.envelope.fields();
    let mut response = fields.clone().into_owned();
    for (name, value) in [("status", json!("in_progress")), ("output", json!([])), ("usage", Value::Null)] {
        response.insert(name.to_owned(), value);
    }
    response.shift_remove("incomplete_details");
    push(json!({"type": "response.created", "response": response}));
    push(json!({"type": "response.in_progress", "response": response}));
    let items = fields.get("output").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (index, item) in items.iter().enumerate() {
        item_events(index, item).into_iter().for_each(&mut push);
    }
    deltas
}

/// Returns the events in which an item would have come.
pub(super) fn item_events(index: usize, item: &Value) -> Vec<Value> {
    let id = item.get("id").cloned().unwrap_or_default();
    let mut events = Vec::new();
    let mut start = item.clone();
    if start.get("status").is_some() {
        start["status"] = "in_progress".into();
    }
    let place = |kind: &str, more: Value| {
        let mut event = json!({"type": kind, "item_id": id, "output_index": index});
        if let (Value::Object(event), Value::Object(more)) = (&mut event, more) {
            event.extend(more);
        }
        event
    };
    match item.get("type").and_then(Value::as_str) {
        Some("message") => {
            start["content"] = json!([]);
            for (number, part) in item["content"].as_array().into_iter().flatten().enumerate() {
                // What is no part is in the item itself.
                if !part.is_object() {
                    continue;
                }
                let (field, kind) = match part["type"].as_str() {
                    Some("refusal") => ("refusal", "refusal"),
                    _ => ("text", "output_text"),
                };
                let mut empty = part.clone();
                empty[field] = "".into();
                if empty.get("annotations").is_some() {
                    empty["annotations"] = json!([]);
                }
                events.push(place("response.content_part.added", json!({"content_index": number, "part": empty})));
                let text = &part[field];
                events.push(place(&format!("response.{kind}.delta"), json!({"content_index": number, "delta": text})));
                for (place_in, annotation) in part["annotations"].as_array().into_iter().flatten().enumerate() {
                    let more = json!({"content_index": number, "annotation_index": place_in, "annotation": annotation});
                    events.push(place("response.output_text.annotation.added", more));
                }
                events.push(place(&format!("response.{kind}.done"), json!({"content_index": number, field: text})));
                events.push(place("response.content_part.done", json!({"content_index": number, "part": part})));
            }
        }
        Some("function_call") => {
            start["arguments"] = "".into();
            let arguments = &item["arguments"];
            events.push(place("response.function_call_arguments.delta", json!({"delta": arguments})));
            let done = json!({"name": item["name"], "arguments": arguments});
            events.push(place("response.function_call_arguments.done", done));
        }
        Some("reasoning") => {
            start["summary"] = json!([]);
            for (number, part) in item["summary"].as_array().into_iter().flatten().enumerate() {
                let empty = json!({"type": "summary_text", "text": ""});
                let (at, text) = (json!(number), &part["text"]);
                events
                    .push(place("response.reasoning_summary_part.added", json!({"summary_index": at, "part": empty})));
                events
                    .push(place("response.reasoning_summary_text.delta", json!({"summary_index": at, "delta": text})));
                events.push(place("response.reasoning_summary_text.done", json!({"summary_index": at, "text": text})));
                events.push(place("response.reasoning_summary_part.done", json!({"summary_index": at, "part": part})));
            }
        }
        _ => {}
    }
    events.insert(0, json!({"type": "response.output_item.added", "output_index": index, "item": start}));
    events.push(json!({"type": "response.output_item.done", "output_index": index, "item": item}));
    events
}
