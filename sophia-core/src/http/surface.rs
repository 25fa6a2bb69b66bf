//! The surface: takes a request, lets it in or not, finds its route and answers.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::{
    body::HttpBody as _,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{
    Body, Peer, ServerConfig,
    call::{ADMIN_NEEDED, Call, read_query},
    caller::{Access, Caller},
    exposed,
    guard::{AllowedOrigin, Guard},
    live::{self, Live},
    openapi,
    reply::{Dialect, Failure, JSON, bytes_response, json_response},
    routes::{self, Action, Match, Route},
};
use crate::{
    Error, ErrorKind, Result, Sophia,
    telemetry::{EndpointLabels, RequestLabels},
};

/// An answer: status, headers, and a [`Body`] to read.
pub type Response = axum::http::Response<Body>;

/// Longest wait for a body: whoever sends slower keeps a place from others.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of a body that nobody reads is read and dropped, in bytes: more than any client sends before it reads its answer.
const MAX_DROPPED_BYTES: usize = 64 << 20;
/// Longest time in which it is, and longest wait for more of it.
const DROP_TIMEOUT: Duration = Duration::from_secs(10);
const DROP_PATIENCE: Duration = Duration::from_secs(1);
/// Longest wait for what readiness asks: below the second after which most orchestrators give up.
const READY_TIMEOUT: Duration = Duration::from_millis(800);
/// How long a browser may keep a preflight's answer, in seconds.
const PREFLIGHT_MAX_AGE_S: u64 = 600;
/// Longest request id that is taken over from the caller, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;
/// When to come back where all places are taken.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Type of OpenMetrics text, which Prometheus asks for and its clients write.
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ANTHROPIC_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// The HTTP surface of one engine. Cheap to clone; all clones share their limits.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sophia_core::Result<()> {
/// use axum::http::Request;
/// use sophia_core::{Config, Sophia, http::{Peer, Surface}};
///
/// let surface = Surface::new(Sophia::new(Config::default())?)?;
/// let request = Request::get("/healthz").body("").expect("a request");
/// assert_eq!(surface.handle(request, Peer::Local).await.status(), 200);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Surface(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sophia: Sophia,
    guard: Guard,
    permits: Arc<Semaphore>,
    keeping: Arc<Semaphore>,
    max_body_bytes: usize,
    openapi: OnceLock<Bytes>,
}

/// What a request came through the door with.
struct Admitted {
    caller: Caller,
    permit: Option<OwnedSemaphorePermit>,
}

impl Surface {
    /// Creates the surface of an engine, with the `server` section of its configuration.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`], naming the path of the field.
    pub fn new(sophia: Sophia) -> Result<Surface> {
        let config = sophia.config().server.clone();
        Surface::with_config(sophia, &config)
    }

    /// Creates the surface of an engine with a configuration of its own.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`], naming the path of the field.
    pub fn with_config(sophia: Sophia, config: &ServerConfig) -> Result<Surface> {
        config.validate()?;
        Ok(Surface(Arc::new(Inner {
            guard: Guard::new(config),
            permits: Arc::new(Semaphore::new(config.max_concurrent)),
            keeping: Arc::new(Semaphore::new(config.max_concurrent)),
            max_body_bytes: config.max_body_bytes,
            openapi: OnceLock::new(),
            sophia,
        })))
    }

    /// Returns the engine behind the surface.
    pub fn sophia(&self) -> &Sophia {
        &self.0.sophia
    }

    /// Returns how many answers may be being kept at once, beyond their requests.
    pub(super) fn keeping(&self) -> &Arc<Semaphore> {
        &self.0.keeping
    }

    /// Answers a request. Failures are answers as well.
    ///
    /// The body of a request is taken only when its sender was let in and its route exists, up to `max_body_bytes`; what is not
    /// taken is read and dropped, or else the connection is closed after the answer.
    ///
    /// # Cancel safety
    /// Dropping the future, or the body of the answer, ends the work.
    pub async fn handle<B: Into<axum::body::Body>>(&self, request: Request<B>, peer: Peer) -> Response {
        let began = Instant::now();
        let (parts, body) = request.into_parts();
        let mut body = body.into();
        let request_id = request_id(&parts.headers);
        let path = parts.uri.path();
        let found = routes::find(&parts.method, path);
        let (endpoint, dialect) = match &found {
            // Models are listed for the clients of both.
            Match::Found(route, _) if route.dialect == Dialect::OpenAi && is_anthropic(&parts.headers) => {
                (route.path, Dialect::Anthropic)
            }
            Match::Found(route, _) => (route.path, route.dialect),
            _ if path.starts_with("/v1/") && is_anthropic(&parts.headers) => ("unmatched", Dialect::Anthropic),
            _ if path.starts_with("/v1/") => ("unmatched", Dialect::OpenAi),
            _ => ("unmatched", Dialect::Sophia),
        };
        let mut origin = None;
        let answer =
            self.answer(&parts.method, &parts.uri, &parts.headers, &mut body, peer, found, &request_id, &mut origin);
        let mut response = match answer.await {
            Ok(response) => response,
            Err(failure) => failure.into_response(dialect, &request_id),
        };
        finish(&mut response, &request_id, origin);
        if parts.method == Method::HEAD {
            *response.body_mut() = Body::default();
        }
        self.count(&parts.method, endpoint, response.status(), began.elapsed());
        if !drop_rest(&parts.headers, &mut body).await {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Answers a request given in parts, as the hosts of other languages have it.
    ///
    /// `target` is path and query. Malformed parts are answered with 400.
    pub async fn handle_parts(
        &self,
        method: &str,
        target: &str,
        headers: HeaderMap,
        body: Bytes,
        peer: Peer,
    ) -> Response {
        let parts = method.parse::<Method>().ok().zip(target.parse::<Uri>().ok());
        let Some((method, uri)) = parts else {
            let failure = Failure::from(Error::invalid("http", "request", "has a malformed method or path"));
            return failure.into_response(Dialect::Sophia, &request_id(&headers));
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        self.handle(request, peer).await
    }

    /// Opens a WebSocket's messages; the host does the handshake and sends each of them as a text frame.
    ///
    /// `target` is path and query. What the client sends means nothing, except that it closes.
    ///
    /// # Errors
    /// The answer to give instead of the handshake.
    #[allow(clippy::result_large_err, reason = "moved once, from here into the host")]
    pub fn live(&self, target: &str, headers: &HeaderMap, peer: Peer) -> Result<Live, Response> {
        let request_id = request_id(headers);
        self.open(target, headers, peer).map_err(|failure| {
            let mut response = failure.into_response(Dialect::Sophia, &request_id);
            finish(&mut response, &request_id, None);
            response
        })
    }

    fn open(&self, target: &str, headers: &HeaderMap, peer: Peer) -> Result<Live, Failure> {
        let uri: Uri = target.parse().map_err(|_| Error::invalid("http", "path", "is malformed"))?;
        self.0.guard.origin(&uri, headers)?;
        self.0.guard.authenticate(headers, peer)?;
        let Match::Found(Route { action: Action::Live(feed), .. }, _) = routes::find(&Method::GET, uri.path()) else {
            return Err(nothing(uri.path()));
        };
        let permit = self.permit()?;
        Ok(live::open(self.sophia(), *feed, headers, permit))
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one request, taken apart once")]
    async fn answer(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &mut axum::body::Body,
        peer: Peer,
        found: Match,
        request_id: &str,
        origin: &mut AllowedOrigin,
    ) -> Result<Response, Failure> {
        let open = matches!(&found, Match::Found(route, _) if route.access == Access::Open);
        let Admitted { caller, permit } = if open {
            // Whoever may read other answers may read this one.
            *origin = self.0.guard.origin(uri, headers).ok().flatten();
            Admitted { caller: Caller::nobody(), permit: None }
        } else {
            *origin = self.0.guard.origin(uri, headers)?;
            if *method == Method::OPTIONS {
                return Ok(preflight(headers, &found, origin.is_some()));
            }
            Admitted { caller: self.0.guard.authenticate(headers, peer)?, permit: Some(self.permit()?) }
        };
        let (route, path) = match found {
            Match::Found(route, path) => (route, path),
            Match::OtherMethods(methods) => return Err(other_methods(&methods)),
            Match::Nothing => return Err(nothing(uri.path())),
        };
        if route.access == Access::Admin && !caller.admin {
            return Err(Failure::forbidden(ADMIN_NEEDED, ("route", route.path.to_owned())));
        }
        let call = Call {
            surface: self.clone(),
            caller,
            path,
            query: read_query(uri.query().unwrap_or_default())?,
            headers: headers.clone(),
            body: self.read(headers, body).await?,
            request_id: request_id.to_owned(),
        };
        let response = match route.action {
            Action::Operation(name) => call.operation(name).await?,
            Action::Named => call.named_operation().await?,
            Action::Custom(answer) => answer(call).await?,
            Action::Live(_) => {
                let mut failure = Failure::new(
                    StatusCode::UPGRADE_REQUIRED,
                    ErrorKind::InvalidInput,
                    "this is a WebSocket: connect with `ws://`",
                );
                failure.header = Some((header::UPGRADE, HeaderValue::from_static("websocket")));
                return Err(failure);
            }
        };
        Ok(response.map(|body| body.holding(permit)))
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        self.0.permits.clone().try_acquire_owned().map_err(|_| {
            let message = "as many requests as `server.max_concurrent` allows are being answered";
            Error::new(ErrorKind::RateLimited, "http", message).with_retry_after(BUSY_RETRY_AFTER).into()
        })
    }

    async fn read(&self, headers: &HeaderMap, body: &mut axum::body::Body) -> Result<Bytes, Failure> {
        let limit = self.0.max_body_bytes;
        let too_large = || {
            let message = format!("the body is larger than {limit} bytes (`server.max_body_bytes`)");
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::InvalidInput, message)
        };
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        match tokio::time::timeout(BODY_TIMEOUT, Limited::new(&mut *body, limit).collect()).await {
            Ok(Ok(whole)) => {
                *body = axum::body::Body::empty();
                Ok(whole.to_bytes())
            }
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(_)) => Err(Error::invalid("http", "body", "ended before it was whole").into()),
            Err(_) => {
                let message = format!("the body did not come within {} s", BODY_TIMEOUT.as_secs());
                Err(Failure::new(StatusCode::REQUEST_TIMEOUT, ErrorKind::Timeout, message))
            }
        }
    }

    fn count(&self, method: &Method, endpoint: &str, status: StatusCode, took: Duration) {
        let telemetry = self.sophia().telemetry();
        let known =
            [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];
        // A method can be any text: it must not become any number of series.
        let method = if known.contains(method) { method.as_str() } else { "other" };
        let labels = RequestLabels {
            method: method.to_owned(),
            endpoint: endpoint.to_owned(),
            status: status.as_str().to_owned(),
        };
        telemetry.requests.get_or_create(&labels).inc();
        telemetry
            .request_duration
            .get_or_create(&EndpointLabels { endpoint: endpoint.to_owned() })
            .observe(took.as_secs_f64());
    }
}

/// Lets an axum router, or any other tower host, serve the surface: `Router::new().fallback_service(surface)`.
///
/// The peer is read from `ConnectInfo<SocketAddr>`; without it the caller counts as remote.
impl tower::Service<Request<axum::body::Body>> for Surface {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<axum::body::Body>) -> Self::Future {
        let surface = self.clone();
        let info = request.extensions().get::<axum::extract::ConnectInfo<std::net::SocketAddr>>();
        let peer = info.map_or(Peer::Unknown, |info| Peer::Ip(info.0.ip()));
        Box::pin(async move { Ok(super::host::respond(&surface, request, peer, CancellationToken::new()).await) })
    }
}

/// Reads headers given as pairs of bytes, as the hosts of other languages have them.
///
/// # Errors
/// [`ErrorKind::InvalidInput`], naming the header that is malformed.
pub fn headers<N: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: impl IntoIterator<Item = (N, V)>) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let shown = || String::from_utf8_lossy(name.as_ref()).into_owned();
        let parsed = HeaderName::from_bytes(name.as_ref()).ok().zip(HeaderValue::from_bytes(value.as_ref()).ok());
        let (name, value) = parsed.ok_or_else(|| Error::invalid("http", &shown(), "is not a valid header"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

pub(super) async fn alive(_: Call) -> Result<Response, Failure> {
    Ok(json_response(StatusCode::OK, &json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")})))
}

/// Asks the memory, without which nothing works, and looks at the services that are registered as critical.
pub(super) async fn ready(call: Call) -> Result<Response, Failure> {
    let sophia = call.surface.sophia();
    let mut checks = Map::new();
    let mut down = Vec::new();
    let mut add = |name: String, status: &Value, needed: bool| {
        let status = status.as_str().unwrap_or("unknown");
        if needed && matches!(status, "down" | "unhealthy" | "critical") {
            down.push(name.clone());
        }
        checks.insert(name, status.into());
    };
    if let Some(exposed) = exposed::find("memory.health") {
        let health = async { exposed.operation.begin(sophia, json!({}))?.await };
        let answer = match tokio::time::timeout(READY_TIMEOUT, health).await {
            Ok(Ok(reply)) => serde_json::to_value(&reply).unwrap_or_default(),
            Ok(Err(_)) | Err(_) => json!({"status": "down"}),
        };
        add("memory".to_owned(), &answer["status"], true);
        // A tier that is down is named; the memory answers from those that are left.
        for (tier, health) in answer["tiers"].as_object().into_iter().flatten() {
            add(format!("memory.{tier}"), &health["status"], false);
        }
    }
    for (name, service) in sophia.health().report().await?.services {
        if service.critical {
            add(name, &json!(service.status), true);
        }
    }
    let status = if down.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if down.is_empty() { "ready" } else { "not_ready" };
    Ok(json_response(status, &json!({"status": word, "down": down, "checks": checks})))
}

pub(super) async fn metrics(call: Call) -> Result<Response, Failure> {
    Ok(bytes_response(StatusCode::OK, OPEN_METRICS, call.surface.sophia().health().prometheus()))
}

pub(super) async fn openapi(call: Call) -> Result<Response, Failure> {
    let bytes = call.surface.0.openapi.get_or_init(|| openapi::document().to_string().into()).clone();
    Ok(bytes_response(StatusCode::OK, JSON, bytes))
}

/// Returns whether a client of Anthropic's asks: all of them name the version.
fn is_anthropic(headers: &HeaderMap) -> bool {
    headers.contains_key("anthropic-version")
}

fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    given
        .filter(|id| (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()))
        .map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

/// Reads and drops what nobody has read of a body: many clients read no answer before they have sent all, and what is left would
/// break the next request of the connection. Returns whether nothing is left.
async fn drop_rest(headers: &HeaderMap, body: &mut axum::body::Body) -> bool {
    if body.is_end_stream() {
        return true;
    }
    // Who asks before it sends is told not to.
    if headers.contains_key(header::EXPECT) {
        return false;
    }
    let (began, mut left) = (Instant::now(), MAX_DROPPED_BYTES);
    while began.elapsed() < DROP_TIMEOUT {
        match tokio::time::timeout(DROP_PATIENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => return false,
            },
            Ok(None) => return true,
            Ok(Some(Err(_))) | Err(_) => return false,
        }
    }
    false
}

/// Adds the headers that every answer has.
fn finish(response: &mut Response, request_id: &str, origin: AllowedOrigin) {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(request_id) {
        // Anthropic's clients look for this one.
        headers.insert(ANTHROPIC_REQUEST_ID, id.clone());
        headers.insert(REQUEST_ID, id);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*, x-request-id, retry-after"));
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
}

fn preflight(headers: &HeaderMap, found: &Match, allowed: bool) -> Response {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if !allowed || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        if let Match::OtherMethods(methods) = found {
            response.headers_mut().insert(header::ALLOW, allow(methods));
        }
        return response;
    }
    let headers_asked = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let answer = response.headers_mut();
    let methods = HeaderValue::from_static("GET, POST, PATCH, DELETE, HEAD, OPTIONS");
    answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    answer.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        headers_asked.unwrap_or(HeaderValue::from_static("authorization, content-type")),
    );
    answer.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE_S.into());
    response
}

fn allow(methods: &[&Method]) -> HeaderValue {
    let mut names: Vec<_> = methods.iter().map(|method| method.as_str()).collect();
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    names.push("OPTIONS");
    names.sort_unstable();
    names.dedup();
    HeaderValue::from_str(&names.join(", ")).unwrap_or(HeaderValue::from_static("OPTIONS"))
}

fn other_methods(methods: &[&Method]) -> Failure {
    let allowed = allow(methods);
    let message = format!("this path answers to {} only", allowed.to_str().unwrap_or_default());
    let mut failure = Failure::new(StatusCode::METHOD_NOT_ALLOWED, ErrorKind::Unsupported, message);
    failure.header = Some((header::ALLOW, allowed));
    failure
}

fn nothing(path: &str) -> Failure {
    let hint = routes::nearest(path).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    let message = format!("there is nothing at this path{hint} (`/openapi.json` lists every route)");
    Failure::new(StatusCode::NOT_FOUND, ErrorKind::NotFound, message)
}
