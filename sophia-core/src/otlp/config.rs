//! What can be set, and what the environment says.

use std::{collections::BTreeMap, time::Duration};

use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Secret};

/// Longest accepted timeout.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// How often metrics are sent unless the environment says otherwise.
const METRICS_EVERY: Duration = Duration::from_secs(60);
/// How often spans are sent unless the environment says otherwise.
const SPANS_EVERY: Duration = Duration::from_secs(5);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_SERVICE: &str = "sophia";

/// What is told to others about the engine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TelemetryConfig {
    /// Spans and metrics for OpenTelemetry.
    pub otlp: OtlpConfig,
}

/// Spans and metrics for OpenTelemetry, sent by OTLP over HTTP (`http/protobuf`).
///
/// What is not set here is taken from the variables `OTEL_EXPORTER_OTLP_ENDPOINT`, `…_TRACES_ENDPOINT`, `…_METRICS_ENDPOINT`,
/// `…_HEADERS` and `…_TIMEOUT`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_BSP_SCHEDULE_DELAY`,
/// `OTEL_METRIC_EXPORT_INTERVAL`, `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER` and `OTEL_SDK_DISABLED`. With no endpoint
/// anywhere, nothing is sent.
///
/// ```
/// use sophia_core::{Config, Sophia};
///
/// let config = Config::from_toml("[telemetry.otlp]\nendpoint = 'http://127.0.0.1:4318'")?;
/// assert!(!config.telemetry.otlp.content);
/// let wrong = Config::from_toml("[telemetry.otlp]\nendpoint = 'localhost'")?;
/// assert_eq!(Sophia::new(wrong).unwrap_err().get("field"), Some("telemetry.otlp.endpoint"));
/// # Ok::<(), sophia_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct OtlpConfig {
    /// Whether anything is sent, wherever the endpoint is named. Default true.
    pub enabled: bool,
    /// Address of the collector, to which `/v1/traces` and `/v1/metrics` are added. Default that of the environment.
    pub endpoint: Option<String>,
    /// Headers of every request, such as a key. Default those of the environment.
    pub headers: BTreeMap<String, Secret>,
    /// Time in which the collector must answer. Default that of the environment, or 10 s.
    #[serde(with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub timeout: Option<Duration>,
    /// Name of the service. Default that of the environment, or `"sophia"`.
    pub service_name: Option<String>,
    /// Whether spans hold what was asked and answered. Default false.
    pub content: bool,
}

impl Default for OtlpConfig {
    fn default() -> Self {
        OtlpConfig {
            enabled: true,
            endpoint: None,
            headers: BTreeMap::new(),
            timeout: None,
            service_name: None,
            content: false,
        }
    }
}

/// What counts in the end.
#[derive(Debug)]
pub(super) struct Settings {
    pub traces: Option<Url>,
    pub metrics: Option<Url>,
    pub headers: Vec<(String, Secret)>,
    pub timeout: Duration,
    pub resource: Vec<(String, String)>,
    pub spans_every: Duration,
    pub metrics_every: Duration,
    pub content: bool,
}

impl OtlpConfig {
    /// Brings configuration and environment together. `None` where nothing is to be sent.
    ///
    /// # Errors
    /// InvalidConfig, naming the field. What the environment says wrong is passed over, with a warning: it may be meant for
    /// others.
    pub(super) fn settle(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Settings>> {
        let variable =
            |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let own = self.endpoint.as_deref().map(|endpoint| parse(endpoint, "telemetry.otlp.endpoint")).transpose()?;
        if self.timeout.is_some_and(|timeout| timeout.is_zero() || timeout > MAX_TIMEOUT) {
            return Err(Error::invalid_config("telemetry.otlp.timeout", "must be above 0 and at most 60 s"));
        }
        for (name, value) in &self.headers {
            let is_header = reqwest::header::HeaderName::try_from(name.as_str()).is_ok()
                && reqwest::header::HeaderValue::try_from(value.expose()).is_ok();
            if !is_header {
                return Err(Error::invalid_config(&format!("telemetry.otlp.headers.{name}"), "is not a header"));
            }
        }
        let is = |name: &str, value: &str| variable(name).is_some_and(|own| own.eq_ignore_ascii_case(value));
        if !self.enabled || is("OTEL_SDK_DISABLED", "true") {
            return Ok(None);
        }
        let spoken = variable("OTEL_EXPORTER_OTLP_PROTOCOL").is_none_or(|protocol| protocol.starts_with("http/"));
        let base = own.clone().or_else(|| lenient(variable("OTEL_EXPORTER_OTLP_ENDPOINT")?));
        let target = |signal: &str, path: &str| {
            if is(&format!("OTEL_{signal}_EXPORTER"), "none") {
                return None;
            }
            let named = || lenient(variable(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))?);
            let environment = || named().or_else(|| joined(base.as_ref()?, path)).filter(|_| spoken);
            own.as_ref().map_or_else(environment, |own| joined(own, path))
        };
        let (traces, metrics) = (target("TRACES", "v1/traces"), target("METRICS", "v1/metrics"));
        if traces.is_none() && metrics.is_none() {
            if base.is_some() && !spoken {
                tracing::warn!(
                    "OTEL_EXPORTER_OTLP_PROTOCOL asks for a protocol that is not spoken: only http/protobuf is"
                );
            }
            return Ok(None);
        }
        let millis =
            |name: &str| variable(name)?.parse().ok().map(Duration::from_millis).filter(|wait| !wait.is_zero());
        let headers = match self.headers.is_empty() {
            true => pairs(&variable("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default())
                .map(|(name, value)| (name, Secret::new(value)))
                .collect(),
            false => self.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        };
        Ok(Some(Settings {
            traces,
            metrics,
            headers,
            timeout: self
                .timeout
                .or_else(|| millis("OTEL_EXPORTER_OTLP_TIMEOUT"))
                .unwrap_or(DEFAULT_TIMEOUT)
                .min(MAX_TIMEOUT),
            resource: self.resource(variable("OTEL_SERVICE_NAME"), variable("OTEL_RESOURCE_ATTRIBUTES")),
            spans_every: millis("OTEL_BSP_SCHEDULE_DELAY").unwrap_or(SPANS_EVERY),
            metrics_every: millis("OTEL_METRIC_EXPORT_INTERVAL").unwrap_or(METRICS_EVERY),
            content: self.content,
        }))
    }

    /// Returns what is said about who sends.
    fn resource(&self, service: Option<String>, attributes: Option<String>) -> Vec<(String, String)> {
        let mut resource: Vec<_> = pairs(&attributes.unwrap_or_default()).collect();
        let named = resource.iter().position(|(name, _)| name == "service.name").map(|place| resource.remove(place).1);
        let service = self.service_name.clone().or(service).or(named).unwrap_or_else(|| DEFAULT_SERVICE.to_owned());
        let own = [
            ("service.name", service),
            ("service.instance.id", uuid::Uuid::now_v7().to_string()),
            ("telemetry.sdk.name", "sophia".to_owned()),
            ("telemetry.sdk.language", "rust".to_owned()),
            ("telemetry.sdk.version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        resource.retain(|(name, _)| own.iter().all(|(own, _)| own != name));
        resource.extend(own.map(|(name, value)| (name.to_owned(), value)));
        resource
    }
}

fn parse(endpoint: &str, path: &str) -> Result<Url> {
    let url = Url::parse(endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| Error::invalid_config(path, "must be an address such as http://127.0.0.1:4318"))
}

fn lenient(endpoint: String) -> Option<Url> {
    parse(&endpoint, "").inspect_err(|_| tracing::warn!("an endpoint of OTLP in the environment is no URL")).ok()
}

fn joined(base: &Url, path: &str) -> Option<Url> {
    let mut base = base.clone();
    if !base.path().ends_with('/') {
        base.set_path(&format!("{}/", base.path()));
    }
    base.join(path).ok()
}

/// Reads `name=value,name=value` with percent-encoded values, as the environment has them.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    text.split(',').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let name = name.trim();
        (!name.is_empty()).then(|| (name.to_owned(), decoded(value.trim())))
    })
}

fn decoded(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.first_chunk::<2>().filter(|_| *first == b'%');
        let byte = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(config: &OtlpConfig, variables: &[(&str, &str)]) -> Option<Settings> {
        let find = |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        config.settle(find).unwrap()
    }

    fn urls(settings: &Settings) -> [Option<&str>; 2] {
        [settings.traces.as_ref().map(Url::as_str), settings.metrics.as_ref().map(Url::as_str)]
    }

    fn at(endpoint: &str) -> OtlpConfig {
        OtlpConfig { endpoint: Some(endpoint.to_owned()), ..OtlpConfig::default() }
    }

    #[test]
    fn nothing_is_sent_without_an_endpoint_or_where_it_is_switched_off() {
        let environment = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        let off = OtlpConfig { enabled: false, ..at("http://c:4318") };
        assert!(settle(&OtlpConfig::default(), &[]).is_none() && settle(&off, &[environment]).is_none());
        assert!(settle(&at("http://c:4318"), &[("OTEL_SDK_DISABLED", "TRUE")]).is_none());
        assert!(settle(&OtlpConfig::default(), &[environment, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).is_none());
        assert!(settle(&OtlpConfig::default(), &[("OTEL_EXPORTER_OTLP_ENDPOINT", "c")]).is_none());
    }

    #[test]
    fn the_environment_is_read_as_the_specification_says() {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c/otlp"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://m/exactly"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x=1=2"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ("OTEL_SERVICE_NAME", "shop"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=test"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "250"),
        ];
        let settings = settle(&OtlpConfig::default(), &variables).unwrap();
        assert_eq!(urls(&settings), [Some("https://c/otlp/v1/traces"), Some("http://m/exactly")]);
        let headers: Vec<_> = settings.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(headers, [("api-key", "a b"), ("x", "1=2")]);
        assert_eq!(settings.timeout, Duration::from_millis(1500));
        assert_eq!((settings.spans_every, settings.metrics_every), (SPANS_EVERY, Duration::from_millis(250)));
        let find = |name: &str| settings.resource.iter().filter(|(own, _)| own == name).collect::<Vec<_>>();
        assert_eq!(find("service.name"), [&("service.name".to_owned(), "shop".to_owned())]);
        assert_eq!(find("deployment.environment.name").len(), 1);
        let only = settle(&OtlpConfig::default(), &[variables[0], ("OTEL_METRICS_EXPORTER", "none")]).unwrap();
        assert_eq!(urls(&only), [Some("https://c/otlp/v1/traces"), None]);
    }

    #[test]
    fn the_configuration_has_the_last_word() {
        let own =
            OtlpConfig { service_name: Some("own".into()), timeout: Some(DEFAULT_TIMEOUT / 2), ..at("http://own:1") };
        let variables = [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://other/"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_SERVICE_NAME", "other"),
        ];
        let settings = settle(&own, &variables).unwrap();
        assert_eq!(urls(&settings), [Some("http://own:1/v1/traces"), Some("http://own:1/v1/metrics")]);
        assert_eq!(settings.timeout, DEFAULT_TIMEOUT / 2);
        assert!(settings.resource.contains(&("service.name".into(), "own".into())));
        let field = |config: OtlpConfig| config.settle(|_| None).unwrap_err().get("field").unwrap().to_owned();
        assert_eq!(field(at("ftp://c")), "telemetry.otlp.endpoint");
        assert_eq!(field(OtlpConfig { timeout: Some(Duration::ZERO), ..at("http://c") }), "telemetry.otlp.timeout");
        let headers = BTreeMap::from([("a b".to_owned(), Secret::new("x"))]);
        assert_eq!(field(OtlpConfig { headers, ..at("http://c") }), "telemetry.otlp.headers.a b");
    }
}
