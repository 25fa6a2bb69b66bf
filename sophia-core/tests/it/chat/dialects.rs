//! Providers of every protocol: the same answers, and nothing lost on the way.

use super::*;

async fn speaking(speak: Speak) -> (MockProvider, Chat) {
    let mock = MockProvider::start().await.unwrap();
    let chat = chat(config_of(&[(speak, &mock)]));
    (mock, chat)
}

#[tokio::test]
async fn every_protocol_gives_the_same_answer_whole_and_in_parts() {
    for speak in KINDS {
        let (mock, chat) = speaking(speak).await;
        let whole =
            chat.complete(ChatRequest::new("small").system("Be brief.").user("tell me").max_tokens(9)).await.unwrap();
        assert_eq!((whole.text.as_str(), whole.finish_reason.as_deref()), ("You asked: tell me", Some("stop")));
        let live = drain(&chat, ask("a b c")).await.unwrap();
        let kept = drain(&chat, ask("a b c")).await.unwrap();
        let parts = |chunks: &[ChatChunk]| -> Vec<_> { chunks.iter().map(|chunk| chunk.delta.clone()).collect() };
        assert_eq!((text(&live).as_str(), parts(&live)), ("You asked: a b c", parts(&kept)));
        let end = live.last().unwrap();
        let usage = end.usage.unwrap();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens), (Some(10), Some(5), Some(4)));
        let again = chat.complete(ask("a b c")).await.unwrap();
        assert_eq!((again.cache.status, again.text.as_str()), (CacheStatus::Hit, "You asked: a b c"));
        assert_eq!((chat.models().await.unwrap()[0].id.as_str(), mock.calls()), ("small", 2));
    }
}

#[tokio::test]
async fn reasoning_and_calls_of_tools_survive_a_replay_of_every_protocol() {
    for speak in KINDS {
        let mock = MockProvider::start().await.unwrap();
        let mut config = config_of(&[(speak, &mock)]);
        config.chat.cache.tool_calls = true;
        let chat = chat(config);
        for fault in [Fault::Reasoning, Fault::ToolCall] {
            let question = format!("{fault:?}");
            mock.script([fault]);
            let live = drain(&chat, ask(&question)).await.unwrap();
            let kept = drain(&chat, ask(&question)).await.unwrap();
            let said = |chunks: &[ChatChunk]| -> (String, Vec<Value>) {
                let reasoning = chunks.iter().filter_map(|chunk| chunk.reasoning.as_deref()).collect();
                (reasoning, chunks.iter().flat_map(|chunk| chunk.tool_calls.clone()).collect())
            };
            assert_eq!(said(&live), said(&kept));
            assert_eq!(kept[0].cache.as_ref().unwrap().status, CacheStatus::Hit);
            let whole = chat.complete(ask(&question)).await.unwrap();
            match whole.tool_calls.as_slice() {
                [] => assert_eq!(
                    (said(&live).0.as_str(), &whole.message["reasoning_content"]),
                    ("Hm, let me see.", &json!("Hm, let me see."))
                ),
                [call] => {
                    let arguments: String =
                        said(&live).1.iter().filter_map(|part| part["function"]["arguments"].as_str()).collect();
                    assert_eq!(
                        (arguments.as_str(), &call["function"]["arguments"]),
                        ("{\"x\":1}", &json!("{\"x\":1}"))
                    );
                    assert_eq!(
                        (&call["function"]["name"], whole.finish_reason.as_deref()),
                        (&json!("look_up"), Some("tool_calls"))
                    );
                    assert_eq!(said(&live).1[0]["id"], call["id"]);
                }
                more => panic!("{more:?}"),
            }
        }
        assert_eq!(mock.calls(), 2);
    }
}

#[tokio::test]
async fn an_answer_with_signed_thoughts_and_calls_goes_back_to_its_provider_word_for_word() {
    let answers = [include_str!("wire/messages.json"), include_str!("wire/responses.json")];
    for (speak, (answer, place)) in [ProviderConfig::anthropic as Speak, ProviderConfig::responses]
        .into_iter()
        .zip(answers.into_iter().zip(["messages", "input"]))
    {
        let (mock, chat) = speaking(speak).await;
        let answer: Value = serde_json::from_str(answer).unwrap();
        mock.script([Fault::Body(answer.clone())]);
        let first = chat.complete(ask("What time is it?")).await.unwrap();
        assert_eq!((first.text.as_str(), first.body()), ("It is 18 °C.", answer.clone()));
        let message = first
            .message
            .iter()
            .fold(sophia_core::chat::Message::new("assistant", Value::Null), |message, (name, value)| {
                message.with(name.as_str(), value.clone())
            });
        let result =
            sophia_core::chat::Message::new("tool", "12:00").with("tool_call_id", first.tool_calls[0]["id"].clone());
        chat.complete(ask("What time is it?").message(message).message(result)).await.unwrap();
        let sent = mock.bodies().pop().unwrap();
        match place {
            "messages" => {
                assert_eq!(sent[place][1]["content"], answer["content"]);
                let result = json!([{"type": "tool_result", "tool_use_id": "toolu_01", "content": "12:00"}]);
                assert_eq!(sent[place][2], json!({"role": "user", "content": result}));
            }
            _ => {
                let items = sent[place].as_array().unwrap();
                assert_eq!(Value::from(items[1..5].to_vec()), answer["output"]);
                assert_eq!(items[5], json!({"type": "function_call_output", "call_id": "call_9", "output": "12:00"}));
            }
        }
    }
}

#[tokio::test]
async fn a_question_is_put_in_the_words_of_the_protocol() {
    let function =
        json!({"name": "look_up", "description": "Looks up.", "parameters": {"type": "object", "properties": {}}});
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let question = || {
        let mut request = ask("")
            .tools(vec![json!({"type": "function", "function": function.clone()})])
            .max_tokens(7)
            .temperature(0.5);
        request.messages.clear();
        request.response_format =
            Some(json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema.clone()}}));
        let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0="}});
        request
            .system("Be brief.")
            .user(json!([{"type": "text", "text": "What is it?"}, image]))
            .provider_field("tool_choice", "required")
            .provider_field("parallel_tool_calls", false)
            .provider_field("reasoning_effort", "low")
            .provider_field("user", "u-1")
    };
    let (mock, chat) = speaking(ProviderConfig::anthropic).await;
    chat.complete(question()).await.unwrap();
    let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0="}});
    assert_eq!(
        mock.bodies()[0],
        json!({
            "model": "small", "max_tokens": 7, "temperature": 0.5, "system": "Be brief.", "metadata": {"user_id": "u-1"},
            "messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}],
            "tools": [{"name": "look_up", "description": "Looks up.", "input_schema": {"type": "object", "properties": {}}}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
            "output_config": {"format": {"type": "json_schema", "schema": schema}, "effort": "low"},
        })
    );
    assert_eq!((mock.header("x-api-key").as_deref(), mock.authorization()), (Some("sk-secret"), None));
    assert_eq!(mock.header("anthropic-version").as_deref(), Some("2023-06-01"));
    chat.complete(ask("x")).await.unwrap();
    assert_eq!(mock.bodies()[1]["max_tokens"], 4096, "the protocol wants a number");

    let (mock, chat) = speaking(ProviderConfig::responses).await;
    chat.complete(question()).await.unwrap();
    let image = json!({"type": "input_image", "image_url": "data:image/png;base64,iVBORw0="});
    assert_eq!(
        mock.bodies()[0],
        json!({
            "model": "small", "max_output_tokens": 7, "temperature": 0.5, "instructions": "Be brief.", "user": "u-1",
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "What is it?"}, image]}],
            "tools": [{"type": "function", "name": "look_up", "description": "Looks up.", "parameters": {"type": "object", "properties": {}}, "strict": false}],
            "tool_choice": "required", "parallel_tool_calls": false, "reasoning": {"effort": "low"},
            "text": {"format": {"type": "json_schema", "name": "a", "schema": schema}},
        })
    );
    assert_eq!(mock.authorization().as_deref(), Some("Bearer sk-secret"));
}

#[tokio::test]
async fn what_a_protocol_cannot_say_is_refused_by_name_and_nobody_is_asked() {
    use sophia_core::chat::Message;
    type Change = fn(ChatRequest) -> ChatRequest;
    let assistant = |field: &str, value: Value| Message::assistant("x").with(field, value);
    let cases: [(Speak, Change, &str); 12] = [
        (ProviderConfig::anthropic, |ask| ask.provider_field("seed", 7), "seed"),
        (ProviderConfig::anthropic, |ask| ask.provider_field("frequency_penalty", 0.5), "frequency_penalty"),
        (ProviderConfig::anthropic, |ask| ask.provider_field("logprobs", true), "logprobs"),
        (ProviderConfig::anthropic, |ask| ask.provider_field("metadata", json!({"k": "v"})), "metadata.k"),
        (
            ProviderConfig::anthropic,
            |ask| ask.provider_field("response_format", json!({"type": "json_object"})),
            "response_format.type",
        ),
        (ProviderConfig::anthropic, |ask| ask.message(Message::new("function", "x")), "messages[1].role"),
        (
            ProviderConfig::anthropic,
            |ask| ask.user(json!([{"type": "input_audio", "input_audio": {}}])),
            "messages[1].content[0].type",
        ),
        (ProviderConfig::anthropic, |ask| ask.message(Message::user("x").with("name", "n")), "messages[1].name"),
        (ProviderConfig::responses, |ask| ask.provider_field("stop", "END"), "stop"),
        (ProviderConfig::responses, |ask| ask.provider_field("seed", 7), "seed"),
        (ProviderConfig::responses, |ask| ask.provider_field("logit_bias", json!({"1": 2})), "logit_bias"),
        (ProviderConfig::responses, |ask| ask.user(json!([{"type": "document"}])), "messages[1].content[0].type"),
    ];
    for (speak, change, field) in cases {
        let (mock, chat) = speaking(speak).await;
        let error = chat.complete(change(ask("x"))).await.unwrap_err();
        assert_eq!((error.code(), error.get("field"), mock.calls()), ("UNSUPPORTED", Some(field), 0), "{error}");
        assert_eq!(chat.stream(change(ask("x"))).unwrap().next().await.unwrap().unwrap_err().code(), "UNSUPPORTED");
    }
    for (speak, field) in [
        (ProviderConfig::openai as Speak, "content_blocks"),
        (ProviderConfig::openai, "output_items"),
        (ProviderConfig::anthropic, "output_items"),
        (ProviderConfig::responses, "content_blocks"),
    ] {
        let (mock, chat) = speaking(speak).await;
        let compaction = json!([{"type": "compaction"}]);
        let error = chat.complete(ask("x").message(assistant(field, compaction)).user("y")).await.unwrap_err();
        let named = format!("messages[1].{field}");
        assert_eq!((error.code(), error.get("field"), mock.calls()), ("UNSUPPORTED", Some(named.as_str()), 0));
    }
    // What says no more than what happens anyway is no loss.
    let (mock, chat) = speaking(ProviderConfig::anthropic).await;
    let request = [
        ("n", json!(1)),
        ("seed", json!(null)),
        ("frequency_penalty", json!(0)),
        ("store", json!(false)),
        ("logprobs", json!(false)),
        ("stream_options", json!({"include_usage": true})),
    ]
    .into_iter()
    .fold(ask("x"), |request, (name, value)| request.provider_field(name, value));
    chat.complete(request).await.unwrap();
    assert_eq!(
        mock.bodies()[0],
        json!({"model": "small", "max_tokens": 4096, "messages": [{"role": "user", "content": "x"}]})
    );
}

#[tokio::test]
async fn the_next_provider_is_asked_where_the_first_ones_protocol_cannot_say_it() {
    let (first, second) = (MockProvider::start().await.unwrap(), MockProvider::start().await.unwrap());
    let chat = chat(config_of(&[(ProviderConfig::anthropic, &first), (ProviderConfig::openai, &second)]));
    let answer = chat.complete(ask("x").provider_field("seed", 7)).await.unwrap();
    let attempts: Vec<_> = answer.attempts.iter().map(|attempt| (attempt.provider.as_str(), attempt.outcome)).collect();
    assert_eq!(attempts, [("mock0", "UNSUPPORTED"), ("mock1", "ok")]);
    assert_eq!((first.calls(), second.bodies()[0]["seed"].as_u64()), (0, Some(7)));
}

#[tokio::test]
async fn an_overloaded_server_is_asked_again_when_it_says() {
    let (mock, chat) = speaking(ProviderConfig::anthropic).await;
    mock.script([Fault::Status(529, Some("0.05"))]);
    let start = Instant::now();
    assert_eq!(chat.complete(ask("a")).await.unwrap().attempts.len(), 2);
    assert!(start.elapsed() >= Duration::from_millis(50));
    let events = "event: message_start\ndata: {\"type\": \"message_start\", \"message\": {\"id\": \"m\", \"type\": \"message\", \"content\": []}}\n\n";
    for (kind, code) in [
        ("overloaded_error", "UNAVAILABLE"),
        ("rate_limit_error", "RATE_LIMITED"),
        ("invalid_request_error", "INVALID_INPUT"),
        ("authentication_error", "UNAUTHORIZED"),
    ] {
        let error = format!(
            "event: error\ndata: {{\"type\": \"error\", \"error\": {{\"type\": \"{kind}\", \"message\": \"m\"}}}}\n\n"
        );
        mock.script([Fault::Events(format!("{events}{error}"))]);
        assert_eq!(drain(&chat, ask(kind)).await.unwrap_err().code(), code, "{kind}");
    }
}

#[tokio::test]
async fn events_that_do_not_fit_together_are_no_answer() {
    let start = r#"{"type": "message_start", "message": {"id": "m", "type": "message", "content": []}}"#;
    let (mock, chat) = speaking(ProviderConfig::anthropic).await;
    for wrong in [
        r#"{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}}"#,
        r#"{"type": "content_block_start", "index": 3, "content_block": {"type": "text", "text": ""}}"#,
        r#"{"type": "content_block_start", "index": 0, "content_block": "text"}"#,
        r#"{"type": "content_block_stop", "index": 0}"#,
        r#"{"no": "type"}"#,
        r#"[]"#,
    ] {
        // The second time it is broken as well: one retry is made.
        mock.script([0; 2].map(|_| Fault::Events(format!("data: {start}\n\ndata: {wrong}\n\n"))));
        assert_eq!(drain(&chat, ask(wrong)).await.unwrap_err().code(), "UNAVAILABLE", "{wrong}");
    }
    // A last event alone says nothing.
    mock.script([0; 2].map(|_| Fault::Events("data: {\"type\": \"message_stop\"}\n\n".into())));
    assert_eq!(drain(&chat, ask("y")).await.unwrap_err().code(), "UNAVAILABLE");
    let (mock, chat) = speaking(ProviderConfig::responses).await;
    for wrong in [
        r#"{"type": "response.completed"}"#,
        r#"{"type": "response.output_text.delta", "delta": 1}"#,
        r#"{"type": "response.failed", "response": {}}"#,
        "{}",
    ] {
        mock.script([0; 2].map(|_| Fault::Events(format!("data: {wrong}\n\n"))));
        assert_eq!(drain(&chat, ask(wrong)).await.unwrap_err().code(), "UNAVAILABLE", "{wrong}");
    }
}
