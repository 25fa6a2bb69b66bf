//! What the documentation says is checked: the fields of the configuration, and every link.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{fmt::Write, fs, path::PathBuf};

use serde_json::{Map, Value};
use sophia_core::Config;

const BEGIN: &str =
    "<!-- Written by `UPDATE_DOCS=1 cargo test -p sophia-examples`; what stands above is by hand. -->\n";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Markdown file that is by hand: those of the root, of `docs` and of its folders.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut folders = vec![root(), root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() && folder != root() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "md") {
                pages.push(entry);
            }
        }
    }
    pages
}

/// The fenced blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    text.split(&opening).skip(1).filter_map(|rest| rest.split("\n```").next()).map(str::to_owned).collect()
}

#[test]
fn every_field_of_the_configuration_is_documented() {
    let path = root().join("docs/configuration.md");
    let text = fs::read_to_string(&path).unwrap();
    let (by_hand, written) = text.split_once(BEGIN).expect("the line that begins the written part");
    let fresh = Reference::new(&serde_json::to_value(Config::schema()).unwrap()).render();
    if written == fresh {
        return;
    }
    assert!(std::env::var_os("UPDATE_DOCS").is_some(), "docs/configuration.md is not current: {BEGIN}");
    // In one step, since the other tests of this file read the page.
    let beside = path.with_extension("new");
    fs::write(&beside, format!("{by_hand}{BEGIN}{fresh}")).unwrap();
    fs::rename(beside, path).unwrap();
}

#[test]
fn configurations_in_the_documentation_are_accepted() {
    let mut seen = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for block in blocks(&text, "toml") {
            // Variables that are named in it are not set here.
            let read = Config::from_toml(&block.replace("${", "{")).and_then(sophia_core::Sophia::new);
            assert!(read.is_ok(), "{}: {read:?}\n{block}", page.display());
            seen += 1;
        }
    }
    assert!(seen > 0);
}

#[test]
fn links_lead_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            let elsewhere = file.is_empty() || file.contains("://") || file.contains("::");
            assert!(elsewhere || page.with_file_name(file).exists(), "{}: {target}", page.display());
        }
    }
}

/// Tables of every field, from the JSON Schema of the configuration.
struct Reference<'a> {
    root: &'a Value,
    text: String,
}

impl<'a> Reference<'a> {
    fn new(root: &'a Value) -> Reference<'a> {
        Reference { root, text: String::new() }
    }

    fn render(mut self) -> String {
        self.section("", self.root);
        self.text
    }

    /// One table with the plain fields of a section, then its sections.
    fn section(&mut self, path: &str, schema: &'a Value) {
        let Some(fields) = schema["properties"].as_object() else { return };
        let (sections, plain): (Vec<_>, Vec<_>) = fields
            .iter()
            .map(|(name, field)| (name, field, self.inner(field)))
            .partition(|(_, _, inner)| inner.is_some());
        if !path.is_empty() {
            writeln!(self.text, "\n## `{path}`\n\n{}", prose(schema)).unwrap();
        }
        if !plain.is_empty() {
            self.text.push_str("\n| field | type | default | what it is |\n|---|---|---|---|\n");
        }
        let required = schema["required"].as_array();
        for (name, field, _) in plain {
            let required = required.is_some_and(|names| names.contains(&Value::String(name.clone())));
            let (kind, default) = (self.kind(field), default(field, required));
            writeln!(self.text, "| `{name}` | {kind} | {default} | {} |", prose(field)).unwrap();
        }
        for (name, _, inner) in sections {
            let Some((schema, suffix)) = inner else { continue };
            let dot = if path.is_empty() { "" } else { "." };
            self.section(&format!("{path}{dot}{name}{suffix}"), schema);
        }
    }

    /// The section that a field opens, if it is one: itself, or that of its items or of its values.
    fn inner(&self, field: &'a Value) -> Option<(&'a Value, &'static str)> {
        let schema = self.resolve(field);
        let several = [("items", "[]"), ("additionalProperties", ".NAME")];
        let one = schema.get("properties").map(|_| (schema, ""));
        one.or_else(|| {
            several.into_iter().find_map(|(keyword, suffix)| {
                let inner = self.resolve(schema.get(keyword)?);
                inner.get("properties").map(|_| (inner, suffix))
            })
        })
    }

    fn kind(&self, field: &'a Value) -> String {
        if field.to_string().contains("#/$defs/DurationSchema") {
            return "duration".to_owned();
        }
        let schema = self.resolve(field);
        if let Some(choices) = schema.get("enum").and_then(Value::as_array) {
            return choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ");
        }
        if let Some(choices) = schema.get("oneOf").and_then(Value::as_array) {
            let names = choices.iter().filter_map(|choice| choice.get("const"));
            return names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        }
        let names: Vec<&str> = match &schema["type"] {
            Value::String(name) => vec![name],
            Value::Array(names) => names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect(),
            _ => vec!["value"],
        };
        match names.as_slice() {
            ["array"] => {
                format!("list of {}", schema.get("items").map_or("value".to_owned(), |items| self.kind(items)))
            }
            ["object"] => "table".to_owned(),
            names => names.join(" or "),
        }
    }

    /// Follows references, and passes over the `null` of what is optional.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/$defs/")) {
            return self.resolve(&self.root["$defs"][name]);
        }
        let choices = schema["anyOf"].as_array();
        let some = choices.and_then(|choices| choices.iter().find(|choice| choice["type"] != "null"));
        some.map_or(schema, |some| self.resolve(some))
    }
}

fn default(field: &Value, required: bool) -> String {
    match field.get("default") {
        None if required => "required".to_owned(),
        // A secret, masked.
        Some(Value::String(text)) if text == "***" => "required".to_owned(),
        None | Some(Value::Null) => "none".to_owned(),
        Some(Value::Array(items)) if items.is_empty() => "none".to_owned(),
        Some(Value::Object(fields)) if *fields == Map::new() => "none".to_owned(),
        Some(value) => format!("`{value}`"),
    }
}

/// The first paragraph of a description, without the targets of rustdoc links.
fn prose(schema: &Value) -> String {
    let description = schema["description"].as_str().unwrap_or_default();
    let first = description.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    let mut text = String::new();
    let mut rest = first.as_str();
    while let Some((before, after)) = rest.split_once("](") {
        let (_target, further) = after.split_once(')').unwrap_or((after, ""));
        text.push_str(before);
        rest = further;
    }
    text.push_str(rest);
    text.replace("[`", "`").replace("`]", "`").replace('|', "\\|")
}
