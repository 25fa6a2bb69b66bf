//! The engine as JavaScript sees it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use napi::bindgen_prelude::Either;
use napi_derive::napi;
use serde::Serialize;
use sophia_core::{Config, Error, ErrorKind, Result, Scope, Sophia, http::Surface, operations};

use crate::{
    callback::Callbacks,
    case,
    failure::Failure,
    http::{self, Asked},
    mailbox::{Deliver, Mailbox},
    methods,
    runtime::{Reply, Tasks, Work, reply, run_here, runtime},
    stream::{JsonStream, Texts},
};

/// One engine, called by name with JSON text.
#[napi]
pub struct Engine {
    sophia: Option<Sophia>,
    /// Made by its first use; one, so that all listeners share its limits.
    surface: OnceLock<Surface>,
    mailbox: Arc<Mailbox>,
    callbacks: Arc<Callbacks>,
    tasks: Tasks,
}

/// Where the configuration comes from.
#[napi(string_enum)]
pub enum ConfigSource {
    /// JSON text.
    Json,
    /// The path of a TOML or JSON file.
    File,
    /// The variables `SOPHIA_…`; the text is not read.
    Environment,
}

/// Builds an engine. Needs no event loop: what it has to say later goes to `deliver`.
#[napi]
pub fn open(
    source: ConfigSource,
    text: String,
    #[napi(ts_arg_type = "(messages: Array<Message>) => void")] deliver: Deliver<'_>,
) -> napi::Result<Either<Engine, Failure>> {
    let config = match source {
        ConfigSource::Json => read_json(&text),
        ConfigSource::File => Config::from_file(&text),
        ConfigSource::Environment => Config::from_env(),
    };
    let sophia = match config.and_then(Sophia::new) {
        Ok(sophia) => sophia,
        Err(error) => return Ok(Either::B(Failure::from(&error))),
    };
    let mailbox = Arc::new(Mailbox::new(&deliver)?);
    let callbacks = Arc::new(Callbacks::new(mailbox.clone()));
    let tasks = Tasks::new(mailbox.clone());
    Ok(Either::A(Engine { sophia: Some(sophia), surface: OnceLock::new(), mailbox, callbacks, tasks }))
}

fn read_json(text: &str) -> Result<Config> {
    let written =
        serde_json::from_str(text).map_err(|error| Error::invalid_config("config", format!("is not JSON: {error}")))?;
    Config::read(case::reading(Config::written_out(written)))
}

/// Returns the JSON Schema of the configuration.
#[napi]
pub fn config_schema() -> String {
    // A schema is a JSON value, which can always be written.
    serde_json::to_string(&Config::schema()).unwrap_or_default()
}

/// Returns the codes of all errors, with whether the same call may succeed later.
#[napi]
pub fn error_codes() -> Vec<Failure> {
    ErrorKind::ALL.into_iter().map(|kind| Failure::from(&Error::new(kind, "errors", "an example"))).collect()
}

#[napi]
impl Engine {
    /// Starts the engine, and settles the promise `id`.
    #[napi]
    pub fn start(&self, id: u32) -> Reply {
        self.begin(id, "start", |sophia| {
            Ok(Box::pin(async move {
                sophia.start().await?;
                Ok("null".to_owned())
            }))
        })
    }

    /// Shuts the engine down, and settles the promise `id`.
    #[napi]
    pub fn close(&self, id: u32) -> Reply {
        self.begin(id, "close", |sophia| {
            Ok(Box::pin(async move {
                sophia.shutdown().await?;
                Ok("null".to_owned())
            }))
        })
    }

    /// Calls an operation: returns its result if that is ready, else settles the promise `id`.
    #[napi]
    pub fn call(&self, id: u32, operation: String, arguments: String) -> Reply {
        self.begin(id, &operation, |sophia| begin(&sophia, &operation, &arguments))
    }

    /// Calls an operation and waits for it on this thread.
    #[napi]
    pub fn call_sync(&self, operation: String, arguments: String) -> Reply {
        let outcome = self.sophia().and_then(|sophia| begin(&sophia, &operation, &arguments));
        reply(outcome.and_then(|work| run_here(&operation, work)))
    }

    /// Opens a stream of results.
    #[napi]
    pub fn stream(&self, operation: String, arguments: String) -> Either<JsonStream, Failure> {
        self.opened(self.sophia().and_then(|sophia| methods::open_stream(&sophia, &operation, &arguments)))
    }

    /// Opens a streamed answer with functions as tools: `tools` defines them, `answer` is called for each.
    #[napi]
    pub fn stream_with(&self, arguments: String, tools: String, answer: u32) -> Either<JsonStream, Failure> {
        let answer = self.callbacks.function(answer);
        self.opened(self.sophia().and_then(|sophia| methods::stream_with(&sophia, &arguments, &tools, answer)))
    }

    /// Returns the largest body that the HTTP surface accepts, in bytes.
    #[napi]
    pub fn max_body_bytes(&self) -> u32 {
        let limit = self.sophia.as_ref().map_or(0, |sophia| sophia.config().server.max_body_bytes);
        u32::try_from(limit).unwrap_or(u32::MAX)
    }

    /// Answers an HTTP request: a stream of `{status, headers}` and then of chunks, whose characters are bytes.
    #[napi]
    pub fn request(
        &self,
        method: String,
        target: String,
        raw_headers: Vec<String>,
        body: &[u8],
        client: Option<String>,
    ) -> Either<JsonStream, Failure> {
        let (asked, body) = (Asked { target, raw_headers, client }, Bytes::copy_from_slice(body));
        let answer = self.surface().and_then(|surface| http::request(surface, method, asked, body));
        self.opened(answer.map(|parts| (http::OPERATION, parts)))
    }

    /// Opens the messages of a WebSocket: a stream of `{status: 101, headers}` and then of texts, or of the answer that refuses
    /// it.
    #[napi]
    pub fn live(
        &self,
        target: String,
        raw_headers: Vec<String>,
        client: Option<String>,
    ) -> Either<JsonStream, Failure> {
        let asked = Asked { target, raw_headers, client };
        let parts = self.surface().and_then(|surface| {
            let _entered = runtime()?.enter();
            http::live(&surface, &asked)
        });
        self.opened(parts.map(|parts| (http::OPERATION, parts)))
    }

    /// Registers a service whose probe is the function `probe`.
    #[napi]
    pub fn register_probe(&self, arguments: String, probe: u32) -> Reply {
        let probe = self.callbacks.function(probe);
        reply(self.sophia().and_then(|sophia| methods::register_probe(&sophia, &arguments, probe)))
    }

    /// Sets an action whose steps are functions.
    #[napi]
    pub fn action(&self, arguments: String, execute: u32, verify: Option<u32>, rollback: Option<u32>) -> Reply {
        let function = |id| self.callbacks.function(id);
        let (execute, verify, rollback) = (function(execute), verify.map(function), rollback.map(function));
        reply(self.sophia().and_then(|sophia| methods::action(&sophia, &arguments, execute, verify, rollback)))
    }

    /// Gives the value of the function `producer`, or one that is kept; if it is not ready, settles the promise `id`.
    #[napi]
    pub fn run(&self, id: u32, arguments: String, producer: u32) -> Reply {
        let producer = self.callbacks.function(producer);
        self.begin(id, "chat.run", |sophia| methods::run(&sophia, &arguments, producer))
    }

    /// Answers a question with functions as tools; settles the promise `id`.
    #[napi]
    pub fn complete_with(&self, id: u32, arguments: String, tools: String, answer: u32) -> Reply {
        let answer = self.callbacks.function(answer);
        self.begin(id, "chat.complete", |sophia| methods::complete_with(&sophia, &arguments, &tools, answer))
    }

    /// Looks a key up in this process, without waiting: its value as JSON text, an empty text where there is no such key, or
    /// nothing where `memory.kv.get` has to look further.
    #[napi]
    pub fn kv_get(
        &self,
        key: String,
        tenant: Option<String>,
        user: Option<String>,
        session: Option<String>,
        agent: Option<String>,
    ) -> Option<String> {
        let mut scope = Scope::new();
        (scope.tenant, scope.user, scope.session, scope.agent) = (tenant, user, session, agent);
        let known = self.sophia.as_ref()?.memory().kv().get_now(&key, &scope)?;
        Some(known.map_or_else(String::new, |value| value.json().to_owned()))
    }

    /// Gives the value under `key`, or makes it with the function `load`; if it is not ready, settles the promise `id`.
    #[napi]
    pub fn get_or_set(&self, id: u32, key: String, options: String, load: u32) -> Reply {
        let load = self.callbacks.function(load);
        self.begin(id, "memory.kv.get_or_set", |sophia| methods::get_or_set(&sophia, key, &options, load))
    }

    /// Turns text into vectors with the function `embed`.
    #[napi]
    pub fn set_embedder(&self, arguments: String, embed: u32) -> Reply {
        let embed = self.callbacks.function(embed);
        reply(self.sophia().and_then(|sophia| methods::set_embedder(&sophia, &arguments, embed)))
    }

    /// Drops the work of the promise `id`, which is then never settled.
    #[napi]
    pub fn cancel(&self, id: u32) {
        self.tasks.cancel(id);
    }

    /// Takes the result of an invocation, as JSON text.
    #[napi]
    pub fn answer(&self, invocation: u32, text: String) {
        self.callbacks.answer(invocation, text);
    }

    /// Takes what an invocation threw: its code if it is one of ours, its message, and where the facade keeps it.
    #[napi]
    pub fn refuse(&self, invocation: u32, code: Option<String>, message: String, thrown: u32) {
        self.callbacks.refuse(invocation, code.as_deref(), message, thrown);
    }

    fn sophia(&self) -> Result<Sophia> {
        self.sophia.clone().ok_or_else(|| Error::new(ErrorKind::Cancelled, "engine", "the engine is gone"))
    }

    fn surface(&self) -> Result<Surface> {
        if let Some(surface) = self.surface.get() {
            return Ok(surface.clone());
        }
        let made = Surface::new(self.sophia()?)?;
        Ok(self.surface.get_or_init(|| made).clone())
    }

    fn opened(&self, items: Result<(&'static str, Texts)>) -> Either<JsonStream, Failure> {
        match items {
            Ok((operation, items)) => Either::A(JsonStream::new(operation, items, self.mailbox.clone())),
            Err(error) => Either::B(Failure::from(&error)),
        }
    }

    fn begin(&self, id: u32, operation: &str, begin: impl FnOnce(Sophia) -> Result<Work>) -> Reply {
        match self.sophia().and_then(begin) {
            Ok(work) => self.tasks.run(id, operation, work),
            Err(error) => reply(Err(error)),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // What the capabilities stop may belong to the runtime.
        let _entered = runtime().map(|runtime| runtime.enter());
        self.surface.take();
        self.sophia = None;
    }
}

/// Reads the arguments of an operation and returns its work, which ends with the result as JSON text.
fn begin(sophia: &Sophia, operation: &str, arguments: &str) -> Result<Work> {
    let mut json = serde_json::Deserializer::from_str(arguments);
    let running = operations::call(sophia, operation, case::reading(&mut json))?;
    let operation = operations::find(operation)?.name;
    Ok(Box::pin(async move { text(operation, &running.await?) }))
}

/// Writes a result as JSON text.
pub fn text(operation: &'static str, result: &(impl Serialize + ?Sized)) -> Result<String> {
    serde_json::to_string(&case::writing(result)).map_err(|error| {
        Error::new(ErrorKind::Internal, operation, "the result cannot be written as JSON").with_source(error)
    })
}
