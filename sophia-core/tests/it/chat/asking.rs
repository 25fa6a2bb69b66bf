//! Requests, embeddings, operations by name, connections.

use super::*;

#[tokio::test]
async fn a_provider_that_is_away_hides_no_models_of_others() {
    let (mock, away) = (MockProvider::start().await.unwrap(), MockProvider::start().await.unwrap());
    let mut config = Config::default();
    config.chat.providers.push(ProviderConfig::openai("away", away.base_url()));
    drop(away);
    let none = chat(config.clone()).models().await.unwrap_err();
    assert_eq!((none.code(), none.get("provider")), ("UNAVAILABLE", Some("away")));
    config.chat.providers.push(ProviderConfig::openai("mock", mock.base_url()).models(["own"]));
    assert_eq!(chat(config).models().await.unwrap()[0].id, "own");
}

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
