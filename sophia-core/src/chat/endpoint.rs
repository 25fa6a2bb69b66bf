//! HTTP to one server of models, whatever protocol it speaks.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use reqwest::{
    Client, Method, Request, Response, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde_json::{Map, Value};

use super::{
    config::{ProviderConfig, ProviderKind},
    dialect::asker,
    failure::{Failure, is_failure},
    key,
    provider::{Completion, ProviderCall, ProviderEvent, ProviderStream},
    response::{Answer, Delta},
    sse::{SseError, SseEvent, SseParser},
};
use crate::{
    Clock, Error, ErrorKind, Result, Secret,
    http_client::{AddressPolicy, Connections, HttpClient, HttpOptions, Proxy, is_local},
};

/// How much of a failure's body is read, in bytes.
const MAX_FAILURE_BYTES: usize = 64 << 10;
/// Shorter values of headers are words that hide nothing, such as a version.
const MIN_SECRET_BYTES: usize = 4;
/// Whole bodies, and those that come in events.
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
/// Version of Anthropic's protocol that is spoken, unless `headers` says another.
const ANTHROPIC_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

/// One server of models, and how it is reached. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Endpoint(Arc<Shared>);

struct Shared {
    name: String,
    base_url: Url,
    /// What must not be told of what the server says: the key, and the values of configured headers.
    secrets: Vec<Secret>,
    headers: HeaderMap,
    timeout: Duration,
    max_response_bytes: usize,
    clock: Arc<dyn Clock>,
    fingerprint: [u8; 32],
    /// Built by the first use, dropped by a shutdown.
    client: HttpClient,
}

/// What an event of a stream means.
pub(crate) enum Heard {
    /// Nothing that anybody waits for.
    Nothing,
    /// A further part.
    Delta(Delta),
    /// The protocol's last event.
    End,
    /// The same, with a further part.
    Last(Delta),
    /// The provider reports a failure.
    Failed(Value),
    /// It is not of the protocol.
    Garbage,
}

/// Reads the answers of one protocol: whole ones, and those that are put together out of events.
pub(crate) trait Assemble: Default + Send + 'static {
    /// Field of a body that holds the answer.
    const ANSWER: &'static str;
    /// What is said of a body in which that field holds none.
    const NO_ANSWER: &'static str;

    /// Begins the answer to a call.
    fn begin(_call: &ProviderCall) -> Self {
        Self::default()
    }

    /// Reads a whole answer out of the fields of a body; `None` where they hold none.
    fn read(body: Map<String, Value>, provider: &str, model: &str) -> Option<Answer>;

    /// Reads a whole answer out of the text of a body, where there is a way to it that is shorter than its fields.
    fn read_text(_body: &Bytes, _provider: &str, _model: &str) -> Option<Answer> {
        None
    }

    /// Returns an integer of a body that an answer would not hold as the model said it.
    fn lost(_body: &Bytes) -> Option<&str> {
        None
    }

    /// Takes the data of one event.
    fn hear(&mut self, data: &str) -> Heard;

    /// Returns whether an answer may be taken as given where the body ends without the protocol's last event. It is not
    /// kept.
    fn has_finished(&self) -> bool;

    /// Returns the answer; `None` where nothing of one was heard.
    fn into_answer(self, provider: &str, model: &str, terminated: bool) -> Option<Answer>;
}

impl Endpoint {
    /// Sets it up; nothing is opened. `path` is where its configuration stands.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for an address, header or environment variable that cannot be used.
    pub fn new(
        path: &str,
        config: &ProviderConfig,
        max_response_bytes: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Endpoint> {
        let base_url = base_url(path, config.base_url())?;
        let api_key = match &config.api_key {
            Some(key) => Some(expand(&format!("{path}.api_key"), key.expose())?),
            None => None,
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, JSON);
        let key_path = format!("{path}.api_key");
        match (config.kind, &api_key) {
            (ProviderKind::Anthropic, key) => {
                headers.insert("anthropic-version", ANTHROPIC_VERSION);
                if let Some(key) = key {
                    headers.insert("x-api-key", secret_header(&key_path, key.expose())?);
                }
            }
            (_, Some(key)) => {
                let value = secret_header(&key_path, &format!("Bearer {}", key.expose()))?;
                headers.insert(AUTHORIZATION, value);
            }
            (_, None) => {}
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
        let api_key_text = api_key.as_ref().map(Secret::expose);
        let fingerprint = key::of_provider(config.kind.name(), base_url.as_str(), api_key_text, &identity);
        let values = identity.iter().map(|(_, value)| Secret::new(*value));
        let secrets = values.chain(api_key).filter(|secret| secret.expose().len() >= MIN_SECRET_BYTES).collect();
        let client = HttpClient::new(HttpOptions {
            addresses: AddressPolicy::AllowPrivate,
            proxy: if is_local(&base_url) { Proxy::None } else { Proxy::System },
            connections: Connections::Pooled,
        });
        Ok(Endpoint(Arc::new(Shared {
            name: config.name.clone(),
            base_url,
            secrets,
            headers,
            timeout: config.timeout,
            max_response_bytes,
            clock,
            fingerprint,
            client,
        })))
    }

    /// Returns the configured name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns an identity that changes when another server or another account would answer.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.0.fingerprint
    }

    /// Returns the name of the server, empty where the address has none.
    pub fn host(&self) -> &str {
        self.0.base_url.host_str().unwrap_or_default()
    }

    /// Returns the port of the server.
    pub fn port(&self) -> Option<u16> {
        self.0.base_url.port_or_known_default()
    }

    /// Drops the pooled connections.
    pub fn close(&self) {
        self.0.client.close();
    }

    /// Makes errors about this server.
    pub fn failure(&self, operation: &'static str) -> Failure<'_> {
        Failure { operation, provider: &self.0.name, secrets: &self.0.secrets }
    }

    /// Asks, and returns the response once it is known to be a success.
    pub async fn get(&self, operation: &'static str, url: Url) -> Result<Response> {
        self.send(operation, url, None, HeaderMap::new(), JSON).await
    }

    /// Sends a body, and returns the response once it is known to be a success. `more` are headers of this request.
    pub async fn post(
        &self,
        operation: &'static str,
        url: Url,
        body: &Map<String, Value>,
        more: HeaderMap,
    ) -> Result<Response> {
        let streamed = body.get("stream") == Some(&Value::Bool(true));
        let accept = if streamed { EVENTS } else { JSON };
        self.send(operation, url, Some(encode(operation, body)?), more, accept).await
    }

    async fn send(
        &self,
        operation: &'static str,
        url: Url,
        body: Option<Vec<u8>>,
        more: HeaderMap,
        accept: HeaderValue,
    ) -> Result<Response> {
        let client = self.client(operation)?;
        let mut request = Request::new(if body.is_some() { Method::POST } else { Method::GET }, url);
        *request.body_mut() = body.map(Into::into);
        let headers = request.headers_mut();
        headers.clone_from(&self.0.headers);
        // What is of this request stands in place of what is configured.
        headers.extend(more);
        headers.insert(ACCEPT, accept);
        let response = self.timed(operation, client.execute(request)).await?;
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

    /// Reads an object, unless it is an error; `answer` is a field that an answer has.
    pub async fn object(
        &self,
        operation: &'static str,
        response: Response,
        answer: &str,
    ) -> Result<Map<String, Value>> {
        let body = self.read(operation, response, self.0.max_response_bytes).await?;
        self.fields(operation, &body, answer)
    }

    fn fields(&self, operation: &'static str, body: &[u8], answer: &str) -> Result<Map<String, Value>> {
        let Ok(object) = serde_json::from_slice::<Map<String, Value>>(body) else {
            return Err(self.failure(operation).garbage(body));
        };
        match object.get("error") {
            Some(error) if is_failure(error) => Err(self.failure(operation).reported(error)),
            _ if object.contains_key(answer) => Ok(object),
            _ => Err(self.failure(operation).garbage(body)),
        }
    }

    /// Reads a whole answer.
    pub async fn answer<A: Assemble>(&self, call: &ProviderCall, response: Response) -> Result<Completion> {
        let body = Bytes::from(self.read(call.operation, response, self.0.max_response_bytes).await?);
        if let Some(answer) = A::read_text(&body, self.name(), &call.model) {
            return Ok(Completion::new(answer));
        }
        let text = body;
        let mut body = self.fields(call.operation, &text, A::ANSWER)?;
        if let Some(integer) = A::lost(&text) {
            return Err(self.failure(call.operation).lost(integer));
        }
        asker::take_out(&mut body, &call.body);
        let garbage = || self.failure(call.operation).garbage(A::NO_ANSWER.as_bytes());
        A::read(body, self.name(), &call.model).map(Completion::new).ok_or_else(garbage)
    }

    /// Reads a streamed answer, also of a server that was asked for a stream and has answered at once.
    pub async fn stream<A: Assemble>(&self, call: &ProviderCall, response: Response) -> Result<ProviderStream> {
        match is_whole(&response) {
            true => Ok(stream_of(self.answer::<A>(call, response).await?)),
            false => Ok(self.events::<A>(call, response)),
        }
    }

    fn events<A: Assemble>(&self, call: &ProviderCall, response: Response) -> ProviderStream {
        let reader = StreamReader {
            endpoint: self.clone(),
            operation: call.operation,
            model: call.model.clone(),
            response,
            parser: SseParser::new(self.0.max_response_bytes),
            assembler: A::begin(call),
            read_bytes: 0,
            events: Vec::new(),
            pending: VecDeque::new(),
            ended: false,
        };
        stream::unfold(reader, |mut reader| async move { Some((reader.next().await?, reader)) }).boxed()
    }

    fn client(&self, operation: &'static str) -> Result<Client> {
        self.0.client.get(operation, &self.0.base_url)
    }

    /// Returns where something is, such as `"/models"`.
    pub fn url(&self, path: &str) -> Url {
        let mut url = self.0.base_url.clone();
        url.set_path(&format!("{}{path}", self.0.base_url.path().trim_end_matches('/')));
        url
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
}

/// Returns whether a server that was asked for a stream has answered at once.
fn is_whole(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.starts_with("application/json")
}

/// Returns an answer that came at once as a stream.
fn stream_of(completion: Completion) -> ProviderStream {
    let deltas = super::dialect::replay(&completion.answer).into_iter().map(ProviderEvent::Delta);
    let events: Vec<_> = deltas.chain([ProviderEvent::Done(completion)]).map(Ok).collect();
    stream::iter(events).boxed()
}

/// Reads the events of one stream.
struct StreamReader<A> {
    endpoint: Endpoint,
    operation: &'static str,
    model: String,
    response: Response,
    parser: SseParser,
    assembler: A,
    read_bytes: usize,
    events: Vec<SseEvent>,
    pending: VecDeque<Result<ProviderEvent>>,
    ended: bool,
}

impl<A: Assemble> StreamReader<A> {
    async fn next(&mut self) -> Option<Result<ProviderEvent>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            match self.endpoint.timed(self.operation, self.response.chunk()).await {
                Ok(Some(bytes)) => self.take(&bytes),
                Ok(None) => self.end_of_body(),
                Err(error) => self.fail(error),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let max_bytes = self.endpoint.0.max_response_bytes;
        self.read_bytes += bytes.len();
        let mut events = std::mem::take(&mut self.events);
        let parsed = self.parser.push(bytes, &mut events);
        for event in events.drain(..) {
            if !self.ended {
                self.event(&event);
            }
        }
        self.events = events;
        if self.ended {
            return;
        }
        let failure = self.endpoint.failure(self.operation);
        match parsed {
            Err(SseError::TooLarge) => self.fail(failure.too_large(max_bytes)),
            Err(SseError::NotUtf8) => self.fail(failure.garbage(bytes)),
            Ok(()) if self.read_bytes > max_bytes => self.fail(failure.too_large(max_bytes)),
            Ok(()) => {}
        }
    }

    fn event(&mut self, event: &SseEvent) {
        let failure = self.endpoint.failure(self.operation);
        if event.is_error {
            return self.fail(failure.event(&event.data));
        }
        match self.assembler.hear(&event.data) {
            Heard::Nothing => {}
            Heard::Delta(delta) => self.pending.push_back(Ok(ProviderEvent::Delta(delta))),
            Heard::End => self.done(true),
            Heard::Last(delta) => {
                self.pending.push_back(Ok(ProviderEvent::Delta(delta)));
                self.done(true);
            }
            Heard::Failed(error) => self.fail(failure.reported(&error)),
            Heard::Garbage => self.fail(failure.garbage(event.data.as_bytes())),
        }
    }

    /// Some servers close the connection instead of saying that they are done. Who said why the answer ends is believed,
    /// but the answer is not kept.
    fn end_of_body(&mut self) {
        match self.assembler.has_finished() {
            true => self.done(false),
            false => self.fail(self.endpoint.failure(self.operation).cut_off()),
        }
    }

    fn done(&mut self, terminated: bool) {
        let answer = std::mem::take(&mut self.assembler).into_answer(self.endpoint.name(), &self.model, terminated);
        match answer {
            Some(answer) => {
                self.ended = true;
                self.pending.push_back(Ok(ProviderEvent::Done(Completion::new(answer))));
            }
            None => self.fail(self.endpoint.failure(self.operation).cut_off()),
        }
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

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("name", &self.0.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemClock;

    fn build(config: &ProviderConfig) -> Result<Endpoint> {
        Endpoint::new("chat.providers[0]", config, 1 << 20, Arc::new(SystemClock::default()))
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
        assert_eq!(provider.url("/models").as_str(), "http://h/v1/models");
    }
}
