//! Redis killed, restarted empty, hung, slow; a Cluster with a master killed. Callers see no error, are told that something
//! is missing, and afterwards everything agrees.

use std::net::{SocketAddr, TcpListener};

use super::*;

/// A tier that was away is back, and has caught up.
async fn is_back(sophia: &Sophia) {
    until("the shared tier is back", async || l2(sophia).await == TierStatus::Healthy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_restarted_empty() {
    let (mut server, directory) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let redis = || RedisConfig::url(server.url());
    let (one, two) = (engine(redis(), Some(directory.path())).await, engine(redis(), Some(directory.path())).await);
    set(&one, "stays", json!(1)).await;
    set(&one, "goes", json!(1)).await;
    set(&one, "changes", json!(1)).await;
    assert_eq!(found_in(&two, "changes").await, Some("l2"));
    server.kill();
    assert!(one.memory().kv().delete("goes", &ada()).await.unwrap());
    set(&one, "changes", json!(2)).await;
    let found = one.memory().kv().look_up("stays", &ada()).await.unwrap();
    assert_eq!((found.tier, found.degraded, found.stepped_over), (Some("l3"), true, vec!["l2"]));
    let health = one.memory().health().await;
    assert_eq!((health.tiers["l2"].status, health.status), (TierStatus::Unhealthy, TierStatus::Degraded));
    until("the change is seen over the file", async || read(&two, "changes").await == Some(json!(2))).await;
    server.restart();
    for sophia in [&one, &two] {
        is_back(sophia).await;
        assert_eq!(read(sophia, "stays").await, Some(json!(1)));
        assert_eq!(read(sophia, "goes").await, None);
        assert_eq!(read(sophia, "changes").await, Some(json!(2)));
        assert!(!sophia.memory().kv().look_up("stays", &ada()).await.unwrap().degraded);
    }
    set(&two, "changes", json!(3)).await;
    until("changes are heard again", async || read(&one, "changes").await == Some(json!(3))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_while_it_hangs_does_not_come_back_with_it() {
    let (server, directory) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let redis = || RedisConfig::url(server.url());
    let one = engine(redis(), Some(directory.path())).await;
    for key in ["deleted", "changed", "tagged", "a/1", "left"] {
        let options = KvOptions::new().scope(ada()).tags([key]);
        one.memory().kv().set(key, json!("old"), options).await.unwrap();
    }
    server.hang();
    let before = Instant::now();
    assert!(one.memory().kv().delete("deleted", &ada()).await.unwrap());
    set(&one, "changed", json!("new")).await;
    let what = |what: Value| serde_json::from_value::<KvInvalidate>(what).unwrap();
    one.memory().kv().invalidate(what(json!({"tags": ["tagged"], "scope": ada()}))).await.unwrap();
    one.memory().kv().invalidate(what(json!({"prefix": "a/", "scope": ada()}))).await.unwrap();
    assert_eq!(read(&one, "left").await, Some(json!("old")));
    assert!(one.memory().kv().look_up("left", &ada()).await.unwrap().degraded);
    assert!(before.elapsed() < PATIENCE, "a hanging tier must not hang its callers");
    server.go_on();
    is_back(&one).await;
    // An engine with a file of its own sees what Redis has, and nothing else.
    let other = engine(redis(), None).await;
    for key in ["deleted", "tagged", "a/1"] {
        assert_eq!((found_in(&other, key).await, read(&one, key).await), (None, None), "{key}");
    }
    assert_ne!(read(&other, "changed").await, Some(json!("old")));
    assert_eq!(read(&other, "left").await, Some(json!("old")));
    assert_eq!(read(&one, "changed").await, Some(json!("new")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_file_what_others_changed_is_not_served_from_kv_while_it_hangs_nor_after() {
    let server = RedisServer::start();
    let redis = || RedisConfig::url(server.url());
    let (one, two) = (engine(redis(), None).await, engine(redis(), None).await);
    for key in ["secret", "plan", "deleted"] {
        set(&two, key, json!("old")).await;
        assert_eq!(read(&one, key).await, Some(json!("old")));
    }
    assert!(one.memory().kv().delete("deleted", &ada()).await.unwrap());
    until("the deletion is heard", async || read(&two, "deleted").await.is_none()).await;
    let receipt = one.memory().forget(ForgetRequest::scope(ada())).await.unwrap();
    assert!(receipt.pending.is_empty(), "{receipt:?}");
    until("all is forgotten", async || read(&two, "secret").await.is_none()).await;
    set(&one, "plan", json!("new")).await;
    until("the new value is heard of", async || near(&two, "plan") != Some(None)).await;
    server.hang();
    for key in ["secret", "plan", "deleted"] {
        let found = two.memory().kv().look_up(key, &ada()).await.unwrap();
        assert!(found.value.is_none() && (found.degraded || key != "plan"), "{key}: {found:?}");
    }
    // What it writes itself meanwhile is there, and so is that it was removed.
    for key in ["secret", "mine", "gone"] {
        set(&two, key, json!("mine")).await;
        assert_eq!(read(&two, key).await, Some(json!("mine")));
    }
    assert!(two.memory().kv().delete("gone", &ada()).await.unwrap());
    assert_eq!(read(&two, "gone").await, None);
    two.memory().kv().delete("secret", &ada()).await.unwrap();
    server.go_on();
    until("it is asked again", async || read(&two, "plan").await == Some(json!("new"))).await;
    is_back(&two).await;
    for sophia in [&one, &two] {
        for (key, value) in [("secret", None), ("deleted", None), ("gone", None), ("mine", Some(json!("mine")))] {
            assert_eq!(read(sophia, key).await, value, "{key}");
        }
    }
    // In the next outage, what is of this one does not count any more.
    assert!(one.memory().kv().delete("mine", &ada()).await.unwrap());
    until("it is gone", async || read(&two, "mine").await.is_none()).await;
    server.hang();
    let found = two.memory().kv().look_up("mine", &ada()).await.unwrap();
    assert!(found.value.is_none(), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_deleted_and_died_before_it_caught_up_does_not_come_back() {
    let (server, directory) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let redis = || RedisConfig::url(server.url());
    let one = engine(redis(), Some(directory.path())).await;
    set(&one, "deleted", json!(1)).await;
    server.hang();
    assert!(one.memory().kv().delete("deleted", &ada()).await.unwrap());
    // Its notes of what Redis missed die with it.
    drop(one);
    server.go_on();
    let next = engine(redis(), Some(directory.path())).await;
    until("the tier is cleared", async || !next.memory().kv().look_up("other", &ada()).await.unwrap().degraded).await;
    assert_eq!(read(&next, "deleted").await, None);
    let other = engine(redis(), None).await;
    assert_eq!(found_in(&other, "deleted").await, None);
    let left = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.filter(|name| name.to_string_lossy().starts_with("l2-owed")).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_that_missed_too_much_is_cleared() {
    let (server, directory) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let redis = || RedisConfig::url(server.url());
    let one = engine(redis(), Some(directory.path())).await;
    set(&one, "old", json!(1)).await;
    server.hang();
    let deletions = (0..10_100).map(|number| {
        let kv = one.memory().kv().clone();
        async move { kv.delete(&format!("k{number}"), &ada()).await.unwrap() }
    });
    futures::future::join_all(deletions).await;
    let detail = one.memory().health().await.tiers["l2"].detail.clone().unwrap();
    assert!(detail.contains("cleared"), "{detail}");
    server.go_on();
    is_back(&one).await;
    let other = engine(redis(), None).await;
    assert_eq!(found_in(&other, "old").await, None, "what is of another epoch is not there");
    assert_eq!(read(&one, "old").await, Some(json!(1)));
    set(&one, "new", json!(2)).await;
    assert_eq!(found_in(&other, "new").await, Some("l2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slower_than_its_deadline_it_is_stepped_over() {
    let (server, directory) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let slow = Slow::before(server.port());
    let one = engine(RedisConfig::url(slow.url()), Some(directory.path())).await;
    set(&one, "k", json!(1)).await;
    slow.delay_ms.store(400, Ordering::SeqCst);
    set(&one, "k", json!(2)).await;
    assert_eq!(read(&one, "k").await, Some(json!(2)));
    assert_eq!(one.memory().kv().look_up("other", &ada()).await.unwrap().stepped_over, ["l2"]);
    slow.delay_ms.store(0, Ordering::SeqCst);
    is_back(&one).await;
    assert_eq!(read(&one, "k").await, Some(json!(2)));
    let other = engine(RedisConfig::url(server.url()), Some(directory.path())).await;
    assert_eq!(read(&other, "k").await, Some(json!(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn away_from_the_start_it_is_found_later() {
    let (mut server, directory) = (RedisServer::start(), tempfile::tempdir().unwrap());
    server.kill();
    let one = Sophia::new(config(RedisConfig::url(server.url()), Some(directory.path()))).unwrap();
    one.start().await.unwrap();
    set(&one, "k", json!(1)).await;
    assert_eq!(read(&one, "k").await, Some(json!(1)));
    let made = one.memory().kv().get_or_set("made", KvOptions::new(), || async { Ok(json!(2)) }).await.unwrap();
    assert_eq!(made.value(), &json!(2));
    assert_eq!(l2(&one).await, TierStatus::Unhealthy);
    server.restart();
    is_back(&one).await;
    set(&one, "k", json!(3)).await;
    let two = engine(RedisConfig::url(server.url()), Some(directory.path())).await;
    assert_eq!(found_in(&two, "k").await, Some("l2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_or_read_only_it_is_stepped_over_and_catches_up() {
    for (trouble, mended) in
        [("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"), ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE")]
    {
        let (server, directory) = (RedisServer::start(), tempfile::tempdir().unwrap());
        let one = engine(RedisConfig::url(server.url()), Some(directory.path())).await;
        for key in ["deleted", "changed"] {
            set(&one, key, json!("old")).await;
        }
        assert_eq!(server.ask(trouble).as_deref(), Some("+OK\r\n"));
        assert!(one.memory().kv().delete("deleted", &ada()).await.unwrap(), "{trouble}");
        set(&one, "changed", json!("new")).await;
        assert_eq!(read(&one, "changed").await, Some(json!("new")), "{trouble}");
        assert!(one.memory().kv().look_up("other", &ada()).await.unwrap().degraded, "{trouble}");
        assert_ne!(l2(&one).await, TierStatus::Healthy, "{trouble}");
        assert_eq!(server.ask(mended).as_deref(), Some("+OK\r\n"));
        is_back(&one).await;
        let other = engine(RedisConfig::url(server.url()), None).await;
        assert_eq!((found_in(&other, "deleted").await, read(&one, "deleted").await), (None, None), "{trouble}");
        assert_ne!(read(&other, "changed").await, Some(json!("old")), "{trouble}");
        assert_eq!(read(&one, "changed").await, Some(json!("new")), "{trouble}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_master_of_a_cluster_killed() {
    let (mut cluster, directory) = (RedisCluster::start(), tempfile::tempdir().unwrap());
    let redis = || RedisConfig::cluster(cluster.urls());
    let (one, two) = (engine(redis(), Some(directory.path())).await, engine(redis(), Some(directory.path())).await);
    let scopes: Vec<_> = (0..12).map(|number| Scope::new().user(format!("user-{number}"))).collect();
    let value_of = async |sophia: &Sophia, scope: &Scope| {
        sophia.memory().kv().get("k", scope).await.unwrap().map(|value| value.value().clone())
    };
    for scope in &scopes {
        one.memory().kv().set("k", json!(1), KvOptions::new().scope(scope)).await.unwrap();
        assert_eq!(value_of(&two, scope).await, Some(json!(1)));
    }
    // In a Cluster, too, changes are heard from every master.
    for scope in &scopes {
        one.memory().kv().set("k", json!(2), KvOptions::new().scope(scope)).await.unwrap();
        let near = || two.memory().kv().get_now("k", scope).flatten().map(|value| value.value().clone());
        until("the change is heard", async || near() != Some(json!(1))).await;
    }
    cluster.masters[0].kill();
    let mut degraded = 0;
    for (place, scope) in scopes.iter().enumerate() {
        if place % 2 == 0 {
            one.memory().kv().set("k", json!(3), KvOptions::new().scope(scope)).await.unwrap();
        } else {
            assert!(one.memory().kv().delete("k", scope).await.unwrap());
        }
        degraded += usize::from(one.memory().kv().look_up("other", scope).await.unwrap().degraded);
    }
    assert!(degraded > 0, "it must be said");
    cluster.masters[0].restart();
    cluster.wait_until_ready();
    is_back(&one).await;
    is_back(&two).await;
    for sophia in [&one, &two] {
        for (place, scope) in scopes.iter().enumerate() {
            let expected = (place % 2 == 0).then(|| json!(3));
            until("both agree", async || value_of(sophia, scope).await == expected).await;
        }
    }
}

/// Passes everything on, later.
pub(super) struct Slow {
    address: SocketAddr,
    pub(super) delay_ms: Arc<AtomicUsize>,
}

impl Slow {
    pub(super) fn before(port: u16) -> Slow {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, delay_ms) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let delay = delay_ms.clone();
        // Ends with the test: a detached thread that waits for connections.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = std::net::TcpStream::connect(("127.0.0.1", port)) else { continue };
                let there = (client.try_clone().unwrap(), server.try_clone().unwrap(), Arc::default());
                for (from, to, delay) in [there, (server, client, delay.clone())] {
                    std::thread::spawn(move || pass(from, to, &delay));
                }
            }
        });
        Slow { address, delay_ms }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

fn pass(mut from: std::net::TcpStream, mut to: std::net::TcpStream, delay_ms: &AtomicUsize) {
    let mut bytes = [0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        std::thread::sleep(Duration::from_millis(delay_ms.load(Ordering::SeqCst) as u64));
        if to.write_all(&bytes[..length]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
