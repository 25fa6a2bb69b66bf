//! The runtime of the addon, and how a future is run on it: in place if it is ready, else spawned.

use std::{
    collections::HashMap,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, LazyLock},
    task::Poll,
    thread,
};

use futures::FutureExt;
use napi::bindgen_prelude::Either3;
use napi_derive::napi;
use parking_lot::Mutex;
use sophia_core::{Error, ErrorKind, Result, operations::poll_here};
use tokio::{
    runtime::{Builder, Runtime},
    task::AbortHandle,
};

use crate::{
    failure::{Failure, panicked},
    mailbox::Mailbox,
};

/// Fewest threads: one that is busy must not hold up the others.
const MIN_THREADS: usize = 2;

/// One for all engines of the process, made by the first call and never dropped: at exit its threads just end.
static RUNTIME: LazyLock<std::result::Result<Runtime, String>> = LazyLock::new(|| {
    let threads = thread::available_parallelism().map_or(MIN_THREADS, |cores| cores.get().max(MIN_THREADS));
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("sophia")
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
});

/// Returns the runtime.
///
/// # Errors
/// [`ErrorKind::Internal`] where the system gives no threads.
pub fn runtime() -> Result<&'static Runtime> {
    RUNTIME
        .as_ref()
        .map_err(|error| Error::new(ErrorKind::Internal, "runtime", format!("no threads could be started: {error}")))
}

/// Work whose outcome is text.
pub type Work = Pin<Box<dyn Future<Output = Result<String>> + Send>>;

/// What JavaScript gets at once: the text, what went wrong, or nothing, since the answer will come by mail.
#[napi]
pub type Reply = Either3<String, Failure, ()>;

/// Writes an outcome that is ready.
pub fn reply(outcome: Result<String>) -> Reply {
    match outcome {
        Ok(text) => Either3::A(text),
        Err(error) => Either3::B(Failure::from(&error)),
    }
}

/// The work under way for one engine, by the number of its promise.
pub struct Tasks {
    mailbox: Arc<Mailbox>,
    running: Arc<Mutex<HashMap<u32, AbortHandle>>>,
}

impl Tasks {
    /// Creates an empty set that settles through `mailbox`.
    pub fn new(mailbox: Arc<Mailbox>) -> Tasks {
        Tasks { mailbox, running: Arc::default() }
    }

    /// Polls once in place; what is not ready is spawned, and settles the promise `id`.
    pub fn run(&self, id: u32, operation: &str, mut work: Work) -> Reply {
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(error) => return reply(Err(error)),
        };
        let _entered = runtime.enter();
        if let Some(outcome) = poll_once(operation, &mut work) {
            return reply(outcome);
        }
        let (mailbox, running, operation) = (self.mailbox.clone(), self.running.clone(), operation.to_owned());
        // Held until the handle is in, so that the task cannot take it out before.
        let mut handles = self.running.lock();
        let task = runtime.spawn(async move {
            let outcome = AssertUnwindSafe(work).catch_unwind().await;
            let outcome = outcome.unwrap_or_else(|payload| Err(panicked(&operation, payload.as_ref())));
            running.lock().remove(&id);
            mailbox.settle(id, outcome);
        });
        handles.insert(id, task.abort_handle());
        Either3::C(())
    }

    /// Drops the work of the promise `id`, which is then never settled.
    pub fn cancel(&self, id: u32) {
        if let Some(task) = self.running.lock().remove(&id) {
            task.abort();
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for (_, task) in self.running.lock().drain() {
            task.abort();
        }
    }
}

/// Runs work to its end on this thread.
pub fn run_here(operation: &str, mut work: Work) -> Result<String> {
    let runtime = runtime()?;
    let ready = {
        let _entered = runtime.enter();
        poll_once(operation, &mut work)
    };
    match ready {
        Some(outcome) => outcome,
        None => catch_unwind(AssertUnwindSafe(|| runtime.block_on(work)))
            .unwrap_or_else(|payload| Err(panicked(operation, payload.as_ref()))),
    }
}

fn poll_once(operation: &str, work: &mut Work) -> Option<Result<String>> {
    match catch_unwind(AssertUnwindSafe(|| poll_here(work.as_mut()))) {
        Ok(Poll::Ready(outcome)) => Some(outcome),
        Ok(Poll::Pending) => None,
        Err(payload) => Some(Err(panicked(operation, payload.as_ref()))),
    }
}
