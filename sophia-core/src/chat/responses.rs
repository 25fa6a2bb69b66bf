//! OpenAI's Responses over HTTP.

use async_trait::async_trait;
use reqwest::{Response, Url, header::HeaderMap};
use serde_json::{Map, Value};

use super::{
    dialect::responses::{self, Assembler},
    endpoint::{Assemble, Endpoint, Heard},
    openai::{embed, list_models},
    provider::{ChatProvider, Completion, EmbedCall, Embeddings, Model, ProviderCall, ProviderStream},
    response::Answer,
};
use crate::Result;

/// A server that speaks OpenAI's Responses. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ResponsesProvider {
    endpoint: Endpoint,
    url: Url,
}

impl ResponsesProvider {
    /// Speaks the protocol to a server.
    pub fn new(endpoint: Endpoint) -> ResponsesProvider {
        ResponsesProvider { url: endpoint.url("/responses"), endpoint }
    }

    async fn ask(&self, call: &ProviderCall, streamed: bool) -> Result<Response> {
        let mut body = responses::write_request(call, self.name())?;
        if streamed {
            body.insert("stream".to_owned(), Value::Bool(true));
        }
        self.endpoint.post(call.operation, self.url.clone(), &body, HeaderMap::new()).await
    }
}

#[async_trait]
impl ChatProvider for ResponsesProvider {
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
        list_models(&self.endpoint, "/models").await
    }

    async fn embed(&self, call: &EmbedCall) -> Result<Embeddings> {
        embed("chat.embed", &self.endpoint, call).await
    }
}

impl Assemble for Assembler {
    const ANSWER: &'static str = "output";
    const NO_ANSWER: &'static str = "no list in `output`";

    fn begin(call: &ProviderCall) -> Assembler {
        Assembler::of_request(&call.body)
    }

    fn read(body: Map<String, Value>, provider: &str, model: &str) -> Option<Answer> {
        responses::answer(body, provider, model)
    }

    fn hear(&mut self, data: &str) -> Heard {
        let Ok(mut event) = serde_json::from_str::<Map<String, Value>>(data) else { return Heard::Garbage };
        match event.get("type").and_then(Value::as_str).unwrap_or_default() {
            // Its fields, or those of the error inside of it.
            "error" => Heard::Failed(event.get_mut("error").map(Value::take).unwrap_or(Value::Object(event))),
            "response.failed" => {
                let error = event.get_mut("response").and_then(|response| response.get_mut("error"));
                Heard::Failed(error.map(Value::take).unwrap_or_default())
            }
            kind => {
                let ended = matches!(kind, "response.completed" | "response.incomplete");
                match self.push(event) {
                    Ok(_) if ended => Heard::End,
                    Ok(delta) => delta.map_or(Heard::Nothing, Heard::Delta),
                    Err(()) => Heard::Garbage,
                }
            }
        }
    }

    fn has_finished(&self) -> bool {
        // Only the last event says how the answer ends.
        false
    }

    fn into_answer(self, provider: &str, model: &str, _terminated: bool) -> Option<Answer> {
        self.finish(provider, model)
    }
}
