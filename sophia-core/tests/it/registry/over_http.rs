//! Servers behind HTTP, by REST and by MCP.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::*;

#[tokio::test]
async fn the_reference_server_is_called_over_streamable_http() {
    let (command, mut args) = everything();
    *args.last_mut().unwrap() = "streamableHttp".to_owned();
    let port = closed_port().await.rsplit(':').next().unwrap().to_owned();
    let mut server =
        tokio::process::Command::new(command).args(args).env("PORT", &port).kill_on_drop(true).spawn().unwrap();
    let sophia = sophia();
    let registry = sophia.registry();
    // Without a path, as a list of ports gives it.
    registry.load(Load::value(json!({"everything": port.parse::<u16>().unwrap()}))).await.unwrap();
    until(async || registry.check("everything").await.unwrap().status == Status::Healthy).await;
    assert!(registry.tools(Some("everything")).await.unwrap().len() > 3);
    let results =
        join_all((0..20).map(|n| call(registry, "everything", "echo", json!({"message": format!("hello {n}")})))).await;
    assert!(results.iter().enumerate().all(|(n, result)| result.ok && result.text.contains(&format!("hello {n}"))));

    server.kill().await.unwrap();
    let gone = call(registry, "everything", "echo", json!({"message": "x"})).await;
    assert!(!gone.ok && gone.error.unwrap().code == "UNAVAILABLE");
    sophia.shutdown().await.unwrap();
}

#[tokio::test]
async fn faults_of_an_mcp_server_over_http_are_answers() {
    let (locked, failing, garbage, nowhere) =
        (answers(401, "").await, answers(503, "busy").await, answers(200, "<html>").await, answers(404, "").await);
    let (_listener, hanging) = hung().await;
    let cases = [
        (locked.uri(), "UNAUTHORIZED"),
        (failing.uri(), "UNAVAILABLE"),
        (garbage.uri(), "UNAVAILABLE"),
        (nowhere.uri(), "NOT_FOUND"),
        (closed_port().await, "UNAVAILABLE"),
        (hanging, "TIMEOUT"),
    ];
    let sophia = sophia();
    let registry = sophia.registry();
    for (url, code) in cases {
        registry.register(Server::new("a").url(&url).timeout(Duration::from_millis(500))).unwrap();
        let error = call(registry, "a", "x", json!({})).await.error.unwrap();
        assert_eq!(error.code, code, "{url}: {}", error.message);
    }
    registry.register(Server::new("old").url("http://127.0.0.1:1/sse")).unwrap();
    let error = call(registry, "old", "x", json!({})).await.error.unwrap();
    assert!(error.code == "UNSUPPORTED" && error.message.contains("streamable HTTP"), "{error:?}");
    sophia.shutdown().await.unwrap();
}

/// What a server of the era of sessions remembers.
#[derive(Default)]
struct Sessions {
    known: Mutex<Vec<String>>,
    begun: AtomicUsize,
    /// Whether it knows none, not even those that it has just begun.
    forgets: AtomicBool,
}

/// A server of the era of sessions that answers `lost` where it does not know one.
async fn with_sessions(lost: fn(&Value) -> ResponseTemplate) -> (MockServer, Arc<Sessions>) {
    let (server, sessions) = (MockServer::start().await, Arc::new(Sessions::default()));
    let own = sessions.clone();
    let answer = move |request: &wiremock::Request| {
        let Ok(message) = serde_json::from_slice::<Value>(&request.body) else { return ResponseTemplate::new(405) };
        let says = |result: Value| json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
        let mut known = own.known.lock().unwrap();
        let session = request.headers.get("mcp-session-id");
        let is_known = !own.forgets.load(Ordering::Relaxed)
            && known.iter().any(|known| Some(known.as_str()) == session.and_then(|id| id.to_str().ok()));
        match message["method"].as_str().unwrap() {
            "server/discover" => ResponseTemplate::new(404),
            "initialize" => {
                let session = format!("s{}", own.begun.fetch_add(1, Ordering::Relaxed));
                known.push(session.clone());
                let result = json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                    "serverInfo": {"name": "h", "version": "1"}});
                ResponseTemplate::new(200).insert_header("mcp-session-id", session.as_str()).set_body_json(says(result))
            }
            _ if !is_known => lost(&message["id"]),
            _ if message["id"].is_null() => ResponseTemplate::new(202),
            _ => ResponseTemplate::new(200).set_body_json(says(json!({"content": [{"type": "text", "text": "hi"}]}))),
        }
    };
    Mock::given(wiremock::matchers::any()).respond_with(answer).mount(&server).await;
    (server, sessions)
}

#[tokio::test]
async fn a_lost_session_is_renewed_once_however_the_server_says_so() {
    fn says(status: u16, id: Value, message: &str) -> ResponseTemplate {
        let error = json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32_000, "message": message}});
        ResponseTemplate::new(status).set_body_json(error)
    }
    let cases: [fn(&Value) -> ResponseTemplate; 7] = [
        |_| ResponseTemplate::new(404),
        |_| says(400, Value::Null, "Bad Request: No valid session ID provided"),
        |_| says(400, json!("server-error"), "Bad Request"),
        |id| says(400, id.clone(), "unknown session"),
        |_| ResponseTemplate::new(400).set_body_string("Bad Request"),
        |_| ResponseTemplate::new(410),
        |_| says(410, Value::Null, "Gone"),
    ];
    let sophia = sophia();
    let registry = sophia.registry();
    for (at, lost) in cases.into_iter().enumerate() {
        let (server, sessions) = with_sessions(lost).await;
        let begun = || sessions.begun.load(Ordering::Relaxed);
        registry.register(Server::new("a").url(format!("{}/mcp", server.uri()))).unwrap();
        assert!(call(registry, "a", "echo", json!({})).await.ok, "{at}");
        sessions.known.lock().unwrap().clear();
        let results = join_all((0..3).map(|_| call(registry, "a", "echo", json!({})))).await;
        assert!(results.iter().all(|result| result.ok && result.attempts.len() == 1), "{at}: {results:?}");
        assert_eq!(begun(), 2, "{at}");

        // Whoever keeps no session is not asked for one for ever.
        sessions.forgets.store(true, Ordering::Relaxed);
        let started = Instant::now();
        let result = call(registry, "a", "echo", json!({})).await;
        assert!(!result.ok && result.error.as_ref().unwrap().code != "TIMEOUT", "{at}: {result:?}");
        assert!(started.elapsed() < Duration::from_secs(5), "{at}");
        assert_eq!(begun(), 3, "{at}");
    }
    sophia.shutdown().await.unwrap();
}

#[tokio::test]
async fn rest_servers_are_called_by_their_routes() {
    let server = MockServer::start().await;
    let answer = |text: &str| ResponseTemplate::new(200).set_body_json(json!({"result": text}));
    Mock::given(method("POST"))
        .and(path("/api/top_deals"))
        .and(body_json(json!({"n": 3})))
        .and(header("authorization", "Bearer k"))
        .respond_with(answer("deals"))
        .mount(&server)
        .await;
    Mock::given(method("GET")).and(path("/api/clock")).respond_with(answer("noon")).mount(&server).await;
    Mock::given(path("/api/execute"))
        .and(body_json(json!({"name": "other", "arguments": {}})))
        .respond_with(answer("executed"))
        .mount(&server)
        .await;
    let sophia = sophia();
    let registry = sophia.registry();
    let url = format!("{}/api", server.uri());
    registry.register(rest("a", &url).rest("clock", "GET /clock").auth("k")).unwrap();
    registry.register(Server::new("b").url(&url).rest("*", "/execute")).unwrap();
    assert_eq!(call(registry, "a", "top_deals", json!({"n": 3})).await.text, "deals");
    assert_eq!(call(registry, "a", "clock", json!({})).await.text, "noon");
    assert_eq!(call(registry, "b", "other", json!({})).await.text, "executed");
    let missing = call(registry, "a", "nothing", json!({})).await;
    assert_eq!(missing.error.unwrap().code, "NOT_FOUND");
    assert_eq!(registry.status()["a"].errors, 0);
}

#[tokio::test]
async fn every_fault_of_a_server_is_an_answer_that_counts_against_it() {
    let (failing, garbage) = (answers(503, "busy").await, answers(200, "<html>").await);
    let (_listener, hanging) = hung().await;
    let sophia = sophia();
    let registry = sophia.registry();
    let faults = [
        ("refusing", closed_port().await, "UNAVAILABLE"),
        ("failing", failing.uri(), "UNAVAILABLE"),
        ("garbage", garbage.uri(), "UNAVAILABLE"),
        ("hanging", hanging, "TIMEOUT"),
    ];
    for (id, url, code) in &faults {
        registry.register(rest(id, url).timeout(Duration::from_millis(200))).unwrap();
        let result = call(registry, id, "x", json!({})).await;
        let error = result.error.unwrap();
        assert_eq!((result.ok, error.code.as_str(), error.retryable), (false, *code, true), "{id}");
        assert_eq!(registry.breaker(id).unwrap().failures, 1, "{id}");
    }
}

#[tokio::test]
async fn fallbacks_are_followed_and_every_try_is_told() {
    let spare = answers(200, r#"{"result": "from rest"}"#).await;
    let (_listener, hanging) = hung().await;
    let sophia = sophia();
    let registry = sophia.registry();
    registry.register(rest("main", &closed_port().await).fallback("hanging").fallback("gone")).unwrap();
    registry.register(rest("hanging", &hanging).timeout(Duration::from_millis(100)).fallback("spare")).unwrap();
    registry.register(rest("spare", &spare.uri())).unwrap();
    let result = call(registry, "main", "top_deals", json!({})).await;
    assert!(result.ok && result.fallback_used && result.text == "from rest");
    let tries: Vec<_> = result.attempts.iter().map(|attempt| (attempt.server.as_str(), attempt.ok)).collect();
    assert_eq!(tries, [("main", false), ("hanging", false), ("spare", true)]);

    let alone = ToolCall::new("main", "x").fallback(Fallback::Configured(false));
    let alone = registry.call(alone).await.unwrap();
    assert!(!alone.ok && !alone.fallback_used && alone.attempts.len() == 1);
    let named = ToolCall::new("main", "x").fallback(Fallback::Servers(vec!["Spare".into()]));
    assert_eq!(registry.call(named).await.unwrap().server, "spare");
    // Nobody knows whether the one that hangs has begun.
    let once = ToolCall::new("hanging", "x").idempotent(false);
    assert_eq!(registry.call(once).await.unwrap().attempts.len(), 1);
}

#[tokio::test]
async fn a_server_that_hangs_leaves_time_for_its_fallback() {
    let spare = answers(200, r#"{"result": 1}"#).await;
    let (_listener, hanging) = hung().await;
    let sophia = sophia();
    let registry = sophia.registry();
    registry.register(rest("main", &hanging).fallback("spare")).unwrap();
    registry.register(rest("spare", &spare.uri())).unwrap();
    let result = registry.call(ToolCall::new("main", "x").timeout(Duration::from_millis(600))).await.unwrap();
    assert!(result.ok && result.server == "spare" && result.latency_ms < 600.0, "{result:?}");
}

#[tokio::test]
async fn an_open_breaker_does_not_ask_and_names_the_server() {
    let server = answers(503, "busy").await;
    let sophia = sophia();
    let registry = sophia.registry();
    registry.register(rest("spare", &server.uri())).unwrap();
    for _ in 0..20 {
        assert!(!call(registry, "spare", "x", json!({})).await.ok);
    }
    assert_eq!(registry.breaker("spare").unwrap().state, BreakerState::Open);
    assert_eq!(server.received_requests().await.unwrap().len(), 5);
    let started = Instant::now();
    let error = call(registry, "spare", "x", json!({})).await.error.unwrap();
    assert!(started.elapsed() < Duration::from_millis(50));
    assert!(
        error.code == "CIRCUIT_OPEN" && error.message.contains("`spare`") && error.retry_after.is_some(),
        "{error:?}"
    );
    let text = sophia.telemetry().prometheus();
    assert!(text.contains(r#"sophia_mcp_requests_total{server="spare",status="error"} 5"#), "{text}");
    assert!(text.contains(r#"sophia_mcp_server_status{server="spare"} 0"#), "{text}");
}

#[tokio::test]
async fn a_refused_key_and_a_wrong_argument_are_not_the_servers_failure() {
    let (locked, picky) = (answers(401, "who are you").await, answers(422, "n must be positive").await);
    let sophia = sophia();
    let registry = sophia.registry();
    registry.register(rest("locked", &locked.uri())).unwrap();
    registry.register(rest("picky", &picky.uri()).fallback("locked")).unwrap();
    for _ in 0..10 {
        assert_eq!(call(registry, "locked", "x", json!({})).await.error.unwrap().code, "UNAUTHORIZED");
        let result = call(registry, "picky", "x", json!({})).await;
        assert_eq!((result.attempts.len(), result.error.unwrap().code.as_str()), (1, "INVALID_INPUT"));
    }
    assert_eq!(registry.breaker("locked").unwrap().failures, 0);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = answers(200, r#"{"result": "secret"}"#).await;
    let server = MockServer::start().await;
    let away = ResponseTemplate::new(307).insert_header("location", target.uri().as_str());
    Mock::given(wiremock::matchers::any()).respond_with(away).mount(&server).await;
    let sophia = sophia();
    sophia.registry().register(rest("a", &server.uri()).auth("k")).unwrap();
    assert!(!call(sophia.registry(), "a", "x", json!({})).await.ok);
    assert!(target.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_capability_picks_a_server_that_works() {
    let good = answers(200, r#"{"result": "ok"}"#).await;
    let sophia = sophia();
    let registry = sophia.registry();
    registry.register(rest("bad", &closed_port().await).capability("Analytics")).unwrap();
    registry.register(rest("good", &good.uri()).capability("analytics")).unwrap();
    for _ in 0..20 {
        let result = registry.call(ToolCall::any("x").capability("ANALYTICS")).await.unwrap();
        assert!(result.ok && result.server == "good");
    }
    assert_eq!(registry.select(&Select::new("analytics")).unwrap().server, "good");
    assert_eq!(registry.call(ToolCall::any("x").capability("nothing")).await.unwrap_err().code(), "NOT_FOUND");
}

#[tokio::test]
async fn bad_calls_are_refused_before_anything_is_sent() {
    let server = answers(200, "{}").await;
    let sophia = sophia();
    let registry = sophia.registry();
    registry.register(rest("a", &server.uri())).unwrap();
    let big = json!({"text": "x".repeat(10 << 20)});
    let cases = [
        (ToolCall::new("a", ""), "tool"),
        (ToolCall::new("a", "x\0"), "tool"),
        (ToolCall::new("", "x"), "server"),
        (ToolCall::new("a", "x").capability(" "), "capability"),
        (ToolCall::new("a", "x").arguments(big), "arguments"),
        (ToolCall::new("a", "x").timeout(Duration::ZERO), "timeout"),
        (ToolCall::new("a", "x").scope(Scope::new().user("")), "scope.user"),
    ];
    for (call, field) in cases {
        let error = registry.call(call).await.unwrap_err();
        assert_eq!((error.code(), error.get("field")), ("INVALID_INPUT", Some(field)));
    }
    let error = registry.call(ToolCall::new("aa", "x")).await.unwrap_err();
    assert!(error.code() == "NOT_FOUND" && error.message().contains("did you mean `a`"), "{error}");
    assert!(server.received_requests().await.unwrap().is_empty());
}
