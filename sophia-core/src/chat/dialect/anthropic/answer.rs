//! What a provider says, as a whole.

use serde_json::{Map, Value, json};

use super::{Assembler, inbound::Said};
use crate::chat::{
    dialect::{CONTENT_BLOCKS, Envelope, name_calls},
    request::content_text,
    response::{Answer, Delta, Usage},
};

/// Reads the body of an answer. `None` if it is none.
pub(crate) fn answer(mut body: Map<String, Value>, provider: &str, model: &str) -> Option<Answer> {
    let blocks = body.get_mut("content")?.as_array_mut()?;
    let calls = blocks.iter_mut().filter_map(Value::as_object_mut);
    name_calls(calls.filter(|block| block.get("type").is_some_and(|kind| kind == "tool_use")), "toolu");
    let said = Said::of(blocks);
    let text = content_text(&Value::Array(said.texts)).into_owned();
    let mut message = Map::new();
    message.insert("role".to_owned(), "assistant".into());
    let silent = text.is_empty() && !said.calls.is_empty();
    message.insert("content".to_owned(), if silent { Value::Null } else { text.as_str().into() });
    if !said.thought.is_empty() {
        message.insert("reasoning_content".to_owned(), said.thought.into());
    }
    if !said.calls.is_empty() {
        message.insert("tool_calls".to_owned(), said.calls.clone().into());
    }
    if !said.whole || said.unsigned || blocks.iter().filter(|block| block["type"] == "text").count() > 1 {
        message.insert(CONTENT_BLOCKS.to_owned(), Value::Array(blocks.clone()));
    }
    let finish_reason = body.get("stop_reason").and_then(Value::as_str).map(finish_reason);
    let named = body.get("model").and_then(Value::as_str).filter(|name| !name.is_empty()).unwrap_or(model).to_owned();
    let usage = body.get("usage").map(usage).unwrap_or_default();
    // By which it is known for what it is.
    body.insert("type".to_owned(), "message".into());
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

/// Returns the common name of a reason; one that has none keeps its own.
pub(super) fn finish_reason(reason: &str) -> String {
    match reason {
        "end_turn" | "stop_sequence" => "stop",
        "max_tokens" | "model_context_window_exceeded" => "length",
        "tool_use" => "tool_calls",
        "refusal" => "content_filter",
        other => other,
    }
    .to_owned()
}

/// Reads token counts. What the provider's cache read and wrote is part of the request.
pub(super) fn usage(usage: &Value) -> Usage {
    let count = |name: &str| Usage::count(&usage[name]);
    let (read, written) = (count("cache_read_input_tokens"), count("cache_creation_input_tokens"));
    Usage {
        prompt_tokens: count("input_tokens").map(|own| own + read.unwrap_or(0) + written.unwrap_or(0)),
        completion_tokens: count("output_tokens"),
        cached_tokens: read,
        cache_write_tokens: written,
        reasoning_tokens: Usage::count(&usage["output_tokens_details"]["thinking_tokens"]),
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
    let mut message = fields.clone().into_owned();
    message.insert("content".to_owned(), Value::Array(Vec::new()));
    message.insert("stop_reason".to_owned(), Value::Null);
    message.insert("stop_sequence".to_owned(), Value::Null);
    push(json!({"type": "message_start", "message": message}));
    let blocks = fields.get("content").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (index, block) in blocks.iter().enumerate() {
        let mut start = block.clone();
        let mut parts = Vec::new();
        let text = |name: &str| block.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        match block.get("type").and_then(Value::as_str) {
            Some("text") => {
                start["text"] = "".into();
                parts.push(json!({"type": "text_delta", "text": text("text")}));
                let citations = block.get("citations").and_then(Value::as_array).into_iter().flatten();
                parts.extend(citations.map(|citation| json!({"type": "citations_delta", "citation": citation})));
                if !parts[1..].is_empty() {
                    start["citations"] = json!([]);
                }
            }
            Some("thinking") => {
                start["thinking"] = "".into();
                start["signature"] = "".into();
                parts.push(json!({"type": "thinking_delta", "thinking": text("thinking")}));
                parts.push(json!({"type": "signature_delta", "signature": text("signature")}));
            }
            Some("tool_use") => {
                start["input"] = json!({});
                parts.push(json!({"type": "input_json_delta", "partial_json": block["input"].to_string()}));
            }
            _ => {}
        }
        push(json!({"type": "content_block_start", "index": index, "content_block": start}));
        for part in parts {
            push(json!({"type": "content_block_delta", "index": index, "delta": part}));
        }
        push(json!({"type": "content_block_stop", "index": index}));
    }
    deltas
}
