//! `sophia memory …`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{
    arguments::Memory,
    output::{Output, cell, table, tree},
    run::call,
};
use crate::{Result, Scope, Sophia};

pub(super) async fn run(output: Output, sophia: &Sophia, command: Memory) -> Result<ExitCode> {
    match command {
        Memory::Search { query, limit, scope } => {
            let arguments = json!({"query": query, "limit": limit, "scope": Scope::from(scope)});
            let found = call(sophia, "memory.search", arguments).await?;
            output.show(&found, hits);
        }
        Memory::Stats => output.show(&call(sophia, "memory.stats", json!({})).await?, tree),
    }
    Ok(ExitCode::SUCCESS)
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
