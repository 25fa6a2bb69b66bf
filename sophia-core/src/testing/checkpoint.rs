//! What every store of checkpoints must do.

use std::{future::Future, sync::Arc, time::Duration};

use serde_json::json;

use crate::{
    Clock, ErrorKind, ManualClock, Scope,
    memory::{
        Checkpoint, CheckpointStore, CopyThread, DeleteRuns, DeleteThread, DeltaQuery, Encoded, GetCheckpoint,
        ListCheckpoints, NewCheckpoint, NewWrites, Prune, PruneStrategy,
    },
};

/// Runs the suite of [`CheckpointStore`]. `make` gives an empty store each time.
///
/// # Panics
/// Where the store does not do what it must.
pub async fn checkpoint_store<S, F>(make: impl Fn(Arc<dyn Clock>) -> F)
where
    S: CheckpointStore,
    F: Future<Output = S>,
{
    let clock = Arc::new(ManualClock::default());
    let store = || make(clock.clone());
    checkpoints_are_kept_whole(&store().await, &clock).await;
    channels_keep_the_value_of_their_version(&store().await, &clock).await;
    long_lists_come_back_as_they_were(&store().await, &clock).await;
    writes_are_ordered_and_kept_as_first_written(&store().await, &clock).await;
    listings_are_filtered_and_have_pages(&store().await, &clock).await;
    walls_hold(&store().await, &clock).await;
    deltas_are_read_along_the_parents(&store().await, &clock).await;
    pruning_keeps_what_a_delta_needs(&store().await, &clock).await;
    pruning_and_deleting_leave_what_others_share(&store().await, &clock).await;
    copies_are_whole_and_apart(&store().await, &clock).await;
}

fn ada() -> Scope {
    Scope::new().tenant("acme").user("ada")
}

fn text(text: &str) -> Encoded {
    Encoded::new("json", json!(text).to_string())
}

/// A list of `count` messages, encoded.
fn messages(count: usize) -> Encoded {
    let messages: Vec<_> =
        (0..count).map(|n| json!({"role": "user", "content": format!("message {n} of many")})).collect();
    Encoded::new("json", serde_json::to_vec(&messages).expect("messages are JSON"))
}

fn step(thread: &str, id: &str) -> NewCheckpoint {
    let new = NewCheckpoint::new(thread, id, text(id)).scope(ada());
    match id.parse::<u32>() {
        Ok(number) if number > 1 => new.parent((number - 1).to_string()),
        _ => new,
    }
}

async fn put(store: &impl CheckpointStore, clock: &ManualClock, new: NewCheckpoint) {
    store.put(new, clock.now()).await.expect("put");
}

async fn get(store: &impl CheckpointStore, thread: &str, id: &str) -> Option<Checkpoint> {
    store.get(GetCheckpoint::last(thread).scope(ada()).id(id)).await.expect("get")
}

async fn write(store: &impl CheckpointStore, thread: &str, id: &str, channel: &str, value: &str) {
    let writes = NewWrites::new(thread, id, format!("task-{id}")).scope(ada()).write(channel, 0, text(value));
    store.put_writes(writes).await.expect("put_writes");
}

async fn ids(store: &impl CheckpointStore, query: ListCheckpoints) -> Vec<String> {
    let page = store.list(query.scope(ada()), 100).await.expect("list");
    page.checkpoints.into_iter().map(|checkpoint| checkpoint.id).collect()
}

async fn checkpoints_are_kept_whole(store: &impl CheckpointStore, clock: &ManualClock) {
    let binary = Encoded::new("pickle", (0..=255).cycle().take(5_000).collect::<Vec<u8>>());
    let new = step("t", "2")
        .namespace("child:1")
        .run_id("r")
        .metadata("step", -1)
        .metadata("deep", json!({"a": [1, null]}))
        .channel("state", "1.5", binary.clone())
        .channel("empty", "1", Encoded::new("null", Vec::new()));
    put(store, clock, new).await;
    let which = GetCheckpoint::last("t").scope(ada()).namespace("child:1");
    let found = store.get(which).await.expect("get").expect("it was put");
    assert_eq!((found.thread.as_str(), found.namespace.as_str(), found.id.as_str()), ("t", "child:1", "2"));
    assert_eq!((found.parent.as_deref(), &found.body, found.created_at), (Some("1"), &text("2"), clock.now()));
    assert_eq!(json!(found.metadata), json!({"step": -1, "deep": {"a": [1, null]}}));
    assert_eq!(found.channels["state"], binary);
    assert_eq!(found.channels["empty"], Encoded::new("null", Vec::new()));
    assert!(found.writes.is_empty());
    assert_eq!(get(store, "t", "2").await, None, "another namespace");
    assert_eq!(get(store, "nobody", "2").await, None);
    put(store, clock, step("t", "2").namespace("child:1").metadata("step", 7)).await;
    let again =
        store.get(GetCheckpoint::last("t").scope(ada()).namespace("child:1")).await.expect("get").expect("it is there");
    assert_eq!((again.metadata["step"].clone(), again.channels.len()), (json!(7), 0));
}

async fn channels_keep_the_value_of_their_version(store: &impl CheckpointStore, clock: &ManualClock) {
    put(store, clock, step("t", "1").channel("a", "1", text("a1")).channel("b", "1", text("b1"))).await;
    put(store, clock, step("t", "2").channel("a", "2", text("a2")).kept("b", "1").kept("gone", "2")).await;
    put(store, clock, step("t", "3").kept("a", "2")).await;
    // A fork of the first step, where the same version means another value.
    put(store, clock, step("t", "2b").parent("1").channel("a", "2", text("forked")).kept("b", "1")).await;
    // Its parent is not there: the value is found by its version.
    put(store, clock, step("t", "4").parent("lost").kept("b", "1")).await;
    // A copy of a checkpoint that is not its parent.
    let unversioned = step("t", "5").parent("1").kept("a", "2").kept("b", "1");
    let channels = [("c".to_owned(), text("c"))].into_iter().collect();
    put(store, clock, NewCheckpoint { channels, ..unversioned }).await;
    let values = async |id: &str| {
        let found = get(store, "t", id).await.expect("it was put");
        found
            .channels
            .into_iter()
            .map(|(name, value)| (name, String::from_utf8(value.data).expect("text")))
            .collect::<Vec<_>>()
    };
    let pair = |name: &str, value: &str| (name.to_owned(), format!("\"{value}\""));
    assert_eq!(values("1").await, [pair("a", "a1"), pair("b", "b1")]);
    assert_eq!(values("2").await, [pair("a", "a2"), pair("b", "b1")]);
    assert_eq!(values("3").await, [pair("a", "a2")]);
    assert_eq!(values("2b").await, [pair("a", "forked"), pair("b", "b1")]);
    assert_eq!(values("4").await, [pair("b", "b1")]);
    assert_eq!(values("5").await, [pair("a", "a2"), pair("b", "b1"), pair("c", "c")]);
}

async fn long_lists_come_back_as_they_were(store: &impl CheckpointStore, clock: &ManualClock) {
    for count in 1..=200 {
        put(store, clock, step("t", &format!("{count:03}")).channel("messages", count.to_string(), messages(count)))
            .await;
    }
    for count in [1, 2, 100, 199, 200] {
        let found = get(store, "t", &format!("{count:03}")).await.expect("it was put");
        assert_eq!(found.channels["messages"], messages(count));
    }
}

async fn writes_are_ordered_and_kept_as_first_written(store: &impl CheckpointStore, clock: &ManualClock) {
    let task = |task: &str, path: &str| NewWrites::new("t", "1", task).scope(ada()).path(path);
    // Before their checkpoint.
    store.put_writes(task("b", "2").write("x", 0, text("b0")).write("y", 1, text("b1"))).await.expect("put_writes");
    put(store, clock, step("t", "1")).await;
    store
        .put_writes(task("c", "1").write("x", 0, text("c0")).write("error", -1, text("first")))
        .await
        .expect("put_writes");
    store
        .put_writes(task("c", "1").write("x", 0, text("late")).write("error", -1, text("last")))
        .await
        .expect("put_writes");
    store.put_writes(task("a", "").write("x", 0, text("a0"))).await.expect("put_writes");
    let writes = get(store, "t", "1").await.expect("it was put").writes;
    let shown: Vec<_> =
        writes.iter().map(|write| (write.task.as_str(), write.channel.as_str(), write.value.clone())).collect();
    assert_eq!(
        shown,
        [
            ("a", "x", text("a0")),
            ("c", "error", text("last")),
            ("c", "x", text("c0")),
            ("b", "x", text("b0")),
            ("b", "y", text("b1")),
        ]
    );
    put(store, clock, step("t", "2")).await;
    assert!(get(store, "t", "2").await.expect("it was put").writes.is_empty());
}

async fn listings_are_filtered_and_have_pages(store: &impl CheckpointStore, clock: &ManualClock) {
    for id in ["1", "2", "3", "4"] {
        clock.advance(Duration::from_secs(1));
        let source = if id < "3" { "input" } else { "loop" };
        put(store, clock, step("t", id).metadata("source", source).metadata("step", id.len())).await;
    }
    put(store, clock, step("t", "2").namespace("child")).await;
    put(store, clock, step("other", "9")).await;
    let all = || ListCheckpoints::thread("t");
    let whole = || ListCheckpoints { namespace: Some(String::new()), ..all() };
    assert_eq!(ids(store, whole()).await, ["4", "3", "2", "1"]);
    assert_eq!(ids(store, all()).await, ["4", "3", "2", "2", "1"]);
    assert_eq!(ids(store, ListCheckpoints::default()).await, ["9", "4", "3", "2", "2", "1"]);
    assert_eq!(ids(store, ListCheckpoints { before: Some("3".into()), ..whole() }).await, ["2", "1"]);
    assert_eq!(ids(store, ListCheckpoints { id: Some("3".into()), ..whole() }).await, ["3"]);
    let with =
        |key: &str, value| ListCheckpoints { metadata: [(key.to_owned(), value)].into_iter().collect(), ..whole() };
    assert_eq!(ids(store, with("source", json!("input"))).await, ["2", "1"]);
    assert_eq!(ids(store, with("step", json!(1.0))).await.len(), 4);
    assert_eq!(ids(store, with("step", json!("1"))).await.len(), 0);
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let query = ListCheckpoints { after, ..ListCheckpoints::default() }.scope(ada());
        let page = store.list(query, 2).await.expect("list");
        assert!(page.checkpoints.len() <= 2);
        found.extend(page.checkpoints.into_iter().map(|checkpoint| (checkpoint.id, checkpoint.namespace)));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let shown: Vec<_> = found.iter().map(|(id, namespace)| (id.as_str(), namespace.as_str())).collect();
    assert_eq!(shown, [("9", ""), ("4", ""), ("3", ""), ("2", "child"), ("2", ""), ("1", "")]);
    let wrong = store.list(ListCheckpoints { after: Some("x".into()), ..all() }.scope(ada()), 2).await;
    assert_eq!(wrong.expect_err("no page gave it").kind(), ErrorKind::InvalidInput);
}

async fn walls_hold(store: &impl CheckpointStore, clock: &ManualClock) {
    let bob = || Scope::new().tenant("acme").user("bob");
    put(store, clock, step("t", "1").run_id("r").channel("a", "1", text("of ada"))).await;
    write(store, "t", "1", "a", "of ada").await;
    for other in [bob(), Scope::new(), Scope::new().tenant("acme")] {
        assert_eq!(store.get(GetCheckpoint::last("t").scope(&other)).await.expect("get"), None);
        let listed = store.list(ListCheckpoints::default().scope(&other), 10).await.expect("list");
        assert!(listed.checkpoints.is_empty());
        let copy = CopyThread { scope: other.clone(), ..CopyThread::new("t", "stolen") };
        assert_eq!(store.copy_thread(copy).await.expect("copy"), 0);
        assert_eq!(store.delete_for_runs(DeleteRuns::new(["r"]).scope(&other)).await.expect("delete"), 0);
        assert_eq!(store.delete_thread(DeleteThread::new("t").scope(&other)).await.expect("delete"), 0);
        let prune = Prune { strategy: PruneStrategy::Delete, ..Prune::new(["t"]).scope(&other) };
        assert_eq!(store.prune(prune).await.expect("prune"), 0);
        let query = DeltaQuery { scope: other, id: Some("1".into()), ..DeltaQuery::new("t", ["a"]) };
        let history = store.deltas(query).await.expect("deltas");
        assert!(history["a"].seed.is_none() && history["a"].writes.is_empty());
    }
    // The same names, and the same versions, in another wall.
    put(store, clock, NewCheckpoint::new("t", "2", text("2")).scope(bob()).kept("a", "1")).await;
    assert!(
        store.get(GetCheckpoint::last("t").scope(bob())).await.expect("get").expect("it was put").channels.is_empty()
    );
    let mine = get(store, "t", "1").await.expect("it is still there");
    assert_eq!((mine.channels["a"].clone(), mine.writes.len()), (text("of ada"), 1));
}

async fn deltas_are_read_along_the_parents(store: &impl CheckpointStore, clock: &ManualClock) {
    put(store, clock, step("t", "1").channel("log", "1", text("seed"))).await;
    write(store, "t", "1", "log", "one").await;
    put(store, clock, step("t", "2").delta("log")).await;
    write(store, "t", "2", "log", "two").await;
    // A side line, which is not on the way.
    put(store, clock, step("t", "2b").parent("1").delta("log")).await;
    write(store, "t", "2b", "log", "aside").await;
    put(store, clock, step("t", "3").parent("2").delta("log")).await;
    write(store, "t", "3", "log", "pending").await;
    let query = DeltaQuery { scope: ada(), id: Some("3".into()), ..DeltaQuery::new("t", ["log", "never"]) };
    let history = store.deltas(query).await.expect("deltas");
    let written: Vec<_> = history["log"].writes.iter().map(|write| write.value.clone()).collect();
    assert_eq!((history["log"].seed.clone(), written), (Some(text("seed")), vec![text("one"), text("two")]));
    assert!(history["never"].seed.is_none() && history["never"].writes.is_empty());
    // A checkpoint that was put again under a descendant of its own.
    put(store, clock, step("t", "1").parent("3")).await;
    let query = DeltaQuery { scope: ada(), ..DeltaQuery::new("t", ["log"]) };
    let history = store.deltas(query).await.expect("a loop ends");
    assert_eq!(history["log"].writes.len(), 2);
}

async fn pruning_keeps_what_a_delta_needs(store: &impl CheckpointStore, clock: &ManualClock) {
    put(store, clock, step("t", "1").channel("log", "1", text("old"))).await;
    put(store, clock, step("t", "2").channel("log", "2", text("seed")).channel("big", "1", messages(50))).await;
    write(store, "t", "2", "log", "one").await;
    put(store, clock, step("t", "3").delta("log").kept("big", "1")).await;
    write(store, "t", "3", "log", "two").await;
    put(store, clock, step("t", "4").delta("log").kept("big", "1")).await;
    put(store, clock, step("t", "1").namespace("child")).await;
    put(store, clock, step("t", "2").namespace("child")).await;
    assert_eq!(store.prune(Prune::new(["t", "nobody"]).scope(ada())).await.expect("prune"), 2);
    assert_eq!(ids(store, ListCheckpoints::thread("t")).await, ["4", "3", "2", "2"]);
    let query = DeltaQuery { scope: ada(), ..DeltaQuery::new("t", ["log"]) };
    let history = store.deltas(query).await.expect("deltas");
    assert_eq!((history["log"].seed.clone(), history["log"].writes.len()), (Some(text("seed")), 2));
    // A value at the last checkpoint itself frees its ancestors.
    put(store, clock, step("t", "5").channel("log", "3", text("snapshot")).kept("big", "1")).await;
    store.prune(Prune::new(["t"]).scope(ada())).await.expect("prune");
    assert_eq!(ids(store, ListCheckpoints::thread("t")).await, ["5", "2"]);
    let last = get(store, "t", "5").await.expect("it was kept");
    assert_eq!((&last.channels["log"], &last.channels["big"]), (&text("snapshot"), &messages(50)));
}

async fn pruning_and_deleting_leave_what_others_share(store: &impl CheckpointStore, clock: &ManualClock) {
    for thread in ["t", "u"] {
        put(store, clock, step(thread, "1").run_id("first").channel("messages", "1", messages(80))).await;
        write(store, thread, "1", "messages", "x").await;
        put(store, clock, step(thread, "2").run_id("second").channel("messages", "2", messages(81))).await;
    }
    assert_eq!(store.delete_for_runs(DeleteRuns::new(["first", "none"]).scope(ada())).await.expect("delete"), 2);
    assert_eq!(get(store, "t", "1").await, None);
    assert_eq!(get(store, "t", "2").await.expect("it was kept").channels["messages"], messages(81));
    put(store, clock, step("t", "1")).await;
    assert!(get(store, "t", "1").await.expect("it was put").writes.is_empty(), "writes go with their checkpoint");
    assert_eq!(store.delete_thread(DeleteThread::new("t").scope(ada())).await.expect("delete"), 2);
    assert_eq!(ids(store, ListCheckpoints::thread("t")).await, Vec::<String>::new());
    assert_eq!(get(store, "u", "2").await.expect("it was kept").channels["messages"], messages(81));
    let all = Prune { strategy: PruneStrategy::Delete, ..Prune::new(["u"]).scope(ada()) };
    assert_eq!(store.prune(all).await.expect("prune"), 1);
    assert_eq!(ids(store, ListCheckpoints::default()).await, Vec::<String>::new());
}

async fn copies_are_whole_and_apart(store: &impl CheckpointStore, clock: &ManualClock) {
    put(store, clock, step("t", "1").metadata("n", 1).channel("messages", "1", messages(70))).await;
    write(store, "t", "1", "messages", "x").await;
    put(store, clock, step("t", "2").kept("messages", "1")).await;
    put(store, clock, step("t", "1").namespace("child")).await;
    let copy = || CopyThread { scope: ada(), ..CopyThread::new("t", "u") };
    assert_eq!(store.copy_thread(copy()).await.expect("copy"), 3);
    let all = |thread: &str| ListCheckpoints::thread(thread).scope(ada());
    let source = store.list(all("t"), 10).await.expect("list").checkpoints;
    let target = store.list(all("u"), 10).await.expect("list").checkpoints;
    let renamed: Vec<_> = target.into_iter().map(|copy| Checkpoint { thread: "t".into(), ..copy }).collect();
    assert_eq!(renamed, source);
    assert_eq!(store.copy_thread(copy()).await.expect_err("it is taken").kind(), ErrorKind::Conflict);
    store.delete_thread(DeleteThread::new("t").scope(ada())).await.expect("delete");
    assert_eq!(get(store, "u", "2").await.expect("it is apart").channels["messages"], messages(70));
    assert_eq!(store.copy_thread(CopyThread { scope: ada(), ..CopyThread::new("none", "v") }).await.expect("copy"), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::SqliteStore;

    #[tokio::test]
    async fn sqlite_in_a_file_is_a_checkpoint_store() {
        let directories = parking_lot::Mutex::new(Vec::new());
        checkpoint_store(async |clock| {
            let directory = tempfile::tempdir().expect("a directory");
            let store = SqliteStore::in_directory(directory.path()).clock(clock).build();
            directories.lock().push(directory);
            store
        })
        .await;
    }

    #[tokio::test]
    async fn sqlite_in_memory_is_a_checkpoint_store() {
        checkpoint_store(async |clock| SqliteStore::in_memory().clock(clock).build()).await;
    }
}
