//! Calls of tools, one after the other.
//!
//! In a stream of chat completions, the parts of several calls may come between each other. The other protocols give one
//! call after the other: what belongs to a later one waits until the one before it is complete.

use serde_json::{Map, Value, value::RawValue};

/// Brings the parts of calls into the order of the calls.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// The call under way: its index, and its arguments so far.
    open: Option<(Value, String)>,
    /// Calls that wait, each as one part.
    waiting: Vec<Value>,
}

impl Calls {
    /// Takes a part, and returns the parts that can be given now.
    pub fn take(&mut self, part: &Value) -> Vec<Value> {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting["index"] == part["index"]) {
            join(waiting, part);
            return Vec::new();
        }
        match &mut self.open {
            Some((index, arguments)) if *index == part["index"] => {
                *arguments += arguments_of(part);
                let next = self.next_if_complete();
                std::iter::once(part.clone()).chain(next).collect()
            }
            Some((_, arguments)) if !is_complete(arguments) => {
                self.waiting.push(part.clone());
                Vec::new()
            }
            _ => vec![self.begin(part.clone())],
        }
    }

    /// Returns whether a call has begun whose arguments are not complete.
    pub fn is_under_way(&self) -> bool {
        self.open.as_ref().is_some_and(|(_, arguments)| !is_complete(arguments))
    }

    /// Returns what still waits: no more comes.
    pub fn rest(&mut self) -> Vec<Value> {
        self.open = None;
        std::mem::take(&mut self.waiting)
    }

    /// Begins the next call, and those after it that are complete themselves.
    fn next_if_complete(&mut self) -> Vec<Value> {
        let mut begun = Vec::new();
        while !self.waiting.is_empty() && !self.is_under_way() {
            let next = self.waiting.remove(0);
            begun.push(self.begin(next));
        }
        begun
    }

    fn begin(&mut self, part: Value) -> Value {
        self.open = Some((part["index"].clone(), arguments_of(&part).to_owned()));
        part
    }
}

fn arguments_of(part: &Value) -> &str {
    part["function"]["arguments"].as_str().unwrap_or_default()
}

fn is_complete(arguments: &str) -> bool {
    serde_json::from_str::<&RawValue>(arguments).is_ok()
}

/// Adds a further part of the same call.
fn join(call: &mut Value, part: &Value) {
    let arguments = format!("{}{}", arguments_of(call), arguments_of(part));
    let empty = Map::new();
    let fields = |value: &Value| value.as_object().unwrap_or(&empty).clone();
    let said = |(_, value): &(String, Value)| !value.is_null() && value != "";
    let mut function = fields(&call["function"]);
    function.extend(fields(&part["function"]).into_iter().filter(said));
    function.insert("arguments".to_owned(), arguments.into());
    let mut whole = fields(call);
    whole.extend(fields(part).into_iter().filter(said));
    whole.insert("function".to_owned(), function.into());
    *call = whole.into();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn part(index: usize, start: Option<&str>, arguments: &str) -> Value {
        let start = start.map(|name| (json!(format!("id-{name}")), json!(name)));
        crate::chat::dialect::tool_part(index, start.as_ref().map(|(id, name)| (id, name)), arguments)
    }

    #[test]
    fn parts_between_each_other_come_one_call_after_the_other() {
        let mut calls = Calls::default();
        assert_eq!(calls.take(&part(0, Some("f"), "")), [part(0, Some("f"), "")]);
        assert!(calls.take(&part(1, Some("g"), "{\"y\"")).is_empty());
        assert!(calls.take(&part(2, Some("h"), "{}")).is_empty());
        assert_eq!(calls.take(&part(0, None, "{\"x\"")), [part(0, None, "{\"x\"")]);
        assert!(calls.take(&part(1, None, ":2")).is_empty() && calls.is_under_way());
        // The first is complete, and what waited of the second goes on.
        assert_eq!(calls.take(&part(0, None, ":1}")), [part(0, None, ":1}"), part(1, Some("g"), "{\"y\":2")]);
        assert_eq!(calls.take(&part(1, None, "}")), [part(1, None, "}"), part(2, Some("h"), "{}")]);
        assert!(calls.rest().is_empty());
    }

    #[test]
    fn calls_that_come_in_order_are_given_at_once_and_the_last_of_them_at_the_end() {
        let mut calls = Calls::default();
        assert_eq!(calls.take(&part(0, Some("f"), "{}")), [part(0, Some("f"), "{}")]);
        assert_eq!(calls.take(&part(1, Some("g"), "")), [part(1, Some("g"), "")]);
        // Whether a call without arguments is complete is not known before the end.
        assert!(calls.take(&part(2, Some("h"), "{}")).is_empty());
        assert_eq!(calls.rest(), [part(2, Some("h"), "{}")]);
    }
}
