//! Chat in its own form and in that of OpenAI.

use super::{client, get, remote, send, serve};
use axum::response::IntoResponse;
use serde_json::{Value, json};
use sophia_core::{
    Config, Scope, Sophia,
    http::{ApiKey, Peer, ServerConfig, Surface},
};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// A provider that speaks OpenAI's protocol: answers with what it was asked; `fail` fails.
async fn provider() -> (String, Arc<Mutex<Vec<Value>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let asked = seen.clone();
    let answer = move |body: axum::Json<Value>| {
        let asked = asked.clone();
        async move {
            asked.lock().unwrap().push(body.0.clone());
            let question = body["messages"][0]["content"].as_str().unwrap_or_default().to_owned();
            if question == "fail" {
                return (axum::http::StatusCode::SERVICE_UNAVAILABLE, "down").into_response();
            }
            let text = format!("You asked: {question}");
            if body["stream"] == true {
                let choice = |delta: Value, reason: Value| {
                    let choices = json!([{"index": 0, "delta": delta, "finish_reason": reason}]);
                    let chunk = json!({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "small", "choices": choices});
                    format!("data: {chunk}\n\n")
                };
                let words = text.split_inclusive(' ').map(|word| choice(json!({"content": word}), Value::Null));
                let events: String =
                    words.chain([choice(json!({}), json!("stop")), "data: [DONE]\n\n".into()]).collect();
                return ([("content-type", "text/event-stream")], events).into_response();
            }
            let message = json!({"role": "assistant", "content": text});
            axum::Json(json!({
                "id": "1", "object": "chat.completion", "created": 1, "model": "small", "new_field": "kept",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
            }))
            .into_response()
        }
    };
    let router = axum::Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());
    (url, seen)
}

async fn chatting(configure: impl FnOnce(&mut ServerConfig)) -> (Surface, Arc<Mutex<Vec<Value>>>) {
    let (url, seen) = provider().await;
    let provider = json!({"name": "mock", "base_url": url, "api_key": "k", "models": ["small"]});
    let mut config = Config::from_layers([json!({"chat": {"providers": [provider]}})]).unwrap();
    configure(&mut config.server);
    (Surface::new(Sophia::new(config).unwrap()).unwrap(), seen)
}

fn question(text: &str) -> String {
    json!({"model": "small", "messages": [{"role": "user", "content": text}], "seed": 7, "future_field": {"x": 1}})
        .to_string()
}

#[tokio::test]
async fn openai_clients_are_answered_with_the_providers_body_and_unknown_fields_pass_through() {
    let (surface, seen) = chatting(|_| {}).await;
    let ask = async || send(&surface, "POST /v1/chat/completions", &[], question("hi"), Peer::Local).await;
    let (status, headers, body) = ask().await;
    assert_eq!((status, &body["choices"][0]["message"]["content"]), (200, &json!("You asked: hi")), "{body}");
    assert_eq!((&body["new_field"], &body["usage"]["total_tokens"]), (&json!("kept"), &json!(7)));
    assert_eq!(
        (&headers["x-sophia-cache"], &headers["x-sophia-prompt-tokens"]),
        (&"miss".parse().unwrap(), &"3".parse().unwrap())
    );
    assert_eq!(ask().await.1["x-sophia-cache"], "hit");
    let seen = seen.lock().unwrap();
    assert_eq!((seen.len(), &seen[0]["future_field"], &seen[0]["seed"]), (1, &json!({"x": 1}), &json!(7)));
}

#[tokio::test]
async fn an_answer_of_one_key_is_not_given_to_another_whatever_the_body_says() {
    let keys = vec![
        ApiKey::new("ada-key", Scope::new().tenant("acme").user("ada")),
        ApiKey::new("bob-key", Scope::new().tenant("acme").user("bob")),
    ];
    let (surface, seen) = chatting(|server| server.keys = keys).await;
    let line = "POST /v1/chat/completions";
    let ask = async |key: &str, extra: &[(&str, &str)], body: String| {
        let bearer = format!("Bearer {key}");
        let headers = [&[("authorization", bearer.as_str())], extra].concat();
        send(&surface, line, &headers, body, remote()).await
    };
    assert_eq!(ask("ada-key", &[], question("hi")).await.1["x-sophia-cache"], "miss");
    assert_eq!(ask("bob-key", &[], question("hi")).await.1["x-sophia-cache"], "miss");
    assert_eq!(ask("ada-key", &[], question("hi")).await.1["x-sophia-cache"], "hit");
    assert_eq!(seen.lock().unwrap().len(), 2);

    let (status, _, body) = ask("bob-key", &[("x-sophia-user", "ada")], question("hi")).await;
    assert_eq!((status, &body["error"]["type"]), (403, &json!("permission_error")));
    assert_eq!(ask("ada-key", &[("x-sophia-user", "ada")], question("hi")).await.1["x-sophia-cache"], "hit");
    let (status, _, body) = ask("wrong", &[], question("hi")).await;
    assert_eq!((status, &body["error"]["type"]), (401, &json!("authentication_error")));

    let chat = |scope: Value| json!({"prompt": "hi", "model": "small", "scope": scope}).to_string();
    for (scope, expected) in
        [(json!({"user": "bob"}), 403), (json!({"tenant": "globex"}), 403), (json!({"session": "s1"}), 200)]
    {
        let headers = [("x-api-key", "ada-key")];
        let (status, ..) = send(&surface, "POST /api/v1/chat", &headers, chat(scope.clone()), remote()).await;
        assert_eq!(status, expected, "{scope}");
    }
}

#[tokio::test]
async fn streams_are_events_that_end_with_done_live_and_from_the_cache() {
    let (surface, seen) = chatting(|_| {}).await;
    let served = serve(surface).await;
    let body: Value = serde_json::from_str(&question("tell me")).unwrap();
    let body = json!({"stream": true, "model": body["model"], "messages": body["messages"]});
    for expected in ["miss", "hit"] {
        let url = format!("http://{}/v1/chat/completions", served.url);
        let response = client().post(url).json(&body).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        assert_eq!(response.headers()["x-sophia-cache"], expected);
        let text = response.text().await.unwrap();
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        let events =
            text.split("\n\n").filter_map(|event| serde_json::from_str::<Value>(event.strip_prefix("data: ")?).ok());
        let events: Vec<_> = events.collect();
        assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk"));
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        let content: String =
            events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(content, "You asked: tell me");
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "stop");
    }
    let own = json!({"stream": true, "prompt": "tell me", "model": "small"});
    let response = client().post(format!("http://{}/api/v1/chat", served.url)).json(&own).send().await.unwrap();
    let text = response.text().await.unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap().strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(first["cache"]["status"], "hit", "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn openai_clients_get_errors_in_their_own_shape() {
    let (surface, _) = chatting(|_| {}).await;
    let post = async |body: String| send(&surface, "POST /v1/chat/completions", &[], body, Peer::Local).await;
    for (body, expected, kind) in [
        ("{".to_owned(), 400, "invalid_request_error"),
        (json!({"model": "small"}).to_string(), 400, "invalid_request_error"),
        (question("fail"), 503, "api_error"),
        (
            json!({"model": "small", "stream": true, "messages": [{"role": "user", "content": "fail"}]}).to_string(),
            503,
            "api_error",
        ),
    ] {
        let (status, _, answer) = post(body.clone()).await;
        assert_eq!((status, &answer["error"]["type"]), (expected, &json!(kind)), "{body} {answer}");
        assert!(answer["error"]["message"].is_string() && answer["error"]["code"].is_string());
    }
    let (status, _, models) = get(&surface, "/v1/models").await;
    assert_eq!(
        (status, &models["object"], &models["data"][0]["id"]),
        (200, &json!("list"), &json!("small")),
        "{models}"
    );
    assert_eq!(get(&surface, "/v1/models/small").await.0, 200);
    assert_eq!(get(&surface, "/v1/models/large").await.0, 404);
    assert_eq!(get(&surface, "/v1/nothing").await.2["error"]["type"], "invalid_request_error");
}

#[tokio::test]
async fn chat_answers_in_its_own_form() {
    let (surface, _) = chatting(|_| {}).await;
    let body = json!({"prompt": "hi", "model": "small", "scope": {"user": "ada"}});
    let (status, headers, answer) = send(&surface, "POST /api/v1/chat", &[], body.to_string(), Peer::Local).await;
    assert_eq!(
        (status, &answer["text"], &answer["cache"]["status"]),
        (200, &json!("You asked: hi"), &json!("miss")),
        "{answer}"
    );
    assert_eq!(headers["x-sophia-provider"], "mock");
    let (status, _, stats) = get(&surface, "/api/v1/cache/stats").await;
    assert_eq!((status, &stats["cache_misses"]), (200, &json!(1)));
    let wrong = json!({"prompt": "hi", "modell": "small"});
    let (status, _, answer) = send(&surface, "POST /api/v1/chat", &[], wrong.to_string(), Peer::Local).await;
    assert_eq!(status, 400);
    assert!(answer["error"]["message"].as_str().unwrap().contains("did you mean `model`"), "{answer}");
}
