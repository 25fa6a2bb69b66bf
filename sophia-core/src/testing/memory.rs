//! What every store of records, and every tier of values under keys, must do.

use std::{collections::HashSet, future::Future, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    Clock, ErrorKind, ManualClock, Scope,
    memory::{
        ForgetRequest, Fusion, Invalidation, KvEntry, KvKey, KvTier, KvValue, MatchType, MemoryStore, Mode, Priority,
        Record, Status, Update,
        store::{
            Atomicity, Change, Depth, Draft, Filter, Key, Listing, Lookup, Match, ModelUse, NamedVector, NewVector,
            Plan, SameContent, Stages,
        },
    },
};

/// Runs the suite of [`MemoryStore`]. `make` gives an empty store each time, which reads the clock that it is given.
///
/// # Panics
/// Where the store does not do what it must.
pub async fn memory_store<S, F>(make: impl Fn(Arc<dyn Clock>) -> F)
where
    S: MemoryStore,
    F: Future<Output = S>,
{
    let clock = Arc::new(ManualClock::default());
    let store = || make(clock.clone());
    records_are_kept_whole(&store().await, &clock).await;
    ids_are_unique_inside_their_wall(&store().await, &clock).await;
    what_is_stored_for_a_version_is_stored_over_no_other(&store().await, &clock).await;
    a_batch_is_stored_as_a_whole_or_item_by_item(&store().await, &clock).await;
    updates_keep_versions_and_find_conflicts(&store().await, &clock).await;
    walls_hold(&store().await, &clock).await;
    filters_are_exact(&store().await, &clock).await;
    search_finds_by_words_by_meaning_and_as_written(&store().await, &clock).await;
    how_near_a_match_must_be_is_for_the_plan_to_say(&store().await, &clock).await;
    pages_are_parts_of_one_order(&store().await, &clock).await;
    vectors_of_different_models_are_not_compared(&store().await, &clock).await;
    vectors_are_made_anew_one_by_one(&store().await, &clock).await;
    a_vector_of_zeros_is_near_nothing_and_not_missing(&store().await, &clock).await;
    hits_are_unlike_each_other_in_every_mode(&store().await, &clock).await;
    what_is_wrong_with_a_question_is_said_wherever_it_is_asked(&store().await, &clock).await;
    a_lease_has_one_holder(&store().await, &clock).await;
    what_is_deleted_or_expired_is_not_found(&store().await, &clock).await;
    listings_keep_the_order_and_have_pages(&store().await, &clock).await;
    forgetting_leaves_nothing(&store().await, &clock).await;
}

fn ada() -> Scope {
    Scope::new().tenant("acme").user("ada")
}

fn bob() -> Scope {
    Scope::new().tenant("acme").user("bob")
}

pub(crate) fn record(scope: &Scope, id: &str, content: &str, now: Timestamp) -> Record {
    Record {
        id: id.to_owned(),
        seq: 0,
        version: 1,
        content: content.to_owned(),
        kind: "note".to_owned(),
        category: None,
        tags: Vec::new(),
        metadata: Map::new(),
        summary: None,
        source: None,
        role: None,
        importance: 0.5,
        priority: Priority::Medium,
        status: Status::Active,
        scope: scope.clone(),
        created_at: now,
        updated_at: now,
        expires_at: None,
    }
}

async fn put(store: &impl MemoryStore, record: Record) -> i64 {
    put_with(store, Draft::new(record)).await
}

async fn put_with(store: &impl MemoryStore, draft: Draft) -> i64 {
    let mut results = store.insert(vec![draft], Atomicity::Together).await.expect("insert");
    results.pop().expect("one result").expect("stored").seq
}

async fn get(store: &impl MemoryStore, scope: &Scope, id: &str, now: Timestamp) -> Option<Record> {
    store.get(Lookup::new(Key::Id(id.to_owned()), scope.clone(), now)).await.expect("get")
}

async fn ids(store: &impl MemoryStore, plan: Plan) -> Vec<String> {
    store.search(plan).await.expect("search").matches.into_iter().map(|found| found.record.id).collect()
}

fn here(clock: &ManualClock) -> Filter {
    Filter::new(vec![ada()], clock.now())
}

async fn records_are_kept_whole(store: &impl MemoryStore, clock: &ManualClock) {
    let now = clock.now();
    let mut first = record(&ada().session("s1").agent("a1"), "r1", "Zürich – 東京 🗼\r\n\tend ", now);
    first.category = Some("places".into());
    first.tags = vec!["a".into(), "b \"c\"".into()];
    first.metadata = json!({"n": 1.5, "deep": {"list": [null, true, "x"]}}).as_object().cloned().unwrap_or_default();
    first.summary = Some("Two towns".into());
    first.source = Some("atlas".into());
    first.role = Some("user".into());
    first.importance = 0.9;
    first.priority = Priority::Critical;
    first.expires_at = now.checked_add(Duration::from_secs(60)).ok();
    first.seq = put(store, first.clone()).await;
    assert_eq!(get(store, &ada(), "r1", now).await.as_ref(), Some(&first));
    let by_seq = store.get(Lookup::new(Key::Seq(first.seq), ada(), now)).await.expect("get");
    assert_eq!(by_seq, Some(first.clone()));
    let second = put(store, record(&ada(), "r2", "later", now)).await;
    assert!(second > first.seq, "seq must grow: {} then {second}", first.seq);
}

async fn ids_are_unique_inside_their_wall(store: &impl MemoryStore, clock: &ManualClock) {
    let now = clock.now();
    let seq = put(store, record(&ada(), "same", "first", now)).await;
    put(store, record(&bob(), "same", "of bob", now)).await;
    let again = Draft::new(record(&ada(), "same", "second", now));
    let again = store.insert(vec![again], Atomicity::Together).await.expect("insert").remove(0).expect("stored");
    assert_eq!((again.seq, again.version, again.created), (seq, 2, false));
    assert_eq!(get(store, &ada(), "same", now).await.map(|record| record.content), Some("second".into()));
    assert_eq!(get(store, &bob(), "same", now).await.map(|record| record.content), Some("of bob".into()));
    put(store, record(&ada().session("s1"), "talk", "mine", now)).await;
    let other = Draft::new(record(&ada().session("s2"), "talk", "theirs", now));
    let taken = store.insert(vec![other], Atomicity::Each).await.expect("insert").remove(0).expect_err("taken");
    assert_eq!(taken.kind(), ErrorKind::Conflict);
    let repeated =
        Draft { same_content: SameContent::ReturnExisting, ..Draft::new(record(&ada(), "new", "second", now)) };
    let repeated = store.insert(vec![repeated], Atomicity::Each).await.expect("insert").remove(0).expect("found");
    assert_eq!((repeated.id.as_str(), repeated.created), ("same", false));
}

async fn what_is_stored_for_a_version_is_stored_over_no_other(store: &impl MemoryStore, clock: &ManualClock) {
    let now = clock.now();
    let draft = |record: Record, version| Draft { if_version: Some(version), ..Draft::new(record) };
    let of = |id: &str, content: &str, version| draft(record(&ada(), id, content, now), version);
    let insert = async |draft: Draft| store.insert(vec![draft], Atomicity::Together).await.map(|mut all| all.remove(0));
    let stored = async |draft: Draft| insert(draft).await.expect("insert").expect("stored");
    let refused = async |draft: Draft| insert(draft).await.expect_err("another version").kind();
    let first = stored(of("r", "first", 0)).await;
    assert_eq!((first.version, first.created), (1, true));
    assert_eq!(refused(of("r", "again", 0)).await, ErrorKind::Conflict);
    assert_eq!(refused(of("r", "again", 2)).await, ErrorKind::Conflict);
    assert_eq!(refused(of("nobody", "x", 1)).await, ErrorKind::Conflict);
    assert_eq!(get(store, &ada(), "nobody", now).await, None);
    assert_eq!(get(store, &ada(), "r", now).await.map(|record| record.content), Some("first".into()));
    assert_eq!(stored(of("r", "second", 1)).await.version, 2);
    // Of two that wish to be the first, one is, also within a batch; and each wall has its own.
    let batch =
        vec![of("two", "x", 0), of("two", "y", 0), of("three", "z", 0), draft(record(&bob(), "r", "x", now), 0)];
    let results = store.insert(batch.clone(), Atomicity::Each).await.expect("insert");
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, true]);
    assert_eq!(store.insert(batch, Atomicity::Together).await.expect_err("there").kind(), ErrorKind::Conflict);
    let rivals = (0..8).map(|place| store.insert(vec![of("raced", &place.to_string(), 0)], Atomicity::Together));
    let won = futures::future::join_all(rivals).await.into_iter().filter(Result::is_ok).count();
    assert_eq!((won, get(store, &ada(), "raced", now).await.map(|record| record.version)), (1, Some(1)));
    // What is hidden or has expired is not there.
    let hidden = Filter { ids: Some(vec!["r".into()]), ..here(clock) };
    store.delete(hidden, Depth::Archive).await.expect("delete");
    assert_eq!(refused(of("r", "x", 3)).await, ErrorKind::Conflict);
    assert_eq!(stored(of("r", "shown", 0)).await.version, 4);
    let brief = Record { expires_at: now.checked_add(Duration::from_secs(1)).ok(), ..record(&ada(), "e", "x", now) };
    put(store, brief).await;
    clock.advance(Duration::from_secs(1));
    stored(draft(record(&ada(), "e", "later", clock.now()), 0)).await;
    // Also where the same content is there.
    let same = |id, version| Draft { same_content: SameContent::ReturnExisting, ..of(id, "z", version) };
    assert_eq!(refused(same("three", 0)).await, ErrorKind::Conflict);
    assert_eq!(refused(same("three", 2)).await, ErrorKind::Conflict);
    assert_eq!(refused(same("four", 1)).await, ErrorKind::Conflict);
    for found in [stored(same("three", 1)).await, stored(same("four", 0)).await] {
        assert_eq!((found.id.as_str(), found.version, found.created), ("three", 1, false));
    }
}

async fn a_batch_is_stored_as_a_whole_or_item_by_item(store: &impl MemoryStore, clock: &ManualClock) {
    let now = clock.now();
    put(store, record(&ada().session("s1"), "taken", "x", now)).await;
    let batch = || {
        ["one", "taken", "two"].map(|id| Draft::new(record(&ada().session("s2"), id, "x", now))).into_iter().collect()
    };
    assert!(store.insert(batch(), Atomicity::Together).await.is_err());
    assert_eq!(get(store, &ada(), "one", now).await, None);
    let results = store.insert(batch(), Atomicity::Each).await.expect("insert");
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert!(get(store, &ada(), "two", now).await.is_some());
}

async fn updates_keep_versions_and_find_conflicts(store: &impl MemoryStore, clock: &ManualClock) {
    let now = clock.now();
    let mut first = record(&ada(), "r", "one apple", now);
    first.metadata.insert("keep".into(), json!(1));
    first.metadata.insert("drop".into(), json!(2));
    first.category = Some("fruit".into());
    put(store, first.clone()).await;
    clock.advance(Duration::from_secs(1));
    let later = clock.now();
    let change = |update: Update| Change::new(update.scope(ada()), later);
    let update = Update::new("r").content("one pear").category(None).metadata("drop", Value::Null).if_version(1);
    let updated = store.update(change(update.clone())).await.expect("update");
    assert_eq!((updated.version, updated.category.as_deref(), updated.updated_at), (2, None, later));
    assert_eq!(Value::Object(updated.metadata.clone()), json!({"keep": 1}));
    assert_eq!(store.update(change(update)).await.expect_err("old version").kind(), ErrorKind::Conflict);
    let absent = store.update(change(Update::new("nobody").content("x"))).await.expect_err("absent");
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    let stolen = store.update(Change::new(Update::new("r").scope(bob()).content("x"), later)).await;
    assert_eq!(stolen.expect_err("another wall").kind(), ErrorKind::NotFound);
    // A new time to live alone is no new version, and only of the version that was meant.
    let ttl = Some(Duration::from_secs(60));
    let renewed = store.update(change(Update::new("r").ttl(ttl).if_version(2))).await.expect("renew");
    let expires_at = later.checked_add(Duration::from_secs(60)).ok();
    assert_eq!(renewed, Record { expires_at, ..updated.clone() });
    let late = store.update(change(Update::new("r").ttl(ttl).if_version(1))).await.expect_err("old version");
    assert_eq!(late.kind(), ErrorKind::Conflict);
    let for_ever = store.update(change(Update::new("r").ttl(None))).await.expect("for ever");
    assert_eq!(for_ever, updated);
    let versions = store.versions(Lookup::new(Key::Id("r".into()), ada(), later)).await.expect("versions");
    first.seq = updated.seq;
    assert_eq!(versions, [first, updated]);
    assert_eq!(ids(store, Plan::new(here(clock), "apple")).await, Vec::<String>::new());
    assert_eq!(ids(store, Plan::new(here(clock), "pear")).await, ["r"]);
}

async fn walls_hold(store: &impl MemoryStore, clock: &ManualClock) {
    let now = clock.now();
    let scopes =
        [Scope::new(), Scope::new().tenant("acme"), Scope::new().user("ada"), ada(), bob(), ada().session("s1")];
    for (place, scope) in scopes.iter().enumerate() {
        put(store, record(scope, &format!("r{place}"), "the same words", now)).await;
    }
    for reader in &scopes {
        let expected: Vec<_> = scopes.iter().enumerate().filter(|(_, scope)| reader.covers(scope)).collect();
        let expected: Vec<_> = expected.iter().rev().map(|(place, _)| format!("r{place}")).collect();
        let filter = Filter::new(vec![reader.clone()], now);
        for plan in [Plan::new(filter.clone(), "words"), Plan::new(filter.clone(), "")] {
            let mut found = ids(store, plan).await;
            found.sort_by(|a, b| b.cmp(a));
            assert_eq!(found, expected, "{reader:?}");
        }
        for place in 0..scopes.len() {
            let id = format!("r{place}");
            assert_eq!(get(store, reader, &id, now).await.is_some(), expected.contains(&id), "{reader:?} {id}");
        }
    }
    let both = Filter::new(vec![bob(), Scope::new()], now);
    let mut found = ids(store, Plan::new(both, "words")).await;
    found.sort();
    assert_eq!(found, ["r0", "r4"]);
    assert_eq!(store.delete(Filter::new(vec![bob()], now), Depth::Erase).await.expect("delete"), 1);
    assert!(get(store, &ada(), "r3", now).await.is_some());
}

async fn filters_are_exact(store: &impl MemoryStore, clock: &ManualClock) {
    let now = clock.now();
    let mut red = record(&ada(), "red", "a red thing", now);
    red.tags = vec!["color".into(), "warm".into()];
    red.metadata = json!({"n": 1, "ok": true, "name": "1"}).as_object().cloned().unwrap_or_default();
    (red.kind, red.category, red.source) = ("paint".into(), Some("art".into()), Some("shop".into()));
    red.priority = Priority::High;
    put(store, red).await;
    clock.advance(Duration::from_secs(10));
    let later = clock.now();
    let mut blue = record(&ada(), "blue", "a blue thing", later);
    blue.tags = vec!["color".into()];
    blue.metadata = json!({"n": 1.0, "ok": false, "name": 1}).as_object().cloned().unwrap_or_default();
    put(store, blue).await;
    let list = |value: &str| Some(vec![value.to_owned()]);
    let fact = |key: &str, value: Value| Some(Map::from_iter([(key.to_owned(), value)]));
    let all = Filter::new(vec![ada()], later);
    let cases: Vec<(&str, Filter, &[&str])> = vec![
        ("kinds", Filter { kinds: list("paint"), ..all.clone() }, &["red"]),
        ("no kinds", Filter { kinds: Some(Vec::new()), ..all.clone() }, &[]),
        ("categories", Filter { categories: list("art"), ..all.clone() }, &["red"]),
        ("tags", Filter { tags: Some(vec!["warm".into(), "nothing".into()]), ..all.clone() }, &["red"]),
        ("all tags", Filter { tags_all: Some(vec!["color".into(), "warm".into()]), ..all.clone() }, &["red"]),
        ("part of a tag", Filter { tags: list("war"), ..all.clone() }, &[]),
        ("priorities", Filter { priorities: Some(vec![Priority::High]), ..all.clone() }, &["red"]),
        ("source", Filter { source: Some("shop".into()), ..all.clone() }, &["red"]),
        ("number", Filter { metadata: fact("n", json!(1)), ..all.clone() }, &["blue", "red"]),
        ("true is not 1", Filter { metadata: fact("ok", json!(1)), ..all.clone() }, &[]),
        ("true", Filter { metadata: fact("ok", json!(true)), ..all.clone() }, &["red"]),
        ("text is not a number", Filter { metadata: fact("name", json!("1")), ..all.clone() }, &["red"]),
        ("since", Filter { since: Some(later), ..all.clone() }, &["blue"]),
        ("until", Filter { until: Some(later), ..all.clone() }, &["red"]),
    ];
    for (name, filter, expected) in cases {
        assert_eq!(ids(store, Plan::new(filter.clone(), "")).await, expected, "{name}");
        let mut found = ids(store, Plan::new(filter, "thing")).await;
        found.sort();
        assert_eq!(found, expected, "{name}, with words");
    }
}

fn vector(model: &str, values: [f32; 3]) -> Option<NamedVector> {
    Some(NamedVector { model: model.into(), values: values.to_vec() })
}

async fn search_finds_by_words_by_meaning_and_as_written(store: &impl MemoryStore, clock: &ManualClock) {
    let now = clock.now();
    let documents = [
        ("both", "Reports are sent as PDF files.", [0.8, 0.6, 0.0]),
        ("words", "A report of the weather", [0.0, 0.0, 1.0]),
        ("meaning", "She likes documents", [1.0, 0.0, 0.0]),
        ("neither", "Something else", [-0.6, 0.0, 0.8]),
    ];
    for (id, content, values) in documents {
        put_with(store, Draft { vector: vector("m", values), ..Draft::new(record(&ada(), id, content, now)) }).await;
    }
    let plan = |mode| Plan { mode, vector: vector("m", [1.0, 0.0, 0.0]), ..Plan::new(here(clock), "the reporting?") };
    assert_eq!(ids(store, plan(Mode::Semantic)).await, ["meaning", "both"]);
    let mut by_words = ids(store, plan(Mode::Keyword)).await;
    by_words.sort();
    assert_eq!(by_words, ["both", "words"]);
    let found = store.search(plan(Mode::Hybrid)).await.expect("search");
    let kinds: Vec<_> = found.matches.iter().map(|found| (found.record.id.as_str(), found.match_type)).collect();
    assert_eq!(kinds[0], ("both", MatchType::Hybrid));
    assert!(kinds.contains(&("words", MatchType::Keyword)) && kinds.contains(&("meaning", MatchType::Semantic)));
    assert_eq!(found.total, 3);
    let scores: Vec<_> = found.matches.iter().map(|found| found.score).collect();
    assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)) && scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    assert_eq!(found.matches[0].highlights, ["**Reports** are sent as PDF files."]);
    let page = Plan { limit: 1, offset: 1, ..plan(Mode::Hybrid) };
    assert_eq!(ids(store, page).await, [kinds[1].0]);
    let exact = |text: &str| Plan { mode: Mode::Exact, ..Plan::new(here(clock), text) };
    assert_eq!(ids(store, exact("PDF files")).await, ["both"]);
    assert_eq!(ids(store, exact("pdf files")).await, Vec::<String>::new());
    assert_eq!(ids(store, Plan::new(here(clock), "xylophone")).await, Vec::<String>::new());
}

async fn how_near_a_match_must_be_is_for_the_plan_to_say(store: &impl MemoryStore, clock: &ManualClock) {
    let now = clock.now();
    let documents = [
        ("same", "A report", [1.0, 0.0, 0.0]),
        ("near", "Something", [0.6, 0.8, 0.0]),
        ("far", "Something else", [0.1, 0.0, 0.994_987_4]),
        ("opposite", "The other side", [-1.0, 0.0, 0.0]),
        ("worded", "Reports of the weather", [-0.6, 0.8, 0.0]),
    ];
    for (id, content, values) in documents {
        put_with(store, Draft { vector: vector("m", values), ..Draft::new(record(&ada(), id, content, now)) }).await;
    }
    let said = Record { kind: "message".into(), ..record(&ada().session("s"), "said", "Nothing of it", now) };
    put_with(store, Draft { vector: vector("m", [-0.8, 0.6, 0.0]), ..Draft::new(said) }).await;
    let plan = |mode, fusion, min_similarity| Plan {
        mode,
        min_similarity,
        stages: Stages { fusion, ..Stages::default() },
        vector: vector("m", [1.0, 0.0, 0.0]),
        ..Plan::new(here(clock), "report")
    };
    let all = ["same", "near", "far", "worded", "said", "opposite"];
    for (least, near) in [(-1.0, &all[..]), (-0.7, &all[..4]), (0.0, &all[..3]), (0.5, &all[..2]), (0.9, &all[..1])] {
        let semantic = || plan(Mode::Semantic, Fusion::Linear, least);
        assert_eq!(ids(store, semantic()).await, near, "{least}");
        for fusion in [Fusion::Linear, Fusion::Rrf] {
            let hybrid = || plan(Mode::Hybrid, fusion, least);
            let found = store.search(hybrid()).await.expect("search");
            // What has the word matches however far it is.
            let expected = near.iter().chain(["worded"].iter().filter(|id| !near.contains(id)));
            let expected: HashSet<&str> = expected.copied().collect();
            let names: Vec<&str> = found.matches.iter().map(|found| found.record.id.as_str()).collect();
            assert_eq!(names.iter().copied().collect::<HashSet<_>>(), expected, "{least} {fusion:?}");
            assert_eq!(found.total, expected.len());
            for found in &found.matches {
                let by_meaning = matches!(found.match_type, MatchType::Hybrid | MatchType::Semantic);
                assert_eq!(by_meaning, near.contains(&found.record.id.as_str()), "{least} {fusion:?} {found:?}");
            }
            for (place, name) in names.iter().enumerate() {
                let page = store.search(Plan { limit: 1, offset: place, ..hybrid() }).await.expect("search");
                assert_eq!((page.matches[0].record.id.as_str(), page.total), (*name, names.len()));
            }
        }
        for (place, name) in near.iter().enumerate() {
            assert_eq!(ids(store, Plan { limit: 1, offset: place, ..semantic() }).await, [*name]);
        }
    }
}

/// Of a multiplicative generator: the same numbers each time.
fn numbers() -> impl FnMut(usize) -> usize {
    let mut state = 1_u64;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    }
}

/// Documents and messages of the same few words, all of them more or less near the question.
fn a_crowd(count: usize, now: Timestamp) -> Vec<Draft> {
    const WORDS: [&str; 12] = [
        "revenue",
        "growth",
        "quarterly",
        "invoice",
        "customer",
        "meeting",
        "server",
        "database",
        "cloud",
        "network",
        "music",
        "garden",
    ];
    let mut number = numbers();
    let mut draft = |place: usize| {
        let words: Vec<&str> = (0..3 + number(12)).map(|_| WORDS[number(WORDS.len())]).collect();
        let is_message = place.is_multiple_of(3);
        let scope = if is_message { ada().session(format!("s{}", place % 7)) } else { ada() };
        let values: Vec<f32> =
            (0..16).map(|axis| number(200) as f32 / 100.0 - if axis == 0 { 0.0 } else { 1.0 }).collect();
        let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
        let values = values.iter().map(|value| value / length).collect();
        let record = Record {
            kind: if is_message { "message" } else { "note" }.to_owned(),
            importance: number(100) as f64 / 100.0,
            created_at: now - Duration::from_secs(number(100_000) as u64),
            ..record(&scope, &format!("r{place}"), &words.join(" "), now)
        };
        Draft { vector: Some(NamedVector { model: "m".into(), values }), ..Draft::new(record) }
    };
    (0..count).map(&mut draft).collect()
}

async fn pages_are_parts_of_one_order(store: &impl MemoryStore, clock: &ManualClock) {
    let crowd = a_crowd(600, clock.now());
    let asked = ["revenue", "customer", "database"];
    let with_words = |draft: &&Draft| asked.iter().any(|word| draft.record.content.contains(word));
    let with_words = crowd.iter().filter(with_words).count();
    store.insert(crowd, Atomicity::Together).await.expect("insert");
    let mut vector = vec![0.0; 16];
    vector[0] = 1.0;
    let vector = Some(NamedVector { model: "m".into(), values: vector });
    let plain = Stages::default;
    let cases = [
        (Mode::Keyword, plain()),
        (Mode::Semantic, plain()),
        (Mode::Hybrid, plain()),
        (Mode::Hybrid, Stages { fusion: Fusion::Rrf, ..plain() }),
        (Mode::Hybrid, Stages { mmr_lambda: Some(0.5), ..plain() }),
        (Mode::Keyword, Stages { importance_weight: 0.5, ..plain() }),
        (Mode::Hybrid, Stages { recency_half_life: Some(Duration::from_secs(20_000)), ..plain() }),
    ];
    for (mode, stages) in cases {
        let page = async |offset: usize, limit: usize| {
            let vector = vector.clone().filter(|_| mode != Mode::Keyword);
            let plan =
                Plan { mode, stages: stages.clone(), vector, offset, limit, ..Plan::new(here(clock), asked.join(" ")) };
            store.search(plan).await.expect("search")
        };
        let names = |matches: &[Match]| matches.iter().map(|found| found.record.id.clone()).collect::<Vec<_>>();
        let all = page(0, 1_000).await;
        assert!(all.matches.len() > 300, "{mode:?} {stages:?}: {}", all.matches.len());
        assert_eq!(all.total, all.matches.len());
        if mode == Mode::Keyword {
            assert_eq!(all.total, with_words, "every record with one of the words is a hit");
        }
        let is_in_order = all.matches.is_sorted_by(|a, b| a.score >= b.score);
        assert!(is_in_order || stages.mmr_lambda.is_some(), "{mode:?} {stages:?}");
        let all = names(&all.matches);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len(), "{mode:?} {stages:?}");
        assert_eq!(names(&page(0, 10).await.matches), all[..10], "{mode:?} {stages:?}");
        let mut paged = Vec::new();
        loop {
            let found = page(paged.len(), 37).await;
            paged.extend(names(&found.matches));
            let are_all = paged.len() == all.len();
            assert_eq!(found.total > paged.len(), !are_all, "{mode:?} {stages:?}: the count says that there are more");
            if are_all || found.matches.is_empty() {
                break;
            }
        }
        assert_eq!(paged, all, "{mode:?} {stages:?}");
    }
}

async fn vectors_of_different_models_are_not_compared(store: &impl MemoryStore, clock: &ManualClock) {
    let now = clock.now();
    for (id, model) in [("old", "m1"), ("new", "m2")] {
        let draft = Draft::new(record(&ada(), id, "text", now));
        put_with(store, Draft { vector: vector(model, [1.0, 0.0, 0.0]), ..draft }).await;
    }
    let plan = Plan { mode: Mode::Semantic, vector: vector("m2", [1.0, 0.0, 0.0]), ..Plan::new(here(clock), "q") };
    let found = store.search(plan).await.expect("search");
    assert_eq!(found.matches.iter().map(|found| found.record.id.as_str()).collect::<Vec<_>>(), ["new"]);
    assert_eq!(found.warnings.len(), 1, "it must say that a record could not be compared");
}

async fn vectors_are_made_anew_one_by_one(store: &impl MemoryStore, clock: &ManualClock) {
    let now = clock.now();
    let mut seqs = Vec::new();
    for (id, scope, model) in
        [("none", ada(), None), ("old", ada().session("s"), Some("m1")), ("bob", bob(), Some("m1"))]
    {
        let vector = model.and_then(|model| vector(model, [0.6, 0.8, 0.0]));
        seqs.push(put_with(store, Draft { vector, ..Draft::new(record(&scope, id, id, now)) }).await);
    }
    put_with(store, Draft { vector: vector("m2", [0.8, 0.6, 0.0]), ..Draft::new(record(&ada(), "new", "x", now)) })
        .await;
    let models = async || {
        let mut used = store.vector_models().await.expect("models");
        used.sort_by(|a, b| a.model.cmp(&b.model));
        used.into_iter().map(|ModelUse { model, records }| (model.unwrap_or_default(), records)).collect::<Vec<_>>()
    };
    assert_eq!(models().await, [("".into(), 1), ("m1".into(), 2), ("m2".into(), 1)]);

    // Those of the former model are found by their own vectors, among the others.
    let aim = |model| vector(model, [1.0, 0.0, 0.0]);
    let plan = Plan { mode: Mode::Semantic, vector: aim("m2"), ..Plan::new(here(clock), "q") };
    let both = Plan { former: aim("m1").into_iter().collect(), ..plan.clone() };
    assert_eq!(ids(store, plan).await, ["new"]);
    let found = store.search(both.clone()).await.expect("search");
    assert_eq!(found.matches.iter().map(|found| found.record.id.as_str()).collect::<Vec<_>>(), ["new", "old"]);
    assert_eq!(found.warnings.len(), 1, "one record has no vector at all");

    let stale = store.stale_vectors("m2", None, 2).await.expect("stale");
    let found: Vec<_> = stale.iter().map(|stale| (stale.seq, stale.content.as_str(), stale.scope.clone())).collect();
    assert_eq!(found, [(seqs[2], "bob", bob()), (seqs[1], "old", ada().session("s"))]);
    let rest = store.stale_vectors("m2", Some(seqs[1]), 2).await.expect("stale");
    assert_eq!(rest.iter().map(|stale| stale.seq).collect::<Vec<_>>(), [seqs[0]]);
    let made = |seq, version, values| NewVector {
        seq,
        version,
        vector: NamedVector { model: "m2".into(), values: Vec::from(values) },
    };
    let of_version_2 = made(seqs[1], 2, [1.0, 0.0, 0.0]);
    let anew = vec![made(seqs[1], 1, [1.0, 0.0, 0.0]), made(seqs[0], 1, [0.0; 3]), of_version_2];
    assert_eq!(store.set_vectors(anew).await.expect("set"), 2, "what has changed meanwhile keeps what it has");
    assert_eq!(models().await, [("m1".into(), 1), ("m2".into(), 3)]);
    assert_eq!(ids(store, both).await, ["old", "new"], "a vector of zeros is near nothing");
    let left = store.stale_vectors("m2", None, 9).await.expect("stale");
    assert_eq!(left.iter().map(|stale| stale.seq).collect::<Vec<_>>(), [seqs[2]]);
    assert_eq!(store.stale_vectors("m3", None, 9).await.expect("stale").len(), 4);
}

async fn a_vector_of_zeros_is_near_nothing_and_not_missing(store: &impl MemoryStore, clock: &ManualClock) {
    const ZEROS: [f32; 3] = [0.0; 3];
    let now = clock.now();
    let messages = [
        ("asked", "s1", "Where is the report?", [1.0, 0.0, 0.0]),
        ("sign", "s1", "👍", ZEROS),
        ("told", "s2", "The report is red.", [0.8, 0.6, 0.0]),
        ("more", "s2", "It is late.", [0.6, 0.8, 0.0]),
    ];
    for (id, session, content, values) in messages {
        let message = Record { kind: "message".into(), ..record(&ada().session(session), id, content, now) };
        put_with(store, Draft { vector: vector("m", values), ..Draft::new(message) }).await;
    }
    for (id, model) in [("worded", "m"), ("former", "m0")] {
        let note = record(&ada(), id, "A report of the weather", now);
        put_with(store, Draft { vector: vector(model, ZEROS), ..Draft::new(note) }).await;
    }
    let plan = |mode| Plan {
        mode,
        min_similarity: -1.0,
        vector: vector("m", [1.0, 0.0, 0.0]),
        former: vector("m0", [1.0, 0.0, 0.0]).into_iter().collect(),
        ..Plan::new(here(clock), "report")
    };
    assert_eq!(ids(store, plan(Mode::Semantic)).await, ["asked", "told", "more"]);
    let narrow = Filter { kinds: Some(vec!["message".into()]), ..here(clock) };
    assert_eq!(ids(store, Plan { filter: narrow, ..plan(Mode::Semantic) }).await, ["asked", "told", "more"]);
    let found = store.search(plan(Mode::Hybrid)).await.expect("search");
    assert_eq!(found.warnings, Vec::<String>::new(), "nothing is missing");
    for zeros in found.matches.iter().filter(|found| ["sign", "worded", "former"].contains(&found.record.id.as_str())) {
        assert_eq!((zeros.explain.semantic, zeros.match_type == MatchType::Hybrid), (None, false), "{zeros:?}");
    }
    let asked = found.matches.iter().find(|found| found.record.id == "asked").expect("found");
    let window = asked.explain.conversation.map(|conversation| conversation.window_semantic_normalized);
    assert_eq!(window, Some(1.0), "the sign beside it does not count in its window");
}

async fn hits_are_unlike_each_other_in_every_mode(store: &impl MemoryStore, clock: &ManualClock) {
    let documents = [
        ("other", "A report of whales and of the sea in the north", [0.0, 1.0, 0.0]),
        ("first", "The report is late", [1.0, 0.0, 0.0]),
        ("again", "The report is late", [1.0, 0.0, 0.0]),
    ];
    for (id, content, values) in documents {
        let record = record(&ada(), id, content, clock.now());
        put_with(store, Draft { vector: vector("m", values), ..Draft::new(record) }).await;
    }
    for (mode, question) in
        [(Mode::Keyword, [1.0, 0.0, 0.0]), (Mode::Hybrid, [1.0, 0.0, 0.0]), (Mode::Hybrid, [0.0, 0.0, 0.0])]
    {
        let plan = |mmr_lambda| Plan {
            mode,
            vector: vector("m", question),
            stages: Stages { mmr_lambda, ..Stages::default() },
            ..Plan::new(here(clock), "report")
        };
        assert_eq!(ids(store, plan(None)).await, ["again", "first", "other"], "{mode:?} {question:?}");
        assert_eq!(ids(store, plan(Some(0.3))).await, ["again", "other", "first"], "{mode:?} {question:?}");
    }
}

async fn what_is_wrong_with_a_question_is_said_wherever_it_is_asked(store: &impl MemoryStore, clock: &ManualClock) {
    put(store, record(&ada(), "r", "a note", clock.now())).await;
    for scope in [ada(), bob()] {
        let filter = Filter { kinds: Some(vec!["nothing".into()]), ..Filter::new(vec![scope.clone()], clock.now()) };
        let warnings = async |mode, text: &str| {
            let plan = Plan { mode, ..Plan::new(filter.clone(), text) };
            store.search(plan).await.expect("search").warnings.len()
        };
        assert_eq!(warnings(Mode::Keyword, "*").await, 1, "{scope:?}");
        assert_eq!(warnings(Mode::Keyword, "note").await, 0, "{scope:?}");
        assert_eq!((warnings(Mode::Exact, "*").await, warnings(Mode::Keyword, "").await), (0, 0), "{scope:?}");
    }
}

async fn a_lease_has_one_holder(store: &impl MemoryStore, clock: &ManualClock) {
    let take = async |holder, seconds| store.lease("work", holder, Duration::from_secs(seconds)).await.expect("lease");
    assert!(take("a", 10).await);
    assert!(!take("b", 10).await && take("a", 10).await, "its holder prolongs it");
    assert!(store.lease("other work", "b", Duration::from_secs(10)).await.expect("lease"));
    clock.advance(Duration::from_secs(9));
    assert!(!take("b", 10).await);
    clock.advance(Duration::from_secs(1));
    assert!(take("b", 10).await, "it ends by itself");
    assert!(!take("a", 0).await, "nobody gives up what is another's");
    assert!(take("b", 0).await && take("a", 10).await);
}

async fn what_is_deleted_or_expired_is_not_found(store: &impl MemoryStore, clock: &ManualClock) {
    let now = clock.now();
    let put_near = async |id: &str, seconds: Option<u64>| {
        let mut record = record(&ada(), id, "apple", now);
        record.expires_at = seconds.and_then(|seconds| now.checked_add(Duration::from_secs(seconds)).ok());
        put_with(store, Draft { vector: vector("m", [1.0, 0.0, 0.0]), ..Draft::new(record) }).await
    };
    for (id, seconds) in [("archived", None), ("erased", None), ("short", Some(5)), ("stays", Some(50))] {
        put_near(id, seconds).await;
    }
    let plan = || Plan { vector: vector("m", [1.0, 0.0, 0.0]), ..Plan::new(here(clock), "apple") };
    assert_eq!(ids(store, plan()).await, ["stays", "short", "erased", "archived"]);
    let one = |id: &str| Filter { ids: Some(vec![id.into()]), ..here(clock) };
    assert_eq!(store.delete(one("archived"), Depth::Archive).await.expect("delete"), 1);
    assert_eq!(store.delete(one("archived"), Depth::Archive).await.expect("delete"), 0);
    assert_eq!(store.delete(one("erased"), Depth::Erase).await.expect("delete"), 1);
    put_near("renewed", Some(5)).await;
    let renew = Update::new("renewed").scope(ada()).ttl(Some(Duration::from_secs(50)));
    store.update(Change::new(renew, now)).await.expect("renew");
    clock.advance(Duration::from_secs(5));
    assert_eq!(ids(store, plan()).await, ["renewed", "stays"]);
    assert_eq!(get(store, &ada(), "short", clock.now()).await, None);
    let mut hidden = plan();
    (hidden.filter.include_archived, hidden.filter.include_expired) = (true, true);
    assert_eq!(ids(store, hidden).await, ["renewed", "stays", "short", "archived"]);
    let lookup = Lookup { include_archived: true, ..Lookup::new(Key::Id("archived".into()), ada(), clock.now()) };
    assert_eq!(store.get(lookup).await.expect("get").map(|record| record.status), Some(Status::Archived));
}

async fn listings_keep_the_order_and_have_pages(store: &impl MemoryStore, clock: &ManualClock) {
    let talk = ada().session("s1");
    let mut seqs = Vec::new();
    for number in 0..5 {
        let mut message = record(&talk, &format!("m{number}"), &format!("message {number}"), clock.now());
        message.kind = "message".into();
        seqs.push(put(store, message).await);
    }
    let list = async |limit, before_seq| -> Vec<String> {
        let filter = Filter { before_seq, ..Filter::new(vec![talk.clone()], clock.now()) };
        store.list(Listing { filter, limit }).await.expect("list").into_iter().map(|record| record.id).collect()
    };
    assert_eq!(list(2, None).await, ["m3", "m4"]);
    assert_eq!(list(2, Some(seqs[3])).await, ["m1", "m2"]);
    let sessions = store.sessions(here(clock), 10).await.expect("sessions");
    assert_eq!((sessions.len(), sessions[0].session.as_str(), sessions[0].messages), (1, "s1", 5));
}

async fn forgetting_leaves_nothing(store: &impl MemoryStore, clock: &ManualClock) {
    let now = clock.now();
    for scope in [ada(), ada().session("s1"), bob(), Scope::new().user("ada")] {
        let id = scope.key();
        put_with(
            store,
            Draft { vector: vector("m", [1.0, 0.0, 0.0]), ..Draft::new(record(&scope, &id, "apple", now)) },
        )
        .await;
    }
    let receipt = store.forget(ForgetRequest::scope(ada().session("s1"))).await.expect("forget");
    assert_eq!((receipt.records, receipt.embeddings), (1, 1));
    let receipt = store.forget(ForgetRequest::subject("ada")).await.expect("forget");
    assert_eq!(receipt.records, 2);
    assert_eq!(ids(store, Plan::new(here(clock), "apple")).await, Vec::<String>::new());
    assert_eq!(ids(store, Plan::new(Filter::new(vec![bob()], now), "apple")).await.len(), 1);
}

/// Runs the suite of [`KvTier`]. `make` gives an empty tier each time, which reads the clock that it is given.
///
/// # Panics
/// Where the tier does not do what it must.
pub async fn kv_tier<T, F>(make: impl Fn(Arc<dyn Clock>) -> F)
where
    T: KvTier,
    F: Future<Output = T>,
{
    let clock = Arc::new(ManualClock::default());
    let value = |value: Value| Arc::new(KvEntry::new(KvValue::new(value)));
    let read = async |tier: &T, key: &KvKey| tier.get(key).await.expect("get").and_then(|entry| entry.value.clone());
    let (plan, of_bob) = (KvKey::new(&ada(), "plan"), KvKey::new(&bob(), "plan"));

    let tier = make(clock.clone()).await;
    assert_eq!(read(&tier, &plan).await, None);
    for kept in [json!(null), json!(false), json!(""), json!(1.5), json!({"deep": [1, null, "é 🗼"]})] {
        tier.set(&plan, value(kept.clone())).await.expect("set");
        assert_eq!(read(&tier, &plan).await.map(|value| value.value().clone()), Some(kept));
    }
    assert_eq!(read(&tier, &of_bob).await, None, "the wall must hold");
    assert!(tier.delete(&plan).await.expect("delete"));
    assert!(!tier.delete(&plan).await.expect("delete"));
    assert_eq!(read(&tier, &plan).await, None);

    let tier = make(clock.clone()).await;
    let mut short = KvEntry::new(KvValue::new(json!(1)));
    short.expires_at = clock.now().checked_add(Duration::from_secs(5)).ok();
    short.stale_until = clock.now().checked_add(Duration::from_secs(8)).ok();
    tier.set(&plan, Arc::new(short.clone())).await.expect("set");
    clock.advance(Duration::from_secs(6));
    assert_eq!(tier.get(&plan).await.expect("get").as_deref(), Some(&short), "stale, and still there");
    clock.advance(Duration::from_secs(2));
    assert_eq!(read(&tier, &plan).await, None, "dead");
    assert!(!tier.delete(&plan).await.expect("delete"), "what is dead is not there");

    let tier = make(clock.clone()).await;
    let tagged = |tags: &[&str]| {
        let mut entry = KvEntry::new(KvValue::new(json!(1)));
        entry.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        Arc::new(entry)
    };
    for (scope, key, tags) in [
        (ada(), "a/1", &["x"][..]),
        (ada(), "a/2", &["x", "y"]),
        (ada(), "a_3", &["y"]),
        (ada(), "b", &[]),
        (bob(), "a/1", &["x"]),
    ] {
        tier.set(&KvKey::new(&scope, key), tagged(tags)).await.expect("set");
    }
    // A key that is set anew loses its old tags.
    tier.set(&KvKey::new(&ada(), "b"), tagged(&["x"])).await.expect("set");
    tier.set(&KvKey::new(&ada(), "b"), tagged(&[])).await.expect("set");
    assert_eq!(tier.invalidate(&Invalidation::tags(&ada(), ["x"])).await.expect("invalidate"), 2);
    assert_eq!(tier.invalidate(&Invalidation::prefix(&ada(), "a%")).await.expect("invalidate"), 0);
    assert_eq!(tier.invalidate(&Invalidation::prefix(&ada(), "a_")).await.expect("invalidate"), 1);
    assert!(read(&tier, &KvKey::new(&ada(), "b")).await.is_some());
    assert!(read(&tier, &KvKey::new(&bob(), "a/1")).await.is_some(), "the wall must hold");
    assert_eq!(tier.invalidate(&Invalidation::prefix(&ada(), "")).await.expect("invalidate"), 1);
}

/// Runs what a [`KvTier`] must do that decides whether what was made is kept: the durable one, or the shared one where each
/// process has a durable one of its own.
///
/// # Panics
/// Where the tier does not do what it must.
pub async fn deciding_kv_tier<T, F>(make: impl Fn(Arc<dyn Clock>) -> F)
where
    T: KvTier,
    F: Future<Output = T>,
{
    let clock = Arc::new(ManualClock::default());
    let entry = |value: &str| {
        let mut entry = KvEntry::new(KvValue::new(json!(value)));
        entry.tags = vec!["x".to_owned()];
        Arc::new(entry)
    };
    let plan = KvKey::new(&ada(), "a/plan");
    let read = async |tier: &T| {
        let entry = tier.get(&plan).await.expect("get");
        entry.and_then(|entry| entry.value.clone()).map(|value| value.value().clone())
    };
    let keep = async |tier: &T, version| tier.set_unchanged(&plan, entry("made"), version).await.expect("set");

    let tier = make(clock.clone()).await;
    let version = tier.version(&plan).await.expect("version");
    assert!(keep(&tier, version).await, "nothing was there, and is not");
    assert!(!keep(&tier, version).await, "it was made already");
    assert_eq!(read(&tier).await, Some(json!("made")));
    let version = tier.version(&plan).await.expect("version");
    tier.set(&KvKey::new(&bob(), "a/plan"), entry("bob's")).await.expect("set");
    tier.set(&KvKey::new(&ada(), "a/other"), entry("other")).await.expect("set");
    tier.invalidate(&Invalidation::tags(&ada(), ["y"])).await.expect("invalidate");
    tier.invalidate(&Invalidation::prefix(&ada(), "b/")).await.expect("invalidate");
    tier.invalidate(&Invalidation::prefix(&bob(), "")).await.expect("invalidate");
    assert!(keep(&tier, version).await, "nothing of it was changed");
    for what in [Invalidation::tags(&ada(), ["y", "x"]), Invalidation::prefix(&ada(), "a/")] {
        tier.set(&plan, entry("there")).await.expect("set");
        let version = tier.version(&plan).await.expect("version");
        tier.invalidate(&what).await.expect("invalidate");
        assert!(!keep(&tier, version).await, "{what:?}");
        assert_eq!(read(&tier).await, None, "{what:?}");
    }
    tier.set(&plan, entry("there")).await.expect("set");
    let version = tier.version(&plan).await.expect("version");
    assert!(tier.delete(&plan).await.expect("delete"));
    assert!(!keep(&tier, version).await);
    let version = tier.version(&plan).await.expect("version");
    tier.set(&plan, entry("set")).await.expect("set");
    assert!(!keep(&tier, version).await);
    assert_eq!(read(&tier).await, Some(json!("set")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MokaTier, SqliteStore, TieredKv};

    #[tokio::test]
    async fn sqlite_in_a_file_is_a_memory_store() {
        let directories = tempfile::tempdir().unwrap();
        memory_store(async |clock| {
            let directory = directories.path().join(uuid::Uuid::now_v7().to_string());
            SqliteStore::in_directory(directory).clock(clock).build()
        })
        .await;
    }

    #[tokio::test]
    async fn sqlite_in_memory_is_a_memory_store() {
        memory_store(async |clock| SqliteStore::in_memory().clock(clock).build()).await;
    }

    #[tokio::test]
    async fn sqlite_in_a_file_is_a_kv_tier() {
        let directories = tempfile::tempdir().unwrap();
        kv_tier(async |clock| {
            let directory = directories.path().join(uuid::Uuid::now_v7().to_string());
            SqliteStore::in_directory(directory).clock(clock).build()
        })
        .await;
    }

    #[tokio::test]
    async fn sqlite_in_memory_is_a_kv_tier() {
        kv_tier(async |clock| SqliteStore::in_memory().clock(clock).build()).await;
        deciding_kv_tier(async |clock| SqliteStore::in_memory().clock(clock).build()).await;
    }

    #[tokio::test]
    async fn moka_is_a_kv_tier() {
        kv_tier(async |clock| MokaTier::new(1 << 20, None, clock)).await;
    }

    #[cfg(all(feature = "redis", unix))]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn redis_is_a_kv_tier() {
        let server = crate::testing::RedisServer::start();
        let open = async |clock: Arc<dyn Clock>| {
            let config = crate::redis::RedisConfig::url(server.url()).prefix(uuid::Uuid::now_v7().to_string());
            crate::memory::RedisTier::open(&config, Duration::from_secs(3_600), clock).unwrap()
        };
        kv_tier(open).await;
        deciding_kv_tier(open).await;
    }

    #[cfg(all(feature = "redis", unix))]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_cluster_is_a_kv_tier() {
        let cluster = crate::testing::RedisCluster::start();
        let open = async |clock: Arc<dyn Clock>| {
            let config = crate::redis::RedisConfig::cluster(cluster.urls()).prefix(uuid::Uuid::now_v7().to_string());
            crate::memory::RedisTier::open(&config, Duration::from_secs(3_600), clock).unwrap()
        };
        kv_tier(open).await;
        deciding_kv_tier(open).await;
    }

    #[cfg(all(feature = "redis", unix))]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn tiers_with_redis_between_are_a_kv_tier() {
        let server = crate::testing::RedisServer::start();
        kv_tier(async |clock: Arc<dyn Clock>| {
            let config = crate::redis::RedisConfig::url(server.url()).prefix(uuid::Uuid::now_v7().to_string());
            let near = MokaTier::new(1 << 20, None, clock.clone());
            let shared = crate::memory::RedisTier::open(&config, Duration::from_secs(3_600), clock.clone()).unwrap();
            let far = SqliteStore::in_memory().clock(clock.clone()).build();
            TieredKv::new(Some(near), vec![Arc::new(shared), Arc::new(far)], clock)
        })
        .await;
    }

    #[tokio::test]
    async fn tiers_together_are_a_kv_tier() {
        kv_tier(async |clock: Arc<dyn Clock>| {
            let near = MokaTier::new(1 << 20, None, clock.clone());
            let far = SqliteStore::in_memory().clock(clock.clone()).build();
            TieredKv::new(Some(near), vec![Arc::new(far)], clock)
        })
        .await;
    }
}
