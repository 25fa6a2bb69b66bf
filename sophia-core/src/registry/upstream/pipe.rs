//! The streams of a stdio server: answers have a bound, and a server that does not know `server/discover` need not say so.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use rmcp::{
    RoleClient,
    model::{
        ClientJsonRpcMessage, ClientRequest, ErrorCode, ErrorData, JsonRpcMessage, RequestId, ServerJsonRpcMessage,
    },
    transport::{Transport, async_rw::AsyncRwTransport},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, ReadBuf},
    process::{ChildStdin, ChildStdout},
    time::Instant,
};

/// How long `server/discover` may take before `initialize` is tried: a server that runs answers in milliseconds, and most
/// interpreters start within a second. One that takes longer is found out when it answers after all.
const DISCOVER_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Code of the answer that stands in the place of one that is too large; outside what JSON-RPC keeps for servers.
pub(super) const TOO_LARGE: ErrorCode = ErrorCode(-33_001);
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 8 << 10;
/// Longest outline of a message that is kept, in bytes: its id, its method, and the names of what else it has.
const OUTLINE_BYTES: usize = 4 << 10;

/// What the library speaks through.
pub(super) struct Pipe {
    inner: AsyncRwTransport<RoleClient, Bounded<ChildStdout>, ChildStdin>,
    probe: Probe,
    answered_late: Arc<AtomicBool>,
}

/// Where the question for the era of the server stands.
enum Probe {
    /// It is not asked, or answered.
    Over,
    /// It may be asked next.
    Ready,
    /// It is asked, and may be answered until then.
    Asked(RequestId, Instant),
    /// It was answered in the place of the server.
    GivenUp(RequestId),
}

impl Pipe {
    pub(super) fn new(stdout: ChildStdout, stdin: ChildStdin, max_answer_bytes: usize) -> Pipe {
        // One more for the line's end, so that what is let through is never too long for the library.
        let inner = AsyncRwTransport::new(Bounded::new(stdout, max_answer_bytes), stdin)
            .with_max_line_length(max_answer_bytes.saturating_add(1));
        Pipe { inner, probe: Probe::Over, answered_late: Arc::default() }
    }

    /// Answers `server/discover` in the place of a server that does not.
    pub(super) fn probing(mut self) -> Self {
        self.probe = Probe::Ready;
        self
    }

    /// Tells whether the server answered `server/discover` when it was given up.
    pub(super) fn answered_late(&self) -> Arc<AtomicBool> {
        self.answered_late.clone()
    }
}

impl Transport<RoleClient> for Pipe {
    type Error = io::Error;

    fn send(&mut self, message: ClientJsonRpcMessage) -> impl Future<Output = io::Result<()>> + Send + 'static {
        self.probe = match (std::mem::replace(&mut self.probe, Probe::Over), &message) {
            (Probe::Ready, JsonRpcMessage::Request(request))
                if matches!(request.request, ClientRequest::DiscoverRequest(_)) =>
            {
                Probe::Asked(request.id.clone(), Instant::now() + DISCOVER_TIMEOUT)
            }
            // A late answer is not to be mistaken for one to what was asked in its place.
            (Probe::GivenUp(id), _) => Probe::GivenUp(id),
            _ => Probe::Over,
        };
        self.inner.send(message)
    }

    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        loop {
            let message = match &self.probe {
                Probe::Asked(id, until) => tokio::select! {
                    biased;
                    message = self.inner.receive() => message?,
                    () = tokio::time::sleep_until(*until) => {
                        let id = id.clone();
                        self.probe = Probe::GivenUp(id.clone());
                        let error = ErrorData::new(ErrorCode::METHOD_NOT_FOUND, "it was not answered", None);
                        return Some(ServerJsonRpcMessage::error(error, Some(id)));
                    }
                },
                _ => self.inner.receive().await?,
            };
            match (&self.probe, answer(&message)) {
                (Probe::Asked(id, _), Some((answered, worked))) if id == answered => {
                    // Asked once more, in another version, it has shown that it knows the question.
                    self.probe = if worked { Probe::Over } else { Probe::Ready };
                }
                (Probe::GivenUp(id), Some((answered, worked))) if id == answered => {
                    self.answered_late.fetch_or(worked, Ordering::Relaxed);
                    continue;
                }
                _ => {}
            }
            return Some(message);
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        self.inner.close().await
    }
}

/// Returns which request a message answers, and whether it worked.
fn answer(message: &ServerJsonRpcMessage) -> Option<(&RequestId, bool)> {
    match message {
        JsonRpcMessage::Response(response) => Some((&response.id, true)),
        JsonRpcMessage::Error(error) => Some((error.id.as_ref()?, false)),
        _ => None,
    }
}

/// Lines of a stream. In the place of an answer that is too long stands an error with its id: the library drops what is too
/// long, and who waits for it would wait until the deadline.
struct Bounded<R> {
    inner: R,
    limit: usize,
    chunk: Box<[u8]>,
    /// What was read and is not given yet.
    ready: Vec<u8>,
    given: usize,
    /// Bytes of the current line.
    length: usize,
    outline: Outline,
}

impl<R> Bounded<R> {
    fn new(inner: R, limit: usize) -> Bounded<R> {
        let chunk = vec![0; CHUNK_BYTES].into_boxed_slice();
        Bounded { inner, limit, chunk, ready: Vec::new(), given: 0, length: 0, outline: Outline::default() }
    }

    /// Takes what was read.
    fn take(&mut self, read: usize) {
        let Bounded { limit, chunk, ready, length, outline, .. } = self;
        for part in chunk[..read].split_inclusive(|byte| *byte == b'\n') {
            let (text, is_end) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            outline.add(text);
            // The part that is too much is given, too: by it the library knows to drop the line.
            if *length <= *limit {
                ready.extend_from_slice(text);
            }
            *length += text.len();
            if !is_end {
                continue;
            }
            ready.push(b'\n');
            if *length > *limit {
                tracing::warn!(bytes = *length, limit = *limit, "an answer is too large and is dropped");
                if let Some(id) = outline.answers() {
                    let message = format!("more than {limit} bytes, which is `registry.max_answer_bytes`");
                    let error = json!({"jsonrpc": "2.0", "id": id, "error": {"code": TOO_LARGE.0, "message": message}});
                    ready.extend_from_slice(error.to_string().as_bytes());
                    ready.push(b'\n');
                }
            }
            *length = 0;
            *outline = Outline::default();
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Bounded<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.given == self.ready.len() {
            let this = &mut *self;
            this.ready.clear();
            this.given = 0;
            let mut read = ReadBuf::new(&mut this.chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read))?;
            let read = read.filled().len();
            if read == 0 {
                return Poll::Ready(Ok(()));
            }
            this.take(read);
        }
        let end = self.ready.len().min(self.given + out.remaining());
        out.put_slice(&self.ready[self.given..end]);
        self.given = end;
        Poll::Ready(Ok(()))
    }
}

/// A message of JSON-RPC without what is in its fields, for the id may stand behind all of it.
#[derive(Default)]
struct Outline {
    text: Vec<u8>,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Outline {
    fn add(&mut self, text: &[u8]) {
        for &byte in text {
            let is_outer = self.depth <= 1;
            if self.in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
            } else {
                match byte {
                    b'"' => self.in_string = true,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                    _ => {}
                }
            }
            if (is_outer || self.depth <= 1) && self.text.len() < OUTLINE_BYTES {
                self.text.push(byte);
            }
        }
    }

    /// Returns the id of the request that the message answers.
    fn answers(&self) -> Option<Value> {
        let message: Value = serde_json::from_slice(&self.text).ok()?;
        let id = message.get("id").filter(|id| id.is_number() || id.is_string())?;
        message.get("method").is_none().then(|| id.clone())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn read(lines: &[&str], limit: usize) -> Vec<String> {
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let (mut stream, mut out) = (Bounded::new(text.as_bytes(), limit), String::new());
        stream.read_to_string(&mut out).await.unwrap();
        out.lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_is_followed_by_an_error_with_its_id() {
        let long = "x\\\"{[".repeat(5_000);
        let first = format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{"a":["{long}"]}}}}"#);
        let last = format!(r#"{{"result":{{"id":1,"a":["{long}"]}},"jsonrpc":"2.0","id":"x"}}"#);
        for (line, id) in [(first, json!(7)), (last, json!("x"))] {
            let lines = read(&["short", &line, "after"], 1_000).await;
            assert_eq!((lines.len(), lines[0].as_str(), lines[3].as_str()), (4, "short", "after"));
            assert!(lines[1].len() > 1_000 && lines[1].len() < line.len());
            let error: Value = serde_json::from_str(&lines[2]).unwrap();
            assert_eq!((&error["id"], error["error"]["code"].as_i64()), (&id, Some(-33_001)));
            assert!(error["error"]["message"].as_str().unwrap().contains("1000 bytes"));
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_or_not_too_long_is_left_alone() {
        let exact = "y".repeat(1_000);
        assert_eq!(read(&[&exact, ""], 1_000).await, [exact.as_str(), ""]);
        let request = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"x","params":["{}"]}}"#, "x".repeat(2_000));
        assert_eq!(read(&[&request, "z"], 1_000).await.len(), 2);
        assert_eq!(read(&[&"z".repeat(50_000), "z"], 1_000).await.len(), 2);
    }
}
