//! [`Checkpoints`]: what users call.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{
    ChannelHistory, Checkpoint, CheckpointPage, CheckpointStore, CopyThread, DeleteRuns, DeleteThread, DeltaQuery,
    Encoded, GetCheckpoint, ListCheckpoints, NewCheckpoint, NewWrites, Prune,
};
use crate::{
    Clock, Error, Result, Scope,
    memory::{Archive, Item, Outcome, metrics::SharedMetrics, validate},
};

/// Checkpoints of a page that names no limit.
const DEFAULT_PAGE: usize = 100;
/// Most bytes of one checkpoint, or of the writes of one task: a state that is larger belongs into a file.
const MAX_BYTES: usize = 128 * 1024 * 1024;
/// Longest metadata, as JSON.
const MAX_METADATA_BYTES: u64 = 1024 * 1024;
/// Most channels of a checkpoint, writes of a task, threads or runs of a call.
const MAX_NAMES: usize = 10_000;

/// The checkpoints of workflows: kept once where they are equal, compressed, and readable in time that does not grow with
/// the number of steps. Cheap to clone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sophia_core::Result<()> {
/// use sophia_core::{Sophia, memory::{Encoded, GetCheckpoint, NewCheckpoint, NewWrites}};
///
/// let sophia = Sophia::builder().start().await?;
/// let checkpoints = sophia.memory().checkpoints();
/// let json = |text: &str| Encoded::new("json", text);
/// checkpoints.put(NewCheckpoint::new("trip", "1", json("{}")).channel("city", "1", json("\"Oslo\""))).await?;
/// checkpoints.put_writes(NewWrites::new("trip", "1", "book").write("hotel", 0, json("\"booked\""))).await?;
/// checkpoints.put(NewCheckpoint::new("trip", "2", json("{}")).parent("1").kept("city", "1")).await?;
/// let last = checkpoints.get(GetCheckpoint::last("trip")).await?.expect("two were kept");
/// assert_eq!((last.id.as_str(), &last.channels["city"]), ("2", &json("\"Oslo\"")));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Checkpoints {
    store: Arc<dyn CheckpointStore>,
    archive: Arc<dyn Archive>,
    clock: Arc<dyn Clock>,
    metrics: SharedMetrics,
}

impl Checkpoints {
    pub(crate) fn new(
        store: Arc<dyn CheckpointStore>,
        archive: Arc<dyn Archive>,
        clock: Arc<dyn Clock>,
        metrics: SharedMetrics,
    ) -> Checkpoints {
        Checkpoints { store, archive, clock, metrics }
    }

    pub(super) fn now(&self) -> Timestamp {
        validate::whole_micros(self.clock.now())
    }

    /// Keeps what comes from elsewhere, where nothing of its name is there.
    pub(super) async fn keep(&self, item: Item) -> Result<Outcome> {
        let outcomes = self.archive.write_items(vec![item]).await?;
        Ok(outcomes.first().copied().unwrap_or(Outcome::Unchanged))
    }

    /// Keeps a checkpoint. It is durable when this returns.
    ///
    /// # Errors
    /// `InvalidInput` for what cannot be kept.
    ///
    /// # Cancel safety
    /// A call that is dropped has kept the checkpoint whole, or not at all.
    pub async fn put(&self, checkpoint: NewCheckpoint) -> Result<()> {
        const OPERATION: &str = "memory.checkpoints.put";
        let call = async {
            check_checkpoint(OPERATION, &checkpoint)?;
            self.store.put(checkpoint, self.now()).await
        };
        self.metrics.timed(OPERATION, call).await
    }

    /// Keeps what a task wrote. It is durable when this returns.
    ///
    /// # Errors
    /// `InvalidInput` for what cannot be kept.
    pub async fn put_writes(&self, writes: NewWrites) -> Result<()> {
        const OPERATION: &str = "memory.checkpoints.put_writes";
        let call = async {
            check_writes(OPERATION, &writes)?;
            self.store.put_writes(writes).await
        };
        self.metrics.timed(OPERATION, call).await
    }

    /// Returns one checkpoint with its writes, the last one where no identifier is given; `None` where the scope does not
    /// have it.
    ///
    /// # Errors
    /// `InvalidInput` for a scope or a name that is none.
    pub async fn get(&self, which: GetCheckpoint) -> Result<Option<Checkpoint>> {
        const OPERATION: &str = "memory.checkpoints.get";
        let call = async {
            place(OPERATION, &which.scope, &which.thread, &which.namespace)?;
            self.store.get(which).await
        };
        self.metrics.timed(OPERATION, call).await
    }

    /// Returns checkpoints, the one with the greatest identifier first, a page at a time.
    ///
    /// # Errors
    /// `InvalidInput` for a limit out of range, or an `after` that no page gave.
    pub async fn list(&self, query: ListCheckpoints) -> Result<CheckpointPage> {
        const OPERATION: &str = "memory.checkpoints.list";
        let call = async {
            query.scope.validate(OPERATION)?;
            let limit = validate::limit(OPERATION, query.limit, DEFAULT_PAGE)?;
            self.store.list(query, limit).await
        };
        self.metrics.timed(OPERATION, call).await
    }

    /// Returns of what the values of delta channels at a checkpoint are made.
    ///
    /// # Errors
    /// `InvalidInput` for a scope or a name that is none.
    pub async fn deltas(&self, query: DeltaQuery) -> Result<BTreeMap<String, ChannelHistory>> {
        const OPERATION: &str = "memory.checkpoints.deltas";
        let call = async {
            place(OPERATION, &query.scope, &query.thread, &query.namespace)?;
            count(OPERATION, "channels", query.channels.len())?;
            self.store.deltas(query).await
        };
        self.metrics.timed(OPERATION, call).await
    }

    /// Removes a thread with all its namespaces; returns how many checkpoints it had.
    ///
    /// # Errors
    /// `InvalidInput` for a scope or a name that is none.
    pub async fn delete_thread(&self, thread: DeleteThread) -> Result<u64> {
        const OPERATION: &str = "memory.checkpoints.delete_thread";
        let call = async {
            place(OPERATION, &thread.scope, &thread.thread, "")?;
            self.store.delete_thread(thread).await
        };
        self.metrics.timed(OPERATION, call).await
    }

    /// Removes the checkpoints that runs made, with their writes; returns how many. A delta channel that was made of them
    /// loses what they wrote.
    ///
    /// # Errors
    /// `InvalidInput` for a scope that is none.
    pub async fn delete_for_runs(&self, runs: DeleteRuns) -> Result<u64> {
        const OPERATION: &str = "memory.checkpoints.delete_for_runs";
        let call = async {
            runs.scope.validate(OPERATION)?;
            count(OPERATION, "run_ids", runs.run_ids.len())?;
            self.store.delete_for_runs(runs).await
        };
        self.metrics.timed(OPERATION, call).await
    }

    /// Copies a thread with all its checkpoints and writes to a new one; returns how many checkpoints.
    ///
    /// # Errors
    /// `Conflict` where the target has checkpoints; `InvalidInput` for a name that is none.
    pub async fn copy_thread(&self, copy: CopyThread) -> Result<u64> {
        const OPERATION: &str = "memory.checkpoints.copy_thread";
        let call = async {
            copy.scope.validate(OPERATION)?;
            validate::name(OPERATION, "source", &copy.source)?;
            validate::name(OPERATION, "target", &copy.target)?;
            self.store.copy_thread(copy).await
        };
        self.metrics.timed(OPERATION, call).await
    }

    /// Removes all but the last checkpoint of each namespace, and what that one's delta channels are made of; returns how
    /// many checkpoints.
    ///
    /// # Errors
    /// `InvalidInput` for a scope or a name that is none.
    pub async fn prune(&self, prune: Prune) -> Result<u64> {
        const OPERATION: &str = "memory.checkpoints.prune";
        let call = async {
            prune.scope.validate(OPERATION)?;
            count(OPERATION, "threads", prune.threads.len())?;
            self.store.prune(prune).await
        };
        self.metrics.timed(OPERATION, call).await
    }
}

/// Refuses a checkpoint that cannot be kept.
pub(in crate::memory) fn check_checkpoint(operation: &'static str, checkpoint: &NewCheckpoint) -> Result<()> {
    place(operation, &checkpoint.scope, &checkpoint.thread, &checkpoint.namespace)?;
    validate::name(operation, "id", &checkpoint.id)?;
    validate::optional_name(operation, "parent", checkpoint.parent.as_ref())?;
    validate::optional_name(operation, "run_id", checkpoint.run_id.as_ref())?;
    validate::metadata(operation, &checkpoint.metadata, MAX_METADATA_BYTES)?;
    count(operation, "versions", checkpoint.versions.len().max(checkpoint.channels.len()))?;
    count(operation, "deltas", checkpoint.deltas.len())?;
    for (name, version) in &checkpoint.versions {
        validate::text(operation, "versions", name)?;
        validate::text(operation, "versions", version)?;
    }
    let channels = checkpoint.channels.iter().map(|(name, value)| (name.as_str(), value));
    values(operation, "channels", channels)?;
    values(operation, "body", [("", &checkpoint.body)])
}

/// Refuses what a task wrote, where it cannot be kept.
pub(in crate::memory) fn check_writes(operation: &'static str, writes: &NewWrites) -> Result<()> {
    place(operation, &writes.scope, &writes.thread, &writes.namespace)?;
    validate::name(operation, "id", &writes.id)?;
    validate::name(operation, "task", &writes.task)?;
    validate::text(operation, "path", &writes.path)?;
    count(operation, "writes", writes.writes.len())?;
    values(operation, "writes", writes.writes.iter().map(|write| (write.channel.as_str(), &write.value)))
}

fn place(operation: &'static str, scope: &Scope, thread: &str, namespace: &str) -> Result<()> {
    scope.validate(operation)?;
    validate::name(operation, "thread", thread)?;
    validate::text(operation, "namespace", namespace)
}

fn count(operation: &'static str, field: &str, count: usize) -> Result<()> {
    if count > MAX_NAMES {
        return Err(Error::invalid(operation, field, format!("are {count}; at most {MAX_NAMES} are taken at once")));
    }
    Ok(())
}

fn values<'a>(
    operation: &'static str,
    field: &str,
    values: impl IntoIterator<Item = (&'a str, &'a Encoded)>,
) -> Result<()> {
    let mut bytes = 0_usize;
    for (name, value) in values {
        validate::text(operation, field, name)?;
        if value.encoding.is_empty() || value.encoding.len() > validate::MAX_NAME_BYTES {
            let message = format!("holds a value `{name}` whose encoding is empty or too long: name it");
            return Err(Error::invalid(operation, field, message));
        }
        bytes = bytes.saturating_add(value.data.len());
    }
    if bytes > MAX_BYTES {
        let message = format!("are {bytes} bytes together; at most {MAX_BYTES} are kept: put large data into a file");
        return Err(Error::invalid(operation, field, message).with("limit", MAX_BYTES));
    }
    Ok(())
}
