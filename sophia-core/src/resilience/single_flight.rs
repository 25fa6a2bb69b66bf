//! The same work once for all who ask at the same time.
//!
//! The work is a task of its own and every caller, the first included, only waits for it. So a caller that is cancelled
//! harms nobody else; when the last one leaves, the work is aborted; and a panic in it is an error for those who wait. Work that
//! ends with what ran it, a runtime or an event loop, is begun anew by one who waits, with work of their own.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::watch, task::AbortHandle};

use crate::{Error, ErrorKind, Result};

/// What the context of an error says of work that was abandoned.
const ABANDONED: &str = "abandoned";

/// Coalesces concurrent work by key. Cheap to clone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sophia_core::Result<()> {
/// use std::sync::{Arc, atomic::{AtomicUsize, Ordering}};
/// use sophia_core::resilience::SingleFlight;
///
/// let (flights, calls) = (SingleFlight::new("example"), Arc::new(AtomicUsize::new(0)));
/// let ask = || flights.run("key", || { let calls = calls.clone(); async move {
///     calls.fetch_add(1, Ordering::SeqCst);
///     tokio::task::yield_now().await;
///     Ok(42)
/// }});
/// let (a, b) = futures::try_join!(ask(), ask())?;
/// assert_eq!((a.value, b.value, calls.load(Ordering::SeqCst)), (42, 42, 1));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct SingleFlight<K: Eq + Hash, V, A = ()> {
    operation: &'static str,
    flights: Arc<Mutex<HashMap<K, Flight<V, A>>>>,
    next_id: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Flight<V, A> {
    id: u64,
    waiters: usize,
    outcome: watch::Receiver<Option<Result<V>>>,
    abort: AbortHandle,
    /// What all aboard share with the work.
    aboard: Arc<A>,
}

/// How a caller came by its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its call began the work.
    Leader,
    /// The work was under way.
    Follower,
}

/// An answer, and how the caller came by it.
#[derive(Debug, Clone, PartialEq)]
pub struct Flown<V> {
    /// The answer.
    pub value: V,
    /// Whether this caller began the work.
    pub role: Role,
}

impl<K, V, A> Clone for SingleFlight<K, V, A>
where
    K: Eq + Hash,
{
    fn clone(&self) -> Self {
        SingleFlight { operation: self.operation, flights: self.flights.clone(), next_id: self.next_id.clone() }
    }
}

impl<K: Eq + Hash, V> SingleFlight<K, V> {
    /// Creates an empty set of flights; `operation` stands in its errors.
    pub fn new(operation: &'static str) -> SingleFlight<K, V> {
        SingleFlight::with_aboard(operation)
    }
}

impl<K: Eq + Hash, V, A> SingleFlight<K, V, A> {
    /// Does what [`SingleFlight::new`] does, for [`SingleFlight::run_with`].
    pub fn with_aboard(operation: &'static str) -> SingleFlight<K, V, A> {
        SingleFlight { operation, flights: Arc::default(), next_id: Arc::default() }
    }
}

impl<K, V, A> SingleFlight<K, V, A>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
    A: Default + Send + Sync + 'static,
{
    /// Returns how many flights are under way.
    pub fn in_flight(&self) -> usize {
        self.flights.lock().len()
    }

    /// Returns whether work of this key is under way.
    pub fn is_under_way(&self, key: &K) -> bool {
        self.flights.lock().contains_key(key)
    }

    /// Waits for the work under `key`, beginning it with `work` if nobody has.
    ///
    /// # Errors
    /// What the work returns; [`ErrorKind::Internal`] if it panics; [`ErrorKind::Cancelled`], for who began it, if what runs it
    /// stops.
    ///
    /// # Cancel safety
    /// Dropping the call leaves the flight; the last one to leave aborts the work.
    pub async fn run<F, W>(&self, key: K, work: F) -> Result<Flown<V>>
    where
        F: FnOnce() -> W,
        W: Future<Output = Result<V>> + Send + 'static,
    {
        self.run_with(key, |_| {}, |_| work()).await
    }

    /// Does what [`SingleFlight::run`] does, with something that all callers share with the work: `join` is shown it for each
    /// caller, before the call waits.
    ///
    /// # Errors
    /// As [`SingleFlight::run`].
    pub async fn run_with<F, W>(&self, key: K, join: impl Fn(&A), mut work: F) -> Result<Flown<V>>
    where
        F: FnOnce(Arc<A>) -> W,
        W: Future<Output = Result<V>> + Send + 'static,
    {
        loop {
            let (mut seat, unused) = self.board(key.clone(), &join, work)?;
            let role = if unused.is_some() { Role::Follower } else { Role::Leader };
            let outcome = match seat.outcome.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone(),
                Err(_) => None,
            };
            match (outcome, unused) {
                (None, Some(unused)) => work = unused,
                (Some(Err(error)), Some(unused)) if is_abandoned(&error) => work = unused,
                (Some(outcome), _) => return outcome.map(|value| Flown { value, role }),
                (None, None) => return Err(abandoned(self.operation, "the work was stopped by a shutdown")),
            }
        }
    }

    /// Takes a seat; gives the work back where other work is under way.
    fn board<F, W>(&self, key: K, join: impl Fn(&A), work: F) -> Result<(Seat<K, V, A>, Option<F>)>
    where
        F: FnOnce(Arc<A>) -> W,
        W: Future<Output = Result<V>> + Send + 'static,
    {
        let mut flights = self.flights.lock();
        // One whose runtime stopped has left no outcome, and nobody who would.
        if let Some(flight) = flights.get_mut(&key).filter(|flight| flight.outcome.has_changed().is_ok()) {
            flight.waiters += 1;
            join(&flight.aboard);
            return Ok((self.seat(key, flight.id, flight.outcome.clone()), Some(work)));
        }
        let runtime = Handle::try_current()
            .map_err(|_| Error::new(ErrorKind::Internal, self.operation, "called outside a tokio runtime"))?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (report, outcome) = watch::channel(None);
        let aboard = Arc::new(A::default());
        join(&aboard);
        let task = runtime.spawn({
            let (work, operation) = (work(aboard.clone()), self.operation);
            let (flights, key) = (self.flights.clone(), key.clone());
            async move {
                let result = AssertUnwindSafe(work)
                    .catch_unwind()
                    .await
                    .unwrap_or_else(|panic| Err(panicked(operation, &*panic)));
                // Leave first: who comes now starts anew, or finds what the work has cached.
                remove(&mut flights.lock(), &key, id);
                report.send_replace(Some(result));
            }
        });
        let flight = Flight { id, waiters: 1, outcome: outcome.clone(), abort: task.abort_handle(), aboard };
        flights.insert(key.clone(), flight);
        Ok((self.seat(key, id, outcome), None))
    }

    fn seat(&self, key: K, id: u64, outcome: watch::Receiver<Option<Result<V>>>) -> Seat<K, V, A> {
        Seat { flights: self.flights.clone(), key, id, outcome }
    }
}

/// Makes the error of work that ended with what ran it, which says nothing about others who ask the same: one of them begins theirs.
pub fn abandoned(operation: &'static str, message: &'static str) -> Error {
    Error::new(ErrorKind::Cancelled, operation, message).with(ABANDONED, true)
}

fn is_abandoned(error: &Error) -> bool {
    error.get(ABANDONED).is_some()
}

/// One caller's place on a flight, given up when dropped.
struct Seat<K: Eq + Hash, V, A> {
    flights: Arc<Mutex<HashMap<K, Flight<V, A>>>>,
    key: K,
    id: u64,
    outcome: watch::Receiver<Option<Result<V>>>,
}

impl<K: Eq + Hash, V, A> Drop for Seat<K, V, A> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        let Some(flight) = flights.get_mut(&self.key).filter(|flight| flight.id == self.id) else { return };
        flight.waiters -= 1;
        if flight.waiters == 0 {
            flight.abort.abort();
            flights.remove(&self.key);
        }
    }
}

fn remove<K: Eq + Hash, V, A>(flights: &mut HashMap<K, Flight<V, A>>, key: &K, id: u64) {
    if flights.get(key).is_some_and(|flight| flight.id == id) {
        flights.remove(key);
    }
}

fn panicked(operation: &'static str, panic: &(dyn std::any::Any + Send)) -> Error {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::new(ErrorKind::Internal, operation, format!("the work panicked: {}", message.unwrap_or("no message")))
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, time::Duration};

    use tokio::sync::Notify;

    use super::*;

    /// Work that counts its starts and its end, and waits until it may finish.
    #[derive(Clone, Default)]
    struct Work {
        started: Arc<AtomicUsize>,
        dropped: Arc<AtomicUsize>,
        go: Arc<Notify>,
    }

    struct CountsDrop(Arc<AtomicUsize>);

    impl Drop for CountsDrop {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Work {
        async fn run(self) -> Result<usize> {
            let _dropped = CountsDrop(self.dropped.clone());
            let turn = self.started.fetch_add(1, Ordering::SeqCst);
            self.go.notified().await;
            Ok(turn)
        }
    }

    async fn until(condition: impl Fn() -> bool) {
        tokio::time::timeout(Duration::from_secs(10), async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the condition never came true");
    }

    fn join(flights: &SingleFlight<u8, usize>, work: &Work) -> tokio::task::JoinHandle<Result<Flown<usize>>> {
        let (flights, work) = (flights.clone(), work.clone());
        tokio::spawn(async move { flights.run(1, || work.run()).await })
    }

    fn waiters(flights: &SingleFlight<u8, usize>) -> usize {
        flights.flights.lock().get(&1).map_or(0, |flight| flight.waiters)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_hundred_callers_start_one_flight() {
        let (flights, work) = (SingleFlight::new("test"), Work::default());
        let calls: Vec<_> = (0..200).map(|_| join(&flights, &work)).collect();
        until(|| waiters(&flights) == 200).await;
        work.go.notify_one();
        let mut leaders = 0;
        for call in calls {
            leaders += usize::from(call.await.unwrap().unwrap().role == Role::Leader);
        }
        assert_eq!((leaders, work.started.load(Ordering::SeqCst), flights.in_flight()), (1, 1, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_others_get_the_answer_when_the_leader_is_cancelled() {
        let (flights, work) = (SingleFlight::new("test"), Work::default());
        let leader = join(&flights, &work);
        until(|| work.started.load(Ordering::SeqCst) == 1).await;
        let follower = join(&flights, &work);
        until(|| waiters(&flights) == 2).await;
        leader.abort();
        assert!(leader.await.unwrap_err().is_cancelled());
        work.go.notify_one();
        assert_eq!(follower.await.unwrap().unwrap(), Flown { value: 0, role: Role::Follower });
        assert_eq!(work.started.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_last_to_leave_aborts_the_work_and_the_next_starts_anew() {
        let (flights, work) = (SingleFlight::new("test"), Work::default());
        let only = join(&flights, &work);
        until(|| work.started.load(Ordering::SeqCst) == 1).await;
        only.abort();
        until(|| work.dropped.load(Ordering::SeqCst) == 1).await;
        assert_eq!(flights.in_flight(), 0);
        let next = join(&flights, &work);
        until(|| work.started.load(Ordering::SeqCst) == 2).await;
        work.go.notify_one();
        assert_eq!(next.await.unwrap().unwrap().value, 1);
    }

    #[tokio::test]
    async fn work_that_was_abandoned_is_begun_anew_by_one_who_waits() {
        let (flights, begun) = (SingleFlight::<u8, usize>::new("test"), AtomicUsize::new(0));
        let call = || {
            flights.run(1, || {
                let turn = begun.fetch_add(1, Ordering::SeqCst);
                async move {
                    tokio::task::yield_now().await;
                    if turn < 2 { Err(abandoned("test", "its loop has ended")) } else { Ok(turn) }
                }
            })
        };
        let (first, second, third, fourth) = futures::join!(call(), call(), call(), call());
        for cancelled in [first, second] {
            assert_eq!(cancelled.unwrap_err().kind(), ErrorKind::Cancelled);
        }
        assert_eq!(third.unwrap(), Flown { value: 2, role: Role::Leader });
        assert_eq!(fourth.unwrap(), Flown { value: 2, role: Role::Follower });
        assert_eq!((begun.load(Ordering::SeqCst), flights.in_flight()), (3, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_waits_for_work_whose_runtime_stops_begins_anew() {
        let (flights, lost, own) = (SingleFlight::new("test"), Work::default(), Work::default());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let leader = runtime.spawn({
            let (flights, lost) = (flights.clone(), lost.clone());
            async move { flights.run(1, || lost.run()).await }
        });
        until(|| lost.started.load(Ordering::SeqCst) == 1).await;
        let followers = [join(&flights, &own), join(&flights, &own)];
        until(|| waiters(&flights) == 3).await;
        runtime.shutdown_background();
        assert!(leader.await.unwrap_err().is_cancelled());
        until(|| own.started.load(Ordering::SeqCst) == 1 && waiters(&flights) == 2).await;
        own.go.notify_one();
        for follower in followers {
            assert_eq!(follower.await.unwrap().unwrap().value, 0);
        }
    }

    #[tokio::test]
    async fn a_panic_is_an_error_for_all_who_wait() {
        let flights = SingleFlight::<u8, usize>::new("test");
        let call = || flights.run(1, || async { panic!("boom") });
        let (a, b) = futures::join!(call(), call());
        for error in [a.unwrap_err(), b.unwrap_err()] {
            assert_eq!((error.kind(), error.message()), (ErrorKind::Internal, "the work panicked: boom"));
        }
    }

    #[tokio::test]
    async fn an_error_goes_to_the_waiters_of_that_flight_only() {
        let flights = SingleFlight::<u8, usize>::new("test");
        let failed = flights.run(1, || async { Err(Error::new(ErrorKind::Unavailable, "test", "down")) }).await;
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(flights.run(1, || async { Ok(7) }).await.unwrap().value, 7);
    }

    #[test]
    fn without_a_runtime_it_says_so() {
        let flights = SingleFlight::<u8, usize>::new("test");
        let outcome = flights.run(1, || async { Ok(1) }).now_or_never().unwrap();
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Internal);
    }
}
