//! One absolute point in time by which a call must have answered.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

use crate::{Error, ErrorKind, Result};

/// When to give up: made once where a call enters, and passed down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    at: Instant,
    budget: Duration,
}

impl Deadline {
    /// Creates a deadline `budget` from now.
    pub fn after(budget: Duration) -> Deadline {
        // Adding more than the clock can hold would panic; a century is as good as forever.
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        Deadline { at: Instant::now() + budget.min(CENTURY), budget }
    }

    /// Returns how much time is left, zero when there is none.
    pub fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Returns the instant itself, for `tokio::time::timeout_at`.
    pub fn instant(&self) -> Instant {
        self.at
    }

    /// Runs `work` until the deadline.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`], naming `operation` and the time that was given, or the error of `work`.
    pub async fn run<T>(&self, operation: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout_at(self.at, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.passed(operation)),
        }
    }

    /// Returns the error that says that this deadline passed.
    pub fn passed(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::Timeout, operation, format!("no answer within {:.3} s", self.budget.as_secs_f64()))
    }
}
