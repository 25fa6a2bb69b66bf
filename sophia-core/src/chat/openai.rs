//! OpenAI's chat completions over HTTP, as most servers of models speak them.

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::{Url, header::HeaderMap};
use serde_json::{Map, Value, json};

use super::{
    dialect::{
        integers::inexact,
        openai::{self, Assembler, DONE},
    },
    endpoint::{Assemble, Endpoint, Heard},
    failure::is_failure,
    provider::{ChatProvider, Completion, EmbedCall, Embeddings, Model, ProviderCall, ProviderStream},
    response::Answer,
};
use crate::{Result, Timestamp};

/// A server that speaks OpenAI's chat completions. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct OpenAiProvider {
    endpoint: Endpoint,
    url: Url,
    /// Whether streams ask for token counts.
    stream_usage: bool,
}

impl OpenAiProvider {
    /// Speaks the protocol to a server.
    pub fn new(endpoint: Endpoint, stream_usage: bool) -> OpenAiProvider {
        OpenAiProvider { url: endpoint.url("/chat/completions"), endpoint, stream_usage }
    }
}

#[async_trait]
impl ChatProvider for OpenAiProvider {
    fn name(&self) -> &str {
        self.endpoint.name()
    }

    async fn complete(&self, call: &ProviderCall) -> Result<Completion> {
        let body = openai::write_request(call, self.name())?;
        let response = self.endpoint.post(call.operation, self.url.clone(), &body, HeaderMap::new()).await?;
        self.endpoint.answer::<Assembler>(call, response).await
    }

    async fn stream(&self, call: &ProviderCall) -> Result<ProviderStream> {
        let mut body = openai::write_request(call, self.name())?.into_owned();
        body.insert("stream".to_owned(), Value::Bool(true));
        if self.stream_usage
            && let Value::Object(options) = body.entry("stream_options").or_insert_with(|| json!({}))
        {
            options.insert("include_usage".to_owned(), Value::Bool(true));
        }
        let response = self.endpoint.post(call.operation, self.url.clone(), &body, HeaderMap::new()).await?;
        self.endpoint.stream::<Assembler>(call, response).await
    }

    async fn models(&self) -> Result<Vec<Model>> {
        list_models(&self.endpoint, "/models").await
    }

    async fn embed(&self, call: &EmbedCall) -> Result<Embeddings> {
        embed("chat.embed", &self.endpoint, call).await
    }
}

impl Assemble for Assembler {
    const ANSWER: &'static str = "choices";
    const NO_ANSWER: &'static str = "no message in `choices`";

    fn begin(call: &ProviderCall) -> Assembler {
        Assembler::of_request(&call.body)
    }

    fn read(body: Map<String, Value>, provider: &str, model: &str) -> Option<Answer> {
        openai::answer(body, provider, model)
    }

    fn read_text(body: &Bytes, provider: &str, model: &str) -> Option<Answer> {
        openai::read_whole(body, provider, model)
    }

    fn lost(body: &Bytes) -> Option<&str> {
        let integer = inexact(body)?;
        serde_json::from_slice(body).is_ok_and(|body| openai::gives_values(&body)).then_some(integer)
    }

    fn hear(&mut self, data: &str) -> Heard {
        if data.trim_ascii_end() == DONE {
            return Heard::End;
        }
        let Ok(mut event) = serde_json::from_str::<Map<String, Value>>(data) else { return Heard::Garbage };
        if let Some(error) = event.get_mut("error").filter(|error| is_failure(error)) {
            return Heard::Failed(error.take());
        }
        if openai::gives_values(&event) && inexact(data.as_bytes()).is_some() {
            return Heard::Garbage;
        }
        match self.push(event) {
            Ok(delta) => delta.map_or(Heard::Nothing, Heard::Delta),
            Err(()) => Heard::Garbage,
        }
    }

    fn has_finished(&self) -> bool {
        self.finish_reason().is_some()
    }

    fn into_answer(self, provider: &str, model: &str, terminated: bool) -> Option<Answer> {
        (!self.is_empty()).then(|| self.finish(provider, model, terminated))
    }
}

/// Lists the models of a server.
pub(crate) async fn list_models(endpoint: &Endpoint, path: &str) -> Result<Vec<Model>> {
    const OPERATION: &str = "chat.models";
    let response = endpoint.get(OPERATION, endpoint.url(path)).await?;
    let object = endpoint.object(OPERATION, response, "data").await?;
    let models = object.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |model: &Value, field: &str| model.get(field).and_then(Value::as_str).map(str::to_owned);
    // A number in OpenAI's protocols, a time in Anthropic's.
    let created = |model: &Value| {
        let at = || model.get("created_at")?.as_str()?.parse::<Timestamp>().ok();
        model.get("created").and_then(Value::as_i64).or_else(|| Some(at()?.as_second()))
    };
    let model = |model: &Value| {
        Some(Model {
            id: text(model, "id")?,
            provider: endpoint.name().to_owned(),
            owned_by: text(model, "owned_by"),
            created: created(model),
        })
    };
    Ok(models.iter().filter_map(model).collect())
}

/// Turns texts into vectors.
pub(crate) async fn embed(operation: &'static str, endpoint: &Endpoint, call: &EmbedCall) -> Result<Embeddings> {
    let mut request = call.provider_fields.clone();
    request.insert("input".to_owned(), call.texts.clone().into());
    request.insert("model".to_owned(), call.model.clone().into());
    let response = endpoint.post(operation, endpoint.url("/embeddings"), &request, HeaderMap::new()).await?;
    let body = endpoint.object(operation, response, "data").await?;
    read_embeddings(&body, endpoint.name(), call)
        .ok_or_else(|| endpoint.failure(operation).garbage(b"no finite vector for each text"))
}

/// Reads vectors in the order of the texts. `None` unless there is a finite one for each text.
fn read_embeddings(body: &Map<String, Value>, provider: &str, call: &EmbedCall) -> Option<Embeddings> {
    let data = body.get("data")?.as_array()?;
    let mut vectors = vec![Vec::new(); call.texts.len()];
    for (position, item) in data.iter().enumerate() {
        let index = item.get("index").and_then(Value::as_u64).map_or(position, |index| index as usize);
        let vector: Option<Vec<f32>> = item
            .get("embedding")?
            .as_array()?
            .iter()
            .map(|value| value.as_f64().map(|value| value as f32).filter(|value| value.is_finite()))
            .collect();
        *vectors.get_mut(index)? = vector?;
    }
    if vectors.iter().any(Vec::is_empty) {
        return None;
    }
    let model = body.get("model").and_then(Value::as_str).map(str::to_owned).or_else(|| call.model.clone());
    Some(Embeddings {
        vectors,
        model: model.unwrap_or_default(),
        provider: provider.to_owned(),
        usage: body.get("usage").map(openai::usage).unwrap_or_default(),
    })
}
