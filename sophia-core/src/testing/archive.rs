//! What every store must do to be taken out and put in.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use serde_json::json;

use crate::{
    Clock, ErrorKind, ManualClock, Scope,
    memory::{
        Archive, CheckpointStore, Encoded, GraphStore, Item, KeptRecord, KvEntry, KvKey, KvTier, KvValue, MemoryStore,
        NewCheckpoint, NewEntity, NewFact, NewWrites, Outcome, Part, Record, Status, Update,
        store::{Atomicity, Change, Depth, Draft, Filter, NamedVector},
    },
};

/// Runs the suite of [`Archive`]. `make` gives an empty store each time.
///
/// # Panics
/// Where the store does not do what it must.
pub async fn archive<S, F>(make: impl Fn(Arc<dyn Clock>) -> F)
where
    S: Archive + MemoryStore + GraphStore + CheckpointStore + KvTier,
    F: Future<Output = S>,
{
    let clock = Arc::new(ManualClock::default());
    let store = || make(clock.clone());
    what_is_taken_out_and_put_in_is_the_same(&store().await, &store().await, &clock).await;
    what_is_newer_stays(&store().await, &clock).await;
    a_scope_holds(&store().await, &clock).await;
    all_of_a_page_is_written_or_nothing(&store().await, &clock).await;
    a_number_leaves_room_for_others(&store().await, &clock).await;
    what_says_no_time_changes_nothing_that_is_there(&store().await, &clock).await;
}

fn ada() -> Scope {
    Scope::new().tenant("acme").user("ada")
}

fn bob() -> Scope {
    Scope::new().tenant("acme").user("bob")
}

fn record(scope: &Scope, id: &str, clock: &ManualClock) -> Record {
    let value = json!({
        "id": id, "seq": 0, "version": 1, "content": format!("the text of {id}"), "kind": "note", "category": null,
        "tags": ["a", "b"], "metadata": {"n": 1.5}, "summary": null, "source": null, "role": null, "importance": 0.7,
        "priority": "high", "status": "active", "scope": scope, "created_at": clock.now(), "updated_at": clock.now(),
        "expires_at": null
    });
    serde_json::from_value(value).expect("a record")
}

async fn fill(store: &(impl MemoryStore + GraphStore + CheckpointStore + KvTier), clock: &ManualClock) {
    let now = clock.now();
    let vector = Some(NamedVector { model: "m".to_owned(), values: vec![0.6, 0.8] });
    for (scope, id) in [(ada().session("s1"), "r1"), (ada(), "r2"), (bob(), "r1")] {
        let draft = Draft { vector: vector.clone(), ..Draft::new(record(&scope, id, clock)) };
        store.insert(vec![draft], Atomicity::Together).await.expect("insert");
    }
    clock.advance(Duration::from_secs(1));
    for text in ["second", "third"] {
        let update = Update::new("r2").scope(ada()).content(text);
        store.update(Change { vector: vector.clone(), ..Change::new(update, clock.now()) }).await.expect("update");
    }
    store.upsert(NewEntity::new("ada").kind("person").attribute("age", 36).scope(ada()), now).await.expect("upsert");
    for (object, year) in [("acme", "2024"), ("globex", "2025")] {
        let at = format!("{year}-01-01T00:00:00Z").parse().expect("a time");
        let fact = NewFact::new("ada", "works_at", object).scope(ada()).valid_at(at).functional();
        store.relate(fact, now).await.expect("relate");
    }
    let mut entry = KvEntry::new(KvValue::new(json!({"plan": "pro"})));
    entry.tags = vec!["billing".to_owned()];
    store.set(&KvKey::new(&ada(), "plan"), Arc::new(entry)).await.expect("set");
    let value = |text: &str| Encoded::new("json", json!(text).to_string());
    let first = NewCheckpoint::new("t", "1", value("body")).scope(ada()).channel("c", "1", value("kept")).run_id("run");
    let second = NewCheckpoint::new("t", "2", value("body")).scope(ada()).parent("1").kept("c", "1");
    for checkpoint in [first, second.channel("d", "2", Encoded::new("raw", [0xff, 0x00]))] {
        CheckpointStore::put(store, checkpoint, now).await.expect("put");
    }
    let writes = NewWrites::new("t", "2", "task").scope(ada()).path("p");
    store.put_writes(writes.write("c", 0, value("one")).write("d", -1, value("two"))).await.expect("writes");
}

/// Takes everything out, two items at a time.
async fn everything(store: &impl Archive, scope: Option<Scope>) -> Vec<Item> {
    let mut items = Vec::new();
    for part in Part::ALL {
        let mut after = None;
        loop {
            let page = store.read_items(part, scope.clone(), after, 2).await.expect("read");
            items.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    items
}

fn counts(items: &[Item]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        let name = match item.part() {
            Part::Records => "records",
            Part::Entities => "entities",
            Part::Facts => "facts",
            Part::Keys => "keys",
            Part::Checkpoints => "checkpoints",
            Part::Writes => "writes",
        };
        *counts.entry(name).or_default() += 1;
    }
    counts
}

async fn what_is_taken_out_and_put_in_is_the_same<S>(from: &S, to: &S, clock: &ManualClock)
where
    S: Archive + MemoryStore + GraphStore + CheckpointStore + KvTier,
{
    fill(from, clock).await;
    let items = everything(from, None).await;
    // The fact that ended is there as it was believed, as it ended, and as it is followed.
    let expected = [("checkpoints", 2), ("entities", 1), ("facts", 3), ("keys", 1), ("records", 3), ("writes", 1)];
    assert_eq!(counts(&items), BTreeMap::from(expected));
    let Item::Record(second) = &items[1] else { panic!("records come first") };
    assert_eq!((second.record.version, second.versions.len(), second.vector.is_some()), (3, 2, true));
    // Through JSON, as a file has it.
    let lines: Vec<String> = items.iter().map(|item| serde_json::to_string(item).expect("JSON")).collect();
    let read: Vec<Item> = lines.iter().map(|line| serde_json::from_str(line).expect("an item")).collect();
    assert_eq!(read, items);
    let outcomes = to.write_items(read.clone()).await.expect("write");
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Added), "{outcomes:?}");
    assert_eq!(everything(to, None).await, items);
    let again = to.write_items(read).await.expect("write");
    assert!(again.iter().all(|outcome| *outcome == Outcome::Unchanged), "{again:?}");
    assert_eq!(everything(to, None).await, items);
}

async fn what_is_newer_stays(store: &(impl Archive + MemoryStore), clock: &ManualClock) {
    let kept =
        |record: Record| serde_json::from_value::<Item>(json!({"type": "record", "record": record})).expect("an item");
    let mut own = record(&ada(), "r", clock);
    store.write_items(vec![kept(own.clone())]).await.expect("write");
    clock.advance(Duration::from_secs(10));
    let update = Update::new("r").scope(ada()).content("changed here");
    let here = store.update(Change::new(update, clock.now())).await.expect("update");
    own.content = "older, from elsewhere".to_owned();
    assert_eq!(store.write_items(vec![kept(own.clone())]).await.expect("write"), [Outcome::Unchanged]);
    clock.advance(Duration::from_secs(10));
    own.updated_at = clock.now();
    assert_eq!(store.write_items(vec![kept(own)]).await.expect("write"), [Outcome::Updated]);
    let lookup = crate::memory::store::Lookup::new(crate::memory::store::Key::Id("r".to_owned()), ada(), clock.now());
    let versions = store.versions(lookup).await.expect("versions");
    let texts: Vec<_> = versions.iter().map(|version| version.content.as_str()).collect();
    assert_eq!(texts, ["the text of r", "changed here", "older, from elsewhere"]);
    assert_eq!(versions[2].version, here.version + 1);
}

async fn a_scope_holds<S>(store: &S, clock: &ManualClock)
where
    S: Archive + MemoryStore + GraphStore + CheckpointStore + KvTier,
{
    fill(store, clock).await;
    assert_eq!(counts(&everything(store, Some(bob())).await), BTreeMap::from([("records", 1)]));
    assert_eq!(everything(store, Some(Scope::new().user("ada"))).await, []);
    let talk = everything(store, Some(ada().session("s1"))).await;
    assert_eq!(counts(&talk), BTreeMap::from([("records", 1)]), "a session has records only");
}

async fn all_of_a_page_is_written_or_nothing(store: &(impl Archive + MemoryStore), clock: &ManualClock) {
    let kept = |scope: &Scope, id: &str, clock: &ManualClock| {
        serde_json::from_value::<Item>(json!({"type": "record", "record": record(scope, id, clock)})).expect("an item")
    };
    store.write_items(vec![kept(&ada().session("s1"), "taken", clock)]).await.expect("write");
    clock.advance(Duration::from_secs(1));
    let page = vec![kept(&ada(), "new", clock), kept(&ada().session("s2"), "taken", clock)];
    assert_eq!(store.write_items(page).await.expect_err("taken").kind(), ErrorKind::Conflict);
    assert_eq!(everything(store, None).await.len(), 1);
}

async fn a_number_leaves_room_for_others(store: &(impl Archive + MemoryStore), clock: &ManualClock) {
    for seq in [i64::MAX, i64::MIN, 0, 1 << 53] {
        let kept = Record { seq, ..record(&ada(), &format!("from {seq}"), clock) };
        let item = serde_json::from_value(json!({"type": "record", "record": kept})).expect("an item");
        assert_eq!(store.write_items(vec![item]).await.expect("write"), [Outcome::Added]);
        let draft = Draft::new(record(&ada(), &format!("after {seq}"), clock));
        let placed = store.insert(vec![draft], Atomicity::Together).await.expect("insert");
        let placed = placed[0].as_ref().expect("placed");
        assert!((1..100).contains(&placed.seq), "{placed:?}");
    }
}

async fn what_says_no_time_changes_nothing_that_is_there(store: &(impl Archive + MemoryStore), clock: &ManualClock) {
    let item = |content: &str| {
        let record = Record { content: content.to_owned(), ..record(&ada(), "r", clock) };
        let kept = KeptRecord { record, versions: Vec::new(), vector: None, is_undated: true };
        vec![Item::Record(Box::new(kept))]
    };
    assert_eq!(store.write_items(item("first")).await.expect("write"), [Outcome::Added]);
    clock.advance(Duration::from_secs(1));
    let filter = Filter { ids: Some(vec!["r".to_owned()]), ..Filter::new(vec![ada()], clock.now()) };
    assert_eq!(store.delete(filter, Depth::Archive).await.expect("delete"), 1);
    clock.advance(Duration::from_secs(1));
    assert_eq!(store.write_items(item("second")).await.expect("write"), [Outcome::Unchanged]);
    let [Item::Record(kept)] = &everything(store, None).await[..] else { panic!("one record") };
    assert_eq!((kept.record.content.as_str(), kept.record.status), ("first", Status::Archived));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::memory::SqliteStore;

    #[tokio::test]
    async fn sqlite_in_a_file_passes() {
        let directory = tempfile::tempdir().expect("a directory");
        let next = AtomicUsize::new(0);
        archive(async |clock| {
            let own = directory.path().join(next.fetch_add(1, Ordering::Relaxed).to_string());
            SqliteStore::in_directory(own).clock(clock).build()
        })
        .await;
    }

    #[tokio::test]
    async fn sqlite_in_memory_passes() {
        archive(async |clock| SqliteStore::in_memory().clock(clock).build()).await;
    }
}
