//! What a provider says, in parts.

use serde_json::{Map, Value};

use super::answer::answer;
use crate::chat::{
    dialect::{asker, carry, is_unset, tool_part},
    response::{Answer, Delta},
};

/// Puts an answer together out of the events of a stream; the last one holds all of it.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    deltas: Vec<Delta>,
    /// Where each call of a function stands among the output.
    calls: Vec<u64>,
    /// Where the part under way stands: what a plain delta belongs to.
    place: Place,
    /// What the request says of who asks.
    asker: Map<String, Value>,
    response: Option<Map<String, Value>>,
}

/// Item, and part of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Place {
    pub item_id: Value,
    pub output_index: Value,
    /// `content_index` or `summary_index`.
    pub part_index: Value,
    /// Type of the deltas that belong here.
    pub kind: &'static str,
    /// Whether deltas of text come with a list of log probabilities, which is empty.
    pub logprobs: bool,
}

/// Deltas that the common form says all of: text, arguments, reasoning.
pub(super) const TEXT: &str = "response.output_text.delta";
pub(super) const ARGUMENTS: &str = "response.function_call_arguments.delta";
pub(super) const SUMMARY: &str = "response.reasoning_summary_text.delta";
pub(super) const REASONING: &str = "response.reasoning_text.delta";
/// Fields of theirs that are told anew, or say nothing.
const KNOWN: [&str; 9] = [
    "type",
    "sequence_number",
    "item_id",
    "output_index",
    "content_index",
    "summary_index",
    "delta",
    "logprobs",
    "obfuscation",
];

impl Place {
    /// Moves to where an event begins something.
    pub fn follow(&mut self, event: &Map<String, Value>) {
        let field = |name: &str| event.get(name).cloned().unwrap_or_default();
        let kind = |part: &str| event.get(part).and_then(|part| part.get("type")).and_then(Value::as_str);
        match event.get("type").and_then(Value::as_str) {
            Some("response.output_item.added") => {
                let item_id = event.get("item").and_then(|item| item.get("id")).cloned().unwrap_or_default();
                let kind = if kind("item") == Some("function_call") { ARGUMENTS } else { "" };
                let output_index = field("output_index");
                *self = Place { item_id, output_index, part_index: Value::Null, kind, logprobs: self.logprobs };
            }
            Some("response.content_part.added") => {
                self.part_index = field("content_index");
                self.kind = match kind("part") {
                    Some("output_text") => TEXT,
                    Some("reasoning_text") => REASONING,
                    _ => "",
                };
            }
            Some("response.reasoning_summary_part.added") => {
                self.part_index = field("summary_index");
                self.kind = SUMMARY;
            }
            Some(TEXT) => self.logprobs = event.contains_key("logprobs"),
            _ => {}
        }
    }

    fn holds(&self, kind: &str, event: &Map<String, Value>) -> bool {
        let same = |name: &str, own: &Value| event.get(name).unwrap_or(&Value::Null) == own;
        let part = match kind {
            SUMMARY => same("summary_index", &self.part_index),
            ARGUMENTS => true,
            _ => same("content_index", &self.part_index),
        };
        let plain = event.get("logprobs").is_none_or(is_unset)
            && (kind != TEXT || event.contains_key("logprobs") == self.logprobs)
            && event.keys().all(|name| KNOWN.contains(&name.as_str()));
        kind == self.kind && part && plain && same("output_index", &self.output_index) && same("item_id", &self.item_id)
    }
}

impl Assembler {
    /// Begins the answer to a request.
    pub fn of_request(body: &Map<String, Value>) -> Assembler {
        Assembler { asker: asker::of(body), ..Assembler::default() }
    }

    /// Takes one event. Returns what is new in it, if anything is; `Err` if it is not of this protocol.
    pub fn push(&mut self, mut event: Map<String, Value>) -> Result<Option<Delta>, ()> {
        if let Some(Value::Object(response)) = event.get_mut("response") {
            asker::take_out(response, &self.asker);
        }
        let kind = event.get("type").and_then(Value::as_str).ok_or(())?.to_owned();
        let text = || event.get("delta").and_then(Value::as_str).map(str::to_owned).ok_or(());
        let mut delta = Delta::default();
        match kind.as_str() {
            "response.completed" | "response.incomplete" => {
                self.response = Some(event.get("response").and_then(Value::as_object).ok_or(())?.clone());
                return Ok(None);
            }
            TEXT => delta.text = text()?,
            SUMMARY | REASONING => delta.reasoning = Some(text()?),
            ARGUMENTS => {
                let place = event.get("output_index").and_then(Value::as_u64);
                // One that was not announced is not a call of a function of ours.
                let index = self.calls.iter().position(|call| Some(*call) == place);
                if let Some(index) = index {
                    delta.tool_calls.push(tool_part(index, None, &text()?));
                }
            }
            "response.output_item.added" => {
                let item = event.get("item").ok_or(())?;
                if item.get("type").is_some_and(|kind| kind == "function_call") {
                    let start = (item.get("call_id").ok_or(())?, item.get("name").ok_or(())?);
                    let arguments = item.get("arguments").and_then(Value::as_str).unwrap_or_default();
                    delta.tool_calls.push(tool_part(self.calls.len(), Some(start), arguments));
                    self.calls.push(event.get("output_index").and_then(Value::as_u64).ok_or(())?);
                }
            }
            _ => {}
        }
        let plain = [TEXT, SUMMARY, REASONING, ARGUMENTS].contains(&kind.as_str()) && self.place.holds(&kind, &event);
        self.place.follow(&event);
        let delta = if plain { delta } else { carry(delta, event) };
        self.deltas.push(delta.clone());
        Ok(Some(delta))
    }

    /// Returns the whole answer.
    pub fn finish(self, provider: &str, model: &str) -> Option<Answer> {
        Some(Answer { deltas: self.deltas, ..answer(self.response?, provider, model)? })
    }
}
