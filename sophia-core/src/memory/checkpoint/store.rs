//! [`CheckpointStore`]: what a technology must do to hold checkpoints.

use std::{collections::BTreeMap, fmt::Debug};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    ChannelHistory, Checkpoint, CheckpointPage, CopyThread, DeleteRuns, DeleteThread, DeltaQuery, GetCheckpoint,
    ListCheckpoints, NewCheckpoint, NewWrites, Prune,
};
use crate::Result;

/// A store of checkpoints: durable, walled by tenant and user. Arguments have been validated before it sees them.
///
/// An implementation runs `testing::checkpoint::checkpoint_store`.
#[async_trait]
pub trait CheckpointStore: Debug + Send + Sync + 'static {
    /// Keeps a checkpoint; one with its identifier is replaced, and keeps its writes.
    async fn put(&self, checkpoint: NewCheckpoint, now: Timestamp) -> Result<()>;

    /// Keeps what a task wrote.
    async fn put_writes(&self, writes: NewWrites) -> Result<()>;

    /// Returns one checkpoint, whole.
    async fn get(&self, which: GetCheckpoint) -> Result<Option<Checkpoint>>;

    /// Returns a page of at most `limit` checkpoints, the one with the greatest identifier first.
    async fn list(&self, query: ListCheckpoints, limit: usize) -> Result<CheckpointPage>;

    /// Walks from the parent of a checkpoint to where each channel has a value, and returns the writes on the way.
    async fn deltas(&self, query: DeltaQuery) -> Result<BTreeMap<String, ChannelHistory>>;

    /// Removes a thread; returns how many checkpoints it had.
    async fn delete_thread(&self, thread: DeleteThread) -> Result<u64>;

    /// Removes the checkpoints of runs, with their writes, in all threads; returns how many.
    async fn delete_for_runs(&self, runs: DeleteRuns) -> Result<u64>;

    /// Copies a thread whole; returns how many checkpoints. `Conflict` where the target has some already.
    async fn copy_thread(&self, copy: CopyThread) -> Result<u64>;

    /// Removes all but what the strategy keeps; returns how many checkpoints.
    async fn prune(&self, prune: Prune) -> Result<u64>;
}
