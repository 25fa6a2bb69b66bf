//! What answers cost, and how much a scope may use.

use sophia_core::chat::{CostGroup, CostQuery, LimitConfig, Price};

use super::*;

/// Dollars per million tokens. An answer of the mock, 10 tokens of which 4 were cached and 5 said, costs 24 millionths.
fn price() -> Price {
    serde_json::from_value(json!({"prompt": 2.0, "completion": 2.0, "cached": 0.5})).unwrap()
}

const COST: f64 = 24e-6;

fn near(cost: Option<f64>, expected: f64) -> bool {
    cost.is_some_and(|cost| (cost - expected).abs() < 1e-12)
}

fn limited(mock: &MockProvider, limit: LimitConfig) -> (Chat, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let mut config = config(&[mock]);
    config.chat.prices.insert("small".into(), price());
    config.chat.limits.push(limit);
    let sophia = Sophia::builder().config(config).clock(clock.clone()).build().unwrap();
    (sophia.chat().clone(), clock)
}

#[tokio::test]
async fn an_answer_says_what_it_cost_and_a_hit_what_it_saved() {
    let mock = MockProvider::start().await.unwrap();
    let mut config = config(&[&mock]);
    config.chat.prices.insert("mock0/small".into(), price());
    let chat = chat(config);
    let answer = chat.complete(ask("a")).await.unwrap();
    assert!(near(answer.cost_usd, COST), "{:?}", answer.cost_usd);
    chat.complete(ask("a")).await.unwrap();
    drain(&chat, ask("a")).await.unwrap();
    let streamed = drain(&chat, ask("b").scope(bob())).await.unwrap();
    assert!(near(streamed.last().unwrap().answer.as_ref().unwrap().cost_usd, COST));
    let total = chat.costs(&CostQuery::default()).await.unwrap().total;
    assert_eq!((total.calls, total.unpriced_calls, total.saved_calls), (2, 0, 2));
    assert!(near(total.cost_usd, 2.0 * COST) && near(total.saved_usd, 2.0 * COST), "{total:?}");
    assert_eq!((total.prompt_tokens, total.completion_tokens, total.cached_tokens), (20, 10, 8));
    let users = chat.costs(&CostQuery::by(CostGroup::Scope)).await.unwrap().rows;
    assert_eq!(users.iter().map(|row| row.user.as_deref().unwrap()).collect::<Vec<_>>(), ["ada", "bob"]);
    let hers = chat.costs(&CostQuery::by(CostGroup::Provider).scope(ada())).await.unwrap().rows;
    assert_eq!((hers.len(), hers[0].provider.as_deref(), hers[0].calls), (1, Some("mock0"), 1));
}

#[tokio::test]
async fn who_shares_a_call_pays_nothing() {
    let mock = MockProvider::start().await.unwrap();
    let (chat, _) = limited(&mock, LimitConfig::per(Share::User).requests_per_minute(1));
    mock.script([Fault::Hold]);
    let calls: Vec<_> = (0..10).map(|_| spawn(&chat, ask("x"))).collect();
    until(|| mock.calls() == 1).await;
    let stream = tokio::spawn({
        let chat = chat.clone();
        async move { drain(&chat, ask("x")).await }
    });
    tokio::task::yield_now().await;
    mock.release();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    stream.await.unwrap().unwrap();
    let total = chat.costs(&CostQuery::default()).await.unwrap().total;
    assert_eq!((total.calls, total.saved_calls), (1, 10));
    assert!(near(total.cost_usd, COST) && near(total.saved_usd, 10.0 * COST), "{total:?}");
}

#[tokio::test]
async fn without_a_price_the_cost_is_null_and_not_nothing() {
    let (_mock, chat) = start().await;
    assert_eq!(chat.complete(ask("a")).await.unwrap().cost_usd, None);
    chat.complete(ask("a")).await.unwrap();
    chat.embed(EmbedCall::new(["x"])).await.unwrap();
    let total = chat.costs(&CostQuery::default()).await.unwrap().total;
    assert_eq!((total.cost_usd, total.unpriced_calls, total.saved_usd), (None, 2, None));
    assert_eq!((total.calls, total.saved_calls, total.prompt_tokens), (2, 1, 11));
}

#[tokio::test]
async fn who_is_over_a_limit_is_told_which_and_until_when_and_still_gets_hits() {
    let mock = MockProvider::start().await.unwrap();
    let (chat, clock) = limited(&mock, LimitConfig::per(Share::User).requests_per_minute(2));
    chat.complete(ask("a")).await.unwrap();
    drain(&chat, ask("b")).await.unwrap();
    let error = chat.complete(ask("c")).await.unwrap_err();
    assert_eq!((error.code(), error.get("limit")), ("RATE_LIMITED", Some("requests_per_minute")));
    assert_eq!(error.retry_after().map(|wait| wait.as_secs()), Some(30));
    assert_eq!(
        error.message(),
        "the limit of 2 requests_per_minute of tenant `acme`, user `ada` is reached (`chat.limits[0]`)"
    );
    assert_eq!(drain(&chat, ask("c")).await.unwrap_err().code(), "RATE_LIMITED");
    let run = chat.run("c", &ada(), || async { Ok(1) }).await.unwrap_err();
    assert_eq!((run.code(), run.operation()), ("RATE_LIMITED", "chat.run"));
    assert_eq!(chat.complete(ask("a")).await.unwrap().cache.status, CacheStatus::Hit);
    chat.complete(ask("c").scope(bob())).await.unwrap();
    assert_eq!(mock.calls(), 3);
    clock.advance(error.retry_after().unwrap());
    chat.complete(ask("c")).await.unwrap();
}

#[tokio::test]
async fn who_is_over_a_limit_is_refused_alone_and_the_next_one_pays() {
    let mock = MockProvider::start().await.unwrap();
    let (chat, _) = limited(&mock, LimitConfig::per(Share::User).requests_per_minute(1));
    chat.complete(ask("a")).await.unwrap();
    let ask = |scope: Scope| ask("shared").share(Share::Tenant).scope(scope);
    // In this order, before any of them is asked: she leads, and he joins.
    let (hers, again, his) =
        tokio::join!(chat.complete(ask(ada())), drain(&chat, ask(ada())), chat.complete(ask(bob())));
    for error in [hers.unwrap_err(), again.unwrap_err()] {
        assert!(error.message().contains("user `ada`"), "{error}");
    }
    assert_eq!((his.unwrap().cache.status, mock.calls()), (CacheStatus::Miss, 2));
    let carol = Scope::new().tenant("acme").user("carol");
    chat.complete(super::ask("b").scope(carol.clone())).await.unwrap();
    let (hers, carols) = tokio::join!(
        drain(&chat, ask(ada()).provider_field("seed", 7)),
        drain(&chat, ask(carol.clone()).provider_field("seed", 7))
    );
    assert!(hers.unwrap_err().message().contains("user `ada`"));
    assert!(carols.unwrap_err().message().contains("user `carol`"), "each is told of its own limit");
    let run = |scope: Scope| async {
        let options = RunOptions::new("shared").share(Share::Tenant).scope(scope);
        chat.run_with(options, || async { Ok(1) }).await
    };
    let dave = Scope::new().tenant("acme").user("dave");
    let (hers, carols, daves) = tokio::join!(run(ada()), run(carol), run(dave));
    assert!(hers.unwrap_err().message().contains("user `ada`"));
    assert!(carols.unwrap_err().message().contains("user `carol`"));
    assert_eq!(daves.unwrap().value, 1);
}

#[tokio::test]
async fn an_answer_without_counts_is_estimated_against_limits_and_stays_unknown_in_the_costs() {
    let mock = MockProvider::start().await.unwrap();
    let (chat, _) = limited(&mock, LimitConfig::per(Share::User).tokens_per_minute(100));
    let choice =
        json!({"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word ".repeat(80)}});
    mock.script([Fault::Body(json!({"id": "1", "model": "small", "choices": [choice]}))]);
    assert_eq!(chat.complete(ask("a")).await.unwrap().usage.prompt_tokens, None);
    assert!(chat.budget(&ada()).await.unwrap()[0].used >= 100.0);
    assert_eq!(chat.complete(ask("b")).await.unwrap_err().get("limit"), Some("tokens_per_minute"));
    let total = chat.costs(&CostQuery::default()).await.unwrap().total;
    assert_eq!((total.unpriced_calls, total.completion_tokens), (1, 0));
}

#[tokio::test]
async fn a_budget_that_is_spent_lasts_until_midnight() {
    let mock = MockProvider::start().await.unwrap();
    let (chat, clock) = limited(&mock, LimitConfig::per(Share::Tenant).daily_usd(1.5 * COST));
    let hers = async || chat.budget(&ada()).await.unwrap().remove(0);
    for (question, spent) in [("a", COST), ("b", 2.0 * COST)] {
        chat.complete(ask(question)).await.unwrap();
        assert!(near(Some(hers().await.used), spent), "{:?}", hers().await);
    }
    assert_eq!((hers().await.remaining, hers().await.scope), (0.0, Scope::new().tenant("acme")));
    let error = chat.complete(ask("c").scope(bob())).await.unwrap_err();
    assert_eq!((error.get("limit"), error.retry_after()), (Some("daily_usd"), Some(Duration::from_secs(24 * 3600))));
    clock.advance(Duration::from_secs(24 * 3600));
    chat.complete(ask("c")).await.unwrap();
    assert_eq!(mock.calls(), 3);
}

#[tokio::test]
async fn tokens_are_limited_by_what_answers_took() {
    let mock = MockProvider::start().await.unwrap();
    let (chat, clock) = limited(&mock, LimitConfig::per(Share::All).tokens_per_minute(15));
    chat.complete(ask("a")).await.unwrap();
    let error = chat.complete(ask("b").scope(bob())).await.unwrap_err();
    assert_eq!((error.get("limit"), error.retry_after().unwrap().as_secs()), (Some("tokens_per_minute"), 4));
    assert_eq!(chat.embed(EmbedCall::new(["x"])).await.unwrap_err().get("limit"), Some("tokens_per_minute"));
    clock.advance(error.retry_after().unwrap());
    chat.embed(EmbedCall::new(["x"])).await.unwrap();
}

#[tokio::test]
async fn a_failed_call_counts_as_a_call_and_costs_nothing() {
    let mock = MockProvider::start().await.unwrap();
    let (chat, _) = limited(&mock, LimitConfig::per(Share::User).requests_per_minute(1).daily_usd(1.0));
    assert_eq!(chat.complete(ask("fail:400")).await.unwrap_err().code(), "INVALID_INPUT");
    assert_eq!(chat.complete(ask("a")).await.unwrap_err().get("limit"), Some("requests_per_minute"));
    assert_eq!(chat.costs(&CostQuery::default()).await.unwrap().total.calls, 0);
}

#[tokio::test]
async fn contexts_that_callers_choose_do_not_become_any_number_of_series() {
    let mock = MockProvider::start().await.unwrap();
    let sophia = Sophia::new(config(&[&mock])).unwrap();
    for number in 0..400 {
        let request = ask(&format!("{number}")).context(format!("context-{number}"));
        sophia.chat().complete(request).await.unwrap();
    }
    let text = sophia.telemetry().prometheus();
    let series = text.lines().filter(|line| line.starts_with("sophia_ai_requests_total"));
    assert_eq!(series.count(), 257);
    assert!(text.contains(r#"task_type="other"} 144"#), "{text}");
}

#[tokio::test]
async fn who_leaves_before_the_end_pays_for_what_was_asked() {
    let mock = MockProvider::start().await.unwrap();
    let (chat, _) = limited(&mock, LimitConfig::per(Share::User).tokens_per_minute(10_000).daily_usd(1.0));
    let counted = async || {
        let used: Vec<_> = chat.budget(&ada()).await.unwrap().into_iter().map(|limit| limit.used).collect();
        (chat.costs(&CostQuery::default()).await.unwrap().total, used)
    };
    // A stream that is left, one that breaks off, a whole answer that nobody waits for any more.
    mock.script([Fault::HoldHalf, Fault::Cut, Fault::Hold]);
    let mut stream = chat.stream(ask("one two three four")).unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    drain(&chat, ask("one two three")).await.unwrap_err();
    let call = spawn(&chat, ask("four"));
    until(|| mock.calls() == 3).await;
    call.abort();
    until(|| mock.closed() == 2).await;
    let (total, used) = counted().await;
    assert_eq!((total.calls, total.unpriced_calls, total.cost_usd), (3, 3, None), "what it cost is not known");
    assert!(used.iter().all(|used| *used > 0.0), "the limits count an estimate: {used:?}");
    mock.release();
    // What failed used nothing.
    chat.complete(ask("fail:400")).await.unwrap_err();
    assert_eq!(counted().await.0.calls, 3);
}

#[tokio::test]
async fn vectors_are_of_a_scope_as_answers_are() {
    let mock = MockProvider::start().await.unwrap();
    let (chat, _) = limited(&mock, LimitConfig::per(Share::User).requests_per_minute(1));
    chat.embed(EmbedCall::new(["x"]).scope(ada())).await.unwrap();
    let error = chat.embed(EmbedCall::new(["x"]).scope(ada())).await.unwrap_err();
    assert_eq!(error.get("limit"), Some("requests_per_minute"));
    chat.embed(EmbedCall::new(["x"]).scope(bob())).await.unwrap();
    let rows = chat.costs(&CostQuery::by(CostGroup::Scope)).await.unwrap().rows;
    let users: Vec<_> = rows.iter().map(|row| row.user.as_deref()).collect();
    assert_eq!(users, [Some("ada"), Some("bob")]);
}

#[tokio::test]
async fn who_waited_in_line_is_asked_again_for_what_is_left() {
    let mock = MockProvider::start().await.unwrap();
    let mut config = config(&[&mock]);
    config.chat.max_concurrent = 1;
    config.chat.prices.insert("small".into(), price());
    config.chat.limits.push(LimitConfig::per(Share::User).requests_per_minute(100).daily_usd(0.5 * COST));
    let clock = Arc::new(ManualClock::default());
    let chat = Sophia::builder().config(config).clock(clock).build().unwrap().chat().clone();
    mock.script([Fault::Hold]);
    let first = spawn(&chat, ask("a"));
    until(|| mock.calls() == 1).await;
    // Producers have a line of their own.
    let (asking, done) = (chat.clone(), Arc::new(tokio::sync::Notify::new()));
    let going_on = done.clone();
    let run = |message: &'static str| {
        let (chat, done) = (asking.clone(), done.clone());
        tokio::spawn(async move {
            chat.run(message, &ada(), || async move {
                done.notified().await;
                Ok(1)
            })
            .await
        })
    };
    let running = run("a");
    until(|| chat.metrics().in_flight == 2).await;
    let (whole, streamed) = (
        spawn(&chat, ask("b")),
        tokio::spawn({
            let chat = chat.clone();
            async move { drain(&chat, ask("c")).await }
        }),
    );
    let vectors = tokio::spawn({
        let chat = chat.clone();
        async move { chat.embed(EmbedCall::new(["x"]).scope(ada())).await }
    });
    let waiting = run("b");
    until(|| chat.metrics().queue_depth == 4).await;
    mock.release();
    first.await.unwrap().unwrap();
    going_on.notify_one();
    running.await.unwrap().unwrap();
    let refused = [
        whole.await.unwrap().unwrap_err(),
        streamed.await.unwrap().unwrap_err(),
        vectors.await.unwrap().unwrap_err(),
        waiting.await.unwrap().unwrap_err(),
    ];
    assert!(refused.iter().all(|error| error.get("limit") == Some("daily_usd")), "{refused:?}");
    assert_eq!(mock.calls(), 1);
    let budget = chat.budget(&ada()).await.unwrap();
    assert!(
        near(Some(budget[1].used), COST) && (budget[0].used - 6.0).abs() < 1e-6,
        "each is counted once: {budget:?}"
    );
}

#[tokio::test]
async fn vectors_that_nobody_waits_for_any_more_are_paid_for() {
    // It takes connections and answers nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = Config::default();
    let url = format!("http://{}/v1", silent.local_addr().unwrap());
    config.chat.providers.push(ProviderConfig::openai("silent", url).models(["small"]));
    config.chat.prices.insert("silent/small".into(), price());
    config.chat.limits.push(LimitConfig::per(Share::User).tokens_per_minute(10_000).daily_usd(1.0));
    let chat = Sophia::builder().config(config).clock(Arc::new(ManualClock::default())).build().unwrap().chat().clone();
    let call =
        || EmbedCall::new(["word ".repeat(80), "word ".repeat(80)]).scope(ada()).timeout(Duration::from_millis(50));
    let used = async || chat.budget(&ada()).await.unwrap().iter().map(|limit| limit.used).collect::<Vec<_>>();
    assert_eq!(chat.embed(call()).await.unwrap_err().code(), "TIMEOUT");
    let counted = used().await;
    assert!((counted[0] - 200.0).abs() < 1e-3 && near(Some(counted[1]), 400e-6), "four bytes are a token: {counted:?}");
    let total = chat.costs(&CostQuery::default()).await.unwrap().total;
    assert_eq!((total.calls, total.unpriced_calls, total.prompt_tokens), (1, 1, 0), "what it cost is not known");
    let error = chat.embed(call().timeout(Duration::ZERO)).await.unwrap_err();
    assert_eq!(error.get("field"), Some("timeout"));
    // What failed used nothing.
    drop(silent);
    assert_eq!(chat.embed(call().timeout(Duration::from_secs(10))).await.unwrap_err().code(), "UNAVAILABLE");
    assert_eq!(used().await, counted);
}

#[tokio::test]
async fn what_is_shared_by_many_saves_who_asks_for_it() {
    let mock = MockProvider::start().await.unwrap();
    let chat = chat(config(&[&mock]));
    for scope in [ada(), bob(), bob()] {
        chat.complete(ask("x").scope(scope).share(Share::Tenant)).await.unwrap();
    }
    let query = serde_json::from_value(json!({"by": "scope"})).unwrap();
    let rows = chat.costs(&query).await.unwrap().rows;
    let saved = |user: Option<&str>| rows.iter().find(|row| row.user.as_deref() == user).map(|row| row.saved_calls);
    assert_eq!((saved(Some("ada")), saved(Some("bob")), saved(None)), (Some(0), Some(2), None), "{rows:?}");
}

#[tokio::test]
async fn a_provider_that_hangs_and_vectors_are_seen_in_prometheus() {
    let mock = MockProvider::start().await.unwrap();
    let sophia = Sophia::new(config(&[&mock])).unwrap();
    mock.script([Fault::Hang]);
    let late = sophia.chat().complete(ask("x").timeout(Duration::from_millis(100))).await.unwrap_err();
    assert_eq!(late.code(), "TIMEOUT");
    assert!(!sophia.telemetry().prometheus().contains("sophia_cache_hit_ratio{"), "nothing was looked up");
    let holds = |line: &str| sophia.telemetry().prometheus().lines().any(|own| own == line);
    let labels = "{model=\"small\",provider=\"mock0\",task_type=";
    until(|| holds("sophia_errors_total{service=\"chat.mock0\",error_type=\"TIMEOUT\"} 1")).await;
    assert!(holds(&format!("sophia_ai_requests_total{labels}\"default\"}} 1")), "{}", sophia.telemetry().prometheus());
    for _ in 0..4 {
        sophia.chat().complete(ask("y")).await.unwrap();
    }
    assert!(holds("sophia_cache_hit_ratio{cache=\"chat\"} 0.75"), "{}", sophia.telemetry().prometheus());
    sophia.chat().embed(EmbedCall::new(["a"]).model("small")).await.unwrap();
    assert!(
        holds(&format!("sophia_ai_requests_total{labels}\"embeddings\"}} 1")),
        "{}",
        sophia.telemetry().prometheus()
    );
}
