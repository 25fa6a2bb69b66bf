//! Keys that are changed while `kv.get_or_set` makes a value for them: the change stays, by whomever and wherever it is made.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sophia_core::{
    Config, ErrorKind, Result, Scope, Sophia,
    memory::{ForgetRequest, KvInvalidate, KvOptions},
};
use tokio::{sync::oneshot, task::JoinHandle};

/// Longest wait for what must come about; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(20);
const KEY: &str = "a/plan";
const TAG: &str = "billing";

fn ada() -> Scope {
    Scope::new().tenant("acme").user("ada")
}

/// What is done to a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Done {
    Set,
    Delete,
    SetAndDelete,
    InvalidateTag,
    InvalidatePrefix,
    Forget,
    ForgetPerson,
    /// Nothing that concerns it.
    Another,
}

impl Done {
    pub(crate) const ALL: [Done; 8] = [
        Done::Set,
        Done::Delete,
        Done::SetAndDelete,
        Done::InvalidateTag,
        Done::InvalidatePrefix,
        Done::Forget,
        Done::ForgetPerson,
        Done::Another,
    ];

    async fn by(self, sophia: &Sophia) {
        let (memory, scope) = (sophia.memory(), ada());
        let invalidate = async |what: Value| {
            memory.kv().invalidate(serde_json::from_value::<KvInvalidate>(what).unwrap()).await.unwrap();
        };
        match self {
            Done::Set => memory.kv().set(KEY, json!("NEW"), KvOptions::new().scope(&scope)).await.unwrap(),
            Done::Delete => drop(memory.kv().delete(KEY, &scope).await.unwrap()),
            Done::SetAndDelete => {
                memory.kv().set(KEY, json!("NEW"), KvOptions::new().scope(&scope)).await.unwrap();
                assert!(memory.kv().delete(KEY, &scope).await.unwrap());
            }
            Done::InvalidateTag => invalidate(json!({"tags": [TAG, "other"], "scope": scope})).await,
            Done::InvalidatePrefix => invalidate(json!({"prefix": "a/", "scope": scope})).await,
            Done::Forget => drop(memory.forget(ForgetRequest::scope(&scope)).await.unwrap()),
            Done::ForgetPerson => {
                // A person is found by what the engine has stored itself.
                memory.kv().set("known", json!(1), KvOptions::new().scope(&scope)).await.unwrap();
                memory.forget(ForgetRequest::subject("ada")).await.unwrap();
            }
            Done::Another => {
                let bob = Scope::new().tenant("acme").user("bob");
                memory.kv().set(KEY, json!("BOB"), KvOptions::new().scope(&bob)).await.unwrap();
                memory.kv().set("other", json!("NEW"), KvOptions::new().scope(&scope)).await.unwrap();
                invalidate(json!({"tags": ["other"], "prefix": "b/", "scope": scope})).await;
                invalidate(json!({"tags": [TAG], "prefix": "a/", "scope": bob})).await;
            }
        }
    }

    /// What is to be found afterwards, where `made` was being made.
    fn leaves(self, made: &str) -> Option<Value> {
        match self {
            Done::Set => Some(json!("NEW")),
            Done::Another => Some(json!(made)),
            _ => None,
        }
    }
}

/// A load that has begun, and ends when it is told to.
struct Begun {
    call: JoinHandle<Value>,
    go: oneshot::Sender<()>,
}

impl Begun {
    async fn end(self) -> Value {
        self.go.send(()).unwrap();
        self.call.await.unwrap()
    }
}

/// Asks for the value, and returns when this load of it has begun.
async fn begin(sophia: &Sophia, value: &'static str) -> Begun {
    let kv = sophia.memory().kv().clone();
    let ((say, said), (go, told)) = (oneshot::channel(), oneshot::channel());
    let load = move || async move {
        say.send(()).unwrap();
        told.await.unwrap();
        Ok(json!(value))
    };
    let options = KvOptions::new().scope(ada()).tags([TAG]);
    let call = tokio::spawn(async move { kv.get_or_set(KEY, options, load).await.unwrap().value().clone() });
    tokio::time::timeout(PATIENCE, said).await.expect("its own load runs").unwrap();
    Begun { call, go }
}

async fn read(sophia: &Sophia) -> Option<Value> {
    sophia.memory().kv().get(KEY, &ada()).await.unwrap().map(|value| value.value().clone())
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Changes the key by `other` while `one` makes a value for it.
pub(crate) async fn a_change_during_a_load_stays(one: &Sophia, other: &Sophia, done: Done) {
    let load = begin(one, "old").await;
    done.by(other).await;
    assert_eq!(load.end().await, json!("old"), "who waited gets it, {done:?}");
    for sophia in [one, other] {
        assert_eq!(read(sophia).await, done.leaves("old"), "{done:?}");
    }
    other.memory().kv().delete(KEY, &ada()).await.unwrap();
    until("it is gone", async || read(one).await.is_none()).await;
}

/// Changes the key by `other` while `one` makes its stale value anew.
pub(crate) async fn a_change_during_a_refresh_stays(one: &Sophia, other: &Sophia, done: Done) {
    let (ttl, stale) = (Duration::from_millis(1), Duration::from_secs(600));
    let options = KvOptions::new().scope(ada()).ttl(ttl).stale(stale).tags([TAG]);
    one.memory().kv().set(KEY, json!("stale"), options).await.unwrap();
    until("it is stale", async || read(one).await.is_none()).await;
    let load = begin(one, "old").await;
    done.by(other).await;
    assert_eq!(load.end().await, json!("stale"), "{done:?}");
    // The refresh ends unseen: what it may do wrong is given some time.
    let is_kept = async || read(one).await == Some(json!("old"));
    if done == Done::Another {
        until("it is made anew", is_kept).await;
    } else {
        for _ in 0..25 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            for sophia in [one, other] {
                assert_ne!(read(sophia).await, Some(json!("old")), "{done:?}");
            }
        }
        until("the change is seen", async || read(one).await == done.leaves("old")).await;
    }
    other.memory().kv().delete(KEY, &ada()).await.unwrap();
    until("it is gone", async || read(one).await.is_none()).await;
}

/// Asks once more after a change, while the first load is still under way.
pub(crate) async fn who_asks_after_a_change_begins_a_load_of_their_own(sophia: &Sophia, done: Done) {
    let first = begin(sophia, "old").await;
    done.by(sophia).await;
    let second = begin(sophia, "new").await;
    assert_eq!(second.end().await, json!("new"), "{done:?}");
    assert_eq!(first.end().await, json!("old"), "{done:?}");
    assert_eq!(read(sophia).await, Some(json!("new")), "{done:?}");
    sophia.memory().kv().delete(KEY, &ada()).await.unwrap();
}

async fn battery(one: &Sophia, other: &Sophia) {
    for done in Done::ALL {
        a_change_during_a_load_stays(one, other, done).await;
        a_change_during_a_refresh_stays(one, other, done).await;
        if done.leaves("old").is_none() {
            who_asks_after_a_change_begins_a_load_of_their_own(one, done).await;
        }
    }
}

async fn engine(config: Config) -> Sophia {
    Sophia::builder().config(config).start().await.unwrap()
}

#[tokio::test]
async fn a_load_that_hangs_ends_at_its_deadline_for_all_who_wait() {
    let sophia = engine(Config::default()).await;
    let kv = sophia.memory().kv();
    let hang = || std::future::pending::<Result<Value>>();
    let ask = |timeout| kv.get_or_set(KEY, KvOptions::new().timeout(timeout), hang);
    let (short, long) = (Duration::from_millis(20), Duration::from_millis(60));
    // A time of one's own holds, and nobody waits longer than the load may take.
    let outcomes = tokio::join!(ask(long), ask(short), ask(PATIENCE * 100));
    for outcome in [outcomes.0, outcomes.1, outcomes.2] {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Timeout);
    }
    let made = kv.get_or_set(KEY, KvOptions::new(), || async { Ok(json!(1)) }).await.unwrap();
    assert_eq!(made.value(), &json!(1), "the key is free again");
    let refused = kv.get_or_set(KEY, KvOptions::new().timeout(Duration::ZERO), hang).await.unwrap_err();
    assert_eq!(refused.get("field"), Some("timeout"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_in_this_process_stays_in_memory_and_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    for config in [Config::default(), Config::default().with_data_dir(directory.path())] {
        let sophia = engine(config).await;
        battery(&sophia, &sophia).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_stays_where_the_process_keeps_nothing_near() {
    let mut config = Config::default();
    config.memory.l1.max_bytes = 0;
    let sophia = engine(config).await;
    battery(&sophia, &sophia).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_by_another_engine_stays_in_their_file() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config::default().with_data_dir(directory.path());
    let (one, other) = (engine(config.clone()).await, engine(config).await);
    battery(&one, &other).await;
}

#[cfg(all(feature = "redis", unix))]
mod shared {
    use sophia_core::{memory::TierStatus, redis::RedisConfig, testing::RedisServer};

    use super::*;

    async fn engine(server: &RedisServer, directory: Option<&std::path::Path>) -> Sophia {
        // A busy machine is not an outage.
        waiting(server, directory, Duration::from_secs(2)).await
    }

    async fn waiting(server: &RedisServer, directory: Option<&std::path::Path>, timeout: Duration) -> Sophia {
        let mut config = Config::default();
        config.redis = RedisConfig::url(server.url());
        config.redis.timeout = timeout;
        config.data_dir = directory.map(std::path::Path::to_owned);
        let sophia = super::engine(config).await;
        sophia.memory().kv().get("warm-up", &Scope::new()).await.unwrap();
        let l2 = async || sophia.memory().health().await.tiers["l2"].status;
        until("the shared tier is heard", async || l2().await == TierStatus::Healthy).await;
        sophia
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_change_by_another_engine_stays_in_redis() {
        let server = RedisServer::start();
        let (one, other) = (engine(&server, None).await, engine(&server, None).await);
        battery(&one, &other).await;
        battery(&one, &one).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_change_by_another_engine_stays_in_their_file_behind_redis() {
        let (server, directory) = (RedisServer::start(), tempfile::tempdir().unwrap());
        let (one, other) =
            (engine(&server, Some(directory.path())).await, engine(&server, Some(directory.path())).await);
        battery(&one, &other).await;
        battery(&one, &one).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_asks_elsewhere_after_a_change_makes_their_own_value() {
        let server = RedisServer::start();
        let (one, other) = (engine(&server, None).await, engine(&server, None).await);
        for done in [Done::Delete, Done::InvalidateTag, Done::Forget] {
            let first = begin(&one, "old").await;
            done.by(&other).await;
            let kv = other.memory().kv().clone();
            let options = KvOptions::new().scope(ada()).tags([TAG]);
            let second = tokio::spawn(async move { kv.get_or_set(KEY, options, || async { Ok(json!("new")) }).await });
            assert_eq!(first.end().await, json!("old"));
            assert_eq!(second.await.unwrap().unwrap().value(), &json!("new"), "{done:?}");
            for sophia in [&one, &other] {
                until("both have it", async || read(sophia).await == Some(json!("new"))).await;
            }
            other.memory().kv().delete(KEY, &ada()).await.unwrap();
            until("it is gone", async || read(&one).await.is_none()).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_made_while_redis_is_away_is_kept_unless_it_was_changed() {
        let server = RedisServer::start();
        let (one, other) = (waiting(&server, None, Duration::from_millis(300)).await, engine(&server, None).await);
        server.hang();
        for done in Done::ALL {
            let load = begin(&one, "old").await;
            done.by(&one).await;
            assert_eq!(load.end().await, json!("old"));
            assert_eq!(read(&one).await, done.leaves("old"), "{done:?}");
            one.memory().kv().delete(KEY, &ada()).await.unwrap();
        }
        assert_eq!(begin(&one, "made").await.end().await, json!("made"));
        server.go_on();
        until("it has caught up", async || read(&other).await == Some(json!("made"))).await;
    }
}
