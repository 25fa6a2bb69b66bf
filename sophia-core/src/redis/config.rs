//! Configuration of the connection to Redis.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Secret};

/// Longest accepted timeout: a shared cache that takes longer is of no use to a caller.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest accepted prefix of keys, in bytes.
const MAX_PREFIX_BYTES: usize = 64;

/// Connection to Redis or Valkey, 6.2 or newer: the tier that processes share. Without `url` and `urls` there is none.
///
/// ```
/// use sophia_core::{Config, Sophia};
///
/// let config = Config::from_toml("[redis]\nurl = 'redis://127.0.0.1:6379'")?;
/// assert_eq!(config.redis.prefix, "sophia");
/// let wrong = Config::from_toml("[redis]\nurl = 'http://127.0.0.1'")?;
/// assert_eq!(Sophia::new(wrong).unwrap_err().get("field"), Some("redis.url"));
/// # Ok::<(), sophia_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RedisConfig {
    /// One server: `redis://[user:password@]host[:port][/database]`, `rediss://…` for TLS. Default none.
    pub url: Option<Secret>,
    /// Several: some nodes of a Cluster; or the Sentinels, where `sentinel_master` is set. Default none.
    pub urls: Vec<Secret>,
    /// Name under which the Sentinels of `urls` watch the master. Default none: `urls` are a Cluster.
    pub sentinel_master: Option<String>,
    /// User at the servers that Sentinels name. Default none.
    pub username: Option<String>,
    /// Password at the servers that Sentinels name. Default none.
    pub password: Option<Secret>,
    /// File with the certificates (PEM) that `rediss://` trusts. Default those of the system.
    pub ca_file: Option<PathBuf>,
    /// What every key begins with. Default `"sophia"`.
    pub prefix: String,
    /// Time in which Redis must answer; the tier is stepped over after it. Default 100 ms.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub timeout: Duration,
    /// Time in which a connection must be there. Default 1 s.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub connect_timeout: Duration,
}

impl Default for RedisConfig {
    fn default() -> Self {
        RedisConfig {
            url: None,
            urls: Vec::new(),
            sentinel_master: None,
            username: None,
            password: None,
            ca_file: None,
            prefix: "sophia".to_owned(),
            timeout: Duration::from_millis(100),
            connect_timeout: Duration::from_secs(1),
        }
    }
}

impl RedisConfig {
    /// Describes one server.
    pub fn url(url: impl Into<String>) -> RedisConfig {
        RedisConfig { url: Some(Secret::new(url)), ..RedisConfig::default() }
    }

    /// Describes a Cluster by some of its nodes.
    pub fn cluster<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> RedisConfig {
        RedisConfig { urls: urls.into_iter().map(Secret::new).collect(), ..RedisConfig::default() }
    }

    /// Describes the master that Sentinels watch under a name.
    pub fn sentinel<U: Into<String>>(urls: impl IntoIterator<Item = U>, master: impl Into<String>) -> RedisConfig {
        RedisConfig { sentinel_master: Some(master.into()), ..RedisConfig::cluster(urls) }
    }

    /// Sets what every key begins with.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> RedisConfig {
        self.prefix = prefix.into();
        self
    }

    pub(crate) fn is_set(&self) -> bool {
        self.url.is_some() || !self.urls.is_empty()
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.is_set() && cfg!(not(feature = "redis")) {
            return Err(Error::invalid_config("redis", "is not in this build: turn the feature `redis` on"));
        }
        if self.url.is_some() && !self.urls.is_empty() {
            return Err(Error::invalid_config("redis.urls", "and `redis.url` exclude each other: set one of them"));
        }
        if self.sentinel_master.is_some() && self.urls.is_empty() {
            return Err(Error::invalid_config("redis.sentinel_master", "needs the Sentinels in `redis.urls`"));
        }
        if self.sentinel_master.as_deref() == Some("") {
            return Err(Error::invalid_config("redis.sentinel_master", "is empty"));
        }
        for (field, is_set) in [("username", self.username.is_some()), ("password", self.password.is_some())] {
            if is_set && self.sentinel_master.is_none() {
                let message = "is for `redis.sentinel_master`; elsewhere it belongs into the URL";
                return Err(Error::invalid_config(&format!("redis.{field}"), message));
            }
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
        if self.prefix.is_empty() || self.prefix.len() > MAX_PREFIX_BYTES || !self.prefix.bytes().all(plain) {
            let message = format!("must be 1 to {MAX_PREFIX_BYTES} letters, digits, `-`, `_`, `.` and `:`");
            return Err(Error::invalid_config("redis.prefix", message));
        }
        for (path, timeout) in [("redis.timeout", self.timeout), ("redis.connect_timeout", self.connect_timeout)] {
            if timeout.is_zero() || timeout > MAX_TIMEOUT {
                return Err(Error::invalid_config(path, "must be more than 0 and at most 30 s"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_named_with_its_path() {
        let one = || RedisConfig::url("redis://127.0.0.1");
        let cases = [
            (RedisConfig { urls: vec![Secret::new("redis://127.0.0.1")], ..one() }, "redis.urls"),
            (RedisConfig { sentinel_master: Some("m".into()), ..one() }, "redis.sentinel_master"),
            (RedisConfig::sentinel(["redis://127.0.0.1"], ""), "redis.sentinel_master"),
            (RedisConfig { password: Some(Secret::new("x")), ..one() }, "redis.password"),
            (one().prefix(""), "redis.prefix"),
            (one().prefix("a{b}"), "redis.prefix"),
            (RedisConfig { timeout: Duration::ZERO, ..one() }, "redis.timeout"),
            (RedisConfig { connect_timeout: Duration::from_secs(60), ..one() }, "redis.connect_timeout"),
        ];
        for (config, field) in cases {
            assert_eq!(config.validate().unwrap_err().get("field"), Some(field));
        }
        assert!(RedisConfig::default().validate().is_ok() && one().validate().is_ok());
    }

    #[test]
    fn a_password_in_a_url_is_never_shown() {
        let shown = format!("{:?}", RedisConfig::url("redis://:hunter2@127.0.0.1"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
