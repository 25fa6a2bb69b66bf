//! The one way in which this crate speaks HTTP to others: rustls on ring, no redirects, and no address that hands out
//! credentials.

mod address;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use reqwest::{Client, Url, redirect::Policy};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

pub(crate) use address::AddressPolicy;

use crate::{Error, ErrorKind, Result};

/// Longest wait for a connection: a host that is there answers within a second, even across the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept: below the 60 s after which most servers and balancers close it.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(45);

/// A pooled client that is made at its first use. It closes its connections when it is told to, and opens new ones at the
/// next use.
///
/// Redirects are not followed: a credential goes where it was sent, and nowhere else.
#[derive(Debug)]
pub(crate) struct HttpClient {
    options: HttpOptions,
    /// Speaks no TLS, so that plain local servers need no certificates of the system.
    plain: Mutex<Option<Client>>,
    tls: Mutex<Option<Client>>,
}

/// How an [`HttpClient`] reaches others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HttpOptions {
    pub addresses: AddressPolicy,
    pub proxy: Proxy,
    pub connections: Connections,
}

/// Who stands between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// Nobody.
    None,
    /// The proxy of the environment, if it names one.
    System,
}

/// Whether connections are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connections {
    Pooled,
    /// Each request opens its own: it sees whether new ones are accepted.
    Fresh,
}

impl HttpClient {
    pub(crate) const fn new(options: HttpOptions) -> HttpClient {
        HttpClient { options, plain: Mutex::new(None), tls: Mutex::new(None) }
    }

    pub(crate) fn addresses(&self) -> AddressPolicy {
        self.options.addresses
    }

    /// Returns the client for `url`.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] where the system has no certificates.
    pub(crate) fn get(&self, operation: &'static str, url: &Url) -> Result<Client> {
        let is_tls = url.scheme() == "https";
        let mut client = if is_tls { self.tls.lock() } else { self.plain.lock() };
        match &*client {
            Some(client) => Ok(client.clone()),
            None => Ok(client.insert(build(operation, self.options, is_tls)?).clone()),
        }
    }

    /// Drops the idle connections.
    pub(crate) fn close(&self) {
        self.plain.lock().take();
        self.tls.lock().take();
    }
}

fn build(operation: &'static str, options: HttpOptions, is_tls: bool) -> Result<Client> {
    let refused = |error: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Unavailable, operation, format!("the HTTP client cannot be set up: {error}"))
    };
    // The provider is named, so that no process-wide default is needed.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(&error))?;
    let mut tls = if is_tls {
        versions.with_platform_verifier().map_err(|error| refused(&error))?.with_no_client_auth()
    } else {
        versions.with_root_certificates(RootCertStore::empty()).with_no_client_auth()
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(Policy::none())
        .dns_resolver(options.addresses)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .tcp_nodelay(true)
        .user_agent(concat!("sophia/", env!("CARGO_PKG_VERSION")));
    if options.proxy == Proxy::None {
        builder = builder.no_proxy();
    }
    if options.connections == Connections::Fresh {
        builder = builder.pool_max_idle_per_host(0);
    }
    builder.build().map_err(|error| refused(&error).with_source(error))
}

/// Returns whether a URL leads to this machine, which no proxy need be asked for.
pub(crate) fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_client_needs_neither_certificates_nor_a_default_provider() {
        let client = HttpClient::new(HttpOptions {
            addresses: AddressPolicy::AllowPrivate,
            proxy: Proxy::None,
            connections: Connections::Pooled,
        });
        assert!(client.get("test", &Url::parse("http://127.0.0.1:1/v1").unwrap()).is_ok());
    }

    #[test]
    fn this_machine_is_not_asked_through_a_proxy() {
        let local = |url: &str| is_local(&Url::parse(url).unwrap());
        assert!(local("http://localhost:1") && local("http://127.0.0.1") && local("http://[::1]:80/x"));
        assert!(!local("https://example.com") && !local("http://10.0.0.1"));
    }
}
