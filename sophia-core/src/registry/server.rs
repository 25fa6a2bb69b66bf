//! What is known of one server: where it is, what it can do, whom to ask in its place.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Error, Result, Secret};

/// Longest accepted id, name, capability or tag, in bytes: a name, not a document.
const MAX_NAME_BYTES: usize = 256;
/// Longest accepted URL, command or argument, in bytes.
const MAX_TEXT_BYTES: usize = 16 * 1024;

/// Begins the address of a server in this process.
pub(crate) const BUILTIN: &str = "sophia://";

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Transport {
    /// MCP over streamable HTTP.
    #[serde(alias = "streamable-http", alias = "streamable_http", alias = "streamableHttp")]
    Http,
    /// MCP over the HTTP+SSE transport of 2024-11-05, which is not spoken: such servers are listed, not called.
    Sse,
    /// MCP over the standard streams of a child process.
    Stdio,
    /// Plain HTTP, mapped by [`Server::rest`]; for in-house servers that do not speak MCP.
    Rest,
    /// In this process: the tools of the engine's own memory, under `sophia://memory` and `sophia://graph`. A call acts in
    /// the scope of the call.
    Builtin,
}

/// Where a tool of a REST server is, as a path or as a path with its method and body.
///
/// `{tool}` stands for the tool's name. With a path that holds `{tool}` the arguments are the body; with one that does not,
/// the body is `{"name": tool, "arguments": {…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[non_exhaustive]
pub enum RestRoute {
    /// A path, called with POST.
    Path(String),
    /// A path with its method.
    Route {
        /// HTTP method. Default `POST`; the arguments of a `GET` go into the query.
        #[serde(default)]
        method: Option<String>,
        /// Path below the server's URL.
        path: String,
    },
}

/// One server of the registry.
///
/// `${VAR}`, `${VAR:-default}`, `${env:VAR}` and `${input:id}` may stand in `url`, `command`, `args`, `env`, `cwd`, `headers`
/// and `auth`. They are kept as written and replaced at each use, so that no secret rests here.
///
/// ```
/// use sophia_core::registry::Server;
///
/// let server = Server::new("github").command("npx", ["-y", "@acme/github-mcp"]).capability("code").fallback("gitlab");
/// assert_eq!(server.fallback, ["gitlab"]);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Server {
    /// Name that is unique in the registry; case, `-` and `_` do not tell two ids apart.
    pub id: String,
    /// Name for people.
    #[serde(default)]
    pub name: Option<String>,
    /// Other spellings under which it was loaded.
    #[serde(default, deserialize_with = "or_default")]
    pub aliases: Vec<String>,
    /// Address of an HTTP, SSE or REST server, or `sophia://memory` or `sophia://graph` for the engine's own tools.
    #[serde(default)]
    pub url: Option<String>,
    /// Program of a stdio server, found on `PATH`; never given to a shell. It runs once, for all calls of whichever scope: what it
    /// remembers of one caller is there for the next. Give each tenant a server of its own where that must not be.
    #[serde(default)]
    pub command: Option<String>,
    /// Arguments of `command`.
    #[serde(default, deserialize_with = "or_default")]
    pub args: Vec<String>,
    /// Environment of `command`, beside `PATH` and `HOME`; nothing else is passed on.
    #[serde(default, deserialize_with = "or_default")]
    pub env: BTreeMap<String, Secret>,
    /// Working directory of `command`. Default: that of this process.
    #[serde(default)]
    pub cwd: Option<String>,
    /// How it is spoken to; inferred where it is left out: `command` means stdio, `rest` means REST, a `url` that begins with
    /// `sophia://` means built in, another `url` HTTP.
    #[serde(default)]
    pub transport: Option<Transport>,
    /// Routes of a REST server by tool; `"*"` is any other tool, `"tools/list"` is where a GET lists them.
    #[serde(default, deserialize_with = "or_default")]
    pub rest: BTreeMap<String, RestRoute>,
    /// What it can do, such as `"code"`; compared without case.
    #[serde(default, deserialize_with = "or_default")]
    pub capabilities: Vec<String>,
    /// Rank, as a number (1 is first) or a word (primary, secondary, tertiary, …).
    #[serde(default, deserialize_with = "text")]
    #[schemars(with = "Option<String>")]
    pub tier: Option<String>,
    /// Group, such as a department or a set of replicas.
    #[serde(default)]
    pub group: Option<String>,
    /// Free labels.
    #[serde(default, deserialize_with = "or_default")]
    pub tags: Vec<String>,
    /// Path that a health check gets, below the origin of `url`.
    #[serde(default)]
    pub health_path: Option<String>,
    /// Servers to ask in its place, in order, when it fails.
    #[serde(default, deserialize_with = "or_default")]
    pub fallback: Vec<String>,
    /// Share of calls relative to others of the same capability, above 0. Default 1.
    #[serde(default = "one")]
    pub weight: f64,
    /// Within a tier, higher goes first. Default 0.
    #[serde(default, deserialize_with = "or_default")]
    pub priority: i64,
    /// Most calls at once; more wait for their turn. Default: no bound of its own.
    #[serde(default)]
    pub max_connections: Option<usize>,
    /// Deadline of one call. Default: `registry.timeout`.
    #[serde(default, with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub timeout: Option<Duration>,
    /// HTTP headers sent with every request.
    #[serde(default, deserialize_with = "or_default")]
    pub headers: BTreeMap<String, Secret>,
    /// Bearer token sent as `Authorization`.
    #[serde(default)]
    pub auth: Option<Secret>,
}

impl Server {
    /// Starts to describe a server; give it a [`Server::url`] or a [`Server::command`].
    pub fn new(id: impl Into<String>) -> Server {
        Server {
            id: id.into(),
            name: None,
            aliases: Vec::new(),
            url: None,
            command: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            cwd: None,
            transport: None,
            rest: BTreeMap::new(),
            capabilities: Vec::new(),
            tier: None,
            group: None,
            tags: Vec::new(),
            health_path: None,
            fallback: Vec::new(),
            weight: 1.0,
            priority: 0,
            max_connections: None,
            timeout: None,
            headers: BTreeMap::new(),
            auth: None,
        }
    }

    /// Sets the address.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Server {
        self.url = Some(url.into());
        self
    }

    /// Sets the program and its arguments.
    #[must_use]
    pub fn command(mut self, command: impl Into<String>, args: impl IntoIterator<Item = impl Into<String>>) -> Server {
        self.command = Some(command.into());
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets one variable of the program's environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Server {
        self.env.insert(name.into(), Secret::new(value));
        self
    }

    /// Maps a tool, or `"*"`, to a path of a REST server.
    #[must_use]
    pub fn rest(mut self, tool: impl Into<String>, path: impl Into<String>) -> Server {
        self.rest.insert(tool.into(), RestRoute::Path(path.into()));
        self.transport = Some(Transport::Rest);
        self
    }

    /// Adds a capability.
    #[must_use]
    pub fn capability(mut self, capability: impl Into<String>) -> Server {
        self.capabilities.push(capability.into());
        self
    }

    /// Sets the tier.
    #[must_use]
    pub fn tier(mut self, tier: impl Into<String>) -> Server {
        self.tier = Some(tier.into());
        self
    }

    /// Sets the group.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Server {
        self.group = Some(group.into());
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Server {
        self.tags.push(tag.into());
        self
    }

    /// Sets the path of its health check.
    #[must_use]
    pub fn health_path(mut self, path: impl Into<String>) -> Server {
        self.health_path = Some(path.into());
        self
    }

    /// Adds a server to ask in its place.
    #[must_use]
    pub fn fallback(mut self, id: impl Into<String>) -> Server {
        self.fallback.push(id.into());
        self
    }

    /// Sets its share of calls.
    #[must_use]
    pub fn weight(mut self, weight: f64) -> Server {
        self.weight = weight;
        self
    }

    /// Sets its place within the tier; higher goes first.
    #[must_use]
    pub fn priority(mut self, priority: i64) -> Server {
        self.priority = priority;
        self
    }

    /// Sets the most calls at once.
    #[must_use]
    pub fn max_connections(mut self, calls: usize) -> Server {
        self.max_connections = Some(calls);
        self
    }

    /// Sets the deadline of one call.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Server {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the bearer token.
    #[must_use]
    pub fn auth(mut self, token: impl Into<String>) -> Server {
        self.auth = Some(Secret::new(token));
        self
    }

    /// Returns how it is spoken to, if that can be told.
    pub fn transport(&self) -> Option<Transport> {
        self.transport.or(match (&self.command, &self.url) {
            (Some(_), _) => Some(Transport::Stdio),
            (None, Some(url)) if url.starts_with(BUILTIN) => Some(Transport::Builtin),
            (None, Some(_)) if !self.rest.is_empty() => Some(Transport::Rest),
            (None, Some(url)) if url.trim_end_matches('/').ends_with("/sse") => Some(Transport::Sse),
            (None, Some(_)) => Some(Transport::Http),
            (None, None) => None,
        })
    }

    /// Gives it the name by which a server is known already; its own is another spelling.
    pub(crate) fn known_as(mut self, known: &Server) -> Server {
        let spelled = std::mem::replace(&mut self.id, known.id.clone());
        if spelled != self.id && !self.aliases.contains(&spelled) {
            self.aliases.push(spelled);
        }
        self
    }

    /// Returns the last part of its id, which is a name for it where no other has the same.
    pub(crate) fn short_id(&self) -> &str {
        self.id.rsplit('/').next().unwrap_or(&self.id)
    }

    /// Returns whether it can do `capability`, in any case.
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|own| same_word(own, capability))
    }

    /// Fills in what is inferred, and refuses what cannot work.
    pub(crate) fn checked(mut self, operation: &'static str) -> Result<Server> {
        let wrong = |field: &str, message: &str| Err(Error::invalid(operation, field, message));
        name(operation, "id", &self.id)?;
        if key(&self.id).is_empty() {
            return wrong("id", "must hold a letter or a digit");
        }
        let lists = [
            ("aliases", &self.aliases),
            ("capabilities", &self.capabilities),
            ("tags", &self.tags),
            ("fallback", &self.fallback),
        ];
        for (field, list) in lists {
            list.iter().try_for_each(|item| name(operation, field, item))?;
        }
        for (field, item) in [("name", &self.name), ("tier", &self.tier), ("group", &self.group)] {
            item.iter().try_for_each(|item| name(operation, field, item))?;
        }
        let texts =
            [("url", &self.url), ("command", &self.command), ("cwd", &self.cwd), ("health_path", &self.health_path)];
        for (field, item) in texts {
            item.iter().try_for_each(|item| text_field(operation, field, item))?;
        }
        self.args.iter().filter(|arg| !arg.is_empty()).try_for_each(|arg| text_field(operation, "args", arg))?;
        if self.env.keys().any(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return wrong("env", "holds a name that no environment takes");
        }
        if !(self.weight.is_finite() && self.weight > 0.0) {
            return wrong("weight", "must be a number above 0");
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return wrong("timeout", "must be above 0, or left out");
        }
        if self.max_connections == Some(0) {
            return wrong("max_connections", "must be at least 1, or left out");
        }
        match self.transport() {
            None => return wrong("url", "is required, unless `command` is given"),
            Some(Transport::Stdio) if self.command.is_none() => return wrong("command", "is required for stdio"),
            Some(Transport::Stdio) => {}
            Some(_) if self.url.is_none() => return wrong("url", "is required for this transport"),
            Some(Transport::Builtin) if !self.url.as_deref().is_some_and(|url| url.starts_with(BUILTIN)) => {
                return wrong("url", "must be sophia://memory or sophia://graph for a built-in server");
            }
            Some(Transport::Rest) if self.rest.is_empty() => {
                return wrong("rest", "is required for a REST server, such as {\"*\": \"/{tool}\"}");
            }
            Some(_) => {}
        }
        self.transport = self.transport();
        Ok(self)
    }

    /// Returns whether a call to `other` goes to the same place, so that its sessions may stay.
    pub(crate) fn same_endpoint(&self, other: &Server) -> bool {
        self.transport == other.transport
            && self.url == other.url
            && self.command == other.command
            && self.args == other.args
            && self.env == other.env
            && self.cwd == other.cwd
            && self.rest == other.rest
            && self.headers == other.headers
            && self.auth == other.auth
            && self.max_connections == other.max_connections
    }
}

/// Returns the form of an id by which servers are told apart: without case, `-` and `_`.
pub(crate) fn key(id: &str) -> String {
    id.trim().to_lowercase().replace(['-', '_', ' '], "")
}

/// Returns whether two words are the same but for case, `-` and `_`.
pub(crate) fn same_word(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || key(a) == key(b)
}

/// Refuses what cannot be a name.
pub(crate) fn name(operation: &'static str, field: &str, value: &str) -> Result<()> {
    if value.trim().is_empty() {
        return Err(Error::invalid(operation, field, "must not be empty"));
    }
    if value.len() > MAX_NAME_BYTES {
        return Err(Error::invalid(operation, field, format!("must not be longer than {MAX_NAME_BYTES} bytes")));
    }
    if value.chars().any(char::is_control) {
        return Err(Error::invalid(operation, field, "must not hold control characters"));
    }
    Ok(())
}

fn text_field(operation: &'static str, field: &str, value: &str) -> Result<()> {
    if value.trim().is_empty() {
        return Err(Error::invalid(operation, field, "must not be empty"));
    }
    if value.len() > MAX_TEXT_BYTES {
        return Err(Error::invalid(operation, field, format!("must not be longer than {MAX_TEXT_BYTES} bytes")));
    }
    if value.contains('\0') {
        return Err(Error::invalid(operation, field, "must not hold a NUL"));
    }
    Ok(())
}

fn one() -> f64 {
    1.0
}

/// Reads null as the default, which is how hosts without optional fields leave one out.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Tier {
        Number(i64),
        Word(String),
    }
    Ok(Option::<Tier>::deserialize(deserializer)?.map(|tier| match tier {
        Tier::Number(number) => number.to_string(),
        Tier::Word(word) => word,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transport_is_inferred() {
        let cases = [
            (Server::new("a").command("npx", ["x"]), Transport::Stdio),
            (Server::new("a").url("http://127.0.0.1:1"), Transport::Http),
            (Server::new("a").url("http://127.0.0.1:1/sse"), Transport::Sse),
            (Server::new("a").url("http://127.0.0.1:1").rest("*", "/{tool}"), Transport::Rest),
            (Server::new("a").url("sophia://memory"), Transport::Builtin),
        ];
        for (server, transport) in cases {
            assert_eq!(server.checked("test").unwrap().transport, Some(transport));
        }
    }

    #[test]
    fn what_cannot_be_a_server_is_refused_by_field() {
        let ok = || Server::new("a").url("http://127.0.0.1:1");
        let cases = [
            (Server::new("a"), "url"),
            (Server { id: " ".into(), ..ok() }, "id"),
            (Server { id: "--".into(), ..ok() }, "id"),
            (Server { id: "x".repeat(1_000), ..ok() }, "id"),
            (Server { id: "a\0".into(), ..ok() }, "id"),
            (ok().weight(f64::NAN), "weight"),
            (ok().weight(0.0), "weight"),
            (ok().max_connections(0), "max_connections"),
            (Server { transport: Some(Transport::Stdio), ..ok() }, "command"),
            (Server { transport: Some(Transport::Rest), ..ok() }, "rest"),
            (Server { transport: Some(Transport::Builtin), ..ok() }, "url"),
            (ok().env("A=B", "x"), "env"),
        ];
        for (server, field) in cases {
            let error = server.checked("registry.register").unwrap_err();
            assert_eq!((error.code(), error.get("field")), ("INVALID_INPUT", Some(field)));
        }
    }

    #[test]
    fn secrets_of_a_server_are_not_shown() {
        let server = Server::new("a").command("x", [""; 0]).env("TOKEN", "s3cret").auth("s3cret");
        let shown = format!("{server:?} {}", serde_json::to_string(&server).unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
