//! MCP sessions: one for each server, shared by all its callers, started by the first of them, started again when it ends.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{FutureExt, future::BoxFuture, future::Shared};
use parking_lot::Mutex;
use reqwest::{
    StatusCode,
    header::{HeaderName, HeaderValue},
};
use rmcp::{
    ServiceError,
    model::{
        CallToolRequestParams, ClientCapabilities, ClientConfig, ClientRequest, DiscoverRequest, DiscoverRequestParams,
        ErrorCode, Implementation, PingRequest, ProtocolVersion,
    },
    service::{ClientInitializeError, ClientLifecycleMode, ClientServiceExt, RoleClient, RunningService},
    transport::{
        DynamicTransportError, StreamableHttpClientTransport,
        streamable_http_client::{StreamableHttpClientTransportConfig, StreamableHttpError},
        worker::WorkerQuitReason,
    },
};
use serde_json::{Map, Value};
use tokio::{runtime::Handle, task::AbortHandle};

use super::{
    Answer, Blame, Clients, Failure, Outcome, http,
    pipe::{Pipe, TOO_LARGE},
    renewing::RenewingClient,
    rest,
    stdio::Process,
};
use crate::{
    Error, ErrorKind, Result,
    registry::{
        directory::Entry,
        server::{Server, Transport},
        tools::Tool,
        variables,
    },
    resilience::Deadline,
};

/// Ordinary posts of one HTTP session at once; the library's own default of 16 is a queue under load.
pub(crate) const MAX_POSTS: usize = 256;
/// Path that most frameworks serve MCP under, tried where a server's URL has none.
const USUAL_PATH: &str = "/mcp";

/// The session of one server, or its absence.
#[derive(Default)]
pub(crate) struct Link {
    state: Mutex<State>,
    starts: AtomicU64,
    /// What the last session has shown, so that the next start need not find out.
    era: Mutex<Option<Era>>,
}

/// How a server begins a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Era {
    /// With `initialize`.
    Legacy,
    /// With `server/discover`, from revision 2026-07-28 on.
    Modern,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Starting {
        id: u64,
        session: Shared<BoxFuture<'static, Result<Arc<Session>>>>,
        abort: AbortHandle,
    },
    Running(Arc<Session>),
    /// The server was deregistered: nothing is started for it any more.
    Ended,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &*self.state.lock() {
            State::Idle => "idle",
            State::Starting { .. } => "starting",
            State::Running(_) => "running",
            State::Ended => "ended",
        };
        f.debug_tuple("Link").field(&state).finish()
    }
}

impl Link {
    /// Returns the session, starting it if it is not there. The start belongs to all who wait, not to the first.
    async fn session(
        self: &Arc<Self>,
        operation: &'static str,
        server: &Arc<Server>,
        clients: &Arc<Clients>,
    ) -> Result<Arc<Session>> {
        let starting = {
            let mut state = self.state.lock();
            // A shutdown closes first and takes the sessions then, so that none is started behind its back.
            clients.open(operation)?;
            match &*state {
                State::Ended => {
                    let message = format!("`{}` was deregistered meanwhile", server.id);
                    return Err(Error::new(ErrorKind::Conflict, operation, message));
                }
                State::Running(session) if !session.is_closed() => return Ok(session.clone()),
                State::Starting { session, .. } => session.clone(),
                _ => {
                    let (id, session, abort) = self.start(operation, server, clients)?;
                    *state = State::Starting { id, session: session.clone(), abort };
                    session
                }
            }
        };
        starting.await
    }

    #[allow(clippy::type_complexity, reason = "the parts of State::Starting")]
    fn start(
        self: &Arc<Self>,
        operation: &'static str,
        server: &Arc<Server>,
        clients: &Arc<Clients>,
    ) -> Result<(u64, Shared<BoxFuture<'static, Result<Arc<Session>>>>, AbortHandle)> {
        let runtime = Handle::try_current()
            .map_err(|_| Error::new(ErrorKind::Internal, operation, "called outside a tokio runtime"))?;
        let id = self.starts.fetch_add(1, Ordering::Relaxed);
        let (link, server, clients) = (self.clone(), server.clone(), clients.clone());
        let task = runtime.spawn(async move {
            let deadline = Deadline::after(clients.config.start_timeout);
            let started = deadline.run(operation, connect(operation, &server, &clients, &link.era)).await;
            let started = started.map(Arc::new).map_err(|error| error.with("server", &server.id));
            let mut state = link.state.lock();
            if matches!(*state, State::Starting { id: current, .. } if current == id) {
                *state = started.as_ref().map_or(State::Idle, |session| State::Running(session.clone()));
            } else if let Ok(session) = &started {
                // Nobody wants it any more.
                session.end();
            }
            started
        });
        let abort = task.abort_handle();
        let session = async move {
            task.await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Cancelled, operation, "the start was stopped by a shutdown"))
            })
        };
        Ok((id, session.boxed().shared(), abort))
    }

    /// Lets the session go: it ends when the calls on it have ended.
    pub(crate) fn release(&self) {
        if let State::Starting { abort, .. } = std::mem::take(&mut *self.state.lock()) {
            abort.abort();
        }
    }

    /// Ends the session for good, with the calls on it, without waiting for its process to go.
    pub(crate) fn abandon(&self) {
        match std::mem::replace(&mut *self.state.lock(), State::Ended) {
            State::Idle | State::Ended => {}
            State::Starting { abort, .. } => abort.abort(),
            State::Running(session) => session.end(),
        }
    }

    /// Ends the session, and waits until its process is gone. A later call starts a new one.
    pub(crate) async fn close(&self) {
        let state = std::mem::take(&mut *self.state.lock());
        match state {
            State::Idle | State::Ended => {}
            State::Starting { session, abort, .. } => {
                abort.abort();
                // It may have come up in this very moment.
                if let Ok(session) = session.await {
                    session.close().await;
                }
            }
            State::Running(session) => session.close().await,
        }
    }
}

/// A live connection, with the process behind it if there is one.
#[derive(Debug)]
struct Session {
    service: RunningService<RoleClient, ClientConfig>,
    process: Option<Process>,
}

impl Session {
    fn is_closed(&self) -> bool {
        self.service.is_closed() || self.service.is_transport_closed()
    }

    /// Ends it, without waiting for its process to go.
    fn end(&self) {
        // Closes the input of the process, which is how it is asked to leave.
        self.service.cancellation_token().cancel();
        if let Some(process) = &self.process {
            process.ask_to_leave();
        }
    }

    async fn close(&self) {
        self.end();
        if let Some(process) = &self.process {
            process.gone().await;
        }
    }

    /// Turns what the library says into whose fault it is.
    async fn failure(&self, operation: &'static str, server: &Server, error: ServiceError) -> Failure {
        let make = |kind, message: String| Error::new(kind, operation, message).with("server", &server.id);
        match error {
            ServiceError::McpError(data) if data.code == TOO_LARGE => {
                let message = format!("`{}` answered with {}", server.id, data.message);
                Failure { error: make(ErrorKind::Unavailable, message), blame: Blame::Call, sent: true }
            }
            ServiceError::McpError(data) => {
                let message = format!("`{}` answered {}: {}", server.id, data.code.0, http::excerpt(&data.message));
                let (kind, blame) = match data.code {
                    ErrorCode::INVALID_PARAMS | ErrorCode::INVALID_REQUEST => {
                        (ErrorKind::InvalidInput, Blame::Arguments)
                    }
                    ErrorCode::METHOD_NOT_FOUND | ErrorCode::RESOURCE_NOT_FOUND => {
                        (ErrorKind::NotFound, Blame::Arguments)
                    }
                    ErrorCode::PARSE_ERROR => (ErrorKind::Unavailable, Blame::Server),
                    _ => (ErrorKind::Unavailable, Blame::Call),
                };
                Failure { error: make(kind, message).with("jsonrpc_code", data.code.0), blame, sent: true }
            }
            ServiceError::TransportSend(error) if self.process.is_none() => {
                transport_failure(operation, server, &error)
            }
            ServiceError::TransportSend(_) | ServiceError::TransportClosed | ServiceError::Cancelled { .. } => {
                let how = match &self.process {
                    Some(process) => process.last_words().await,
                    None => "the connection was closed".to_owned(),
                };
                Failure::server(make(ErrorKind::Unavailable, format!("`{}` went away: {how}", server.id)), true)
            }
            ServiceError::InputRequiredRoundsExceeded { .. } => {
                let message = format!("`{}` asks for input that only a person can give", server.id);
                Failure::arguments(make(ErrorKind::Unsupported, message))
            }
            other => Failure::server(
                make(ErrorKind::Unavailable, format!("`{}` answered what cannot be read: {other}", server.id)),
                true,
            ),
        }
    }
}

/// Calls a tool.
pub(crate) async fn call(
    clients: &Arc<Clients>,
    entry: &Entry,
    tool: &str,
    arguments: &Map<String, Value>,
    deadline: Deadline,
) -> Outcome<Answer> {
    let params = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments.clone());
    let result = exchange("registry.call", clients, entry, deadline, async |session: &Session| {
        session.service.call_tool(params).await
    })
    .await?;
    let content = result.content.iter().filter_map(|block| serde_json::to_value(block).ok()).collect();
    Ok(Answer { content, data: result.structured_content, is_error: result.is_error.unwrap_or(false) })
}

/// Lists all tools, page by page.
pub(crate) async fn list_tools(clients: &Arc<Clients>, entry: &Entry, deadline: Deadline) -> Outcome<Vec<Tool>> {
    let tools = exchange("registry.list_tools", clients, entry, deadline, async |session: &Session| {
        session.service.list_all_tools().await
    })
    .await?;
    let read = |tool| Tool::read(&entry.server.id, &serde_json::to_value(tool).ok()?);
    Ok(tools.iter().filter_map(read).collect())
}

/// Asks whether it is there; returns who it says that it is.
pub(crate) async fn ping(clients: &Arc<Clients>, entry: &Entry, deadline: Deadline) -> Outcome<String> {
    exchange("registry.check", clients, entry, deadline, async |session: &Session| {
        let peer = session.service.peer_info();
        // Revision 2026-07-28 has no ping.
        let is_legacy = peer.as_ref().is_none_or(|peer| peer.protocol_version.has_initialize());
        let request = if is_legacy {
            ClientRequest::PingRequest(PingRequest { method: Default::default(), extensions: Default::default() })
        } else {
            ClientRequest::DiscoverRequest(DiscoverRequest::new(DiscoverRequestParams {}))
        };
        match session.service.send_request(request).await {
            // A server that does not know the request is there to say so.
            Ok(_) | Err(ServiceError::McpError(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(peer.map_or_else(String::new, |peer| {
            let who =
                peer.server_info.as_ref().map(|who| format!("{} {}, ", who.name, who.version)).unwrap_or_default();
            format!("{who}MCP {}", peer.protocol_version)
        }))
    })
    .await
}

/// Runs one exchange on the session of a server, within the deadline.
async fn exchange<T>(
    operation: &'static str,
    clients: &Arc<Clients>,
    entry: &Entry,
    deadline: Deadline,
    work: impl AsyncFnOnce(&Session) -> Result<T, ServiceError>,
) -> Outcome<T> {
    let server = &entry.server;
    let late = |sent| Failure::server(deadline.passed(operation).with("server", &server.id), sent);
    let session =
        match tokio::time::timeout_at(deadline.instant(), entry.live.link.session(operation, server, clients)).await {
            Err(_) => return Err(late(false)),
            Ok(Err(error)) => {
                // A variable that is not set, a refused address, a rejected key and a server that was taken out meanwhile say
                // nothing about the server's health.
                let blame = match error.kind() {
                    ErrorKind::InvalidConfig
                    | ErrorKind::InvalidInput
                    | ErrorKind::Unauthorized
                    | ErrorKind::Conflict
                    | ErrorKind::Cancelled
                    | ErrorKind::Internal => Blame::Call,
                    _ => Blame::Server,
                };
                return Err(Failure { error, blame, sent: false });
            }
            Ok(Ok(session)) => session,
        };
    match tokio::time::timeout_at(deadline.instant(), work(&session)).await {
        Err(_) => Err(late(true)),
        Ok(Err(error)) => Err(session.failure(operation, server, error).await),
        Ok(Ok(value)) => Ok(value),
    }
}

/// Starts a session: the process first, if it has one, then the handshake of whichever era the server is of.
async fn connect(
    operation: &'static str,
    server: &Server,
    clients: &Arc<Clients>,
    era: &Mutex<Option<Era>>,
) -> Result<Session> {
    let known = *era.lock();
    let session = match connect_as(operation, server, clients, known).await {
        // Some older servers leave at the first word that they do not know.
        Err(Refused::Left(_)) if known != Some(Era::Legacy) => {
            connect_as(operation, server, clients, Some(Era::Legacy)).await
        }
        // It was only slow to say that it is of the new era.
        Err(Refused::Slow(_)) => connect_as(operation, server, clients, Some(Era::Modern)).await,
        other => other,
    };
    let shown = session.as_ref().ok().map(|session| {
        let is_legacy = session.service.peer_info().is_some_and(|peer| peer.protocol_version.has_initialize());
        if is_legacy { Era::Legacy } else { Era::Modern }
    });
    *era.lock() = shown;
    session.map_err(Refused::into_error)
}

/// Why there is no session.
enum Refused {
    /// The server closed the connection during the handshake.
    Left(Error),
    /// The server answered `server/discover`, but only after it had been asked to `initialize`.
    Slow(Error),
    Otherwise(Error),
}

impl Refused {
    fn into_error(self) -> Error {
        match self {
            Refused::Left(error) | Refused::Slow(error) | Refused::Otherwise(error) => error,
        }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::Otherwise(error)
    }
}

async fn connect_as(
    operation: &'static str,
    server: &Server,
    clients: &Arc<Clients>,
    era: Option<Era>,
) -> Result<Session, Refused> {
    let who =
        ClientConfig::new(ClientCapabilities::default(), Implementation::new("sophia", env!("CARGO_PKG_VERSION")))
            .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE);
    let mode = if era == Some(Era::Legacy) {
        ClientLifecycleMode::Initialize
    } else {
        ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::LATEST],
            legacy_version: Some(ProtocolVersion::LATEST_WITH_INITIALIZE),
        }
    };
    if server.transport() == Some(Transport::Stdio) {
        let (process, stdout, stdin) = Process::start(operation, server, clients)?;
        let pipe = Pipe::new(stdout, stdin, clients.config.max_answer_bytes);
        let pipe = if era.is_none() { pipe.probing() } else { pipe };
        let answered_late = pipe.answered_late();
        return match who.serve_with_lifecycle(pipe, mode).await {
            Ok(service) => Ok(Session { service, process: Some(process) }),
            Err(error) => {
                let how = process.last_words().await;
                let left = matches!(
                    error,
                    ClientInitializeError::ConnectionClosed(_) | ClientInitializeError::TransportError { .. }
                );
                let why = if left { String::new() } else { format!("{}; ", http::excerpt(&error.to_string())) };
                let message = format!("`{}` did not start: {why}{how}", server.id);
                let error = Error::new(ErrorKind::Unavailable, operation, message)
                    .with("command", server.command.as_deref().unwrap_or_default());
                Err(match left {
                    _ if answered_late.load(Ordering::Relaxed) => Refused::Slow(error),
                    true => Refused::Left(error),
                    false => Refused::Otherwise(error),
                })
            }
        };
    }
    let url = rest::base(clients, operation, server)?;
    let client = RenewingClient::new(clients.http.get(operation, &url)?);
    let headers = headers(operation, server)?;
    let mut urls = vec![url.clone()];
    if url.path() == "/" {
        let mut usual = url;
        usual.set_path(USUAL_PATH);
        urls.insert(0, usual);
    }
    let mut last = None;
    for url in urls {
        let config = StreamableHttpClientTransportConfig::with_uri(url.as_str())
            .max_concurrent_requests(MAX_POSTS)
            .custom_headers(headers.clone());
        let transport = StreamableHttpClientTransport::with_client(client.clone(), config);
        match who.clone().serve_with_lifecycle(transport, mode.clone()).await {
            Ok(service) => return Ok(Session { service, process: None }),
            Err(error) => {
                let failure = initialize_failure(operation, server, &error);
                let elsewhere = matches!(failure.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput);
                last = Some(failure);
                if !elsewhere {
                    break;
                }
            }
        }
    }
    let message = format!("`{}` has no address", server.id);
    Err(last.unwrap_or_else(|| Error::new(ErrorKind::Internal, operation, message)).into())
}

fn headers(operation: &'static str, server: &Server) -> Result<HashMap<HeaderName, HeaderValue>> {
    let auth = server.auth.as_ref().map(|token| ("authorization".to_owned(), format!("Bearer {}", token.expose())));
    let named = server.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned()));
    named
        .chain(auth)
        .map(|(name, value)| {
            let value = variables::from_environment(operation, "headers", &value)?;
            let wrong = || Error::invalid(operation, "headers", format!("holds what HTTP cannot send as `{name}`"));
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            let mut value = HeaderValue::from_str(&value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            Ok((key, value))
        })
        .collect()
}

fn initialize_failure(operation: &'static str, server: &Server, error: &ClientInitializeError) -> Error {
    match error {
        ClientInitializeError::TransportError { error, .. } => transport_failure(operation, server, error).error,
        ClientInitializeError::LegacyFallbackFailed { fallback, .. } => initialize_failure(operation, server, fallback),
        other => {
            let message = format!("`{}` did not shake hands: {}", server.id, http::excerpt(&other.to_string()));
            Error::new(ErrorKind::Unavailable, operation, message)
        }
    }
}

/// Finds the HTTP failure in what the transport reports.
fn transport_failure(operation: &'static str, server: &Server, error: &DynamicTransportError) -> Failure {
    type HttpError = StreamableHttpError<reqwest::Error>;
    let inner = error.error.as_ref();
    let inner = match inner.downcast_ref::<WorkerQuitReason<HttpError>>() {
        Some(WorkerQuitReason::Fatal { error, .. }) => Some(error),
        _ => inner.downcast_ref::<HttpError>(),
    };
    let make =
        |kind, why: &str| Error::new(kind, operation, format!("`{}` {why}", server.id)).with("server", &server.id);
    let Some(inner) = inner else {
        return Failure::server(
            make(ErrorKind::Unavailable, &format!("failed: {}", http::excerpt(&error.to_string()))),
            true,
        );
    };
    if let Some(status) = status_of(inner) {
        let kind = http::kind_of(status);
        let error = make(kind, &format!("answered {}", status.as_u16()));
        return match kind {
            ErrorKind::Unauthorized | ErrorKind::RateLimited => Failure::call(error),
            _ => Failure::server(error, true),
        };
    }
    match inner {
        HttpError::AuthRequired(_) | HttpError::InsufficientScope(_) => {
            Failure::call(make(ErrorKind::Unauthorized, "refused our credentials"))
        }
        HttpError::Client(error) => {
            let what = if error.is_connect() { "cannot be reached" } else { "broke off" };
            let message = format!("{what}: {}", http::cause(error));
            Failure::server(make(ErrorKind::Unavailable, &message), !error.is_connect())
        }
        other => {
            let message = format!("failed: {}", http::excerpt(&other.to_string()));
            Failure::server(make(ErrorKind::Unavailable, &message), true)
        }
    }
}

/// Returns the HTTP status behind a failure; for most of them, the library keeps it in the text only.
fn status_of(error: &StreamableHttpError<reqwest::Error>) -> Option<StatusCode> {
    let code = match error {
        StreamableHttpError::Client(error) => return error.status(),
        StreamableHttpError::SessionExpired => return Some(StatusCode::NOT_FOUND),
        StreamableHttpError::HttpStatus(error) => error.status,
        StreamableHttpError::UnexpectedServerResponse(text) => text.strip_prefix("HTTP ")?.get(..3)?.parse().ok()?,
        _ => return None,
    };
    StatusCode::from_u16(code).ok()
}
