//! OpenAI's chat completions, embeddings and models: its clients work by changing their `base_url`.
//!
//! The scope is that of the key, or what the headers `x-sophia-tenant`, `-user`, `-session` and `-agent` set; the body
//! cannot choose it. `x-sophia-share`, `x-sophia-context` and `x-sophia-cache` say what the body has no field for.

use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    call::Call,
    chat::answer_headers,
    reply::{Failure, describe_openai, json_response, status_of},
    sse::{self, Frames},
    surface::Response,
};
use crate::{
    Error, ErrorKind, Result, Timestamp,
    chat::{
        ChatChunk, ChatRequest, ChatResponse,
        dialect::{
            Names,
            openai::{
                FrameWriter, InboundEmbed, read_embed, read_request, write_embeddings, write_model, write_models,
                write_response,
            },
        },
    },
};

/// `POST /v1/chat/completions`
pub(super) async fn completions(call: Call) -> Result<Response, Failure> {
    let scope = call.header_scope("chat.complete")?;
    let body = call.json()?;
    let mut inbound = read_request(Value::Object(body), &scope)?;
    read_headers(&call, &mut inbound.request)?;
    let chat = call.surface.sophia().chat();
    if inbound.stream {
        let model = inbound.request.model.clone().unwrap_or_default();
        let writer = FrameWriter::new(model, &inbound.repeated, Timestamp::now(), inbound.stream_usage);
        let frames = Completions { writer, names: inbound.names, request_id: call.request_id.clone() };
        return sse::answer(chat.stream(inbound.request), frames).await;
    }
    let answer = chat.complete(inbound.request).await.map_err(|error| inbound.names.tell(error))?;
    Ok(answered(&answer, &write_response(&answer, &inbound.repeated, Timestamp::now())?))
}

/// `POST /v1/embeddings`
pub(super) async fn embeddings(call: Call) -> Result<Response, Failure> {
    let scope = call.header_scope("chat.embed")?;
    let InboundEmbed { call: mut embed, encoding, .. } = read_embed(Value::Object(call.json()?), &scope)?;
    embed.traceparent = traceparent(&call);
    let names = Names::new(&[("texts", "input")]);
    let found = call.surface.sophia().chat().embed(embed).await.map_err(|error| names.tell(error))?;
    Ok(json_response(StatusCode::OK, &write_embeddings(&found, encoding)))
}

/// `GET /v1/models`
pub(super) async fn models(call: Call) -> Result<Response, Failure> {
    let models = call.surface.sophia().chat().models().await?;
    Ok(json_response(StatusCode::OK, &write_models(&models)))
}

/// `GET /v1/models/{id}`
pub(super) async fn model(call: Call) -> Result<Response, Failure> {
    let id = call.path_part("model");
    let models = call.surface.sophia().chat().models().await?;
    let Some(model) = models.iter().find(|model| model.id == id) else {
        let message = format!("no provider offers the model `{id}`; `/v1/models` lists those that are offered");
        return Err(Error::new(ErrorKind::NotFound, "chat.models", message).with("field", "model").into());
    };
    Ok(json_response(StatusCode::OK, &write_model(model)))
}

/// Answers with a body, and with headers that say how it was come by.
pub(super) fn answered(answer: &ChatResponse, body: &Value) -> Response {
    let mut response = json_response(StatusCode::OK, body);
    answer_headers(response.headers_mut(), answer);
    response
}

/// Reads what no dialect has a field for.
pub(super) fn read_headers(call: &Call, request: &mut ChatRequest) -> Result<()> {
    if let Some(share) = header(call, "x-sophia-share")? {
        request.share = share;
    }
    if let Some(cache) = header(call, "x-sophia-cache")? {
        request.cache = cache;
    }
    request.context = header(call, "x-sophia-context")?;
    request.traceparent = traceparent(call);
    Ok(())
}

/// Returns the trace that a request belongs to.
pub(super) fn traceparent(call: &Call) -> Option<String> {
    Some(call.headers.get("traceparent")?.to_str().ok()?.to_owned())
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
    names: Names,
    request_id: String,
}

impl Frames for Completions {
    fn chunk(&mut self, chunk: &ChatChunk) -> String {
        self.writer.chunk(chunk)
    }

    fn name(&self, error: Error) -> Error {
        self.names.tell(error)
    }

    fn error(&mut self, error: &Error) -> String {
        format!("data: {}\n\n", json!({"error": describe_openai(error, status_of(error), &self.request_id)}))
    }
}
