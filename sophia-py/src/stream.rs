//! A stream of the engine as an asynchronous iterator.

use std::sync::Arc;

use futures::{StreamExt, stream::BoxStream};
use pyo3::prelude::*;
use sophia_core::{Error, ErrorKind, Result, operations::Reply};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::pending;

type Items = BoxStream<'static, Result<Reply>>;

/// A stream: `next()` gives the next item or `None` at its end; `close()` drops it.
#[pyclass(frozen, module = "sophia._sophia")]
pub struct Stream {
    items: Arc<Mutex<Option<Items>>>,
    closed: CancellationToken,
}

impl Stream {
    /// Wraps a stream of anything that serde can write.
    pub fn new<T>(items: impl futures::Stream<Item = Result<T>> + Send + 'static) -> Stream
    where
        T: serde::Serialize + Send + 'static,
    {
        let items = items.map(|item| item.map(|item| Box::new(item) as Reply)).boxed();
        Stream { items: Arc::new(Mutex::new(Some(items))), closed: CancellationToken::new() }
    }
}

#[pymethods]
impl Stream {
    /// Returns the next item, or an `asyncio.Future` of it.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (items, closed) = (self.items.clone(), self.closed.clone());
        let next = async move {
            let mut items = items.try_lock().map_err(|_| {
                Error::new(ErrorKind::Conflict, "stream", "two tasks iterate over one stream: give each its own")
            })?;
            let item = match items.as_mut() {
                Some(stream) => closed.run_until_cancelled(stream.next()).await.flatten(),
                None => None,
            };
            match item {
                Some(Ok(item)) => Ok(item),
                ended => {
                    *items = None;
                    ended.unwrap_or_else(|| Ok(Box::new(()) as Reply))
                }
            }
        };
        pending::run(py, Box::pin(next))
    }

    /// Drops the stream, which closes what feeds it; who reads it at this moment sees its end.
    fn close(&self) {
        self.closed.cancel();
        if let Ok(mut items) = self.items.try_lock() {
            *items = None;
        }
    }
}
