//! A question as the semantic tier compares it.

use serde_json::{Map, Value};

use super::{lexicon::Kind, reading::Reading};
use crate::chat::{
    key::Key,
    request::{ChatRequest, Message, content_text},
};

/// Longest conversation that is compared, in bytes: an embedding of more says little about any part of it.
const MAX_TEXT_BYTES: usize = 8 << 10;

/// What is compared with other questions, and behind which wall.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// What must be equal: scope as far as it is shared, providers, model, instructions, every field but the messages.
    pub wall: Key,
    /// The beginning of the instructions' hash, for reports; `None` where there are none.
    pub system: Option<String>,
    /// The whole conversation: what is embedded.
    pub text: String,
    /// Identity of everything before the last message.
    pub(super) history: [u8; 16],
    /// The last message.
    pub(super) last: String,
}

impl Question {
    /// Reads a request. `None` where it holds more than text, is too long, or does not end with the user's message.
    ///
    /// `wall` is called only where there is a question.
    pub fn of<E>(request: &ChatRequest, wall: impl FnOnce() -> Result<Key, E>) -> Result<Option<Question>, E> {
        let Some(question) = Question::read(request) else { return Ok(None) };
        Ok(Some(Question { wall: wall()?, ..question }))
    }

    fn read(request: &ChatRequest) -> Option<Question> {
        let mut question =
            Question { wall: Key::default(), system: None, text: String::new(), history: [0; 16], last: String::new() };
        if let Some(prompt) = &request.prompt {
            question.text.clone_from(prompt);
            question.last.clone_from(prompt);
            return question.checked();
        }
        let (last, earlier) = request.messages.split_last()?;
        if last.role() != "user" || !is_text(last.fields()) {
            return None;
        }
        let mut history = blake3::Hasher::new();
        let mut system = blake3::Hasher::new();
        let (mut turns, mut instructions) = (0, 0);
        for message in earlier {
            if is_instruction(message) {
                instructions += 1;
                system.update(message.text().as_bytes());
                // What it says is in the wall; where it stands is not.
                history.update(b"instruction\n");
                continue;
            }
            if !is_text(message.fields()) {
                return None;
            }
            turns += 1;
            let text = message.text();
            history.update(message.role().as_bytes());
            told(&text, &mut history);
            question.text.push_str(&text);
            question.text.push('\n');
        }
        if turns > 0 {
            question.history.copy_from_slice(&history.finalize().as_bytes()[..16]);
        }
        question.system = (instructions > 0).then(|| system.finalize().to_hex()[..16].to_owned());
        question.last = last.text().into_owned();
        question.text.push_str(&question.last);
        question.checked()
    }

    fn checked(self) -> Option<Question> {
        (self.text.len() <= MAX_TEXT_BYTES && !self.last.trim().is_empty()).then_some(self)
    }
}

/// Returns whether a message instructs the model: it must be equal to the byte, and is part of the wall.
pub(crate) fn is_instruction(message: &Message) -> bool {
    matches!(message.role(), "system" | "developer")
}

/// Writes what was said, without politeness, case and punctuation: what must be equal before the last message.
///
/// Two conversations that end in the same words ask different things if anything else differs, so nothing less will do.
fn told(text: &str, out: &mut blake3::Hasher) {
    let reading = Reading::of(text);
    // `Okay` is an answer where it is all that is said, and `er` a word of other languages.
    let counts_all = !reading.is_english() || reading.words().all(|word| word.kind == Kind::Filler);
    for word in reading.words().filter(|word| word.kind != Kind::Filler || counts_all) {
        out.update(word.text.as_bytes());
        // `IT` is another word than `it`.
        out.update(if word.kind == Kind::Content { b"+" } else { b" " });
    }
    for sign in &reading.signs {
        out.update(sign.as_bytes());
        out.update(b" ");
    }
    out.update(b"\n");
}

fn is_text(message: &Map<String, Value>) -> bool {
    let plain = message.iter().all(|(name, value)| match name.as_str() {
        "role" | "content" | "cache_control" => true,
        _ => value.is_null(),
    });
    plain
        && match message.get("content") {
            Some(Value::String(_)) => true,
            Some(parts @ Value::Array(list)) => {
                let all_text = list.iter().all(|part| part.get("type").is_some_and(|kind| kind == "text"));
                all_text && !content_text(parts).is_empty()
            }
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(request: &ChatRequest) -> Option<Question> {
        Question::of::<()>(request, || Ok(Key::default())).unwrap()
    }

    fn talk(turns: &[&str]) -> ChatRequest {
        turns.iter().enumerate().fold(ChatRequest::new("m"), |request, (index, text)| match index % 2 {
            0 => request.user(*text),
            _ => request.assistant(*text),
        })
    }

    #[test]
    fn a_prompt_and_its_message_are_one_question() {
        let prompt = ChatRequest { prompt: Some("Hello there".into()), ..ChatRequest::new("m") };
        let (a, b) = (read(&prompt).unwrap(), read(&talk(&["Hello there"])).unwrap());
        assert_eq!((a.text, a.history, a.last), (b.text, b.history, b.last));
    }

    #[test]
    fn the_whole_conversation_is_embedded_and_what_came_before_must_be_the_same() {
        let ask = |turns: &[&str]| read(&talk(turns)).unwrap();
        let gym = ask(&["My gym is too far", "Shall I cancel it?", "Yes, cancel it"]);
        assert_eq!(gym.text, "My gym is too far\nShall I cancel it?\nYes, cancel it");
        let same = ask(&["my gym is too far!", "Shall I cancel it?", "please do"]);
        assert_eq!(gym.history, same.history);
        for other in [
            &["My flat is too far", "Shall I cancel it?", "Yes, cancel it"][..],
            &["My gym is too far", "Shall I not cancel it?", "Yes, cancel it"],
            &["Yes, cancel it"],
        ] {
            assert_ne!(ask(other).history, gym.history, "{other:?}");
        }
    }

    #[test]
    fn what_was_said_before_differs_by_signs_numbers_and_single_words() {
        let history = |said: &str| read(&talk(&[said, "Noted.", "Is it so?"])).unwrap().history;
        for (said, other) in [
            ("Let x > 5", "Let x < 5"),
            ("I use C#", "I use C++"),
            ("I have -5 USD", "I have 5 USD"),
            ("I work at ~/data", "I work at /data"),
            ("It is for IT", "It is for it"),
            ("He knows them", "He knows him"),
            ("I owe Bob", "Bob owes me"),
            ("Cats eat mice", "Mice eat cats"),
            ("I am Peters", "I am Peter"),
            ("I have 1,5 kg", "I have 15 kg"),
            ("Okay", "Thanks"),
            ("Er liebt sie", "Liebt sie"),
            ("I can't, never", "I can"),
        ] {
            assert_ne!(history(said), history(other), "{said} | {other}");
        }
        assert_eq!(history("Let x > 5"), history("please, let x>5"));
    }

    #[test]
    fn what_is_more_than_text_is_no_question() {
        assert!(read(&talk(&["a", "b"])).is_none(), "the user has the last word");
        assert!(read(&ChatRequest::new("m").user(json!([{"type": "image_url", "image_url": {}}]))).is_none());
        assert!(read(&ChatRequest::new("m").user(json!([{"type": "text", "text": "x"}]))).is_some());
        let tool = Message::assistant("x").with("tool_calls", json!([{"id": "1"}]));
        assert!(read(&ChatRequest::new("m").user("a").message(tool).user("b")).is_none());
        assert!(read(&talk(&[&"x".repeat(MAX_TEXT_BYTES + 1)])).is_none());
    }
}
