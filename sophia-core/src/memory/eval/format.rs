//! The formats of conversation files.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::{super::archive::formats::without_mark, dates};
use crate::{Error, Result};

const OPERATION: &str = "memory.eval";

/// A conversation of one or more sessions, with questions about it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Conversation {
    /// Its name; conversations of one file differ in it.
    pub id: String,
    /// What was said, in order.
    pub turns: Vec<Turn>,
    /// What is asked.
    pub questions: Vec<Question>,
}

/// What one person said at a time.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Turn {
    /// Name by which it is evidence.
    pub id: String,
    /// Session.
    pub session: String,
    /// Role of the speaker, such as `"user"`.
    pub role: String,
    /// Name of the speaker.
    pub speaker: Option<String>,
    /// Text.
    pub text: String,
    /// When it was said.
    pub at: Option<Timestamp>,
}

/// A question and what answers it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Question {
    /// Text.
    pub text: String,
    /// Category.
    pub category: String,
    /// Names of the turns, or sessions, that answer it.
    pub evidence: Vec<String>,
}

/// Reads a file in the format of LoCoMo (Maharana et al., 2024) or LongMemEval (Wu et al., 2024): JSON, a list of either.
///
/// # Errors
/// `InvalidInput` for what is neither, saying where.
pub fn read(file: &[u8]) -> Result<Vec<Conversation>> {
    let samples: Vec<Value> = serde_json::from_slice(without_mark(file))
        .map_err(|error| Error::invalid(OPERATION, "file", format!("is no list in JSON: {error}")))?;
    samples.into_iter().enumerate().map(|(place, sample)| one(place, sample)).collect()
}

fn one(place: usize, sample: Value) -> Result<Conversation> {
    let refuse = |error: serde_json::Error| {
        Error::invalid(OPERATION, &format!("file[{place}]"), format!("is not as its format says: {error}"))
    };
    if sample.get("conversation").is_some() {
        serde_json::from_value::<LocomoSample>(sample).map(|sample| sample.read(place)).map_err(refuse)
    } else if sample.get("haystack_sessions").is_some() {
        serde_json::from_value::<LongMemEvalSample>(sample).map(LongMemEvalSample::read).map_err(refuse)
    } else {
        let message = "has neither `conversation` (LoCoMo) nor `haystack_sessions` (LongMemEval)";
        Err(Error::invalid(OPERATION, &format!("file[{place}]"), message))
    }
}

#[derive(Deserialize)]
struct LocomoSample {
    sample_id: Option<String>,
    conversation: serde_json::Map<String, Value>,
    qa: Vec<LocomoQuestion>,
}

#[derive(Deserialize)]
struct LocomoTurn {
    speaker: String,
    dia_id: String,
    #[serde(default)]
    text: String,
    blip_caption: Option<String>,
}

#[derive(Deserialize)]
struct LocomoQuestion {
    question: String,
    #[serde(default)]
    category: i64,
    #[serde(default)]
    evidence: Vec<String>,
}

impl LocomoSample {
    fn read(self, place: usize) -> Conversation {
        let mut turns = Vec::new();
        for session in (1..).map(|number| format!("session_{number}")) {
            let Some(said) = self.conversation.get(&session) else { break };
            let at = self.conversation.get(&format!("{session}_date_time")).and_then(Value::as_str);
            let at = at.and_then(dates::parse);
            // A session that is no list has been left empty.
            let said: Vec<LocomoTurn> = serde_json::from_value(said.clone()).unwrap_or_default();
            turns.extend(said.into_iter().map(|turn| turn.read(&session, at)));
        }
        let questions = self.qa.into_iter().map(|asked| Question {
            text: asked.question,
            category: locomo_category(asked.category).to_owned(),
            evidence: asked.evidence,
        });
        Conversation {
            id: self.sample_id.unwrap_or_else(|| format!("sample-{place}")),
            turns,
            questions: questions.collect(),
        }
    }
}

impl LocomoTurn {
    /// Writes what was said as the paper does.
    fn read(self, session: &str, at: Option<Timestamp>) -> Turn {
        let mut text = format!("{} said, \"{}\"", self.speaker, self.text);
        if let Some(caption) = self.blip_caption {
            text.push_str(" and shared ");
            text.push_str(&caption);
        }
        Turn {
            id: self.dia_id,
            session: session.to_owned(),
            role: "user".to_owned(),
            speaker: Some(self.speaker),
            text,
            at,
        }
    }
}

fn locomo_category(number: i64) -> &'static str {
    match number {
        1 => "multi-hop",
        2 => "temporal",
        3 => "open-domain",
        4 => "single-hop",
        5 => "adversarial",
        _ => "other",
    }
}

#[derive(Deserialize)]
struct LongMemEvalSample {
    question_id: String,
    question_type: String,
    question: String,
    #[serde(default)]
    haystack_session_ids: Vec<String>,
    #[serde(default)]
    haystack_dates: Vec<String>,
    haystack_sessions: Vec<Vec<LongMemEvalTurn>>,
    #[serde(default)]
    answer_session_ids: Vec<String>,
}

#[derive(Deserialize)]
struct LongMemEvalTurn {
    role: String,
    content: String,
    #[serde(default)]
    has_answer: bool,
}

impl LongMemEvalSample {
    fn read(self) -> Conversation {
        let mut turns = Vec::new();
        let mut marked = Vec::new();
        for (number, said) in self.haystack_sessions.into_iter().enumerate() {
            let session = self.haystack_session_ids.get(number).cloned().unwrap_or_else(|| format!("session_{number}"));
            let at = self.haystack_dates.get(number).and_then(|date| dates::parse(date));
            for (place, turn) in said.into_iter().enumerate().filter(|(_, turn)| !turn.content.trim().is_empty()) {
                // Number and session: a session may be there twice.
                let id = format!("{number}:{session}:{place}");
                if turn.has_answer {
                    marked.push(id.clone());
                }
                turns.push(Turn {
                    id,
                    session: session.clone(),
                    role: turn.role,
                    speaker: None,
                    text: turn.content,
                    at,
                });
            }
        }
        // Where no turn is marked, finding the session is finding the answer.
        let evidence = if marked.is_empty() { self.answer_session_ids } else { marked };
        let question = Question { text: self.question, category: self.question_type, evidence };
        Conversation { id: self.question_id, turns, questions: vec![question] }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_one(sample: Value) -> Result<Conversation> {
        read(json!([sample]).to_string().as_bytes()).map(|mut read| read.remove(0))
    }

    #[test]
    fn locomo_is_read_as_the_paper_writes_it() {
        let sample = json!({
            "sample_id": "conv-1",
            "conversation": {
                "speaker_a": "Ada", "speaker_b": "Bob", "session_1_date_time": "1:56 pm on 8 May, 2023",
                "session_1": [{"speaker": "Ada", "dia_id": "D1:1", "text": "Look!", "blip_caption": "a photo of a cat"}],
                "session_2": [{"speaker": "Bob", "dia_id": "D2:1", "text": "Nice."}]
            },
            "qa": [{"question": "Who has a cat?", "answer": "Ada", "evidence": ["D1:1"], "category": 4}]
        });
        let read = read_one(sample).unwrap();
        assert_eq!(read.turns[0].text, "Ada said, \"Look!\" and shared a photo of a cat");
        assert_eq!(read.turns[0].at.map(|at| at.to_string()).as_deref(), Some("2023-05-08T13:56:00Z"));
        assert_eq!((read.turns[1].session.as_str(), read.turns[1].speaker.as_deref()), ("session_2", Some("Bob")));
        assert_eq!(read.questions[0].category, "single-hop");
    }

    #[test]
    fn longmemeval_is_read_with_its_marks_or_its_sessions() {
        let sample = |mark: bool| {
            json!({
                "question_id": "q1", "question_type": "multi-session", "question": "Where?", "answer": "Rome",
                "haystack_dates": ["2023/05/20 (Sat) 02:21"], "haystack_session_ids": ["s1"],
                "haystack_sessions": [[
                    {"role": "user", "content": "Off to Rome.", "has_answer": mark},
                    {"role": "assistant", "content": "Enjoy."}
                ]],
                "answer_session_ids": ["s1"]
            })
        };
        let read = read_one(sample(true)).unwrap();
        assert_eq!((read.questions[0].evidence.clone(), read.turns.len()), (vec!["0:s1:0".to_owned()], 2));
        assert_eq!(read_one(sample(false)).unwrap().questions[0].evidence, ["s1"]);
    }

    #[test]
    fn what_is_neither_is_refused_with_its_place() {
        assert_eq!(read_one(json!({"rows": []})).unwrap_err().get("field"), Some("file[0]"));
        assert_eq!(read_one(json!({"conversation": 5})).unwrap_err().get("field"), Some("file[0]"));
        assert_eq!(read(b"{}").unwrap_err().get("field"), Some("file"));
    }
}
