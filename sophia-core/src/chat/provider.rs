//! What answers: a server of models, or a stage in front of one.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    dialect::Dialect,
    explain::Trace,
    flight::Form,
    key::Key,
    limited::Pass,
    response::{Answer, Attempt, Delta, Found, Usage},
    semantic::{Question, Served},
};
use crate::{Error, ErrorKind, Result, Scope, otlp::SpanContext, resilience::Deadline};

/// Something that answers: a server of models, or a stage in front of one.
///
/// A stage implements this trait around another one, and forwards every method.
///
/// # Cancel safety
/// Dropping a future or a stream closes the call below it.
#[async_trait]
pub trait ChatProvider: Debug + Send + Sync + 'static {
    /// Returns the configured name.
    fn name(&self) -> &str;

    /// Asks for a whole answer.
    ///
    /// # Errors
    /// By what the caller can do: Unauthorized, RateLimited (with `retry_after`), Timeout, Unavailable, InvalidInput.
    async fn complete(&self, call: &ProviderCall) -> Result<Completion>;

    /// Asks for an answer in parts. The stream ends with [`ProviderEvent::Done`] or an error.
    ///
    /// # Errors
    /// As [`ChatProvider::complete`], also inside of the stream.
    async fn stream(&self, call: &ProviderCall) -> Result<ProviderStream>;

    /// Lists the models that it offers.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless it is implemented.
    async fn models(&self) -> Result<Vec<Model>> {
        Err(unsupported(self.name(), "chat.models"))
    }

    /// Turns texts into vectors.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless it is implemented.
    async fn embed(&self, _call: &EmbedCall) -> Result<Embeddings> {
        Err(unsupported(self.name(), "chat.embed"))
    }
}

pub(crate) fn unsupported(name: &str, operation: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, operation, format!("provider `{name}` does not offer it"))
}

/// One call on its way down to a provider.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProviderCall {
    /// Operation for errors, such as `"chat.complete"`.
    pub operation: &'static str,
    /// Model as the request named it.
    pub model: String,
    /// Body in the form of OpenAI's chat completions, model included, `stream` not.
    pub body: Map<String, Value>,
    /// Dialect that the request came in: whose own fields the body may hold.
    pub dialect: Dialect,
    /// When everyone who waits will have left.
    pub deadline: SharedDeadline,
    /// What a stage that keeps answers must know.
    pub(crate) keeping: Option<Keeping>,
    /// Context of the request, for metrics.
    pub context: String,
    /// Whose call it is: of those who share it, the first one's.
    pub scope: Scope,
    /// Where stages note what they did.
    pub(crate) trace: Trace,
    /// Who is asked, while the end of the answer is not known.
    pub(crate) asked_of: AskedOf,
    /// The right to ask.
    pub(crate) pass: Pass,
    /// Span of the first one who asks, if it is told to anybody.
    pub(crate) parent: Option<SpanContext>,
}

/// In which words a question is asked, those included that its key leaves out, and how it is to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Words(pub [u8; 32]);

impl ProviderCall {
    pub(crate) fn words(&self, form: Form) -> Words {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[self.dialect as u8, form as u8]);
        // Text and numbers: what was read as JSON can be written.
        let _ = serde_json::to_writer(&mut hasher, &self.body);
        Words(*hasher.finalize().as_bytes())
    }
}

/// The providers that are asked, two where a call is hedged, for who pays for them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct AskedOf(Arc<Mutex<Vec<String>>>);

impl AskedOf {
    /// Says that a provider is asked.
    pub fn begin(&self, provider: &str) {
        self.0.lock().push(provider.to_owned());
    }

    /// Says that its end was heard.
    pub fn end(&self, provider: &str) {
        let mut asked = self.0.lock();
        if let Some(place) = asked.iter().position(|name| name == provider) {
            asked.remove(place);
        }
    }

    /// Takes those whose end nobody has heard.
    pub fn rest(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
}

/// How an answer is kept.
#[derive(Debug, Clone)]
pub(crate) struct Keeping {
    pub key: Key,
    pub scope: Scope,
    pub context: String,
    pub tags: Vec<String>,
    /// Explicit time in seconds; by rule where it is `None`.
    pub ttl: Option<u64>,
    /// Number of the last invalidation before the call began.
    pub epoch: u64,
    /// When it was asked for, by the clock of the cache: it does not replace what was asked for later.
    pub asked_at: Duration,
    /// Whether an answer will do that was kept since the caller looked: another flight may have landed meanwhile.
    pub look: bool,
    /// What the semantic tier compares; `None` where it is left out.
    pub question: Option<Arc<Question>>,
}

/// The latest deadline of those who share a call. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SharedDeadline(Arc<Mutex<Deadline>>);

impl SharedDeadline {
    /// Creates it from the deadline of the first.
    pub fn new(deadline: Deadline) -> SharedDeadline {
        SharedDeadline(Arc::new(Mutex::new(deadline)))
    }

    /// Returns the latest deadline so far.
    pub fn get(&self) -> Deadline {
        *self.0.lock()
    }

    /// Runs `work` until the latest deadline, which may move meanwhile.
    pub(crate) async fn run<T>(&self, operation: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let deadline = self.get();
            match tokio::time::timeout_at(deadline.instant(), work.as_mut()).await {
                Ok(outcome) => return outcome,
                Err(_) if self.get() > deadline => {}
                Err(_) => return Err(deadline.passed(operation)),
            }
        }
    }

    /// Takes the deadline of one more into account.
    pub(crate) fn extend(&self, deadline: Deadline) {
        let mut latest = self.0.lock();
        *latest = (*latest).max(deadline);
    }
}

/// A whole answer, and what it took.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Completion {
    /// The answer.
    pub answer: Arc<Answer>,
    /// What was tried.
    pub attempts: Vec<Attempt>,
    /// How long it is kept, in seconds, if it is.
    pub(crate) ttl_s: Option<u64>,
    /// Where it was found, if it was not asked for.
    pub(crate) found: Found,
    /// The kept answer that it is, if it was kept for another question: it is not kept for this one.
    pub(crate) semantic: Option<Served>,
}

impl Completion {
    /// Wraps an answer that was given at once.
    pub fn new(answer: Answer) -> Completion {
        Completion {
            answer: Arc::new(answer),
            attempts: Vec::new(),
            ttl_s: None,
            found: Found::default(),
            semantic: None,
        }
    }
}

/// What a stream of a provider yields.
#[derive(Debug, Clone)]
pub enum ProviderEvent {
    /// A further part.
    Delta(Delta),
    /// The end, with the whole answer.
    Done(Completion),
}

/// The events of one answer.
pub type ProviderStream = BoxStream<'static, Result<ProviderEvent>>;

/// One model of a provider.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Model {
    /// Name by which it is asked for.
    pub id: String,
    /// Configured name of the provider.
    pub provider: String,
    /// Who made it, as the provider says; null where it does not.
    pub owned_by: Option<String>,
    /// When it was made, in seconds since 1970, as the provider says; null where it does not.
    pub created: Option<i64>,
}

/// Texts to be turned into vectors.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct EmbedCall {
    /// Texts, at least one.
    pub texts: Vec<String>,
    /// Model; the configured default where it is null.
    pub model: Option<String>,
    /// Whose call it is: its limits are kept, and what it costs is written down there.
    pub scope: Option<Scope>,
    /// Time in which there must be vectors; the configured default where it is null.
    #[serde(with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub timeout: Option<Duration>,
    /// Trace that it belongs to (W3C `traceparent`), for OpenTelemetry; null begins one.
    pub traceparent: Option<String>,
    /// Any further field of the provider's protocol, passed on verbatim.
    pub provider_fields: Map<String, Value>,
}

impl EmbedCall {
    /// Creates a call for `texts`.
    pub fn new<S: Into<String>>(texts: impl IntoIterator<Item = S>) -> EmbedCall {
        EmbedCall { texts: texts.into_iter().map(Into::into).collect(), ..EmbedCall::default() }
    }

    /// Sets the model.
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> EmbedCall {
        self.model = Some(model.into());
        self
    }

    /// Sets whose call it is.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> EmbedCall {
        self.scope = Some(scope.into());
        self
    }

    /// Sets the time in which there must be vectors.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> EmbedCall {
        self.timeout = Some(timeout);
        self
    }
}

/// Vectors, one for each text, in order.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Embeddings {
    /// The vectors.
    pub vectors: Vec<Vec<f32>>,
    /// Model as the provider named it.
    pub model: String,
    /// Configured name of the provider.
    pub provider: String,
    /// Token counts.
    pub usage: Usage,
}
