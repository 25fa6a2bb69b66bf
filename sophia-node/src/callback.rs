//! Functions of JavaScript, called from the core.
//!
//! The function itself stays in a table of the facade; here is its number. What it throws stays there too, and comes back
//! to whoever awaits as the very same value.

use std::{
    collections::HashMap,
    error, fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use parking_lot::Mutex;
use serde::Serialize;
use sophia_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

use crate::mailbox::{Ask, Mailbox, Message};

/// The calls that JavaScript has not answered yet.
pub struct Callbacks {
    mailbox: Arc<Mailbox>,
    next: AtomicU32,
    waiting: Mutex<HashMap<u32, oneshot::Sender<Answer>>>,
}

/// What a function gave: JSON text, or what it threw.
type Answer = std::result::Result<String, Refusal>;

/// What a function threw, told by the facade.
struct Refusal {
    kind: ErrorKind,
    message: String,
    thrown: Thrown,
}

impl Callbacks {
    /// Creates the table of calls that go through `mailbox`.
    pub fn new(mailbox: Arc<Mailbox>) -> Callbacks {
        Callbacks { mailbox, next: AtomicU32::new(0), waiting: Mutex::default() }
    }

    /// Returns the function that the facade keeps under `id`.
    pub fn function(self: &Arc<Self>, id: u32) -> JsFunction {
        JsFunction(Arc::new(Registered { id, callbacks: self.clone() }))
    }

    /// Takes the answer of a call.
    pub fn answer(&self, invocation: u32, text: String) {
        if let Some(waiting) = self.waiting.lock().remove(&invocation) {
            // Nobody waits any more where the work was cancelled meanwhile.
            let _ = waiting.send(Ok(text));
        }
    }

    /// Takes what a call threw: its code if it is one of ours, its message, and where the facade keeps it.
    pub fn refuse(&self, invocation: u32, code: Option<&str>, message: String, thrown: u32) {
        // Made first, so that the value is released also where nobody waits.
        let thrown = Thrown { id: thrown, message: message.clone(), mailbox: self.mailbox.clone() };
        let kind = code.and_then(ErrorKind::from_code).unwrap_or(ErrorKind::Unavailable);
        if let Some(waiting) = self.waiting.lock().remove(&invocation) {
            let _ = waiting.send(Err(Refusal { kind, message, thrown }));
        }
    }
}

/// A function of JavaScript. Cheap to clone; the facade forgets it when the last clone is gone.
#[derive(Clone)]
pub struct JsFunction(Arc<Registered>);

struct Registered {
    id: u32,
    callbacks: Arc<Callbacks>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.callbacks.mailbox.ask(Ask::Forget, self.id);
    }
}

impl fmt::Debug for JsFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JsFunction({})", self.0.id)
    }
}

impl JsFunction {
    /// Calls the function with `arguments`, a tuple or a list, and waits for what it gives, as JSON text.
    ///
    /// # Errors
    /// What it throws, as the source; its kind is that of the thrown error if it is one of ours, else
    /// [`ErrorKind::Unavailable`].
    ///
    /// # Cancel safety
    /// Dropping the future tells the function through its abort signal.
    pub async fn call(&self, operation: &'static str, arguments: impl Serialize) -> Result<String> {
        let callbacks = &self.0.callbacks;
        let text = serde_json::to_string(&crate::case::writing(&arguments)).map_err(|error| {
            Error::new(ErrorKind::Internal, operation, "the arguments cannot be written").with_source(error)
        })?;
        let id = callbacks.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        callbacks.waiting.lock().insert(id, sender);
        let mut invocation = Invocation { id, callbacks, answered: false };
        let ended = || Error::new(ErrorKind::Cancelled, operation, "the JavaScript thread has ended");
        let message = Message { ask: Ask::Invoke, id, target: Some(self.0.id), text: Some(text), failure: None };
        if !callbacks.mailbox.post(message) {
            return Err(ended());
        }
        let answer = receiver.await;
        invocation.answered = true;
        answer
            .map_err(|_| ended())?
            .map_err(|refusal| Error::new(refusal.kind, operation, refusal.message).with_source(refusal.thrown))
    }
}

/// A call under way. Dropped before its answer, it tells the facade so.
struct Invocation<'a> {
    id: u32,
    callbacks: &'a Callbacks,
    answered: bool,
}

impl Drop for Invocation<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.callbacks.waiting.lock().remove(&self.id);
            self.callbacks.mailbox.ask(Ask::Abandon, self.id);
        }
    }
}

/// A value that a function threw. The facade keeps it for as long as this lives.
struct Thrown {
    id: u32,
    message: String,
    mailbox: Arc<Mailbox>,
}

impl Drop for Thrown {
    fn drop(&mut self) {
        self.mailbox.ask(Ask::Release, self.id);
    }
}

impl fmt::Debug for Thrown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Thrown({}: {})", self.id, self.message)
    }
}

impl fmt::Display for Thrown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl error::Error for Thrown {}

/// Returns where the facade keeps the value that caused `error`, if a function threw it.
pub fn thrown(error: &Error) -> Option<u32> {
    let mut source = error::Error::source(error);
    while let Some(cause) = source {
        if let Some(thrown) = cause.downcast_ref::<Thrown>() {
            return Some(thrown.id);
        }
        source = cause.source();
    }
    None
}
