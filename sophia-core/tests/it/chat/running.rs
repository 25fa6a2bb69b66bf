//! The same protection around any coroutine.

use super::*;

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

#[tokio::test]
async fn producers_that_ask_a_provider_do_not_wait_for_themselves() {
    let mock = MockProvider::start().await.unwrap();
    let mut config = config(&[&mock]);
    config.chat.max_concurrent = 2;
    config.chat.timeout = Duration::from_secs(10);
    let chat = chat(config);
    let (scope, running) = (ada(), Arc::new(tokio::sync::Barrier::new(2)));
    let run = |question: &'static str| {
        let (asking, running) = (chat.clone(), running.clone());
        chat.run(question, &scope, move || async move {
            running.wait().await;
            Ok(asking.complete(ask(question)).await?.text.clone())
        })
    };
    let (a, b) = tokio::join!(run("a"), run("b"));
    assert_eq!((a.unwrap().value.as_str(), b.unwrap().value.as_str()), ("You asked: a", "You asked: b"));
    let metrics = chat.metrics();
    assert!((3..=4).contains(&metrics.peak_in_flight), "{metrics:?}");
    assert_eq!((metrics.in_flight, metrics.queue_depth), (0, 0));
}

#[tokio::test]
async fn producers_inside_of_others_do_not_wait_for_their_permits() {
    let mut config = Config::default();
    config.chat.max_concurrent = 2;
    config.chat.timeout = Duration::from_secs(10);
    let chat = chat(config);
    let outer = |number: usize| {
        let asking = chat.clone();
        chat.run(&format!("whole {number}"), &Scope::new(), move || async move {
            let part = asking.run(&format!("part {number}"), &Scope::new(), move || async move {
                tokio::task::yield_now().await;
                Ok(number)
            });
            Ok(part.await?.value)
        })
    };
    for (number, outcome) in join_all((0..20).map(outer)).await.into_iter().enumerate() {
        assert_eq!(outcome.unwrap().value, number);
    }
    assert_eq!((chat.metrics().in_flight, chat.metrics().peak_in_flight), (0, 4), "as many for each depth");
}

#[tokio::test]
async fn a_run_in_line_waits_for_no_producer_that_waits_for_it() {
    let mut config = Config::default();
    config.chat.max_concurrent = 1;
    config.chat.timeout = Duration::from_secs(10);
    let chat = chat(config);
    let (scope, go) = (Scope::new(), Arc::new(tokio::sync::Notify::new()));
    let whole = tokio::spawn({
        let (chat, go) = (chat.clone(), go.clone());
        async move {
            let asking = chat.clone();
            let whole = chat.run("whole", &Scope::new(), move || async move {
                go.notified().await;
                Ok(asking.run("part", &Scope::new(), || async { Ok(2) }).await?.value)
            });
            whole.await
        }
    });
    until(|| chat.metrics().in_flight == 1).await;
    let part = tokio::spawn({
        let chat = chat.clone();
        async move { chat.run("part", &scope, || async { Ok(1) }).await }
    });
    until(|| chat.metrics().queue_depth == 1).await;
    go.notify_one();
    assert_eq!((whole.await.unwrap().unwrap().value, part.await.unwrap().unwrap().value), (1, 1));
}

#[tokio::test]
async fn producers_do_not_stand_inside_of_each_other_without_end() {
    fn nest(chat: Chat, more: usize) -> futures::future::BoxFuture<'static, Result<usize>> {
        let inner = chat.clone();
        let run = async move {
            let run = chat.run(&more.to_string(), &Scope::new(), move || async move {
                if more == 0 { Ok(0) } else { nest(inner, more - 1).await }
            });
            Ok(run.await?.value)
        };
        run.boxed()
    }
    let chat = chat(Config::default());
    assert_eq!(nest(chat.clone(), 7).await.unwrap(), 0);
    let refused = nest(chat, 20).await.unwrap_err();
    assert_eq!(refused.code(), "INVALID_INPUT", "{refused}");
}

#[tokio::test]
async fn a_producer_that_asks_for_its_own_value_is_told_so() {
    fn run(chat: &Chat, questions: &'static [&'static str]) -> futures::future::BoxFuture<'static, Result<usize>> {
        let (chat, inner) = (chat.clone(), chat.clone());
        async move {
            let Some((question, others)) = questions.split_first() else { return Ok(0) };
            let run = chat.run(question, &Scope::new(), move || async move { run(&inner, others).await });
            Ok(run.await?.value + 1)
        }
        .boxed()
    }
    let chat = chat(Config::default());
    for questions in [&["a", "a"][..], &["a", "b", "a"], &["a", "b", "b"]] {
        let refused = run(&chat, questions).await.unwrap_err();
        assert_eq!((refused.code(), refused.get("field")), ("INVALID_INPUT", Some("message")), "{refused}");
    }
    assert_eq!(run(&chat, &["a", "b", "c"]).await.unwrap(), 3);
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
