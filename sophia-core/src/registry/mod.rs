//! Stub.
mod config;
mod operations;
use crate::{Result, context::Context};
pub use config::RegistryConfig;
pub(crate) use operations::OPERATIONS;

/// Stub.
#[derive(Debug, Clone)]
pub struct Registry {}

impl Registry {
    pub(crate) fn new(_config: &RegistryConfig, _context: &Context) -> Result<Registry> {
        Ok(Registry {})
    }

    pub(crate) async fn start(&self) -> Result<()> {
        Ok(())
    }

    pub(crate) async fn shutdown(&self) -> Result<()> {
        Ok(())
    }
}
