//! OpenAI's Responses. Scope and headers are those of `openai.rs`.
//!
//! A client may name an item that it was given instead of sending it back. Where the provider speaks another protocol and has
//! no items, they are kept here for a day: in memory's key-value store, within the scope of the caller, unless the request says
//! `store: false`.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    call::Call,
    openai::{answered, read_headers},
    reply::{Failure, message_of},
    sse::{self, Frames},
    surface::Response,
};
use crate::{
    Error, Scope, Timestamp,
    chat::{
        ChatChunk,
        dialect::{
            Dialect,
            responses::{FrameWriter, read_request, write_response},
        },
    },
    memory::{Kv, KvOptions},
};

/// How long an item can be named instead of being sent back.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// `POST /v1/responses`
pub(super) async fn responses(call: Call) -> Result<Response, Failure> {
    let scope = call.header_scope("chat.complete")?;
    let mut body = call.json()?;
    let kv = call.surface.sophia().memory().kv().clone();
    let given = Given { kv, scope: scope.clone(), is_kept: body.get("store") != Some(&Value::Bool(false)) };
    given.recall(&mut body).await?;
    let mut inbound = read_request(Value::Object(body), &scope)?;
    read_headers(&call, &mut inbound.request)?;
    let chat = call.surface.sophia().chat();
    if inbound.stream {
        let model = inbound.request.model.clone().unwrap_or_default();
        let writer = FrameWriter::new(&model, &inbound.repeated, Timestamp::now());
        let frames = Items { writer, given, request_id: call.request_id.clone() };
        return sse::answer(chat.stream(inbound.request)?, frames).await;
    }
    let answer = chat.complete(inbound.request).await?;
    let body = write_response(&answer, &inbound.repeated, Timestamp::now());
    if answer.envelope.dialect() != Dialect::Responses {
        given.keep(body["output"].as_array().map(Vec::as_slice).unwrap_or_default()).await;
    }
    Ok(answered(&answer, &body))
}

/// The items that a client was given.
struct Given {
    kv: Kv,
    scope: Scope,
    is_kept: bool,
}

impl Given {
    /// Puts items in place of their names. A name that is not known here may be known to the provider.
    async fn recall(&self, body: &mut Map<String, Value>) -> crate::Result<()> {
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

    async fn keep(&self, items: &[Value]) {
        for item in items.iter().filter(|_| self.is_kept) {
            let Some(id) = item["id"].as_str() else { continue };
            let options = KvOptions::new().scope(&self.scope).ttl(KEPT);
            if let Err(error) = self.kv.set(&key(id), item.clone(), options).await {
                tracing::warn!(code = error.code(), "an item of an answer cannot be named later");
            }
        }
    }
}

fn key(id: &str) -> String {
    format!("chat.responses.item:{id}")
}

struct Items {
    writer: FrameWriter,
    given: Given,
    request_id: String,
}

impl Frames for Items {
    fn chunk(&mut self, chunk: &ChatChunk) -> String {
        self.writer.chunk(chunk)
    }

    fn error(&mut self, error: &Error) -> String {
        self.writer.error(error, &message_of(error, &self.request_id))
    }

    async fn settle(&mut self) {
        let items = self.writer.take_given();
        self.given.keep(&items).await;
    }
}
