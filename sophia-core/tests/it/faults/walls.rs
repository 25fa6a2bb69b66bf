//! Two people and their secrets: whatever is asked in whatever order, nothing of one is in what the other gets.

use proptest::prelude::*;
use sophia_core::{
    chat::{ChatRequest, ProviderConfig},
    operations,
    testing::MockProvider,
};

use super::*;

/// What all that belongs to a person holds.
const SECRETS: [&str; 2] = ["zqxwvj", "kqjxzv"];
/// Names that both use: ids, keys, tags, threads and what else is chosen by callers.
const NAMES: [&str; 3] = ["alpha", "beta", "*"];

/// Pairs of scopes between which a wall stands; the last ones are made to look like each other.
fn pairs() -> Vec<[Scope; 2]> {
    let scope = |tenant: &str, user: &str| Scope::new().tenant(tenant).user(user);
    vec![
        [scope("acme", "ada"), scope("acme", "bob")],
        [scope("acme", "ada"), scope("globex", "ada")],
        [Scope::new().user("ada"), scope("acme", "ada")],
        [Scope::new().tenant("acme"), scope("acme", "ada")],
        [Scope::new(), Scope::new().user("ada")],
        [scope("a|1", "b"), scope("a", "1|b")],
        [scope("%", "_"), scope("acme", "ada")],
        [Scope::new().tenant("ada"), Scope::new().user("ada")],
        [scope("acme", "ADA"), scope("acme", "ada")],
        [scope("acme", "ad\u{e1}"), scope("acme", "ada\u{301}")],
    ]
}

/// One call: the operation and its arguments, without the scope.
fn call() -> impl Strategy<Value = (&'static str, Value)> {
    let name = || prop::sample::select(NAMES.as_slice());
    let mode = prop::sample::select(vec!["hybrid", "semantic", "keyword", "exact"]);
    let writes = prop_oneof![
        name().prop_map(|id| ("memory.store", json!({"id": id, "content": "SECRET report", "tags": ["SECRET", "t"], "kind": "note"}))),
        Just(("memory.store", json!({"content": "SECRET report", "dedupe": true}))),
        Just(("memory.store_many", json!({"items": [{"content": "SECRET one", "scope": "SCOPE"}]}))),
        name().prop_map(|id| ("memory.update", json!({"id": id, "content": "SECRET changed"}))),
        name().prop_map(|key| ("memory.kv.set", json!({"key": key, "value": "SECRET", "tags": ["t"]}))),
        name().prop_map(|subject| ("memory.graph.relate", json!({"subject": subject, "predicate": "p", "object": "SECRET"}))),
        name().prop_map(|entity| ("memory.graph.upsert", json!({"entity": entity, "attributes": {"a": "SECRET"}}))),
        name().prop_map(|session| ("memory.append", json!({"role": "user", "content": "SECRET said", "scope": {"session": session}}))),
        (name(), name()).prop_map(|(thread, id)| {
            let value = json!({"encoding": "json", "data": "SECRET64"});
            ("memory.checkpoints.put", json!({"thread": thread, "id": id, "body": value, "channels": {"c": value}, "versions": {"c": "1"}, "metadata": {"m": "SECRET"}}))
        }),
        name().prop_map(|question| ("chat.complete", json!({"model": "small", "messages": [{"role": "user", "content": format!("same {question}")}], "tags": ["SECRET"]}))),
    ];
    let removals = prop_oneof![
        name().prop_map(|id| ("memory.delete", json!({"id": id, "permanent": true}))),
        Just(("memory.delete_where", json!({"tags": ["t"]}))),
        name().prop_map(|key| ("memory.kv.delete", json!({"key": key}))),
        name().prop_map(|prefix| ("memory.kv.invalidate", json!({"prefix": prefix}))),
        Just(("memory.kv.invalidate", json!({"tags": ["t"]}))),
        name().prop_map(|thread| ("memory.checkpoints.delete_thread", json!({"thread": thread}))),
        Just(("memory.forget", json!({}))),
    ];
    let reads = prop_oneof![
        (mode, prop::sample::select(vec!["report", "SECRET", "other", "", "said", "*"])).prop_map(|(mode, query)| (
            "memory.search",
            json!({"query": query, "mode": mode, "limit": 50, "explain": true, "include_archived": true})
        )),
        Just(("memory.search", json!({"query": "reprot", "typo_tolerant": true, "tags": ["t"]}))),
        name().prop_map(|id| ("memory.get", json!({"id": id, "include_archived": true}))),
        (1..40_i64).prop_map(|seq| ("memory.get", json!({"seq": seq, "include_archived": true}))),
        name().prop_map(|id| ("memory.versions", json!({"id": id}))),
        name().prop_map(|key| ("memory.kv.get", json!({"key": key}))),
        name().prop_map(|key| ("memory.kv.look_up", json!({"key": key}))),
        Just(("memory.kv.keys", json!({"prefix": ""}))),
        Just(("memory.graph.facts", json!({}))),
        name().prop_map(|entity| ("memory.graph.neighbors", json!({"entity": entity, "depth": 3}))),
        name().prop_map(|a| ("memory.graph.path", json!({"a": a, "b": "SECRET"}))),
        Just(("memory.history", json!({"limit": 100}))),
        Just(("memory.sessions", json!({}))),
        name().prop_map(|thread| ("memory.checkpoints.get", json!({"thread": thread}))),
        Just(("memory.checkpoints.list", json!({}))),
        Just(("memory.stats", json!(null))),
        Just(("memory.health", json!(null))),
        Just(("chat.metrics", json!(null))),
        // What is wrong is said, without what others have.
        name().prop_map(|id| ("memory.update", json!({"id": id, "content": "x", "if_version": 77}))),
        Just(("memory.serach", json!({}))),
        Just(("memory.search", json!({"qeury": "x"}))),
    ];
    prop_oneof![5 => writes, 1 => removals, 5 => reads]
}

/// Fills in whose call it is.
fn filled(arguments: &Value, scope: &Scope, secret: &str) -> Value {
    let encoded = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(json!(secret).to_string())
    };
    let text = arguments.to_string().replace("SECRET64", &encoded).replace("SECRET", secret);
    let mut filled: Value = serde_json::from_str(&text).unwrap();
    let own = serde_json::to_value(scope).unwrap();
    if filled["items"][0]["scope"] == "SCOPE" {
        filled["items"][0]["scope"] = own;
    } else if let Some(fields) = filled.as_object_mut() {
        let mut scope = own;
        if let Some(session) = fields.get("scope").and_then(|given| given.get("session")) {
            scope["session"] = session.clone();
        }
        fields.insert("scope".to_owned(), scope);
    }
    filled
}

async fn ask(sophia: &Sophia, operation: &str, arguments: Value) -> Value {
    let called = match operations::call(sophia, operation, arguments) {
        Ok(called) => called.await,
        Err(error) => Err(error),
    };
    match called {
        Ok(answer) => serde_json::to_value(answer).unwrap(),
        Err(error) => json!({"error": format!("{error:?} {error}")}),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_crosses(
        pair in prop::sample::select(pairs()),
        calls in prop::collection::vec((0..2_usize, call()), 10..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mock = MockProvider::start().await.unwrap();
            let mut config = Config::default();
            config.chat.providers.push(ProviderConfig::openai("mock", mock.base_url()).models(["small"]));
            let sophia = Sophia::new(config).unwrap();
            let mut asked: [Vec<String>; 2] = Default::default();
            for (who, (operation, arguments)) in calls {
                let (own, foreign) = (SECRETS[who], SECRETS[1 - who]);
                let answer = ask(&sophia, operation, filled(&arguments, &pair[who], own)).await;
                let said = answer.to_string();
                assert!(!said.contains(foreign), "{operation} {arguments} tells {:?} {said}", pair[who]);
                if operation == "chat.complete" {
                    let question = arguments["messages"].to_string();
                    // The first of each is asked for; no answer of the other will do.
                    let expected = if asked[who].contains(&question) { "hit" } else { "miss" };
                    assert_eq!(answer["cache"]["status"], expected, "{answer}");
                    asked[who].push(question);
                }
                if operation == "memory.forget" {
                    asked[who].clear();
                }
            }
            // What is left of each is what it had: nobody removes what is another's.
            for (who, scope) in pair.iter().enumerate() {
                sophia.memory().store(NewRecord::new(SECRETS[who]).scope(scope).id("own")).await.unwrap();
            }
            sophia.memory().forget(ForgetRequest::scope(&pair[0])).await.unwrap();
            assert!(sophia.memory().get(GetRecord::id("own").scope(&pair[1])).await.unwrap().is_some());
            assert_eq!(sophia.memory().get(GetRecord::id("own").scope(&pair[0])).await.unwrap(), None);
        });
    }
}

#[tokio::test]
async fn a_chat_request_of_one_is_no_answer_for_another_at_the_same_moment() {
    let mock = MockProvider::start().await.unwrap();
    let mut config = Config::default();
    config.chat.providers.push(ProviderConfig::openai("mock", mock.base_url()).models(["small"]));
    let sophia = Sophia::new(config).unwrap();
    let all: Vec<Scope> = pairs().into_iter().flatten().collect();
    let distinct: std::collections::HashSet<String> = all.iter().map(Scope::wall).collect();
    let calls = all.iter().map(|scope| sophia.chat().complete(ChatRequest::new("small").user("same").scope(scope)));
    futures::future::try_join_all(calls).await.unwrap();
    assert_eq!(mock.calls(), distinct.len(), "one flight for each wall, and no more");
}
