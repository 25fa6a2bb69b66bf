//! HTTP under an MCP session, which tells a lost session by whatever a server says of it.
//!
//! The protocol says 404. Many servers say 400, as the examples of the TypeScript and the Python SDK do, or 410, with an error
//! that names no request: the library would renew nothing and leave the request without an answer.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use futures::stream::BoxStream;
use parking_lot::Mutex;
use reqwest::header::{HeaderName, HeaderValue};
use rmcp::{
    model::{ClientJsonRpcMessage, JsonRpcMessage, RequestId, ServerJsonRpcMessage},
    transport::streamable_http_client::{
        SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
    },
};
use sse_stream::Sse;

use super::mcp::MAX_POSTS;

type Outcome<T> = Result<T, StreamableHttpError<reqwest::Error>>;
type Headers = HashMap<HeaderName, HeaderValue>;

/// How the library spells the statuses that mean a lost session beside 404.
const LOST: [&str; 2] = ["HTTP 400", "HTTP 410"];

/// A client that reports a lost session as the library expects it, once for each request: a second refusal is the answer.
#[derive(Debug, Clone)]
pub(crate) struct RenewingClient {
    client: reqwest::Client,
    /// Requests that have met a lost session.
    renewed: Arc<Mutex<VecDeque<RequestId>>>,
}

impl RenewingClient {
    pub(crate) fn new(client: reqwest::Client) -> RenewingClient {
        RenewingClient { client, renewed: Arc::default() }
    }

    /// Reads what a server answered to a request.
    fn read(
        &self,
        request: Option<RequestId>,
        in_session: bool,
        outcome: Outcome<StreamableHttpPostResponse>,
    ) -> Outcome<StreamableHttpPostResponse> {
        let Some(id) = request else { return outcome };
        let is_lost = in_session
            && match &outcome {
                Ok(StreamableHttpPostResponse::Json(JsonRpcMessage::Error(error), _)) => {
                    !is_about(error.id.as_ref(), &id) || error.error.message.to_lowercase().contains("session")
                }
                Err(StreamableHttpError::UnexpectedServerResponse(text)) => {
                    LOST.iter().any(|status| text.starts_with(status))
                }
                _ => false,
            };
        if is_lost && self.is_first(&id) {
            return Err(StreamableHttpError::SessionExpired);
        }
        match outcome {
            // An error that names no request is the answer to the one that was posted.
            Ok(StreamableHttpPostResponse::Json(JsonRpcMessage::Error(error), session))
                if !is_about(error.id.as_ref(), &id) =>
            {
                Ok(StreamableHttpPostResponse::Json(ServerJsonRpcMessage::error(error.error, Some(id)), session))
            }
            other => other,
        }
    }

    /// Returns whether a request meets a lost session for the first time.
    fn is_first(&self, id: &RequestId) -> bool {
        let mut renewed = self.renewed.lock();
        if let Some(at) = renewed.iter().position(|known| known == id) {
            renewed.remove(at);
            return false;
        }
        if renewed.len() == MAX_POSTS {
            renewed.pop_front();
        }
        renewed.push_back(id.clone());
        true
    }
}

/// Returns whether an error is about a request; some servers write the number of one as a text.
fn is_about(error: Option<&RequestId>, request: &RequestId) -> bool {
    error.is_some_and(|id| id == request || id.to_string() == request.to_string())
}

fn id_of(message: &ClientJsonRpcMessage) -> Option<RequestId> {
    match message {
        JsonRpcMessage::Request(request) => Some(request.id.clone()),
        _ => None,
    }
}

impl StreamableHttpClient for RenewingClient {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_header: Option<String>,
        custom_headers: Headers,
    ) -> Outcome<StreamableHttpPostResponse> {
        let (request, in_session) = (id_of(&message), session_id.is_some());
        let outcome = self.client.post_message(uri, message, session_id, auth_header, custom_headers).await;
        self.read(request, in_session, outcome)
    }

    async fn post_message_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_header: Option<String>,
        custom_headers: Headers,
        max_sse_event_size: usize,
    ) -> Outcome<StreamableHttpPostResponse> {
        let (request, in_session) = (id_of(&message), session_id.is_some());
        let outcome = self
            .client
            .post_message_with_max_sse_event_size(
                uri,
                message,
                session_id,
                auth_header,
                custom_headers,
                max_sse_event_size,
            )
            .await;
        self.read(request, in_session, outcome)
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session_id: Arc<str>,
        auth_header: Option<String>,
        custom_headers: Headers,
    ) -> Outcome<()> {
        self.client.delete_session(uri, session_id, auth_header, custom_headers).await
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        custom_headers: Headers,
    ) -> Outcome<BoxStream<'static, Result<Sse, SseError>>> {
        self.client.get_stream(uri, session_id, last_event_id, auth_header, custom_headers).await
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        custom_headers: Headers,
        max_sse_event_size: usize,
    ) -> Outcome<BoxStream<'static, Result<Sse, SseError>>> {
        self.client
            .get_stream_with_max_sse_event_size(
                uri,
                session_id,
                last_event_id,
                auth_header,
                custom_headers,
                max_sse_event_size,
            )
            .await
    }
}
