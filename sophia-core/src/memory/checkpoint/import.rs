//! Taking over the checkpoints of LangGraph's own SQLite saver.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Checkpoints;
use crate::{
    Error, ErrorKind, Result, Scope,
    memory::{
        record::or_default,
        sqlite::langgraph::{self, Imported},
    },
};

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
    /// Checkpoints.
    pub checkpoints: u64,
    /// Writes of tasks.
    pub writes: u64,
}

impl Checkpoints {
    /// Takes over the checkpoints and writes of a file of LangGraph's SQLite saver. What is there already is replaced, so that
    /// an import that was broken off is made again.
    ///
    /// # Errors
    /// `InvalidInput` for a file that is none of that saver's, or a checkpoint in it that cannot be read.
    pub async fn import_langgraph(&self, import: ImportLangGraph) -> Result<ImportedCheckpoints> {
        import.scope.validate("memory.checkpoints.import_langgraph")?;
        let (found, mut ready) = mpsc::channel(READ_AHEAD);
        let reading = tokio::task::spawn_blocking(move || {
            // A receiver that is gone ends the reading.
            langgraph::read(&import.path, &import.scope, &mut |item| found.blocking_send(item).is_ok())
        });
        let mut report = ImportedCheckpoints::default();
        while let Some(item) = ready.recv().await {
            match item {
                Imported::Checkpoint(checkpoint) => {
                    self.put(*checkpoint).await?;
                    report.checkpoints += 1;
                }
                Imported::Writes(writes) => {
                    report.writes += writes.writes.len() as u64;
                    self.put_writes(*writes).await?;
                }
            }
        }
        reading.await.map_err(|error| {
            Error::new(ErrorKind::Internal, "memory.checkpoints.import_langgraph", "the reading thread ended early")
                .with_source(error)
        })??;
        Ok(report)
    }
}
