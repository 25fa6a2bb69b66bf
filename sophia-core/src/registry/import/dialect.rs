//! Which form a document has, and where its entries are.

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Fields under which a document may keep its servers.
const SERVER_FIELDS: [&str; 8] =
    ["mcpServers", "servers", "active_servers", "mcp_servers", "server_ports", "ports", "mcp", "context_servers"];

/// What every known form looks like, for the error that says that a document has none of them.
const KNOWN: &str = "`mcpServers` (Claude, Cursor, Windsurf), `servers` (VS Code, or a list of {name, url | port}), \
     {name: port}, {group: {name: port}}, `active_servers`, [{name, url | port}], or a server.json with `remotes` or `packages`";

/// One entry, not yet read.
#[derive(Debug, PartialEq)]
pub(crate) struct Item {
    pub name: String,
    pub group: Option<String>,
    /// What routing rules elsewhere in the document say that it can do.
    pub capabilities: Vec<String>,
    pub value: Value,
}

/// The entries of a document, and the form in which they were written.
#[derive(Debug, PartialEq)]
pub(crate) struct Found {
    pub dialect: &'static str,
    pub items: Vec<Item>,
    /// Entries that have no name.
    pub unnamed: Vec<String>,
}

/// Finds the entries of a document.
///
/// # Errors
/// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) where none are found: it says what was there, and what is known.
pub(crate) fn find(operation: &'static str, document: Value) -> Result<Found> {
    let shown = describe(&document);
    let unknown = || {
        Error::invalid(operation, "config", format!("has no servers in a known form: it is {shown}. Known are {KNOWN}"))
    };
    match document {
        Value::Array(list) => list_of(list).ok_or_else(unknown),
        Value::Object(object) => in_object(object).ok_or_else(unknown),
        _ => Err(unknown()),
    }
}

fn in_object(object: Map<String, Value>) -> Option<Found> {
    let mut object = unwrapped(object);
    if is_official(&object) {
        return Some(official(object));
    }
    let rules = object.get_mut("routing").and_then(|routing| routing.get_mut("rules")).map(Value::take);
    let mut found: Option<Found> = None;
    let mut is_understood = true;
    for field in SERVER_FIELDS {
        // A server may have that name.
        let Some(value) =
            object.get(field).is_some_and(|value| !is_port(value)).then(|| object.remove(field)).flatten()
        else {
            continue;
        };
        let inner = match (field, value) {
            ("mcpServers", Value::Object(servers)) => Some(named("mcpServers", servers, None)),
            ("mcp", Value::Object(inner)) => in_object(inner),
            (_, Value::Array(list)) => list_of(list),
            (_, Value::Object(servers)) => named_or_grouped(field, servers),
            _ => None,
        };
        is_understood &= inner.is_some();
        match (&mut found, inner) {
            (Some(found), Some(inner)) => {
                found.items.extend(inner.items);
                found.unnamed.extend(inner.unnamed);
            }
            (None, inner) => found = inner,
            (_, None) => {}
        }
    }
    let mut found = found.or_else(|| if is_understood { bare(object) } else { None })?;
    if let Some(rules) = rules {
        add_rules(&mut found.items, &rules);
    }
    Some(found)
}

/// Takes a `server.json` out of what the API of the public registry puts around it.
fn unwrapped(mut object: Map<String, Value>) -> Map<String, Value> {
    match object.get_mut("server") {
        Some(Value::Object(server)) if is_official(server) => std::mem::take(server),
        _ => object,
    }
}

fn is_official(object: &Map<String, Value>) -> bool {
    object.get("name").is_some_and(Value::is_string) && ["remotes", "packages"].iter().any(|f| object.contains_key(*f))
}

/// `{name: entry}` without a field around it.
fn bare(object: Map<String, Value>) -> Option<Found> {
    let object: Map<_, _> = object.into_iter().filter(|(name, _)| !is_remark(name)).collect();
    let entries = object.values().all(|value| is_port(value) || is_entry(value));
    if !object.is_empty() && entries {
        return Some(named("{name: port}", object, None));
    }
    let has_group =
        object.values().any(|value| matches!(value, Value::Object(_) | Value::Array(_)) && !is_entry(value));
    if has_group { named_or_grouped("groups", object).filter(|found| !found.items.is_empty()) } else { None }
}

/// Entries by name, some of which may be groups of entries.
fn named_or_grouped(field: &'static str, object: Map<String, Value>) -> Option<Found> {
    let has_stdio = object.values().any(|value| value.get("command").is_some() || value.get("type").is_some());
    let dialect = match field {
        "servers" if has_stdio => "servers (VS Code)",
        "servers" => "servers",
        "active_servers" => "active_servers",
        "groups" => "{group: {name: port}}",
        _ => "{name: port}",
    };
    let mut found = Found { dialect, items: Vec::new(), unnamed: Vec::new() };
    for (name, value) in object {
        let group = match value {
            _ if is_remark(&name) => continue,
            Value::Object(ref inner) if !is_entry(&value) => {
                let members = inner.get("servers").unwrap_or(&value);
                match members {
                    Value::Object(members)
                        if !members.is_empty()
                            && members.values().all(|v| is_port(v) || is_entry(v) || is_address(v)) =>
                    {
                        Some(named(dialect, members.clone(), Some(&name)))
                    }
                    Value::Array(list) => list_of(list.clone()),
                    _ => None,
                }
            }
            Value::Array(ref list) => list_of(list.clone()),
            _ => None,
        };
        match group {
            Some(group) => {
                let items =
                    group.items.into_iter().map(|item| Item { group: item.group.or(Some(name.clone())), ..item });
                found.items.extend(items);
                found.unnamed.extend(group.unnamed);
            }
            None => found.items.push(Item { name, group: None, capabilities: Vec::new(), value }),
        }
    }
    // A form that is only guessed must at least hold one entry that can be read.
    let sure = field != "groups" || found.items.iter().any(|item| is_port(&item.value) || is_entry(&item.value));
    sure.then_some(found)
}

fn named(dialect: &'static str, object: Map<String, Value>, group: Option<&str>) -> Found {
    let item = |(name, value)| Item { name, group: group.map(str::to_owned), capabilities: Vec::new(), value };
    Found { dialect, items: object.into_iter().map(item).collect(), unnamed: Vec::new() }
}

/// `[{name, url | port | command}]`
fn list_of(list: Vec<Value>) -> Option<Found> {
    let is_object = |value| match value {
        Value::Object(object) => Some(Value::Object(unwrapped(object))),
        _ => None,
    };
    let list = list.into_iter().map(is_object).collect::<Option<Vec<_>>>().filter(|list| !list.is_empty())?;
    let mut found = Found { dialect: "[{name, url | port}]", items: Vec::new(), unnamed: Vec::new() };
    for value in list {
        let name = ["id", "name", "server", "server_name"].iter().find_map(|field| value.get(*field)?.as_str());
        match name.map(str::to_owned) {
            Some(name) => found.items.push(Item { name, group: None, capabilities: Vec::new(), value }),
            None => found.unnamed.push(describe(&value)),
        }
    }
    (!found.items.is_empty()).then_some(found)
}

/// The official `server.json`: one server, as the public registry describes it.
fn official(object: Map<String, Value>) -> Found {
    // The caller saw that it is a string.
    let name = object.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let item = Item { name, group: None, capabilities: Vec::new(), value: Value::Object(object) };
    Found { dialect: "server.json", items: vec![item], unnamed: Vec::new() }
}

/// Gives servers the capabilities that a gateway's rules route to them.
fn add_rules(items: &mut [Item], rules: &Value) {
    for rule in rules.as_array().into_iter().flatten() {
        let words = ["capability", "capabilities", "intent"].iter().filter_map(|field| rule.get(*field));
        let words: Vec<String> = words.flat_map(strings).collect();
        let targets = ["server", "servers", "target"].iter().filter_map(|field| rule.get(*field));
        let targets: Vec<String> = targets.flat_map(strings).collect();
        for item in items.iter_mut().filter(|item| targets.contains(&item.name)) {
            item.capabilities.extend(words.iter().cloned());
        }
    }
}

/// Returns the texts in a text or a list of texts.
pub(crate) fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) => list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

fn is_port(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_u64(),
        Value::String(text) => !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()),
        _ => false,
    }
}

fn is_address(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.contains("://"))
}

/// Whether an object says where one server is.
pub(crate) fn is_entry(value: &Value) -> bool {
    const PLACES: [&str; 9] =
        ["command", "url", "serverUrl", "httpUrl", "port", "endpoint", "base_url", "baseUrl", "uri"];
    value.as_object().is_some_and(|object| {
        PLACES.iter().any(|place| object.get(*place).is_some_and(|value| value.is_string() || value.is_number()))
            && !object.values().any(|value| value.get("port").is_some() || value.get("command").is_some())
    })
}

fn is_remark(name: &str) -> bool {
    name.starts_with(['_', '$']) || matches!(name, "inputs" | "version" | "description")
}

/// Says what a value is without showing what it holds.
fn describe(value: &Value) -> String {
    match value {
        Value::Object(object) if object.is_empty() => "an empty object".to_owned(),
        Value::Object(object) => {
            let fields: Vec<_> = object.keys().take(8).map(|field| format!("`{}`", shorten(field))).collect();
            let more = if object.len() > 8 { ", …" } else { "" };
            format!("an object with the fields {}{more}", fields.join(", "))
        }
        Value::Array(list) if list.is_empty() => "an empty list".to_owned(),
        Value::Array(list) => format!("a list that begins with {}", describe(&list[0])),
        Value::String(_) => "a text".to_owned(),
        Value::Number(_) => "a number".to_owned(),
        Value::Bool(_) => "a boolean".to_owned(),
        Value::Null => "null".to_owned(),
    }
}

fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(document: Value) -> (&'static str, Vec<String>) {
        let found = find("test", document).unwrap();
        (found.dialect, found.items.into_iter().map(|item| item.name).collect())
    }

    #[test]
    fn every_form_is_told_apart() {
        let cases = [
            (json!({"mcpServers": {"a": {"command": "npx"}, "b": {"url": "http://x"}}}), "mcpServers"),
            (
                json!({"servers": {"a": {"type": "stdio", "command": "x"}, "b": {"type": "http", "url": "u"}}, "inputs": []}),
                "servers (VS Code)",
            ),
            (json!({"mcp": {"servers": {"a": {"command": "x"}, "b": {"command": "y"}}}}), "servers (VS Code)"),
            (json!({"a": 9001, "b": "9002"}), "{name: port}"),
            (json!({"active_servers": {"a": 9001, "b": 9002}}), "active_servers"),
            (json!({"core": {"a": 9001}, "data": {"b": 9002}}), "{group: {name: port}}"),
            (json!({"core": {"servers": {"a": 9001, "b": {"port": 9002}}}}), "{group: {name: port}}"),
            (json!([{"name": "a", "url": "http://x"}, {"name": "b", "port": 1}]), "[{name, url | port}]"),
            (json!({"servers": [{"name": "a", "port": 1, "tier": 1}, {"id": "b", "port": 2}]}), "[{name, url | port}]"),
            (json!({"servers": {"a": {"port": 1, "tier": "primary"}, "b": {"port": 2}}}), "servers"),
        ];
        for (document, dialect) in cases {
            assert_eq!(names(document.clone()), (dialect, vec!["a".to_owned(), "b".to_owned()]), "{document}");
        }
        assert_eq!(names(json!({"name": "io.x/y", "remotes": []})), ("server.json", vec!["io.x/y".to_owned()]));
    }

    #[test]
    fn pages_of_the_public_registry_are_read() {
        let wrapped = |name: &str| json!({"server": {"name": name, "remotes": []}, "_meta": {"status": "active"}});
        let page = json!({"servers": [wrapped("io.x/a"), wrapped("io.x/b")], "metadata": {"count": 2}});
        assert_eq!(names(page).1, ["io.x/a", "io.x/b"]);
        assert_eq!(names(wrapped("io.x/a")), ("server.json", vec!["io.x/a".to_owned()]));
        let unknown = json!({"servers": [{"record": {}}], "metadata": {"count": 1}});
        assert_eq!(find("test", unknown).unwrap_err().code(), "INVALID_INPUT");
        assert_eq!(names(json!({"mcp": 9001, "ports": 9002})).1, ["mcp", "ports"]);
    }

    #[test]
    fn groups_and_rules_are_kept() {
        let found = find("test", json!({"core": {"a": 1}, "data": [{"name": "b", "port": 2}]})).unwrap();
        let groups: Vec<_> = found.items.iter().map(|item| item.group.as_deref()).collect();
        assert_eq!(groups, [Some("core"), Some("data")]);
        let routed =
            json!({"servers": {"a": {"port": 1}}, "routing": {"rules": [{"capability": "code", "servers": ["a"]}]}});
        assert_eq!(find("test", routed).unwrap().items[0].capabilities, ["code"]);
    }

    #[test]
    fn an_unknown_form_is_shown_without_its_values() {
        for document in [
            json!({"theme": "s3cret", "editor": {"x": true}}),
            json!({}),
            json!([]),
            json!("s3cret"),
            json!(3),
            json!([1]),
        ] {
            let error = find("registry.load", document.clone()).unwrap_err();
            assert!(error.message().contains("mcpServers") && !error.message().contains("s3cret"), "{error}");
        }
        let error = find("registry.load", json!({"theme": 1.5, "editor": {}})).unwrap_err();
        assert!(error.message().contains("`theme`, `editor`"), "{error}");
    }
}
