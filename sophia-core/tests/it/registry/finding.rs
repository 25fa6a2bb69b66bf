//! Registering and finding servers.

use super::*;

#[tokio::test]
async fn look_up_ignores_case_and_dashes_and_names_the_nearest() {
    let sophia = sophia();
    let registry = sophia.registry();
    registry.register(small("io.github.acme/Git-Hub")).unwrap();
    for id in ["io.github.acme/git_hub", "github", "GIT-HUB"] {
        assert_eq!(registry.get(id).unwrap().id, "io.github.acme/Git-Hub");
    }
    registry.register(small("analytics")).unwrap();
    let error = registry.get("analytcs").unwrap_err();
    assert!(error.code() == "NOT_FOUND" && error.message().contains("did you mean `analytics`"), "{error}");
    assert!(registry.deregister("Analytics") && !registry.deregister("analytics"));
}

#[tokio::test]
async fn servers_are_found_by_all_that_is_asked() {
    let sophia = sophia();
    let registry = sophia.registry();
    registry.register(small("a").capability("Code").capability("issues").tier("1").tag("eu")).unwrap();
    registry.register(small("b").capability("code").group("core").tag("us")).unwrap();
    let ids = async |wanted: Value| -> Vec<String> {
        let found = operation(&sophia, "registry.discover", wanted).await.unwrap();
        found.as_array().unwrap().iter().map(|server| server["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(json!({"capability": "CODE"})).await, ["a", "b"]);
    assert_eq!(ids(json!({"all_of": ["code", "Issues"]})).await, ["a"]);
    assert_eq!(ids(json!({"group": "CORE", "capability": "code"})).await, ["b"]);
    assert_eq!(ids(json!({"tags": ["us", "apac"]})).await, ["b"]);
    assert_eq!(ids(json!({"tier": "1", "tags": ["us"]})).await, [""; 0]);
    assert_eq!(ids(json!({"status": "unknown", "capability": null, "all_of": null})).await, ["a", "b"]);
    assert_eq!(registry.discover(&Discover::capability("nothing")).len(), 0);
}

#[tokio::test]
async fn a_server_that_is_registered_again_is_replaced() {
    let sophia = sophia();
    let registry = sophia.registry();
    let mut changes = registry.watch();
    registry.register(small("a").capability("x")).unwrap();
    registry.register(small("A").capability("y")).unwrap();
    registry.deregister("a");
    let kinds =
        [changes.next().await.unwrap().kind, changes.next().await.unwrap().kind, changes.next().await.unwrap().kind];
    assert_eq!(kinds, [ChangeKind::Registered, ChangeKind::Updated, ChangeKind::Deregistered]);
}

#[tokio::test]
async fn a_watch_ends_with_a_shutdown_and_a_later_one_begins_anew() {
    let sophia = sophia();
    let registry = sophia.registry();
    let mut changes = registry.watch();
    registry.register(small("a")).unwrap();
    sophia.shutdown().await.unwrap();
    registry.register(small("b")).unwrap();
    let mut later = registry.watch();
    let ids = [changes.next().await.unwrap(), changes.next().await.unwrap()].map(|change| change.server.unwrap());
    assert_eq!(ids, ["a", "b"]);
    assert!(changes.next().await.is_none());
    registry.deregister("a");
    assert_eq!(later.next().await.unwrap().kind, ChangeKind::Deregistered);
}

#[tokio::test]
async fn addresses_that_no_server_may_have_are_refused() {
    let sophia = sophia_with(json!({"allow_private": false}));
    for url in ["http://169.254.169.254/x", "http://127.0.0.1:1", "http://10.0.0.1", "file:///etc/passwd"] {
        let error = sophia.registry().register(rest("a", url)).unwrap_err();
        assert_eq!((error.code(), error.get("field")), ("INVALID_INPUT", Some("url")), "{url}");
    }
    sophia.registry().register(rest("named", "http://localhost:1")).unwrap();
    let result = call(sophia.registry(), "named", "x", json!({})).await;
    let error = result.error.unwrap();
    assert!(!result.ok && error.message.contains("private"), "{error:?}");
}
