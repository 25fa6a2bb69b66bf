//! [`Toolset`]: tools that live in this process. The registry calls them, and `sophia mcp serve` offers them over stdio.

use std::fmt::Debug;

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::{Result, Scope};

/// Tools of one name, described as MCP describes them.
#[async_trait]
pub(crate) trait Toolset: Debug + Send + Sync + 'static {
    /// Returns its name, such as `"memory"`.
    fn name(&self) -> &'static str;

    /// Returns what a model is told of all of them.
    #[cfg_attr(not(all(feature = "mcp", feature = "cli")), allow(dead_code))]
    fn instructions(&self) -> &'static str;

    /// Describes the tools, each with `name`, `title`, `description`, `inputSchema`, `outputSchema` and `annotations`.
    fn tools(&self) -> &[Value];

    /// Calls one. The scope is the host's: arguments may narrow it, and never choose it.
    async fn call(&self, tool: &str, arguments: Map<String, Value>, scope: &Scope) -> Result<ToolOutput>;
}

/// What a tool answers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ToolOutput {
    /// For a model.
    pub text: String,
    /// The same for programs: an object, as the tool's output schema says.
    pub data: Value,
}
