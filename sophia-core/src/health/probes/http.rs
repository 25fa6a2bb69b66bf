//! A URL, and what it says about itself.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use futures::StreamExt;
use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{ACCEPT, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};

use super::address::is_allowed;
use crate::{
    Error, ErrorKind, Result, Secret,
    health::{
        Probe, ProbeOutcome, Status,
        tls::{Trust, client_config},
    },
    resilience::Deadline,
};

/// Most of an answer's body that is read: a health document is small.
const MAX_BODY_BYTES: usize = 64 * 1024;
const OPERATION: &str = "health.register";

/// Gets a URL.
///
/// The status code decides, and then the body where it is `application/health+json` or any JSON object with a `status`: a
/// service that answers 200 with `{"status": "degraded"}` is degraded. Redirects are not followed, since they lead to
/// addresses that nobody chose; link-local and metadata addresses are refused.
pub struct HttpProbe {
    url: Url,
    headers: HeaderMap,
    expect: Vec<u16>,
    clients: Arc<HttpClients>,
}

/// The clients that probes share, built by their first use: one for HTTPS, which reads the platform's certificates, and one
/// for HTTP, which need not.
#[derive(Debug, Default)]
pub(crate) struct HttpClients {
    plain: OnceLock<Client>,
    tls: OnceLock<Client>,
}

impl HttpClients {
    fn of(&self, scheme: &str) -> Result<&Client> {
        let (client, trust) = match scheme {
            "https" => (&self.tls, Trust::Platform),
            _ => (&self.plain, Trust::Nobody),
        };
        if let Some(client) = client.get() {
            return Ok(client);
        }
        let built = build_client(trust)?;
        Ok(client.get_or_init(|| built))
    }
}

impl HttpProbe {
    /// Creates a probe of an `http://` or `https://` URL.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where it is not such a URL.
    pub fn new(url: impl AsRef<str>) -> Result<HttpProbe> {
        let wrong = |message: String| Error::invalid(OPERATION, "probe.url", message);
        let url = Url::parse(url.as_ref()).map_err(|error| wrong(format!("is not a URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(wrong("must begin with http:// or https:// and name a host".to_owned()));
        }
        if let Some(host) = url.host_str()
            && let Ok(address) = host.trim_matches(['[', ']']).parse()
            && !is_allowed(address)
        {
            return Err(wrong("is a link-local or metadata address, which a probe may not ask".to_owned()));
        }
        Ok(HttpProbe { url, headers: HeaderMap::new(), expect: Vec::new(), clients: Arc::default() })
    }

    /// Sets the status codes that count as healthy, whatever the body says.
    #[must_use]
    pub fn expect(mut self, codes: impl IntoIterator<Item = u16>) -> HttpProbe {
        self.expect = codes.into_iter().collect();
        self
    }

    /// Adds a header.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where it cannot be one.
    pub fn header(mut self, name: &str, value: Secret) -> Result<HttpProbe> {
        let wrong = || Error::invalid(OPERATION, "probe.headers", "holds what cannot be a header");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value.expose()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(self)
    }

    /// Uses clients that others use as well.
    pub(crate) fn sharing(mut self, clients: &Arc<HttpClients>) -> HttpProbe {
        self.clients = Arc::clone(clients);
        self
    }
}

impl fmt::Debug for HttpProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither credentials nor the query, which may hold one.
        f.debug_struct("HttpProbe")
            .field("host", &self.url.host_str())
            .field("path", &self.url.path())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Probe for HttpProbe {
    fn kind(&self) -> &'static str {
        "http"
    }

    async fn probe(&self, deadline: Deadline) -> Result<ProbeOutcome> {
        deadline
            .run("health.check", async {
                let request = self.clients.of(self.url.scheme())?.get(self.url.clone()).headers(self.headers.clone());
                let response = request
                    .header(ACCEPT, "application/health+json, application/json, */*")
                    .send()
                    .await
                    .map_err(unreachable)?;
                let code = response.status().as_u16();
                if !self.expect.is_empty() {
                    let status = if self.expect.contains(&code) { Status::Healthy } else { Status::Unhealthy };
                    return Ok(ProbeOutcome::new(status).detail(format!("HTTP {code}")));
                }
                let status = Status::from_http(code).unwrap_or(Status::Unhealthy);
                let by_code = ProbeOutcome::new(status).detail(format!("HTTP {code}"));
                let mut body = Vec::new();
                let mut chunks = response.bytes_stream();
                while let Some(chunk) = chunks.next().await {
                    body.extend_from_slice(&chunk.map_err(unreachable)?);
                    if body.len() > MAX_BODY_BYTES {
                        return Ok(by_code);
                    }
                }
                let said = serde_json::from_slice(&body).ok().filter(serde_json::Value::is_object);
                Ok(match said.and_then(|document| ProbeOutcome::read(&document).ok()) {
                    // The worse of the two: neither a proxy's 502 nor a service's "fail" is talked away by the other.
                    Some(said) if said.status >= status && said.status != Status::Unknown => said,
                    _ => by_code,
                })
            })
            .await
    }
}

fn unreachable(error: reqwest::Error) -> Error {
    // The URL may hold a credential.
    let error = error.without_url();
    let kind = if error.is_timeout() { ErrorKind::Timeout } else { ErrorKind::Unavailable };
    Error::new(kind, "health.check", "no answer").with_source(error)
}

fn build_client(trust: Trust) -> Result<Client> {
    let wrong = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Internal, "health.check", "the HTTP client cannot be built").with_source(error)
    };
    Client::builder()
        .tls_backend_preconfigured(client_config(trust).map_err(|error| wrong(error.into()))?)
        .redirect(Policy::none())
        // A proxy would answer for the service.
        .no_proxy()
        .dns_resolver(GuardedResolver)
        // A probe that reuses a connection does not see that no new one is accepted.
        .pool_max_idle_per_host(0)
        .user_agent(concat!("sophia/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| wrong(error.into()))
}

/// Resolves names by the system, without the addresses that a probe may not ask.
#[derive(Debug, Clone, Copy)]
struct GuardedResolver;

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| is_allowed(address.ip())).collect();
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_probe_cannot_or_must_not_ask_is_refused() {
        for url in ["", "redis", "ftp://host/x", "http://", "http://169.254.169.254/latest", "http://[fe80::1]/"] {
            let error = HttpProbe::new(url).unwrap_err();
            assert_eq!((error.code(), error.get("field")), ("INVALID_INPUT", Some("probe.url")), "{url}");
        }
    }

    #[test]
    fn debug_shows_no_credentials() {
        let probe = HttpProbe::new("http://user:hunter2@host/health?key=hunter2").unwrap();
        let probe = probe.header("authorization", Secret::new("hunter2")).unwrap();
        assert!(!format!("{probe:?}").contains("hunter2"));
    }
}
