//! What a checkpoint is, and what is asked about checkpoints.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Encoded;
use crate::{Scope, memory::record::or_default};

/// A step of a workflow that is about to be kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NewCheckpoint {
    /// Whose it is. Checkpoints belong to tenant and user; session and agent are not looked at.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// Which workflow.
    pub thread: String,
    /// Which part of it, such as a subgraph. Default `""`, the whole.
    #[serde(default, deserialize_with = "or_default")]
    pub namespace: String,
    /// Identifier. Later steps have greater ones, compared as text. One that is there is replaced.
    pub id: String,
    /// Identifier of the step before.
    #[serde(default)]
    pub parent: Option<String>,
    /// The run that made it, for `delete_for_runs`.
    #[serde(default)]
    pub run_id: Option<String>,
    /// All of it but the values of its channels.
    pub body: Encoded,
    /// Facts to filter by.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: Map<String, Value>,
    /// Values that are new at this step, by channel.
    #[serde(default, deserialize_with = "or_default")]
    pub channels: BTreeMap<String, Encoded>,
    /// Versions of all channels. One without a new value keeps the value that this version has at the parent; where
    /// there is no parent, or nothing new, the value that it has elsewhere in the thread.
    #[serde(default, deserialize_with = "or_default")]
    pub versions: BTreeMap<String, String>,
    /// Channels that have no value here, since theirs is made of the writes since an ancestor that has one.
    #[serde(default, deserialize_with = "or_default")]
    pub deltas: Vec<String>,
}

impl NewCheckpoint {
    /// Creates the first step of a thread, in the scope in which nothing is set.
    pub fn new(thread: impl Into<String>, id: impl Into<String>, body: Encoded) -> NewCheckpoint {
        NewCheckpoint { thread: thread.into(), id: id.into(), body, ..NewCheckpoint::default() }
    }

    /// Sets whose it is.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> NewCheckpoint {
        self.scope = scope.into();
        self
    }

    /// Sets the part of the workflow.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> NewCheckpoint {
        self.namespace = namespace.into();
        self
    }

    /// Sets the step before.
    #[must_use]
    pub fn parent(mut self, parent: impl Into<String>) -> NewCheckpoint {
        self.parent = Some(parent.into());
        self
    }

    /// Sets the run that made it.
    #[must_use]
    pub fn run_id(mut self, run_id: impl Into<String>) -> NewCheckpoint {
        self.run_id = Some(run_id.into());
        self
    }

    /// Sets one fact to filter by.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Value>) -> NewCheckpoint {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Gives a channel a new value, at a new version.
    #[must_use]
    pub fn channel(mut self, name: impl Into<String>, version: impl Into<String>, value: Encoded) -> NewCheckpoint {
        let name = name.into();
        self.versions.insert(name.clone(), version.into());
        self.channels.insert(name, value);
        self
    }

    /// Lets a channel keep the value that it has at this version.
    #[must_use]
    pub fn kept(mut self, name: impl Into<String>, version: impl Into<String>) -> NewCheckpoint {
        self.versions.insert(name.into(), version.into());
        self
    }

    /// Names a channel whose value is made of the writes since an ancestor.
    #[must_use]
    pub fn delta(mut self, name: impl Into<String>) -> NewCheckpoint {
        self.deltas.push(name.into());
        self
    }
}

/// Results of one task, kept with the checkpoint that it began from. They may come before that checkpoint does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NewWrites {
    /// Whose they are.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// Which workflow.
    pub thread: String,
    /// Which part of it. Default `""`, the whole.
    #[serde(default, deserialize_with = "or_default")]
    pub namespace: String,
    /// Identifier of the checkpoint.
    pub id: String,
    /// The task that wrote.
    pub task: String,
    /// Where the task stands among those of its step: writes are read in the order of path, task and index.
    #[serde(default, deserialize_with = "or_default")]
    pub path: String,
    /// What it wrote.
    pub writes: Vec<NewWrite>,
}

impl NewWrites {
    /// Creates the writes of a task, in the scope in which nothing is set.
    pub fn new(thread: impl Into<String>, id: impl Into<String>, task: impl Into<String>) -> NewWrites {
        NewWrites { thread: thread.into(), id: id.into(), task: task.into(), ..NewWrites::default() }
    }

    /// Sets whose they are.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> NewWrites {
        self.scope = scope.into();
        self
    }

    /// Sets where the task stands among those of its step.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> NewWrites {
        self.path = path.into();
        self
    }

    /// Adds one write.
    #[must_use]
    pub fn write(mut self, channel: impl Into<String>, index: i64, value: Encoded) -> NewWrites {
        self.writes.push(NewWrite { channel: channel.into(), index, value });
        self
    }
}

/// One write of a task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NewWrite {
    /// To which channel.
    pub channel: String,
    /// Its place among the writes of the task. One from 0 is kept as it was first written; one below 0 is replaced.
    pub index: i64,
    /// What.
    pub value: Encoded,
}

/// Which checkpoint to get.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct GetCheckpoint {
    /// Whose it is.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// Which workflow.
    pub thread: String,
    /// Which part of it. Default `""`, the whole.
    #[serde(default, deserialize_with = "or_default")]
    pub namespace: String,
    /// Identifier. Default the greatest.
    #[serde(default)]
    pub id: Option<String>,
}

impl GetCheckpoint {
    /// Names the last checkpoint of a thread, in the scope in which nothing is set.
    pub fn last(thread: impl Into<String>) -> GetCheckpoint {
        GetCheckpoint { thread: thread.into(), ..GetCheckpoint::default() }
    }

    /// Names a checkpoint by its identifier.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> GetCheckpoint {
        self.id = Some(id.into());
        self
    }

    /// Sets whose it is.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> GetCheckpoint {
        self.scope = scope.into();
        self
    }

    /// Sets the part of the workflow.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> GetCheckpoint {
        self.namespace = namespace.into();
        self
    }
}

/// Which checkpoints to list. What is `None` keeps all.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ListCheckpoints {
    /// Whose they are.
    #[serde(deserialize_with = "or_default")]
    pub scope: Scope,
    /// Of this workflow.
    pub thread: Option<String>,
    /// Of this part.
    pub namespace: Option<String>,
    /// With this identifier.
    pub id: Option<String>,
    /// With an identifier below this one.
    pub before: Option<String>,
    /// With these facts, each equal; numbers are equal by value.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Map<String, Value>,
    /// Most checkpoints of this page, from 1 to 1,000. Default 100. A page that grows large ends before.
    pub limit: Option<usize>,
    /// `next` of the page before.
    pub after: Option<String>,
}

impl ListCheckpoints {
    /// Lists the checkpoints of a thread, in the scope in which nothing is set.
    pub fn thread(thread: impl Into<String>) -> ListCheckpoints {
        ListCheckpoints { thread: Some(thread.into()), ..ListCheckpoints::default() }
    }

    /// Sets whose they are.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> ListCheckpoints {
        self.scope = scope.into();
        self
    }
}

/// A step of a workflow.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Which workflow.
    pub thread: String,
    /// Which part of it; `""` is the whole.
    pub namespace: String,
    /// Identifier.
    pub id: String,
    /// Identifier of the step before.
    pub parent: Option<String>,
    /// All of it but the values of its channels.
    pub body: Encoded,
    /// Facts about it.
    pub metadata: Map<String, Value>,
    /// Values, by channel.
    pub channels: BTreeMap<String, Encoded>,
    /// What the tasks that began from it wrote, in the order of path, task and index.
    pub writes: Vec<PendingWrite>,
    /// When it was kept.
    pub created_at: Timestamp,
}

/// One write of a task.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct PendingWrite {
    /// The task that wrote.
    pub task: String,
    /// To which channel.
    pub channel: String,
    /// What.
    pub value: Encoded,
}

/// Checkpoints, the one with the greatest identifier first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct CheckpointPage {
    /// Checkpoints.
    pub checkpoints: Vec<Checkpoint>,
    /// `after` of the next page; `None` where there is none.
    pub next: Option<String>,
}

/// Of what the values of delta channels at a checkpoint are made.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DeltaQuery {
    /// Whose it is.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// Which workflow.
    pub thread: String,
    /// Which part of it. Default `""`, the whole.
    #[serde(default, deserialize_with = "or_default")]
    pub namespace: String,
    /// Identifier of the checkpoint. Default the greatest.
    #[serde(default)]
    pub id: Option<String>,
    /// Which channels.
    pub channels: Vec<String>,
}

impl DeltaQuery {
    /// Asks about channels at the last checkpoint of a thread, in the scope in which nothing is set.
    pub fn new<T: Into<String>>(thread: impl Into<String>, channels: impl IntoIterator<Item = T>) -> DeltaQuery {
        let channels = channels.into_iter().map(Into::into).collect();
        DeltaQuery { thread: thread.into(), channels, ..DeltaQuery::default() }
    }
}

/// Of what the value of a delta channel is made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ChannelHistory {
    /// The value at the nearest ancestor that has one; `None` where none has, and the channel began empty.
    pub seed: Option<Encoded>,
    /// What was written from that ancestor on, oldest first. What was written at the checkpoint itself is not part of it.
    pub writes: Vec<PendingWrite>,
}

/// Which thread to delete.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DeleteThread {
    /// Whose it is.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// Which workflow.
    pub thread: String,
}

impl DeleteThread {
    /// Names a thread, in the scope in which nothing is set.
    pub fn new(thread: impl Into<String>) -> DeleteThread {
        DeleteThread { thread: thread.into(), ..DeleteThread::default() }
    }

    /// Sets whose it is.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> DeleteThread {
        self.scope = scope.into();
        self
    }
}

/// Which runs to delete.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DeleteRuns {
    /// Whose they are.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// Which runs.
    pub run_ids: Vec<String>,
}

impl DeleteRuns {
    /// Names runs, in the scope in which nothing is set.
    pub fn new<T: Into<String>>(run_ids: impl IntoIterator<Item = T>) -> DeleteRuns {
        DeleteRuns { run_ids: run_ids.into_iter().map(Into::into).collect(), ..DeleteRuns::default() }
    }

    /// Sets whose they are.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> DeleteRuns {
        self.scope = scope.into();
        self
    }
}

/// Which thread to copy, and how the copy is called.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CopyThread {
    /// Whose they are.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// The thread that is copied.
    pub source: String,
    /// The new thread.
    pub target: String,
}

impl CopyThread {
    /// Names both threads, in the scope in which nothing is set.
    pub fn new(source: impl Into<String>, target: impl Into<String>) -> CopyThread {
        CopyThread { source: source.into(), target: target.into(), ..CopyThread::default() }
    }
}

/// Which threads to prune, and what is left of them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Prune {
    /// Whose they are.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// Which workflows.
    pub threads: Vec<String>,
    /// What is left. Default `keep_latest`.
    #[serde(default, deserialize_with = "or_default")]
    pub strategy: PruneStrategy,
}

impl Prune {
    /// Keeps the latest checkpoints of threads, in the scope in which nothing is set.
    pub fn new<T: Into<String>>(threads: impl IntoIterator<Item = T>) -> Prune {
        Prune { threads: threads.into_iter().map(Into::into).collect(), ..Prune::default() }
    }

    /// Sets whose they are.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> Prune {
        self.scope = scope.into();
        self
    }
}

/// What a prune leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PruneStrategy {
    /// The last checkpoint of each namespace, and the ancestors that its delta channels are made of.
    #[default]
    KeepLatest,
    /// Nothing.
    Delete,
}
