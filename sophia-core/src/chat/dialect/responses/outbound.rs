//! What a provider is asked.

use serde_json::{Map, Value, json};

use crate::{
    Error, Result,
    chat::{
        dialect::{
            CONTENT_BLOCKS, Dialect, INPUT_ITEMS, OUTPUT_ITEMS, PREVIOUS, SAID_ELSEWHERE, Target,
            anthropic::is_said_beside, is_fresh_id, is_unset,
        },
        provider::ProviderCall,
    },
};

/// Fields of chat completions that change what is answered, and have no counterpart.
const FOREIGN: [&str; 12] = [
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "n",
    "prediction",
    "presence_penalty",
    "seed",
    "stop",
    "web_search_options",
];
/// Fields of this protocol; with a client of another dialect, any other name is one of its own.
const OWN: [&str; 23] = [
    "background",
    "context_management",
    "conversation",
    "include",
    "instructions",
    "max_tool_calls",
    "metadata",
    "moderation",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "store",
    "temperature",
    "text",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
];

/// Translates a request.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), naming the field that has no counterpart.
pub(crate) fn write_request(call: &ProviderCall, provider: &str) -> Result<Map<String, Value>> {
    let target = Target { operation: call.operation, provider, dialect: Dialect::Responses };
    let mut body = Map::new();
    for (name, value) in &call.body {
        let known = name == "model" || OWN.contains(&name.as_str());
        match (name.as_str(), value) {
            // The marker is a hint, for Anthropic's cache.
            ("messages" | "cache_control", _) => {}
            ("stream_options", _) if call.dialect != Dialect::Responses => {}
            ("thinking", thinking) if thinking["type"] == "disabled" => {}
            // Both have one, and mean something else.
            ("context_management", value) if call.dialect == Dialect::Messages && !is_unset(value) => {
                return Err(target.refuse(name));
            }
            ("service_tier", tier) if call.dialect == Dialect::Messages && tier != "auto" => {
                return Err(target.refuse(name));
            }
            (_, Value::Null) => {}
            ("max_tokens" | "max_completion_tokens", value) => {
                if body.get("max_output_tokens").is_some_and(|other| other != value) {
                    return Err(target.refuse(name));
                }
                body.insert("max_output_tokens".to_owned(), value.clone());
            }
            ("response_format", format) => nested(&mut body, "text").insert("format".to_owned(), text_format(format)),
            ("verbosity", word) => nested(&mut body, "text").insert("verbosity".to_owned(), word.clone()),
            ("reasoning_effort", effort) => nested(&mut body, "reasoning").insert("effort".to_owned(), effort.clone()),
            ("reasoning" | "text", Value::Object(fields)) => nested(&mut body, name).extend(fields.clone()),
            ("tools", Value::Array(tools)) => {
                let tools = tools.iter().enumerate().map(|(index, own)| tool(own, index, call.dialect, target));
                body.insert("tools".to_owned(), tools.collect::<Result<_>>()?);
            }
            ("tool_choice", choice) => {
                // Anthropic's own form, where it says more than has a counterpart.
                if call.dialect == Dialect::Messages && choice.is_object() && choice.get("function").is_none() {
                    return Err(target.refuse(name));
                }
                body.insert("tool_choice".to_owned(), tool_choice(choice));
            }
            ("modalities", value) if *value == json!(["text"]) => {}
            ("modalities", _) => return Err(target.refuse(name)),
            (_, value) if FOREIGN.contains(&name.as_str()) => {
                if !is_default(name, value) {
                    return Err(target.refuse(name));
                }
            }
            (_, value) if known || call.dialect != Dialect::Messages => {
                body.insert(name.clone(), value.clone());
            }
            _ => return Err(target.refuse(name)),
        }
    }
    let stateful = [PREVIOUS, "conversation"].iter().any(|name| body.contains_key(*name));
    let is_said_elsewhere = SAID_ELSEWHERE.iter().any(|name| body.contains_key(*name));
    let mut items = Vec::new();
    let messages = call.body.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (index, message) in messages.iter().enumerate() {
        let at = At { target, path: format!("messages[{index}]") };
        let Some(message) = message.as_object() else { return Err(target.refuse(at.path)) };
        let system = message.get("role").is_some_and(|role| role == "system");
        match message.get("content") {
            Some(text @ Value::String(_))
                if index == 0 && system && !stateful && (messages.len() > 1 || is_said_elsewhere) =>
            {
                body.insert("instructions".to_owned(), text.clone());
            }
            _ => at.items(message, &mut items)?,
        }
    }
    if !items.is_empty() || !is_said_elsewhere {
        body.insert("input".to_owned(), Value::Array(items));
    }
    Ok(body)
}

/// Returns an item as a provider may know it: our names mean nothing to it, nor does reasoning that we wrote down of another
/// provider's, which nobody has sealed.
fn known_there(item: &Value) -> Option<Value> {
    let mut item = item.clone();
    let kind = item.get("type").and_then(Value::as_str).unwrap_or_default();
    // A reference is nothing but a name.
    if kind == "item_reference" || !item.get("id").and_then(Value::as_str).is_some_and(is_fresh_id) {
        return Some(item);
    }
    if kind == "reasoning" && item.get("encrypted_content").is_none_or(is_unset) {
        return None;
    }
    item.as_object_mut()?.shift_remove("id");
    Some(item)
}

fn nested<'a>(body: &'a mut Map<String, Value>, name: &str) -> Entries<'a> {
    Entries(body.entry(name).or_insert_with(|| json!({})))
}

/// The fields of an object inside of the body.
struct Entries<'a>(&'a mut Value);

impl Entries<'_> {
    fn insert(self, name: String, value: Value) {
        if let Value::Object(fields) = self.0 {
            fields.insert(name, value);
        }
    }

    fn extend(self, more: Map<String, Value>) {
        if let Value::Object(fields) = self.0 {
            fields.extend(more);
        }
    }
}

/// Returns whether a field says no more than what happens anyway.
fn is_default(name: &str, value: &Value) -> bool {
    match name {
        "n" => value.as_f64() == Some(1.0),
        "frequency_penalty" | "presence_penalty" => value.as_f64() == Some(0.0),
        "logprobs" => value == &Value::Bool(false),
        _ => is_unset(value),
    }
}

fn tool_choice(choice: &Value) -> Value {
    let flat = |tool: &Value| match tool.pointer("/function/name") {
        Some(name) => json!({"type": "function", "name": name}),
        None => tool.clone(),
    };
    match (&choice["allowed_tools"]["mode"], choice["allowed_tools"]["tools"].as_array()) {
        (mode, Some(tools)) => {
            json!({"type": "allowed_tools", "mode": mode, "tools": tools.iter().map(flat).collect::<Value>()})
        }
        _ => flat(choice),
    }
}

fn text_format(format: &Value) -> Value {
    match format.get("json_schema") {
        Some(Value::Object(schema)) => {
            let mut format = schema.clone();
            format.insert("type".to_owned(), "json_schema".into());
            Value::Object(format)
        }
        _ => format.clone(),
    }
}

fn tool(tool: &Value, index: usize, from: Dialect, target: Target<'_>) -> Result<Value> {
    match tool.get("function") {
        Some(Value::Object(function)) => {
            let mut out = function.clone();
            out.insert("type".to_owned(), "function".into());
            // The default of this protocol is strict, that of the others is not.
            if from != Dialect::Responses {
                out.entry("strict").or_insert(false.into());
            } else if out.get("strict").is_some_and(Value::is_null) {
                out.shift_remove("strict");
            }
            Ok(Value::Object(out))
        }
        _ if from == Dialect::Messages || tool.get("custom").is_some() => {
            Err(target.refuse(format!("tools[{index}].type")))
        }
        _ => Ok(tool.clone()),
    }
}

/// One message, and where it stands.
struct At<'a> {
    target: Target<'a>,
    path: String,
}

impl At<'_> {
    fn refuse(&self, field: &str) -> Error {
        self.target.refuse(format!("{}.{field}", self.path))
    }

    fn items(&self, message: &Map<String, Value>, items: &mut Vec<Value>) -> Result<()> {
        for native in [OUTPUT_ITEMS, INPUT_ITEMS] {
            if let Some(Value::Array(own)) = message.get(native) {
                items.extend(own.iter().filter_map(known_there));
                return Ok(());
            }
        }
        // Another provider's reasoning is not sealed, and OpenAI takes no other.
        let known = [
            "role",
            "content",
            "tool_calls",
            "tool_call_id",
            "refusal",
            "is_error",
            "cache_control",
            "phase",
            "reasoning",
            "reasoning_content",
        ];
        let is_said = |name: &str, value: &Value| {
            known.contains(&name) || is_unset(value) || value == "" || name == CONTENT_BLOCKS && is_said_beside(value)
        };
        let lost = message.iter().find(|(name, value)| !is_said(name, value));
        if let Some((name, _)) = lost {
            return Err(self.refuse(name));
        }
        let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
        match role {
            "tool" => {
                let output = self.content(message.get("content"), "input_text")?;
                let call_id = message.get("tool_call_id").cloned().unwrap_or_default();
                items.push(json!({"type": "function_call_output", "call_id": call_id, "output": output}));
            }
            "assistant" => self.assistant(message, items)?,
            "user" | "system" | "developer" => {
                items.push(json!({"role": role, "content": self.content(message.get("content"), "input_text")?}));
            }
            _ => return Err(self.refuse("role")),
        }
        Ok(())
    }

    fn assistant(&self, message: &Map<String, Value>, items: &mut Vec<Value>) -> Result<()> {
        let mut content = self.content(message.get("content"), "output_text")?;
        if let Some(refusal) = message.get("refusal").filter(|refusal| refusal.is_string()) {
            let refusal = json!({"type": "refusal", "refusal": refusal});
            content = match content {
                Value::Array(mut parts) => {
                    parts.push(refusal);
                    Value::Array(parts)
                }
                Value::String(text) if !text.is_empty() => json!([{"type": "output_text", "text": text}, refusal]),
                _ => json!([refusal]),
            };
        }
        if !is_unset(&content) && content != "" {
            let mut item = json!({"role": "assistant", "content": content});
            if let Some(phase) = message.get("phase") {
                item["phase"] = phase.clone();
            }
            items.push(item);
        }
        let calls = message.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
        for (index, call) in calls.enumerate() {
            let Some(function) = call.get("function") else {
                return Err(self.refuse(&format!("tool_calls[{index}].type")));
            };
            let (name, arguments) = (&function["name"], &function["arguments"]);
            items.push(json!({"type": "function_call", "call_id": call["id"], "name": name, "arguments": arguments}));
        }
        Ok(())
    }

    fn content(&self, content: Option<&Value>, text_type: &str) -> Result<Value> {
        let Some(Value::Array(parts)) = content else { return Ok(content.cloned().unwrap_or_default()) };
        let part = |(index, part): (usize, &Value)| {
            let refuse = |field: &str| Err(self.refuse(&format!("content[{index}].{field}")));
            match part.get("type").and_then(Value::as_str) {
                Some("text") => {
                    let lost = part.as_object().into_iter().flatten().find(|(name, value)| {
                        !["type", "text", "cache_control"].contains(&name.as_str()) && !is_unset(value)
                    });
                    match lost {
                        Some((name, _)) => refuse(name),
                        None => Ok(json!({"type": text_type, "text": part["text"]})),
                    }
                }
                Some("image_url") => {
                    let mut image = json!({"type": "input_image", "image_url": part["image_url"]["url"]});
                    if let Some(detail) = part["image_url"].get("detail") {
                        image["detail"] = detail.clone();
                    }
                    Ok(image)
                }
                Some("file") => {
                    let mut file = part["file"].as_object().cloned().unwrap_or_default();
                    file.insert("type".to_owned(), "input_file".into());
                    Ok(Value::Object(file))
                }
                // As this protocol has it.
                Some("refusal") => Ok(part.clone()),
                Some(kind) if kind.starts_with("input_") || kind.starts_with("output_") => Ok(part.clone()),
                _ => refuse("type"),
            }
        };
        parts.iter().enumerate().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Scope,
        chat::dialect::{fuzz::call, openai, responses::read_request},
    };

    #[test]
    fn a_function_that_does_not_say_whether_it_is_strict_is_another_one_in_each_protocol() {
        let tool = json!({"type": "function", "name": "f", "parameters": {}});
        let body = json!({"model": "m", "input": "x", "tools": [tool]});
        let request = read_request(body, &Scope::new()).unwrap().request;
        let asked = call(&request, Dialect::Responses);
        assert_eq!(write_request(&asked, "p").unwrap()["tools"], json!([tool]));
        let function = json!({"type": "function", "function": {"name": "f", "parameters": {}}});
        assert_eq!(openai::write_request(&asked, "p").unwrap()["tools"], json!([function]));
        // Other words of the same request would have its key.
        assert_ne!(request.provider_fields["tools"], json!([function]));
    }

    #[test]
    fn what_is_not_known_of_a_choice_reaches_its_own_protocol_and_is_refused_by_others() {
        let choice = json!({"type": "function", "name": "f", "new": 1});
        let body = json!({"model": "m", "input": "x", "tool_choice": choice});
        let request = read_request(body, &Scope::new()).unwrap().request;
        let asked = call(&request, Dialect::Responses);
        assert_eq!(write_request(&asked, "p").unwrap()["tool_choice"], choice);
        let refused = openai::write_request(&asked, "p").unwrap_err();
        assert_eq!((refused.code(), refused.get("field")), ("UNSUPPORTED", Some("tool_choice")));
    }
}
