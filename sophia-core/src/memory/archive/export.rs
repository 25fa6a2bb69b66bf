//! Writing what is remembered as lines of JSON.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    store::{Item, Part, Progress},
    upkeep::{cannot_write, new_file},
};
use crate::{Error, ErrorKind, Result, Scope, memory::Memory};

const OPERATION: &str = "memory.export";
/// Items that are read at a time.
const PAGE: usize = 256;
/// Format of the file; it grows with a change that older builds cannot read.
pub(super) const FORMAT: u64 = 1;

/// Arguments of `memory.export`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Export {
    /// The file to write. It must not be there.
    pub path: PathBuf,
    /// Whose data. Default: everything of everyone. One that names a session or an agent has records only.
    #[serde(default)]
    pub scope: Option<Scope>,
}

impl Export {
    /// Exports everything of everyone.
    pub fn new(path: impl Into<PathBuf>) -> Export {
        Export { path: path.into(), scope: None }
    }

    /// Sets whose data.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> Export {
        self.scope = Some(scope.into());
        self
    }
}

/// What an export wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ExportReceipt {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Records, archived ones included.
    pub records: u64,
    /// Former versions of records.
    pub versions: u64,
    /// Vectors of records.
    pub vectors: u64,
    /// Entities of the graph.
    pub entities: u64,
    /// Facts of the graph, also those that ended.
    pub facts: u64,
    /// Values under keys.
    pub keys: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Tasks that wrote.
    pub writes: u64,
}

impl ExportReceipt {
    fn count(&mut self, item: &Item) {
        match item {
            Item::Record(kept) => {
                self.records += 1;
                self.versions += kept.versions.len() as u64;
                self.vectors += u64::from(kept.vector.is_some());
            }
            Item::Entity(_) => self.entities += 1,
            Item::Fact(_) => self.facts += 1,
            Item::Key(_) => self.keys += 1,
            Item::Checkpoint(_) => self.checkpoints += 1,
            Item::Writes(_) => self.writes += 1,
        }
    }
}

impl Memory {
    /// Writes what is remembered to a new file, a line of JSON for each record (with its versions and its vector), entity,
    /// fact, key, checkpoint and task's writes. The file has its name once it is whole. What is written meanwhile may be in
    /// it or not.
    ///
    /// # Errors
    /// `Conflict` where the file is there; `InvalidInput` where it cannot be written.
    pub async fn export(&self, export: Export) -> Result<ExportReceipt> {
        self.export_with(export, &|_, _| ()).await
    }

    /// As [`Memory::export`]; tells how many items are written, of about how many.
    ///
    /// # Errors
    /// As [`Memory::export`].
    pub async fn export_with(&self, export: Export, progress: Progress<'_>) -> Result<ExportReceipt> {
        let call = async {
            let path = export.path.as_path();
            new_file(OPERATION, path)?;
            export.scope.iter().try_for_each(|scope| scope.validate(OPERATION))?;
            let partial = partial(path);
            let written = self.write_file(&export, &partial, progress).await;
            match written.and_then(|receipt| {
                std::fs::rename(&partial, path).map_err(|error| cannot_write(OPERATION, path, error))?;
                Ok(receipt)
            }) {
                Ok(receipt) => Ok(receipt),
                Err(error) => {
                    // It may not have been made.
                    let _ = std::fs::remove_file(&partial);
                    Err(error)
                }
            }
        };
        self.timed(OPERATION, call).await
    }

    /// As [`Memory::export_with`], to where a file is not made of it.
    #[cfg(feature = "cli")]
    pub(crate) async fn export_to(
        &self,
        out: impl Write + Send + 'static,
        scope: Option<Scope>,
        progress: Progress<'_>,
    ) -> Result<ExportReceipt> {
        let path = Path::new("-");
        let call = async {
            scope.iter().try_for_each(|scope| scope.validate(OPERATION))?;
            let (receipt, mut out) = self.write_lines(scope.as_ref(), BufWriter::new(out), path, progress).await?;
            out.flush().map_err(|error| cannot_write(OPERATION, path, error))?;
            Ok(receipt)
        };
        self.timed(OPERATION, call).await
    }

    async fn write_file(&self, export: &Export, partial: &Path, progress: Progress<'_>) -> Result<ExportReceipt> {
        let failed = |error| cannot_write(OPERATION, partial, error);
        let file = BufWriter::new(File::create(partial).map_err(failed)?);
        let (receipt, file) = self.write_lines(export.scope.as_ref(), file, partial, progress).await?;
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(ExportReceipt { path: export.path.clone(), bytes, ..receipt })
    }

    /// Writes everything, and gives the writer back.
    async fn write_lines<W: Write + Send + 'static>(
        &self,
        scope: Option<&Scope>,
        mut out: W,
        path: &Path,
        progress: Progress<'_>,
    ) -> Result<(ExportReceipt, W)> {
        let failed = |error| cannot_write(OPERATION, path, error);
        let stats = self.stats().await?;
        let total = stats.records + stats.facts + stats.keys;
        let mut receipt = ExportReceipt::default();
        let header = json!({"type": "sophia", "format": FORMAT});
        writeln!(out, "{header}").map_err(failed)?;
        let mut done = 0;
        for part in Part::ALL {
            let mut after = None;
            loop {
                let page = self.archive().read_items(part, scope.cloned(), after, PAGE).await?;
                let mut lines = Vec::new();
                for item in &page.items {
                    receipt.count(item);
                    serde_json::to_writer(&mut lines, item).map_err(|error| {
                        Error::new(ErrorKind::Internal, OPERATION, "an item is no JSON").with_source(error)
                    })?;
                    lines.push(b'\n');
                }
                // The disk may be slow: not on the threads of others.
                out = tokio::task::spawn_blocking(move || out.write_all(&lines).map(|()| out))
                    .await
                    .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "the writer ended").with_source(error))?
                    .map_err(failed)?;
                done += page.items.len() as u64;
                progress(done.min(total), total);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        progress(total, total);
        Ok((receipt, out))
    }
}

/// Returns the name that a file has until it is whole.
fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}
