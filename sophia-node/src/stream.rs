//! A stream of results, read one by one.

use std::sync::Arc;

use futures::{StreamExt, stream::BoxStream};
use napi_derive::napi;
use sophia_core::Result;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    mailbox::Mailbox,
    runtime::{Reply, Tasks, runtime},
};

/// Items as JSON text.
pub type Texts = BoxStream<'static, Result<String>>;

/// A stream of results. Its end is an empty text.
#[napi]
pub struct JsonStream {
    operation: &'static str,
    items: Arc<Mutex<Option<Texts>>>,
    closed: CancellationToken,
    tasks: Tasks,
}

impl JsonStream {
    /// Wraps `items`; what is not ready is settled through `mailbox`.
    pub fn new(operation: &'static str, items: Texts, mailbox: Arc<Mailbox>) -> JsonStream {
        JsonStream {
            operation,
            items: Arc::new(Mutex::new(Some(items))),
            closed: CancellationToken::new(),
            tasks: Tasks::new(mailbox),
        }
    }
}

#[napi]
impl JsonStream {
    /// Reads the next item: its text, an empty text at the end, or nothing if it will settle the promise `id`.
    #[napi]
    pub fn next(&self, id: u32) -> Reply {
        let (items, closed) = (self.items.clone(), self.closed.clone());
        let next = async move {
            let mut slot = items.lock().await;
            let Some(stream) = slot.as_mut() else { return Ok(String::new()) };
            let item = tokio::select! {
                biased;
                () = closed.cancelled() => None,
                item = stream.next() => item,
            };
            // A stream is over after its end, and after an error.
            if !matches!(item, Some(Ok(_))) {
                *slot = None;
            }
            item.unwrap_or_else(|| Ok(String::new()))
        };
        self.tasks.run(id, self.operation, Box::pin(next))
    }

    /// Ends the stream and closes what feeds it. A read under way sees the end.
    #[napi]
    pub fn close(&self) {
        self.closed.cancel();
        let Ok(runtime) = runtime() else { return };
        let _entered = runtime.enter();
        // Where a read holds the slot, that read empties it.
        if let Ok(mut slot) = self.items.try_lock() {
            *slot = None;
        }
    }
}

impl Drop for JsonStream {
    fn drop(&mut self) {
        self.close();
    }
}
