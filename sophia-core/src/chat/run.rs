//! The same protection around any coroutine: cache, single flight, permits, deadline and metrics.

use std::{future::Future, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    request::{CacheMode, Share, check_options},
    response::CacheInfo,
};
use crate::{Error, ErrorKind, Result, Scope};

/// What a producer made.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Produced {
    /// The value.
    pub value: Value,
    /// The text by which rules choose how long it is kept; the value's own text where it is `None`.
    pub text: Option<String>,
    /// Whether it may be kept.
    pub cacheable: bool,
}

impl Produced {
    /// Wraps a value that may be kept.
    pub fn new(value: impl Into<Value>) -> Produced {
        Produced { value: value.into(), text: None, cacheable: true }
    }

    /// Sets the text by which rules choose how long it is kept.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Produced {
        self.text = Some(text.into());
        self
    }

    /// Sets whether it may be kept.
    #[must_use]
    pub fn cacheable(mut self, cacheable: bool) -> Produced {
        self.cacheable = cacheable;
        self
    }
}

/// What a producer is asked, and how its value is kept.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RunOptions {
    /// The question; with scope and context it is the key.
    pub message: String,
    /// Whose question it is.
    pub scope: Option<Scope>,
    /// Who else may be given the value. Default user.
    pub share: Share,
    /// What it is about: chooses how long the value is kept. Default `"default"`; `"auto"` classifies the message.
    pub context: Option<String>,
    /// What the cache is used for. Default default.
    pub cache: CacheMode,
    /// How long the value is kept, from one second to the configured maximum; by rule where it is null.
    #[serde(with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub ttl: Option<Duration>,
    /// Time in which there must be a value; the configured default where it is null.
    #[serde(with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub timeout: Option<Duration>,
    /// Names under which the kept value can be invalidated; of those who share a run, the first one's.
    pub tags: Vec<String>,
    /// Trace that it belongs to (W3C `traceparent`), for OpenTelemetry; null begins one.
    pub traceparent: Option<String>,
    /// The producers that stand around the call; those around this task where it is null. Bindings say it, whose functions run
    /// elsewhere.
    #[schemars(skip)]
    pub around: Option<Vec<String>>,
}

tokio::task_local! {
    static AROUND: Vec<String>;
}

/// Returns what names the producers of `run` that stand around what this task does, the outermost first.
pub fn around() -> Vec<String> {
    AROUND.try_with(Vec::clone).unwrap_or_default()
}

/// Does the work of a producer around which these stand, itself included.
pub(crate) fn inside<W: Future>(around: Vec<String>, work: W) -> impl Future<Output = W::Output> {
    AROUND.scope(around, work)
}

impl RunOptions {
    /// Creates options for a question.
    pub fn new(message: impl Into<String>) -> RunOptions {
        RunOptions { message: message.into(), ..RunOptions::default() }
    }

    /// Sets whose question it is.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> RunOptions {
        self.scope = Some(scope.into());
        self
    }

    /// Sets who else may be given the value.
    #[must_use]
    pub fn share(mut self, share: Share) -> RunOptions {
        self.share = share;
        self
    }

    /// Sets what it is about.
    #[must_use]
    pub fn context(mut self, context: impl Into<String>) -> RunOptions {
        self.context = Some(context.into());
        self
    }

    /// Sets what the cache is used for.
    #[must_use]
    pub fn cache(mut self, mode: CacheMode) -> RunOptions {
        self.cache = mode;
        self
    }

    /// Sets how long the value is kept.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> RunOptions {
        self.ttl = Some(ttl);
        self
    }

    /// Sets the time in which there must be a value.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> RunOptions {
        self.timeout = Some(timeout);
        self
    }

    /// Adds a name under which the kept value can be invalidated.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> RunOptions {
        self.tags.push(tag.into());
        self
    }

    pub(crate) fn validate(&self, operation: &'static str, max_bytes: usize) -> Result<()> {
        if let Some(scope) = &self.scope {
            scope.validate(operation)?;
        }
        if self.message.is_empty() || self.message.len() > max_bytes {
            return Err(Error::invalid(operation, "message", format!("must be 1 to {max_bytes} bytes")));
        }
        check_options(operation, self.context.as_deref(), &self.tags, self.timeout)
    }
}

/// A value, and how the caller came by it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct RunResult<T> {
    /// The value.
    pub value: T,
    /// How it relates to the cache.
    pub cache: CacheInfo,
    /// How long this call took, in milliseconds.
    pub latency_ms: f64,
}

impl RunResult<Arc<Value>> {
    pub(crate) fn read<T: DeserializeOwned>(self, operation: &'static str) -> Result<RunResult<T>> {
        let value = T::deserialize(&*self.value).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, operation, "the kept value is of another type").with_source(error)
        })?;
        Ok(RunResult { value, cache: self.cache, latency_ms: self.latency_ms })
    }
}

/// Makes a producer of values out of one of any type.
pub(crate) fn producer<T, F, W>(
    operation: &'static str,
    produce: F,
) -> impl FnOnce() -> BoxFuture<'static, Result<Produced>> + Send + 'static
where
    T: Serialize,
    F: FnOnce() -> W + Send + 'static,
    W: Future<Output = Result<T>> + Send + 'static,
{
    move || {
        let made = produce();
        Box::pin(async move {
            let value = serde_json::to_value(made.await?).map_err(|error| {
                Error::new(ErrorKind::InvalidInput, operation, "the value cannot be kept").with_source(error)
            })?;
            Ok(Produced::new(value))
        })
    }
}
