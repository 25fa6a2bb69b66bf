//! Every MCP server in one list that tells the truth, and calls that survive the failure of any of them.
//!
//! | to | open |
//! |---|---|
//! | describe a server | [`Server`] |
//! | load, lint, export, find, watch | [`Registry`] |
//! | call a tool, with fallbacks | [`ToolCall`], [`ToolResult`] |
//! | choose among servers | [`Select`], [`Strategy`] |
//! | check servers | [`ServerStatus`], [`CheckAll`] |
//! | set limits | [`RegistryConfig`] |
//!
//! Inside: `import/` reads configurations, `directory` holds servers and claims, `live` what goes on with each of them,
//! `upstream/` speaks to them.

mod call;
mod check;
mod config;
mod directory;
mod export;
mod exposure;
mod handle;
mod import;
mod lint;
mod live;
mod operations;
mod select;
mod server;
mod tool_call;
mod tools;
mod upstream;
mod variables;
mod views;

pub use crate::resilience::CheckAll;
pub use check::{ServerStatus, Status, Statuses};
pub use config::RegistryConfig;
pub use export::Dialect;
pub use handle::Registry;
pub use import::{Load, LoadError, LoadReport};
pub use lint::{Conflict, ConflictKind};
pub(crate) use operations::OPERATIONS;
pub use select::{Decision, Select, Strategy};
pub use server::{RestRoute, Server, Transport};
pub use tool_call::{CallAttempt, Fallback, TOOL_ERROR, ToolCall, ToolError, ToolResult};
pub use tools::{ListedTool, Tool, ToolFormat};
pub use views::{Change, ChangeKind, Discover, ListTools, ServerOverview};
