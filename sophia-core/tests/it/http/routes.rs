//! Routes, answers, the description, and hosts.

use super::{client, get, send, serve, surface};
use axum::http::Request;
use serde_json::{Value, json};
use sophia_core::{
    health::{ProbeSpec, Registration},
    http::{self, Peer},
};
use std::collections::HashMap;
use tokio::net::TcpListener;

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
async fn a_request_can_be_handled_with_a_body_that_comes_in_parts() {
    let chunks = futures::stream::iter([Ok::<_, std::io::Error>("{"), Ok("}")]);
    let request = Request::post("/healthz").body(axum::body::Body::from_stream(chunks)).unwrap();
    assert_eq!(surface(|_| {}).handle(request, Peer::Local).await.status(), 405);
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

#[tokio::test]
async fn a_misspelt_operation_names_the_nearest() {
    let (status, _, answer) = send(&surface(|_| {}), "POST /api/v1/memory/stor", &[], "{}", Peer::Local).await;
    assert_eq!(status, 404);
    assert!(answer["error"]["message"].as_str().unwrap().contains("`memory.store`"), "{answer}");
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
