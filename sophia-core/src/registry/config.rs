//! What can be set about the registry.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, resilience::BreakerConfig};

/// What can be set about the registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RegistryConfig {
    /// Deadline of one call, its fallbacks included. Default 30 s.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub timeout: Duration,
    /// Deadline of one check. Default 5 s.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub check_timeout: Duration,
    /// How long a stdio server may take to start and to shake hands. Default 30 s: `npx` may have to download it.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub start_timeout: Duration,
    /// How long a stdio server may take to leave after its input was closed, before it is killed. Default 2 s.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub stop_timeout: Duration,
    /// When the breaker of a server opens.
    pub breaker: BreakerConfig,
    /// Whether servers may have loopback and private addresses. Default true: in-house servers are private by nature.
    /// Link-local and cloud metadata addresses are refused in any case.
    pub allow_private: bool,
    /// Whether HTTP goes through the proxy that the environment names. Default false: most servers are in-house, and a proxy
    /// would resolve addresses where the address policy cannot see them.
    pub system_proxy: bool,
    /// Largest arguments of a call, in bytes as JSON. Default 4 MiB.
    pub max_arguments_bytes: usize,
    /// Largest answer of a REST or stdio server, in bytes. Default 16 MiB.
    pub max_answer_bytes: usize,
    /// Most servers that the registry holds. Default 10,000.
    pub max_servers: usize,
    /// Seed of the random choices that [`select`](crate::registry::Registry::select) makes. Default 0.
    pub seed: u64,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        RegistryConfig {
            timeout: Duration::from_secs(30),
            check_timeout: Duration::from_secs(5),
            start_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(2),
            breaker: BreakerConfig::default(),
            allow_private: true,
            system_proxy: false,
            max_arguments_bytes: 4 << 20,
            max_answer_bytes: 16 << 20,
            max_servers: 10_000,
            seed: 0,
        }
    }
}

impl RegistryConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        let durations = [
            ("registry.timeout", self.timeout),
            ("registry.check_timeout", self.check_timeout),
            ("registry.start_timeout", self.start_timeout),
        ];
        for (path, duration) in durations {
            if duration.is_zero() {
                return Err(Error::invalid_config(path, "must be above 0 seconds"));
            }
        }
        let sizes = [
            ("registry.max_arguments_bytes", self.max_arguments_bytes),
            ("registry.max_answer_bytes", self.max_answer_bytes),
            ("registry.max_servers", self.max_servers),
        ];
        for (path, size) in sizes {
            if size == 0 {
                return Err(Error::invalid_config(path, "must be above 0"));
            }
        }
        self.breaker.validate("registry.breaker")
    }
}
