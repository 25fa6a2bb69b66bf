//! What every store of records must do with what is above its cap.

use std::{future::Future, sync::Arc, time::Duration};

use serde_json::json;

use crate::{
    Clock, ManualClock, Scope,
    memory::{
        MemoryStore, Record, RetentionConfig,
        store::{Atomicity, Depth, Draft, Filter, Listing},
    },
};

/// Longer than the time between two purges.
const UNTIL_THE_NEXT_PURGE: Duration = Duration::from_secs(61);

/// Runs the suite of retention. `make` gives an empty store each time, which keeps to the configuration and reads the clock that
/// it is given.
///
/// # Panics
/// Where the store does not do what it must.
pub async fn retention<S, F>(make: impl Fn(RetentionConfig, Arc<dyn Clock>) -> F)
where
    S: MemoryStore,
    F: Future<Output = S>,
{
    let clock = Arc::new(ManualClock::default());
    let store = |config: RetentionConfig| make(config, clock.clone());
    let cap = |most| RetentionConfig { max_records: Some(most), ..RetentionConfig::default() };
    let half_life = |most| RetentionConfig { half_life: Some(Duration::from_secs(3_600)), ..cap(most) };
    what_is_worth_least_goes_first(&store(half_life(4)).await, &clock).await;
    without_a_half_life_age_decides_between_equals(&store(cap(2)).await, &clock).await;
    what_is_archived_goes_first_and_what_is_pinned_stays(&store(half_life(2)).await, &clock).await;
    walls_count_for_themselves(&store(cap(2)).await, &clock).await;
    what_is_left_is_found(&store(cap(2)).await, &clock).await;
    without_a_cap_all_stays(&store(RetentionConfig::default()).await, &clock).await;
}

fn ada() -> Scope {
    Scope::new().tenant("acme").user("ada")
}

async fn put(store: &impl MemoryStore, clock: &ManualClock, scope: &Scope, id: &str, importance: f64) {
    let value = json!({
        "id": id, "seq": 0, "version": 1, "content": format!("text {id}"), "kind": "note", "category": null, "tags": [],
        "metadata": {}, "summary": null, "source": null, "role": null, "importance": importance, "priority": "medium",
        "status": "active", "scope": scope, "created_at": clock.now(), "updated_at": clock.now(), "expires_at": null
    });
    let record: Record = serde_json::from_value(value).expect("a record");
    let results = store.insert(vec![Draft::new(record)], Atomicity::Together).await.expect("insert");
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

/// Stores something for somebody else a while later, which is when what is above a cap is dropped.
async fn purge(store: &impl MemoryStore, clock: &ManualClock) {
    clock.advance(UNTIL_THE_NEXT_PURGE);
    put(store, clock, &Scope::new().user("somebody else"), &clock.now().to_string(), 0.5).await;
}

async fn left(store: &impl MemoryStore, clock: &ManualClock, scope: &Scope) -> Vec<String> {
    let filter = Filter { include_archived: true, ..Filter::new(vec![scope.clone()], clock.now()) };
    let records = store.list(Listing { filter, limit: 100 }).await.expect("list");
    let mut ids: Vec<String> = records.into_iter().map(|record| record.id).collect();
    ids.sort();
    ids
}

async fn what_is_worth_least_goes_first(store: &impl MemoryStore, clock: &ManualClock) {
    put(store, clock, &ada(), "old", 0.9).await;
    clock.advance(Duration::from_secs(4 * 3_600));
    for (id, importance) in [("a", 0.5), ("b", 0.6), ("low", 0.1), ("c", 0.7), ("d", 0.5)] {
        put(store, clock, &ada(), id, importance).await;
    }
    purge(store, clock).await;
    // `old` is worth 0.9 / 2^4 by now: less than `low`.
    assert_eq!(left(store, clock, &ada()).await, ["a", "b", "c", "d"]);
    // Beyond so many half-lives, importance decides again.
    clock.advance(Duration::from_secs(10 * 365 * 24 * 3_600));
    put(store, clock, &ada(), "new", 0.01).await;
    purge(store, clock).await;
    assert_eq!(left(store, clock, &ada()).await, ["b", "c", "d", "new"]);
}

async fn without_a_half_life_age_decides_between_equals(store: &impl MemoryStore, clock: &ManualClock) {
    for (id, importance) in [("1", 0.5), ("2", 0.4), ("3", 0.5), ("4", 0.5)] {
        clock.advance(Duration::from_secs(3_600));
        put(store, clock, &ada(), id, importance).await;
    }
    purge(store, clock).await;
    assert_eq!(left(store, clock, &ada()).await, ["3", "4"]);
}

async fn what_is_archived_goes_first_and_what_is_pinned_stays(store: &impl MemoryStore, clock: &ManualClock) {
    for (id, importance) in [("archived", 0.9), ("low", 0.1), ("pinned", 1.0)] {
        put(store, clock, &ada(), id, importance).await;
    }
    let archived = Filter { ids: Some(vec!["archived".to_owned()]), ..Filter::new(vec![ada()], clock.now()) };
    assert_eq!(store.delete(archived, Depth::Archive).await.expect("delete"), 1);
    purge(store, clock).await;
    assert_eq!(left(store, clock, &ada()).await, ["low", "pinned"]);
    for id in ["pinned too", "and this"] {
        put(store, clock, &ada(), id, 1.0).await;
    }
    purge(store, clock).await;
    assert_eq!(left(store, clock, &ada()).await, ["and this", "pinned", "pinned too"], "no cap drops what is pinned");
}

async fn walls_count_for_themselves(store: &impl MemoryStore, clock: &ManualClock) {
    let bob = Scope::new().tenant("acme").user("bob");
    let elsewhere = Scope::new().tenant("globex").user("ada");
    for id in ["1", "2"] {
        for scope in [&bob, &elsewhere] {
            put(store, clock, scope, id, 0.5).await;
        }
        // The sessions of a user are one wall.
        for session in ["x", "y"] {
            put(store, clock, &ada().session(session), &format!("{id}{session}"), 0.5).await;
        }
    }
    purge(store, clock).await;
    assert_eq!(left(store, clock, &ada()).await, ["2x", "2y"]);
    assert_eq!(left(store, clock, &bob).await, ["1", "2"]);
    assert_eq!(left(store, clock, &elsewhere).await, ["1", "2"]);
}

async fn what_is_left_is_found(store: &impl MemoryStore, clock: &ManualClock) {
    for id in ["1", "2", "3"] {
        put(store, clock, &ada(), id, 0.5).await;
    }
    purge(store, clock).await;
    let plan = crate::memory::store::Plan::new(Filter::new(vec![ada()], clock.now()), "text");
    let found = store.search(plan).await.expect("search");
    let mut ids: Vec<_> = found.matches.iter().map(|found| found.record.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["2", "3"]);
    // The one record is of somebody else.
    assert_eq!(store.stats().await.expect("stats").records, 3);
}

async fn without_a_cap_all_stays(store: &impl MemoryStore, clock: &ManualClock) {
    for number in 0..10 {
        put(store, clock, &ada(), &number.to_string(), 0.0).await;
    }
    purge(store, clock).await;
    assert_eq!(left(store, clock, &ada()).await.len(), 10);
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
        retention(async |config, clock| {
            let own = directory.path().join(next.fetch_add(1, Ordering::Relaxed).to_string());
            SqliteStore::in_directory(own).clock(clock).retention(config).build()
        })
        .await;
    }

    #[tokio::test]
    async fn sqlite_in_memory_passes() {
        retention(async |config, clock| SqliteStore::in_memory().clock(clock).retention(config).build()).await;
    }
}
