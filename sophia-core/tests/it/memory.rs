//! Memory, as a user calls it.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use proptest::prelude::*;
use serde_json::{Value, json};
use sophia_core::{
    Config, Error, ErrorKind, ManualClock, Scope, Sophia,
    memory::{
        AppendMessage, Delete, DeleteWhere, EmbedderKind, FactQuery, ForgetRequest, GetRecord, History, KvInvalidate,
        KvKeys, KvOptions, KvValue, Mode, NeighborQuery, NewFact, NewRecord, PathQuery, Query, Update,
        store::Atomicity,
    },
    operations,
};

mod archive;
mod checkpoints;
mod graph;

fn ada() -> Scope {
    Scope::new().tenant("acme").user("ada")
}

fn bob() -> Scope {
    Scope::new().tenant("acme").user("bob")
}

async fn engine(directory: &Path) -> Sophia {
    Sophia::builder().config(Config::default().with_data_dir(directory)).start().await.unwrap()
}

async fn contents(sophia: &Sophia, query: Query) -> Vec<String> {
    sophia.memory().search(query).await.unwrap().hits.into_iter().map(|hit| hit.record.content).collect()
}

#[tokio::test]
async fn the_tour_of_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = engine(directory.path()).await;
    let memory = sophia.memory();
    let new = NewRecord::new("Ada wants the quarterly report as a PDF.").scope(ada()).kind("preference");
    let pdf = memory.store(new.tags(["report"]).metadata("via", "chat")).await.unwrap();
    let incident =
        NewRecord::new("The Kubernetes pod of the billing service crash-loops.").scope(ada()).kind("incident");
    memory.store(incident).await.unwrap();
    memory.store(NewRecord::new("Revenue grew by 14 percent in Q4.").scope(ada()).kind("fact")).await.unwrap();
    let question = "which file format does she like for documents?";
    let found = memory.search(Query::new(question).scope(ada()).limit(3).explain()).await.unwrap();
    assert_eq!(found.hits[0].record.id, pdf.id, "{found:#?}");
    assert!((0.0..=1.0).contains(&found.hits[0].score) && found.took_ms >= 0.0 && !found.degraded);
    let found =
        memory.search(Query::new("how much did sales increase?").scope(ada()).limit(1).explain()).await.unwrap();
    assert!(found.hits[0].record.content.contains("Revenue") && found.hits[0].explain.is_some(), "{found:#?}");

    assert_eq!(contents(&sophia, Query::new("quarterly report").scope(bob())).await, Vec::<String>::new());
    assert_eq!(memory.get(GetRecord::id(&pdf.id).scope(bob())).await.unwrap(), None);

    let update =
        Update::new(&pdf.id).scope(ada()).content("Ada wants the quarterly report as a spreadsheet.").if_version(1);
    assert_eq!(memory.update(update.clone()).await.unwrap().version, 2);
    assert_eq!(memory.update(update).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(memory.versions(&pdf.id, &ada()).await.unwrap()[0].content.ends_with("PDF."));
    let record = memory.get(GetRecord::seq(pdf.seq).scope(ada())).await.unwrap().unwrap();
    assert_eq!(
        (record.id, record.tags, record.metadata["via"].clone()),
        (pdf.id.clone(), vec!["report".into()], json!("chat"))
    );
    let only = memory.search(Query::new("report").scope(ada()).kinds(["incident"])).await.unwrap();
    assert!(only.hits.iter().all(|hit| hit.record.kind == "incident"));

    let relate = |company: &str, since: &str| {
        NewFact::new("ada", "works_at", company).scope(ada()).valid_at(since.parse().unwrap()).functional()
    };
    memory.graph().relate(relate("acme", "2024-01-01T00:00:00Z")).await.unwrap();
    memory.graph().relate(relate("globex", "2025-06-01T00:00:00Z")).await.unwrap();
    let objects = async |query: FactQuery| -> Vec<String> {
        memory.graph().facts(query).await.unwrap().into_iter().map(|fact| fact.object).collect()
    };
    assert_eq!(objects(FactQuery::new(ada()).subject("ada")).await, ["globex"]);
    assert_eq!(objects(FactQuery::new(ada()).as_of("2024-07-01T00:00:00Z".parse().unwrap())).await, ["acme"]);
    sophia.shutdown().await.unwrap();

    let sophia = engine(directory.path()).await;
    let memory = sophia.memory();
    assert_eq!(memory.search(Query::new("spreadsheet").scope(ada())).await.unwrap().hits[0].record.id, pdf.id);
    let receipt = memory.forget(ForgetRequest::scope(ada())).await.unwrap();
    assert!(
        receipt.records >= 3 && receipt.facts >= 2 && receipt.versions == 1 && receipt.embeddings == 3,
        "{receipt:?}"
    );
    assert_eq!(contents(&sophia, Query::new("spreadsheet").scope(ada())).await, Vec::<String>::new());
    let health = serde_json::to_value(memory.health().await).unwrap();
    assert_eq!((&health["status"], &health["tiers"]["l3"]["status"]), (&json!("healthy"), &json!("healthy")));
    sophia.shutdown().await.unwrap();
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for trace in ["spreadsheet", "quarterly", "globex", "acme"] {
            assert!(!bytes.windows(trace.len()).any(|window| window == trace.as_bytes()), "`{trace}` is still there");
        }
    }
}

#[tokio::test]
async fn without_a_directory_it_lives_in_this_process_and_says_so() {
    let sophia = Sophia::builder().start().await.unwrap();
    sophia.memory().store(NewRecord::new("a private thought")).await.unwrap();
    assert_eq!(contents(&sophia, Query::new("thought")).await, ["a private thought"]);
    let health = sophia.memory().health().await;
    assert!(health.tiers["l3"].detail.as_ref().unwrap().contains("gone with this process"));
    // Shutting down must not lose it while the engine lives.
    sophia.shutdown().await.unwrap();
    assert_eq!(contents(&sophia, Query::new("thought")).await, ["a private thought"]);
}

#[tokio::test]
async fn what_has_nothing_to_do_with_the_question_is_no_hit() {
    let sophia = Sophia::builder().start().await.unwrap();
    for text in
        ["The cat sleeps on the sofa.", "Invoices are paid within thirty days.", "Rust has no garbage collector."]
    {
        sophia.memory().store(NewRecord::new(text)).await.unwrap();
    }
    let found = sophia.memory().search(Query::new("xylophone concerto in B flat").explain()).await.unwrap();
    assert_eq!(found.hits, [], "{found:#?}");
    let found = sophia.memory().search(Query::new("a pet that naps").explain()).await.unwrap();
    assert!(found.hits[0].record.content.contains("cat") && found.hits[0].score < 0.9, "{found:#?}");
    assert_eq!(contents(&sophia, Query::new("???")).await, Vec::<String>::new());
    assert_eq!(contents(&sophia, Query::new("   ")).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_concurrent_messages_keep_one_order() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = engine(directory.path()).await;
    let talk = ada().session("s1");
    let calls = (0..50).map(|number| {
        let (sophia, message) = (sophia.clone(), AppendMessage::new(&talk, "user", format!("m{number}")));
        tokio::spawn(async move { sophia.memory().append(message).await.unwrap() })
    });
    let mut appended: Vec<_> = futures::future::try_join_all(calls).await.unwrap();
    appended.sort_by_key(|record| record.seq);
    let turns = sophia.memory().history(History::new(&talk).limit(100)).await.unwrap();
    assert_eq!(turns, appended);
    assert!(turns.windows(2).all(|pair| pair[0].seq < pair[1].seq) && turns.len() == 50);
    for number in 50..60 {
        sophia.memory().append(AppendMessage::new(&talk, "assistant", format!("m{number}"))).await.unwrap();
    }
    let last = sophia.memory().history(History::new(&talk).limit(10)).await.unwrap();
    let said: Vec<_> = last.iter().map(|record| record.content.clone()).collect();
    assert_eq!(said, (50..60).map(|number| format!("m{number}")).collect::<Vec<_>>());
    assert_eq!(sophia.memory().sessions(&ada(), None).await.unwrap()[0].messages, 60);
    assert_eq!(sophia.memory().clear_session(&talk).await.unwrap(), 60);
    assert_eq!(sophia.memory().history(History::new(&talk)).await.unwrap(), []);
    let error = sophia.memory().append(AppendMessage::new(ada(), "user", "x")).await.unwrap_err();
    assert_eq!(error.get("field"), Some("scope.session"));
}

#[tokio::test]
async fn two_engines_on_one_directory_see_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = tokio::join!(engine(directory.path()), engine(directory.path()));
    for round in 0..5 {
        for (writer, reader) in [(&one, &two), (&two, &one)] {
            let id =
                writer.memory().store(NewRecord::new(format!("round {round} of tea")).scope(ada())).await.unwrap().id;
            let found = reader.memory().search(Query::new("hot drinks").scope(ada()).limit(100)).await.unwrap();
            assert!(found.hits.iter().any(|hit| hit.record.id == id), "round {round}");
            writer.memory().delete(Delete::new(&id).scope(ada())).await.unwrap();
            assert_eq!(contents(reader, Query::new("tea").scope(ada())).await, Vec::<String>::new());
        }
    }
    let writes = [&one, &two].map(|sophia| {
        let records = (0..50).map(|n| sophia.memory().store(NewRecord::new(format!("{n}")).scope(bob())));
        futures::future::try_join_all(records)
    });
    let stored: Vec<_> = futures::future::try_join_all(writes).await.unwrap().concat();
    let seqs: std::collections::HashSet<_> = stored.iter().map(|stored| stored.seq).collect();
    assert_eq!(seqs.len(), 100);
}

#[tokio::test]
async fn a_value_that_another_process_changed_is_not_served_from_l1_for_long() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (engine(directory.path()).await, engine(directory.path()).await);
    let read = async || two.memory().kv().get("plan", &ada()).await.unwrap().map(|value| value.value().clone());
    let settle = async |expected: Option<Value>| {
        tokio::time::timeout(Duration::from_secs(5), async {
            while read().await != expected {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the change was never seen");
    };
    settle(None).await;
    for plan in ["free", "pro"] {
        one.memory().kv().set("plan", json!(plan), KvOptions::new().scope(ada())).await.unwrap();
        settle(Some(json!(plan))).await;
    }
    one.memory().kv().delete("plan", &ada()).await.unwrap();
    settle(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_callers_load_a_value_once() {
    let sophia = Sophia::builder().start().await.unwrap();
    let kv = sophia.memory().kv();
    let calls = Arc::new(AtomicUsize::new(0));
    let options = || KvOptions::new().scope(ada()).ttl(Duration::from_secs(60)).tags(["billing"]);
    let ask = || {
        let calls = calls.clone();
        kv.get_or_set("plan", options(), move || async move {
            calls.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Ok(json!({"plan": "pro"}))
        })
    };
    let values = futures::future::try_join_all((0..100).map(|_| ask())).await.unwrap();
    assert!(values.iter().all(|value| value.value() == &json!({"plan": "pro"})));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(
        kv.get_now("plan", &ada()).flatten().map(|value| value.json().to_owned()),
        Some(r#"{"plan":"pro"}"#.into())
    );
    assert_eq!(kv.get("plan", &bob()).await.unwrap(), None);
    assert_eq!(kv.get_now("plan", &bob()), Some(None), "known to be absent");
    let by_tag: KvInvalidate =
        serde_json::from_value(json!({"tags": ["billing"], "scope": {"tenant": "acme", "user": "ada"}})).unwrap();
    assert_eq!(kv.invalidate(by_tag).await.unwrap(), 1);
    assert_eq!(kv.get("plan", &ada()).await.unwrap(), None);
    let failed = kv.get_or_set("plan", options(), || async { Err(Error::new(ErrorKind::Unavailable, "test", "down")) });
    assert_eq!(failed.await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(ask().await.unwrap().value(), &json!({"plan": "pro"}));
}

#[tokio::test]
async fn values_expire_and_stale_ones_are_served_while_they_are_made_anew() {
    let clock = Arc::new(ManualClock::default());
    let sophia = Sophia::builder().clock(clock.clone()).start().await.unwrap();
    let kv = sophia.memory().kv();
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    kv.set("short", json!(1), KvOptions::new().ttl(second)).await.unwrap();
    kv.set("long", json!(1), KvOptions::new().ttl(second).stale(minute)).await.unwrap();
    clock.advance(second);
    assert_eq!(kv.get("short", &Scope::new()).await.unwrap(), None);
    assert_eq!(kv.get("long", &Scope::new()).await.unwrap(), None);
    let anew = kv.get_or_set("long", KvOptions::new().ttl(second), || async { Ok(json!(2)) }).await.unwrap();
    assert_eq!(anew.value(), &json!(1));
    while kv.get("long", &Scope::new()).await.unwrap().as_deref() != Some(&KvValue::new(json!(2))) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn bad_input_is_refused_before_anything_is_written() {
    let config: Config = Config::from_json(r#"{"memory": {"max_content_bytes": 100}}"#).unwrap();
    let sophia = Sophia::builder().config(config).start().await.unwrap();
    let new = |content: &str| NewRecord::new(content).scope(ada());
    let cases = [
        ("content", new("")),
        ("content", new(" \n\t ")),
        ("content", new(&"x".repeat(101))),
        ("content", new("a\0b")),
        ("id", new("x").id("")),
        ("id", new("x").id("i".repeat(2000))),
        ("tags", new("x").tags(["ok", ""])),
        ("metadata", new("x").metadata("a\0", 1)),
        ("importance", new("x").importance(1.5)),
        ("importance", new("x").importance(f64::NAN)),
        ("ttl", new("x").ttl(Duration::ZERO)),
        ("ttl", new("x").ttl(Duration::MAX)),
        ("embedding", new("x").embedding([1.0, 2.0])),
        ("embedding", new("x").embedding([f32::NAN; 256])),
        ("embedding", new("x").embedding([0.0; 256])),
        ("scope.user", NewRecord::new("x").scope(Scope::new().user(""))),
    ];
    for (field, record) in cases {
        let error = sophia.memory().store(record.clone()).await.unwrap_err();
        assert_eq!((error.kind(), error.get("field")), (ErrorKind::InvalidInput, Some(field)), "{error}");
    }
    let error = sophia.memory().store(new(&"x".repeat(101))).await.unwrap_err();
    assert!(error.message().contains("101 bytes; at most 100"), "{error}");
    for (field, arguments) in [
        ("ttl", json!({"content": "x", "ttl": -1})),
        ("scope", json!({"content": "x", "scope": "ada"})),
        ("contents", json!({"contents": "x"})),
        ("priority", json!({"content": "x", "priority": "urgent"})),
    ] {
        let error = operations::call(&sophia, "memory.store", arguments).err().expect("refused");
        assert_eq!((error.kind(), error.get("field")), (ErrorKind::InvalidInput, Some(field)), "{error}");
    }
    for (field, query) in [
        ("limit", Query::new("x").limit(0)),
        ("limit", Query::new("x").limit(1_000_000)),
        ("offset", Query::new("x").offset(1_000_000)),
        ("min_score", Query::new("x").min_score(f64::NAN)),
        ("min_similarity", Query::new("x").min_similarity(f64::NAN)),
        ("min_similarity", Query::new("x").min_similarity(1.5)),
        ("embedding", Query::new("x").embedding([1.0; 3])),
        ("embedding", Query::new("x").embedding([f32::INFINITY; 256])),
    ] {
        assert_eq!(sophia.memory().search(query).await.unwrap_err().get("field"), Some(field));
    }
    assert_eq!(sophia.memory().stats().await.unwrap().records, 0);
}

#[tokio::test]
async fn one_bad_item_of_a_batch_harms_no_other() {
    let sophia = Sophia::builder().start().await.unwrap();
    let batch = || ["one", "", "two"].map(|text| NewRecord::new(text).scope(ada())).into_iter().collect();
    assert!(sophia.memory().store_many(batch(), Atomicity::Together).await.is_err());
    assert_eq!(sophia.memory().stats().await.unwrap().records, 0);
    let outcomes = sophia.memory().store_many(batch(), Atomicity::Each).await.unwrap();
    let written = serde_json::to_value(&outcomes).unwrap();
    assert_eq!(
        (&written[1]["error"]["code"], &written[1]["error"]["field"]),
        (&json!("INVALID_INPUT"), &json!("content"))
    );
    assert!(written[0]["seq"].as_i64() < written[2]["seq"].as_i64());
    assert_eq!(sophia.memory().delete_where(DeleteWhere::new(ada()).permanent()).await.unwrap(), 2);
}

#[tokio::test]
async fn vectors_of_the_callers_own_model_are_searched_where_there_is_no_embedder() {
    let config = Config::from_json(r#"{"memory": {"embedder": "none"}}"#).unwrap();
    assert_eq!(config.memory.embedder.kind, EmbedderKind::None);
    let sophia = Sophia::builder().config(config).start().await.unwrap();
    sophia.memory().store(NewRecord::new("north").embedding([0.0, 2.0])).await.unwrap();
    sophia.memory().store(NewRecord::new("east").embedding([3.0, 0.0])).await.unwrap();
    let found = sophia.memory().search(Query::new("").embedding([5.0, 0.1]).mode(Mode::Semantic)).await.unwrap();
    assert_eq!(found.hits.iter().map(|hit| hit.record.content.as_str()).collect::<Vec<_>>(), ["east", "north"]);
    let found = sophia.memory().search(Query::new("north")).await.unwrap();
    assert!(found.degraded && found.hits.len() == 1, "{found:?}");
}

#[tokio::test]
async fn the_graph_keeps_both_axes_of_time() {
    let clock = Arc::new(ManualClock::default());
    let sophia = Sophia::builder().clock(clock.clone()).start().await.unwrap();
    let graph = sophia.memory().graph();
    let works_at = |company: &str, since: &str| {
        NewFact::new("ada", "works_at", company).scope(ada()).valid_at(since.parse().unwrap()).functional()
    };
    let objects = async |query: FactQuery| -> Vec<String> {
        graph.facts(query).await.unwrap().into_iter().map(|fact| fact.object).collect()
    };
    graph.relate(works_at("acme", "2024-01-01T00:00:00Z")).await.unwrap();
    let before = sophia_core::Timestamp::constant(1_767_225_600, 0);
    clock.advance(Duration::from_secs(3600));
    graph.relate(works_at("globex", "2025-06-01T00:00:00Z")).await.unwrap();
    assert_eq!(objects(FactQuery::new(ada())).await, ["globex"]);
    assert_eq!(objects(FactQuery::new(ada()).known_at(before)).await, ["acme"], "what was believed then");
    // News of the past: it was true until what is known of later.
    graph.relate(works_at("initech", "2020-01-01T00:00:00Z")).await.unwrap();
    assert_eq!(objects(FactQuery::new(ada()).as_of("2023-01-01T00:00:00Z".parse().unwrap())).await, ["initech"]);
    assert_eq!(objects(FactQuery::new(ada())).await, ["globex"]);
    graph.relate(NewFact::new("globex", "based_in", "berlin").scope(ada())).await.unwrap();
    let again = graph.relate(NewFact::new("globex", "based_in", "berlin").scope(ada())).await.unwrap();
    assert_eq!(objects(FactQuery::new(ada()).object("berlin")).await, ["berlin"], "{again:?}");
    let near = graph.neighbors(NeighborQuery::new("ada", ada()).depth(2)).await.unwrap();
    let near: Vec<_> = near.iter().map(|near| (near.entity.name.as_str(), near.depth)).collect();
    assert_eq!(near, [("globex", 1), ("berlin", 2)]);
    let way = graph.path(PathQuery::new("berlin", "ada", ada())).await.unwrap().unwrap();
    assert_eq!(way.iter().map(|fact| fact.predicate.as_str()).collect::<Vec<_>>(), ["based_in", "works_at"]);
    assert_eq!(graph.path(PathQuery::new("berlin", "ada", bob())).await.unwrap(), None);
}

#[tokio::test]
async fn calls_are_remembered_and_counted() {
    let sophia = Sophia::builder().start().await.unwrap();
    sophia.memory().store(NewRecord::new("x")).await.unwrap();
    sophia.memory().get(GetRecord::default()).await.unwrap_err();
    let recent = sophia.memory().recent_operations(10);
    let recent: Vec<_> = recent.iter().map(|call| (call.operation, call.status)).collect();
    assert_eq!(recent, [("memory.get", "INVALID_INPUT"), ("memory.store", "ok")]);
    assert!(sophia.telemetry().prometheus().contains(r#"endpoint="memory.store",status="ok""#));
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_refused_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sophia.db");
    let foreign = rusqlite::Connection::open(&path).unwrap();
    foreign.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)").unwrap();
    drop(foreign);
    refused(directory.path(), ErrorKind::InvalidConfig, "application id").await;
    std::fs::write(&path, "not a database, but long enough to be looked at ".repeat(100)).unwrap();
    refused(directory.path(), ErrorKind::InvalidConfig, "not a data file of Sophia").await;
}

#[tokio::test]
async fn a_file_of_a_newer_format_is_refused_untouched() {
    let directory = tempfile::tempdir().unwrap();
    engine(directory.path()).await.shutdown().await.unwrap();
    let newer = rusqlite::Connection::open(directory.path().join("sophia.db")).unwrap();
    newer.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA user_version = 99").unwrap();
    drop(newer);
    let error = refused(directory.path(), ErrorKind::Unsupported, "newer").await;
    assert_eq!((error.get("found"), error.get("expected")), (Some("99"), Some("2")));
}

async fn refused(directory: &Path, kind: ErrorKind, why: &str) -> Error {
    let files = || {
        let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = files.map(|path| (std::fs::read(&path).unwrap(), path)).collect();
        files.sort();
        files
    };
    let before = files();
    let error = Sophia::builder().config(Config::default().with_data_dir(directory)).start().await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.message().contains(why) && error.message().contains("sophia.db"), "{error}");
    assert!(files() == before, "the directory was touched");
    error
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named_and_can_be_mended() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, "x").unwrap();
    let sophia = Sophia::new(Config::default().with_data_dir(path.join("data"))).unwrap();
    let error = sophia.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.message().contains("data_dir") && error.message().contains("data"), "{error}");
    std::fs::remove_file(&path).unwrap();
    sophia.start().await.unwrap();
    sophia.memory().store(NewRecord::new("mended")).await.unwrap();
}

/// Environment variable that tells the child where to write.
const CHILD_DIRECTORY: &str = "SOPHIA_TEST_CHILD_DIRECTORY";

/// Not a test: the child of the test below, which writes and acknowledges until it is killed.
#[tokio::test]
#[ignore = "runs as a child process"]
async fn child_that_writes_until_it_is_killed() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else { return };
    let sophia = engine(Path::new(&directory)).await;
    for round in 0.. {
        let calls = (0..20).map(|number| {
            let sophia = sophia.clone();
            async move {
                let id = format!("r{round}-{number}");
                sophia.memory().store(NewRecord::new(format!("kept {id}")).scope(ada()).id(&id)).await.unwrap();
                sophia.memory().kv().set(&id, json!(round), KvOptions::new().scope(ada())).await.unwrap();
                use std::io::Write;
                writeln!(std::io::stdout(), "ACK {id}").unwrap();
            }
        });
        futures::future::join_all(calls).await;
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::child_that_writes_until_it_is_killed", "--ignored", "--nocapture"])
        .env(CHILD_DIRECTORY, directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    for line in lines.map_while(Result::ok) {
        if let Some((_, id)) = line.split_once("ACK ") {
            acknowledged.push(id.to_owned());
        }
        if acknowledged.len() == 150 {
            // SIGKILL: the child has no chance to flush anything.
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(acknowledged.len() >= 150);
    let sophia = engine(directory.path()).await;
    for id in &acknowledged {
        let record = sophia.memory().get(GetRecord::id(id).scope(ada())).await.unwrap();
        assert_eq!(record.map(|record| record.content), Some(format!("kept {id}")));
        assert!(sophia.memory().kv().get(id, &ada()).await.unwrap().is_some(), "{id}");
    }
    assert!(!contents(&sophia, Query::new("kept").scope(ada())).await.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_text_is_a_command(texts in proptest::collection::vec(query_text(), 1..8)) {
        run(async {
            let sophia = Sophia::builder().start().await.unwrap();
            sophia.memory().store(NewRecord::new("near and far: NEAR(a b) OR not").scope(ada())).await.unwrap();
            sophia.memory().store(NewRecord::new("of bob").scope(bob())).await.unwrap();
            for text in texts {
                for mode in [Mode::Hybrid, Mode::Semantic, Mode::Keyword, Mode::Exact] {
                    let found = sophia.memory().search(Query::new(&text).scope(ada()).mode(mode)).await.unwrap();
                    assert!(found.hits.iter().all(|hit| hit.record.scope == ada() && (0.0..=1.0).contains(&hit.score)), "{text:?}");
                }
            }
        });
    }

    #[test]
    fn scopes_never_cross(scopes in proptest::collection::vec(any_scope(), 2..6), words in "[a-z]{3,6}") {
        run(async {
            let sophia = Sophia::builder().start().await.unwrap();
            for scope in &scopes {
                sophia.memory().store(NewRecord::new(&words).scope(scope)).await.unwrap();
                sophia.memory().kv().set(&words, json!(scope.wall()), KvOptions::new().scope(scope)).await.unwrap();
            }
            for reader in &scopes {
                for text in [words.as_str(), ""] {
                    let found = sophia.memory().search(Query::new(text).scope(reader).limit(100)).await.unwrap();
                    assert_eq!(found.hits.len(), scopes.iter().filter(|scope| reader.covers(scope)).count());
                    assert!(found.hits.iter().all(|hit| reader.covers(&hit.record.scope)));
                }
                let value = sophia.memory().kv().get(&words, reader).await.unwrap().unwrap();
                assert_eq!(value.value(), &json!(reader.wall()));
            }
        });
    }
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

fn query_text() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just("\"".to_owned()),
        Just("NEAR(".to_owned()),
        Just(" OR ".to_owned()),
        Just("AND".to_owned()),
        Just("ns:n2".to_owned()),
        Just("*".to_owned()),
        Just("^".to_owned()),
        Just("{content}:".to_owned()),
        Just("\0".to_owned()),
        Just("'; DROP TABLE records; --".to_owned()),
        Just("%".to_owned()),
        ".{0,8}",
        "[a-z]{1,5}",
    ];
    proptest::collection::vec(pieces, 0..8).prop_map(|pieces| pieces.concat())
}

fn any_scope() -> impl Strategy<Value = Scope> {
    let part = || proptest::option::of("[a:|1]{1,2}");
    (part(), part(), part(), part()).prop_map(|(tenant, user, session, agent)| {
        let mut scope = Scope::new();
        (scope.tenant, scope.user, scope.session, scope.agent) = (tenant, user, session, agent);
        scope
    })
}

#[tokio::test]
async fn keys_are_listed_sorted_page_by_page_and_inside_their_scope() {
    let sophia = Sophia::builder().start().await.unwrap();
    let memory = sophia.memory();
    for key in ["b/2", "a", "b/1", "b/10", "c", "é/1"] {
        memory.kv().set(key, json!(1), KvOptions::new().scope(ada())).await.unwrap();
    }
    memory.kv().set("b/3", json!(1), KvOptions::new().scope(bob())).await.unwrap();
    let keys = async |query: KvKeys| memory.kv_keys(query.scope(ada())).await.unwrap();
    assert_eq!(keys(KvKeys::prefix("b/")).await, ["b/1", "b/10", "b/2"]);
    assert_eq!(keys(KvKeys::prefix("")).await, ["a", "b/1", "b/10", "b/2", "c", "é/1"]);
    assert_eq!(keys(KvKeys::prefix("é")).await, ["é/1"]);
    let mut page = KvKeys::prefix("b/");
    (page.limit, page.after) = (Some(1), Some("b/1".to_owned()));
    assert_eq!(keys(page.clone()).await, ["b/10"]);
    page.limit = Some(0);
    assert_eq!(memory.kv_keys(page).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    memory.kv().delete("b/1", &ada()).await.unwrap();
    assert_eq!(keys(KvKeys::prefix("b/")).await, ["b/10", "b/2"]);
}
