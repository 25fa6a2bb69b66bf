//! The HTTP surface: on a real socket, and called directly as the hosts of other languages do.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    http::{HeaderMap, Request},
    response::IntoResponse,
};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sophia_core::{
    Config, Direction, Scope, Sophia,
    health::{ProbeSpec, Registration, Rule},
    http::{self, ApiKey, Body, Peer, Response, ServerConfig, Surface},
};
use tokio::{net::TcpListener, sync::oneshot};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};

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

#[tokio::test]
async fn the_probes_are_open_to_everyone() {
    for surface in [surface(|_| {}), surface(|server| server.keys = keys())] {
        let foreign = [("host", "10.1.2.3:8000"), ("x-forwarded-for", "10.0.0.1")];
        let (status, headers, body) = send(&surface, "GET /healthz", &foreign, "", remote()).await;
        assert_eq!((status, &body["status"]), (200, &json!("ok")));
        assert_eq!(headers["cache-control"], "no-store");
        let (status, _, body) = send(&surface, "GET /readyz", &foreign, "", remote()).await;
        assert_eq!((status, &body["status"], &body["down"]), (200, &json!("ready"), &json!([])));
    }
}

#[tokio::test]
async fn metrics_are_open_metrics_text_and_count_requests_by_route() {
    let surface = surface(|_| {});
    get(&surface, "/healthz").await;
    get(&surface, "/no/such/path").await;
    send(&surface, "BREW /healthz", &[], "", Peer::Local).await;
    let (status, headers, body) = get(&surface, "/metrics").await;
    let text = body.as_str().unwrap();
    assert_eq!(status, 200);
    assert_eq!(headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let counted = |method: &str, endpoint: &str, status: u16| {
        let labels = format!("method=\"{method}\",endpoint=\"{endpoint}\",status=\"{status}\"");
        text.contains(&format!("sophia_requests_total{{{labels}}} 1"))
    };
    assert!(counted("GET", "/healthz", 200), "{text}");
    assert!(counted("GET", "unmatched", 404) && counted("other", "unmatched", 405), "{text}");
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn without_keys_only_this_machine_is_served_and_the_answer_says_how_to_set_one() {
    let surface = surface(|_| {});
    assert_eq!(get(&surface, "/metrics").await.0, 200);
    for (peer, headers) in [
        (remote(), vec![]),
        (Peer::Unknown, vec![]),
        (Peer::Local, vec![("x-forwarded-for", "127.0.0.1")]),
        (Peer::Local, vec![("forwarded", "for=127.0.0.1")]),
    ] {
        let (status, answer, body) = send(&surface, "GET /metrics", &headers, "", peer).await;
        assert_eq!((status, &body["error"]["code"]), (401, &json!("UNAUTHORIZED")), "{peer:?} {headers:?}");
        assert!(body["error"]["message"].as_str().unwrap().contains("server.keys"), "{body}");
        assert_eq!(answer["www-authenticate"], "Bearer");
    }
}

#[tokio::test]
async fn with_keys_everyone_needs_one_even_on_this_machine() {
    let surface = surface(|server| server.keys = keys());
    for (headers, expected) in [
        (vec![], 401),
        (vec![("authorization", "Bearer acme-key")], 200),
        (vec![("x-api-key", "acme-key")], 200),
        (vec![("authorization", "Bearer acme-kez")], 401),
        (vec![("authorization", "Basic acme-key")], 401),
        (vec![("authorization", "Bearer wrong"), ("x-api-key", "acme-key")], 401),
    ] {
        for peer in [Peer::Local, remote()] {
            let (status, ..) = send(&surface, "GET /metrics", &headers, "", peer).await;
            assert_eq!(status, expected, "{headers:?}");
        }
    }
    let (status, ..) = send(&surface, "GET /no/such/path", &[], "", Peer::Local).await;
    assert_eq!(status, 401, "whoever is not known learns nothing about routes");
}

#[tokio::test]
async fn names_that_somebody_else_can_own_are_refused() {
    let surface = surface(|server| server.allowed_hosts = vec!["api.acme.example".into()]);
    for (host, expected) in [
        ("localhost:8000", 200),
        ("testserver", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:1", 200),
        ("api.acme.example", 200),
        ("evil.example", 403),
        ("192.168.1.1", 403),
    ] {
        let (status, _, body) = send(&surface, "GET /metrics", &[("host", host)], "", Peer::Local).await;
        assert_eq!(status, expected, "{host} {body}");
    }
    let twice = [("host", "localhost"), ("host", "evil.example")];
    assert_eq!(send(&surface, "GET /metrics", &twice, "", Peer::Local).await.0, 400);
}

#[tokio::test]
async fn pages_of_other_hosts_are_refused_and_those_listed_may_read() {
    let surface = surface(|server| server.cors_origins = vec!["https://app.acme.example".into()]);
    let ask = async |line: &str, origin: &str| {
        let headers = [("host", "localhost:8000"), ("origin", origin), ("access-control-request-method", "POST")];
        send(&surface, line, &headers, "", Peer::Local).await
    };
    for origin in ["https://evil.example", "null", "http://localhost.evil.example"] {
        for line in ["GET /metrics", "OPTIONS /metrics"] {
            let (status, headers, _) = ask(line, origin).await;
            assert_eq!((status, headers.get("access-control-allow-origin")), (403, None), "{origin}");
        }
    }
    for origin in ["https://app.acme.example", "http://localhost:5173", "http://localhost:8000"] {
        let (status, headers, _) = ask("GET /metrics", origin).await;
        assert_eq!((status, headers["access-control-allow-origin"].to_str().unwrap()), (200, origin));
        let (status, headers, _) = ask("OPTIONS /api/v1/memory/store", origin).await;
        assert_eq!((status, headers["access-control-allow-origin"].to_str().unwrap()), (204, origin));
        assert!(headers["access-control-allow-methods"].to_str().unwrap().contains("POST"));
    }
}

#[tokio::test]
async fn a_path_that_leads_nowhere_names_the_nearest_route() {
    let surface = surface(|_| {});
    let (status, _, body) = get(&surface, "/healtz").await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("NOT_FOUND")));
    assert!(body["error"]["message"].as_str().unwrap().contains("`/healthz`"), "{body}");

    let (status, _, body) = send(&surface, "POST /api/v1/registry/register", &[], "{}", Peer::Local).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("NOT_FOUND")), "not offered over HTTP");
}

#[tokio::test]
async fn another_method_is_told_which_ones_there_are() {
    let (status, headers, _) = send(&surface(|_| {}), "POST /healthz", &[], "{}", Peer::Local).await;
    assert_eq!((status, headers["allow"].to_str().unwrap()), (405, "GET, HEAD, OPTIONS"));
}

#[tokio::test]
async fn a_request_id_is_taken_over_or_made() {
    let surface = surface(|_| {});
    let (_, headers, _) = send(&surface, "GET /healthz", &[("x-request-id", "abc-1")], "", Peer::Local).await;
    assert_eq!(headers["x-request-id"], "abc-1");
    let long = "x".repeat(500);
    let (_, headers, _) = send(&surface, "GET /healthz", &[("x-request-id", &long)], "", Peer::Local).await;
    assert_eq!(headers["x-request-id"].len(), 36);
}

#[tokio::test]
async fn malformed_parts_are_answered_not_dropped() {
    let surface = surface(|_| {});
    for line in ["G\u{20ac}T /healthz", "GET not a path"] {
        assert_eq!(send(&surface, line, &[], "", Peer::Local).await.0, 400, "{line}");
    }
    assert!(http::headers([("bad name", "x")]).is_err() && http::headers([("x", "a\nb")]).is_err());
}

#[tokio::test]
async fn the_description_covers_every_route_and_refers_to_what_it_defines() {
    let surface = surface(|_| {});
    let (status, _, document) = get(&surface, "/openapi.json").await;
    assert_eq!((status, document["openapi"].as_str().unwrap()), (200, "3.1.0"));
    let paths = document["paths"].as_object().unwrap();
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json", "/ws/unified-health", "/ws/system-alerts"] {
        assert!(paths.contains_key(path), "{path}");
    }
    let mut ids = HashMap::new();
    for (path, methods) in paths {
        for (method, item) in methods.as_object().unwrap() {
            let id = item["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned(), path).is_none(), "{id} is there twice");
            assert!(item["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{path}");
            assert!(item["responses"].as_object().is_some_and(|responses| responses.contains_key("default")), "{path}");
            // A described route is answered: with anything but 404 and 405.
            let target = path.replace(['{', '}'], "");
            let line = format!("{} {target}", method.to_uppercase());
            let (status, _, body) = send(&surface, &line, &[], "{", Peer::Local).await;
            let unknown = body["error"]["message"].as_str().unwrap_or_default().contains("nothing at this path");
            assert!(status != 405 && !unknown, "{line}: {status}");
            for part in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
                let named = item["parameters"].as_array().unwrap().iter().any(|parameter| parameter["name"] == part);
                assert!(named, "{path} does not describe {part}");
            }
        }
    }
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} is not defined");
    }
}

fn collect_references(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(target) if name == "$ref" => references.push(target.clone()),
                    value => collect_references(value, references),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect_references(value, references)),
        _ => {}
    }
}

#[tokio::test]
async fn a_real_socket_serves_http() {
    let served = serve(surface(|_| {})).await;
    let response = client().get(format!("http://{}/healthz", served.url)).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    let response = client().head(format!("http://{}/healthz", served.url)).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.bytes().await.unwrap().len()), (200, 0));
    let rebound = client().get(format!("http://{}/metrics", served.url)).header("host", "evil.example");
    assert_eq!(rebound.send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn an_axum_router_can_host_the_surface() {
    let surface = surface(|_| {});
    let router = axum::Router::new()
        .route("/mine", axum::routing::get(|| async { "mine" }))
        .fallback_service(surface)
        .into_make_service_with_connect_info::<std::net::SocketAddr>();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(axum::serve(listener, router).into_future());
    let get = async |path: &str| client().get(format!("http://{address}{path}")).send().await.unwrap().text().await;
    assert_eq!(get("/mine").await.unwrap(), "mine");
    assert!(get("/metrics").await.unwrap().ends_with("# EOF\n"));
    server.abort();
}

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

#[tokio::test]
async fn a_critical_service_that_is_down_is_named_by_readiness() {
    let surface = surface(|_| {});
    let health = surface.sophia().health();
    let down =
        Registration::new("redis").critical().fail_after(1).probe(ProbeSpec::Tcp { host: "127.0.0.1".into(), port: 1 });
    health.register_spec(down).unwrap();
    health.check("redis").await.unwrap();
    let (status, _, body) = get(&surface, "/readyz").await;
    assert_eq!((status, &body["status"], &body["down"]), (503, &json!("not_ready"), &json!(["redis"])));
    assert_eq!(get(&surface, "/healthz").await.0, 200);
}

#[tokio::test]
async fn what_concerns_everyone_needs_an_admin() {
    let surface = surface(|server| server.keys = keys());
    let body = r#"{"service": "crm", "metric": "latency_ms", "value": 3}"#;
    let line = "POST /api/v1/health/observe";
    assert_eq!(send(&surface, line, &[("x-api-key", "acme-key")], body, remote()).await.0, 403);
    assert_eq!(send(&surface, line, &[("x-api-key", "admin-key")], body, remote()).await.0, 200);
    let (status, _, report) =
        send(&surface, "POST /api/v1/health/report", &[("x-api-key", "acme-key")], "", remote()).await;
    assert_eq!((status, report["services"]["crm"].is_object()), (200, true));
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused_with_its_position() {
    let surface = surface(|_| {});
    let line = "POST /api/v1/health/observe";
    let (status, _, body) = send(&surface, line, &[], "{\"service\":\n oops}", Peer::Local).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("INVALID_INPUT")));
    assert_eq!((&body["error"]["context"]["line"], &body["error"]["context"]["column"]), (&json!("2"), &json!("2")));
    for bad in ["[]", "7", "\u{0}", "{\"a\":1} x"] {
        assert_eq!(send(&surface, line, &[], bad.to_owned(), Peer::Local).await.0, 400, "{bad:?}");
    }
    let (status, _, body) = send(&surface, line, &[], r#"{"service": "x", "metrik": "y"}"#, Peer::Local).await;
    assert_eq!((status, body["error"]["message"].as_str().unwrap().contains("`metric`")), (400, true), "{body}");
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_however_it_comes() {
    let surface = surface(|server| server.max_body_bytes = 1000);
    let line = "POST /api/v1/health/observe";
    assert_eq!(send(&surface, line, &[], "x".repeat(1001), Peer::Local).await.0, 413);
    assert_eq!(send(&surface, line, &[("content-length", "1001")], "", Peer::Local).await.0, 413);
    assert_eq!(send(&surface, line, &[], "x".repeat(1000), Peer::Local).await.0, 400);

    let served = serve(surface).await;
    let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>("x".repeat(400))).take(100);
    let request = client().post(format!("http://{}/api/v1/health/observe", served.url));
    let response = request.body(reqwest::Body::wrap_stream(endless)).send().await.unwrap();
    assert_eq!(response.status(), 413);
}

#[tokio::test]
async fn more_than_allowed_at_once_are_told_to_come_back() {
    let surface = surface(|server| server.max_concurrent = 1);
    let live = surface.live("/ws/system-alerts", &HeaderMap::new(), Peer::Local).unwrap();
    let (status, headers, body) = get(&surface, "/metrics").await;
    assert_eq!(
        (status, &body["error"]["retryable"], headers["retry-after"].to_str().unwrap()),
        (429, &json!(true), "1")
    );
    assert_eq!(get(&surface, "/healthz").await.0, 200, "a busy server is alive");
    drop(live);
    assert_eq!(get(&surface, "/metrics").await.0, 200);
}

#[tokio::test]
async fn listening_for_others_without_keys_is_refused() {
    let on = |host: &str, port: u16| {
        let mut config = ServerConfig::default();
        (config.host, config.port) = (host.to_owned(), port);
        config
    };
    let open = on("0.0.0.0", 0);
    let error = http::bind(&open).await.unwrap_err();
    assert_eq!((error.code(), error.get("field")), ("INVALID_CONFIG", Some("server.keys")));
    let local = on("127.0.0.1", 0);
    let listener = http::bind(&local).await.unwrap();
    let taken = on("127.0.0.1", listener.local_addr().unwrap().port());
    assert_eq!(http::bind(&taken).await.unwrap_err().code(), "UNAVAILABLE");
}

#[tokio::test]
async fn a_request_can_be_handled_with_a_body_that_comes_in_parts() {
    let chunks = futures::stream::iter([Ok::<_, std::io::Error>("{"), Ok("}")]);
    let request = Request::post("/healthz").body(axum::body::Body::from_stream(chunks)).unwrap();
    assert_eq!(surface(|_| {}).handle(request, Peer::Local).await.status(), 405);
}

/// A provider that speaks OpenAI's protocol: answers with what it was asked; `fail` fails.
async fn provider() -> (String, Arc<Mutex<Vec<Value>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let asked = seen.clone();
    let answer = move |body: axum::Json<Value>| {
        let asked = asked.clone();
        async move {
            asked.lock().unwrap().push(body.0.clone());
            let question = body["messages"][0]["content"].as_str().unwrap_or_default().to_owned();
            if question == "fail" {
                return (axum::http::StatusCode::SERVICE_UNAVAILABLE, "down").into_response();
            }
            let text = format!("You asked: {question}");
            if body["stream"] == true {
                let choice = |delta: Value, reason: Value| {
                    let choices = json!([{"index": 0, "delta": delta, "finish_reason": reason}]);
                    let chunk = json!({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "small", "choices": choices});
                    format!("data: {chunk}\n\n")
                };
                let words = text.split_inclusive(' ').map(|word| choice(json!({"content": word}), Value::Null));
                let events: String =
                    words.chain([choice(json!({}), json!("stop")), "data: [DONE]\n\n".into()]).collect();
                return ([("content-type", "text/event-stream")], events).into_response();
            }
            let message = json!({"role": "assistant", "content": text});
            axum::Json(json!({
                "id": "1", "object": "chat.completion", "created": 1, "model": "small", "new_field": "kept",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
            }))
            .into_response()
        }
    };
    let router = axum::Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());
    (url, seen)
}

async fn chatting(configure: impl FnOnce(&mut ServerConfig)) -> (Surface, Arc<Mutex<Vec<Value>>>) {
    let (url, seen) = provider().await;
    let provider = json!({"name": "mock", "base_url": url, "api_key": "k", "models": ["small"]});
    let mut config = Config::from_layers([json!({"chat": {"providers": [provider]}})]).unwrap();
    configure(&mut config.server);
    (Surface::new(Sophia::new(config).unwrap()).unwrap(), seen)
}

fn question(text: &str) -> String {
    json!({"model": "small", "messages": [{"role": "user", "content": text}], "seed": 7, "future_field": {"x": 1}})
        .to_string()
}

#[tokio::test]
async fn openai_clients_are_answered_with_the_providers_body_and_unknown_fields_pass_through() {
    let (surface, seen) = chatting(|_| {}).await;
    let ask = async || send(&surface, "POST /v1/chat/completions", &[], question("hi"), Peer::Local).await;
    let (status, headers, body) = ask().await;
    assert_eq!((status, &body["choices"][0]["message"]["content"]), (200, &json!("You asked: hi")), "{body}");
    assert_eq!((&body["new_field"], &body["usage"]["total_tokens"]), (&json!("kept"), &json!(7)));
    assert_eq!(
        (&headers["x-sophia-cache"], &headers["x-sophia-prompt-tokens"]),
        (&"miss".parse().unwrap(), &"3".parse().unwrap())
    );
    assert_eq!(ask().await.1["x-sophia-cache"], "hit");
    let seen = seen.lock().unwrap();
    assert_eq!((seen.len(), &seen[0]["future_field"], &seen[0]["seed"]), (1, &json!({"x": 1}), &json!(7)));
}

#[tokio::test]
async fn an_answer_of_one_key_is_not_given_to_another_whatever_the_body_says() {
    let keys = vec![
        ApiKey::new("ada-key", Scope::new().tenant("acme").user("ada")),
        ApiKey::new("bob-key", Scope::new().tenant("acme").user("bob")),
    ];
    let (surface, seen) = chatting(|server| server.keys = keys).await;
    let line = "POST /v1/chat/completions";
    let ask = async |key: &str, extra: &[(&str, &str)], body: String| {
        let bearer = format!("Bearer {key}");
        let headers = [&[("authorization", bearer.as_str())], extra].concat();
        send(&surface, line, &headers, body, remote()).await
    };
    assert_eq!(ask("ada-key", &[], question("hi")).await.1["x-sophia-cache"], "miss");
    assert_eq!(ask("bob-key", &[], question("hi")).await.1["x-sophia-cache"], "miss");
    assert_eq!(ask("ada-key", &[], question("hi")).await.1["x-sophia-cache"], "hit");
    assert_eq!(seen.lock().unwrap().len(), 2);

    let (status, _, body) = ask("bob-key", &[("x-sophia-user", "ada")], question("hi")).await;
    assert_eq!((status, &body["error"]["type"]), (403, &json!("permission_error")));
    assert_eq!(ask("ada-key", &[("x-sophia-user", "ada")], question("hi")).await.1["x-sophia-cache"], "hit");
    let (status, _, body) = ask("wrong", &[], question("hi")).await;
    assert_eq!((status, &body["error"]["type"]), (401, &json!("authentication_error")));

    let chat = |scope: Value| json!({"prompt": "hi", "model": "small", "scope": scope}).to_string();
    for (scope, expected) in
        [(json!({"user": "bob"}), 403), (json!({"tenant": "globex"}), 403), (json!({"session": "s1"}), 200)]
    {
        let headers = [("x-api-key", "ada-key")];
        let (status, ..) = send(&surface, "POST /api/v1/chat", &headers, chat(scope.clone()), remote()).await;
        assert_eq!(status, expected, "{scope}");
    }
}

#[tokio::test]
async fn streams_are_events_that_end_with_done_live_and_from_the_cache() {
    let (surface, seen) = chatting(|_| {}).await;
    let served = serve(surface).await;
    let body: Value = serde_json::from_str(&question("tell me")).unwrap();
    let body = json!({"stream": true, "model": body["model"], "messages": body["messages"]});
    for expected in ["miss", "hit"] {
        let url = format!("http://{}/v1/chat/completions", served.url);
        let response = client().post(url).json(&body).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        assert_eq!(response.headers()["x-sophia-cache"], expected);
        let text = response.text().await.unwrap();
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        let events =
            text.split("\n\n").filter_map(|event| serde_json::from_str::<Value>(event.strip_prefix("data: ")?).ok());
        let events: Vec<_> = events.collect();
        assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk"));
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        let content: String =
            events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(content, "You asked: tell me");
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "stop");
    }
    let own = json!({"stream": true, "prompt": "tell me", "model": "small"});
    let response = client().post(format!("http://{}/api/v1/chat", served.url)).json(&own).send().await.unwrap();
    let text = response.text().await.unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap().strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(first["cache"]["status"], "hit", "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn openai_clients_get_errors_in_their_own_shape() {
    let (surface, _) = chatting(|_| {}).await;
    let post = async |body: String| send(&surface, "POST /v1/chat/completions", &[], body, Peer::Local).await;
    for (body, expected, kind) in [
        ("{".to_owned(), 400, "invalid_request_error"),
        (json!({"model": "small"}).to_string(), 400, "invalid_request_error"),
        (question("fail"), 503, "api_error"),
        (
            json!({"model": "small", "stream": true, "messages": [{"role": "user", "content": "fail"}]}).to_string(),
            503,
            "api_error",
        ),
    ] {
        let (status, _, answer) = post(body.clone()).await;
        assert_eq!((status, &answer["error"]["type"]), (expected, &json!(kind)), "{body} {answer}");
        assert!(answer["error"]["message"].is_string() && answer["error"]["code"].is_string());
    }
    let (status, _, models) = get(&surface, "/v1/models").await;
    assert_eq!(
        (status, &models["object"], &models["data"][0]["id"]),
        (200, &json!("list"), &json!("small")),
        "{models}"
    );
    assert_eq!(get(&surface, "/v1/models/small").await.0, 200);
    assert_eq!(get(&surface, "/v1/models/large").await.0, 404);
    assert_eq!(get(&surface, "/v1/nothing").await.2["error"]["type"], "invalid_request_error");
}

#[tokio::test]
async fn chat_answers_in_its_own_form() {
    let (surface, _) = chatting(|_| {}).await;
    let body = json!({"prompt": "hi", "model": "small", "scope": {"user": "ada"}});
    let (status, headers, answer) = send(&surface, "POST /api/v1/chat", &[], body.to_string(), Peer::Local).await;
    assert_eq!(
        (status, &answer["text"], &answer["cache"]["status"]),
        (200, &json!("You asked: hi"), &json!("miss")),
        "{answer}"
    );
    assert_eq!(headers["x-sophia-provider"], "mock");
    let (status, _, stats) = get(&surface, "/api/v1/cache/stats").await;
    assert_eq!((status, &stats["cache_misses"]), (200, &json!(1)));
    let wrong = json!({"prompt": "hi", "modell": "small"});
    let (status, _, answer) = send(&surface, "POST /api/v1/chat", &[], wrong.to_string(), Peer::Local).await;
    assert_eq!(status, 400);
    assert!(answer["error"]["message"].as_str().unwrap().contains("did you mean `model`"), "{answer}");
}

#[tokio::test]
async fn tools_are_listed_and_called() {
    let surface = surface(|_| {});
    let (status, _, servers) = get(&surface, "/api/v1/servers").await;
    assert_eq!((status, servers), (200, json!({})));
    assert_eq!(get(&surface, "/api/v1/tools").await.2, json!([]));
    let body = json!({"server": "nobody", "tool": "x", "arguments": {}}).to_string();
    let (status, _, answer) = send(&surface, "POST /api/v1/tools/call", &[], body, Peer::Local).await;
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("NOT_FOUND")));
}

async fn as_key(surface: &Surface, key: &str, line: &str, body: Value) -> (u16, Value) {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let (status, _, answer) = send(surface, line, &[("x-api-key", key)], text, remote()).await;
    (status, answer)
}

#[tokio::test]
async fn a_key_reaches_its_own_scope_and_no_other() {
    let surface = surface(|server| server.keys = keys());
    let store = "POST /api/v1/memory/store";
    let (status, stored) =
        as_key(&surface, "ada-key", store, json!({"content": "Ada wants the report as a PDF."})).await;
    assert_eq!(status, 200, "{stored}");
    let id = stored["id"].as_str().unwrap();
    let admin = as_key(
        &surface,
        "admin-key",
        "POST /api/v1/memory/get",
        json!({"id": id, "scope": {"tenant": "acme", "user": "ada"}}),
    )
    .await;
    assert_eq!(admin.1["scope"], json!({"tenant": "acme", "user": "ada"}), "{admin:?}");

    // The tenant's key may name the user, and must.
    let search = "POST /api/v1/memory/search";
    let ask = |scope: Value| json!({"query": "report", "scope": scope});
    assert_eq!(
        as_key(&surface, "acme-key", search, ask(json!({"user": "ada"}))).await.1["hits"].as_array().unwrap().len(),
        1
    );
    assert_eq!(as_key(&surface, "acme-key", search, ask(json!(null))).await.1["hits"], json!([]));

    // Nobody widens, in whatever place.
    for (line, body) in [
        (search, json!({"query": "report", "scope": {"user": "bob"}})),
        (search, json!({"query": "report", "scope": {"tenant": "globex"}})),
        (search, json!({"query": "report", "scopes": [{"user": "bob"}]})),
        (store, json!({"content": "x", "scope": {"tenant": "globex", "user": "ada"}})),
        ("POST /api/v1/memory/store_many", json!({"items": [{"content": "x", "scope": {"user": "bob"}}]})),
        ("POST /api/v1/memory/kv/set", json!({"key": "k", "value": 1, "scope": {"user": "bob"}})),
        (
            "POST /api/v1/memory/append",
            json!({"scope": {"user": "bob", "session": "s"}, "role": "user", "content": "x"}),
        ),
        ("POST /api/v1/memory/forget", json!({"scope": {"tenant": "globex"}})),
        ("POST /api/v1/memory/forget", json!({"subject": "bob"})),
        ("GET /api/v1/memory/search?query=report&user=bob", Value::Null),
        ("POST /api/v1/registry/call", json!({"tool": "x", "scope": {"user": "bob"}})),
    ] {
        let (status, answer) = as_key(&surface, "ada-key", line, body.clone()).await;
        assert_eq!((status, &answer["error"]["code"]), (403, &json!("UNAUTHORIZED")), "{line} {body} {answer}");
    }

    // What a key fixes is set where the body leaves it out, items included.
    let many = json!({"items": [{"content": "one"}, {"content": "two", "scope": {"session": "s1"}}]});
    assert_eq!(as_key(&surface, "ada-key", "POST /api/v1/memory/store_many", many).await.0, 200);
    let (_, all) = as_key(&surface, "ada-key", search, json!({"scope": {"user": "ada"}})).await;
    assert_eq!(all["hits"].as_array().map(Vec::len), Some(3), "{all}");
    for nobody in [json!({}), json!({"tenant": "acme"}), json!({"user": "ada"})] {
        let (_, found) = as_key(&surface, "admin-key", search, json!({"scope": nobody})).await;
        assert_eq!(found["hits"], json!([]), "{nobody}");
    }
}

#[tokio::test]
async fn records_have_pages_of_their_own() {
    let surface = surface(|_| {});
    let scope = [("x-sophia-tenant", "acme"), ("x-sophia-user", "ada")];
    let body = json!({"content": "The report is due on Friday.", "tags": ["report"]}).to_string();
    let (status, _, stored) = send(&surface, "POST /api/v1/memory/store", &scope, body, Peer::Local).await;
    assert_eq!(status, 200, "{stored}");
    let page = format!("/api/v1/memory/records/{}", stored["id"].as_str().unwrap());
    let (status, _, record) = send(&surface, &format!("GET {page}?tenant=acme&user=ada"), &[], "", Peer::Local).await;
    assert_eq!((status, &record["content"]), (200, &json!("The report is due on Friday.")), "{record}");
    let (status, _, answer) = get(&surface, &page).await;
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("NOT_FOUND")));
    let change = json!({"content": "The report is due on Monday."}).to_string();
    let (status, _, record) = send(&surface, &format!("PATCH {page}"), &scope, change, Peer::Local).await;
    assert_eq!((status, &record["version"]), (200, &json!(2)), "{record}");
    let found =
        send(&surface, "GET /api/v1/memory/search?query=report&limit=5&tags=report", &scope, "", Peer::Local).await;
    assert_eq!((found.0, found.2["hits"].as_array().map(Vec::len)), (200, Some(1)), "{}", found.2);
    let (status, _, gone) = send(&surface, &format!("DELETE {page}?permanent=true"), &scope, "", Peer::Local).await;
    assert_eq!((status, gone), (200, json!(true)));
    assert_eq!(send(&surface, &format!("GET {page}"), &scope, "", Peer::Local).await.0, 404);
}

#[tokio::test]
async fn the_memory_reports_what_was_measured_and_null_for_what_was_not() {
    let surface = surface(|_| {});
    let (status, _, empty) = get(&surface, "/api/v1/ai-memory/health").await;
    assert_eq!(
        (status, &empty["response_times"]["p95"], &empty["operation_stats"]["error_rate"]),
        (200, &Value::Null, &Value::Null),
        "{empty}"
    );
    for index in 0..5 {
        let body = json!({"content": format!("note {index}")}).to_string();
        send(&surface, "POST /api/v1/memory/store", &[], body, Peer::Local).await;
    }
    let (_, _, health) = get(&surface, "/api/v1/ai-memory/health").await;
    assert_eq!(health["operation_stats"]["successful_operations"], json!(5), "{health}");
    assert!(health["response_times"]["p95"].as_f64().is_some_and(|time| time > 0.0));
    assert_eq!(health["recent_operations"][0]["operation"], "memory.store");
    let (status, _, trends) = get(&surface, "/api/v1/ai-memory/performance-trends").await;
    let lengths = ["labels", "response_times", "cache_hit_rates", "error_rates", "operation_counts"]
        .map(|name| trends[name].as_array().map(Vec::len));
    assert!(status == 200 && lengths.iter().all(|length| *length == lengths[0] && *length > Some(0)), "{trends}");
    let (status, _, ready) = get(&surface, "/readyz").await;
    assert_eq!((status, &ready["checks"]["memory"]), (200, &json!("healthy")), "{ready}");
}

#[tokio::test]
async fn a_misspelt_operation_names_the_nearest() {
    let (status, _, answer) = send(&surface(|_| {}), "POST /api/v1/memory/stor", &[], "{}", Peer::Local).await;
    assert_eq!(status, 404);
    assert!(answer["error"]["message"].as_str().unwrap().contains("`memory.store`"), "{answer}");
}
