//! The one way in which this crate builds an HTTP client: rustls on ring, pooled, without redirects.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, Url, redirect::Policy};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::{Error, ErrorKind, Result};

/// Longest wait for a connection: a host that is there answers within a second, even across the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept: below the 60 s after which most servers and balancers close it.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(45);

/// Builds a client for the server at `base_url`.
///
/// Certificates of the system are read for `https` only, so that a plain local server needs none. A proxy of the
/// environment is used unless the server is on this machine. Redirects are not followed: a credential goes where it
/// was sent, and nowhere else.
///
/// # Errors
/// [`ErrorKind::Unavailable`] where the system has no certificates.
pub(crate) fn client(operation: &'static str, base_url: &Url) -> Result<Client> {
    let refused = |error: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Unavailable, operation, format!("the HTTP client cannot be set up: {error}"))
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(&error))?;
    let mut tls = match base_url.scheme() {
        "https" => versions.with_platform_verifier().map_err(|error| refused(&error))?.with_no_client_auth(),
        _ => versions.with_root_certificates(RootCertStore::empty()).with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .tcp_nodelay(true)
        .user_agent(concat!("sophia/", env!("CARGO_PKG_VERSION")));
    if is_local(base_url) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| refused(&error).with_source(error))
}

fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_client_needs_neither_certificates_nor_a_default_provider() {
        assert!(client("test", &Url::parse("http://127.0.0.1:1/v1").unwrap()).is_ok());
    }

    #[test]
    fn this_machine_is_not_asked_through_a_proxy() {
        let local = |url: &str| is_local(&Url::parse(url).unwrap());
        assert!(local("http://localhost:1") && local("http://127.0.0.1") && local("http://[::1]:80/x"));
        assert!(!local("https://example.com") && !local("http://10.0.0.1"));
    }
}
