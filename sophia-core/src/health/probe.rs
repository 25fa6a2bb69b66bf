//! Asking a service how it is.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ProbeOutcome,
    names::check_name,
    probes::{self, HttpProbe, TcpProbe},
};
use crate::{Error, Result, Secret, http_client::HttpClient, resilience::Deadline};

/// Asks one service how it is.
///
/// An error counts as a service that does not work, but for [`Unsupported`](crate::ErrorKind::Unsupported): nobody could look, and
/// nothing is known. A probe need not keep time: it is dropped at its deadline.
#[async_trait]
pub trait Probe: fmt::Debug + Send + Sync + 'static {
    /// Returns what kind of probe it is, such as `"http"`.
    fn kind(&self) -> &'static str;

    /// Asks once.
    ///
    /// # Errors
    /// Whatever kept the service from answering.
    ///
    /// # Cancel safety
    /// May be dropped at any await.
    async fn probe(&self, deadline: Deadline) -> Result<ProbeOutcome>;
}

/// A probe that can be written down.
///
/// ```
/// use sophia_core::health::ProbeSpec;
///
/// let spec: ProbeSpec = serde_json::from_str(r#"{"kind": "http", "url": "http://127.0.0.1:8080/health"}"#)?;
/// assert!(spec.build().is_ok());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum ProbeSpec {
    /// Gets a URL; see [`HttpProbe`].
    Http {
        /// `http://` or `https://`.
        url: String,
        /// Headers to send.
        #[serde(default)]
        headers: BTreeMap<String, Secret>,
        /// Status codes that count as healthy; without it every 2xx and 3xx, and what the body says.
        #[serde(default)]
        expect: Vec<u16>,
    },
    /// Opens a TCP connection; see [`TcpProbe`].
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
}

impl ProbeSpec {
    /// Makes the probe. Opens nothing.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput), naming the field.
    pub fn build(&self) -> Result<Arc<dyn Probe>> {
        self.build_sharing(&probes::client())
    }

    pub(super) fn build_sharing(&self, client: &Arc<HttpClient>) -> Result<Arc<dyn Probe>> {
        Ok(match self {
            ProbeSpec::Http { url, headers, expect } => {
                let mut probe = HttpProbe::new(url)?.expect(expect.iter().copied()).sharing(client);
                for (name, value) in headers {
                    probe = probe.header(name, value.clone())?;
                }
                Arc::new(probe)
            }
            ProbeSpec::Tcp { host, port } => Arc::new(TcpProbe::new(host, *port)?),
        })
    }
}

/// A service to look after.
///
/// ```
/// use std::time::Duration;
/// use sophia_core::health::Registration;
///
/// let redis = Registration::new("redis").interval(Duration::from_secs(10)).critical().group("stores");
/// assert_eq!(redis.group.as_deref(), Some("stores"));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Registration {
    /// Its name, unique.
    pub service: String,
    /// How to look at it, where that is written down and not a value that is handed over.
    #[serde(default)]
    pub probe: Option<ProbeSpec>,
    /// Time between two looks, with jitter; `health.interval` (60 s) by default.
    #[serde(default, with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub interval: Option<Duration>,
    /// Time for one look; `health.timeout` (5 s) by default.
    #[serde(default, with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub timeout: Option<Duration>,
    /// Failures in a row that make it unhealthy; `health.fail_after` (3) by default.
    #[serde(default)]
    pub fail_after: Option<u32>,
    /// Successes in a row that make it healthy again; `health.ok_after` (2) by default.
    #[serde(default)]
    pub ok_after: Option<u32>,
    /// Its part in the overall score, relative to the others'. 1 by default.
    #[serde(default = "one")]
    pub weight: f64,
    /// Whether nothing works without it: then the overall status is critical while it is unhealthy.
    #[serde(default)]
    pub critical: bool,
    /// Those with the same group share one alert.
    #[serde(default)]
    pub group: Option<String>,
    /// The services that it calls.
    #[serde(default)]
    pub depends_on: Vec<String>,
}

const fn one() -> f64 {
    1.0
}

/// Longest interval and timeout: a day, after which "looked after" is no longer true.
const MAX_PERIOD: Duration = Duration::from_secs(86_400);
/// Shortest interval: a probe is not a load test.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

impl Registration {
    /// Creates a registration with the defaults of the configuration.
    pub fn new(service: impl Into<String>) -> Registration {
        Registration {
            service: service.into(),
            probe: None,
            interval: None,
            timeout: None,
            fail_after: None,
            ok_after: None,
            weight: one(),
            critical: false,
            group: None,
            depends_on: Vec::new(),
        }
    }

    /// Sets how to look at it.
    #[must_use]
    pub fn probe(mut self, probe: ProbeSpec) -> Registration {
        self.probe = Some(probe);
        self
    }

    /// Sets the time between two looks.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Registration {
        self.interval = Some(interval);
        self
    }

    /// Sets the time for one look.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Registration {
        self.timeout = Some(timeout);
        self
    }

    /// Sets how many failures in a row make it unhealthy.
    #[must_use]
    pub fn fail_after(mut self, failures: u32) -> Registration {
        self.fail_after = Some(failures);
        self
    }

    /// Sets how many successes in a row make it healthy again.
    #[must_use]
    pub fn ok_after(mut self, successes: u32) -> Registration {
        self.ok_after = Some(successes);
        self
    }

    /// Sets its part in the overall score.
    #[must_use]
    pub fn weight(mut self, weight: f64) -> Registration {
        self.weight = weight;
        self
    }

    /// Says that nothing works without it.
    #[must_use]
    pub fn critical(mut self) -> Registration {
        self.critical = true;
        self
    }

    /// Sets the group with which it shares one alert.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Registration {
        self.group = Some(group.into());
        self
    }

    /// Adds a service that it calls.
    #[must_use]
    pub fn depends_on(mut self, service: impl Into<String>) -> Registration {
        self.depends_on.push(service.into());
        self
    }

    pub(super) fn validate(&self) -> Result<()> {
        const OPERATION: &str = "health.register";
        let wrong = |field, message: &str| Err(Error::invalid(OPERATION, field, message));
        check_name(OPERATION, "service", &self.service)?;
        if let Some(group) = &self.group {
            check_name(OPERATION, "group", group)?;
        }
        for service in &self.depends_on {
            check_name(OPERATION, "depends_on", service)?;
            if *service == self.service {
                return wrong("depends_on", "is the service itself");
            }
        }
        if self.interval.is_some_and(|interval| !(MIN_INTERVAL..=MAX_PERIOD).contains(&interval)) {
            return wrong("interval", "must be from 0.1 s to a day");
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero() || timeout > MAX_PERIOD) {
            return wrong("timeout", "must be more than zero and at most a day");
        }
        if self.fail_after == Some(0) {
            return wrong("fail_after", "must be at least 1");
        }
        if self.ok_after == Some(0) {
            return wrong("ok_after", "must be at least 1");
        }
        if !self.weight.is_finite() || self.weight < 0.0 {
            return wrong("weight", "must be finite and not negative");
        }
        Ok(())
    }
}

/// A probe that is a function.
pub struct CallbackProbe(Box<dyn Fn() -> BoxFuture<'static, Result<ProbeOutcome>> + Send + Sync>);

impl CallbackProbe {
    /// Wraps a function. Whatever it awaits is dropped at the deadline.
    pub fn new(
        callback: impl Fn() -> BoxFuture<'static, Result<ProbeOutcome>> + Send + Sync + 'static,
    ) -> CallbackProbe {
        CallbackProbe(Box::new(callback))
    }
}

impl fmt::Debug for CallbackProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackProbe").finish_non_exhaustive()
    }
}

#[async_trait]
impl Probe for CallbackProbe {
    fn kind(&self) -> &'static str {
        "callback"
    }

    async fn probe(&self, _: Deadline) -> Result<ProbeOutcome> {
        (self.0)().await
    }
}
