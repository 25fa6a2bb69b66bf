//! The tools that a model may call.

use std::{
    fmt::{self, Debug},
    sync::Arc,
    time::Instant,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    Error, ErrorKind, Result, Scope,
    chat::dialect::integers::inexact,
    registry::{ListTools, ListedTool, Registry, ToolCall, ToolFormat},
    resilience::Deadline,
};

/// Stands among the `tools` of a request for all tools of the registry.
pub(in crate::chat) const REGISTRY: &str = "registry";
/// Most calls of one round: what a model asks for beyond is told, and not done.
pub(super) const MAX_CALLS: usize = 128;
/// Longest result that a model is shown, in bytes: some 16,000 tokens.
const MAX_RESULT_BYTES: usize = 64 << 10;

/// Tools that the engine calls by itself when a model asks for them.
#[async_trait]
pub trait ToolBox: Debug + Send + Sync + 'static {
    /// Lists what may be called, as `tools` of OpenAI's chat completions.
    async fn list(&self) -> Result<Vec<Value>>;

    /// Calls one of them. What it returns is shown to the model, as data; an error is shown as text, too.
    ///
    /// # Cancel safety
    /// The call is dropped when nobody waits for the answer any more.
    async fn call(
        &self,
        tool: &str,
        arguments: Map<String, Value>,
        scope: &Scope,
        deadline: Deadline,
    ) -> Result<String>;
}

/// What a tool is asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ToolAsk {
    /// Name of the tool.
    pub tool: String,
    /// Its arguments.
    pub arguments: Map<String, Value>,
    /// Whose question it is.
    pub scope: Scope,
}

type Answering = dyn Fn(ToolAsk) -> BoxFuture<'static, Result<Value>> + Send + Sync;

/// Tools that are one function: it is told which of them is called. Text that it returns is shown to the model as it is,
/// any other value as JSON.
#[derive(Clone)]
pub struct CallbackTools {
    definitions: Vec<Value>,
    answer: Arc<Answering>,
}

impl CallbackTools {
    /// Offers tools, defined as `tools` of OpenAI's chat completions.
    pub fn new(
        definitions: Vec<Value>,
        answer: impl Fn(ToolAsk) -> BoxFuture<'static, Result<Value>> + Send + Sync + 'static,
    ) -> CallbackTools {
        CallbackTools { definitions, answer: Arc::new(answer) }
    }
}

impl fmt::Debug for CallbackTools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.definitions.iter().map(function_name)).finish()
    }
}

#[async_trait]
impl ToolBox for CallbackTools {
    async fn list(&self) -> Result<Vec<Value>> {
        Ok(self.definitions.clone())
    }

    async fn call(&self, tool: &str, arguments: Map<String, Value>, scope: &Scope, _: Deadline) -> Result<String> {
        let ask = ToolAsk { tool: tool.to_owned(), arguments, scope: scope.clone() };
        Ok(match (self.answer)(ask).await? {
            Value::String(text) => text,
            other => other.to_string(),
        })
    }
}

/// One call of a tool on the way to an answer.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ToolStep {
    /// Round in which the model asked for it, from 1.
    pub round: usize,
    /// Name of the tool, as the model was told it.
    pub tool: String,
    /// Arguments as the model gave them.
    pub arguments: Value,
    /// What the model was shown.
    pub result: String,
    /// Code of the error; null where it worked.
    pub error_code: Option<&'static str>,
    /// How long it took, in milliseconds.
    pub latency_ms: f64,
}

/// Returns the strings among tools: names of tool boxes.
pub(in crate::chat) fn names_of_boxes(tools: &[Value]) -> impl Iterator<Item = (usize, &str)> {
    tools.iter().enumerate().filter_map(|(index, tool)| Some((index, tool.as_str()?)))
}

/// Returns the name of a function in the form of OpenAI's `tools` and `tool_calls`.
pub(super) fn function_name(of: &Value) -> &str {
    of["function"]["name"].as_str().unwrap_or_default()
}

/// Says that nobody has the tool that a model calls.
pub(super) fn unknown(call: &Value) -> Error {
    Error::new(ErrorKind::NotFound, "chat.complete", format!("there is no tool `{}`", function_name(call)))
}

/// Says that a round has had its calls.
pub(super) fn too_many() -> Error {
    let message = format!("one round has at most {MAX_CALLS} calls: ask for the others in the next one");
    Error::new(ErrorKind::RateLimited, "chat.complete", message)
}

/// Says that no more tools are called for this question.
pub(super) fn spent() -> Error {
    let message =
        "the question has reached the limit of its cost, `chat.tools.max_cost_usd`: answer with what is known";
    Error::new(ErrorKind::RateLimited, "chat.complete", message)
}

/// Answers one of a model's calls: by the tool, or with why it cannot be called.
pub(super) async fn step(
    tools: Result<&dyn ToolBox>,
    round: usize,
    call: &Value,
    scope: &Scope,
    deadline: Deadline,
) -> ToolStep {
    const OPERATION: &str = "chat.complete";
    let start = Instant::now();
    let tool = function_name(call).to_owned();
    let text = call["function"]["arguments"].as_str().unwrap_or("{}");
    let (arguments, outcome) = match read_arguments(text) {
        Ok(arguments) => {
            let outcome = match tools {
                Ok(tools) => deadline.run(OPERATION, tools.call(&tool, arguments.clone(), scope, deadline)).await,
                Err(error) => Err(error),
            };
            (Value::Object(arguments), outcome)
        }
        Err(wrong) => {
            let wrong = Error::new(ErrorKind::InvalidInput, OPERATION, wrong);
            (Value::from(text), Err(tools.err().unwrap_or(wrong)))
        }
    };
    let (result, error_code) = match outcome {
        Ok(result) => (result, None),
        Err(error) => (format!("The call failed: {error}"), Some(error.code())),
    };
    let latency_ms = start.elapsed().as_secs_f64() * 1e3;
    ToolStep { round, tool, arguments, result: shortened(result), error_code, latency_ms }
}

/// Reads the arguments of a call, or says what is wrong with them.
fn read_arguments(text: &str) -> Result<Map<String, Value>, String> {
    let text = if text.is_empty() { "{}" } else { text };
    match (serde_json::from_str(text), inexact(text.as_bytes())) {
        (Ok(Value::Object(arguments)), None) => Ok(arguments),
        (Ok(Value::Object(_)), Some(integer)) => {
            Err(format!("the arguments hold the integer {integer}, which is beyond 64 bits: write it as a text"))
        }
        _ => Err("the arguments are not a JSON object".to_owned()),
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_RESULT_BYTES {
        let end = text.floor_char_boundary(MAX_RESULT_BYTES);
        let left_out = text.len() - end;
        text.truncate(end);
        text += &format!("\n[{left_out} bytes more were left out]");
    }
    text
}

/// Returns what a model is shown of an answer: its text, or else its data, or else what its blocks are.
fn shown(text: String, data: Option<&Value>, content: Vec<Value>) -> String {
    if !text.is_empty() {
        return text;
    }
    if let Some(data) = data {
        return data.to_string();
    }
    let blocks: Vec<_> = content.into_iter().map(without_bytes).collect();
    if blocks.is_empty() { String::new() } else { Value::from(blocks).to_string() }
}

/// Leaves the bytes of images and files out, which say nothing as text.
fn without_bytes(mut block: Value) -> Value {
    for path in ["/data", "/blob", "/resource/blob"] {
        if let Some(bytes) = block.pointer_mut(path) {
            *bytes = Value::from(format!("[{} bytes in Base64]", bytes.as_str().unwrap_or_default().len()));
        }
    }
    block
}

/// All tools of the registry, by their qualified names.
#[async_trait]
impl ToolBox for Registry {
    async fn list(&self) -> Result<Vec<Value>> {
        let listed = self.list_tools(ListTools::default().format(ToolFormat::Openai)).await?;
        Ok(listed
            .into_iter()
            .filter_map(|tool| match tool {
                ListedTool::Function(function) => Some(function),
                ListedTool::Mcp(_) => None,
            })
            .collect())
    }

    async fn call(
        &self,
        tool: &str,
        arguments: Map<String, Value>,
        scope: &Scope,
        deadline: Deadline,
    ) -> Result<String> {
        let call = ToolCall::any(tool).arguments(Value::Object(arguments)).scope(scope).timeout(deadline.remaining());
        let result = Registry::call(self, call).await?;
        match result.error {
            Some(error) => Err(Error::new(ErrorKind::Unavailable, "registry.call", error.message)),
            None => Ok(shown(result.text, result.data.as_ref(), result.content)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_without_text_is_shown_all_the_same() {
        let data = json!({"deals": 42});
        assert_eq!(shown("said".to_owned(), Some(&data), Vec::new()), "said");
        assert_eq!(shown(String::new(), Some(&data), Vec::new()), r#"{"deals":42}"#);
        let blocks = vec![
            json!({"type": "image", "mimeType": "image/png", "data": "AAAA"}),
            json!({"type": "resource_link", "uri": "file:///x"}),
        ];
        let text = shown(String::new(), None, blocks);
        assert!(text.contains("image/png") && text.contains("[4 bytes") && text.contains("file:///x"), "{text}");
    }
}
