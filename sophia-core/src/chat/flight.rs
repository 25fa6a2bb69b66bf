//! One upstream call with everyone who waits for it.
//!
//! The call is a task of its own that writes what it hears into a log; whoever waits reads the log at their own pace, from
//! its beginning. So a late joiner of a stream gets what they missed, a caller that is cancelled harms nobody, not even as
//! the first, and when the last one leaves the task is aborted, which closes the call. Whole answers and streams are the
//! same to it: they share a flight.
//!
//! What becomes of the call is that of all, but what says nothing about somebody else's words: who asked in others than those
//! that were refused asks again, and who wants a whole answer where a stream broke off.
//!
//! One of them pays for the call: whose scope is over a limit is refused alone, and the next one pays.
//!
//! The log is bounded, since the provider's answer is (`chat.max_response_bytes`).

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt,
    ops::ControlFlow,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, futures::OwnedNotified},
    task::AbortHandle,
};

use super::{
    accounting::is_over_limit,
    dialect::Dialect,
    explain::{Explanation, Trace},
    key::Key,
    provider::{ChatProvider, Completion, ProviderCall, ProviderEvent},
    response::Delta,
};
use crate::{
    Error, ErrorKind, Result, Scope,
    resilience::{Deadline, Role},
};

/// What makes two calls one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    /// The question.
    pub key: Key,
    /// Whose words it was asked in: what one dialect cannot say, another may.
    pub dialect: Dialect,
    /// The last invalidation: none may lie between them.
    pub epoch: u64,
    /// Whether it was asked in spite of what is kept. Who wants that is not given what was asked before.
    pub refresh: bool,
}

type Known = HashMap<FlightKey, Arc<Flight>>;

/// The flights under way. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flights {
    known: Arc<Mutex<Known>>,
    /// Tells all calls under way to stop.
    stop: Arc<Notify>,
}

#[derive(Debug)]
struct Flight {
    /// `None` for a flight that nobody may join.
    key: Option<FlightKey>,
    form: Form,
    call: ProviderCall,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    deltas: Vec<Delta>,
    outcome: Option<Result<Completion>>,
    seats: BTreeMap<u64, Seat>,
    next_seat: u64,
    abort: Option<AbortHandle>,
}

/// Where one rider waits for more.
#[derive(Debug)]
struct Seat {
    scope: Scope,
    /// Whether the call is made on this rider's behalf.
    role: Role,
    /// Why it cannot be made on this rider's behalf.
    refusal: Option<Error>,
    waker: Option<Waker>,
}

/// Makes the call of one who joined that of another, where what became of it says nothing about theirs.
type Call = Box<dyn FnOnce() -> Result<ProviderCall> + Send>;

/// What it takes to ask for oneself.
struct Own {
    scope: Scope,
    deadline: Deadline,
    provider: Arc<dyn ChatProvider>,
    form: Form,
    call: Call,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").field("form", &self.form).finish_non_exhaustive()
    }
}

/// How the upstream call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The answer comes as a whole.
    Whole,
    /// The answer comes in parts.
    Parts,
}

/// One caller's place on a flight, given up when dropped.
#[derive(Debug)]
pub(crate) struct Rider {
    flights: Flights,
    flight: Arc<Flight>,
    id: u64,
    read: usize,
    /// Of one who joined.
    own: Option<Own>,
}

impl Flights {
    /// Joins the flight of this key, or begins one. Without a key, it begins one that nobody joins.
    pub fn join(
        &self,
        key: Option<FlightKey>,
        scope: &Scope,
        deadline: Deadline,
        provider: &Arc<dyn ChatProvider>,
        form: Form,
        call: impl FnOnce() -> Result<ProviderCall> + Send + 'static,
    ) -> Result<Rider> {
        let own = |call: Call| {
            let (scope, provider) = (scope.clone(), provider.clone());
            Some(Own { scope, deadline, provider, form, call })
        };
        if let Some(mut rider) = self.follow(&self.known.lock(), key, scope, deadline) {
            rider.own = own(Box::new(call));
            return Ok(rider);
        }
        // Not under the lock: a body may be large.
        let call = call()?;
        let mut known = self.known.lock();
        if let Some(mut rider) = self.follow(&known, key, scope, deadline) {
            rider.own = own(Box::new(|| Ok(call)));
            return Ok(rider);
        }
        let runtime = Handle::try_current()
            .map_err(|_| Error::new(ErrorKind::Internal, call.operation, "called outside a tokio runtime"))?;
        let flight = Arc::new(Flight { key, form, call, log: Mutex::default() });
        if let Some(key) = key {
            known.insert(key, flight.clone());
        }
        let rider = self.board(flight.clone(), scope, Role::Leader);
        let landing = Landing { flights: self.clone(), flight: flight.clone() };
        // Made here, so that a stop is heard by a task that has not begun.
        let stop = self.stop.clone().notified_owned();
        // In a box, since a task moves what it is made of more than once.
        let task = runtime.spawn(Box::pin(fly(landing, provider.clone(), stop)));
        flight.log.lock().abort = Some(task.abort_handle());
        Ok(rider)
    }

    fn follow(&self, known: &Known, key: Option<FlightKey>, scope: &Scope, deadline: Deadline) -> Option<Rider> {
        let key = key?;
        let flight = known.get(&key).or_else(|| known.get(&FlightKey { refresh: true, ..key }))?;
        flight.call.deadline.extend(deadline);
        Some(self.board(flight.clone(), scope, Role::Follower))
    }

    /// Ends every call under way.
    pub fn stop_all(&self) {
        self.stop.notify_waiters();
    }

    /// Does work unless all is told to stop.
    ///
    /// # Errors
    /// What `work` says, or [`ErrorKind::Cancelled`].
    pub async fn unless_stopped<T>(&self, operation: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        until(self.stop.notified(), operation, work).await
    }

    fn board(&self, flight: Arc<Flight>, scope: &Scope, role: Role) -> Rider {
        let id = {
            let mut log = flight.log.lock();
            log.next_seat += 1;
            let id = log.next_seat;
            log.seats.insert(id, Seat { scope: scope.clone(), role, refusal: None, waker: None });
            id
        };
        Rider { flights: self.clone(), flight, id, read: 0, own: None }
    }
}

/// Lets nobody join a flight any more.
fn close(known: &mut Known, flight: &Arc<Flight>) {
    if let Some(key) = flight.key
        && known.get(&key).is_some_and(|own| Arc::ptr_eq(own, flight))
    {
        known.remove(&key);
    }
}

/// Asks for a whole answer that nobody else may share: without a task of its own, since dropping the caller ends it.
pub(crate) async fn alone(provider: &dyn ChatProvider, call: &ProviderCall) -> Result<Completion> {
    caught(call.operation, provider.complete(call)).await
}

/// Makes an error of a panic.
async fn caught<T>(operation: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let outcome = AssertUnwindSafe(work).catch_unwind().await;
    outcome.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, operation, "the provider panicked")))
}

/// Does work until it is told to stop.
async fn until<T>(
    stop: impl Future<Output = ()>,
    operation: &'static str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        outcome = work => outcome,
        () = stop => Err(stopped(operation)),
    }
}

pub(crate) fn stopped(operation: &'static str) -> Error {
    Error::new(ErrorKind::Cancelled, operation, "the call was stopped by a shutdown")
}

async fn fly(landing: Landing, provider: Arc<dyn ChatProvider>, stop: OwnedNotified) {
    let flight = landing.flight.clone();
    let operation = flight.call.operation;
    let work = async {
        let mut call = Cow::Borrowed(&flight.call);
        loop {
            let outcome = match flight.form {
                Form::Whole => provider.complete(&call).await,
                Form::Parts => pull(&flight, &call, &*provider).await,
            };
            match landing.pass_on(&call.scope, outcome) {
                ControlFlow::Continue(scope) => call.to_mut().scope = scope,
                ControlFlow::Break(outcome) => return outcome,
            }
        }
    };
    // Also where nobody looks at what has come: a reader may be slow, and has a deadline all the same.
    let work = flight.call.deadline.run(operation, caught(operation, work));
    let outcome = until(stop, operation, work).await;
    landing.land(outcome);
}

async fn pull(flight: &Flight, call: &ProviderCall, provider: &dyn ChatProvider) -> Result<Completion> {
    let mut stream = provider.stream(call).await?;
    while let Some(event) = stream.next().await {
        match event? {
            ProviderEvent::Delta(delta) => {
                let mut log = flight.log.lock();
                log.deltas.push(delta);
                log.wake();
            }
            ProviderEvent::Done(completion) => return Ok(completion),
        }
    }
    Err(Error::new(ErrorKind::Unavailable, call.operation, "the stream ended without an answer"))
}

impl Log {
    fn wake(&mut self) {
        self.seats.values_mut().filter_map(|seat| seat.waker.take()).for_each(Waker::wake);
    }

    /// Returns how it ended for one rider; if it has not, that one is woken when there is more.
    fn outcome(&mut self, id: u64, context: &Context<'_>) -> Poll<Result<Completion>> {
        let seat = self.seats.get_mut(&id);
        let refusal = seat.as_ref().and_then(|seat| seat.refusal.clone());
        if let Some(outcome) = refusal.map(Err).or_else(|| self.outcome.clone()) {
            return Poll::Ready(outcome);
        }
        if let Some(seat) = seat {
            seat.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

/// Ends the flight, also when its task is aborted or its runtime stops.
struct Landing {
    flights: Flights,
    flight: Arc<Flight>,
}

impl Landing {
    /// Where the scope that was to pay is over a limit, says so to its riders and names the next that may pay.
    fn pass_on(&self, payer: &Scope, outcome: Result<Completion>) -> ControlFlow<Result<Completion>, Scope> {
        let refusal = match outcome {
            Err(error) if is_over_limit(&error) => error,
            outcome => return ControlFlow::Break(outcome),
        };
        // Held while looking, so that nobody joins a flight that nobody pays for.
        let mut known = self.flights.known.lock();
        let mut log = self.flight.log.lock();
        for seat in log.seats.values_mut().filter(|seat| seat.scope == *payer) {
            seat.refusal = Some(refusal.clone());
        }
        log.wake();
        match log.seats.values_mut().find(|seat| seat.refusal.is_none()) {
            Some(seat) => {
                seat.role = Role::Leader;
                ControlFlow::Continue(seat.scope.clone())
            }
            None => {
                close(&mut known, &self.flight);
                ControlFlow::Break(Err(refusal))
            }
        }
    }

    fn land(&self, outcome: Result<Completion>) {
        // Leave first: who comes now starts anew, or finds what was kept.
        close(&mut self.flights.known.lock(), &self.flight);
        let mut log = self.flight.log.lock();
        log.outcome.get_or_insert(outcome);
        log.wake();
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if self.flight.log.lock().outcome.is_none() {
            let operation = self.flight.call.operation;
            self.land(Err(stopped(operation)));
        }
    }
}

/// What a rider finds in the log.
pub(crate) enum News {
    Deltas(Vec<Delta>),
    Landed(Result<Completion>),
}

impl Rider {
    /// Waits for the whole answer.
    pub async fn outcome(&mut self) -> Result<Completion> {
        std::future::poll_fn(|context| self.poll_outcome(context)).await
    }

    fn poll_outcome(&mut self, context: &mut Context<'_>) -> Poll<Result<Completion>> {
        loop {
            let outcome = ready!(self.flight.log.lock().outcome(self.id, context));
            if !self.asks_itself(&outcome)? {
                return Poll::Ready(outcome);
            }
        }
    }

    /// Takes another flight where one that was joined ended in what says nothing about this rider's own question: it was
    /// refused in other words, or broke off for those who had read of it.
    fn asks_itself(&mut self, outcome: &Result<Completion>) -> Result<bool> {
        let Err(error) = outcome else { return Ok(false) };
        let broke_off = error.is_retryable() && self.flight.form == Form::Parts && self.has_parts();
        let refused = matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported);
        if self.has_read() || !refused && !broke_off {
            return Ok(false);
        }
        let Some(Own { scope, deadline, provider, form, call }) = self.own.take() else { return Ok(false) };
        if broke_off {
            *self = self.flights.clone().join(self.flight.key, &scope, deadline, &provider, form, call)?;
            return Ok(true);
        }
        let call = call()?;
        let is_other = call.words(form) != self.flight.call.words(self.flight.form);
        if is_other {
            // By itself: the next words may be refused as well.
            *self = self.flights.clone().join(None, &scope, deadline, &provider, form, || Ok(call))?;
        }
        Ok(is_other)
    }

    fn has_parts(&self) -> bool {
        !self.flight.log.lock().deltas.is_empty()
    }

    /// Returns what is new, all of it at once.
    pub fn poll_news(&mut self, context: &mut Context<'_>) -> Poll<News> {
        loop {
            let mut log = self.flight.log.lock();
            if self.read < log.deltas.len() {
                let deltas = log.deltas[self.read..].to_vec();
                self.read = log.deltas.len();
                return Poll::Ready(News::Deltas(deltas));
            }
            let outcome = ready!(log.outcome(self.id, context));
            drop(log);
            match self.asks_itself(&outcome) {
                Ok(true) => {}
                Ok(false) => return Poll::Ready(News::Landed(outcome)),
                Err(error) => return Poll::Ready(News::Landed(Err(error))),
            }
        }
    }

    /// Returns whether the call is made on this rider's behalf.
    pub fn role(&self) -> Role {
        self.flight.log.lock().seats.get(&self.id).map_or(Role::Follower, |seat| seat.role)
    }

    /// Returns what the stages of this caller and of the flight noted; `None` where it is not asked for.
    pub fn explain(&self, own: &Trace, flown: Option<Instant>) -> Option<Explanation> {
        own.take_in(&self.flight.call.trace);
        own.note("flight", if self.role() == Role::Follower { "joined" } else { "led" }, flown);
        own.explanation()
    }

    /// Returns whether this rider was given any part.
    pub fn has_read(&self) -> bool {
        self.read > 0
    }
}

impl Drop for Rider {
    fn drop(&mut self) {
        // Held while counting, so that nobody joins a flight that is about to be aborted.
        let mut known = self.flights.known.lock();
        let mut log = self.flight.log.lock();
        log.seats.remove(&self.id);
        if !log.seats.is_empty() || log.outcome.is_some() {
            return;
        }
        close(&mut known, &self.flight);
        let abort = log.abort.take();
        drop(log);
        drop(known);
        abort.iter().for_each(AbortHandle::abort);
    }
}
