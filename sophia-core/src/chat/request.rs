//! What is asked: typed where this crate must understand it, verbatim everywhere else.

use std::{borrow::Cow, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{
    assist::{self, UseMemory},
    dialect::{Dialect, SAID_ELSEWHERE},
    ttl::DEFAULT_CONTEXT,
};
use crate::{Error, Result, Scope};

/// Longest name of a model, in bytes.
pub(crate) const MAX_MODEL_BYTES: usize = 256;
/// Longest name of a context or tag, in bytes.
const MAX_LABEL_BYTES: usize = 256;
/// Most tags of one request.
const MAX_TAGS: usize = 64;
/// Most messages of one request.
const MAX_MESSAGES: usize = 10_000;
/// Longest accepted deadline.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Fields of a body that have their own place in a request.
const TYPED: [&str; 4] = ["model", "messages", "prompt", "stream"];

/// One message: `role` and `content`, and every other field as it came.
///
/// ```
/// use sophia_core::chat::Message;
///
/// let message = Message::user("Hello");
/// assert_eq!((message.role(), message.text().as_ref()), ("user", "Hello"));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message(Map<String, Value>);

impl Message {
    /// Creates a message of any role.
    pub fn new(role: impl Into<String>, content: impl Into<Value>) -> Message {
        let mut fields = Map::new();
        fields.insert("role".to_owned(), Value::String(role.into()));
        fields.insert("content".to_owned(), content.into());
        Message(fields)
    }

    /// Creates a message of the user.
    pub fn user(content: impl Into<Value>) -> Message {
        Message::new("user", content)
    }

    /// Creates a system message.
    pub fn system(content: impl Into<Value>) -> Message {
        Message::new("system", content)
    }

    /// Creates a message of the assistant.
    pub fn assistant(content: impl Into<Value>) -> Message {
        Message::new("assistant", content)
    }

    /// Sets any field, such as `tool_calls` or `tool_call_id`.
    #[must_use]
    pub fn with(mut self, field: impl Into<String>, value: impl Into<Value>) -> Message {
        self.0.insert(field.into(), value.into());
        self
    }

    /// Takes a message as a provider gave it.
    pub(crate) fn of(fields: Map<String, Value>) -> Message {
        Message(fields)
    }

    /// Returns the role, empty if there is none.
    pub fn role(&self) -> &str {
        field(&self.0, "role").and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns the text of the content: the string itself, or the text parts joined.
    pub fn text(&self) -> Cow<'_, str> {
        self.0.get("content").map(content_text).unwrap_or_default()
    }

    /// Returns every field.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }
}

/// Returns a field of a message. Most have two or three, among which comparing is faster than hashing.
pub(crate) fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    const FEW: usize = 4;
    match fields.len() {
        ..=FEW => fields.iter().find(|(own, _)| *own == name).map(|(_, value)| value),
        _ => fields.get(name),
    }
}

impl JsonSchema for Message {
    fn schema_name() -> Cow<'static, str> {
        "Message".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "One message: role and content, and any other field of the protocol.",
            "type": "object",
            "properties": {"role": {"type": "string"}, "content": {}},
            "required": ["role"],
        })
    }
}

/// Returns the text of a content: the string itself, or the text parts joined.
pub(crate) fn content_text(content: &Value) -> Cow<'_, str> {
    match content {
        Value::String(text) => Cow::Borrowed(text),
        Value::Array(parts) => Cow::Owned(parts.iter().filter_map(|part| part.get("text")?.as_str()).collect()),
        _ => Cow::Borrowed(""),
    }
}

/// Who else may be given the answer. A part of the scope that is not set matches only where it is not set either.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// The same tenant, user and session.
    Session,
    /// The same tenant and user.
    #[default]
    User,
    /// Everyone of the same tenant.
    Tenant,
    /// Everyone.
    All,
}

impl Share {
    /// Returns the part of `scope` that an answer is kept under.
    pub(crate) fn narrow(self, scope: &Scope) -> Scope {
        let mut kept = Scope::new();
        if self != Share::All {
            kept.tenant.clone_from(&scope.tenant);
        }
        if matches!(self, Share::User | Share::Session) {
            kept.user.clone_from(&scope.user);
        }
        if self == Share::Session {
            kept.session.clone_from(&scope.session);
        }
        kept
    }
}

/// What the cache is used for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheMode {
    /// Looks there first, and keeps the answer.
    #[default]
    Default,
    /// Neither looks nor keeps; the answer is shared with nobody.
    Bypass,
    /// Asks again, and keeps the new answer.
    Refresh,
    /// Looks there, and asks nobody.
    Only,
}

/// A question to a model.
///
/// ```
/// use sophia_core::{Scope, chat::ChatRequest};
///
/// let ada = Scope::new().tenant("acme").user("ada");
/// let request = ChatRequest::new("small").system("Be brief.").user("Hello").scope(&ada).temperature(0.0);
/// assert_eq!(request.messages.len(), 2);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ChatRequest {
    /// A single message of the user; instead of `messages`.
    pub prompt: Option<String>,
    /// The conversation; instead of `prompt`.
    pub messages: Vec<Message>,
    /// Model; the configured default where it is null.
    pub model: Option<String>,
    /// Whose question it is.
    pub scope: Option<Scope>,
    /// Who else may be given the answer. Default user.
    pub share: Share,
    /// What it is about: chooses how long a new answer is kept. Default `"default"`; `"auto"` classifies the last message.
    pub context: Option<String>,
    /// What the cache is used for. Default default.
    pub cache: CacheMode,
    /// How long a new answer is kept, from one second to the configured maximum; by rule where it is null. One that is kept
    /// already stays as long as who asked for it said.
    #[serde(with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub ttl: Option<Duration>,
    /// Time in which it must be answered; the configured default where it is null.
    #[serde(with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub timeout: Option<Duration>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Whether the answer, or the last part of a stream, says what each stage did, and how long it took. Default false.
    pub explain: bool,
    /// Trace that it belongs to (W3C `traceparent`), for OpenTelemetry; null begins one.
    pub traceparent: Option<String>,
    /// Most tokens of the answer.
    pub max_tokens: Option<u64>,
    /// Form of the answer, as the provider takes it.
    pub response_format: Option<Value>,
    /// What is recalled from memory for the question, and whether the exchange is stored. `true` stands for the defaults.
    /// Default none.
    #[serde(deserialize_with = "assist::read_memory")]
    #[schemars(with = "Option<assist::UseMemoryForm>")]
    pub memory: Option<UseMemory>,
    /// Tools that the model may call, as the provider takes them; `"registry"` among them, or in place of them, stands for
    /// all tools of the registry, which are called here.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "Option<ToolsForm>")]
    pub tools: Option<Vec<Value>>,
    /// Names under which a new answer can be invalidated, once it is kept; of those who share a call, the first one's.
    pub tags: Vec<String>,
    /// Any further field of the provider's protocol, passed on verbatim.
    pub provider_fields: Map<String, Value>,
    /// Dialect that it came in: whose own fields and parts it may hold. A provider of another one refuses them by name.
    #[serde(skip)]
    pub dialect: Dialect,
}

impl ChatRequest {
    /// Creates a question to `model`, to which messages are added.
    pub fn new(model: impl Into<String>) -> ChatRequest {
        ChatRequest { model: Some(model.into()), ..ChatRequest::default() }
    }

    /// Adds a message of the user.
    #[must_use]
    pub fn user(self, content: impl Into<Value>) -> ChatRequest {
        self.message(Message::user(content))
    }

    /// Adds a system message.
    #[must_use]
    pub fn system(self, content: impl Into<Value>) -> ChatRequest {
        self.message(Message::system(content))
    }

    /// Adds a message of the assistant.
    #[must_use]
    pub fn assistant(self, content: impl Into<Value>) -> ChatRequest {
        self.message(Message::assistant(content))
    }

    /// Adds a message.
    #[must_use]
    pub fn message(mut self, message: Message) -> ChatRequest {
        self.messages.push(message);
        self
    }

    /// Sets whose question it is.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> ChatRequest {
        self.scope = Some(scope.into());
        self
    }

    /// Sets who else may be given the answer.
    #[must_use]
    pub fn share(mut self, share: Share) -> ChatRequest {
        self.share = share;
        self
    }

    /// Sets what it is about.
    #[must_use]
    pub fn context(mut self, context: impl Into<String>) -> ChatRequest {
        self.context = Some(context.into());
        self
    }

    /// Sets what the cache is used for.
    #[must_use]
    pub fn cache(mut self, mode: CacheMode) -> ChatRequest {
        self.cache = mode;
        self
    }

    /// Sets the trace that it belongs to.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> ChatRequest {
        self.traceparent = Some(traceparent.into());
        self
    }

    /// Sets how long the answer is kept.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> ChatRequest {
        self.ttl = Some(ttl);
        self
    }

    /// Sets the time in which it must be answered.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> ChatRequest {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the sampling temperature.
    #[must_use]
    pub fn temperature(mut self, temperature: f64) -> ChatRequest {
        self.temperature = Some(temperature);
        self
    }

    /// Asks what each stage did, and how long it took.
    #[must_use]
    pub fn explain(mut self) -> ChatRequest {
        self.explain = true;
        self
    }

    /// Sets the most tokens of the answer.
    #[must_use]
    pub fn max_tokens(mut self, max_tokens: u64) -> ChatRequest {
        self.max_tokens = Some(max_tokens);
        self
    }

    /// Sets the tools that the model may call.
    #[must_use]
    pub fn tools(mut self, tools: Vec<Value>) -> ChatRequest {
        self.tools = Some(tools);
        self
    }

    /// Offers the tools of the registry, too, and calls those that the model asks for.
    #[must_use]
    pub fn registry_tools(mut self) -> ChatRequest {
        self.tools.get_or_insert_default().push(Value::from(assist::REGISTRY));
        self
    }

    /// Recalls from memory what may help with the question.
    #[must_use]
    pub fn memory(mut self, memory: UseMemory) -> ChatRequest {
        self.memory = Some(memory);
        self
    }

    /// Adds a name under which the kept answer can be invalidated.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> ChatRequest {
        self.tags.push(tag.into());
        self
    }

    /// Sets any further field of the provider's protocol.
    #[must_use]
    pub fn provider_field(mut self, name: impl Into<String>, value: impl Into<Value>) -> ChatRequest {
        self.provider_fields.insert(name.into(), value.into());
        self
    }

    /// Returns the text of the last message, by which a request is classified.
    pub(crate) fn last_text(&self) -> Cow<'_, str> {
        match &self.prompt {
            Some(prompt) => Cow::Borrowed(prompt),
            None => self.messages.last().map(Message::text).unwrap_or_default(),
        }
    }

    /// Returns about how much text is asked, in bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        let content = |message: &Message| match field(&message.0, "content") {
            Some(Value::String(text)) => text.len(),
            _ => 0,
        };
        self.prompt.as_ref().map_or(0, String::len) + self.messages.iter().map(content).sum::<usize>()
    }

    /// Returns the fields of the body, without the model, in no particular order.
    pub(crate) fn body_fields(&self) -> Vec<(&str, Field<'_>)> {
        let mut fields = Vec::with_capacity(6 + self.provider_fields.len());
        fields.push(match &self.prompt {
            Some(prompt) => ("messages", Field::Prompt(prompt)),
            None => ("messages", Field::Messages(&self.messages)),
        });
        fields.extend(self.temperature.map(|value| ("temperature", Field::Double(value))));
        fields.extend(self.max_tokens.map(|value| ("max_tokens", Field::Integer(value))));
        fields.extend(self.response_format.as_ref().map(|value| ("response_format", Field::Value(value))));
        fields.extend(self.tools.as_ref().map(|tools| ("tools", Field::Tools(tools))));
        for (name, value) in &self.provider_fields {
            let field = match (name.as_str(), value) {
                ("tools", Value::Array(tools)) => Field::Tools(tools),
                _ => Field::Value(value),
            };
            fields.push((name, field));
        }
        fields
    }

    /// Makes the body that the provider gets.
    pub(crate) fn into_body(self, model: &str) -> Map<String, Value> {
        // Those before them, if all are set.
        const TYPED_FIELDS: usize = 6;
        let mut body = Map::with_capacity(TYPED_FIELDS + self.provider_fields.len());
        let mut set = |name: &str, value: Option<Value>| {
            value.into_iter().for_each(|value| drop(body.insert(name.to_owned(), value)));
        };
        let messages = match self.prompt {
            Some(prompt) => vec![Message::user(prompt)],
            None => self.messages,
        };
        set("model", Some(model.into()));
        set("messages", Some(messages.into_iter().map(|message| Value::Object(message.0)).collect()));
        set("temperature", self.temperature.map(Value::from));
        set("max_tokens", self.max_tokens.map(Value::from));
        set("response_format", self.response_format);
        set("tools", self.tools.map(Value::from));
        body.extend(self.provider_fields);
        body
    }

    /// Refuses what cannot be asked.
    pub(crate) fn validate(&self, operation: &'static str) -> Result<()> {
        if let Some(scope) = &self.scope {
            scope.validate(operation)?;
        }
        match (&self.prompt, self.messages.len()) {
            (Some(_), 1..) => return Err(Error::invalid(operation, "prompt", "and `messages` exclude each other")),
            (Some(prompt), _) if prompt.is_empty() => {
                return Err(Error::invalid(operation, "prompt", "must not be empty"));
            }
            (None, 0) if !self.is_said_elsewhere() => {
                return Err(Error::invalid(operation, "messages", "must hold at least one message"));
            }
            (_, count) if count > MAX_MESSAGES => {
                return Err(Error::invalid(operation, "messages", format!("must be at most {MAX_MESSAGES}")));
            }
            _ => {}
        }
        if let Some(index) = self.messages.iter().position(|message| message.role().is_empty()) {
            return Err(Error::invalid(
                operation,
                &format!("messages[{index}].role"),
                "must be a name such as \"user\"",
            ));
        }
        if let Some(memory) = &self.memory {
            memory.validate(operation, self.scope.as_ref())?;
        }
        let mut boxes = assist::names_of_boxes(self.tools.as_deref().unwrap_or_default());
        if let Some((index, name)) = boxes.find(|(_, name)| *name != assist::REGISTRY) {
            let field = format!("tools[{index}]");
            return Err(Error::invalid(operation, &field, format!("`{name}` is not \"registry\", nor a tool")));
        }
        let is_tool = |tool: &Value| tool.is_object() || tool.is_string();
        if let Some(index) = self.tools.iter().flatten().position(|tool| !is_tool(tool)) {
            return Err(Error::invalid(operation, &format!("tools[{index}]"), "must be an object, or \"registry\""));
        }
        if self.response_format.as_ref().is_some_and(|format| !format.is_object()) {
            let message = "must be an object such as {\"type\": \"json_object\"}";
            return Err(Error::invalid(operation, "response_format", message));
        }
        if self.temperature.is_some_and(|value| !value.is_finite() || value < 0.0) {
            return Err(Error::invalid(operation, "temperature", "must be a finite number of at least 0"));
        }
        if self.max_tokens == Some(0) {
            return Err(Error::invalid(operation, "max_tokens", "must be at least 1"));
        }
        // A prompt that a provider of Responses keeps is another thing.
        let is_theirs = |name: &str| name == "prompt" && self.dialect == Dialect::Responses;
        let has_its_own = |name: &&str| self.provider_fields.contains_key(*name) && !is_theirs(name);
        if let Some(name) = TYPED.into_iter().find(has_its_own) {
            return Err(Error::invalid(operation, &format!("provider_fields.{name}"), "has its own argument"));
        }
        let twice = [
            ("temperature", self.temperature.is_some()),
            ("max_tokens", self.max_tokens.is_some()),
            ("response_format", self.response_format.is_some()),
            ("tools", self.tools.is_some()),
        ];
        if let Some((name, _)) = twice.into_iter().find(|(name, set)| *set && self.provider_fields.contains_key(*name))
        {
            return Err(Error::invalid(operation, &format!("provider_fields.{name}"), "is given twice"));
        }
        check_options(operation, self.context.as_deref(), &self.tags, self.timeout)
    }

    /// Returns whether the provider of Responses knows what is said.
    fn is_said_elsewhere(&self) -> bool {
        self.dialect == Dialect::Responses && SAID_ELSEWHERE.iter().any(|name| self.provider_fields.contains_key(*name))
    }

    /// Returns whether memory or tools of this crate are to be used around it.
    pub(crate) fn is_assisted(&self) -> bool {
        self.memory.is_some() || assist::names_of_boxes(self.tools.as_deref().unwrap_or_default()).next().is_some()
    }

    /// Returns why the answer must not be kept or shared, whatever it is.
    pub(crate) fn unstorable(&self) -> Option<&'static str> {
        let fields = &self.provider_fields;
        let set = |name: &str| fields.get(name).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)));
        const EFFECTS: [&str; 10] = [
            "background",
            "container",
            "conversation",
            "logprobs",
            "mcp_servers",
            "previous_response_id",
            // It may run tools, and say something else tomorrow.
            "prompt",
            "store",
            "top_logprobs",
            "web_search_options",
        ];
        for name in EFFECTS {
            if set(name) {
                return Some("the request has effects or needs details that a kept answer lacks");
            }
        }
        if fields.get("n").is_some_and(|n| n.as_f64() != Some(1.0) && !n.is_null()) {
            return Some("more than one answer is asked for");
        }
        let tools = match (&self.tools, fields.get("tools")) {
            (Some(tools), _) | (None, Some(Value::Array(tools))) => tools.as_slice(),
            _ => &[],
        };
        let server_side = |tool: &Value| tool.get("type").is_some_and(|kind| kind != "function" && kind != "custom");
        tools.iter().any(server_side).then_some("a tool runs at the provider")
    }
}

/// What `tools` look like on the wire, for their JSON Schema.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "read by the schema only")]
enum ToolsForm {
    /// `"registry"`.
    Name(String),
    /// Tools, and `"registry"`.
    List(Vec<Value>),
}

/// Reads a list, or a single name in place of it.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Vec<Value>>, D::Error> {
    match Option::<Value>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Value::Array(tools)) => Ok(Some(tools)),
        Some(name @ Value::String(_)) => Ok(Some(vec![name])),
        Some(_) => Err(serde::de::Error::custom("expected a list of tools, or \"registry\"")),
    }
}

/// Refuses options that `complete` and `run` share.
pub(crate) fn check_options(
    operation: &'static str,
    context: Option<&str>,
    tags: &[String],
    timeout: Option<Duration>,
) -> Result<()> {
    if context.is_some_and(|context| !is_label(context)) {
        return Err(Error::invalid(operation, "context", "must be 1 to 256 bytes without control characters"));
    }
    if tags.len() > MAX_TAGS {
        return Err(Error::invalid(operation, "tags", format!("must be at most {MAX_TAGS}")));
    }
    if tags.iter().any(|tag| !is_label(tag)) {
        return Err(Error::invalid(operation, "tags", "must be of 1 to 256 bytes without control characters"));
    }
    if timeout.is_some_and(|timeout| timeout.is_zero() || timeout > MAX_TIMEOUT) {
        return Err(Error::invalid(operation, "timeout", "must be more than 0 and at most one day"));
    }
    Ok(())
}

/// Returns the context that counts: the one that was named, or what `text` is about for `"auto"`.
pub(crate) fn context_of<'a>(context: Option<&'a str>, text: impl FnOnce() -> Cow<'a, str>) -> &'a str {
    match context {
        Some("auto") => super::ttl::classify(&text()),
        Some(context) => context,
        None => DEFAULT_CONTEXT,
    }
}

fn is_label(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_LABEL_BYTES && !text.chars().any(char::is_control)
}

/// One field of a body, borrowed from the request, so that a hit copies nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field<'a> {
    Prompt(&'a str),
    Messages(&'a [Message]),
    Tools(&'a [Value]),
    Value(&'a Value),
    Double(f64),
    Integer(u64),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(request: ChatRequest) -> String {
        let error = request.validate("chat.complete").unwrap_err();
        assert_eq!(error.code(), "INVALID_INPUT");
        error.get("field").unwrap().to_owned()
    }

    #[test]
    fn bad_input_is_refused_with_the_field() {
        let good = || ChatRequest::new("m").user("x");
        assert_eq!(refused(ChatRequest::new("m")), "messages");
        assert_eq!(refused(ChatRequest { prompt: Some(String::new()), ..Default::default() }), "prompt");
        assert_eq!(refused(ChatRequest { prompt: Some("x".into()), ..good() }), "prompt");
        assert_eq!(refused(good().message(Message::new("", "x"))), "messages[1].role");
        assert_eq!(refused(good().temperature(f64::NAN)), "temperature");
        assert_eq!(refused(good().max_tokens(0)), "max_tokens");
        assert_eq!(refused(good().provider_field("stream", true)), "provider_fields.stream");
        assert_eq!(refused(good().temperature(0.0).provider_field("temperature", 1)), "provider_fields.temperature");
        assert_eq!(refused(good().timeout(Duration::ZERO)), "timeout");
        assert_eq!(refused(good().context("")), "context");
        assert_eq!(refused(good().tag("a\0b")), "tags");
        assert_eq!(refused(good().scope(Scope::new().user(""))), "scope.user");
    }

    #[test]
    fn unknown_fields_of_messages_and_body_are_kept_verbatim() {
        let message =
            Message::assistant(Value::Null).with("tool_calls", json!([{"id": "1"}])).with("x", json!({"y": 1}));
        let request = ChatRequest::new("m").user("a").message(message).provider_field("seed", 7);
        let body = Value::Object(request.into_body("m"));
        assert_eq!(
            body,
            json!({"model": "m", "seed": 7, "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": null, "tool_calls": [{"id": "1"}], "x": {"y": 1}},
            ]})
        );
    }

    #[test]
    fn requests_with_effects_or_several_answers_are_not_storable() {
        let field = |name: &str, value: Value| ChatRequest::new("m").user("x").provider_field(name, value).unstorable();
        for (name, value) in [
            ("store", json!(true)),
            ("previous_response_id", json!("r")),
            ("n", json!(2)),
            ("web_search_options", json!({})),
            ("tools", json!([{"type": "web_search"}])),
        ] {
            assert!(field(name, value).is_some(), "{name}");
        }
        for (name, value) in [("store", json!(false)), ("n", json!(1)), ("tools", json!([{"type": "function"}]))] {
            assert!(field(name, value).is_none(), "{name}");
        }
    }
}
