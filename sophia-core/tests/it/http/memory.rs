//! Records, and the memory's own figures.

use super::{get, send, surface};
use serde_json::{Value, json};
use sophia_core::http::Peer;

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
