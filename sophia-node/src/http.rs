//! The HTTP surface for Node: a request in parts, its answer as a stream of a head and what follows it.

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use serde::{Serialize, Serializer};
use sophia_core::{
    Result,
    http::{Headers, Live, Peer, Response, Surface, headers},
};

use crate::{engine::text, stream::Texts};

/// What the streams of the surface are called in errors.
pub const OPERATION: &str = "http";

const SWITCHING_PROTOCOLS: u16 = 101;
const NO_CONTENT: u16 = 204;

/// What an answer is made of: its head, then either its body or the messages of a WebSocket.
#[derive(Serialize)]
#[serde(untagged)]
enum Part {
    Head { status: u16, headers: Vec<(String, Latin1)> },
    Chunk(Latin1),
    Message(String),
}

/// Bytes as text with one character for each, as Node gives and takes headers; any bytes survive it.
struct Latin1(Bytes);

impl Serialize for Latin1 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.iter().map(|byte| char::from(*byte)).collect::<String>())
    }
}

/// Who asks for what, as Node's `IncomingMessage` has it: its `rawHeaders` are names and values in turn.
pub struct Asked {
    pub target: String,
    pub raw_headers: Vec<String>,
    pub client: Option<String>,
}

impl Asked {
    fn headers(&self) -> Result<Headers> {
        headers(self.raw_headers.as_chunks().0.iter().map(|[name, value]| (name, latin1(value))))
    }

    fn peer(&self) -> Peer {
        Peer::from_host(self.client.as_deref())
    }
}

/// Answers a request: its head, then the chunks of its body.
///
/// # Errors
/// [`sophia_core::ErrorKind::InvalidInput`], naming the header that is malformed.
pub fn request(surface: Surface, method: String, asked: Asked, body: Bytes) -> Result<Texts> {
    let headers = asked.headers()?;
    let answer = async move {
        let response = surface.handle_parts(&method, &asked.target, headers, body, asked.peer()).await;
        answer_parts(response, &method)
    };
    Ok(texts(stream::once(answer).flatten()))
}

/// Opens the messages of a WebSocket: a head of status 101 and then texts, or the answer that refuses it.
///
/// # Errors
/// [`sophia_core::ErrorKind::InvalidInput`], naming the header that is malformed.
pub fn live(surface: &Surface, asked: &Asked) -> Result<Texts> {
    Ok(match surface.live(&asked.target, &asked.headers()?, asked.peer()) {
        Ok(live) => texts(live_parts(live)),
        Err(response) => texts(answer_parts(response, "GET")),
    })
}

fn answer_parts(response: Response, method: &str) -> impl Stream<Item = Part> + Send + use<> {
    let (head, body) = response.into_parts();
    let named = head.headers.iter();
    let mut headers: Vec<_> =
        named.map(|(name, value)| (name.to_string(), Latin1(Bytes::copy_from_slice(value.as_bytes())))).collect();
    let status = head.status.as_u16();
    // The answer to HEAD has lost its body, and so the length that it would have had.
    if let Some(length) = body.known_len().filter(|_| method != "HEAD" && status != NO_CONTENT) {
        headers.push(("content-length".to_owned(), Latin1(length.to_string().into())));
    }
    stream::iter([Part::Head { status, headers }]).chain(body.map(|chunk| Part::Chunk(Latin1(chunk))))
}

fn live_parts(live: Live) -> impl Stream<Item = Part> + Send {
    let protocol = live.protocol().map(|name| ("sec-websocket-protocol".to_owned(), Latin1(name.into())));
    let head = Part::Head { status: SWITCHING_PROTOCOLS, headers: protocol.into_iter().collect() };
    stream::iter([head]).chain(live.map(Part::Message))
}

fn texts(parts: impl Stream<Item = Part> + Send + 'static) -> Texts {
    parts.map(|part| text(OPERATION, &part)).boxed()
}

/// The bytes of a header's value; what no byte stands for becomes a control character, which no header may hold.
fn latin1(value: &str) -> Vec<u8> {
    value.chars().map(|character| u8::try_from(character).unwrap_or_default()).collect()
}
