//! Stub.
mod config;
mod operations;
use crate::{Result, context::Context};
pub use config::ChatConfig;
pub(crate) use operations::OPERATIONS;

/// Stub.
#[derive(Debug, Clone)]
pub struct Chat {}

impl Chat {
    pub(crate) fn new(_config: &ChatConfig, _context: &Context) -> Result<Chat> {
        Ok(Chat {})
    }

    pub(crate) async fn start(&self) -> Result<()> {
        Ok(())
    }

    pub(crate) async fn shutdown(&self) -> Result<()> {
        Ok(())
    }
}
