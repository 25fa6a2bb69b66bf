//! The protocols that the mock speaks, written from their documentation, apart from what the engine makes of them.

use serde_json::{Map, Value, json};

/// Protocol of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Chat,
    Messages,
    Responses,
}

/// What is answered, whatever the protocol.
pub(super) struct Reply {
    text: String,
    model: Value,
    /// Why it ends, in the words of chat completions.
    reason: &'static str,
    reasoning: Option<&'static str>,
    /// The tool that is called, and with what.
    tool: Option<(String, Value)>,
}

impl Reply {
    pub fn new(asked: &str, body: &Value, fault: &super::Fault) -> Reply {
        use super::Fault;
        let schemas = ["/response_format/json_schema/schema", "/text/format/schema", "/output_config/format/schema"];
        let schema = schemas.iter().find_map(|path| body.pointer(path));
        let offered = &body["tools"][0];
        let name = offered["function"]["name"].as_str().or(offered["name"].as_str()).unwrap_or("look_up");
        let choice = &body["tool_choice"];
        let forced = [choice, &choice["type"]]
            .iter()
            .any(|word| ["required", "any", "tool", "function"].iter().any(|forcing| **word == *forcing));
        let parameters = ["/function/parameters", "/parameters", "/input_schema"];
        let parameters = parameters.iter().find_map(|path| offered.pointer(path));
        let tool = match (fault, parameters) {
            (Fault::ToolCall, _) => Some((name.to_owned(), json!({"x": 1}))),
            (Fault::None, Some(parameters)) if forced => Some((name.to_owned(), example(parameters, asked))),
            _ => None,
        };
        let text = match (fault, schema) {
            (Fault::Empty, _) => String::new(),
            _ if tool.is_some() => String::new(),
            (_, Some(schema)) => example(schema, asked).to_string(),
            _ => format!("You asked: {asked}"),
        };
        let reason = match fault {
            Fault::Finish(reason) => reason,
            _ if tool.is_some() => "tool_calls",
            _ => "stop",
        };
        let reasoning = (*fault == Fault::Reasoning).then_some("Hm, let me see.");
        Reply { text, model: body["model"].clone(), reason, reasoning, tool }
    }
}

/// Cuts the input of a tool in two, as it comes in a stream.
fn pieces(input: &Value) -> [String; 2] {
    let text = input.to_string();
    let half = text.char_indices().nth(text.chars().count() / 2).map_or(0, |(at, _)| at);
    [text[..half].to_owned(), text[half..].to_owned()]
}

/// Returns a value that a schema allows.
fn example(schema: &Value, text: &str) -> Value {
    match schema["type"].as_str() {
        Some("object") => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            fields.map(|(name, schema)| (name.clone(), example(schema, text))).collect::<Map<_, _>>().into()
        }
        Some("array") => json!([example(&schema["items"], text)]),
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        _ => text.into(),
    }
}

/// Returns the text of a content in any of the protocols.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text_of).collect(),
        Value::Object(part) => {
            ["text", "content", "output"].iter().find_map(|name| part.get(*name)).map(text_of).unwrap_or_default()
        }
        _ => String::new(),
    }
}

impl Wire {
    /// Returns what was said last.
    pub fn asked(self, body: &Value) -> String {
        let said = match self {
            Wire::Chat | Wire::Messages => &body["messages"],
            Wire::Responses => &body["input"],
        };
        said.as_array().map_or_else(|| text_of(said), |said| said.last().map(text_of).unwrap_or_default())
    }

    pub fn error(self, status: u16) -> Value {
        let kind = match status {
            429 => "rate_limit_error",
            529 => "overloaded_error",
            400..500 => "invalid_request_error",
            _ => "api_error",
        };
        match self {
            Wire::Chat => {
                let kind = (status >= 500).then_some("server_error");
                json!({"error": {"message": "asked to fail", "type": kind, "param": null, "code": status}})
            }
            Wire::Messages => {
                json!({"type": "error", "error": {"type": kind, "message": "asked to fail"}, "request_id": "req_1"})
            }
            Wire::Responses => {
                json!({"type": "error", "error": {"message": "asked to fail", "type": kind, "code": null, "param": null}})
            }
        }
    }

    pub fn frame(self, event: &Value) -> String {
        match self {
            Wire::Chat => format!("data: {event}\n\n"),
            _ => format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default()),
        }
    }

    /// Returns whether an event may come any number of times.
    pub fn is_piece(self, event: &Value) -> bool {
        match self {
            Wire::Chat => true,
            _ => event["type"].as_str().is_some_and(|kind| kind.ends_with("delta") && kind != "message_delta"),
        }
    }

    pub fn whole(self, reply: &Reply) -> Value {
        match self {
            Wire::Chat => chat_whole(reply),
            Wire::Messages => messages_whole(reply),
            Wire::Responses => responses_whole(reply),
        }
    }

    pub fn events(self, reply: &Reply) -> Vec<Value> {
        match self {
            Wire::Chat => chat_events(reply),
            Wire::Messages => messages_events(reply),
            Wire::Responses => responses_events(reply),
        }
    }
}

const SIGNATURE: &str = "c2lnbmF0dXJl";

fn chat_usage() -> Value {
    json!({
        "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
    })
}

fn chat_whole(reply: &Reply) -> Value {
    let mut message = json!({"role": "assistant", "content": reply.text});
    if let Some(reasoning) = reply.reasoning {
        message["reasoning_content"] = reasoning.into();
    }
    if let Some((name, input)) = &reply.tool {
        message["content"] = Value::Null;
        let function = json!({"name": name, "arguments": input.to_string()});
        message["tool_calls"] = json!([{"id": "call-1", "type": "function", "function": function}]);
    }
    let choice = json!({"index": 0, "message": message, "finish_reason": reply.reason});
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": reply.model,
        "system_fingerprint": "mock", "choices": [choice], "usage": chat_usage(),
    })
}

fn chat_events(reply: &Reply) -> Vec<Value> {
    let event = |choices: Value| json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": reply.model, "choices": choices});
    let delta = |delta: Value| event(json!([{"index": 0, "delta": delta, "finish_reason": null}]));
    let mut events = vec![delta(json!({"role": "assistant", "content": ""}))];
    for part in reply.reasoning.unwrap_or_default().split_inclusive(' ') {
        events.push(delta(json!({"reasoning_content": part})));
    }
    for part in reply.text.split_inclusive(' ') {
        events.push(delta(json!({"content": part})));
    }
    if let Some((name, input)) = &reply.tool {
        let call = json!({"index": 0, "id": "call-1", "type": "function", "function": {"name": name, "arguments": ""}});
        events.push(delta(json!({"tool_calls": [call]})));
        for part in pieces(input) {
            events.push(delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})));
        }
    }
    events.push(event(json!([{"index": 0, "delta": {}, "finish_reason": reply.reason}])));
    let mut last = event(json!([]));
    last["usage"] = chat_usage();
    events.push(last);
    events
}

fn stop_reason(reply: &Reply) -> &'static str {
    match reply.reason {
        "stop" => "end_turn",
        "length" => "max_tokens",
        "tool_calls" => "tool_use",
        "content_filter" => "refusal",
        other => other,
    }
}

/// The request is of 10 tokens: 4 of them came from the cache, 1 went there.
fn messages_usage(output: u64) -> Value {
    json!({
        "input_tokens": 5, "cache_creation_input_tokens": 1, "cache_read_input_tokens": 4, "output_tokens": output,
        "service_tier": "standard",
    })
}

fn messages_blocks(reply: &Reply) -> Vec<Value> {
    let mut blocks = Vec::new();
    if let Some(reasoning) = reply.reasoning {
        blocks.push(json!({"type": "thinking", "thinking": reasoning, "signature": SIGNATURE}));
    }
    if !reply.text.is_empty() {
        blocks.push(json!({"type": "text", "text": reply.text}));
    }
    if let Some((name, input)) = &reply.tool {
        blocks.push(json!({"type": "tool_use", "id": "toolu-1", "name": name, "input": input}));
    }
    blocks
}

fn messages_whole(reply: &Reply) -> Value {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": reply.model, "content": messages_blocks(reply),
        "stop_reason": stop_reason(reply), "stop_sequence": null, "usage": messages_usage(5),
    })
}

fn messages_events(reply: &Reply) -> Vec<Value> {
    let mut message = messages_whole(reply);
    message["content"] = json!([]);
    message["stop_reason"] = Value::Null;
    message["usage"] = messages_usage(1);
    let mut events = vec![json!({"type": "message_start", "message": message}), json!({"type": "ping"})];
    for (index, block) in messages_blocks(reply).into_iter().enumerate() {
        let mut start = block.clone();
        let words = |text: &Value, kind: &str, field: &str| -> Vec<Value> {
            let words = text.as_str().unwrap_or_default().split_inclusive(' ');
            words.map(|piece| json!({"type": kind, field: piece})).collect()
        };
        let deltas = match block["type"].as_str() {
            Some("thinking") => {
                start = json!({"type": "thinking", "thinking": "", "signature": ""});
                let mut deltas = words(&block["thinking"], "thinking_delta", "thinking");
                deltas.push(json!({"type": "signature_delta", "signature": SIGNATURE}));
                deltas
            }
            Some("tool_use") => {
                start["input"] = json!({});
                let parts = pieces(&block["input"]).into_iter();
                parts.map(|part| json!({"type": "input_json_delta", "partial_json": part})).collect()
            }
            _ => {
                start["text"] = "".into();
                words(&block["text"], "text_delta", "text")
            }
        };
        events.push(json!({"type": "content_block_start", "index": index, "content_block": start}));
        let deltas = deltas.into_iter();
        events.extend(deltas.map(|delta| json!({"type": "content_block_delta", "index": index, "delta": delta})));
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    let delta = json!({"stop_reason": stop_reason(reply), "stop_sequence": null});
    events.push(json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}}));
    events.push(json!({"type": "message_stop"}));
    events
}

fn responses_items(reply: &Reply) -> Vec<Value> {
    let mut items = Vec::new();
    if let Some(reasoning) = reply.reasoning {
        let summary = json!([{"type": "summary_text", "text": reasoning}]);
        items.push(json!({"id": "rs_1", "type": "reasoning", "summary": summary, "encrypted_content": SIGNATURE}));
    }
    if reply.reason == "refusal" {
        let content = json!([{"type": "refusal", "refusal": "I will not."}]);
        items.push(
            json!({"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": content}),
        );
    } else if !reply.text.is_empty() {
        let content = json!([{"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}]);
        items.push(
            json!({"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": content}),
        );
    }
    if let Some((name, input)) = &reply.tool {
        items.push(json!({
            "id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call-1", "name": name,
            "arguments": input.to_string(),
        }));
    }
    items
}

fn responses_whole(reply: &Reply) -> Value {
    let incomplete = match reply.reason {
        "length" => Some("max_output_tokens"),
        "content_filter" => Some("content_filter"),
        _ => None,
    };
    json!({
        "id": "resp_1", "object": "response", "created_at": 1, "model": reply.model, "error": null,
        "status": if incomplete.is_some() { "incomplete" } else { "completed" },
        "incomplete_details": incomplete.map(|reason| json!({"reason": reason})),
        "instructions": null, "metadata": {}, "output": responses_items(reply), "parallel_tool_calls": true,
        "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "usage": {
            "input_tokens": 10, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 15,
        },
    })
}

fn responses_events(reply: &Reply) -> Vec<Value> {
    let whole = responses_whole(reply);
    let mut begun = whole.clone();
    for (name, value) in [("status", json!("in_progress")), ("output", json!([])), ("usage", Value::Null)] {
        begun[name] = value;
    }
    begun["incomplete_details"] = Value::Null;
    let mut events = vec![
        json!({"type": "response.created", "response": begun}),
        json!({"type": "response.in_progress", "response": begun}),
    ];
    for (index, item) in responses_items(reply).into_iter().enumerate() {
        let about = |kind: &str, more: Value| {
            let mut event = json!({"type": kind, "item_id": item["id"], "output_index": index});
            if let (Value::Object(event), Value::Object(more)) = (&mut event, more) {
                event.extend(more);
            }
            event
        };
        let (mut start, mut inner) = (item.clone(), Vec::new());
        match item["type"].as_str() {
            Some("reasoning") => {
                start["summary"] = json!([]);
                let part = |text: &Value| json!({"summary_index": 0, "part": {"type": "summary_text", "text": text}});
                let text = &item["summary"][0]["text"];
                inner.push(about("response.reasoning_summary_part.added", part(&"".into())));
                for piece in text.as_str().unwrap_or_default().split_inclusive(' ') {
                    let more = json!({"summary_index": 0, "delta": piece});
                    inner.push(about("response.reasoning_summary_text.delta", more));
                }
                let more = json!({"summary_index": 0, "text": text});
                inner.push(about("response.reasoning_summary_text.done", more));
                inner.push(about("response.reasoning_summary_part.done", part(text)));
            }
            Some("function_call") => {
                start["arguments"] = "".into();
                start["status"] = "in_progress".into();
                let input: Value =
                    serde_json::from_str(item["arguments"].as_str().unwrap_or_default()).unwrap_or_default();
                for piece in pieces(&input) {
                    inner.push(about("response.function_call_arguments.delta", json!({"delta": piece})));
                }
                let more = json!({"name": item["name"], "arguments": item["arguments"]});
                inner.push(about("response.function_call_arguments.done", more));
            }
            _ => {
                start["content"] = json!([]);
                start["status"] = "in_progress".into();
                let part = &item["content"][0];
                let (field, kind) = match part["type"].as_str() {
                    Some("refusal") => ("refusal", "refusal"),
                    _ => ("text", "output_text"),
                };
                let mut empty = part.clone();
                empty[field] = "".into();
                inner.push(about("response.content_part.added", json!({"content_index": 0, "part": empty})));
                for piece in part[field].as_str().unwrap_or_default().split_inclusive(' ') {
                    let mut more = json!({"content_index": 0, "delta": piece});
                    if kind == "output_text" {
                        more["logprobs"] = json!([]);
                    }
                    inner.push(about(&format!("response.{kind}.delta"), more));
                }
                let done = json!({"content_index": 0, field: part[field]});
                inner.push(about(&format!("response.{kind}.done"), done));
                inner.push(about("response.content_part.done", json!({"content_index": 0, "part": part})));
            }
        }
        events.push(json!({"type": "response.output_item.added", "output_index": index, "item": start}));
        events.append(&mut inner);
        events.push(json!({"type": "response.output_item.done", "output_index": index, "item": item}));
    }
    let kind = if whole["status"] == "incomplete" { "response.incomplete" } else { "response.completed" };
    events.push(json!({"type": kind, "response": whole}));
    for (number, event) in events.iter_mut().enumerate() {
        event["sequence_number"] = number.into();
    }
    events
}
