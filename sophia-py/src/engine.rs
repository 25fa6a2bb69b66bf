//! The engine as Python sees it: operations by name, and the few calls that take a function or give a stream.

use std::sync::Arc;

use futures::StreamExt;
use parking_lot::RwLock;
use pyo3::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sophia_core::{
    Config, Sophia,
    health::{CallbackProbe, ProbeOutcome, Registration},
};

use crate::{
    callback::{Callback, Home},
    convert::{self, Reader},
    error, pending, runtime,
    stream::Stream,
};

/// One engine.
#[pyclass(frozen, module = "sophia._sophia")]
pub struct Engine {
    config: Config,
    live: RwLock<Live>,
    home: Home,
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
        let stale = std::mem::replace(&mut *self.live.write(), Live { sophia: sophia.clone(), generation });
        // Its threads are not in this process, so closing it would wait for ever; its files belong to the parent.
        std::mem::forget(stale);
        Ok(sophia)
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
        let read = || -> sophia_core::Result<Config> {
            if env {
                return Config::from_env();
            }
            let file = path.map(Config::file_layer).transpose()?;
            let mapping = mapping.map(convert::config_layer).transpose()?;
            Config::from_layers(file.into_iter().chain(mapping))
        };
        let config = read().map_err(|failure| error::to_python(py, &failure))?;
        let sophia = build(py, config.clone())?;
        Ok(Engine {
            config,
            live: RwLock::new(Live { sophia, generation: runtime::generation() }),
            home: Home::default(),
        })
    }

    /// Begins the operation `name`: its result, or a `Pending` of it.
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
        self.home.settle(pending::running_loop(py)?);
        let sophia = self.sophia(py)?;
        pending::run(py, Box::pin(pending::reply(async move { sophia.start().await })))
    }

    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let sophia = self.sophia(py)?;
        pending::run(py, Box::pin(pending::reply(async move { sophia.shutdown().await })))
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

    fn health_subscribe(&self, py: Python<'_>) -> PyResult<Stream> {
        Ok(Stream::new(self.sophia(py)?.health().subscribe().map(Ok)))
    }

    fn start_sync<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let sophia = self.sophia(py)?;
        pending::run_sync(py, Box::pin(pending::reply(async move { sophia.start().await })))
    }

    fn close_sync<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let sophia = self.sophia(py)?;
        pending::run_sync(py, Box::pin(pending::reply(async move { sophia.shutdown().await })))
    }
}

impl Engine {
    fn read<T: DeserializeOwned>(
        &self,
        py: Python<'_>,
        method: &'static str,
        arguments: &Bound<'_, PyAny>,
    ) -> PyResult<T> {
        sophia_core::operations::read(method, Reader(arguments)).map_err(|failure| error::to_python(py, &failure))
    }

    fn begin(
        &self,
        py: Python<'_>,
        name: &str,
        arguments: &Bound<'_, PyAny>,
    ) -> PyResult<sophia_core::operations::Running> {
        let sophia = self.sophia(py)?;
        sophia_core::operations::call(&sophia, name, Reader(arguments))
            .map_err(|failure| error::to_python(py, &failure))
    }
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

/// Returns the JSON Schema of every type that a result is made of, by name.
#[pyfunction]
pub fn result_types(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    convert::to_python(py, &sophia_core::operations::result_types())
}
