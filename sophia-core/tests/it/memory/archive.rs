//! Export and import, backup, check and repair, retention, as a user calls them.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rusqlite::Connection;
use serde_json::{Value, json};
use sophia_core::{
    Config, ErrorKind, ManualClock, Scope, Sophia,
    memory::{
        AppendMessage, Backup, Check, Delete, Export, FactQuery, GetCheckpoint, GetRecord, Import, ImportFormat,
        KvOptions, Mode, NewCheckpoint, NewEntity, NewFact, NewRecord, NodeSelection, Priority, Query, Update,
    },
};

use super::{ada, bob, contents, engine};

async fn fill(sophia: &Sophia) {
    let memory = sophia.memory();
    let note = NewRecord::new("Ada wants the quarterly report as a PDF.").id("pdf").scope(ada()).tags(["report"]);
    memory.store(note.metadata("via", "chat").importance(0.9)).await.unwrap();
    memory.update(Update::new("pdf").scope(ada()).content("Ada wants a spreadsheet.")).await.unwrap();
    memory.store(NewRecord::new("A note that is archived.").id("old").scope(ada())).await.unwrap();
    memory.delete(Delete::new("old").scope(ada())).await.unwrap();
    memory.append(AppendMessage::new(bob().session("s1"), "user", "Hello from Bob")).await.unwrap();
    memory.graph().relate(NewFact::new("ada", "works_at", "acme").scope(ada())).await.unwrap();
    memory.kv().set("plan", json!({"plan": "pro"}), KvOptions::new().scope(ada()).tags(["billing"])).await.unwrap();
    let encoded = sophia_core::memory::Encoded::new("json", "{}");
    memory.checkpoints().put(NewCheckpoint::new("t", "1", encoded).scope(ada())).await.unwrap();
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn an_export_is_imported_whole_and_only_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let from = engine(&path("from")).await;
    fill(&from).await;
    let receipt = from.memory().export(Export::new(path("all.jsonl"))).await.unwrap();
    assert_eq!((receipt.records, receipt.versions, receipt.vectors), (3, 2, 3), "{receipt:?}");
    assert_eq!((receipt.facts, receipt.keys, receipt.checkpoints), (1, 1, 1));
    assert_eq!(receipt.bytes, fs::metadata(path("all.jsonl")).unwrap().len());
    let again = from.memory().export(Export::new(path("all.jsonl"))).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);

    let to = engine(&path("to")).await;
    assert_eq!(to.memory().kv().get("plan", &ada()).await.unwrap(), None);
    let receipt = to.memory().import(Import::new(path("all.jsonl"))).await.unwrap();
    assert_eq!((receipt.format, receipt.added, receipt.unchanged), (ImportFormat::Sophia, 6, 0), "{receipt:?}");
    let receipt = to.memory().import(Import::new(path("all.jsonl"))).await.unwrap();
    assert_eq!((receipt.added, receipt.updated, receipt.unchanged), (0, 0, 6), "{receipt:?}");
    to.memory().export(Export::new(path("again.jsonl"))).await.unwrap();
    assert_eq!(fs::read(path("all.jsonl")).unwrap(), fs::read(path("again.jsonl")).unwrap());

    assert_eq!(contents(&to, Query::new("spreadsheets").scope(ada())).await, ["Ada wants a spreadsheet."]);
    assert_eq!(to.memory().versions("pdf", &ada()).await.unwrap()[0].metadata["via"], "chat");
    assert_eq!(to.memory().kv().get("plan", &ada()).await.unwrap().unwrap().value(), &json!({"plan": "pro"}));
    assert!(to.memory().checkpoints().get(GetCheckpoint::last("t").scope(ada())).await.unwrap().is_some());
}

#[tokio::test]
async fn a_scope_bounds_what_is_written_and_what_is_let_in() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let from = engine(&path("from")).await;
    fill(&from).await;
    from.memory().export(Export::new(path("all.jsonl"))).await.unwrap();
    let receipt = from.memory().export(Export::new(path("bob.jsonl")).scope(bob())).await.unwrap();
    assert_eq!((receipt.records, receipt.facts + receipt.keys + receipt.checkpoints), (1, 0));
    assert!(lines(&path("bob.jsonl"))[1..].iter().all(|line| line["record"]["scope"]["user"] == "bob"));

    let to = engine(&path("to")).await;
    let refused = to.memory().import(Import::new(path("all.jsonl")).scope(bob())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthorized);
    assert_eq!(to.memory().stats().await.unwrap().records, 0);
    assert_eq!(to.memory().import(Import::new(path("bob.jsonl")).scope(bob())).await.unwrap().added, 1);
}

#[tokio::test]
async fn files_that_cannot_be_read_are_refused_by_line() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = Sophia::builder().start().await.unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        Import::new(path)
    };
    let header = r#"{"type": "sophia", "format": 1}"#;
    let newer = r#"{"type": "sophia", "format": 99}"#;
    let bad_vector = json!({"type": "record", "record": {}, "vector": {"model": "m", "f32": "AAA="}});
    for (name, text, kind, word) in [
        ("empty", String::new(), ErrorKind::InvalidInput, "empty"),
        ("text", "hello".to_owned(), ErrorKind::InvalidInput, "neither JSON nor SQLite"),
        ("cut", format!("{header}\n{{\"type\": \"rec"), ErrorKind::InvalidInput, "line 2"),
        ("unknown", format!("{header}\n{{\"type\": \"planet\"}}"), ErrorKind::InvalidInput, "planet"),
        ("vector", format!("{header}\n{bad_vector}"), ErrorKind::InvalidInput, "line 2"),
        ("newer", newer.to_owned(), ErrorKind::Unsupported, "newer version"),
        ("json", r#"{"a": 1}"#.to_owned(), ErrorKind::InvalidInput, "results"),
    ] {
        let error = sophia.memory().import(file(name, text.as_bytes())).await.unwrap_err();
        assert!(error.kind() == kind && error.message().contains(word), "{name}: {error}");
    }
    let no_text = [header.as_bytes(), b"\n\n{\"type\": \"record\", \"content\": \"\xff\"}\n"].concat();
    let error = sophia.memory().import(file("no_text", &no_text)).await.unwrap_err();
    assert_eq!((error.kind(), error.get("line")), (ErrorKind::InvalidInput, Some("3")), "{error}");
    let folder = sophia.memory().import(Import::new(directory.path())).await.unwrap_err();
    assert!(folder.message().contains("no file"), "{folder}");
    for (name, tables) in [
        ("chroma", "CREATE TABLE collections (x); CREATE TABLE embedding_metadata (x)"),
        ("langgraph", "CREATE TABLE checkpoints (x); CREATE TABLE writes (x)"),
        ("mem0", "CREATE TABLE history (x)"),
    ] {
        let path = directory.path().join(format!("{name}.db"));
        Connection::open(&path).unwrap().execute_batch(tables).unwrap();
        let error = sophia.memory().import(Import::new(&path)).await.unwrap_err();
        assert_eq!((error.kind(), error.get("field")), (ErrorKind::InvalidInput, Some("path")), "{name}: {error}");
        let whole = fs::read(&path).unwrap();
        let cut = file("cut.db", &whole[..whole.len() / 2]);
        for cut in [cut.clone(), cut.format(ImportFormat::Langgraph)] {
            let error = sophia.memory().import(cut).await.unwrap_err();
            assert!(error.message().contains("is damaged"), "{name}: {error}");
        }
    }
    let absent = sophia.memory().import(Import::new(directory.path().join("absent"))).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    let foreign = directory.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert_eq!(sophia.memory().import(Import::new(&foreign)).await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn lines_that_cannot_be_kept_are_left_out_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let from = Sophia::builder().start().await.unwrap();
    let ids = ["good", "taken", "version", "former", "nul", "role", "short", "last"];
    for id in ids {
        let record = NewRecord::new(format!("the text of {id}")).id(id).scope(ada()).summary("short");
        from.memory().store(record).await.unwrap();
        from.memory().update(Update::new(id).scope(ada()).priority(Priority::High)).await.unwrap();
    }
    from.memory().graph().upsert(NewEntity::new("Ada").scope(ada())).await.unwrap();
    let encoded = sophia_core::memory::Encoded::new("json", "{}");
    from.memory().checkpoints().put(NewCheckpoint::new("t", "1", encoded).scope(ada())).await.unwrap();
    from.memory().export(Export::new(path("all.jsonl"))).await.unwrap();
    let mut all = lines(&path("all.jsonl"));
    all[ids.len() + 1]["entity"]["attributes"] = json!({"text": "a\0b"});
    all[ids.len() + 2]["checkpoint"]["thread"] = json!("");
    let of = |id: &str| 1 + ids.iter().position(|other| *other == id).unwrap();
    all[of("version")]["record"]["version"] = json!(i64::MAX);
    all[of("former")]["versions"][0]["version"] = json!(-1);
    all[of("nul")]["record"]["summary"] = json!("a\0b");
    all[of("role")]["record"]["role"] = json!("a\0b");
    // A vector of length one, and of two dimensions.
    all[of("short")]["vector"]["f32"] = json!("AACAPwAAAAA=");
    let text = all.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    fs::write(path("all.jsonl"), format!("\u{feff}{text}")).unwrap();

    for to in [Sophia::builder().start().await.unwrap(), engine(&path("to")).await] {
        let taken = NewRecord::new("Of another session.").id("taken").scope(ada().session("s"));
        to.memory().store(taken).await.unwrap();
        let receipt = to.memory().import(Import::new(path("all.jsonl"))).await.unwrap();
        assert_eq!((receipt.records, receipt.added), (3, 3), "{receipt:?}");
        let expected = [
            ("line 4 is left out", "`version` is 9223372036854775807"),
            ("line 5 is left out", "`version` is -1"),
            ("line 6 is left out", "`summary`"),
            ("line 7 is left out", "`role`"),
            ("the vector of line 8 is left out", "2 dimensions"),
            ("line 10 is left out", "NUL"),
            ("line 11 is left out", "`thread` is empty"),
            ("line 3 is left out", "another session"),
        ];
        assert_eq!(receipt.warnings.len(), expected.len(), "{receipt:?}");
        for ((place, why), warning) in expected.iter().zip(&receipt.warnings) {
            assert!(warning.starts_with(place) && warning.contains(why), "{warning}");
        }
        let near = Query::new("short").scope(ada()).mode(Mode::Semantic).limit(1);
        assert_eq!(contents(&to, near).await, ["the text of short"], "it is embedded anew");
        to.memory().update(Update::new("good").scope(ada()).content("changed")).await.unwrap();
        let again = to.memory().import(Import::new(path("all.jsonl"))).await.unwrap();
        assert_eq!((again.added, again.updated, again.unchanged), (0, 0, 3), "{again:?}");
    }
}

#[tokio::test]
async fn a_key_that_was_looked_up_is_there_after_an_import() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.jsonl");
    let from = Sophia::builder().start().await.unwrap();
    from.memory().kv().set("plan", json!("pro"), KvOptions::new()).await.unwrap();
    from.memory().export(Export::new(&path)).await.unwrap();
    let to = Sophia::builder().start().await.unwrap();
    assert_eq!(to.memory().kv().get("plan", &Scope::new()).await.unwrap(), None);
    to.memory().import(Import::new(&path)).await.unwrap();
    assert_eq!(to.memory().kv().get("plan", &Scope::new()).await.unwrap().unwrap().value(), &json!("pro"));
}

#[tokio::test]
async fn memories_of_mem0_are_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = Sophia::builder().start().await.unwrap();
    let path = directory.path().join("mem0.json");
    let memory = |id: &str, text: &str, updated: Option<&str>| {
        json!({"id": id, "memory": text, "hash": "h", "created_at": "2025-06-01T10:00:00-07:00", "updated_at": updated,
            "user_id": "ada", "run_id": "trip", "categories": ["food"], "metadata": {"source": "chat"}, "actor_id": "x"})
    };
    let get_all = json!({"results": [memory("m1", "Ada likes tea", None), memory("m2", "", None)], "relations": []});
    fs::write(&path, get_all.to_string()).unwrap();
    let acme = Scope::new().tenant("acme");
    let receipt = sophia.memory().import(Import::new(&path).scope(&acme)).await.unwrap();
    assert_eq!((receipt.format, receipt.added, receipt.warnings.len()), (ImportFormat::Mem0, 1, 1), "{receipt:?}");
    let record = sophia.memory().get(GetRecord::id("m1").scope(ada())).await.unwrap().unwrap();
    assert_eq!((record.content.as_str(), record.scope.session.as_deref()), ("Ada likes tea", Some("trip")));
    assert_eq!(
        (record.tags, record.created_at.to_string()),
        (vec!["food".to_owned()], "2025-06-01T17:00:00Z".to_owned())
    );
    assert_eq!(Value::Object(record.metadata), json!({"actor_id": "x", "source": "chat"}));
    assert_eq!(contents(&sophia, Query::new("what does she drink?").scope(ada())).await, ["Ada likes tea"]);
    assert_eq!(sophia.memory().import(Import::new(&path).scope(&acme)).await.unwrap().unchanged, 1);
    let undated = json!([memory("m1", "Ada likes cocoa", None)]);
    fs::write(&path, format!("\u{feff}{undated}")).unwrap();
    let receipt = sophia.memory().import(Import::new(&path).scope(&acme)).await.unwrap();
    assert_eq!((receipt.updated, receipt.unchanged), (0, 1), "what says no time is not newer");
    let changed = json!([memory("m1", "Ada likes coffee", Some("2099-01-01T00:00:00Z"))]);
    fs::write(&path, changed.to_string()).unwrap();
    assert_eq!(sophia.memory().import(Import::new(&path).scope(&acme)).await.unwrap().updated, 1);
    assert_eq!(sophia.memory().versions("m1", &ada()).await.unwrap().len(), 2);

    let points = json!({"result": {"points": [{"id": "q1", "vector": [1.0, 0.0], "payload":
        {"data": "Bob plays chess", "user_id": "bob", "created_at": "2025-06-01T10:00:00+00:00", "mood": "calm"}}]}});
    fs::write(&path, points.to_string()).unwrap();
    assert_eq!(sophia.memory().import(Import::new(&path).scope(&acme)).await.unwrap().added, 1);
    let record = sophia.memory().get(GetRecord::id("q1").scope(bob())).await.unwrap().unwrap();
    assert_eq!((record.content.as_str(), &record.metadata["mood"]), ("Bob plays chess", &json!("calm")));

    let history = directory.path().join("history.db");
    Connection::open(&history)
        .unwrap()
        .execute_batch(
            "CREATE TABLE history (id TEXT PRIMARY KEY, memory_id TEXT, old_memory TEXT, new_memory TEXT, event TEXT, \
               created_at DATETIME, updated_at DATETIME, is_deleted INTEGER, actor_id TEXT, role TEXT); \
             INSERT INTO history VALUES ('1', 'h1', NULL, 'first', 'ADD', '2025-01-01T00:00:00+00:00', NULL, 0, NULL, 'user'), \
               ('2', 'h1', 'first', 'second', 'UPDATE', '2025-01-01T00:00:00+00:00', '2025-02-01T00:00:00+00:00', 0, NULL, 'user'), \
               ('3', 'h2', NULL, 'deleted', 'ADD', '2025-01-01T00:00:00+00:00', NULL, 0, NULL, NULL), \
               ('4', 'h2', 'deleted', NULL, 'DELETE', NULL, NULL, 1, NULL, NULL), \
               ('5', NULL, NULL, 'of nothing', 'ADD', NULL, NULL, 0, NULL, NULL);",
        )
        .unwrap();
    let receipt = sophia.memory().import(Import::new(&history).scope(ada())).await.unwrap();
    assert_eq!((receipt.format, receipt.added), (ImportFormat::Mem0, 1), "{receipt:?}");
    let record = sophia.memory().get(GetRecord::id("h1").scope(ada())).await.unwrap().unwrap();
    assert_eq!((record.content.as_str(), record.role.as_deref()), ("second", Some("user")));
}

#[tokio::test]
async fn the_file_of_server_memory_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = Sophia::builder().start().await.unwrap();
    let path = directory.path().join("memory.jsonl");
    let lines = [
        json!({"type": "entity", "name": "Ada", "entityType": "person", "observations": ["likes tea"]}),
        json!({"type": "entity", "name": "Acme", "entityType": "company", "observations": []}),
        json!({"type": "relation", "from": "Ada", "to": "Acme", "relationType": "works_at"}),
    ];
    let node = |name: &str| json!({"type": "entity", "name": name, "entityType": "person", "observations": ["x"]});
    let relation = json!({"type": "relation", "from": "Ada", "to": "x".repeat(2_000), "relationType": "knows"});
    let lines = lines.into_iter().chain([node("two\nlines"), node(""), relation]);
    let lines: Vec<_> = lines.map(|line| line.to_string()).collect();
    fs::write(&path, format!("\u{feff}{}", lines.join("\n"))).unwrap();
    let receipt = sophia.memory().import(Import::new(&path).scope(ada())).await.unwrap();
    for (line, warning) in (4..).zip(&receipt.warnings) {
        assert!(warning.starts_with(&format!("line {line} is left out: ")), "{warning}");
    }
    assert_eq!(receipt.warnings.len(), 3, "{receipt:?}");
    assert_eq!((receipt.format, receipt.entities, receipt.facts, receipt.added), (ImportFormat::ServerMemory, 2, 1, 3));
    let again = sophia.memory().import(Import::new(&path).scope(ada())).await.unwrap();
    assert_eq!((again.added, again.unchanged), (0, 3));
    let nodes = sophia.memory().graph().nodes(&ada(), NodeSelection::All).await.unwrap();
    assert_eq!(
        (nodes.entities[0].name.as_str(), nodes.entities[0].observations.as_slice()),
        ("Ada", &["likes tea".to_owned()][..])
    );
    let facts = sophia.memory().graph().facts(FactQuery::new(ada()).subject("Ada")).await.unwrap();
    assert_eq!((facts[0].predicate.as_str(), facts[0].object.as_str()), ("works_at", "Acme"));
}

#[tokio::test]
async fn documents_of_chroma_are_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chroma.sqlite3");
    Connection::open(&path).unwrap().execute_batch(include_str!("files/chroma.sql")).unwrap();
    let before = fs::read(&path).unwrap();
    let sophia = Sophia::builder().start().await.unwrap();
    let receipt = sophia.memory().import(Import::new(&path).scope(ada())).await.unwrap();
    assert_eq!((receipt.format, receipt.added, receipt.warnings.len()), (ImportFormat::Chroma, 3, 1), "{receipt:?}");
    let record = sophia.memory().get(GetRecord::id("notes/pdf").scope(ada())).await.unwrap().unwrap();
    assert_eq!((record.category.as_deref(), record.source.as_deref()), (Some("notes"), Some("chroma")));
    let metadata = json!({"author": "ada", "done": true, "score": 0.5, "year": 2024, "labels": ["report", "pdf"]});
    assert_eq!(Value::Object(record.metadata), metadata);
    let updated = sophia.memory().get(GetRecord::id("notes/standup").scope(ada())).await.unwrap().unwrap();
    assert_eq!(updated.content, "The standup is at half past ten.");
    assert!(sophia.memory().get(GetRecord::id("other/pdf").scope(ada())).await.unwrap().is_some());
    let found = contents(&sophia, Query::new("which file format does she like?").scope(ada()).limit(1)).await;
    assert_eq!(found, ["Ada wants the quarterly report as a PDF."]);
    assert_eq!(sophia.memory().import(Import::new(&path).scope(ada())).await.unwrap().unchanged, 3);
    assert_eq!(fs::read(&path).unwrap(), before, "the file is only read");

    // What Chroma has says no time of a change: what was done here stays.
    let memory = sophia.memory();
    memory.update(Update::new("notes/standup").scope(ada()).content("The standup is at noon.")).await.unwrap();
    memory.delete(Delete::new("other/pdf").scope(ada())).await.unwrap();
    assert_eq!(memory.import(Import::new(&path).scope(ada())).await.unwrap().unchanged, 3);
    let kept = memory.get(GetRecord::id("notes/standup").scope(ada())).await.unwrap().unwrap();
    assert_eq!(kept.content, "The standup is at noon.");
    assert_eq!(memory.get(GetRecord::id("other/pdf").scope(ada())).await.unwrap(), None);

    // Two databases of one file may have collections of one name.
    let two = directory.path().join("two.sqlite3");
    fs::copy(&path, &two).unwrap();
    Connection::open(&two)
        .unwrap()
        .execute_batch(
            "PRAGMA foreign_keys = OFF; \
             INSERT INTO collections SELECT 'c2', name, dimension, 'd2', config_json_str, schema_str FROM collections \
               WHERE name = 'notes'; \
             INSERT INTO segments VALUES ('s2', 'urn:chroma:segment/metadata/sqlite', 'METADATA', 'c2'); \
             INSERT INTO embeddings VALUES (9, 's2', 'pdf', 9, '2026-11-29 02:13:29'); \
             INSERT INTO embedding_metadata VALUES (9, 'chroma:document', 'Of another database.', NULL, NULL, NULL);",
        )
        .unwrap();
    let receipt = memory.import(Import::new(&two).scope(ada())).await.unwrap();
    assert_eq!((receipt.added, receipt.unchanged), (1, 3), "{receipt:?}");
    let other = memory.get(GetRecord::id("d2/notes/pdf").scope(ada())).await.unwrap().unwrap();
    assert_eq!((other.content.as_str(), other.category.as_deref()), ("Of another database.", Some("notes")));

    // Where no model of ours makes vectors, those of Chroma are kept.
    let mut config = Config::default();
    config.memory.embedder = sophia_core::memory::EmbedderKind::None.into();
    let own = Sophia::builder().config(config).start().await.unwrap();
    own.memory().import(Import::new(&path).scope(ada())).await.unwrap();
    let near = Query::new("q").scope(ada()).embedding([0.0, 1.0, 0.5]).mode(sophia_core::memory::Mode::Semantic);
    assert_eq!(contents(&own, near.limit(1)).await, ["The standup is at half past ten."]);
    let near = Query::new("q").scope(ada()).embedding([1.0, 1.0, 0.0]).mode(sophia_core::memory::Mode::Semantic);
    assert_eq!(contents(&own, near.limit(1)).await, ["The same id in another collection."]);

    // Where one does, the queue that they stand in is not looked at.
    let without = directory.path().join("without.sqlite3");
    fs::copy(&path, &without).unwrap();
    Connection::open(&without).unwrap().execute_batch("DROP TABLE embeddings_queue").unwrap();
    assert_eq!(sophia.memory().import(Import::new(&without).scope(bob())).await.unwrap().added, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_of_one_moment_while_others_write() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = engine(&directory.path().join("data")).await;
    let scope = ada();
    for n in 0..200 {
        sophia.memory().store(NewRecord::new(format!("before {n}")).scope(&scope)).await.unwrap();
    }
    let writer = tokio::spawn({
        let (sophia, scope) = (sophia.clone(), scope.clone());
        async move {
            for n in 0.. {
                let pair = ["left", "right"].map(|side| NewRecord::new(format!("{side} {n}")).scope(&scope));
                sophia.memory().store_many(pair.into(), sophia_core::memory::store::Atomicity::Together).await.unwrap();
            }
        }
    });
    let copy = directory.path().join("restored");
    fs::create_dir(&copy).unwrap();
    let receipt = sophia.memory().backup(Backup::new(copy.join("sophia.db"))).await.unwrap();
    assert_eq!(receipt.bytes, fs::metadata(&receipt.path).unwrap().len());
    writer.abort();
    let error = sophia.memory().backup(Backup::new(copy.join("sophia.db"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let restored = engine(&copy).await;
    let records = restored.memory().stats().await.unwrap().records;
    assert!(records >= 200 && records % 2 == 0, "{records}: half of a commit is in the copy");
    assert!(restored.memory().check(Check::default()).await.unwrap().ok);
    assert_eq!(contents(&restored, Query::new("before 7").scope(ada()).limit(1)).await, ["before 7"]);

    let in_memory = Sophia::builder().start().await.unwrap();
    in_memory.memory().store(NewRecord::new("kept nowhere else").scope(ada())).await.unwrap();
    let saved = directory.path().join("saved");
    fs::create_dir(&saved).unwrap();
    in_memory.memory().backup(Backup::new(saved.join("sophia.db"))).await.unwrap();
    assert_eq!(contents(&engine(&saved).await, Query::new("").scope(ada())).await, ["kept nowhere else"]);
}

fn database(directory: &Path) -> Connection {
    Connection::open(directory.join("sophia.db")).unwrap()
}

#[tokio::test]
async fn what_is_derived_and_damaged_is_found_and_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = engine(directory.path()).await;
    fill(&sophia).await;
    let report = sophia.memory().check(Check::default()).await.unwrap();
    assert!(report.ok && report.problems.is_empty(), "{report:?}");
    let parts = async |repair: bool| -> Vec<(&'static str, bool)> {
        let mut check = Check::default();
        check.repair = repair;
        let report = sophia.memory().check(check).await.unwrap();
        report.problems.iter().map(|problem| (problem.part, problem.repaired)).collect()
    };
    for (damage, part) in [
        // A word that is not there, and one that is missing: the file is whole, and a search would be wrong.
        ("INSERT INTO record_words (rowid, words) VALUES (999, '1wghost')", "words"),
        ("DELETE FROM record_words_docsize", "words"),
        ("UPDATE record_words_docsize SET sz = x'7f'", "words"),
        ("UPDATE record_words_data SET block = zeroblob(length(block)) WHERE id > 10", "words"),
        ("INSERT INTO vectors (seq, model, data) VALUES (999, 1, x'0000')", "vectors"),
        ("DELETE FROM kv_tags", "tags"),
    ] {
        database(directory.path()).execute_batch(damage).unwrap();
        assert_eq!(parts(false).await, [(part, false)], "{damage}");
        assert_eq!(parts(true).await, [(part, true)], "{damage}");
        assert_eq!(parts(false).await, [], "{damage}");
        assert_eq!(contents(&sophia, Query::new("spreadsheet").scope(ada())).await, ["Ada wants a spreadsheet."]);
    }
    // A process that has the file open sees what was made anew.
    let other = engine(directory.path()).await;
    assert_eq!(contents(&other, Query::new("spreadsheet").scope(ada())).await.len(), 1);
    database(directory.path()).execute_batch("DELETE FROM record_words_docsize").unwrap();
    assert_eq!(parts(true).await, [("words", true)]);
    assert_eq!(contents(&other, Query::new("spreadsheet").scope(ada())).await.len(), 1);
}

/// Overwrites the pages of a file in which a text stands.
fn damage(path: &Path, text: &str) {
    const PAGE: usize = 4096;
    let bytes = fs::read(path).unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    for (number, page) in bytes.chunks(PAGE).enumerate() {
        if page.windows(text.len()).any(|window| window == text.as_bytes()) {
            file.seek(SeekFrom::Start((number * PAGE) as u64)).unwrap();
            file.write_all(&[0xa5; PAGE]).unwrap();
        }
    }
}

#[tokio::test]
async fn a_damaged_data_file_is_a_clear_error_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = engine(directory.path()).await;
    for n in 0..50 {
        let text = format!("text {n} that fills a page ").repeat(100);
        sophia.memory().store(NewRecord::new(text).id(format!("r{n}")).scope(ada())).await.unwrap();
    }
    let backup = directory.path().join("backup.db");
    sophia.memory().backup(Backup::new(&backup)).await.unwrap();
    sophia.shutdown().await.unwrap();
    let path = directory.path().join("sophia.db");
    damage(&path, "text 25 that fills a page");
    let before = fs::read(&path).unwrap();
    let damaged = engine(directory.path()).await;
    let mut check = Check::default();
    check.repair = true;
    let report = damaged.memory().check(check).await.unwrap();
    assert!(!report.ok && report.problems[0].part == "data" && !report.problems[0].repaired, "{report:?}");
    assert!(report.problems[0].fix.as_ref().unwrap().contains("put the last backup"), "{report:?}");
    let error = damaged.memory().backup(Backup::new(directory.path().join("of damaged.db"))).await.unwrap_err();
    assert!(error.message().contains("is damaged") && error.message().contains("put the last backup"), "{error}");
    assert!(!directory.path().join("of damaged.db").exists());
    let error = damaged.memory().get(GetRecord::id("r25").scope(ada())).await.unwrap_err();
    assert!(error.message().contains("is damaged") && error.message().contains("put the last backup"), "{error}");
    assert!(!error.is_retryable());
    assert!(damaged.memory().get(GetRecord::id("r1").scope(ada())).await.unwrap().is_some(), "the rest can be read");
    damaged.shutdown().await.unwrap();
    assert!(fs::read(&path).unwrap() == before, "it is for people to decide what to do with it");

    damage(&path, "CREATE TABLE records");
    let before = fs::read(&path).unwrap();
    let config = Config::default().with_data_dir(directory.path());
    let error = Sophia::builder().config(config).start().await.unwrap_err();
    assert!(error.message().contains("put the last backup"), "{error}");
    assert!(fs::read(&path).unwrap() == before);
    // As the error says.
    fs::rename(&backup, &path).unwrap();
    for side in ["sophia.db-wal", "sophia.db-shm"] {
        let _ = fs::remove_file(directory.path().join(side));
    }
    assert_eq!(engine(directory.path()).await.memory().stats().await.unwrap().records, 50);
}

#[tokio::test]
async fn the_least_worthy_records_are_dropped_above_the_cap_and_pinned_ones_stay() {
    let clock = Arc::new(ManualClock::default());
    let mut config = Config::default();
    config.memory.retention.max_records = Some(5);
    config.memory.retention.half_life = Some(Duration::from_secs(3600));
    config.memory.retention.ttl = Some(Duration::from_secs(30 * 24 * 3600));
    let sophia = Sophia::builder().config(config).clock(clock.clone()).start().await.unwrap();
    let store = async |id: &str, importance: f64| {
        sophia.memory().store(NewRecord::new(id).id(id).scope(ada()).importance(importance)).await.unwrap()
    };
    assert_eq!(store("pinned", 1.0).await.expires_at, None, "what is pinned lives for ever");
    assert!(store("old", 0.9).await.expires_at.is_some());
    sophia.memory().store(NewRecord::new("of bob").scope(bob())).await.unwrap();
    clock.advance(Duration::from_secs(4 * 3600));
    for (id, importance) in [("a", 0.5), ("b", 0.5), ("low", 0.1), ("c", 0.6)] {
        store(id, importance).await;
    }
    clock.advance(Duration::from_secs(61));
    store("d", 0.5).await;
    clock.advance(Duration::from_secs(61));
    store("e", 0.5).await;
    let mut left = contents(&sophia, Query::new("").scope(ada())).await;
    left.sort();
    // `old` was worth less than `low` after four half-lives. What is written after the count is above the cap for a minute.
    assert_eq!(left, ["a", "b", "c", "d", "e", "pinned"]);
    assert_eq!(contents(&sophia, Query::new("").scope(bob())).await.len(), 1);
    let error = Sophia::new(serde_json::from_value(json!({"memory": {"retention": {"max_records": 0}}})).unwrap());
    assert_eq!(error.unwrap_err().get("field"), Some("memory.retention.max_records"));
}

#[tokio::test]
async fn what_is_pinned_later_stays_and_what_is_no_longer_pinned_ends() {
    let mut config = Config::default();
    config.memory.retention.ttl = Some(Duration::from_secs(60));
    let sophia = Sophia::new(config).unwrap();
    let store = async |id: &str, importance: f64, ttl: Option<Duration>| {
        let mut record = NewRecord::new(id).id(id).importance(importance);
        record.ttl = ttl;
        sophia.memory().store(record).await.unwrap().expires_at.is_some()
    };
    let ends = async |id: &str, importance: f64| {
        sophia.memory().update(Update::new(id).importance(importance)).await.unwrap().expires_at.is_some()
    };
    assert_eq!((store("rule", 0.5, None).await, ends("rule", 1.0).await, ends("rule", 0.9).await), (true, false, true));
    assert!(store("own", 0.5, Some(Duration::from_secs(5))).await && ends("own", 1.0).await, "the caller said so");
    assert!(!store("pinned", 1.0, None).await && ends("pinned", 0.2).await);
}

#[tokio::test]
async fn null_clears_what_a_record_may_lack() {
    let sophia = Sophia::new(Config::default()).unwrap();
    let new: NewRecord = serde_json::from_value(
        json!({"id": "r", "content": "x", "tags": ["a"], "category": "c", "summary": "s", "metadata": {"k": 1}}),
    )
    .unwrap();
    sophia.memory().store(new).await.unwrap();
    let update = json!({"id": "r", "tags": null, "category": null, "summary": null, "metadata": null});
    let cleared = sophia.memory().update(serde_json::from_value(update).unwrap()).await.unwrap();
    assert_eq!((cleared.tags.len(), cleared.metadata.len(), cleared.category, cleared.summary), (0, 0, None, None));
}
