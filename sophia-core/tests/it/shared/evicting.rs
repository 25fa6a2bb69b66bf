//! What Redis evicts: any key at any time, those by which others are found and invalidated included.

use sophia_core::chat::{CacheStatus, Invalidate};

use super::{
    chat::{ask, chatting, status},
    *,
};

/// Removes the keys whose names hold `part`, as an eviction does.
fn evict(server: &RedisServer, part: &str) -> usize {
    let said = server.ask("KEYS *").unwrap();
    let keys: Vec<_> = said.lines().filter(|line| line.contains(part)).collect();
    keys.iter().for_each(|key| assert_eq!(server.ask(&format!("DEL {key}")).as_deref(), Some(":1\r\n")));
    keys.len()
}

fn tagged(tag: &str) -> KvInvalidate {
    serde_json::from_value(json!({"tags": [tag], "scope": ada()})).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_found_in_an_index_is_not_given_either() {
    let (server, directory) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let start = async || engine(RedisConfig::url(server.url()), Some(directory.path())).await;
    let (one, two) = (start().await, start().await);
    let others = [":names", ":times", ":tags", ":tag:", ":generation", ":epoch"];
    for (number, index) in others.into_iter().enumerate() {
        let keys = [format!("a {number}"), format!("b {number}")];
        for key in &keys {
            let options = KvOptions::new().scope(ada()).tags(["t".to_owned(), key.clone()]);
            one.memory().kv().set(key, json!(1), options).await.unwrap();
            until("it is near", async || read(&two, key).await.is_some() && near(&two, key).is_some()).await;
        }
        assert!(evict(&server, index) > 0, "{index}");
        // By the one that was found by it, and then by one that another write had listed again.
        assert_eq!(one.memory().kv().invalidate(tagged(&keys[0])).await.unwrap(), 1);
        set(&one, "other", json!(number)).await;
        one.memory().kv().invalidate(tagged("t")).await.unwrap();
        let fresh = start().await;
        for key in &keys {
            assert_eq!(read(&fresh, key).await, None, "{key} after {index}");
            until("the others hear of it", async || near(&two, key) != Some(Some(json!(1)))).await;
            assert_eq!(read(&two, key).await, None, "{key} after {index}");
        }
        // And all goes on.
        set(&one, &keys[0], json!(2)).await;
        assert_eq!((found_in(&fresh, &keys[0]).await, read(&fresh, &keys[0]).await), (Some("l2"), Some(json!(2))));
    }
    until("nobody reads what was there before", async || {
        one.memory().forget(ForgetRequest::subject("ada")).await.is_ok()
    })
    .await;
    let said = server.ask("KEYS sophia:kvi:*").unwrap();
    assert!([":names", ":times", ":tags", ":generation"].iter().all(|index| !said.contains(index)), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_little_room_nothing_that_was_invalidated_is_given() {
    let server = RedisServer::start_with(&["--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru"]);
    let directory = tempfile::tempdir().unwrap();
    let start = async || engine(RedisConfig::url(server.url()), Some(directory.path())).await;
    let one = start().await;
    let scopes: Vec<_> = (0..600).map(|number| Scope::new().user(format!("user-{number}"))).collect();
    for scope in &scopes {
        for (key, tag) in [("kept", "a"), ("invalidated", "b")] {
            let options = KvOptions::new().scope(scope.clone()).tags([tag]);
            one.memory().kv().set(key, json!("x".repeat(3_000)), options).await.unwrap();
        }
    }
    for scope in &scopes {
        let which = serde_json::from_value(json!({"tags": ["b"], "scope": scope})).unwrap();
        assert_eq!(one.memory().kv().invalidate(which).await.unwrap(), 1);
    }
    let said = server.ask("INFO stats").unwrap();
    let evicted = said.lines().find_map(|line| line.strip_prefix("evicted_keys:")).unwrap();
    assert!(evicted.parse::<u64>().unwrap() > 100, "{evicted}");
    let fresh = start().await;
    for scope in &scopes {
        for (key, is_there) in [("kept", true), ("invalidated", false)] {
            let found = fresh.memory().kv().get(key, scope).await.unwrap();
            assert_eq!(found.is_some(), is_there, "{key} of {scope:?}");
        }
    }
    until("what was set a moment ago is found there", async || {
        set(&one, "k", json!(1)).await;
        found_in(&start().await, "k").await == Some("l2")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_older_than_the_log_of_invalidations_are_not_given() {
    let (server, mock) = (RedisServer::start(), sophia_core::testing::MockProvider::start().await.unwrap());
    let start = async || chatting(RedisConfig::url(server.url()), &mock).await;
    let (one, two) = (start().await, start().await);
    for (number, is_read_first) in [true, false].into_iter().enumerate() {
        let request = || ask(&format!("x {number}")).tag("t");
        one.chat().complete(request()).await.unwrap();
        assert_eq!(status(two.chat(), request()).await, (CacheStatus::Hit, Some("l2")));
        one.chat().invalidate(&Invalidate::tag("t")).await.unwrap();
        assert_eq!(evict(&server, ":invalidations"), 1);
        if !is_read_first {
            one.chat().invalidate(&Invalidate::tag("another")).await.unwrap();
        }
        let fresh = start().await;
        assert_eq!(status(fresh.chat(), request()).await, (CacheStatus::Miss, None));
        until("it is shared again", async || {
            status(one.chat(), request()).await;
            status(start().await.chat(), request()).await == (CacheStatus::Hit, Some("l2"))
        })
        .await;
    }
}
