//! Stub.
mod config;
mod operations;
use crate::{Result, context::Context};
pub use config::MemoryConfig;
pub(crate) use operations::OPERATIONS;

/// Stub.
#[derive(Debug, Clone)]
pub struct Memory {}

impl Memory {
    pub(crate) fn new(_config: &MemoryConfig, _context: &Context) -> Result<Memory> {
        Ok(Memory {})
    }

    pub(crate) async fn start(&self) -> Result<()> {
        Ok(())
    }

    pub(crate) async fn shutdown(&self) -> Result<()> {
        Ok(())
    }
}
