//! The engine: one handle that owns the four capabilities, one config, one shutdown.

use std::sync::Arc;

use crate::{
    Clock, Config, Result, Signals, SystemClock,
    chat::{Assistants, Chat, HttpEmbedder},
    context::Context,
    health::Health,
    memory::{Embedder, EmbedderConfig, EmbedderKind, Embedders, Memory, MemoryConfig, toolsets},
    otlp::Otel,
    registry::Registry,
    telemetry::Telemetry,
};

/// The engine. Cheap to clone; all clones are one engine.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sophia_core::Result<()> {
/// use sophia_core::{Scope, Sophia, memory::{NewRecord, Query}};
///
/// let sophia = Sophia::builder().start().await?;
/// let ada = Scope::new().tenant("acme").user("ada");
/// sophia.memory().store(NewRecord::new("Ada wants the quarterly report as a PDF.").scope(&ada)).await?;
/// let found = sophia.memory().search(Query::new("which file format does she like?").scope(&ada)).await?;
/// assert_eq!(found.hits.len(), 1);
/// sophia.shutdown().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Sophia(Arc<Engine>);

#[derive(Debug)]
struct Engine {
    config: Config,
    telemetry: Telemetry,
    memory: Memory,
    chat: Chat,
    registry: Registry,
    health: Health,
    otel: Option<Otel>,
    #[cfg(feature = "redis")]
    redis: Option<crate::redis::Redis>,
}

/// Sets up an engine.
#[derive(Debug, Default)]
#[must_use = "call build() or start()"]
pub struct Builder {
    config: Config,
    clock: Option<Arc<dyn Clock>>,
    embedder: Option<Arc<dyn Embedder>>,
}

impl Builder {
    /// Sets the configuration.
    pub fn config(mut self, config: Config) -> Builder {
        self.config = config;
        self
    }

    /// Sets the clock; the system's by default.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Builder {
        self.clock = Some(clock);
        self
    }

    /// Sets what turns text into vectors, in place of what the configuration names.
    pub fn embedder(mut self, embedder: Arc<dyn Embedder>) -> Builder {
        self.embedder = Some(embedder);
        self
    }

    /// Builds the engine. Opens nothing and needs no runtime: files and connections are opened by their first use.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig), naming the path of the field.
    pub fn build(self) -> Result<Sophia> {
        let config = self.config;
        config.validate()?;
        let config = config.absolute()?;
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock::default()));
        let telemetry = Telemetry::default();
        let health = Health::new(&config.health, clock.clone(), telemetry.clone())?;
        let signals: Signals = Arc::new(health.clone());
        let context = Context {
            #[cfg(feature = "redis")]
            redis: crate::redis::Redis::new(&config.redis, signals.clone())?,
            #[cfg(feature = "postgres")]
            postgres: postgres(&config, clock.clone(), signals.clone())?,
            clock: clock.clone(),
            signals,
            telemetry: telemetry.clone(),
            otel: Otel::new(&config.telemetry.otlp, clock.clone())?,
            data_dir: config.data_dir.clone(),
        };
        let memory = Memory::new(&config.memory, embedders(&config.memory, self.embedder, &context)?, &context)?;
        let registry = Registry::new(&config.registry, &context, toolsets(&memory))?;
        let assistants = Assistants { memory: memory.clone(), registry: registry.clone() };
        let chat = Chat::new(&config.chat, &context, assistants)?;
        memory.also_forget(chat.forgets());
        Ok(Sophia(Arc::new(Engine {
            config,
            telemetry,
            memory,
            chat,
            registry,
            health,
            otel: context.otel,
            #[cfg(feature = "redis")]
            redis: context.redis,
        })))
    }

    /// Builds the engine and starts it.
    ///
    /// # Errors
    /// As [`Builder::build`] and [`Sophia::start`].
    pub async fn start(self) -> Result<Sophia> {
        let sophia = self.build()?;
        sophia.start().await?;
        Ok(sophia)
    }
}

/// Returns what turns text into vectors: `given`, or what the configuration names, and what did so before.
fn embedders(config: &MemoryConfig, given: Option<Arc<dyn Embedder>>, context: &Context) -> Result<Embedders> {
    let current = match given {
        Some(given) => Some(given),
        None => embedder("memory.embedder", &config.embedder, context)?,
    };
    let mut former = Vec::new();
    if let Some(config) = &config.former_embedder {
        former.extend(embedder("memory.former_embedder", config, context)?);
    }
    // Costs nothing until it is asked.
    former.extend(embedder("memory.former_embedder", &EmbedderConfig::from(EmbedderKind::Static), context)?);
    let is_former = |embedder: &Arc<dyn Embedder>| current.as_ref().is_none_or(|of| of.model() != embedder.model());
    former.retain(is_former);
    Ok(Embedders { current, former })
}

fn embedder(path: &str, config: &EmbedderConfig, context: &Context) -> Result<Option<Arc<dyn Embedder>>> {
    Ok(match config.kind {
        #[cfg(feature = "static-embedder")]
        EmbedderKind::Static => Some(Arc::new(crate::memory::embed::StaticEmbedder::bundled())),
        EmbedderKind::Http => Some(Arc::new(HttpEmbedder::new(path, config, context.clock.clone())?)),
        #[cfg(feature = "minilm")]
        EmbedderKind::Minilm => Some(Arc::new(crate::memory::embed::MiniLmEmbedder::configured(path, config)?)),
        // Another build would have it; the configuration was checked for that.
        _ => None,
    })
}

#[cfg(feature = "postgres")]
fn postgres(config: &Config, clock: Arc<dyn Clock>, signals: Signals) -> Result<Option<crate::memory::PostgresStore>> {
    let retention = config.memory.retention.clone();
    let store = || crate::memory::PostgresStore::with_signals(&config.postgres, retention, clock, signals);
    config.postgres.is_set().then(store).transpose()
}

impl Sophia {
    /// Builds an engine from a configuration, as [`Builder::build`] does.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new(config: Config) -> Result<Sophia> {
        Sophia::builder().config(config).build()
    }

    /// Starts to set up an engine.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Opens what the configuration names, and starts background work. Calling it again does nothing.
    ///
    /// # Errors
    /// What opening the data directory says.
    pub async fn start(&self) -> Result<()> {
        self.0.memory.start().await?;
        self.0.chat.start().await?;
        self.0.registry.start().await?;
        self.0.health.start().await
    }

    /// Flushes, stops background work and child processes, and returns. [`Sophia::start`] starts it again.
    ///
    /// # Errors
    /// What closing the data file says.
    pub async fn shutdown(&self) -> Result<()> {
        self.0.health.shutdown().await?;
        self.stop().await
    }

    async fn stop(&self) -> Result<()> {
        self.0.registry.shutdown().await?;
        self.0.chat.shutdown().await?;
        let outcome = self.0.memory.shutdown().await;
        if let Some(otel) = &self.0.otel {
            otel.shutdown().await;
        }
        #[cfg(feature = "redis")]
        self.0.redis.iter().for_each(crate::redis::Redis::close);
        outcome
    }

    /// Shuts down, and keeps the data file closed until [`Sophia::resume`]: what uses the memory meanwhile waits. For a process
    /// that is about to fork: a child that inherits an open SQLite file takes the locks of its parent for its own, and what it
    /// or the parent writes is lost.
    ///
    /// # Errors
    /// What closing the data file says.
    pub async fn suspend(&self) -> Result<()> {
        self.0.health.pause();
        self.stop().await?;
        self.0.memory.suspend().await
    }

    /// Ends what [`Sophia::suspend`] began. [`Sophia::start`] starts background work again.
    pub fn resume(&self) {
        self.0.memory.resume();
    }

    /// Returns the configuration that the engine runs with.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Returns the metrics of the engine.
    pub fn telemetry(&self) -> &Telemetry {
        &self.0.telemetry
    }

    /// Returns what sends spans and measurements to a collector, if there is one.
    #[cfg(feature = "cli")]
    pub(crate) fn otel(&self) -> Option<&Otel> {
        self.0.otel.as_ref()
    }

    /// Returns the memory.
    pub fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// Returns the chat.
    pub fn chat(&self) -> &Chat {
        &self.0.chat
    }

    /// Returns the registry of MCP servers.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Returns the health.
    pub fn health(&self) -> &Health {
        &self.0.health
    }
}
