//! Stands in for MCP in a build without the feature `mcp`.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Answer, Clients, Failure, Outcome};
use crate::{
    Error, ErrorKind,
    registry::{directory::Entry, tools::Tool},
    resilience::Deadline,
};

/// Holds nothing.
#[derive(Debug, Default)]
pub(crate) struct Link;

impl Link {
    pub(crate) fn release(&self) {}

    pub(crate) fn abandon(&self) {}

    pub(crate) async fn close(&self) {}
}

fn unsupported<T>(operation: &'static str, entry: &Entry) -> Outcome<T> {
    let message = "this build does not speak MCP: it was made without the feature `mcp`";
    Err(Failure::call(Error::new(ErrorKind::Unsupported, operation, message).with("server", &entry.server.id)))
}

pub(crate) async fn call(
    _: &Arc<Clients>,
    entry: &Entry,
    _: &str,
    _: &Map<String, Value>,
    _: Deadline,
) -> Outcome<Answer> {
    unsupported("registry.call", entry)
}

pub(crate) async fn list_tools(_: &Arc<Clients>, entry: &Entry, _: Deadline) -> Outcome<Vec<Tool>> {
    unsupported("registry.list_tools", entry)
}

pub(crate) async fn ping(_: &Arc<Clients>, entry: &Entry, _: Deadline) -> Outcome<String> {
    unsupported("registry.check", entry)
}
