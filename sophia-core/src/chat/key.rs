//! The key of a question: what must be equal for one answer to serve both.
//!
//! BLAKE3-256 over version ‖ scope as far as it is shared ‖ providers ‖ model ‖ canonical JSON of the whole body minus a
//! short list. The dialect is not in it: an answer serves all of them. A refusal does not, nor is a call under way joined. Listing
//! what to leave out is safe where listing what to include is not: a new field of a provider makes another key instead of a wrong
//! answer.

use std::{fmt, str::FromStr, sync::Arc};

use serde_json::{Map, Value};

use super::{
    canonical::{Canonical, by_utf16},
    dialect::{TOOL_HINTS, asker},
    request::{ChatRequest, Field, Share, field},
    semantic::is_instruction,
};
use crate::{Error, Result, Scope};

/// Changes whenever the meaning of a key changes.
const VERSION: &[u8] = b"sophia-chat-v1";

/// Fields of a body that do not change what the answer says, beside those that say who asks ([`asker::NAMES`]).
const HINTS: [&str; 4] = ["cache_control", "stream", "stream_options", "timeout"];
/// Marker of a message or a part for the provider's own cache.
const MARKER: [&str; 1] = ["cache_control"];

/// Identity of a question.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

impl Key {
    pub fn to_hex(self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// Returns its hexadecimal form, to be shared.
    pub fn hex(self) -> Arc<str> {
        blake3::Hash::from_bytes(self.0).to_hex().as_str().into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl FromStr for Key {
    type Err = ();

    fn from_str(hex: &str) -> Result<Key, ()> {
        blake3::Hash::from_hex(hex).map(|hash| Key(*hash.as_bytes())).map_err(|_| ())
    }
}

/// What a key is made of.
#[derive(Debug)]
pub(crate) struct KeyText(Vec<u8>);

impl KeyText {
    pub fn key(&self) -> Key {
        hash(&self.0)
    }
}

/// Returns what the key of a request is made of that goes to `model` of the providers with this fingerprint.
///
/// # Errors
/// InvalidInput for what is too long, or nested too deep.
pub(crate) fn of_request(
    operation: &'static str,
    request: &ChatRequest,
    model: &str,
    providers: &[u8; 32],
    max_bytes: usize,
) -> Result<KeyText> {
    // Once, instead of growing to a long conversation step by step.
    let mut text = Vec::with_capacity(512 + request.text_bytes().min(max_bytes));
    prelude(&mut text, b"chat", request.scope.as_ref(), request.share);
    text.extend_from_slice(providers);
    part(&mut text, Some(model));
    write_fields(operation, request.body_fields(), &mut text)?;
    if text.len() > max_bytes {
        return Err(Error::invalid(
            operation,
            "messages",
            format!("and the other fields must be at most {max_bytes} bytes"),
        ));
    }
    Ok(KeyText(text))
}

/// Returns an identity of all that must be equal for two questions to be compared: everything but what was said.
pub(crate) fn of_wall(
    operation: &'static str,
    request: &ChatRequest,
    model: &str,
    providers: &[u8; 32],
) -> Result<Key> {
    let mut text = Vec::with_capacity(512);
    prelude(&mut text, b"wall", request.scope.as_ref(), request.share);
    text.extend_from_slice(providers);
    part(&mut text, Some(model));
    let mut fields = request.body_fields();
    fields.retain(|(name, _)| *name != "messages");
    write_fields(operation, fields, &mut text)?;
    let instructions: Vec<_> = request.messages.iter().filter(|message| is_instruction(message)).collect();
    Canonical::new(operation, &mut text).array(&instructions, |json, message| unmarked(json, message.fields()))?;
    Ok(hash(&text))
}

/// Returns the key of a message that a producer answers.
pub(crate) fn of_run(message: &str, context: &str, scope: Option<&Scope>, share: Share) -> Key {
    let mut text = Vec::with_capacity(128 + message.len());
    prelude(&mut text, b"run", scope, share);
    part(&mut text, Some(context));
    part(&mut text, Some(message));
    hash(&text)
}

/// Returns an identity of a provider that changes when another server or another account would answer.
pub(crate) fn of_provider(kind: &str, base_url: &str, api_key: Option<&str>, headers: &[(&str, &str)]) -> [u8; 32] {
    let mut text = Vec::new();
    part(&mut text, Some(kind));
    part(&mut text, Some(base_url));
    // Keyed, so that not even the hash of a credential is of use elsewhere.
    let credential = |secret: &str| blake3::derive_key("sophia chat 2026 credential identity", secret.as_bytes());
    text.extend_from_slice(&api_key.map(credential).unwrap_or_default());
    for (name, value) in headers {
        part(&mut text, Some(name));
        text.extend_from_slice(&credential(value));
    }
    *blake3::hash(&text).as_bytes()
}

fn hash(text: &[u8]) -> Key {
    Key(*blake3::hash(text).as_bytes())
}

fn prelude(text: &mut Vec<u8>, area: &[u8], scope: Option<&Scope>, share: Share) {
    text.extend_from_slice(VERSION);
    text.extend_from_slice(area);
    text.push(share as u8);
    let unset = Scope::new();
    let scope = scope.unwrap_or(&unset);
    if share != Share::All {
        part(text, scope.tenant.as_deref());
    }
    if matches!(share, Share::User | Share::Session) {
        part(text, scope.user.as_deref());
    }
    if share == Share::Session {
        part(text, scope.session.as_deref());
    }
}

/// Writes one part with its length, so that no choice of names can imitate another; unset differs from every name.
fn part(text: &mut Vec<u8>, part: Option<&str>) {
    match part {
        Some(part) => {
            text.push(1);
            text.extend_from_slice(&(part.len() as u64).to_le_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        None => text.push(0),
    }
}

fn write_fields(operation: &'static str, mut fields: Vec<(&str, Field<'_>)>, text: &mut Vec<u8>) -> Result<()> {
    fields.retain(|(name, _)| !HINTS.contains(name) && !asker::NAMES.contains(name));
    // Two names of one bound, by protocol. What it cuts is never kept.
    if !fields.iter().any(|(name, _)| *name == "max_tokens") {
        fields
            .iter_mut()
            .filter(|(name, _)| *name == "max_completion_tokens")
            .for_each(|(name, _)| *name = "max_tokens");
    }
    fields.sort_unstable_by(|a, b| by_utf16(a.0, b.0));
    let mut json = Canonical::new(operation, text);
    json.out.push(b'{');
    for (name, field) in fields {
        json.string(name);
        json.out.push(b':');
        match field {
            Field::Prompt(prompt) => {
                json.out.extend_from_slice(b"[{\"content\":");
                json.string(prompt);
                json.out.extend_from_slice(b",\"role\":\"user\"}]");
            }
            Field::Messages(messages) => json.array(messages, |json, message| unmarked(json, message.fields()))?,
            Field::Tools(tools) => json.array(tools, |json, tool| match tool {
                Value::Object(tool) => json.object(tool, &TOOL_HINTS, 2),
                tool => json.value(tool, 2),
            })?,
            Field::Value(value) => json.value(value, 1)?,
            Field::Double(value) => json.double(value),
            Field::Integer(value) => json.number(&value.into()),
        }
        // Between fields and after the last: only uniqueness counts here.
        json.out.push(b',');
    }
    json.out.push(b'}');
    Ok(())
}

/// Writes a message without the markers of the message and of its parts.
fn unmarked(json: &mut Canonical<'_>, message: &Map<String, Value>) -> Result<()> {
    match field(message, "content") {
        Some(Value::Array(parts)) => {
            json.array(parts, |json, part| match part {
                Value::Object(part) => json.object(part, &MARKER, 4),
                part => json.value(part, 4),
            })?;
            json.object(message, &["cache_control", "content"], 2)
        }
        _ => json.object(message, &MARKER, 2),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::chat::Message;

    const PROVIDERS: [u8; 32] = [7; 32];

    fn key(request: &ChatRequest) -> Key {
        of_request("test", request, request.model.as_deref().unwrap(), &PROVIDERS, 1 << 20).unwrap().key()
    }

    fn ask() -> ChatRequest {
        ChatRequest::new("m").user("Hello")
    }

    fn from_json(text: &str) -> ChatRequest {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn key_order_number_form_and_prompt_or_messages_do_not_matter() {
        let a = from_json(
            r#"{"model":"m","messages":[{"role":"user","content":"Hello"}],"provider_fields":{"a":1,"b":{"x":1,"y":[1,2]}}}"#,
        );
        let b = from_json(r#"{"prompt":"Hello","provider_fields":{"b":{"y":[1.0,2],"x":1e0},"a":1.0},"model":"m"}"#);
        assert_eq!(key(&a), key(&b));
        assert_eq!(key(&ask().temperature(1.0)), key(&ask().provider_field("temperature", 1)));
    }

    #[test]
    fn strings_and_array_order_matter_byte_for_byte() {
        let keys: Vec<_> = ["Hello", "hello", " Hello", "Hello ", "Hello\n", "He\u{301}llo", "H\u{e9}llo", "Hello?"]
            .map(|text| key(&ChatRequest::new("m").user(text)))
            .to_vec();
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        let stop = |list: Value| key(&ask().provider_field("stop", list));
        assert_ne!(stop(json!(["a", "b"])), stop(json!(["b", "a"])));
        assert_ne!(stop(json!("1")), stop(json!(1)));
    }

    #[test]
    fn every_field_matters_that_is_not_on_the_short_list() {
        let plain = key(&ask());
        for (name, value) in [
            ("seed", json!(1)),
            ("reasoning_effort", json!("low")),
            ("some_new_field", json!(null)),
            ("top_p", json!(0.5)),
        ] {
            assert_ne!(key(&ask().provider_field(name, value)), plain, "{name}");
        }
        for name in asker::NAMES.into_iter().chain(["stream_options"]) {
            assert_eq!(key(&ask().provider_field(name, json!({"a": 1}))), plain, "{name}");
        }
        let bound = |name: &str, most: u64| key(&ask().provider_field(name, most));
        assert_eq!(bound("max_tokens", 5), bound("max_completion_tokens", 5));
        assert_ne!(bound("max_tokens", 5), bound("max_completion_tokens", 6));
        let both = |a: u64, b: u64| key(&ask().max_tokens(a).provider_field("max_completion_tokens", b));
        assert_ne!(both(5, 6), both(6, 5));
        let model = ChatRequest { model: Some("other".into()), ..ask() };
        assert_ne!(key(&model), plain);
        assert_ne!(key(&ask().system("x")), plain);
        assert_ne!(of_request("test", &ask(), "m", &[8; 32], 1 << 20).unwrap().key(), plain);
    }

    #[test]
    fn cache_markers_are_left_out_where_they_are_markers_only() {
        let marker = json!({"type": "ephemeral"});
        let message = Message::user("Hello").with("cache_control", marker.clone());
        assert_eq!(key(&ChatRequest::new("m").message(message)), key(&ask()));
        let parts = |part: Value| key(&ChatRequest::new("m").user(json!([part])));
        assert_eq!(
            parts(json!({"type": "text", "text": "x", "cache_control": marker})),
            parts(json!({"type": "text", "text": "x"}))
        );
        let tool = |parameters: Value| key(&ask().tools(vec![json!({"type": "function", "parameters": parameters})]));
        assert_ne!(tool(json!({"cache_control": marker})), tool(json!({})));
    }

    #[test]
    fn scopes_share_only_as_far_as_they_say_and_unset_matches_only_unset() {
        let ada = Scope::new().tenant("acme").user("ada").session("1");
        let bob = Scope::new().tenant("acme").user("bob").session("1");
        let key = |scope: &Scope, share| key(&ask().scope(scope).share(share));
        assert_ne!(key(&ada, Share::User), key(&bob, Share::User));
        assert_eq!(key(&ada, Share::Tenant), key(&bob, Share::Tenant));
        assert_eq!(key(&ada, Share::User), key(&ada.clone().session("2"), Share::User));
        assert_ne!(key(&ada, Share::Session), key(&ada.clone().session("2"), Share::Session));
        assert_ne!(key(&ada, Share::Tenant), key(&Scope::new().tenant("evil").user("ada"), Share::Tenant));
        assert_eq!(key(&ada, Share::All), key(&Scope::new(), Share::All));
        let tenant = Scope::new().tenant("acme");
        for share in [Share::User, Share::Session] {
            assert_ne!(key(&tenant, share), key(&ada, share));
            assert_ne!(key(&tenant, share), key(&tenant, Share::Tenant));
        }
        assert_ne!(key(&Scope::new(), Share::User), key(&Scope::new(), Share::All));
        assert_ne!(
            key(&Scope::new().tenant("a").user("b"), Share::User),
            key(&Scope::new().tenant("b").user("a"), Share::User)
        );
    }

    #[test]
    fn another_account_is_another_provider_and_no_secret_is_in_the_identity() {
        let id = |key| of_provider("openai", "http://x", key, &[]);
        assert_ne!(id(Some("k1")), id(Some("k2")));
        assert_ne!(id(Some("k1")), id(None));
        assert_ne!(of_provider("openai", "http://y", None, &[]), id(None));
        assert_ne!(of_provider("openai", "http://x", None, &[("org", "a")]), id(None));
    }

    #[test]
    fn a_key_reads_back_from_its_hexadecimal_form() {
        let key = key(&ask());
        assert_eq!(key.to_hex().parse(), Ok(key));
        assert!("xyz".parse::<Key>().is_err());
    }

    #[test]
    fn run_and_chat_never_meet() {
        let run = of_run("Hello", "default", None, Share::User);
        assert_ne!(run, key(&ask()));
        assert_ne!(run, of_run("Hello", "infrastructure", None, Share::User));
        assert_ne!(run, of_run("hello", "default", None, Share::User));
    }

    #[test]
    fn a_request_that_is_too_large_is_refused() {
        let error =
            of_request("test", &ChatRequest::new("m").user("x".repeat(2000)), "m", &PROVIDERS, 1000).unwrap_err();
        assert_eq!(error.code(), "INVALID_INPUT");
    }
}
