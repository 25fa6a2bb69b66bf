//! The engine as Python sees it: operations by name, and the few calls that take a function or give a stream.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, future::BoxFuture};
use parking_lot::RwLock;
use pyo3::prelude::*;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value;
use sophia_core::{
    Config, Error, ErrorKind, Result, Scope, Sophia,
    chat::{self, CallbackTools, ChatRequest, Produced, RunOptions, ToolBox},
    health::{Action, CallbackHealer, CallbackProbe, ProbeOutcome, Registration},
    memory::{Embedder, EmbedderKind, KvOptions, embed::CallbackEmbedder},
};

use crate::{
    callback::{self, Callback, Home},
    convert::{self, Reader},
    error,
    http::HttpSurface,
    logs,
    pending::{self, LoopQueue},
    runtime,
    stream::Stream,
};

/// One engine.
#[pyclass(frozen, module = "sophia._sophia")]
pub struct Engine {
    config: Config,
    live: RwLock<Live>,
    home: Home,
    /// Set by a function: given again to an engine that is built anew.
    embedder: RwLock<Option<Arc<dyn Embedder>>>,
}

struct Live {
    sophia: Sophia,
    generation: u64,
}

impl Engine {
    /// Returns the engine, built anew if this process was forked from one in which it had begun to work.
    fn sophia(&self, py: Python<'_>) -> PyResult<Sophia> {
        let generation = runtime::generation();
        {
            let live = self.live.read();
            if live.generation == generation {
                return Ok(live.sophia.clone());
            }
        }
        let sophia = build(py, self.config.clone())?;
        if let Some(embedder) = &*self.embedder.read() {
            sophia.memory().set_embedder(embedder.clone());
        }
        let stale = std::mem::replace(&mut *self.live.write(), Live { sophia: sophia.clone(), generation });
        // Its threads are not in this process, so closing it would wait for ever; its files belong to the parent.
        std::mem::forget(stale);
        Ok(sophia)
    }

    /// Takes functions of Python as tools.
    fn tools<'py>(
        &self,
        py: Python<'py>,
        operation: &'static str,
        definitions: &Bound<'py, PyAny>,
        answer: Bound<'py, PyAny>,
    ) -> PyResult<Arc<dyn ToolBox>> {
        let definitions: Vec<Value> = self.read(py, operation, definitions)?;
        let answer = Arc::new(Callback::new(operation, answer, &self.home)?);
        Ok(Arc::new(CallbackTools::new(definitions, move |ask| {
            let answer = answer.clone();
            Box::pin(async move {
                let ask = serde_json::to_string(&ask).map_err(|error| {
                    Error::new(ErrorKind::Internal, operation, "the call of a tool cannot be written")
                        .with_source(error)
                })?;
                answer.call(Some(ask)).await
            })
        })))
    }

    fn complete_with<'py>(
        &self,
        py: Python<'py>,
        arguments: &Bound<'py, PyAny>,
        tools: &Bound<'py, PyAny>,
        answer: Bound<'py, PyAny>,
    ) -> PyResult<BoxFuture<'static, pending::Outcome>> {
        const OPERATION: &str = "chat.complete";
        let request: ChatRequest = self.read(py, OPERATION, arguments)?;
        let tools = self.tools(py, OPERATION, tools, answer)?;
        let sophia = self.sophia(py)?;
        Ok(pending::reply(async move { sophia.chat().complete_with(request, tools).await }))
    }
}

fn build(py: Python<'_>, config: Config) -> PyResult<Sophia> {
    Sophia::new(config).map_err(|failure| error::to_python(py, &failure))
}

#[pymethods]
impl Engine {
    /// Builds an engine from layers of configuration, each over the one before: environment, file, mapping.
    #[new]
    #[pyo3(signature = (mapping=None, *, path=None, env=false))]
    fn new(py: Python<'_>, mapping: Option<&Bound<'_, PyAny>>, path: Option<&str>, env: bool) -> PyResult<Engine> {
        logs::install(py)?;
        let read = || -> Result<Config> {
            if env {
                return Config::from_env();
            }
            let file = path.map(Config::file_layer).transpose()?;
            let mapping = mapping.map(convert::config_layer).transpose()?;
            Config::from_layers(file.into_iter().chain(mapping))
        };
        let mut config = read().map_err(|failure| error::to_python(py, &failure))?;
        let embedder = &mut config.memory.embedder;
        if embedder.kind == EmbedderKind::Minilm && embedder.path.is_none() {
            embedder.path = py.import("sophia._models")?.call_method0("minilm_folder")?.extract()?;
        }
        let sophia = build(py, config)?;
        Ok(Engine {
            config: sophia.config().clone(),
            live: RwLock::new(Live { sophia, generation: runtime::generation() }),
            home: Home::default(),
            embedder: RwLock::default(),
        })
    }

    /// Whether there are files that outlive the engine.
    #[getter]
    fn durable(&self) -> bool {
        self.config.data_dir.is_some()
    }

    /// Begins the operation `name`: its result, or an `asyncio.Future` of it.
    fn call<'py>(&self, py: Python<'py>, name: &str, arguments: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let running = self.begin(py, name, arguments)?;
        pending::run(py, running)
    }

    /// Runs the operation `name` and blocks until it ends.
    fn call_sync<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        arguments: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let running = self.begin(py, name, arguments)?;
        pending::run_sync(py, running)
    }

    fn start<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.home.settle(LoopQueue::current(py)?);
        let sophia = self.sophia(py)?;
        pending::run(py, pending::reply(async move { sophia.start().await }))
    }

    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let sophia = self.sophia(py)?;
        pending::run(py, pending::reply(async move { sophia.shutdown().await }))
    }

    /// Returns the value that L1 knows, None where it knows that there is none, and `unknown` where the other tiers must
    /// be asked.
    fn kv_get_now<'py>(
        &self,
        py: Python<'py>,
        key: &str,
        scope: &Bound<'py, PyAny>,
        unknown: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let scope = if scope.is_none() { Scope::new() } else { self.read(py, "memory.kv.get", scope)? };
        match self.sophia(py)?.memory().kv().get_now(key, &scope) {
            Some(Some(value)) => convert::to_python(py, value.value()),
            Some(None) => Ok(py.None().into_bound(py)),
            None => Ok(unknown),
        }
    }

    /// Returns the value, or what the function returns, which is then kept.
    fn kv_get_or_set<'py>(
        &self,
        py: Python<'py>,
        key: String,
        options: &Bound<'py, PyAny>,
        loader: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options: KvOptions = self.read(py, "memory.kv.get_or_set", options)?;
        let callback = Callback::new("memory.kv.get_or_set", loader, &self.home)?;
        let load = move || async move { callback.call::<(), Value>(None).await };
        let sophia = self.sophia(py)?;
        pending::run(py, pending::reply(async move { sophia.memory().kv().get_or_set(&key, options, load).await }))
    }

    /// Embeds with a Python function of a list of texts.
    fn memory_set_embedder(
        &self,
        py: Python<'_>,
        function: Bound<'_, PyAny>,
        model: String,
        dimensions: usize,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let callback = Arc::new(Callback::new(callback::EMBED, function, &self.home)?);
        let embed = move |texts: Vec<String>| {
            let callback = callback.clone();
            async move { callback.call::<_, Vec<Vec<f32>>>(Some(texts)).await }.boxed()
        };
        let made = CallbackEmbedder::new(model, dimensions, embed).map(|made| match timeout {
            Some(seconds) => made.timeout(std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default()),
            None => made,
        });
        let embedder: Arc<dyn Embedder> = Arc::new(made.map_err(|failure| error::to_python(py, &failure))?);
        *self.embedder.write() = Some(embedder.clone());
        let sophia = self.sophia(py)?;
        let _entered = runtime::get()?.enter();
        sophia.memory().set_embedder(embedder);
        Ok(())
    }

    /// Returns the HTTP surface of this engine.
    fn http(&self, py: Python<'_>) -> PyResult<HttpSurface> {
        HttpSurface::new(py, self.sophia(py)?)
    }

    /// Answers a question with functions of Python as tools, defined by `tools`; `answer` is given each call as JSON text.
    fn chat_complete_with<'py>(
        &self,
        py: Python<'py>,
        arguments: &Bound<'py, PyAny>,
        tools: &Bound<'py, PyAny>,
        answer: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        pending::run(py, self.complete_with(py, arguments, tools, answer)?)
    }

    fn chat_complete_with_sync<'py>(
        &self,
        py: Python<'py>,
        arguments: &Bound<'py, PyAny>,
        tools: &Bound<'py, PyAny>,
        answer: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        pending::run_sync(py, self.complete_with(py, arguments, tools, answer)?)
    }

    /// Begins a streamed answer, with functions of Python as tools where they are given: a stream of lists of chunks.
    #[pyo3(signature = (arguments, tools=None, answer=None))]
    fn chat_stream<'py>(
        &self,
        py: Python<'py>,
        arguments: &Bound<'py, PyAny>,
        tools: Option<&Bound<'py, PyAny>>,
        answer: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Stream> {
        const OPERATION: &str = "chat.stream";
        let request: ChatRequest = self.read(py, OPERATION, arguments)?;
        let tools = tools.zip(answer).map(|(tools, answer)| self.tools(py, OPERATION, tools, answer)).transpose()?;
        let sophia = self.sophia(py)?;
        let _entered = runtime::get()?.enter();
        let begun = py.detach(|| match tools {
            Some(tools) => sophia.chat().stream_with(request, tools),
            None => sophia.chat().stream(request),
        });
        let chunks = begun.map_err(|failure| error::to_python(py, &failure))?;
        Ok(Stream::new(futures::stream::unfold(chunks, |mut chunks| async move {
            chunks.next_batch().await.map(|batch| (batch, chunks))
        })))
    }

    /// Gives the chat's protection to a coroutine function, which is given the producers that stand around what it does and
    /// returns `{value, text, cacheable}`.
    fn chat_run<'py>(
        &self,
        py: Python<'py>,
        arguments: &Bound<'py, PyAny>,
        produce: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options: RunOptions = self.read(py, "chat.run", arguments)?;
        let callback = Callback::new("chat.run", produce, &self.home)?;
        let producer = move || async move { callback.call(Some(chat::around())).await.and_then(produced) }.boxed();
        let sophia = self.sophia(py)?;
        pending::run(py, pending::reply(async move { sophia.chat().run_value(options, producer).await }))
    }

    /// Registers a service whose probe is a Python function.
    fn health_register(
        &self,
        py: Python<'_>,
        registration: &Bound<'_, PyAny>,
        function: Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let registration: Registration = self.read(py, "health.register", registration)?;
        let callback = Arc::new(Callback::new("health.probe", function, &self.home)?);
        let probe = CallbackProbe::new(move || {
            let callback = callback.clone();
            Box::pin(async move { callback.call::<(), ProbeOutcome>(None).await })
        });
        let registered = self.sophia(py)?.health().register(registration, Arc::new(probe));
        registered.map_err(|failure| error::to_python(py, &failure))
    }

    /// Registers a healing action made of Python functions, each of which is given the target.
    fn health_action(
        &self,
        py: Python<'_>,
        action: &Bound<'_, PyAny>,
        execute: Bound<'_, PyAny>,
        verify: Option<Bound<'_, PyAny>>,
        rollback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let action: Action = self.read(py, "health.action", action)?;
        let mut healer = CallbackHealer::new(self.step::<IgnoredAny, _>(execute, |_| ())?);
        if let Some(verify) = verify {
            healer = healer.verify(self.step::<Option<bool>, _>(verify, |helped| helped)?);
        }
        if let Some(rollback) = rollback {
            healer = healer.rollback(self.step::<IgnoredAny, _>(rollback, |_| ())?);
        }
        let registered = self.sophia(py)?.health().action(action, Arc::new(healer));
        registered.map_err(|failure| error::to_python(py, &failure))
    }

    fn registry_watch(&self, py: Python<'_>) -> PyResult<Stream> {
        Ok(Stream::new(self.sophia(py)?.registry().watch().map(Ok)))
    }

    fn health_subscribe(&self, py: Python<'_>) -> PyResult<Stream> {
        Ok(Stream::new(self.sophia(py)?.health().subscribe().map(Ok)))
    }

    fn start_sync<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let sophia = self.sophia(py)?;
        pending::run_sync(py, pending::reply(async move { sophia.start().await }))
    }

    fn close_sync<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let sophia = self.sophia(py)?;
        pending::run_sync(py, pending::reply(async move { sophia.shutdown().await }))
    }

    /// Closes what a forked process must not inherit, and keeps it closed until `resume`.
    fn suspend_sync<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let sophia = self.sophia(py)?;
        pending::run_sync(py, pending::reply(async move { sophia.suspend().await }))
    }

    fn resume(&self, py: Python<'_>) -> PyResult<()> {
        self.sophia(py)?.resume();
        Ok(())
    }
}

impl Engine {
    /// Turns a Python function of a target into a step of a healer.
    fn step<T, R>(
        &self,
        function: Bound<'_, PyAny>,
        keep: fn(T) -> R,
    ) -> PyResult<impl Fn(String) -> BoxFuture<'static, Result<R>> + Send + Sync + 'static>
    where
        T: DeserializeOwned + Send + 'static,
        R: 'static,
    {
        let callback = Arc::new(Callback::new("health.action", function, &self.home)?);
        Ok(move |target: String| {
            let callback = callback.clone();
            async move { callback.call::<_, T>(Some(target)).await.map(keep) }.boxed()
        })
    }

    fn read<T: DeserializeOwned>(
        &self,
        py: Python<'_>,
        method: &'static str,
        arguments: &Bound<'_, PyAny>,
    ) -> PyResult<T> {
        sophia_core::operations::read(method, reading(method, arguments))
            .map_err(|failure| error::to_python(py, &failure))
    }

    fn begin(
        &self,
        py: Python<'_>,
        name: &str,
        arguments: &Bound<'_, PyAny>,
    ) -> PyResult<sophia_core::operations::Running> {
        let sophia = self.sophia(py)?;
        sophia_core::operations::call(&sophia, name, reading(name, arguments))
            .map_err(|failure| error::to_python(py, &failure))
    }
}

/// Reads the arguments of an operation.
fn reading<'a, 'py>(operation: &str, arguments: &'a Bound<'py, PyAny>) -> Reader<'a, 'py> {
    // A message that an SDK gave has null wherever nothing was said, which providers refuse for many a field.
    if operation.starts_with("chat.") { Reader::without_nulls(arguments) } else { Reader::new(arguments) }
}

/// What the facade's wrapper of a producer returns.
fn produced(value: Value) -> Result<Produced> {
    #[derive(Deserialize)]
    struct Made {
        value: Value,
        text: Option<String>,
        cacheable: bool,
    }
    let Made { value, text, cacheable } = sophia_core::operations::read("chat.run", value)?;
    let produced = Produced::new(value).cacheable(cacheable);
    Ok(match text {
        Some(text) => produced.text(text),
        None => produced,
    })
}

/// Returns the JSON Schema of the configuration.
#[pyfunction]
pub fn config_schema(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    convert::to_python(py, &Config::schema())
}

/// Returns every operation as `{name, summary, arguments, result}`, with JSON Schemas.
#[pyfunction]
pub fn operations(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let described: Vec<Value> = sophia_core::operations::describe();
    convert::to_python(py, &described)
}

/// Refuses fields that would be passed on to a provider, and are misspelt arguments.
#[pyfunction]
pub fn refuse_misspelt(py: Python<'_>, operation: &str, fields: Vec<String>, arguments: Vec<String>) -> PyResult<()> {
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    fields
        .iter()
        .try_for_each(|field| sophia_core::operations::refuse_misspelt(operation, field, &arguments))
        .map_err(|failure| error::to_python(py, &failure))
}

/// Returns the JSON Schema of every type that a result is made of, by name.
#[pyfunction]
pub fn result_types(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    convert::to_python(py, &sophia_core::operations::result_types())
}
