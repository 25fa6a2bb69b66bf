//! What a client of ours says, and hears.

use serde_json::{Map, Value, json};

use super::{
    answer::{REASONING, beside_choices, number_of},
    body_of,
};
use crate::{
    Error, Result, Scope, Timestamp,
    chat::{
        ChatChunk, ChatRequest, ChatResponse, EmbedCall, Embeddings, Message, Model,
        dialect::{
            CONTENT_BLOCKS, Dialect, ENVELOPE, NATIVE, Names, OUTPUT_ITEMS, REASONING_NAME, USAGE, asker, code_of,
            fresh_id, named_model, native, param_of,
        },
        response::{Answer, Usage},
    },
};

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
    /// What an answer may repeat of the request.
    pub repeated: Map<String, Value>,
    /// What the client calls that which it said.
    #[cfg_attr(
        not(feature = "http-server"),
        allow(dead_code, reason = "only the HTTP surface tells clients of their fields")
    )]
    pub(crate) names: Names,
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
    for (index, message) in messages.into_iter().enumerate() {
        match serde_json::from_value::<Message>(message) {
            Ok(message) => request.messages.push(message),
            Err(_) => return wrong(&format!("messages[{index}]"), "must be an object with a role and a content"),
        }
    }
    if fields.contains_key("prompt") {
        return wrong("prompt", "is no field of chat completions: say it in `messages`");
    }
    let stream = match fields.shift_remove("stream") {
        Some(Value::Bool(stream)) => stream,
        None | Some(Value::Null) => false,
        Some(_) => return wrong("stream", "must be true or false"),
    };
    let stream_usage =
        fields.get("stream_options").and_then(|options| options.get("include_usage")) == Some(&Value::Bool(true));
    let repeated = asker::of(&fields);
    request.scope = Some(scope.clone());
    request.provider_fields = fields;
    Ok(Inbound { request, stream, stream_usage, repeated, names: Names::default() })
}

/// Writes an answer for a client: the provider's own body, or what it amounts to in this protocol. `repeated` is what the
/// request said.
///
/// # Errors
/// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) where the provider's body cannot be read again.
pub fn write_response(response: &ChatResponse, repeated: &Map<String, Value>, now: Timestamp) -> Result<Value> {
    let answer = &response.answer;
    if answer.envelope.dialect() == Dialect::Chat {
        let mut body = body_of(answer)?;
        if let Value::Object(fields) = &mut body {
            asker::put_in(fields, repeated);
        }
        return Ok(body);
    }
    let choice = json!({
        "index": 0, "message": answer.message, "finish_reason": answer.finish_reason, "logprobs": null,
    });
    let fields = answer.envelope.fields();
    let id = fields.get("id").cloned().unwrap_or_else(|| fresh_id("chatcmpl").into());
    let created = fields.get("created_at").cloned().unwrap_or_else(|| now.as_second().into());
    let mut body = json!({
        "id": id, "object": "chat.completion", "created": created, "model": answer.model, "choices": [choice],
    });
    if let Some(usage) = counts(&answer.usage) {
        body["usage"] = usage;
    }
    Ok(body)
}

/// Writes token counts, where they are known.
fn counts(usage: &Usage) -> Option<Value> {
    let (prompt, completion) = (usage.prompt_tokens?, usage.completion_tokens?);
    let mut counts =
        json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion});
    if let Some(cached) = usage.cached_tokens {
        counts["prompt_tokens_details"] = json!({"cached_tokens": cached});
    }
    if let Some(reasoning) = usage.reasoning_tokens {
        counts["completion_tokens_details"] = json!({"reasoning_tokens": reasoning});
    }
    Some(counts)
}

/// Writes an error for a client, in the protocol's form. Its HTTP status is that of the kind.
pub fn write_error(error: &Error) -> Value {
    let kind = error.get("provider_type").map_or_else(|| error.code().to_ascii_lowercase(), str::to_owned);
    json!({"error": {"message": error.message(), "type": kind, "code": code_of(error), "param": param_of(error)}})
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

/// Reads the body of a client's request for vectors, asked in `scope`.
///
/// # Errors
/// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput), naming the field.
pub fn read_embed(body: Value, scope: &Scope) -> Result<InboundEmbed> {
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
    let Some(texts) = texts else {
        return wrong(
            "input",
            "must be a text or a list of texts; lists of tokens are not taken: send the text itself",
        );
    };
    let encoding = match fields.shift_remove("encoding_format") {
        None | Some(Value::Null) => Encoding::Float,
        Some(form) if form == "float" => Encoding::Float,
        Some(form) if form == "base64" => Encoding::Base64,
        Some(_) => return wrong("encoding_format", "must be \"float\" or \"base64\""),
    };
    let mut call = EmbedCall::new(texts).scope(scope);
    call.model = match fields.shift_remove("model") {
        Some(Value::String(model)) => Some(model),
        None | Some(Value::Null) => None,
        Some(_) => return wrong("model", "must be a string"),
    };
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
    let data: Vec<_> = models.iter().map(write_model).collect();
    let id = |model: Option<&Model>| model.map(|model| model.id.clone());
    json!({
        "object": "list", "data": data,
        "has_more": false, "first_id": id(models.first()), "last_id": id(models.last()),
    })
}

/// Writes one model, in the form of OpenAI's clients and of Anthropic's.
///
/// Both protocols want to know when it was made; Anthropic's names the epoch where that is not known.
pub fn write_model(model: &Model) -> Value {
    let owner = model.owned_by.as_ref().unwrap_or(&model.provider);
    let created = model.created.and_then(|second| Timestamp::from_second(second).ok()).unwrap_or(Timestamp::UNIX_EPOCH);
    json!({
        "id": model.id, "object": "model", "created": created.as_second(), "owned_by": owner,
        "type": "model", "display_name": model.id, "created_at": created.to_string(),
    })
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

/// Returns whether a part is nothing but another protocol's event.
fn says_nothing(chunk: &ChatChunk, extra: &Map<String, Value>) -> bool {
    chunk.answer.is_none()
        && chunk.delta.is_empty()
        && chunk.reasoning.is_none()
        && chunk.tool_calls.is_empty()
        && extra.is_empty()
}

/// Returns what a client has to send back as it is, so that the provider knows its own words again.
fn own_blocks(answer: &Answer) -> Map<String, Value> {
    let kept = answer.message.iter().filter(|(name, _)| [CONTENT_BLOCKS, OUTPUT_ITEMS].contains(&name.as_str()));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Writes the events of one stream for a client.
#[derive(Debug)]
pub struct FrameWriter {
    /// What each event says beside its choices: the provider's own words, once they are known.
    envelope: Map<String, Value>,
    /// What the request says of who asks.
    asker: Map<String, Value>,
    /// What the provider calls its reasoning.
    reasoning: String,
    usage: bool,
    begun: bool,
    /// Why the answer ends, where an event of the provider's own has said it.
    finish_reason: Option<String>,
}

impl FrameWriter {
    /// Begins a stream of `model`; `repeated` is what the request said, `usage` whether the client wants token counts.
    pub fn new(
        model: impl Into<String>,
        repeated: &Map<String, Value>,
        created: crate::Timestamp,
        usage: bool,
    ) -> FrameWriter {
        let own = [
            ("id", format!("chatcmpl-{}", uuid::Uuid::now_v7().simple()).into()),
            ("object", Value::from("chat.completion.chunk")),
            ("created", created.as_second().into()),
            ("model", model.into().into()),
        ];
        let envelope = own.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let (asker, reasoning) = (asker::of(repeated), REASONING[0].to_owned());
        FrameWriter { envelope, asker, reasoning, usage, begun: false, finish_reason: None }
    }

    /// Writes one chunk as server-sent events; the last one closes the stream with `[DONE]`.
    pub fn chunk(&mut self, chunk: &ChatChunk) -> String {
        if let Some(name) = chunk.extra.get(REASONING_NAME).and_then(Value::as_str) {
            name.clone_into(&mut self.reasoning);
        }
        let counted = chunk.extra.get(USAGE).filter(|_| self.usage);
        if let Some(event) = native(&chunk.extra).filter(|event| event.contains_key("choices")) {
            self.envelope.extend(beside_choices(event));
            let first = event["choices"].as_array().and_then(|choices| choices.iter().find(|one| number_of(one) == 0));
            if let Some(reason) = first.and_then(|choice| choice["finish_reason"].as_str()) {
                self.finish_reason = Some(reason.to_owned());
            }
            let mut text = String::new();
            // Clients take the choices in their order.
            if !std::mem::replace(&mut self.begun, true) && event["choices"][0]["index"] != 0 {
                text = self.choice(json!({"role": "assistant"}), None, None);
            }
            let mut event = event.clone();
            asker::put_in(&mut event, &self.asker);
            if let Some(counted) = counted {
                event.insert("usage".to_owned(), counted.clone());
            }
            return text + &format!("data: {}\n\n", Value::Object(event));
        }
        let mut delta = chunk.extra.clone();
        delta.shift_remove(REASONING_NAME);
        delta.shift_remove(USAGE);
        if let Some(model) = named_model(&chunk.extra) {
            self.envelope.insert("model".to_owned(), model.into());
        }
        if let Some(Value::Object(news)) = delta.shift_remove(ENVELOPE) {
            self.envelope.extend(news);
        }
        if delta.shift_remove(NATIVE).is_some() && says_nothing(chunk, &delta) {
            return String::new();
        }
        // What the common form does not say of the answer comes whole, at its end.
        if let Some(answer) = chunk.answer.as_ref().filter(|answer| answer.envelope.dialect() != Dialect::Chat) {
            delta.extend(own_blocks(answer));
        }
        if !std::mem::replace(&mut self.begun, true) {
            delta.insert("role".to_owned(), "assistant".into());
        }
        if !chunk.delta.is_empty() {
            delta.insert("content".to_owned(), chunk.delta.clone().into());
        }
        if let Some(reasoning) = &chunk.reasoning {
            delta.insert(self.reasoning.clone(), reasoning.clone().into());
        }
        if !chunk.tool_calls.is_empty() {
            delta.insert("tool_calls".to_owned(), chunk.tool_calls.clone().into());
        }
        if let Some(answer) = chunk.answer.as_ref().filter(|answer| answer.envelope.dialect() == Dialect::Chat) {
            self.envelope.extend(beside_choices(&answer.envelope.fields()));
        }
        let is_told = chunk.finish_reason.is_some() && chunk.finish_reason == self.finish_reason;
        let mut text = match is_told && delta.is_empty() {
            true => String::new(),
            false => {
                let reason = chunk.finish_reason.as_deref().filter(|_| !is_told);
                self.choice(Value::Object(delta), reason, counted)
            }
        };
        if let Some(answer) = &chunk.answer {
            if self.usage {
                let usage = match answer.envelope.dialect() {
                    Dialect::Chat => answer.envelope.fields().get("usage").cloned(),
                    Dialect::Messages | Dialect::Responses => counts(&answer.usage),
                };
                text += &self.event(json!([]), usage.as_ref());
            }
            text += "data: [DONE]\n\n";
        }
        text
    }

    /// Writes an error that ends the stream.
    pub fn error(&self, error: &Error) -> String {
        format!("data: {}\n\n", write_error(error))
    }

    fn choice(&self, delta: Value, finish_reason: Option<&str>, usage: Option<&Value>) -> String {
        self.event(json!([{"index": 0, "delta": delta, "finish_reason": finish_reason}]), usage)
    }

    fn event(&self, choices: Value, usage: Option<&Value>) -> String {
        let mut event = self.envelope.clone();
        asker::put_in(&mut event, &self.asker);
        event.insert("choices".to_owned(), choices);
        if let Some(usage) = usage {
            event.insert("usage".to_owned(), usage.clone());
        }
        format!("data: {}\n\n", Value::Object(event))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::answer::{
            DONE, replay,
            tests::{assemble, choice},
        },
        *,
    };
    use crate::chat::response::{CacheInfo, CacheStatus, Delta, Usage};

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
        let ada = Scope::new().user("ada");
        let inbound =
            read_embed(json!({"input": "a", "model": "m", "encoding_format": "base64", "dimensions": 2}), &ada)
                .unwrap();
        assert_eq!((inbound.encoding, inbound.call.texts.as_slice()), (Encoding::Base64, &["a".to_owned()][..]));
        assert_eq!(inbound.call.provider_fields["dimensions"], 2);
        assert_eq!(inbound.call.scope.as_ref(), Some(&ada));
        for (field, body) in
            [("input", json!({"input": [1, 2]})), ("encoding_format", json!({"input": "a", "encoding_format": "int8"}))]
        {
            assert_eq!(read_embed(body, &ada).unwrap_err().get("field"), Some(field));
        }
        let usage = Usage::default();
        let embeddings = Embeddings { vectors: vec![vec![1.0, -2.0]], model: "m".into(), provider: "p".into(), usage };
        let data = |encoding| write_embeddings(&embeddings, encoding)["data"][0]["embedding"].clone();
        assert_eq!((data(Encoding::Float), data(Encoding::Base64)), (json!([1.0, -2.0]), json!("AACAPwAAAMA=")));
        // RFC 4648, section 10.
        let text = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|bytes| base64(bytes.as_bytes()));
        assert_eq!(text, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
    }

    /// Writes a stream, and reads its events again.
    fn told(deltas: Vec<Delta>, answer: &Answer) -> Vec<Value> {
        let mut writer = FrameWriter::new("m", &Map::new(), crate::Timestamp::UNIX_EPOCH, false);
        let end = ChatChunk::end(Arc::new(answer.clone()), CacheInfo::new(CacheStatus::Miss));
        let text: String =
            deltas.into_iter().map(ChatChunk::of).chain([end]).map(|chunk| writer.chunk(&chunk)).collect();
        let mut events = Vec::new();
        crate::chat::sse::SseParser::new(1 << 20).push(text.as_bytes(), &mut events).unwrap();
        assert_eq!(events.pop().map(|event| event.data).as_deref(), Some(DONE));
        events.iter().map(|event| serde_json::from_str(&event.data).unwrap()).collect()
    }

    #[test]
    fn a_reason_that_came_with_the_providers_own_event_is_told_once() {
        let end = json!({"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "native_finish_reason": "x"}]});
        let (deltas, answer) = assemble(&[choice(json!({"content": "Hi"})), end.clone()]);
        let live = told(deltas, &answer);
        assert_eq!((live.len(), &live[1]), (2, &end));
        let kept = told(replay(&Answer { deltas: Vec::new(), ..answer.clone() }), &answer);
        assert_eq!((kept.len(), &kept[1]["choices"]), (2, &end["choices"]));
    }

    #[test]
    fn reasoning_keeps_the_name_that_the_provider_gives_it() {
        let names = |events: &[Value]| -> Vec<Value> {
            events.iter().map(|event| event["choices"][0]["delta"].clone()).collect()
        };
        for said in [
            json!({"reasoning": "Hm"}),
            json!({"reasoning_content": "Hm"}),
            json!({"reasoning": "Hm", "reasoning_content": "Hm"}),
        ] {
            let (deltas, answer) = assemble(&[choice(said.clone()), choice(json!({"content": "Hi"}))]);
            let whole = Answer { deltas: Vec::new(), ..answer.clone() };
            for deltas in [deltas, replay(&whole)] {
                assert!(deltas.iter().any(|delta| delta.reasoning.as_deref() == Some("Hm")));
                let mut heard = names(&told(deltas, &answer))[0].as_object().unwrap().clone();
                heard.shift_remove("role");
                assert_eq!(Value::Object(heard), said);
            }
            assert_eq!(
                answer.message.keys().filter(|name| name.starts_with("reasoning")).count(),
                said.as_object().unwrap().len()
            );
        }
    }

    #[test]
    fn a_stream_is_written_as_events_that_assemble_to_the_same_answer() {
        let (deltas, answer) = assemble(&[
            choice(json!({"content": "He"})),
            choice(json!({"content": "llo"})),
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}),
        ]);
        let mut writer = FrameWriter::new("m", &Map::new(), crate::Timestamp::UNIX_EPOCH, true);
        let mut text: String = deltas.into_iter().map(|delta| writer.chunk(&ChatChunk::of(delta))).collect();
        text += &writer.chunk(&ChatChunk::end(Arc::new(answer.clone()), CacheInfo::new(CacheStatus::Miss)));
        let mut events = Vec::new();
        crate::chat::sse::SseParser::new(1 << 20).push(text.as_bytes(), &mut events).unwrap();
        assert_eq!(events.pop().map(|event| event.data).as_deref(), Some(DONE));
        let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(&event.data).unwrap()).collect();
        let (_, again) = assemble(&events);
        assert_eq!((again.text, again.finish_reason, again.usage), (answer.text, answer.finish_reason, answer.usage));
    }
}
