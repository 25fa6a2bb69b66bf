//! What a provider says, in parts.

use serde_json::{Map, Value, json};

use super::answer::answer;
use crate::chat::{
    dialect::{carry, fresh_id, integers::inexact, name_of, tool_part},
    response::{Answer, Delta},
};

/// Puts an answer together out of the events of a stream.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    message: Map<String, Value>,
    blocks: Vec<Block>,
    deltas: Vec<Delta>,
    tools: usize,
    /// An event was not understood: what was put together may not be what was meant.
    uncertain: bool,
}

#[derive(Debug)]
struct Block {
    fields: Map<String, Value>,
    /// Input of a tool, as far as it has come.
    input: String,
    /// Number among the calls of tools, where it is one.
    tool: Option<usize>,
}

impl Assembler {
    /// Takes one event. Returns what is new in it, if anything is; `Err` if it is not of this protocol.
    pub fn push(&mut self, event: Map<String, Value>) -> Result<Option<Delta>, ()> {
        let delta = match event.get("type").and_then(Value::as_str).ok_or(())? {
            "message_start" => {
                self.message = event.get("message").and_then(Value::as_object).ok_or(())?.clone();
                Some(carry(Delta::default(), event))
            }
            "content_block_start" => Some(self.start(event)?),
            "content_block_delta" => Some(self.delta(event)?),
            "content_block_stop" => self.stop(&event)?,
            "message_delta" => {
                self.message_delta(&event)?;
                says_more(&event).then(|| carry(Delta::default(), event))
            }
            "message_stop" => (event.len() > 1).then(|| carry(Delta::default(), event)),
            "ping" => None,
            _ => Some(carry(Delta::default(), event)),
        };
        self.deltas.extend(delta.clone());
        Ok(delta)
    }

    fn start(&mut self, mut event: Map<String, Value>) -> Result<Delta, ()> {
        let block = event.get_mut("content_block").and_then(Value::as_object_mut).ok_or(())?;
        let is_taken = |id: &str| self.blocks.iter().any(|block| name_of(&block.fields) == Some(id));
        if block.get("type").is_some_and(|kind| kind == "tool_use") && name_of(block).is_none_or(is_taken) {
            block.insert("id".to_owned(), fresh_id("toolu").into());
        }
        let fields = block.clone();
        if index(&event) != Some(self.blocks.len()) {
            return Err(());
        }
        let mut delta = Delta::default();
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
        let mut tool = None;
        match text("type") {
            "text" => delta.text = text("text").to_owned(),
            "thinking" => delta.reasoning = Some(text("thinking").to_owned()).filter(|text| !text.is_empty()),
            "tool_use" => {
                let start = (fields.get("id").ok_or(())?, fields.get("name").ok_or(())?);
                let input = fields.get("input").and_then(Value::as_object).filter(|input| !input.is_empty());
                let arguments = input.map(|input| Value::Object(input.clone()).to_string()).unwrap_or_default();
                delta.tool_calls.push(tool_part(self.tools, Some(start), &arguments));
                tool = Some(self.tools);
                self.tools += 1;
            }
            _ => {}
        }
        self.blocks.push(Block { fields, input: String::new(), tool });
        Ok(carry(delta, event))
    }

    fn delta(&mut self, event: Map<String, Value>) -> Result<Delta, ()> {
        // Only the last one is under way.
        if index(&event) != self.blocks.len().checked_sub(1) {
            return Err(());
        }
        let block = self.blocks.last_mut().ok_or(())?;
        let part = event.get("delta").and_then(Value::as_object).ok_or(())?;
        // Type, index and delta; type and what is new: then the common form says all of it.
        let is_plain = event.len() == 3 && part.len() == 2;
        let text = |name: &str| part.get(name).and_then(Value::as_str).ok_or(());
        match part.get("type").and_then(Value::as_str).ok_or(())? {
            "text_delta" => {
                let text = text("text")?;
                block.append("text", text);
                let delta = Delta { text: text.to_owned(), ..Delta::default() };
                Ok(if is_plain { delta } else { carry(delta, event) })
            }
            "thinking_delta" => {
                let text = text("thinking")?;
                block.append("thinking", text);
                let delta = Delta { reasoning: Some(text.to_owned()), ..Delta::default() };
                Ok(if is_plain { delta } else { carry(delta, event) })
            }
            "input_json_delta" => {
                let text = text("partial_json")?;
                block.input += text;
                let tool_calls = block.tool.map(|tool| tool_part(tool, None, text)).into_iter().collect();
                let is_plain = is_plain && block.tool.is_some();
                let delta = Delta { tool_calls, ..Delta::default() };
                Ok(if is_plain { delta } else { carry(delta, event) })
            }
            "signature_delta" => {
                block.append("signature", text("signature")?);
                Ok(carry(Delta::default(), event))
            }
            "citations_delta" => {
                let citation = part.get("citation").ok_or(())?.clone();
                match block.fields.entry("citations").or_insert_with(|| json!([])) {
                    Value::Array(citations) => citations.push(citation),
                    other => *other = json!([citation]),
                }
                Ok(carry(Delta::default(), event))
            }
            _ => {
                self.uncertain = true;
                Ok(carry(Delta::default(), event))
            }
        }
    }

    /// Ends a block. A tool that takes nothing has said nothing so far: its arguments are an empty object.
    fn stop(&mut self, event: &Map<String, Value>) -> Result<Option<Delta>, ()> {
        if index(event) != self.blocks.len().checked_sub(1) {
            return Err(());
        }
        let block = self.blocks.last_mut().ok_or(())?;
        if !block.input.is_empty() {
            match serde_json::from_str::<Value>(&block.input) {
                Ok(input) => {
                    // What lost digits is given in its parts, as they came, and is not kept.
                    self.uncertain |= inexact(block.input.as_bytes()).is_some();
                    block.fields.insert("input".to_owned(), input);
                }
                // Cut by length: the arguments so far are given, and nothing is kept.
                Err(_) => self.uncertain = true,
            }
            return Ok(None);
        }
        let said = block.fields.get("input").and_then(Value::as_object).is_some_and(|input| !input.is_empty());
        let nothing = |tool| Delta { tool_calls: vec![tool_part(tool, None, "{}")], ..Delta::default() };
        Ok(block.tool.filter(|_| !said).map(nothing))
    }

    fn message_delta(&mut self, event: &Map<String, Value>) -> Result<(), ()> {
        for (name, value) in event.get("delta").and_then(Value::as_object).ok_or(())? {
            self.message.insert(name.clone(), value.clone());
        }
        for (name, value) in event {
            match (name.as_str(), value) {
                ("type" | "delta", _) | ("usage", Value::Null) => {}
                // Counts are of the whole so far; those that are not repeated still hold.
                ("usage", Value::Object(counts)) => {
                    if let Value::Object(known) = self.message.entry("usage").or_insert_with(|| json!({})) {
                        let said = counts.iter().filter(|(_, count)| !count.is_null());
                        said.for_each(|(name, count)| {
                            known.insert(name.clone(), count.clone());
                        });
                    }
                }
                (name, value) => {
                    self.message.insert(name.to_owned(), value.clone());
                }
            }
        }
        Ok(())
    }

    /// Returns whether nothing of an answer was heard.
    pub fn is_empty(&self) -> bool {
        self.message.is_empty()
    }

    /// Returns whether the provider has said why the answer ends.
    pub fn has_finished(&self) -> bool {
        self.message.get("stop_reason").is_some_and(Value::is_string)
    }

    /// Returns the whole answer; `terminated` says whether the protocol said that it is whole.
    pub fn finish(mut self, provider: &str, model: &str, terminated: bool) -> Option<Answer> {
        let unparsed: Vec<_> =
            self.blocks.iter().filter_map(|block| Some((block.tool?, block.input.clone()))).collect();
        let blocks = self.blocks.into_iter().map(|block| Value::Object(block.fields)).collect();
        self.message.insert("content".to_owned(), Value::Array(blocks));
        let mut answer = answer(self.message, provider, model)?;
        // Byte for byte as they came, also where they are cut.
        for (tool, input) in unparsed.into_iter().filter(|(_, input)| !input.is_empty()) {
            if let Some(call) = answer.tool_calls.get_mut(tool) {
                call["function"]["arguments"] = input.into();
            }
        }
        if !answer.tool_calls.is_empty() {
            answer.message.insert("tool_calls".to_owned(), answer.tool_calls.clone().into());
        }
        Some(Answer { deltas: self.deltas, terminated: terminated && !self.uncertain, ..answer })
    }
}

impl Block {
    fn append(&mut self, name: &str, more: &str) {
        match self.fields.entry(name).or_insert_with(|| "".into()) {
            Value::String(known) => known.push_str(more),
            other => *other = more.into(),
        }
    }
}

/// Returns whether the end of a message says more than each does.
fn says_more(event: &Map<String, Value>) -> bool {
    const DELTA: [&str; 4] = ["stop_reason", "stop_sequence", "stop_details", "container"];
    let other = |fields: &Map<String, Value>, known: &[&str]| !fields.keys().all(|name| known.contains(&name.as_str()));
    let delta = event.get("delta").and_then(Value::as_object);
    other(event, &["type", "delta", "usage"]) || delta.is_some_and(|delta| other(delta, &DELTA))
}

fn index(event: &Map<String, Value>) -> Option<usize> {
    event.get("index")?.as_u64().map(|index| index as usize)
}
