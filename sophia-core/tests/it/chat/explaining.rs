//! What a response says about how it came about, and what reaches the provider for its own cache.

use sophia_core::chat::{PromptCacheKey, StageNote};

use super::*;

/// Long enough for a provider to cache it.
fn rules() -> String {
    "Answer in one sentence, and never guess. ".repeat(150)
}

fn told(system: &str, text: &str) -> ChatRequest {
    ChatRequest::new("small").system(system).user(text).scope(ada())
}

fn stages(response: &ChatResponse) -> Vec<(&'static str, &'static str)> {
    let explanation = response.explain.as_ref().expect("an explanation was asked for");
    explanation.stages.iter().map(|note| (note.stage, note.outcome)).collect()
}

fn note(response: &ChatResponse, stage: &str) -> StageNote {
    let explanation = response.explain.as_ref().expect("an explanation was asked for");
    explanation.stages.iter().find(|note| note.stage == stage).expect(stage).clone()
}

#[tokio::test]
async fn an_explanation_says_what_each_stage_did_where_it_is_asked_for() {
    let (mock, chat) = start().await;
    let miss = chat.complete(ask("x").explain()).await.unwrap();
    assert_eq!(
        stages(&miss),
        [
            ("key", "made"),
            ("l1", "miss"),
            ("l2", "off"),
            ("semantic", "off"),
            ("admission", "admitted"),
            ("prefix", "too_short"),
            ("router", "answered"),
            ("keep", "kept"),
            ("flight", "led"),
        ]
    );
    assert_eq!(note(&miss, "router").detail.unwrap()[0]["provider"], "mock0");
    let took = |stage| note(&miss, stage).took_ms;
    assert!(took("flight") >= took("router") && took("router") > 0.0 && took("flight") <= miss.latency_ms);
    let hit = chat.complete(ask("x").explain()).await.unwrap();
    assert_eq!(stages(&hit), [("key", "made"), ("l1", "hit")]);
    assert_eq!(chat.complete(ask("x")).await.unwrap().explain, None);
    assert_eq!(mock.calls(), 1, "asking for it makes no other question");
}

fn told_by(chunks: &[ChatChunk]) -> Vec<(&'static str, &'static str)> {
    let (last, earlier) = chunks.split_last().unwrap();
    assert!(earlier.iter().all(|chunk| chunk.explain.is_none()), "the last part says it");
    last.explain.as_ref().unwrap().stages.iter().map(|note| (note.stage, note.outcome)).collect()
}

#[tokio::test]
async fn a_streams_last_part_says_what_each_stage_did() {
    let (mock, chat) = start().await;
    let miss = drain(&chat, ask("x").explain()).await.unwrap();
    let stages = [
        ("key", "made"),
        ("l1", "miss"),
        ("l2", "off"),
        ("semantic", "off"),
        ("admission", "admitted"),
        ("prefix", "too_short"),
        ("router", "answered"),
        ("keep", "kept"),
        ("flight", "led"),
    ];
    assert_eq!(told_by(&miss), stages);
    let hit = drain(&chat, ask("x").explain()).await.unwrap();
    assert_eq!(told_by(&hit), [("key", "made"), ("l1", "hit")]);
    assert!(drain(&chat, ask("x")).await.unwrap().iter().all(|chunk| chunk.explain.is_none()));
    let bypass = drain(&chat, ask("x").cache(CacheMode::Bypass).explain()).await.unwrap();
    assert!(told_by(&bypass).contains(&("keep", "not_kept")), "{:?}", told_by(&bypass));
    mock.script([Fault::Hold]);
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let chat = chat.clone();
            tokio::spawn(async move { drain(&chat, ask("y").explain()).await.unwrap() })
        })
        .collect();
    until(|| mock.calls() == 3).await;
    mock.release();
    let mut led = 0;
    for chunks in join_all(tasks).await {
        let told = told_by(&chunks.unwrap());
        led += usize::from(told.contains(&("flight", "led")));
        assert!(told.contains(&("router", "answered")), "{told:?}");
    }
    assert_eq!((led, mock.calls()), (1, 3));
}

#[tokio::test]
async fn an_explanation_says_why_the_cache_was_not_used() {
    let (_mock, chat) = start().await;
    let bypass = chat.complete(ask("x").cache(CacheMode::Bypass).explain()).await.unwrap();
    let key = note(&bypass, "key");
    assert_eq!((key.outcome, key.detail), ("not_used", Some(json!("the request bypasses the cache"))));
    assert_eq!(note(&bypass, "keep").outcome, "not_kept");
}

#[tokio::test]
async fn those_who_share_a_flight_each_get_an_explanation() {
    let (mock, chat) = start().await;
    mock.script([Fault::Hold]);
    let tasks: Vec<_> = (0..5).map(|_| spawn(&chat, ask("x").explain())).collect();
    until(|| mock.calls() == 1).await;
    mock.release();
    let mut led = 0;
    for task in join_all(tasks).await {
        let response = task.unwrap().unwrap();
        led += usize::from(note(&response, "flight").outcome == "led");
        assert!(stages(&response).contains(&("router", "answered")));
    }
    assert_eq!((led, mock.calls()), (1, 1));
}

#[tokio::test]
async fn the_semantic_tier_explains_what_it_found() {
    let mock = MockProvider::start().await.unwrap();
    let mut config = config(&[&mock]);
    config.chat.semantic.enabled = true;
    config.chat.semantic.mode = sophia_core::chat::SemanticMode::Serve;
    config.chat.semantic.audit = 0.0;
    let chat = chat(config);
    let first = chat.complete(ask("How do I reset my router?")).await.unwrap();
    let served = chat.complete(ask("how can I reset my router").explain()).await.unwrap();
    let found = note(&served, "semantic");
    assert_eq!((found.outcome, found.detail.unwrap()["key"].as_str()), ("served", first.cache.key.as_deref()));
    let vetoed = chat.complete(ask("How do I reset my 2 routers?").explain()).await.unwrap();
    let found = note(&vetoed, "semantic");
    assert_eq!((found.outcome, &found.detail.unwrap()["veto"]), ("vetoed", &json!("numbers")));
}

#[tokio::test]
async fn what_the_caller_asked_reaches_the_provider_byte_for_byte() {
    let mock = MockProvider::start().await.unwrap();
    let mut config = config(&[&mock]);
    config.chat.prefix.prompt_cache_key = PromptCacheKey::Always;
    let chat = chat(config);
    let text = "Please can you tell me API keys for AcmeCorp";
    for system in ["Be brief.".to_owned(), rules()] {
        for _ in 0..3 {
            chat.complete(told(&system, text).cache(CacheMode::Bypass)).await.unwrap();
        }
    }
    for (index, body) in mock.bodies().iter().enumerate() {
        let system = if index < 3 { "Be brief.".to_owned() } else { rules() };
        let messages = json!([{"role": "system", "content": system}, {"role": "user", "content": text}]);
        assert_eq!(body["messages"].to_string(), messages.to_string());
    }
    let sent: Vec<_> = mock.bodies()[3..].iter().map(Value::to_string).collect();
    assert!(sent.iter().all(|body| *body == sent[0]), "the same request is the same bytes");
}

#[tokio::test]
async fn a_beginning_is_named_for_openai_and_the_cache_key_does_not_depend_on_it() {
    let mock = MockProvider::start().await.unwrap();
    let with = |setting: PromptCacheKey| {
        let mut config = config(&[&mock]);
        config.chat.prefix.prompt_cache_key = setting;
        chat(config)
    };
    let (auto, always) = (with(PromptCacheKey::Auto), with(PromptCacheKey::Always));
    let request = || told(&rules(), "x");
    let plain = auto.complete(request()).await.unwrap();
    let named = always.complete(request()).await.unwrap();
    assert_eq!(plain.cache.key, named.cache.key);
    always.complete(told(&rules(), "y")).await.unwrap();
    always.complete(told(&rules(), "x").scope(bob())).await.unwrap();
    always.complete(told(&rules(), "z").provider_field("prompt_cache_key", "mine")).await.unwrap();
    let names: Vec<_> = mock.bodies().iter().map(|body| body["prompt_cache_key"].clone()).collect();
    assert_eq!(names[0], Value::Null, "a server that is not OpenAI's own may refuse it");
    assert!(names[1].as_str().unwrap().starts_with("sophia-") && names[1] == names[2]);
    assert_ne!(names[1], names[3], "another user's requests go elsewhere");
    assert_eq!(names[4], "mine");
}

#[tokio::test]
async fn the_byte_that_broke_the_prefix_is_named() {
    let (_mock, chat) = start().await;
    let at = |time: &str| format!("It is {time}. {}", rules());
    let ask = |system: String, text: &str| chat.complete(told(&system, text).explain());
    let first = ask(at("12:01"), "x").await.unwrap();
    assert_eq!(note(&first, "prefix").outcome, "whole");
    let broken = note(&ask(at("12:02"), "x").await.unwrap(), "prefix");
    let place = json!({"path": "messages[0].content", "offset": 10, "in_last_message": false});
    assert_eq!((broken.outcome, &broken.detail.unwrap()["broken_at"]), ("broken", &place));
    let other = note(&ask(at("12:02"), "y").await.unwrap(), "prefix");
    let place = json!({"path": "messages[1].content", "offset": 0, "in_last_message": true});
    assert_eq!(other.detail.unwrap()["broken_at"], place);
    // Nobody else's requests count.
    let his = chat.complete(told(&at("12:03"), "x").scope(bob()).explain()).await.unwrap();
    assert_eq!(note(&his, "prefix").outcome, "whole");
}

#[tokio::test]
async fn the_prefix_optimiser_can_be_left_out() {
    let mock = MockProvider::start().await.unwrap();
    let mut config = config(&[&mock]);
    config.chat.prefix.prompt_cache_key = PromptCacheKey::Always;
    config.chat.prefix.enabled = false;
    let chat = chat(config);
    let response = chat.complete(told(&rules(), "x").explain()).await.unwrap();
    assert_eq!(note(&response, "prefix").outcome, "off");
    assert!(mock.bodies()[0].get("prompt_cache_key").is_none());
}
