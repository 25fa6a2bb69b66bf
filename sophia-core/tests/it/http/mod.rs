//! The HTTP surface: on a real socket, and called directly as the hosts of other languages do.

mod chat;
mod dialects;
mod live;
mod memory;
mod routes;
mod security;

use std::time::Duration;

use axum::http::HeaderMap;
use bytes::Bytes;
use futures::StreamExt;
use serde_json::Value;
use sophia_core::{
    Config, Scope, Sophia,
    http::{self, ApiKey, Body, Peer, Response, ServerConfig, Surface},
};
use tokio::{net::TcpListener, sync::oneshot};

/// Longest wait for what must happen.
const SOON: Duration = Duration::from_secs(10);

fn surface(configure: impl FnOnce(&mut ServerConfig)) -> Surface {
    let mut config = Config::default();
    configure(&mut config.server);
    Surface::new(Sophia::new(config).unwrap()).unwrap()
}

fn keys() -> Vec<ApiKey> {
    vec![
        ApiKey::new("acme-key", Scope::new().tenant("acme")),
        ApiKey::new("ada-key", Scope::new().tenant("acme").user("ada")),
        ApiKey::new("admin-key", Scope::new()).admin(),
    ]
}

fn remote() -> Peer {
    Peer::from_host(Some("192.168.7.7"))
}

async fn text(body: Body) -> String {
    let chunks: Vec<Bytes> = body.collect().await;
    String::from_utf8(chunks.concat()).unwrap()
}

/// Sends `METHOD target`, with headers and a body, and reads status, headers and JSON.
async fn send(
    surface: &Surface,
    line: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
    peer: Peer,
) -> (u16, HeaderMap, Value) {
    let (method, target) = line.split_once(' ').unwrap();
    let headers = http::headers(headers.iter().copied()).unwrap();
    let response: Response = surface.handle_parts(method, target, headers, body.into(), peer).await;
    let (parts, body) = response.into_parts();
    let text = text(body).await;
    let value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) };
    (parts.status.as_u16(), parts.headers, value)
}

async fn get(surface: &Surface, target: &str) -> (u16, HeaderMap, Value) {
    send(surface, &format!("GET {target}"), &[], "", Peer::Local).await
}

/// A surface on a port of its own; stopped when dropped.
struct Served {
    url: String,
    stop: Option<oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<sophia_core::Result<()>>,
}

async fn serve(surface: Surface) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(http::serve(surface, listener, async {
        let _ = stopped.await;
    }));
    Served { url, stop: Some(stop), ended }
}

fn client() -> reqwest::Client {
    // Taken by the first test of the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn as_key(surface: &Surface, key: &str, line: &str, body: Value) -> (u16, Value) {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let (status, _, answer) = send(surface, line, &[("x-api-key", key)], text, remote()).await;
    (status, answer)
}
