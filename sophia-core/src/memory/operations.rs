//! The operations of this capability.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    AppendMessage, Backup, BackupReceipt, ChannelHistory, Check, CheckReport, Checkpoint, CheckpointPage, CopyThread,
    Delete, DeleteRuns, DeleteThread, DeleteWhere, DeltaQuery, Entity, Export, ExportReceipt, Extract, Extracted, Fact,
    FactQuery, ForgetReceipt, ForgetRequest, GetCheckpoint, GetRecord, History, Import, ImportLangGraph, ImportReceipt,
    ImportedCheckpoints, KvDelete, KvFound, KvGet, KvInvalidate, KvKeys, KvLookUp, KvOptions, KvSet, ListCheckpoints,
    MemoryHealth, MemoryStats, Neighbor, NeighborQuery, NewCheckpoint, NewEntity, NewFact, NewRecord, NewWrites,
    PathQuery, Prune, Query, RecentOperation, Record, Reembed, Reembedded, SearchResult, Session, StoreOutcome,
    StoreResult, Update, kv::KvValue, record::or_default, store::Atomicity,
};
use crate::{Scope, chat::ChatExtractor, operations::NoArguments};

/// Calls that `recent_operations` returns where it is not told.
const DEFAULT_RECENT: usize = 50;

/// Arguments of `memory.store_many`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoreMany {
    /// Records, each as `memory.store` takes it.
    items: Vec<NewRecord>,
    /// Whose they are, where a record does not say.
    #[serde(default)]
    scope: Option<Scope>,
    /// Whether one that fails fails all. Default no.
    #[serde(default, deserialize_with = "or_default")]
    atomic: bool,
}

/// Arguments of `memory.versions`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Versions {
    /// Identifier.
    id: String,
    /// Whose it is.
    #[serde(default, deserialize_with = "or_default")]
    scope: Scope,
}

/// Arguments of `memory.sessions`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sessions {
    /// Whose they are.
    #[serde(default, deserialize_with = "or_default")]
    scope: Scope,
    /// Most conversations, from 1 to 1,000. Default 100.
    #[serde(default)]
    limit: Option<usize>,
}

/// Arguments of `memory.clear_session`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClearSession {
    /// Whose conversation, and which: `session` must be set.
    scope: Scope,
}

/// Arguments of `memory.recent_operations`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Recent {
    /// Most calls. Default 50.
    n: Option<usize>,
}

/// A value that was looked up: written as it is, without making its tree anew.
#[derive(JsonSchema)]
#[schemars(with = "Value")]
pub(crate) enum Found {
    Shared(std::sync::Arc<KvValue>),
    Default(Value),
}

impl Serialize for Found {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Found::Shared(value) => value.value().serialize(serializer),
            Found::Default(value) => value.serialize(serializer),
        }
    }
}

crate::operations::operations! {
    /// Stores one record.
    "memory.store"(sophia, record: NewRecord) -> StoreResult { sophia.memory().store(record).await }

    /// Stores several records, each with its own result, or all or none.
    "memory.store_many"(sophia, arguments: StoreMany) -> Vec<StoreOutcome> {
        let StoreMany { mut items, scope, atomic } = arguments;
        if let Some(scope) = scope {
            for item in items.iter_mut().filter(|item| item.scope == Scope::default()) {
                item.scope = scope.clone();
            }
        }
        sophia.memory().store_many(items, if atomic { Atomicity::Together } else { Atomicity::Each }).await
    }

    /// Returns one record by its id or seq.
    "memory.get"(sophia, arguments: GetRecord) -> Option<Record> { sophia.memory().get(arguments).await }

    /// Finds records by meaning, words and filters.
    "memory.search"(sophia, query: Query) -> SearchResult { sophia.memory().search(query).await }

    /// Changes one record and keeps its former state as a version.
    "memory.update"(sophia, update: Update) -> Record { sophia.memory().update(update).await }

    /// Returns all versions of one record, oldest first.
    "memory.versions"(sophia, arguments: Versions) -> Vec<Record> {
        sophia.memory().versions(&arguments.id, &arguments.scope).await
    }

    /// Hides one record, or erases it.
    "memory.delete"(sophia, arguments: Delete) -> bool { sophia.memory().delete(arguments).await }

    /// Hides or erases all records of a scope that pass the filters.
    "memory.delete_where"(sophia, arguments: DeleteWhere) -> u64 { sophia.memory().delete_where(arguments).await }

    /// Adds a message to a conversation.
    "memory.append"(sophia, message: AppendMessage) -> Record { sophia.memory().append(message).await }

    /// Returns the last messages of a conversation, in order.
    "memory.history"(sophia, arguments: History) -> Vec<Record> { sophia.memory().history(arguments).await }

    /// Returns the conversations of a scope.
    "memory.sessions"(sophia, arguments: Sessions) -> Vec<Session> {
        sophia.memory().sessions(&arguments.scope, arguments.limit).await
    }

    /// Hides the messages of one conversation.
    "memory.clear_session"(sophia, arguments: ClearSession) -> u64 {
        sophia.memory().clear_session(&arguments.scope).await
    }

    /// Removes all traces of a scope or a person and returns a receipt.
    "memory.forget"(sophia, request: ForgetRequest) -> ForgetReceipt { sophia.memory().forget(request).await }

    /// Embeds anew what has no vector of the embedder's model, and waits for the end.
    "memory.reembed"(sophia, arguments: Reembed) -> Reembedded { sophia.memory().reembed(arguments).await }

    /// Writes what is remembered to a new file, as lines of JSON.
    "memory.export"(sophia, export: Export) -> ExportReceipt { sophia.memory().export(export).await }

    /// Takes over a file of Sophia, mem0, server-memory, LangGraph or Chroma.
    "memory.import"(sophia, import: Import) -> ImportReceipt { sophia.memory().import(import).await }

    /// Writes a copy of all data to a new file, while others write.
    "memory.backup"(sophia, backup: Backup) -> BackupReceipt { sophia.memory().backup(backup).await }

    /// Looks whether the data is whole, and makes anew what is derived from it where that is asked for.
    "memory.check"(sophia, check: Check) -> CheckReport { sophia.memory().check(check).await }

    /// Counts what is held.
    "memory.stats"(sophia, _arguments: NoArguments) -> MemoryStats { sophia.memory().stats().await }

    /// Asks every tier how it is.
    "memory.health"(sophia, _arguments: NoArguments) -> MemoryHealth { Ok(sophia.memory().health().await) }

    /// Returns the last calls.
    "memory.recent_operations"(sophia, arguments: Recent) -> Vec<RecentOperation> {
        Ok(sophia.memory().recent_operations(arguments.n.unwrap_or(DEFAULT_RECENT)))
    }

    /// Returns the value under a key.
    "memory.kv.get"(sophia, arguments: KvGet) -> Found {
        let value = sophia.memory().kv().get(&arguments.key, &arguments.scope).await?;
        Ok(value.map_or(Found::Default(arguments.default), Found::Shared))
    }

    /// Looks a key up and says which tier knew it, and which were stepped over.
    "memory.kv.look_up"(sophia, arguments: KvLookUp) -> KvFound {
        sophia.memory().kv().look_up(&arguments.key, &arguments.scope).await
    }

    /// Sets the value under a key.
    "memory.kv.set"(sophia, arguments: KvSet) -> () {
        let KvSet { key, value, scope, ttl, tags } = arguments;
        sophia.memory().kv().set(&key, value, KvOptions { scope, ttl, tags, ..KvOptions::default() }).await
    }

    /// Removes a key.
    "memory.kv.delete"(sophia, arguments: KvDelete) -> bool {
        sophia.memory().kv().delete(&arguments.key, &arguments.scope).await
    }

    /// Removes keys by prefix or tag.
    "memory.kv.invalidate"(sophia, arguments: KvInvalidate) -> u64 { sophia.memory().kv().invalidate(arguments).await }

    /// Returns which keys there are, sorted.
    "memory.kv.keys"(sophia, query: KvKeys) -> Vec<String> { sophia.memory().kv_keys(query).await }

    /// Stores an entity of the graph, or merges what is new into it.
    "memory.graph.upsert"(sophia, entity: NewEntity) -> Entity { sophia.memory().graph().upsert(entity).await }

    /// States a fact.
    "memory.graph.relate"(sophia, fact: NewFact) -> Fact { sophia.memory().graph().relate(fact).await }

    /// Returns facts that were true at a time.
    "memory.graph.facts"(sophia, query: FactQuery) -> Vec<Fact> { sophia.memory().graph().facts(query).await }

    /// Returns what is near an entity.
    "memory.graph.neighbors"(sophia, query: NeighborQuery) -> Vec<Neighbor> {
        sophia.memory().graph().neighbors(query).await
    }

    /// Returns the facts along a shortest way between two entities.
    "memory.graph.path"(sophia, query: PathQuery) -> Option<Vec<Fact>> { sophia.memory().graph().path(query).await }

    /// Lets a model read a text, and states the facts that it says.
    "memory.graph.extract"(sophia, extract: Extract) -> Extracted {
        let extractor = ChatExtractor::new(sophia.chat()).model(extract.model.clone());
        sophia.memory().graph().extract(&extractor, extract).await
    }

    /// Keeps a checkpoint of a workflow.
    "memory.checkpoints.put"(sophia, checkpoint: NewCheckpoint) -> () {
        sophia.memory().checkpoints().put(checkpoint).await
    }

    /// Keeps what a task wrote.
    "memory.checkpoints.put_writes"(sophia, writes: NewWrites) -> () {
        sophia.memory().checkpoints().put_writes(writes).await
    }

    /// Returns one checkpoint, or the last one.
    "memory.checkpoints.get"(sophia, which: GetCheckpoint) -> Option<Checkpoint> {
        sophia.memory().checkpoints().get(which).await
    }

    /// Returns checkpoints, the last one first.
    "memory.checkpoints.list"(sophia, query: ListCheckpoints) -> CheckpointPage {
        sophia.memory().checkpoints().list(query).await
    }

    /// Returns of what the values of delta channels are made.
    "memory.checkpoints.deltas"(sophia, query: DeltaQuery) -> BTreeMap<String, ChannelHistory> {
        sophia.memory().checkpoints().deltas(query).await
    }

    /// Removes a thread with all its checkpoints.
    "memory.checkpoints.delete_thread"(sophia, thread: DeleteThread) -> u64 {
        sophia.memory().checkpoints().delete_thread(thread).await
    }

    /// Removes the checkpoints that runs made.
    "memory.checkpoints.delete_for_runs"(sophia, runs: DeleteRuns) -> u64 {
        sophia.memory().checkpoints().delete_for_runs(runs).await
    }

    /// Takes over a file of LangGraph's SQLite saver.
    "memory.checkpoints.import_langgraph"(sophia, import: ImportLangGraph) -> ImportedCheckpoints {
        sophia.memory().checkpoints().import_langgraph(import).await
    }

    /// Copies a thread to a new one.
    "memory.checkpoints.copy_thread"(sophia, copy: CopyThread) -> u64 {
        sophia.memory().checkpoints().copy_thread(copy).await
    }

    /// Removes all but the last checkpoints of threads, and what those are made of.
    "memory.checkpoints.prune"(sophia, prune: Prune) -> u64 { sophia.memory().checkpoints().prune(prune).await }
}
