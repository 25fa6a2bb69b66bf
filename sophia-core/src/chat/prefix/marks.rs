//! Where marks are set.

use serde_json::{Map, Value, json};

use super::seen::{Beginning, Seen};
use crate::{Scope, chat::response::BYTES_PER_TOKEN};

/// Shorter beginnings are cached by no provider (OpenAI's; most of Anthropic's models).
const MIN_TOKENS: usize = 1024;
/// What Anthropic's models need that are named so.
const LARGER_MINIMUM: [(&str, usize); 3] = [("haiku-4", 4096), ("opus-4-5", 4096), ("haiku", 2048)];
/// A mark for five minutes, as Anthropic takes it.
const MARK: &str = "cache_control";

/// Returns the shortest beginning that is cached for a model, in bytes.
pub(super) fn min_bytes(model: &str) -> usize {
    let larger = LARGER_MINIMUM.iter().find(|(name, _)| model.contains(name));
    larger.map_or(MIN_TOKENS, |(_, tokens)| *tokens) * BYTES_PER_TOKEN
}

/// Adds the name under which a request's beginning is found again: of its scope, its tools and its instructions.
///
/// Returns the name, or `None` where the caller has set one.
pub(super) fn name_beginning(body: &mut Map<String, Value>, model: &str, scope: &Scope) -> Option<String> {
    const FIELD: &str = "prompt_cache_key";
    if body.contains_key(FIELD) {
        return None;
    }
    let mut hasher = blake3::Hasher::new_derive_key("sophia chat 2026 prompt cache key");
    write_scope(&mut hasher, scope);
    write(&mut hasher, &Value::from(model));
    body.get("tools").into_iter().for_each(|tools| write(&mut hasher, tools));
    messages(body).iter().take_while(|message| is_instruction(message)).for_each(|message| write(&mut hasher, message));
    let name = format!("sophia-{}", &hasher.finalize().to_hex()[..32]);
    body.insert(FIELD.to_owned(), Value::from(name.as_str()));
    Some(name)
}

/// Sets marks after the tools, the instructions, the last turn that was sent before and the last of all, each where it is
/// long enough, and known to have been sent before or the end of a conversation that grows: the second sending pays for
/// the write, the third saves.
///
/// Returns the paths of the marks. There are at most four, which is as many as Anthropic takes.
pub(super) fn mark(
    body: &mut Map<String, Value>,
    model: &str,
    scope: &Scope,
    seen: &Seen,
    now: std::time::Duration,
) -> Vec<String> {
    let ends = ends(body, model, scope);
    let known = seen.send(&ends.iter().map(|end| end.beginning).collect::<Vec<_>>(), now);
    if has_own_marks(body) {
        return Vec::new();
    }
    let min_bytes = min_bytes(model);
    let instructions = ends.iter().rposition(|end| matches!(end.place, Place::Instruction(_)));
    let last_known_turn = (0..ends.len()).rev().find(|&at| known[at] && matches!(ends[at].place, Place::Turn(_)));
    let grows = last_known_turn.is_some_and(|turn| turn + 1 < ends.len());
    let is_wanted = |at: usize| match ends[at].place {
        Place::Tools(_) => known[at],
        Place::Instruction(_) => known[at] && Some(at) == instructions,
        Place::Turn(_) => Some(at) == last_known_turn || (grows && at + 1 == ends.len()),
    };
    let wanted: Vec<_> = (0..ends.len()).filter(|&at| ends[at].bytes >= min_bytes && is_wanted(at)).collect();
    wanted.into_iter().filter_map(|at| ends[at].place.mark(body)).collect()
}

/// Where a beginning may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Tools(usize),
    Instruction(usize),
    Turn(usize),
}

#[derive(Debug)]
struct End {
    place: Place,
    beginning: Beginning,
    bytes: usize,
}

impl Place {
    fn mark(self, body: &mut Map<String, Value>) -> Option<String> {
        let (list, index) = match self {
            Place::Tools(index) => ("tools", index),
            Place::Instruction(index) | Place::Turn(index) => ("messages", index),
        };
        let target = body.get_mut(list)?.get_mut(index)?.as_object_mut()?;
        target.insert(MARK.to_owned(), json!({"type": "ephemeral"}));
        Some(format!("{list}[{index}]"))
    }
}

/// Returns where a beginning may end, in the order in which the provider reads: tools, instructions, turns.
fn ends(body: &Map<String, Value>, model: &str, scope: &Scope) -> Vec<End> {
    let mut hasher = blake3::Hasher::new_derive_key("sophia chat 2026 beginning of a request");
    write_scope(&mut hasher, scope);
    write(&mut hasher, &Value::from(model));
    let mut bytes = 0;
    let mut ends = Vec::new();
    let mut end = |place: Option<Place>, value: &Value| {
        let before = hasher.count();
        write(&mut hasher, value);
        bytes += (hasher.count() - before) as usize;
        if let Some(place) = place {
            let mut beginning = Beginning::default();
            beginning.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
            ends.push(End { place, beginning, bytes });
        }
    };
    if let Some(Value::Array(tools)) = body.get("tools") {
        let last = tools.iter().rposition(|tool| !is_deferred(tool));
        for (index, tool) in tools.iter().enumerate() {
            end((Some(index) == last).then_some(Place::Tools(index)), tool);
        }
    }
    let mut is_leading = true;
    for (index, message) in messages(body).iter().enumerate() {
        is_leading &= is_instruction(message);
        end(Some(if is_leading { Place::Instruction(index) } else { Place::Turn(index) }), message);
    }
    ends
}

/// Returns whether the caller has set a mark anywhere: then they know what they do.
fn has_own_marks(body: &Map<String, Value>) -> bool {
    body.get(MARK).is_some_and(|mark| !mark.is_null())
        || ["tools", "messages"].iter().any(|list| body.get(*list).is_some_and(is_marked))
}

/// Returns whether there is a mark in it, however deep: parts of a content, and blocks as Anthropic gave them, have their own.
fn is_marked(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.iter().any(is_marked),
        Value::Object(fields) => {
            fields.iter().any(|(name, value)| if name == MARK { !value.is_null() } else { is_marked(value) })
        }
        _ => false,
    }
}

/// Returns whether a tool is not sent to the model before it is searched for: Anthropic refuses a mark there.
fn is_deferred(tool: &Value) -> bool {
    [Some(tool), tool.get("function")].into_iter().flatten().any(|tool| tool.get("defer_loading") == Some(&true.into()))
}

fn messages(body: &Map<String, Value>) -> &[Value] {
    body.get("messages").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is_instruction(message: &Value) -> bool {
    message.get("role").is_some_and(|role| role == "system" || role == "developer")
}

fn write_scope(hasher: &mut blake3::Hasher, scope: &Scope) {
    for part in [&scope.tenant, &scope.user] {
        match part {
            Some(part) => hasher.update(&(part.len() as u64 + 1).to_le_bytes()).update(part.as_bytes()),
            None => hasher.update(&0_u64.to_le_bytes()),
        };
    }
}

fn write(hasher: &mut blake3::Hasher, value: &Value) {
    // A hasher takes everything, and a value can always be written.
    let _ = serde_json::to_writer(hasher, value);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn body(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn long(word: &str) -> String {
        format!("{word} ").repeat(1000)
    }

    fn ask(turns: &[&str]) -> Map<String, Value> {
        let mut messages = vec![json!({"role": "system", "content": long("rules")})];
        for (index, text) in turns.iter().enumerate() {
            messages.push(json!({"role": if index % 2 == 0 { "user" } else { "assistant" }, "content": text}));
        }
        body(
            json!({"model": "m", "messages": messages, "tools": [{"name": "a"}, {"name": "b", "description": long("does")}]}),
        )
    }

    fn marked(seen: &Seen, request: &Map<String, Value>) -> Vec<String> {
        mark(&mut request.clone(), "m", &Scope::new(), seen, Duration::ZERO)
    }

    #[test]
    fn what_was_sent_before_is_marked_and_what_is_new_is_not() {
        let seen = Seen::default();
        assert!(marked(&seen, &ask(&["one"])).is_empty(), "nobody knows whether it comes again");
        assert_eq!(marked(&seen, &ask(&["two"])), ["tools[1]", "messages[0]"]);
        let grown = ask(&["two", "answer", "three"]);
        assert_eq!(marked(&seen, &grown), ["tools[1]", "messages[0]", "messages[1]", "messages[3]"]);
        let later = Duration::from_secs(301);
        assert!(mark(&mut grown.clone(), "m", &Scope::new(), &seen, later).is_empty(), "the provider has forgotten it");
    }

    #[test]
    fn what_is_too_short_for_the_model_is_not_marked() {
        let seen = Seen::default();
        let short =
            body(json!({"messages": [{"role": "system", "content": "rules"}, {"role": "user", "content": "x"}]}));
        marked(&seen, &short);
        assert!(marked(&seen, &short).is_empty());
        assert_eq!((min_bytes("claude-sonnet-4-5"), min_bytes("claude-haiku-4-5")), (4096, 16384));
    }

    #[test]
    fn marks_of_the_caller_are_left_alone() {
        let seen = Seen::default();
        for path in ["/tools/0", "/messages/1", "/messages/2/content_blocks/0"] {
            let mut own = Value::Object(ask(&["one", "two"]));
            own["messages"][2]["content_blocks"] = json!([{"type": "tool_use"}]);
            own.pointer_mut(path).unwrap()["cache_control"] = json!({"type": "ephemeral", "ttl": "1h"});
            let mut own = body(own);
            let before = own.clone();
            for _ in 0..3 {
                assert!(mark(&mut own, "m", &Scope::new(), &seen, Duration::ZERO).is_empty());
            }
            assert_eq!(own, before);
        }
    }

    #[test]
    fn a_tool_that_is_searched_for_later_is_not_marked() {
        let seen = Seen::default();
        let ask = |question: &str| {
            let mut request = ask(&[question]);
            let tools = json!([{"name": "b", "description": long("does")}, {"name": "a", "defer_loading": true}]);
            request.insert("tools".into(), tools);
            request
        };
        marked(&seen, &ask("one"));
        assert_eq!(marked(&seen, &ask("two")), ["tools[0]", "messages[0]"]);
    }

    #[test]
    fn a_name_stands_for_scope_model_tools_and_instructions_and_not_for_the_question() {
        let name = |request: &Map<String, Value>, model: &str, scope: &Scope| {
            name_beginning(&mut request.clone(), model, scope).unwrap()
        };
        let (ada, bob) = (Scope::new().user("ada"), Scope::new().user("bob"));
        let one = name(&ask(&["one"]), "m", &ada);
        assert_eq!(one, name(&ask(&["two"]), "m", &ada));
        assert_ne!(one, name(&ask(&["one"]), "m", &bob));
        assert_ne!(one, name(&ask(&["one"]), "other", &ada));
        let mut own = ask(&["one"]);
        own.insert("prompt_cache_key".into(), json!("mine"));
        assert_eq!(name_beginning(&mut own, "m", &ada), None);
        assert_eq!(own["prompt_cache_key"], "mine");
    }
}
