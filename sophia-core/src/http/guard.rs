//! Who may come in: host names, origins of web pages, keys.
//!
//! A web page can make its visitor's browser call this machine. It cannot choose the `Host` header, except for a name of
//! its own that it points here (DNS rebinding): so only names that nobody else can own are served. And it cannot leave the
//! `Origin` header out: so pages of other hosts are refused.

use axum::http::{HeaderMap, HeaderValue, Uri, header, uri::Authority};

use super::{ServerConfig, caller::Caller, config::is_loopback, peer::Peer, reply::Failure};
use crate::Error;

/// Headers by which a proxy says that it speaks for somebody else.
const FORWARDING: [&str; 4] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];

/// Prefix of the WebSocket subprotocol that carries a key: browsers can set no header there.
pub(super) const KEY_PROTOCOL: &str = "sophia.key.";

/// Who may come in.
#[derive(Debug)]
pub(super) struct Guard {
    keys: Vec<(blake3::Hash, Caller)>,
    allowed_hosts: Vec<String>,
    cors_origins: Vec<String>,
}

/// An origin that may read the answer, as it named itself.
pub(super) type AllowedOrigin = Option<HeaderValue>;

impl Guard {
    pub fn new(config: &ServerConfig) -> Guard {
        let lower =
            |names: &[String]| names.iter().map(|name| name.trim_end_matches('/').to_ascii_lowercase()).collect();
        let keys = config.keys.iter().enumerate().map(|(index, key)| {
            let name = key.name.clone().unwrap_or_else(|| format!("key-{}", index + 1));
            let caller = Caller { name, scope: key.scope.clone(), admin: key.admin };
            (blake3::hash(key.key.expose().as_bytes()), caller)
        });
        Guard {
            keys: keys.collect(),
            allowed_hosts: lower(&config.allowed_hosts),
            cors_origins: lower(&config.cors_origins),
        }
    }

    /// Checks under which name the surface was called, and which page calls.
    pub fn origin(&self, uri: &Uri, headers: &HeaderMap) -> Result<AllowedOrigin, Failure> {
        let host = self.host(uri, headers)?;
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(None) };
        let text = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let listed = self.cors_origins.iter().any(|known| known == "*" || *known == text);
        let origin_host = text.split_once("://").and_then(|(_, authority)| host_of(authority));
        let same = match (&origin_host, &host) {
            (Some(origin), Some(host)) => origin == host || (is_loopback(origin) && is_loopback(host)),
            _ => false,
        };
        if listed || same {
            return Ok(Some(origin.clone()));
        }
        let message = "pages of this origin may not call: list it in `server.cors_origins`";
        Err(Failure::forbidden(message, ("origin", text)))
    }

    /// Returns the lower-case host that the request names, if it names one.
    fn host(&self, uri: &Uri, headers: &HeaderMap) -> Result<Option<String>, Failure> {
        let mut values = headers.get_all(header::HOST).iter();
        let header = values.next();
        if values.next().is_some() {
            return Err(Error::invalid("http", "host", "is there twice").into());
        }
        // What names no host comes from no browser.
        let Some(named) = uri.authority().map(Authority::as_str).or(header.and_then(|value| value.to_str().ok()))
        else {
            return if header.is_some() {
                Err(Error::invalid("http", "host", "is not a host").into())
            } else {
                Ok(None)
            };
        };
        let host = host_of(named).ok_or_else(|| Error::invalid("http", "host", "is not a host"))?;
        if self.allows_host(&host) {
            return Ok(Some(host));
        }
        let message = "the surface does not answer under this name: list it in `server.allowed_hosts`";
        Err(Failure::forbidden(message, ("host", host)))
    }

    fn allows_host(&self, host: &str) -> bool {
        let is_address = host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok();
        // An address is nobody's name. Without keys only this machine is served, so any other address is a mistake.
        is_loopback(host)
            || (is_address && !self.keys.is_empty())
            || (!is_address && !host.contains('.'))
            || self.allowed_hosts.iter().any(|known| match known.strip_prefix('*') {
                Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
                None => known == host,
            })
    }

    /// Finds out who calls.
    pub fn authenticate(&self, headers: &HeaderMap, peer: Peer) -> Result<Caller, Failure> {
        if self.keys.is_empty() {
            if peer.is_local() && !FORWARDING.iter().any(|name| headers.contains_key(*name)) {
                return Ok(Caller::local());
            }
            let message = "only callers on this machine are served while no keys are set: set `server.keys` (or \
                           SOPHIA_SERVER__KEYS='[{\"key\": \"…\"}]') and send one as `Authorization: Bearer …`";
            return Err(Failure::unauthorized(message));
        }
        let Some(key) = key_of(headers) else {
            return Err(Failure::unauthorized("a key is needed: send it as `Authorization: Bearer …` or `x-api-key`"));
        };
        let hash = blake3::hash(&key);
        // Hashes are compared in constant time, and all of them: the time tells nothing about any key.
        let mut found = None;
        for (known, caller) in &self.keys {
            if *known == hash {
                found = Some(caller);
            }
        }
        found.cloned().ok_or_else(|| Failure::unauthorized("this key is not known"))
    }
}

/// Returns the key that the headers carry.
fn key_of(headers: &HeaderMap) -> Option<Vec<u8>> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, key) = value.as_bytes().split_at_checked("bearer ".len())?;
        return scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii().to_vec());
    }
    if let Some(value) = headers.get("x-api-key") {
        return Some(value.as_bytes().trim_ascii().to_vec());
    }
    protocols(headers).find_map(|protocol| protocol.strip_prefix(KEY_PROTOCOL)).and_then(percent_decode)
}

/// Returns the WebSocket subprotocols that the client offers.
pub(super) fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Undoes percent-encoding. `None` where it is malformed.
pub(super) fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    Some(bytes)
}

/// Returns the lower-case host of `host[:port]`, without the dot of a full name.
fn host_of(authority: &str) -> Option<String> {
    let authority: Authority = authority.parse().ok()?;
    // `user@host` is no host header.
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return None;
    }
    let host = authority.host();
    Some(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Scope, http::ApiKey};

    fn guard(config: ServerConfig) -> Guard {
        config.validate().unwrap();
        Guard::new(&config)
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn keyed() -> ServerConfig {
        ServerConfig { keys: vec![ApiKey::new("right-key", Scope::new().tenant("acme"))], ..ServerConfig::default() }
    }

    #[test]
    fn only_names_that_nobody_else_can_own_are_served() {
        let open = guard(ServerConfig::default());
        let admits =
            |guard: &Guard, host: &str| guard.origin(&Uri::from_static("/"), &headers(&[("host", host)])).is_ok();
        for host in ["localhost", "LOCALHOST:8000", "app.localhost", "127.0.0.1:80", "[::1]:8000", "testserver"] {
            assert!(admits(&open, host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "a@localhost", ""]
        {
            assert!(!admits(&open, host), "{host}");
        }
        let listed = guard(ServerConfig {
            allowed_hosts: vec!["api.acme.example".into(), "*.acme.test".into()],
            ..ServerConfig::default()
        });
        assert!(admits(&listed, "API.acme.example:443") && admits(&listed, "a.acme.test"));
        assert!(
            !admits(&listed, "acme.test") && !admits(&listed, "evilacme.test") && !admits(&listed, "x.acme.example")
        );
        assert!(admits(&guard(keyed()), "10.0.0.1:8000"), "an address is nobody's name");
    }

    #[test]
    fn pages_of_other_hosts_are_refused() {
        let config = ServerConfig { cors_origins: vec!["https://app.acme.example/".into()], ..ServerConfig::default() };
        let guard = guard(config);
        let admits = |origin: &str| {
            let headers = headers(&[("host", "localhost:8000"), ("origin", origin)]);
            guard.origin(&Uri::from_static("/"), &headers).is_ok()
        };
        for origin in
            ["http://localhost:8000", "http://localhost:5173", "http://127.0.0.1:3000", "https://app.acme.example"]
        {
            assert!(admits(origin), "{origin}");
        }
        for origin in ["https://evil.example", "null", "http://app.acme.example", "http://localhost.evil.example", ""] {
            assert!(!admits(origin), "{origin}");
        }
    }

    #[test]
    fn without_keys_only_this_machine_is_served() {
        let guard = guard(ServerConfig::default());
        let from = |host: Option<&str>, pairs: &[(&'static str, &str)]| {
            guard.authenticate(&headers(pairs), Peer::from_host(host)).is_ok()
        };
        assert!(from(Some("127.0.0.1"), &[]) && from(Some("::1"), &[]) && from(None, &[]));
        assert!(!from(Some("192.168.0.9"), &[]) && !from(Some("gateway"), &[]));
        for name in FORWARDING {
            assert!(!from(Some("127.0.0.1"), &[(name, "127.0.0.1")]), "{name}");
        }
    }

    #[test]
    fn with_keys_everybody_needs_one() {
        let guard = guard(keyed());
        let caller = |pairs: &[(&'static str, &str)]| guard.authenticate(&headers(pairs), Peer::Local).ok();
        for pairs in [
            [("authorization", "Bearer right-key")],
            [("authorization", "bearer  right-key ")],
            [("x-api-key", "right-key")],
            [("sec-websocket-protocol", "sophia.v1, sophia.key.right%2Dkey")],
        ] {
            assert_eq!(caller(&pairs).map(|caller| caller.scope.tenant), Some(Some("acme".into())), "{pairs:?}");
        }
        assert_eq!(caller(&[]), None);
        for pairs in [
            [("authorization", "Bearer wrong-key")],
            [("authorization", "Bearer ")],
            [("authorization", "Basic right-key")],
            [("x-api-key", "right-key2")],
        ] {
            assert_eq!(caller(&pairs), None, "{pairs:?}");
        }
        let both = [("authorization", "Bearer wrong-key"), ("x-api-key", "right-key")];
        assert_eq!(caller(&both), None, "a wrong key is not excused by a right one");
    }
}
