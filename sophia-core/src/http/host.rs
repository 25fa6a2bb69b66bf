//! The surface on a socket of its own: what `sophia serve` runs.

use std::{convert::Infallible, future::Future, net::SocketAddr, pin::pin, time::Duration};

use axum::{
    extract::{FromRequestParts, WebSocketUpgrade, ws},
    http::Request,
    response::IntoResponse,
};
use futures::StreamExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{Live, Peer, ServerConfig, Surface, patience::Patient};
use crate::{Error, ErrorKind, Result};

/// Longest wait for the head of a request: whoever sends slower keeps a connection from others.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for answers under way at shutdown; live connections are cut then.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait after a failed accept: most often there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a WebSocket is pinged: below the 60 s after which most proxies close a silent connection.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Longest wait for a client to take anything of an answer, or a message of a WebSocket: whoever reads slower keeps a place from
/// others.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest message that a client of a WebSocket may send, in bytes: what it sends means nothing.
const MAX_MESSAGE_BYTES: usize = 4096;

/// Listens on the configured address.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`] where others could reach it and no keys are set; [`ErrorKind::Unavailable`] where the
/// address cannot be had.
pub async fn bind(config: &ServerConfig) -> Result<TcpListener> {
    config.check_bind()?;
    let host = config.host.trim_start_matches('[').trim_end_matches(']');
    TcpListener::bind((host, config.port)).await.map_err(|error| {
        let message = format!("cannot listen on {host}:{}: {error}", config.port);
        Error::new(ErrorKind::Unavailable, "http.serve", message).with_source(error)
    })
}

/// Serves until `shutdown` is ready, then lets answers under way finish for up to 10 s.
///
/// # Errors
/// None for now: what fails for one connection ends that connection.
pub async fn serve(surface: Surface, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<()> {
    let closing = CancellationToken::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let mut shutdown = pin!(shutdown);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        connections.spawn(serve_connection(http.clone(), surface.clone(), stream, address, closing.clone()));
    }
    drop(listener);
    closing.cancel();
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::info!("connections that did not end are cut");
    }
    connections.shutdown().await;
    Ok(())
}

async fn serve_connection(
    http: http1::Builder,
    surface: Surface,
    stream: TcpStream,
    address: SocketAddr,
    closing: CancellationToken,
) {
    // Small answers leave at once, instead of waiting for the client's acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY cannot be set");
    }
    let peer = Peer::Ip(address.ip());
    let until = closing.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (surface, until) = (surface.clone(), until.clone());
        async move { Ok::<_, Infallible>(respond(&surface, request.map(axum::body::Body::new), peer, until).await) }
    });
    let mut connection =
        pin!(http.serve_connection(TokioIo::new(Patient::new(stream, SEND_TIMEOUT)), service).with_upgrades());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Answers a request, or takes it over as a WebSocket.
pub(super) async fn respond(
    surface: &Surface,
    request: Request<axum::body::Body>,
    peer: Peer,
    closing: CancellationToken,
) -> axum::response::Response {
    let (mut parts, body) = request.into_parts();
    let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await else {
        return surface.handle(Request::from_parts(parts, body), peer).await.map(axum::body::Body::from);
    };
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    match surface.live(target, &parts.headers, peer) {
        Ok(live) => {
            let upgrade = upgrade.max_message_size(MAX_MESSAGE_BYTES).max_frame_size(MAX_MESSAGE_BYTES);
            let upgrade = match live.protocol() {
                Some(protocol) => upgrade.protocols([protocol]),
                None => upgrade,
            };
            upgrade.on_upgrade(move |socket| push(socket, live, closing)).into_response()
        }
        Err(response) => response.map(axum::body::Body::from),
    }
}

/// Sends messages until one side closes, or reads no more.
async fn push(mut socket: ws::WebSocket, mut live: Live, closing: CancellationToken) {
    let mut pings = tokio::time::interval(PING_INTERVAL);
    pings.reset();
    loop {
        let message = tokio::select! {
            message = live.next() => match message {
                Some(text) => ws::Message::text(text),
                None => return,
            },
            received = socket.recv() => match received {
                // Pings are answered by the protocol's implementation; what else comes means nothing.
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return,
            },
            () = closing.cancelled() => {
                // The client is told to come back; whether it hears it does not matter.
                let frame = ws::CloseFrame { code: ws::close_code::AWAY, reason: "shutting down".into() };
                let _ = tokio::time::timeout(SEND_TIMEOUT, socket.send(ws::Message::Close(Some(frame)))).await;
                return;
            }
            _ = pings.tick() => ws::Message::Ping(bytes::Bytes::new()),
        };
        if !matches!(tokio::time::timeout(SEND_TIMEOUT, socket.send(message)).await, Ok(Ok(()))) {
            return;
        }
    }
}
