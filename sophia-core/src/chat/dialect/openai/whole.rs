//! An answer that comes whole, as most do, read without building what nobody looks at.

use bytes::Bytes;
use serde_json::Value;

use super::answer::of_message;
use crate::chat::{
    dialect::{Dialect, Envelope, envelope::object, integers::inexact},
    response::{Answer, Usage},
};

/// Reads a body. `None` where it is none of an answer, or not as plain as most are: then [`super::answer`] says what it is.
pub(crate) fn read(text: &Bytes, provider: &str, model: &str) -> Option<Answer> {
    let said: Said = serde_json::from_slice(text).ok()?;
    let of_the_asker = [
        &said.user,
        &said.metadata,
        &said.safety_identifier,
        &said.prompt_cache_key,
        &said.prompt_cache_options,
        &said.prompt_cache_retention,
    ];
    let is_plain = of_the_asker.into_iter().chain([&said.error]).all(Value::is_null)
        && Dialect::of(Some(&said.kind), Some(&said.object)) == Dialect::Chat;
    let count = said.choices.len();
    let first = said.choices.into_iter().next().filter(|_| is_plain)?;
    let Value::Object(message) = first.message else { return None };
    if message.contains_key("tool_calls") && inexact(text).is_some() {
        return None;
    }
    let finish_reason = match first.finish_reason {
        Value::String(reason) => Some(reason),
        _ => None,
    };
    let named = match said.model {
        Value::String(named) if !named.is_empty() => named,
        _ => model.to_owned(),
    };
    let usage = said.usage.unwrap_or_default().counted();
    Some(of_message(message, finish_reason, named, provider, usage, Envelope::unread(text.clone(), count)))
}

object! {
    Said {
        "choices" => choices: Vec<Choice>,
        "model" => model: Value,
        "usage" => usage: Option<Counts>,
        "error" => error: Value,
        "user" => user: Value,
        "metadata" => metadata: Value,
        "safety_identifier" => safety_identifier: Value,
        "prompt_cache_key" => prompt_cache_key: Value,
        "prompt_cache_options" => prompt_cache_options: Value,
        "prompt_cache_retention" => prompt_cache_retention: Value,
        "type" => kind: Value,
        "object" => object: Value,
    }
}

object! {
    Choice {
        "message" => message: Value,
        "finish_reason" => finish_reason: Value,
    }
}

object! {
    Counts {
        "prompt_tokens" => prompt: Value,
        "completion_tokens" => completion: Value,
        "prompt_tokens_details" => of_prompt: Option<OfPrompt>,
        "completion_tokens_details" => of_completion: Option<OfCompletion>,
    }
}

object! {
    OfPrompt {
        "cached_tokens" => cached: Value,
        "cache_write_tokens" => written: Value,
    }
}

object! {
    OfCompletion {
        "reasoning_tokens" => reasoning: Value,
    }
}

impl Counts {
    fn counted(self) -> Usage {
        let (of_prompt, of_completion) = (self.of_prompt.unwrap_or_default(), self.of_completion.unwrap_or_default());
        Usage {
            prompt_tokens: Usage::count(&self.prompt),
            completion_tokens: Usage::count(&self.completion),
            cached_tokens: Usage::count(&of_prompt.cached),
            cache_write_tokens: Usage::count(&of_prompt.written),
            reasoning_tokens: Usage::count(&of_completion.reasoning),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::chat::{
        dialect::{
            asker,
            openai::{self, Assembler},
        },
        endpoint::{Assemble, Heard},
    };

    /// Returns what is read of a body in one way and in the other.
    fn both(text: &str) -> (Option<Answer>, Option<Answer>) {
        let fields = serde_json::from_str(text).ok();
        (read(&Bytes::from(text.to_owned()), "p", "m"), fields.and_then(|fields| openai::answer(fields, "p", "m")))
    }

    #[test]
    fn it_reads_what_is_read_of_the_fields() {
        let message = json!({"role": "assistant", "content": [{"type": "text", "text": "a"}, {"text": "b"}], "tool_calls": [{"id": "1"}]});
        let counts = json!({"prompt_tokens": 3, "completion_tokens": -1, "prompt_tokens_details": {"cached_tokens": 2, "x": [1]},
            "completion_tokens_details": null});
        for body in [
            json!({"model": "m-1", "choices": [{"index": 0, "message": {"content": "Hi \u{e9}\n"}, "finish_reason": "stop", "x": {"y": 1.5}}], "usage": counts}),
            json!({"error": null, "model": 7, "choices": [{"message": message, "finish_reason": null}, {"message": {}}], "usage": null}),
            json!({"id": "1", "model": "", "object": "chat.completion", "choices": [{"message": {}}], "new": [{"deep": [[]]}]}),
        ] {
            let (quick, slow) = both(&body.to_string());
            let slow = slow.unwrap();
            assert_eq!(quick.unwrap(), slow, "{body}");
            assert_eq!(slow.body(), body);
        }
        // The last one of a name counts.
        let twice = r#"{"choices": [], "choices": [{"message": {"content": "a", "content": "b"}}], "model": "x", "model": "y"}"#;
        let (quick, slow) = both(twice);
        assert_eq!(quick.as_ref().map(|answer| answer.text.as_str()), Some("b"));
        assert_eq!(quick, slow);
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_other() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"choices": null}"#,
            r#"{"choices": []}"#,
            r#"{"choices": [{"message": "x"}]}"#,
            r#"{"error": {"message": "no"}, "choices": [{"message": {}}]}"#,
            r#"{"type": "message", "choices": [{"message": {}}]}"#,
            r#"{"choices": [{"message": {}}], "usage": "x"}"#,
            r#"{"choices": [{"message": {}}], "x": 1e999}"#,
            r#"{"choices": [{"message": {}}], "x": "\ud800"}"#,
            r#"{"choices": [{"message": {}}], "x": {"$serde_json::private::RawValue": "[1]"}}"#,
            r#"{"choices": [{"message": {}}], "x": [{"$serde_json::private::\u0052awValue": "{"}]}"#,
            r#"{"choices": [{"$serde_json::private::RawValue": "[1]", "message": {}}]}"#,
            r#"{"choices": [{"message": {}}]} x"#,
            r#"{"choices": [{"message": {}}]"#,
        ] {
            assert!(both(text).0.is_none(), "{text}");
        }
        let deep = format!(r#"{{"choices": [{{"message": {{}}}}], "x": {}{}}}"#, "[".repeat(200), "]".repeat(200));
        assert!(both(&deep).0.is_none());
        let wrong = [br#"{"choices": [{"message": {}}], "x": ""#.as_slice(), &[0xff], br#""}"#].concat();
        assert!(read(&Bytes::from(wrong), "p", "m").is_none());
    }

    #[test]
    fn arguments_with_an_integer_that_no_number_holds_are_no_answer_where_they_come_as_an_object() {
        let body = |arguments: &str| {
            let call = format!(r#"{{"id": "1", "function": {{"name": "f", "arguments": {arguments}}}}}"#);
            format!(r#"{{"choices": [{{"message": {{"tool_calls": [{call}]}}}}]}}"#)
        };
        let lost = |text: &str| Assembler::lost(&Bytes::from(text.to_owned())).map(str::to_owned);
        let beyond = body(r#"{"order": 18446744073709551617}"#);
        assert!(both(&beyond).0.is_none());
        assert_eq!(lost(&beyond).as_deref(), Some("18446744073709551617"));
        assert!(matches!(Assembler::default().hear(&beyond.replace("message", "delta")), Heard::Garbage));
        for held in [body(r#"{"order": 7}"#), body(r#""{\"order\": 18446744073709551617}""#)] {
            assert!(both(&held).0.is_some() && lost(&held).is_none(), "{held}");
            assert!(matches!(Assembler::default().hear(&held.replace("message", "delta")), Heard::Delta(_)));
        }
    }

    #[test]
    fn what_may_be_of_who_asks_is_left_to_the_other() {
        for name in asker::NAMES {
            let body = json!({"choices": [{"message": {}}], name: "ada"}).to_string();
            assert!(both(&body).0.is_none(), "{name}");
            assert!(both(&body.replace("\"ada\"", "null")).0.is_some(), "{name}");
        }
    }

    #[test]
    fn a_body_that_cannot_be_read_again_is_a_failure_of_its_provider() {
        let message = json!({"content": "Hi"}).as_object().unwrap().clone();
        let envelope = Envelope::unread(Bytes::from_static(b"{"), 1);
        let answer = of_message(message, None, "m".into(), "p", Usage::default(), envelope);
        let error = openai::body_of(&answer).unwrap_err();
        assert_eq!((error.code(), error.get("provider")), ("UNAVAILABLE", Some("p")));
        assert_eq!(answer.body(), serde_json::Value::Null);
        assert!(serde_json::to_value(&answer.envelope).is_err());
    }
}
