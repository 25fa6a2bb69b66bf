//! Tools of this process: no session, no address, the scope of the call.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Answer, Clients, Failure, Outcome};
use crate::{
    Error, ErrorKind, Scope,
    registry::{
        server::{BUILTIN, Server},
        tools::Tool,
    },
    resilience::Deadline,
    toolset::Toolset,
};

/// Calls a tool.
pub(crate) async fn call(
    clients: &Clients,
    server: &Server,
    tool: &str,
    arguments: &Map<String, Value>,
    scope: Option<&Scope>,
    deadline: Deadline,
) -> Outcome<Answer> {
    const CALL: &str = "registry.call";
    let toolset = find(CALL, clients, server)?;
    let scope = scope.cloned().unwrap_or_default();
    match deadline.run(CALL, toolset.call(tool, arguments.clone(), &scope)).await {
        Ok(output) => {
            let content = vec![json!({"type": "text", "text": output.text})];
            Ok(Answer { content, data: Some(output.data), is_error: false })
        }
        Err(error) if error.is_retryable() => Err(Failure::server(error, true)),
        Err(error) => Err(Failure::arguments(error)),
    }
}

/// Lists the tools.
pub(crate) fn list_tools(clients: &Clients, server: &Server) -> Outcome<Vec<Tool>> {
    let toolset = find("registry.list_tools", clients, server)?;
    Ok(toolset.tools().iter().filter_map(|tool| Tool::read(&server.id, tool)).collect())
}

/// Finds the tools that a server stands for.
pub(crate) fn find<'a>(
    operation: &'static str,
    clients: &'a Clients,
    server: &Server,
) -> Outcome<&'a Arc<dyn Toolset>> {
    let url = server.url.as_deref().unwrap_or_default();
    let name = url.strip_prefix(BUILTIN).unwrap_or_default();
    clients.toolsets.iter().find(|toolset| toolset.name() == name).ok_or_else(|| {
        let names: Vec<_> = clients.toolsets.iter().map(|toolset| format!("{BUILTIN}{}", toolset.name())).collect();
        let message = format!("`{url}` is no built-in server; there are {}", names.join(", "));
        Failure::call(Error::new(ErrorKind::NotFound, operation, message).with("server", &server.id))
    })
}
