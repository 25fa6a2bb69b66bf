//! What a provider is asked.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::{
    Error, Result,
    chat::{
        dialect::{
            CONTENT_BLOCKS, Dialect, INPUT_ITEMS, OUTPUT_ITEMS, TOOL_HINTS, Target, anthropic,
            asks_for_sealed_reasoning, is_said_beside, is_unset,
        },
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

/// Fields of a message that hold it in the words of another protocol.
const NATIVE: [&str; 3] = [CONTENT_BLOCKS, OUTPUT_ITEMS, INPUT_ITEMS];

/// How Anthropic's names of features begin that are hints as well.
const CACHE_BETAS: [&str; 2] = ["extended-cache-ttl", "prompt-caching"];

/// Checks a request, and leaves out the hints of another dialect. One that came in this dialect is passed on as it is.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), naming the field that has no counterpart.
pub(crate) fn write_request<'a>(call: &'a ProviderCall, provider: &str) -> Result<Cow<'a, Map<String, Value>>> {
    let target = Target { operation: call.operation, provider, dialect: Dialect::Chat };
    let messages = call.body.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut is_said_twice = false;
    for (index, message) in messages.iter().enumerate() {
        for name in NATIVE {
            let Some(own) = message.get(name) else { continue };
            let is_said = if name == CONTENT_BLOCKS { anthropic::is_said_beside(own) } else { is_said_beside(own) };
            if !is_said {
                return Err(target.refuse(format!("messages[{index}].{name}")));
            }
            is_said_twice = true;
        }
    }
    if call.dialect == Dialect::Chat {
        let mut body = Cow::Borrowed(&call.body);
        if is_said_twice && let Some(Value::Array(messages)) = body.to_mut().get_mut("messages") {
            messages.iter_mut().filter_map(Value::as_object_mut).for_each(leave_native_out);
        }
        return Ok(body);
    }
    let is_foreign = |name: &str| !OWN.contains(&name) || (name == "service_tier" && call.dialect == Dialect::Messages);
    if let Some((name, _)) =
        call.body.iter().find(|(name, value)| is_foreign(name) && !says_nothing(name, value, call.dialect))
    {
        return Err(target.refuse(name));
    }
    // Another protocol's own form, where it says more than has a counterpart.
    let is_own =
        |choice: &Map<String, Value>| ["function", "allowed_tools"].iter().any(|own| choice.contains_key(*own));
    if call.body.get("tool_choice").and_then(Value::as_object).is_some_and(|choice| !is_own(choice)) {
        return Err(target.refuse("tool_choice"));
    }
    let mut body = call.body.clone();
    body.retain(|name, value| name != "cache_control" && !says_nothing(name, value, call.dialect));
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
                    if let Some(Value::Object(function)) = tool.get_mut("function") {
                        function.retain(|name, value| name != "strict" || !value.is_null());
                    }
                }
                _ => return Err(target.refuse(format!("tools[{index}].type"))),
            }
        }
    }
    Ok(Cow::Owned(body))
}

/// Returns whether a field asks for no more than what happens anyway.
fn says_nothing(name: &str, value: &Value, from: Dialect) -> bool {
    let is_hint =
        |beta: &Value| beta.as_str().is_some_and(|beta| CACHE_BETAS.iter().any(|hint| beta.starts_with(hint)));
    is_unset(value)
        || match name {
            "thinking" => value["type"] == "disabled",
            "service_tier" => value == "auto",
            "include" => asks_for_sealed_reasoning(value),
            // Whoever asks for it in Responses means a response that can be named, which is kept by ourselves.
            "store" => from == Dialect::Responses && value == &Value::Bool(true),
            "betas" => value.as_array().is_some_and(|betas| betas.iter().all(is_hint)),
            _ => false,
        }
}

fn leave_native_out(message: &mut Map<String, Value>) {
    message.retain(|name, _| !NATIVE.contains(&name.as_str()));
}

fn clean(message: &mut Value, path: &str, target: Target<'_>) -> Result<(), Error> {
    let Value::Object(message) = message else { return Err(target.refuse(path)) };
    leave_native_out(message);
    message.retain(|name, _| !HINTS.contains(&name.as_str()));
    // What a tool says is text there, and nothing else.
    let known = if message.get("role").is_some_and(|role| role == "tool") { &PARTS[..1] } else { &PARTS[..] };
    let Some(Value::Array(parts)) = message.get_mut("content") else { return Ok(()) };
    for (index, part) in parts.iter_mut().enumerate() {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
        if !known.contains(&kind) {
            return Err(target.refuse(format!("{path}.content[{index}].type")));
        }
        if let Value::Object(part) = part {
            part.shift_remove("cache_control");
        }
    }
    Ok(())
}
