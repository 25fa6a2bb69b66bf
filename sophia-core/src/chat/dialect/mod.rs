//! Protocols, in both directions: what a provider says becomes an [`Answer`], and what a client of ours says becomes a
//! [`ChatRequest`](super::ChatRequest).
//!
//! | to | open |
//! |---|---|
//! | OpenAI's chat completions, which the engine's own form is | [`openai`] |
//! | OpenAI's Responses | [`responses`] |
//! | Anthropic's Messages | [`anthropic`] |
//!
//! A request in another dialect is brought into the form of chat completions. What has a counterpart there is translated;
//! what has none keeps its own name and form, as a field, as a part of a content, or beside it (`content_blocks`,
//! `output_items`, `input_items`). So it comes back whole to a provider of the dialect it came from, and a provider of
//! another one refuses it by name. An answer keeps the provider's own body, and a part of a stream its own event
//! (`NATIVE`), where the common form is not all of it.
//!
//! Some things are hints that no answer depends on, and are dropped where the other protocol lacks them: markers and keys of
//! prompt caches, how finely a tool's input is streamed, the flag that a tool failed, since the tool's text says it, and
//! reasoning of another provider, which the newer protocols take only as they have signed it.

pub mod anthropic;
pub(crate) mod asker;
mod calls;
mod envelope;
#[cfg(test)]
mod fuzz;
#[cfg_attr(not(feature = "http-server"), allow(dead_code, reason = "only the HTTP surface reads bodies as text"))]
pub(crate) mod integers;
#[cfg_attr(
    not(feature = "http-server"),
    allow(dead_code, reason = "only the HTTP surface tells clients of their fields")
)]
mod names;
pub mod openai;
pub mod responses;

use std::{borrow::Cow, collections::HashSet, fmt::Display};

use serde_json::{Map, Value, json};

pub(crate) use self::{
    envelope::Envelope,
    names::{Names, PREVIOUS},
};
use super::response::{Answer, Delta};
use crate::{Error, ErrorKind, Result};

/// Field of a delta that holds the provider's own event.
pub(crate) const NATIVE: &str = "native_event";
/// Field of a delta that holds what the provider's events of chat completions say beside their choices, where it is new.
pub(crate) const ENVELOPE: &str = "native_envelope";
/// Field of a delta that holds what the provider calls its reasoning, where that is new.
pub(crate) const REASONING_NAME: &str = "native_reasoning";
/// Field of a delta that holds the token counts so far, where the request asks for them with each.
pub(crate) const USAGE: &str = "native_usage";
/// Field of an assistant's message that holds its blocks as Anthropic gave them.
pub(crate) const CONTENT_BLOCKS: &str = "content_blocks";
/// Field of an assistant's message that holds its items as OpenAI's Responses gave them.
pub(crate) const OUTPUT_ITEMS: &str = "output_items";
/// Field of a message that holds other items of OpenAI's Responses.
pub(crate) const INPUT_ITEMS: &str = "input_items";

/// Hints of Anthropic's tools that no answer depends on: where its cache ends, and how finely input is streamed.
pub(crate) const TOOL_HINTS: [&str; 2] = ["cache_control", "eager_input_streaming"];

/// Fields of OpenAI's Responses that name what is said: beside an input, or in place of one.
pub(crate) const SAID_ELSEWHERE: [&str; 3] = ["conversation", PREVIOUS, "prompt"];

/// A protocol between a client and a server of models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// OpenAI's chat completions.
    #[default]
    Chat,
    /// Anthropic's Messages.
    Messages,
    /// OpenAI's Responses.
    Responses,
}

impl Dialect {
    /// Returns the dialect that a provider's body is in, by its `type` and `object`.
    fn of(kind: Option<&Value>, object: Option<&Value>) -> Dialect {
        if kind.and_then(Value::as_str) == Some("message") {
            Dialect::Messages
        } else if object.and_then(Value::as_str) == Some("response") {
            Dialect::Responses
        } else {
            Dialect::Chat
        }
    }

    /// Returns its name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Dialect::Chat => "OpenAI's chat completions",
            Dialect::Messages => "Anthropic's Messages",
            Dialect::Responses => "OpenAI's Responses",
        }
    }
}

/// Whom a request is translated for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub operation: &'static str,
    pub provider: &'a str,
    pub dialect: Dialect,
}

impl Target<'_> {
    /// Says that a field has no counterpart.
    pub fn refuse(&self, field: impl Display) -> Error {
        let (title, provider) = (self.dialect.title(), self.provider);
        let message = format!("`{field}` has no counterpart in {title}, which provider `{provider}` speaks");
        Error::new(ErrorKind::Unsupported, self.operation, message).with("field", field).with("provider", provider)
    }
}

/// Returns the provider's whole body, as it came.
///
/// # Errors
/// [`ErrorKind::Unavailable`] where it cannot be read again.
pub(crate) fn body_of(answer: &Answer) -> Result<Value> {
    match answer.envelope.dialect() {
        Dialect::Chat => openai::body_of(answer),
        Dialect::Messages | Dialect::Responses => Ok(Value::Object(fields_of(answer)?.into_owned())),
    }
}

/// Returns the fields of the provider's body.
fn fields_of(answer: &Answer) -> Result<Cow<'_, Map<String, Value>>> {
    answer.envelope.read_fields().map_err(|error| {
        let message = format!("provider `{}` answered with garbage: it cannot be read again", answer.provider);
        Error::new(ErrorKind::Unavailable, "chat.complete", message)
            .with("provider", &answer.provider)
            .with_source(error)
    })
}

/// Returns the parts in which an answer is given to someone who asked for a stream.
pub(crate) fn replay(answer: &Answer) -> Vec<Delta> {
    if !answer.deltas.is_empty() {
        return answer.deltas.clone();
    }
    match answer.envelope.dialect() {
        Dialect::Chat => openai::replay(answer),
        Dialect::Messages => anthropic::replay(answer),
        Dialect::Responses => responses::replay(answer),
    }
}

/// Returns the provider's own event where a delta carries one.
pub(crate) fn native(extra: &Map<String, Value>) -> Option<&Map<String, Value>> {
    extra.get(NATIVE)?.as_object()
}

/// Returns the model that a provider's event names, where a delta holds it.
pub(crate) fn named_model(extra: &Map<String, Value>) -> Option<&str> {
    let begun = || ["message", "response"].iter().find_map(|begun| native(extra)?.get(*begun));
    extra.get(ENVELOPE).or_else(begun)?.get("model")?.as_str()
}

/// Returns a delta that carries the provider's own event.
pub(crate) fn carry(mut delta: Delta, event: Map<String, Value>) -> Delta {
    delta.extra.insert(NATIVE.to_owned(), Value::Object(event));
    delta
}

/// Returns a part of a call of a tool, in the common form.
pub(crate) fn tool_part(index: usize, start: Option<(&Value, &Value)>, arguments: &str) -> Value {
    match start {
        Some((id, name)) => {
            json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
        }
        None => json!({"index": index, "function": {"arguments": arguments}}),
    }
}

/// Returns whether a request of Responses wants nothing more than to send reasoning back sealed, which is for the next turn.
pub(crate) fn asks_for_sealed_reasoning(include: &Value) -> bool {
    include.as_array().is_some_and(|more| more.iter().all(|name| name == "reasoning.encrypted_content"))
}

/// Returns whether the common form beside them says all that counts in items of Responses.
pub(crate) fn is_said_beside(items: &Value) -> bool {
    items.as_array().map_or_else(|| is_unset(items), |items| items.iter().all(is_item_said_beside))
}

/// Returns whether the common form says all that counts in an item of Responses: reasoning that nobody has signed, texts, calls
/// and results.
pub(crate) fn is_item_said_beside(item: &Value) -> bool {
    const KINDS: [&str; 4] = ["message", "function_call", "function_call_output", "reasoning"];
    const FIELDS: [&str; 12] = [
        "type",
        "id",
        "status",
        "role",
        "content",
        "phase",
        "call_id",
        "name",
        "arguments",
        "output",
        "summary",
        "encrypted_content",
    ];
    let Some(item) = item.as_object() else { return true };
    let is_known = item.get("type").is_none_or(|kind| KINDS.iter().any(|known| kind == known));
    let is_sealed = item.get("encrypted_content").is_some_and(|sealed| !sealed.is_null());
    let says_more = |(name, value): (&String, &Value)| !FIELDS.contains(&name.as_str()) && !is_unset(value);
    is_known && !is_sealed && !item.iter().any(says_more)
}

/// Returns the code of an error for a client of another protocol: what its provider has named it.
pub(crate) fn code_of(error: &Error) -> &str {
    error.get("provider_code").unwrap_or(error.code())
}

/// Returns the field at fault for a client of another protocol: ours, or what its provider has named.
pub(crate) fn param_of(error: &Error) -> Option<&str> {
    error.get("field").or_else(|| error.get("provider_param"))
}

/// Writes one event with its name, as both newer protocols do.
pub(crate) fn frame(event: &Value) -> String {
    let name = event.get("type").and_then(Value::as_str).unwrap_or("message");
    format!("event: {name}\ndata: {event}\n\n")
}

/// Returns an identifier of ours.
pub(crate) fn fresh_id(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::now_v7().simple())
}

/// Returns whether an identifier is one of ours, which no provider knows.
pub(crate) fn is_fresh_id(id: &str) -> bool {
    let Some((_, own)) = id.rsplit_once('_') else { return false };
    own.len() == 32 && uuid::Uuid::try_parse(own).is_ok_and(|own| own.get_version_num() == 7)
}

/// Gives each call of a tool an identifier of its own where the provider gave none, or the same one twice.
pub(crate) fn name_calls<'a>(calls: impl Iterator<Item = &'a mut Map<String, Value>>, prefix: &str) {
    let mut known = HashSet::new();
    for call in calls {
        let is_its_own = name_of(call).is_some_and(|id| known.insert(id.to_owned()));
        if !is_its_own {
            call.insert("id".to_owned(), fresh_id(prefix).into());
        }
    }
}

/// Returns what names a call, if anything does.
pub(crate) fn name_of(call: &Map<String, Value>) -> Option<&str> {
    call.get("id")?.as_str().filter(|id| !id.is_empty())
}

/// Returns whether a field says nothing: most clients write out what they do not set.
pub(crate) fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Returns whether a part of a content is text and nothing else.
pub(crate) fn is_plain_text(part: &Value) -> bool {
    part.as_object().is_some_and(|part| {
        part.len() == 2 && part.get("type").is_some_and(|kind| kind == "text") && part.get("text").is_some()
    })
}

/// Returns the only text of a content that is one plain text part, which is the same as that text.
pub(crate) fn collapse(mut parts: Vec<Value>) -> Value {
    match parts.as_mut_slice() {
        [only] if is_plain_text(only) => only["text"].take(),
        _ => Value::Array(parts),
    }
}
