//! Backup and check.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Error, ErrorKind, Result,
    memory::{Memory, record::or_default},
};

/// Arguments of `memory.backup`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Backup {
    /// The file to write. It must not be there.
    pub path: PathBuf,
}

impl Backup {
    /// Names the file to write.
    pub fn new(path: impl Into<PathBuf>) -> Backup {
        Backup { path: path.into() }
    }
}

/// What a backup wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct BackupReceipt {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// Arguments of `memory.check`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Check {
    /// Whether what is derived, and damaged, is made anew. Default no.
    #[serde(deserialize_with = "or_default")]
    pub repair: bool,
}

/// What to do about what is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Report it.
    Report,
    /// Make anew what is derived.
    Rebuild,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct CheckReport {
    /// Whether all is well now.
    pub ok: bool,
    /// What is, or was, damaged.
    pub problems: Vec<Problem>,
}

impl CheckReport {
    /// Reports what was found, where nothing was made anew.
    pub(in crate::memory) fn of(problems: Vec<Problem>) -> CheckReport {
        CheckReport { ok: problems.is_empty(), problems }
    }

    /// Reports what was found, and that what is not among those that are left was made anew.
    pub(in crate::memory) fn repaired(mut problems: Vec<Problem>, left: &[Problem]) -> CheckReport {
        for problem in &mut problems {
            problem.repaired = left.iter().all(|left| left.part != problem.part);
            if problem.repaired {
                problem.fix = None;
            }
        }
        CheckReport { ok: problems.iter().all(|problem| problem.repaired), problems }
    }
}

/// One thing that is damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Problem {
    /// `"data"` is the data itself, all else is derived: `"words"`, `"filters"`, `"vectors"`, `"tags"`, `"blocks"`.
    pub part: &'static str,
    /// What is wrong.
    pub detail: String,
    /// Whether it was made anew.
    pub repaired: bool,
    /// What to do; null where it is repaired.
    pub fix: Option<String>,
}

impl Memory {
    /// Writes a copy of all data as of one moment to a new file, while others go on reading and writing. Put in a data
    /// directory as `sophia.db`, it is that data.
    ///
    /// # Errors
    /// `Conflict` where the file is there; `InvalidInput` where it cannot be written; `Unsupported` on Postgres, which is
    /// backed up by its own tools.
    pub async fn backup(&self, backup: Backup) -> Result<BackupReceipt> {
        const OPERATION: &str = "memory.backup";
        let call = async {
            new_file(OPERATION, &backup.path)?;
            self.archive().backup(backup.path.clone()).await?;
            let bytes = std::fs::metadata(&backup.path).map_or(0, |file| file.len());
            Ok(BackupReceipt { path: backup.path, bytes })
        };
        self.timed(OPERATION, call).await
    }

    /// Looks whether the data is whole and whether what is derived from it agrees with it, and makes the latter anew
    /// where that is asked for. Reads everything: seconds for a large file.
    ///
    /// # Errors
    /// What opening the data file says.
    pub async fn check(&self, check: Check) -> Result<CheckReport> {
        const OPERATION: &str = "memory.check";
        let repair = if check.repair { Repair::Rebuild } else { Repair::Report };
        self.timed(OPERATION, self.archive().check(repair)).await
    }
}

/// Refuses a file that is there: it may be all that somebody has.
pub(super) fn new_file(operation: &'static str, path: &std::path::Path) -> Result<()> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid(operation, "path", "is empty: name a file"));
    }
    if path.exists() {
        let message = format!("`{}` is there already: name a new file, or remove it", path.display());
        return Err(Error::new(ErrorKind::Conflict, operation, message).with("field", "path"));
    }
    Ok(())
}

/// Turns a failure to write into what the caller can do about it.
pub(super) fn cannot_write(operation: &'static str, path: &std::path::Path, error: std::io::Error) -> Error {
    Error::invalid(operation, "path", format!("`{}` cannot be written: {error}", path.display())).with_source(error)
}
