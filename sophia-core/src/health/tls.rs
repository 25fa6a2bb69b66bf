//! TLS with the ring provider, named here so that no process-wide default is needed.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, client::danger::ServerCertVerifier, crypto::ring};
use rustls_platform_verifier::Verifier;

/// Whose certificates are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// What the platform believes.
    Platform,
    /// Nobody's: for clients that never speak TLS.
    Nobody,
}

/// Returns a TLS configuration.
pub(super) fn client_config(trust: Trust) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let config = match trust {
        Trust::Platform => {
            let verifier: Arc<dyn ServerCertVerifier> = Arc::new(Verifier::new(provider)?);
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
        Trust::Nobody => builder.with_root_certificates(RootCertStore::empty()),
    };
    Ok(config.with_no_client_auth())
}
