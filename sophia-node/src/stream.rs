//! A stream of results, read one by one.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, stream::BoxStream};
use napi_derive::napi;
use sophia_core::{Error, Result};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    mailbox::Mailbox,
    runtime::{Reply, Tasks, runtime},
};

/// Most items of one read: enough to make the crossing cheap, too few to hold up the JavaScript thread.
const MAX_BATCH: usize = 256;

/// Items as JSON text.
pub type Texts = BoxStream<'static, Result<String>>;

/// A stream of results. Its end is an empty text.
#[napi]
pub struct JsonStream {
    operation: &'static str,
    state: Arc<Mutex<State>>,
    closed: CancellationToken,
    tasks: Tasks,
}

impl JsonStream {
    /// Wraps `items`; what is not ready is settled through `mailbox`.
    pub fn new(operation: &'static str, items: Texts, mailbox: Arc<Mailbox>) -> JsonStream {
        JsonStream {
            operation,
            state: Arc::new(Mutex::new(State::Open(items))),
            closed: CancellationToken::new(),
            tasks: Tasks::new(mailbox),
        }
    }
}

#[napi]
impl JsonStream {
    /// Reads on: a JSON array of the items that are there, an empty text at the end, or nothing if it will settle the
    /// promise `id`.
    #[napi]
    pub fn next(&self, id: u32) -> Reply {
        let (state, closed) = (self.state.clone(), self.closed.clone());
        let next = async move {
            let mut state = state.lock().await;
            let batch = tokio::select! {
                biased;
                () = closed.cancelled() => None,
                batch = state.read() => batch,
            };
            if batch.is_none() {
                *state = State::Over;
            }
            batch.unwrap_or_else(|| Ok(String::new()))
        };
        self.tasks.run(id, self.operation, Box::pin(next))
    }

    /// Ends the stream and closes what feeds it. A read under way sees the end.
    #[napi]
    pub fn close(&self) {
        self.closed.cancel();
        let Ok(runtime) = runtime() else { return };
        let _entered = runtime.enter();
        // Where a read holds the state, that read ends it.
        if let Ok(mut state) = self.state.try_lock() {
            *state = State::Over;
        }
    }
}

impl Drop for JsonStream {
    fn drop(&mut self) {
        self.close();
    }
}

/// Where a stream stands. It is over after its end, and after an error.
enum State {
    Open(Texts),
    /// The items before the error were given.
    Failed(Error),
    Over,
}

impl State {
    /// Waits for an item, and takes all that are there with it.
    async fn read(&mut self) -> Option<Result<String>> {
        let State::Open(items) = self else {
            return match std::mem::replace(self, State::Over) {
                State::Failed(error) => Some(Err(error)),
                State::Open(_) | State::Over => None,
            };
        };
        let mut batch = match items.next().await {
            Some(Ok(item)) => format!("[{item}"),
            ended => {
                *self = State::Over;
                return ended;
            }
        };
        for _ in 1..MAX_BATCH {
            match items.next().now_or_never() {
                None => break,
                Some(Some(Ok(item))) => {
                    batch.push(',');
                    batch.push_str(&item);
                }
                Some(Some(Err(error))) => {
                    *self = State::Failed(error);
                    break;
                }
                Some(None) => {
                    *self = State::Over;
                    break;
                }
            }
        }
        batch.push(']');
        Some(Ok(batch))
    }
}
