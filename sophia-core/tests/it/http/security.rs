//! Who may come in, what they may do, and how much.

use super::{SOON, as_key, client, get, keys, remote, send, serve, surface};
use axum::http::HeaderMap;
use futures::StreamExt;
use serde_json::{Value, json};
use sophia_core::{
    Config, Direction, Sophia,
    health::Rule,
    http::{self, Peer, ServerConfig, Surface},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

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
            let (status, ..) = send(&surface, "GET /openapi.json", &headers, "", peer).await;
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
    for line in ["GET /healthz", "GET /readyz"] {
        let allowed = async |origin: &str| {
            let (status, headers, _) = ask(line, origin).await;
            assert_eq!(status, 200);
            headers.get("access-control-allow-origin").map(|origin| origin.to_str().unwrap().to_owned())
        };
        assert_eq!(allowed("https://app.acme.example").await.as_deref(), Some("https://app.acme.example"));
        assert_eq!(allowed("https://evil.example").await, None);
    }
}

#[tokio::test]
async fn what_concerns_everyone_needs_an_admin() {
    let surface = surface(|server| server.keys = keys());
    let body = r#"{"service": "crm", "metric": "latency_ms", "value": 3}"#;
    let line = "POST /api/v1/health/observe";
    assert_eq!(send(&surface, line, &[("x-api-key", "acme-key")], body, remote()).await.0, 403);
    assert_eq!(send(&surface, line, &[("x-api-key", "admin-key")], body, remote()).await.0, 200);
    for line in ["GET /metrics", "GET /api/v1/memory/stats", "POST /api/v1/memory/stats"] {
        assert_eq!(as_key(&surface, "acme-key", line, Value::Null).await.0, 403, "{line}");
        assert_eq!(as_key(&surface, "admin-key", line, Value::Null).await.0, 200, "{line}");
    }
    let (status, _, report) =
        send(&surface, "POST /api/v1/health/report", &[("x-api-key", "acme-key")], "", remote()).await;
    assert_eq!((status, report["services"]["crm"].is_object()), (200, true));
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
async fn a_body_that_is_compressed_is_refused_by_the_header_that_says_so() {
    let surface = surface(|_| {});
    let packed: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff";
    for (route, field) in [
        ("/api/v1/memory/store", "/error/context/field"),
        ("/v1/chat/completions", "/error/param"),
        ("/v1/messages", "/error/param"),
    ] {
        let line = format!("POST {route}");
        let (status, _, answer) = send(&surface, &line, &[("content-encoding", "gzip")], packed, Peer::Local).await;
        assert_eq!((status, answer.pointer(field)), (415, Some(&json!("content-encoding"))), "{answer}");
        let (status, _, answer) = send(&surface, &line, &[], packed, Peer::Local).await;
        assert_eq!(status, 400, "{answer}");
    }
    let unpacked = [("content-encoding", "gzip")];
    let line = "POST /api/v1/memory/kv/get";
    assert_eq!(send(&surface, line, &unpacked, r#"{"key": "k"}"#, Peer::Local).await.0, 200);
}

#[tokio::test]
async fn a_connection_outlives_an_answer_that_needs_no_body_or_says_that_it_does_not() {
    let served = serve(surface(|server| server.max_body_bytes = 1000)).await;
    let answer = async |stream: &mut TcpStream| {
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
        }
        String::from_utf8(answer).unwrap()
    };
    let head = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nhost: localhost\r\n{more}\r\n");
    for (line, status) in [
        ("POST /v1/completions", "404"),
        ("POST /v1/models", "405"),
        ("POST /api/v1/memory/store", "413"),
        ("POST /healthz", "405"),
    ] {
        let mut stream = TcpStream::connect(&served.url).await.unwrap();
        stream.write_all(head(line, "content-length: 300000\r\n").as_bytes()).await.unwrap();
        stream.write_all(&[b' '; 300_000]).await.unwrap();
        let told = answer(&mut stream).await;
        assert!(told.starts_with(&format!("HTTP/1.1 {status}")) && !told.contains("connection: close"), "{told}");
        stream.write_all(head("GET /healthz", "").as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
    // Nothing of the body comes, or it is not to come at all.
    for more in ["content-length: 3000\r\n", "content-length: 3000\r\nexpect: 100-continue\r\n"] {
        let mut stream = TcpStream::connect(&served.url).await.unwrap();
        stream.write_all(head("POST /api/v1/memory/store", more).as_bytes()).await.unwrap();
        let told = answer(&mut stream).await;
        assert!(told.starts_with("HTTP/1.1 413") && told.contains("connection: close"), "{told}");
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }
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

    // What is forgotten is named, also by a key that could only mean its own.
    let (status, answer) = as_key(&surface, "ada-key", "POST /api/v1/memory/forget", json!({})).await;
    assert_eq!((status, &answer["error"]["context"]["field"]), (400, &json!("scope")), "{answer}");

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

/// Sends bytes as they are, and reads all that comes back.
async fn raw(url: &str, request: &[u8]) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(url).await.unwrap();
        // It may be cut before all of it is sent.
        let _ = stream.write_all(request).await;
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        String::from_utf8_lossy(&said).into_owned()
    };
    tokio::time::timeout(SOON, exchange).await.expect("it ends")
}

#[tokio::test]
async fn no_way_of_writing_a_request_gets_in_without_a_key() {
    let served = serve(surface(|server| server.keys = keys())).await;
    let lines = [
        "GET /metrics HTTP/1.1",
        "GET //metrics HTTP/1.1",
        "GET /healthz/../metrics HTTP/1.1",
        "GET /healthz/..%2fmetrics HTTP/1.1",
        "GET /%6detrics HTTP/1.1",
        "GET /metrics%00 HTTP/1.1",
        "GET /metrics;/healthz HTTP/1.1",
        "GET /metrics?/healthz HTTP/1.1",
        "GET /healthz%2f..%2fmetrics HTTP/1.1",
        "GET http://localhost/metrics HTTP/1.1",
        "GET http://evil.example/metrics HTTP/1.1",
        "HEAD /metrics HTTP/1.1",
        "GET /METRICS HTTP/1.1",
        "GET /healthz#/metrics HTTP/1.1",
        "GET \\\\metrics HTTP/1.1",
        "GET metrics HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT localhost:22 HTTP/1.1",
        "TRACE /metrics HTTP/1.1",
        "get /metrics HTTP/1.1",
        "GET /metrics HTTP/1.0",
        "GET /metrics HTTP/9.9",
        "GET /metrics",
        "\0\0\0\0",
        "PRI * HTTP/2.0",
        "POST /api/v1/memory/store HTTP/1.1",
        "POST /api/v1/memory/search HTTP/1.1",
    ];
    let heads = [
        "",
        "x-forwarded-for: 127.0.0.1",
        "x-original-url: /healthz",
        "x-http-method-override: GET",
        "authorization: Bearer",
        "authorization: Bearer \t",
        "authorization: bearer\r\nx-api-key: acme-key2",
        "x-api-key: ",
        "x-api-key: acme-ke",
        "cookie: key=acme-key",
        "content-length: 0\r\ncontent-length: 5",
        "transfer-encoding: chunked\r\ncontent-length: 5",
        "sec-websocket-protocol: sophia.key.%",
        "sec-websocket-protocol: sophia.key.",
        "authorization: Basic YWNtZS1rZXk6",
        "origin: http://localhost",
        "content-length: 18446744073709551616",
        "content-length: -1",
    ];
    for line in lines {
        for head in heads {
            let request = format!("{line}\r\nhost: localhost\r\nconnection: close\r\n{head}\r\n\r\n0\r\n\r\n");
            let said = raw(&served.url, request.as_bytes()).await;
            // Only what is open to everyone, or nothing at all.
            let status = said.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
            let is_open = said.contains(r#"{"status":"ok""#) || status == Some(204);
            assert!(status.is_none_or(|status| status >= 400) || is_open, "{line} {head}: {said}");
            assert!(!said.contains("# TYPE") && !said.contains("acme"), "{line} {head}: {said}");
        }
    }
    let header = format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(2_000_000));
    let many = format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "a: b\r\n".repeat(100_000));
    for large in [header, many] {
        let said = raw(&served.url, large.as_bytes()).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 431"), "{said}");
    }
    assert_eq!(client().get(format!("http://{}/healthz", served.url)).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn answers_and_metrics_hold_no_key_and_no_text_of_callers() {
    let surface = surface(|server| server.keys = keys());
    let secret = "zqxwvj";
    let body = json!({"content": secret, "scope": {"user": secret}, "tags": [secret], "kind": secret, "id": secret});
    assert_eq!(as_key(&surface, "acme-key", "POST /api/v1/memory/store", body).await.0, 200);
    let found = json!({"query": secret, "scope": {"user": secret}});
    assert_eq!(
        as_key(&surface, "acme-key", "POST /api/v1/memory/search", found).await.1["hits"].as_array().unwrap().len(),
        1
    );
    for (line, body) in [
        ("GET /openapi.json", Value::Null),
        ("GET /readyz", Value::Null),
        ("GET /api/v1/ai-memory/health", Value::Null),
        ("GET /api/v1/memory/health", Value::Null),
        ("GET /api/v1/unified-health", Value::Null),
        // What others have is in no error either.
        ("GET /api/v1/memory/records/zqxwv", Value::Null),
        ("POST /api/v1/memory/serach", json!({})),
        ("POST /api/v1/memory/search", json!({"query": "x", "scope": {"user": "other"}})),
        ("POST /api/v1/memory/get", json!({"seq": 1, "scope": {"user": "other"}})),
        ("POST /api/v1/memory/update", json!({"id": "zqxwv", "content": "x", "scope": {"user": "other"}})),
        ("POST /api/v1/health/report", json!({})),
    ] {
        let (_, answer) = as_key(&surface, "acme-key", line, body).await;
        let said = answer.to_string();
        assert!(!said.contains(secret) && !said.contains("acme-key") && !said.contains("admin-key"), "{line}: {said}");
    }
    for line in ["GET /metrics", "GET /api/v1/memory/stats"] {
        let (status, answer) = as_key(&surface, "admin-key", line, Value::Null).await;
        let said = answer.to_string();
        assert!(status == 200 && !said.contains(secret) && !said.contains("acme-key"), "{line}: {said}");
    }
}

#[tokio::test]
async fn what_a_key_does_is_written_down_under_its_own_name() {
    let mut config = Config::default();
    config.server.keys = keys();
    let sophia = Sophia::new(config).unwrap();
    sophia.health().rule(Rule::new("errors", Direction::LowerIsBetter).critical(1.0)).unwrap();
    for _ in 0..20 {
        sophia.health().observe("chat", "errors", 5.0);
    }
    let surface = Surface::new(sophia.clone()).unwrap();
    let id = sophia.health().alerts(None)[0].id.clone();
    let line = format!("POST /api/v1/alerts/{id}/ack");
    let acknowledge = async |body: Value| as_key(&surface, "admin-key", &line, body).await;
    let own = acknowledge(json!({})).await.1["acknowledged_by"].clone();
    assert!(own.is_string(), "{own}");
    let (status, claimed) = acknowledge(json!({"by": "the CEO"})).await;
    assert_eq!((status, &claimed["acknowledged_by"]), (200, &own), "{claimed}");
}
