//! The body of an answer: whole, or as it comes.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};

/// The body of an answer: a [`Stream`] of chunks that cannot fail. Dropping it ends the work behind it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use futures::StreamExt;
/// use sophia_core::http::Body;
///
/// let mut body = Body::from("{}");
/// assert_eq!(body.known_len(), Some(2));
/// assert_eq!(body.next().await.as_deref(), Some(&b"{}"[..]));
/// assert_eq!(body.next().await, None);
/// # }
/// ```
pub struct Body(Kind);

enum Kind {
    Whole(Bytes),
    Chunks(BoxStream<'static, Bytes>),
}

impl Body {
    /// Creates a body whose chunks are sent as they come.
    pub fn from_stream(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Body {
        Body(Kind::Chunks(chunks.boxed()))
    }

    /// Returns the number of bytes to come, or `None` where they come as a stream.
    pub fn known_len(&self) -> Option<usize> {
        match &self.0 {
            Kind::Whole(bytes) => Some(bytes.len()),
            Kind::Chunks(_) => None,
        }
    }

    /// Keeps `guard` until the last chunk was taken or the body is dropped.
    pub(super) fn holding(self, guard: impl Send + 'static) -> Body {
        match self.0 {
            // A whole body costs no work any more.
            Kind::Whole(bytes) => Body(Kind::Whole(bytes)),
            Kind::Chunks(chunks) => Body::from_stream(chunks.map(move |chunk| {
                let _ = &guard;
                chunk
            })),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Body(Kind::Whole(Bytes::new()))
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Body {
        Body(Kind::Whole(bytes.into()))
    }
}

impl Stream for Body {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match &mut self.0 {
            Kind::Whole(bytes) => Poll::Ready(Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty())),
            Kind::Chunks(chunks) => chunks.poll_next_unpin(cx),
        }
    }
}

impl From<Body> for axum::body::Body {
    fn from(body: Body) -> axum::body::Body {
        match body.0 {
            Kind::Whole(bytes) => bytes.into(),
            Kind::Chunks(chunks) => axum::body::Body::from_stream(chunks.map(Ok::<_, std::convert::Infallible>)),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("known_len", &self.known_len()).finish_non_exhaustive()
    }
}
