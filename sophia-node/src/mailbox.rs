//! How native threads speak to the JavaScript thread: one queue and one wake-up per engine.
//!
//! Messages are plain data and the functions stay in JavaScript, so nothing here holds a JavaScript value. The queue is
//! handed over whole: a thousand answers that arrive together cost one turn of the event loop.

use std::{mem, sync::Arc};

use napi::{
    Status,
    bindgen_prelude::{FnArgs, Function},
    threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode},
};
use napi_derive::napi;
use parking_lot::Mutex;
use sophia_core::Result;

use crate::failure::Failure;

/// What a message asks of the facade.
#[napi]
#[derive(Debug, PartialEq, Eq)]
pub enum Ask {
    /// Settle the promise `id` with `text`, or with `failure`.
    Settle,
    /// Call the function `target` with the JSON array `text`, and answer the invocation `id`.
    Invoke,
    /// The answer of the invocation `id` is no longer awaited.
    Abandon,
    /// The function `id` will not be called again.
    Forget,
    /// The thrown value `id` is no longer needed.
    Release,
}

/// One message to the facade.
#[napi(object)]
pub struct Message {
    /// What is asked.
    pub ask: Ask,
    /// Of what: a promise, an invocation, a function or a thrown value.
    pub id: u32,
    /// The function to invoke.
    pub target: Option<u32>,
    /// JSON; empty is the end of a stream.
    pub text: Option<String>,
    /// What went wrong.
    pub failure: Option<Failure>,
}

/// Tells the JavaScript thread that the queue is no longer empty. Weak: it does not keep the process alive.
type Wake = ThreadsafeFunction<(), (), FnArgs<(Vec<Message>,)>, Status, false, true>;

/// The function of the facade that takes messages.
pub type Deliver<'a> = Function<'a, FnArgs<(Vec<Message>,)>, ()>;

/// The queue of messages to one engine's facade.
pub struct Mailbox {
    queue: Arc<Mutex<Queue>>,
    wake: Wake,
}

#[derive(Default)]
struct Queue {
    messages: Vec<Message>,
    closed: bool,
}

impl Mailbox {
    /// Creates a mailbox whose messages `deliver` takes.
    pub fn new(deliver: &Deliver<'_>) -> napi::Result<Mailbox> {
        let queue = Arc::new(Mutex::new(Queue::default()));
        let source = queue.clone();
        let wake = deliver
            .build_threadsafe_function::<()>()
            .callee_handled::<false>()
            .weak::<true>()
            .build_callback(move |_| Ok(FnArgs { data: (mem::take(&mut source.lock().messages),) }))?;
        Ok(Mailbox { queue, wake })
    }

    /// Adds a message. Returns false where nobody will read it any more, as when a worker has ended.
    pub fn post(&self, message: Message) -> bool {
        let first = {
            let mut queue = self.queue.lock();
            if queue.closed {
                return false;
            }
            queue.messages.push(message);
            queue.messages.len() == 1
        };
        if first && self.wake.call((), ThreadsafeFunctionCallMode::NonBlocking) != Status::Ok {
            let mut queue = self.queue.lock();
            queue.closed = true;
            queue.messages.clear();
            return false;
        }
        true
    }

    /// Settles the promise `id`.
    pub fn settle(&self, id: u32, outcome: Result<String>) {
        let settle = |text, failure| Message { ask: Ask::Settle, id, target: None, text, failure };
        match outcome {
            Ok(text) => self.post(settle(Some(text), None)),
            // The error is dropped after it was told: what a function threw is kept until then.
            Err(error) => self.post(settle(None, Some(Failure::from(&error)))),
        };
    }

    /// Asks something of `id` that needs no more than its name.
    pub fn ask(&self, ask: Ask, id: u32) {
        self.post(Message { ask, id, target: None, text: None, failure: None });
    }
}
