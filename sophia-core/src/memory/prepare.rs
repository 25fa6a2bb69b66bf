//! From what the caller says to what a store takes: validated, with times and vectors.

use std::sync::Arc;

use uuid::Uuid;

#[cfg(feature = "static-embedder")]
use super::embed::StaticEmbedder;
use super::{
    Memory,
    embed::{ModelClass, WordVectors},
    embeddings::{Source, Text, told},
    query::{Mode, Query},
    record::{DEFAULT_IMPORTANCE, DEFAULT_KIND, NewRecord, PINNED, Record, Status},
    store::{Draft, Filter, NamedVector, Plan, SameContent, Stages},
    validate,
};
use crate::{Error, Result, Scope};

/// Records that are about to be stored.
#[derive(Debug)]
pub(super) struct Prepared {
    pub drafts: Vec<Draft>,
    /// How many have no vector because the embedder failed.
    pub late: usize,
}

/// The vectors of a question.
#[derive(Debug, Default)]
struct Asked {
    vector: Option<NamedVector>,
    /// Those of former models.
    former: Vec<NamedVector>,
    warnings: Vec<String>,
}

/// Hits of a search that names no limit.
const DEFAULT_HITS: usize = 10;
/// Least of all cosines: whatever has a vector is near.
const NO_MIN_SIMILARITY: f64 = -1.0;

impl Memory {
    /// Validates a record. Its vector is the caller's, if one is given.
    pub(super) fn draft(&self, operation: &'static str, new: NewRecord) -> Result<Draft> {
        let max_bytes = self.max_content_bytes();
        new.scope.validate(operation)?;
        validate::content(operation, "content", &new.content, max_bytes)?;
        for (field, value) in
            [("id", &new.id), ("kind", &new.kind), ("category", &new.category), ("source", &new.source)]
        {
            validate::optional_name(operation, field, value.as_ref())?;
        }
        if let Some(summary) = &new.summary {
            validate::content(operation, "summary", summary, max_bytes)?;
        }
        validate::metadata(operation, &new.metadata, max_bytes)?;
        let importance = new.importance.unwrap_or(DEFAULT_IMPORTANCE);
        validate::ratio(operation, "importance", importance)?;
        let now = self.now();
        // What is pinned stays, unless the caller says how long.
        let ttl = new.ttl.or(self.retention().ttl.filter(|_| importance < PINNED));
        let vector = new.embedding.map(|vector| self.own_vector(operation, vector)).transpose()?;
        let record = Record {
            id: new.id.unwrap_or_else(|| Uuid::now_v7().to_string()),
            seq: 0,
            version: 1,
            content: new.content,
            kind: new.kind.unwrap_or_else(|| DEFAULT_KIND.to_owned()),
            category: new.category,
            tags: validate::tags(operation, new.tags)?,
            metadata: new.metadata,
            summary: new.summary,
            source: new.source,
            role: None,
            importance,
            priority: new.priority.unwrap_or_default(),
            status: Status::Active,
            scope: new.scope,
            created_at: now,
            updated_at: now,
            expires_at: validate::expiry(operation, now, ttl)?,
        };
        let same_content = if new.dedupe { SameContent::ReturnExisting } else { SameContent::StoreAgain };
        Ok(Draft { vector, same_content, if_version: new.if_version, ..Draft::new(record) })
    }

    /// Takes a vector that the caller made: of the embedder's model, or of a model of the caller's own where there is none.
    fn own_vector(&self, operation: &'static str, vector: Vec<f32>) -> Result<NamedVector> {
        let source = self.embeddings().source();
        let dimensions = source.as_ref().and_then(|source| source.embedder.dimensions());
        let values = validate::vector(operation, vector, dimensions)?;
        let model = match source {
            Some(source) => source.model().to_owned(),
            None => format!("caller-{}", values.len()),
        };
        Ok(NamedVector { model, values })
    }

    /// Makes the vectors of those that have none, as far as it can be done: a record is worth keeping without one.
    pub(super) async fn with_vectors(&self, mut drafts: Vec<Draft>) -> Prepared {
        let Some(source) = self.embeddings().source() else { return Prepared { drafts, late: 0 } };
        let wanting = drafts.iter().filter(|draft| draft.vector.is_none());
        let texts: Vec<_> =
            wanting.map(|draft| Text { scope: &draft.record.scope, text: &draft.record.content }).collect();
        let made = self.embeddings().embed(&source, &texts).await;
        let mut late = 0;
        for (draft, made) in drafts.iter_mut().filter(|draft| draft.vector.is_none()).zip(made) {
            match made {
                Ok(values) => draft.vector = Some(source.named(&values)),
                Err(error) => {
                    tracing::debug!(code = error.code(), model = source.model(), "a record is embedded later");
                    late += 1;
                }
            }
        }
        if late > 0 {
            tracing::warn!(late, model = source.model(), "the embedder failed; records are embedded later");
        }
        Prepared { drafts, late }
    }

    /// Makes the vector of one text. Fails also where there is no embedder.
    pub(super) async fn vector(&self, scope: &Scope, text: &str) -> Result<NamedVector> {
        let none = || Error::new(crate::ErrorKind::Unsupported, "memory.embed", "there is no embedder");
        let source = self.embeddings().source().ok_or_else(none)?;
        self.vector_of(&source, scope, text).await
    }

    async fn vector_of(&self, source: &Arc<Source>, scope: &Scope, text: &str) -> Result<NamedVector> {
        let made = self.embeddings().embed(source, &[Text { scope, text }]).await.pop();
        let lost = || Err(Error::new(crate::ErrorKind::Internal, "memory.embed", "a text was lost"));
        made.unwrap_or_else(lost).map(|values| source.named(&values))
    }

    /// Returns what a store is to look for, and what could not be done for it.
    pub(super) async fn plan(&self, operation: &'static str, query: Query) -> Result<(Plan, Vec<String>)> {
        let limit = validate::limit(operation, query.limit, DEFAULT_HITS)?;
        if query.offset > validate::MAX_OFFSET {
            return Err(Error::invalid(operation, "offset", format!("is more than {}", validate::MAX_OFFSET)));
        }
        validate::ratio(operation, "min_score", query.min_score)?;
        if let Some(cosine) = query.min_similarity.filter(|cosine| !(-1.0..=1.0).contains(cosine)) {
            return Err(Error::invalid(operation, "min_similarity", format!("is {cosine}; it must be from -1 to 1")));
        }
        validate::ratio(operation, "importance_weight", query.importance_weight)?;
        if let Some(lambda) = query.mmr_lambda {
            validate::ratio(operation, "mmr_lambda", lambda)?;
        }
        if query.recency_half_life.is_some_and(|age| age.is_zero()) {
            return Err(Error::invalid(
                operation,
                "recency_half_life",
                "must be above zero; leave it out for no half-life",
            ));
        }
        if query.query.len() as u64 > self.max_content_bytes() {
            let message = format!("is longer than {} bytes", self.max_content_bytes());
            return Err(Error::invalid(operation, "query", message));
        }
        for (field, values) in [
            ("kinds", &query.kinds),
            ("categories", &query.categories),
            ("tags", &query.tags),
            ("tags_all", &query.tags_all),
        ] {
            validate::filter(operation, field, values.as_ref().map_or(0, Vec::len))?;
        }
        validate::filter(operation, "metadata", query.metadata.as_ref().map_or(0, |facts| facts.len()))?;
        // Likeness among hits is that of their vectors, of the model of the question's.
        let needs_vector = matches!(query.mode, Mode::Hybrid | Mode::Semantic) || query.mmr_lambda.is_some();
        let scopes = query.scopes.unwrap_or_else(|| vec![query.scope]);
        // Nothing is known of vectors that the caller made.
        let known = if query.embedding.is_some() { NO_MIN_SIMILARITY } else { self.min_similarity() };
        let asked = match query.embedding {
            Some(vector) => Asked { vector: Some(self.own_vector(operation, vector)?), ..Asked::default() },
            None if needs_vector && !query.query.trim().is_empty() => {
                self.know_models().await?;
                // It is kept with the first who is asked for, where it is kept.
                self.embed_query(scopes.first().unwrap_or(&Scope::default()), &query.query).await
            }
            None => Asked::default(),
        };
        let source = self.embeddings().source();
        let filter = Filter {
            kinds: query.kinds,
            categories: query.categories,
            tags: query.tags,
            tags_all: query.tags_all,
            priorities: query.priorities,
            source: query.source,
            metadata: query.metadata,
            since: query.since,
            until: query.until,
            include_archived: query.include_archived,
            include_expired: query.include_expired,
            ..self.filter(operation, scopes)?
        };
        let plan = Plan {
            mode: query.mode,
            vector: asked.vector,
            former: asked.former,
            class: source.map_or(ModelClass::default(), |source| source.embedder.class()),
            limit,
            offset: query.offset,
            min_score: query.min_score,
            min_similarity: query.min_similarity.unwrap_or(known),
            stages: Stages {
                fusion: query.fusion,
                recency_half_life: query.recency_half_life,
                importance_weight: query.importance_weight,
                mmr_lambda: query.mmr_lambda,
                typo_tolerant: query.typo_tolerant,
            },
            words: self.words(),
            ..Plan::new(filter, query.query)
        };
        Ok((plan, asked.warnings))
    }

    /// Returns the least cosine that is known of the models which questions are embedded with: that of the most lenient.
    fn min_similarity(&self) -> f64 {
        let former = self.embeddings().former();
        let sources = self.embeddings().source().into_iter().chain(former.iter().cloned());
        let known = sources.map(|source| source.embedder.min_similarity().unwrap_or(NO_MIN_SIMILARITY));
        known.fold(1.0, f64::min)
    }

    /// Returns what compares words: the bundled model, whatever model embeds texts, unless vectors are not wanted at all.
    #[cfg(feature = "static-embedder")]
    fn words(&self) -> Option<Arc<dyn WordVectors>> {
        self.embeddings().source().map(|_| Arc::new(StaticEmbedder::bundled()) as Arc<dyn WordVectors>)
    }

    #[cfg(not(feature = "static-embedder"))]
    fn words(&self) -> Option<Arc<dyn WordVectors>> {
        None
    }

    /// Makes the vectors of a question, those of former models too. One without a known word gets a vector of zeros: near
    /// nothing, and nothing failed.
    async fn embed_query(&self, scope: &Scope, text: &str) -> Asked {
        let mut asked = Asked::default();
        let Some(source) = self.embeddings().source() else { return asked };
        if !text.contains(char::is_alphanumeric) {
            // Punctuation has a vector, too, and it means nothing.
            asked.vector = Some(source.named(&vec![0.0; source.embedder.dimensions().unwrap_or(1)]));
            return asked;
        }
        match self.vector_of(&source, scope, text).await {
            Ok(vector) => asked.vector = Some(vector),
            Err(error) => asked.warnings.push(format!("embedder: {}", told(&error))),
        }
        for former in self.embeddings().former().iter() {
            match self.vector_of(former, scope, text).await {
                Ok(vector) if asked.vector.is_none() => asked.vector = Some(vector),
                Ok(vector) => asked.former.push(vector),
                Err(error) => asked.warnings.push(format!("former embedder: {}", told(&error))),
            }
        }
        asked
    }
}
