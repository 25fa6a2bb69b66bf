//! What several engines, and several processes, share in Redis; and Redis away.

use std::{
    future::Future,
    io::{Read, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sophia_core::{
    Config, Scope, Sophia,
    memory::{ForgetRequest, KvInvalidate, KvOptions, TierStatus},
    redis::RedisConfig,
    testing::{RedisCluster, RedisServer},
};

mod chat;
mod counting;
mod evicting;
mod faults;
mod forgetting;
mod modes;
mod processes;

/// Longest wait for what must come about; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(20);

fn ada() -> Scope {
    Scope::new().tenant("acme").user("ada")
}

fn config(redis: RedisConfig, data_dir: Option<&Path>) -> Config {
    let mut config = Config::default();
    config.redis = redis;
    config.data_dir = data_dir.map(Path::to_owned);
    config
}

/// An engine that hears what others change.
async fn engine(redis: RedisConfig, data_dir: Option<&Path>) -> Sophia {
    let sophia = Sophia::new(config(redis, data_dir)).unwrap();
    sophia.start().await.unwrap();
    sophia.memory().kv().get("warm-up", &Scope::new()).await.unwrap();
    until("the shared tier is heard", async || l2(&sophia).await == TierStatus::Healthy).await;
    sophia
}

async fn l2(sophia: &Sophia) -> TierStatus {
    sophia.memory().health().await.tiers["l2"].status
}

async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn set(sophia: &Sophia, key: &str, value: Value) {
    sophia.memory().kv().set(key, value, KvOptions::new().scope(ada())).await.unwrap();
}

async fn read(sophia: &Sophia, key: &str) -> Option<Value> {
    sophia.memory().kv().get(key, &ada()).await.unwrap().map(|value| value.value().clone())
}

/// What this process knows, at once.
fn near(sophia: &Sophia, key: &str) -> Option<Option<Value>> {
    sophia.memory().kv().get_now(key, &ada()).map(|known| known.map(|value| value.value().clone()))
}

async fn found_in(sophia: &Sophia, key: &str) -> Option<&'static str> {
    sophia.memory().kv().look_up(key, &ada()).await.unwrap().tier
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_engine_sets_another_reads_from_redis_and_hears_of_its_changes() {
    let server = RedisServer::start();
    let redis = || RedisConfig::url(server.url());
    let (one, two) = (engine(redis(), None).await, engine(redis(), None).await);
    set(&one, "plan", json!("free")).await;
    let found = two.memory().kv().look_up("plan", &ada()).await.unwrap();
    assert_eq!((found.tier, found.value.unwrap().json(), found.degraded), (Some("l2"), "\"free\"", false));
    // That it was set may be heard after it was read: then the near copy is dropped once, and made again.
    until("there is a near copy", async || found_in(&two, "plan").await == Some("l1")).await;
    set(&one, "plan", json!("pro")).await;
    until("the near copy is dropped", async || near(&two, "plan") != Some(Some(json!("free")))).await;
    assert_eq!(read(&two, "plan").await, Some(json!("pro")));
    assert!(two.memory().kv().delete("plan", &ada()).await.unwrap());
    until("the deletion is heard", async || near(&one, "plan") != Some(Some(json!("pro")))).await;
    assert_eq!(read(&one, "plan").await, None);
    // What is known to be absent is set by another.
    set(&two, "plan", json!("back")).await;
    until("the new value is heard of", async || near(&one, "plan") != Some(None)).await;
    assert_eq!(read(&one, "plan").await, Some(json!("back")));
    assert_eq!(one.memory().kv().get("plan", &Scope::new().user("ada")).await.unwrap(), None, "the wall must hold");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_engine_has_removed_is_not_removed_once_more() {
    let server = RedisServer::start();
    let redis = || RedisConfig::url(server.url());
    let (one, two) = (engine(redis(), None).await, engine(redis(), None).await);
    for key in ["a/1", "a/2"] {
        set(&one, key, json!(1)).await;
        assert!(two.memory().kv().delete(key, &ada()).await.unwrap());
    }
    assert!(!one.memory().kv().delete("a/1", &ada()).await.unwrap());
    let prefix = serde_json::from_value(json!({"prefix": "a/", "scope": ada()})).unwrap();
    assert_eq!(one.memory().kv().invalidate(prefix).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_prefixes_and_forgetting_reach_what_is_shared() {
    let server = RedisServer::start();
    let redis = || RedisConfig::url(server.url());
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (engine(redis(), Some(directory.path())).await, engine(redis(), Some(directory.path())).await);
    for key in ["a/1", "a/2", "b"] {
        let options = KvOptions::new().scope(ada()).tags([format!("tag-{key}")]);
        one.memory().kv().set(key, json!(key), options).await.unwrap();
        assert_eq!(read(&two, key).await, Some(json!(key)));
    }
    let what = |what: Value| serde_json::from_value::<KvInvalidate>(what).unwrap();
    let prefix = what(json!({"prefix": "a/", "scope": ada()}));
    assert_eq!(two.memory().kv().invalidate(prefix).await.unwrap(), 2);
    until("both are gone", async || read(&one, "a/1").await.is_none() && read(&one, "a/2").await.is_none()).await;
    let tag = what(json!({"tags": ["tag-b"], "scope": ada()}));
    assert_eq!(one.memory().kv().invalidate(tag).await.unwrap(), 1);
    until("it is gone", async || read(&two, "b").await.is_none()).await;

    set(&one, "secret", json!("xyzzy-plugh")).await;
    assert!(raw(&server).contains("xyzzy-plugh"), "{}", raw(&server));
    let receipt = two.memory().forget(ForgetRequest::subject("ada")).await.unwrap();
    assert!(receipt.tiers.contains(&"l2"), "{receipt:?}");
    assert!(!raw(&server).contains("xyzzy-plugh"), "{}", raw(&server));
    assert_eq!(read(&one, "secret").await, None);
}

/// All that the server holds, as text.
fn raw(server: &RedisServer) -> String {
    let script = "EVAL \"local all = '' for _, key in ipairs(redis.call('KEYS', '*')) do \
         if redis.call('TYPE', key).ok == 'string' then all = all .. key .. redis.call('GET', key) \
         elseif redis.call('TYPE', key).ok == 'list' then \
           all = all .. key .. table.concat(redis.call('LRANGE', key, 0, -1), ' ') \
         else all = all .. key .. table.concat(redis.call('ZRANGE', key, 0, -1), ' ') end end return all\" 0";
    server.ask(script).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_that_ask_for_the_same_value_make_it_once() {
    let server = RedisServer::start();
    let redis = || RedisConfig::url(server.url());
    let engines = [engine(redis(), None).await, engine(redis(), None).await, engine(redis(), None).await];
    let made = Arc::new(AtomicUsize::new(0));
    let ask = |sophia: &Sophia| {
        let (kv, made) = (sophia.memory().kv().clone(), made.clone());
        async move {
            let options = KvOptions::new().scope(ada()).ttl(Duration::from_secs(60));
            let load = move || async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(json!(made.fetch_add(1, Ordering::SeqCst)))
            };
            kv.get_or_set("report", options, load).await.unwrap().value().clone()
        }
    };
    let calls = engines.iter().flat_map(|engine| [ask(engine), ask(engine)]);
    let values = futures::future::join_all(calls).await;
    assert_eq!(values, vec![json!(0); 6]);
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_nobody_could_make_is_tried_by_the_next() {
    let server = RedisServer::start();
    let redis = || RedisConfig::url(server.url());
    let (one, two) = (engine(redis(), None).await, engine(redis(), None).await);
    let down = || async { Err(sophia_core::Error::new(sophia_core::ErrorKind::Unavailable, "test", "down")) };
    assert_eq!(one.memory().kv().get_or_set("k", KvOptions::new(), down).await.unwrap_err().code(), "UNAVAILABLE");
    let made = two.memory().kv().get_or_set("k", KvOptions::new(), || async { Ok(json!(1)) }).await.unwrap();
    assert_eq!(made.value(), &json!(1));
    assert_eq!(one.memory().kv().get("k", &Scope::new()).await.unwrap().unwrap().value(), &json!(1));
}

#[test]
fn what_cannot_be_a_redis_is_named() {
    let refused = |text: &str| {
        let error = Config::from_toml(text).and_then(Sophia::new).unwrap_err();
        (error.code(), error.get("field").unwrap().to_owned())
    };
    for (text, field) in [
        ("[redis]\nurl = 'http://localhost'", "redis.url"),
        ("[redis]\nurls = ['redis://localhost', 'nonsense']", "redis.urls[1]"),
        ("[redis]\nurl = 'redis://localhost'\nca_file = '/nowhere.pem'", "redis.ca_file"),
        ("[redis]\nurls = ['redis://localhost']\nurl = 'redis://localhost'", "redis.urls"),
        ("[memory.l2]\nttl = 0", "memory.l2.ttl"),
    ] {
        assert_eq!(refused(text), ("INVALID_CONFIG", field.to_owned()));
    }
}
