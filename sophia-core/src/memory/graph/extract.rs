//! [`Extractor`]: what turns text into entities and facts, and how its results become part of the graph.

use std::fmt::Debug;

use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Entity, Fact, Graph, NewEntity, NewFact};
use crate::{Error, Result, Scope, memory::record::or_default, memory::validate};

const OPERATION: &str = "memory.graph.extract";
/// Longest text, in bytes: what is longer is cut into passages.
const MAX_TEXT_BYTES: u64 = 256 * 1024;
/// Most entities, and most facts, of one text: more is no extraction.
const MAX_FOUND: usize = 1_000;

/// What turns text into entities and facts. What it returns is data: it is checked like any other input.
#[async_trait]
pub trait Extractor: Debug + Send + Sync + 'static {
    /// Returns what the text says.
    ///
    /// # Errors
    /// Why there is no result, such as an answer of a model that cannot be read.
    async fn extract(&self, text: &str, scope: &Scope) -> Result<Extraction>;
}

/// What a text says.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Extraction {
    /// What it speaks of.
    pub entities: Vec<FoundEntity>,
    /// What it says of that.
    pub facts: Vec<FoundFact>,
    /// What read the text, such as the name of a model.
    #[serde(skip)]
    pub by: Option<String>,
}

/// An entity of a text.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FoundEntity {
    /// Its name, the same throughout the text.
    pub name: String,
    /// What sort of thing it is, such as "person", "company", "place"; null where the text does not say.
    pub kind: Option<String>,
}

/// A fact of a text.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FoundFact {
    /// Of whom: the name of an entity.
    pub subject: String,
    /// What, in snake case, such as "works_at".
    pub predicate: String,
    /// To whom, or a value.
    pub object: String,
    /// Whether the subject can have only one such object at a time, such as for "lives_in".
    pub functional: bool,
    /// From when it is true, where the text says so.
    pub valid_at: Option<Timestamp>,
    /// Until when it is true, where the text says so.
    pub invalid_at: Option<Timestamp>,
}

/// Arguments of `memory.graph.extract`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Extract {
    /// The text.
    pub text: String,
    /// Whose the facts become.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// Where the text comes from, such as the id of its record: the `source` of every fact.
    #[serde(default)]
    pub source: Option<String>,
    /// From when facts are true of which the text does not say it, such as when it was written. Default now.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// Model that reads the text. Default: the configured one.
    #[serde(default)]
    pub model: Option<String>,
}

impl Extract {
    /// Extracts what a text says, into the scope in which nothing is set.
    pub fn new(text: impl Into<String>) -> Extract {
        Extract { text: text.into(), ..Extract::default() }
    }

    /// Sets whose the facts become.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> Extract {
        self.scope = scope.into();
        self
    }

    /// Sets where the text comes from.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Extract {
        self.source = Some(source.into());
        self
    }

    /// Sets from when facts are true of which the text does not say it.
    #[must_use]
    pub fn at(mut self, at: Timestamp) -> Extract {
        self.at = Some(at);
        self
    }
}

/// What became part of the graph.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Extracted {
    /// Entities, as they are now.
    pub entities: Vec<Entity>,
    /// Facts, each with its source; one that was known already is the known one.
    pub facts: Vec<Fact>,
}

impl Graph {
    /// Reads a text and states what it says. The facts name their `source`, and in `metadata.extracted_by` what read it.
    ///
    /// # Errors
    /// `InvalidInput` for a text that is empty or too long, and for results that cannot be stored; what the extractor says.
    /// Nothing is stored then.
    pub async fn extract(&self, extractor: &dyn Extractor, extract: Extract) -> Result<Extracted> {
        extract.scope.validate(OPERATION)?;
        validate::content(OPERATION, "text", &extract.text, MAX_TEXT_BYTES)?;
        validate::optional_name(OPERATION, "source", extract.source.as_ref())?;
        let Extraction { entities, facts, by } = extractor.extract(&extract.text, &extract.scope).await?;
        check(&entities, &facts)?;
        let by = by.map(|by| ("extracted_by".to_owned(), Value::from(by)));
        let metadata: Map<String, Value> = by.into_iter().collect();
        let mut extracted = Extracted::default();
        for FoundEntity { name, kind } in entities {
            let entity = NewEntity { kind, ..NewEntity::new(name) };
            extracted.entities.push(self.upsert(entity.scope(&extract.scope)).await?);
        }
        for found in facts {
            let fact = NewFact {
                scope: extract.scope.clone(),
                valid_at: found.valid_at.or(extract.at.filter(|at| found.invalid_at.is_none_or(|end| end > *at))),
                invalid_at: found.invalid_at,
                functional: found.functional,
                source: extract.source.clone(),
                metadata: metadata.clone(),
                ..NewFact::new(found.subject, found.predicate, found.object)
            };
            extracted.facts.push(self.relate(fact).await?);
        }
        Ok(extracted)
    }
}

/// Refuses results that cannot be stored, before any is.
fn check(entities: &[FoundEntity], facts: &[FoundFact]) -> Result<()> {
    if entities.len().max(facts.len()) > MAX_FOUND {
        let message = format!("says more than {MAX_FOUND} things: cut it into passages");
        return Err(Error::invalid(OPERATION, "text", message));
    }
    for entity in entities {
        validate::name(OPERATION, "entities.name", &entity.name)?;
        validate::optional_name(OPERATION, "entities.kind", entity.kind.as_ref())?;
    }
    for fact in facts {
        validate::name(OPERATION, "facts.subject", &fact.subject)?;
        validate::name(OPERATION, "facts.predicate", &fact.predicate)?;
        validate::name(OPERATION, "facts.object", &fact.object)?;
        if fact.invalid_at.is_some_and(|end| fact.valid_at.is_some_and(|begin| end <= begin)) {
            return Err(Error::invalid(OPERATION, "facts.invalid_at", "must be later than `valid_at`"));
        }
    }
    Ok(())
}
