//! The JSON Schemas of what goes over the wire, from which the facade's types are made.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, json};
use sophia_core::{
    chat::{ChatChunk, RunOptions},
    health::{Action, HealthEvent},
    memory::KvOptions,
    operations,
    registry::Change,
};

/// Returns every operation with the JSON Schemas of what it takes and gives, by capability, as JSON text:
/// `{memory: {operations: [{name, summary, arguments, result}], arguments: {…definitions}, results: {…definitions}}, …}`.
#[napi_derive::napi]
pub fn operation_schemas() -> String {
    let mut capabilities = Map::new();
    for capability in ["memory", "chat", "registry", "health"] {
        let mut given = SchemaSettings::draft2020_12().into_generator();
        let mut taken = SchemaSettings::draft2020_12().for_serialize().into_generator();
        let operations: Vec<_> = operations::all()
            .filter(|operation| operation.name.split('.').next() == Some(capability))
            .map(|operation| {
                json!({
                    "name": operation.name,
                    "summary": operation.summary,
                    "arguments": (operation.arguments)(&mut given),
                    "result": (operation.result)(&mut taken),
                })
            })
            .collect();
        others(capability, &mut given, &mut taken);
        let schemas = json!({
            "operations": operations,
            "arguments": given.take_definitions(true),
            "results": taken.take_definitions(true),
        });
        capabilities.insert(capability.to_owned(), schemas);
    }
    serde_json::Value::Object(capabilities).to_string()
}

/// Adds what streams give, and what methods that take functions take.
fn others(capability: &str, given: &mut SchemaGenerator, taken: &mut SchemaGenerator) {
    fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
        generator.subschema_for::<T>();
    }
    match capability {
        "memory" => add::<KvOptions>(given),
        "chat" => {
            add::<RunOptions>(given);
            add::<ChatChunk>(taken);
        }
        "registry" => add::<Change>(taken),
        "health" => {
            add::<Action>(given);
            add::<HealthEvent>(taken);
        }
        _ => {}
    }
}
