//! OpenAI's dialect: its clients work by changing their `base_url`.
//!
//! The scope is that of the key, or what the headers `x-sophia-tenant`, `-user`, `-session` and `-agent` set; the body
//! cannot choose it. `x-sophia-share`, `x-sophia-context` and `x-sophia-cache` say what the body has no field for.

use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    call::Call,
    chat::answer_headers,
    reply::{Failure, describe_openai, json_response},
    sse::{self, Frames},
    surface::Response,
};
use crate::{
    Error, ErrorKind, Result, Timestamp,
    chat::{
        ChatChunk, EmbedCall, Model,
        dialect::openai::{FrameWriter, read_request, write_response},
    },
    wire,
};

/// `POST /v1/chat/completions`
pub(super) async fn completions(call: Call) -> Result<Response, Failure> {
    let scope = call.header_scope("chat.complete")?;
    let inbound = read_request(Value::Object(call.json()?), &scope)?;
    let mut request = inbound.request;
    if let Some(share) = header(&call, "x-sophia-share")? {
        request.share = share;
    }
    if let Some(cache) = header(&call, "x-sophia-cache")? {
        request.cache = cache;
    }
    request.context = header(&call, "x-sophia-context")?;
    let chat = call.surface.sophia().chat();
    if inbound.stream {
        let model = request.model.clone().unwrap_or_default();
        let writer = FrameWriter::new(model, Timestamp::now(), inbound.stream_usage);
        let frames = Completions { writer, request_id: call.request_id.clone() };
        return sse::answer(chat.stream(request)?, frames).await;
    }
    let answer = chat.complete(request).await?;
    let mut response = json_response(StatusCode::OK, &write_response(&answer));
    answer_headers(response.headers_mut(), &answer);
    Ok(response)
}

/// `POST /v1/embeddings`
pub(super) async fn embeddings(call: Call) -> Result<Response, Failure> {
    const OPERATION: &str = "chat.embed";
    let mut body = call.json()?;
    let texts = match body.shift_remove("input") {
        Some(Value::String(text)) => vec![text],
        Some(input) => serde_json::from_value(input)
            .map_err(|_| Error::invalid(OPERATION, "input", "must be a text, or a list of texts"))?,
        None => return Err(Error::invalid(OPERATION, "input", "is required").into()),
    };
    let mut fields = json!({"texts": texts});
    if let Some(model) = body.shift_remove("model") {
        fields["model"] = model;
    }
    let embed: EmbedCall = wire::read(ErrorKind::InvalidInput, OPERATION, fields)?;
    let found = call.surface.sophia().chat().embed(embed).await?;
    let vectors = found.vectors.iter().enumerate();
    let data: Vec<_> =
        vectors.map(|(index, vector)| json!({"object": "embedding", "index": index, "embedding": vector})).collect();
    let tokens = found.usage.prompt_tokens;
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(json_response(StatusCode::OK, &json!({"object": "list", "data": data, "model": found.model, "usage": usage})))
}

/// `GET /v1/models`
pub(super) async fn models(call: Call) -> Result<Response, Failure> {
    let models = call.surface.sophia().chat().models().await?;
    let data: Vec<_> = models.iter().map(describe).collect();
    Ok(json_response(StatusCode::OK, &json!({"object": "list", "data": data})))
}

/// `GET /v1/models/{id}`
pub(super) async fn model(call: Call) -> Result<Response, Failure> {
    let id = call.path_part("model");
    let models = call.surface.sophia().chat().models().await?;
    let Some(model) = models.iter().find(|model| model.id == id) else {
        let message = format!("no provider offers the model `{id}`; `/v1/models` lists those that are offered");
        return Err(Error::new(ErrorKind::NotFound, "chat.models", message).with("field", "model").into());
    };
    Ok(json_response(StatusCode::OK, &describe(model)))
}

fn describe(model: &Model) -> Value {
    // When a model was made is not known; the protocol wants a number.
    json!({"id": model.id, "object": "model", "created": 0, "owned_by": model.owned_by.as_ref().unwrap_or(&model.provider)})
}

/// Reads what a header says in words.
fn header<T: DeserializeOwned>(call: &Call, name: &'static str) -> Result<Option<T>> {
    let Some(value) = call.headers.get(name) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Error::invalid("chat.complete", name, "must be ASCII"))?;
    serde_json::from_value(Value::from(text))
        .map(Some)
        .map_err(|error| Error::invalid("chat.complete", name, format!("is wrong: {error}")))
}

struct Completions {
    writer: FrameWriter,
    request_id: String,
}

impl Frames for Completions {
    fn chunk(&mut self, chunk: &ChatChunk) -> String {
        self.writer.chunk(chunk)
    }

    fn error(&mut self, error: &Error) -> String {
        let status = StatusCode::from_u16(error.kind().http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        format!("data: {}\n\n", json!({"error": describe_openai(error, status, &self.request_id)}))
    }
}
