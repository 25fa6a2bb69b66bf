//! Answers that engines share: found in Redis, asked for once, invalidated for all, and never waited for when it is away.

use std::time::{SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use sophia_core::{
    chat::{CacheStatus, Chat, ChatRequest, Invalidate, ProviderConfig, RunOptions, Share},
    testing::{Fault, MockProvider},
};

use super::*;

pub(super) fn ask(text: &str) -> ChatRequest {
    ChatRequest::new("small").user(text).scope(ada())
}

pub(super) async fn chatting(redis: RedisConfig, mock: &MockProvider) -> Sophia {
    let mut config = config(redis, None);
    config.chat.providers.push(ProviderConfig::openai("mock", mock.base_url()).models(["small"]));
    // A busy machine is not an outage; the slow Redis of a test is slower.
    config.chat.cache.l2.timeout = Duration::from_millis(150);
    let sophia = Sophia::new(config).unwrap();
    sophia.start().await.unwrap();
    // The connection is there before anything is counted.
    sophia.memory().kv().get("warm-up", &Scope::new()).await.unwrap();
    until("changes are heard", async || l2(&sophia).await == TierStatus::Healthy).await;
    sophia
}

pub(super) async fn status(chat: &Chat, request: ChatRequest) -> (CacheStatus, Option<&'static str>) {
    let cache = chat.complete(request).await.unwrap().cache;
    (cache.status, cache.tier)
}

const MISS: (CacheStatus, Option<&str>) = (CacheStatus::Miss, None);
const L1: (CacheStatus, Option<&str>) = (CacheStatus::Hit, Some("l1"));
const L2: (CacheStatus, Option<&str>) = (CacheStatus::Hit, Some("l2"));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_asked_for_by_one_engine_and_given_by_all() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let redis = || RedisConfig::url(server.url());
    let (one, two) = (chatting(redis(), &mock).await, chatting(redis(), &mock).await);
    let first = one.chat().complete(ask("x")).await.unwrap();
    assert_eq!((first.cache.status, first.cache.tier, first.cache.degraded), (CacheStatus::Miss, None, false));
    let second = two.chat().complete(ask("x")).await.unwrap();
    assert_eq!((second.cache.status, second.cache.tier, &second.cache.key), (L2.0, L2.1, &first.cache.key));
    assert_eq!((second.answer.body(), second.usage), (first.answer.body(), first.usage));
    assert!(second.cache.ttl_s == first.cache.ttl_s && second.cache.age_s.is_some() && second.attempts.is_empty());
    assert_eq!(status(two.chat(), ask("x")).await, L1);
    // A stream gets the same answer, in parts as they came or in one.
    let streamed: Vec<_> = two.chat().stream(ask("y")).unwrap().map(Result::unwrap).collect().await;
    let chunks: Vec<_> = one.chat().stream(ask("y")).unwrap().map(Result::unwrap).collect().await;
    let text =
        |chunks: &[sophia_core::chat::ChatChunk]| chunks.iter().map(|chunk| chunk.delta.clone()).collect::<String>();
    assert_eq!((text(&streamed), text(&chunks)), ("You asked: y".into(), "You asked: y".into()));
    for chunk in [chunks.first().unwrap(), chunks.last().unwrap()] {
        let cache = chunk.cache.clone().unwrap();
        assert_eq!((cache.status, cache.tier), L2);
    }
    assert_eq!(mock.calls(), 2);
    // Walls hold in Redis, too.
    for other in [Scope::new().tenant("acme").user("bob"), Scope::new().user("ada"), Scope::new()] {
        assert_eq!(status(two.chat(), ask("x").scope(other)).await, MISS);
    }
    let wide = || ask("wide").share(Share::Tenant);
    assert_eq!(status(one.chat(), wide()).await, MISS);
    assert_eq!(status(two.chat(), wide().scope(Scope::new().tenant("acme").user("bob"))).await, L2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_run_are_shared_and_made_once() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let redis = || RedisConfig::url(server.url());
    let (one, two) = (chatting(redis(), &mock).await, chatting(redis(), &mock).await);
    let made = Arc::new(AtomicUsize::new(0));
    let run = |sophia: &Sophia| {
        let (chat, made) = (sophia.chat().clone(), made.clone());
        async move {
            let produce = move || async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(made.fetch_add(1, Ordering::SeqCst))
            };
            chat.run_with(RunOptions::new("how many?").scope(ada()), produce).await.unwrap()
        }
    };
    let (a, b) = futures::join!(run(&one), run(&two));
    assert_eq!((a.value, b.value, made.load(Ordering::SeqCst)), (0, 0, 1));
    let tiers = [a.cache.tier, b.cache.tier];
    assert!(tiers.contains(&None) && tiers.contains(&Some("l2")), "{tiers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_that_ask_the_same_at_once_are_one_call() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let redis = || RedisConfig::url(server.url());
    let engines = [chatting(redis(), &mock).await, chatting(redis(), &mock).await, chatting(redis(), &mock).await];
    mock.script([Fault::Hold]);
    let calls: Vec<_> = (0..30)
        .map(|number| {
            let chat = engines[number % 3].chat().clone();
            tokio::spawn(async move { chat.complete(ask("stampede")).await.unwrap().text.clone() })
        })
        .collect();
    until("the call is made", async || mock.calls() == 1).await;
    // The others wait for a lease that is held: nothing more comes while it is.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(mock.calls(), 1);
    mock.release();
    for call in calls {
        assert_eq!(call.await.unwrap(), "You asked: stampede");
    }
    assert_eq!(mock.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_kept_is_not_shared() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let redis = || RedisConfig::url(server.url());
    let (one, two) = (chatting(redis(), &mock).await, chatting(redis(), &mock).await);
    one.chat().complete(ask("fail:503")).await.unwrap_err();
    let calls = mock.calls();
    two.chat().complete(ask("fail:503")).await.unwrap_err();
    assert!(mock.calls() > calls, "an error is nobody's answer");
    mock.script([Fault::Finish("length")]);
    assert_eq!(status(one.chat(), ask("cut")).await, MISS);
    assert_eq!(status(two.chat(), ask("cut")).await, MISS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_engine_invalidates_no_engine_gives() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let redis = || RedisConfig::url(server.url());
    let (one, two) = (chatting(redis(), &mock).await, chatting(redis(), &mock).await);
    let other = chatting(redis(), &mock).await;
    for which in [Invalidate::tag("t"), Invalidate::scope(ada()), Invalidate::context("c"), Invalidate::all()] {
        let request = || ask("x").tag("t").context("c");
        one.chat().complete(request()).await.unwrap();
        two.chat().complete(request()).await.unwrap();
        let calls = mock.calls();
        one.chat().invalidate(&which).await.unwrap();
        // Near copies of others go as soon as they hear; the shared one went before this engine reads it again.
        for engine in [&two, &other] {
            until("the others have heard", async || engine.chat().hit(&request()).is_none()).await;
        }
        until("it is asked for again", async || {
            let (status, tier) = status(two.chat(), request()).await;
            status == CacheStatus::Miss && tier.is_none() && mock.calls() == calls + 1
        })
        .await;
        // Who asks before the new answer has reached Redis, or before the removal is known to be there, asks for itself.
        for engine in [&one, &other] {
            until("it is shared again", async || engine.chat().complete(request()).await.unwrap().cache.tier.is_some())
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_invalidation_one_engine_asks_for_all() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let redis = || RedisConfig::url(server.url());
    let (one, two) = (chatting(redis(), &mock).await, chatting(redis(), &mock).await);
    let other = chatting(redis(), &mock).await;
    for number in 0..30 {
        let request = || ask(&format!("x {number}")).tag("t");
        for engine in [&one, &two, &other] {
            engine.chat().complete(request()).await.unwrap();
        }
        one.chat().invalidate(&Invalidate::tag("t")).await.unwrap();
        for engine in [&two, &other] {
            until("the others have heard", async || engine.chat().hit(&request()).is_none()).await;
        }
        let calls = mock.calls();
        let (first, second) = tokio::join!(two.chat().complete(request()), other.chat().complete(request()));
        assert_eq!((mock.calls(), &first.unwrap().text), (calls + 1, &second.unwrap().text), "{number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_hits_go_on_and_misses_are_asked() {
    let (mut server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let slow = faults::Slow::before(server.port());
    let one = chatting(RedisConfig::url(slow.url()), &mock).await;
    one.chat().complete(ask("known")).await.unwrap();
    for trouble in ["killed", "hung", "slow"] {
        match trouble {
            "killed" => server.kill(),
            "hung" => server.hang(),
            _ => slow.delay_ms.store(200, Ordering::SeqCst),
        }
        assert_eq!(status(one.chat(), ask("known")).await, L1, "{trouble}");
        let missed = one.chat().complete(ask(trouble)).await.unwrap();
        assert_eq!((missed.cache.status, missed.text.as_str()), (CacheStatus::Miss, &*format!("You asked: {trouble}")));
        assert!(missed.cache.degraded, "{trouble}: it must be said");
        assert_eq!(status(one.chat(), ask(trouble)).await, L1, "{trouble}");
        match trouble {
            "killed" => server.restart(),
            "hung" => server.go_on(),
            _ => slow.delay_ms.store(0, Ordering::SeqCst),
        }
        let asked = AtomicUsize::new(0);
        until("it is used again", async || {
            let number = asked.fetch_add(1, Ordering::SeqCst);
            !one.chat().complete(ask(&format!("after {trouble} {number}"))).await.unwrap().cache.degraded
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_invalidated_while_redis_is_away_does_not_come_back_with_it() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let redis = || RedisConfig::url(server.url());
    let one = chatting(redis(), &mock).await;
    one.chat().complete(ask("x")).await.unwrap();
    server.hang();
    one.chat().invalidate(&Invalidate::all()).await.unwrap();
    server.go_on();
    let two = chatting(redis(), &mock).await;
    let (status, tier) = status(one.chat(), ask("x")).await;
    assert_eq!((status, tier, mock.calls()), (CacheStatus::Miss, None, 2));
    until("it is written down", async || {
        let cache = two.chat().complete(ask("y")).await.unwrap().cache;
        !cache.degraded
    })
    .await;
    assert_eq!(one.chat().complete(ask("x")).await.unwrap().cache.tier, Some("l1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hears_late_of_an_invalidation_hears_of_it_all_the_same() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let slow = faults::Slow::before(server.port());
    let one = chatting(RedisConfig::url(server.url()), &mock).await;
    let late = chatting(RedisConfig::url(slow.url()), &mock).await;
    for sophia in [&one, &late] {
        sophia.chat().complete(ask("x").tag("t")).await.unwrap();
    }
    // Longer than Redis may take to answer.
    slow.delay_ms.store(200, Ordering::SeqCst);
    one.chat().invalidate(&Invalidate::tag("t")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    slow.delay_ms.store(0, Ordering::SeqCst);
    until("it has heard", async || late.chat().hit(&ask("x").tag("t")).is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_is_in_redis_when_its_call_returns() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let one = chatting(RedisConfig::url(server.url()), &mock).await;
    // Behind the one that it begins with.
    for number in 2..=6 {
        one.chat().invalidate(&Invalidate::tag("t")).await.unwrap();
        assert_eq!(server.ask("LLEN sophia:chatlog:v1:invalidations").as_deref(), Some(&*format!(":{number}\r\n")));
    }
    server.hang();
    one.chat().invalidate(&Invalidate::tag("t")).await.unwrap();
    server.go_on();
    one.shutdown().await.unwrap();
    // By the one that timed out, or again.
    let said = server.ask("LLEN sophia:chatlog:v1:invalidations").unwrap();
    assert!(said.trim_matches([':', '\r', '\n']).parse::<u64>().is_ok_and(|length| length >= 7), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_under_way_elsewhere_is_not_shared_after_it_was_forgotten() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let slow = faults::Slow::before(server.port());
    let redis = || RedisConfig::url(server.url());
    let (one, other) = (chatting(redis(), &mock).await, chatting(redis(), &mock).await);
    let asking = chatting(RedisConfig::url(slow.url()), &mock).await;
    mock.script([Fault::Hold]);
    let chat = asking.chat().clone();
    let call = tokio::spawn(async move { chat.complete(ask("x")).await });
    until("it is asked", async || mock.calls() == 1).await;
    // It is told late of what is forgotten, and answered before.
    slow.delay_ms.store(60, Ordering::SeqCst);
    one.memory().forget(ForgetRequest::scope(ada())).await.unwrap();
    mock.release();
    call.await.unwrap().unwrap();
    slow.delay_ms.store(0, Ordering::SeqCst);
    until("it lies nowhere", async || server.ask("KEYS sophia:chat:*").as_deref() == Some("*0\r\n")).await;
    assert_eq!(status(other.chat(), ask("x")).await, MISS);
}

/// Writes an invalidation of everything into the log, as a server would whose clock is ahead or behind.
fn logged_at(masters: &[RedisServer], at: SystemTime) {
    let us = at.duration_since(UNIX_EPOCH).unwrap().as_micros();
    let push = format!("LPUSH sophia:chatlog:v1:invalidations '{us} another {{\"all\":true}}'");
    let said: Vec<_> = masters.iter().map(|master| master.ask(&push).unwrap()).collect();
    assert!(said.iter().any(|said| said.starts_with(':')), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_a_clock_that_is_behind_invalidates_all_the_same() {
    let (cluster, mock) = (RedisCluster::start(), MockProvider::start().await.unwrap());
    let redis = || RedisConfig::cluster(cluster.urls());
    logged_at(&cluster.masters, SystemTime::now() - Duration::from_secs(5));
    let (one, two) = (chatting(redis(), &mock).await, chatting(redis(), &mock).await);
    one.chat().complete(ask("x")).await.unwrap();
    logged_at(&cluster.masters, SystemTime::now() - Duration::from_millis(800));
    until("the first has heard", async || one.chat().hit(&ask("x")).is_none()).await;
    assert_eq!(status(two.chat(), ask("x")).await, MISS);
    until("it is shared after a second", async || {
        one.chat().complete(ask("y").cache(sophia_core::chat::CacheMode::Refresh)).await.unwrap();
        let other = chatting(redis(), &mock).await;
        status(other.chat(), ask("y")).await == L2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_invalidated_after_the_clock_was_set_back_is_heard_of() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let redis = || RedisConfig::url(server.url());
    let (one, two) = (chatting(redis(), &mock).await, chatting(redis(), &mock).await);
    two.chat().complete(ask("x")).await.unwrap();
    logged_at(std::slice::from_ref(&server), SystemTime::now() + Duration::from_secs(60));
    until("it was heard", async || two.chat().hit(&ask("x")).is_none()).await;
    two.chat().complete(ask("x")).await.unwrap();
    one.chat().invalidate(&Invalidate::all()).await.unwrap();
    until("this, too", async || two.chat().hit(&ask("x")).is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_anew_is_shared() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let redis = || RedisConfig::url(server.url());
    let (one, two) = (chatting(redis(), &mock).await, chatting(redis(), &mock).await);
    let anew = ask("x").cache(sophia_core::chat::CacheMode::Refresh);
    assert_eq!(one.chat().complete(anew).await.unwrap().cache.tier, None);
    assert_eq!(status(two.chat(), ask("x")).await, L2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_value_is_no_answer() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let redis = || RedisConfig::url(server.url());
    let (one, two) = (chatting(redis(), &mock).await, chatting(redis(), &mock).await);
    one.chat().complete(ask("x")).await.unwrap();
    let said = server.ask("KEYS sophia:chat:*").unwrap();
    let key = said.lines().find(|line| line.starts_with("sophia:chat:")).unwrap();
    server.ask(&format!("SET {key} \"\"")).unwrap();
    assert_eq!(status(two.chat(), ask("x")).await, MISS);
}

/// Returns how many scripts the server ran.
fn scripts(server: &RedisServer) -> u64 {
    let said = server.ask("INFO commandstats").unwrap();
    let calls = said.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    calls.and_then(|calls| calls.split(',').next()?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_miss_asks_redis_three_times_and_a_hit_once() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let redis = || RedisConfig::url(server.url());
    let (one, two) = (chatting(redis(), &mock).await, chatting(redis(), &mock).await);
    // Both know the scripts and the log now.
    assert_eq!((status(one.chat(), ask("a")).await, status(two.chat(), ask("a")).await), (MISS, L2));
    let before = scripts(&server);
    assert_eq!(status(one.chat(), ask("x")).await, MISS);
    assert_eq!(scripts(&server), before + 3, "a look that takes the turn; whose it is; the answer");
    assert_eq!(status(two.chat(), ask("x")).await, L2);
    assert_eq!(scripts(&server), before + 4);
    assert_eq!(server.ask("KEYS sophia:chatlease:*").unwrap().trim(), "*0", "no turn is left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_for_before_does_not_replace_what_another_asked_for_since() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let redis = || RedisConfig::url(server.url());
    let (one, two) = (chatting(redis(), &mock).await, chatting(redis(), &mock).await);
    mock.script([Fault::Hold]);
    let chat = one.chat().clone();
    let before = tokio::spawn(async move { chat.complete(ask("x")).await });
    until("it is asked", async || mock.calls() == 1).await;
    let message = json!({"role": "assistant", "content": "new"});
    mock.script([Fault::Body(json!({"model": "small", "choices": [{"message": message, "finish_reason": "stop"}]}))]);
    let anew = ask("x").cache(sophia_core::chat::CacheMode::Refresh);
    assert_eq!(two.chat().complete(anew).await.unwrap().text, "new");
    mock.release();
    before.await.unwrap().unwrap();
    let fresh = chatting(redis(), &mock).await.chat().complete(ask("x")).await.unwrap();
    assert_eq!((fresh.cache.tier, fresh.text.as_str()), (Some("l2"), "new"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_from_another_is_stale_as_its_own_is() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let start = async || {
        let mut config = config(RedisConfig::url(server.url()), None);
        config.chat.providers.push(ProviderConfig::openai("mock", mock.base_url()).models(["small"]));
        (config.chat.ttl.min, config.chat.ttl.default, config.chat.ttl.jitter) = (1, 2, 0.0);
        (config.chat.ttl.stale, config.chat.cache.l2.timeout) = (60, Duration::from_millis(150));
        let sophia = Sophia::new(config).unwrap();
        sophia.start().await.unwrap();
        sophia
    };
    let (one, two) = (start().await, start().await);
    one.chat().complete(ask("x")).await.unwrap();
    until("it is shared", async || status(two.chat(), ask("x")).await.1.is_some()).await;
    until("its time is over", async || status(two.chat(), ask("x")).await == (CacheStatus::Stale, Some("l1"))).await;
}
