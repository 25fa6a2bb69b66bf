//! What the engine gives to each of its capabilities.

use std::{path::PathBuf, sync::Arc};

use crate::{Clock, NoSignals, Signals, SystemClock, otlp::Otel, telemetry::Telemetry};

/// What the engine gives to each of its capabilities. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub clock: Arc<dyn Clock>,
    pub signals: Signals,
    pub telemetry: Telemetry,
    /// Who is told of spans and measurements, if anybody.
    pub otel: Option<Otel>,
    /// Where durable state lives; `None` keeps it in process.
    pub data_dir: Option<PathBuf>,
    /// Where it lives in place of the directory, if anywhere.
    #[cfg(feature = "postgres")]
    pub postgres: Option<crate::memory::PostgresStore>,
    /// What several processes share, if anything.
    #[cfg(feature = "redis")]
    pub redis: Option<crate::redis::Redis>,
}

impl Default for Context {
    fn default() -> Self {
        Context {
            clock: Arc::new(SystemClock::default()),
            signals: Arc::new(NoSignals),
            telemetry: Telemetry::default(),
            otel: None,
            data_dir: None,
            #[cfg(feature = "postgres")]
            postgres: None,
            #[cfg(feature = "redis")]
            redis: None,
        }
    }
}
