//! The HTTP surface for ASGI: a request in parts, its answer as a stream of a head and chunks.

use bytes::Bytes;
use futures::{StreamExt, stream};
use pyo3::prelude::*;
use serde::{Serialize, Serializer};
use sophia_core::{
    Sophia,
    http::{Body, Headers, Peer, Response, Surface, headers},
};

use crate::{error, runtime, stream::Stream};

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// What an answer is made of: its head, then its body.
#[derive(Serialize)]
#[serde(untagged)]
enum Part {
    Head { status: u16, headers: Vec<(String, Text)> },
    Chunk(Raw),
}

/// A header value: bytes, as Latin-1 gives them.
struct Text(Vec<u8>);

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.iter().map(|byte| char::from(*byte)).collect::<String>())
    }
}

/// A chunk, as Python bytes.
struct Raw(Bytes);

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

/// The surface of one engine.
#[pyclass(frozen, module = "sophia._sophia")]
pub struct HttpSurface(Surface);

impl HttpSurface {
    pub fn new(py: Python<'_>, sophia: Sophia) -> PyResult<HttpSurface> {
        Surface::new(sophia).map(HttpSurface).map_err(|failure| error::to_python(py, &failure))
    }
}

#[pymethods]
impl HttpSurface {
    /// Largest body that is accepted, in bytes.
    #[getter]
    fn max_body_bytes(&self) -> usize {
        self.0.sophia().config().server.max_body_bytes
    }

    /// Answers a request: a stream of `{status, headers}` and then of chunks.
    fn request(
        &self,
        py: Python<'_>,
        method: String,
        target: String,
        pairs: Pairs,
        body: Vec<u8>,
        client: Option<&str>,
    ) -> PyResult<Stream> {
        let (surface, headers, peer) = (self.0.clone(), headers_of(py, pairs)?, Peer::from_host(client));
        let answer = async move {
            let response = surface.handle_parts(&method, &target, headers, body.into(), peer).await;
            let (head, body) = parts(response);
            stream::once(async { head }).chain(body.map(|chunk| Part::Chunk(Raw(chunk)))).map(Ok)
        };
        Ok(Stream::new(stream::once(answer).flatten()))
    }

    /// Opens the messages of a WebSocket, with the subprotocol to accept it with, if any; None where the caller may not listen.
    fn live(
        &self,
        py: Python<'_>,
        target: &str,
        pairs: Pairs,
        client: Option<&str>,
    ) -> PyResult<Option<(Stream, Option<&'static str>)>> {
        let headers = headers_of(py, pairs)?;
        let _entered = runtime::get()?.enter();
        let live = self.0.live(target, &headers, Peer::from_host(client)).ok();
        Ok(live.map(|live| {
            let protocol = live.protocol();
            (Stream::new(live.map(Ok)), protocol)
        }))
    }
}

fn headers_of(py: Python<'_>, pairs: Pairs) -> PyResult<Headers> {
    headers(pairs).map_err(|failure| error::to_python(py, &failure))
}

fn parts(response: Response) -> (Part, Body) {
    let (head, body) = response.into_parts();
    let headers =
        head.headers.iter().map(|(name, value)| (name.to_string(), Text(value.as_bytes().to_vec()))).collect();
    (Part::Head { status: head.status.as_u16(), headers }, body)
}

/// Runs the command line and returns its exit code.
#[pyfunction]
pub fn command_line(py: Python<'_>, arguments: Vec<String>) -> PyResult<u8> {
    let command = sophia_core::cli::run(arguments.into_iter().map(Into::into));
    let code = runtime::block_on(py, Box::pin(command))?;
    Ok(u8::from(code != std::process::ExitCode::SUCCESS))
}
