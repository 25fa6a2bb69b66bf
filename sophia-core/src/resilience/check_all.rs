//! Asking all of them at once: how far and how fast.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{Error, Result};

/// Most checks that may run at once.
const MAX_CONCURRENCY: usize = 4_096;
/// Longest time for all of them: a check that takes an hour says nothing about now.
const MAX_DEADLINE: Duration = Duration::from_secs(3_600);

/// How servers, or services, are all checked together.
///
/// ```
/// use std::time::Duration;
/// use sophia_core::resilience::CheckAll;
///
/// let quick = CheckAll::default().deadline(Duration::from_secs(1));
/// assert_eq!(quick.concurrency, 64);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CheckAll {
    /// Most checks at once, from 1 to 4,096. Default 64.
    pub concurrency: usize,
    /// Time for all of them together, at most an hour. Default 5 s.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub deadline: Duration,
}

impl Default for CheckAll {
    fn default() -> Self {
        CheckAll { concurrency: 64, deadline: Duration::from_secs(5) }
    }
}

impl CheckAll {
    /// Sets the most checks at once.
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> CheckAll {
        self.concurrency = concurrency;
        self
    }

    /// Sets the time for all of them together.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> CheckAll {
        self.deadline = deadline;
        self
    }

    pub(crate) fn validate(&self, operation: &'static str) -> Result<()> {
        if !(1..=MAX_CONCURRENCY).contains(&self.concurrency) {
            return Err(Error::invalid(operation, "concurrency", "must be from 1 to 4,096"));
        }
        if self.deadline.is_zero() || self.deadline > MAX_DEADLINE {
            return Err(Error::invalid(operation, "deadline", "must be more than zero and at most an hour"));
        }
        Ok(())
    }
}
