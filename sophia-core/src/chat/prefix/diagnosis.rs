//! Which byte broke the prefix: where a request first differs from the one before it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::chat::response::value_weight;

/// Most pairs of scope and model whose last request is remembered.
const MAX_REMEMBERED: usize = 256;
/// Largest request that is remembered, in bytes: with the number of pairs, 32 MiB are the most that it takes.
const MAX_BYTES: usize = 128 << 10;

/// Where a request first differs from the last one of the same scope and model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Difference {
    /// Such as `messages[0].content`.
    pub path: String,
    /// Byte of the text there, counted from 0; 0 where it is no text.
    pub offset: usize,
    /// Whether it is in the last message, where requests are expected to differ.
    pub in_last_message: bool,
}

/// The last request of each scope and model.
#[derive(Debug, Default)]
pub(super) struct Last(Mutex<HashMap<[u8; 32], Sent>>);

/// A request, and when it was sent.
type Sent = (Arc<Reading>, Duration);

/// What a provider reads of a request, in its order.
#[derive(Debug)]
struct Reading {
    tools: Value,
    messages: Vec<Value>,
}

impl Last {
    /// Remembers a request, and returns where it differs from the last one. `None` where there was none, or where one of
    /// the two goes on where the other ends.
    pub fn compare(&self, of: [u8; 32], body: &Map<String, Value>, now: Duration) -> Option<Difference> {
        let messages = body.get("messages").and_then(Value::as_array);
        let tools = body.get("tools");
        let bytes: usize = messages.into_iter().flatten().chain(tools).map(value_weight).sum();
        if bytes > MAX_BYTES {
            self.0.lock().remove(&of);
            return None;
        }
        let new = Arc::new(Reading {
            tools: tools.cloned().unwrap_or_default(),
            messages: messages.cloned().unwrap_or_default(),
        });
        let before = {
            let mut last = self.0.lock();
            if last.len() >= MAX_REMEMBERED && !last.contains_key(&of) {
                let oldest = last.iter().min_by_key(|(_, (_, at))| *at).map(|(of, _)| *of);
                oldest.iter().for_each(|of| drop(last.remove(of)));
            }
            last.insert(of, (new.clone(), now))
        };
        difference(&before?.0, &new)
    }
}

fn difference(before: &Reading, new: &Reading) -> Option<Difference> {
    let found = |path: String, offset: usize, in_last_message: bool| Difference { path, offset, in_last_message };
    if let Some((path, offset)) = first_difference("tools", &before.tools, &new.tools) {
        return Some(found(path, offset, false));
    }
    for (index, (old, own)) in before.messages.iter().zip(&new.messages).enumerate() {
        if let Some((path, offset)) = first_difference(&format!("messages[{index}]"), old, own) {
            return Some(found(path, offset, index + 1 == new.messages.len()));
        }
    }
    None
}

/// Returns the path and the byte of the first difference of two values.
fn first_difference(path: &str, before: &Value, new: &Value) -> Option<(String, usize)> {
    match (before, new) {
        _ if before == new && is_same_order(before, new) => None,
        (Value::String(before), Value::String(new)) => {
            let offset = before.bytes().zip(new.bytes()).take_while(|(a, b)| a == b).count();
            Some((path.to_owned(), offset))
        }
        (Value::Array(before), Value::Array(new)) => {
            let inner = before.iter().zip(new).enumerate();
            inner
                .filter_map(|(index, (before, new))| first_difference(&format!("{path}[{index}]"), before, new))
                .next()
                .or_else(|| Some((format!("{path}[{}]", before.len().min(new.len())), 0)))
        }
        (Value::Object(before), Value::Object(new)) => {
            for ((old, before), (name, new)) in before.iter().zip(new) {
                if old != name {
                    return Some((format!("{path}.{name}"), 0));
                }
                if let Some(found) = first_difference(&format!("{path}.{name}"), before, new) {
                    return Some(found);
                }
            }
            let longer = if before.len() > new.len() { before } else { new };
            let name = longer.keys().nth(before.len().min(new.len())).map_or("", String::as_str);
            Some((format!("{path}.{name}"), 0))
        }
        _ => Some((path.to_owned(), 0)),
    }
}

/// Returns whether fields stand in the same order: what is equal may still be written differently.
fn is_same_order(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((x, a), (y, b))| x == y && is_same_order(a, b))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same_order(a, b)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn compare(before: Value, new: Value) -> Option<Difference> {
        let last = Last::default();
        let body = |value: Value| value.as_object().unwrap().clone();
        assert_eq!(last.compare([0; 32], &body(before), Duration::ZERO), None, "there is nothing to compare with");
        last.compare([0; 32], &body(new), Duration::ZERO)
    }

    fn at(path: &str, offset: usize, in_last_message: bool) -> Option<Difference> {
        Some(Difference { path: path.into(), offset, in_last_message })
    }

    #[test]
    fn the_first_byte_that_differs_is_named() {
        let ask = |system: &str, text: &str| json!({"messages": [{"role": "system", "content": system}, {"role": "user", "content": text}]});
        assert_eq!(
            compare(ask("It is 12:01. Be brief.", "Hi"), ask("It is 12:02. Be brief.", "Hi")),
            at("messages[0].content", 10, false)
        );
        assert_eq!(compare(ask("Be brief.", "One"), ask("Be brief.", "Once")), at("messages[1].content", 2, true));
        assert_eq!(compare(ask("Be brief.", "One"), ask("Be brief.", "One")), None);
    }

    #[test]
    fn a_conversation_that_goes_on_is_whole() {
        let one = json!({"messages": [{"role": "user", "content": "a"}]});
        let two = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
        assert_eq!(compare(one.clone(), two.clone()), None);
        assert_eq!(compare(two, one), None);
    }

    #[test]
    fn tools_come_first_and_the_order_of_fields_counts() {
        let tool = |text: &str| -> Value {
            let tool: Value = serde_json::from_str(text).unwrap();
            json!({"tools": [tool], "messages": []})
        };
        assert_eq!(
            compare(tool(r#"{"a": {"x": 1, "y": 2}}"#), tool(r#"{"a": {"y": 2, "x": 1}}"#)),
            at("tools[0].a.y", 0, false)
        );
        assert_eq!(compare(json!({"messages": []}), tool("{}")), at("tools", 0, false));
        assert_eq!(compare(tool(r#"{"a": [1]}"#), tool(r#"{"a": [1, 2]}"#)), at("tools[0].a[1]", 0, false));
    }

    #[test]
    fn only_so_many_requests_are_remembered() {
        let last = Last::default();
        let body = json!({"messages": [{"role": "user", "content": "a"}]});
        for index in 0..2 * MAX_REMEMBERED {
            let mut of = [0; 32];
            of[..8].copy_from_slice(&index.to_le_bytes());
            last.compare(of, body.as_object().unwrap(), Duration::from_secs(index as u64));
        }
        assert_eq!(last.0.lock().len(), MAX_REMEMBERED);
    }
}
