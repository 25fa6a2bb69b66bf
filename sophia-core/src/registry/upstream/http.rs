//! The HTTP client: made at its first use, closed by a shutdown.

use std::time::Duration;

use parking_lot::Mutex;
use reqwest::{Client, StatusCode, redirect};

use super::address::Policy;
use crate::{Error, ErrorKind, Result, registry::config::RegistryConfig};

/// How long a connection may take to come up; a call's own deadline is usually longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest text of a failed answer that is put into an error, in bytes.
const MAX_ERROR_TEXT: usize = 300;

/// A client for every HTTP server.
#[derive(Debug)]
pub(crate) struct Http {
    policy: Policy,
    system_proxy: bool,
    client: Mutex<Option<Client>>,
}

impl Http {
    pub(crate) fn new(config: &RegistryConfig) -> Http {
        let policy = Policy { allow_private: config.allow_private };
        Http { policy, system_proxy: config.system_proxy, client: Mutex::new(None) }
    }

    pub(crate) fn policy(&self) -> Policy {
        self.policy
    }

    /// Returns the client.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] where the system has no trust store to begin with.
    pub(crate) fn client(&self, operation: &'static str) -> Result<Client> {
        let mut client = self.client.lock();
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        // Another user of rustls in this process may have chosen a provider before; theirs is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("sophia/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirect could lead where the policy would not have let the URL lead, with our credentials.
            .redirect(redirect::Policy::none())
            .dns_resolver(self.policy);
        if !self.system_proxy {
            builder = builder.no_proxy();
        }
        let made = builder.build().map_err(|error| {
            Error::new(ErrorKind::Internal, operation, "no HTTP client can be made").with_source(error)
        })?;
        *client = Some(made.clone());
        Ok(made)
    }

    /// Drops the client and its idle connections.
    pub(crate) fn close(&self) {
        *self.client.lock() = None;
    }
}

/// Returns the kind of failure that a status means.
pub(crate) fn kind_of(status: StatusCode) -> ErrorKind {
    match status.as_u16() {
        401 | 403 | 407 => ErrorKind::Unauthorized,
        404 | 410 => ErrorKind::NotFound,
        408 | 504 => ErrorKind::Timeout,
        409 | 412 => ErrorKind::Conflict,
        429 => ErrorKind::RateLimited,
        501 => ErrorKind::Unsupported,
        status if status >= 500 => ErrorKind::Unavailable,
        _ => ErrorKind::InvalidInput,
    }
}

/// Returns the innermost cause, which is what a person wants to know of a failed request.
pub(crate) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Shortens what a server said, to stand in an error.
pub(crate) fn excerpt(text: &str) -> String {
    let text = text.trim();
    let mut end = text.len().min(MAX_ERROR_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let more = if end < text.len() { "…" } else { "" };
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>() + more
}
