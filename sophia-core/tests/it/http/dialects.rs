//! The dialects of other clients: each in its own words, over providers of each protocol.

use std::time::Duration;

use super::{SOON, as_key, client, keys, remote, send, serve, text};
use axum::http::HeaderMap;
use futures::StreamExt;
use serde_json::{Value, json};
use sophia_core::{
    Config, Scope, Sophia,
    chat::ProviderConfig,
    http::{ApiKey, Peer, Surface},
    memory::{ForgetRequest, KvKeys},
    testing::{Fault, MockProvider},
};

type Speak = fn(String, String) -> ProviderConfig;
const KINDS: [Speak; 3] = [ProviderConfig::openai, ProviderConfig::anthropic, ProviderConfig::responses];
const ROUTES: [&str; 3] = ["/v1/chat/completions", "/v1/messages", "/v1/responses"];

async fn over(speak: Speak) -> (Surface, MockProvider) {
    let mock = MockProvider::start().await.unwrap();
    let mut config = Config::default();
    config.chat.providers.push(speak("mock".into(), mock.base_url()).api_key("k").models(["small"]));
    config.chat.cache.tool_calls = true;
    (Surface::new(Sophia::new(config).unwrap()).unwrap(), mock)
}

/// The same question in each dialect.
fn question(route: &str, text: &str) -> Value {
    match route {
        "/v1/responses" => {
            json!({"model": "small", "instructions": "Be brief.", "input": text, "max_output_tokens": 99})
        }
        "/v1/messages" => {
            json!({"model": "small", "system": "Be brief.", "messages": [{"role": "user", "content": text}], "max_tokens": 99})
        }
        _ => {
            let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]);
            json!({"model": "small", "messages": messages, "max_tokens": 99})
        }
    }
}

async fn post(surface: &Surface, route: &str, body: &Value) -> (u16, axum::http::HeaderMap, Value) {
    send(surface, &format!("POST {route}"), &[], body.to_string(), Peer::Local).await
}

async fn stream(surface: &Surface, route: &str, mut body: Value) -> (axum::http::HeaderMap, Vec<Value>) {
    body["stream"] = true.into();
    let (status, headers, text) = post(surface, route, &body).await;
    assert_eq!(status, 200, "{text}");
    (headers, events(text.as_str().unwrap()))
}

fn events(text: &str) -> Vec<Value> {
    let data = |event: &str| event.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned);
    text.split("\n\n").filter_map(|event| serde_json::from_str(&data(event)?).ok()).collect()
}

fn text_of(route: &str, body: &Value) -> String {
    let text = match route {
        "/v1/responses" => body["output"].as_array().unwrap().last().unwrap()["content"][0]["text"].clone(),
        "/v1/messages" => body["content"].as_array().unwrap().last().unwrap()["text"].clone(),
        _ => body["choices"][0]["message"]["content"].clone(),
    };
    text.as_str().unwrap_or_else(|| panic!("{route}: {body}")).to_owned()
}

fn streamed_text(route: &str, events: &[Value]) -> String {
    let piece = |event: &Value| match route {
        "/v1/responses" if event["type"] == "response.output_text.delta" => event["delta"].as_str().map(str::to_owned),
        "/v1/messages" => event["delta"]["text"].as_str().map(str::to_owned),
        "/v1/chat/completions" => event["choices"][0]["delta"]["content"].as_str().map(str::to_owned),
        _ => None,
    };
    events.iter().filter_map(piece).collect()
}

#[tokio::test]
async fn one_entry_serves_every_dialect_whole_and_streamed_over_every_provider() {
    for speak in KINDS {
        for first in ROUTES {
            let (surface, mock) = over(speak).await;
            for (number, route) in [first].into_iter().chain(ROUTES).enumerate() {
                let (status, headers, body) = post(&surface, route, &question(route, "tell me")).await;
                assert_eq!((status, text_of(route, &body).as_str()), (200, "You asked: tell me"), "{route}: {body}");
                assert_eq!(headers["x-sophia-cache"], if number == 0 { "miss" } else { "hit" }, "{first} then {route}");
                let (headers, events) = stream(&surface, route, question(route, "tell me")).await;
                assert_eq!(streamed_text(route, &events), "You asked: tell me", "{events:?}");
                assert_eq!(headers["x-sophia-cache"], "hit");
            }
            // The other way round: streamed first.
            let (_, events) = stream(&surface, first, question(first, "again")).await;
            assert_eq!(streamed_text(first, &events), "You asked: again");
            for route in ROUTES {
                let (_, headers, body) = post(&surface, route, &question(route, "again")).await;
                assert_eq!(
                    (text_of(route, &body).as_str(), &headers["x-sophia-cache"]),
                    ("You asked: again", &"hit".parse().unwrap())
                );
            }
            assert_eq!(mock.calls(), 2);
        }
    }
}

#[tokio::test]
async fn a_stream_in_the_clients_own_dialect_comes_event_by_event_live_and_kept() {
    let wires = [
        (
            ProviderConfig::anthropic as Speak,
            "/v1/messages",
            include_str!("../chat/wire/messages.sse"),
            include_str!("../chat/wire/messages.json"),
        ),
        (
            ProviderConfig::responses,
            "/v1/responses",
            include_str!("../chat/wire/responses.sse"),
            include_str!("../chat/wire/responses.json"),
        ),
    ];
    for (speak, route, wire, whole) in wires {
        let (surface, mock) = over(speak).await;
        mock.script([Fault::Events(wire.to_owned())]);
        let expected: Vec<_> =
            events(wire).into_iter().filter(|event| event["type"] != "ping").map(without_empty).collect();
        for status in ["miss", "hit"] {
            let (headers, heard) = stream(&surface, route, question(route, "tell me")).await;
            let heard: Vec<_> = heard.into_iter().map(without_empty).collect();
            assert_eq!(headers["x-sophia-cache"], status);
            for (heard, expected) in heard.iter().zip(&expected) {
                assert_eq!(heard, expected);
            }
            assert_eq!(heard.len(), expected.len());
        }
        let whole: Value = serde_json::from_str(whole).unwrap();
        let (_, headers, body) = post(&surface, route, &question(route, "tell me")).await;
        assert_eq!((body, &headers["x-sophia-cache"], mock.calls()), (whole.clone(), &"hit".parse().unwrap(), 1));
        // Whole first, then streamed: the same answer is put together from the events.
        mock.script([Fault::Body(whole.clone())]);
        post(&surface, route, &question(route, "more")).await;
        let (_, heard) = stream(&surface, route, question(route, "more")).await;
        let last = heard
            .iter()
            .rfind(|event| event["type"] == "response.completed" || event["type"] == "message_delta")
            .unwrap();
        if route == "/v1/responses" {
            assert_eq!(last["response"], whole);
        } else {
            assert_eq!((&last["usage"], &last["delta"]["stop_reason"]), (&whole["usage"], &json!("tool_use")));
            let starts: Vec<_> = heard.iter().filter_map(|event| event["content_block"]["type"].as_str()).collect();
            let blocks: Vec<_> =
                whole["content"].as_array().unwrap().iter().map(|block| block["type"].as_str().unwrap()).collect();
            assert_eq!(starts, blocks);
        }
    }
}

#[tokio::test]
async fn what_a_provider_repeats_of_who_asks_is_told_to_nobody_else() {
    const NAMES: [&str; 3] = ["user", "safety_identifier", "prompt_cache_key"];
    let of_asker = |who: &str, mut body: Value| {
        NAMES.iter().for_each(|name| body[*name] = format!("{who}-{name}").into());
        body["metadata"] = json!({"trace": who});
        body
    };
    let part = json!({"type": "output_text", "text": "Hello", "annotations": []});
    let item = json!({"type": "message", "id": "msg_1", "role": "assistant", "content": [part]});
    let choice = json!({"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"});
    let answers = [
        (
            ProviderConfig::responses as Speak,
            "/v1/responses",
            json!({"id": "resp_1", "object": "response", "status": "completed", "output": [item]}),
        ),
        (
            ProviderConfig::openai,
            "/v1/chat/completions",
            json!({"id": "1", "object": "chat.completion", "choices": [choice]}),
        ),
    ];
    for (speak, route, answer) in answers {
        let answer = of_asker("ada", answer);
        let wire = match route {
            "/v1/responses" => ["response.created", "response.completed"]
                .map(|kind| format!("event: {kind}\ndata: {}\n\n", json!({"type": kind, "response": answer})))
                .concat(),
            _ => {
                let mut event = answer.clone();
                event["choices"] = json!([{"index": 0, "delta": choice["message"], "finish_reason": "stop"}]);
                format!("data: {event}\n\ndata: [DONE]\n\n")
            }
        };
        for (wire, live) in [(Fault::Body(answer), false), (Fault::Events(wire), true)] {
            for kept in [false, true] {
                let (surface, mock) = over(speak).await;
                mock.script([wire.clone()]);
                for (who, streamed, cache) in [("ada", live, "miss"), ("bob", kept, "hit"), ("", kept, "hit")] {
                    let mut body = question(route, "x");
                    body["stream"] = streamed.into();
                    let body = if who.is_empty() { body } else { of_asker(who, body) };
                    let headers = [("x-sophia-share", "all")];
                    let line = format!("POST {route}");
                    let (status, headers, told) = send(&surface, &line, &headers, body.to_string(), Peer::Local).await;
                    assert_eq!((status, &headers["x-sophia-cache"]), (200, &cache.parse().unwrap()), "{told}");
                    let told = told.as_str().map_or_else(|| vec![told.clone()], events);
                    let told: Vec<_> = told.iter().map(|told| told.get("response").unwrap_or(told)).collect();
                    for told in told.iter().filter(|told| told.get("id").is_some()) {
                        let trace = told["metadata"].get("trace").and_then(Value::as_str);
                        assert_eq!(trace.unwrap_or_default(), who, "{route}: {told}");
                        for name in NAMES {
                            let own = if who.is_empty() { Value::Null } else { format!("{who}-{name}").into() };
                            assert_eq!(told[name], own, "{route}: {told}");
                        }
                    }
                }
                assert_eq!(mock.calls(), 1);
            }
        }
    }
}

/// Log probabilities that nobody asked for are an empty list, there or not; deltas without anything say nothing.
fn without_empty(mut event: Value) -> Value {
    let fields = event.as_object_mut().unwrap();
    if fields.get("logprobs").is_some_and(|logprobs| logprobs == &json!([])) {
        fields.shift_remove("logprobs");
    }
    event
}

#[tokio::test]
async fn what_is_said_elsewhere_reaches_a_provider_of_responses_and_no_other() {
    let prompt = json!({"id": "pmpt_1", "version": "2", "variables": {"city": "Rome"}});
    for (body, field) in [
        (json!({"model": "small", "prompt": prompt}), "prompt"),
        (json!({"model": "small", "prompt": prompt, "instructions": "Be brief."}), "prompt"),
        (json!({"model": "small", "prompt": prompt, "input": [{"role": "user", "content": "x"}]}), "prompt"),
        (json!({"model": "small", "conversation": "conv_1"}), "conversation"),
    ] {
        let (surface, mock) = over(ProviderConfig::responses).await;
        let (status, headers, answer) = post(&surface, "/v1/responses", &body).await;
        assert_eq!((status, &headers["x-sophia-cache"]), (200, &"bypass".parse().unwrap()), "{answer}");
        assert_eq!(mock.bodies(), std::slice::from_ref(&body));
        for speak in [ProviderConfig::openai as Speak, ProviderConfig::anthropic] {
            let (surface, mock) = over(speak).await;
            let (status, _, answer) = post(&surface, "/v1/responses", &body).await;
            assert_eq!((status, &answer["error"]["param"], mock.calls()), (400, &json!(field), 0), "{answer}");
        }
    }
}

#[tokio::test]
async fn what_a_client_says_reaches_a_provider_of_its_own_dialect_as_it_was() {
    for (speak, route, body) in [
        (ProviderConfig::anthropic as Speak, "/v1/messages", include_str!("../chat/wire/messages_request.json")),
        (ProviderConfig::responses, "/v1/responses", include_str!("../chat/wire/responses_request.json")),
    ] {
        let (surface, mock) = over(speak).await;
        let body: Value = serde_json::from_str(body).unwrap();
        let betas = [("anthropic-beta", "b-2025,a-2025")];
        let (status, headers, answer) =
            send(&surface, &format!("POST {route}"), &betas, body.to_string(), Peer::Local).await;
        assert_eq!((status, &headers["x-sophia-cache"]), (200, &"bypass".parse().unwrap()), "{answer}");
        let sent = mock.bodies().pop().unwrap();
        for (name, value) in body.as_object().unwrap() {
            assert_eq!(&sent[name], value, "{route}: {name}");
        }
        assert_eq!(sent.as_object().unwrap().len(), body.as_object().unwrap().len(), "{sent}");
        let beta = mock.header("anthropic-beta");
        assert_eq!(beta.as_deref(), (route == "/v1/messages").then_some("a-2025,b-2025"));
    }
}

#[tokio::test]
async fn calls_of_tools_go_round_in_every_dialect_over_every_provider() {
    let schema = json!({"type": "object", "properties": {"x": {"type": "integer"}}});
    for speak in KINDS {
        for route in ROUTES {
            let (surface, mock) = over(speak).await;
            let mut body = question(route, "fault:tool_call");
            let function = json!({"name": "find", "parameters": schema});
            body["tools"] = match route {
                "/v1/responses" => json!([{"type": "function", "name": "find", "parameters": schema, "strict": false}]),
                "/v1/messages" => json!([{"name": "find", "input_schema": schema}]),
                _ => json!([{"type": "function", "function": function}]),
            };
            let (status, _, answer) = post(&surface, route, &body).await;
            assert_eq!(status, 200, "{answer}");
            let (said, result, id) = match route {
                "/v1/responses" => {
                    let call = answer["output"][0].clone();
                    assert_eq!((&call["name"], &call["arguments"]), (&json!("find"), &json!("{\"x\":1}")));
                    let id = call["call_id"].clone();
                    let result = json!({"type": "function_call_output", "call_id": id, "output": "42"});
                    (call, result, id)
                }
                "/v1/messages" => {
                    let call = &answer["content"][0];
                    assert_eq!((&call["name"], &call["input"]), (&json!("find"), &json!({"x": 1})));
                    assert_eq!(answer["stop_reason"], "tool_use");
                    let result = json!([{"type": "tool_result", "tool_use_id": call["id"], "content": "42"}]);
                    let said = json!({"role": "assistant", "content": answer["content"]});
                    (said, json!({"role": "user", "content": result}), call["id"].clone())
                }
                _ => {
                    let message = answer["choices"][0]["message"].clone();
                    let call = message["tool_calls"][0].clone();
                    assert_eq!(
                        (&call["function"]["name"], &call["function"]["arguments"]),
                        (&json!("find"), &json!("{\"x\":1}"))
                    );
                    let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "42"});
                    (message, result, call["id"].clone())
                }
            };
            let (_, heard) = stream(&surface, route, body.clone()).await;
            assert!(heard.iter().any(|event| event.to_string().contains(id.as_str().unwrap())), "{heard:?}");
            let list = if route == "/v1/responses" { "input" } else { "messages" };
            if body[list].is_string() {
                body[list] = json!([{"role": "user", "content": body[list]}]);
            }
            body[list].as_array_mut().unwrap().extend([said, result]);
            let (status, _, answer) = post(&surface, route, &body).await;
            assert_eq!((status, text_of(route, &answer).as_str()), (200, "You asked: 42"), "{answer}");
            assert_eq!(mock.calls(), 2);
        }
    }
}

#[tokio::test]
async fn a_recorded_stream_of_chat_completions_is_told_in_the_other_dialects() {
    let wire = include_str!("../chat/wire/chat.sse");
    let (surface, mock) = over(ProviderConfig::openai).await;
    mock.script([Fault::Events(wire.to_owned())]);
    let (_, heard) = stream(&surface, "/v1/messages", question("/v1/messages", "x")).await;
    let kinds: Vec<_> = heard.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let block = |deltas: usize| {
        let mut kinds = vec!["content_block_start"];
        kinds.extend(vec!["content_block_delta"; deltas]);
        kinds.push("content_block_stop");
        kinds
    };
    // The last of a thought is its signature.
    let inner = [block(3), block(2), block(2), block(1)].concat();
    assert_eq!(kinds, [vec!["message_start"], inner, vec!["message_delta", "message_stop"]].concat());
    let starts: Vec<_> = heard.iter().filter(|event| event["type"] == "content_block_start").collect();
    let named: Vec<_> = starts
        .iter()
        .map(|start| (start["index"].as_u64().unwrap(), start["content_block"]["type"].as_str().unwrap()))
        .collect();
    assert_eq!(named, [(0, "thinking"), (1, "text"), (2, "tool_use"), (3, "tool_use")]);
    let end = &heard[heard.len() - 2];
    assert_eq!(end["delta"]["stop_reason"], "tool_use");
    assert_eq!(
        (&end["usage"]["input_tokens"], &end["usage"]["cache_read_input_tokens"], &end["usage"]["output_tokens"]),
        (&json!(20), &json!(10), &json!(20))
    );

    let (headers, heard) = stream(&surface, "/v1/responses", question("/v1/responses", "x")).await;
    assert_eq!(headers["x-sophia-cache"], "hit");
    for (number, event) in heard.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    let done: Vec<_> = heard
        .iter()
        .filter(|event| event["type"] == "response.output_item.done")
        .map(|event| event["item"].clone())
        .collect();
    let last = heard.last().unwrap();
    assert_eq!((&last["type"], &last["response"]["output"]), (&json!("response.completed"), &json!(done)));
    let kinds: Vec<_> = done.iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call", "function_call"]);
    assert_eq!((&done[2]["call_id"], &done[2]["arguments"]), (&json!("call_a"), &json!("{\"zone\":\"UTC\"}")));
    assert_eq!(done[0]["summary"][0]["text"], "Hm, the time.");
    assert_eq!(last["response"]["usage"]["input_tokens_details"]["cached_tokens"], 10);
    assert_eq!(last["response"]["max_output_tokens"], 99);
    assert_eq!(mock.calls(), 1);
}

/// Events of a stream of chat completions, as a server sends them.
fn chat_events(choices: &[Value]) -> Fault {
    let event = |choice: &Value| {
        json!({"id": "chatcmpl-theirs", "object": "chat.completion.chunk", "created": 7, "model": "small-2026",
            "system_fingerprint": "fp", "choices": [choice]})
    };
    let events: String = choices.iter().map(|choice| format!("data: {}\n\n", event(choice))).collect();
    Fault::Events(events + "data: [DONE]\n\n")
}

fn part(delta: Value) -> Value {
    json!({"index": 0, "delta": delta, "finish_reason": null})
}

#[tokio::test]
async fn content_in_parts_is_told_whole_in_every_dialect_live_and_kept() {
    let parts = json!([{"type": "text", "text": "this page"}, {"type": "reference", "reference_ids": [1]}]);
    let choices = [
        part(json!({"role": "assistant", "content": "See "})),
        part(json!({"content": parts})),
        part(json!({"content": " there."})),
        json!({"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": 7}),
    ];
    for first in ROUTES {
        let (surface, mock) = over(ProviderConfig::openai).await;
        mock.script([chat_events(&choices)]);
        for route in [first].into_iter().chain(ROUTES) {
            let (_, heard) = stream(&surface, route, question(route, "x")).await;
            let (_, _, body) = post(&surface, route, &question(route, "x")).await;
            if route == ROUTES[0] {
                let told: Vec<_> = heard.iter().map(|event| event["choices"][0].clone()).collect();
                assert_eq!(told, choices);
                let choice = &body["choices"][0];
                assert_eq!((&choice["stop_reason"], &choice["message"]["content"][1]), (&json!(7), &parts[1]));
            } else {
                assert_eq!(streamed_text(route, &heard), "See this page there.", "{first} then {route}");
                assert_eq!(text_of(route, &body), "See this page there.");
            }
        }
        assert_eq!(mock.calls(), 1);
    }
}

#[tokio::test]
async fn an_integer_that_no_number_holds_is_refused_by_its_name() {
    for route in ROUTES {
        let (surface, mock) = over(ProviderConfig::openai).await;
        let body = question(route, "x").to_string();
        let body = format!("{}, \"seed\": 100000000000000000001}}", body.strip_suffix('}').unwrap());
        let (status, _, answer) = send(&surface, &format!("POST {route}"), &[], body, Peer::Local).await;
        assert_eq!((status, &answer["error"]["param"], mock.calls()), (400, &json!("seed"), 0), "{answer}");
    }
    let (surface, mock) = over(ProviderConfig::openai).await;
    for (route, body, field) in [
        ("/v1/embeddings", r#"{"model": "small", "input": "x", "dimensions": N}"#, "dimensions"),
        ("/api/v1/chat", r#"{"messages": [{"role": "user", "content": "x", "order": N}]}"#, "messages"),
        ("/api/v1/chat/complete", r#"{"prompt": "x", "provider_fields": {"seed": N}}"#, "provider_fields"),
        ("/api/v1/chat/embed", r#"{"texts": ["x"], "provider_fields": {"dimensions": N}}"#, "provider_fields"),
        ("/api/v1/memory/kv/set", r#"{"key": "k", "value": {"id": N}}"#, "value"),
        ("/api/v1/tools/call", r#"{"tool": "t", "arguments": {"order": N}}"#, "arguments"),
    ] {
        let body = body.replace('N', "18446744073709551617");
        let (status, _, answer) = send(&surface, &format!("POST {route}"), &[], body, Peer::Local).await;
        let error = &answer["error"];
        let told = if route.starts_with("/v1") { &error["param"] } else { &error["context"]["field"] };
        assert_eq!((status, told.as_str()), (400, Some(field)), "{route}: {answer}");
    }
    assert_eq!(mock.calls(), 0);
}

#[tokio::test]
async fn calls_whose_parts_come_between_each_other_stay_whole_in_every_dialect() {
    let call = |index: usize, id: &str, name: &str, arguments: &str| {
        part(json!({"tool_calls": [{"index": index, "id": id, "type": "function",
            "function": {"name": name, "arguments": arguments}}]}))
    };
    let more = |index: usize, arguments: &str| {
        part(json!({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}))
    };
    let mixed = [
        call(0, "a", "f", ""),
        call(1, "b", "g", "{\"y\""),
        more(0, "{\"x\""),
        part(json!({"content": "Both."})),
        more(1, ":2}"),
        more(0, ":1}"),
        json!({"index": 0, "delta": {}, "finish_reason": "tool_calls"}),
    ];
    for route in ROUTES {
        let (surface, mock) = over(ProviderConfig::openai).await;
        mock.script([chat_events(&mixed)]);
        let (_, heard) = stream(&surface, route, question(route, "x")).await;
        assert_eq!(streamed_text(route, &heard), "Both.");
        let told: Vec<(Value, Value, String)> = match route {
            "/v1/responses" => {
                let items = heard.iter().filter(|event| event["type"] == "response.output_item.done");
                let calls = items.map(|event| &event["item"]).filter(|item| item["type"] == "function_call");
                calls
                    .map(|item| {
                        (item["call_id"].clone(), item["name"].clone(), item["arguments"].as_str().unwrap().to_owned())
                    })
                    .collect()
            }
            "/v1/messages" => {
                let mut open = None;
                let mut calls: Vec<(Value, Value, String)> = Vec::new();
                for event in &heard {
                    match event["type"].as_str().unwrap() {
                        "content_block_start" => {
                            assert_eq!(open.replace(event["index"].clone()), None, "one block after the other");
                            let block = &event["content_block"];
                            calls.push((block["id"].clone(), block["name"].clone(), String::new()));
                        }
                        "content_block_delta" => {
                            assert_eq!(open.as_ref(), Some(&event["index"]));
                            calls.last_mut().unwrap().2 += event["delta"]["partial_json"].as_str().unwrap_or_default();
                        }
                        "content_block_stop" => assert_eq!(open.take().as_ref(), Some(&event["index"])),
                        _ => {}
                    }
                }
                calls.retain(|call| call.1.is_string());
                calls
            }
            _ => {
                let mut calls = vec![(Value::Null, Value::Null, String::new()); 2];
                for part in
                    heard.iter().flat_map(|event| event["choices"][0]["delta"]["tool_calls"].as_array()).flatten()
                {
                    let call = &mut calls[part["index"].as_u64().unwrap() as usize];
                    call.2 += part["function"]["arguments"].as_str().unwrap();
                    if part["id"].is_string() {
                        (call.0, call.1) = (part["id"].clone(), part["function"]["name"].clone());
                    }
                }
                calls
            }
        };
        let expected = [("a", "f", "{\"x\":1}"), ("b", "g", "{\"y\":2}")];
        assert_eq!(
            told,
            expected.map(|(id, name, arguments)| (json!(id), json!(name), arguments.to_owned())),
            "{route}"
        );
    }
}

#[tokio::test]
async fn a_stream_of_chat_completions_says_what_the_provider_says_of_itself() {
    let (surface, mock) = over(ProviderConfig::openai).await;
    let end = json!({"index": 0, "delta": {}, "finish_reason": "stop", "native_finish_reason": "eos"});
    mock.script([chat_events(&[part(json!({"role": "assistant"})), part(json!({"content": "Hi"})), end])]);
    let route = ROUTES[0];
    for status in ["miss", "hit"] {
        let (headers, heard) = stream(&surface, route, question(route, "x")).await;
        assert_eq!(
            (headers["x-sophia-cache"].to_str().unwrap(), streamed_text(route, &heard).as_str()),
            (status, "Hi")
        );
        for event in &heard {
            let said = ["id", "created", "model", "system_fingerprint", "object"].map(|name| event[name].clone());
            let object = "chat.completion.chunk";
            assert_eq!(json!(said), json!(["chatcmpl-theirs", 7, "small-2026", "fp", object]), "{event}");
        }
        assert!(heard.iter().any(|event| event["choices"][0]["native_finish_reason"] == "eos"), "{heard:?}");
    }
    let (_, heard) = stream(&surface, ROUTES[1], question(ROUTES[1], "x")).await;
    assert_eq!(heard[0]["message"]["model"], "small-2026");
    // Of several choices, the first one comes first, as clients expect.
    let of = |index: usize, delta: Value| json!({"index": index, "delta": delta, "finish_reason": null});
    let role = |index: usize| of(index, json!({"role": "assistant", "content": ""}));
    mock.script([chat_events(&[role(0), role(1), of(0, json!({"content": "A"})), of(1, json!({"content": "B"}))])]);
    let mut two = question(route, "two");
    two["n"] = json!(2);
    let (_, heard) = stream(&surface, route, two).await;
    let order: Vec<_> = heard.iter().map(|event| event["choices"][0]["index"].as_u64().unwrap()).collect();
    assert_eq!(order, [0, 1, 0, 1, 0], "{heard:?}");
    assert_eq!(heard[0]["choices"][0]["delta"], json!({"role": "assistant"}));
}

#[tokio::test]
async fn a_client_of_responses_may_name_what_it_was_given() {
    for speak in [ProviderConfig::openai as Speak, ProviderConfig::anthropic] {
        let (surface, mock) = over(speak).await;
        let (route, user) = ("/v1/responses", |text: &str| json!({"role": "user", "content": text}));
        let (_, _, whole) = post(&surface, route, &question(route, "one")).await;
        let (_, heard) = stream(&surface, route, question(route, "two")).await;
        let id = |body: &Value| body["output"].as_array().unwrap().last().unwrap()["id"].clone();
        let named = |id: Value| json!({"type": "item_reference", "id": id});
        let input = json!([
            user("one"),
            named(id(&whole)),
            user("two"),
            named(id(&heard.last().unwrap()["response"])),
            user("three"),
        ]);
        let further = json!({"model": "small", "input": input, "include": ["reasoning.encrypted_content"]});
        let (status, _, answer) = post(&surface, route, &further).await;
        assert_eq!((status, text_of(route, &answer).as_str()), (200, "You asked: three"), "{answer}");
        let asked = mock.bodies().pop().unwrap().to_string();
        assert!(asked.contains("You asked: one") && asked.contains("You asked: two"), "{asked}");
        let mut unstored = question(route, "four");
        unstored["store"] = json!(false);
        let (_, _, whole) = post(&surface, route, &unstored).await;
        let (status, _, answer) = post(&surface, route, &json!({"model": "small", "input": [named(id(&whole))]})).await;
        assert_eq!((status, &answer["error"]["param"]), (404, &json!("input[0]")));
    }
}

#[tokio::test]
async fn a_client_of_responses_goes_on_from_a_response() {
    for speak in [ProviderConfig::openai as Speak, ProviderConfig::anthropic] {
        let (surface, mock) = over(speak).await;
        let route = "/v1/responses";
        let go_on = |id: &Value, text: &str| json!({"model": "small", "input": text, "previous_response_id": id});
        let mut first = question(route, "one");
        first["instructions"] = json!("Once.");
        let (_, _, one) = post(&surface, route, &first).await;
        let (_, heard) = stream(&surface, route, go_on(&one["id"], "two")).await;
        let two = &heard.last().unwrap()["response"];
        assert_eq!(two["previous_response_id"], one["id"]);
        let (status, _, three) = post(&surface, route, &go_on(&two["id"], "three")).await;
        assert_eq!((status, text_of(route, &three).as_str()), (200, "You asked: three"), "{three}");
        assert_eq!(three["previous_response_id"], two["id"]);
        let asked = mock.bodies().pop().unwrap().to_string();
        let places =
            ["one", "You asked: one", "two", "You asked: two", "three"].map(|said| asked.find(&format!("\"{said}\"")));
        assert!(places.is_sorted() && places[0].is_some(), "{places:?} {asked}");
        assert!(!asked.contains("Once."), "instructions are of one turn: {asked}");
        // Another branch of the same conversation.
        assert_eq!(post(&surface, route, &go_on(&one["id"], "other")).await.0, 200);
        assert!(!mock.bodies().pop().unwrap().to_string().contains("two"));
        // Items count from the first that this request says.
        let mut wrong = go_on(&one["id"], "");
        wrong["input"] = json!([{"role": "user", "content": "x"}, {"type": "item_reference", "id": "x"}]);
        let (status, _, refused) = post(&surface, route, &wrong).await;
        assert_eq!((status, &refused["error"]["param"]), (404, &json!("input[1]")), "{refused}");
        wrong["input"] = json!([{"content": "x"}]);
        let (status, _, refused) = post(&surface, route, &wrong).await;
        assert_eq!((status, &refused["error"]["param"]), (400, &json!("input[0].role")), "{refused}");
        let mut unstored = go_on(&one["id"], "four");
        unstored["store"] = json!(false);
        let (status, _, four) = post(&surface, route, &unstored).await;
        assert_eq!(status, 200);
        let (status, _, refused) = post(&surface, route, &go_on(&four["id"], "five")).await;
        assert_eq!((status, &refused["error"]["param"]), (404, &json!("previous_response_id")));
    }
}

const TURN: &str = "/v1/responses";

/// Asks in a session, of an agent, or in neither.
async fn turn(surface: &Surface, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
    let (status, _, answer) = send(surface, &format!("POST {TURN}"), headers, body.to_string(), Peer::Local).await;
    (status, answer)
}

fn go_on(id: &Value, text: &str) -> Value {
    json!({"model": "small", "input": text, "previous_response_id": id})
}

#[tokio::test]
async fn what_can_be_named_belongs_to_its_session_and_agent_and_is_forgotten_with_them() {
    let (surface, _mock) = over(ProviderConfig::openai).await;
    let memory = surface.sophia().memory().clone();
    let (user, one, two) = (("x-sophia-user", "ada"), ("x-sophia-session", "1"), ("x-sophia-session", "2"));
    let scopes: [&[(&str, &str)]; 5] =
        [&[user], &[user, one], &[user, two], &[user, one, ("x-sophia-agent", "a")], &[user, ("x-sophia-agent", "a")]];
    let mut given = Vec::new();
    for headers in scopes {
        given.push(turn(&surface, headers, &json!({"model": "small", "input": "a secret"})).await.1);
    }
    let known = async |headers: &[(&str, &str)], given: &Value, text: &str| {
        let by_item =
            json!([{"type": "item_reference", "id": given["output"][0]["id"]}, {"role": "user", "content": text}]);
        let (status, _) = turn(&surface, headers, &json!({"model": "small", "input": by_item, "store": false})).await;
        let mut by_response = go_on(&given["id"], text);
        by_response["store"] = json!(false);
        assert_eq!(turn(&surface, headers, &by_response).await.0, status);
        status == 200
    };
    for (place, headers) in scopes.iter().enumerate() {
        for (owner, given) in given.iter().enumerate() {
            assert_eq!(known(headers, given, "what was said?").await, place == owner, "{headers:?} {owner}");
        }
    }
    assert!(!known(&[("x-sophia-user", "bob"), one], &given[1], "what was said?").await);
    let ada = || Scope::new().user("ada");
    assert_eq!(memory.kv_keys(KvKeys::prefix("").scope(ada())).await.unwrap(), Vec::<String>::new());
    for (scope, left) in [
        (ada().session("1"), [true, false, true, false, true]),
        (ada().agent("a"), [true, false, true, false, false]),
        (Scope::new().session("2"), [true, false, true, false, false]),
        (ada(), [false; 5]),
    ] {
        memory.forget(ForgetRequest::scope(&scope)).await.unwrap();
        for ((headers, given), left) in scopes.iter().zip(&given).zip(left) {
            assert_eq!(known(headers, given, &format!("after {scope:?}")).await, left, "{headers:?} {scope:?}");
        }
    }
}

#[tokio::test]
async fn names_stand_for_no_more_than_a_request_may_hold() {
    let mock = MockProvider::start().await.unwrap();
    let mut config = Config::default();
    config.chat.providers.push(ProviderConfig::openai("mock", mock.base_url()).models(["small"]));
    config.chat.max_request_bytes = 20_000;
    let surface = Surface::new(Sophia::new(config).unwrap()).unwrap();
    let (_, given) = turn(&surface, &[], &json!({"model": "small", "input": "x".repeat(6_000)})).await;
    let named = |count: usize| vec![json!({"type": "item_reference", "id": given["output"][0]["id"]}); count];
    let asked = mock.calls();
    let (status, refused) = turn(&surface, &[], &json!({"model": "small", "input": named(1_000)})).await;
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("input[3]")), "{refused}");
    assert!(refused["error"]["message"].as_str().unwrap().contains("20000 bytes"), "{refused}");
    let (status, further) = turn(&surface, &[], &go_on(&given["id"], "more")).await;
    assert_eq!((status, mock.calls()), (200, asked + 1), "{further}");
    let mut again = go_on(&further["id"], "");
    again["input"] = named(2).into();
    let (status, refused) = turn(&surface, &[], &again).await;
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("previous_response_id")), "{refused}");
    assert_eq!(mock.calls(), asked + 1);
}

#[tokio::test]
async fn an_answer_does_not_wait_for_long_until_it_is_kept() {
    let mock = MockProvider::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.data_dir = Some(directory.path().into());
    config.chat.providers.push(ProviderConfig::openai("mock", mock.base_url()).models(["small"]));
    let sophia = Sophia::builder().config(config).start().await.unwrap();
    let surface = Surface::new(sophia.clone()).unwrap();
    let input: Vec<_> = (0..200).map(|number| json!({"role": "user", "content": format!("{number}")})).collect();
    let mut ids = Vec::new();
    for streamed in [false, true] {
        let other = rusqlite::Connection::open(directory.path().join("sophia.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let began = std::time::Instant::now();
        let asked = json!({"model": "small", "input": input, "stream": streamed});
        let (_, answer) = turn(&surface, &[], &asked).await;
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        other.execute_batch("COMMIT").unwrap();
        ids.push(match streamed {
            false => answer["id"].clone(),
            true => events(answer.as_str().unwrap()).pop().unwrap()["response"]["id"].clone(),
        });
    }
    // It was kept once that was possible.
    for id in ids {
        let began = std::time::Instant::now();
        while turn(&surface, &[], &go_on(&id, "and?")).await.0 != 200 {
            assert!(began.elapsed() < SOON, "it is not kept");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(mock.bodies().pop().unwrap().to_string().contains("\"199\""));
    }
    sophia.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_is_sent_again_in_each_turn_is_kept_once() {
    let (surface, _mock) = over(ProviderConfig::openai).await;
    let size = async || surface.sophia().memory().stats().await.unwrap().bytes;
    let (before, mut said) = (size().await, Vec::new());
    for number in 0..30 {
        said.push(json!({"role": "user", "content": format!("{number} {}", "q".repeat(4_000))}));
        let (status, answer) = turn(&surface, &[], &json!({"model": "small", "input": said})).await;
        assert_eq!(status, 200, "{answer}");
        said.push(json!({"role": "assistant", "content": answer["output"][0]["content"][0]["text"]}));
    }
    let (kept, once) = (size().await - before, 30 * 2 * 4_000);
    assert!(kept < 3 * once, "{kept} bytes of {once}");
}

#[tokio::test]
async fn what_is_larger_than_a_value_can_be_named_as_well() {
    let (surface, mock) = over(ProviderConfig::openai).await;
    let image = format!("data:image/png;base64,{}", "A".repeat(1_500_000));
    let content = json!([{"type": "input_text", "text": "q"}, {"type": "input_image", "image_url": image}]);
    let asked = json!({"model": "small", "input": [{"role": "user", "content": content}]});
    let (status, answer) = turn(&surface, &[], &asked).await;
    assert_eq!((status, &answer["store"]), (200, &json!(true)));
    assert_eq!(turn(&surface, &[], &go_on(&answer["id"], "and?")).await.0, 200);
    assert!(mock.bodies().pop().unwrap().to_string().contains(&image));
}

#[tokio::test]
async fn a_response_says_whether_it_can_be_named_whatever_the_provider_speaks() {
    for speak in [ProviderConfig::openai as Speak, ProviderConfig::anthropic] {
        let (surface, mock) = over(speak).await;
        for (store, expected) in [(Value::Null, true), (json!(true), true), (json!(false), false)] {
            let mut body = question(TURN, &format!("store {store}"));
            body["store"] = store.clone();
            let (status, answer) = turn(&surface, &[], &body).await;
            assert_eq!((status, &answer["store"]), (200, &json!(expected)), "{answer}");
            assert_ne!(mock.bodies().pop().unwrap()["store"], true);
            let status = turn(&surface, &[], &go_on(&answer["id"], &format!("after {store}"))).await.0;
            assert_eq!(status == 200, expected);
            let (_, heard) = stream(&surface, TURN, body).await;
            assert_eq!(heard.last().unwrap()["response"]["store"], expected);
        }
    }
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_not_found() {
    for speak in [ProviderConfig::openai as Speak, ProviderConfig::anthropic] {
        let (surface, mock) = over(speak).await;
        let long = "x".repeat(3_000);
        for id in ["resp_forged", "", "a\0b", long.as_str()] {
            for streamed in [false, true] {
                let mut body = go_on(&json!(id), "x");
                body["stream"] = streamed.into();
                let (status, refused) = turn(&surface, &[], &body).await;
                let told = (status, &refused["error"]["code"], &refused["error"]["param"]);
                assert_eq!(told, (404, &json!("NOT_FOUND"), &json!("previous_response_id")), "{refused}");
                let input = json!([{"role": "user", "content": "x"}, {"type": "item_reference", "id": id}]);
                body = json!({"model": "small", "input": input, "stream": streamed});
                let (status, refused) = turn(&surface, &[], &body).await;
                let told = (status, &refused["error"]["code"], &refused["error"]["param"]);
                assert_eq!(told, (404, &json!("NOT_FOUND"), &json!("input[1]")), "{refused}");
                assert!(refused["error"]["message"].as_str().unwrap().contains("not known"), "{refused}");
            }
        }
        let (status, refused) = turn(&surface, &[], &go_on(&json!(5), "x")).await;
        assert_eq!((status, &refused["error"]["param"]), (400, &json!("previous_response_id")));
        let conversation = json!({"model": "small", "input": "x", "conversation": "c"});
        let (status, refused) = turn(&surface, &[], &conversation).await;
        assert_eq!((status, &refused["error"]["param"]), (400, &json!("conversation")));
        assert_eq!(mock.calls(), 0);
    }
}

#[tokio::test]
async fn a_provider_of_responses_is_not_sent_what_only_we_know() {
    let (chat, own) = (MockProvider::start().await.unwrap(), MockProvider::start().await.unwrap());
    let mut config = Config::default();
    config.chat.providers.push(ProviderConfig::openai("chat", chat.base_url()).models(["small"]));
    config.chat.providers.push(ProviderConfig::responses("own", own.base_url()).models(["large"]));
    let surface = Surface::new(Sophia::new(config).unwrap()).unwrap();
    let (_, given) = turn(&surface, &[], &json!({"model": "small", "input": "fault:reasoning"})).await;
    let thought = given["output"][0].clone();
    assert_eq!(thought["type"], "reasoning");
    let sealed = json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "E"});
    let mut input = given["output"].as_array().unwrap().clone();
    input.extend([sealed.clone(), json!({"role": "user", "content": "and?"})]);
    let further = json!({"model": "large", "input": input});
    let named = json!({"model": "large", "input": [sealed, {"role": "user", "content": "and?"}], "previous_response_id": given["id"]});
    for body in [further, named] {
        let (status, answer) = turn(&surface, &[], &body).await;
        assert_eq!(status, 200, "{answer}");
        let asked = own.bodies().pop().unwrap().to_string();
        assert!(asked.contains("You asked:") && asked.contains("rs_1"), "{asked}");
        for unknown in [&thought["id"], &thought["summary"][0]["text"], &given["output"][1]["id"]] {
            assert!(!asked.contains(unknown.as_str().unwrap()), "{unknown} {asked}");
        }
    }
}

#[tokio::test]
async fn what_a_provider_of_responses_keeps_is_named_by_whom_it_was_given_to() {
    let mock = MockProvider::start().await.unwrap();
    let mut config = Config::default();
    config.chat.providers.push(ProviderConfig::responses("own", mock.base_url()).models(["small"]));
    config.server.keys = keys();
    config.server.keys.push(ApiKey::new("bob-key", Scope::new().tenant("globex").user("bob")));
    let surface = Surface::new(Sophia::new(config).unwrap()).unwrap();
    let ask = async |key: &str, mut body: Value, streamed: bool| {
        body["stream"] = streamed.into();
        let (status, answer) = as_key(&surface, key, "POST /v1/responses", body).await;
        match answer.as_str().map(events) {
            Some(events) => (status, events.last().unwrap()["response"].clone()),
            None => (status, answer),
        }
    };
    for (number, streamed) in [false, true].into_iter().enumerate() {
        let (status, given) = ask("ada-key", question("/v1/responses", &format!("secret {number}")), streamed).await;
        assert_eq!(status, 200, "{given}");
        let item = json!({"type": "item_reference", "id": given["output"][0]["id"]});
        let named = json!({"model": "small", "input": [item, {"role": "user", "content": format!("and {number}?")}]});
        let conversation = json!({"model": "small", "conversation": "conv_1"});
        let unsaid = json!({"model": "small", "previous_response_id": given["id"]});
        for (key, is_allowed) in [("ada-key", true), ("admin-key", true), ("bob-key", false), ("acme-key", false)] {
            let before = mock.calls();
            let (further, _) = ask(key, go_on(&given["id"], &format!("{key} {number}")), streamed).await;
            let (by_item, _) = ask(key, named.clone(), streamed).await;
            let told = if is_allowed { (200, 200, 2) } else { (404, 404, 0) };
            assert_eq!((further, by_item, mock.calls() - before), told, "{key}");
            assert_eq!(ask(key, unsaid.clone(), streamed).await.0, told.0, "{key}");
            let (status, answer) = ask(key, conversation.clone(), streamed).await;
            let told = if key == "admin-key" { 200 } else { 403 };
            assert_eq!(status, told, "{key}: {answer}");
        }
    }
}

#[tokio::test]
async fn every_call_of_a_tool_has_a_name_of_its_own() {
    let call = |id: Option<Value>, index: usize| {
        let mut call =
            json!({"index": index, "type": "function", "function": {"name": format!("f{index}"), "arguments": "{}"}});
        if let Some(id) = id {
            call["id"] = id;
        }
        call
    };
    let ids = [None, Some(Value::Null), Some(json!("")), Some(json!("same")), Some(json!("same"))];
    let calls: Vec<_> = ids.into_iter().enumerate().map(|(index, id)| call(id, index)).collect();
    let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
    let whole = json!({"id": "1", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]});
    let mut parts: Vec<_> = calls.iter().map(|call| part(json!({"tool_calls": [call]}))).collect();
    parts.push(json!({"index": 0, "delta": {}, "finish_reason": "tool_calls"}));
    let names = |route: &str, body: &Value| -> Vec<String> {
        let (list, field) = match route {
            "/v1/responses" => (&body["output"], "call_id"),
            "/v1/messages" => (&body["content"], "id"),
            _ => (&body["choices"][0]["message"]["tool_calls"], "id"),
        };
        list.as_array().unwrap().iter().map(|call| call[field].as_str().unwrap_or_default().to_owned()).collect()
    };
    let heard_names = |route: &str, events: &[Value]| -> Vec<String> {
        let name = |event: &Value| match route {
            "/v1/responses" if event["type"] == "response.output_item.done" => Some(event["item"]["call_id"].clone()),
            "/v1/messages" if event["type"] == "content_block_start" => Some(event["content_block"]["id"].clone()),
            "/v1/chat/completions" => event["choices"][0]["delta"]["tool_calls"].get(0).map(|call| call["id"].clone()),
            _ => None,
        };
        events.iter().filter_map(name).map(|id| id.as_str().unwrap_or_default().to_owned()).collect()
    };
    for route in ROUTES {
        let (surface, mock) = over(ProviderConfig::openai).await;
        mock.script([Fault::Body(whole.clone()), chat_events(&parts)]);
        let (_, _, first) = post(&surface, route, &question(route, "whole")).await;
        let (_, _, kept) = post(&surface, route, &question(route, "whole")).await;
        let (_, live) = stream(&surface, route, question(route, "parts")).await;
        let (_, again) = stream(&surface, route, question(route, "parts")).await;
        let told = [names(route, &first), names(route, &kept), heard_names(route, &live), heard_names(route, &again)];
        for names in &told {
            let distinct: std::collections::HashSet<_> = names.iter().filter(|name| !name.is_empty()).collect();
            assert_eq!((names.len(), distinct.len()), (5, 5), "{route} {names:?}");
            assert!(names.contains(&"same".to_owned()), "{route} {names:?}");
        }
        assert_eq!((&told[0], &told[2]), (&told[1], &told[3]), "what was kept has the same names");
    }
}

#[tokio::test]
async fn a_body_that_two_readers_read_apart_is_never_an_empty_answer() {
    let private = "$serde_json::private::RawValue";
    for (place, odd) in
        [json!({private: "{bad"}), json!({private: "[1]"}), json!({"x": {private: 5}})].into_iter().enumerate()
    {
        let (surface, mock) = over(ProviderConfig::openai).await;
        let message = json!({"role": "assistant", "content": "Hi"});
        let body =
            json!({"id": "1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "odd": odd});
        for route in ROUTES {
            mock.script([0; 8].map(|_| Fault::Body(body.clone())));
            for _ in 0..2 {
                let (status, _, answer) = post(&surface, route, &question(route, "odd")).await;
                match place {
                    1 => assert_eq!((status, text_of(route, &answer).as_str()), (200, "Hi"), "{answer}"),
                    _ => assert_eq!((status, &answer["error"]["type"]), (503, &json!("api_error")), "{answer}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn what_one_dialect_cannot_say_is_not_refused_to_another() {
    let (surface, mock) = over(ProviderConfig::openai).await;
    let with = |route: &str| {
        let mut body = question(route, "x");
        body["logit_bias"] = json!({"1": 1});
        body
    };
    for route in ["/v1/messages", "/v1/responses"] {
        let (status, _, refused) = post(&surface, route, &with(route)).await;
        assert_eq!((status, &refused["error"]["param"]), (400, &json!("logit_bias")), "{refused}");
    }
    let (status, _, answer) = post(&surface, ROUTES[0], &with(ROUTES[0])).await;
    assert_eq!((status, mock.calls()), (200, 1), "{answer}");
}

#[tokio::test]
async fn items_reach_a_provider_of_responses_as_they_were() {
    let (surface, mock) = over(ProviderConfig::responses).await;
    let text = |kind: &str, text: &str| json!([{"type": kind, "text": text}]);
    let input = json!([
        {"type": "message", "role": "user", "content": "a", "new": 1},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "phase": "commentary",
            "content": text("output_text", "hm")},
        {"type": "message", "id": "msg_2", "role": "assistant", "content": text("output_text", "well"), "new": {"x": 1}},
        {"type": "function_call", "id": "fc_1", "status": "completed", "call_id": "c", "name": "f", "arguments": "{}",
            "caller": {"type": "program"}},
        {"type": "function_call_output", "id": "fo_1", "status": "completed", "call_id": "c", "output": "r"},
        {"type": "message", "role": "user", "content": "b"},
    ]);
    let options = json!({"include_obfuscation": false});
    let body = json!({"model": "small", "input": input, "stream_options": options, "tool_choice": {"type": "allowed_tools",
        "mode": "auto", "tools": [{"type": "function", "name": "f"}]}});
    assert_eq!(stream(&surface, "/v1/responses", body.clone()).await.0["x-sophia-cache"], "miss");
    let asked = mock.bodies().pop().unwrap();
    let mut expected = input;
    expected[5].as_object_mut().unwrap().remove("type");
    assert_eq!(asked["input"], expected);
    assert_eq!((&asked["stream_options"], &asked["tool_choice"]), (&options, &body["tool_choice"]));
}

#[tokio::test]
async fn reasoning_of_another_provider_is_left_out_of_what_is_sent_back() {
    let thought = json!([{"type": "thinking", "thinking": "Hm.", "signature": ""}, {"type": "text", "text": "Well."}]);
    let said = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": thought}, {"role": "user", "content": "b"}]);
    let (surface, mock) = over(ProviderConfig::responses).await;
    let body = json!({"model": "small", "max_tokens": 9, "messages": said, "thinking": {"type": "disabled"}});
    assert_eq!(post(&surface, "/v1/messages", &body).await.0, 200);
    assert!(!mock.bodies()[0].to_string().contains("Hm."));
    let (surface, mock) = over(ProviderConfig::anthropic).await;
    let reasoning = json!({"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]});
    let well = json!({"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "Well."}]});
    let input = json!([{"role": "user", "content": "a"}, reasoning, well, {"role": "user", "content": "b"}]);
    assert_eq!(post(&surface, "/v1/responses", &json!({"model": "small", "input": input})).await.0, 200);
    let asked = mock.bodies()[0].to_string();
    assert!(asked.contains("Well.") && !asked.contains("Hm."), "{asked}");
}

#[tokio::test]
async fn a_thought_that_is_not_signed_goes_back_to_its_own_provider_and_one_of_another_does_not() {
    let result = json!([{"type": "tool_result", "tool_use_id": "t", "content": "42"}]);
    let go_on = |said: &Value| {
        let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": said}, {"role": "user", "content": result}]);
        json!({"model": "small", "max_tokens": 9, "messages": messages})
    };
    let (messages, asked) = over(ProviderConfig::anthropic).await;
    let call = json!({"type": "tool_use", "id": "t", "name": "f", "input": {}});
    for thought in [
        json!({"type": "thinking", "thinking": "Hm."}),
        json!({"type": "thinking", "thinking": "Hm.", "signature": ""}),
    ] {
        let said = json!([thought, call]);
        assert_eq!(post(&messages, "/v1/messages", &go_on(&said)).await.0, 200);
        assert_eq!(asked.bodies().last().unwrap()["messages"][1]["content"], said);
        // Others hear it in the common form, as far as they have one.
        for speak in [ProviderConfig::openai as Speak, ProviderConfig::responses] {
            let (surface, asked) = over(speak).await;
            let (status, _, answer) = post(&surface, "/v1/messages", &go_on(&said)).await;
            assert_eq!(status, 200, "{answer}");
            assert!(!asked.bodies()[0].to_string().contains("content_blocks"));
        }
    }
    // What came in the common form goes back, too.
    let body = json!({"id": "m", "type": "message", "role": "assistant", "model": "small", "stop_reason": "end_turn",
        "content": [{"type": "thinking", "thinking": "Hm.", "signature": ""}, {"type": "text", "text": "Hi"}]});
    asked.script([Fault::Body(body.clone())]);
    let (_, _, answer) = post(&messages, ROUTES[0], &question(ROUTES[0], "b")).await;
    let message = answer["choices"][0]["message"].clone();
    let again = json!({"model": "small", "messages": [{"role": "user", "content": "b"}, message, {"role": "user", "content": "c"}]});
    assert_eq!(post(&messages, ROUTES[0], &again).await.0, 200);
    assert_eq!(asked.bodies().last().unwrap()["messages"][1]["content"], body["content"]);
    let (chat, asked) = over(ProviderConfig::openai).await;
    assert_eq!(post(&chat, ROUTES[0], &again).await.0, 200);
    let plain = json!({"role": "assistant", "content": "Hi", "reasoning_content": "Hm."});
    assert_eq!(asked.bodies()[0]["messages"][1], plain);

    // A thought that was written here, whole and in parts.
    asked.script([Fault::Reasoning]);
    let (_, _, whole) = post(&chat, "/v1/messages", &question("/v1/messages", "d")).await;
    let (_, heard) = stream(&chat, "/v1/messages", question("/v1/messages", "d")).await;
    let own = whole["content"][0].clone();
    assert_eq!((&own["type"], &own["thinking"]), (&json!("thinking"), &json!("Hm, let me see.")));
    let signed = heard.iter().find_map(|event| event["delta"].get("signature"));
    assert_eq!(signed, Some(&own["signature"]));
    let text = json!({"type": "text", "text": "late"});
    for said in [json!([own, call]), json!([own, call, text])] {
        let (surface, asked) = over(ProviderConfig::anthropic).await;
        assert_eq!(post(&surface, "/v1/messages", &go_on(&said)).await.0, 200);
        assert_eq!(asked.bodies()[0]["messages"][1]["content"], json!(said.as_array().unwrap()[1..]));
    }
    assert_eq!(post(&chat, "/v1/messages", &go_on(&json!([own, call]))).await.0, 200);
    assert_eq!(asked.bodies().last().unwrap()["messages"][1]["reasoning_content"], "Hm, let me see.");
}

#[tokio::test]
async fn answers_that_end_early_say_so_in_every_dialect_and_are_not_kept() {
    for speak in KINDS {
        let (surface, mock) = over(speak).await;
        for (fault, chat, messages, responses) in [
            ("length", "length", "max_tokens", "max_output_tokens"),
            ("content_filter", "content_filter", "refusal", "content_filter"),
        ] {
            for route in ROUTES {
                mock.script([Fault::Finish(fault), Fault::Finish(fault)]);
                let (_, headers, body) = post(&surface, route, &question(route, fault)).await;
                assert_eq!(headers["x-sophia-cache"], "miss");
                let (_, heard) = stream(&surface, route, question(route, fault)).await;
                match route {
                    "/v1/responses" => {
                        let last = heard.last().unwrap();
                        assert_eq!(
                            (&last["type"], &last["response"]["incomplete_details"]["reason"]),
                            (&json!("response.incomplete"), &json!(responses))
                        );
                        assert_eq!(
                            (&body["status"], &body["incomplete_details"]["reason"]),
                            (&json!("incomplete"), &json!(responses))
                        );
                    }
                    "/v1/messages" => {
                        assert_eq!(
                            (&body["stop_reason"], &heard[heard.len() - 2]["delta"]["stop_reason"]),
                            (&json!(messages), &json!(messages))
                        );
                    }
                    _ => {
                        assert_eq!(body["choices"][0]["finish_reason"], chat);
                        assert_eq!(heard.last().unwrap()["choices"][0]["finish_reason"], chat);
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn every_dialect_has_its_own_errors_and_keys_work_in_both_headers() {
    let mock = MockProvider::start().await.unwrap();
    let mut config = Config::default();
    config.chat.providers.push(ProviderConfig::openai("mock", mock.base_url()).models(["small"]));
    config.chat.retry.retries = 0;
    config.chat.breaker.consecutive_failures = 1000;
    config.chat.breaker.window = 1000;
    config.server.keys = vec![
        ApiKey::new("ada-key", Scope::new().tenant("acme").user("ada")),
        ApiKey::new("bob-key", Scope::new().user("bob")),
    ];
    let surface = Surface::new(Sophia::new(config).unwrap()).unwrap();
    let ask = async |route: &str, headers: &[(&str, &str)], body: &Value| {
        send(&surface, &format!("POST {route}"), headers, body.to_string(), remote()).await
    };
    let key = [("x-api-key", "ada-key")];
    for (fault, status, openai, anthropic) in [
        ("fail:400", 400, "invalid_request_error", "invalid_request_error"),
        ("fail:401", 401, "authentication_error", "authentication_error"),
        ("fail:403", 403, "permission_error", "permission_error"),
        ("fail:404", 404, "invalid_request_error", "not_found_error"),
        ("fail:413", 413, "invalid_request_error", "request_too_large"),
        ("fail:422", 422, "invalid_request_error", "invalid_request_error"),
        ("fault:limit", 429, "rate_limit_error", "rate_limit_error"),
        ("fail:402", 402, "invalid_request_error", "billing_error"),
        // As the provider calls it.
        ("fail:500", 503, "server_error", "api_error"),
        ("fault:overloaded", 529, "server_error", "overloaded_error"),
    ] {
        for route in ROUTES {
            let mut body = question(route, fault);
            for streamed in [false, true] {
                body["stream"] = streamed.into();
                let (found, headers, answer) = ask(route, &key, &body).await;
                let kind = if route == "/v1/messages" { anthropic } else { openai };
                assert_eq!((found, &answer["error"]["type"]), (status, &json!(kind)), "{route} {fault}: {answer}");
                if route == "/v1/messages" {
                    assert_eq!(
                        (&answer["type"], &answer["request_id"]),
                        (&json!("error"), &json!(headers["request-id"].to_str().unwrap()))
                    );
                }
                assert_eq!(headers.contains_key("retry-after"), status == 429);
            }
        }
    }
    for route in ROUTES {
        let body = question(route, "hi");
        let (status, _, answer) = ask(route, &[("x-api-key", "wrong")], &body).await;
        assert_eq!((status, &answer["error"]["type"]), (401, &json!("authentication_error")));
        // Each key has answers of its own, shared by the dialects.
        let bearer = [("authorization", "Bearer ada-key")];
        let expected = if route == ROUTES[0] { "miss" } else { "hit" };
        assert_eq!(ask(route, &bearer, &body).await.1["x-sophia-cache"], expected);
        assert_eq!(ask(route, &key, &body).await.1["x-sophia-cache"], "hit");
        assert_eq!(ask(route, &[("x-api-key", "bob-key")], &body).await.1["x-sophia-cache"], expected);
    }
    for (route, body, field) in [
        ("/v1/messages", json!({"model": "small", "max_tokens": 1}), "messages"),
        (
            "/v1/messages",
            json!({"model": "small", "messages": [{"role": "robot", "content": "x"}]}),
            "messages[0].role",
        ),
        (
            "/v1/messages",
            json!({"model": "small", "messages": [{"role": "user", "content": "x"}], "thinking": {"type": "enabled"}}),
            "thinking",
        ),
        (
            "/v1/messages",
            json!({"model": "small", "messages": [{"role": "user", "content": [{"type": "search_result"}]}]}),
            "messages[0].content[0].type",
        ),
        ("/v1/responses", json!({"model": "small"}), "input"),
        ("/v1/responses", json!({"model": "small", "input": "x", "prompt": {"id": "p"}}), "prompt"),
        ("/v1/responses", json!({"model": "small", "input": "x", "tools": [{"type": "web_search"}]}), "tools[0].type"),
        ("/v1/responses", json!({"model": "small", "input": [{"type": "odd", "id": "x"}]}), "input[0]"),
    ] {
        let (status, _, answer) = ask(route, &key, &body).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(field)), "{answer}");
    }
}

#[tokio::test]
async fn an_error_is_named_as_the_provider_names_it() {
    let named = |code: &str, param: Option<&str>, kind: &str| json!({"error": {"message": "x", "type": kind, "param": param, "code": code}});
    for (status, body, told) in [
        (400, named("context_length_exceeded", Some("messages"), "invalid_request_error"), "INVALID_INPUT"),
        (429, named("insufficient_quota", None, "insufficient_quota"), "UNAUTHORIZED"),
        (402, named("invalid_request_error", None, "unknown_error"), "UNAUTHORIZED"),
    ] {
        let (surface, mock) = over(ProviderConfig::openai).await;
        for (number, route) in ROUTES.into_iter().enumerate() {
            mock.script([Fault::Failure(status, body.clone())]);
            let (found, _, answer) = post(&surface, route, &question(route, &number.to_string())).await;
            let (error, said) = (&answer["error"], &body["error"]);
            assert_eq!((found, &error["code"]), (status, &said["code"]), "{route}: {answer}");
            assert_eq!(error.get("param").unwrap_or(&Value::Null), &said["param"], "{answer}");
            if route != "/v1/messages" {
                assert_eq!(error["type"], said["type"], "{answer}");
            }
        }
        mock.script([Fault::Failure(status, body.clone())]);
        let (found, _, answer) = post(&surface, "/api/v1/chat", &json!({"prompt": "x"})).await;
        let error = &answer["error"];
        assert_eq!((found, &error["code"], &error["retryable"]), (status, &json!(told), &json!(false)), "{answer}");
        assert_eq!((&error["context"]["provider_code"], mock.calls()), (&body["error"]["code"], 4));
    }
}

#[tokio::test]
async fn what_is_wrong_has_the_name_that_the_client_gave_it() {
    let call = json!({"type": "mcp_approval_response", "approval_request_id": "x", "approve": true});
    let user = |content: Value| json!({"role": "user", "content": content});
    let odd = json!({"type": "input_odd"});
    let result = |id: &str| json!({"type": "tool_result", "tool_use_id": id, "content": "found"});
    let found = json!({"type": "search_result"});
    let image = json!({"type": "image_url", "image_url": {"url": "https://x.example/i.png", "detail": "high"}});
    let edits = json!({"edits": [{"type": "clear_tool_uses_20250919"}]});
    let cases: [(Speak, &str, Value, &str); 15] = [
        (
            ProviderConfig::anthropic,
            "/v1/chat/completions",
            json!({"messages": [user(json!([image]))]}),
            "messages[0].content[0].image_url.detail",
        ),
        (
            ProviderConfig::responses,
            "/v1/messages",
            json!({"max_tokens": 9, "messages": [user(json!("a"))], "context_management": edits}),
            "context_management",
        ),
        (
            ProviderConfig::openai,
            "/v1/responses",
            json!({"instructions": "Hi", "input": [user(json!("a")), call]}),
            "input[1]",
        ),
        (
            ProviderConfig::openai,
            "/v1/responses",
            json!({"instructions": "Hi", "input": [user(json!("a")), user(json!([{"type": "input_text", "text": "b"}, odd]))]}),
            "input[1].content[1].type",
        ),
        (
            ProviderConfig::openai,
            "/v1/responses",
            json!({"input": [
                user(json!("a")),
                {"type": "message", "role": "assistant", "content": "b"},
                {"type": "web_search_call", "id": "w"},
                user(json!("c")),
            ]}),
            "input[2]",
        ),
        (
            ProviderConfig::openai,
            "/v1/responses",
            json!({"input": [{"type": "function_call_output", "call_id": "c", "output": [odd]}]}),
            "input[0].output[0].type",
        ),
        (ProviderConfig::openai, "/v1/responses", json!({"input": []}), "input"),
        (
            ProviderConfig::anthropic,
            "/v1/responses",
            json!({"input": "x", "text": {"format": {"type": "odd"}}}),
            "text.format.type",
        ),
        (
            ProviderConfig::anthropic,
            "/v1/responses",
            json!({"input": "x", "reasoning": {"effort": "odd"}}),
            "reasoning.effort",
        ),
        (
            ProviderConfig::openai,
            "/v1/messages",
            json!({"max_tokens": 9, "system": "Hi", "messages": [user(json!("a")), user(json!([found]))]}),
            "messages[1].content[0].type",
        ),
        (
            ProviderConfig::openai,
            "/v1/messages",
            json!({"max_tokens": 9, "system": "Hi", "messages": [
                user(json!("a")),
                {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]},
                user(json!([result("1"), {"type": "text", "text": "b"}, found])),
            ]}),
            "messages[2].content[2].type",
        ),
        (
            ProviderConfig::openai,
            "/v1/messages",
            json!({"max_tokens": 9, "messages": [
                user(json!("a")),
                {"role": "assistant", "content": [{"type": "server_tool_use", "id": "1", "name": "f", "input": {}}]},
                user(json!("b")),
            ]}),
            "messages[1].content",
        ),
        (
            ProviderConfig::openai,
            "/v1/chat/completions",
            json!({"messages": [user(json!("a"))], "prompt": "x"}),
            "prompt",
        ),
        (ProviderConfig::openai, "/v1/chat/completions", json!({"messages": [user(json!("a")), 5]}), "messages[1]"),
        (
            ProviderConfig::openai,
            "/v1/messages",
            json!({"max_tokens": 9, "messages": [user(json!("a"))], "tools": [{"name": "f"}, 5]}),
            "tools[1]",
        ),
    ];
    for (speak, route, mut body, field) in cases {
        let (surface, _mock) = over(speak).await;
        body["model"] = json!("small");
        for streamed in [false, true] {
            body["stream"] = streamed.into();
            let (status, _, answer) = post(&surface, route, &body).await;
            assert_eq!((status, &answer["error"]["param"]), (400, &json!(field)), "{body} {answer}");
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(message.contains(&format!("`{field}`")) && !message.contains("has its own argument"), "{message}");
        }
    }
}

#[tokio::test]
async fn an_error_in_the_middle_is_the_streams_last_event() {
    let (surface, mock) = over(ProviderConfig::openai).await;
    let served = serve(surface).await;
    for route in ROUTES {
        mock.script([Fault::Cut]);
        let mut body = question(route, "one two three four");
        body["stream"] = true.into();
        let response = client().post(format!("http://{}{route}", served.url)).json(&body).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let heard = events(&response.text().await.unwrap());
        let last = heard.last().unwrap();
        assert!(last["error"]["message"].as_str().unwrap().contains("provider `mock`"), "{last}");
        match route {
            "/v1/responses" => assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!("UNAVAILABLE"))),
            "/v1/messages" => {
                assert_eq!((&last["type"], &last["error"]["type"]), (&json!("error"), &json!("api_error")))
            }
            _ => assert_eq!(last["error"]["code"], "UNAVAILABLE"),
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_silent_at_first_has_a_head_and_comments() {
    for route in ROUTES {
        let (surface, mock) = over(ProviderConfig::openai).await;
        mock.script([Fault::Hold]);
        let mut body = question(route, "x");
        body["stream"] = true.into();
        let asked = tokio::spawn(async move {
            surface.handle_parts("POST", route, HeaderMap::new(), body.to_string().into(), Peer::Local).await
        });
        while mock.calls() == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(16)).await;
        let response = tokio::time::timeout(Duration::from_secs(1), asked).await.unwrap().unwrap();
        tokio::time::resume();
        assert_eq!((response.status().as_u16(), response.headers().get("x-sophia-cache")), (200, None));
        let mut body = response.into_body();
        assert_eq!(body.next().await.as_deref(), Some(&b": keep-alive\n\n"[..]));
        mock.release();
        assert_eq!(streamed_text(route, &events(&text(body).await)), "You asked: x");
    }
}

#[tokio::test]
async fn vectors_and_models_come_in_the_forms_that_clients_ask_for() {
    let (surface, mock) = over(ProviderConfig::openai).await;
    let body = json!({"model": "small", "input": ["a", "bbb"], "encoding_format": "base64", "dimensions": 2});
    let (status, _, answer) = post(&surface, "/v1/embeddings", &body).await;
    assert_eq!((status, &answer["data"][1]["embedding"]), (200, &json!("AABAQAAAgD8=")), "{answer}");
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
    let (_, _, answer) = post(&surface, "/v1/embeddings", &json!({"model": "small", "input": "a"})).await;
    assert_eq!(answer["data"][0]["embedding"], json!([1.0, 1.0]));
    assert_eq!(mock.calls(), 0, "no chat was asked for");
    let (_, _, models) = send(&surface, "GET /v1/models", &[], "", Peer::Local).await;
    let model = &models["data"][0];
    assert_eq!(
        (&model["object"], &model["type"], &models["has_more"]),
        (&json!("model"), &json!("model"), &json!(false))
    );
    // When each was made, where the provider says it.
    let mut config = Config::default();
    config.chat.providers.push(ProviderConfig::openai("mock", mock.base_url()));
    let listing = Surface::new(Sophia::new(config).unwrap()).unwrap();
    for (surface, created) in [
        (&surface, vec![(0, "1970-01-01T00:00:00Z")]),
        (&listing, vec![(1_700_000_000, "2023-11-14T22:13:20Z"), (1_739_923_200, "2025-02-19T00:00:00Z")]),
    ] {
        let (_, _, models) = send(surface, "GET /v1/models", &[], "", Peer::Local).await;
        let models = models["data"].as_array().unwrap();
        let told =
            models.iter().map(|model| (model["created"].as_i64().unwrap(), model["created_at"].as_str().unwrap()));
        assert_eq!(told.collect::<Vec<_>>(), created);
    }
    let anthropic = [("anthropic-version", "2023-06-01")];
    let (status, _, answer) = send(&surface, "GET /v1/models/huge", &anthropic, "", Peer::Local).await;
    assert_eq!((status, &answer["type"], &answer["error"]["type"]), (404, &json!("error"), &json!("not_found_error")));
}
