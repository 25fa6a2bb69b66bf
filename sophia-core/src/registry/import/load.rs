//! Loading: what is asked for, what came of it, and how several documents about one server become one.

use std::path::PathBuf;

use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{dialect, entry, file};
use crate::{
    Error, Result,
    registry::server::{self, Server},
};

const LOAD: &str = "registry.load";

/// What to load.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Load {
    /// The document itself, or the path of a JSON or YAML file.
    pub config: Value,
    /// Name of the source in reports and conflicts. Default: the path. Loading a source again replaces what it claimed: a server
    /// that it no longer names is taken out, unless another source or `register` named it, too.
    #[serde(default)]
    pub source: Option<String>,
}

impl Load {
    /// Loads a document.
    pub fn value(config: Value) -> Load {
        Load { config, source: None }
    }

    /// Loads a `.json`, `.jsonc`, `.yaml` or `.yml` file.
    pub fn file(path: impl Into<PathBuf>) -> Load {
        Load { config: Value::String(path.into().to_string_lossy().into_owned()), source: None }
    }

    /// Names the source.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Load {
        self.source = Some(source.into());
        self
    }
}

/// What came of a load.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct LoadReport {
    /// Form in which the servers were written, such as `mcpServers`.
    pub dialect: String,
    /// Name of the source.
    pub source: String,
    /// Ids of servers that are new.
    pub loaded: Vec<String>,
    /// Ids of servers that were known and have learned something.
    pub updated: Vec<String>,
    /// Ids of servers that this source had named before, and that nobody names any more: they were taken out.
    pub removed: Vec<String>,
    /// Entries that could not be loaded; the others were.
    pub errors: Vec<LoadError>,
    /// What is worth knowing, for people.
    pub warnings: Vec<String>,
}

/// An entry that could not be loaded.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct LoadError {
    /// Name of the entry, if it has one.
    pub server: Option<String>,
    /// What is wrong with it.
    pub message: String,
}

/// A document that has been read, before it meets the directory.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub dialect: &'static str,
    pub entries: Vec<entry::Entry>,
    pub errors: Vec<LoadError>,
    pub warnings: Vec<String>,
}

/// Reads a file if the config names one.
pub(crate) async fn document(config: Value) -> Result<Value> {
    let Value::String(path) = config else { return Ok(config) };
    if path.trim().is_empty() || path.contains('\0') {
        return Err(Error::invalid(LOAD, "config", "must be a mapping or the path of a file"));
    }
    tokio::task::spawn_blocking(move || file::read(LOAD, &PathBuf::from(path)))
        .await
        .map_err(|error| Error::new(crate::ErrorKind::Internal, LOAD, "the reader stopped").with_source(error))?
}

/// Reads every entry of a document; one that is wrong does not keep the others out.
pub(crate) fn parse(document: Value, source: Option<&str>) -> Result<Parsed> {
    let has_more =
        document.pointer("/metadata/nextCursor").and_then(Value::as_str).is_some_and(|next| !next.is_empty());
    let found = dialect::find(LOAD, document).map_err(|error| match source {
        Some(source) => error.with("source", source),
        None => error,
    })?;
    let mut parsed = Parsed { dialect: found.dialect, entries: Vec::new(), errors: Vec::new(), warnings: Vec::new() };
    if has_more {
        parsed
            .warnings
            .push("this is one page of several (`nextCursor`): the servers of the others are not in it".to_owned());
    }
    let error = |server, message| LoadError { server, message };
    for unnamed in found.unnamed {
        parsed.errors.push(error(None, format!("an entry has no `name` or `id`: it is {unnamed}")));
    }
    for item in found.items {
        let name = item.name.clone();
        match entry::read(item) {
            Ok(entry) if entry.disabled => parsed.warnings.push(format!("`{name}`: switched off, not loaded")),
            Ok(mut entry) => match entry.server.clone().checked(LOAD) {
                Ok(_) => {
                    parsed.warnings.append(&mut entry.warnings);
                    parsed.entries.push(entry);
                }
                Err(wrong) => parsed.errors.push(error(Some(name), wrong.message().to_owned())),
            },
            Err(wrong) => parsed.errors.push(error(Some(name), wrong)),
        }
    }
    Ok(parsed)
}

/// Merges what a further document says into what is known. It wins where it says something, unless it only spells the name
/// in another way.
pub(crate) fn merge(known: &Server, new: Server) -> Server {
    let mut merged = known.clone();
    let alias = new.id != known.id;
    if alias && !merged.aliases.contains(&new.id) {
        merged.aliases.push(new.id.clone());
    }
    let unset = |known: bool| !alias || !known;
    if new.command.is_some() && unset(merged.transport.is_some()) {
        (merged.headers, merged.auth) = Default::default();
        (merged.command, merged.args, merged.env) = (new.command, new.args, new.env);
        (merged.cwd, merged.url, merged.transport) = (new.cwd, None, new.transport);
    } else if new.url.is_some() && unset(merged.transport.is_some()) {
        if !is_same_origin(merged.url.as_deref(), new.url.as_deref()) {
            // What one server is known by is not for another.
            (merged.headers, merged.auth) = Default::default();
        }
        if merged.command.is_some() {
            (merged.args, merged.env, merged.cwd) = Default::default();
        }
        merged.transport = new.transport.or(merged.transport.filter(|_| merged.url.is_some()));
        (merged.url, merged.command) = (new.url, None);
    }
    macro_rules! take {
        ($($field:ident),*) => {$(
            if new.$field.is_some() && unset(merged.$field.is_some()) {
                merged.$field = new.$field;
            }
        )*};
    }
    take!(name, tier, group, health_path, max_connections, timeout, auth);
    for (list, more) in [(&mut merged.capabilities, new.capabilities), (&mut merged.tags, new.tags)] {
        for word in more {
            if !list.iter().any(|known| server::same_word(known, &word)) {
                list.push(word);
            }
        }
    }
    if !new.fallback.is_empty() && unset(!merged.fallback.is_empty()) {
        merged.fallback = new.fallback;
    }
    if !new.rest.is_empty() && unset(!merged.rest.is_empty()) {
        merged.rest = new.rest;
    }
    for (name, value) in new.headers {
        if unset(merged.headers.keys().any(|known| known.eq_ignore_ascii_case(&name))) {
            merged.headers.retain(|known, _| !known.eq_ignore_ascii_case(&name));
            merged.headers.insert(name, value);
        }
    }
    #[allow(clippy::float_cmp, reason = "compares with the exact default")]
    if new.weight != 1.0 && unset(merged.weight != 1.0) {
        merged.weight = new.weight;
    }
    if new.priority != 0 && unset(merged.priority != 0) {
        merged.priority = new.priority;
    }
    merged
}

/// Returns whether two addresses are of one server. What cannot be read, such as a variable, is only the same as itself.
fn is_same_origin(known: Option<&str>, new: Option<&str>) -> bool {
    let origin = |url: Option<&str>| Some(Url::parse(url?).ok()?.origin());
    known == new || origin(known).is_some_and(|known| origin(new).is_some_and(|new| known == new))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Secret;

    #[test]
    fn what_a_server_is_known_by_does_not_follow_to_another_address() {
        let with = |mut server: Server, name: &str, value: &str| {
            server.headers.insert(name.to_owned(), Secret::new(value));
            server
        };
        let known = with(Server::new("a").url("https://a.example/mcp"), "Authorization", "Bearer MINE");
        let known = known.checked("test").unwrap();
        let headers =
            |new: Server| merge(&known, new).headers.values().map(|v| v.expose().to_owned()).collect::<Vec<_>>();
        assert_eq!(headers(Server::new("a").url("https://a.example/other")), ["Bearer MINE"]);
        assert!(headers(Server::new("a").url("https://b.example/mcp")).is_empty());
        assert!(headers(Server::new("a").command("npx", ["x"])).is_empty());
        let theirs = with(Server::new("a").url("https://b.example/mcp"), "authorization", "Bearer THEIRS");
        assert_eq!(headers(theirs), ["Bearer THEIRS"]);
        // Another spelling only adds.
        let spelled = with(Server::new("A_").url("https://b.example/mcp"), "authorization", "Bearer THEIRS");
        assert_eq!(headers(spelled), ["Bearer MINE"]);
    }

    #[test]
    fn a_url_takes_nothing_of_the_command_in_whose_place_it_comes() {
        let mut known = Server::new("a").command("npx", ["--token=x"]);
        known.cwd = Some("/tmp".to_owned());
        known.env.insert("TOKEN".to_owned(), Secret::new("x"));
        let merged = merge(&known.checked("test").unwrap(), Server::new("a").url("https://a.example/mcp"));
        assert_eq!((merged.command, merged.args, merged.env, merged.cwd), Default::default());
    }

    #[test]
    fn a_page_that_others_follow_says_so() {
        let warnings = |metadata: Value| {
            let server = json!({"name": "io.x/a", "remotes": [{"type": "sse", "url": "https://x.example/sse"}]});
            parse(json!({"servers": [{"server": server, "_meta": {}}], "metadata": metadata}), None).unwrap().warnings
        };
        assert!(warnings(json!({"count": 1})).is_empty() && warnings(json!({"nextCursor": ""})).is_empty());
        assert!(warnings(json!({"nextCursor": "io.x/a:1"}))[0].contains("nextCursor"));
    }

    #[test]
    fn a_second_source_adds_and_wins_but_another_spelling_only_adds() {
        let known = Server::new("github").url("http://127.0.0.1:9007").capability("code").tier("1");
        let known = known.checked("test").unwrap();
        let merged =
            merge(&known, Server::new("github").url("http://127.0.0.1:9016").capability("CODE").capability("pr"));
        assert_eq!((merged.url.as_deref(), merged.tier.as_deref()), (Some("http://127.0.0.1:9016"), Some("1")));
        assert_eq!(merged.capabilities, ["code", "pr"]);
        let merged = merge(&known, Server::new("git-hub").url("http://127.0.0.1:1").group("core"));
        assert_eq!((merged.url.as_deref(), merged.group.as_deref()), (Some("http://127.0.0.1:9007"), Some("core")));
        assert_eq!(merged.aliases, ["git-hub"]);
    }

    #[test]
    fn a_command_takes_the_place_of_a_port() {
        let known = Server::new("a").url("http://127.0.0.1:1").checked("test").unwrap();
        let merged = merge(&known, Server::new("a").command("npx", ["x"])).checked("test").unwrap();
        assert_eq!((merged.url, merged.transport), (None, Some(server::Transport::Stdio)));
    }
}
