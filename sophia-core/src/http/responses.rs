//! OpenAI's Responses. Scope and headers are those of `openai.rs`.
//!
//! A client may name an item that it was given (`item_reference`), or the response that it goes on from
//! (`previous_response_id`), instead of sending back what was said. Where the provider speaks another protocol and has neither,
//! they are kept here, as long as OpenAI keeps them: in memory's key-value store, within the scope of the caller, unless the
//! request says `store: false`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    call::Call,
    openai::{answered, read_headers},
    reply::{Failure, message_of},
    sse::{self, Frames},
    surface::Response,
};
use crate::{
    Error, ErrorKind, Scope, Timestamp,
    chat::{
        ChatChunk,
        dialect::{
            Dialect, Names, PREVIOUS,
            responses::{FrameWriter, read_further_request, write_response},
        },
    },
    memory::{Kv, KvOptions},
};

/// How long an item or a response can be named instead of being sent back.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most responses that a conversation is put together of.
const MAX_TURNS: usize = 1_000;

/// `POST /v1/responses`
pub(super) async fn responses(call: Call) -> Result<Response, Failure> {
    let scope = call.header_scope("chat.complete")?;
    let mut body = call.json()?;
    let kv = call.surface.sophia().memory().kv().clone();
    let is_kept = body.get("store") != Some(&Value::Bool(false));
    let mut given = Given { kv, scope: scope.clone(), is_kept, previous: None, said: 0, input: Vec::new() };
    given.recall(&mut body).await?;
    let mut inbound = read_further_request(Value::Object(body), &scope, given.said)?;
    if let Some(previous) = &given.previous {
        inbound.repeated.insert(PREVIOUS.to_owned(), previous.as_str().into());
    }
    read_headers(&call, &mut inbound.request)?;
    let chat = call.surface.sophia().chat();
    if inbound.stream {
        let model = inbound.request.model.clone().unwrap_or_default();
        let writer = FrameWriter::new(&model, &inbound.repeated, Timestamp::now());
        let frames = Items { writer, given, names: inbound.names, request_id: call.request_id.clone() };
        return sse::answer(chat.stream(inbound.request), frames).await;
    }
    let answer = chat.complete(inbound.request).await.map_err(|error| inbound.names.tell(error))?;
    let body = write_response(&answer, &inbound.repeated, Timestamp::now())?;
    if let (false, Value::Object(response)) = (answer.envelope.dialect() == Dialect::Responses, &body) {
        given.keep(response).await;
    }
    Ok(answered(&answer, &body))
}

/// What a client was given.
struct Given {
    kv: Kv,
    scope: Scope,
    is_kept: bool,
    /// The response that the request goes on from, if it is known here.
    previous: Option<String>,
    /// How many items were said before.
    said: usize,
    /// What the request itself says.
    input: Vec<Value>,
}

/// One turn of a conversation: what was said to the model, and what it said.
#[derive(Debug, Serialize, Deserialize)]
struct Turn {
    previous: Option<String>,
    items: Vec<Value>,
}

impl Given {
    /// Puts what was said in place of its names. A name that is not known here may be known to the provider.
    async fn recall(&mut self, body: &mut Map<String, Value>) -> crate::Result<()> {
        self.recall_items(body).await?;
        self.input = match body.get("input") {
            Some(Value::Array(items)) => items.clone(),
            Some(Value::String(text)) => vec![json!({"role": "user", "content": text})],
            // Refused by who reads it.
            _ => return Ok(()),
        };
        let Some(id) = body.get(PREVIOUS).and_then(Value::as_str).map(str::to_owned) else { return Ok(()) };
        let Some(mut turn) = self.turn(&id).await? else { return Ok(()) };
        let mut turns = Vec::new();
        while let Some(before) = turn.previous.take() {
            turns.push(turn);
            turn = match self.turn(&before).await? {
                Some(turn) if turns.len() < MAX_TURNS => turn,
                _ => return Err(lost(&before)),
            };
        }
        turns.push(turn);
        let mut said: Vec<Value> = turns.into_iter().rev().flat_map(|turn| turn.items).collect();
        self.said = said.len();
        said.extend(self.input.iter().cloned());
        body.insert("input".to_owned(), said.into());
        body.shift_remove(PREVIOUS);
        self.previous = Some(id);
        Ok(())
    }

    async fn turn(&self, id: &str) -> crate::Result<Option<Turn>> {
        let known = self.kv.get(&response_key(id), &self.scope).await?;
        Ok(known.and_then(|known| serde_json::from_str(known.json()).ok()))
    }

    async fn recall_items(&self, body: &mut Map<String, Value>) -> crate::Result<()> {
        for item in body.get_mut("input").and_then(Value::as_array_mut).into_iter().flatten() {
            if item["type"] == "item_reference"
                && let Some(id) = item["id"].as_str()
                && let Some(known) = self.kv.get(&key(id), &self.scope).await?
            {
                *item = serde_json::from_str(known.json()).unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Keeps a response that is no provider's.
    async fn keep(&self, response: &Map<String, Value>) {
        let output = response.get("output").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let (Some(id), true) = (response.get("id").and_then(Value::as_str), self.is_kept) else { return };
        for item in output {
            if let Some(id) = item["id"].as_str() {
                self.keep_one(&key(id), item.clone()).await;
            }
        }
        let items = self.input.iter().chain(output).cloned().collect();
        let turn = serde_json::to_value(Turn { previous: self.previous.clone(), items });
        self.keep_one(&response_key(id), turn.unwrap_or_default()).await;
    }

    async fn keep_one(&self, key: &str, value: Value) {
        let options = KvOptions::new().scope(&self.scope).ttl(KEPT);
        if let Err(error) = self.kv.set(key, value, options).await {
            tracing::warn!(code = error.code(), "what was answered cannot be named later");
        }
    }
}

fn key(id: &str) -> String {
    format!("chat.responses.item:{id}")
}

fn response_key(id: &str) -> String {
    format!("chat.responses.response:{id}")
}

fn lost(id: &str) -> Error {
    let message = format!("response `{id}` of this conversation is not kept any more: send the whole of it as `input`");
    Error::new(ErrorKind::NotFound, "chat.complete", message).with("field", PREVIOUS)
}

struct Items {
    writer: FrameWriter,
    given: Given,
    names: Names,
    request_id: String,
}

impl Frames for Items {
    fn chunk(&mut self, chunk: &ChatChunk) -> String {
        self.writer.chunk(chunk)
    }

    fn name(&self, error: Error) -> Error {
        self.names.tell(error)
    }

    fn error(&mut self, error: &Error) -> String {
        self.writer.error(error, &message_of(error, &self.request_id))
    }

    async fn settle(&mut self) {
        if let Some(response) = self.writer.take_given() {
            self.given.keep(&response).await;
        }
    }
}
