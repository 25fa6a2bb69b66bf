//! One call for all who ask the same, and no more calls than permits.

use super::*;

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
    let mut hasty = Box::pin(chat.complete(ask("y").timeout(Duration::from_millis(30))));
    assert!(futures::poll!(&mut hasty).is_pending());
    let mut patient = Box::pin(chat.complete(ask("y")));
    assert!(futures::poll!(&mut patient).is_pending());
    assert_eq!(hasty.await.unwrap_err().code(), "TIMEOUT");
    until(|| mock.calls() == 2).await;
    mock.release();
    assert_eq!(patient.await.unwrap().text, "You asked: y");
    assert_eq!((mock.calls(), mock.closed()), (2, 0));
}

#[tokio::test]
async fn a_timeout_is_typed_and_not_kept() {
    let (_mock, chat) = start().await;
    let hanging = || ask("fault:hang").timeout(Duration::from_millis(30));
    assert_eq!(chat.complete(hanging()).await.unwrap_err().kind(), ErrorKind::Timeout);
    let mut stream = chat.stream(hanging()).unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap_err().kind(), ErrorKind::Timeout);
    assert!(stream.next().await.is_none());
    assert!(chat.hit(&hanging()).is_none());
    assert_eq!(chat.metrics().error_breakdown.get("TIMEOUT"), Some(&2));
}

#[tokio::test]
async fn a_refusal_is_of_those_who_asked_in_the_same_words() {
    let mock = MockProvider::start().await.unwrap();
    let mut config = config(&[&mock]);
    config.chat.cache.negative = Duration::from_secs(5);
    let chat = chat(config);
    let of = |name: &str, value: Value| {
        let fields = json!({"prompt": "x", "scope": {"user": "ada"}, "provider_fields": {name: value}});
        serde_json::from_value::<ChatRequest>(fields).unwrap()
    };
    let bounded = || of("max_tokens", json!(50));
    assert_eq!(
        chat.cache_key(&bounded()).unwrap(),
        chat.cache_key(&of("max_completion_tokens", json!(50))).unwrap(),
        "they are one question"
    );
    mock.delay(Duration::from_millis(300));
    mock.script([Fault::Status(400, None)]);
    let first = spawn(&chat, bounded());
    until(|| mock.calls() == 1).await;
    let same = spawn(&chat, bounded());
    let other = spawn(&chat, of("max_completion_tokens", json!(50)));
    let (streaming, request) = (chat.clone(), bounded());
    let stream = tokio::spawn(async move { drain(&streaming, request).await });
    for refused in [first, same] {
        assert_eq!(refused.await.unwrap().unwrap_err().code(), "INVALID_INPUT");
    }
    assert_eq!(other.await.unwrap().unwrap().text, "You asked: x");
    assert_eq!(text(&stream.await.unwrap().unwrap()), "You asked: x");
    // And what is remembered of it is of those words, too.
    chat.invalidate(&Invalidate::all()).await.unwrap();
    mock.script([Fault::Status(400, None)]);
    let calls = mock.calls();
    chat.complete(bounded()).await.unwrap_err();
    assert!(chat.complete(bounded()).await.unwrap_err().get("refused_ms_ago").is_some());
    chat.complete(of("max_completion_tokens", json!(50))).await.unwrap();
    assert_eq!(mock.calls(), calls + 2);
}

#[tokio::test]
async fn who_wants_a_whole_answer_is_not_given_the_end_of_a_stream_that_broke_off() {
    let (broken, well) = (MockProvider::start().await.unwrap(), MockProvider::start().await.unwrap());
    let mut config = config(&[&broken, &well]);
    config.chat.retry.retries = 0;
    let chat = chat(config);
    broken.script([Fault::HoldCut, Fault::Status(503, None), Fault::Status(503, None)]);
    let mut stream = chat.stream(ask("x")).unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    let whole: Vec<_> = (0..5).map(|_| spawn(&chat, ask("x"))).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((broken.calls(), well.calls()), (1, 0), "they share the call");
    broken.release();
    for answer in join_all(whole).await {
        let answer = answer.unwrap().unwrap();
        assert_eq!((answer.text.as_str(), answer.provider.as_str()), ("You asked: x", "mock1"));
    }
    assert_eq!((broken.calls(), well.calls()), (2, 1), "they ask once more together");
    let rest: Vec<_> = stream.collect().await;
    assert!(rest.last().unwrap().is_err(), "who has read of it is told");
}

#[tokio::test]
async fn who_waits_to_ask_again_holds_nobody_up() {
    let (limited, well) = (MockProvider::start().await.unwrap(), MockProvider::start().await.unwrap());
    let mut config = config(&[&limited, &well]);
    config.chat.providers[1].models = vec!["other".into()];
    config.chat.max_concurrent = 2;
    let chat = chat(config);
    limited.script([Fault::Status(429, Some("1")), Fault::Status(429, Some("1"))]);
    let waiting = [spawn(&chat, ask("a")), spawn(&chat, ask("b"))];
    until(|| limited.calls() == 2).await;
    until(|| chat.metrics().in_flight == 0).await;
    let other = ChatRequest::new("other").user("c").scope(ada());
    assert_eq!(chat.complete(other).await.unwrap().text, "You asked: c");
    assert_eq!(limited.calls(), 2, "they wait for it still");
    for answer in waiting {
        assert!(answer.await.unwrap().is_ok());
    }
    assert_eq!((chat.metrics().in_flight, chat.metrics().peak_in_flight), (0, 2));
}
