//! Checkpoints, as a user calls them.

use std::path::Path;

use serde_json::json;
use sophia_core::{
    Config, ErrorKind, Scope, Sophia,
    memory::{
        DeleteRuns, Encoded, ForgetRequest, GetCheckpoint, Import, ImportLangGraph, NewCheckpoint, NewWrites, Prune,
    },
    operations,
};

const TURNS: usize = 200;

fn ada() -> Scope {
    Scope::new().tenant("acme").user("ada")
}

async fn engine(directory: &Path) -> Sophia {
    Sophia::builder().config(Config::default().with_data_dir(directory)).start().await.unwrap()
}

fn text(text: &str) -> Encoded {
    Encoded::new("json", json!(text).to_string())
}

/// A text that does not repeat, so that it compresses as poorly as any.
fn said(turn: usize) -> String {
    (0..6).map(|part| blake3::hash(format!("{turn}.{part}").as_bytes()).to_hex().to_string()).collect()
}

fn messages(turns: usize) -> Encoded {
    let messages: Vec<_> = (0..turns).map(|turn| json!({"role": "user", "content": said(turn)})).collect();
    Encoded::new("json", serde_json::to_vec(&messages).unwrap())
}

/// Keeps a chat of [`TURNS`] turns, a checkpoint for each.
async fn chat(sophia: &Sophia) {
    for turn in 1..=TURNS {
        let new = NewCheckpoint::new("chat", format!("{turn:04}"), text("body")).scope(ada());
        let new = new.channel("messages", turn.to_string(), messages(turn));
        let new = if turn > 1 { new.parent(format!("{:04}", turn - 1)) } else { new };
        sophia.memory().checkpoints().put(new).await.unwrap();
    }
}

fn bytes_on_disk(directory: &Path) -> u64 {
    std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn a_chat_that_grows_is_kept_about_once_and_a_pruned_one_even_less() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = engine(directory.path()).await;
    chat(&sophia).await;
    sophia.shutdown().await.unwrap();
    let spoken: usize = (0..TURNS).map(|turn| said(turn).len()).sum();
    let kept = bytes_on_disk(directory.path());
    // Each state by itself would be a hundred times what was spoken.
    assert!(kept < 6 * spoken as u64, "{kept} bytes for {spoken}");

    let sophia = engine(directory.path()).await;
    let removed = sophia.memory().checkpoints().prune(Prune::new(["chat"]).scope(ada())).await.unwrap();
    assert_eq!(removed, TURNS as u64 - 1);
    let last = sophia.memory().checkpoints().get(GetCheckpoint::last("chat").scope(ada())).await.unwrap().unwrap();
    assert_eq!(last.channels["messages"], messages(TURNS));
    sophia.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_was_kept_is_there_after_a_restart_and_gone_after_forgetting() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = engine(directory.path()).await;
    let checkpoints = sophia.memory().checkpoints();
    let new =
        NewCheckpoint::new("trip-to-bergen", "1", text("itinerary")).scope(ada()).channel("city", "1", text("Bergen"));
    checkpoints.put(new).await.unwrap();
    let writes = NewWrites::new("trip-to-bergen", "1", "booking").scope(ada()).write("hotel", 0, text("Hanseatic"));
    checkpoints.put_writes(writes).await.unwrap();
    checkpoints.put(NewCheckpoint::new("other", "1", text("of bob")).scope(Scope::new().user("bob"))).await.unwrap();
    sophia.shutdown().await.unwrap();

    let sophia = engine(directory.path()).await;
    let found = sophia.memory().checkpoints().get(GetCheckpoint::last("trip-to-bergen").scope(ada())).await.unwrap();
    let found = found.unwrap();
    assert_eq!((&found.channels["city"], &found.writes[0].value), (&text("Bergen"), &text("Hanseatic")));
    let receipt = sophia.memory().forget(ForgetRequest::scope(ada())).await.unwrap();
    assert_eq!(receipt.checkpoints, 1);
    let gone = sophia.memory().checkpoints().get(GetCheckpoint::last("trip-to-bergen").scope(ada())).await.unwrap();
    assert_eq!(gone, None);
    let bob = GetCheckpoint::last("other").scope(Scope::new().user("bob"));
    assert!(sophia.memory().checkpoints().get(bob).await.unwrap().is_some());
    sophia.shutdown().await.unwrap();
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for trace in ["itinerary", "Bergen", "bergen", "booking", "Hanseatic"] {
            assert!(!bytes.windows(trace.len()).any(|window| window == trace.as_bytes()), "`{trace}` is still there");
        }
    }
}

#[tokio::test]
async fn a_data_file_from_before_checkpoints_gets_their_tables() {
    let directory = tempfile::tempdir().unwrap();
    engine(directory.path()).await.shutdown().await.unwrap();
    let file = rusqlite::Connection::open(directory.path().join("sophia.db")).unwrap();
    file.execute_batch(
        "DROP TABLE checkpoint_writes; DROP TABLE checkpoint_values; DROP TABLE checkpoints; DROP TABLE checkpoint_threads",
    )
    .unwrap();
    drop(file);
    let sophia = engine(directory.path()).await;
    chat(&sophia).await;
    assert!(sophia.memory().checkpoints().get(GetCheckpoint::last("chat").scope(ada())).await.unwrap().is_some());
}

#[tokio::test]
async fn bad_input_is_named_and_nothing_is_kept() {
    let sophia = Sophia::builder().start().await.unwrap();
    let body = json!({"encoding": "json", "data": "{}"});
    for (field, operation, arguments) in [
        ("thread", "put", json!({"thread": "", "id": "1", "body": body})),
        ("id", "put", json!({"thread": "t", "id": "", "body": body})),
        ("body", "put", json!({"thread": "t", "id": "1"})),
        ("body.data", "put", json!({"thread": "t", "id": "1", "body": {"encoding": "json", "data": 5}})),
        (
            "channels",
            "put",
            json!({"thread": "t", "id": "1", "body": body, "channels": {"a": {"encoding": "", "data": ""}}}),
        ),
        ("scope.user", "put", json!({"thread": "t", "id": "1", "body": body, "scope": {"user": ""}})),
        ("task", "put_writes", json!({"thread": "t", "id": "1", "task": "", "writes": []})),
        ("limit", "list", json!({"limit": 0})),
        ("strategy", "prune", json!({"threads": [], "strategy": "some"})),
        ("target", "copy_thread", json!({"source": "t", "target": ""})),
    ] {
        let call = async { operations::call(&sophia, &format!("memory.checkpoints.{operation}"), arguments)?.await };
        let error = call.await.err().unwrap_or_else(|| panic!("{field} was taken"));
        assert_eq!((error.kind(), error.get("field")), (ErrorKind::InvalidInput, Some(field)), "{error}");
    }
    assert_eq!(sophia.memory().checkpoints().get(GetCheckpoint::last("t")).await.unwrap(), None);
}

#[tokio::test]
async fn a_file_of_langgraphs_javascript_saver_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("theirs.db");
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute_batch(
        r#"CREATE TABLE checkpoints (thread_id TEXT, checkpoint_ns TEXT, checkpoint_id TEXT, parent_checkpoint_id TEXT,
             type TEXT, checkpoint BLOB, metadata BLOB);
           CREATE TABLE writes (thread_id TEXT, checkpoint_ns TEXT, checkpoint_id TEXT, task_id TEXT, idx INTEGER,
             channel TEXT, type TEXT, value BLOB);
           INSERT INTO checkpoints VALUES ('t', '', '1', NULL, 'json',
             '{"v":4,"id":"1","channel_values":{"a": [1, 2.50]},"channel_versions":{"a":3}}', '{"step":1,"run_id":"r"}');
           INSERT INTO writes VALUES ('t', '', '1', 'task', 0, 'a', 'json', '"x"');"#,
    )
    .unwrap();
    let sophia = Sophia::builder().start().await.unwrap();
    let checkpoints = sophia.memory().checkpoints();
    for (added, unchanged) in [(2, 0), (0, 2)] {
        let report = checkpoints.import_langgraph(ImportLangGraph::new(&path).scope(ada())).await.unwrap();
        assert_eq!((report.checkpoints, report.writes), (1, 1));
        assert_eq!((report.added, report.unchanged, report.warnings.len()), (added, unchanged, 0));
    }
    let found = checkpoints.get(GetCheckpoint::last("t").scope(ada())).await.unwrap().unwrap();
    assert_eq!(found.channels["a"], Encoded::new("json", "[1, 2.50]"));
    assert_eq!((found.writes[0].value.clone(), &found.metadata["step"]), (Encoded::new("json", "\"x\""), &json!(1)));
    let body: serde_json::Value = serde_json::from_slice(&found.body.data).unwrap();
    assert_eq!(body, json!({"v": 4, "id": "1", "channel_versions": {"a": 3}}));
    assert_eq!(checkpoints.delete_for_runs(DeleteRuns::new(["r"]).scope(ada())).await.unwrap(), 1);

    // A second write of the task, what is no number for JSON, and a thread without a name.
    file.execute_batch(
        r#"INSERT INTO writes VALUES ('t2', '', '1', 'task', 0, 'a', 'json', '1'), ('t2', '', '1', 'task', 1, 'a', 'json', '2'),
             ('', '', '1', 'task', 0, 'a', 'json', '3');
           INSERT INTO checkpoints SELECT 't2', '', '1', NULL, 'json', checkpoint,
             '{"score": NaN, "text": "NaN \" -Infinity", "least": -Infinity}' FROM checkpoints;
           INSERT INTO checkpoints SELECT '', '', '1', NULL, 'json', checkpoint, '{}' FROM checkpoints WHERE thread_id = 't2';"#,
    )
    .unwrap();
    let scope = Scope::new().user("bob");
    let receipt = sophia.memory().import(Import::new(&path).scope(&scope)).await.unwrap();
    assert_eq!((receipt.checkpoints, receipt.writes, receipt.added), (2, 3, 5), "{receipt:?}");
    let [unnamed, no_number, unnamed_writes] = &receipt.warnings[..] else { panic!("{receipt:?}") };
    assert!(unnamed.contains("`thread` is empty") && unnamed_writes.contains("`thread` is empty"), "{receipt:?}");
    assert!(no_number.contains("NaN"), "{receipt:?}");
    let found = checkpoints.get(GetCheckpoint::last("t2").scope(&scope)).await.unwrap().unwrap();
    assert_eq!(
        serde_json::Value::Object(found.metadata),
        json!({"score": null, "text": "NaN \" -Infinity", "least": null})
    );
    assert_eq!(found.writes.len(), 2);
    let again = sophia.memory().import(Import::new(&path).scope(&scope)).await.unwrap();
    assert_eq!((again.added, again.unchanged), (0, 5), "{again:?}");

    // What cannot be read is left out, and what comes after it is not.
    file.execute_batch(
        r#"DELETE FROM checkpoints; DELETE FROM writes;
           INSERT INTO checkpoints VALUES ('a', '', '1', NULL, 'pickle', x'8004', '{}'),
             ('a', '', '2', '1', 'json', '{"v":', '{}'), ('a', '', '3', '2', 'json', '{"v":4}', '{"step":'),
             ('a', '', '4', x'00', 'json', '{"v":4}', '{}'), ('b', '', '1', NULL, 'json', '{"v":4}', '{}');
           INSERT INTO writes VALUES ('b', '', '1', 'one', 0, 'a', 'json', '1'), ('b', '', '1', 'one', 'x', 'a', 'json', '2'),
             ('b', '', '1', 'two', 0, 'a', 'pickle', x'8004');"#,
    )
    .unwrap();
    let scope = Scope::new().user("eve");
    let report = checkpoints.import_langgraph(ImportLangGraph::new(&path).scope(&scope)).await.unwrap();
    assert_eq!((report.checkpoints, report.writes, report.added), (1, 2, 3), "{report:?}");
    let left_out = [
        ("the checkpoint `1` of `a`", "its type is `pickle`"),
        ("the checkpoint `2` of `a`", "not json"),
        ("the checkpoint `3` of `a`", "its metadata is damaged"),
        ("the checkpoint `4` of `a`", "parent_checkpoint_id"),
        ("a write of `one` of `b`", "idx"),
    ];
    assert_eq!(report.warnings.len(), left_out.len(), "{report:?}");
    for ((what, why), warning) in left_out.iter().zip(&report.warnings) {
        assert!(warning.starts_with(&format!("{what} is left out: ")) && warning.contains(why), "{warning}");
    }
    assert!(report.warnings[0].contains("SophiaSaver"), "the fix is named: {report:?}");

    let missing = ImportLangGraph::new(directory.path().join("none.db"));
    let error = checkpoints.import_langgraph(missing).await.unwrap_err();
    assert_eq!((error.kind(), error.get("field")), (ErrorKind::InvalidInput, Some("path")), "{error}");
}
