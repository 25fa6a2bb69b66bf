//! What is answered: the model's answer, and how the caller came by it.

use std::{ops::Deref, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{assist::Assistance, dialect::Envelope, explain::Explanation, semantic::Served};

/// Bytes of English text that make a token, about.
pub(crate) const BYTES_PER_TOKEN: usize = 4;

/// Token counts as the provider gave them; null where it gave none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the request.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer.
    pub completion_tokens: Option<u64>,
    /// Of the tokens of the request, those that the provider had cached.
    pub cached_tokens: Option<u64>,
    /// Of the tokens of the request, those that the provider put into its cache.
    pub cache_write_tokens: Option<u64>,
    /// Of the tokens of the answer, those that the model thought.
    pub reasoning_tokens: Option<u64>,
}

/// Larger counts than any answer has are not known counts.
const MAX_TOKENS: u64 = 1 << 40;

impl Usage {
    /// Reads one count as a provider gave it.
    pub(crate) fn count(value: &Value) -> Option<u64> {
        value.as_u64().filter(|count| *count <= MAX_TOKENS)
    }

    /// Returns the tokens of request and answer together, as far as they were counted.
    pub(crate) fn total_tokens(&self) -> u64 {
        self.prompt_tokens.unwrap_or_default().saturating_add(self.completion_tokens.unwrap_or_default())
    }
}

/// How an answer relates to the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CacheStatus {
    /// It was asked for, by this call.
    Miss,
    /// It was kept.
    Hit,
    /// It was kept, and is past its time.
    Stale,
    /// It was kept for a question that means the same.
    SemanticHit,
    /// It was asked for by another call at the same time.
    Coalesced,
    /// The cache was not used.
    Bypass,
}

impl CacheStatus {
    /// Returns the name, as it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            CacheStatus::Miss => "miss",
            CacheStatus::Hit => "hit",
            CacheStatus::Stale => "stale",
            CacheStatus::SemanticHit => "semantic_hit",
            CacheStatus::Coalesced => "coalesced",
            CacheStatus::Bypass => "bypass",
        }
    }

    /// Returns whether the caller was given an answer that nobody was asked for on its behalf.
    pub(crate) fn saves(self) -> bool {
        !matches!(self, CacheStatus::Miss | CacheStatus::Bypass)
    }
}

/// How an answer relates to the cache, in detail.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct CacheInfo {
    /// How it relates.
    pub status: CacheStatus,
    /// Where it was found: `"l1"` in this process, `"l2"` in the cache that processes share, `"semantic"` under another
    /// question that means the same; null where it was not.
    pub tier: Option<&'static str>,
    /// Key that it is kept under, in hexadecimal; null where the cache was not used.
    pub key: Option<Arc<str>>,
    /// How long it is kept, in seconds; null where it is not.
    pub ttl_s: Option<u64>,
    /// How long ago it was kept, in seconds; null where it was not.
    pub age_s: Option<f64>,
    /// How alike the questions are, 0..1; null unless it is a semantic hit.
    pub similarity: Option<f64>,
    /// Whether a tier of the cache was stepped over because it is away.
    pub degraded: bool,
}

impl CacheInfo {
    pub(crate) fn new(status: CacheStatus) -> CacheInfo {
        CacheInfo { status, tier: None, key: None, ttl_s: None, age_s: None, similarity: None, degraded: false }
    }
}

/// Where an answer was found below the flight.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Found {
    pub tier: Option<&'static str>,
    pub age_s: Option<f64>,
    /// Whether a tier was stepped over.
    pub degraded: bool,
}

impl CacheInfo {
    /// Takes in how a flight ended.
    pub(crate) fn landed(self, found: Found, ttl_s: Option<u64>, was_asked: bool) -> CacheInfo {
        let status = match (self.status, found.tier, was_asked) {
            (CacheStatus::Miss, Some(_), _) => CacheStatus::Hit,
            // Nobody was asked: another flight landed between this caller's look and its own flight.
            (CacheStatus::Miss, None, false) => CacheStatus::Coalesced,
            (status, ..) => status,
        };
        CacheInfo { status, tier: found.tier, age_s: found.age_s, ttl_s, degraded: found.degraded, ..self }
    }

    /// Takes in that the answer was kept for another question, if it was.
    pub(crate) fn served(self, served: Option<&Served>) -> CacheInfo {
        let Some(served) = served else { return self };
        CacheInfo {
            status: CacheStatus::SemanticHit,
            tier: Some("semantic"),
            key: Some(served.key.clone()),
            age_s: Some(served.age_s),
            similarity: Some(served.similarity),
            ..self
        }
    }
}

/// One try to get an answer.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Attempt {
    /// Provider that was asked.
    pub provider: String,
    /// `"ok"`, or the code of the error; `"CANCELLED"` where another one answered first.
    pub outcome: &'static str,
    /// How long it took, in milliseconds.
    pub latency_ms: f64,
    /// Whether it was made beside the one before it, which was slow.
    pub hedge: bool,
}

/// The answer of a model.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Answer {
    /// Text of the answer; empty where it only calls tools.
    pub text: String,
    /// The message, in the form of OpenAI's chat completions.
    pub message: Map<String, Value>,
    /// Model as the provider named it.
    pub model: String,
    /// Configured name of the provider.
    pub provider: String,
    /// Token counts.
    pub usage: Usage,
    /// Cost in US dollars; null where the price is not known.
    pub cost_usd: Option<f64>,
    /// Why the answer ends, such as `"stop"`; null where the provider did not say.
    pub finish_reason: Option<String>,
    /// Calls of tools, as the provider gave them.
    pub tool_calls: Vec<Value>,
    /// The provider's body, without the message where it is a chat completion.
    #[serde(skip)]
    pub(crate) envelope: Envelope,
    /// The parts in which it came, if it was streamed.
    #[serde(skip)]
    pub(crate) deltas: Vec<Delta>,
    /// Whether the protocol said that it is whole.
    #[serde(skip)]
    pub(crate) terminated: bool,
}

/// A part of an answer under way.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Delta {
    /// Further text.
    pub text: String,
    /// Further reasoning.
    pub reasoning: Option<String>,
    /// Further parts of calls of tools, as the provider gave them.
    pub tool_calls: Vec<Value>,
    /// Further fields of the provider's delta, verbatim.
    pub extra: Map<String, Value>,
}

impl Delta {
    /// Returns how many bytes of it a model has written.
    pub(crate) fn bytes(&self) -> usize {
        let arguments = self.tool_calls.iter().filter_map(|call| call["function"]["arguments"].as_str());
        self.text.len() + self.reasoning.as_ref().map_or(0, String::len) + arguments.map(str::len).sum::<usize>()
    }
}

impl Answer {
    /// Returns the provider's whole body, message included, as it came, but for what it repeats of who asked; null where it
    /// cannot be read again.
    pub fn body(&self) -> Value {
        super::dialect::body_of(self).unwrap_or_default()
    }

    /// Returns what tells two answers to one question apart: what is said and which tools are called.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.text.as_bytes());
        for call in &self.tool_calls {
            // A call's id is new each time.
            hasher.update(call.get("function").unwrap_or(call).to_string().as_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// Returns about how much memory it takes, in bytes.
    pub(crate) fn weight(&self) -> usize {
        let deltas: usize = self
            .deltas
            .iter()
            .map(|delta| {
                let tools: usize = delta.tool_calls.iter().map(value_weight).sum();
                size_of::<Delta>()
                    + delta.text.len()
                    + delta.reasoning.as_ref().map_or(0, String::len)
                    + tools
                    + map_weight(&delta.extra)
            })
            .sum();
        let tools: usize = self.tool_calls.iter().map(value_weight).sum();
        size_of::<Answer>() + self.text.len() + map_weight(&self.message) + self.envelope.weight() + tools + deltas
    }
}

/// Returns about how much memory a value takes, in bytes.
pub(crate) fn value_weight(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::String(text) => text.len(),
            Value::Array(values) => values.iter().map(value_weight).sum(),
            Value::Object(fields) => map_weight(fields),
            _ => 0,
        }
}

pub(crate) fn map_weight(fields: &Map<String, Value>) -> usize {
    // A name, its hash and its place in the index.
    const FIELD_OVERHEAD: usize = 56;
    fields.iter().map(|(name, value)| FIELD_OVERHEAD + name.len() + value_weight(value)).sum()
}

/// An answer, and how the caller came by it.
///
/// The fields of the [`Answer`] are reached through it: `response.text`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ChatResponse {
    /// The answer, shared with everyone who was given it.
    #[serde(flatten)]
    pub answer: Arc<Answer>,
    /// How it relates to the cache.
    pub cache: CacheInfo,
    /// What was tried for this call; empty for a hit.
    pub attempts: Vec<Attempt>,
    /// How long this call took, in milliseconds.
    pub latency_ms: f64,
    /// What each stage did; null unless the request asks for it.
    pub explain: Option<Explanation>,
    /// What memory and tools gave to it; null where neither was asked for.
    pub assistance: Option<Assistance>,
}

impl Deref for ChatResponse {
    type Target = Answer;

    fn deref(&self) -> &Answer {
        &self.answer
    }
}

/// A part of a streamed answer.
///
/// The first and the last part carry `cache`; the last one also carries `finish_reason`, `usage` and `message`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ChatChunk {
    /// Further text; may be empty.
    pub delta: String,
    /// Further reasoning; null where there is none.
    pub reasoning: Option<String>,
    /// Further parts of calls of tools, as the provider gave them.
    pub tool_calls: Vec<Value>,
    /// Why the answer ends; null before its end.
    pub finish_reason: Option<String>,
    /// Token counts; null before the end.
    pub usage: Option<Usage>,
    /// How the answer relates to the cache; null in the middle.
    pub cache: Option<CacheInfo>,
    /// What memory and tools gave to the answer, with the last part; null where neither was asked for.
    pub assistance: Option<Assistance>,
    /// What each stage did, with the last part; null unless the request asks for it.
    pub explain: Option<Explanation>,
    /// The whole message, with the last part: what is sent back as it is to go on; null before.
    pub message: Option<Map<String, Value>>,
    /// Further fields of the provider's delta, verbatim.
    #[serde(skip)]
    pub extra: Map<String, Value>,
    /// The whole answer, with the last part.
    #[serde(skip)]
    pub answer: Option<Arc<Answer>>,
}

impl ChatChunk {
    pub(crate) fn of(delta: Delta) -> ChatChunk {
        ChatChunk {
            delta: delta.text,
            reasoning: delta.reasoning,
            tool_calls: delta.tool_calls,
            finish_reason: None,
            usage: None,
            cache: None,
            assistance: None,
            explain: None,
            message: None,
            extra: delta.extra,
            answer: None,
        }
    }

    pub(crate) fn end(answer: Arc<Answer>, cache: CacheInfo) -> ChatChunk {
        ChatChunk {
            finish_reason: answer.finish_reason.clone(),
            usage: Some(answer.usage),
            cache: Some(cache),
            message: Some(answer.message.clone()),
            answer: Some(answer),
            ..ChatChunk::of(Delta::default())
        }
    }
}
