//! Every operation by its name: what Python, Node, HTTP and the command line call.
//!
//! A capability lists its operations once, in its `operations.rs`, with typed arguments and a typed result. Whoever can
//! offer a serde deserializer for the arguments and a serializer for the result can call them all; JSON Schema of both
//! comes with them. So a method is added in one place, and every host has it.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> sophia_core::Result<()> {
//! use serde_json::json;
//! use sophia_core::{Config, Sophia, operations};
//!
//! let sophia = Sophia::new(Config::default())?;
//! operations::call(&sophia, "health.observe", json!({"service": "chat", "metric": "latency_ms", "value": 12}))?.await?;
//! assert_eq!(operations::find("memory.stor").unwrap_err().code(), "UNSUPPORTED");
//! # Ok(()) }
//! ```

use std::{collections::HashMap, fmt, future::Future, pin::Pin, sync::LazyLock};

use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde::{Deserializer, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{Error, ErrorKind, Result, Sophia, wire};

pub use crate::here::poll_here;

/// The result of an operation, ready to be written in the caller's form.
pub type Reply = Box<dyn erased_serde::Serialize + Send>;

/// An operation that has read its arguments and is about to run.
pub type Running = Pin<Box<dyn Future<Output = Result<Reply>> + Send>>;

/// One operation: its name, what it takes and what it gives.
#[non_exhaustive]
pub struct Operation {
    /// Name, such as `"memory.store"`.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Makes the JSON Schema of its arguments.
    pub arguments: fn(&mut SchemaGenerator) -> Schema,
    /// Makes the JSON Schema of its result.
    pub result: fn(&mut SchemaGenerator) -> Schema,
    #[doc(hidden)]
    pub begin: fn(&Sophia, &mut dyn erased_serde::Deserializer<'_>) -> Result<Running>,
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Operation {
    /// Reads the arguments and returns the work, which does nothing until it is polled.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`], naming the argument.
    pub fn begin<'de, D: Deserializer<'de>>(&self, sophia: &Sophia, arguments: D) -> Result<Running> {
        (self.begin)(sophia, &mut <dyn erased_serde::Deserializer<'_>>::erase(arguments))
    }
}

/// Returns every operation, sorted by name.
pub fn all() -> impl Iterator<Item = &'static Operation> {
    let mut operations: Vec<_> = OPERATIONS.values().copied().collect();
    operations.sort_by_key(|operation| operation.name);
    operations.into_iter()
}

/// Returns the operation of this name.
///
/// # Errors
/// [`ErrorKind::Unsupported`], naming the nearest known one.
pub fn find(name: &str) -> Result<&'static Operation> {
    OPERATIONS.get(name).copied().ok_or_else(|| {
        let names: Vec<_> = OPERATIONS.keys().copied().collect();
        let hint = wire::nearest(name, &names).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        Error::new(ErrorKind::Unsupported, "operations", format!("`{name}` is not an operation{hint}"))
    })
}

/// Describes every operation as `{name, summary, arguments, result}`, with self-contained JSON Schemas.
pub fn describe() -> Vec<Value> {
    let schema = |settings: SchemaSettings, make: fn(&mut SchemaGenerator) -> Schema| {
        let mut generator = settings.into_generator();
        let mut schema = make(&mut generator);
        let definitions = generator.take_definitions(true);
        if !definitions.is_empty() {
            schema.insert("$defs".to_owned(), Value::Object(definitions));
        }
        schema
    };
    all()
        .map(|operation| {
            json!({
                "name": operation.name,
                "summary": operation.summary,
                "arguments": schema(SchemaSettings::default(), operation.arguments),
                "result": schema(results(), operation.result),
            })
        })
        .collect()
}

/// Returns the JSON Schema of every type that a result is made of, by name: what the bindings' types are generated from.
pub fn result_types() -> Map<String, Value> {
    let mut generator = results().into_generator();
    for operation in all() {
        (operation.result)(&mut generator);
    }
    // What the items of a stream are, which no operation returns.
    generator.subschema_for::<crate::chat::ChatChunk>();
    generator.subschema_for::<crate::registry::Change>();
    let mut types: Vec<_> = generator.take_definitions(true).into_iter().collect();
    types.sort_by(|a, b| a.0.cmp(&b.0));
    types.into_iter().collect()
}

/// Results are described as they are written: a field that is always there is required, also where it may be null.
fn results() -> SchemaSettings {
    SchemaSettings::default().for_serialize()
}

/// Reads the arguments of a method that takes a callback or gives a stream, and so is no operation.
///
/// # Errors
/// [`ErrorKind::InvalidInput`], naming the argument.
pub fn read<'de, T: DeserializeOwned, D: Deserializer<'de>>(name: &'static str, arguments: D) -> Result<T> {
    wire::read(ErrorKind::InvalidInput, name, arguments)
}

/// Refuses a field that is passed on to a provider, and is one slip of the keyboard away from an argument: for a caller in
/// which the two stand side by side, as they do in Python.
///
/// # Errors
/// [`ErrorKind::InvalidInput`], naming the argument that was meant.
///
/// ```
/// use sophia_core::operations::refuse_misspelt;
///
/// let refuse = |name| refuse_misspelt("chat.complete", name, &["model", "scope", "max_tokens"]);
/// assert!(refuse("scop").unwrap_err().message().ends_with("did you mean `scope`?"));
/// assert!(refuse("top_p").is_ok() && refuse("min_tokens").is_ok());
/// ```
pub fn refuse_misspelt(operation: &str, name: &str, arguments: &[&str]) -> Result<()> {
    /// Edits between the two: fields of providers are further from every argument.
    const ONE_SLIP: usize = 1;
    /// OpenRouter's list of models to fall back to.
    const NOT_ONE: &str = "models";
    match wire::within(ONE_SLIP, name, arguments).filter(|_| name != NOT_ONE) {
        Some(meant) => {
            let message = format!("is not a known field; did you mean `{meant}`?");
            Err(Error::invalid(operation.to_owned(), name, message))
        }
        None => Ok(()),
    }
}

/// Finds an operation and begins it.
///
/// # Errors
/// As [`find`] and [`Operation::begin`].
pub fn call<'de, D: Deserializer<'de>>(sophia: &Sophia, name: &str, arguments: D) -> Result<Running> {
    find(name)?.begin(sophia, arguments)
}

static OPERATIONS: LazyLock<HashMap<&'static str, &'static Operation>> = LazyLock::new(|| {
    let capabilities =
        [crate::memory::OPERATIONS, crate::chat::OPERATIONS, crate::registry::OPERATIONS, crate::health::OPERATIONS];
    capabilities.into_iter().flatten().map(|operation| (operation.name, operation)).collect()
});

/// Lists the operations of one capability.
///
/// ```ignore
/// operations! {
///     /// Stores one record.
///     "memory.store"(sophia, record: NewRecord) -> StoreResult { sophia.memory().store(record).await }
/// }
/// ```
/// The body is an expression of type `Result<StoreResult>` inside an async block.
macro_rules! operations {
    ($($(#[doc = $doc:literal])+ $name:literal($sophia:ident, $arguments:ident: $Arguments:ty) -> $Output:ty $body:block)*) => {
        pub(crate) const OPERATIONS: &[$crate::operations::Operation] = &[$(
            $crate::operations::Operation {
                name: $name,
                summary: concat!($($doc),+).trim_ascii(),
                arguments: |generator| generator.subschema_for::<$Arguments>(),
                result: |generator| generator.subschema_for::<$Output>(),
                begin: |sophia, arguments| {
                    let $arguments: $Arguments = $crate::wire::read($crate::ErrorKind::InvalidInput, $name, arguments)?;
                    let $sophia = sophia.clone();
                    Ok(Box::pin(async move {
                        let output: $crate::Result<$Output> = async { $body }.await;
                        Ok(Box::new(output?) as $crate::operations::Reply)
                    }))
                },
            },
        )*];
    };
}
pub(crate) use operations;

/// The arguments of an operation that takes none.
#[derive(Debug, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoArguments {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_summary_and_schemas() {
        let described = describe();
        assert_eq!(described.len(), all().count());
        for operation in described {
            assert!(operation["summary"].as_str().is_some_and(|summary| summary.ends_with('.')), "{operation}");
            assert!(operation["arguments"].is_object() && !operation["result"].is_null(), "{operation}");
        }
    }
}
