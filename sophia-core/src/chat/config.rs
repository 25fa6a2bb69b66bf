//! Configuration of this capability.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Result;

/// Configuration of this capability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ChatConfig {
    /// Calls to providers at once. Default 50.
    pub max_concurrent: usize,
}

impl Default for ChatConfig {
    fn default() -> Self {
        ChatConfig { max_concurrent: 50 }
    }
}

impl ChatConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        Ok(())
    }
}
