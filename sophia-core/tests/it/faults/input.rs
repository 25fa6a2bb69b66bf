//! Bad arguments to every operation, made from its schema: each is refused by name, or means something; none is a fault of
//! ours, and none is kept in part.

use std::collections::BTreeSet;

use sophia_core::operations;

use super::*;

/// What the worst callers give for anything.
fn nasty() -> Vec<(&'static str, Value)> {
    let mut deep = json!("bottom");
    for _ in 0..120 {
        deep = json!([deep]);
    }
    let mut deep_map = json!("bottom");
    for _ in 0..120 {
        deep_map = json!({"a": deep_map});
    }
    let many: Vec<String> = (0..40_000).map(|number| format!("t{number}")).collect();
    let scopes: Vec<Value> = (0..3_000).map(|number| json!({"user": format!("u{number}")})).collect();
    let facts: serde_json::Map<String, Value> =
        (0..3_000).map(|number| (format!("k{number}"), json!(number))).collect();
    vec![
        ("null", json!(null)),
        ("a flag", json!(true)),
        ("a negative number", json!(-1)),
        ("zero", json!(0)),
        ("a fraction", json!(0.5)),
        ("the largest integer", json!(u64::MAX)),
        ("the least integer", json!(i64::MIN)),
        ("a huge number", json!(1e308)),
        ("nothing", json!("")),
        ("blanks", json!(" \t\n")),
        ("NUL", json!("a\0b")),
        ("a name of nobody", json!("no such thing")),
        ("a path", json!("../../../etc/passwd")),
        ("SQL", json!("'; DROP TABLE records; --")),
        ("words of a query language", json!("\"a\" NEAR(b c) OR * ^ {content}: -")),
        ("a repetition", json!("(a+)+$".repeat(2_000))),
        ("a long text", json!("x".repeat(1_100_000))),
        ("directions and joiners", json!("\u{202e}\u{200d}\u{feff}\u{fffe}\u{10ffff}")),
        ("an empty list", json!([])),
        ("a list of nothing", json!([null])),
        ("a long list", json!(many)),
        ("many scopes", json!(scopes)),
        ("an empty map", json!({})),
        ("an unknown field", json!({"no_such_field": 1})),
        ("many facts", Value::Object(facts)),
        ("deep lists", deep),
        ("deep maps", deep_map),
    ]
}

/// A value that fits a schema, of required fields only.
fn sample(root: &Value, schema: &Value) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return sample(root, &root["$defs"][reference.rsplit('/').next().unwrap()]);
    }
    for several in ["anyOf", "oneOf", "allOf", "enum"] {
        if let Some(first) = schema[several].as_array().and_then(|choices| choices.first()) {
            return if several == "enum" { first.clone() } else { sample(root, first) };
        }
    }
    if !schema["const"].is_null() {
        return schema["const"].clone();
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds[0].as_str(),
        kind => kind.as_str(),
    };
    match kind {
        Some("object") => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let fields = required.iter().filter_map(Value::as_str);
            fields.map(|name| (name.to_owned(), sample(root, &schema["properties"][name]))).collect()
        }
        Some("array") => json!([sample(root, &schema["items"])]),
        Some("string") => json!("2026-01-01T00:00:00Z"),
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        _ => json!("anything"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_argument_is_a_fault_of_ours() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = engine(directory.path()).await;
    sophia.memory().store(NewRecord::new("kept").id("kept").scope(ada())).await.unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(elsewhere.path().join("a/b/c")).unwrap();
    let mut tried = BTreeSet::new();
    for described in operations::describe() {
        let name = described["name"].as_str().unwrap();
        // These start processes and open connections; what they refuse has tests of its own.
        if name.starts_with("registry.") || name.starts_with("health.register") || name.starts_with("health.check") {
            continue;
        }
        let schema = match described["arguments"]["$ref"].as_str() {
            Some(reference) => described["arguments"]["$defs"][reference.rsplit('/').next().unwrap()].clone(),
            None => described["arguments"].clone(),
        };
        let root = &described["arguments"];
        let usual = sample(root, &schema);
        for field in schema["properties"].as_object().into_iter().flatten().map(|(field, _)| field) {
            for (what, value) in nasty() {
                let mut arguments = usual.clone();
                if !arguments.is_object() {
                    arguments = json!({});
                }
                arguments[field] = value;
                // Files are written where the test may write, wherever the path leads from there.
                if let Some(path) = arguments["path"].as_str() {
                    arguments["path"] = json!(elsewhere.path().join("a/b/c").join(path.trim_start_matches('/')));
                }
                tried.insert(name.to_owned());
                let outcome = match operations::call(&sophia, name, &arguments) {
                    Err(error) => Err(error),
                    Ok(running) => tokio::time::timeout(PATIENCE, running).await.expect("it ends"),
                };
                if let Err(error) = outcome {
                    assert_ne!(error.kind(), ErrorKind::Internal, "{name}: `{field}` is {what}: {error:?}");
                    assert!(
                        error.to_string().len() < 4_000,
                        "{name}: `{field}` is {what}: the error is as long as the input"
                    );
                    if error.kind() == ErrorKind::InvalidInput {
                        assert!(error.get("field").is_some(), "{name}: `{field}` is {what}: {error}");
                    }
                }
            }
        }
    }
    assert!(tried.len() > 30, "{tried:?}");
    let kept = sophia.memory().get(GetRecord::id("kept").scope(ada())).await.unwrap().unwrap();
    assert_eq!((kept.content.as_str(), kept.version), ("kept", 1));
    sophia.shutdown().await.unwrap();
    assert_eq!(integrity(directory.path()), "ok");
}

#[tokio::test]
async fn what_is_kept_can_be_read_back_however_deep_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let deep = |levels: usize| (0..levels).fold(json!("bottom"), |inner, _| json!({"a": [inner]}));
    for levels in [1, 49, 50, 51, 60, 64, 70, 500] {
        let sophia = engine(directory.path()).await;
        let new = NewRecord::new("deep").id("deep").scope(ada()).metadata("deep", deep(levels));
        let stored = sophia.memory().store(new).await;
        let set = sophia.memory().kv().set("deep", deep(levels), KvOptions::new().scope(ada())).await;
        assert_eq!((stored.is_ok(), set.is_ok()), (levels <= 50, levels <= 50), "{levels}");
        for error in stored.err().into_iter().chain(set.err()) {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.message().contains("nested"), "{error}");
        }
        if levels <= 50 {
            sophia.memory().update(Update::new("deep").scope(ada()).content("deeper")).await.unwrap();
        }
        sophia.shutdown().await.unwrap();
        let sophia = engine(directory.path()).await;
        let versions = sophia.memory().versions("deep", &ada()).await.unwrap();
        assert!(versions.iter().all(|version| version.metadata["deep"]["a"].is_array()));
        assert!(sophia.memory().kv().get("deep", &ada()).await.unwrap().is_some());
        sophia.shutdown().await.unwrap();
    }
}
