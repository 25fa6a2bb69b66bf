//! Configuration of this capability.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Result;

/// Configuration of this capability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HealthConfig {}

impl Default for HealthConfig {
    fn default() -> Self {
        HealthConfig {}
    }
}

impl HealthConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        Ok(())
    }
}
