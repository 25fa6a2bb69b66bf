//! WebSockets and live feeds.

use super::{SOON, get, keys, remote, send, serve, surface};
use axum::http::HeaderMap;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sophia_core::{
    Direction,
    health::Rule,
    http::{self, Peer, Surface},
};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};

fn upgrade(url: &str, path: &str, headers: &[(&'static str, &str)]) -> tungstenite::handshake::client::Request {
    let mut request = format!("ws://{url}{path}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn a_websocket_sends_the_report_at_once_and_closes_at_shutdown() {
    let mut served = serve(surface(|_| {})).await;
    let request = upgrade(&served.url, "/ws/unified-health", &[]);
    let (mut socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(response.status(), 101);
    let message = tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
    let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
    assert_eq!(message["type"], "unified_health");
    assert!(message["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')) && message.get("data").is_some());

    socket.send(tungstenite::Message::text("anything")).await.unwrap();
    served.stop.take().unwrap().send(()).unwrap();
    let closed = async {
        while let Some(Ok(message)) = socket.next().await {
            if let tungstenite::Message::Close(frame) = message {
                return frame.map(|frame| u16::from(frame.code));
            }
        }
        None
    };
    assert_eq!(tokio::time::timeout(SOON, closed).await.unwrap(), Some(1001));
    tokio::time::timeout(SOON, served.ended).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_sends_much_is_cut() {
    let served = serve(surface(|_| {})).await;
    let request = upgrade(&served.url, "/ws/unified-health", &[]);
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    socket.next().await.unwrap().unwrap();
    // It may be cut before all of it is sent.
    let _ = socket.send(tungstenite::Message::binary(vec![0; 1 << 20])).await;
    let cut = async { while let Some(Ok(_)) = socket.next().await {} };
    tokio::time::timeout(SOON, cut).await.unwrap();
}

#[tokio::test]
async fn a_websocket_needs_what_every_request_needs() {
    let served = serve(surface(|server| server.keys = keys())).await;
    let status = async |path: &str, headers: &[(&'static str, &str)]| match tokio_tungstenite::connect_async(upgrade(
        &served.url,
        path,
        headers,
    ))
    .await
    {
        Ok((_, response)) => (101, response.headers().get("sec-websocket-protocol").cloned()),
        Err(tungstenite::Error::Http(response)) => (response.status().as_u16(), None),
        Err(error) => panic!("{error}"),
    };
    let path = "/ws/unified-health";
    assert_eq!(status(path, &[]).await.0, 401);
    assert_eq!(status(path, &[("authorization", "Bearer wrong")]).await.0, 401);
    assert_eq!(status(path, &[("authorization", "Bearer acme-key")]).await, (101, None));
    let foreign = [("authorization", "Bearer acme-key"), ("origin", "https://evil.example")];
    assert_eq!(status(path, &foreign).await.0, 403);
    let offered = [("sec-websocket-protocol", "sophia.v1, sophia.key.acme-key")];
    assert_eq!(status(path, &offered).await, (101, Some("sophia.v1".parse().unwrap())));
    assert_eq!(status("/ws/nothing", &[("x-api-key", "acme-key")]).await.0, 404);

    let (plain, headers, _) = send(&surface(|_| {}), &format!("GET {path}"), &[], "", Peer::Local).await;
    assert_eq!((plain, headers["upgrade"].to_str().unwrap()), (426, "websocket"));
}

#[tokio::test]
async fn a_live_feed_is_opened_outside_of_a_handshake_as_well() {
    let surface = surface(|_| {});
    let mut live = surface.live("/ws/unified-health?x=1", &HeaderMap::new(), Peer::Local).unwrap();
    assert_eq!(live.protocol(), None);
    let message: Value = serde_json::from_str(&live.next().await.unwrap()).unwrap();
    assert_eq!(message["type"], "unified_health");
    let refused = surface.live("/ws/unified-health", &HeaderMap::new(), remote()).unwrap_err();
    assert_eq!(refused.status(), 401);
}

/// Raises an alert of the service `redis`.
fn raise(surface: &Surface) {
    let health = surface.sophia().health();
    health.rule(Rule::new("latency_ms", Direction::LowerIsBetter).critical(100.0)).unwrap();
    health.observe("redis", "latency_ms", 500.0);
    assert_eq!(health.alerts(None).len(), 1);
}

async fn next(live: &mut http::Live) -> Value {
    let message = tokio::time::timeout(SOON, live.next()).await.unwrap().unwrap();
    serde_json::from_str(&message).unwrap()
}

#[tokio::test]
async fn the_unified_health_is_the_same_over_http_and_live_and_is_pushed_on_change() {
    let surface = surface(|_| {});
    let mut live = surface.live("/ws/unified-health", &HeaderMap::new(), Peer::Local).unwrap();
    assert_eq!(next(&mut live).await["data"]["alerts"], json!([]));
    raise(&surface);
    let pushed = next(&mut live).await;
    assert_eq!(
        (&pushed["type"], &pushed["data"]["alerts"][0]["severity"]),
        (&json!("unified_health"), &json!("critical"))
    );
    let (status, _, report) = get(&surface, "/api/v1/unified-health").await;
    assert_eq!(status, 200);
    for field in
        ["overall_health", "infrastructure", "ai_memory", "deployment", "business", "alerts", "recommendations"]
    {
        assert!(report.get(field).is_some() && pushed["data"].get(field).is_some(), "{field}");
    }
}

#[tokio::test]
async fn alerts_are_live_and_an_admin_acknowledges_them_in_its_own_name() {
    let surface = surface(|server| server.keys = keys());
    let headers = http::headers([("x-api-key", "acme-key")]).unwrap();
    let mut live = surface.live("/ws/system-alerts", &headers, remote()).unwrap();
    let first = next(&mut live).await;
    assert_eq!((&first["type"], &first["data"]), (&json!("alerts"), &json!([])));
    raise(&surface);
    let opened = next(&mut live).await;
    assert_eq!((&opened["type"], &opened["data"]["services"]), (&json!("alert_opened"), &json!(["redis"])));

    let (_, _, alerts) = send(&surface, "GET /api/v1/alerts", &[("x-api-key", "acme-key")], "", remote()).await;
    let line = format!("POST /api/v1/alerts/{}/ack", alerts[0]["id"].as_str().unwrap());
    let (status, _, body) = send(&surface, &line, &[("x-api-key", "acme-key")], "", remote()).await;
    assert_eq!((status, &body["error"]["code"]), (403, &json!("UNAUTHORIZED")));
    let (status, _, body) = send(&surface, &line, &[("x-api-key", "admin-key")], "", remote()).await;
    assert_eq!(
        (status, &body["acknowledged_by"], &body["state"]),
        (200, &json!("key-3"), &json!("acknowledged")),
        "{body}"
    );
    let changed = next(&mut live).await;
    assert_eq!((&changed["type"], &changed["data"]["state"]), (&json!("alert_changed"), &json!("acknowledged")));
    let state = "GET /api/v1/alerts?state=acknowledged";
    assert_eq!(send(&surface, state, &[("x-api-key", "ada-key")], "", remote()).await.2.as_array().unwrap().len(), 1);
    let (status, _, body) =
        send(&surface, "GET /api/v1/alerts?stat=x", &[("x-api-key", "ada-key")], "", remote()).await;
    assert_eq!((status, &body["error"]["context"]["field"]), (400, &json!("stat")));
}
