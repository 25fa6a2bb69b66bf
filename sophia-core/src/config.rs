//! Everything that can be set, with defaults that need nothing.

use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::{
    Error, ErrorKind, Result,
    chat::ChatConfig,
    health::HealthConfig,
    http::ServerConfig,
    memory::{MemoryConfig, PostgresConfig},
    otlp::TelemetryConfig,
    redis::RedisConfig,
    registry::RegistryConfig,
    wire,
};

/// Prefix of environment variables that are read as configuration.
const ENV_PREFIX: &str = "SOPHIA_";

/// Everything that can be set. Every field has a default; unknown fields are refused.
///
/// ```
/// use sophia_core::Config;
///
/// let config = Config::from_toml("data_dir = './data'\n[chat]\nmax_concurrent = 20")?;
/// assert_eq!(config.chat.max_concurrent, 20);
///
/// let error = Config::from_toml("[chat]\nmax_concurent = 20").unwrap_err();
/// assert_eq!(error.message(), "`chat.max_concurent` is not a known field; did you mean `max_concurrent`?");
/// # Ok::<(), sophia_core::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Directory of durable state. Without it, everything stays in this process and is gone at its end.
    pub data_dir: Option<PathBuf>,
    /// Where durable state lives in place of the directory, for more than one machine.
    pub postgres: PostgresConfig,
    /// What several processes share, beside the directory.
    pub redis: RedisConfig,
    /// Records, key-value, search.
    pub memory: MemoryConfig,
    /// Providers, cache, limits.
    pub chat: ChatConfig,
    /// MCP servers.
    pub registry: RegistryConfig,
    /// Probes and alerts.
    pub health: HealthConfig,
    /// HTTP surface: address, keys, limits.
    pub server: ServerConfig,
    /// OpenTelemetry.
    pub telemetry: TelemetryConfig,
}

impl Config {
    /// Sets the directory of durable state.
    #[must_use]
    pub fn with_data_dir(mut self, data_dir: impl AsRef<Path>) -> Config {
        self.data_dir = Some(data_dir.as_ref().to_owned());
        self
    }

    /// Reads a configuration from anything that serde can read.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`], naming the path of the field and the nearest known name.
    pub fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Config> {
        wire::read(ErrorKind::InvalidConfig, "config", deserializer)
    }

    /// Reads TOML text.
    ///
    /// # Errors
    /// As [`Config::read`]; also where the text is not TOML.
    pub fn from_toml(text: &str) -> Result<Config> {
        Config::read(Config::written_out(parse_toml(text, "the text")?))
    }

    /// Reads JSON text.
    ///
    /// # Errors
    /// As [`Config::read`]; also where the text is not JSON.
    pub fn from_json(text: &str) -> Result<Config> {
        Config::read(Config::written_out(parse_json(text, "the text")?))
    }

    /// Reads a `.toml` or `.json` file.
    ///
    /// # Errors
    /// As [`Config::read`]; also where the file cannot be read.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Config> {
        Config::read(Config::written_out(read_file(path.as_ref())?))
    }

    /// Reads the file that `SOPHIA_CONFIG` names, if it is set, and then the variables `SOPHIA_…` over it.
    ///
    /// Two underscores step into a section: `SOPHIA_CHAT__MAX_CONCURRENT=20` sets `chat.max_concurrent`. A value is read as
    /// JSON where it is JSON, else as text.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn from_env() -> Result<Config> {
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Config::from_variables(variables)
    }

    /// Reads several layers, each over the one before: sections are merged, everything else is replaced.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn from_layers(layers: impl IntoIterator<Item = Value>) -> Result<Config> {
        let mut root = Value::Object(Map::new());
        for layer in layers {
            merge(&mut root, Value::Object(object(Config::written_out(layer), "config")?));
        }
        Config::read(root)
    }

    /// Reads a `.toml` or `.json` file as a layer for [`Config::from_layers`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] where the file cannot be read or is neither.
    pub fn file_layer(path: impl AsRef<Path>) -> Result<Value> {
        read_file(path.as_ref())
    }

    /// Reads variables as [`Config::from_env`] does; those without the prefix are passed over.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Result<Config> {
        let mut root = Map::new();
        let mut fields = Vec::new();
        for (name, value) in variables {
            match name.strip_prefix(ENV_PREFIX) {
                Some("CONFIG") => root = object(read_file(Path::new(&value))?, "config")?,
                // What is logged is asked before there is a configuration.
                Some("LOG") => {}
                Some(field) => fields.push((field.to_lowercase(), value)),
                None => {}
            }
        }
        // Sorted, so that the same environment always gives the same answer.
        fields.sort();
        for (field, value) in fields {
            let path: Vec<_> = field.split("__").collect();
            set(&mut root, &path, value)?;
        }
        Config::read(Config::written_out(Value::Object(root)))
    }

    /// Writes out what may be written short: the kind of an embedder stands for a table with that kind.
    ///
    /// For those who call [`Config::read`] with what a user wrote; the other readers do it themselves.
    #[must_use]
    pub fn written_out(mut written: Value) -> Value {
        for path in ["/memory/embedder", "/memory/former_embedder", "/memory/formerEmbedder"] {
            if let Some(embedder) = written.pointer_mut(path)
                && embedder.is_string()
            {
                *embedder = Value::Object(Map::from_iter([("kind".to_owned(), embedder.take())]));
            }
        }
        written
    }

    /// Returns the JSON Schema of the configuration.
    pub fn schema() -> Schema {
        schema_for!(Config)
    }

    /// Refuses values that are well-formed but cannot work.
    pub(crate) fn validate(&self) -> Result<()> {
        self.postgres.validate()?;
        self.redis.validate()?;
        self.memory.validate()?;
        self.chat.validate()?;
        self.registry.validate()?;
        self.health.validate()?;
        self.server.validate()
    }
}

fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                merge(under.entry(name).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

fn set(object: &mut Map<String, Value>, path: &[&str], value: String) -> Result<()> {
    match path {
        [] => Ok(()),
        [name] => {
            let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
            object.insert((*name).to_owned(), value);
            Ok(())
        }
        [section, rest @ ..] => match object.entry(*section).or_insert_with(|| Value::Object(Map::new())) {
            Value::Object(inner) => set(inner, rest, value),
            _ => Err(Error::invalid_config(section, "is not a section")),
        },
    }
}

fn read_file(path: &Path) -> Result<Value> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::invalid_config("config", format!("file `{shown}` cannot be read: {error}")).with_source(error)
    })?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => parse_toml(&text, &shown.to_string()),
        Some("json") => parse_json(&text, &shown.to_string()),
        _ => Err(Error::invalid_config("config", format!("file `{shown}` must end in .toml or .json"))),
    }
}

fn parse_toml(text: &str, place: &str) -> Result<Value> {
    toml::from_str(text).map_err(|error| Error::invalid_config("config", format!("in {place} is not TOML: {error}")))
}

fn parse_json(text: &str, place: &str) -> Result<Value> {
    serde_json::from_str(text)
        .map_err(|error| Error::invalid_config("config", format!("in {place} is not JSON: {error}")))
}

fn object(value: Value, path: &str) -> Result<Map<String, Value>> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(Error::invalid_config(path, "must be a table of fields")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_step_into_sections() {
        let config = Config::from_variables([
            ("SOPHIA_DATA_DIR".into(), "/tmp/x".into()),
            ("SOPHIA_CHAT__MAX_CONCURRENT".into(), "7".into()),
            ("PATH".into(), "/bin".into()),
            ("SOPHIA_LOG".into(), "debug".into()),
        ])
        .unwrap();
        assert_eq!((config.data_dir, config.chat.max_concurrent), (Some("/tmp/x".into()), 7));
    }

    #[test]
    fn a_misspelt_variable_is_named() {
        let error = Config::from_variables([("SOPHIA_CHAT__MAX_CONCURENT".into(), "7".into())]).unwrap_err();
        assert_eq!((error.code(), error.get("field")), ("INVALID_CONFIG", Some("chat.max_concurent")));
    }

    #[test]
    fn a_later_layer_replaces_only_what_it_names() {
        let layers =
            [serde_json::json!({"chat": {"max_concurrent": 7}}), serde_json::json!({"data_dir": "x", "chat": {}})];
        let config = Config::from_layers(layers).unwrap();
        assert_eq!((config.chat.max_concurrent, config.data_dir), (7, Some("x".into())));
    }

    #[test]
    fn the_schema_names_every_section() {
        let schema = serde_json::to_value(Config::schema()).unwrap();
        for section in ["data_dir", "postgres", "redis", "memory", "chat", "registry", "health", "server", "telemetry"]
        {
            assert!(schema["properties"].get(section).is_some(), "{section}");
        }
    }
}
