//! What an action does.

use std::fmt;

use async_trait::async_trait;
use futures::{FutureExt, TryFutureExt, future::BoxFuture};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Result;

/// What an action turned out to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Effect {
    /// The target works again.
    Helped,
    /// Nothing changed.
    NoEffect,
    /// It is worse than before.
    Harmed,
    /// Nobody looked, or could tell.
    Unknown,
}

/// Heals a target, looks whether that helped, and takes it back.
#[async_trait]
pub trait Healer: fmt::Debug + Send + Sync + 'static {
    /// Does it. Where that takes longer than the action's timeout it is dropped, and taken back.
    ///
    /// # Errors
    /// What kept it from being done.
    async fn execute(&self, target: &str) -> Result<()>;

    /// Looks whether it helped. By default nobody looks.
    ///
    /// # Errors
    /// What kept it from being looked at; the effect is then unknown.
    async fn verify(&self, _target: &str) -> Result<Effect> {
        Ok(Effect::Unknown)
    }

    /// Takes it back; returns whether that is possible at all. By default it is not.
    ///
    /// # Errors
    /// What kept it from being taken back.
    async fn rollback(&self, _target: &str) -> Result<bool> {
        Ok(false)
    }
}

type Step<T> = Box<dyn Fn(String) -> BoxFuture<'static, Result<T>> + Send + Sync>;

/// A healer made of functions, each of which is given the target.
pub struct CallbackHealer {
    execute: Step<()>,
    verify: Option<Step<Option<bool>>>,
    rollback: Option<Step<()>>,
}

impl CallbackHealer {
    /// Creates a healer that only executes.
    pub fn new(execute: impl Fn(String) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static) -> CallbackHealer {
        CallbackHealer { execute: Box::new(execute), verify: None, rollback: None }
    }

    /// Sets how to look whether it helped: a `bool`, or an `Option` of one that is `None` where that cannot be told; the effect
    /// is unknown then.
    #[must_use]
    pub fn verify<T: Into<Option<bool>> + 'static>(
        mut self,
        verify: impl Fn(String) -> BoxFuture<'static, Result<T>> + Send + Sync + 'static,
    ) -> CallbackHealer {
        self.verify = Some(Box::new(move |target| verify(target).map_ok(Into::into).boxed()));
        self
    }

    /// Sets how to take it back.
    #[must_use]
    pub fn rollback(
        mut self,
        rollback: impl Fn(String) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> CallbackHealer {
        self.rollback = Some(Box::new(rollback));
        self
    }
}

impl fmt::Debug for CallbackHealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackHealer").finish_non_exhaustive()
    }
}

#[async_trait]
impl Healer for CallbackHealer {
    async fn execute(&self, target: &str) -> Result<()> {
        (self.execute)(target.to_owned()).await
    }

    async fn verify(&self, target: &str) -> Result<Effect> {
        match &self.verify {
            None => Ok(Effect::Unknown),
            Some(verify) => Ok(match verify(target.to_owned()).await? {
                Some(true) => Effect::Helped,
                Some(false) => Effect::NoEffect,
                None => Effect::Unknown,
            }),
        }
    }

    async fn rollback(&self, target: &str) -> Result<bool> {
        match &self.rollback {
            None => Ok(false),
            Some(rollback) => rollback(target.to_owned()).await.map(|()| true),
        }
    }
}
