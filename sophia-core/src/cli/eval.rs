//! `sophia eval FILE`.

use std::{
    io::{IsTerminal, Write},
    path::Path,
    process::ExitCode,
};

use super::output::Output;
use crate::{Config, Error, ErrorKind, Result, Sophia, memory::eval};

/// Questions between two signs of progress.
const PROGRESS_EVERY: usize = 25;

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
    let report = eval::run(sophia.memory(), &conversations, |asked| show_progress(asked, questions)).await;
    sophia.shutdown().await?;
    let report = report?;
    let json = serde_json::to_value(&report)
        .map_err(|error| Error::new(ErrorKind::Internal, "cli.eval", format!("the report is no JSON: {error}")))?;
    output.show(&json, |_| report.to_string());
    Ok(ExitCode::SUCCESS)
}

fn show_progress(asked: usize, questions: usize) {
    let mut stderr = std::io::stderr().lock();
    if stderr.is_terminal() && (asked.is_multiple_of(PROGRESS_EVERY) || asked == questions) {
        let end = if asked == questions { "\n" } else { "" };
        // A terminal that has gone is no failure of ours.
        let _ = write!(stderr, "\r{asked} of {questions} questions{end}").and_then(|()| stderr.flush());
    }
}
