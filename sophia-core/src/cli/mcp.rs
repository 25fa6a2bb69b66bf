//! `sophia mcp …`.

use std::{path::PathBuf, process::ExitCode};

use serde_json::{Value, json};

use super::{
    arguments::Mcp,
    output::{Output, cell, note, table},
    run::call,
};
#[cfg(feature = "mcp")]
use super::{arguments::ServedTools, streams::standard_streams};
use crate::{Error, Result, Sophia};
#[cfg(feature = "mcp")]
use crate::{mcp_server, memory::toolsets};

/// Longest wait for a client to take the last answer.
#[cfg(feature = "mcp")]
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(5);

pub(super) async fn run(output: Output, sophia: &Sophia, command: Mcp) -> Result<ExitCode> {
    match command {
        Mcp::Lint { files } => {
            load(sophia, &files).await?;
            let conflicts = call(sophia, "registry.lint", json!({})).await?;
            output.show(&conflicts, lint_table)?;
            let clean = conflicts.as_array().is_none_or(Vec::is_empty);
            Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Mcp::List { files, tools: false } => {
            load(sophia, &files).await?;
            output.show(&call(sophia, "registry.list", json!({})).await?, server_table)?;
            Ok(ExitCode::SUCCESS)
        }
        Mcp::List { files, tools: true } => {
            load(sophia, &files).await?;
            output.show(&call(sophia, "registry.list_tools", json!({})).await?, tool_table)?;
            Ok(ExitCode::SUCCESS)
        }
        Mcp::Call { server, tool, arguments, files } => {
            let arguments: Value = serde_json::from_str(&arguments)
                .map_err(|error| Error::invalid("mcp.call", "arguments", format!("is not JSON: {error}")))?;
            load(sophia, &files).await?;
            let request = json!({"server": server, "tool": tool, "arguments": arguments});
            let result = call(sophia, "registry.call", request).await?;
            let ok = result["ok"] == true;
            output.show(&result, |result| match (ok, result["text"].as_str()) {
                (true, Some(text)) if !text.is_empty() => text.to_owned(),
                (true, _) => format!("{:#}", result["content"]),
                (false, _) => format!("error: {}", cell(&result["error"])),
            })?;
            Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        #[cfg(feature = "mcp")]
        Mcp::Serve { tools, scope } => {
            sophia.start().await?;
            let name = match tools {
                ServedTools::Memory => "memory",
                ServedTools::Graph => "graph",
            };
            let toolset = toolsets(sophia.memory()).into_iter().find(|toolset| toolset.name() == name);
            let toolset = toolset.ok_or_else(|| Error::invalid("mcp.serve", "tools", "are not in this build"))?;
            if sophia.config().data_dir.is_none() && !sophia.config().postgres.is_set() {
                note("what is remembered is gone at the end: --data-dir keeps it");
            }
            let (input, output, written) = standard_streams("mcp.serve")?;
            mcp_server::serve(toolset, scope.into(), input, output).await?;
            // The last answer is out before the process ends; a reader that has gone is no failure of ours.
            let _ = tokio::time::timeout(LAST_WORDS, written).await;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn load(sophia: &Sophia, files: &[PathBuf]) -> Result<()> {
    sophia.start().await?;
    for file in files {
        let report = call(sophia, "registry.load", json!({"config": file})).await?;
        for kind in ["errors", "warnings"] {
            for text in report[kind].as_array().into_iter().flatten() {
                note(&format!("{}: {}", file.display(), cell(text)));
            }
        }
    }
    Ok(())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn lint_table(conflicts: &Value) -> String {
    if list(conflicts).is_empty() {
        return "no conflicts".to_owned();
    }
    let row = |conflict: &Value| {
        [cell(&conflict["kind"]), cell(&conflict["servers"]), cell(&conflict["message"]), cell(&conflict["fix"])]
    };
    table(["kind", "servers", "what", "fix"], &list(conflicts).iter().map(row).collect::<Vec<_>>())
}

fn server_table(servers: &Value) -> String {
    if list(servers).is_empty() {
        return "no servers: name a file, or list servers in the configuration".to_owned();
    }
    let row = |server: &Value| {
        let place = if server["url"].is_null() { &server["command"] } else { &server["url"] };
        [
            cell(&server["id"]),
            cell(&server["transport"]),
            cell(&server["tier"]),
            cell(&server["capabilities"]),
            cell(place),
        ]
    };
    table(["id", "transport", "tier", "capabilities", "where"], &list(servers).iter().map(row).collect::<Vec<_>>())
}

fn tool_table(tools: &Value) -> String {
    if list(tools).is_empty() {
        return "no tools".to_owned();
    }
    let row = |tool: &Value| {
        // One line of what is often a page.
        let first = tool["description"].as_str().and_then(|text| text.lines().next()).unwrap_or("-");
        [cell(&tool["server"]), cell(&tool["name"]), first.to_owned()]
    };
    table(["server", "tool", "description"], &list(tools).iter().map(row).collect::<Vec<_>>())
}
