//! Stub.
mod config;
mod operations;
use crate::{Clock, Result, Signal, SignalSink, telemetry::Telemetry};
pub use config::HealthConfig;
pub(crate) use operations::OPERATIONS;
use std::sync::Arc;

/// Stub.
#[derive(Debug, Clone)]
pub struct Health {}

impl Health {
    pub(crate) fn new(_config: &HealthConfig, _clock: Arc<dyn Clock>, _telemetry: Telemetry) -> Result<Health> {
        Ok(Health {})
    }

    pub(crate) async fn start(&self) -> Result<()> {
        Ok(())
    }

    pub(crate) async fn shutdown(&self) -> Result<()> {
        Ok(())
    }
}

impl SignalSink for Health {
    fn signal(&self, _: Signal) {}
    fn depends(&self, _: &str, _: &str) {}
}
