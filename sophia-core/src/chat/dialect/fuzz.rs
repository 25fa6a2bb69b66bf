//! What others send is never taken for what it is not, and panics nowhere: recorded wires, changed at random.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{Dialect, anthropic, openai, replay, responses};
use crate::{
    Scope, Timestamp,
    chat::{
        ChatChunk, ChatRequest, ChatResponse,
        endpoint::{Assemble, Heard},
        provider::{ProviderCall, SharedDeadline},
        response::{Answer, CacheInfo, CacheStatus, Delta},
    },
    resilience::Deadline,
};

const WIRES: [&str; 3] = [
    include_str!("../../../tests/it/chat/wire/chat.sse"),
    include_str!("../../../tests/it/chat/wire/messages.sse"),
    include_str!("../../../tests/it/chat/wire/responses.sse"),
];
const REQUESTS: [&str; 2] = [
    include_str!("../../../tests/it/chat/wire/messages_request.json"),
    include_str!("../../../tests/it/chat/wire/responses_request.json"),
];

fn events(wire: &str) -> Vec<String> {
    let mut events = Vec::new();
    crate::chat::sse::SseParser::new(1 << 20).push(wire.as_bytes(), &mut events).unwrap();
    events.into_iter().map(|event| event.data).collect()
}

/// One change: which place, counted through the value, and what is put there.
type Change = (usize, usize);

fn changes() -> impl Strategy<Value = Vec<Change>> {
    proptest::collection::vec((0usize..400, 0usize..9), 0..6)
}

/// Puts something else at the place of this number.
fn change(value: &mut Value, at: &mut usize, what: usize) {
    if *at == 0 {
        let other = [
            json!(null),
            json!(-1),
            json!(1e300),
            json!("x"),
            json!([]),
            json!({}),
            json!(true),
            json!([1, {"type": "text"}]),
            json!(""),
        ];
        *value = other[what].clone();
    }
    *at = at.wrapping_sub(1);
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| change(value, at, what)),
        Value::Object(fields) => fields.values_mut().for_each(|value| change(value, at, what)),
        _ => {}
    }
}

fn hear<A: Assemble>(events: &[String]) -> Option<Answer> {
    let mut assembler = A::default();
    let mut heard = Vec::new();
    for event in events {
        match assembler.hear(event) {
            Heard::Delta(delta) => heard.push(delta),
            Heard::Nothing => {}
            last @ (Heard::End | Heard::Last(_)) => {
                if let Heard::Last(delta) = last {
                    heard.push(delta);
                }
                let answer = assembler.into_answer("p", "m", true)?;
                assert_eq!(answer.deltas, heard);
                return Some(answer);
            }
            Heard::Failed(_) | Heard::Garbage => return None,
        }
    }
    assembler.has_finished().then(|| assembler.into_answer("p", "m", false)).flatten()
}

fn assemble(dialect: usize, events: &[String]) -> Option<Answer> {
    match dialect {
        0 => hear::<openai::Assembler>(events),
        1 => hear::<anthropic::Assembler>(events),
        _ => hear::<responses::Assembler>(events),
    }
}

/// Tells an answer in every dialect, whole and in parts; returns the events.
fn tell(answer: &Answer, deltas: Vec<Delta>) -> [String; 3] {
    let answer = Arc::new(answer.clone());
    let cache = CacheInfo::new(CacheStatus::Miss);
    let response = ChatResponse {
        answer: answer.clone(),
        cache: cache.clone(),
        attempts: Vec::new(),
        latency_ms: 0.0,
        explain: None,
        assistance: None,
    };
    openai::write_response(&response, &Map::new(), Timestamp::UNIX_EPOCH).unwrap();
    anthropic::write_response(&response).unwrap();
    responses::write_response(&response, &Map::new(), Timestamp::UNIX_EPOCH).unwrap();
    let mut chat = openai::FrameWriter::new("m", &Map::new(), Timestamp::UNIX_EPOCH, true);
    let mut messages = anthropic::FrameWriter::new("m");
    let mut items = responses::FrameWriter::new("m", &Map::new(), Timestamp::UNIX_EPOCH);
    let mut told = [String::new(), String::new(), String::new()];
    let end = ChatChunk::end(answer, cache);
    for chunk in deltas.into_iter().map(ChatChunk::of).chain([end]) {
        told[0] += &chat.chunk(&chunk);
        told[1] += &messages.chunk(&chunk);
        told[2] += &items.chunk(&chunk);
    }
    told
}

/// What every client must be told alike.
fn said(answer: &Answer) -> (String, Vec<(Value, Value)>) {
    let calls = answer.tool_calls.iter().map(|call| {
        let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
        // Objects are written anew where a protocol has them as such.
        (call["function"]["name"].clone(), serde_json::from_str(arguments).unwrap_or_default())
    });
    (answer.text.clone(), calls.collect())
}

#[test]
fn an_answer_is_the_same_through_every_dialect_live_and_replayed() {
    for (dialect, wire) in WIRES.iter().enumerate() {
        let answer = assemble(dialect, &events(wire)).unwrap();
        assert!(answer.terminated);
        let whole = Answer { deltas: Vec::new(), ..answer.clone() };
        for deltas in [answer.deltas.clone(), replay(&whole)] {
            for (other, told) in tell(&answer, deltas).iter().enumerate() {
                let again = assemble(other, &events(told)).unwrap();
                assert_eq!(said(&again), said(&answer), "{dialect} told in {other}");
                assert!(again.terminated);
                if answer.message.contains_key("reasoning_content") {
                    assert_eq!(again.message["reasoning_content"], answer.message["reasoning_content"]);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn no_stream_of_events_panics(
        dialect in 0usize..3,
        changes in proptest::collection::vec((0usize..40, changes()), 0..4),
        order in proptest::collection::vec(0usize..40, 0..4),
    ) {
        let mut events = events(WIRES[dialect]);
        for (index, changes) in changes {
            let index = index % events.len();
            let Ok(mut event) = serde_json::from_str::<Value>(&events[index]) else { continue };
            for (at, what) in changes {
                change(&mut event, &mut at.clone(), what);
            }
            events[index] = event.to_string();
        }
        for (step, index) in order.into_iter().enumerate() {
            let (from, to) = (index % events.len(), step % events.len());
            events.swap(from, to);
        }
        for reader in 0..3 {
            if let Some(answer) = assemble(reader, &events) {
                let whole = Answer { deltas: Vec::new(), ..answer.clone() };
                tell(&answer, answer.deltas.clone());
                tell(&answer, replay(&whole));
            }
        }
    }

    #[test]
    fn no_request_panics(dialect in 0usize..2, changes in changes()) {
        let mut body: Value = serde_json::from_str(REQUESTS[dialect]).unwrap();
        for (at, what) in changes {
            change(&mut body, &mut at.clone(), what);
        }
        let scope = Scope::new();
        let request = match dialect {
            0 => anthropic::read_request(body, &scope, &[]).map(|inbound| inbound.request),
            _ => responses::read_request(body, &scope).map(|inbound| inbound.request),
        };
        let Ok(request) = request else { return Ok(()) };
        let _ = request.validate("test");
        for dialect in [Dialect::Chat, request.dialect] {
            let call = call(&request, dialect);
            for error in [
                openai::write_request(&call, "p").err(),
                anthropic::write_request(&call, "p", 1).err(),
                responses::write_request(&call, "p").err(),
            ].into_iter().flatten() {
                prop_assert_eq!(error.code(), "UNSUPPORTED");
                prop_assert!(error.get("field").is_some());
            }
        }
    }
}

pub(super) fn call(request: &ChatRequest, dialect: Dialect) -> ProviderCall {
    ProviderCall {
        operation: "test",
        model: "m".to_owned(),
        body: request.clone().into_body("m"),
        dialect,
        deadline: SharedDeadline::new(Deadline::after(std::time::Duration::from_secs(1))),
        keeping: None,
        context: String::new(),
        scope: crate::Scope::new(),
        trace: crate::chat::explain::Trace::default(),
        asked_of: Default::default(),
        pass: Default::default(),
        parent: None,
    }
}
