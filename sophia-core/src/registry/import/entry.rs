//! One entry of a document, in whichever words it was written.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};

use super::dialect::{Item, strings};
use crate::{
    Secret,
    registry::{
        server::{RestRoute, Server, Transport},
        variables,
    },
};

/// Host of a server of which only the port is known.
const PORT_HOST: &str = "127.0.0.1";
/// From here on, a bare number for `timeout` is taken as milliseconds, as several editors write it.
const FIRST_MILLISECONDS: f64 = 1_000.0;

/// Fields that are understood, or known to matter only to an editor.
const QUIET: [&str; 18] = [
    "id",
    "name",
    "server",
    "server_name",
    "status",
    "source",
    "gallery",
    "alwaysAllow",
    "autoApprove",
    "trust",
    "includeTools",
    "excludeTools",
    "dev",
    "version",
    "icon",
    "envFile",
    "host",
    "protocol",
];

/// A server as one document describes it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub server: Server,
    /// Whether the document gives a port and nothing of the path.
    pub bare_port: bool,
    /// Whether the document switches it off.
    pub disabled: bool,
    pub warnings: Vec<String>,
}

/// Reads one entry.
///
/// # Errors
/// What is wrong with it, for people.
pub(crate) fn read(item: Item) -> Result<Entry, String> {
    let mut server = Server::new(item.name);
    server.group = item.group;
    server.capabilities = item.capabilities;
    let mut entry = Entry { server, bare_port: false, disabled: false, warnings: Vec::new() };
    match item.value {
        Value::Number(_) => entry.port(&item.value)?,
        Value::String(ref text) if text.contains("://") => entry.server.url = Some(text.clone()),
        Value::String(ref text) => match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok() => {
                entry.server.url = Some(format!("http://{text}"));
                entry.bare_port = true;
            }
            _ => entry.port(&item.value)?,
        },
        Value::Object(object) if object.contains_key("remotes") || object.contains_key("packages") => {
            entry.official(&object)?;
        }
        Value::Object(object) => entry.fields(object)?,
        Value::Null | Value::Bool(_) | Value::Array(_) => {
            return Err("must be a port, a URL, or an object with `command`, `url` or `port`".to_owned());
        }
    }
    entry.warn_of_unset();
    Ok(entry)
}

impl Entry {
    fn port(&mut self, value: &Value) -> Result<(), String> {
        let port = port(value)?;
        self.server.url = Some(format!("http://{PORT_HOST}:{port}"));
        self.bare_port = true;
        Ok(())
    }

    fn fields(&mut self, mut object: Map<String, Value>) -> Result<(), String> {
        let mut take =
            |names: &[&str]| names.iter().filter_map(|name| object.remove(*name)).find(|value| !value.is_null());
        let server = &mut self.server;
        server.command = text(take(&["command", "cmd"]), "command")?;
        server.args = take(&["args", "arguments"]).map(|value| list(&value, "args")).transpose()?.unwrap_or_default();
        server.env = secrets(take(&["env", "environment"]), "env")?;
        server.cwd = text(take(&["cwd", "working_directory"]), "cwd")?;
        let url =
            text(take(&["url", "serverUrl", "httpUrl", "endpoint", "base_url", "baseUrl", "uri", "address"]), "url")?;
        let (host, path) = (text(take(&["host", "hostname"]), "host")?, text(take(&["path"]), "path")?);
        let port_value = take(&["port"]);
        match (url, port_value) {
            (Some(url), _) => server.url = Some(if url.contains("://") { url } else { format!("http://{url}") }),
            (None, Some(value)) => {
                self.bare_port = path.is_none();
                let path = path.map(|path| format!("/{}", path.trim_start_matches('/'))).unwrap_or_default();
                let host = host.unwrap_or_else(|| PORT_HOST.to_owned());
                let host = if host == "0.0.0.0" { PORT_HOST.to_owned() } else { host };
                server.url = Some(format!("http://{host}:{}{path}", port(&value)?));
            }
            (None, None) => {}
        }
        server.transport = match text(take(&["transport", "type", "transportType"]), "transport")? {
            None => None,
            Some(word) => Some(transport(&word)?),
        };
        server.headers = secrets(take(&["headers", "http_headers"]), "headers")?;
        if let Some(token) = take(&["auth", "api_key", "apiKey", "bearer_token", "token"]) {
            match token {
                Value::String(token) => server.auth = Some(Secret::new(token)),
                _ => self.warnings.push(format!("`{}`: only a bearer token is understood as `auth`", server.id)),
            }
        }
        if let Some(rest) = take(&["rest"]) {
            server.rest = serde_json::from_value::<BTreeMap<String, RestRoute>>(rest)
                .map_err(|_| "`rest` must map tools to paths, such as {\"*\": \"/{tool}\"}".to_owned())?;
        }
        for words in [take(&["capabilities"]), take(&["capability"])].into_iter().flatten() {
            server.capabilities.extend(strings(&words));
            // An object lists them as its fields, as MCP itself does.
            server.capabilities.extend(words.as_object().into_iter().flat_map(|object| object.keys().cloned()));
        }
        server.tier = take(&["tier", "level"]).and_then(|tier| word(&tier));
        server.group = server.group.take().or(take(&["group", "category", "domain"]).and_then(|group| word(&group)));
        server.tags = take(&["tags", "labels"]).map(|tags| strings(&tags)).unwrap_or_default();
        server.fallback = take(&["fallback", "fallbacks", "fallback_servers", "failover"])
            .map(|ids| strings(&ids))
            .unwrap_or_default();
        server.name = text(take(&["display_name", "displayName", "title"]), "name")?;
        let health =
            take(&["health_path", "health", "health_check", "healthCheck", "health_endpoint", "healthEndpoint"]);
        server.health_path = match health {
            Some(Value::Object(inner)) => ["path", "endpoint", "url"].iter().find_map(|name| word(inner.get(*name)?)),
            other => other.and_then(|health| word(&health)),
        };
        if let Some(weight) = take(&["weight"]).and_then(|weight| weight.as_f64()) {
            server.weight = weight;
        }
        if let Some(priority) = take(&["priority"]).and_then(|priority| priority.as_i64()) {
            server.priority = priority;
        }
        let most = take(&["max_connections", "maxConnections", "max_concurrent"]).and_then(|most| most.as_u64());
        server.max_connections = most.and_then(|most| usize::try_from(most).ok());
        let times = [
            (Unit::Milliseconds, &["timeout_ms", "timeoutMs"][..]),
            (Unit::Seconds, &["timeout_seconds", "timeoutSeconds"]),
            (Unit::Guessed, &["timeout"]),
        ];
        for (unit, names) in times {
            let Some(value) = take(names) else { continue };
            match timeout(&value, unit) {
                Some(time) => server.timeout = server.timeout.or(Some(time)),
                None => self.warnings.push(format!("`{}`: `{}` is no time: not used", server.id, names[0])),
            }
        }
        let off = |value: Option<Value>, meaning: bool| value.and_then(|value| value.as_bool()) == Some(meaning);
        self.disabled = off(take(&["disabled"]), true) || off(take(&["enabled", "active"]), false);
        take(&["description", "purpose"]);
        let unused: Vec<_> = object.keys().filter(|name| !QUIET.contains(&name.as_str())).map(String::as_str).collect();
        if !unused.is_empty() {
            self.warnings.push(format!("`{}`: not used: {}", self.server.id, unused.join(", ")));
        }
        if self.server.transport().is_none() {
            return Err("has no `command`, `url` or `port`".to_owned());
        }
        Ok(())
    }

    /// `server.json` of the public registry, schema 2025-12-11: the first remote, or else package, that can be used.
    fn official(&mut self, object: &Map<String, Value>) -> Result<(), String> {
        self.server.name = object.get("title").and_then(word);
        let remotes = listed(object.get("remotes")).map(|remote| (true, remote));
        let packages = listed(object.get("packages")).map(|package| (false, package));
        let mut refused = None;
        for (is_remote, place) in remotes.chain(packages) {
            let before = self.server.clone();
            match if is_remote { self.remote(place) } else { self.package(place) } {
                Ok(()) if self.server.transport().is_some() => return Ok(()),
                outcome => {
                    self.server = before;
                    refused = refused.or(outcome.err());
                }
            }
        }
        Err(refused.unwrap_or_else(|| "has neither a remote nor a package".to_owned()))
    }

    fn remote(&mut self, remote: &Value) -> Result<(), String> {
        self.server.url = remote.get("url").and_then(word).map(|url| filled(&url, remote));
        self.server.transport = remote.get("type").and_then(Value::as_str).map(transport).transpose()?;
        for header in listed(remote.get("headers")) {
            let Some(name) = header.get("name").and_then(Value::as_str) else { continue };
            if let Some(value) = given_or_asked(header, name) {
                self.server.headers.insert(name.to_owned(), Secret::new(value));
            }
        }
        Ok(())
    }

    fn package(&mut self, package: &Value) -> Result<(), String> {
        let spoken = package.get("transport").filter(|spoken| {
            spoken.get("type").and_then(Value::as_str).is_some_and(|word| transport(word) != Ok(Transport::Stdio))
        });
        if let Some(spoken) = spoken {
            self.remote(spoken)?;
            if self.server.url.is_none() {
                return Err("a package that does not speak over stdio needs `transport.url`".to_owned());
            }
            self.warnings.push(format!(
                "`{}`: its package speaks over HTTP and is not started here; it must be running at its URL",
                self.server.id
            ));
            return Ok(());
        }
        let field = |name: &str| package.get(name).and_then(Value::as_str);
        let identifier = field("identifier").ok_or("`identifier` of a package is required")?;
        let version = field("version");
        let at = |separator: &str| version.map_or(identifier.to_owned(), |v| format!("{identifier}{separator}{v}"));
        let (command, own, place): (_, &[&str], _) = match field("registryType") {
            Some("npm") => ("npx", &["-y"], at("@")),
            Some("pypi") => ("uvx", &[], at("==")),
            Some("oci") => ("docker", &["run", "-i", "--rm"], at(":")),
            other => return Err(format!("packages of type `{}` cannot be started", other.unwrap_or("?"))),
        };
        let asker = self.server.short_id().to_owned();
        let mut args: Vec<String> = own.iter().map(|arg| (*arg).to_owned()).collect();
        // What is given to each is given once.
        args.extend(arguments(package, "runtimeArguments", &asker).filter(|arg| !own.contains(&arg.as_str())));
        args.push(place);
        args.extend(arguments(package, "packageArguments", &asker));
        (self.server.command, self.server.args) = (Some(command.to_owned()), args);
        for variable in listed(package.get("environmentVariables")) {
            let Some(name) = variable.get("name").and_then(Value::as_str) else { continue };
            if let Some(value) = given_or_asked(variable, name) {
                self.server.env.insert(name.to_owned(), Secret::new(value));
            }
        }
        Ok(())
    }

    fn warn_of_unset(&mut self) {
        let server = &self.server;
        let plain = [&server.url, &server.command, &server.cwd].into_iter().flatten().chain(&server.args);
        let secret = server.env.values().chain(server.headers.values()).chain(&server.auth).map(Secret::expose);
        let mut unset: Vec<_> = plain.map(String::as_str).chain(secret).flat_map(variables::unset).collect();
        unset.sort();
        unset.dedup();
        if !unset.is_empty() {
            let names = unset.join("`, `");
            self.warnings
                .push(format!("`{}`: the variable `{names}` is not set; calls will fail until it is", server.id));
        }
    }
}

/// Returns the items of a list of a `server.json`, where it is there.
fn listed(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}

/// Returns the words of a list of arguments. The variable of a required one has the name of `asker` before its own: that of
/// `--path` is not this machine's `PATH`.
fn arguments(package: &Value, field: &str, asker: &str) -> impl Iterator<Item = String> {
    listed(package.get(field)).flat_map(move |argument| {
        let name = argument.get("name").and_then(word);
        let hint = name.clone().or_else(|| argument.get("valueHint").and_then(word));
        // A flag has no value.
        let is_asked = is_required(argument) && argument.get("format").is_none_or(|format| format != "boolean");
        let asked = |hint: String| placeholder(&format!("{asker}_{}", hint.trim_start_matches('-')));
        let value = given(argument).or_else(|| hint.filter(|_| is_asked).map(asked));
        [name, value].into_iter().flatten()
    })
}

fn is_required(input: &Value) -> bool {
    input.get("isRequired") == Some(&Value::Bool(true))
}

/// Returns what an input is set to, or the variable that it is asked of: an optional one only where that is set.
fn given_or_asked(input: &Value, name: &str) -> Option<String> {
    let asked = || Some(placeholder(name)).filter(|asked| is_required(input) || variables::unset(asked).is_empty());
    given(input).or_else(asked)
}

/// Returns what an input of a `server.json` is set to, or its default.
fn given(input: &Value) -> Option<String> {
    let value = ["value", "default"].iter().find_map(|field| word(input.get(*field)?))?;
    Some(filled(&value, input))
}

/// Puts the variables of an input in their places: `{name}`.
fn filled(text: &str, input: &Value) -> String {
    let variables = input.get("variables").and_then(Value::as_object);
    variables.into_iter().flatten().fold(text.to_owned(), |text, (name, variable)| {
        let value = ["value", "default"].iter().find_map(|field| word(variable.get(*field)?));
        text.replace(&format!("{{{name}}}"), &value.unwrap_or_else(|| placeholder(name)))
    })
}

fn port(value: &Value) -> Result<u16, String> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => variables::expand(text, |name| std::env::var(name).ok())
            .map_err(|missing| format!("`port` needs the variable `{}`, which is not set", missing.join("`, `")))?,
        _ => String::new(),
    };
    text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| {
        let shown: String = text.chars().take(20).collect();
        format!("`{shown}` is not a port: it must be a number from 1 to 65535")
    })
}

fn transport(word: &str) -> Result<Transport, String> {
    match word.to_lowercase().replace('_', "-").as_str() {
        "stdio" | "local" => Ok(Transport::Stdio),
        "http" | "streamable-http" | "streamablehttp" | "remote" | "https" => Ok(Transport::Http),
        "sse" => Ok(Transport::Sse),
        "rest" => Ok(Transport::Rest),
        "builtin" => Ok(Transport::Builtin),
        _ => Err(format!("`{word}` is not a transport: known are stdio, http, sse and rest")),
    }
}

fn text(value: Option<Value>, field: &str) -> Result<Option<String>, String> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{field}` must be a text")),
    }
}

fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn list(value: &Value, field: &str) -> Result<Vec<String>, String> {
    let items = value.as_array().ok_or_else(|| format!("`{field}` must be a list of texts"))?;
    items.iter().map(|item| word(item).ok_or_else(|| format!("`{field}` must be a list of texts"))).collect()
}

fn secrets(value: Option<Value>, field: &str) -> Result<BTreeMap<String, Secret>, String> {
    match value {
        None => Ok(BTreeMap::new()),
        Some(Value::Object(object)) => Ok(object
            .into_iter()
            .map(|(name, value)| {
                let value = word(&value)
                    .unwrap_or_else(|| if value.is_null() { placeholder(&name) } else { value.to_string() });
                (name, Secret::new(value))
            })
            .collect()),
        Some(_) => Err(format!("`{field}` must be an object of texts")),
    }
}

fn placeholder(name: &str) -> String {
    format!("${{{}}}", name.to_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_"))
}

/// The unit of a number, as the name of its field says it.
#[derive(Clone, Copy)]
enum Unit {
    Milliseconds,
    Seconds,
    /// The name says nothing.
    Guessed,
}

fn timeout(value: &Value, unit: Unit) -> Option<Duration> {
    let of = |number: f64| {
        let is_seconds = match unit {
            Unit::Milliseconds => false,
            Unit::Seconds => true,
            Unit::Guessed => number < FIRST_MILLISECONDS,
        };
        Duration::try_from_secs_f64(if is_seconds { number } else { number / 1_000.0 }).ok()
    };
    match (value, unit) {
        (Value::Number(number), _) => of(number.as_f64()?),
        (Value::String(text), Unit::Guessed) => crate::duration::parse(text).ok(),
        (Value::String(text), _) => text.trim().parse().map_or_else(|_| crate::duration::parse(text).ok(), of),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(value: Value) -> Result<Entry, String> {
        read(Item { name: "a".into(), group: None, capabilities: Vec::new(), value })
    }

    #[test]
    fn places_are_written_in_many_ways() {
        let cases = [
            (json!(9007), "http://127.0.0.1:9007"),
            (json!("9007"), "http://127.0.0.1:9007"),
            (json!("${NO_SUCH_PORT:-9007}"), "http://127.0.0.1:9007"),
            (json!("10.0.0.1:9007"), "http://10.0.0.1:9007"),
            (json!("https://x.example/mcp"), "https://x.example/mcp"),
            (json!({"port": 9007, "host": "db"}), "http://db:9007"),
            (json!({"port": 9007, "path": "mcp"}), "http://127.0.0.1:9007/mcp"),
            (json!({"serverUrl": "http://x"}), "http://x"),
            (json!({"base_url": "x:1"}), "http://x:1"),
        ];
        for (value, url) in cases {
            assert_eq!(entry(value).unwrap().server.url.as_deref(), Some(url));
        }
    }

    #[test]
    fn everything_else_is_kept() {
        let read = entry(json!({
            "port": 1, "capabilities": ["Code"], "tier": 1, "group": "core", "tags": ["x"], "fallback": "b", "weight": 2,
            "priority": 3, "health": {"path": "/health"}, "timeout": 60_000, "disabled": true, "colour": "red",
        }))
        .unwrap();
        let server = &read.server;
        assert_eq!((server.tier.as_deref(), server.group.as_deref()), (Some("1"), Some("core")));
        assert_eq!((server.weight, server.priority, server.timeout), (2.0, 3, Some(Duration::from_secs(60))));
        assert_eq!((server.health_path.as_deref(), server.fallback.clone()), (Some("/health"), vec!["b".to_owned()]));
        assert!(read.disabled && read.bare_port && read.warnings[0].contains("colour"), "{:?}", read.warnings);
    }

    #[test]
    fn a_timeout_has_the_unit_that_its_name_says() {
        let cases = [
            (json!({"timeout_ms": 500}), 500),
            (json!({"timeoutMs": 60_000}), 60_000),
            (json!({"timeout_ms": "250"}), 250),
            (json!({"timeout_seconds": 3_600}), 3_600_000),
            (json!({"timeout_seconds": 0.5}), 500),
            (json!({"timeoutSeconds": "90"}), 90_000),
            (json!({"timeout_seconds": "2m"}), 120_000),
            (json!({"timeout": 30}), 30_000),
            (json!({"timeout": 30_000}), 30_000),
            (json!({"timeout": "30s", "timeout_ms": 700}), 700),
        ];
        for (mut value, milliseconds) in cases {
            value["port"] = json!(1);
            let timeout = entry(value.clone()).unwrap().server.timeout;
            assert_eq!(timeout, Some(Duration::from_millis(milliseconds)), "{value}");
        }
    }

    #[test]
    fn what_cannot_be_an_entry_says_why() {
        for (value, why) in [
            (json!(0), "not a port"),
            (json!(99_999), "not a port"),
            (json!({"port": "x"}), "not a port"),
            (json!(null), "must be a port"),
            (json!({"type": "smoke", "url": "u"}), "not a transport"),
            (json!({"command": ["x"]}), "`command` must be a text"),
            (json!({"name": "x"}), "no `command`"),
        ] {
            let error = entry(value).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_official_form_becomes_a_command_or_a_url() {
        let package = json!({"registryType": "npm", "identifier": "@acme/x", "version": "1.2.3",
            "environmentVariables": [{"name": "ACME_TOKEN", "isSecret": true, "isRequired": true},
                {"name": "ACME_LOG_LEVEL"}, {"name": "PATH", "isRequired": false}],
            "packageArguments": [{"type": "named", "name": "--path", "isRequired": true},
                {"type": "positional", "valueHint": "data dir", "isRequired": true}, {"type": "positional", "valueHint": "more"},
                {"type": "named", "name": "--quick", "isRequired": true, "format": "boolean"}]});
        let read = entry(json!({"packages": [package]})).unwrap();
        assert!(read.warnings.iter().any(|warning| warning.contains("A_PATH")), "{:?}", read.warnings);
        let server = read.server;
        assert_eq!(
            (server.command.as_deref(), server.args.join(" ")),
            (Some("npx"), "-y @acme/x@1.2.3 --path ${A_PATH} ${A_DATA_DIR} --quick".to_owned())
        );
        let env: Vec<_> = server.env.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(env, [("ACME_TOKEN", "${ACME_TOKEN}"), ("PATH", "${PATH}")]);
        let remote = json!({"remotes": [{"type": "streamable-http", "url": "https://x.example/mcp"}]});
        assert_eq!(entry(remote).unwrap().server.transport, Some(Transport::Http));
        let header = json!([{"name": "X-Trace-Tag"}, {"name": "X-Key", "isRequired": true}]);
        let remote = json!({"remotes": [{"type": "sse", "url": "https://x.example/sse", "headers": header}]});
        assert_eq!(entry(remote).unwrap().server.headers.into_keys().collect::<Vec<_>>(), ["X-Key"]);
    }

    #[test]
    fn the_first_place_that_can_be_used_is_taken() {
        let npm = json!({"registryType": "npm", "identifier": "@acme/x", "transport": {"type": "stdio"}});
        let over_http =
            json!({"registryType": "npm", "identifier": "@acme/y", "transport": {"type": "streamable-http"}});
        let bundle = json!({"registryType": "mcpb", "identifier": "https://x.example/x.mcpb"});
        for packages in [json!([bundle, npm]), json!([over_http, npm])] {
            assert_eq!(entry(json!({"packages": packages})).unwrap().server.args, ["-y", "@acme/x"]);
        }
        let socket = json!({"type": "ws", "url": "wss://x.example"});
        let remotes = json!([socket, {"type": "sse", "url": "https://x.example/sse"}]);
        let server = entry(json!({"remotes": remotes})).unwrap().server;
        assert_eq!((server.transport, server.url.as_deref()), (Some(Transport::Sse), Some("https://x.example/sse")));
        let server = entry(json!({"remotes": [socket], "packages": [npm]})).unwrap().server;
        assert_eq!((server.command.as_deref(), server.url), (Some("npx"), None));
        assert!(entry(json!({"remotes": [socket], "packages": [bundle]})).unwrap_err().contains("`ws`"));
    }

    #[test]
    fn the_official_form_is_filled_with_its_defaults() {
        let package = json!({"registryType": "oci", "identifier": "acme/x", "version": "1", "transport": {"type": "stdio"},
            "runtimeArguments": [{"type": "named", "name": "--rm"}, {"type": "named", "name": "--mount",
                "value": "src={dir},dst=/data", "variables": {"dir": {"default": "/tmp/x"}}}],
            "packageArguments": [{"type": "positional", "default": "serve"}, {"type": "named", "name": "--port",
                "value": 1, "default": 2}]});
        let server = entry(json!({"packages": [package]})).unwrap().server;
        let expected = "run -i --rm --mount src=/tmp/x,dst=/data acme/x:1 serve --port 1";
        assert_eq!((server.command.as_deref(), server.args.join(" ")), (Some("docker"), expected.to_owned()));

        let variables = json!({"tenant": {"default": "acme"}, "zone": {}});
        let url = "https://{tenant}.example/{zone}/{other}";
        let remote = json!({"type": "streamable-http", "url": url, "variables": variables,
            "headers": [{"name": "X-Tier", "default": "free"}]});
        let server = entry(json!({"remotes": [remote.clone()]})).unwrap().server;
        assert_eq!(server.url.as_deref(), Some("https://acme.example/${ZONE}/{other}"));
        assert_eq!(server.headers["X-Tier"].expose(), "free");

        // What speaks over HTTP is not started as if it spoke over its streams.
        let package = json!({"registryType": "npm", "identifier": "@acme/x", "transport": remote});
        let read = entry(json!({"packages": [package]})).unwrap();
        assert_eq!((read.server.command, read.server.transport), (None, Some(Transport::Http)));
        assert_eq!(read.server.url.as_deref(), Some("https://acme.example/${ZONE}/{other}"));
        assert!(read.warnings[0].contains("must be running"), "{:?}", read.warnings);
        let package = json!({"registryType": "npm", "identifier": "@acme/x", "transport": {"type": "sse"}});
        assert!(entry(json!({"packages": [package]})).unwrap_err().contains("`transport.url`"));
    }

    #[test]
    fn a_timeout_that_is_none_is_told() {
        for (name, value) in [("timeout", json!(-5)), ("timeout", json!("abc")), ("timeout_ms", json!([1]))] {
            let read = entry(json!({"port": 1, name: value})).unwrap();
            let told = read.warnings.iter().any(|warning| warning.contains(&format!("`{name}` is no time")));
            assert!(told && read.server.timeout.is_none(), "{:?}", read.warnings);
        }
    }
}
