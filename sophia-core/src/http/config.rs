//! Configuration of the HTTP surface.

use std::{collections::HashSet, net::IpAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Scope, Secret};

/// Largest accepted `max_body_bytes`: a body is held in memory as a whole.
const MAX_BODY_BYTES: usize = 1024 * 1024 * 1024;

/// Configuration of the HTTP surface.
///
/// ```
/// use sophia_core::Config;
///
/// let text = "[server]\nport = 9000\n[[server.keys]]\nkey = 'a-long-random-key'\nscope = { tenant = 'acme' }";
/// let config = Config::from_toml(text)?;
/// assert_eq!((config.server.port, config.server.keys.len()), (9000, 1));
/// # Ok::<(), sophia_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Address to listen on. Default `"127.0.0.1"`; any other than loopback needs `keys`.
    pub host: String,
    /// Port to listen on; 0 takes a free one. Default 8000.
    pub port: u16,
    /// Who may call. Default none: then only callers on this machine are served, and are trusted.
    pub keys: Vec<ApiKey>,
    /// Further names under which the surface is reached, such as `"api.example.com"` or `"*.example.com"`. Default none:
    /// loopback and names without a dot, which public DNS cannot point here.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may call from another host, such as `"https://app.example.com"`; `"*"` is every one and
    /// needs `keys`. Default none.
    pub cors_origins: Vec<String>,
    /// Largest accepted body, in bytes. Default 2 MiB.
    pub max_body_bytes: usize,
    /// Requests and live connections at once; more are told to come back. Default 1,024.
    pub max_concurrent: usize,
}

/// A key, and what its bearer may do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ApiKey {
    /// The key, sent as `Authorization: Bearer …` or `x-api-key: …`.
    pub key: Secret,
    /// Whose it is, as it stands in logs and as who acknowledged an alert. Default `key-1` for the first, and so on.
    pub name: Option<String>,
    /// The bearer's scope. A request may set the parts that are unset here, and change none. Default: all unset.
    pub scope: Scope,
    /// Whether the bearer may do what concerns everyone: acknowledge alerts, approve actions, see costs. Default false.
    pub admin: bool,
}

impl ApiKey {
    /// Creates a key whose bearer acts in `scope`.
    pub fn new(key: impl Into<String>, scope: impl Into<Scope>) -> ApiKey {
        ApiKey { key: Secret::new(key), name: None, scope: scope.into(), admin: false }
    }

    /// Lets the bearer do what concerns everyone.
    #[must_use]
    pub fn admin(mut self) -> ApiKey {
        self.admin = true;
        self
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            host: "127.0.0.1".to_owned(),
            port: 8000,
            keys: Vec::new(),
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            max_body_bytes: 2 * 1024 * 1024,
            max_concurrent: 1024,
        }
    }
}

impl ServerConfig {
    /// Refuses to listen where others can reach what needs no key.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig), saying how to set a key.
    pub fn check_bind(&self) -> Result<()> {
        if self.keys.is_empty() && !is_loopback(&self.host) {
            let message = format!(
                "is empty, and `{}` can be reached from other machines: set a key (`[[server.keys]] key = \"…\"`, or \
                 SOPHIA_SERVER__KEYS='[{{\"key\": \"…\"}}]'), or listen on 127.0.0.1",
                self.host
            );
            return Err(Error::invalid_config("server.keys", message));
        }
        Ok(())
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.host.trim().is_empty() {
            return Err(Error::invalid_config(
                "server.host",
                "is empty: use \"127.0.0.1\", or the address to listen on",
            ));
        }
        let mut seen = HashSet::new();
        for (index, key) in self.keys.iter().enumerate() {
            let path = format!("server.keys[{index}].key");
            let text = key.key.expose();
            if text.is_empty() {
                return Err(Error::invalid_config(&path, "is empty"));
            }
            if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Error::invalid_config(&path, "must be visible ASCII without spaces, to fit into a header"));
            }
            if !seen.insert(text) {
                return Err(Error::invalid_config(&path, "is there twice"));
            }
            if key
                .name
                .as_ref()
                .is_some_and(|name| name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()))
            {
                let message = "must be visible ASCII without spaces: it stands in logs and records";
                return Err(Error::invalid_config(&format!("server.keys[{index}].name"), message));
            }
            if let Err(error) = key.scope.validate("config") {
                let part = error.get("field").unwrap_or("scope").to_owned();
                return Err(Error::invalid_config(&format!("server.keys[{index}].{part}"), "cannot be a name"));
            }
        }
        for (index, host) in self.allowed_hosts.iter().enumerate() {
            let name = host.strip_prefix("*.").unwrap_or(host);
            if name.is_empty() || name.contains(['/', '*', '@']) || name.contains(char::is_whitespace) {
                let message = "must be a host name such as \"api.example.com\" or \"*.example.com\", without a scheme";
                return Err(Error::invalid_config(&format!("server.allowed_hosts[{index}]"), message));
            }
        }
        for (index, origin) in self.cors_origins.iter().enumerate() {
            let path = format!("server.cors_origins[{index}]");
            if origin == "*" {
                if self.keys.is_empty() {
                    let message = "is \"*\" without `server.keys`: every web page could read what is here";
                    return Err(Error::invalid_config(&path, message));
                }
            } else if origin.split_once("://").is_none_or(|(scheme, rest)| scheme.is_empty() || rest.is_empty()) {
                return Err(Error::invalid_config(&path, "must be an origin such as \"https://app.example.com\""));
            }
        }
        if !(1..=MAX_BODY_BYTES).contains(&self.max_body_bytes) {
            return Err(Error::invalid_config("server.max_body_bytes", format!("must be 1 to {MAX_BODY_BYTES}")));
        }
        if self.max_concurrent == 0 || self.max_concurrent > tokio::sync::Semaphore::MAX_PERMITS {
            return Err(Error::invalid_config("server.max_concurrent", "must be at least 1"));
        }
        Ok(())
    }
}

/// Returns whether only this machine can reach the host of this name or address.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = host.to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_beyond_loopback_needs_a_key() {
        for host in ["127.0.0.1", "::1", "[::1]", "localhost", "127.9.9.9"] {
            assert!(ServerConfig { host: host.into(), ..ServerConfig::default() }.check_bind().is_ok(), "{host}");
        }
        for host in ["0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example.com"] {
            let open = ServerConfig { host: host.into(), ..ServerConfig::default() };
            assert_eq!(open.check_bind().unwrap_err().get("field"), Some("server.keys"), "{host}");
            let keyed = ServerConfig { keys: vec![ApiKey::new("k", Scope::new())], ..open };
            assert!(keyed.check_bind().is_ok(), "{host}");
        }
    }

    #[test]
    fn what_cannot_work_is_named_with_its_path() {
        let key = |text: &str| vec![ApiKey::new(text, Scope::new())];
        let base = ServerConfig::default;
        let cases = [
            (ServerConfig { keys: key(""), ..base() }, "server.keys[0].key"),
            (ServerConfig { keys: key("two words"), ..base() }, "server.keys[0].key"),
            (ServerConfig { keys: [key("a"), key("a")].concat(), ..base() }, "server.keys[1].key"),
            (
                ServerConfig { keys: vec![ApiKey::new("a", Scope::new().user(""))], ..base() },
                "server.keys[0].scope.user",
            ),
            (ServerConfig { allowed_hosts: vec!["https://x.y".into()], ..base() }, "server.allowed_hosts[0]"),
            (ServerConfig { cors_origins: vec!["*".into()], ..base() }, "server.cors_origins[0]"),
            (ServerConfig { cors_origins: vec!["x.y".into()], ..base() }, "server.cors_origins[0]"),
            (ServerConfig { max_body_bytes: 0, ..base() }, "server.max_body_bytes"),
            (ServerConfig { max_concurrent: 0, ..base() }, "server.max_concurrent"),
        ];
        for (config, field) in cases {
            assert_eq!(config.validate().unwrap_err().get("field"), Some(field));
        }
        assert!(ServerConfig { keys: key("k"), cors_origins: vec!["*".into()], ..base() }.validate().is_ok());
    }
}
