//! Configuration of this capability.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Result;

/// Configuration of this capability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RegistryConfig {}

impl Default for RegistryConfig {
    fn default() -> Self {
        RegistryConfig {}
    }
}

impl RegistryConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        Ok(())
    }
}
