//! Checkpoints. A checkpoint is a row that names the values of its channels; equal values are one.

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{
    Connection, OptionalExtension, Row, params, params_from_iter,
    types::{Value as Sql, ValueRef},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    SqliteStore,
    checkpoint_values::{self, Lists, ValueReader, ValueWriter},
    filter, internal, micros, timestamp,
    write::json,
};
use crate::{
    Result, Scope,
    memory::{
        Item, ItemPage, KeptCheckpoint, Outcome,
        archive::pages,
        checkpoint::{
            ChannelHistory, Checkpoint, CheckpointPage, CheckpointStore, CopyThread, DeleteRuns, DeleteThread,
            DeltaQuery, Encoded, GetCheckpoint, ListCheckpoints, NewCheckpoint, NewWrite, NewWrites, PendingWrite,
            Prune, PruneStrategy,
            channels::{self, Channel, Channels, Wanted},
        },
    },
};

const COLUMNS: &str = "c.checkpoint, c.thread, t.name, c.namespace, c.id, c.parent, c.encoding, c.body, c.metadata, \
                       c.channels, c.created_at, c.deltas";
const FROM: &str = "checkpoints AS c JOIN checkpoint_threads AS t USING (thread)";

#[async_trait]
impl CheckpointStore for SqliteStore {
    async fn put(&self, checkpoint: NewCheckpoint, now: Timestamp) -> Result<()> {
        let lists = self.lists();
        self.write(move |connection| put(connection, checkpoint, now, Some(&lists))).await
    }

    async fn put_writes(&self, writes: NewWrites) -> Result<()> {
        self.write(move |connection| put_writes(connection, &writes)).await
    }

    async fn get(&self, which: GetCheckpoint) -> Result<Option<Checkpoint>> {
        let lists = self.lists();
        self.read(move |connection| get(connection, &which, &lists)).await
    }

    async fn list(&self, query: ListCheckpoints, limit: usize) -> Result<CheckpointPage> {
        self.read(move |connection| list(connection, &query, limit)).await
    }

    async fn deltas(&self, query: DeltaQuery) -> Result<BTreeMap<String, ChannelHistory>> {
        self.read(move |connection| deltas(connection, query)).await
    }

    async fn delete_thread(&self, thread: DeleteThread) -> Result<u64> {
        self.write(move |connection| match find_thread(connection, &thread.scope, &thread.thread)? {
            Some(thread) => delete_thread(connection, thread),
            None => Ok(0),
        })
        .await
    }

    async fn delete_for_runs(&self, runs: DeleteRuns) -> Result<u64> {
        self.write(move |connection| delete_for_runs(connection, &runs)).await
    }

    async fn copy_thread(&self, copy: CopyThread) -> Result<u64> {
        self.write(move |connection| copy_thread(connection, &copy)).await
    }

    async fn prune(&self, prune: Prune) -> Result<u64> {
        self.write(move |connection| {
            let mut removed = 0;
            for name in &prune.threads {
                let Some(thread) = find_thread(connection, &prune.scope, name)? else { continue };
                removed += match prune.strategy {
                    PruneStrategy::KeepLatest => keep_latest(connection, thread)?,
                    PruneStrategy::Delete => delete_thread(connection, thread)?,
                };
            }
            Ok(removed)
        })
        .await
    }
}

fn put(connection: &Connection, new: NewCheckpoint, now: Timestamp, lists: Option<&Lists>) -> Result<()> {
    let thread = make_thread(connection, &new.scope, &new.thread)?;
    let mut values = ValueWriter::new(connection, thread, lists)?;
    let mut channels = kept(connection, thread, &new)?;
    for (name, value) in &new.channels {
        let version = new.versions.get(name).cloned().unwrap_or_default();
        channels.insert(name.clone(), Channel(version, value.encoding.clone(), values.keep(value)?));
    }
    let body = values.pack(&new.body.data)?;
    let deltas = (!new.deltas.is_empty()).then(|| json(&new.deltas));
    connection
        .prepare_cached(
            "INSERT INTO checkpoints \
             (thread, namespace, id, parent, run, encoding, body, metadata, channels, deltas, created_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) \
             ON CONFLICT (thread, namespace, id) DO UPDATE SET parent = excluded.parent, run = excluded.run, \
             encoding = excluded.encoding, body = excluded.body, metadata = excluded.metadata, \
             channels = excluded.channels, deltas = excluded.deltas",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                thread,
                new.namespace,
                new.id,
                new.parent,
                new.run_id,
                new.body.encoding,
                body,
                json(&new.metadata),
                json(&channels),
                deltas,
                micros(now),
            ])
        })
        .map(drop)
        .map_err(internal("memory.checkpoints.put"))
}

/// Returns the channels that have a version and no new value, with the values that they have at this version.
fn kept(connection: &Connection, thread: i64, new: &NewCheckpoint) -> Result<Channels> {
    let mut wanted = Wanted::of(new);
    if wanted.is_done() {
        return Ok(wanted.found);
    }
    let parent = new.parent.as_deref().map(|parent| row(connection, thread, &new.namespace, parent)).transpose()?;
    if let Some(parent) = parent.flatten()
        && !wanted.take_of_parent(parent.channels)
    {
        return Ok(wanted.found);
    }
    let failed = internal("memory.checkpoints.put");
    let mut statement = connection
        .prepare_cached("SELECT channels FROM checkpoints WHERE thread = ?1 AND namespace = ?2 ORDER BY id DESC")
        .map_err(&failed)?;
    let mut rows = statement.query((thread, &new.namespace)).map_err(&failed)?;
    while !wanted.is_done()
        && let Some(row) = rows.next().map_err(&failed)?
    {
        wanted.take(read_json(row, 0).map_err(&failed)?);
    }
    Ok(wanted.found)
}

fn put_writes(connection: &Connection, new: &NewWrites) -> Result<()> {
    let failed = internal("memory.checkpoints.put_writes");
    let thread = make_thread(connection, &new.scope, &new.thread)?;
    let mut values = ValueWriter::new(connection, thread, None)?;
    for write in &new.writes {
        let verb = if write.index < 0 { "REPLACE" } else { "IGNORE" };
        let sql = format!(
            "INSERT OR {verb} INTO checkpoint_writes \
             (thread, namespace, id, task, idx, path, channel, encoding, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
        );
        let data = values.pack(&write.value.data)?;
        connection
            .prepare_cached(&sql)
            .and_then(|mut statement| {
                statement.execute(params![
                    thread,
                    new.namespace,
                    new.id,
                    new.task,
                    write.index,
                    new.path,
                    write.channel,
                    write.value.encoding,
                    data,
                ])
            })
            .map_err(&failed)?;
    }
    Ok(())
}

fn get(connection: &Connection, which: &GetCheckpoint, lists: &Lists) -> Result<Option<Checkpoint>> {
    let Some(thread) = find_thread(connection, &which.scope, &which.thread)? else { return Ok(None) };
    let stored = match &which.id {
        Some(id) => row(connection, thread, &which.namespace, id)?,
        None => last(connection, thread, &which.namespace)?,
    };
    stored.map(|stored| stored.read(connection, &mut ValueReader::new(connection, Some(lists))?)).transpose()
}

fn list(connection: &Connection, query: &ListCheckpoints, limit: usize) -> Result<CheckpointPage> {
    let failed = internal("memory.checkpoints.list");
    let Some(wall) = filter::find_wall(connection, &query.scope)? else { return Ok(CheckpointPage::default()) };
    let mut sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE t.wall = ?");
    let mut values = vec![Sql::Integer(wall)];
    for (condition, value) in [
        (" AND t.name = ?", &query.thread),
        (" AND c.namespace = ?", &query.namespace),
        (" AND c.id = ?", &query.id),
        (" AND c.id < ?", &query.before),
    ] {
        if let Some(value) = value {
            sql.push_str(condition);
            values.push(Sql::Text(value.clone()));
        }
    }
    if let Some(after) = &query.after {
        let (number, id) = channels::read_place(after)?;
        sql.push_str(" AND (c.id, c.checkpoint) < (?, ?)");
        values.extend([Sql::Text(id.to_owned()), Sql::Integer(number)]);
    }
    sql.push_str(" ORDER BY c.id DESC, c.checkpoint DESC");
    let mut statement = connection.prepare_cached(&sql).map_err(&failed)?;
    let mut rows = statement.query(params_from_iter(values)).map_err(&failed)?;
    let mut reader = ValueReader::new(connection, None)?;
    let (mut page, mut bytes, mut last) = (CheckpointPage::default(), 0, None);
    while let Some(row) = rows.next().map_err(&failed)? {
        let stored = StoredCheckpoint::read_row(row).map_err(&failed)?;
        if !channels::has_all(&stored.metadata, &query.metadata) {
            continue;
        }
        if page.checkpoints.len() == limit || bytes >= channels::PAGE_BYTES {
            page.next = last;
            break;
        }
        last = Some(channels::place(stored.number, &stored.id));
        let checkpoint = stored.read(connection, &mut reader)?;
        bytes += checkpoint.channels.values().map(|value| value.data.len()).sum::<usize>();
        page.checkpoints.push(checkpoint);
    }
    Ok(page)
}

fn deltas(connection: &Connection, query: DeltaQuery) -> Result<BTreeMap<String, ChannelHistory>> {
    let mut histories: BTreeMap<_, _> =
        query.channels.into_iter().map(|name| (name, ChannelHistory::default())).collect();
    let Some(thread) = find_thread(connection, &query.scope, &query.thread)? else { return Ok(histories) };
    let start = match &query.id {
        Some(id) => row(connection, thread, &query.namespace, id)?,
        None => last(connection, thread, &query.namespace)?,
    };
    let mut reader = ValueReader::new(connection, None)?;
    let mut open: HashSet<String> = histories.keys().cloned().collect();
    for ancestor in Ancestors::of(connection, thread, &query.namespace, start) {
        let ancestor = ancestor?;
        // Newest first for now; turned round at the end.
        let writes = writes(connection, &mut reader, thread, &query.namespace, &ancestor.id)?;
        for write in writes.into_iter().rev().filter(|write| open.contains(&write.channel)) {
            if let Some(history) = histories.get_mut(&write.channel) {
                history.writes.push(write);
            }
        }
        for (name, Channel(_, encoding, value)) in ancestor.channels {
            if open.remove(&name)
                && let Some(history) = histories.get_mut(&name)
            {
                history.seed = Some(Encoded::new(encoding, reader.read(thread, value)?));
            }
        }
        if open.is_empty() {
            break;
        }
    }
    histories.values_mut().for_each(|history| history.writes.reverse());
    Ok(histories)
}

/// The ancestors of a checkpoint, its parent first. Ends where a parent is missing, or was met before.
struct Ancestors<'a> {
    connection: &'a Connection,
    thread: i64,
    namespace: &'a str,
    next: Option<String>,
    met: HashSet<String>,
}

impl<'a> Ancestors<'a> {
    fn of(
        connection: &'a Connection,
        thread: i64,
        namespace: &'a str,
        start: Option<StoredCheckpoint>,
    ) -> Ancestors<'a> {
        let (next, met) = start.map_or((None, None), |start| (start.parent, Some(start.id)));
        Ancestors { connection, thread, namespace, next, met: met.into_iter().collect() }
    }
}

impl Iterator for Ancestors<'_> {
    type Item = Result<StoredCheckpoint>;

    fn next(&mut self) -> Option<Result<StoredCheckpoint>> {
        let id = self.next.take()?;
        if !self.met.insert(id.clone()) {
            return None;
        }
        let found = row(self.connection, self.thread, self.namespace, &id).transpose()?;
        Some(found.inspect(|found| self.next.clone_from(&found.parent)))
    }
}

fn delete_for_runs(connection: &Connection, runs: &DeleteRuns) -> Result<u64> {
    let failed = internal("memory.checkpoints.delete_for_runs");
    let Some(wall) = filter::find_wall(connection, &runs.scope)? else { return Ok(0) };
    let mut meant: Vec<(i64, i64, String, String)> = Vec::new();
    for run in &runs.run_ids {
        let mut statement = connection
            .prepare_cached(&format!(
                "SELECT c.checkpoint, c.thread, c.namespace, c.id FROM {FROM} WHERE c.run = ?1 AND t.wall = ?2"
            ))
            .map_err(&failed)?;
        let found = statement
            .query_map((run, wall), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
            .map_err(&failed)?;
        meant.extend(found);
    }
    for (checkpoint, thread, namespace, id) in &meant {
        delete(connection, *checkpoint, *thread, namespace, id)?;
    }
    let threads: HashSet<i64> = meant.iter().map(|(_, thread, _, _)| *thread).collect();
    threads.into_iter().try_for_each(|thread| tidy(connection, thread))?;
    Ok(meant.len() as u64)
}

/// Removes one checkpoint with its writes.
fn delete(connection: &Connection, checkpoint: i64, thread: i64, namespace: &str, id: &str) -> Result<()> {
    connection
        .prepare_cached("DELETE FROM checkpoints WHERE checkpoint = ?1")
        .and_then(|mut statement| statement.execute([checkpoint]))
        .and_then(|_| {
            connection
                .prepare_cached("DELETE FROM checkpoint_writes WHERE thread = ?1 AND namespace = ?2 AND id = ?3")?
                .execute((thread, namespace, id))
        })
        .map(drop)
        .map_err(internal("memory.checkpoints.delete"))
}

/// Removes the values of a thread that no checkpoint names, and a thread that is empty.
fn tidy(connection: &Connection, thread: i64) -> Result<()> {
    let failed = internal("memory.checkpoints.delete");
    let left: Vec<Channels> = connection
        .prepare_cached("SELECT channels FROM checkpoints WHERE thread = ?1")
        .and_then(|mut statement| statement.query_map([thread], |row| read_json(row, 0))?.collect())
        .map_err(failed)?;
    if left.is_empty() {
        return delete_thread(connection, thread).map(drop);
    }
    let roots = left.into_iter().flat_map(BTreeMap::into_values).map(|Channel(_, _, value)| value).collect();
    checkpoint_values::sweep(connection, thread, roots)
}

fn keep_latest(connection: &Connection, thread: i64) -> Result<u64> {
    let failed = internal("memory.checkpoints.prune");
    let all: Vec<(i64, String, String)> = connection
        .prepare_cached("SELECT checkpoint, namespace, id FROM checkpoints WHERE thread = ?1 ORDER BY namespace, id")
        .and_then(|mut statement| {
            statement.query_map([thread], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
        })
        .map_err(failed)?;
    let mut keep = HashSet::new();
    for (place, (number, namespace, _)) in all.iter().enumerate() {
        if all.get(place + 1).is_some_and(|(_, next, _)| next == namespace) {
            continue;
        }
        keep.insert(*number);
        let latest = last(connection, thread, namespace)?;
        let mut open = latest.as_ref().map(|latest| latest.deltas.clone()).unwrap_or_default();
        let mut ancestors = Ancestors::of(connection, thread, namespace, latest);
        while !open.is_empty()
            && let Some(ancestor) = ancestors.next().transpose()?
        {
            keep.insert(ancestor.number);
            open.retain(|name| !ancestor.channels.contains_key(name));
        }
    }
    let removed: Vec<_> = all.into_iter().filter(|(number, _, _)| !keep.contains(number)).collect();
    for (number, namespace, id) in &removed {
        delete(connection, *number, thread, namespace, id)?;
    }
    if !removed.is_empty() {
        tidy(connection, thread)?;
    }
    Ok(removed.len() as u64)
}

fn copy_thread(connection: &Connection, copy: &CopyThread) -> Result<u64> {
    let failed = internal("memory.checkpoints.copy_thread");
    let Some(source) = find_thread(connection, &copy.scope, &copy.source)? else { return Ok(0) };
    let target = make_thread(connection, &copy.scope, &copy.target)?;
    let taken: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM checkpoints WHERE thread = ?1) \
             OR EXISTS (SELECT 1 FROM checkpoint_writes WHERE thread = ?1)",
        )
        .and_then(|mut statement| statement.query_row([target], |row| row.get(0)))
        .map_err(&failed)?;
    if taken {
        return Err(channels::is_taken(&copy.target));
    }
    // In the order of their numbers, which settles the order of equal identifiers.
    let run = |sql: &str| {
        connection.prepare_cached(sql).and_then(|mut statement| statement.execute((target, source))).map_err(&failed)
    };
    run("INSERT INTO checkpoint_values (thread, value, hash, data) \
         SELECT ?1, value, hash, data FROM checkpoint_values WHERE thread = ?2")?;
    run("INSERT INTO checkpoint_writes (thread, namespace, id, task, idx, path, channel, encoding, data) \
         SELECT ?1, namespace, id, task, idx, path, channel, encoding, data FROM checkpoint_writes WHERE thread = ?2")?;
    let copied = run("INSERT INTO checkpoints \
         (thread, namespace, id, parent, run, encoding, body, metadata, channels, deltas, created_at) \
         SELECT ?1, namespace, id, parent, run, encoding, body, metadata, channels, deltas, created_at \
         FROM checkpoints WHERE thread = ?2 ORDER BY checkpoint")?;
    Ok(copied as u64)
}

fn delete_thread(connection: &Connection, thread: i64) -> Result<u64> {
    let run = |sql: &str| {
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([thread]))
            .map_err(internal("memory.checkpoints.delete_thread"))
    };
    run("DELETE FROM checkpoint_writes WHERE thread = ?1")?;
    run("DELETE FROM checkpoint_values WHERE thread = ?1")?;
    let removed = run("DELETE FROM checkpoints WHERE thread = ?1")?;
    run("DELETE FROM checkpoint_threads WHERE thread = ?1")?;
    Ok(removed as u64)
}

/// Returns a page of checkpoints as they are kept, in the order in which they came.
pub(super) fn kept_checkpoints(
    connection: &Connection,
    wall: Option<i64>,
    after: i64,
    limit: usize,
) -> Result<ItemPage> {
    let failed = internal("memory.export");
    let mut statement = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS}, c.run, w.tenant, w.user FROM {FROM} JOIN walls AS w USING (wall) \
             WHERE c.checkpoint > ?1 AND (?2 IS NULL OR t.wall = ?2) ORDER BY c.checkpoint LIMIT ?3"
        ))
        .map_err(&failed)?;
    let stored: Vec<(StoredCheckpoint, Option<String>, Scope)> = statement
        .query_map((after, wall, limit as i64), |row| {
            let scope = Scope { tenant: row.get(13)?, user: row.get(14)?, session: None, agent: None };
            Ok((StoredCheckpoint::read_row(row)?, row.get(12)?, scope))
        })
        .and_then(Iterator::collect)
        .map_err(&failed)?;
    let mut reader = ValueReader::new(connection, None)?;
    let items = stored
        .into_iter()
        .map(|(stored, run_id, scope)| {
            let parent = match &stored.parent {
                Some(parent) => row(connection, stored.thread, &stored.namespace, parent)?,
                None => None,
            };
            let above = parent.filter(|parent| parent.number < stored.number).map(|parent| parent.channels);
            let mut channels = BTreeMap::new();
            for (name, Channel(_, encoding, value)) in channels::own(&stored.channels, above.as_ref()) {
                channels.insert(name.clone(), Encoded::new(encoding, reader.read(stored.thread, *value)?));
            }
            let checkpoint = NewCheckpoint {
                scope,
                thread: stored.name,
                namespace: stored.namespace,
                id: stored.id,
                parent: stored.parent,
                run_id,
                body: Encoded::new(stored.encoding, reader.unpack(&stored.body)?),
                metadata: stored.metadata,
                channels,
                versions: stored.channels.into_iter().map(|(name, Channel(version, ..))| (name, version)).collect(),
                deltas: stored.deltas,
            };
            let kept = KeptCheckpoint { checkpoint, created_at: stored.created_at };
            Ok((stored.number.to_string(), Item::Checkpoint(Box::new(kept))))
        })
        .collect::<Result<_>>()?;
    Ok(pages::page(items, limit))
}

/// Returns the writes of one thread, the next after this one.
pub(super) fn kept_writes(connection: &Connection, wall: Option<i64>, after: i64) -> Result<ItemPage> {
    let failed = internal("memory.export");
    let thread: Option<(i64, String, Scope)> = connection
        .prepare_cached(
            "SELECT t.thread, t.name, w.tenant, w.user FROM checkpoint_threads AS t JOIN walls AS w USING (wall) \
             WHERE t.thread > ?1 AND (?2 IS NULL OR t.wall = ?2) ORDER BY t.thread LIMIT 1",
        )
        .and_then(|mut statement| {
            let read = |row: &Row<'_>| {
                let scope = Scope { tenant: row.get(2)?, user: row.get(3)?, session: None, agent: None };
                Ok((row.get(0)?, row.get(1)?, scope))
            };
            statement.query_row((after, wall), read).optional()
        })
        .map_err(&failed)?;
    let Some((thread, name, scope)) = thread else { return Ok(ItemPage::default()) };
    let mut statement = connection
        .prepare_cached(
            "SELECT namespace, id, task, path, channel, idx, encoding, data FROM checkpoint_writes \
             WHERE thread = ?1 ORDER BY namespace, id, task, idx",
        )
        .map_err(&failed)?;
    let mut rows = statement.query([thread]).map_err(&failed)?;
    let mut reader = ValueReader::new(connection, None)?;
    let mut writes = Vec::new();
    while let Some(row) = rows.next().map_err(&failed)? {
        let text = |column| row.get::<_, String>(column).map_err(&failed);
        let new = NewWrites {
            scope: scope.clone(),
            thread: name.clone(),
            namespace: text(0)?,
            id: text(1)?,
            task: text(2)?,
            path: text(3)?,
            writes: Vec::new(),
        };
        let data: Vec<u8> = row.get(7).map_err(&failed)?;
        let value = Encoded::new(text(6)?, reader.unpack(&data)?);
        let write = NewWrite { channel: text(4)?, index: row.get(5).map_err(&failed)?, value };
        writes.push((new, write));
    }
    Ok(ItemPage { items: pages::by_task(writes), next: Some(thread.to_string()) })
}

/// Keeps a checkpoint that is not there.
pub(super) fn keep(connection: &Connection, kept: KeptCheckpoint) -> Result<Outcome> {
    let KeptCheckpoint { checkpoint, created_at } = kept;
    let thread = make_thread(connection, &checkpoint.scope, &checkpoint.thread)?;
    if row(connection, thread, &checkpoint.namespace, &checkpoint.id)?.is_some() {
        return Ok(Outcome::Unchanged);
    }
    put(connection, checkpoint, created_at, None)?;
    Ok(Outcome::Added)
}

/// Keeps what a task wrote where nothing of that task is there.
pub(super) fn keep_writes(connection: &Connection, new: &NewWrites) -> Result<Outcome> {
    let thread = make_thread(connection, &new.scope, &new.thread)?;
    let is_there = connection
        .prepare_cached(
            "SELECT 1 FROM checkpoint_writes WHERE thread = ?1 AND namespace = ?2 AND id = ?3 AND task = ?4",
        )
        .and_then(|mut statement| statement.exists((thread, &new.namespace, &new.id, &new.task)))
        .map_err(internal("memory.import"))?;
    if is_there {
        return Ok(Outcome::Unchanged);
    }
    put_writes(connection, new)?;
    Ok(Outcome::Added)
}

/// Removes all threads of a wall; returns how many checkpoints they had.
pub(super) fn forget(connection: &Connection, wall: i64) -> Result<u64> {
    let threads: Vec<i64> = connection
        .prepare_cached("SELECT thread FROM checkpoint_threads WHERE wall = ?1")
        .and_then(|mut statement| statement.query_map([wall], |row| row.get(0))?.collect())
        .map_err(internal("memory.forget"))?;
    threads.into_iter().map(|thread| delete_thread(connection, thread)).sum()
}

fn find_thread(connection: &Connection, scope: &Scope, name: &str) -> Result<Option<i64>> {
    connection
        .prepare_cached(
            "SELECT thread FROM checkpoint_threads WHERE wall = (SELECT wall FROM walls WHERE key = ?1) AND name = ?2",
        )
        .and_then(|mut statement| statement.query_row((scope.wall(), name), |row| row.get(0)).optional())
        .map_err(internal("memory.checkpoints"))
}

fn make_thread(connection: &Connection, scope: &Scope, name: &str) -> Result<i64> {
    if let Some(thread) = find_thread(connection, scope, name)? {
        return Ok(thread);
    }
    let wall = filter::make_wall(connection, scope)?;
    connection
        .prepare_cached("INSERT INTO checkpoint_threads (wall, name) VALUES (?1, ?2)")
        .and_then(|mut statement| statement.insert((wall, name)))
        .map_err(internal("memory.checkpoints"))
}

fn row(connection: &Connection, thread: i64, namespace: &str, id: &str) -> Result<Option<StoredCheckpoint>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE c.thread = ?1 AND c.namespace = ?2 AND c.id = ?3"))
        .and_then(|mut statement| statement.query_row((thread, namespace, id), StoredCheckpoint::read_row).optional())
        .map_err(internal("memory.checkpoints.get"))
}

fn last(connection: &Connection, thread: i64, namespace: &str) -> Result<Option<StoredCheckpoint>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM {FROM} WHERE c.thread = ?1 AND c.namespace = ?2 ORDER BY c.id DESC LIMIT 1"
        ))
        .and_then(|mut statement| statement.query_row((thread, namespace), StoredCheckpoint::read_row).optional())
        .map_err(internal("memory.checkpoints.get"))
}

fn writes(
    connection: &Connection,
    reader: &mut ValueReader<'_>,
    thread: i64,
    namespace: &str,
    id: &str,
) -> Result<Vec<PendingWrite>> {
    let failed = internal("memory.checkpoints.get");
    let mut statement = connection
        .prepare_cached(
            "SELECT task, channel, encoding, data FROM checkpoint_writes \
             WHERE thread = ?1 AND namespace = ?2 AND id = ?3 ORDER BY path, task, idx",
        )
        .map_err(&failed)?;
    let rows: Vec<(String, String, String, Vec<u8>)> = statement
        .query_map((thread, namespace, id), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .and_then(Iterator::collect)
        .map_err(failed)?;
    rows.into_iter()
        .map(|(task, channel, encoding, data)| {
            Ok(PendingWrite { task, channel, value: Encoded::new(encoding, reader.unpack(&data)?) })
        })
        .collect()
}

/// A row, without the values that it names.
struct StoredCheckpoint {
    number: i64,
    thread: i64,
    name: String,
    namespace: String,
    id: String,
    parent: Option<String>,
    encoding: String,
    body: Vec<u8>,
    metadata: Map<String, Value>,
    channels: Channels,
    created_at: Timestamp,
    deltas: Vec<String>,
}

impl StoredCheckpoint {
    fn read_row(row: &Row<'_>) -> rusqlite::Result<StoredCheckpoint> {
        Ok(StoredCheckpoint {
            number: row.get(0)?,
            thread: row.get(1)?,
            name: row.get(2)?,
            namespace: row.get(3)?,
            id: row.get(4)?,
            parent: row.get(5)?,
            encoding: row.get(6)?,
            body: row.get(7)?,
            metadata: read_json(row, 8)?,
            channels: read_json(row, 9)?,
            created_at: timestamp(row.get(10)?),
            deltas: match row.get_ref(11)? {
                ValueRef::Null => Vec::new(),
                _ => read_json(row, 11)?,
            },
        })
    }

    fn read(self, connection: &Connection, reader: &mut ValueReader<'_>) -> Result<Checkpoint> {
        let writes = writes(connection, reader, self.thread, &self.namespace, &self.id)?;
        let channels = self.channels.into_iter().map(|(name, Channel(_, encoding, value))| {
            Ok((name, Encoded::new(encoding, reader.read(self.thread, value)?)))
        });
        Ok(Checkpoint {
            channels: channels.collect::<Result<_>>()?,
            body: Encoded::new(self.encoding, reader.unpack(&self.body)?),
            thread: self.name,
            namespace: self.namespace,
            id: self.id,
            parent: self.parent,
            metadata: self.metadata,
            writes,
            created_at: self.created_at,
        })
    }
}

pub(super) fn read_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}
