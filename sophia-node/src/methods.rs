//! What cannot be called by name, since it takes a function or gives a stream.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt, TryFutureExt, future::BoxFuture};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use sophia_core::{
    Error, ErrorKind, Result, Sophia,
    chat::{self, CallbackTools, ChatRequest, Produced, RunOptions, ToolBox},
    health::{Action, CallbackHealer, CallbackProbe, ProbeOutcome, Registration},
    memory::{KvOptions, embed::CallbackEmbedder},
    operations,
};

use crate::{
    callback::JsFunction,
    case,
    engine::text,
    runtime::{Work, runtime},
    stream::Texts,
};

/// No arguments, for a function that takes none.
const NONE: [(); 0] = [];

/// Opens the stream of this name.
///
/// # Errors
/// [`ErrorKind::Unsupported`] where there is none; [`ErrorKind::InvalidInput`], naming the argument.
pub fn open_stream(sophia: &Sophia, operation: &str, arguments: &str) -> Result<(&'static str, Texts)> {
    match operation {
        "chat.stream" => {
            let request: ChatRequest = read("chat.stream", arguments)?;
            // The call to the provider begins here, on this runtime.
            let _entered = runtime()?.enter();
            Ok(texts("chat.stream", sophia.chat().stream(request)?))
        }
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

/// Sets an action that is a function, with functions that verify it and take it back.
///
/// # Errors
/// As [`sophia_core::health::Health::action`].
pub fn action(
    sophia: &Sophia,
    arguments: &str,
    execute: JsFunction,
    verify: Option<JsFunction>,
    rollback: Option<JsFunction>,
) -> Result<String> {
    let action: Action = read("health.action", arguments)?;
    let mut healer = CallbackHealer::new(move |target| Box::pin(step(execute.clone(), target).map_ok(drop)));
    if let Some(verify) = verify {
        healer = healer.verify(move |target| {
            let said = step(verify.clone(), target);
            Box::pin(async move { answer::<Option<bool>>("health.trigger", &said.await?) })
        });
    }
    if let Some(rollback) = rollback {
        healer = healer.rollback(move |target| Box::pin(step(rollback.clone(), target).map_ok(drop)));
    }
    sophia.health().action(action, Arc::new(healer))?;
    done()
}

async fn step(function: JsFunction, target: String) -> Result<String> {
    function.call("health.trigger", [target]).await
}

/// Gives the value of the function `producer`, or one that is kept.
///
/// # Errors
/// As [`sophia_core::chat::Chat::run_value`].
pub fn run(sophia: &Sophia, arguments: &str, producer: JsFunction) -> Result<Work> {
    /// What the facade makes of the producer's value.
    #[derive(Deserialize)]
    struct Made {
        #[serde(default)]
        value: Value,
        text: Option<String>,
        cacheable: Option<bool>,
    }
    let options: RunOptions = read("chat.run", arguments)?;
    let sophia = sophia.clone();
    let produce = move || -> BoxFuture<'static, Result<Produced>> {
        Box::pin(async move {
            let made: Made = answer("chat.run", &producer.call("chat.run", [chat::around()]).await?)?;
            let produced = Produced::new(made.value).cacheable(made.cacheable.unwrap_or(true));
            Ok(match made.text {
                Some(text) => produced.text(text),
                None => produced,
            })
        })
    };
    Ok(Box::pin(async move { text("chat.run", &sophia.chat().run_value(options, produce).await?) }))
}

/// Answers a question with functions of JavaScript as tools.
///
/// # Errors
/// As [`sophia_core::chat::Chat::complete_with`].
pub fn complete_with(sophia: &Sophia, arguments: &str, tools: &str, answer: JsFunction) -> Result<Work> {
    const OPERATION: &str = "chat.complete";
    let (request, tools) = (read::<ChatRequest>(OPERATION, arguments)?, tools_of(OPERATION, tools, answer)?);
    let sophia = sophia.clone();
    Ok(Box::pin(async move { text(OPERATION, &sophia.chat().complete_with(request, tools).await?) }))
}

/// Answers a question with functions of JavaScript as tools, in parts.
///
/// # Errors
/// As [`sophia_core::chat::Chat::stream_with`].
pub fn stream_with(sophia: &Sophia, arguments: &str, tools: &str, answer: JsFunction) -> Result<(&'static str, Texts)> {
    const OPERATION: &str = "chat.stream";
    let (request, tools) = (read::<ChatRequest>(OPERATION, arguments)?, tools_of(OPERATION, tools, answer)?);
    let _entered = runtime()?.enter();
    Ok(texts(OPERATION, sophia.chat().stream_with(request, tools)?))
}

fn tools_of(operation: &'static str, definitions: &str, function: JsFunction) -> Result<Arc<dyn ToolBox>> {
    // As the provider takes them: no name in them is ours to change.
    let definitions: Vec<Value> = answer(operation, definitions)?;
    Ok(Arc::new(CallbackTools::new(definitions, move |ask| {
        let function = function.clone();
        Box::pin(async move { answer(operation, &function.call(operation, [ask]).await?) })
    })))
}

/// Gives the value under `key`, or makes it with the function `load`.
///
/// # Errors
/// As [`sophia_core::memory::Kv::get_or_set`].
pub fn get_or_set(sophia: &Sophia, key: String, options: &str, load: JsFunction) -> Result<Work> {
    const OPERATION: &str = "memory.kv.get_or_set";
    let options: KvOptions = read(OPERATION, options)?;
    let kv = sophia.memory().kv().clone();
    let load = move || async move { answer(OPERATION, &load.call(OPERATION, NONE).await?) };
    Ok(Box::pin(async move { Ok(kv.get_or_set(&key, options, load).await?.json().to_owned()) }))
}

/// Turns text into vectors with the function `embed`.
///
/// # Errors
/// As [`CallbackEmbedder::new`].
pub fn set_embedder(sophia: &Sophia, arguments: &str, embed: JsFunction) -> Result<String> {
    const OPERATION: &str = "memory.embed";
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Options {
        model: String,
        dimensions: usize,
        /// In seconds: the facade takes `timeoutMs`.
        #[serde(default)]
        timeout: Option<f64>,
    }
    let options: Options = read("memory.set_embedder", arguments)?;
    let call = move |texts: Vec<String>| -> BoxFuture<'static, Result<Vec<Vec<f32>>>> {
        let embed = embed.clone();
        Box::pin(async move {
            // JSON has null for what is not a number.
            let made: Vec<Vec<Option<f32>>> = answer(OPERATION, &embed.call(OPERATION, [texts]).await?)?;
            let whole = |vector: Vec<Option<f32>>| vector.into_iter().map(|value| value.unwrap_or(f32::NAN)).collect();
            Ok(made.into_iter().map(whole).collect())
        })
    };
    let made = CallbackEmbedder::new(options.model, options.dimensions, call)?;
    let embedder = match options.timeout {
        Some(seconds) => made.timeout(Duration::try_from_secs_f64(seconds).unwrap_or_default()),
        None => made,
    };
    let _entered = runtime()?.enter();
    sophia.memory().set_embedder(Arc::new(embedder));
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
