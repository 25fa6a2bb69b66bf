//! The file of the MCP reference server `server-memory`: a line of JSON for each entity and relation.

use std::path::Path;

use serde::Deserialize;

use super::{Batch, Found, Take, for_each_line, wrong_line};
use crate::{
    Result,
    memory::{Node, Relation},
};

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line {
    Entity(Node),
    Relation(Relation),
    #[serde(other)]
    Other,
}

/// Reads it whole, as the server itself does.
pub(super) fn read(path: &Path, take: Take<'_>) -> Result<()> {
    let (mut entities, mut relations) = (Vec::new(), Vec::new());
    let total = for_each_line(path, |number, line, _| {
        match serde_json::from_str(line).map_err(|error| wrong_line(path, number, &error))? {
            Line::Entity(entity) => entities.push((number, entity)),
            Line::Relation(relation) => relations.push((number, relation)),
            Line::Other => {}
        }
        Ok(true)
    })?;
    take(Batch { found: Found::Nodes { entities, relations }, done: total, total });
    Ok(())
}
