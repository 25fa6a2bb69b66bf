//! What is said to search, and what comes back.

use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::record::{Priority, Record, or_default};
use crate::Scope;

/// How records are matched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mode {
    /// By meaning and by words, fused. The default.
    #[default]
    Hybrid,
    /// By meaning alone.
    Semantic,
    /// By words alone (BM25, with stemming).
    Keyword,
    /// The content holds the query as it is written.
    Exact,
}

/// How the order by words and the order by meaning become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fusion {
    /// A weighted sum of both scores, each brought to 0..1 within the search; messages by their conversations. The default.
    #[default]
    Linear,
    /// Reciprocal ranks (Cormack, Clarke and Büttcher, 2009), k = 60: only the places count, not the scores.
    Rrf,
}

/// What to look for. An empty text lists what the filters leave, newest first.
///
/// ```
/// use sophia_core::{Scope, memory::{Mode, Query}};
///
/// let ada = Scope::new().tenant("acme").user("ada");
/// let query = Query::new("which file format does she like?").scope(&ada).limit(3).mode(Mode::Hybrid);
/// assert_eq!(query.limit, Some(3));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Query {
    /// The question, or the words. Any text: nothing in it is a command.
    #[serde(deserialize_with = "or_default")]
    pub query: String,
    /// Whose records to search.
    #[serde(deserialize_with = "or_default")]
    pub scope: Scope,
    /// Several scopes to search at once, in place of `scope`.
    pub scopes: Option<Vec<Scope>>,
    /// How to match. Default `"hybrid"`.
    #[serde(deserialize_with = "or_default")]
    pub mode: Mode,
    /// Most hits, from 1 to 1,000. Default 10.
    pub limit: Option<usize>,
    /// Hits to skip, at most 10,000. Default 0.
    #[serde(deserialize_with = "or_default")]
    pub offset: usize,
    /// Least score, from 0 to 1. Default 0.
    #[serde(deserialize_with = "or_default")]
    pub min_score: f64,
    /// Least cosine of what matches by meaning, from -1 to 1. Default: what the embedder is known for, 0.25 for the bundled
    /// models, none for others and for an `embedding` of your own.
    pub min_similarity: Option<f64>,
    /// Kinds to keep; any of them.
    pub kinds: Option<Vec<String>>,
    /// Groups to keep; any of them.
    pub categories: Option<Vec<String>>,
    /// Labels to keep; any of them.
    pub tags: Option<Vec<String>>,
    /// Labels that a record must all have.
    pub tags_all: Option<Vec<String>>,
    /// Urgencies to keep; any of them.
    pub priorities: Option<Vec<Priority>>,
    /// Source to keep.
    pub source: Option<String>,
    /// Facts that a record must all have, each equal.
    pub metadata: Option<Map<String, Value>>,
    /// Earliest `created_at`, included.
    pub since: Option<Timestamp>,
    /// Latest `created_at`, excluded.
    pub until: Option<Timestamp>,
    /// Vector to look for, as the embedder would make it. Default: the embedder makes it from the query.
    pub embedding: Option<Vec<f32>>,
    /// Most tokens of content in all hits together, counted as four bytes each. Default no limit.
    pub token_budget: Option<usize>,
    /// How words and meaning become one order. Default `"linear"`.
    #[serde(deserialize_with = "or_default")]
    pub fusion: Fusion,
    /// Age at which a record counts half, by its `created_at`, in seconds. Default never.
    #[serde(with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub recency_half_life: Option<Duration>,
    /// Weight of the importance of records against how well they match, from 0 to 1. Default 0.
    #[serde(deserialize_with = "or_default")]
    pub importance_weight: f64,
    /// Weight of how well a hit matches against how unlike the hits before it is, from 0 to 1 (maximal marginal relevance,
    /// Carbonell and Goldstein, 1998). Default: it does not matter whether hits are alike.
    pub mmr_lambda: Option<f64>,
    /// Whether words that differ by one or two letters count as well. Default no.
    #[serde(deserialize_with = "or_default")]
    pub typo_tolerant: bool,
    /// Whether to find what was deleted softly. Default no.
    #[serde(deserialize_with = "or_default")]
    pub include_archived: bool,
    /// Whether to find what has expired and is not purged yet. Default no.
    #[serde(deserialize_with = "or_default")]
    pub include_expired: bool,
    /// Whether each hit says how its score came about. Default no.
    #[serde(deserialize_with = "or_default")]
    pub explain: bool,
}

impl Query {
    /// Creates a hybrid search for this text, in the scope in which nothing is set.
    pub fn new(query: impl Into<String>) -> Query {
        Query { query: query.into(), ..Query::default() }
    }

    /// Sets whose records to search.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> Query {
        self.scope = scope.into();
        self
    }

    /// Sets several scopes to search at once.
    #[must_use]
    pub fn scopes<T: Into<Scope>>(mut self, scopes: impl IntoIterator<Item = T>) -> Query {
        self.scopes = Some(scopes.into_iter().map(Into::into).collect());
        self
    }

    /// Sets how to match.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Query {
        self.mode = mode;
        self
    }

    /// Sets the most hits.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Query {
        self.limit = Some(limit);
        self
    }

    /// Sets how many hits to skip.
    #[must_use]
    pub fn offset(mut self, offset: usize) -> Query {
        self.offset = offset;
        self
    }

    /// Sets the least score.
    #[must_use]
    pub fn min_score(mut self, score: f64) -> Query {
        self.min_score = score;
        self
    }

    /// Sets the least cosine of what matches by meaning.
    #[must_use]
    pub fn min_similarity(mut self, cosine: f64) -> Query {
        self.min_similarity = Some(cosine);
        self
    }

    /// Keeps these kinds.
    #[must_use]
    pub fn kinds<T: Into<String>>(mut self, kinds: impl IntoIterator<Item = T>) -> Query {
        self.kinds = Some(kinds.into_iter().map(Into::into).collect());
        self
    }

    /// Keeps these groups.
    #[must_use]
    pub fn categories<T: Into<String>>(mut self, categories: impl IntoIterator<Item = T>) -> Query {
        self.categories = Some(categories.into_iter().map(Into::into).collect());
        self
    }

    /// Keeps records with any of these labels.
    #[must_use]
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Query {
        self.tags = Some(tags.into_iter().map(Into::into).collect());
        self
    }

    /// Keeps records with all of these labels.
    #[must_use]
    pub fn tags_all<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Query {
        self.tags_all = Some(tags.into_iter().map(Into::into).collect());
        self
    }

    /// Keeps these urgencies.
    #[must_use]
    pub fn priorities(mut self, priorities: impl IntoIterator<Item = Priority>) -> Query {
        self.priorities = Some(priorities.into_iter().collect());
        self
    }

    /// Keeps this source.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Query {
        self.source = Some(source.into());
        self
    }

    /// Keeps records with this fact.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Value>) -> Query {
        self.metadata.get_or_insert_default().insert(key.into(), value.into());
        self
    }

    /// Keeps what was created at this time or later.
    #[must_use]
    pub fn since(mut self, since: Timestamp) -> Query {
        self.since = Some(since);
        self
    }

    /// Keeps what was created before this time.
    #[must_use]
    pub fn until(mut self, until: Timestamp) -> Query {
        self.until = Some(until);
        self
    }

    /// Sets the vector to look for.
    #[must_use]
    pub fn embedding(mut self, embedding: impl Into<Vec<f32>>) -> Query {
        self.embedding = Some(embedding.into());
        self
    }

    /// Sets the most tokens of content in all hits together.
    #[must_use]
    pub fn token_budget(mut self, tokens: usize) -> Query {
        self.token_budget = Some(tokens);
        self
    }

    /// Sets how words and meaning become one order.
    #[must_use]
    pub fn fusion(mut self, fusion: Fusion) -> Query {
        self.fusion = fusion;
        self
    }

    /// Sets the age at which a record counts half.
    #[must_use]
    pub fn recency_half_life(mut self, age: Duration) -> Query {
        self.recency_half_life = Some(age);
        self
    }

    /// Sets the weight of importance against matching, 0..1.
    #[must_use]
    pub fn importance_weight(mut self, weight: f64) -> Query {
        self.importance_weight = weight;
        self
    }

    /// Prefers hits that are unlike those before them; 1 is not at all, 0 is nothing else.
    #[must_use]
    pub fn mmr_lambda(mut self, lambda: f64) -> Query {
        self.mmr_lambda = Some(lambda);
        self
    }

    /// Lets words count that differ by one or two letters.
    #[must_use]
    pub fn typo_tolerant(mut self) -> Query {
        self.typo_tolerant = true;
        self
    }

    /// Finds what was deleted softly, too.
    #[must_use]
    pub fn include_archived(mut self) -> Query {
        self.include_archived = true;
        self
    }

    /// Finds what has expired and is not purged yet, too.
    #[must_use]
    pub fn include_expired(mut self) -> Query {
        self.include_expired = true;
        self
    }

    /// Lets each hit say how its score came about.
    #[must_use]
    pub fn explain(mut self) -> Query {
        self.explain = true;
        self
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct SearchResult {
    /// Best first; of equal scores the newest first.
    pub hits: Vec<Hit>,
    /// Records that match, before `limit` and `offset`, as far as the bounded search looked.
    pub total: usize,
    /// Time that the search took, in milliseconds.
    pub took_ms: f64,
    /// Whether the answer came from a cache.
    pub cache_hit: bool,
    /// Whether a part of the search could not be done; `warnings` says which.
    pub degraded: bool,
    /// What could not be done, and why.
    pub warnings: Vec<String>,
}

/// A record that was found.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Hit {
    /// The record.
    pub record: Record,
    /// From 0 to 1: how relevant the best hit is by itself (its cosine, or the share of the question's words that it
    /// has), times how this hit compares with the best.
    pub score: f64,
    /// What it was found by.
    pub match_type: MatchType,
    /// Parts of the text with the matched words between `**`.
    pub highlights: Vec<String>,
    /// Tier that answered.
    pub tier: &'static str,
    /// How the score came about, where `explain` was set.
    pub explain: Option<Explain>,
}

/// What a hit was found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MatchType {
    /// Meaning and words.
    Hybrid,
    /// Meaning.
    Semantic,
    /// Words.
    Keyword,
    /// The messages around it.
    Context,
    /// The text as it is written.
    Exact,
    /// The filters; there was no text to match.
    Filter,
}

/// How a score came about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Explain {
    /// BM25 of the words; null where none matches. For a message, near words count as far as they are near.
    pub keyword: Option<f64>,
    /// `keyword` against the best one of this search, 0..1.
    pub keyword_normalized: f64,
    /// Cosine of the vectors, -1..1; null where there is none to compare.
    pub semantic: Option<f64>,
    /// `semantic` within the range of this search, 0..1.
    pub semantic_normalized: f64,
    /// Weight of the words in `fused`.
    pub keyword_weight: f64,
    /// Weight of the meaning in `fused`.
    pub semantic_weight: f64,
    /// Weighted sum of the two normalised parts, with what lifts a message: what the order is by.
    pub fused: f64,
    /// How relevant the best hit of this search is by itself, 0..1.
    pub relevance: f64,
    /// Place among the matches by words, from 1, where ranks are fused; else null.
    pub keyword_rank: Option<usize>,
    /// Place among the matches by meaning, from 1, where ranks are fused; else null.
    pub semantic_rank: Option<usize>,
    /// What `fused` was multiplied with for the age of the record, 0..1; null where no half-life was set.
    pub recency: Option<f64>,
    /// Importance of the record; null where it has no weight.
    pub importance: Option<f64>,
    /// Greatest cosine with the hits before it; null where it did not matter.
    pub similarity: Option<f64>,
    /// What the conversation around a message adds; null for other records.
    pub conversation: Option<ConversationExplain>,
}

/// What the conversation around a message adds to its score.
///
/// `fused` is `(own + neighbors + session + speaker) * factor`. `own` weighs words and meaning as `keyword_weight` and
/// `semantic_weight` say; each of them is 0.6 of the message and 0.4 of its window: the message before, itself and the
/// message after.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ConversationExplain {
    /// BM25 of the window against the best one of this search, 0..1.
    pub window_keyword_normalized: f64,
    /// Mean cosine of the window within the range of this search, 0..1.
    pub window_semantic_normalized: f64,
    /// Weighted sum of words and meaning.
    pub own: f64,
    /// Share of the worth of the messages before and after.
    pub neighbors: f64,
    /// Share of the worth of the best messages of the conversation.
    pub session: f64,
    /// What it is worth that the one speaks whom the question names.
    pub speaker: f64,
    /// What makes the best message count against other records as much as it does by itself.
    pub factor: f64,
}
