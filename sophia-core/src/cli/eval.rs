//! `sophia eval FILE`.

use std::{path::Path, process::ExitCode};

use super::{output::Output, progress::Bar};
use crate::{Config, Error, ErrorKind, Result, Sophia, memory::eval};

pub(super) async fn run(output: Output, mut config: Config, file: &Path) -> Result<ExitCode> {
    let shown = file.display();
    let bytes = std::fs::read(file).map_err(|error| {
        Error::new(ErrorKind::InvalidInput, "cli.eval", format!("`{shown}` cannot be read: {error}")).with_source(error)
    })?;
    let conversations = eval::read(&bytes)?;
    let questions: usize = conversations.iter().map(|conversation| conversation.questions.len()).sum();
    // A memory of its own: what is replayed is not remembered.
    config.data_dir = None;
    config.postgres = crate::memory::PostgresConfig::default();
    let sophia = Sophia::new(config)?;
    let bar = Bar::items("asked");
    let asked = |asked: usize| bar.set(asked as u64, questions as u64);
    let report = eval::run(sophia.memory(), &conversations, asked).await;
    bar.finish();
    sophia.shutdown().await?;
    let report = report?;
    let json = serde_json::to_value(&report)
        .map_err(|error| Error::new(ErrorKind::Internal, "cli.eval", format!("the report is no JSON: {error}")))?;
    output.show(&json, |_| report.to_string())?;
    Ok(ExitCode::SUCCESS)
}
