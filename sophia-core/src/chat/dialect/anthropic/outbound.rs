//! What a provider is asked.

use serde_json::{Map, Value, json};

use super::{inbound::is_own_thought, parts};
use crate::{
    Error, Result,
    chat::{
        dialect::{
            CONTENT_BLOCKS, Dialect, INPUT_ITEMS, OUTPUT_ITEMS, Target, asks_for_sealed_reasoning, integers::inexact,
            is_said_beside, is_unset,
        },
        provider::ProviderCall,
    },
};

/// Fields of OpenAI's protocols that change what is answered, and have no counterpart.
const FOREIGN: [&str; 28] = [
    "audio",
    "background",
    "context_window",
    "conversation",
    "frequency_penalty",
    "function_call",
    "functions",
    "include",
    "input",
    "instructions",
    "logit_bias",
    "logprobs",
    "max_tool_calls",
    "modalities",
    "moderation",
    "n",
    "prediction",
    "presence_penalty",
    "previous_response_id",
    "prompt",
    "reasoning",
    "seed",
    "store",
    "text",
    "top_logprobs",
    "truncation",
    "verbosity",
    "web_search_options",
];
/// Efforts that both makers name alike.
pub(super) const EFFORTS: [&str; 5] = ["low", "medium", "high", "xhigh", "max"];
/// Fields of OpenAI's Responses that mean the same here.
const COMMON: [&str; 4] = ["model", "service_tier", "temperature", "top_p"];
/// Hints for OpenAI's own cache and stream.
const HINTS: [&str; 5] =
    ["stream_options", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "timeout"];

/// A request for a provider.
pub(crate) struct Outbound {
    pub body: Map<String, Value>,
    /// What stands in the header `anthropic-beta`.
    pub betas: Vec<String>,
}

/// Translates a request. `max_tokens` counts where the request says none, since the protocol wants one.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), naming the field that has no counterpart.
pub(crate) fn write_request(call: &ProviderCall, provider: &str, max_tokens: u64) -> Result<Outbound> {
    let target = Target { operation: call.operation, provider, dialect: Dialect::Messages };
    let mut writer = Writer { target, from: call.dialect, body: Map::new(), betas: Vec::new() };
    for (name, value) in &call.body {
        writer.field(name, value)?;
    }
    writer.parallel(call.body.get("parallel_tool_calls"));
    writer.body.entry("max_tokens").or_insert(max_tokens.into());
    Ok(Outbound { body: writer.body, betas: writer.betas })
}

struct Writer<'a> {
    target: Target<'a>,
    from: Dialect,
    body: Map<String, Value>,
    betas: Vec<String>,
}

impl Writer<'_> {
    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.body.insert(name.to_owned(), value.into());
    }

    fn field(&mut self, name: &str, value: &Value) -> Result<()> {
        match (name, value) {
            (name, _) if HINTS.contains(&name) || name == "parallel_tool_calls" => {}
            (_, Value::Null) => {}
            ("messages", Value::Array(messages)) => self.messages(messages)?,
            ("max_tokens" | "max_completion_tokens", value) => {
                if self.body.get("max_tokens").is_some_and(|known| known != value) {
                    return Err(self.target.refuse(name));
                }
                self.set("max_tokens", value.clone());
            }
            ("stop", Value::String(stop)) => self.set("stop_sequences", vec![stop.clone()]),
            ("stop", stops) => self.set("stop_sequences", stops.clone()),
            ("tools", Value::Array(tools)) => self.tools(tools)?,
            ("tool_choice", choice) => self.tool_choice(choice)?,
            ("response_format", format) => self.response_format(format)?,
            ("reasoning_effort", effort @ Value::String(word)) if EFFORTS.contains(&word.as_str()) => {
                self.output_config("effort", effort.clone());
            }
            ("reasoning_effort", _) => return Err(self.target.refuse(name)),
            ("output_config", Value::Object(config)) => {
                config.iter().for_each(|(name, value)| self.output_config(name, value.clone()));
            }
            ("user" | "safety_identifier", user) => self.metadata("user_id", user.clone()),
            ("metadata", Value::Object(fields)) => {
                for (name, value) in fields {
                    if self.from != Dialect::Messages && name != "user_id" {
                        return Err(self.target.refuse(format!("metadata.{name}")));
                    }
                    self.metadata(name, value.clone());
                }
            }
            ("service_tier", tier) if tier != "auto" && tier != "standard_only" => {
                return Err(self.target.refuse(name));
            }
            ("betas", Value::Array(betas)) => {
                self.betas = betas.iter().filter_map(|beta| beta.as_str().map(str::to_owned)).collect();
            }
            // Whoever asks for it in Responses means a response that can be named, which is kept by ourselves.
            ("store", Value::Bool(_)) if self.from == Dialect::Responses => {}
            (name, value) if FOREIGN.contains(&name) => {
                if !is_default(name, value) {
                    return Err(self.target.refuse(name));
                }
            }
            (name, _) if self.from == Dialect::Responses && !COMMON.contains(&name) => {
                return Err(self.target.refuse(name));
            }
            (name, value) => self.set(name, value.clone()),
        }
        Ok(())
    }

    fn metadata(&mut self, name: &str, value: Value) {
        if let Value::Object(fields) = self.body.entry("metadata").or_insert_with(|| json!({})) {
            fields.insert(name.to_owned(), value);
        }
    }

    fn output_config(&mut self, name: &str, value: Value) {
        if let Value::Object(fields) = self.body.entry("output_config").or_insert_with(|| json!({})) {
            fields.insert(name.to_owned(), value);
        }
    }

    fn response_format(&mut self, format: &Value) -> Result<()> {
        match format.get("type").and_then(Value::as_str) {
            Some("text") => {}
            Some("json_schema") => {
                let Some(schema) = format.pointer("/json_schema/schema") else {
                    return Err(self.target.refuse("response_format.json_schema"));
                };
                self.output_config("format", json!({"type": "json_schema", "schema": schema}));
            }
            _ => return Err(self.target.refuse("response_format.type")),
        }
        Ok(())
    }

    fn tools(&mut self, tools: &[Value]) -> Result<()> {
        let mut out = Vec::with_capacity(tools.len());
        for (index, tool) in tools.iter().enumerate() {
            out.push(self.tool(tool, index)?);
        }
        self.set("tools", out);
        Ok(())
    }

    fn tool(&self, tool: &Value, index: usize) -> Result<Value> {
        let Some(Value::Object(function)) = tool.get("function") else {
            // One of Anthropic's own tools; OpenAI's are named alike, and mean something else.
            let foreign = self.from == Dialect::Responses || tool.get("custom").is_some();
            return if foreign { Err(self.target.refuse(format!("tools[{index}].type"))) } else { Ok(tool.clone()) };
        };
        let mut out = Map::new();
        for (name, value) in function {
            let name = if name == "parameters" { "input_schema" } else { name };
            if !value.is_null() {
                out.insert(name.to_owned(), value.clone());
            }
        }
        out.entry("input_schema").or_insert_with(|| json!({"type": "object", "properties": {}}));
        for (name, value) in tool.as_object().into_iter().flatten() {
            if !["type", "function"].contains(&name.as_str()) {
                out.insert(name.clone(), value.clone());
            }
        }
        Ok(Value::Object(out))
    }

    fn tool_choice(&mut self, choice: &Value) -> Result<()> {
        let word = match choice {
            Value::String(word) => match word.as_str() {
                "auto" => json!({"type": "auto"}),
                "required" => json!({"type": "any"}),
                "none" => json!({"type": "none"}),
                _ => return Err(self.target.refuse("tool_choice")),
            },
            choice => match (choice.get("type").and_then(Value::as_str), choice.pointer("/function/name")) {
                (Some("function"), Some(name)) => json!({"type": "tool", "name": name}),
                // As Anthropic has it.
                (Some("tool" | "any" | "auto" | "none"), None) => choice.clone(),
                _ => return Err(self.target.refuse("tool_choice.type")),
            },
        };
        self.set("tool_choice", word);
        Ok(())
    }

    fn parallel(&mut self, parallel: Option<&Value>) {
        if parallel != Some(&Value::Bool(false)) || !self.body.contains_key("tools") {
            return;
        }
        let choice = self.body.entry("tool_choice").or_insert_with(|| json!({"type": "auto"}));
        if let Value::Object(choice) = choice
            && choice.get("type").is_none_or(|kind| kind != "none")
        {
            choice.insert("disable_parallel_tool_use".to_owned(), true.into());
        }
    }

    fn messages(&mut self, messages: &[Value]) -> Result<()> {
        let mut system: Vec<Value> = Vec::new();
        let mut out: Vec<Value> = Vec::new();
        // Results of tools stand in front of what the user says next, in the same message, with what is said beside them.
        let (mut results, mut beside) = (Vec::new(), Map::new());
        for (index, message) in messages.iter().enumerate() {
            let at = At { target: self.target, from: self.from, path: format!("messages[{index}]") };
            let Some(message) = message.as_object() else { return Err(self.target.refuse(at.path)) };
            let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
            if role != "tool" && role != "user" && !results.is_empty() {
                out.push(turn("user", std::mem::take(&mut results), std::mem::take(&mut beside)));
            }
            match role {
                "system" | "developer"
                    if out.is_empty() && self.from != Dialect::Messages || index == 0 && role == "system" =>
                {
                    at.known(message, &["role", "content", "cache_control"])?;
                    at.system(message, &mut system)?;
                }
                "tool" => results.push(at.result(message, &mut beside)?),
                "user" => out.push(at.user(message, std::mem::take(&mut results), std::mem::take(&mut beside))?),
                "assistant" => out.push(at.assistant(message)?),
                // In the middle of a conversation it is a message of its own, for models that know it.
                "system" | "developer" => out.push(at.user(message, Vec::new(), Map::new())?),
                _ => return Err(self.target.refuse(format!("messages[{index}].role"))),
            }
        }
        if !results.is_empty() {
            out.push(turn("user", results, beside));
        }
        match system.as_mut_slice() {
            [] => {}
            [Value::Object(only)] if only.len() == 2 && only.get("text").is_some_and(Value::is_string) => {
                let text = only.get_mut("text").map(Value::take).unwrap_or_default();
                self.set("system", text);
            }
            _ => self.set("system", system),
        }
        self.set("messages", out);
        Ok(())
    }
}

/// Returns whether a field says no more than what happens anyway.
fn is_default(name: &str, value: &Value) -> bool {
    match name {
        "n" => value.as_f64() == Some(1.0),
        "frequency_penalty" | "presence_penalty" | "top_logprobs" => value.as_f64() == Some(0.0),
        "logprobs" | "store" | "background" => value == &Value::Bool(false),
        "modalities" => value == &json!(["text"]),
        "truncation" => value == "disabled",
        "include" => asks_for_sealed_reasoning(value),
        _ => is_unset(value),
    }
}

/// One message, and where it stands.
struct At<'a> {
    target: Target<'a>,
    from: Dialect,
    path: String,
}

/// Returns a message, with what its client said beside what is known.
fn turn(role: &str, content: impl Into<Value>, beside: Map<String, Value>) -> Value {
    let mut message = beside;
    message.insert("role".to_owned(), role.into());
    message.insert("content".to_owned(), content.into());
    message.into()
}

impl At<'_> {
    fn refuse(&self, field: &str) -> Error {
        self.target.refuse(format!("{}.{field}", self.path))
    }

    /// Refuses fields that would be lost.
    fn known(&self, message: &Map<String, Value>, known: &[&str]) -> Result<()> {
        match message.iter().find(|(name, value)| !known.contains(&name.as_str()) && !is_unset(value)) {
            Some((name, _)) => Err(self.refuse(name)),
            None => Ok(()),
        }
    }

    /// Returns the fields beside those that are known: a client of this protocol means them, one of another would lose them.
    fn beside(&self, message: &Map<String, Value>, known: &[&str]) -> Result<Map<String, Value>> {
        if self.from != Dialect::Messages {
            return self.known(message, known).map(|()| Map::new());
        }
        let beside = message.iter().filter(|(name, _)| !known.contains(&name.as_str()));
        Ok(beside.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    /// Refuses items of Responses that say more than the message does.
    fn said_beside(&self, message: &Map<String, Value>) -> Result<()> {
        let more = [OUTPUT_ITEMS, INPUT_ITEMS]
            .into_iter()
            .find(|name| message.get(*name).is_some_and(|own| !is_said_beside(own)));
        more.map_or(Ok(()), |name| Err(self.refuse(name)))
    }

    /// Returns the blocks of a content; none for an empty one.
    fn blocks(&self, content: Option<&Value>) -> Result<Vec<Value>> {
        match content {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(text)) if text.is_empty() => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![json!({"type": "text", "text": text})]),
            Some(Value::Array(parts)) => {
                let part =
                    |(index, part)| parts::to_native(part, &format!("{}.content[{index}]", self.path), self.target);
                parts.iter().enumerate().map(part).collect()
            }
            Some(_) => Err(self.refuse("content")),
        }
    }

    fn system(&self, message: &Map<String, Value>, system: &mut Vec<Value>) -> Result<()> {
        let mut blocks = self.blocks(message.get("content"))?;
        mark(&mut blocks, message);
        system.append(&mut blocks);
        Ok(())
    }

    fn user(
        &self,
        message: &Map<String, Value>,
        mut results: Vec<Value>,
        mut beside: Map<String, Value>,
    ) -> Result<Value> {
        beside.extend(self.beside(message, &["role", "content", "cache_control", INPUT_ITEMS])?);
        self.said_beside(message)?;
        let role = if message.get("role").is_some_and(|role| role == "user") { "user" } else { "system" };
        if results.is_empty()
            && !message.contains_key("cache_control")
            && let Some(text @ Value::String(_)) = message.get("content")
        {
            return Ok(turn(role, text.clone(), beside));
        }
        let mut blocks = self.blocks(message.get("content"))?;
        mark(&mut blocks, message);
        results.append(&mut blocks);
        Ok(turn(role, results, beside))
    }

    fn result(&self, message: &Map<String, Value>, beside: &mut Map<String, Value>) -> Result<Value> {
        let known = ["role", "content", "tool_call_id", "is_error", "cache_control", "name", INPUT_ITEMS];
        beside.extend(self.beside(message, &known)?);
        self.said_beside(message)?;
        let content = match message.get("content") {
            Some(text @ Value::String(_)) => text.clone(),
            content => self.blocks(content)?.into(),
        };
        let mut block = json!({"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": content});
        for name in ["is_error", "cache_control"] {
            if let Some(value) = message.get(name) {
                block[name] = value.clone();
            }
        }
        Ok(block)
    }

    fn assistant(&self, message: &Map<String, Value>) -> Result<Value> {
        // Reasoning of another protocol is not signed, and Anthropic takes no other.
        let known = ["role", "content", "tool_calls", "cache_control", "reasoning_content", "reasoning", OUTPUT_ITEMS];
        if let Some(Value::Array(blocks)) = message.get(CONTENT_BLOCKS) {
            let is_own = self.from == Dialect::Messages;
            let mut beside = if is_own { self.beside(message, &known)? } else { Map::new() };
            beside.shift_remove(CONTENT_BLOCKS);
            let blocks: Value = blocks.iter().filter(|block| !is_own_thought(block)).cloned().collect();
            return Ok(turn("assistant", blocks, beside));
        }
        let beside = self.beside(message, &known)?;
        self.said_beside(message)?;
        let calls = message.get("tool_calls").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if calls.is_empty()
            && !message.contains_key("cache_control")
            && let Some(text @ Value::String(_)) = message.get("content")
        {
            return Ok(turn("assistant", text.clone(), beside));
        }
        let mut blocks = self.blocks(message.get("content"))?;
        for (index, call) in calls.iter().enumerate() {
            let path = format!("tool_calls[{index}].function.arguments");
            let (Some(name), Some(arguments)) =
                (call.pointer("/function/name"), call.pointer("/function/arguments").and_then(Value::as_str))
            else {
                return Err(self.refuse(&format!("tool_calls[{index}].type")));
            };
            let text = if arguments.trim().is_empty() { "{}" } else { arguments };
            let input = match serde_json::from_str::<Value>(text) {
                Ok(input @ Value::Object(_)) if inexact(text.as_bytes()).is_none() => input,
                _ => return Err(self.refuse(&path)),
            };
            blocks.push(json!({"type": "tool_use", "id": call["id"], "name": name, "input": input}));
        }
        mark(&mut blocks, message);
        Ok(turn("assistant", blocks, beside))
    }
}

/// Puts the cache marker of a message where Anthropic looks for it: on its last block.
fn mark(blocks: &mut [Value], message: &Map<String, Value>) {
    if let (Some(Value::Object(last)), Some(marker)) = (blocks.last_mut(), message.get("cache_control")) {
        last.entry("cache_control").or_insert_with(|| marker.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Scope,
        chat::dialect::{anthropic::read_request, fuzz::call, openai, responses},
    };

    #[test]
    fn what_is_not_known_of_a_message_or_a_choice_reaches_its_own_protocol_and_is_refused_by_others() {
        let body = json!({
            "model": "m", "max_tokens": 9, "tools": [{"name": "f", "input_schema": {}}],
            "tool_choice": {"type": "tool", "name": "f", "new": 1},
            "messages": [
                {"role": "user", "content": "a", "new": 1},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}], "new": 2},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}], "new": 3},
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "y", "signature": "s"}], "new": 4},
                {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}], "new": 5},
            ],
        });
        let request = read_request(body.clone(), &Scope::new(), &[]).unwrap().request;
        let asked = call(&request, Dialect::Messages);
        let written = write_request(&asked, "p", 1).unwrap().body;
        assert_eq!((&written["messages"], &written["tool_choice"]), (&body["messages"], &body["tool_choice"]));
        let mut plain = body;
        plain["messages"] = json!([{"role": "user", "content": "a"}]);
        let request = read_request(plain, &Scope::new(), &[]).unwrap().request;
        let asked = call(&request, Dialect::Messages);
        for error in
            [openai::write_request(&asked, "p").unwrap_err(), responses::write_request(&asked, "p").unwrap_err()]
        {
            assert_eq!((error.code(), error.get("field")), ("UNSUPPORTED", Some("tool_choice")));
        }
    }
}
