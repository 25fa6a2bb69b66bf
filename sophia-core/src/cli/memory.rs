//! `sophia memory …`.

use std::{
    io::{self, BufRead, IsTerminal},
    process::ExitCode,
};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    arguments::Memory,
    output::{Output, Results, cell, note, table, tree},
    progress::Bar,
    run::call,
};
use crate::{
    Config, Error, ErrorKind, Result, Scope, Sophia,
    memory::{Export, Import},
    operations,
};

/// Refuses a configuration that keeps nothing: the command would work on an empty memory, and what it did would be gone. Only
/// an import makes the directory: any other finds nothing in one that is not there.
pub(super) fn check(config: &Config, command: &Memory) -> Result<()> {
    let forgets_in_redis = matches!(command, Memory::Forget { .. }) && config.redis.is_set();
    match &config.data_dir {
        _ if config.postgres.is_set() => Ok(()),
        None if forgets_in_redis => Ok(()),
        None => {
            let message = "is not set, so that nothing is kept: name the directory (--data-dir), or a configuration \
                           that does (--config)";
            Err(Error::invalid_config("data_dir", message))
        }
        Some(directory) if matches!(command, Memory::Import { .. }) || directory.is_dir() => Ok(()),
        Some(directory) => {
            let message = format!("names `{}`, which is no directory", directory.display());
            Err(Error::invalid_config("data_dir", message))
        }
    }
}

pub(super) async fn run(output: Output, sophia: &Sophia, command: Memory) -> Result<ExitCode> {
    match command {
        Memory::Search { query, limit, scope } => {
            let arguments = json!({"query": query, "limit": limit, "scope": Scope::from(scope)});
            let found = call(sophia, "memory.search", arguments).await?;
            output.show(&found, hits)?;
        }
        Memory::Stats => output.show(&call(sophia, "memory.stats", json!({})).await?, tree)?,
        Memory::Export { file, scope } => {
            let scope = scope.given();
            let bar = Bar::items("written");
            let progress = |done, total| bar.set(done, total);
            if file.as_os_str() == "-" {
                let receipt = sophia.memory().export_to(Results, scope, &progress).await;
                bar.finish();
                return receipt.map(|_| ExitCode::SUCCESS);
            }
            let export: Export = operations::read("memory.export", json!({"path": file, "scope": scope}))?;
            let receipt = sophia.memory().export_with(export, &progress).await;
            bar.finish();
            output.show(&value(&receipt?)?, tree)?;
        }
        Memory::Import { file, format, scope } => {
            let arguments = json!({"path": file, "format": format, "scope": scope.given()});
            let import: Import = operations::read("memory.import", arguments)?;
            let bar = Bar::items("read");
            let receipt = sophia.memory().import_with(import, &|done, total| bar.set(done, total)).await;
            bar.finish();
            output.show(&value(&receipt?)?, tree)?;
        }
        Memory::Forget { subject, scope, yes } => {
            let scope = scope.given();
            if !yes {
                confirm(scope.as_ref(), subject.as_deref())?;
            }
            let arguments = json!({"scope": scope, "subject": subject});
            output.show(&call(sophia, "memory.forget", arguments).await?, tree)?;
        }
        Memory::Backup { file } => {
            output.show(&call(sophia, "memory.backup", json!({"path": file})).await?, tree)?;
        }
        Memory::Check { repair } => {
            let report = call(sophia, "memory.check", json!({"repair": repair})).await?;
            output.show(&report, problems)?;
            return Ok(if report["ok"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn value(receipt: &impl Serialize) -> Result<Value> {
    serde_json::to_value(receipt)
        .map_err(|error| Error::new(ErrorKind::Internal, "cli.memory", format!("the receipt is no JSON: {error}")))
}

/// Asks a person whether it is meant; a program must say so itself.
fn confirm(scope: Option<&Scope>, subject: Option<&str>) -> Result<()> {
    const FORGET: &str = "memory.forget";
    if !io::stdin().is_terminal() {
        return Err(Error::invalid(FORGET, "yes", "is needed: nothing brings it back (--yes)"));
    }
    let whom = match (scope, subject) {
        (None, Some(subject)) => format!("`{subject}`"),
        (Some(scope), Some(subject)) => format!("`{subject}` in the scope {}", json!(scope)),
        (Some(scope), None) => format!("the scope {}", json!(scope)),
        (None, None) => return Err(Error::invalid(FORGET, "scope", "or --subject must say what to forget")),
    };
    note(&format!("Everything of {whom} will be removed, and nothing brings it back. Type yes to go on:"));
    let mut answer = String::new();
    // What cannot be read is no yes.
    let _ = io::stdin().lock().read_line(&mut answer);
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Error::new(ErrorKind::Cancelled, FORGET, "nothing was removed")),
    }
}

fn problems(report: &Value) -> String {
    let problems = report["problems"].as_array().map(Vec::as_slice).unwrap_or_default();
    if problems.is_empty() {
        return "all is well".to_owned();
    }
    let row = |problem: &Value| {
        let state = if problem["repaired"] == true { "repaired" } else { "DAMAGED" };
        [cell(&problem["part"]), state.to_owned(), cell(&problem["detail"])]
    };
    let rows = table(["part", "state", "detail"], &problems.iter().map(row).collect::<Vec<_>>());
    let fixes: String =
        problems.iter().filter_map(|problem| Some(format!("\n! {}", problem["fix"].as_str()?))).collect();
    rows + &fixes
}

fn hits(found: &Value) -> String {
    let hits = found["hits"].as_array().map(Vec::as_slice).unwrap_or_default();
    if hits.is_empty() {
        return "nothing found in this scope (--tenant and --user must be those it was stored with)".to_owned();
    }
    let row = |hit: &Value| {
        let record = &hit["record"];
        [
            cell(&record["id"]),
            cell(&hit["score"]),
            cell(&record["kind"]),
            cell(&record["created_at"]),
            cell(&record["content"]),
        ]
    };
    table(["id", "score", "kind", "created", "content"], &hits.iter().map(row).collect::<Vec<_>>())
}
