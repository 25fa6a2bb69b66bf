//! Checkpoints: what a workflow was doing at each of its steps, to go on from, to look back at, and to fork.
//!
//! | to see | open |
//! |---|---|
//! | what a checkpoint is, and what is asked | `step.rs`, `encoded.rs` |
//! | what a technology must do | `store.rs` |
//! | what users call | `handle.rs` |
//! | how those of LangGraph are taken over | `import.rs` |
//! | how a list is cut, so that a longer one shares the parts of a shorter one | `pieces.rs` |
//! | how stores keep values and channels | `packed.rs`, `channels.rs` |

pub(super) mod channels;
mod encoded;
mod handle;
mod import;
pub(super) mod packed;
pub(super) mod pieces;
mod step;
mod store;

pub use encoded::Encoded;
pub use handle::Checkpoints;
pub(super) use handle::{check_checkpoint, check_writes};
pub use import::{ImportLangGraph, ImportedCheckpoints};
pub use step::{
    ChannelHistory, Checkpoint, CheckpointPage, CopyThread, DeleteRuns, DeleteThread, DeltaQuery, GetCheckpoint,
    ListCheckpoints, NewCheckpoint, NewWrite, NewWrites, PendingWrite, Prune, PruneStrategy,
};
pub use store::CheckpointStore;
