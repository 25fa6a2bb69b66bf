//! Chat against a real server on loopback: never a wrong, foreign or half answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, future::join_all};
use serde_json::{Value, json};
use sophia_core::{
    Config, Error, ErrorKind, ManualClock, Result, Scope, Sophia,
    chat::{
        CacheMode, CacheStatus, Chat, ChatChunk, ChatRequest, ChatResponse, EmbedCall, Invalidate, Produced,
        ProviderConfig, RunOptions, Share,
    },
    operations,
    testing::{Fault, MockProvider},
};

fn ada() -> Scope {
    Scope::new().tenant("acme").user("ada")
}

fn bob() -> Scope {
    Scope::new().tenant("acme").user("bob")
}

fn ask(text: &str) -> ChatRequest {
    ChatRequest::new("small").user(text).scope(ada())
}

fn config(mocks: &[&MockProvider]) -> Config {
    let mut config = Config::default();
    for (index, mock) in mocks.iter().enumerate() {
        let provider =
            ProviderConfig::openai(format!("mock{index}"), mock.base_url()).api_key("sk-secret").models(["small"]);
        config.chat.providers.push(provider);
    }
    config.chat.retry.first_delay = Duration::from_millis(1);
    // Failures are made on purpose here, and must all reach the server.
    config.chat.breaker.consecutive_failures = 1000;
    config.chat.breaker.window = 1000;
    config
}

async fn start() -> (MockProvider, Chat) {
    let mock = MockProvider::start().await.unwrap();
    let chat = chat(config(&[&mock]));
    (mock, chat)
}

fn chat(config: Config) -> Chat {
    Sophia::new(config).unwrap().chat().clone()
}

async fn until(condition: impl Fn() -> bool) {
    tokio::time::timeout(Duration::from_secs(10), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the condition never came true");
}

fn spawn(chat: &Chat, request: ChatRequest) -> tokio::task::JoinHandle<Result<ChatResponse>> {
    let chat = chat.clone();
    tokio::spawn(async move { chat.complete(request).await })
}

async fn drain(chat: &Chat, request: ChatRequest) -> Result<Vec<ChatChunk>> {
    let mut stream = chat.stream(request)?;
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.next().await {
        chunks.push(chunk?);
    }
    Ok(chunks)
}

fn text(chunks: &[ChatChunk]) -> String {
    chunks.iter().map(|chunk| chunk.delta.as_str()).collect()
}

// ---- cache ----

#[tokio::test]
async fn a_question_is_asked_once_and_another_user_never_gets_the_answer() {
    let (mock, chat) = start().await;
    let first = chat.complete(ask("churn?")).await.unwrap();
    let again = chat.complete(ask("churn?")).await.unwrap();
    assert_eq!((first.text.as_str(), again.text.as_str()), ("You asked: churn?", "You asked: churn?"));
    assert_eq!((first.cache.status, again.cache.status), (CacheStatus::Miss, CacheStatus::Hit));
    assert_eq!((again.cache.tier, again.cache.key.clone()), (Some("l1"), first.cache.key.clone()));
    assert!((270..=330).contains(&first.cache.ttl_s.unwrap()) && again.attempts.is_empty());
    assert_eq!((first.usage.prompt_tokens, first.usage.cached_tokens), (Some(10), Some(4)));
    assert_eq!((first.provider.as_str(), first.model.as_str(), first.cost_usd), ("mock0", "small", None));
    assert_eq!(mock.calls(), 1);
    let his = chat.complete(ask("churn?").scope(bob())).await.unwrap();
    assert_eq!((his.cache.status, mock.calls()), (CacheStatus::Miss, 2));
    let unscoped = chat.complete(ChatRequest::new("small").user("churn?")).await.unwrap();
    assert_eq!((unscoped.cache.status, mock.calls()), (CacheStatus::Miss, 3));
}

#[tokio::test]
async fn an_answer_is_shared_only_as_far_as_it_was_asked_for() {
    let (mock, chat) = start().await;
    chat.complete(ask("x").share(Share::Tenant)).await.unwrap();
    let his = chat.complete(ask("x").scope(bob()).share(Share::Tenant)).await.unwrap();
    assert_eq!(his.cache.status, CacheStatus::Hit);
    let own = chat.complete(ask("x").scope(bob())).await.unwrap();
    assert_eq!((own.cache.status, mock.calls()), (CacheStatus::Miss, 2));
    let elsewhere = ask("x").scope(Scope::new().tenant("evil").user("ada")).share(Share::Tenant);
    assert_eq!(chat.complete(elsewhere).await.unwrap().cache.status, CacheStatus::Miss);
}

#[tokio::test]
async fn cache_modes_do_what_they_say() {
    let (mock, chat) = start().await;
    let with = |mode| chat.complete(ask("x").cache(mode));
    assert_eq!(with(CacheMode::Only).await.unwrap_err().kind(), ErrorKind::NotFound);
    let bypass = with(CacheMode::Bypass).await.unwrap();
    assert_eq!((bypass.cache.status, bypass.cache.key, bypass.cache.ttl_s), (CacheStatus::Bypass, None, None));
    assert_eq!(with(CacheMode::Only).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(with(CacheMode::Refresh).await.unwrap().cache.status, CacheStatus::Miss);
    assert_eq!(with(CacheMode::Only).await.unwrap().cache.status, CacheStatus::Hit);
    assert_eq!(with(CacheMode::Refresh).await.unwrap().cache.status, CacheStatus::Miss);
    assert_eq!(mock.calls(), 3);
}

#[tokio::test]
async fn an_answer_expires_when_its_time_is_over() {
    let mock = MockProvider::start().await.unwrap();
    let clock = Arc::new(ManualClock::default());
    let sophia = Sophia::builder().config(config(&[&mock])).clock(clock.clone()).build().unwrap();
    let request = || ask("x").ttl(Duration::from_secs(60));
    assert_eq!(sophia.chat().complete(request()).await.unwrap().cache.ttl_s, Some(60));
    clock.advance(Duration::from_secs(59));
    assert_eq!(sophia.chat().complete(request()).await.unwrap().cache.age_s, Some(59.0));
    clock.advance(Duration::from_secs(1));
    assert_eq!(sophia.chat().complete(request()).await.unwrap().cache.status, CacheStatus::Miss);
    let error = sophia.chat().complete(ask("x").ttl(Duration::from_secs(901))).await.unwrap_err();
    assert_eq!((error.code(), error.get("field")), ("INVALID_INPUT", Some("ttl")));
}

#[tokio::test]
async fn invalidation_removes_and_counts_and_also_stops_what_is_under_way() {
    let (mock, chat) = start().await;
    chat.complete(ask("a").tag("crm")).await.unwrap();
    chat.complete(ask("a").scope(bob())).await.unwrap();
    assert_eq!(chat.invalidate(&Invalidate::scope(ada())).unwrap(), 1);
    assert_eq!(chat.complete(ask("a").scope(bob())).await.unwrap().cache.status, CacheStatus::Hit);
    mock.script([Fault::Hold]);
    let old = spawn(&chat, ask("b").tag("crm"));
    until(|| mock.calls() == 3).await;
    chat.invalidate(&Invalidate::tag("crm")).unwrap();
    // Who asks now does not get what was asked before.
    let new = chat.complete(ask("b").tag("crm")).await.unwrap();
    assert_eq!((new.cache.status, mock.calls()), (CacheStatus::Miss, 4));
    mock.release();
    assert_eq!(old.await.unwrap().unwrap().cache.ttl_s, None);
    assert_eq!(chat.invalidate(&Invalidate::all()).unwrap(), 2);
}

#[tokio::test]
async fn a_hit_is_ready_on_the_first_poll_without_a_runtime() {
    let (mock, chat) = start().await;
    chat.complete(ask("x")).await.unwrap();
    let elsewhere = chat.clone();
    let hit = std::thread::spawn(move || elsewhere.complete(ask("x")).now_or_never().map(|answer| answer.unwrap()));
    assert_eq!(hit.join().unwrap().unwrap().cache.status, CacheStatus::Hit);
    assert_eq!(chat.hit(&ask("x")).unwrap().text, "You asked: x");
    assert!(chat.hit(&ask("y")).is_none());
    assert_eq!(mock.calls(), 1);
}

// ---- never a wrong or half answer ----

#[tokio::test]
async fn no_failure_is_ever_kept() {
    let mock = MockProvider::start().await.unwrap();
    let mut config = config(&[&mock]);
    config.chat.max_response_bytes = 100_000;
    config.chat.retry.retries = 0;
    let chat = chat(config);
    for (fault, code) in [
        (Fault::Status(400, None), "INVALID_INPUT"),
        (Fault::Status(401, None), "UNAUTHORIZED"),
        (Fault::Status(403, None), "UNAUTHORIZED"),
        (Fault::Status(404, None), "NOT_FOUND"),
        (Fault::Status(422, None), "INVALID_INPUT"),
        (Fault::Status(429, None), "RATE_LIMITED"),
        (Fault::Status(302, None), "UNAVAILABLE"),
        (Fault::Status(500, None), "UNAVAILABLE"),
        (Fault::Status(503, None), "UNAVAILABLE"),
        (Fault::Cut, "UNAVAILABLE"),
        (Fault::Close, "UNAVAILABLE"),
        (Fault::Garbage, "UNAVAILABLE"),
        (Fault::BadUtf8, "UNAVAILABLE"),
        (Fault::Endless, "UNAVAILABLE"),
        (Fault::ErrorInside, "UNAVAILABLE"),
    ] {
        let question = format!("{fault:?}");
        for _ in 0..2 {
            let calls = mock.calls();
            mock.script([fault.clone()]);
            let error = chat.complete(ask(&question)).await.unwrap_err();
            assert_eq!((error.code(), error.operation()), (code, "chat.complete"), "{fault:?}: {error}");
            assert!(!format!("{error:?}").contains("sk-secret"), "{error:?}");
            assert_eq!(mock.calls(), calls + 1, "{fault:?}");
            if !matches!(fault, Fault::Close) {
                mock.script([fault.clone()]);
                let error = drain(&chat, ask(&question)).await.unwrap_err();
                assert_eq!(error.code(), code, "streamed {fault:?}: {error}");
            }
        }
        let well = chat.complete(ask(&question)).await.unwrap();
        assert_eq!(well.cache.status, CacheStatus::Miss, "{fault:?} was kept");
    }
}

#[tokio::test]
async fn no_half_answer_is_ever_kept() {
    let (mock, chat) = start().await;
    for fault in [
        Fault::Finish("length"),
        Fault::Finish("content_filter"),
        Fault::Finish("refusal"),
        Fault::Empty,
        Fault::ToolCall,
    ] {
        let question = format!("{fault:?}");
        mock.script([fault.clone(), fault.clone()]);
        let given = chat.complete(ask(&question)).await.unwrap();
        assert_eq!((given.cache.status, given.cache.ttl_s), (CacheStatus::Miss, None), "{fault:?}");
        let streamed = drain(&chat, ask(&question)).await.unwrap();
        let end = streamed.last().unwrap();
        assert_eq!((end.finish_reason.clone(), end.cache.as_ref().unwrap().ttl_s), (given.finish_reason.clone(), None));
        assert_eq!(chat.complete(ask(&question)).await.unwrap().cache.status, CacheStatus::Miss, "{fault:?} was kept");
    }
}

#[tokio::test]
async fn requests_with_effects_are_neither_kept_nor_shared() {
    let (mock, chat) = start().await;
    for (field, value) in [("store", json!(true)), ("n", json!(2)), ("previous_response_id", json!("r"))] {
        let request = || ask("x").provider_field(field, value.clone());
        let (a, b) = tokio::join!(chat.complete(request()), chat.complete(request()));
        assert_eq!((a.unwrap().cache.status, b.unwrap().cache.status), (CacheStatus::Bypass, CacheStatus::Bypass));
    }
    assert_eq!(mock.calls(), 6);
}

#[tokio::test]
async fn a_failure_that_passes_is_tried_again() {
    let (mock, chat) = start().await;
    for fault in [Fault::Status(500, None), Fault::Garbage, Fault::Cut, Fault::Status(429, None)] {
        mock.script([fault.clone()]);
        let answer = chat.complete(ask(&format!("{fault:?}"))).await.unwrap();
        assert_eq!(answer.attempts.len(), 2, "{fault:?}");
        assert_eq!(answer.attempts[1].outcome, "ok");
    }
    let before = mock.calls();
    let error = chat.complete(ask("fail:503").timeout(Duration::from_secs(5))).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable(), error.get("attempts")), ("UNAVAILABLE", true, Some("2")));
    assert_eq!(mock.calls() - before, 2);
}

#[tokio::test]
async fn retry_after_is_waited_for_if_there_is_time_and_told_if_not() {
    let (mock, chat) = start().await;
    mock.script([Fault::Status(429, Some("0.15"))]);
    let start = Instant::now();
    assert_eq!(chat.complete(ask("a")).await.unwrap().attempts.len(), 2);
    assert!(start.elapsed() >= Duration::from_millis(150));
    mock.script([Fault::Status(429, Some("60"))]);
    let start = Instant::now();
    let error = chat.complete(ask("b")).await.unwrap_err();
    assert_eq!((error.code(), error.retry_after()), ("RATE_LIMITED", Some(Duration::from_secs(60))));
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(mock.calls(), 3);
}

#[tokio::test]
async fn the_next_provider_is_asked_when_the_first_fails_but_not_when_it_refuses() {
    let (first, second) = (MockProvider::start().await.unwrap(), MockProvider::start().await.unwrap());
    let chat = chat(config(&[&first, &second]));
    first.script([Fault::Status(503, None), Fault::Status(400, None), Fault::Status(503, None)]);
    let answer = chat.complete(ask("a")).await.unwrap();
    let attempts: Vec<_> = answer.attempts.iter().map(|attempt| (attempt.provider.as_str(), attempt.outcome)).collect();
    assert_eq!(attempts, [("mock0", "UNAVAILABLE"), ("mock1", "ok")]);
    assert_eq!(answer.provider, "mock1");
    assert_eq!(chat.complete(ask("b")).await.unwrap_err().code(), "INVALID_INPUT");
    assert_eq!(text(&drain(&chat, ask("c")).await.unwrap()), "You asked: c");
    assert_eq!((first.calls(), second.calls()), (3, 2));
    // After the first part was given, nobody else is asked.
    first.script([Fault::Cut]);
    assert_eq!(drain(&chat, ask("d e f g")).await.unwrap_err().code(), "UNAVAILABLE");
    assert_eq!((first.calls(), second.calls()), (4, 2));
}

#[tokio::test]
async fn a_provider_that_keeps_failing_is_no_longer_asked() {
    let mock = MockProvider::start().await.unwrap();
    let mut config = config(&[&mock]);
    config.chat.breaker.consecutive_failures = 4;
    let chat = chat(config);
    for index in 0..2 {
        assert_eq!(chat.complete(ask(&format!("fail:503 {index}"))).await.unwrap_err().code(), "UNAVAILABLE");
    }
    let error = chat.complete(ask("x")).await.unwrap_err();
    assert_eq!((error.code(), mock.calls()), ("CIRCUIT_OPEN", 4));
    assert!(error.retry_after().is_some());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let mock = MockProvider::start().await.unwrap();
    let config = config(&[&mock]);
    drop(mock);
    let error = chat(config).complete(ask("x")).await.unwrap_err();
    assert_eq!(error.code(), "UNAVAILABLE");
    assert!(error.message().contains("provider `mock0` cannot be reached"), "{error}");
}

// ---- one call for all ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_who_ask_the_same_are_one_call() {
    let (mock, chat) = start().await;
    mock.script([Fault::Hold]);
    let calls: Vec<_> = (0..200).map(|_| spawn(&chat, ask("stampede"))).collect();
    until(|| mock.calls() == 1).await;
    mock.release();
    let answers: Vec<_> = join_all(calls).await.into_iter().map(|answer| answer.unwrap().unwrap()).collect();
    assert_eq!(mock.calls(), 1);
    assert!(answers.iter().all(|answer| answer.text == "You asked: stampede"));
    let misses = answers.iter().filter(|answer| answer.cache.status == CacheStatus::Miss).count();
    assert_eq!(misses, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_calls_are_under_way_than_there_are_permits() {
    let mock = MockProvider::start().await.unwrap();
    mock.delay(Duration::from_millis(5));
    let mut config = config(&[&mock]);
    config.chat.max_concurrent = 5;
    let chat = chat(config);
    let calls = (0..60).map(|index| spawn(&chat, ask(&format!("question {index}"))));
    for answer in join_all(calls).await {
        answer.unwrap().unwrap();
    }
    assert_eq!((mock.calls(), mock.peak()), (60, 5));
    let metrics = chat.metrics();
    assert_eq!((metrics.peak_in_flight, metrics.in_flight, metrics.queue_depth), (5, 0, 0));
}

#[tokio::test]
async fn a_hit_needs_no_permit() {
    let mock = MockProvider::start().await.unwrap();
    let mut config = config(&[&mock]);
    config.chat.max_concurrent = 1;
    let chat = chat(config);
    chat.complete(ask("x")).await.unwrap();
    mock.script([Fault::Hold]);
    let held = spawn(&chat, ask("y"));
    until(|| mock.calls() == 2).await;
    assert_eq!(chat.complete(ask("x")).await.unwrap().cache.status, CacheStatus::Hit);
    let queued = chat.complete(ask("z").timeout(Duration::from_millis(20))).await.unwrap_err();
    assert_eq!((queued.code(), mock.calls()), ("TIMEOUT", 2));
    mock.release();
    held.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_cancelled_leader_harms_nobody() {
    let (mock, chat) = start().await;
    mock.script([Fault::Hold]);
    let leader = spawn(&chat, ask("x"));
    until(|| mock.calls() == 1).await;
    let mut follower = Box::pin(chat.complete(ask("x")));
    assert!(futures::poll!(&mut follower).is_pending());
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    mock.release();
    let answer = follower.await.unwrap();
    assert_eq!((answer.cache.status, mock.calls(), mock.closed()), (CacheStatus::Coalesced, 1, 0));
}

#[tokio::test]
async fn the_call_is_closed_when_the_last_one_leaves() {
    let (mock, chat) = start().await;
    mock.script([Fault::Hang, Fault::HoldHalf]);
    let only = spawn(&chat, ask("x"));
    until(|| mock.calls() == 1).await;
    only.abort();
    until(|| mock.closed() == 1).await;
    let mut stream = chat.stream(ask("a b c d")).unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    until(|| mock.closed() == 2).await;
    until(|| chat.metrics().in_flight == 0).await;
    assert_eq!(chat.complete(ask("x")).await.unwrap().cache.status, CacheStatus::Miss);
}

#[tokio::test]
async fn everyone_has_a_deadline_of_their_own() {
    let (mock, chat) = start().await;
    mock.script([Fault::Hold]);
    let patient = spawn(&chat, ask("x"));
    until(|| mock.calls() == 1).await;
    let error = chat.complete(ask("x").timeout(Duration::from_millis(30))).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("TIMEOUT", true));
    assert_eq!(error.message(), "no answer within 0.030 s");
    mock.release();
    assert_eq!(patient.await.unwrap().unwrap().text, "You asked: x");
    // A short first deadline does not end the call for a longer one that joins it.
    mock.script([Fault::Hold]);
    let hasty = spawn(&chat, ask("y").timeout(Duration::from_millis(30)));
    until(|| mock.calls() == 2).await;
    let patient = spawn(&chat, ask("y"));
    assert_eq!(hasty.await.unwrap().unwrap_err().code(), "TIMEOUT");
    mock.release();
    assert_eq!(patient.await.unwrap().unwrap().text, "You asked: y");
    assert_eq!((mock.calls(), mock.closed()), (2, 0));
}

#[tokio::test]
async fn a_timeout_is_typed_and_not_kept() {
    let (mock, chat) = start().await;
    mock.script([Fault::Hang, Fault::Hang]);
    let short = Duration::from_millis(30);
    assert_eq!(chat.complete(ask("x").timeout(short)).await.unwrap_err().kind(), ErrorKind::Timeout);
    let mut stream = chat.stream(ask("x").timeout(short)).unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap_err().kind(), ErrorKind::Timeout);
    assert!(stream.next().await.is_none());
    assert_eq!(chat.complete(ask("x")).await.unwrap().cache.status, CacheStatus::Miss);
    assert_eq!(chat.metrics().error_breakdown.get("TIMEOUT"), Some(&2));
}

// ---- streams ----

#[tokio::test]
async fn a_stream_comes_in_parts_and_is_replayed_in_the_same_parts() {
    let (mock, chat) = start().await;
    mock.script([Fault::Reasoning]);
    let live = drain(&chat, ask("tell me")).await.unwrap();
    let kept = drain(&chat, ask("tell me")).await.unwrap();
    assert_eq!((text(&live).as_str(), live.len()), ("You asked: tell me", 9));
    let parts = |chunks: &[ChatChunk]| -> Vec<_> {
        chunks.iter().map(|chunk| (chunk.delta.clone(), chunk.reasoning.clone(), chunk.tool_calls.clone())).collect()
    };
    assert_eq!(parts(&live), parts(&kept));
    let status = |chunk: &ChatChunk| chunk.cache.as_ref().map(|cache| cache.status);
    assert_eq!((status(&live[0]), status(&live[8])), (Some(CacheStatus::Miss), Some(CacheStatus::Miss)));
    assert_eq!(
        (status(&kept[0]), status(&kept[4]), status(&kept[8])),
        (Some(CacheStatus::Hit), None, Some(CacheStatus::Hit))
    );
    assert_eq!((live[8].finish_reason.as_deref(), live[8].usage.unwrap().prompt_tokens), (Some("stop"), Some(10)));
    assert_eq!(mock.bodies()[0]["stream_options"], json!({"include_usage": true}));
    assert_eq!(mock.calls(), 1);
}

#[tokio::test]
async fn one_entry_serves_streams_and_whole_answers() {
    let (mock, chat) = start().await;
    drain(&chat, ask("a")).await.unwrap();
    let whole = chat.complete(ask("a")).await.unwrap();
    assert_eq!((whole.cache.status, whole.text.as_str()), (CacheStatus::Hit, "You asked: a"));
    assert_eq!(whole.message["content"], "You asked: a");
    chat.complete(ask("b")).await.unwrap();
    let streamed = drain(&chat, ask("b")).await.unwrap();
    assert_eq!((text(&streamed).as_str(), mock.calls()), ("You asked: b", 2));
}

#[tokio::test]
async fn fifty_streams_are_one_call_and_a_late_one_gets_what_it_missed() {
    let (mock, chat) = start().await;
    mock.script([Fault::HoldHalf]);
    let mut first = chat.stream(ask("one two three four")).unwrap();
    let begun = first.next().await.unwrap().unwrap();
    assert_eq!(begun.delta, "You ");
    let others: Vec<_> = (0..49)
        .map(|_| {
            let chat = chat.clone();
            tokio::spawn(async move { drain(&chat, ask("one two three four")).await })
        })
        .collect();
    let whole = spawn(&chat, ask("one two three four"));
    tokio::task::yield_now().await;
    // The first one leaves; nobody notices.
    drop(first);
    mock.release();
    for other in others {
        let chunks = other.await.unwrap().unwrap();
        assert_eq!((text(&chunks).as_str(), chunks.len()), ("You asked: one two three four", 7));
        assert_eq!(chunks[0].cache.as_ref().unwrap().status, CacheStatus::Coalesced);
    }
    assert_eq!(whole.await.unwrap().unwrap().cache.status, CacheStatus::Coalesced);
    assert_eq!((mock.calls(), mock.closed()), (1, 0));
}

#[tokio::test]
async fn a_stream_that_joins_a_whole_answer_gets_it_in_one_go() {
    let (mock, chat) = start().await;
    mock.script([Fault::Hold]);
    let whole = spawn(&chat, ask("a b"));
    until(|| mock.calls() == 1).await;
    let mut stream = chat.stream(ask("a b")).unwrap();
    mock.release();
    let batch = stream.next_batch().await.unwrap().unwrap();
    assert_eq!((text(&batch).as_str(), batch.len()), ("You asked: a b", 2));
    assert!(stream.next_batch().await.is_none());
    whole.await.unwrap().unwrap();
    assert_eq!(mock.calls(), 1);
}

#[tokio::test]
async fn a_stream_that_was_cut_off_fails_and_is_not_kept() {
    let (mock, chat) = start().await;
    mock.script([Fault::Cut, Fault::NoDone]);
    let mut stream = chat.stream(ask("a b c d e f")).unwrap();
    let mut given = String::new();
    let error = loop {
        match stream.next().await.unwrap() {
            Ok(chunk) => given += &chunk.delta,
            Err(error) => break error,
        }
    };
    assert!(given.starts_with("You asked:") && !given.ends_with('f'), "{given}");
    assert_eq!((error.code(), error.operation()), ("UNAVAILABLE", "chat.stream"));
    // Ended well, but without the protocol's last event: given, not kept.
    let chunks = drain(&chat, ask("a b c d e f")).await.unwrap();
    assert_eq!(chunks.last().unwrap().cache.as_ref().unwrap().ttl_s, None);
    assert_eq!(chat.complete(ask("a b c d e f")).await.unwrap().cache.status, CacheStatus::Miss);
}

#[tokio::test]
async fn a_streamed_tool_call_arrives_whole() {
    let (mock, chat) = start().await;
    mock.script([Fault::ToolCall, Fault::ToolCall]);
    let chunks = drain(&chat, ask("x")).await.unwrap();
    let answer = chunks.last().unwrap().answer.clone().unwrap();
    let whole = chat.complete(ask("x")).await.unwrap();
    assert_eq!(
        (answer.tool_calls.clone(), answer.finish_reason.as_deref()),
        (whole.tool_calls.clone(), Some("tool_calls"))
    );
    assert_eq!(whole.tool_calls[0]["function"]["arguments"], "{\"x\":1}");
}

// ---- requests ----

#[tokio::test]
async fn unknown_fields_pass_through_both_ways() {
    let (mock, chat) = start().await;
    let reply = json!({"id": "1", "model": "small-2", "new": {"a": [1]},
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi", "odd": true}, "finish_reason": "stop"}]});
    mock.script([Fault::Body(reply.clone())]);
    let request = ask("x").provider_field("top_k", 5).provider_field("odd", json!({"b": null}));
    let answer = chat.complete(request).await.unwrap();
    let sent = &mock.bodies()[0];
    assert_eq!((&sent["top_k"], &sent["odd"], &sent["model"]), (&json!(5), &json!({"b": null}), &json!("small")));
    assert_eq!(sent["messages"], json!([{"role": "user", "content": "x"}]));
    assert_eq!((answer.body(), answer.model.as_str(), &answer.message["odd"]), (reply, "small-2", &json!(true)));
    assert_eq!(answer.usage.prompt_tokens, None);
    assert_eq!(mock.authorization().as_deref(), Some("Bearer sk-secret"));
}

#[tokio::test]
async fn a_model_that_nobody_offers_is_named_with_those_that_are_known() {
    let (mock, chat) = start().await;
    let error = chat.complete(ChatRequest::new("huge").user("x")).await.unwrap_err();
    assert_eq!((error.code(), error.get("field")), ("NOT_FOUND", Some("model")));
    assert!(error.message().contains("`huge`") && error.message().contains("known are small"), "{error}");
    // The only configured model is the default.
    let request = serde_json::from_value::<ChatRequest>(json!({"prompt": "x"})).unwrap();
    assert_eq!(chat.complete(request).await.unwrap().model, "small");
    assert_eq!(mock.calls(), 1);
    let nobody = Sophia::new(Config::default()).unwrap();
    let error = nobody.chat().complete(ask("x")).await.unwrap_err();
    assert_eq!((error.code(), error.get("field")), ("INVALID_CONFIG", Some("chat.providers")));
}

#[tokio::test]
async fn what_is_too_large_or_empty_is_refused_before_anything_is_sent() {
    let (mock, chat) = start().await;
    for request in [ask(&"x".repeat(10 << 20)), ChatRequest::new("small"), ask("x").timeout(Duration::ZERO)] {
        assert_eq!(chat.complete(request.clone()).await.unwrap_err().code(), "INVALID_INPUT");
        assert_eq!(chat.stream(request).unwrap_err().code(), "INVALID_INPUT");
    }
    assert_eq!(mock.calls(), 0);
}

#[tokio::test]
async fn embeddings_come_in_the_order_of_the_texts() {
    let (_mock, chat) = start().await;
    let embedded = chat.embed(EmbedCall::new(["a", "bbb"]).model("small")).await.unwrap();
    assert_eq!(embedded.vectors, [[1.0, 1.0], [3.0, 1.0]]);
    assert_eq!(chat.embed(EmbedCall::new([""; 0])).await.unwrap_err().code(), "INVALID_INPUT");
    assert_eq!(chat.models().await.unwrap()[0].id, "small");
}

#[tokio::test]
async fn every_operation_can_be_called_by_name() {
    let mock = MockProvider::start().await.unwrap();
    let sophia = Sophia::new(config(&[&mock])).unwrap();
    let call = |name: &'static str, arguments: Value| {
        let running = operations::call(&sophia, name, arguments);
        async move { running?.await.map(|reply| serde_json::to_value(&reply).unwrap()) }
    };
    let scope = json!({"tenant": "acme", "user": "ada"});
    let arguments = json!({"prompt": "Hello", "model": "small", "scope": scope, "provider_fields": {"seed": 1}, "timeout": 5, "ttl": 60});
    let answer = call("chat.complete", arguments.clone()).await.unwrap();
    assert_eq!((&answer["text"], &answer["cache"]["status"]), (&json!("You asked: Hello"), &json!("miss")));
    for field in [
        "message",
        "model",
        "provider",
        "usage",
        "cost_usd",
        "finish_reason",
        "tool_calls",
        "attempts",
        "latency_ms",
        "explain",
    ] {
        assert!(answer.get(field).is_some(), "{field}");
    }
    assert_eq!(call("chat.cache_key", arguments).await.unwrap(), answer["cache"]["key"]);
    assert_eq!(call("chat.classify", json!({"message": "GPU"})).await.unwrap(), "infrastructure");
    assert_eq!(call("chat.ttl_for", json!({"context": "default", "text": ""})).await.unwrap(), 300);
    assert_eq!(call("chat.models", json!({})).await.unwrap()[0]["provider"], "mock0");
    assert_eq!(call("chat.embed", json!({"texts": ["a"]})).await.unwrap()["vectors"][0][0], 1.0);
    assert_eq!(call("chat.metrics", json!({})).await.unwrap()["total_requests"], 1);
    assert_eq!(call("chat.invalidate", json!({"scope": scope})).await.unwrap(), 1);
    let wrong = call("chat.complete", json!({"prompt": "x", "scop": {}})).await.unwrap_err();
    assert_eq!((wrong.code(), wrong.get("field")), ("INVALID_INPUT", Some("scop")));
}

#[tokio::test]
async fn a_shutdown_ends_calls_and_a_later_use_opens_again() {
    let mock = MockProvider::start().await.unwrap();
    let sophia = Sophia::new(config(&[&mock])).unwrap();
    mock.script([Fault::Hang]);
    let hanging = spawn(sophia.chat(), ask("x"));
    until(|| mock.calls() == 1).await;
    sophia.shutdown().await.unwrap();
    assert_eq!(hanging.await.unwrap().unwrap_err().code(), "CANCELLED");
    until(|| mock.closed() == 1).await;
    assert_eq!(sophia.chat().complete(ask("x")).await.unwrap().text, "You asked: x");
}

#[tokio::test]
async fn connections_are_kept_for_the_next_call() {
    let (mock, chat) = start().await;
    for index in 0..10 {
        chat.complete(ask(&format!("{index}"))).await.unwrap();
        drain(&chat, ask(&format!("streamed {index}"))).await.unwrap();
    }
    assert_eq!((mock.calls(), mock.connections()), (20, 1));
}

// ---- run ----

#[tokio::test]
async fn a_producer_runs_once_for_all_who_ask_the_same() {
    let chat = chat(Config::default());
    let runs = Arc::new(AtomicUsize::new(0));
    let ask = || {
        let runs = runs.clone();
        chat.run("How many deals are open?", &Scope::new(), move || async move {
            runs.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Ok(json!({"response": "42 open deals"}))
        })
    };
    let results = join_all((0..20).map(|_| ask())).await;
    assert!(results.iter().all(|result| result.as_ref().unwrap().value["response"] == "42 open deals"));
    assert_eq!(ask().await.unwrap().cache.status, CacheStatus::Hit);
    assert_eq!((runs.load(Ordering::SeqCst), chat.metrics().coalesced), (1, 19));
    let other: Result<_> = chat.run("How many deals are open?", &ada(), || async { Ok("other".to_string()) }).await;
    assert_eq!(other.unwrap().value, "other");
}

#[derive(Debug)]
struct Own(u32);

impl std::fmt::Display for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "own error {}", self.0)
    }
}

impl std::error::Error for Own {}

#[tokio::test]
async fn a_producers_own_error_reaches_everyone_and_is_not_kept() {
    let chat = chat(Config::default());
    let failing = || {
        chat.run("x", &Scope::new(), || async {
            tokio::task::yield_now().await;
            Err::<String, _>(Error::new(ErrorKind::Internal, "chat.run", "the producer failed").with_source(Own(7)))
        })
    };
    for result in join_all([failing(), failing(), failing()]).await {
        let error = result.unwrap_err();
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Own>());
        assert_eq!(source.map(|own| own.0), Some(7));
    }
    let well = chat.run("x", &Scope::new(), || async { Ok("well".to_string()) }).await.unwrap();
    assert_eq!((well.value.as_str(), well.cache.status), ("well", CacheStatus::Miss));
    let panicked = chat.run("y", &Scope::new(), || async { panic!("boom") as Result<String> }).await;
    assert_eq!(panicked.unwrap_err().kind(), ErrorKind::Internal);
}

#[tokio::test]
async fn a_producer_decides_what_is_kept_and_for_how_long() {
    let mut config = Config::default();
    config.chat.ttl.jitter = 0.0;
    let chat = chat(config);
    let run =
        |options: RunOptions, produced: Produced| chat.run_value(options, move || async move { Ok(produced) }.boxed());
    let options = |message: &str| RunOptions::new(message).context("business_intelligence");
    let produced = || Produced::new(json!({"response": "x"}));
    assert_eq!(run(options("a"), produced().text("as of today")).await.unwrap().cache.ttl_s, Some(120));
    assert_eq!(run(options("b"), produced().text("I know")).await.unwrap().cache.ttl_s, Some(600));
    assert_eq!(run(options("c"), Produced::new("it is live")).await.unwrap().cache.ttl_s, Some(120));
    assert_eq!(run(options("d").ttl(Duration::from_secs(5)), produced()).await.unwrap().cache.ttl_s, Some(5));
    assert_eq!(run(options("e"), produced().cacheable(false)).await.unwrap().cache.ttl_s, None);
    assert_eq!(run(options("e"), produced()).await.unwrap().cache.status, CacheStatus::Miss);
    let auto = RunOptions::new("GPU servers").context("auto");
    assert_eq!(run(auto, produced()).await.unwrap().cache.ttl_s, Some(60));
    assert_eq!(run(options("a").cache(CacheMode::Bypass), produced()).await.unwrap().cache.status, CacheStatus::Bypass);
    assert_eq!(run(RunOptions::new(""), produced()).await.unwrap_err().get("field"), Some("message"));
    let slow = chat.run_with(RunOptions::new("s").timeout(Duration::from_millis(10)), || async {
        std::future::pending::<()>().await;
        Ok(())
    });
    assert_eq!(slow.await.unwrap_err().code(), "TIMEOUT");
}
