//! [`Memory`]: what users call. It validates, makes vectors, takes the time, and leaves the rest to the store.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use jiff::Timestamp;
use tokio::sync::OnceCell;

#[cfg(feature = "redis")]
use super::kv::{RedisTier, Truth};
use super::{
    archive::Archive,
    arguments::{AppendMessage, Delete, DeleteWhere, GetRecord, History},
    checkpoint::{CheckpointStore, Checkpoints},
    config::{MemoryConfig, RetentionConfig},
    embed::Embedder,
    embeddings::{Embeddings, told},
    forget::{AlsoForgets, ForgetReceipt, ForgetRequest, Whole},
    forgotten::Forgotten,
    graph::{Graph, GraphStore},
    health::{EmbedderHealth, MemoryHealth, MemoryStats, RecentOperation, Session, TierHealth, TierStatus},
    kv::{Alone, EMBEDDING_KEYS, Invalidation, Kv, KvIndex, KvKeys, KvTier, MokaTier, TieredKv, narrow_tag},
    metrics::{Metrics, SharedMetrics},
    prepare::Prepared,
    query::{Hit, Query, SearchResult},
    record::{MESSAGE_KIND, NewRecord, Record, StoreOutcome, StoreResult, Update},
    reembed::{self, Reembedding},
    sqlite::SqliteStore,
    store::{Atomicity, Change, Depth, Filter, Inserted, Key, Listing, Lookup, MemoryStore},
    validate,
};
use crate::{Clock, Error, Result, Scope, context::Context, tally::TallyStore};

/// Messages of a history that names no limit.
const DEFAULT_MESSAGES: usize = 50;
/// Conversations of a list that names no limit.
const DEFAULT_SESSIONS: usize = 100;
/// Bytes of text in one token, about, for budgets.
const BYTES_PER_TOKEN: usize = 4;
/// Tier that holds records.
const DURABLE_TIER: &str = "l3";

/// Records, conversations, values under keys, facts and checkpoints of one engine. Cheap to clone; all clones are one.
///
/// Opens its data file with the first use.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: MemoryConfig,
    clock: Arc<dyn Clock>,
    store: Arc<dyn MemoryStore>,
    embeddings: Embeddings,
    reembedding: Reembedding,
    /// Filled when it is known whose vectors there are.
    models_known: OnceCell<()>,
    kv: Kv,
    kv_index: Arc<dyn KvIndex>,
    archive: Arc<dyn Archive>,
    graph: Graph,
    checkpoints: Checkpoints,
    tallies: Option<Arc<dyn TallyStore>>,
    /// Chat, whose answers are forgotten as well.
    also: OnceLock<AlsoForgets>,
    forgotten: Forgotten,
    metrics: SharedMetrics,
}

/// What turns text into vectors.
#[derive(Debug, Default)]
pub(crate) struct Embedders {
    /// The one in use.
    pub current: Option<Arc<dyn Embedder>>,
    /// Former ones that are at hand.
    pub former: Vec<Arc<dyn Embedder>>,
}

impl Memory {
    pub(crate) fn new(config: &MemoryConfig, embedders: Embedders, context: &Context) -> Result<Memory> {
        let clock = context.clock.clone();
        let durable = Durable::new(config, context);
        let metrics = Arc::new(Metrics::new(context));
        let l1 = &config.l1;
        let near = (l1.max_bytes > 0).then(|| MokaTier::new(l1.max_bytes, l1.ttl, clock.clone()));
        let (tiers, alone) = tiers(config, context, near, &durable);
        let kv = Kv::new(tiers, alone, config, metrics.clone());
        let embeddings = Embeddings::new(embedders, kv.clone(), context);
        Ok(Memory(Arc::new(Inner {
            reembedding: Reembedding::new(durable.records.clone(), embeddings.clone()),
            embeddings,
            models_known: OnceCell::new(),
            kv,
            graph: Graph::new(durable.graph, clock.clone(), metrics.clone()),
            kv_index: durable.kv_index,
            archive: durable.archive.clone(),
            tallies: durable.tallies,
            also: OnceLock::new(),
            forgotten: Forgotten::default(),
            checkpoints: Checkpoints::new(durable.checkpoints, durable.archive, clock.clone(), metrics.clone()),
            store: durable.records,
            config: config.clone(),
            clock,
            metrics,
        })))
    }

    /// Returns where processes that share the data file count together. `None` where it is this process's alone.
    pub(crate) fn tallies(&self) -> Option<Arc<dyn TallyStore>> {
        self.0.tallies.clone()
    }

    pub(crate) async fn start(&self) -> Result<()> {
        self.0.store.open().await?;
        self.know_models().await?;
        self.0.reembedding.wake();
        Ok(())
    }

    pub(crate) async fn shutdown(&self) -> Result<()> {
        self.0.reembedding.stop();
        self.0.store.close().await
    }

    pub(crate) async fn suspend(&self) -> Result<()> {
        self.0.store.suspend().await
    }

    pub(crate) fn resume(&self) {
        self.0.store.resume();
    }

    /// Sets what turns text into vectors, from the next call on.
    ///
    /// Vectors of another model are not compared with its own: records are embedded anew in the background, the newest first,
    /// and until then found by the embedder before this one, which stays at hand.
    pub fn set_embedder(&self, embedder: Arc<dyn Embedder>) {
        self.0.embeddings.set(embedder);
        self.0.reembedding.wake();
    }

    /// Finds out whose vectors there are, and sets to work on those that are to be made anew; once.
    pub(super) async fn know_models(&self) -> Result<()> {
        let first = || async {
            let outcome = self.0.reembedding.models().await.map(drop);
            self.0.reembedding.wake();
            outcome
        };
        self.0.models_known.get_or_try_init(first).await.map(drop)
    }

    /// Stores what was prepared. What could not be embedded is embedded later.
    async fn insert(&self, prepared: Prepared, atomicity: Atomicity) -> Result<Vec<Result<Inserted>>> {
        let results = self.0.store.insert(prepared.drafts, atomicity).await;
        if prepared.late > 0 {
            self.0.reembedding.wake();
        }
        results
    }

    /// Returns the values under keys.
    pub fn kv(&self) -> &Kv {
        &self.0.kv
    }

    /// Returns which keys there are, sorted, as the durable tier knows them: without a `data_dir`, those of this process.
    ///
    /// # Errors
    /// `InvalidInput` for a limit out of range.
    pub async fn kv_keys(&self, query: KvKeys) -> Result<Vec<String>> {
        const OPERATION: &str = "memory.kv.keys";
        let call = async {
            query.scope.validate(OPERATION)?;
            let limit = validate::limit(OPERATION, query.limit, validate::MAX_LIMIT)?;
            self.0.kv_index.keys(query, limit, self.now()).await
        };
        self.0.metrics.timed(OPERATION, call).await
    }

    /// Returns the graph of facts.
    pub fn graph(&self) -> &Graph {
        &self.0.graph
    }

    /// Returns the checkpoints of workflows.
    pub fn checkpoints(&self) -> &Checkpoints {
        &self.0.checkpoints
    }

    /// Stores one record. It is durable, and found by the next search, when this returns.
    ///
    /// # Errors
    /// `InvalidInput` for what cannot be stored; `Conflict` for an id that another session or agent of the user has, and where
    /// `if_version` is not the current one.
    ///
    /// # Cancel safety
    /// A call that is dropped has stored the record whole, or not at all.
    pub async fn store(&self, record: NewRecord) -> Result<StoreResult> {
        const OPERATION: &str = "memory.store";
        let call = async {
            let draft = self.draft(OPERATION, record)?;
            let prepared = self.with_vectors(vec![draft]).await;
            let mut results = self.insert(prepared, Atomicity::Together).await?;
            results.pop().unwrap_or_else(|| Err(no_answer(OPERATION))).map(stored)
        };
        self.0.metrics.timed(OPERATION, call).await
    }

    /// Stores several records in order, in one commit. Each has its own result; with [`Atomicity::Together`] one that
    /// fails fails the call, and none is stored.
    ///
    /// # Errors
    /// `InvalidInput` for too many items; with [`Atomicity::Together`] what is wrong with the first bad one.
    pub async fn store_many(&self, records: Vec<NewRecord>, atomicity: Atomicity) -> Result<Vec<StoreOutcome>> {
        const OPERATION: &str = "memory.store_many";
        let call = async {
            if records.len() > validate::MAX_ITEMS {
                let message = format!("are {}; at most {} are stored at once", records.len(), validate::MAX_ITEMS);
                return Err(Error::invalid(OPERATION, "items", message));
            }
            let checked: Vec<_> = records.into_iter().map(|record| self.draft(OPERATION, record)).collect();
            let mut drafts = Vec::with_capacity(checked.len());
            let mut outcomes: Vec<Option<Result<StoreResult>>> = Vec::with_capacity(checked.len());
            for (place, draft) in checked.into_iter().enumerate() {
                match draft {
                    Ok(draft) => {
                        drafts.push(draft);
                        outcomes.push(None);
                    }
                    Err(error) if atomicity == Atomicity::Together => return Err(error.with("item", place)),
                    Err(error) => outcomes.push(Some(Err(error))),
                }
            }
            let prepared = self.with_vectors(drafts).await;
            let mut results = self.insert(prepared, atomicity).await?.into_iter();
            let outcomes = outcomes.into_iter().map(|outcome| {
                outcome
                    .unwrap_or_else(|| results.next().unwrap_or_else(|| Err(no_answer(OPERATION))).map(stored))
                    .into()
            });
            Ok(outcomes.collect())
        };
        self.0.metrics.timed(OPERATION, call).await
    }

    /// Returns one record, by its id or its seq; `None` where the scope does not have it.
    ///
    /// # Errors
    /// `InvalidInput` where neither or both are given.
    pub async fn get(&self, get: GetRecord) -> Result<Option<Record>> {
        const OPERATION: &str = "memory.get";
        let call = async {
            get.scope.validate(OPERATION)?;
            let key = match (get.id, get.seq) {
                (Some(id), None) => Key::Id(id),
                (None, Some(seq)) => Key::Seq(seq),
                _ => return Err(Error::invalid(OPERATION, "id", "or `seq` must say which record; one of the two")),
            };
            let lookup = Lookup { include_archived: get.include_archived, ..Lookup::new(key, get.scope, self.now()) };
            self.0.store.get(lookup).await
        };
        self.0.metrics.timed(OPERATION, call).await
    }

    /// Finds records, best first.
    ///
    /// # Errors
    /// `InvalidInput` for a limit, score or vector out of range. Text is never wrong: nothing in it is a command.
    pub async fn search(&self, query: Query) -> Result<SearchResult> {
        const OPERATION: &str = "memory.search";
        let call = async {
            let start = self.0.clock.monotonic();
            let (explain, budget) = (query.explain, query.token_budget);
            let (plan, warnings) = self.plan(OPERATION, query).await?;
            let mut found = self.0.store.search(plan).await?;
            found.warnings.extend(warnings);
            let mut left = budget.unwrap_or(usize::MAX);
            let hits = found
                .matches
                .into_iter()
                .take_while(|found| {
                    let tokens = found.record.content.len().div_ceil(BYTES_PER_TOKEN);
                    let fits = tokens <= left;
                    left = left.saturating_sub(tokens);
                    fits
                })
                .map(|found| Hit {
                    record: found.record,
                    score: found.score,
                    match_type: found.match_type,
                    highlights: found.highlights,
                    tier: DURABLE_TIER,
                    explain: explain.then_some(found.explain),
                })
                .collect();
            Ok(SearchResult {
                hits,
                total: found.total,
                took_ms: self.0.clock.monotonic().saturating_sub(start).as_secs_f64() * 1e3,
                cache_hit: false,
                degraded: !found.warnings.is_empty(),
                warnings: found.warnings,
            })
        };
        self.0.metrics.timed(OPERATION, call).await
    }

    /// Changes one record and returns it. The former state stays as a version, unless only its time to live is new.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` where `if_version` is not the current one; `InvalidInput`.
    pub async fn update(&self, mut update: Update) -> Result<Record> {
        const OPERATION: &str = "memory.update";
        let call = async {
            let max_bytes = self.0.config.max_content_bytes;
            update.scope.validate(OPERATION)?;
            if let Some(content) = &update.content {
                validate::content(OPERATION, "content", content, max_bytes)?;
            }
            validate::optional_name(OPERATION, "category", update.category.as_ref().and_then(Option::as_ref))?;
            if let Some(Some(tags)) = &mut update.tags {
                *tags = validate::tags(OPERATION, std::mem::take(tags))?;
            }
            if let Some(Some(metadata)) = &update.metadata {
                validate::metadata(OPERATION, metadata, max_bytes)?;
            }
            if let Some(importance) = update.importance {
                validate::ratio(OPERATION, "importance", importance)?;
            }
            if let Some(Some(summary)) = &update.summary {
                validate::content(OPERATION, "summary", summary, max_bytes)?;
            }
            validate::expiry(OPERATION, self.now(), update.ttl.flatten())?;
            let vector = match &update.content {
                Some(content) => self.vector(&update.scope, content).await.ok(),
                None => None,
            };
            let is_late = update.content.is_some() && vector.is_none();
            update.retention_ttl = self.retention().ttl;
            let changed = self.0.store.update(Change { vector, ..Change::new(update, self.now()) }).await;
            if is_late {
                self.0.reembedding.wake();
            }
            changed
        };
        self.0.metrics.timed(OPERATION, call).await
    }

    /// Returns all versions of one record, oldest first, the current one last; nothing where the scope does not have it.
    ///
    /// # Errors
    /// `InvalidInput` for a scope that is none.
    pub async fn versions(&self, id: &str, scope: &Scope) -> Result<Vec<Record>> {
        const OPERATION: &str = "memory.versions";
        let call = async {
            scope.validate(OPERATION)?;
            self.0.store.versions(Lookup::new(Key::Id(id.to_owned()), scope.clone(), self.now())).await
        };
        self.0.metrics.timed(OPERATION, call).await
    }

    /// Hides one record, or erases it; returns whether it was there.
    ///
    /// # Errors
    /// `InvalidInput` for a scope that is none.
    pub async fn delete(&self, delete: Delete) -> Result<bool> {
        const OPERATION: &str = "memory.delete";
        let call = async {
            let mut filter = self.filter(OPERATION, vec![delete.scope])?;
            filter.ids = Some(vec![delete.id]);
            self.remove(filter, delete.permanent).await.map(|count| count > 0)
        };
        self.0.metrics.timed(OPERATION, call).await
    }

    /// Hides or erases all records of a scope that pass the filters; returns how many.
    ///
    /// # Errors
    /// `InvalidInput` for a scope that is none.
    pub async fn delete_where(&self, delete: DeleteWhere) -> Result<u64> {
        const OPERATION: &str = "memory.delete_where";
        let call = async {
            for (field, values) in [("kinds", &delete.kinds), ("tags", &delete.tags)] {
                validate::filter(OPERATION, field, values.as_ref().map_or(0, Vec::len))?;
            }
            let filter = Filter {
                kinds: delete.kinds,
                tags: delete.tags,
                until: delete.before,
                ..self.filter(OPERATION, vec![delete.scope])?
            };
            self.remove(filter, delete.permanent).await
        };
        self.0.metrics.timed(OPERATION, call).await
    }

    /// Adds a message to a conversation. Messages keep the order of their calls, even within one millisecond.
    ///
    /// # Errors
    /// `InvalidInput` where the scope names no session, or the content cannot be stored.
    pub async fn append(&self, message: AppendMessage) -> Result<Record> {
        const OPERATION: &str = "memory.append";
        let call = async {
            need_session(OPERATION, &message.scope)?;
            validate::name(OPERATION, "role", &message.role)?;
            let new = NewRecord { scope: message.scope, metadata: message.metadata, ..NewRecord::new(message.content) };
            let mut draft = self.draft(OPERATION, new.kind(MESSAGE_KIND))?;
            draft.record.role = Some(message.role);
            if let Some(at) = message.at {
                draft.record.created_at = validate::whole_micros(at);
            }
            let mut record = draft.record.clone();
            let prepared = self.with_vectors(vec![draft]).await;
            let mut results = self.insert(prepared, Atomicity::Together).await?;
            let inserted = results.pop().unwrap_or_else(|| Err(no_answer(OPERATION)))?;
            (record.seq, record.version) = (inserted.seq, inserted.version);
            Ok(record)
        };
        self.0.metrics.timed(OPERATION, call).await
    }

    /// Returns the last messages of a conversation, in the order in which they were said.
    ///
    /// # Errors
    /// `InvalidInput` for a limit out of range.
    pub async fn history(&self, history: History) -> Result<Vec<Record>> {
        const OPERATION: &str = "memory.history";
        let call = async {
            let limit = validate::limit(OPERATION, history.limit, DEFAULT_MESSAGES)?;
            let mut filter = self.filter(OPERATION, vec![history.scope])?;
            filter.kinds = Some(vec![MESSAGE_KIND.to_owned()]);
            filter.before_seq = history.before;
            self.0.store.list(Listing { filter, limit }).await
        };
        self.0.metrics.timed(OPERATION, call).await
    }

    /// Returns the conversations of a scope, the one that spoke last first. `limit` is 100 where it is `None`.
    ///
    /// # Errors
    /// `InvalidInput` for a limit out of range.
    pub async fn sessions(&self, scope: &Scope, limit: Option<usize>) -> Result<Vec<Session>> {
        const OPERATION: &str = "memory.sessions";
        let call = async {
            let limit = validate::limit(OPERATION, limit, DEFAULT_SESSIONS)?;
            self.0.store.sessions(self.filter(OPERATION, vec![scope.clone()])?, limit).await
        };
        self.0.metrics.timed(OPERATION, call).await
    }

    /// Hides the messages of one conversation, as [`Memory::delete`] does, and returns how many. [`Memory::forget`] with the
    /// session's scope removes them for good.
    ///
    /// # Errors
    /// `InvalidInput` where the scope names no session.
    pub async fn clear_session(&self, scope: &Scope) -> Result<u64> {
        const OPERATION: &str = "memory.clear_session";
        let call = async {
            need_session(OPERATION, scope)?;
            let mut filter = self.filter(OPERATION, vec![scope.clone()])?;
            filter.kinds = Some(vec![MESSAGE_KIND.to_owned()]);
            self.0.store.delete(filter, Depth::Archive).await
        };
        self.0.metrics.timed(OPERATION, call).await
    }

    /// Removes all traces of a scope or a person, in every tier, and returns the receipt.
    ///
    /// A scope with a session or an agent loses its records, and what was said over `/v1/responses`; facts, keys and
    /// checkpoints belong to tenant and user.
    ///
    /// # Errors
    /// `InvalidInput` where neither is given.
    pub async fn forget(&self, request: ForgetRequest) -> Result<ForgetReceipt> {
        const OPERATION: &str = "memory.forget";
        let call = async {
            match (&request.scope, &request.subject) {
                (None, None) => return Err(Error::invalid(OPERATION, "scope", "or `subject` must say what to forget")),
                (Some(scope), _) => scope.validate(OPERATION)?,
                (None, Some(_)) => {}
            }
            validate::optional_name(OPERATION, "subject", request.subject.as_ref())?;
            let user = request.scope.as_ref().and_then(|scope| scope.user.as_ref());
            if user.is_some() && request.subject.is_some() && user != request.subject.as_ref() {
                return Err(Error::invalid(
                    OPERATION,
                    "subject",
                    "is another user than `scope.user`; give one of the two",
                ));
            }
            self.0.forgotten.note(&request).await;
            let whole = request.whole();
            let is_shared = whole.is_some() && self.0.kv.tiers().has_shared();
            // What is shared goes before what alone knows whose it is, and after: a crash in between leaves nothing that the
            // next call would not find.
            let mut walls = self.walls(whole.as_ref()).await?;
            let mut is_pending = !self.forget_shared(&walls).await;
            let durable = self.0.store.forget(request.clone()).await;
            if let (None, (Some(scope), _)) = (&whole, request.whose()) {
                // Of a part of a wall, the records are forgotten, and with them what was kept of their texts.
                self.forget_kept_vectors(&scope).await?;
                self.0.kv.tiers().invalidate(&Invalidation::tags(&scope, [narrow_tag(&scope)])).await?;
            }
            let (mut answers, mut near_tier) = (0, None);
            if let Some(whole) = whole {
                if let Some(near) = self.0.kv.tiers().near() {
                    near.clear_wall(|key| whole.covers(&key.scope()));
                    near_tier = Some("l1");
                }
                walls.extend(durable.iter().flat_map(|receipt| receipt.walls.iter().cloned()));
                is_pending |= !self.forget_shared(&walls).await;
            }
            if let Some(also) = self.0.also.get() {
                let also = also.forget(&request).await;
                (answers, is_pending) = (also.answers, is_pending || also.is_pending);
            }
            let mut receipt = durable?;
            receipt.answers = answers;
            receipt.tiers.splice(0..0, near_tier);
            if is_pending {
                receipt.pending.push("l2");
            } else if is_shared {
                receipt.tiers.push("l2");
            }
            Ok(receipt)
        };
        self.0.metrics.timed(OPERATION, call).await
    }

    /// Returns what this engine was told to forget.
    pub(crate) fn forgotten(&self) -> &Forgotten {
        &self.0.forgotten
    }

    /// Removes the vectors that are kept for the texts of a wall, in every tier.
    async fn forget_kept_vectors(&self, scope: &Scope) -> Result<u64> {
        self.0.kv.tiers().invalidate(&Invalidation::prefix(scope, EMBEDDING_KEYS)).await
    }

    /// Returns the pairs of tenant and user whose shared values are forgotten.
    async fn walls(&self, whole: Option<&Whole>) -> Result<Vec<Scope>> {
        match whole {
            Some(Whole::Person(name)) if self.0.kv.tiers().has_shared() => self.0.store.scopes_of(name).await,
            Some(Whole::Wall(wall)) => Ok(vec![wall.clone()]),
            _ => Ok(Vec::new()),
        }
    }

    /// Removes the shared values of these pairs of tenant and user; returns whether they are gone already.
    async fn forget_shared(&self, walls: &[Scope]) -> bool {
        let mut is_gone = true;
        for wall in walls {
            is_gone &= self.0.kv.tiers().forget_shared(&Invalidation::prefix(wall, "")).await.is_some();
        }
        is_gone
    }

    /// Names who else holds something of a scope; the first one counts.
    pub(crate) fn also_forget(&self, also: AlsoForgets) {
        // There is one engine, and it says so once.
        let _ = self.0.also.set(also);
    }

    /// Counts what is held.
    ///
    /// # Errors
    /// What the data file says.
    pub async fn stats(&self) -> Result<MemoryStats> {
        let stale_vectors = match self.0.embeddings.source() {
            Some(source) => Some(reembed::stale(&self.0.reembedding.models().await?, source.model())),
            None => None,
        };
        Ok(MemoryStats { stale_vectors, ..self.0.store.stats().await? })
    }

    /// Asks every tier how it is.
    pub async fn health(&self) -> MemoryHealth {
        let l1 = match self.0.kv.tiers().near() {
            Some(near) => near.health().await,
            None => TierHealth::new(TierStatus::Disabled).detail("`memory.l1.max_bytes` is 0"),
        };
        let disabled = || TierHealth::new(TierStatus::Disabled).detail("no shared cache is configured");
        let l2 = self.0.kv.tiers().shared_health().await.unwrap_or_else(disabled);
        let l3 = self.0.store.health().await;
        let tiers = BTreeMap::from([("l1", l1), ("l2", l2), ("l3", l3)]);
        let embedder = self.embedder_health();
        let any = |status| {
            let own = embedder.iter().map(|embedder| embedder.status);
            tiers.values().map(|tier| tier.status).chain(own).any(|of| of == status)
        };
        let own = |name| tiers.get(name).is_some_and(|tier: &TierHealth| tier.status == TierStatus::Unhealthy);
        let status = if own("l1") || own("l3") {
            TierStatus::Unhealthy
        } else if any(TierStatus::Degraded) || any(TierStatus::Unhealthy) {
            TierStatus::Degraded
        } else {
            TierStatus::Healthy
        };
        MemoryHealth { status, tiers, embedder }
    }

    fn embedder_health(&self) -> Option<EmbedderHealth> {
        let source = self.0.embeddings.source()?;
        let (failure, progress) = (source.failure(), self.0.reembedding.progress());
        Some(EmbedderHealth {
            model: source.model().to_owned(),
            dimensions: source.embedder.dimensions(),
            status: if failure.is_some() { TierStatus::Degraded } else { TierStatus::Healthy },
            detail: failure.as_ref().map(told),
            reembedding: progress.running && progress.left > 0,
            stale: progress.left,
        })
    }

    /// Returns the last calls, the newest first; 1,000 are remembered.
    pub fn recent_operations(&self, count: usize) -> Vec<RecentOperation> {
        self.0.metrics.recent(count)
    }

    pub(super) fn archive(&self) -> &dyn Archive {
        self.0.archive.as_ref()
    }

    /// Counts a call and its time.
    pub(super) async fn timed<T>(&self, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.0.metrics.timed(operation, call).await
    }

    pub(super) fn retention(&self) -> &RetentionConfig {
        &self.0.config.retention
    }

    pub(super) fn max_content_bytes(&self) -> u64 {
        self.0.config.max_content_bytes
    }

    /// Returns what turns text into vectors.
    #[cfg(feature = "cli")]
    pub(crate) fn embedder(&self) -> Option<Arc<dyn Embedder>> {
        Some(self.0.embeddings.source()?.embedder.clone())
    }

    pub(super) fn embeddings(&self) -> &Embeddings {
        &self.0.embeddings
    }

    pub(super) fn reembedding(&self) -> &Reembedding {
        &self.0.reembedding
    }

    pub(super) fn metrics(&self) -> &SharedMetrics {
        &self.0.metrics
    }

    pub(super) fn now(&self) -> Timestamp {
        validate::whole_micros(self.0.clock.now())
    }

    pub(super) fn filter(&self, operation: &'static str, scopes: Vec<Scope>) -> Result<Filter> {
        validate::filter(operation, "scopes", scopes.len())?;
        scopes.iter().try_for_each(|scope| scope.validate(operation))?;
        Ok(Filter::new(scopes, self.now()))
    }

    async fn remove(&self, mut filter: Filter, permanent: bool) -> Result<u64> {
        // What is hidden already can still be erased.
        filter.include_archived = permanent;
        filter.include_expired = permanent;
        if !permanent {
            return self.0.store.delete(filter, Depth::Archive).await;
        }
        let scopes = filter.scopes.clone();
        let count = self.0.store.delete(filter, Depth::Erase).await?;
        if self.0.embeddings.keeps_vectors() {
            for scope in &scopes {
                self.forget_kept_vectors(scope).await?;
            }
        }
        Ok(count)
    }
}

/// The durable tier: one technology, by all that it does.
struct Durable {
    records: Arc<dyn MemoryStore>,
    kv: Arc<dyn KvTier>,
    kv_index: Arc<dyn KvIndex>,
    graph: Arc<dyn GraphStore>,
    checkpoints: Arc<dyn CheckpointStore>,
    archive: Arc<dyn Archive>,
    /// Where processes count together that share it; `None` where it is this process's alone.
    tallies: Option<Arc<dyn TallyStore>>,
    /// Whether all processes of a configuration have the same one.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only what is shared beside it has to know"))]
    is_common: bool,
}

impl Durable {
    fn new(config: &MemoryConfig, context: &Context) -> Durable {
        #[cfg(feature = "postgres")]
        if let Some(store) = &context.postgres {
            return Durable::of(store.clone(), None, true);
        }
        let store = match &context.data_dir {
            Some(directory) => SqliteStore::in_directory(directory),
            None => SqliteStore::in_memory(),
        };
        let store = store.clock(context.clock.clone()).max_vector_bytes(config.max_vector_bytes);
        let store = store.retention(config.retention.clone()).build();
        let is_common = context.data_dir.is_some();
        let tallies = is_common.then(|| Arc::new(store.clone()) as Arc<dyn TallyStore>);
        Durable::of(store, tallies, is_common)
    }

    fn of<S>(store: S, tallies: Option<Arc<dyn TallyStore>>, is_common: bool) -> Durable
    where
        S: MemoryStore + KvTier + KvIndex + GraphStore + CheckpointStore + Archive + Clone,
    {
        Durable {
            records: Arc::new(store.clone()),
            kv: Arc::new(store.clone()),
            kv_index: Arc::new(store.clone()),
            graph: Arc::new(store.clone()),
            archive: Arc::new(store.clone()),
            checkpoints: Arc::new(store),
            tallies,
            is_common,
        }
    }
}

#[cfg(not(feature = "redis"))]
fn tiers(_: &MemoryConfig, context: &Context, near: Option<MokaTier>, durable: &Durable) -> (TieredKv, Alone) {
    (TieredKv::new(near, vec![durable.kv.clone()], context.clock.clone()), Alone::default())
}

#[cfg(feature = "redis")]
fn tiers(config: &MemoryConfig, context: &Context, near: Option<MokaTier>, durable: &Durable) -> (TieredKv, Alone) {
    let (last, clock) = (durable.kv.clone(), context.clock.clone());
    let Some(redis) = context.redis.as_ref().filter(|_| config.l2.enabled) else {
        return (TieredKv::new(near, vec![last], clock), Alone::default());
    };
    context.signals.depends("memory", "redis");
    let shared = RedisTier::new(redis, config.l2.ttl, clock.clone());
    // Where each process has a last tier of its own, what they share is right.
    let truth = if durable.is_common { Truth::Durable } else { Truth::Shared };
    let tiers = shared.clone().over(TieredKv::with_truth(
        near,
        vec![Arc::new(shared), last],
        truth,
        context.data_dir.as_deref(),
        clock,
    ));
    (tiers, Alone::shared(redis))
}

fn need_session(operation: &'static str, scope: &Scope) -> Result<()> {
    scope.validate(operation)?;
    match scope.session {
        Some(_) => Ok(()),
        None => Err(Error::invalid(operation, "scope.session", "must name the conversation")),
    }
}

fn stored(inserted: Inserted) -> StoreResult {
    StoreResult {
        id: inserted.id,
        seq: inserted.seq,
        version: inserted.version,
        created: inserted.created,
        tiers: vec![DURABLE_TIER],
        expires_at: inserted.expires_at,
    }
}

fn no_answer(operation: &'static str) -> Error {
    Error::new(crate::ErrorKind::Internal, operation, "the store gave no answer for a record")
}
