//! OpenAI's Responses. Scope and headers are those of `openai.rs`.
//!
//! A client may name an item that it was given (`item_reference`), or the response that it goes on from
//! (`previous_response_id`), instead of sending back what was said. Where the provider speaks another protocol and has neither,
//! they are kept here (`conversations.rs`), unless the request says `store: false`. Where the provider has them, it has them for all
//! keys alike, and which of them were given to whom is kept here.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    call::{Call, refuse},
    conversations::{Conversations, Said, lost, lost_item, not_yours, referenced},
    openai::{answered, read_headers},
    reply::{Failure, message_of},
    sse::{self, Frames},
    surface::Response,
};
use crate::{
    Error, ErrorKind, Timestamp,
    chat::{
        ChatChunk,
        dialect::{
            Dialect, Names, PREVIOUS,
            responses::{FrameWriter, read_further_request, write_response},
        },
    },
};

/// How long an answer waits until it is kept. It goes on being kept after that.
const KEEP_WAIT: Duration = Duration::from_secs(1);
/// Longest time in which an answer is kept.
const KEEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Field of a request that names a conversation of the provider.
const CONVERSATION: &str = "conversation";
/// Field of a response that says whether it can be named.
const STORE: &str = "store";

/// `POST /v1/responses`
pub(super) async fn responses(call: Call) -> Result<Response, Failure> {
    let scope = call.header_scope("chat.complete")?;
    let mut body = call.json()?;
    let sophia = call.surface.sophia();
    let max_bytes = sophia.config().chat.max_request_bytes;
    let mut given = Given {
        conversations: Conversations::begin(sophia.memory().clone(), scope.clone(), max_bytes),
        keeping: call.surface.keeping().clone(),
        is_kept: body.get(STORE) != Some(&Value::Bool(false)),
        may_name_all: call.caller.admin,
        previous: Previous::None,
        said: 0,
        input: Vec::new(),
        names: Names::default(),
    };
    given.recall(&mut body).await.map_err(refuse)?;
    let mut inbound = read_further_request(Value::Object(body), &scope, given.said)?;
    given.names = inbound.names;
    if let Previous::Known(id) = &given.previous {
        inbound.repeated.insert(PREVIOUS.to_owned(), id.as_str().into());
    }
    inbound.repeated.insert(STORE.to_owned(), given.is_kept.into());
    read_headers(&call, &mut inbound.request)?;
    let chat = sophia.chat();
    if inbound.stream {
        let model = inbound.request.model.clone().unwrap_or_default();
        let writer = FrameWriter::new(&model, &inbound.repeated, Timestamp::now());
        let frames = Items { writer, given, request_id: call.request_id.clone() };
        return sse::answer(chat.stream(inbound.request), frames).await;
    }
    let answer = chat.complete(inbound.request).await.map_err(|error| given.tell(error))?;
    let mut body = write_response(&answer, &inbound.repeated, Timestamp::now())?;
    if let Value::Object(response) = &body {
        match answer.envelope.dialect() {
            Dialect::Responses => given.keep_names(response).await,
            _ => body[STORE] = given.keep(response).await.into(),
        }
    }
    Ok(answered(&answer, &body))
}

/// What a client was given.
struct Given {
    conversations: Conversations,
    /// Answers that may be being kept at once.
    keeping: Arc<Semaphore>,
    is_kept: bool,
    /// Whether the caller may also name what the provider gave to others.
    may_name_all: bool,
    previous: Previous,
    /// How many items were said before.
    said: usize,
    /// What the request itself says.
    input: Vec<Value>,
    names: Names,
}

/// The response that a request goes on from.
enum Previous {
    None,
    Known(String),
    Unknown(String),
}

impl Given {
    /// Puts what was said in place of its names. A name that is not known here may be known to the provider, and must have been
    /// given to who names it.
    async fn recall(&mut self, body: &mut Map<String, Value>) -> crate::Result<()> {
        let mut room = self.conversations.room();
        self.input = match body.get_mut("input") {
            Some(Value::Array(items)) => {
                self.conversations.put_items(items, &mut room).await?;
                for (index, item) in items.iter().enumerate() {
                    if let Some(id) = referenced(item)
                        && !self.may_name(id).await?
                    {
                        return Err(lost_item(&format!("input[{index}]")));
                    }
                }
                items.clone()
            }
            Some(Value::String(text)) => vec![json!({"role": "user", "content": text})],
            None | Some(Value::Null) => Vec::new(),
            // Refused by who reads it.
            Some(_) => return Ok(()),
        };
        if !self.may_name_all && body.get(CONVERSATION).is_some_and(|named| !named.is_null()) {
            return Err(not_yours(CONVERSATION));
        }
        let id = match body.get(PREVIOUS) {
            Some(Value::String(id)) => id.clone(),
            None | Some(Value::Null) => return Ok(()),
            Some(_) => return Err(Error::invalid("chat.complete", PREVIOUS, "must be the id of a response")),
        };
        let Some(mut said) = self.conversations.said(&id, &mut room).await? else {
            if !self.may_name(&id).await? {
                return Err(lost(&id));
            }
            self.previous = Previous::Unknown(id);
            return Ok(());
        };
        self.said = said.len();
        said.extend(self.input.iter().cloned());
        body.insert("input".to_owned(), said.into());
        body.shift_remove(PREVIOUS);
        self.previous = Previous::Known(id);
        Ok(())
    }

    /// Returns an error as the client understands it: what neither we nor the provider knows is not there.
    fn tell(&self, error: Error) -> Error {
        let error = self.names.tell(error);
        if error.kind() != ErrorKind::Unsupported {
            return error;
        }
        let field = error.get("field").unwrap_or_default();
        if let (Previous::Unknown(id), PREVIOUS) = (&self.previous, field) {
            return lost(id);
        }
        let place = field.strip_prefix("input[").and_then(|rest| rest.strip_suffix(']'));
        let item = place.and_then(|place| self.input.get(place.parse::<usize>().ok()?));
        match item.and_then(referenced) {
            Some(_) => lost_item(field),
            None => error,
        }
    }

    async fn may_name(&self, id: &str) -> crate::Result<bool> {
        Ok(self.may_name_all || self.conversations.has_name(id).await?)
    }

    /// Keeps a response that is no provider's; returns whether it can be named.
    async fn keep(&self, response: &Map<String, Value>) -> bool {
        let (Some(id), true) = (response.get("id").and_then(Value::as_str), self.is_kept) else { return false };
        let previous = match &self.previous {
            Previous::Known(id) => Some(id.clone()),
            Previous::None | Previous::Unknown(_) => None,
        };
        let output = response.get("output").and_then(Value::as_array).cloned().unwrap_or_default();
        let said = Said { id: id.to_owned(), previous, input: self.input.clone(), output };
        let conversations = self.conversations.clone();
        self.wait_for(async move { conversations.keep(said).await }).await
    }

    /// Keeps the names that a provider gave with a response.
    async fn keep_names(&self, response: &Map<String, Value>) {
        if self.may_name_all || !self.is_kept {
            return;
        }
        let output = response.get("output").and_then(Value::as_array).into_iter().flatten();
        let ids = response.get("id").into_iter().chain(output.filter_map(|item| item.get("id")));
        let ids: Vec<_> = ids.filter_map(Value::as_str).map(str::to_owned).collect();
        let conversations = self.conversations.clone();
        self.wait_for(async move { conversations.keep_names(ids).await }).await;
    }

    /// Waits a moment for what is being kept, which goes on by itself. Returns whether it is kept, as far as is known.
    async fn wait_for(&self, keep: impl Future<Output = crate::Result<()>> + Send + 'static) -> bool {
        let Ok(permit) = self.keeping.clone().try_acquire_owned() else {
            tracing::warn!("what was answered cannot be named later: too much is being kept already");
            return false;
        };
        // Ends in time, and there are as many at once as there are permits.
        let keeping = tokio::spawn(async move {
            let _permit = permit;
            let code = match timeout(KEEP_TIMEOUT, keep).await {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => error.code(),
                Err(_) => ErrorKind::Timeout.code(),
            };
            tracing::warn!(code, "what was answered cannot be named later");
            false
        });
        match timeout(KEEP_WAIT, keeping).await {
            Ok(kept) => kept.unwrap_or(false),
            Err(_) => true,
        }
    }
}

struct Items {
    writer: FrameWriter,
    given: Given,
    request_id: String,
}

impl Frames for Items {
    fn chunk(&mut self, chunk: &ChatChunk) -> String {
        self.writer.chunk(chunk)
    }

    fn name(&self, error: Error) -> Error {
        self.given.tell(error)
    }

    fn error(&mut self, error: &Error) -> String {
        self.writer.error(error, &message_of(error, &self.request_id))
    }

    async fn settle(&mut self) {
        match self.writer.take_given() {
            Some((response, true)) => self.given.keep_names(&response).await,
            Some((response, false)) => drop(self.given.keep(&response).await),
            None => {}
        }
    }
}
