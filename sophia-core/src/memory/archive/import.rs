//! Reading what was remembered elsewhere: our own files, and those of other tools.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{
    formats::{self, Batch, Foreign, Found, Vectors},
    store::{Item, KeptRecord, Outcome, Part, Progress},
};
#[cfg(feature = "static-embedder")]
use crate::memory::embed::{Embedder, StaticEmbedder};
use crate::{
    Error, ErrorKind, Result, Scope,
    memory::{
        ImportLangGraph, Memory, Node, NodeChange, Observations, Record, Relation,
        archive::merge::MAX_NUMBER,
        checkpoint::{check_checkpoint, check_writes},
        graph::check_change,
        kv::{KvKey, is_reserved},
        store::{Draft, NamedVector},
        validate,
    },
};

const OPERATION: &str = "memory.import";
/// What an error about a vector names; stores say the same.
const VECTOR: &str = "vector";
/// Batches that are read ahead of what is written.
const READ_AHEAD: usize = 4;
/// How far the length of a vector may be from one: half precision loses as much.
const LENGTH_TOLERANCE: f64 = 0.05;

/// Arguments of `memory.import`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Import {
    /// The file. It is only read.
    pub path: PathBuf,
    /// Who wrote it. Default: it is told from the file.
    #[serde(default)]
    pub format: Option<ImportFormat>,
    /// Whose it becomes; what the file says of user, agent and session counts where this leaves it open. In a file of our
    /// own every line says whose it is: then nothing else than this is let in. Default: the scope in which nothing is set,
    /// and for a file of our own, everyone.
    #[serde(default)]
    pub scope: Option<Scope>,
}

impl Import {
    /// Imports a file, whoever wrote it.
    pub fn new(path: impl Into<PathBuf>) -> Import {
        Import { path: path.into(), ..Import::default() }
    }

    /// Sets who wrote it.
    #[must_use]
    pub fn format(mut self, format: ImportFormat) -> Import {
        self.format = Some(format);
        self
    }

    /// Sets whose it becomes.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> Import {
        self.scope = Some(scope.into());
        self
    }
}

/// Who wrote a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ImportFormat {
    /// [`Memory::export`].
    Sophia,
    /// mem0: what `get_all` returns as JSON, the points of its Qdrant collection as JSON, or its `history.db`.
    Mem0,
    /// The MCP reference server `server-memory`: its `memory.jsonl`.
    ServerMemory,
    /// LangGraph's SQLite saver: its database.
    Langgraph,
    /// Chroma: the `chroma.sqlite3` of a persistent client.
    Chroma,
}

/// What an import read, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ImportReceipt {
    /// Who wrote the file.
    pub format: ImportFormat,
    /// Records that were read.
    pub records: u64,
    /// Entities that were read.
    pub entities: u64,
    /// Facts that were read.
    pub facts: u64,
    /// Keys that were read.
    pub keys: u64,
    /// Checkpoints that were read.
    pub checkpoints: u64,
    /// Tasks' writes that were read.
    pub writes: u64,
    /// Of all of these, new.
    pub added: u64,
    /// Of all of these, in the place of something older.
    pub updated: u64,
    /// Of all of these, there already.
    pub unchanged: u64,
    /// What could not be taken over, and why.
    pub warnings: Vec<String>,
}

impl ImportReceipt {
    fn new(format: ImportFormat) -> ImportReceipt {
        ImportReceipt {
            format,
            records: 0,
            entities: 0,
            facts: 0,
            keys: 0,
            checkpoints: 0,
            writes: 0,
            added: 0,
            updated: 0,
            unchanged: 0,
            warnings: Vec::new(),
        }
    }

    fn read(&mut self, part: Part) {
        match part {
            Part::Records => self.records += 1,
            Part::Entities => self.entities += 1,
            Part::Facts => self.facts += 1,
            Part::Keys => self.keys += 1,
            Part::Checkpoints => self.checkpoints += 1,
            Part::Writes => self.writes += 1,
        }
    }

    fn left_out(&mut self, place: &str, error: &Error) {
        self.warnings.push(format!("{place} is left out: {}", error.message()));
    }

    fn became(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Added => self.added += 1,
            Outcome::Updated => self.updated += 1,
            Outcome::Unchanged => self.unchanged += 1,
        }
    }
}

impl Memory {
    /// Takes over a file: our own, or that of another tool. Made again, it changes nothing: what is there and the same, or
    /// newer, stays. An import that breaks off is made again. What cannot be kept is left out, and named in `warnings`.
    ///
    /// # Errors
    /// `NotFound` for a file that is not there; `InvalidInput` for one that is none of the known, naming the line that
    /// cannot be read; `Unauthorized` for a line of our own file that belongs to somebody else than `scope`.
    pub async fn import(&self, import: Import) -> Result<ImportReceipt> {
        self.import_with(import, &|_, _| ()).await
    }

    /// As [`Memory::import`]; tells how much of the file is read, of how much.
    ///
    /// # Errors
    /// As [`Memory::import`].
    pub async fn import_with(&self, import: Import, progress: Progress<'_>) -> Result<ImportReceipt> {
        self.timed(OPERATION, self.take_over(import, progress)).await
    }

    async fn take_over(&self, import: Import, progress: Progress<'_>) -> Result<ImportReceipt> {
        import.scope.iter().try_for_each(|scope| scope.validate(OPERATION))?;
        let format = match import.format {
            Some(format) => readable(&import.path).map(|()| format)?,
            None => formats::detect(&import.path)?,
        };
        let scope = import.scope.clone().unwrap_or_default();
        let mut receipt = ImportReceipt::new(format);
        if format == ImportFormat::Langgraph {
            let taken = self.checkpoints().import_langgraph(ImportLangGraph::new(&import.path).scope(scope)).await?;
            (receipt.checkpoints, receipt.writes) = (taken.checkpoints, taken.writes);
            (receipt.added, receipt.unchanged, receipt.warnings) = (taken.added, taken.unchanged, taken.warnings);
            return Ok(receipt);
        }
        let (found, mut ready) = mpsc::channel::<Batch>(READ_AHEAD);
        let path = import.path.clone();
        let vectors = if self.embeddings().source().is_some() { Vectors::LeftOut } else { Vectors::Read };
        let reading = tokio::task::spawn_blocking(move || {
            // A receiver that is gone ends the reading.
            formats::read(format, &path, vectors, &mut |batch| found.blocking_send(batch).is_ok())
        });
        while let Some(Batch { found, done, total }) = ready.recv().await {
            match found {
                Found::Items(items) => self.take_items(items, import.scope.as_ref(), &mut receipt).await?,
                Found::Records(records) => self.take_records(records, &scope, &mut receipt).await?,
                Found::Nodes { entities, relations } => {
                    self.take_nodes(entities, relations, &scope, &mut receipt).await?;
                }
                Found::Warning(warning) => receipt.warnings.push(warning),
            }
            progress(done, total);
        }
        reading.await.map_err(|error| {
            Error::new(ErrorKind::Internal, OPERATION, "the reading thread ended early").with_source(error)
        })??;
        Ok(receipt)
    }

    /// Takes lines of our own file.
    async fn take_items(
        &self,
        items: Vec<(usize, Item)>,
        only: Option<&Scope>,
        receipt: &mut ImportReceipt,
    ) -> Result<()> {
        let mut kept = Vec::with_capacity(items.len());
        for (line, mut item) in items {
            let place = format!("line {line}");
            if only.is_some_and(|only| !only.covers(item.scope())) {
                let message = "holds what belongs to somebody else than `scope`: leave that out to take all of it";
                return Err(Error::new(ErrorKind::Unauthorized, OPERATION, format!("the file {message}"))
                    .with("scope", item.scope().key()));
            }
            if let Err(error) = self.check_item(&item) {
                receipt.left_out(&place, &error);
                continue;
            }
            if let Item::Record(record) = &mut item
                && let Some(vector) = &record.vector
                && let Err(error) = self.check_vector(vector)
            {
                receipt.left_out(&format!("the vector of {place}"), &error);
                record.vector = None;
            }
            kept.push((place, item));
        }
        self.keep(kept, receipt).await
    }

    /// Takes records of other tools.
    async fn take_records(&self, records: Vec<Foreign>, scope: &Scope, receipt: &mut ImportReceipt) -> Result<()> {
        let mut items = Vec::with_capacity(records.len());
        for foreign in records {
            let place = format!("`{}`", foreign.new.id.as_deref().unwrap_or_default());
            match self.kept(foreign, scope) {
                Ok(kept) => items.push((place, Item::Record(Box::new(kept)))),
                Err(error) if error.kind() == ErrorKind::InvalidInput => receipt.left_out(&place, &error),
                Err(error) => return Err(error),
            }
        }
        self.keep(items, receipt).await
    }

    /// Returns a record of another tool as it is kept here.
    fn kept(&self, foreign: Foreign, scope: &Scope) -> Result<KeptRecord> {
        let Foreign { mut new, created_at, updated_at, expires_at, role } = foreign;
        let own = std::mem::take(&mut new.scope);
        new.scope = Scope {
            tenant: scope.tenant.clone(),
            user: scope.user.clone().or(own.user),
            session: scope.session.clone().or(own.session),
            agent: scope.agent.clone().or(own.agent),
        };
        // A vector of another model would never be compared with a question.
        if self.embeddings().source().is_some() {
            new.embedding = None;
        }
        let Draft { mut record, vector, .. } = self.draft(OPERATION, new)?;
        record.created_at = created_at.map_or(record.created_at, validate::whole_micros);
        let is_undated = updated_at.is_none();
        record.updated_at = updated_at.map_or(record.updated_at, validate::whole_micros);
        record.expires_at = expires_at.map(validate::whole_micros);
        validate::optional_name(OPERATION, "role", role.as_ref())?;
        record.role = role;
        Ok(KeptRecord { record, versions: Vec::new(), vector, is_undated })
    }

    /// Takes entities and relations of `server-memory`.
    async fn take_nodes(
        &self,
        entities: Vec<(usize, Node)>,
        relations: Vec<(usize, Relation)>,
        scope: &Scope,
        receipt: &mut ImportReceipt,
    ) -> Result<()> {
        let entities = storable(entities, |node| NodeChange::CreateEntities(vec![node.clone()]), receipt);
        let relations = storable(relations, |relation| NodeChange::CreateRelations(vec![relation.clone()]), receipt);
        let observations =
            entities.iter().map(|node| Observations { entity: node.name.clone(), contents: node.observations.clone() });
        let observations = observations.collect();
        receipt.entities += entities.len() as u64;
        receipt.facts += relations.len() as u64;
        let read = (entities.len() + relations.len()) as u64;
        let mut added = self.graph().change_nodes(scope, NodeChange::CreateEntities(entities)).await?;
        self.graph().change_nodes(scope, NodeChange::AddObservations(observations)).await?;
        added.relations = self.graph().change_nodes(scope, NodeChange::CreateRelations(relations)).await?.relations;
        let new = (added.entities.len() + added.relations.len()) as u64;
        receipt.added += new;
        receipt.unchanged += read - new;
        Ok(())
    }

    /// Keeps items, each with what it is called where it is left out.
    async fn keep(&self, items: Vec<(String, Item)>, receipt: &mut ImportReceipt) -> Result<()> {
        let (places, mut items): (Vec<_>, Vec<_>) = items.into_iter().unzip();
        self.give_vectors(&mut items).await;
        match self.write(items.clone(), receipt).await {
            Err(error) if is_of_one(&error) => {}
            outcome => return outcome,
        }
        // One of them cannot be kept: the others can.
        for (place, item) in places.into_iter().zip(items) {
            self.keep_one(&place, item, receipt).await?;
        }
        Ok(())
    }

    async fn keep_one(&self, place: &str, mut item: Item, receipt: &mut ImportReceipt) -> Result<()> {
        let mut error = match self.write(vec![item.clone()], receipt).await {
            Err(error) if is_of_one(&error) => error,
            outcome => return outcome,
        };
        if error.get("field") == Some(VECTOR)
            && let Item::Record(kept) = &mut item
            && kept.vector.take().is_some()
        {
            receipt.left_out(&format!("the vector of {place}"), &error);
            self.give_vectors(std::slice::from_mut(&mut item)).await;
            error = match self.write(vec![item], receipt).await {
                Err(error) if is_of_one(&error) => error,
                outcome => return outcome,
            };
        }
        receipt.left_out(place, &error);
        Ok(())
    }

    async fn write(&self, items: Vec<Item>, receipt: &mut ImportReceipt) -> Result<()> {
        let of = |item: &Item| match item {
            Item::Key(kept) => (item.part(), Some(KvKey::new(&kept.scope, &kept.key))),
            _ => (item.part(), None),
        };
        let written: Vec<_> = items.iter().map(of).collect();
        for ((part, key), outcome) in written.into_iter().zip(self.archive().write_items(items).await?) {
            receipt.read(part);
            receipt.became(outcome);
            if let Some(key) = key {
                self.kv().written_beside(&key);
            }
        }
        Ok(())
    }

    /// Makes the vectors that records lack.
    async fn give_vectors(&self, items: &mut [Item]) {
        let mut wanting: Vec<&mut KeptRecord> = items
            .iter_mut()
            .filter_map(|item| match item {
                Item::Record(kept) if kept.vector.is_none() => Some(kept.as_mut()),
                _ => None,
            })
            .collect();
        let drafts = wanting.iter().map(|kept| Draft::new(kept.record.clone())).collect();
        for (kept, draft) in wanting.iter_mut().zip(self.with_vectors(drafts).await.drafts) {
            kept.vector = draft.vector;
        }
    }

    /// Refuses a vector that searches could not use: also one of another length than those of its model.
    fn check_vector(&self, vector: &NamedVector) -> Result<()> {
        let former = self.embeddings().former();
        let mut known = self.embeddings().source().into_iter().chain(former.iter().cloned());
        let known = known.find(|source| source.model() == vector.model);
        check_vector(vector, known.and_then(|source| source.embedder.dimensions()).or_else(|| bundled(&vector.model)))
    }

    /// Refuses what could not have been stored here.
    fn check_item(&self, item: &Item) -> Result<()> {
        item.scope().validate(OPERATION)?;
        match item {
            Item::Record(kept) => {
                let max_bytes = self.max_content_bytes();
                check_versions(kept)?;
                for record in kept.versions.iter().chain([&kept.record]) {
                    validate::name(OPERATION, "id", &record.id)?;
                    validate::name(OPERATION, "kind", &record.kind)?;
                    for (field, value) in
                        [("category", &record.category), ("source", &record.source), ("role", &record.role)]
                    {
                        validate::optional_name(OPERATION, field, value.as_ref())?;
                    }
                    validate::content(OPERATION, "content", &record.content, max_bytes)?;
                    if let Some(summary) = &record.summary {
                        validate::content(OPERATION, "summary", summary, max_bytes)?;
                    }
                    validate::metadata(OPERATION, &record.metadata, max_bytes)?;
                    validate::ratio(OPERATION, "importance", record.importance)?;
                    validate::tags(OPERATION, record.tags.clone())?;
                }
                Ok(())
            }
            Item::Entity(kept) => {
                validate::name(OPERATION, "entity", &kept.entity.name)?;
                kept.entity.kind.iter().try_for_each(|kind| validate::text(OPERATION, "kind", kind))?;
                // Observations are among them, and grow.
                validate::metadata(OPERATION, &kept.entity.attributes, u64::MAX)
            }
            Item::Fact(kept) => {
                validate::name(OPERATION, "id", &kept.fact.id)?;
                validate::name(OPERATION, "subject", &kept.fact.subject)?;
                validate::name(OPERATION, "predicate", &kept.fact.predicate)?;
                validate::name(OPERATION, "object", &kept.fact.object)?;
                validate::optional_name(OPERATION, "source", kept.fact.source.as_ref())?;
                validate::metadata(OPERATION, &kept.fact.metadata, u64::MAX)
            }
            Item::Key(kept) if is_reserved(&kept.key) => {
                Err(Error::invalid(OPERATION, "key", "is one of the engine's own"))
            }
            Item::Key(kept) => {
                validate::name(OPERATION, "key", &kept.key)?;
                validate::labels(OPERATION, &kept.tags)?;
                validate::nesting(OPERATION, "value", &kept.value)
            }
            Item::Checkpoint(kept) => check_checkpoint(OPERATION, &kept.checkpoint),
            Item::Writes(writes) => check_writes(OPERATION, writes),
        }
    }
}

/// Returns what can be stored; the rest is left out.
fn storable<T>(found: Vec<(usize, T)>, change: impl Fn(&T) -> NodeChange, receipt: &mut ImportReceipt) -> Vec<T> {
    let mut kept = Vec::with_capacity(found.len());
    for (line, one) in found {
        match check_change(OPERATION, &change(&one)) {
            Ok(()) => kept.push(one),
            Err(error) => receipt.left_out(&format!("line {line}"), &error),
        }
    }
    kept
}

/// Returns the length of the vectors of the bundled model, where this is its name.
#[cfg(feature = "static-embedder")]
fn bundled(model: &str) -> Option<usize> {
    let bundled = StaticEmbedder::bundled();
    bundled.dimensions().filter(|_| bundled.model() == model)
}

#[cfg(not(feature = "static-embedder"))]
fn bundled(_: &str) -> Option<usize> {
    None
}

/// Returns whether an error is that of one item, and says nothing of others.
fn is_of_one(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Conflict)
}

/// Refuses versions that do not lead up to the record, and those that no later one could follow.
fn check_versions(kept: &KeptRecord) -> Result<()> {
    let mut last = 0;
    for Record { version, .. } in kept.versions.iter().chain([&kept.record]) {
        if !(last + 1..=MAX_NUMBER).contains(version) {
            let message = format!("is {version}; it must be from {} to {MAX_NUMBER}", last + 1);
            return Err(Error::invalid(OPERATION, "version", message));
        }
        last = *version;
    }
    Ok(())
}

/// Refuses a vector that searches could not use. It is not brought to length one anew: that would change it.
fn check_vector(vector: &NamedVector, dimensions: Option<usize>) -> Result<()> {
    validate::name(OPERATION, "vector.model", &vector.model)?;
    if let Some(dimensions) = dimensions.filter(|dimensions| *dimensions != vector.values.len()) {
        let message = format!("has {} dimensions; those of `{}` have {dimensions}", vector.values.len(), vector.model);
        return Err(Error::invalid(OPERATION, VECTOR, message));
    }
    let length = vector.values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    // Zero is a text without a direction.
    let is_usable = vector.values.len() <= validate::MAX_DIMENSIONS
        && !vector.values.is_empty()
        && (length == 0.0 || (length - 1.0).abs() <= LENGTH_TOLERANCE);
    if !is_usable {
        let message =
            format!("has {} dimensions and length {length:.3}; it must be of length one", vector.values.len());
        return Err(Error::invalid(OPERATION, VECTOR, message));
    }
    Ok(())
}

/// Refuses a file that is not there, and what is none: it is read more than once.
pub(super) fn readable(path: &Path) -> Result<()> {
    let failed = |error| formats::cannot_read(path, error);
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        let message = format!("names `{}`, which is no file: write what it gives to one", path.display());
        return Err(Error::invalid(OPERATION, "path", message));
    }
    std::fs::File::open(path).map(drop).map_err(failed)
}
