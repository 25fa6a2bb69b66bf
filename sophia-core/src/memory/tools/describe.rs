//! Describing a tool from the types of its arguments and its result.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{Error, ErrorKind, Result, toolset::ToolOutput, wire};

/// What a tool does to what is there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Effect {
    Reads,
    Adds,
    /// Calling it again changes nothing more.
    Changes,
}

/// Describes a tool as MCP does.
pub(super) fn tool<In: JsonSchema, Out: JsonSchema>(name: &str, title: &str, does: &str, effect: Effect) -> Value {
    let hint = json!({
        "readOnlyHint": matches!(effect, Effect::Reads),
        "destructiveHint": matches!(effect, Effect::Changes),
        "idempotentHint": !matches!(effect, Effect::Adds),
        "openWorldHint": false,
    });
    json!({
        "name": name,
        "title": title,
        "description": does,
        "inputSchema": schema::<In>(SchemaSettings::default()),
        "outputSchema": schema::<Out>(SchemaSettings::default().for_serialize()),
        "annotations": hint,
    })
}

/// Returns a schema without references, which not every client follows.
fn schema<T: JsonSchema>(settings: SchemaSettings) -> Value {
    let settings = settings.with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    plain(&mut schema);
    if let Value::Object(root) = &mut schema {
        root.shift_remove("title");
        root.shift_remove("description");
        root.entry("properties").or_insert_with(|| json!({}));
    }
    schema
}

/// Takes out the formats that only Rust knows, such as `uint64`: validators warn of them.
fn plain(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("format").is_some_and(|format| format.is_string() && format != "date-time") {
                fields.shift_remove("format");
            }
            fields.values_mut().for_each(plain);
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}

/// Reads the arguments of a tool.
pub(super) fn read<T: DeserializeOwned>(operation: &'static str, arguments: Map<String, Value>) -> Result<T> {
    wire::read(ErrorKind::InvalidInput, operation, Value::Object(arguments))
}

/// Writes the result of a tool, which is an object, once for a model and once for programs.
pub(super) fn output(operation: &'static str, result: &impl Serialize) -> Result<ToolOutput> {
    let data = value(operation, result)?;
    Ok(ToolOutput { text: data.to_string(), data })
}

pub(super) fn value(operation: &'static str, result: &impl Serialize) -> Result<Value> {
    serde_json::to_value(result)
        .map_err(|error| Error::new(ErrorKind::Internal, operation, format!("the result is no JSON: {error}")))
}

pub(super) fn unknown(operation: &'static str, tool: &str) -> Error {
    let shown: String = tool.chars().filter(|c| !c.is_control()).take(80).collect();
    Error::new(ErrorKind::NotFound, operation, format!("there is no tool `{shown}`"))
}
