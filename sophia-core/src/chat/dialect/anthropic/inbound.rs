//! What a client says.

use serde_json::{Map, Value, json};

use super::{outbound::EFFORTS, parts};
use crate::{
    Error, Result, Scope,
    chat::{
        ChatRequest, Message,
        dialect::{
            CONTENT_BLOCKS, Dialect, Names, TOOL_HINTS, collapse,
            names::{Origin, Place},
            openai::Inbound,
        },
    },
};

const OPERATION: &str = "chat.complete";
/// Signature of a thought that we made of another provider's reasoning, by which we know it again. Clients keep it unread.
pub(super) const OWN_SIGNATURE: &str = "sophia";
/// What fields of the common form are called here.
const NAMES: [(&str, &str); 7] = [
    ("betas", "anthropic-beta"),
    ("parallel_tool_calls", "tool_choice.disable_parallel_tool_use"),
    ("reasoning_effort", "output_config.effort"),
    ("response_format.json_schema", "output_config.format"),
    ("response_format", "output_config.format"),
    ("stop", "stop_sequences"),
    ("user", "metadata.user_id"),
];
/// Fields of a tool that a function has as well.
const FUNCTION: [&str; 7] =
    ["type", "name", "description", "input_schema", "strict", "cache_control", "eager_input_streaming"];

/// Reads the body of a client's request. Fields without a counterpart keep their names, and are passed on.
///
/// The scope is the authenticated caller's; nothing in the body can choose it. `betas` are the names in the header
/// `anthropic-beta`.
///
/// ```
/// use serde_json::json;
/// use sophia_core::{Scope, chat::dialect::anthropic::read_request};
///
/// let body = json!({"model": "small", "max_tokens": 9, "system": "Be brief.", "top_k": 3, "stop_sequences": ["END"],
///     "messages": [{"role": "user", "content": "Hello"}]});
/// let request = read_request(body, &Scope::new().user("ada"), &[])?.request;
/// assert_eq!((request.messages[0].role(), request.messages[1].text().as_ref()), ("system", "Hello"));
/// // The other protocol's name for it, or its own where there is none.
/// assert_eq!((&request.provider_fields["stop"][0], &request.provider_fields["top_k"]), (&json!("END"), &json!(3)));
/// # Ok::<(), sophia_core::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput), naming the field.
pub fn read_request(body: Value, scope: &Scope, betas: &[String]) -> Result<Inbound> {
    let Value::Object(fields) = body else { return Err(wrong("body", "must be an object")) };
    let mut request = ChatRequest { scope: Some(scope.clone()), dialect: Dialect::Messages, ..ChatRequest::default() };
    let (mut stream, mut messages, mut system) = (false, None, Value::Null);
    let (mut kept, mut names) = (Map::new(), Names::new(&NAMES));
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("model", Value::String(model)) => request.model = Some(model),
            ("model", _) => return Err(wrong("model", "must be a string")),
            ("messages", Value::Array(list)) => messages = Some(list),
            ("system", value) => system = value,
            ("stream", Value::Bool(value)) => stream = value,
            ("stream", Value::Null) => {}
            ("stream", _) => return Err(wrong("stream", "must be true or false")),
            ("stop_sequences", value) => put(&mut kept, "stop", value),
            ("tools", Value::Array(tools)) => {
                put(&mut kept, "tools", tools.into_iter().enumerate().map(tool).collect::<Result<_>>()?);
            }
            ("tool_choice", value) => tool_choice(value, &mut kept)?,
            ("metadata", value) => metadata(value, &mut kept),
            ("output_config", Value::Object(config)) => output_config(config, &mut kept),
            (_, value) => put(&mut kept, &name, value),
        }
    }
    let Some(messages) = messages else { return Err(wrong("messages", "must be a list")) };
    match system {
        Value::Null => {}
        Value::String(text) => request.messages.push(Message::system(text)),
        Value::Array(blocks) => {
            request.messages.push(Message::system(collapse(blocks.into_iter().map(parts::to_chat).collect())));
        }
        _ => return Err(wrong("system", "must be a text or a list of blocks")),
    }
    if !request.messages.is_empty() {
        names.push(Origin::new(Place::of("system"), Place::of("system")));
    }
    for (index, message) in messages.into_iter().enumerate() {
        read_message(message, Place::item("messages", index), &mut request.messages, &mut names)?;
    }
    if !betas.is_empty() {
        kept.insert("betas".to_owned(), betas.into());
    }
    request.provider_fields = kept;
    Ok(Inbound { request, stream, stream_usage: true, repeated: Map::new(), names })
}

fn wrong(field: &str, message: &str) -> Error {
    Error::invalid(OPERATION, field, message)
}

/// Keeps a field, unless it is written out and not set.
fn put(kept: &mut Map<String, Value>, name: &str, value: Value) {
    if !value.is_null() {
        kept.insert(name.to_owned(), value);
    }
}

/// A tool that is no more than a function becomes one; any other stays as it is.
fn tool((index, tool): (usize, Value)) -> Result<Value> {
    let Value::Object(mut fields) = tool else { return Err(wrong(&format!("tools[{index}]"), "must be an object")) };
    let plain = fields.get("type").is_none_or(|kind| kind.is_null() || kind == "custom");
    if !plain || !fields.keys().all(|name| FUNCTION.contains(&name.as_str())) {
        return Ok(Value::Object(fields));
    }
    let mut function = Map::new();
    for (from, to) in
        [("name", "name"), ("description", "description"), ("input_schema", "parameters"), ("strict", "strict")]
    {
        put(&mut function, to, fields.shift_remove(from).unwrap_or_default());
    }
    let mut tool = json!({"type": "function", "function": function});
    for name in TOOL_HINTS {
        if let Some(hint) = fields.shift_remove(name).filter(|hint| !hint.is_null()) {
            tool[name] = hint;
        }
    }
    Ok(tool)
}

fn tool_choice(choice: Value, kept: &mut Map<String, Value>) -> Result<()> {
    if choice.is_null() {
        return Ok(());
    }
    const KNOWN: [&str; 3] = ["type", "name", "disable_parallel_tool_use"];
    let mut said = choice.as_object().into_iter().flatten();
    let says_more = said.any(|(name, value)| !KNOWN.contains(&name.as_str()) && !value.is_null());
    let word = match choice.get("type").and_then(Value::as_str) {
        Some("auto" | "any" | "tool" | "none") if says_more => choice.clone(),
        Some("auto") => "auto".into(),
        Some("any") => "required".into(),
        Some("none") => "none".into(),
        Some("tool") => json!({"type": "function", "function": {"name": choice["name"]}}),
        _ => return Err(wrong("tool_choice.type", "must be auto, any, tool or none")),
    };
    kept.insert("tool_choice".to_owned(), word);
    if let Some(Value::Bool(disabled)) = choice.get("disable_parallel_tool_use") {
        kept.insert("parallel_tool_calls".to_owned(), (!disabled).into());
    }
    Ok(())
}

fn metadata(metadata: Value, kept: &mut Map<String, Value>) {
    let Value::Object(mut fields) = metadata else { return put(kept, "metadata", metadata) };
    put(kept, "user", fields.shift_remove("user_id").unwrap_or_default());
    if !fields.is_empty() {
        kept.insert("metadata".to_owned(), Value::Object(fields));
    }
}

fn output_config(mut config: Map<String, Value>, kept: &mut Map<String, Value>) {
    if let Some(format) = config.get("format").and_then(Value::as_object)
        && format.get("type").is_some_and(|kind| kind == "json_schema")
        && format.len() == 2
        && let Some(schema) = format.get("schema")
    {
        // Chat completions want a name; this protocol has none.
        let schema = json!({"name": "answer", "schema": schema, "strict": true});
        kept.insert("response_format".to_owned(), json!({"type": "json_schema", "json_schema": schema}));
        config.shift_remove("format");
    }
    if let Some(effort) = config.get("effort").and_then(Value::as_str).filter(|effort| EFFORTS.contains(effort)) {
        kept.insert("reasoning_effort".to_owned(), effort.into());
        config.shift_remove("effort");
    }
    config.retain(|_, value| !value.is_null());
    if !config.is_empty() {
        kept.insert("output_config".to_owned(), Value::Object(config));
    }
}

fn read_message(message: Value, place: Place, messages: &mut Vec<Message>, names: &mut Names) -> Result<()> {
    let Value::Object(mut fields) = message else { return Err(wrong(&place.to_string(), "must be an object")) };
    let role = match fields.get("role").and_then(Value::as_str) {
        Some(role @ ("user" | "assistant" | "system")) => role.to_owned(),
        _ => return Err(wrong(&place.within("role").to_string(), "must be user or assistant")),
    };
    let content = fields.shift_remove("content").unwrap_or_default();
    fields.shift_remove("role");
    let mut out = Vec::new();
    match content {
        Value::String(text) => out.push((Message::new(role, text), whole(place))),
        Value::Array(blocks) if role == "assistant" => out.push((assistant(blocks), whole(place))),
        Value::Array(blocks) => user(&role, blocks, place, &mut out),
        _ => return Err(wrong(&place.within("content").to_string(), "must be a text or a list of blocks")),
    }
    if let Some((last, origin)) = out.pop() {
        out.push((fields.into_iter().fold(last, |message, (name, value)| message.with(name, value)), origin));
    }
    for (message, origin) in out {
        messages.push(message);
        names.push(origin);
    }
    Ok(())
}

/// Returns where a message comes from that is all of the client's.
fn whole(place: Place) -> Origin {
    Origin::new(place, place.within("content")).beside(place.within("content"))
}

/// Results of tools are messages of their own; what stands between them stays where it is.
fn user(role: &str, blocks: Vec<Value>, place: Place, messages: &mut Vec<(Message, Origin)>) {
    let (mut rest, mut first) = (Vec::new(), 0);
    for (index, block) in blocks.into_iter().enumerate() {
        match tool_result(&block) {
            Some(result) => {
                if !rest.is_empty() {
                    let message = Message::new(role, collapse(std::mem::take(&mut rest)));
                    messages.push((message, whole(place).first(first)));
                }
                let own = place.block(index);
                messages.push((result, Origin::new(own, own.within("content"))));
                first = index + 1;
            }
            None => rest.push(parts::to_chat(block)),
        }
    }
    if !rest.is_empty() || messages.is_empty() {
        messages.push((Message::new(role, collapse(rest)), whole(place).first(first)));
    }
}

fn tool_result(block: &Value) -> Option<Message> {
    const KNOWN: [&str; 5] = ["type", "tool_use_id", "content", "is_error", "cache_control"];
    let fields = block.as_object()?;
    if fields.get("type")? != "tool_result" || !fields.keys().all(|name| KNOWN.contains(&name.as_str())) {
        return None;
    }
    let content = match fields.get("content") {
        Some(Value::Array(blocks)) => collapse(blocks.iter().cloned().map(parts::to_chat).collect()),
        Some(Value::String(text)) => text.as_str().into(),
        _ => "".into(),
    };
    let mut message = Message::new("tool", content).with("tool_call_id", fields.get("tool_use_id")?.clone());
    for name in ["is_error", "cache_control"] {
        if let Some(value) = fields.get(name).filter(|value| !value.is_null()) {
            message = message.with(name, value.clone());
        }
    }
    Some(message)
}

/// Text, then calls of tools, is what chat completions can say. Anything else is kept beside it as it is.
fn assistant(blocks: Vec<Value>) -> Message {
    let said = Said::of(&blocks);
    let content = match said.texts.is_empty() {
        true if !said.calls.is_empty() => Value::Null,
        _ => collapse(said.texts),
    };
    let mut message = Message::assistant(content);
    if !said.thought.is_empty() {
        message = message.with("reasoning_content", said.thought);
    }
    if !said.calls.is_empty() {
        message = message.with("tool_calls", said.calls);
    }
    if !said.whole || said.unsigned {
        message = message.with(CONTENT_BLOCKS, blocks);
    }
    message
}

/// Returns whether the common form beside them says all that counts in blocks for another protocol.
pub(crate) fn is_said_beside(blocks: &Value) -> bool {
    blocks.as_array().is_none_or(|blocks| Said::of(blocks).whole)
}

/// Returns whether a block is a thought that we made of another provider's reasoning.
pub(super) fn is_own_thought(block: &Value) -> bool {
    block.get("signature").is_some_and(|signature| signature == OWN_SIGNATURE)
}

/// What the common form can say of an assistant's blocks.
pub(super) struct Said {
    pub texts: Vec<Value>,
    pub thought: String,
    pub calls: Vec<Value>,
    /// Whether that is all of it.
    pub whole: bool,
    /// Whether a thought is of a provider that signs none, and wants it back as it was.
    pub unsigned: bool,
}

impl Said {
    pub fn of(blocks: &[Value]) -> Said {
        let mut said =
            Said { texts: Vec::new(), thought: String::new(), calls: Vec::new(), whole: true, unsigned: false };
        for block in blocks {
            if !said.take(block) {
                said.whole = false;
            }
        }
        said
    }

    /// Returns whether the common form says all of the block.
    fn take(&mut self, block: &Value) -> bool {
        let text = |name: &str| block.get(name).and_then(Value::as_str);
        let only = |known: &[&str]| {
            block.as_object().is_some_and(|block| {
                block.iter().all(|(name, value)| known.contains(&name.as_str()) || value.is_null())
            })
        };
        match text("type") {
            Some("text") => {
                let whole = only(&["type", "text", "cache_control"]) && self.calls.is_empty();
                let plain = || json!({"type": "text", "text": block["text"]});
                self.texts.push(if whole { parts::to_chat(block.clone()) } else { plain() });
                whole
            }
            Some("thinking") => {
                self.thought += text("thinking").unwrap_or_default();
                let is_unsigned = text("signature").unwrap_or_default().is_empty();
                self.unsigned |= is_unsigned;
                (is_unsigned || is_own_thought(block)) && self.texts.is_empty() && self.calls.is_empty()
            }
            Some("tool_use") => {
                let input = block.get("input").map_or_else(|| "{}".to_owned(), Value::to_string);
                let function = json!({"name": block["name"], "arguments": input});
                self.calls.push(json!({"id": block["id"], "type": "function", "function": function}));
                only(&["type", "id", "name", "input"])
            }
            _ => false,
        }
    }
}
