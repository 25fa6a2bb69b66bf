//! The memory as tools of a model: over MCP, and in the registry as the built-in servers `memory` and `graph`.
//!
//! | to see | open |
//! |---|---|
//! | records: store, search, get, update, delete, count | `records.rs` |
//! | the graph, as the MCP reference server `server-memory` offers it | `graph.rs` |
//! | how a tool is described | `describe.rs` |

mod describe;
mod graph;
mod records;

use std::sync::Arc;

use super::Memory;
use crate::toolset::Toolset;

/// Returns the built-in servers of a memory.
pub(crate) fn toolsets(memory: &Memory) -> Vec<Arc<dyn Toolset>> {
    vec![Arc::new(records::RecordTools::new(memory)), Arc::new(graph::GraphTools::new(memory))]
}
