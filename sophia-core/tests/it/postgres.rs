//! Postgres in place of the file: everything that a store must do, several processes, and Postgres away.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sophia_core::{
    Clock, Config, ErrorKind, Scope, Sophia,
    memory::{
        AppendMessage, Backup, Check, CheckpointStore, Encoded, Export, FactQuery, ForgetRequest, Fusion,
        GetCheckpoint, History, Import, KvOptions, MemoryStore, Mode, NewCheckpoint, NewEntity, NewFact, NewRecord,
        NewWrites, Node, NodeChange, NodeSelection, Observations, PostgresConfig, PostgresStore, Query, TierStatus,
        Update, store::Atomicity,
    },
    testing::{self, PostgresServer, SilentServer},
};

/// Longest wait for what must come about; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Schemas that the suites make.
const SCHEMAS: usize = 128;

fn ada() -> Scope {
    Scope::new().tenant("acme").user("ada")
}

fn config(url: impl Into<String>, schema: &str) -> Config {
    let mut config = Config::default();
    config.postgres = PostgresConfig::url(url).schema(schema);
    config
}

async fn engine(server: &PostgresServer, schema: &str) -> Sophia {
    Sophia::builder().config(config(server.url(), schema)).start().await.unwrap()
}

async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn detail(sophia: &Sophia) -> (TierStatus, String) {
    let health = sophia.memory().health().await;
    (health.tiers["l3"].status, health.tiers["l3"].detail.clone().unwrap_or_default())
}

async fn contents(sophia: &Sophia, query: Query) -> Vec<String> {
    sophia.memory().search(query).await.unwrap().hits.into_iter().map(|hit| hit.record.content).collect()
}

async fn empty_store(server: &PostgresServer, url: &str, clock: Arc<dyn Clock>) -> PostgresStore {
    PostgresStore::new(&PostgresConfig::url(url).schema(server.new_schema()), clock).unwrap()
}

async fn suites(server: &PostgresServer, url: &str) {
    testing::retention::retention(async |retention, clock| {
        let config = PostgresConfig::url(url).schema(server.new_schema());
        PostgresStore::with_retention(&config, retention, clock).unwrap()
    })
    .await;
    testing::memory::memory_store(|clock| empty_store(server, url, clock)).await;
    testing::memory::kv_tier(|clock| empty_store(server, url, clock)).await;
    testing::memory::deciding_kv_tier(|clock| empty_store(server, url, clock)).await;
    testing::checkpoint::checkpoint_store(|clock| empty_store(server, url, clock)).await;
    testing::graph::graph_store(|clock| empty_store(server, url, clock)).await;
    testing::archive::archive(|clock| empty_store(server, url, clock)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_suite_passes_with_pgvector_and_without() {
    let server = PostgresServer::start();
    suites(&server, &server.url()).await;
    let (status, said) = detail(&engine(&server, "with").await).await;
    assert!(status == TierStatus::Healthy && !said.contains("pgvector"), "{said}");

    let names: Vec<String> = (0..SCHEMAS).map(|number| format!("s{number}")).collect();
    let url = server.without_extensions(&names.iter().map(String::as_str).collect::<Vec<_>>());
    suites(&server, &url).await;
    let without = Sophia::builder().config(config(&url, &server.new_schema())).start().await.unwrap();
    let (status, said) = detail(&without).await;
    assert!(status == TierStatus::Healthy && said.contains("pgvector is not installed"), "{said}");
    assert!(said.contains("one by one"), "{said}");

    // Whoever may not make a schema is told what to do.
    let refused = Sophia::builder().config(config(&url, "elsewhere")).start().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthorized, "{refused:?}");
    assert!(refused.message().contains("GRANT CREATE"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_is_made_once_and_one_that_is_not_ours_is_left_as_it_is() {
    let server = PostgresServer::start();
    let engines: Vec<_> = (0..6).map(|_| Sophia::new(config(server.url(), "common")).unwrap()).collect();
    for started in futures::future::join_all(engines.iter().map(Sophia::start)).await {
        started.unwrap();
    }
    assert_eq!(server.run("postgres", "SELECT count(*) FROM common.format"), "1");

    server.run("postgres", "CREATE SCHEMA foreign_one; CREATE TABLE foreign_one.records (mine text)");
    let foreign = Sophia::builder().config(config(server.url(), "foreign_one")).start().await.unwrap_err();
    assert_eq!((foreign.kind(), foreign.get("field")), (ErrorKind::InvalidConfig, Some("postgres.schema")));
    let tables = "SELECT string_agg(relname, ',') FROM pg_class WHERE relnamespace = 'foreign_one'::regnamespace";
    assert_eq!(server.run("postgres", tables), "records");

    server.run("postgres", "UPDATE common.format SET format = 999");
    let newer = Sophia::builder().config(config(server.url(), "common")).start().await.unwrap_err();
    assert_eq!((newer.kind(), newer.get("found")), (ErrorKind::Unsupported, Some("999")), "{newer:?}");
    let missing = server.url_of("sophia", "nowhere");
    let missing = Sophia::builder().config(config(missing, "common")).start().await.unwrap_err();
    assert_eq!((missing.kind(), missing.get("field")), (ErrorKind::InvalidConfig, Some("postgres.url")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_while_kv_makes_a_value_for_it_stays() {
    use crate::kv_loading::{
        Done, a_change_during_a_load_stays, a_change_during_a_refresh_stays,
        who_asks_after_a_change_begins_a_load_of_their_own,
    };
    let server = PostgresServer::start();
    let (one, other) = (engine(&server, "shared").await, engine(&server, "shared").await);
    for done in Done::ALL {
        a_change_during_a_load_stays(&one, &one, done).await;
        a_change_during_a_refresh_stays(&one, &other, done).await;
    }
    for done in [Done::Set, Done::Another] {
        a_change_during_a_load_stays(&one, &other, done).await;
    }
    who_asks_after_a_change_begins_a_load_of_their_own(&one, Done::InvalidateTag).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_process_writes_the_others_find() {
    let server = PostgresServer::start();
    let (one, other) = (engine(&server, "shared").await, engine(&server, "shared").await);
    one.memory().store(NewRecord::new("Ada wants the report as a PDF.").scope(ada())).await.unwrap();
    assert_eq!(contents(&other, Query::new("which file format?").scope(ada())).await.len(), 1);

    // Values that the other holds near are dropped as they change.
    let set = async |value: i64| one.memory().kv().set("plan", json!(value), KvOptions::new().scope(ada())).await;
    let read = async || other.memory().kv().get("plan", &ada()).await.unwrap().map(|value| value.value().clone());
    set(1).await.unwrap();
    until("the first value is held near", async || {
        read().await == Some(json!(1)) && other.memory().kv().look_up("plan", &ada()).await.unwrap().tier == Some("l1")
    })
    .await;
    for value in 2..8 {
        set(value).await.unwrap();
        until("the change is heard", async || read().await == Some(Value::from(value))).await;
    }

    // Messages of many tasks in both processes keep one order, and none is lost.
    let talk = ada().session("talk");
    let say = async |sophia: &Sophia, from: usize| {
        for number in 0..10 {
            let message = AppendMessage::new(talk.clone(), "user", format!("{from}: {number}"));
            sophia.memory().append(message).await.unwrap();
        }
    };
    let calls = (0..8).map(|from| say(if from % 2 == 0 { &one } else { &other }, from));
    futures::future::join_all(calls).await;
    let history = |sophia: &Sophia| {
        let memory = sophia.memory().clone();
        let talk = talk.clone();
        async move { memory.history(History::new(talk).limit(1_000)).await.unwrap() }
    };
    let (first, second) = (history(&one).await, history(&other).await);
    assert_eq!((first.len(), &first), (80, &second));
    assert!(first.is_sorted_by_key(|record| record.seq));

    // Many that replace one record lose no version.
    let replace = |place: usize| {
        let memory = if place.is_multiple_of(2) { one.memory() } else { other.memory() }.clone();
        async move { memory.store(NewRecord::new(format!("state {place}")).id("state").scope(ada())).await.unwrap() }
    };
    let mut versions: Vec<i64> =
        futures::future::join_all((0..12).map(replace)).await.into_iter().map(|stored| stored.version).collect();
    versions.sort_unstable();
    assert_eq!(versions, Vec::from_iter(1..=12));

    let receipt = one.memory().forget(ForgetRequest::scope(ada())).await.unwrap();
    assert_eq!((receipt.records, receipt.versions, receipt.cached), (82, 11, 1), "{receipt:?}");
    assert!(receipt.embeddings >= 1, "{receipt:?}");
    until("what was forgotten is gone in the other", async || read().await.is_none()).await;
    assert!(history(&other).await.is_empty());
    let left = "SELECT (SELECT count(*) FROM shared.records) + (SELECT count(*) FROM shared.versions) + \
                (SELECT count(*) FROM shared.vectors) + (SELECT count(*) FROM shared.kv) + (SELECT count(*) FROM shared.walls)";
    assert_eq!(server.run("postgres", left), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_said_at_once_and_used_again_when_it_is_back() {
    let mut server = PostgresServer::start();
    let sophia = engine(&server, "durable").await;
    let memory = sophia.memory();
    memory.store(NewRecord::new("It stays.").scope(ada())).await.unwrap();
    memory.kv().set("k", json!(1), KvOptions::new().scope(ada())).await.unwrap();
    server.kill();
    let began = Instant::now();
    let away = memory.store(NewRecord::new("lost").scope(ada())).await.unwrap_err();
    assert_eq!((away.kind(), away.is_retryable()), (ErrorKind::Unavailable, true), "{away:?}");
    let message = AppendMessage::new(ada().session("s"), "user", "lost");
    for (error, operation) in [
        (memory.search(Query::new("stays").scope(ada())).await.unwrap_err(), "memory.search"),
        (memory.append(message).await.unwrap_err(), "memory.append"),
        (memory.history(History::new(ada().session("s"))).await.unwrap_err(), "memory.history"),
    ] {
        assert_eq!((error.kind(), error.operation()), (ErrorKind::Unavailable, operation), "{error:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "it was waited for");
    let (status, said) = detail(&sophia).await;
    assert_eq!(status, TierStatus::Unhealthy, "{said}");

    server.restart();
    assert_eq!(contents(&sophia, Query::new("stays").scope(ada())).await, ["It stays."]);
    memory.store(NewRecord::new("And goes on.").scope(ada())).await.unwrap();
    assert_eq!(detail(&sophia).await.0, TierStatus::Healthy);
    let held_near = async || memory.kv().look_up("k", &ada()).await.unwrap().tier == Some("l1");
    until("changes are heard again", held_near).await;

    // Closed and used again, it opens again.
    sophia.shutdown().await.unwrap();
    assert_eq!(contents(&sophia, Query::new("goes").scope(ada())).await[0], "And goes on.");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_has_a_deadline() {
    let silent = SilentServer::start();
    let mut config = config(format!("postgres://u@{}/d", silent.address()), "sophia");
    config.postgres.connect_timeout = Duration::from_millis(100);
    let error = Sophia::builder().config(config).start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");

    let server = PostgresServer::start();
    let sophia = engine(&server, "slow").await;
    let mut config = self::config(server.url(), "slow");
    config.postgres.timeout = Duration::from_millis(300);
    config.postgres.pool_size = 1;
    let hurried = Sophia::builder().config(config).start().await.unwrap();
    let (client, connection) = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute("BEGIN; LOCK TABLE slow.records").await.unwrap();
    let found = hurried.memory().search(Query::new("x").scope(ada())).await;
    // Nobody was there yet: nothing has to be looked at.
    assert!(found.unwrap().hits.is_empty());
    let late = hurried.memory().store(NewRecord::new("late").scope(ada())).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout, "{late:?}");
    // The one connection is not lost with the call.
    client.batch_execute("ROLLBACK").await.unwrap();
    hurried.memory().store(NewRecord::new("in time").scope(ada())).await.unwrap();
    assert_eq!(contents(&sophia, Query::new("time").scope(ada())).await, ["in time"]);
    drop(client);
    connection.await.unwrap().unwrap();
}

/// The same records in the file and in Postgres.
async fn both(server: &PostgresServer, schema: &str) -> (tempfile::TempDir, [Sophia; 2]) {
    let directory = tempfile::tempdir().unwrap();
    let file = Sophia::builder().config(Config::default().with_data_dir(directory.path())).start().await.unwrap();
    let engines = [file, engine(server, schema).await];
    for sophia in &engines {
        let talk = |session: &str, role: &str, text: &str| AppendMessage::new(ada().session(session), role, text);
        for (session, role, text) in [
            ("spring", "Ada", "We moved to Zürich last week."),
            ("spring", "Bob", "How are the children doing there?"),
            ("spring", "Ada", "They love the lake, and the new school."),
            ("summer", "Ada", "The concert in June was great."),
            ("summer", "Bob", "Which band was it?"),
            ("summer", "Ada", "A jazz quartet from Lisbon."),
        ] {
            sophia.memory().append(talk(session, role, text)).await.unwrap();
        }
        let documents = [
            "The quarterly report is due on Friday, as a PDF.",
            "Reports are reviewed by Grace before they are sent.",
            "A recipe for bread with walnuts and honey.",
            "The lake is closed for swimming in winter.",
        ];
        let records = documents.map(|text| NewRecord::new(text).scope(ada()).importance(0.3)).into();
        sophia.memory().store_many(records, Atomicity::Together).await.unwrap();
        sophia
            .memory()
            .store(NewRecord::new("The lake of another user.").scope(Scope::new().user("eve")))
            .await
            .unwrap();
    }
    (directory, engines)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ranks_as_the_file_does() {
    let server = PostgresServer::start();
    let (_directory, [file, postgres]) = both(&server, "ranks").await;
    let queries = [
        Query::new("which music did Ada hear?"),
        Query::new("where do the kids go to school?"),
        Query::new("reports").mode(Mode::Keyword),
        Query::new("a lake to swim in").mode(Mode::Semantic),
        Query::new("qarterly reprot").typo_tolerant(),
        Query::new("lake report").fusion(Fusion::Rrf),
        Query::new("lake").kinds(["message"]),
        Query::new("the lake").mode(Mode::Exact),
        Query::new(""),
    ];
    for query in queries {
        let query = query.scope(ada()).limit(20).explain();
        let [left, right] = [&file, &postgres].map(|sophia| sophia.memory().search(query.clone()));
        let (left, right) = (left.await.unwrap(), right.await.unwrap());
        let seen = |found: &sophia_core::memory::SearchResult| {
            found.hits.iter().map(|hit| (hit.record.content.clone(), hit.match_type)).collect::<Vec<_>>()
        };
        assert!(!left.hits.is_empty(), "{}", query.query);
        assert_eq!(seen(&left), seen(&right), "{}", query.query);
        assert_eq!((left.total, &left.warnings), (right.total, &right.warnings), "{}", query.query);
        for (left, right) in left.hits.iter().zip(&right.hits) {
            assert!((left.score - right.score).abs() < 0.01, "{}: {left:#?} {right:#?}", query.query);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entities_that_many_observe_at_once_lose_nothing() {
    let server = PostgresServer::start();
    let engines = [engine(&server, "graph").await, engine(&server, "graph").await];
    let scope = ada();
    let node = |name: &str| Node { name: name.to_owned(), entity_type: "person".to_owned(), observations: Vec::new() };
    // Both make the same entities, and each is there once, in one order.
    let create = |sophia: &Sophia| {
        let (graph, scope) = (sophia.memory().graph().clone(), scope.clone());
        let nodes = ["ada", "bob", "mia"].map(node).into();
        async move { graph.change_nodes(&scope, NodeChange::CreateEntities(nodes)).await.unwrap().entities.len() }
    };
    let made = futures::future::join_all((0..8).map(|place| create(&engines[place % 2]))).await;
    assert_eq!(made.iter().sum::<usize>(), 3);
    let observe = |place: usize| {
        let (graph, scope) = (engines[place % 2].memory().graph().clone(), scope.clone());
        async move {
            let one = Observations { entity: "ada".to_owned(), contents: vec![format!("seen {place}")] };
            graph.change_nodes(&scope, NodeChange::AddObservations(vec![one])).await.unwrap();
            // What is stated by other means meanwhile neither waits for ever nor gets lost.
            graph.upsert(NewEntity::new("ada").attribute(format!("a{place}"), place).scope(&scope)).await.unwrap();
            graph.relate(NewFact::new("ada", "saw", format!("thing {place}")).scope(&scope)).await.unwrap();
        }
    };
    futures::future::join_all((0..16).map(observe)).await;
    for sophia in &engines {
        let nodes = sophia.memory().graph().nodes(&scope, NodeSelection::All).await.unwrap();
        let names: Vec<_> = nodes.entities.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["ada", "bob", "mia"]);
        assert_eq!((nodes.entities[0].observations.len(), nodes.relations.len()), (16, 16), "{nodes:?}");
    }
    // Names that the database cannot hold are nobody's, as in the file.
    let strange = NodeChange::DeleteEntities(vec!["a\0b".to_owned()]);
    engines[0].memory().graph().change_nodes(&scope, strange).await.unwrap();
    let one = Observations { entity: "a\0b".to_owned(), contents: vec!["x".to_owned()] };
    let missing = engines[0].memory().graph().change_nodes(&scope, NodeChange::AddObservations(vec![one])).await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
}

/// Fills an engine with something of each kind, on top of what [`both`] stored.
async fn fill(sophia: &Sophia) {
    let memory = sophia.memory();
    memory.store(NewRecord::new("First.").id("changed").metadata("n", 1).scope(ada())).await.unwrap();
    memory.update(Update::new("changed").content("Second.").scope(ada())).await.unwrap();
    memory.kv().set("plan", json!({"name": "pro"}), KvOptions::new().tags(["billing"]).scope(ada())).await.unwrap();
    memory.graph().upsert(NewEntity::new("ada").kind("person").attribute("age", 36).scope(ada())).await.unwrap();
    for (company, since) in [("acme", "2024-01-01T00:00:00Z"), ("globex", "2025-06-01T00:00:00Z")] {
        let fact = NewFact::new("ada", "works_at", company).valid_at(since.parse().unwrap()).functional().scope(ada());
        memory.graph().relate(fact).await.unwrap();
    }
    let value = |text: &str| Encoded::new("json", json!(text).to_string());
    let first = NewCheckpoint::new("t", "1", value("body")).channel("c", "1", value("kept")).scope(ada());
    let second = NewCheckpoint::new("t", "2", value("body")).parent("1").kept("c", "1").scope(ada());
    for checkpoint in [first, second] {
        memory.checkpoints().put(checkpoint).await.unwrap();
    }
    let writes = NewWrites::new("t", "2", "task").write("c", 0, value("written")).scope(ada());
    memory.checkpoints().put_writes(writes).await.unwrap();
}

async fn exported(sophia: &Sophia, path: &std::path::Path) -> Vec<String> {
    sophia.memory().export(Export::new(path)).await.unwrap();
    // Scopes have other numbers there, and with them another order.
    let mut lines: Vec<String> = std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_goes_from_the_file_to_postgres_and_back_and_loses_nothing() {
    let server = PostgresServer::start();
    let (directory, [file, _]) = both(&server, "unused").await;
    fill(&file).await;
    let path = |name: &str| directory.path().join(name);
    let lines = exported(&file, &path("file.jsonl")).await;
    let postgres = engine(&server, "moved").await;
    let taken = postgres.memory().import(Import::new(path("file.jsonl"))).await.unwrap();
    assert_eq!((taken.records, taken.entities, taken.facts), (12, 1, 3), "{taken:?}");
    assert_eq!((taken.keys, taken.checkpoints, taken.writes), (1, 2, 1), "{taken:?}");
    assert_eq!((taken.added, taken.updated, taken.unchanged), (20, 0, 0), "{taken:?}");
    assert_eq!(exported(&postgres, &path("postgres.jsonl")).await, lines);
    let again = postgres.memory().import(Import::new(path("file.jsonl"))).await.unwrap();
    assert_eq!((again.added, again.updated, again.unchanged), (0, 0, 20), "{again:?}");
    assert_eq!(exported(&postgres, &path("again.jsonl")).await, lines);

    // It is in use at once: found, with its versions, and what comes is counted on.
    let memory = postgres.memory();
    assert!(!contents(&postgres, Query::new("which music did Ada hear?").scope(ada())).await.is_empty());
    let versions = memory.versions("changed", &ada()).await.unwrap();
    assert_eq!(versions.iter().map(|record| record.content.as_str()).collect::<Vec<_>>(), ["First.", "Second."]);
    let stored = memory.store(NewRecord::new("New here.").id("new").scope(ada())).await.unwrap();
    assert!(stored.seq > versions[1].seq, "{stored:?}");
    let facts = memory.graph().facts(FactQuery::new(ada()).as_of("2024-07-01T00:00:00Z".parse().unwrap()));
    assert_eq!(facts.await.unwrap()[0].object, "acme");
    assert_eq!(memory.kv().get("plan", &ada()).await.unwrap().unwrap().value(), &json!({"name": "pro"}));
    assert_eq!(memory.stats().await.unwrap().records, 13);
    let report = memory.check(Check::default()).await.unwrap();
    assert!(report.ok, "{report:?}");

    // What is newer there comes back to the file as the next version; a value that is there stays.
    memory.update(Update::new("changed").content("Third.").scope(ada())).await.unwrap();
    exported(&postgres, &path("back.jsonl")).await;
    let back = file.memory().import(Import::new(path("back.jsonl"))).await.unwrap();
    assert_eq!((back.added, back.updated, back.unchanged), (1, 1, 19), "{back:?}");
    let versions = file.memory().versions("changed", &ada()).await.unwrap();
    assert_eq!(versions.iter().map(|record| record.version).collect::<Vec<_>>(), [1, 2, 3]);

    // Of one user, nothing of another is in it; and no line of another is let in.
    let of_eve = Export::new(path("eve.jsonl")).scope(Scope::new().user("eve"));
    assert_eq!(memory.export(of_eve).await.unwrap().records, 1);
    let only = Import::new(path("file.jsonl")).scope(Scope::new().user("eve"));
    assert_eq!(memory.import(only).await.unwrap_err().kind(), ErrorKind::Unauthorized);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_and_writes_at_once_give_no_number_twice() {
    let server = PostgresServer::start();
    let (directory, [file, _]) = both(&server, "unused").await;
    let path = directory.path().join("file.jsonl");
    file.memory().export(Export::new(&path)).await.unwrap();
    let [one, other] = [engine(&server, "busy").await, engine(&server, "busy").await];
    let import = async |sophia: &Sophia| sophia.memory().import(Import::new(&path)).await.unwrap();
    let store = |place: usize| {
        let memory = if place.is_multiple_of(2) { one.memory() } else { other.memory() }.clone();
        async move { memory.store(NewRecord::new(format!("meanwhile {place}")).scope(ada())).await.unwrap().seq }
    };
    let stores = futures::future::join_all((0..40).map(store));
    let (first, second, mut seqs) = tokio::join!(import(&one), import(&other), stores);
    assert_eq!((first.added + second.added, first.records + second.records), (11, 22), "{first:?} {second:?}");
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs.len(), 40);
    assert_eq!(one.memory().stats().await.unwrap().records, 51);
    let report = one.memory().check(Check::default()).await.unwrap();
    assert!(report.ok, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_waits_for_one_that_waits_for_it_is_stored_all_the_same() {
    let server = PostgresServer::start();
    let sophia = engine(&server, "shared").await;
    let record = |id: &str, content: &str| NewRecord::new(content).id(id).scope(ada());
    let first = ["a", "b"].map(|id| record(id, "first"));
    sophia.memory().store_many(first.to_vec(), Atomicity::Together).await.unwrap();

    let (other, connection) = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    other.batch_execute("BEGIN; SELECT 1 FROM shared.records WHERE id = 'b' FOR UPDATE").await.unwrap();
    let second = ["a", "b"].map(|id| record(id, "second"));
    let batch = sophia.memory().store_many(second.to_vec(), Atomicity::Together);
    let against = async {
        until("the batch waits", async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
            server.run("postgres", waiting) == "1"
        })
        .await;
        // Whoever began to wait first is ended first: the batch.
        other.batch_execute("UPDATE shared.records SET importance = 0.6 WHERE id = 'a'; COMMIT").await.unwrap();
    };
    let (stored, ()) = futures::join!(batch, against);
    let versions: Vec<_> = stored.unwrap().into_iter().map(|stored| stored.into_result().unwrap().version).collect();
    assert_eq!(versions, [2, 2]);
    drop(other);
    connection.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_derived_is_checked_and_made_anew() {
    let server = PostgresServer::start();
    let (directory, [_, sophia]) = both(&server, "checked").await;
    let memory = sophia.memory();
    memory.store(NewRecord::new("Filtered.").id("filtered").metadata("n", 1).scope(ada())).await.unwrap();
    let mut repair = Check::default();
    repair.repair = true;
    let parts = async |check: &Check| {
        let report = memory.check(check.clone()).await.unwrap();
        let parts = report.problems.iter().map(|problem| (problem.part, problem.repaired)).collect::<Vec<_>>();
        (report.ok, parts)
    };
    assert_eq!(parts(&Check::default()).await, (true, Vec::new()));
    let query = Query::new("reports").mode(Mode::Keyword).scope(ada());
    let before = contents(&sophia, query.clone()).await;
    let filtered = Query::new("").metadata("n", 1).scope(ada());
    for sql in [
        "UPDATE checked.records SET words = '', length = 0 WHERE content LIKE '%eport%'",
        "UPDATE checked.walls SET records = records + 7",
        "UPDATE checked.records SET facts = '{}' WHERE id = 'filtered'",
        "UPDATE checked.records SET model = NULL WHERE id = 'filtered'",
        "DROP INDEX checked.vectors_of_1",
    ] {
        server.run("postgres", sql);
    }
    assert_eq!((contents(&sophia, query.clone()).await.len(), contents(&sophia, filtered.clone()).await.len()), (0, 0));
    let damaged = [("words", false), ("filters", false), ("vectors", false)];
    assert_eq!(parts(&Check::default()).await, (false, damaged.to_vec()));
    let repaired = [("words", true), ("filters", true), ("vectors", true)];
    assert_eq!(parts(&repair).await, (true, repaired.to_vec()));
    assert_eq!(parts(&Check::default()).await, (true, Vec::new()));
    assert_eq!(contents(&sophia, query).await, before);
    assert_eq!(contents(&sophia, filtered).await, ["Filtered."]);
    assert_eq!(server.run("postgres", "SELECT count(*) FROM pg_indexes WHERE indexname = 'vectors_of_1'"), "1");

    // The data itself is left as it is, and the report says what to do.
    server.run("postgres", "UPDATE checked.records SET metadata = '{' WHERE id = 'filtered'");
    let report = memory.check(repair).await.unwrap();
    assert!(!report.ok && report.problems[0].part == "data" && !report.problems[0].repaired, "{report:?}");
    assert!(report.problems[0].fix.as_ref().unwrap().contains("pg_restore"), "{report:?}");
    let backup = memory.backup(Backup::new(directory.path().join("backup"))).await.unwrap_err();
    assert!(backup.kind() == ErrorKind::Unsupported && backup.message().contains("pg_dump"), "{backup:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_drop_what_is_above_the_cap_together_drop_no_more() {
    let server = PostgresServer::start();
    let filler = engine(&server, "capped").await;
    let records = |count: usize| (0..count).map(|n| NewRecord::new(format!("record {n}")).scope(ada())).collect();
    filler.memory().store_many(records(120), Atomicity::Together).await.unwrap();
    let mut config = config(server.url(), "capped");
    config.memory.retention.max_records = Some(100);
    let engines: Vec<_> = (0..6).map(|_| Sophia::new(config.clone()).unwrap()).collect();
    // The first write of a process drops what is above.
    let store = |sophia: &Sophia| {
        let memory = sophia.memory().clone();
        async move { memory.store(NewRecord::new("of another").scope(Scope::new().user("eve"))).await.unwrap() }
    };
    futures::future::join_all(engines.iter().map(store)).await;
    let stats = filler.memory().stats().await.unwrap();
    assert_eq!(stats.records, 106, "100 that stay, and one of each process");
    assert!(filler.memory().check(Check::default()).await.unwrap().ok, "they are counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_can_be_walled_off_in_the_database_too() {
    let server = PostgresServer::start();
    let sophia = engine(&server, "walls").await;
    for tenant in ["acme", "globex"] {
        let scope = Scope::new().tenant(tenant).user("ada");
        sophia.memory().store(NewRecord::new(format!("of {tenant}")).scope(scope)).await.unwrap();
    }
    server.run(
        "postgres",
        "CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA walls TO reader; GRANT SELECT ON walls.records TO reader; \
         ALTER TABLE walls.records ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY own ON walls.records USING (tenant = current_setting('app.tenant'))",
    );
    let (client, connection) =
        tokio_postgres::connect(&server.url_of("reader", "postgres"), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("SET app.tenant = 'acme'").await.unwrap();
    let seen = client.query("SELECT content FROM walls.records", &[]).await.unwrap();
    assert_eq!(seen.iter().map(|row| row.get::<_, &str>(0)).collect::<Vec<_>>(), ["of acme"]);
    // The engine itself, the owner of the tables, still sees all.
    assert_eq!(sophia.memory().stats().await.unwrap().records, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_are_kept_through_the_engine() {
    let server = PostgresServer::start();
    let store = PostgresStore::new(
        &PostgresConfig::url(server.url()).schema("steps"),
        Arc::new(sophia_core::SystemClock::default()),
    )
    .unwrap();
    assert_eq!(store.name(), "postgres");
    store.open().await.unwrap();
    let sophia = engine(&server, "steps").await;
    let step = NewCheckpoint::new("t", "1", Encoded::new("json", *b"{}")).scope(ada());
    sophia.memory().checkpoints().put(step).await.unwrap();
    let found = CheckpointStore::get(&store, GetCheckpoint::last("t").scope(ada())).await.unwrap();
    assert_eq!(found.map(|found| found.id), Some("1".to_owned()));
}
