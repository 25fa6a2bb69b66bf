//! Calls of tools, one after the other.
//!
//! In a stream of chat completions, the parts of several calls may come between each other. The other protocols give one
//! call after the other: what belongs to a later one waits until the one before it is complete.

use std::borrow::Cow;

use serde_json::{Map, Value, value::RawValue};

/// Brings the parts of calls, and the text between them, into the order of the calls.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    open: Option<Open>,
    /// Indices of the calls that have begun.
    begun: Vec<Value>,
    /// Calls that wait, each as one part.
    waiting: Vec<Value>,
    /// Text that came while a call was under way.
    late: String,
}

/// The call under way.
#[derive(Debug)]
struct Open {
    index: Value,
    arguments: Arguments,
}

impl Calls {
    /// Takes a part, and returns the parts that can be given now.
    pub fn take(&mut self, part: &Value) -> Vec<Value> {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting["index"] == part["index"]) {
            join(waiting, part);
            return self.next_if_complete();
        }
        if let Some(open) = self.open.as_mut().filter(|open| open.index == part["index"]) {
            open.arguments.read(arguments_of(part));
            let next = self.next_if_complete();
            return std::iter::once(part.clone()).chain(next).collect();
        }
        if self.begun.contains(&part["index"]) {
            // That call was complete, and is closed: only blanks can follow.
            return Vec::new();
        }
        if self.is_under_way() || !is_named(part) {
            self.waiting.push(part.clone());
            return Vec::new();
        }
        vec![self.begin(part.clone())]
    }

    /// Takes text, and returns the text that can be given now: none while a call is under way.
    pub fn say<'a>(&mut self, text: &'a str) -> Cow<'a, str> {
        if text.is_empty() {
            return Cow::Borrowed(text);
        }
        if self.is_under_way() {
            self.late += text;
            return Cow::Borrowed("");
        }
        match std::mem::take(&mut self.late) {
            late if late.is_empty() => Cow::Borrowed(text),
            late => Cow::Owned(late + text),
        }
    }

    /// Returns the calls and the text that still wait: no more comes.
    pub fn rest(&mut self) -> (Vec<Value>, String) {
        self.open = None;
        (std::mem::take(&mut self.waiting), std::mem::take(&mut self.late))
    }

    /// Returns whether a call has begun whose arguments are not complete.
    fn is_under_way(&self) -> bool {
        self.open.as_ref().is_some_and(|open| !open.arguments.is_complete)
    }

    /// Begins the next call, and those after it that are complete themselves.
    fn next_if_complete(&mut self) -> Vec<Value> {
        let mut begun = Vec::new();
        while !self.is_under_way()
            && let Some(next) = self.waiting.iter().position(is_named)
        {
            let next = self.waiting.remove(next);
            begun.push(self.begin(next));
        }
        begun
    }

    fn begin(&mut self, part: Value) -> Value {
        let mut arguments = Arguments::default();
        arguments.read(arguments_of(&part));
        self.open = Some(Open { index: part["index"].clone(), arguments });
        self.begun.push(part["index"].clone());
        part
    }
}

/// Arguments that come in parts. They are looked at whole only where every bracket and quote is closed: in each other place
/// they are not complete.
#[derive(Debug, Default)]
struct Arguments {
    text: String,
    /// Brackets that are open.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    is_complete: bool,
}

impl Arguments {
    /// Reads a further part.
    fn read(&mut self, part: &str) {
        for byte in part.bytes() {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.in_string => self.is_escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'{' | b'[' if !self.in_string => self.depth += 1,
                b'}' | b']' if !self.in_string => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        self.text += part;
        let is_closed = self.depth == 0 && !self.in_string;
        self.is_complete = is_closed && serde_json::from_str::<&RawValue>(&self.text).is_ok();
    }
}

fn is_named(part: &Value) -> bool {
    part["function"]["name"].as_str().is_some_and(|name| !name.is_empty())
}

fn arguments_of(part: &Value) -> &str {
    part["function"]["arguments"].as_str().unwrap_or_default()
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
        assert!(calls.take(&part(1, None, ":2")).is_empty());
        assert_eq!(calls.say("held "), "");
        // The first is complete, and what waited of the second goes on.
        assert_eq!(calls.take(&part(0, None, ":1}")), [part(0, None, ":1}"), part(1, Some("g"), "{\"y\":2")]);
        assert_eq!(calls.take(&part(1, None, "}")), [part(1, None, "}"), part(2, Some("h"), "{}")]);
        // Text does not come before what was said first.
        assert_eq!(calls.say("back"), "held back");
        assert_eq!((calls.say("now"), calls.rest()), (Cow::Borrowed("now"), (Vec::new(), String::new())));
    }

    #[test]
    fn calls_that_come_in_order_are_given_at_once_and_the_last_of_them_at_the_end() {
        let mut calls = Calls::default();
        assert_eq!(calls.take(&part(0, Some("f"), "{}")), [part(0, Some("f"), "{}")]);
        assert_eq!(calls.take(&part(1, Some("g"), "")), [part(1, Some("g"), "")]);
        // Whether a call without arguments is complete is not known before the end.
        assert!(calls.take(&part(2, Some("h"), "{}")).is_empty());
        assert_eq!(calls.say("at the end"), "");
        assert_eq!(calls.rest(), (vec![part(2, Some("h"), "{}")], "at the end".to_owned()));
    }

    #[test]
    fn a_late_part_of_a_call_that_is_closed_begins_no_other() {
        let mut calls = Calls::default();
        assert_eq!(calls.take(&part(0, Some("f"), "{}")), [part(0, Some("f"), "{}")]);
        assert_eq!(calls.take(&part(1, Some("g"), "{}")), [part(1, Some("g"), "{}")]);
        assert!(calls.take(&part(0, None, "\n")).is_empty());
        assert_eq!(calls.take(&part(1, None, "\n")), [part(1, None, "\n")]);
        assert_eq!(calls.rest(), (Vec::new(), String::new()));
    }

    #[test]
    fn a_call_begins_with_its_name() {
        let mut calls = Calls::default();
        assert!(calls.take(&part(0, None, "{")).is_empty());
        assert_eq!(calls.take(&part(1, Some("g"), "{}")), [part(1, Some("g"), "{}")]);
        assert_eq!(calls.take(&part(0, Some("f"), "}")), [part(0, Some("f"), "{}")]);
    }

    #[test]
    fn arguments_are_complete_at_their_end_alone_wherever_they_are_cut() {
        for whole in [r#"{"a": "}\"]\\", "b": [{}, "\u00e9 [ é"]}"#, r#"["{", {"x": {}}]"#, r#""just text \\""#] {
            for cut in (1..whole.len()).filter(|cut| whole.is_char_boundary(*cut)) {
                let mut arguments = Arguments::default();
                arguments.read(&whole[..cut]);
                assert!(!arguments.is_complete, "{whole} at {cut}");
                arguments.read(&whole[cut..]);
                assert!(arguments.is_complete, "{whole} at {cut}");
            }
        }
        for wrong in ["", "x", "{]", "}{", "{\"a\"}", "{} {"] {
            let mut arguments = Arguments::default();
            arguments.read(wrong);
            assert!(!arguments.is_complete, "{wrong}");
        }
    }
}
