//! [`TallyStore`]: what a technology must do to count for several processes.

use std::fmt::Debug;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::Result;

/// Numbers under a group and a field. An implementation runs `testing::tally::tally_store`.
///
/// Groups are for reading: what is read together is one group. A number expires by itself, so that nothing has to be
/// cleaned up.
#[async_trait]
pub trait TallyStore: Debug + Send + Sync + 'static {
    /// Applies all changes as one step, or none where one of them would pass its `at_most`. A number is named at most once.
    ///
    /// A durable store has them safe when this returns.
    async fn apply(&self, changes: &[TallyChange]) -> Result<Applied>;

    /// Applies changes at most once under the name `batch`, which names nothing else: so they can be tried again where an
    /// error leaves open whether they were applied.
    ///
    /// A store whose errors mean that they were not needs no names.
    async fn apply_once(&self, _batch: &str, changes: &[TallyChange]) -> Result<Applied> {
        self.apply(changes).await
    }

    /// Returns the numbers of a group, by field.
    async fn read(&self, group: &str) -> Result<Vec<(String, f64)>>;
}

/// A change of one number: it becomes `max(number, floor) + amount`.
///
/// With a floor of 0 it is a sum. With the present as its floor, in microseconds since 1970, the number is the time at which
/// something is free again: the time of the store counts, where that has a clock of its own, and a number that is later than it
/// would be needed comes from a clock that was wrong, and counts as that.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TallyChange {
    /// What it is read with.
    pub group: String,
    /// Its name in the group.
    pub field: String,
    /// What a number that is less, or not there, counts as.
    pub floor: f64,
    /// What is added.
    pub amount: f64,
    /// What the number must not be more than afterwards; `None` is any.
    pub at_most: Option<f64>,
    /// When the number is not needed any more. A later change moves it.
    pub expires_at: Timestamp,
}

impl TallyChange {
    /// Adds to a sum.
    pub fn add(group: impl Into<String>, field: impl Into<String>, amount: f64, expires_at: Timestamp) -> TallyChange {
        TallyChange { group: group.into(), field: field.into(), floor: 0.0, amount, at_most: None, expires_at }
    }

    /// Sets what a number that is less, or not there, counts as.
    #[must_use]
    pub fn floor(mut self, floor: f64) -> TallyChange {
        self.floor = floor;
        self
    }

    /// Sets what the number must not be more than afterwards.
    #[must_use]
    pub fn at_most(mut self, at_most: f64) -> TallyChange {
        self.at_most = Some(at_most);
        self
    }

    /// Returns what the number becomes.
    pub fn of(&self, number: Option<f64>) -> f64 {
        let latest = if self.is_time() { self.expires_at.as_microsecond() as f64 } else { f64::MAX };
        number.map_or(self.floor, |number| number.min(latest).max(self.floor)) + self.amount
    }

    /// Returns whether the number is a time.
    pub(crate) fn is_time(&self) -> bool {
        self.floor > 0.0
    }

    /// Returns whether it need not be written down: a time that has passed says nothing.
    pub(crate) fn only_looks(&self) -> bool {
        self.is_time() && self.amount == 0.0
    }

    /// Returns whether the number may become this.
    pub fn allows(&self, number: f64) -> bool {
        self.at_most.is_none_or(|at_most| number <= at_most)
    }
}

/// What came of changes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Applied {
    /// Whether they were applied: all, or none.
    pub applied: bool,
    /// What each number is now, at least its floor; where they were not applied, what it would be with its change.
    pub numbers: Vec<f64>,
}

impl Applied {
    /// Says what came of changes.
    pub fn new(applied: bool, numbers: Vec<f64>) -> Applied {
        Applied { applied, numbers }
    }
}
