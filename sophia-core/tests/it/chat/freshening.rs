//! What is past its time: given once more and asked for anew, by one; and what was refused a moment ago.

use super::*;

/// Past the time of any answer by the default rule, 300 s and a tenth.
const PAST: Duration = Duration::from_secs(331);
const STALE_S: u64 = 600;

async fn stale_chat() -> (MockProvider, Chat, Arc<ManualClock>) {
    let (mock, clock) = (MockProvider::start().await.unwrap(), Arc::new(ManualClock::default()));
    let mut config = config(&[&mock]);
    config.chat.ttl.stale = STALE_S;
    config.chat.retry.retries = 0;
    let sophia = Sophia::builder().config(config).clock(clock.clone()).build().unwrap();
    (mock, sophia.chat().clone(), clock)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_answer_is_given_at_once_and_refreshed_once() {
    let (mock, chat, clock) = stale_chat().await;
    chat.complete(ask("x")).await.unwrap();
    clock.advance(PAST);
    mock.script([Fault::Hold]);
    let stale = join_all((0..50).map(|_| spawn(&chat, ask("x")))).await;
    for answer in stale {
        let answer = answer.unwrap().unwrap();
        assert_eq!((answer.cache.status, answer.cache.age_s), (CacheStatus::Stale, Some(331.0)));
        assert_eq!((answer.text.as_str(), answer.cache.tier), ("You asked: x", Some("l1")));
    }
    let streamed = drain(&chat, ask("x")).await.unwrap();
    assert_eq!(streamed[0].cache.as_ref().unwrap().status, CacheStatus::Stale);
    assert!(chat.hit(&ask("x")).is_none(), "what is stale is not given without a runtime that could refresh it");
    until(|| mock.calls() == 2).await;
    mock.release();
    until(|| chat.hit(&ask("x")).is_some()).await;
    let fresh = chat.complete(ask("x")).await.unwrap();
    assert_eq!((fresh.cache.status, mock.calls()), (CacheStatus::Hit, 2));
    // It said the same again, and is kept twice as long.
    assert!((540..=660).contains(&fresh.cache.ttl_s.unwrap()), "{:?}", fresh.cache.ttl_s);
}

#[tokio::test]
async fn a_refresh_that_fails_leaves_the_stale_answer_until_its_hard_end() {
    let (mock, chat, clock) = stale_chat().await;
    chat.complete(ask("x")).await.unwrap();
    clock.advance(PAST);
    mock.script([Fault::Status(503, None)]);
    assert_eq!(chat.complete(ask("x")).await.unwrap().cache.status, CacheStatus::Stale);
    until(|| mock.calls() == 2 && chat.metrics().in_flight == 0).await;
    assert_eq!(chat.complete(ask("x")).await.unwrap().cache.status, CacheStatus::Stale);
    clock.advance(Duration::from_secs(STALE_S));
    assert_eq!((chat.complete(ask("x")).await.unwrap().cache.status, mock.calls()), (CacheStatus::Miss, 3));
}

#[tokio::test]
async fn what_is_invalidated_during_its_refresh_is_gone() {
    let (mock, chat, clock) = stale_chat().await;
    chat.complete(ask("x")).await.unwrap();
    clock.advance(PAST);
    mock.script([Fault::Hold]);
    assert_eq!(chat.complete(ask("x")).await.unwrap().cache.status, CacheStatus::Stale);
    until(|| mock.calls() == 2).await;
    chat.invalidate(&Invalidate::scope(ada())).await.unwrap();
    mock.release();
    until(|| chat.metrics().in_flight == 0).await;
    assert_eq!((chat.complete(ask("x")).await.unwrap().cache.status, mock.calls()), (CacheStatus::Miss, 3));
}

#[tokio::test]
async fn who_only_looks_or_says_how_long_gets_what_they_said() {
    let (mock, chat, clock) = stale_chat().await;
    chat.complete(ask("x")).await.unwrap();
    chat.complete(ask("y").ttl(Duration::from_secs(300))).await.unwrap();
    clock.advance(PAST);
    let only = chat.complete(ask("x").cache(CacheMode::Only)).await.unwrap();
    assert_eq!(only.cache.status, CacheStatus::Stale);
    assert_eq!(chat.complete(ask("x").cache(CacheMode::Refresh)).await.unwrap().cache.status, CacheStatus::Miss);
    assert_eq!(chat.complete(ask("y")).await.unwrap().cache.status, CacheStatus::Miss);
    assert_eq!(mock.calls(), 4);
}

#[tokio::test]
async fn a_stale_value_of_a_producer_is_made_anew_in_the_background() {
    let (_mock, chat, clock) = stale_chat().await;
    let made = Arc::new(AtomicUsize::new(0));
    let run = || {
        let made = made.clone();
        chat.run("x", &ada(), move || async move { Ok(made.fetch_add(1, Ordering::SeqCst)) })
    };
    assert_eq!(run().await.unwrap().value, 0);
    clock.advance(PAST);
    let stale = run().await.unwrap();
    assert_eq!((stale.value, stale.cache.status), (0, CacheStatus::Stale));
    until(|| made.load(Ordering::SeqCst) == 2).await;
    let fresh = loop {
        let result = run().await.unwrap();
        if result.cache.status == CacheStatus::Hit {
            break result;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((fresh.value, made.load(Ordering::SeqCst)), (1, 2));
    // It is another one, and is kept half as long.
    assert!((135..=165).contains(&fresh.cache.ttl_s.unwrap()), "{:?}", fresh.cache.ttl_s);
}

#[tokio::test]
async fn a_refusal_that_will_not_pass_is_kept_for_a_moment_if_asked_for() {
    let (mock, clock) = (MockProvider::start().await.unwrap(), Arc::new(ManualClock::default()));
    let mut config = config(&[&mock]);
    config.chat.cache.negative = Duration::from_secs(5);
    let sophia = Sophia::builder().config(config.clone()).clock(clock.clone()).build().unwrap();
    let chat = sophia.chat();
    for status in [400, 401, 404, 422] {
        let before = mock.calls();
        let question = format!("fail:{status}");
        let first = chat.complete(ask(&question)).await.unwrap_err();
        clock.advance(Duration::from_secs(1));
        let again = chat.complete(ask(&question)).await.unwrap_err();
        assert_eq!((again.code(), again.message()), (first.code(), first.message()));
        assert_eq!((again.get("refused_ms_ago"), mock.calls() - before), (Some("1000"), 1));
        // As a stream it may be answered.
        for _ in 0..2 {
            assert_eq!(drain(&chat.clone(), ask(&question)).await.unwrap_err().code(), first.code());
            assert_eq!(mock.calls() - before, 2);
        }
        let asked = chat.complete(ask(&question).cache(CacheMode::Refresh)).await.unwrap_err();
        assert_eq!((asked.get("refused_ms_ago"), mock.calls() - before), (None, 3));
        clock.advance(Duration::from_secs(5));
        chat.complete(ask(&question)).await.unwrap_err();
        assert_eq!(mock.calls() - before, 4);
    }
    config.chat.cache.negative = Duration::from_secs(6);
    let error = Sophia::new(config).unwrap_err();
    assert_eq!((error.code(), error.get("field")), ("INVALID_CONFIG", Some("chat.cache.negative")));
}

#[tokio::test]
async fn who_asks_anew_is_not_given_what_was_asked_before() {
    let (mock, chat) = start().await;
    mock.script([Fault::Hold, Fault::Hold]);
    let before = spawn(&chat, ask("x"));
    until(|| mock.calls() == 1).await;
    let anew = [spawn(&chat, ask("x").cache(CacheMode::Refresh)), spawn(&chat, ask("x").cache(CacheMode::Refresh))];
    until(|| mock.calls() == 2).await;
    mock.release();
    mock.release();
    before.await.unwrap().unwrap();
    for anew in anew {
        anew.await.unwrap().unwrap();
    }
    assert_eq!(mock.calls(), 2, "who asks anew at the same time shares");
}

#[tokio::test]
async fn what_was_asked_anew_is_not_replaced_by_what_was_asked_before() {
    let (mock, chat) = start().await;
    mock.script([Fault::Hold]);
    let before = spawn(&chat, ask("x"));
    until(|| mock.calls() == 1).await;
    let body = |text: &str| {
        let message = json!({"role": "assistant", "content": text});
        Fault::Body(json!({"model": "small", "choices": [{"message": message, "finish_reason": "stop"}]}))
    };
    mock.script([body("new")]);
    assert_eq!(chat.complete(ask("x").cache(CacheMode::Refresh)).await.unwrap().text, "new");
    mock.release();
    assert_eq!(before.await.unwrap().unwrap().text, "You asked: x");
    assert_eq!(chat.complete(ask("x")).await.unwrap().text, "new");
}
