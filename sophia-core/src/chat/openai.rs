//! OpenAI's chat completions over HTTP, as most servers of models speak them.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use reqwest::{
    Client, Response, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde_json::{Map, Value, json};

use super::{
    config::ProviderConfig,
    dialect::openai::{self, Assembler, DONE},
    failure::Failure,
    key,
    provider::{ChatProvider, Completion, EmbedCall, Embeddings, Model, ProviderCall, ProviderEvent, ProviderStream},
    sse::{SseError, SseParser},
};
use crate::{
    Clock, Error, ErrorKind, Result, Secret,
    http_client::{AddressPolicy, Connections, HttpClient, HttpOptions, Proxy, is_local},
};

/// How much of a failure's body is read, in bytes.
const MAX_FAILURE_BYTES: usize = 64 << 10;

/// A server that speaks OpenAI's chat completions. Cheap to clone.
#[derive(Clone)]
pub struct OpenAiProvider(Arc<Shared>);

struct Shared {
    name: String,
    base_url: Url,
    api_key: Option<Secret>,
    headers: HeaderMap,
    timeout: Duration,
    stream_usage: bool,
    max_response_bytes: usize,
    clock: Arc<dyn Clock>,
    fingerprint: [u8; 32],
    /// Built by the first use, dropped by a shutdown.
    client: HttpClient,
}

impl OpenAiProvider {
    /// Sets the provider up; nothing is opened. `path` is where its configuration stands.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for an address, header or environment variable that cannot be used.
    pub(crate) fn new(
        path: &str,
        config: &ProviderConfig,
        max_response_bytes: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<OpenAiProvider> {
        let base_url = base_url(path, &config.base_url)?;
        let api_key = match &config.api_key {
            Some(key) => Some(expand(&format!("{path}.api_key"), key.expose())?),
            None => None,
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &api_key {
            let value = secret_header(&format!("{path}.api_key"), &format!("Bearer {}", key.expose()))?;
            headers.insert(AUTHORIZATION, value);
        }
        let mut identity = Vec::new();
        for (name, value) in &config.headers {
            let path = format!("{path}.headers.{name}");
            let value = expand(&path, value.expose())?;
            let header: HeaderName = name.parse().map_err(|_| Error::invalid_config(&path, "is not a header name"))?;
            headers.insert(header, secret_header(&path, value.expose())?);
            identity.push((name.to_lowercase(), value));
        }
        let identity: Vec<_> = identity.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        let fingerprint =
            key::of_provider("openai", base_url.as_str(), api_key.as_ref().map(Secret::expose), &identity);
        let client = HttpClient::new(HttpOptions {
            addresses: AddressPolicy::AllowPrivate,
            proxy: if is_local(&base_url) { Proxy::None } else { Proxy::System },
            connections: Connections::Pooled,
        });
        Ok(OpenAiProvider(Arc::new(Shared {
            name: config.name.clone(),
            base_url,
            api_key,
            headers,
            timeout: config.timeout,
            stream_usage: config.stream_usage,
            max_response_bytes,
            clock,
            fingerprint,
            client,
        })))
    }

    /// Returns an identity that changes when another server or another account would answer.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        self.0.fingerprint
    }

    /// Drops the pooled connections.
    pub(crate) fn close(&self) {
        self.0.client.close();
    }

    fn client(&self, operation: &'static str) -> Result<Client> {
        self.0.client.get(operation, &self.0.base_url)
    }

    fn failure(&self, operation: &'static str) -> Failure<'_> {
        Failure { operation, provider: &self.0.name, api_key: self.0.api_key.as_ref() }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.0.base_url.as_str().trim_end_matches('/'))
    }

    /// Sends a request, and returns the response once it is known to be a success.
    async fn send(
        &self,
        operation: &'static str,
        path: &str,
        body: Option<Vec<u8>>,
        accept: &'static str,
    ) -> Result<Response> {
        let client = self.client(operation)?;
        let request = match body {
            Some(body) => client.post(self.url(path)).body(body),
            None => client.get(self.url(path)),
        };
        let request = request.headers(self.0.headers.clone()).header(ACCEPT, accept);
        let response = self.timed(operation, request.send()).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let mut headers = HeaderMap::new();
        for name in ["retry-after-ms", RETRY_AFTER.as_str()] {
            if let (Some(value), Ok(name)) = (response.headers().get(name), HeaderName::try_from(name)) {
                headers.insert(name, value.clone());
            }
        }
        // What it says is worth knowing; that it cannot be read changes nothing.
        let body = self.read(operation, response, MAX_FAILURE_BYTES).await.unwrap_or_default();
        Err(self.failure(operation).status(status.as_u16(), &headers, &body, self.0.clock.now()))
    }

    async fn timed<T>(&self, operation: &'static str, work: impl Future<Output = reqwest::Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.0.timeout, work).await {
            Ok(outcome) => outcome.map_err(|error| self.failure(operation).transport(error)),
            Err(_) => Err(self.failure(operation).silent(self.0.timeout)),
        }
    }

    async fn read(&self, operation: &'static str, mut response: Response, max_bytes: usize) -> Result<Vec<u8>> {
        let length = response.content_length().unwrap_or_default();
        if length > max_bytes as u64 {
            return Err(self.failure(operation).too_large(max_bytes));
        }
        // Below the bound, so it fits.
        let mut body = Vec::with_capacity(length as usize);
        while let Some(part) = self.timed(operation, response.chunk()).await? {
            if body.len() + part.len() > max_bytes {
                return Err(self.failure(operation).too_large(max_bytes));
            }
            body.extend_from_slice(&part);
        }
        Ok(body)
    }

    fn parse(&self, operation: &'static str, body: &[u8]) -> Result<Map<String, Value>> {
        let Ok(object) = serde_json::from_slice::<Map<String, Value>>(body) else {
            return Err(self.failure(operation).garbage(body));
        };
        match object.get("error") {
            Some(error) if !error.is_null() && !object.contains_key("choices") => {
                Err(self.failure(operation).reported(error))
            }
            _ => Ok(object),
        }
    }

    async fn read_answer(&self, call: &ProviderCall, response: Response) -> Result<Completion> {
        let body = self.read(call.operation, response, self.0.max_response_bytes).await?;
        openai::answer(self.parse(call.operation, &body)?, &self.0.name, &call.model)
            .map(Completion::new)
            .ok_or_else(|| self.failure(call.operation).garbage(&body))
    }
}

#[async_trait]
impl ChatProvider for OpenAiProvider {
    fn name(&self) -> &str {
        &self.0.name
    }

    async fn complete(&self, call: &ProviderCall) -> Result<Completion> {
        let body = encode(call.operation, &call.body)?;
        let response = self.send(call.operation, "/chat/completions", Some(body), "application/json").await?;
        self.read_answer(call, response).await
    }

    async fn stream(&self, call: &ProviderCall) -> Result<ProviderStream> {
        let mut body = call.body.clone();
        body.insert("stream".to_owned(), Value::Bool(true));
        if self.0.stream_usage
            && let Value::Object(options) = body.entry("stream_options").or_insert_with(|| json!({}))
        {
            options.insert("include_usage".to_owned(), Value::Bool(true));
        }
        let body = encode(call.operation, &body)?;
        let response = self.send(call.operation, "/chat/completions", Some(body), "text/event-stream").await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind.starts_with("application/json") {
            // A server that cannot stream has answered at once.
            let completion = self.read_answer(call, response).await?;
            let deltas = openai::replay(&completion.answer).into_iter().map(ProviderEvent::Delta);
            let events: Vec<_> = deltas.chain([ProviderEvent::Done(completion)]).map(Ok).collect();
            return Ok(stream::iter(events).boxed());
        }
        let reader = StreamReader {
            provider: self.clone(),
            operation: call.operation,
            model: call.model.clone(),
            response,
            parser: SseParser::new(self.0.max_response_bytes),
            assembler: Assembler::default(),
            read_bytes: 0,
            texts: Vec::new(),
            pending: VecDeque::new(),
            ended: false,
        };
        Ok(stream::unfold(reader, |mut reader| async move { Some((reader.next().await?, reader)) }).boxed())
    }

    async fn models(&self) -> Result<Vec<Model>> {
        const OPERATION: &str = "chat.models";
        let response = self.send(OPERATION, "/models", None, "application/json").await?;
        let body = self.read(OPERATION, response, self.0.max_response_bytes).await?;
        let object = self.parse(OPERATION, &body)?;
        let Some(Value::Array(models)) = object.get("data") else {
            return Err(self.failure(OPERATION).garbage(&body));
        };
        let text = |model: &Value, field: &str| model.get(field).and_then(Value::as_str).map(str::to_owned);
        let model = |model: &Value| {
            Some(Model { id: text(model, "id")?, provider: self.0.name.clone(), owned_by: text(model, "owned_by") })
        };
        Ok(models.iter().filter_map(model).collect())
    }

    async fn embed(&self, call: &EmbedCall) -> Result<Embeddings> {
        const OPERATION: &str = "chat.embed";
        let mut request = call.provider_fields.clone();
        request.insert("input".to_owned(), call.texts.clone().into());
        request.insert("model".to_owned(), call.model.clone().into());
        let response =
            self.send(OPERATION, "/embeddings", Some(encode(OPERATION, &request)?), "application/json").await?;
        let body = self.read(OPERATION, response, self.0.max_response_bytes).await?;
        read_embeddings(&self.parse(OPERATION, &body)?, &self.0.name, call)
            .ok_or_else(|| self.failure(OPERATION).garbage(&body))
    }
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

/// Reads the events of one stream.
struct StreamReader {
    provider: OpenAiProvider,
    operation: &'static str,
    model: String,
    response: Response,
    parser: SseParser,
    assembler: Assembler,
    read_bytes: usize,
    texts: Vec<String>,
    pending: VecDeque<Result<ProviderEvent>>,
    ended: bool,
}

impl StreamReader {
    async fn next(&mut self) -> Option<Result<ProviderEvent>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            match self.provider.timed(self.operation, self.response.chunk()).await {
                Ok(Some(bytes)) => self.take(&bytes),
                Ok(None) => self.end_of_body(),
                Err(error) => self.fail(error),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let max_bytes = self.provider.0.max_response_bytes;
        self.read_bytes += bytes.len();
        let mut texts = std::mem::take(&mut self.texts);
        let parsed = self.parser.push(bytes, &mut texts);
        for text in texts.drain(..) {
            if !self.ended {
                self.event(&text);
            }
        }
        self.texts = texts;
        if self.ended {
            return;
        }
        let failure = self.provider.failure(self.operation);
        match parsed {
            Err(SseError::TooLarge) => self.fail(failure.too_large(max_bytes)),
            Err(SseError::NotUtf8) => self.fail(failure.garbage(bytes)),
            Ok(()) if self.read_bytes > max_bytes => self.fail(failure.too_large(max_bytes)),
            Ok(()) => {}
        }
    }

    fn event(&mut self, text: &str) {
        if text == DONE {
            return self.done(true);
        }
        let failure = self.provider.failure(self.operation);
        let Ok(event) = serde_json::from_str::<Map<String, Value>>(text) else {
            return self.fail(failure.garbage(text.as_bytes()));
        };
        if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
            return self.fail(failure.reported(error));
        }
        match self.assembler.push(event) {
            Ok(Some(delta)) => self.pending.push_back(Ok(ProviderEvent::Delta(delta))),
            Ok(None) => {}
            Err(()) => self.fail(failure.garbage(text.as_bytes())),
        }
    }

    /// Some servers close the connection instead of saying that they are done. Who said why the answer ends is believed,
    /// but the answer is not kept.
    fn end_of_body(&mut self) {
        match self.assembler.finish_reason() {
            Some(_) => self.done(false),
            None => self.fail(self.provider.failure(self.operation).cut_off()),
        }
    }

    fn done(&mut self, terminated: bool) {
        if self.assembler.is_empty() {
            return self.fail(self.provider.failure(self.operation).cut_off());
        }
        self.ended = true;
        let answer = std::mem::take(&mut self.assembler).finish(&self.provider.0.name, &self.model, terminated);
        self.pending.push_back(Ok(ProviderEvent::Done(Completion::new(answer))));
    }

    fn fail(&mut self, error: Error) {
        self.ended = true;
        self.pending.push_back(Err(error));
    }
}

fn encode(operation: &'static str, body: &Map<String, Value>) -> Result<Vec<u8>> {
    serde_json::to_vec(body)
        .map_err(|error| Error::new(ErrorKind::Internal, operation, "the body cannot be written").with_source(error))
}

fn base_url(path: &str, text: &str) -> Result<Url> {
    let path = format!("{path}.base_url");
    let expanded = expand(&path, text)?;
    let wrong = |what: &str| Err(Error::invalid_config(&path, what));
    let url =
        AddressPolicy::AllowPrivate.url(expanded.expose()).map_err(|wrong| Error::invalid_config(&path, wrong))?;
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("must not hold a credential; `api_key` and `headers` are for that");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong("must not hold a query or a fragment");
    }
    Ok(url)
}

fn secret_header(path: &str, text: &str) -> Result<HeaderValue> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_| Error::invalid_config(path, "holds a character that no header may"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Replaces each `${NAME}` by that environment variable.
fn expand(path: &str, text: &str) -> Result<Secret> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, after)) = after.split_once('}') else { break };
        let value = std::env::var(name).map_err(|_| {
            Error::invalid_config(path, format!("names the environment variable {name}, which is not set"))
        })?;
        expanded += before;
        expanded += &value;
        rest = after;
    }
    Ok(Secret::new(expanded + rest))
}

impl fmt::Debug for OpenAiProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiProvider").field("name", &self.0.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemClock;

    fn build(config: &ProviderConfig) -> Result<OpenAiProvider> {
        OpenAiProvider::new("chat.providers[0]", config, 1 << 20, Arc::new(SystemClock::default()))
    }

    #[test]
    fn an_address_or_variable_that_cannot_be_used_is_named() {
        let field = |config: ProviderConfig| build(&config).unwrap_err().get("field").unwrap().to_owned();
        for url in ["", "host/v1", "ftp://host", "http://user:pw@host", "http://host?x=1"] {
            assert_eq!(field(ProviderConfig::openai("a", url)), "chat.providers[0].base_url", "{url}");
        }
        let unset = ProviderConfig::openai("a", "http://h").api_key("${SOPHIA_TEST_NOT_SET}");
        assert_eq!(
            build(&unset).unwrap_err().message(),
            "`chat.providers[0].api_key` names the environment variable SOPHIA_TEST_NOT_SET, which is not set"
        );
        assert_eq!(field(ProviderConfig::openai("a", "http://h").api_key("a\nb")), "chat.providers[0].api_key");
    }

    #[test]
    fn variables_are_expanded_and_secrets_are_not_shown() {
        // Cargo sets it for every test.
        let name = expand("x", "<${CARGO_PKG_NAME}>").unwrap();
        assert_eq!(name.expose(), "<sophia-core>");
        let provider = build(&ProviderConfig::openai("a", "http://h/v1/").api_key("sk-1")).unwrap();
        assert!(!format!("{provider:?} {:?}", provider.0.headers).contains("sk-1"));
        assert_eq!(provider.url("/models"), "http://h/v1/models");
    }
}
