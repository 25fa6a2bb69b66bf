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

    /// Reads variables as [`Config::from_env`] does; those without the prefix are passed over, and those that Kubernetes sets
    /// in every pod where a service is named `sophia` or `sophia-…` (`SOPHIA_SERVICE_HOST`, `SOPHIA_PORT=tcp://…`).
    ///
    /// # Errors
    /// As [`Config::read`]; the `variable` at fault is named.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Result<Config> {
        let mut root = Map::new();
        let mut fields = Vec::new();
        for (name, value) in variables {
            match name.strip_prefix(ENV_PREFIX) {
                Some("CONFIG") => root = object(read_file(Path::new(&value))?, "config")?,
                // What is logged is asked before there is a configuration.
                Some("LOG") => {}
                Some(field) if is_service_link(field, &value) => {}
                Some(field) => fields.push((field.to_lowercase(), value)),
                None => {}
            }
        }
        // Sorted, so that the same environment always gives the same answer.
        fields.sort();
        let names: Vec<_> = fields.iter().map(|(field, _)| field.clone()).collect();
        let read = || {
            for (field, value) in fields {
                let path: Vec<_> = field.split("__").collect();
                set(&mut root, &path, value)?;
            }
            Config::read(Config::written_out(Value::Object(root)))
        };
        read().map_err(|error| in_variable(error, &names))
    }

    /// Returns the variable that sets a field, given by its path.
    pub(crate) fn variable(path: &str) -> String {
        format!("{ENV_PREFIX}{}", path.replace('.', "__").to_uppercase())
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
        if let Some(data_dir) = &self.data_dir {
            check_data_dir(&data_dir.to_string_lossy())?;
        }
        self.postgres.validate()?;
        self.redis.validate()?;
        self.memory.validate()?;
        self.chat.validate()?;
        self.registry.validate()?;
        self.health.validate()?;
        self.server.validate()
    }

    /// Makes the directory absolute, so that it stays the same when the process changes its own.
    pub(crate) fn absolute(mut self) -> Result<Config> {
        if let Some(data_dir) = &mut self.data_dir {
            *data_dir = std::path::absolute(&*data_dir).map_err(|error| {
                Error::invalid_config("data_dir", "is relative, and the working directory is not known")
                    .with_source(error)
            })?;
        }
        Ok(self)
    }
}

/// Refuses what would be another directory than is meant: a shell would put something in its place.
fn check_data_dir(written: &str) -> Result<()> {
    if written.trim().is_empty() {
        return Err(Error::invalid_config("data_dir", "is empty: leave it out, or name a directory"));
    }
    if written.starts_with('~') || written.contains("${") {
        let message =
            format!("is taken as it is written, and no variable put in: give the path that `{written}` means");
        return Err(Error::invalid_config("data_dir", message));
    }
    Ok(())
}

/// Returns whether Kubernetes sets such a variable, for a service that this process is or that stands beside it.
fn is_service_link(name: &str, value: &str) -> bool {
    let parts: Vec<_> = name.split('_').collect();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    // Two underscores step into a section.
    !parts.contains(&"")
        && (parts.windows(2).any(|pair| matches!(pair, ["SERVICE", "HOST" | "PORT"]))
            || parts.windows(3).any(|of| matches!(of, ["PORT", port, "TCP" | "UDP" | "SCTP"] if is_number(port)))
            || parts.last() == Some(&"PORT") && is_address)
}

/// Names the variable that an error is about, if one is: `names` are those that are set, without their prefix.
fn in_variable(error: Error, names: &[String]) -> Error {
    let Some(field) = error.get("field").map(str::to_owned) else { return error };
    let is_meant = |name: &&String| {
        let path = name.replace("__", ".");
        field.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let Some(name) = names.iter().find(is_meant) else { return error };
    let schema = Config::schema();
    let mut sections = schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys);
    let meant = sections.find_map(|section| {
        let rest = name.strip_prefix(section.as_str())?.strip_prefix('_')?;
        (!rest.starts_with('_')).then(|| Config::variable(&format!("{section}.{rest}")))
    });
    let error = match meant {
        Some(meant) => {
            let message = format!("is not a known field: two underscores step into a section, as in {meant}");
            Error::invalid_config(&field, message)
        }
        None => error,
    };
    error.with("variable", Config::variable(name))
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
    fn a_wrong_variable_is_named_also_where_the_fault_is_inside_of_its_value() {
        let refused = |name: &str, value: &str| {
            let error = Config::from_variables([(name.into(), value.into())]).unwrap_err();
            (error.get("variable").map(str::to_owned), error.message().to_owned())
        };
        for (name, value) in
            [("SOPHIA_CHAT__PROVIDERS", r#"[{"nam": "x"}]"#), ("SOPHIA_SERVER__PORT", "many"), ("SOPHIA_DATADIR", "x")]
        {
            assert_eq!(refused(name, value).0.as_deref(), Some(name));
        }
        let (variable, message) = refused("SOPHIA_SERVER_PORT", "9000");
        assert_eq!(variable.as_deref(), Some("SOPHIA_SERVER_PORT"));
        assert!(message.ends_with("as in SOPHIA_SERVER__PORT"), "{message}");
    }

    #[test]
    fn the_service_links_of_kubernetes_are_no_configuration() {
        let links = [
            ("SERVICE_HOST", "10.0.0.7"),
            ("SERVICE_PORT", "8000"),
            ("SERVICE_PORT_HTTP", "8000"),
            ("PORT", "tcp://10.0.0.7:8000"),
            ("PORT_8000_TCP", "tcp://10.0.0.7:8000"),
            ("PORT_8000_TCP_PROTO", "tcp"),
            ("PORT_8000_TCP_PORT", "8000"),
            ("PORT_53_UDP_ADDR", "10.0.0.7"),
        ];
        let variables = links.iter().flat_map(|(name, value)| {
            ["SOPHIA", "SOPHIA_REDIS"].map(|service| (format!("{service}_{name}"), (*value).to_owned()))
        });
        assert_eq!(Config::from_variables(variables).unwrap(), Config::default());
    }

    #[test]
    fn a_data_directory_is_one_that_is_meant_and_stays_where_it_is() {
        for written in ["", " ", "~/data", "${HOME}/data"] {
            let error = Config::default().with_data_dir(written).validate().unwrap_err();
            assert_eq!(error.get("field"), Some("data_dir"), "{written}");
        }
        let absolute = Config::default().with_data_dir("data").absolute().unwrap().data_dir.unwrap();
        assert_eq!(absolute, std::env::current_dir().unwrap().join("data"));
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
