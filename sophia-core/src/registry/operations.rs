//! The operations of the registry.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{
    CheckAll, Conflict, Decision, Dialect, Discover, ListTools, ListedTool, Load, LoadReport, Select, Server,
    ServerOverview, ServerStatus, ToolCall, ToolResult, server::or_default,
};
use crate::{operations::NoArguments, resilience::BreakerSnapshot};

/// The arguments of `registry.register`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Register {
    /// The server.
    server: Server,
}

/// The arguments of an operation on one server.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct One {
    /// Id of the server, in any spelling.
    id: String,
}

/// The arguments of `registry.export`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Export {
    /// The form. Default: `mcpServers`.
    #[serde(default, deserialize_with = "or_default")]
    dialect: Dialect,
}

crate::operations::operations! {
    /// Registers a server.
    "registry.register"(sophia, arguments: Register) -> Server { sophia.registry().register(arguments.server) }

    /// Takes a server out; returns whether it was there.
    "registry.deregister"(sophia, arguments: One) -> bool { Ok(sophia.registry().deregister(&arguments.id)) }

    /// Loads servers from a document or a file.
    "registry.load"(sophia, load: Load) -> LoadReport { sophia.registry().load(load).await }

    /// Returns what the sources disagree about.
    "registry.lint"(sophia, _arguments: NoArguments) -> Vec<Conflict> { Ok(sophia.registry().lint()) }

    /// Returns the servers in a form that editors read, without secrets.
    "registry.export"(sophia, arguments: Export) -> Value { Ok(sophia.registry().export(arguments.dialect)) }

    /// Returns a server.
    "registry.get"(sophia, arguments: One) -> Server { sophia.registry().get(&arguments.id) }

    /// Returns every server.
    "registry.list"(sophia, _arguments: NoArguments) -> Vec<Server> { Ok(sophia.registry().list()) }

    /// Returns the servers that match.
    "registry.discover"(sophia, wanted: Discover) -> Vec<Server> { Ok(sophia.registry().discover(&wanted)) }

    /// Chooses a server that can do something.
    "registry.select"(sophia, select: Select) -> Decision { sophia.registry().select(&select) }

    /// Calls a tool.
    "registry.call"(sophia, call: ToolCall) -> ToolResult { sophia.registry().call(call).await }

    /// Lists tools.
    "registry.list_tools"(sophia, list: ListTools) -> Vec<ListedTool> { sophia.registry().list_tools(list).await }

    /// Asks a server how it is.
    "registry.check"(sophia, arguments: One) -> ServerStatus { sophia.registry().check(&arguments.id).await }

    /// Asks every server how it is.
    "registry.check_all"(sophia, all: CheckAll) -> BTreeMap<String, ServerStatus> { sophia.registry().check_all(all).await }

    /// Returns the breaker of a server.
    "registry.breaker"(sophia, arguments: One) -> BreakerSnapshot { sophia.registry().breaker(&arguments.id) }

    /// Returns what is known of every server, without asking any.
    "registry.status"(sophia, _arguments: NoArguments) -> BTreeMap<String, ServerOverview> { Ok(sophia.registry().status()) }
}
