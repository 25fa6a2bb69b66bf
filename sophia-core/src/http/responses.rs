//! OpenAI's Responses. Scope and headers are those of `openai.rs`.

use serde_json::Value;

use super::{
    call::Call,
    openai::{answered, read_headers},
    reply::{Failure, message_of},
    sse::{self, Frames},
    surface::Response,
};
use crate::{
    Error, Timestamp,
    chat::{
        ChatChunk,
        dialect::responses::{FrameWriter, read_request, write_response},
    },
};

/// `POST /v1/responses`
pub(super) async fn responses(call: Call) -> Result<Response, Failure> {
    let scope = call.header_scope("chat.complete")?;
    let mut inbound = read_request(Value::Object(call.json()?), &scope)?;
    read_headers(&call, &mut inbound.request)?;
    let chat = call.surface.sophia().chat();
    if inbound.stream {
        let model = inbound.request.model.clone().unwrap_or_default();
        let writer = FrameWriter::new(&model, &inbound.repeated, Timestamp::now());
        let frames = Items { writer, request_id: call.request_id.clone() };
        return sse::answer(chat.stream(inbound.request)?, frames).await;
    }
    let answer = chat.complete(inbound.request).await?;
    Ok(answered(&answer, &write_response(&answer, &inbound.repeated, Timestamp::now())))
}

struct Items {
    writer: FrameWriter,
    request_id: String,
}

impl Frames for Items {
    fn chunk(&mut self, chunk: &ChatChunk) -> String {
        self.writer.chunk(chunk)
    }

    fn error(&mut self, error: &Error) -> String {
        self.writer.error(error, &message_of(error, &self.request_id))
    }
}
