//! What is kept, for whom, and for how long.

use super::*;

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
    assert_eq!(chat.invalidate(&Invalidate::scope(ada())).await.unwrap(), 1);
    assert_eq!(chat.complete(ask("a").scope(bob())).await.unwrap().cache.status, CacheStatus::Hit);
    mock.script([Fault::Hold]);
    let old = spawn(&chat, ask("b").tag("crm"));
    until(|| mock.calls() == 3).await;
    chat.invalidate(&Invalidate::tag("crm")).await.unwrap();
    // Who asks now does not get what was asked before.
    let new = chat.complete(ask("b").tag("crm")).await.unwrap();
    assert_eq!((new.cache.status, mock.calls()), (CacheStatus::Miss, 4));
    mock.release();
    assert_eq!(old.await.unwrap().unwrap().cache.ttl_s, None);
    assert_eq!(chat.invalidate(&Invalidate::all()).await.unwrap(), 2);
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
