//! OpenAI's chat completions: bodies and stream events, read from a provider and written for a client.

use serde_json::{Map, Value, json};

use crate::{
    Error, Result, Scope,
    chat::{
        ChatChunk, ChatRequest, ChatResponse, EmbedCall, Embeddings, Message, Model,
        request::content_text,
        response::{Answer, Delta, Usage},
    },
};

/// Names under which providers send reasoning.
const REASONING: [&str; 2] = ["reasoning_content", "reasoning"];
/// Last event of a stream.
pub(crate) const DONE: &str = "[DONE]";

// ---- what a provider says ----

/// Reads the body of an answer. `None` if it is none.
pub(crate) fn answer(mut body: Map<String, Value>, provider: &str, model: &str) -> Option<Answer> {
    let choice = body.get_mut("choices")?.as_array_mut()?.first_mut()?.as_object_mut()?;
    let message = match choice.get_mut("message").map(Value::take) {
        Some(Value::Object(message)) => message,
        _ => return None,
    };
    let finish_reason = choice.get("finish_reason").and_then(Value::as_str).map(str::to_owned);
    let named = body.get("model").and_then(Value::as_str).filter(|name| !name.is_empty());
    Some(Answer {
        text: message.get("content").map(|content| content_text(content).into_owned()).unwrap_or_default(),
        tool_calls: message.get("tool_calls").and_then(Value::as_array).cloned().unwrap_or_default(),
        model: named.unwrap_or(model).to_owned(),
        provider: provider.to_owned(),
        usage: body.get("usage").map(usage).unwrap_or_default(),
        cost_usd: None,
        finish_reason,
        message,
        envelope: body,
        deltas: Vec::new(),
        terminated: true,
    })
}

/// Reads token counts.
pub(crate) fn usage(usage: &Value) -> Usage {
    let count = |path: &str| usage.pointer(path).and_then(Value::as_u64);
    Usage {
        prompt_tokens: count("/prompt_tokens"),
        completion_tokens: count("/completion_tokens"),
        cached_tokens: count("/prompt_tokens_details/cached_tokens"),
        cache_write_tokens: count("/prompt_tokens_details/cache_write_tokens"),
        reasoning_tokens: count("/completion_tokens_details/reasoning_tokens"),
    }
}

/// Puts an answer together out of the events of a stream.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    message: Map<String, Value>,
    tool_calls: Vec<Map<String, Value>>,
    deltas: Vec<Delta>,
    envelope: Map<String, Value>,
    usage: Option<Value>,
    finish_reason: Option<String>,
}

impl Assembler {
    /// Takes one event. Returns what is new in it, if anything is; `Err` if it is not of this protocol.
    pub fn push(&mut self, mut event: Map<String, Value>) -> Result<Option<Delta>, ()> {
        if let Some(usage) = event.remove("usage").filter(|usage| !usage.is_null()) {
            self.usage = Some(usage);
        }
        let choices = match event.remove("choices") {
            Some(Value::Array(choices)) => choices,
            None | Some(Value::Null) => Vec::new(),
            Some(_) => return Err(()),
        };
        for (name, value) in event {
            self.envelope.insert(name, value);
        }
        // Only one answer is understood; those who ask for several are neither cached nor assembled.
        let first = choices.into_iter().find(|choice| choice.get("index").and_then(Value::as_u64).unwrap_or(0) == 0);
        let Some(Value::Object(mut choice)) = first else { return Ok(None) };
        if let Some(Value::String(reason)) = choice.remove("finish_reason") {
            self.finish_reason = Some(reason);
        }
        let fields = match choice.remove("delta") {
            Some(Value::Object(fields)) => fields,
            None | Some(Value::Null) => return Ok(None),
            Some(_) => return Err(()),
        };
        Ok(self.take(fields))
    }

    fn take(&mut self, fields: Map<String, Value>) -> Option<Delta> {
        let mut delta = Delta::default();
        for (name, value) in fields {
            match (name.as_str(), value) {
                ("role", value) => {
                    self.message.insert(name, value);
                }
                (_, Value::Null) => {}
                ("content", Value::String(text)) => delta.text = text,
                ("tool_calls", Value::Array(calls)) => {
                    calls.iter().for_each(|call| self.take_tool_call(call));
                    delta.tool_calls = calls;
                }
                (name, Value::String(text)) if REASONING.contains(&name) => {
                    append(&mut self.message, name, &Value::String(text.clone()));
                    // A provider that sends both sends the same in both.
                    delta.reasoning.get_or_insert(text);
                }
                (_, value) => {
                    append(&mut self.message, &name, &value);
                    delta.extra.insert(name, value);
                }
            }
        }
        if !delta.text.is_empty() {
            append(&mut self.message, "content", &Value::String(delta.text.clone()));
        }
        if delta == Delta::default() {
            return None;
        }
        self.deltas.push(delta.clone());
        Some(delta)
    }

    /// Joins the parts of one tool call by its index.
    fn take_tool_call(&mut self, part: &Value) {
        let Some(part) = part.as_object() else { return };
        let index = part.get("index").and_then(Value::as_u64).map(Value::from);
        let known = self.tool_calls.iter().position(|call| index.is_some() && call.get("index") == index.as_ref());
        let call = match known {
            Some(known) => &mut self.tool_calls[known],
            None => {
                self.tool_calls.push(Map::new());
                let last = self.tool_calls.len() - 1;
                &mut self.tool_calls[last]
            }
        };
        for (name, value) in part {
            match (name.as_str(), value) {
                ("function", Value::Object(function)) => {
                    let Value::Object(known) = call.entry("function").or_insert_with(|| json!({})) else { continue };
                    for (name, value) in function {
                        if name == "arguments" {
                            append(known, name, value)
                        } else {
                            known.insert(name.clone(), value.clone());
                        }
                    }
                }
                _ => {
                    call.insert(name.clone(), value.clone());
                }
            }
        }
    }

    /// Returns whether nothing of an answer was heard.
    pub fn is_empty(&self) -> bool {
        self.message.is_empty() && self.tool_calls.is_empty() && self.finish_reason.is_none()
    }

    pub fn finish_reason(&self) -> Option<&str> {
        self.finish_reason.as_deref()
    }

    /// Returns the whole answer; `terminated` says whether the protocol said that it is whole.
    pub fn finish(mut self, provider: &str, model: &str, terminated: bool) -> Answer {
        self.message.entry("role").or_insert_with(|| "assistant".into());
        self.message.entry("content").or_insert(Value::Null);
        let tool_calls: Vec<Value> = self
            .tool_calls
            .into_iter()
            .map(|mut call| {
                call.shift_remove("index");
                Value::Object(call)
            })
            .collect();
        if !tool_calls.is_empty() {
            self.message.insert("tool_calls".to_owned(), Value::Array(tool_calls));
        }
        let mut body = self.envelope;
        body.insert("object".to_owned(), "chat.completion".into());
        let choice = json!({"index": 0, "message": self.message, "finish_reason": self.finish_reason});
        body.insert("choices".to_owned(), Value::Array(vec![choice]));
        if let Some(usage) = self.usage {
            body.insert("usage".to_owned(), usage);
        }
        match answer(body, provider, model) {
            Some(answer) => Answer { deltas: self.deltas, terminated, ..answer },
            // Unreachable: the body above has a choice with a message. An empty answer is not kept.
            None => Answer {
                text: String::new(),
                message: Map::new(),
                model: model.to_owned(),
                provider: provider.to_owned(),
                usage: Usage::default(),
                cost_usd: None,
                finish_reason: None,
                tool_calls: Vec::new(),
                envelope: Map::new(),
                deltas: Vec::new(),
                terminated: false,
            },
        }
    }
}

/// Joins what is sent in parts: strings and arrays grow, anything else is replaced.
fn append(fields: &mut Map<String, Value>, name: &str, value: &Value) {
    match (fields.get_mut(name), value) {
        (Some(Value::String(known)), Value::String(more)) => known.push_str(more),
        (Some(Value::Array(known)), Value::Array(more)) => known.extend(more.iter().cloned()),
        _ => {
            fields.insert(name.to_owned(), value.clone());
        }
    }
}

/// Returns the parts in which an answer is given to someone who asked for a stream.
pub(crate) fn replay(answer: &Answer) -> Vec<Delta> {
    if !answer.deltas.is_empty() {
        return answer.deltas.clone();
    }
    let mut deltas = Vec::new();
    let reasoning = REASONING.iter().find_map(|name| answer.message.get(*name)?.as_str());
    if let Some(reasoning) = reasoning.filter(|text| !text.is_empty()) {
        deltas.push(Delta { reasoning: Some(reasoning.to_owned()), ..Delta::default() });
    }
    let known = ["role", "content", "tool_calls"];
    let extra: Map<_, _> = answer
        .message
        .iter()
        .filter(|(name, value)| {
            !known.contains(&name.as_str()) && !REASONING.contains(&name.as_str()) && !value.is_null()
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !answer.text.is_empty() || !extra.is_empty() {
        deltas.push(Delta { text: answer.text.clone(), extra, ..Delta::default() });
    }
    for (index, call) in answer.tool_calls.iter().enumerate() {
        let mut call = call.clone();
        if let Value::Object(call) = &mut call {
            call.insert("index".to_owned(), index.into());
        }
        deltas.push(Delta { tool_calls: vec![call], ..Delta::default() });
    }
    deltas
}

// ---- what a client of ours says, and hears ----

/// A request of a client that speaks this protocol.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Inbound {
    /// What is asked.
    pub request: ChatRequest,
    /// Whether the client wants a stream.
    pub stream: bool,
    /// Whether the client wants token counts at the end of the stream.
    pub stream_usage: bool,
}

/// Reads the body of a client's request. Fields that are not known here are passed on.
///
/// The scope is the authenticated caller's; nothing in the body can choose it.
///
/// # Errors
/// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput), naming the field.
pub fn read_request(body: Value, scope: &Scope) -> Result<Inbound> {
    const OPERATION: &str = "chat.complete";
    let wrong = |field: &str, message: &str| Err(Error::invalid(OPERATION, field, message));
    let Value::Object(mut fields) = body else { return wrong("body", "must be an object") };
    let mut request = match fields.shift_remove("model") {
        Some(Value::String(model)) => ChatRequest::new(model),
        None | Some(Value::Null) => ChatRequest::default(),
        Some(_) => return wrong("model", "must be a string"),
    };
    let Some(Value::Array(messages)) = fields.shift_remove("messages") else {
        return wrong("messages", "must be a list");
    };
    for message in messages {
        match serde_json::from_value::<Message>(message) {
            Ok(message) => request.messages.push(message),
            Err(_) => return wrong("messages", "must be a list of objects"),
        }
    }
    let stream = match fields.shift_remove("stream") {
        Some(Value::Bool(stream)) => stream,
        None | Some(Value::Null) => false,
        Some(_) => return wrong("stream", "must be true or false"),
    };
    let stream_usage =
        fields.get("stream_options").and_then(|options| options.get("include_usage")) == Some(&Value::Bool(true));
    request.scope = Some(scope.clone());
    request.provider_fields = fields;
    Ok(Inbound { request, stream, stream_usage })
}

/// Returns the provider's whole body, message included, as it came.
pub(crate) fn body_of(answer: &Answer) -> Value {
    let mut body = answer.envelope.clone();
    if let Some(choice) = body.get_mut("choices").and_then(|choices| choices.get_mut(0)).and_then(Value::as_object_mut)
    {
        choice.insert("message".to_owned(), Value::Object(answer.message.clone()));
    }
    Value::Object(body)
}

/// Writes an answer for a client, with every field that the provider gave.
pub fn write_response(response: &ChatResponse) -> Value {
    body_of(&response.answer)
}

/// Writes an error for a client, in the protocol's form. Its HTTP status is that of the kind.
pub fn write_error(error: &Error) -> Value {
    json!({"error": {"message": error.message(), "type": error.code().to_ascii_lowercase(), "code": error.code(), "param": error.get("field")}})
}

/// A request for vectors, of a client that speaks this protocol.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct InboundEmbed {
    /// What is asked.
    pub call: EmbedCall,
    /// Form in which the client wants the vectors.
    pub encoding: Encoding,
}

/// Form of vectors on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Lists of numbers.
    Float,
    /// Base64 of little-endian `f32`, which OpenAI's own clients ask for.
    Base64,
}

/// Reads the body of a client's request for vectors.
///
/// # Errors
/// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput), naming the field.
pub fn read_embed(body: Value) -> Result<InboundEmbed> {
    const OPERATION: &str = "chat.embed";
    let wrong = |field: &str, message: &str| Err(Error::invalid(OPERATION, field, message));
    let Value::Object(mut fields) = body else { return wrong("body", "must be an object") };
    let texts = match fields.shift_remove("input") {
        Some(Value::String(text)) => Some(vec![text]),
        Some(Value::Array(texts)) => {
            texts.into_iter().map(|text| if let Value::String(text) = text { Some(text) } else { None }).collect()
        }
        _ => None,
    };
    let Some(texts) = texts else { return wrong("input", "must be a text or a list of texts") };
    let encoding = match fields.shift_remove("encoding_format").as_ref().and_then(Value::as_str) {
        Some("base64") => Encoding::Base64,
        _ => Encoding::Float,
    };
    let mut call = EmbedCall::new(texts);
    call.model = fields.shift_remove("model").and_then(|model| model.as_str().map(str::to_owned));
    call.provider_fields = fields;
    Ok(InboundEmbed { call, encoding })
}

/// Writes vectors for a client.
pub fn write_embeddings(embeddings: &Embeddings, encoding: Encoding) -> Value {
    let data = embeddings.vectors.iter().enumerate().map(|(index, vector)| {
        let vector = match encoding {
            Encoding::Float => json!(vector),
            Encoding::Base64 => Value::String(base64(&vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())),
        };
        json!({"object": "embedding", "index": index, "embedding": vector})
    });
    let tokens = embeddings.usage.prompt_tokens;
    json!({
        "object": "list", "data": data.collect::<Vec<_>>(), "model": embeddings.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })
}

/// Writes the list of models for a client.
pub fn write_models(models: &[Model]) -> Value {
    let model = |model: &Model| {
        let owner = model.owned_by.as_ref().unwrap_or(&model.provider);
        json!({"id": model.id, "object": "model", "created": 0, "owned_by": owner})
    };
    json!({"object": "list", "data": models.iter().map(model).collect::<Vec<_>>()})
}

/// Writes bytes as text (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..part.len()].copy_from_slice(part);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for digit in 0..4 {
            let used = digit <= part.len();
            text.push(if used { char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]) } else { '=' });
        }
    }
    text
}

/// Writes the events of one stream for a client.
#[derive(Debug)]
pub struct FrameWriter {
    id: String,
    created: i64,
    model: String,
    usage: bool,
    begun: bool,
}

impl FrameWriter {
    /// Begins a stream of `model`; `usage` says whether the client wants token counts.
    pub fn new(model: impl Into<String>, created: crate::Timestamp, usage: bool) -> FrameWriter {
        let id = format!("chatcmpl-{}", uuid::Uuid::now_v7().simple());
        FrameWriter { id, created: created.as_second(), model: model.into(), usage, begun: false }
    }

    /// Writes one chunk as server-sent events; the last one closes the stream with `[DONE]`.
    pub fn chunk(&mut self, chunk: &ChatChunk) -> String {
        let mut delta = chunk.extra.clone();
        if !std::mem::replace(&mut self.begun, true) {
            delta.insert("role".to_owned(), "assistant".into());
        }
        if !chunk.delta.is_empty() {
            delta.insert("content".to_owned(), chunk.delta.clone().into());
        }
        if let Some(reasoning) = &chunk.reasoning {
            delta.insert("reasoning_content".to_owned(), reasoning.clone().into());
        }
        if !chunk.tool_calls.is_empty() {
            delta.insert("tool_calls".to_owned(), chunk.tool_calls.clone().into());
        }
        let choice = json!({"index": 0, "delta": delta, "finish_reason": chunk.finish_reason});
        let mut text = self.event(json!([choice]), None);
        if let Some(answer) = &chunk.answer {
            if self.usage {
                text += &self.event(json!([]), answer.envelope.get("usage"));
            }
            text += "data: [DONE]\n\n";
        }
        text
    }

    /// Writes an error that ends the stream.
    pub fn error(&self, error: &Error) -> String {
        format!("data: {}\n\n", write_error(error))
    }

    fn event(&self, choices: Value, usage: Option<&Value>) -> String {
        let mut event = json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": choices,
        });
        if let (Some(usage), Value::Object(event)) = (usage, &mut event) {
            event.insert("usage".to_owned(), usage.clone());
        }
        format!("data: {event}\n\n")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chat::response::{CacheInfo, CacheStatus};

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn assemble(events: &[Value]) -> (Vec<Delta>, Answer) {
        let mut assembler = Assembler::default();
        let deltas = events.iter().filter_map(|event| assembler.push(object(event.clone())).unwrap()).collect();
        (deltas, assembler.finish("p", "m", true))
    }

    fn choice(delta: Value) -> Value {
        json!({"id": "1", "model": "m-1", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
    }

    #[test]
    fn a_body_becomes_an_answer_and_comes_back_whole() {
        let body = json!({
            "id": "1", "model": "m-1", "system_fingerprint": "x", "new_field": [1],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi", "annotations": []}, "finish_reason": "stop", "x": 1}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}},
        });
        let answer = answer(object(body.clone()), "p", "m").unwrap();
        assert_eq!(
            (answer.text.as_str(), answer.model.as_str(), answer.finish_reason.as_deref()),
            ("Hi", "m-1", Some("stop"))
        );
        assert_eq!((answer.usage.cached_tokens, answer.usage.reasoning_tokens), (Some(2), None));
        assert_eq!(answer.body(), body);
    }

    #[test]
    fn what_is_no_answer_is_not_taken_for_one() {
        for body in
            [json!({}), json!({"choices": []}), json!({"choices": [{}]}), json!({"choices": [{"message": "x"}]})]
        {
            assert!(answer(object(body.clone()), "p", "m").is_none(), "{body}");
        }
    }

    #[test]
    fn parts_of_text_reasoning_and_tool_calls_become_one_message() {
        let (deltas, answer) = assemble(&[
            choice(json!({"role": "assistant", "content": ""})),
            choice(json!({"reasoning_content": "Hm"})),
            choice(json!({"reasoning_content": "m."})),
            choice(json!({"content": "He"})),
            choice(json!({"content": "llo", "new": "a"})),
            choice(
                json!({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]}),
            ),
            choice(json!({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]})),
            choice(json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"x\""}}]})),
            choice(json!({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]})),
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
            json!({"choices": [], "usage": {"prompt_tokens": 1}}),
        ]);
        assert_eq!(deltas.len(), 8);
        assert_eq!(answer.text, "Hello");
        assert_eq!(answer.message["reasoning_content"], "Hmm.");
        assert_eq!(answer.message["new"], "a");
        assert_eq!(answer.finish_reason.as_deref(), Some("tool_calls"));
        assert_eq!(answer.usage.prompt_tokens, Some(1));
        assert_eq!(
            Value::Array(answer.tool_calls.clone()),
            json!([
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
                {"id": "b", "function": {"name": "g", "arguments": "{}"}},
            ])
        );
        assert_eq!(replay(&answer), deltas);
    }

    #[test]
    fn an_answer_that_was_not_streamed_replays_as_a_stream_of_the_same_content() {
        let body = json!({"choices": [{"message": {"role": "assistant", "content": "Hi", "reasoning": "Hm",
            "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]}, "finish_reason": "stop"}]});
        let answer = answer(object(body), "p", "m").unwrap();
        let mut assembler = Assembler::default();
        for delta in replay(&answer) {
            let fields = json!({"content": delta.text, "reasoning": delta.reasoning, "tool_calls": delta.tool_calls});
            assembler.push(object(choice(fields))).unwrap();
        }
        let again = assembler.finish("p", "m", true);
        assert_eq!(
            (&again.text, &again.tool_calls, &again.message["reasoning"]),
            (&answer.text, &answer.tool_calls, &json!("Hm"))
        );
    }

    #[test]
    fn a_clients_request_keeps_its_unknown_fields_and_cannot_choose_its_scope() {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "x", "name": "n"}], "stream": true,
            "stream_options": {"include_usage": true}, "temperature": 1, "scope": {"user": "bob"}, "seed": 7});
        let ada = Scope::new().user("ada");
        let inbound = read_request(body, &ada).unwrap();
        assert!(inbound.stream && inbound.stream_usage);
        assert_eq!(inbound.request.scope, Some(ada));
        assert_eq!(inbound.request.provider_fields["seed"], 7);
        assert_eq!(inbound.request.messages[0].fields()["name"], "n");
        for bad in [json!([]), json!({"messages": "x"}), json!({"messages": [1]}), json!({"messages": [], "stream": 1})]
        {
            assert_eq!(read_request(bad, &Scope::new()).unwrap_err().code(), "INVALID_INPUT");
        }
    }

    #[test]
    fn vectors_are_asked_for_and_given_in_both_forms() {
        let inbound =
            read_embed(json!({"input": "a", "model": "m", "encoding_format": "base64", "dimensions": 2})).unwrap();
        assert_eq!((inbound.encoding, inbound.call.texts.as_slice()), (Encoding::Base64, &["a".to_owned()][..]));
        assert_eq!(inbound.call.provider_fields["dimensions"], 2);
        assert_eq!(read_embed(json!({"input": [1, 2]})).unwrap_err().get("field"), Some("input"));
        let usage = Usage::default();
        let embeddings = Embeddings { vectors: vec![vec![1.0, -2.0]], model: "m".into(), provider: "p".into(), usage };
        let data = |encoding| write_embeddings(&embeddings, encoding)["data"][0]["embedding"].clone();
        assert_eq!((data(Encoding::Float), data(Encoding::Base64)), (json!([1.0, -2.0]), json!("AACAPwAAAMA=")));
        // RFC 4648, section 10.
        let text = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|bytes| base64(bytes.as_bytes()));
        assert_eq!(text, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
    }

    #[test]
    fn a_stream_is_written_as_events_that_assemble_to_the_same_answer() {
        let (deltas, answer) = assemble(&[
            choice(json!({"content": "He"})),
            choice(json!({"content": "llo"})),
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}),
        ]);
        let mut writer = FrameWriter::new("m", crate::Timestamp::UNIX_EPOCH, true);
        let mut text: String = deltas.into_iter().map(|delta| writer.chunk(&ChatChunk::of(delta))).collect();
        text += &writer.chunk(&ChatChunk::end(Arc::new(answer.clone()), CacheInfo::new(CacheStatus::Miss)));
        let mut events = Vec::new();
        crate::chat::sse::SseParser::new(1 << 20).push(text.as_bytes(), &mut events).unwrap();
        assert_eq!(events.pop().as_deref(), Some(DONE));
        let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        let (_, again) = assemble(&events);
        assert_eq!((again.text, again.finish_reason, again.usage), (answer.text, answer.finish_reason, answer.usage));
    }
}
