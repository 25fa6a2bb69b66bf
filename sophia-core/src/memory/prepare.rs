//! From what the caller says to what a store takes: validated, with times and vectors.

use std::sync::Arc;

use uuid::Uuid;

#[cfg(feature = "static-embedder")]
use super::embed::StaticEmbedder;
use super::{
    Memory,
    embed::WordVectors,
    query::{Mode, Query},
    record::{DEFAULT_IMPORTANCE, DEFAULT_KIND, NewRecord, Record, Status},
    store::{Draft, Filter, NamedVector, Plan, SameContent, Stages},
    validate,
};
use crate::{Error, Result};

/// Hits of a search that names no limit.
const DEFAULT_HITS: usize = 10;

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
            expires_at: validate::expiry(operation, now, new.ttl)?,
        };
        let same_content = if new.dedupe { SameContent::ReturnExisting } else { SameContent::StoreAgain };
        Ok(Draft { vector, same_content, ..Draft::new(record) })
    }

    /// Takes a vector that the caller made: of the embedder's model, or of a model of the caller's own where there is none.
    fn own_vector(&self, operation: &'static str, vector: Vec<f32>) -> Result<NamedVector> {
        let embedder = self.embedder();
        let dimensions = embedder.as_ref().map(|embedder| embedder.dimensions());
        let values = validate::vector(operation, vector, dimensions)?;
        let model = match embedder.as_ref() {
            Some(embedder) => embedder.model().to_owned(),
            None => format!("caller-{}", values.len()),
        };
        Ok(NamedVector { model, values })
    }

    pub(super) async fn with_vectors(&self, mut drafts: Vec<Draft>) -> Vec<Draft> {
        let wanting: Vec<_> = drafts.iter().filter(|draft| draft.vector.is_none()).collect();
        let texts: Vec<_> = wanting.iter().map(|draft| draft.record.content.as_str()).collect();
        if let Some(vectors) = self.embed(&texts).await {
            let wanting = drafts.iter_mut().filter(|draft| draft.vector.is_none());
            for (draft, vector) in wanting.zip(vectors) {
                draft.vector = vector;
            }
        }
        drafts
    }

    /// Makes vectors, as far as it can be done: a record is worth keeping without one, and a search without one has words.
    pub(super) async fn embed(&self, texts: &[&str]) -> Option<Vec<Option<NamedVector>>> {
        if texts.is_empty() {
            return None;
        }
        let embedder = self.embedder()?;
        match embedder.embed(texts).await {
            Ok(vectors) if vectors.len() == texts.len() => Some(
                vectors
                    .into_iter()
                    .map(|vector| {
                        // A text without a known word has no direction, and so no vector.
                        let values = validate::vector("memory.embed", vector, Some(embedder.dimensions())).ok()?;
                        Some(NamedVector { model: embedder.model().to_owned(), values })
                    })
                    .collect(),
            ),
            Ok(vectors) => {
                tracing::warn!(expected = texts.len(), found = vectors.len(), "the embedder lost texts");
                None
            }
            Err(error) => {
                tracing::warn!(code = error.code(), model = embedder.model(), "the embedder failed");
                None
            }
        }
    }

    pub(super) async fn plan(&self, operation: &'static str, query: Query) -> Result<Plan> {
        let limit = validate::limit(operation, query.limit, DEFAULT_HITS)?;
        if query.offset > validate::MAX_OFFSET {
            return Err(Error::invalid(operation, "offset", format!("is more than {}", validate::MAX_OFFSET)));
        }
        validate::ratio(operation, "min_score", query.min_score)?;
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
        // Likeness among hits is that of their vectors, of the model of the question's.
        let needs_vector = matches!(query.mode, Mode::Hybrid | Mode::Semantic) || query.mmr_lambda.is_some();
        let vector = match query.embedding {
            Some(vector) => Some(self.own_vector(operation, vector)?),
            None if needs_vector && !query.query.trim().is_empty() => self.embed_query(&query.query).await,
            None => None,
        };
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
            ..self.filter(operation, query.scopes.unwrap_or_else(|| vec![query.scope]))?
        };
        Ok(Plan {
            mode: query.mode,
            vector,
            limit,
            offset: query.offset,
            min_score: query.min_score,
            stages: Stages {
                fusion: query.fusion,
                recency_half_life: query.recency_half_life,
                importance_weight: query.importance_weight,
                mmr_lambda: query.mmr_lambda,
                typo_tolerant: query.typo_tolerant,
            },
            words: self.words(),
            ..Plan::new(filter, query.query)
        })
    }

    /// Returns what compares words: the bundled model, whatever model embeds texts, unless vectors are not wanted at all.
    #[cfg(feature = "static-embedder")]
    fn words(&self) -> Option<Arc<dyn WordVectors>> {
        self.embedder().map(|_| Arc::new(StaticEmbedder::bundled()) as Arc<dyn WordVectors>)
    }

    #[cfg(not(feature = "static-embedder"))]
    fn words(&self) -> Option<Arc<dyn WordVectors>> {
        None
    }

    /// Makes the vector of a question. One without a known word gets the zero vector: near nothing, and nothing failed.
    async fn embed_query(&self, text: &str) -> Option<NamedVector> {
        let embedder = self.embedder()?;
        let nowhere = || NamedVector { model: embedder.model().to_owned(), values: vec![0.0; embedder.dimensions()] };
        if !text.contains(char::is_alphanumeric) {
            // Punctuation has a vector, too, and it means nothing.
            return Some(nowhere());
        }
        Some(self.embed(&[text]).await?.pop()?.unwrap_or_else(nowhere))
    }
}
