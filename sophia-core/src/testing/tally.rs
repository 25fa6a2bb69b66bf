//! What every store of numbers must do.

use std::{future::Future, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use crate::{
    Clock, ManualClock,
    tally::{Applied, TallyChange, TallyStore},
};

/// Runs the suite of [`TallyStore`]. `make` gives an empty store each time, which reads the clock that it is given.
///
/// # Panics
/// Where the store does not do what it must.
pub async fn tally_store<S, F>(make: impl Fn(Arc<dyn Clock>) -> F)
where
    S: TallyStore,
    F: Future<Output = S>,
{
    // Some technologies have a clock of their own, which a test cannot move: so it begins at the present.
    let clock = Arc::new(ManualClock::new(Timestamp::now()));
    let store = || make(clock.clone());
    sums_add_up_and_are_read_by_group(&store().await, &clock).await;
    a_floor_lifts_what_is_below_it(&store().await, &clock).await;
    a_time_that_cannot_be_is_not_believed(&store().await, &clock).await;
    all_changes_are_applied_or_none(&store().await, &clock).await;
    what_has_expired_is_gone(&store().await, &clock).await;
    a_batch_that_was_refused_can_be_tried_again(&store().await, &clock).await;
    no_change_is_lost_among_many_at_once(Arc::new(store().await), &clock).await;
}

fn later(clock: &ManualClock) -> Timestamp {
    clock.now() + SignedDuration::from_hours(1)
}

async fn apply(store: &impl TallyStore, changes: &[TallyChange]) -> Applied {
    store.apply(changes).await.expect("changes are applied")
}

async fn read(store: &impl TallyStore, group: &str) -> Vec<(String, f64)> {
    let mut numbers = store.read(group).await.expect("a group is read");
    numbers.sort_by(|a, b| a.0.cmp(&b.0));
    numbers
}

/// Returns whether a time is what it should be. A store with a clock of its own goes on while a test holds its clock still.
fn is_about(time: f64, expected: f64) -> bool {
    (time - expected).abs() < 10e6
}

async fn sums_add_up_and_are_read_by_group(store: &impl TallyStore, clock: &ManualClock) {
    let add = |group: &str, field: &str, amount| TallyChange::add(group, field, amount, later(clock));
    let first = apply(store, &[add("g", "a", 1.5), add("g", "b \"\n ü", 1e-6), add("other", "a", 7.0)]).await;
    assert_eq!((first.applied, first.numbers), (true, vec![1.5, 1e-6, 7.0]));
    assert_eq!(apply(store, &[add("g", "a", 0.1)]).await.numbers, [1.5 + 0.1]);
    assert_eq!(read(store, "g").await, [("a".to_owned(), 1.6), ("b \"\n ü".to_owned(), 1e-6)]);
    assert_eq!(read(store, "other").await, [("a".to_owned(), 7.0)]);
    assert_eq!(read(store, "nobody").await, []);
    // As exact as a double is, also for times in microseconds.
    let time = 1_796_000_000_123_456.0;
    assert_eq!(apply(store, &[add("g", "time", time)]).await.numbers, [time]);
    assert_eq!(apply(store, &[add("g", "time", 1.0)]).await.numbers, [time + 1.0]);
}

async fn a_floor_lifts_what_is_below_it(store: &impl TallyStore, clock: &ManualClock) {
    let minute = 60e6;
    let change = |floor, amount| TallyChange::add("g", "free_at", amount * minute, later(clock)).floor(floor * minute);
    for (floor, amount, expected) in [(100.0, 5.0, 105.0), (102.0, 5.0, 110.0), (200.0, 0.0, 200.0)] {
        let number = apply(store, &[change(floor, amount)]).await.numbers[0];
        assert!(is_about(number, expected * minute), "{number}");
    }
    let oldest = |at: f64| TallyChange::add("g", "since", 0.0, later(clock)).floor(-at);
    for at in [50.0, 60.0, 70.0] {
        assert_eq!(apply(store, &[oldest(at)]).await.numbers, [-50.0], "the least is kept");
    }
}

async fn a_time_that_cannot_be_is_not_believed(store: &impl TallyStore, clock: &ManualClock) {
    let (now, hour) = (clock.now().as_microsecond() as f64, 3_600e6);
    let change = |amount| TallyChange::add("g", "free_at", amount, later(clock)).floor(now);
    for (amount, expected) in [(2.0 * hour, 2.0 * hour), (0.0, hour), (60e6, hour + 60e6), (0.0, hour)] {
        let number = apply(store, &[change(amount)]).await.numbers[0];
        assert!(is_about(number, now + expected), "{amount}: {number}");
    }
}

async fn all_changes_are_applied_or_none(store: &impl TallyStore, clock: &ManualClock) {
    let add = |field: &str, amount| TallyChange::add("g", field, amount, later(clock));
    let both = [add("a", 1.0).at_most(2.0), add("b", 1.0).at_most(10.0)];
    assert!(apply(store, &both).await.applied && apply(store, &both).await.applied);
    let refused = apply(store, &both).await;
    assert_eq!((refused.applied, refused.numbers), (false, vec![3.0, 3.0]), "what they would be");
    assert_eq!(read(store, "g").await, [("a".to_owned(), 2.0), ("b".to_owned(), 2.0)]);
    assert!(!apply(store, &[add("new", 1.0).at_most(0.5)]).await.applied);
    assert!(apply(store, &[add("a", 0.0).at_most(2.0)]).await.applied);
    assert!(!apply(store, &[add("a", 0.0).at_most(2.0_f64.next_down())]).await.applied);
}

async fn a_batch_that_was_refused_can_be_tried_again(store: &impl TallyStore, clock: &ManualClock) {
    let add = TallyChange::add("g", "a", 2.0, later(clock));
    let apply = async |batch: &str, change: &TallyChange| {
        store.apply_once(batch, std::slice::from_ref(change)).await.expect("a batch is applied").numbers
    };
    assert_eq!(apply("one", &add.clone().at_most(1.0)).await, [2.0]);
    assert_eq!(apply("one", &add).await, [2.0], "nothing was applied before");
    assert_eq!(apply("two", &add).await, [4.0]);
}

async fn what_has_expired_is_gone(store: &impl TallyStore, clock: &ManualClock) {
    let soon = Duration::from_millis(50);
    let until = clock.now() + SignedDuration::try_from(soon).unwrap_or_default();
    apply(store, &[TallyChange::add("short", "a", 1.0, until)]).await;
    apply(store, &[TallyChange::add("long", "a", 1.0, until), TallyChange::add("long", "b", 1.0, later(clock))]).await;
    apply(store, &[TallyChange::add("long", "a", 1.0, later(clock))]).await;
    clock.advance(soon);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !read(store, "short").await.is_empty() {
        assert!(std::time::Instant::now() < deadline, "it does not expire");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(apply(store, &[TallyChange::add("short", "a", 1.0, later(clock))]).await.numbers, [1.0]);
    assert_eq!(read(store, "long").await, [("a".to_owned(), 2.0), ("b".to_owned(), 1.0)]);
}

async fn no_change_is_lost_among_many_at_once<S: TallyStore>(store: Arc<S>, clock: &ManualClock) {
    let expires_at = later(clock);
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let changes = [
                    TallyChange::add("g", "all", 1.0, expires_at),
                    TallyChange::add("g", "some", 1.0, expires_at).at_most(20.0),
                ];
                let _ = store.apply(&changes[..1]).await;
                usize::from(store.apply(&changes[1..]).await.is_ok_and(|outcome| outcome.applied))
            })
        })
        .collect();
    let mut let_through = 0;
    for task in tasks {
        let_through += task.await.expect("a task");
    }
    assert_eq!(let_through, 20);
    assert_eq!(read(&*store, "g").await, [("all".to_owned(), 50.0), ("some".to_owned(), 20.0)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{memory::SqliteStore, tally::LocalTallies};

    /// For stores whose errors do not say whether changes were applied.
    #[cfg(all(unix, feature = "redis"))]
    async fn a_batch_that_is_tried_again_counts_once(store: &impl TallyStore) {
        let changes = ["a", "b"].map(|group| TallyChange::add(group, "n", 1.0, Timestamp::MAX));
        for numbers in [[1.0, 1.0], [1.0, 1.0]] {
            let outcome = store.apply_once("one", &changes).await.unwrap();
            assert_eq!((outcome.applied, outcome.numbers), (true, numbers.to_vec()));
        }
        assert_eq!(store.apply_once("two", &changes).await.unwrap().numbers, [2.0, 2.0]);
        assert_eq!(read(store, "a").await, [("n".to_owned(), 2.0)]);
    }

    #[tokio::test]
    async fn this_process_counts() {
        tally_store(async |clock| LocalTallies::new(clock)).await;
    }

    #[tokio::test]
    async fn sqlite_counts() {
        let folder = tempfile::tempdir().unwrap();
        let number = std::sync::atomic::AtomicUsize::new(0);
        tally_store(async |clock| {
            let own = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
            SqliteStore::in_directory(folder.path().join(own)).clock(clock).build()
        })
        .await;
    }

    #[cfg(all(unix, feature = "redis"))]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn redis_counts() {
        use crate::{
            NoSignals,
            redis::{Redis, RedisConfig},
            tally::RedisTallies,
            testing::{RedisCluster, RedisServer},
        };
        let number = std::sync::atomic::AtomicUsize::new(0);
        let make = |mut config: RedisConfig, clock: Arc<dyn Clock>| {
            config.prefix = format!("t{}", number.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            config.timeout = Duration::from_secs(5);
            let redis = Redis::new(&config, Arc::new(NoSignals)).unwrap().unwrap();
            RedisTallies::new(&redis, clock)
        };
        let server = RedisServer::start();
        tally_store(async |clock| make(RedisConfig::url(server.url()), clock)).await;
        a_batch_that_is_tried_again_counts_once(&make(
            RedisConfig::url(server.url()),
            Arc::new(crate::SystemClock::default()),
        ))
        .await;
        // Times are the same for all, whatever their clocks say.
        let mut config = RedisConfig::url(server.url());
        config.prefix = "clocks".into();
        let redis = Redis::new(&config, Arc::new(NoSignals)).unwrap().unwrap();
        for hours in [1, 0, -1] {
            let time = Timestamp::now() + SignedDuration::from_hours(hours);
            let store = RedisTallies::new(&redis, Arc::new(ManualClock::new(time)));
            let now = time.as_microsecond() as f64;
            let change =
                |amount| TallyChange::add("g", "free_at", amount, time + SignedDuration::from_mins(2)).floor(now);
            let taken = apply(&store, &[change(20e6)]).await.numbers[0];
            assert!(is_about(taken, now + f64::from(20 * (2 - hours as i32)) * 1e6), "{hours}: {taken}");
        }
        let cluster = RedisCluster::start();
        tally_store(async |clock| make(RedisConfig::cluster(cluster.urls()), clock)).await;
        a_batch_that_is_tried_again_counts_once(&make(
            RedisConfig::cluster(cluster.urls()),
            Arc::new(crate::SystemClock::default()),
        ))
        .await;
    }
}
