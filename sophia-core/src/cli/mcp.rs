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
            let mut findings = load(sophia, &files).await?;
            findings.extend_from_slice(list(&call(sophia, "registry.lint", json!({})).await?));
            output.show(&Value::from(findings.as_slice()), lint_table)?;
            Ok(success_if(findings.is_empty()))
        }
        Mcp::List { files, tools: false } => {
            let is_whole = load_noting(sophia, &files).await?;
            output.show(&call(sophia, "registry.list", json!({})).await?, server_table)?;
            Ok(success_if(is_whole))
        }
        Mcp::List { files, tools: true } => {
            let mut is_whole = load_noting(sophia, &files).await?;
            output.show(&call(sophia, "registry.list_tools", json!({})).await?, tool_table)?;
            let status = call(sophia, "registry.status", json!({})).await?;
            for (id, server) in status.as_object().into_iter().flatten() {
                if let Some(error) = server["tools_error"].as_str() {
                    note(&format!("{id}: {error}"));
                    is_whole = false;
                }
            }
            Ok(success_if(is_whole))
        }
        Mcp::Call { server, tool, arguments, files } => {
            let arguments: Value = serde_json::from_str(&arguments)
                .map_err(|error| Error::invalid("mcp.call", "arguments", format!("is not JSON: {error}")))?;
            load_noting(sophia, &files).await?;
            let request = json!({"server": server, "tool": tool, "arguments": arguments});
            let result = call(sophia, "registry.call", request).await?;
            let ok = result["ok"] == true;
            output.show(&result, |result| match (ok, result["text"].as_str()) {
                (true, Some(text)) if !text.is_empty() => text.to_owned(),
                (true, _) => format!("{:#}", result["content"]),
                (false, _) => format!("error: {}", cell(&result["error"])),
            })?;
            Ok(success_if(ok))
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

fn success_if(is_well: bool) -> ExitCode {
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Loads files; returns what could not be read of them, in the form of conflicts. One that is wrong does not keep the others out.
async fn load(sophia: &Sophia, files: &[PathBuf]) -> Result<Vec<Value>> {
    sophia.start().await?;
    let mut unreadable = Vec::new();
    for file in files {
        let file = file.to_string_lossy();
        let mut add = |server: Option<&str>, message: &str, fix: &str| {
            let place = server.map_or_else(|| file.to_string(), |server| format!("{file}: {server}"));
            unreadable.push(json!({
                "kind": "unreadable",
                "servers": Vec::from_iter(server),
                "message": format!("{place}: {message}"),
                "sources": [file],
                "fix": fix,
            }));
        };
        let report = match call(sophia, "registry.load", json!({"config": file})).await {
            Ok(report) => report,
            Err(error) => {
                add(None, error.message(), "correct the file, or leave it out");
                continue;
            }
        };
        for error in list(&report["errors"]) {
            add(error["server"].as_str(), &cell(&error["message"]), "correct the entry, or take it out");
        }
        for text in list(&report["warnings"]) {
            note(&format!("{file}: {}", cell(text)));
        }
    }
    Ok(unreadable)
}

/// Loads files, and says what could not be read of them beside the results; returns whether that is nothing.
async fn load_noting(sophia: &Sophia, files: &[PathBuf]) -> Result<bool> {
    let unreadable = load(sophia, files).await?;
    unreadable.iter().for_each(|finding| note(&cell(&finding["message"])));
    Ok(unreadable.is_empty())
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
