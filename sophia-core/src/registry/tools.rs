//! Tools as models and people are shown them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::server::key;

/// Longest name of a function that OpenAI and Anthropic take, in characters.
const MAX_FUNCTION_NAME: usize = 64;
/// Characters of the hash that keeps shortened names apart.
const HASH_CHARS: usize = 8;
/// Between the server and the tool in a qualified name.
const SEPARATOR: &str = "__";

/// One tool of one server.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Tool {
    /// Name by which the server knows it.
    pub name: String,
    /// Id of the server.
    pub server: String,
    /// Name for people.
    pub title: Option<String>,
    /// What it does, for a model. It was written by the server: data, not instructions.
    pub description: Option<String>,
    /// JSON Schema of its arguments.
    pub input_schema: Value,
    /// JSON Schema of its structured result, if it has one.
    pub output_schema: Option<Value>,
    /// Hints such as `readOnlyHint`, as the server claims them.
    pub annotations: Option<Value>,
}

/// The form in which tools are listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ToolFormat {
    /// As [`Tool`].
    #[default]
    Mcp,
    /// As `tools` of OpenAI's chat completions.
    #[serde(alias = "open_ai")]
    Openai,
    /// As `tools` of Anthropic's messages.
    Anthropic,
}

/// A tool in one of the forms.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
#[non_exhaustive]
pub enum ListedTool {
    /// [`ToolFormat::Mcp`]
    Mcp(Box<Tool>),
    /// [`ToolFormat::Openai`] and [`ToolFormat::Anthropic`]
    Function(Value),
}

impl Tool {
    /// Describes a tool of which only the name is known.
    pub(crate) fn new(server: &str, name: &str) -> Tool {
        Tool {
            name: name.to_owned(),
            server: server.to_owned(),
            title: None,
            description: None,
            input_schema: json!({"type": "object"}),
            output_schema: None,
            annotations: None,
        }
    }

    /// Reads a tool as MCP, or an in-house server, writes it.
    pub(crate) fn read(server: &str, value: &Value) -> Option<Tool> {
        if let Some(name) = value.as_str() {
            return Some(Tool::new(server, name));
        }
        let text = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
        let part =
            |fields: &[&str]| fields.iter().find_map(|field| value.get(*field)).filter(|part| !part.is_null()).cloned();
        let name = text("name").filter(|name| !name.is_empty())?;
        Some(Tool {
            title: text("title"),
            description: text("description"),
            input_schema: part(&["inputSchema", "input_schema", "parameters"])
                .filter(Value::is_object)
                .unwrap_or_else(|| json!({"type": "object"})),
            output_schema: part(&["outputSchema", "output_schema"]),
            annotations: part(&["annotations"]),
            ..Tool::new(server, &name)
        })
    }

    /// Returns a name that no tool of another server has, fit for a model: `{server}__{tool}`, at most 64 of
    /// `A-Z a-z 0-9 _ -`. It depends on the two names only, so that it stays the same when other servers come and go.
    ///
    /// A call without a server takes such a name for the tool.
    pub fn qualified_name(&self) -> String {
        let short = self.server.rsplit('/').next().unwrap_or(&self.server);
        function_name(&format!("{short}{SEPARATOR}{}", self.name), &format!("{}\0{}", self.server, self.name))
    }

    /// Returns the tool as `tools` of OpenAI's chat completions has it, under the name given.
    pub fn openai(&self, name: &str) -> Value {
        let mut function = Map::new();
        function.insert("name".into(), name.into());
        if let Some(description) = &self.description {
            function.insert("description".into(), description.as_str().into());
        }
        function.insert("parameters".into(), object_schema(&self.input_schema));
        json!({"type": "function", "function": function})
    }

    /// Returns the tool as `tools` of Anthropic's messages has it, under the name given.
    pub fn anthropic(&self, name: &str) -> Value {
        let mut tool = Map::new();
        tool.insert("name".into(), name.into());
        if let Some(description) = &self.description {
            tool.insert("description".into(), description.as_str().into());
        }
        tool.insert("input_schema".into(), object_schema(&self.input_schema));
        Value::Object(tool)
    }

    /// Returns the tool in a form. Names are the server's own where all tools are one server's, else qualified.
    pub(crate) fn listed(self, format: ToolFormat, qualified: bool) -> ListedTool {
        let name = || match qualified {
            true => self.qualified_name(),
            false => function_name(&self.name, &self.name),
        };
        match format {
            ToolFormat::Mcp => ListedTool::Mcp(Box::new(self)),
            ToolFormat::Openai => ListedTool::Function(self.openai(&name())),
            ToolFormat::Anthropic => ListedTool::Function(self.anthropic(&name())),
        }
    }
}

/// Splits a qualified name at each place where a server may end.
pub(crate) fn splits(name: &str) -> impl Iterator<Item = (&str, &str)> {
    name.match_indices(SEPARATOR)
        .map(|(at, _)| (&name[..at], &name[at + SEPARATOR.len()..]))
        .filter(|(server, tool)| !key(server).is_empty() && !tool.is_empty())
}

/// Returns a name that models take: other characters become `_`, and what had to be changed or cut gets a hash of the whole.
fn function_name(name: &str, identity: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' }).collect();
    if plain == name && name.len() <= MAX_FUNCTION_NAME {
        return plain;
    }
    let hash = blake3::hash(identity.as_bytes()).to_hex();
    let kept: String = plain.chars().take(MAX_FUNCTION_NAME - HASH_CHARS - 1).collect();
    format!("{kept}_{}", &hash[..HASH_CHARS])
}

/// Models want an object with properties, even where a tool takes none.
fn object_schema(schema: &Value) -> Value {
    let mut schema = schema.as_object().cloned().unwrap_or_default();
    schema.entry("type").or_insert_with(|| "object".into());
    schema.entry("properties").or_insert_with(|| json!({}));
    Value::Object(schema)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_are_those_of_the_providers() {
        let tool = Tool::read(
            "github",
            &json!({"name": "search", "description": "Finds.", "inputSchema": {"type": "object"}}),
        )
        .unwrap();
        assert_eq!(
            tool.openai(&tool.qualified_name()),
            json!({"type": "function", "function": {"name": "github__search", "description": "Finds.",
                "parameters": {"type": "object", "properties": {}}}})
        );
        assert_eq!(
            tool.anthropic("search"),
            json!({"name": "search", "description": "Finds.", "input_schema": {"type": "object", "properties": {}}})
        );
    }

    #[test]
    fn names_that_were_changed_stay_apart() {
        let name = |server: &str, tool: &str| Tool::new(server, tool).qualified_name();
        assert_eq!(name("io.github.acme/weather", "now"), "weather__now");
        assert_ne!(name("a", "read.file"), name("a", "read/file"));
        assert_ne!(name("a", &"x".repeat(100)), name("a", &("x".repeat(99) + "y")));
    }

    #[test]
    fn a_qualified_name_is_split_wherever_a_server_may_end() {
        let found: Vec<_> = splits("my__server__tool").collect();
        assert_eq!(found, [("my", "server__tool"), ("my__server", "tool")]);
        assert_eq!(splits("__tool").count() + splits("server__").count() + splits("tool").count(), 0);
    }

    proptest! {
        #[test]
        fn every_name_is_fit_for_a_model(server in "\\PC{1,40}", tool in "\\PC{1,80}") {
            let name = Tool::new(&server, &tool).qualified_name();
            prop_assert!(name.len() <= MAX_FUNCTION_NAME);
            prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')), "{}", name);
        }
    }
}
