//! What cannot be called by name, since it takes a function or gives a stream.

use futures::{Stream, StreamExt};
use serde::{Serialize, de::DeserializeOwned};
use sophia_core::{
    Error, ErrorKind, Result, Sophia,
    health::{CallbackProbe, ProbeOutcome, Registration},
    operations,
};
use std::sync::Arc;

use crate::{callback::JsFunction, case, engine::text, stream::Texts};

/// No arguments, for a function that takes none.
const NONE: [(); 0] = [];

/// Opens the stream of this name.
///
/// # Errors
/// [`ErrorKind::Unsupported`] where there is none; [`ErrorKind::InvalidInput`], naming the argument.
pub fn open_stream(sophia: &Sophia, operation: &str, arguments: &str) -> Result<(&'static str, Texts)> {
    match operation {
        "health.subscribe" => {
            read::<NoOptions>("health.subscribe", arguments)?;
            Ok(texts("health.subscribe", sophia.health().subscribe().map(Ok)))
        }
        "registry.watch" => {
            read::<NoOptions>("registry.watch", arguments)?;
            Ok(texts("registry.watch", sophia.registry().watch().map(Ok)))
        }
        _ => Err(Error::new(ErrorKind::Unsupported, "operations", format!("`{operation}` is not a stream"))),
    }
}

/// Registers a service whose probe is a function.
///
/// # Errors
/// As [`sophia_core::health::Health::register`].
pub fn register_probe(sophia: &Sophia, arguments: &str, probe: JsFunction) -> Result<String> {
    let registration: Registration = read("health.register", arguments)?;
    let probe = CallbackProbe::new(move || {
        let probe = probe.clone();
        Box::pin(async move { answer::<ProbeOutcome>("health.check", &probe.call("health.check", NONE).await?) })
    });
    sophia.health().register(registration, Arc::new(probe))?;
    done()
}

/// The arguments of what takes none.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct NoOptions {}

fn read<T: DeserializeOwned>(operation: &'static str, arguments: &str) -> Result<T> {
    operations::read(operation, case::reading(&mut serde_json::Deserializer::from_str(arguments)))
}

/// Reads what a function gave.
fn answer<T: DeserializeOwned>(operation: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| Error::invalid(operation, "the function's result", format!("is wrong: {error}")))
}

fn texts<T: Serialize>(
    operation: &'static str,
    items: impl Stream<Item = Result<T>> + Send + 'static,
) -> (&'static str, Texts) {
    (operation, items.map(move |item| text(operation, &item?)).boxed())
}

/// The result of what gives none.
fn done() -> Result<String> {
    Ok("null".to_owned())
}
