//! Failures and half answers: named, tried again, and never kept, whatever the protocol.

use super::*;

#[tokio::test]
async fn no_failure_is_ever_kept() {
    for (number, speak) in KINDS.into_iter().enumerate() {
        let mock = MockProvider::start().await.unwrap();
        let mut config = config_of(&[(speak, &mock)]);
        config.chat.max_response_bytes = 100_000;
        config.chat.retry.retries = 0;
        let chat = chat(config);
        for (fault, code) in [
            (Fault::Status(400, None), "INVALID_INPUT"),
            (Fault::Status(401, None), "UNAUTHORIZED"),
            (Fault::Status(402, None), "UNAUTHORIZED"),
            (Fault::Status(403, None), "UNAUTHORIZED"),
            (Fault::Status(404, None), "NOT_FOUND"),
            (Fault::Status(422, None), "INVALID_INPUT"),
            (Fault::Status(429, None), "RATE_LIMITED"),
            (Fault::Status(302, None), "UNAVAILABLE"),
            (Fault::Status(500, None), "UNAVAILABLE"),
            (Fault::Status(503, None), "UNAVAILABLE"),
            (Fault::Status(529, None), "UNAVAILABLE"),
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
                let told = (error.code(), error.operation());
                assert_eq!(told, (code, "chat.complete"), "protocol {number}, {fault:?}: {error}");
                assert!(!format!("{error:?}").contains("sk-secret"), "{error:?}");
                assert_eq!(mock.calls(), calls + 1, "{fault:?}");
                if !matches!(fault, Fault::Close) {
                    mock.script([fault.clone()]);
                    let error = drain(&chat, ask(&question)).await.unwrap_err();
                    assert_eq!(error.code(), code, "protocol {number}, streamed {fault:?}: {error}");
                }
            }
            let well = chat.complete(ask(&question)).await.unwrap();
            assert_eq!(well.cache.status, CacheStatus::Miss, "protocol {number}: {fault:?} was kept");
        }
    }
}

#[tokio::test]
async fn no_half_answer_is_ever_kept() {
    for (number, speak) in KINDS.into_iter().enumerate() {
        let mock = MockProvider::start().await.unwrap();
        let chat = chat(config_of(&[(speak, &mock)]));
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
            let told = (given.cache.status, given.cache.ttl_s);
            assert_eq!(told, (CacheStatus::Miss, None), "protocol {number}, {fault:?}");
            let streamed = drain(&chat, ask(&question)).await.unwrap();
            let end = streamed.last().unwrap();
            let told = (end.finish_reason.clone(), end.cache.as_ref().unwrap().ttl_s);
            assert_eq!(told, (given.finish_reason.clone(), None), "protocol {number}, {fault:?}");
            let again = chat.complete(ask(&question)).await.unwrap();
            assert_eq!(again.cache.status, CacheStatus::Miss, "protocol {number}: {fault:?} was kept");
        }
    }
}

#[tokio::test]
async fn an_end_that_the_protocol_does_not_know_is_none() {
    // Chat completions and Messages say why an answer ends before they say that it has; Responses say both at once.
    for (speak, given) in KINDS.into_iter().zip([true, true, false]) {
        let mock = MockProvider::start().await.unwrap();
        let mut config = config_of(&[(speak, &mock)]);
        config.chat.retry.retries = 0;
        let chat = chat(config);
        mock.script([Fault::NoDone]);
        match drain(&chat, ask("a b")).await {
            Ok(chunks) => {
                assert!(given);
                assert_eq!(chunks.last().unwrap().cache.as_ref().unwrap().ttl_s, None);
            }
            Err(error) => assert_eq!((error.code(), given), ("UNAVAILABLE", false)),
        }
        assert_eq!(chat.complete(ask("a b")).await.unwrap().cache.status, CacheStatus::Miss);
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
async fn where_nothing_is_left_to_pay_one_with_the_next_provider_is_asked() {
    let (first, second) = (MockProvider::start().await.unwrap(), MockProvider::start().await.unwrap());
    let chat = chat(config(&[&first, &second]));
    let quota = json!({"error": {"message": "x", "type": "insufficient_quota", "code": "insufficient_quota"}});
    for fault in [Fault::Status(402, None), Fault::Failure(429, quota)] {
        first.script([fault.clone(), fault.clone()]);
        let question = format!("{fault:?}");
        assert_eq!(chat.complete(ask(&question)).await.unwrap().provider, "mock1");
        second.script([fault.clone()]);
        let error = chat.complete(ask(&format!("again {question}"))).await.unwrap_err();
        assert_eq!((error.code(), error.get("attempts")), ("UNAUTHORIZED", Some("2")));
    }
    assert_eq!((first.calls(), second.calls()), (4, 4));
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

#[tokio::test]
async fn an_error_beside_an_answer_is_an_error() {
    let (mock, chat) = start().await;
    let body = |error: Value| {
        let message = json!({"role": "assistant", "content": "half an ans"});
        json!({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "error": error})
    };
    let failure = json!({"message": "upstream died", "code": 400});
    mock.script([Fault::Body(body(failure)), Fault::Body(body(json!({}))), Fault::Body(body(Value::Null))]);
    let error = chat.complete(ask("a")).await.unwrap_err();
    assert!(error.message().contains("upstream died"), "{error}");
    for question in ["a", "b"] {
        assert_eq!(chat.complete(ask(question)).await.unwrap().text, "half an ans", "an empty one is none");
    }
}
