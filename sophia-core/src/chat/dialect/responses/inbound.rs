//! What a client says.

use serde_json::{Map, Value, json};

use crate::{
    Error, Result, Scope,
    chat::{
        ChatRequest, Message,
        dialect::{
            Dialect, INPUT_ITEMS, Names, OUTPUT_ITEMS, PREVIOUS, SAID_ELSEWHERE, collapse, is_item_said_beside,
            is_unset,
            names::{Origin, Place},
        },
    },
};

const OPERATION: &str = "chat.complete";
/// Fields of a request that the response repeats.
const REPEATED: [&str; 19] = [
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "truncation",
    "user",
];

/// What fields of the common form are called here.
const NAMES: [(&str, &str); 6] = [
    ("max_completion_tokens", "max_output_tokens"),
    ("messages", "input"),
    ("reasoning_effort", "reasoning.effort"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("verbosity", "text.verbosity"),
];

/// A request of a client that speaks this protocol.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Inbound {
    /// What is asked.
    pub request: ChatRequest,
    /// Whether the client wants a stream.
    pub stream: bool,
    /// What the response repeats of the request.
    pub repeated: Map<String, Value>,
    /// What the client calls that which it said.
    #[cfg_attr(
        not(feature = "http-server"),
        allow(dead_code, reason = "only the HTTP surface tells clients of their fields")
    )]
    pub(crate) names: Names,
}

/// Reads the body of a client's request. Fields without a counterpart keep their names, and are passed on.
///
/// The scope is the authenticated caller's; nothing in the body can choose it.
///
/// ```
/// use serde_json::json;
/// use sophia_core::{Scope, chat::dialect::responses::read_request};
///
/// let body = json!({"model": "small", "instructions": "Be brief.", "input": "Hello", "reasoning": {"effort": "low"}});
/// let request = read_request(body, &Scope::new().user("ada"))?.request;
/// assert_eq!((request.messages[0].role(), request.messages[1].text().as_ref()), ("system", "Hello"));
/// assert_eq!(request.provider_fields["reasoning_effort"], "low");
/// # Ok::<(), sophia_core::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput), naming the field.
pub fn read_request(body: Value, scope: &Scope) -> Result<Inbound> {
    read_further_request(body, scope, 0)
}

/// Reads a request whose first `known` items are of the response that it goes on from.
pub(crate) fn read_further_request(body: Value, scope: &Scope, known: usize) -> Result<Inbound> {
    let Value::Object(fields) = body else { return Err(wrong("body", "must be an object")) };
    let repeated = fields.iter().filter(|(name, _)| REPEATED.contains(&name.as_str()));
    let repeated = repeated.map(|(name, value)| (name.clone(), value.clone())).collect();
    // With a state at the server, instructions are of this turn only, and no message of the conversation.
    let stateful = [PREVIOUS, "conversation"].iter().any(|name| fields.get(*name).is_some_and(|v| !v.is_null()));
    let mut request = ChatRequest { scope: Some(scope.clone()), dialect: Dialect::Responses, ..ChatRequest::default() };
    let (mut stream, mut input, mut kept, mut names) = (false, None, Map::new(), Names::new(&NAMES));
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("model", Value::String(model)) => request.model = Some(model),
            ("stream", Value::Bool(value)) => stream = value,
            ("stream", Value::Null) => {}
            ("model", value) if !value.is_null() => return Err(wrong("model", "must be a string")),
            ("stream", _) => return Err(wrong("stream", "must be true or false")),
            ("input", value) => input = Some(value),
            ("instructions", Value::String(text)) if !stateful => {
                request.messages.push(Message::system(text));
                names.push(Origin::new(Place::of("instructions"), Place::of("instructions")));
            }
            ("max_output_tokens", value) => put(&mut kept, "max_completion_tokens", value),
            ("text", Value::Object(text)) => read_text(text, &mut kept)?,
            ("reasoning", Value::Object(mut reasoning)) => {
                put(&mut kept, "reasoning_effort", reasoning.shift_remove("effort").unwrap_or_default());
                reasoning.retain(|_, value| !value.is_null());
                put(&mut kept, "reasoning", Value::Object(reasoning));
            }
            ("tools", Value::Array(tools)) => {
                put(&mut kept, "tools", tools.into_iter().map(tool).collect());
            }
            ("tool_choice", choice) => put(&mut kept, "tool_choice", tool_choice(choice)),
            // As it is without them.
            ("truncation", Value::String(word)) if word == "disabled" => {}
            ("background", Value::Bool(false)) => {}
            (_, value) => put(&mut kept, &name, value),
        }
    }
    match input {
        Some(Value::String(text)) => {
            request.messages.push(Message::user(text));
            names.push(Origin::new(Place::of("input"), Place::of("input")));
        }
        Some(Value::Array(items)) => read_items(items, known, &mut request.messages, &mut names)?,
        None | Some(Value::Null) if SAID_ELSEWHERE.iter().any(|name| kept.contains_key(*name)) => {}
        _ => return Err(wrong("input", "must be a text or a list of items")),
    }
    request.provider_fields = kept;
    Ok(Inbound { request, stream, repeated, names })
}

fn wrong(field: &str, message: &str) -> Error {
    Error::invalid(OPERATION, field, message)
}

/// Keeps a field, unless it is written out and not set.
fn put(kept: &mut Map<String, Value>, name: &str, value: Value) {
    if !is_unset(&value) {
        kept.insert(name.to_owned(), value);
    }
}

fn read_text(mut text: Map<String, Value>, kept: &mut Map<String, Value>) -> Result<()> {
    put(kept, "verbosity", text.shift_remove("verbosity").unwrap_or_default());
    match text.shift_remove("format") {
        None | Some(Value::Null) => {}
        Some(Value::Object(mut format)) => match format.get("type").and_then(Value::as_str) {
            Some("text") => {}
            Some("json_schema") => {
                format.shift_remove("type");
                format.retain(|_, value| !value.is_null());
                kept.insert("response_format".to_owned(), json!({"type": "json_schema", "json_schema": format}));
            }
            _ => put(kept, "response_format", Value::Object(format)),
        },
        Some(_) => return Err(wrong("text.format", "must be an object")),
    }
    put(kept, "text", Value::Object(text));
    Ok(())
}

fn tool(tool: Value) -> Value {
    let Value::Object(mut fields) = tool else { return tool };
    if fields.get("type").is_none_or(|kind| kind != "function") || fields.contains_key("function") {
        return Value::Object(fields);
    }
    fields.shift_remove("type");
    fields.retain(|_, value| !value.is_null());
    // Left out, it means something else here than in the other protocols: what is not the same must not have the same key.
    fields.entry("strict").or_insert(Value::Null);
    json!({"type": "function", "function": fields})
}

fn tool_choice(choice: Value) -> Value {
    match (choice.get("type").and_then(Value::as_str), choice.get("name"), choice.get("tools")) {
        (Some("function"), Some(name), _) if says_only(&choice, &["type", "name"]) => {
            json!({"type": "function", "function": {"name": name}})
        }
        (Some("allowed_tools"), _, Some(Value::Array(tools))) => {
            let tools: Value = tools.iter().cloned().map(tool_choice).collect();
            json!({"type": "allowed_tools", "allowed_tools": {"mode": choice["mode"], "tools": tools}})
        }
        _ => choice,
    }
}

fn read_items(items: Vec<Value>, known: usize, messages: &mut Vec<Message>, names: &mut Names) -> Result<()> {
    let place = |index: usize| match index.checked_sub(known) {
        Some(own) => Place::item("input", own),
        None => Place::of(PREVIOUS),
    };
    // What the assistant said in a row is one message.
    let mut said: Vec<Value> = Vec::new();
    let count = items.len();
    for (index, item) in items.into_iter().enumerate() {
        let own = place(index);
        let Value::Object(fields) = &item else {
            return Err(wrong(&own.to_string(), "must be an object"));
        };
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let kind = text("type").unwrap_or("message");
        let is_said = match kind {
            "message" => text("role") == Some("assistant"),
            // Results and references come from outside; calls, reasoning and the like from the model.
            "item_reference" | "mcp_approval_response" => false,
            kind => !kind.ends_with("_output"),
        };
        if is_said {
            said.push(item);
            continue;
        }
        flush(&mut said, index, &place, messages, names);
        let (message, content) = match (kind, text("role")) {
            ("message", Some(role)) => (message(role.to_owned(), fields, &item), "content"),
            ("message", None) => return Err(wrong(&own.within("role").to_string(), "is required")),
            ("function_call_output", _) => (result(fields, &item), "output"),
            _ => (Message::new("tool", Value::Null).with(INPUT_ITEMS, vec![item]), ""),
        };
        messages.push(message);
        names.push(Origin::new(own, own.within(content)));
    }
    flush(&mut said, count, &place, messages, names);
    Ok(())
}

fn message(role: String, fields: &Map<String, Value>, item: &Value) -> Message {
    let content = match fields.get("content") {
        Some(Value::Array(parts)) => collapse(parts.iter().map(part).collect()),
        content => content.cloned().unwrap_or_default(),
    };
    whole_or_with(item, &["type", "role", "content"], Message::new(role, content))
}

/// Keeps an item beside the message that it became, where that does not say all of it.
fn whole_or_with(item: &Value, said: &[&str], message: Message) -> Message {
    match says_only(item, said) {
        true => message,
        false => message.with(INPUT_ITEMS, vec![item.clone()]),
    }
}

fn says_only(item: &Value, said: &[&str]) -> bool {
    let fields = item.as_object().into_iter().flatten();
    fields.into_iter().all(|(name, value)| said.contains(&name.as_str()) || is_unset(value))
}

fn result(fields: &Map<String, Value>, item: &Value) -> Message {
    let output = match fields.get("output") {
        Some(Value::Array(parts)) => collapse(parts.iter().map(part).collect()),
        output => output.cloned().unwrap_or_default(),
    };
    let message = Message::new("tool", output).with("tool_call_id", fields.get("call_id").cloned().unwrap_or_default());
    whole_or_with(item, &["type", "call_id", "output"], message)
}

/// Translates a part of a content; what has no counterpart stays as it is.
fn part(part: &Value) -> Value {
    let Some(fields) = part.as_object() else { return part.clone() };
    let only = |known: &[&str]| fields.iter().all(|(name, value)| known.contains(&name.as_str()) || is_unset(value));
    match fields.get("type").and_then(Value::as_str) {
        Some("input_text" | "output_text") if only(&["type", "text"]) => {
            json!({"type": "text", "text": fields["text"]})
        }
        Some("input_image") if only(&["type", "image_url", "detail"]) => {
            let mut image = json!({"url": fields["image_url"]});
            if let Some(detail) = fields.get("detail").filter(|detail| !detail.is_null()) {
                image["detail"] = detail.clone();
            }
            json!({"type": "image_url", "image_url": image})
        }
        Some("input_file") if only(&["type", "filename", "file_data", "file_id"]) => {
            let mut file = fields.clone();
            file.shift_remove("type");
            file.retain(|_, value| !value.is_null());
            json!({"type": "file", "file": file})
        }
        _ => part.clone(),
    }
}

/// Makes one message of what the assistant said before the item `end`.
fn flush(
    said: &mut Vec<Value>,
    end: usize,
    place: &impl Fn(usize) -> Place,
    messages: &mut Vec<Message>,
    names: &mut Names,
) {
    if said.is_empty() {
        return;
    }
    let items = std::mem::take(said);
    let the_first =
        |wanted: &dyn Fn(&Value) -> bool| place(end - items.len() + items.iter().position(wanted).unwrap_or(0));
    let content = the_first(&|item| item.get("type").is_none_or(|kind| kind == "message"));
    names.push(Origin::new(content, content.within("content")).beside(the_first(&|item| !is_item_said_beside(item))));
    let told = Said::of(&items);
    let silent = told.texts.is_empty() && told.refusal.is_none();
    let content = if silent { Value::Null } else { collapse(told.texts) };
    let mut message = Message::assistant(content);
    if let Some(refusal) = told.refusal {
        message = message.with("refusal", refusal);
    }
    if !told.thought.is_empty() {
        message = message.with("reasoning_content", told.thought);
    }
    if !told.calls.is_empty() {
        message = message.with("tool_calls", told.calls);
    }
    if !told.whole {
        message = message.with(OUTPUT_ITEMS, items);
    }
    messages.push(message);
}

/// What the common form can say of an assistant's items.
#[derive(Debug)]
pub(super) struct Said {
    pub texts: Vec<Value>,
    pub refusal: Option<String>,
    pub thought: String,
    pub calls: Vec<Value>,
    /// Whether that is all of it.
    pub whole: bool,
}

impl Said {
    pub fn of(items: &[Value]) -> Said {
        let mut said =
            Said { texts: Vec::new(), refusal: None, thought: String::new(), calls: Vec::new(), whole: true };
        for item in items {
            if !said.take(item) {
                said.whole = false;
            }
        }
        said
    }

    /// Returns whether the common form says all of the item.
    fn take(&mut self, item: &Value) -> bool {
        match item.get("type").and_then(Value::as_str).unwrap_or("message") {
            "message" => self.message(item),
            "function_call" => {
                let function = json!({"name": item["name"], "arguments": item["arguments"]});
                self.calls.push(json!({"id": item["call_id"], "type": "function", "function": function}));
                says_only(item, &["type", "call_id", "name", "arguments"])
            }
            "reasoning" => {
                self.thought += &thought_of(item);
                false
            }
            _ => false,
        }
    }

    fn message(&mut self, item: &Value) -> bool {
        let parts = match item.get("content") {
            Some(Value::String(text)) => vec![json!({"type": "output_text", "text": text})],
            Some(Value::Array(parts)) => parts.clone(),
            _ => return false,
        };
        // Text behind a call would come in front of it, and two messages would be one.
        let first = self.calls.is_empty() && self.texts.is_empty() && self.refusal.is_none();
        let mut whole = first && says_only(item, &["type", "role", "content"]);
        for own in parts {
            if own.get("type").is_some_and(|kind| kind == "refusal") {
                self.refusal.get_or_insert_default().push_str(own["refusal"].as_str().unwrap_or_default());
                continue;
            }
            let translated = part(&own);
            whole &= translated.get("type").is_some_and(|kind| kind == "text");
            // Beside the items as they are, the bare text will do.
            let text = || json!({"type": "text", "text": own.get("text").cloned().unwrap_or_else(|| "".into())});
            self.texts.push(if whole { translated } else { text() });
        }
        whole
    }
}

/// Returns the text of a reasoning item: its own, or its summary.
pub(super) fn thought_of(item: &Value) -> String {
    let texts = |name: &str| -> String {
        let parts = item.get(name).and_then(Value::as_array).into_iter().flatten();
        parts.filter_map(|part| part.get("text")?.as_str()).collect()
    };
    let own = texts("content");
    if own.is_empty() { texts("summary") } else { own }
}
