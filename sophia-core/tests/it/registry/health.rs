//! Checks.

use super::*;

#[tokio::test]
async fn servers_that_hang_hide_no_other_and_leave_a_trace() {
    let (_listener, hanging) = hung().await;
    let sophia = sophia_with(json!({"check_timeout": "2s"}));
    let registry = sophia.registry();
    for n in 0..70 {
        registry.register(Server::new(format!("a{n:02}")).url(&hanging)).unwrap();
    }
    registry.register(small("small")).unwrap();
    let tools = registry.tools(None).await.unwrap();
    assert_eq!(tools.iter().map(|tool| tool.server.as_str()).collect::<Vec<_>>(), ["small"]);
    let status = registry.status();
    assert!(status["small"].tools_error.is_none() && status["small"].tools == Some(1));
    assert!(status["a69"].tools_error.as_ref().unwrap().contains("no answer"), "{:?}", status["a69"]);
    sophia.shutdown().await.unwrap();
}

#[tokio::test]
async fn forty_eight_hung_servers_cost_one_deadline() {
    let (_listener, url) = hung().await;
    let sophia = sophia();
    let registry = sophia.registry();
    let well = answers(200, r#"{"status": "ok"}"#).await;
    for n in 0..48 {
        registry.register(rest(&format!("hung-{n}"), &url).health_path("/health")).unwrap();
    }
    registry.register(rest("well", &well.uri()).health_path("/health")).unwrap();
    let started = Instant::now();
    let statuses = registry.check_all(CheckAll::default().deadline(Duration::from_millis(500))).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(statuses.values().filter(|status| status.status == Status::Unhealthy).count(), 48);
    assert_eq!((statuses.len(), statuses["well"].status), (49, Status::Healthy));
    assert!(statuses["well"].latency_ms.is_some() && statuses["hung-0"].latency_ms.is_none());
    // Those that it was too late to ask are not called unhealthy.
    let few = CheckAll::default().concurrency(8).deadline(Duration::from_millis(200));
    let other = super::sophia();
    for n in 0..16 {
        other.registry().register(rest(&format!("hung-{n}"), &url).health_path("/health")).unwrap();
    }
    let statuses = other.registry().check_all(few).await.unwrap();
    assert_eq!(statuses.values().filter(|status| status.status == Status::Unknown).count(), 8);
}

#[tokio::test]
async fn checks_tell_how_a_server_is_and_selection_listens() {
    let (up, down) = (answers(200, r#"{"status": "UP"}"#).await, answers(503, r#"{"status": "ok"}"#).await);
    let (_listener, port) = hung().await;
    let sophia = sophia();
    let registry = sophia.registry();
    let mut changes = registry.watch();
    registry.register(rest("up", &up.uri()).health_path("/health").capability("x")).unwrap();
    registry.register(rest("down", &down.uri()).health_path("/health").capability("x")).unwrap();
    registry.register(rest("port", &port)).unwrap();
    registry.register(rest("closed", &closed_port().await)).unwrap();
    registry.register(small("small")).unwrap();
    for (id, status) in [
        ("up", Status::Healthy),
        ("down", Status::Unhealthy),
        ("port", Status::Healthy),
        ("closed", Status::Unhealthy),
        ("small", Status::Healthy),
    ] {
        assert_eq!(registry.check(id).await.unwrap().status, status, "{id}");
    }
    for _ in 0..10 {
        assert_eq!(registry.select(&Select::new("x")).unwrap().server, "up");
    }
    let sick = operation(&sophia, "registry.discover", json!({"status": "unhealthy"})).await.unwrap();
    assert_eq!(sick.as_array().unwrap().len(), 2);
    let told: Vec<_> = changes.by_ref().take(10).collect().await;
    assert_eq!(told.iter().filter(|change| change.kind == ChangeKind::Status).count(), 5);
    assert_eq!(registry.check("nobody").await.unwrap_err().code(), "NOT_FOUND");
    sophia.shutdown().await.unwrap();
}
