//! What a provider is asked.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::{
    Error, Result,
    chat::{
        dialect::{CONTENT_BLOCKS, Dialect, INPUT_ITEMS, OUTPUT_ITEMS, TOOL_HINTS, Target, is_unset},
        provider::ProviderCall,
    },
};

/// Fields of the protocol that a request of another dialect may have come to hold.
const OWN: [&str; 26] = [
    "cache_control",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "model",
    "moderation",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
];
/// Types of parts that the protocol knows.
const PARTS: [&str; 5] = ["text", "image_url", "input_audio", "file", "refusal"];
/// Hints that no answer depends on.
const HINTS: [&str; 2] = ["cache_control", "is_error"];

/// Checks a request, and leaves out the hints of another dialect. One that came in this dialect is passed on as it is.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), naming the field that has no counterpart.
pub(crate) fn write_request<'a>(call: &'a ProviderCall, provider: &str) -> Result<Cow<'a, Map<String, Value>>> {
    let target = Target { operation: call.operation, provider, dialect: Dialect::Chat };
    let messages = call.body.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (index, message) in messages.iter().enumerate() {
        for name in [CONTENT_BLOCKS, OUTPUT_ITEMS, INPUT_ITEMS] {
            if message.get(name).is_some_and(|native| !is_ours(name, native)) {
                return Err(target.refuse(format!("messages[{index}].{name}")));
            }
        }
    }
    if call.dialect == Dialect::Chat {
        return Ok(Cow::Borrowed(&call.body));
    }
    if let Some((name, _)) = call.body.iter().find(|(name, value)| !OWN.contains(&name.as_str()) && !is_unset(value)) {
        return Err(target.refuse(name));
    }
    let mut body = call.body.clone();
    body.shift_remove("cache_control");
    if let Some(Value::Array(messages)) = body.get_mut("messages") {
        for (index, message) in messages.iter_mut().enumerate() {
            clean(message, &format!("messages[{index}]"), target)?;
        }
    }
    if let Some(Value::Array(tools)) = body.get_mut("tools") {
        for (index, tool) in tools.iter_mut().enumerate() {
            match tool {
                Value::Object(tool) if tool.contains_key("function") => {
                    tool.retain(|name, _| !TOOL_HINTS.contains(&name.as_str()));
                }
                _ => return Err(target.refuse(format!("tools[{index}].type"))),
            }
        }
    }
    Ok(Cow::Owned(body))
}

/// Reasoning that nobody but us has written down is in the message already.
fn is_ours(name: &str, native: &Value) -> bool {
    let Some(items) = native.as_array().filter(|_| name == OUTPUT_ITEMS) else { return is_unset(native) };
    let kind = |item: &Value, kind: &str| item.get("type").is_none_or(|own| own == kind);
    let bare = |item: &Value| item.get("encrypted_content").is_none_or(Value::is_null) && kind(item, "reasoning");
    // Calls before texts are in another order here.
    items.iter().all(|item| bare(item) || kind(item, "message") || kind(item, "function_call"))
}

fn clean(message: &mut Value, path: &str, target: Target<'_>) -> Result<(), Error> {
    let Value::Object(message) = message else { return Err(target.refuse(path)) };
    message.retain(|name, _| !HINTS.contains(&name.as_str()) && name != OUTPUT_ITEMS);
    let Some(Value::Array(parts)) = message.get_mut("content") else { return Ok(()) };
    for (index, part) in parts.iter_mut().enumerate() {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
        if !PARTS.contains(&kind) {
            return Err(target.refuse(format!("{path}.content[{index}].type")));
        }
        if let Value::Object(part) = part {
            part.shift_remove("cache_control");
        }
    }
    Ok(())
}
