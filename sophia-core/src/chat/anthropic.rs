//! Anthropic's Messages over HTTP.

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::{
    Response, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Map, Value};

use super::{
    dialect::{
        anthropic::{self, Assembler, Outbound},
        integers::inexact,
    },
    endpoint::{Assemble, Endpoint, Heard},
    failure::is_failure,
    openai::list_models,
    provider::{ChatProvider, Completion, EmbedCall, Embeddings, Model, ProviderCall, ProviderStream, unsupported},
    response::Answer,
};
use crate::{Error, Result};

const BETA: HeaderName = HeaderName::from_static("anthropic-beta");
/// The protocol lists models in pages; one of the largest size holds them all.
const MODELS: &str = "/models?limit=1000";

/// A server that speaks Anthropic's Messages. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct AnthropicProvider {
    endpoint: Endpoint,
    url: Url,
    /// Most tokens of an answer where the request sets none.
    max_tokens: u64,
}

impl AnthropicProvider {
    /// Speaks the protocol to a server.
    pub fn new(endpoint: Endpoint, max_tokens: u64) -> AnthropicProvider {
        AnthropicProvider { url: endpoint.url("/messages"), endpoint, max_tokens }
    }

    async fn ask(&self, call: &ProviderCall, streamed: bool) -> Result<Response> {
        let Outbound { mut body, betas } = anthropic::write_request(call, self.name(), self.max_tokens)?;
        if streamed {
            body.insert("stream".to_owned(), Value::Bool(true));
        }
        let mut headers = HeaderMap::new();
        if !betas.is_empty() {
            let names = HeaderValue::from_str(&betas.join(","))
                .map_err(|_| Error::invalid(call.operation, "betas", "holds a character that no header may"))?;
            headers.insert(BETA, names);
        }
        self.endpoint.post(call.operation, self.url.clone(), &body, headers).await
    }
}

#[async_trait]
impl ChatProvider for AnthropicProvider {
    fn name(&self) -> &str {
        self.endpoint.name()
    }

    async fn complete(&self, call: &ProviderCall) -> Result<Completion> {
        let response = self.ask(call, false).await?;
        self.endpoint.answer::<Assembler>(call, response).await
    }

    async fn stream(&self, call: &ProviderCall) -> Result<ProviderStream> {
        let response = self.ask(call, true).await?;
        self.endpoint.stream::<Assembler>(call, response).await
    }

    async fn models(&self) -> Result<Vec<Model>> {
        list_models(&self.endpoint, MODELS).await
    }

    async fn embed(&self, _call: &EmbedCall) -> Result<Embeddings> {
        Err(unsupported(self.name(), "chat.embed"))
    }
}

impl Assemble for Assembler {
    const ANSWER: &'static str = "content";
    const NO_ANSWER: &'static str = "no list in `content`";

    fn read(body: Map<String, Value>, provider: &str, model: &str) -> Option<Answer> {
        anthropic::answer(body, provider, model)
    }

    fn lost(body: &Bytes) -> Option<&str> {
        inexact(body)
    }

    fn hear(&mut self, data: &str) -> Heard {
        let Ok(mut event) = serde_json::from_str::<Map<String, Value>>(data) else { return Heard::Garbage };
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
        match (kind, event.get("error").is_some_and(is_failure)) {
            ("error", _) | (_, true) => Heard::Failed(event.get_mut("error").map(Value::take).unwrap_or_default()),
            ("message_stop", _) => match self.push(event) {
                Ok(Some(delta)) => Heard::Last(delta),
                _ => Heard::End,
            },
            _ => match self.push(event) {
                Ok(delta) => delta.map_or(Heard::Nothing, Heard::Delta),
                Err(()) => Heard::Garbage,
            },
        }
    }

    fn has_finished(&self) -> bool {
        Assembler::has_finished(self)
    }

    fn into_answer(self, provider: &str, model: &str, terminated: bool) -> Option<Answer> {
        if self.is_empty() {
            return None;
        }
        // Without a reason, the end is none.
        let terminated = terminated && Assembler::has_finished(&self);
        self.finish(provider, model, terminated)
    }
}
