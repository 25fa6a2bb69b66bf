//! Anthropic's Messages. Scope and headers are those of `openai.rs`; `anthropic-beta` is passed on.

use serde_json::Value;

use super::{
    call::Call,
    openai::{answered, read_headers},
    reply::{Failure, describe_anthropic, status_of},
    sse::{self, Frames},
    surface::Response,
};
use crate::{
    Error,
    chat::{
        ChatChunk,
        dialect::{
            Names,
            anthropic::{FrameWriter, read_request, write_response},
        },
    },
};

/// `POST /v1/messages`
pub(super) async fn messages(call: Call) -> Result<Response, Failure> {
    let scope = call.header_scope("chat.complete")?;
    let body = call.json()?;
    let mut inbound = read_request(Value::Object(body), &scope, &betas(&call)?)?;
    read_headers(&call, &mut inbound.request)?;
    let chat = call.surface.sophia().chat();
    if inbound.stream {
        let model = inbound.request.model.clone().unwrap_or_default();
        let frames =
            Blocks { writer: FrameWriter::new(model), names: inbound.names, request_id: call.request_id.clone() };
        return sse::answer(chat.stream(inbound.request), frames).await;
    }
    let answer = chat.complete(inbound.request).await.map_err(|error| inbound.names.tell(error))?;
    Ok(answered(&answer, &write_response(&answer)?))
}

/// Reads the names of what is not yet part of the protocol, in an order of their own.
fn betas(call: &Call) -> Result<Vec<String>, Error> {
    let mut betas = Vec::new();
    for value in call.headers.get_all("anthropic-beta") {
        let text = value.to_str().map_err(|_| Error::invalid("chat.complete", "anthropic-beta", "must be ASCII"))?;
        betas.extend(text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned));
    }
    betas.sort_unstable();
    betas.dedup();
    Ok(betas)
}

struct Blocks {
    writer: FrameWriter,
    names: Names,
    request_id: String,
}

impl Frames for Blocks {
    fn chunk(&mut self, chunk: &ChatChunk) -> String {
        self.writer.chunk(chunk)
    }

    fn name(&self, error: Error) -> Error {
        self.names.tell(error)
    }

    fn error(&mut self, error: &Error) -> String {
        format!("event: error\ndata: {}\n\n", describe_anthropic(error, status_of(error), &self.request_id))
    }
}
