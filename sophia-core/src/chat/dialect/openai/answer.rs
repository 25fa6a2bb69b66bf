//! What a provider says.

use serde_json::{Map, Value, json};

use crate::{
    Result,
    chat::{
        dialect::{
            ENVELOPE, Envelope, REASONING_NAME, USAGE, asker, carry, fields_of, fresh_id, is_plain_text, is_unset,
            name_calls, name_of,
        },
        request::{content_text, field},
        response::{Answer, Delta, Usage},
    },
};

/// Names under which providers send reasoning.
pub(super) const REASONING: [&str; 2] = ["reasoning_content", "reasoning"];
/// Last event of a stream.
pub(crate) const DONE: &str = "[DONE]";

/// Reads the body of an answer. `None` if it is none.
pub(crate) fn answer(mut body: Map<String, Value>, provider: &str, model: &str) -> Option<Answer> {
    let choice = body.get_mut("choices")?.as_array_mut()?.first_mut()?.as_object_mut()?;
    let message = match choice.get_mut("message").map(Value::take) {
        Some(Value::Object(message)) => message,
        _ => return None,
    };
    let finish_reason = choice.get("finish_reason").and_then(Value::as_str).map(str::to_owned);
    let named = body.get("model").and_then(Value::as_str).filter(|name| !name.is_empty());
    let named = named.unwrap_or(model).to_owned();
    let usage = body.get("usage").map(usage).unwrap_or_default();
    Some(of_message(message, finish_reason, named, provider, usage, Envelope::of(body)))
}

/// Returns the answer that a message is, taken as whole.
pub(super) fn of_message(
    mut message: Map<String, Value>,
    finish_reason: Option<String>,
    model: String,
    provider: &str,
    usage: Usage,
    envelope: Envelope,
) -> Answer {
    if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
        calls.iter_mut().filter_map(Value::as_object_mut).for_each(write_arguments);
        name_calls(calls.iter_mut().filter_map(Value::as_object_mut), "call");
    }
    Answer {
        text: field(&message, "content").map(|content| content_text(content).into_owned()).unwrap_or_default(),
        tool_calls: field(&message, "tool_calls").and_then(Value::as_array).cloned().unwrap_or_default(),
        model,
        provider: provider.to_owned(),
        usage,
        cost_usd: None,
        finish_reason,
        message,
        envelope,
        deltas: Vec::new(),
        terminated: true,
    }
}

/// Writes the arguments of a call as the text that the protocol has, where a provider gives the object itself.
fn write_arguments(call: &mut Map<String, Value>) {
    let arguments = call.get_mut("function").and_then(|function| function.get_mut("arguments"));
    if let Some(own) = arguments.filter(|own| own.is_object() || own.is_array()) {
        *own = own.to_string().into();
    }
}

/// Returns whether an answer, or an event of one, gives the arguments of a call as what they are instead of as text.
pub(crate) fn gives_values(body: &Map<String, Value>) -> bool {
    let choices = body.get("choices").and_then(Value::as_array).into_iter().flatten();
    let messages = choices.flat_map(|choice| [choice.get("message"), choice.get("delta")]).flatten();
    let calls = messages.filter_map(|message| message.get("tool_calls")?.as_array()).flatten();
    calls.filter_map(|call| call.pointer("/function/arguments")).any(|own| own.is_object() || own.is_array())
}

/// Reads token counts.
pub(crate) fn usage(usage: &Value) -> Usage {
    Usage {
        prompt_tokens: Usage::count(&usage["prompt_tokens"]),
        completion_tokens: Usage::count(&usage["completion_tokens"]),
        cached_tokens: Usage::count(&usage["prompt_tokens_details"]["cached_tokens"]),
        cache_write_tokens: Usage::count(&usage["prompt_tokens_details"]["cache_write_tokens"]),
        reasoning_tokens: Usage::count(&usage["completion_tokens_details"]["reasoning_tokens"]),
    }
}

/// Field of an event that is new each time and says nothing: it hides how long the event is.
const PADDING: &str = "obfuscation";

/// Puts an answer together out of the events of a stream.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    message: Map<String, Value>,
    tool_calls: Vec<Call>,
    deltas: Vec<Delta>,
    envelope: Map<String, Value>,
    /// What is new in it since the last delta.
    news: Map<String, Value>,
    /// What is said of the choice beside its message.
    choice: Map<String, Value>,
    /// What the provider calls its reasoning.
    reasoning: Option<String>,
    usage: Option<Value>,
    /// Whether the request asks for token counts with each event.
    counts_each: bool,
    /// What the request says of who asks.
    asker: Map<String, Value>,
    finish_reason: Option<String>,
}

/// A call of a tool, as far as it has come.
#[derive(Debug, Default)]
struct Call {
    /// The index that the provider gave it.
    index: Option<u64>,
    /// How the provider names it, if it does.
    id: Option<Value>,
    fields: Map<String, Value>,
}

impl Assembler {
    /// Begins the answer to a request.
    pub fn of_request(body: &Map<String, Value>) -> Assembler {
        let options = body.get("stream_options");
        let asks = options.and_then(|options| options.get("continuous_usage_stats")) == Some(&Value::Bool(true));
        Assembler { counts_each: asks, asker: asker::of(body), ..Assembler::default() }
    }

    /// Takes one event. Returns what is new in it, if anything is; `Err` if it is not of this protocol.
    pub fn push(&mut self, mut event: Map<String, Value>) -> Result<Option<Delta>, ()> {
        asker::take_out(&mut event, &self.asker);
        let usage = event.remove("usage").filter(|usage| !usage.is_null());
        let counted = usage.as_ref().filter(|_| self.counts_each).cloned();
        self.usage = usage.or_else(|| self.usage.take());
        // Whoever asks for several answers, or for probabilities, is given the provider's own events; so is what a provider says
        // of a choice by itself.
        let native = event.get("choices").is_some_and(is_more).then(|| event.clone());
        let choices = match event.remove("choices") {
            Some(Value::Array(choices)) => choices,
            None | Some(Value::Null) => Vec::new(),
            Some(_) => return Err(()),
        };
        for (name, value) in event {
            if self.envelope.get(&name) != Some(&value) && name != PADDING {
                self.news.insert(name.clone(), value.clone());
            }
            self.envelope.insert(name, value);
        }
        let mut delta = self.take_choices(choices)?;
        if let Some(mut event) = native {
            let known = delta.unwrap_or_default();
            if !known.tool_calls.is_empty() {
                name_in_event(&mut event, &known.tool_calls);
            }
            delta = Some(carry(known, event));
        }
        if let Some(delta) = delta.as_mut().filter(|_| !self.news.is_empty()) {
            delta.extra.insert(ENVELOPE.to_owned(), std::mem::take(&mut self.news).into());
        }
        if let Some((delta, counted)) = delta.as_mut().zip(counted) {
            delta.extra.insert(USAGE.to_owned(), counted);
        }
        self.deltas.extend(delta.clone());
        Ok(delta)
    }

    fn take_choices(&mut self, choices: Vec<Value>) -> Result<Option<Delta>, ()> {
        // Only one answer is understood; those who ask for several are neither cached nor assembled.
        let first = choices.into_iter().find(|choice| number_of(choice) == 0);
        let Some(Value::Object(mut choice)) = first else { return Ok(None) };
        // Some servers write an empty one until they know it.
        if let Some(Value::String(reason)) = choice.remove("finish_reason").filter(|reason| reason != "") {
            self.finish_reason = Some(reason);
        }
        let delta = choice.remove("delta");
        choice.remove("index");
        for (name, value) in choice.into_iter().filter(|(_, value)| !value.is_null()) {
            // Of the tokens of this event; anything else is of all so far.
            if name == "logprobs" || value.is_array() {
                append(&mut self.choice, &name, &value);
            } else {
                self.choice.insert(name, value);
            }
        }
        let fields = match delta {
            Some(Value::Object(fields)) => fields,
            None | Some(Value::Null) => return Ok(None),
            Some(_) => return Err(()),
        };
        Ok(self.take(fields))
    }

    fn take(&mut self, fields: Map<String, Value>) -> Option<Delta> {
        let (mut delta, mut parts) = (Delta::default(), None);
        for (name, value) in fields {
            match (name.as_str(), value) {
                ("role", value) => {
                    self.message.insert(name, value);
                }
                (_, Value::Null) => {}
                ("content", Value::String(text)) => delta.text = text,
                ("content", own @ Value::Array(_)) => {
                    delta.text = content_text(&own).into_owned();
                    parts = Some(own);
                }
                ("tool_calls", Value::Array(calls)) => {
                    delta.tool_calls = calls.into_iter().map(|call| self.take_tool_call(call)).collect();
                }
                // A provider that sends both sends the same in both.
                (name, Value::String(text)) if REASONING.contains(&name) && delta.reasoning.is_none() => {
                    append(&mut self.message, name, &Value::String(text.clone()));
                    if self.reasoning.as_deref().unwrap_or(REASONING[0]) != name {
                        delta.extra.insert(REASONING_NAME.to_owned(), name.into());
                        self.reasoning = Some(name.to_owned());
                    }
                    delta.reasoning = Some(text);
                }
                (_, value) => {
                    append(&mut self.message, &name, &value);
                    delta.extra.insert(name, value);
                }
            }
        }
        match parts {
            Some(parts) => say(&mut self.message, parts),
            None if delta.text.is_empty() => {}
            None => say(&mut self.message, Value::String(delta.text.clone())),
        }
        (delta != Delta::default()).then_some(delta)
    }

    /// Joins the parts of one tool call by its index, and returns the part with the number of its call: some providers give
    /// several calls the same index, or none. A call that has no name of its own is given one with its first part.
    fn take_tool_call(&mut self, part: Value) -> Value {
        let Value::Object(mut part) = part else { return part };
        write_arguments(&mut part);
        let index = part.get("index").and_then(Value::as_u64);
        let id = name_of(&part).map(Value::from);
        let is_its_own = |call: &Call| id.is_none() || call.id.is_none() || call.id == id;
        let known = self.tool_calls.iter().rposition(|call| index.is_some() && call.index == index && is_its_own(call));
        let number = known.unwrap_or(self.tool_calls.len());
        if number == self.tool_calls.len() {
            let is_taken = |id: &Value| self.tool_calls.iter().any(|call| call.fields.get("id") == Some(id));
            if id.as_ref().is_none_or(is_taken) {
                part.insert("id".to_owned(), fresh_id("call").into());
            }
            self.tool_calls.push(Call { index, ..Call::default() });
        } else if self.tool_calls[number].fields.get("id") != id.as_ref() {
            // It has a name already.
            part.shift_remove("id");
        }
        part.insert("index".to_owned(), number.into());
        let call = &mut self.tool_calls[number];
        call.id = call.id.take().or(id);
        for (name, value) in &part {
            match (name.as_str(), value) {
                ("function", Value::Object(_)) => append(&mut call.fields, name, value),
                _ => {
                    call.fields.insert(name.clone(), value.clone());
                }
            }
        }
        Value::Object(part)
    }

    /// Returns whether nothing of an answer was heard.
    pub fn is_empty(&self) -> bool {
        self.message.is_empty() && self.tool_calls.is_empty() && self.finish_reason.is_none()
    }

    pub fn finish_reason(&self) -> Option<&str> {
        self.finish_reason.as_deref()
    }

    /// Returns the whole answer; `terminated` says whether the protocol said that it is whole.
    pub fn finish(mut self, provider: &str, model: &str, terminated: bool) -> Answer {
        self.message.entry("role").or_insert_with(|| "assistant".into());
        self.message.entry("content").or_insert(Value::Null);
        let tool_calls: Vec<Value> = self
            .tool_calls
            .into_iter()
            .map(|Call { mut fields, .. }| {
                fields.shift_remove("index");
                Value::Object(fields)
            })
            .collect();
        if !tool_calls.is_empty() {
            self.message.insert("tool_calls".to_owned(), Value::Array(tool_calls));
        }
        let mut body = self.envelope;
        body.insert("object".to_owned(), "chat.completion".into());
        let mut choice = self.choice;
        choice.insert("index".to_owned(), 0.into());
        choice.insert("message".to_owned(), self.message.into());
        choice.insert("finish_reason".to_owned(), self.finish_reason.into());
        body.insert("choices".to_owned(), Value::Array(vec![choice.into()]));
        if let Some(usage) = self.usage {
            body.insert("usage".to_owned(), usage);
        }
        match answer(body, provider, model) {
            Some(answer) => Answer { deltas: self.deltas, terminated, ..answer },
            // Unreachable: the body above has a choice with a message. An empty answer is not kept.
            None => {
                let (message, envelope) = (Map::new(), Envelope::of(Map::new()));
                let empty = of_message(message, None, model.to_owned(), provider, Usage::default(), envelope);
                Answer { terminated: false, ..empty }
            }
        }
    }
}

/// Returns the provider's whole body, message included, as it came.
///
/// # Errors
/// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) where it cannot be read again.
pub(crate) fn body_of(answer: &Answer) -> Result<Value> {
    let mut body = fields_of(answer)?.into_owned();
    if let Some(choice) = body.get_mut("choices").and_then(|choices| choices.get_mut(0)).and_then(Value::as_object_mut)
    {
        choice.insert("message".to_owned(), Value::Object(answer.message.clone()));
    }
    Ok(Value::Object(body))
}

/// Returns whether the common form does not hold all of these choices.
fn is_more(choices: &Value) -> bool {
    let choices = choices.as_array().map(Vec::as_slice).unwrap_or_default();
    let says_more = |choice: &Value| {
        let mut fields = choice.as_object().into_iter().flatten();
        fields.any(|(name, value)| match name.as_str() {
            "index" | "finish_reason" => false,
            "delta" => value.get("content").is_some_and(Value::is_array),
            _ => !is_unset(value),
        })
    };
    choices.iter().any(|choice| number_of(choice) != 0 || says_more(choice))
}

/// Puts calls that were given a name into the provider's own event.
fn name_in_event(event: &mut Map<String, Value>, calls: &[Value]) {
    let choices = event.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten();
    let first = choices.into_iter().find(|choice| number_of(choice) == 0);
    if let Some(own) = first.and_then(|choice| choice.pointer_mut("/delta/tool_calls")) {
        *own = calls.to_vec().into();
    }
}

pub(super) fn number_of(choice: &Value) -> u64 {
    choice.get("index").and_then(Value::as_u64).unwrap_or(0)
}

/// Joins what is said: text grows, and beside parts it is one of them.
fn say(message: &mut Map<String, Value>, more: Value) {
    match (message.get_mut("content"), more) {
        (Some(Value::String(known)), Value::String(more)) => known.push_str(&more),
        (Some(known @ (Value::String(_) | Value::Array(_))), more) => {
            let mut joined = parts_of(known.take());
            for part in parts_of(more) {
                match (joined.last_mut(), &part["text"]) {
                    (Some(last), Value::String(more)) if is_plain_text(last) && is_plain_text(&part) => {
                        last["text"] = format!("{}{more}", last["text"].as_str().unwrap_or_default()).into();
                    }
                    _ => joined.push(part),
                }
            }
            *known = joined.into();
        }
        (_, more) => {
            message.insert("content".to_owned(), more);
        }
    }
}

fn parts_of(content: Value) -> Vec<Value> {
    match content {
        Value::Array(parts) => parts,
        Value::String(text) if text.is_empty() => Vec::new(),
        text => vec![json!({"type": "text", "text": text})],
    }
}

/// Fields of what is sent in parts that are said as a whole.
const SAID_WHOLE: [&str; 3] = ["id", "name", "type"];

/// Joins what is sent in parts: strings, arrays and objects grow, anything else is replaced.
fn append(fields: &mut Map<String, Value>, name: &str, value: &Value) {
    match (fields.get_mut(name), value) {
        (Some(Value::Object(known)), Value::Object(more)) => {
            more.iter().for_each(|(name, value)| append(known, name, value));
        }
        (Some(_), Value::Null) => {}
        (Some(Value::String(known)), Value::String(more)) if SAID_WHOLE.contains(&name) => {
            if !more.is_empty() {
                known.clone_from(more);
            }
        }
        (Some(Value::String(known)), Value::String(more)) => known.push_str(more),
        (Some(Value::Array(known)), Value::Array(more)) => known.extend(more.iter().cloned()),
        _ => {
            fields.insert(name.to_owned(), value.clone());
        }
    }
}

/// Returns the parts in which an answer is given to someone who asked for a stream.
pub(crate) fn replay(answer: &Answer) -> Vec<Delta> {
    if !answer.deltas.is_empty() {
        return answer.deltas.clone();
    }
    let mut deltas = Vec::new();
    let fields = answer.envelope.fields();
    let beside = beside_choices(&fields);
    let event = |choice: Value| {
        let mut event = beside.clone();
        event.insert("object".to_owned(), "chat.completion.chunk".into());
        event.insert("choices".to_owned(), Value::Array(vec![choice]));
        event
    };
    let is_said = |name: &str| answer.message.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some((name, reasoning)) = REASONING.iter().find_map(|name| Some((*name, is_said(name)?))) {
        let mut delta = Delta { reasoning: Some(reasoning.to_owned()), ..Delta::default() };
        if name != REASONING[0] {
            delta.extra.insert(REASONING_NAME.to_owned(), name.into());
        } else if let Some(same) = is_said(REASONING[1]) {
            delta.extra.insert(REASONING[1].to_owned(), same.into());
        }
        deltas.push(delta);
    }
    let known = ["role", "content", "tool_calls"];
    let extra: Map<_, _> = answer
        .message
        .iter()
        .filter(|(name, value)| {
            !known.contains(&name.as_str()) && !REASONING.contains(&name.as_str()) && !value.is_null()
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if let Some(content @ Value::Array(_)) = answer.message.get("content") {
        let mut said = extra.clone();
        if deltas.is_empty() {
            said.insert("role".to_owned(), "assistant".into());
        }
        said.insert("content".to_owned(), content.clone());
        let delta = Delta { text: answer.text.clone(), extra, ..Delta::default() };
        deltas.push(carry(delta, event(json!({"index": 0, "delta": said, "finish_reason": null}))));
    } else if !answer.text.is_empty() || !extra.is_empty() {
        deltas.push(Delta { text: answer.text.clone(), extra, ..Delta::default() });
    }
    for (index, call) in answer.tool_calls.iter().enumerate() {
        let mut call = call.clone();
        if let Value::Object(call) = &mut call {
            call.insert("index".to_owned(), index.into());
        }
        deltas.push(Delta { tool_calls: vec![call], ..Delta::default() });
    }
    let mut choice = fields.get("choices").and_then(|choices| choices.get(0)?.as_object()).cloned().unwrap_or_default();
    choice.retain(|name, value| !["index", "message", "finish_reason"].contains(&name.as_str()) && !is_unset(value));
    if !choice.is_empty() {
        let end = json!({"index": 0, "delta": {}, "finish_reason": answer.finish_reason});
        let end = end.as_object().cloned().unwrap_or_default().into_iter().chain(choice);
        deltas.push(carry(Delta::default(), event(end.collect::<Map<_, _>>().into())));
    }
    if let Some(first) = deltas.first_mut() {
        first.extra.insert(ENVELOPE.to_owned(), beside.into());
    }
    deltas
}

/// Returns what a provider's body says of all of it, and not of one choice.
pub(super) fn beside_choices(body: &Map<String, Value>) -> Map<String, Value> {
    let beside = body.iter().filter(|(name, _)| !["choices", "usage", "object", PADDING].contains(&name.as_str()));
    beside.map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    pub fn assemble(events: &[Value]) -> (Vec<Delta>, Answer) {
        let mut assembler = Assembler::default();
        let deltas = events.iter().filter_map(|event| assembler.push(object(event.clone())).unwrap()).collect();
        (deltas, assembler.finish("p", "m", true))
    }

    pub fn choice(delta: Value) -> Value {
        json!({"id": "1", "model": "m-1", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
    }

    #[test]
    fn a_body_becomes_an_answer_and_comes_back_whole() {
        let body = json!({
            "id": "1", "model": "m-1", "system_fingerprint": "x", "new_field": [1],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi", "annotations": []}, "finish_reason": "stop", "x": 1}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}},
        });
        let answer = answer(object(body.clone()), "p", "m").unwrap();
        assert_eq!(
            (answer.text.as_str(), answer.model.as_str(), answer.finish_reason.as_deref()),
            ("Hi", "m-1", Some("stop"))
        );
        assert_eq!((answer.usage.cached_tokens, answer.usage.reasoning_tokens), (Some(2), None));
        assert_eq!(answer.body(), body);
    }

    #[test]
    fn what_is_no_answer_is_not_taken_for_one() {
        for body in
            [json!({}), json!({"choices": []}), json!({"choices": [{}]}), json!({"choices": [{"message": "x"}]})]
        {
            assert!(answer(object(body.clone()), "p", "m").is_none(), "{body}");
        }
    }

    #[test]
    fn parts_of_text_reasoning_and_tool_calls_become_one_message() {
        let (deltas, answer) = assemble(&[
            choice(json!({"role": "assistant", "content": ""})),
            choice(json!({"reasoning_content": "Hm"})),
            choice(json!({"reasoning_content": "m."})),
            choice(json!({"content": "He"})),
            choice(json!({"content": "llo", "new": "a"})),
            choice(
                json!({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]}),
            ),
            choice(json!({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]})),
            choice(json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"x\""}}]})),
            choice(json!({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]})),
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
            json!({"choices": [], "usage": {"prompt_tokens": 1}}),
        ]);
        assert_eq!(deltas.len(), 8);
        assert_eq!(answer.text, "Hello");
        assert_eq!(answer.message["reasoning_content"], "Hmm.");
        assert_eq!(answer.message["new"], "a");
        assert_eq!(answer.finish_reason.as_deref(), Some("tool_calls"));
        assert_eq!(answer.usage.prompt_tokens, Some(1));
        assert_eq!(
            Value::Array(answer.tool_calls.clone()),
            json!([
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
                {"id": "b", "function": {"name": "g", "arguments": "{}"}},
            ])
        );
        assert_eq!(replay(&answer), deltas);
    }

    #[test]
    fn an_answer_that_was_not_streamed_replays_as_a_stream_of_the_same_content() {
        let body = json!({"choices": [{"message": {"role": "assistant", "content": "Hi", "reasoning": "Hm",
            "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]}, "finish_reason": "stop"}]});
        let answer = answer(object(body), "p", "m").unwrap();
        let mut assembler = Assembler::default();
        for delta in replay(&answer) {
            let fields = json!({"content": delta.text, "reasoning": delta.reasoning, "tool_calls": delta.tool_calls});
            assembler.push(object(choice(fields))).unwrap();
        }
        let again = assembler.finish("p", "m", true);
        assert_eq!(
            (&again.text, &again.tool_calls, &again.message["reasoning"]),
            (&answer.text, &answer.tool_calls, &json!("Hm"))
        );
    }

    #[test]
    fn calls_of_one_index_are_told_apart_by_their_ids() {
        let call = |call: Value| choice(json!({"tool_calls": [call]}));
        let (deltas, answer) = assemble(&[
            call(json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{\"x\":"}})),
            call(json!({"index": 0, "id": "", "function": {"name": "", "arguments": "1}"}})),
            call(json!({"index": 0, "id": "b", "function": {"name": "g", "arguments": "{}"}})),
            call(json!({"id": "c", "function": {"name": "h", "arguments": "{}"}})),
        ]);
        let calls: Vec<_> = answer.tool_calls.iter().map(|call| call["function"].clone()).collect();
        let function = |name: &str, arguments: &str| json!({"name": name, "arguments": arguments});
        assert_eq!(calls, [function("f", "{\"x\":1}"), function("g", "{}"), function("h", "{}")]);
        let numbers: Vec<_> = deltas.iter().map(|delta| delta.tool_calls[0]["index"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [0, 0, 1, 2]);
    }

    #[test]
    fn a_call_without_a_name_is_given_one_with_its_first_part() {
        let call = |call: Value| choice(json!({"tool_calls": [call]}));
        let mut native = call(json!({"index": 1, "id": null, "function": {"name": "g", "arguments": "{}"}}));
        native["choices"][0]["logprobs"] = json!({"content": []});
        let (deltas, answer) = assemble(&[
            call(json!({"index": 0, "function": {"name": "f", "arguments": "{"}})),
            native,
            // Named when it has a name already.
            call(json!({"index": 0, "id": "late", "function": {"arguments": "}"}})),
            call(json!({"index": 2, "id": "late", "function": {"name": "h", "arguments": ""}})),
        ]);
        let id = |delta: &Delta| delta.tool_calls[0].get("id").cloned();
        let named: Vec<_> = answer.tool_calls.iter().map(|call| call["id"].clone()).collect();
        assert_eq!(named.len(), 3, "{named:?}");
        assert_eq!(named[2], "late");
        assert!(named[..2].iter().all(|id| id.as_str().unwrap().starts_with("call_")) && named[0] != named[1]);
        let told: Vec<_> = deltas.iter().map(id).collect();
        assert_eq!(told, [Some(named[0].clone()), Some(named[1].clone()), None, Some(named[2].clone())]);
        let event = crate::chat::dialect::native(&deltas[1].extra).unwrap();
        assert_eq!(event["choices"][0]["delta"]["tool_calls"][0]["id"], named[1]);
        assert_eq!(answer.tool_calls[0]["function"]["arguments"], "{}");
    }

    #[test]
    fn content_in_parts_is_joined_with_text() {
        let reference = json!({"type": "reference", "reference_ids": [1]});
        let (deltas, answer) = assemble(&[
            choice(json!({"role": "assistant", "content": ""})),
            choice(json!({"content": "See "})),
            choice(json!({"content": [{"type": "text", "text": "this page"}, reference]})),
            choice(json!({"content": " and "})),
            choice(json!({"content": [{"type": "text", "text": "end."}]})),
        ]);
        let texts: Vec<_> = deltas.iter().map(|delta| delta.text.as_str()).collect();
        assert_eq!(texts, ["See ", "this page", " and ", "end."]);
        assert_eq!(answer.text, "See this page and end.");
        let text = |text: &str| json!({"type": "text", "text": text});
        assert_eq!(answer.message["content"], json!([text("See this page"), reference, text(" and end.")]));
        // Who speaks this protocol is given the parts as they came, also of an answer that was not streamed.
        let told = |deltas: &[Delta]| -> Vec<Value> {
            let events = deltas.iter().filter_map(|delta| crate::chat::dialect::native(&delta.extra));
            events.map(|event| event["choices"][0]["delta"]["content"].clone()).collect()
        };
        assert_eq!(told(&deltas), [json!([text("this page"), reference]), json!([text("end.")])]);
        let whole = Answer { deltas: Vec::new(), ..answer.clone() };
        assert_eq!(told(&replay(&whole)), [answer.message["content"].clone()]);
    }

    #[test]
    fn what_is_said_of_a_choice_is_kept_whole_and_in_parts() {
        let hate = json!({"hate": {"filtered": false}});
        let token = |token: &str| json!({"content": [{"token": token}], "refusal": null});
        let (_, answer) = assemble(&[
            json!({"choices": [{"index": 0, "delta": {"content": "H"}, "logprobs": token("H"), "content_filter_results": hate}]}),
            json!({"choices": [{"index": 0, "delta": {"content": "i"}, "logprobs": token("i"), "content_filter_results": hate}]}),
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": 128_001, "logprobs": null}]}),
        ]);
        let logprobs = json!({"content": [{"token": "H"}, {"token": "i"}], "refusal": null});
        let body = answer.body();
        let choice = body["choices"][0].as_object().unwrap();
        assert_eq!((&choice["logprobs"], &choice["stop_reason"]), (&logprobs, &json!(128_001)));
        assert_eq!((&choice["content_filter_results"], choice.len()), (&hate, 6));
        let mut again = Assembler::default();
        for delta in replay(&Answer { deltas: Vec::new(), ..answer.clone() }) {
            let event = crate::chat::dialect::native(&delta.extra).cloned();
            again.push(event.unwrap_or_else(|| object(super::tests::choice(json!({"content": delta.text}))))).unwrap();
        }
        assert_eq!(again.finish("p", "m", true).body()["choices"], body["choices"]);
    }

    #[test]
    fn counts_come_with_each_part_where_the_request_asks_for_them() {
        let event = json!({"choices": [{"index": 0, "delta": {"content": "Hi"}}], "usage": {"prompt_tokens": 1}});
        for (options, told) in [(json!({"continuous_usage_stats": true}), Some(&event["usage"])), (json!({}), None)] {
            let mut assembler = Assembler::of_request(&object(json!({"stream_options": options})));
            let delta = assembler.push(object(event.clone())).unwrap().unwrap();
            assert_eq!(delta.extra.get(USAGE), told);
            assert_eq!(assembler.finish("p", "m", true).usage.prompt_tokens, Some(1));
        }
    }

    #[test]
    fn an_empty_reason_is_none() {
        let event = |text: &str| json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": ""}]});
        let mut assembler = Assembler::default();
        assembler.push(object(event("Half"))).unwrap();
        assert_eq!(assembler.finish_reason(), None);
    }

    #[test]
    fn arguments_that_come_as_an_object_become_the_text_that_the_protocol_has() {
        let calls = json!([{"index": 0, "id": "a", "function": {"name": "f", "arguments": {"x": [1]}}}]);
        let body = json!({"choices": [{"message": {"tool_calls": calls}, "finish_reason": "tool_calls"}]});
        let whole = answer(object(body), "p", "m").unwrap();
        let (deltas, streamed) = assemble(&[choice(json!({"tool_calls": calls}))]);
        for call in [&whole.tool_calls[0], &streamed.tool_calls[0], &deltas[0].tool_calls[0]] {
            assert_eq!(call["function"]["arguments"], "{\"x\":[1]}");
        }
        assert_eq!(whole.message["tool_calls"][0], whole.tool_calls[0]);
    }

    #[test]
    fn objects_that_come_in_parts_grow() {
        let (_, answer) = assemble(&[
            choice(json!({"content": "x", "audio": {"id": "a", "data": "AAA"}})),
            choice(json!({"audio": {"id": "a", "data": "BBB"}})),
            choice(json!({"audio": {"transcript": "hello", "data": null}})),
            choice(json!({"function_call": {"name": "f", "arguments": "{\"x\""}})),
            choice(json!({"function_call": {"arguments": ":1}"}})),
        ]);
        assert_eq!(answer.message["audio"], json!({"id": "a", "data": "AAABBB", "transcript": "hello"}));
        assert_eq!(answer.message["function_call"], json!({"name": "f", "arguments": "{\"x\":1}"}));
    }

    #[test]
    fn what_the_common_form_lacks_comes_as_the_providers_own_event() {
        let second = json!({"id": "1", "choices": [{"index": 1, "delta": {"content": "Ho"}}]});
        let probable =
            json!({"id": "1", "choices": [{"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": []}}]});
        let (deltas, answer) = assemble(&[second.clone(), probable.clone(), choice(json!({"content": "!"}))]);
        let native = |delta: &Delta| crate::chat::dialect::native(&delta.extra).cloned().map(Value::Object);
        assert_eq!(deltas.iter().map(native).collect::<Vec<_>>(), [Some(second), Some(probable), None]);
        assert_eq!((answer.text.as_str(), deltas[1].text.as_str()), ("Hi!", "Hi"));
    }
}
