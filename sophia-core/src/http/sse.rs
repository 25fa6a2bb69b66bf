//! Answers in parts: server-sent events.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use bytes::Bytes;
use futures::Stream;
use tokio::time::timeout;

use super::{Body, reply::Failure, surface::Response};
use crate::{
    Error, Result,
    chat::{ChatChunk, ChatStream},
};

/// How often a silent stream sends a comment: below the 30 s after which impatient proxies close it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const COMMENT: Bytes = Bytes::from_static(b": keep-alive\n\n");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

/// Writes the events of one stream.
pub(super) trait Frames: Send + 'static {
    /// Writes one part; the last one also writes the end of the stream.
    fn chunk(&mut self, chunk: &ChatChunk) -> String;

    /// Writes an error, which is the end of the stream.
    fn error(&mut self, error: &Error) -> String;

    /// Names the field at fault as the client does.
    fn name(&self, error: Error) -> Error {
        error
    }

    /// Does what has to be done before the client hears what was written last.
    fn settle(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// Answers with a stream. What fails before the first part is an error with its own status, unless that is long in coming.
pub(super) async fn answer(stream: Result<ChatStream>, mut frames: impl Frames) -> Result<Response, Failure> {
    let mut chunks = stream.map_err(|error| frames.name(error))?;
    let (cache, begin) = match timeout(KEEP_ALIVE, chunks.next_batch()).await {
        Ok(first) => {
            let first = first.transpose().map_err(|error| frames.name(error))?.unwrap_or_default();
            (first.first().and_then(|chunk| chunk.cache.clone()), write(&first, &mut frames).await)
        }
        Err(_) => (None, COMMENT),
    };
    let rest = rest(chunks, frames);
    let body = futures::StreamExt::chain(futures::stream::iter([begin]), rest);
    let mut response = Response::new(Body::from_stream(body));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, EVENT_STREAM);
    // Nginx and its kin gather answers unless they are told not to.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if let Some(cache) = cache {
        super::chat::cache_headers(headers, &cache);
    }
    Ok(response)
}

fn rest(chunks: ChatStream, frames: impl Frames) -> impl Stream<Item = Bytes> + Send + 'static {
    futures::stream::unfold(Some((chunks, frames)), |state| async {
        let (mut chunks, mut frames) = state?;
        match timeout(KEEP_ALIVE, chunks.next_batch()).await {
            Ok(Some(Ok(batch))) => Some((write(&batch, &mut frames).await, Some((chunks, frames)))),
            Ok(Some(Err(error))) => {
                let error = frames.name(error);
                Some((frames.error(&error).into(), None))
            }
            Ok(None) => None,
            Err(_) => Some((COMMENT, Some((chunks, frames)))),
        }
    })
}

async fn write(batch: &[ChatChunk], frames: &mut impl Frames) -> Bytes {
    let text: String = batch.iter().map(|chunk| frames.chunk(chunk)).collect();
    frames.settle().await;
    text.into()
}
