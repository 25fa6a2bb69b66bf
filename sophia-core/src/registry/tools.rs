//! Tools as models and people are shown them.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::server::key;

/// Longest name of a function that OpenAI and Anthropic take, in characters.
const MAX_FUNCTION_NAME: usize = 64;
/// Characters of the hash that keeps shortened names apart.
const HASH_CHARS: usize = 8;
/// Characters of the hash that keeps names apart that several tools would have: too many to look for another tool with the same.
const DISTINCT_HASH_CHARS: usize = 12;
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

    /// Returns the tool's name with that of its server, fit for a model: `{server}__{tool}`, at most 64 of
    /// `A-Z a-z 0-9 _ -`. Of an id with `/` it has the last part. It depends on the two names only, so that it stays the same
    /// when other servers come and go.
    ///
    /// A call without a server takes such a name for the tool. Where several tools would have one name, as those of
    /// `io.acme/x` and `io.other/x`, [`Registry::list_tools`](crate::registry::Registry::list_tools) gives each of them one
    /// with a hash of server and tool at its end, which is taken as well.
    pub fn qualified_name(&self) -> String {
        function_name(&self.long_name(), &self.identity())
    }

    /// Returns the name for a tool whose qualified name others would have, too.
    pub(crate) fn distinct_name(&self) -> String {
        hashed(&plain(&self.long_name()), &self.identity(), DISTINCT_HASH_CHARS)
    }

    fn long_name(&self) -> String {
        let short = self.server.rsplit('/').next().unwrap_or(&self.server);
        format!("{short}{SEPARATOR}{}", self.name)
    }

    fn identity(&self) -> String {
        format!("{}\0{}", self.server, self.name)
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

    /// Returns the tool in a form, under the name given.
    pub(crate) fn listed(self, format: ToolFormat, name: &str) -> ListedTool {
        match format {
            ToolFormat::Mcp => ListedTool::Mcp(Box::new(self)),
            ToolFormat::Openai => ListedTool::Function(self.openai(name)),
            ToolFormat::Anthropic => ListedTool::Function(self.anthropic(name)),
        }
    }
}

/// Returns whether a name may be a distinct one, by the hash at its end.
pub(crate) fn may_be_distinct(name: &str) -> bool {
    name.rsplit_once('_')
        .is_some_and(|(_, hash)| hash.len() == DISTINCT_HASH_CHARS && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Returns a name for each tool of one server, fit for a model.
pub(crate) fn own_names(tools: &[Tool]) -> Vec<String> {
    tools.iter().map(|tool| function_name(&tool.name, &tool.name)).collect()
}

/// Returns a name for each tool, fit for a model, that none of the others has: its qualified name, or where several would have
/// that one, for each of them a distinct one.
pub(crate) fn unique_names(tools: &[Tool]) -> Vec<String> {
    let mut names: Vec<_> = tools.iter().map(Tool::qualified_name).collect();
    let mut is_distinct = vec![false; tools.len()];
    loop {
        let mut count: HashMap<&str, usize> = HashMap::new();
        names.iter().for_each(|name| *count.entry(name).or_default() += 1);
        let shared: Vec<_> = (0..names.len()).filter(|&at| !is_distinct[at] && count[names[at].as_str()] > 1).collect();
        if shared.is_empty() {
            return names;
        }
        // A distinct name may be another's qualified one, which is then shared in its turn.
        for at in shared {
            names[at] = tools[at].distinct_name();
            is_distinct[at] = true;
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
    let plain = plain(name);
    if plain == name && name.len() <= MAX_FUNCTION_NAME {
        return plain;
    }
    hashed(&plain, identity, HASH_CHARS)
}

fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' }).collect()
}

fn hashed(plain: &str, identity: &str, chars: usize) -> String {
    let hash = blake3::hash(identity.as_bytes()).to_hex();
    let kept: String = plain.chars().take(MAX_FUNCTION_NAME - chars - 1).collect();
    format!("{kept}_{}", &hash[..chars])
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
    fn names_that_several_tools_would_have_are_told_apart_and_the_others_stay() {
        let tools = [
            ("io.acme/weather", "now"),
            ("io.evil/weather", "now"),
            ("a", "b__c"),
            ("a__b", "c"),
            ("github", "search"),
        ]
        .map(|(server, tool)| Tool::new(server, tool));
        let names = unique_names(&tools);
        assert_eq!(names[4], "github__search");
        for (at, start) in ["weather__now_", "weather__now_", "a__b__c_", "a__b__c_"].iter().enumerate() {
            assert!(names[at].starts_with(start) && names[at] == tools[at].distinct_name(), "{names:?}");
        }
        let set: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(set.len(), names.len());

        // Nobody takes the name that another has got.
        let posing = Tool::new("x/weather", names[0].strip_prefix("weather__").unwrap());
        let names = unique_names(&[tools[0].clone(), tools[1].clone(), posing.clone()]);
        assert_eq!((&names[0], &names[2]), (&tools[0].distinct_name(), &posing.distinct_name()));
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
            let name = Tool::new(&server, &tool).distinct_name();
            prop_assert!(name.len() <= MAX_FUNCTION_NAME);
        }
    }
}
