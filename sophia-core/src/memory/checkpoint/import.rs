//! Taking over the checkpoints of LangGraph's own SQLite saver.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{Checkpoints, NewWrites, check_checkpoint, check_writes};
use crate::{
    Error, ErrorKind, Result, Scope,
    memory::{
        Item, KeptCheckpoint, Outcome,
        record::or_default,
        sqlite::langgraph::{self, Imported},
    },
};

const OPERATION: &str = "memory.checkpoints.import_langgraph";
/// What is read ahead of what is kept.
const READ_AHEAD: usize = 64;

/// Which file to take over.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ImportLangGraph {
    /// The file, as `SqliteSaver` of Python or JavaScript made it. It is only read.
    pub path: PathBuf,
    /// Whose the checkpoints become.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
}

impl ImportLangGraph {
    /// Names a file, whose checkpoints come into the scope in which nothing is set.
    pub fn new(path: impl Into<PathBuf>) -> ImportLangGraph {
        ImportLangGraph { path: path.into(), ..ImportLangGraph::default() }
    }

    /// Sets whose the checkpoints become.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> ImportLangGraph {
        self.scope = scope.into();
        self
    }
}

/// What was taken over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ImportedCheckpoints {
    /// Checkpoints that were read.
    pub checkpoints: u64,
    /// Writes of tasks that were read.
    pub writes: u64,
    /// Of all of these, new.
    pub added: u64,
    /// Of all of these, there already.
    pub unchanged: u64,
    /// What could not be taken over, and why.
    pub warnings: Vec<String>,
}

impl ImportedCheckpoints {
    fn became(&mut self, count: u64, outcome: Outcome) {
        match outcome {
            Outcome::Unchanged => self.unchanged += count,
            _ => self.added += count,
        }
    }
}

impl Checkpoints {
    /// Takes over the checkpoints and writes of a file of LangGraph's SQLite saver. What is there already stays, so that an
    /// import that was broken off is made again. What cannot be kept is left out, and named in `warnings`.
    ///
    /// # Errors
    /// `InvalidInput` for a file that is none of that saver's, or is damaged as a whole.
    pub async fn import_langgraph(&self, import: ImportLangGraph) -> Result<ImportedCheckpoints> {
        import.scope.validate(OPERATION)?;
        let (found, mut ready) = mpsc::channel(READ_AHEAD);
        let reading = tokio::task::spawn_blocking(move || {
            // A receiver that is gone ends the reading.
            langgraph::read(&import.path, &import.scope, &mut |item| found.blocking_send(item).is_ok())
        });
        let mut report = ImportedCheckpoints::default();
        while let Some(item) = ready.recv().await {
            match item {
                Imported::Checkpoint(checkpoint) => match check_checkpoint(OPERATION, &checkpoint) {
                    Ok(()) => {
                        report.checkpoints += 1;
                        let kept = KeptCheckpoint { checkpoint: *checkpoint, created_at: self.now() };
                        report.became(1, self.keep(Item::Checkpoint(Box::new(kept))).await?);
                    }
                    Err(error) => {
                        let (id, thread) = (&checkpoint.id, &checkpoint.thread);
                        let warning = format!("the checkpoint `{id}` of `{thread}` is left out: {}", error.message());
                        report.warnings.push(warning);
                    }
                },
                Imported::Writes(writes) => match check_writes(OPERATION, &writes) {
                    Ok(()) => {
                        let count = writes.writes.len() as u64;
                        report.writes += count;
                        report.became(count, self.keep(Item::Writes(writes)).await?);
                    }
                    Err(error) => {
                        let NewWrites { task, thread, .. } = *writes;
                        let warning = format!("what `{task}` of `{thread}` wrote is left out: {}", error.message());
                        report.warnings.push(warning);
                    }
                },
                Imported::Warning(warning) => report.warnings.push(warning),
            }
        }
        reading.await.map_err(|error| {
            Error::new(ErrorKind::Internal, OPERATION, "the reading thread ended early").with_source(error)
        })??;
        Ok(report)
    }
}
