//! Checkpoints. A checkpoint is a row that names the values of its channels; equal values are one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value as Json};
use tokio_postgres::Row;

use super::{
    PostgresStore, checkpoint_values, filter, json,
    link::{Taken, Value, column},
    micros, read, read_json, timestamp,
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
            packed::{Packer, Unpacker},
        },
    },
};

/// Rows that are read at once where it is not known how many are wanted.
const CHUNK: i64 = 64;

const COLUMNS: &str = "c.checkpoint, c.thread, t.name, c.namespace, c.id, c.parent, c.encoding, c.body, c.metadata, \
                       c.channels, c.created_at, c.deltas";
const FROM: &str = "checkpoints AS c JOIN checkpoint_threads AS t USING (thread)";

#[async_trait]
impl CheckpointStore for PostgresStore {
    async fn put(&self, checkpoint: NewCheckpoint, now: Timestamp) -> Result<()> {
        const OPERATION: &str = "memory.checkpoints.put";
        let work = async {
            let taken = self.link().begin(OPERATION).await?;
            put(&taken, &checkpoint, now).await?;
            taken.commit().await
        };
        self.link().within(OPERATION, work).await
    }

    async fn put_writes(&self, writes: NewWrites) -> Result<()> {
        const OPERATION: &str = "memory.checkpoints.put_writes";
        let work = async {
            let taken = self.link().begin(OPERATION).await?;
            put_writes(&taken, &writes).await?;
            taken.commit().await
        };
        self.link().within(OPERATION, work).await
    }

    async fn get(&self, which: GetCheckpoint) -> Result<Option<Checkpoint>> {
        const OPERATION: &str = "memory.checkpoints.get";
        let work = async {
            let taken = self.link().session(OPERATION).await?;
            let Some(thread) = find_thread(&taken, &which.scope, &which.thread).await? else { return Ok(None) };
            let stored = match &which.id {
                Some(id) => row(&taken, thread, &which.namespace, id).await?,
                None => last(&taken, thread, &which.namespace).await?,
            };
            Ok(read(&taken, stored.into_iter().collect()).await?.pop())
        };
        self.link().within(OPERATION, work).await
    }

    async fn list(&self, query: ListCheckpoints, limit: usize) -> Result<CheckpointPage> {
        const OPERATION: &str = "memory.checkpoints.list";
        let work = async { list(&self.link().session(OPERATION).await?, &query, limit).await };
        self.link().within(OPERATION, work).await
    }

    async fn deltas(&self, query: DeltaQuery) -> Result<BTreeMap<String, ChannelHistory>> {
        const OPERATION: &str = "memory.checkpoints.deltas";
        let work = async { deltas(&self.link().session(OPERATION).await?, query).await };
        self.link().within(OPERATION, work).await
    }

    async fn delete_thread(&self, thread: DeleteThread) -> Result<u64> {
        const OPERATION: &str = "memory.checkpoints.delete_thread";
        let work = async {
            let taken = self.link().begin(OPERATION).await?;
            let removed = match hold_thread(&taken, &thread.scope, &thread.thread).await? {
                Some(thread) => delete_thread(&taken, thread).await?,
                None => 0,
            };
            taken.commit().await?;
            Ok(removed)
        };
        self.link().within(OPERATION, work).await
    }

    async fn delete_for_runs(&self, runs: DeleteRuns) -> Result<u64> {
        const OPERATION: &str = "memory.checkpoints.delete_for_runs";
        let work = async {
            let taken = self.link().begin(OPERATION).await?;
            let removed = delete_for_runs(&taken, &runs).await?;
            taken.commit().await?;
            Ok(removed)
        };
        self.link().within(OPERATION, work).await
    }

    async fn copy_thread(&self, copy: CopyThread) -> Result<u64> {
        const OPERATION: &str = "memory.checkpoints.copy_thread";
        let work = async {
            let taken = self.link().begin(OPERATION).await?;
            match copy_thread(&taken, &copy).await {
                Ok(copied) => {
                    taken.commit().await?;
                    Ok(copied)
                }
                Err(error) => {
                    taken.roll_back().await?;
                    Err(error)
                }
            }
        };
        self.link().within(OPERATION, work).await
    }

    async fn prune(&self, prune: Prune) -> Result<u64> {
        const OPERATION: &str = "memory.checkpoints.prune";
        let work = async {
            let taken = self.link().begin(OPERATION).await?;
            let mut removed = 0;
            // In order, so that no two who prune wait for each other.
            for name in BTreeSet::from_iter(&prune.threads) {
                let Some(thread) = hold_thread(&taken, &prune.scope, name).await? else { continue };
                removed += match prune.strategy {
                    PruneStrategy::KeepLatest => keep_latest(&taken, thread).await?,
                    PruneStrategy::Delete => delete_thread(&taken, thread).await?,
                };
            }
            taken.commit().await?;
            Ok(removed)
        };
        self.link().within(OPERATION, work).await
    }
}

async fn put(taken: &Taken, new: &NewCheckpoint, now: Timestamp) -> Result<()> {
    let tenant = new.scope.tenant.as_deref();
    let thread = make_thread(taken, &new.scope, &new.thread).await?;
    let mut kept = kept(taken, thread, new).await?;
    let values: Vec<&Encoded> = new.channels.values().collect();
    let numbers = checkpoint_values::keep(taken, thread, tenant, &values).await?;
    for ((name, value), number) in new.channels.iter().zip(numbers) {
        let version = new.versions.get(name).cloned().unwrap_or_default();
        kept.insert(name.clone(), Channel(version, value.encoding.clone(), number));
    }
    let body = Packer::new()?.pack(&new.body.data)?;
    let (metadata, channels, deltas) = (json(&new.metadata), json(&kept), json(&new.deltas));
    let sql = "INSERT INTO checkpoints \
         (thread, tenant, namespace, id, parent, run, encoding, body, metadata, channels, deltas, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
         ON CONFLICT (thread, namespace, id) DO UPDATE SET parent = excluded.parent, run = excluded.run, \
         encoding = excluded.encoding, body = excluded.body, metadata = excluded.metadata, \
         channels = excluded.channels, deltas = excluded.deltas";
    let created_at = micros(now);
    let values: [Value<'_>; 12] = [
        &thread,
        &tenant,
        &new.namespace,
        &new.id,
        &new.parent,
        &new.run_id,
        &new.body.encoding,
        &body,
        &metadata,
        &channels,
        &deltas,
        &created_at,
    ];
    taken.execute(sql, &values).await.map(drop)
}

/// Returns the channels that have a version and no new value, with the values that they have at this version.
async fn kept(taken: &Taken, thread: i64, new: &NewCheckpoint) -> Result<Channels> {
    let mut wanted = Wanted::of(new);
    if wanted.is_done() {
        return Ok(wanted.found);
    }
    if let Some(parent) = &new.parent
        && let Some(parent) = row(taken, thread, &new.namespace, parent).await?
        && !wanted.take_of_parent(parent.channels)
    {
        return Ok(wanted.found);
    }
    let mut before: Option<String> = None;
    while !wanted.is_done() {
        let sql = "SELECT id, channels FROM checkpoints WHERE thread = $1 AND namespace = $2 \
                   AND ($3::text IS NULL OR id < $3 COLLATE \"C\") ORDER BY id DESC LIMIT $4";
        let rows = taken.query(sql, &[&thread, &new.namespace, &before, &CHUNK]).await?;
        let Some(last) = rows.last() else { break };
        before = Some(column(last, 0)?);
        for row in &rows {
            wanted.take(read_json(column(row, 1)?)?);
        }
    }
    Ok(wanted.found)
}

async fn put_writes(taken: &Taken, new: &NewWrites) -> Result<()> {
    let thread = make_thread(taken, &new.scope, &new.thread).await?;
    let mut packer = Packer::new()?;
    for write in &new.writes {
        let verb = if write.index < 0 {
            "UPDATE SET path = excluded.path, channel = excluded.channel, encoding = excluded.encoding, data = excluded.data"
        } else {
            "NOTHING"
        };
        let sql = format!(
            "INSERT INTO checkpoint_writes (thread, tenant, namespace, id, task, idx, path, channel, encoding, data) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (thread, namespace, id, task, idx) DO {verb}"
        );
        let data = packer.pack(&write.value.data)?;
        let index = write.index;
        let values: [Value<'_>; 10] = [
            &thread,
            &new.scope.tenant,
            &new.namespace,
            &new.id,
            &new.task,
            &index,
            &new.path,
            &write.channel,
            &write.value.encoding,
            &data,
        ];
        taken.execute(&sql, &values).await?;
    }
    Ok(())
}

async fn list(taken: &Taken, query: &ListCheckpoints, limit: usize) -> Result<CheckpointPage> {
    let Some(wall) = filter::find_wall(taken, &query.scope).await? else { return Ok(CheckpointPage::default()) };
    let mut position = match &query.after {
        Some(after) => Some(channels::read_place(after).map(|(number, id)| (number, id.to_owned()))?),
        None => None,
    };
    let (mut page, mut bytes) = (CheckpointPage::default(), 0);
    loop {
        let mut values: Vec<Value<'_>> = vec![&wall];
        let mut sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE t.wall = $1");
        for (condition, value) in [
            ("t.name =", &query.thread),
            ("c.namespace =", &query.namespace),
            ("c.id =", &query.id),
            ("c.id <", &query.before),
        ] {
            if let Some(value) = value {
                values.push(value);
                sql.push_str(&format!(" AND {condition} ${}", values.len()));
            }
        }
        if let Some((number, id)) = &position {
            values.extend([id as Value<'_>, number]);
            sql.push_str(&format!(" AND (c.id, c.checkpoint) < (${}, ${})", values.len() - 1, values.len()));
        }
        sql.push_str(&format!(" ORDER BY c.id DESC, c.checkpoint DESC LIMIT {CHUNK}"));
        let rows = taken.query(&sql, &values).await?;
        let chunk = rows.iter().map(Stored::read_row).collect::<Result<Vec<_>>>()?;
        let Some(end) = chunk.last() else {
            page.next = None;
            return Ok(page);
        };
        position = Some((end.number, end.id.clone()));
        let wanted: Vec<_> =
            chunk.into_iter().filter(|stored| channels::has_all(&stored.metadata, &query.metadata)).collect();
        // One more than is wanted says that there is a next page.
        for stored in wanted {
            if page.checkpoints.len() == limit || bytes >= channels::PAGE_BYTES {
                return Ok(page);
            }
            let next = channels::place(stored.number, &stored.id);
            for checkpoint in read(taken, vec![stored]).await? {
                bytes += checkpoint.channels.values().map(|value| value.data.len()).sum::<usize>();
                page.checkpoints.push(checkpoint);
            }
            page.next = Some(next);
        }
        if (rows.len() as i64) < CHUNK {
            page.next = None;
            return Ok(page);
        }
    }
}

async fn deltas(taken: &Taken, query: DeltaQuery) -> Result<BTreeMap<String, ChannelHistory>> {
    let mut histories: BTreeMap<_, _> =
        query.channels.into_iter().map(|name| (name, ChannelHistory::default())).collect();
    let Some(thread) = find_thread(taken, &query.scope, &query.thread).await? else { return Ok(histories) };
    let start = match &query.id {
        Some(id) => row(taken, thread, &query.namespace, id).await?,
        None => last(taken, thread, &query.namespace).await?,
    };
    let mut open: HashSet<String> = histories.keys().cloned().collect();
    let mut ancestors = Ancestors::of(thread, &query.namespace, start);
    while !open.is_empty() {
        let chunk = ancestors.next(taken).await?;
        if chunk.is_empty() {
            break;
        }
        let mut all = writes(taken, &chunk).await?;
        for ancestor in chunk {
            // Newest first for now; turned round at the end.
            let own = all.remove(&ancestor.key()).unwrap_or_default();
            for write in own.into_iter().rev().filter(|write| open.contains(&write.channel)) {
                if let Some(history) = histories.get_mut(&write.channel) {
                    history.writes.push(write);
                }
            }
            for (name, Channel(_, encoding, value)) in ancestor.channels {
                if open.remove(&name)
                    && let Some(history) = histories.get_mut(&name)
                {
                    let key = (thread, value);
                    let data = checkpoint_values::read(taken, &BTreeSet::from([key])).await?.remove(&key);
                    history.seed = data.map(|data| Encoded::new(encoding, data));
                }
            }
            if open.is_empty() {
                break;
            }
        }
    }
    histories.values_mut().for_each(|history| history.writes.reverse());
    Ok(histories)
}

/// The ancestors of a checkpoint, its parent first. Ends where a parent is missing, or was met before.
struct Ancestors<'a> {
    thread: i64,
    namespace: &'a str,
    next: Option<String>,
    met: HashSet<String>,
}

impl<'a> Ancestors<'a> {
    fn of(thread: i64, namespace: &'a str, start: Option<Stored>) -> Ancestors<'a> {
        let (next, met) = start.map_or((None, None), |start| (start.parent, Some(start.id)));
        Ancestors { thread, namespace, next, met: met.into_iter().collect() }
    }

    /// Reads the next of them; nothing where there are no more.
    async fn next(&mut self, taken: &Taken) -> Result<Vec<Stored>> {
        let Some(first) = self.next.take() else { return Ok(Vec::new()) };
        let sql = format!(
            "WITH RECURSIVE up (id, parent, steps) AS ( \
             SELECT id, parent, 1 FROM checkpoints WHERE thread = $1 AND namespace = $2 AND id = $3 \
             UNION ALL SELECT c.id, c.parent, up.steps + 1 FROM up JOIN checkpoints AS c ON c.thread = $1 \
             AND c.namespace = $2 AND c.id = up.parent WHERE up.steps < {CHUNK}) \
             SELECT {COLUMNS} FROM up JOIN ({FROM}) ON c.thread = $1 AND c.namespace = $2 AND c.id = up.id ORDER BY up.steps"
        );
        let rows = taken.query(&sql, &[&self.thread, &self.namespace, &first]).await?;
        let mut chunk = Vec::with_capacity(rows.len());
        for row in &rows {
            let stored = Stored::read_row(row)?;
            if !self.met.insert(stored.id.clone()) {
                self.next = None;
                break;
            }
            self.next.clone_from(&stored.parent);
            chunk.push(stored);
        }
        Ok(chunk)
    }
}

async fn delete_for_runs(taken: &Taken, runs: &DeleteRuns) -> Result<u64> {
    let Some(wall) = filter::find_wall(taken, &runs.scope).await? else { return Ok(0) };
    let sql = "SELECT thread FROM checkpoint_threads WHERE wall = $1 AND thread IN \
               (SELECT thread FROM checkpoints WHERE run = ANY($2)) ORDER BY thread FOR UPDATE";
    let rows = taken.query(sql, &[&wall, &runs.run_ids]).await?;
    let threads = rows.iter().map(|row| column(row, 0)).collect::<Result<Vec<i64>>>()?;
    let sql = "SELECT checkpoint FROM checkpoints WHERE thread = ANY($1) AND run = ANY($2)";
    let rows = taken.query(sql, &[&threads, &runs.run_ids]).await?;
    let meant = rows.iter().map(|row| column(row, 0)).collect::<Result<Vec<i64>>>()?;
    delete(taken, &meant).await?;
    for thread in threads {
        tidy(taken, thread).await?;
    }
    Ok(meant.len() as u64)
}

/// Removes checkpoints with their writes.
async fn delete(taken: &Taken, numbers: &[i64]) -> Result<()> {
    let sql = "WITH gone AS (DELETE FROM checkpoints WHERE checkpoint = ANY($1) RETURNING thread, namespace, id) \
               DELETE FROM checkpoint_writes AS w USING gone \
               WHERE w.thread = gone.thread AND w.namespace = gone.namespace AND w.id = gone.id";
    taken.execute(sql, &[&numbers]).await.map(drop)
}

/// Removes the values of a thread that no checkpoint names, and a thread that is empty.
async fn tidy(taken: &Taken, thread: i64) -> Result<()> {
    let rows = taken.query("SELECT channels FROM checkpoints WHERE thread = $1", &[&thread]).await?;
    if rows.is_empty() {
        return delete_thread(taken, thread).await.map(drop);
    }
    let left = rows.iter().map(|row| read_json(column(row, 0)?)).collect::<Result<Vec<Channels>>>()?;
    let roots = left.into_iter().flat_map(BTreeMap::into_values).map(|Channel(_, _, value)| value).collect();
    checkpoint_values::sweep(taken, thread, roots).await
}

async fn keep_latest(taken: &Taken, thread: i64) -> Result<u64> {
    let sql = "SELECT DISTINCT namespace FROM checkpoints WHERE thread = $1";
    let rows = taken.query(sql, &[&thread]).await?;
    let mut keep = Vec::new();
    for row in &rows {
        let namespace: String = column(row, 0)?;
        let latest = last(taken, thread, &namespace).await?;
        let mut open = latest.as_ref().map(|latest| latest.deltas.clone()).unwrap_or_default();
        keep.extend(latest.as_ref().map(|latest| latest.number));
        let mut ancestors = Ancestors::of(thread, &namespace, latest);
        while !open.is_empty() {
            let chunk = ancestors.next(taken).await?;
            if chunk.is_empty() {
                break;
            }
            for ancestor in chunk {
                if open.is_empty() {
                    break;
                }
                keep.push(ancestor.number);
                open.retain(|name| !ancestor.channels.contains_key(name));
            }
        }
    }
    let sql = "SELECT checkpoint FROM checkpoints WHERE thread = $1 AND checkpoint <> ALL($2)";
    let rows = taken.query(sql, &[&thread, &keep]).await?;
    let removed = rows.iter().map(|row| column(row, 0)).collect::<Result<Vec<i64>>>()?;
    if !removed.is_empty() {
        delete(taken, &removed).await?;
        tidy(taken, thread).await?;
    }
    Ok(removed.len() as u64)
}

async fn copy_thread(taken: &Taken, copy: &CopyThread) -> Result<u64> {
    let Some(source) = hold_thread(taken, &copy.scope, &copy.source).await? else { return Ok(0) };
    let target = make_thread(taken, &copy.scope, &copy.target).await?;
    let is_taken: bool = taken
        .query_value(
            "SELECT EXISTS (SELECT 1 FROM checkpoints WHERE thread = $1) \
             OR EXISTS (SELECT 1 FROM checkpoint_writes WHERE thread = $1)",
            &[&target],
        )
        .await?;
    if is_taken {
        return Err(channels::is_taken(&copy.target));
    }
    taken
        .execute(
            "INSERT INTO checkpoint_values (thread, tenant, value, hash, data) \
             SELECT $1, tenant, value, hash, data FROM checkpoint_values WHERE thread = $2",
            &[&target, &source],
        )
        .await?;
    taken
        .execute(
            "INSERT INTO checkpoint_writes (thread, tenant, namespace, id, task, idx, path, channel, encoding, data) \
             SELECT $1, tenant, namespace, id, task, idx, path, channel, encoding, data FROM checkpoint_writes \
             WHERE thread = $2",
            &[&target, &source],
        )
        .await?;
    // In the order of their numbers, which settles the order of equal identifiers.
    taken
        .execute(
            "INSERT INTO checkpoints \
             (thread, tenant, namespace, id, parent, run, encoding, body, metadata, channels, deltas, created_at) \
             SELECT $1, tenant, namespace, id, parent, run, encoding, body, metadata, channels, deltas, created_at \
             FROM checkpoints WHERE thread = $2 ORDER BY checkpoint",
            &[&target, &source],
        )
        .await
}

async fn delete_thread(taken: &Taken, thread: i64) -> Result<u64> {
    let count: i64 = taken.query_value("SELECT count(*) FROM checkpoints WHERE thread = $1", &[&thread]).await?;
    taken.execute("DELETE FROM checkpoint_threads WHERE thread = $1", &[&thread]).await?;
    Ok(count.unsigned_abs())
}

/// Returns a page of checkpoints as they are kept, in the order in which they came.
pub(super) async fn kept_checkpoints(taken: &Taken, wall: Option<i64>, after: i64, limit: usize) -> Result<ItemPage> {
    let sql = format!(
        "SELECT {COLUMNS}, c.run, w.tenant, w.\"user\" FROM {FROM} JOIN walls AS w USING (wall) \
         WHERE c.checkpoint > $1 AND ($2::bigint IS NULL OR w.wall = $2) ORDER BY c.checkpoint LIMIT $3"
    );
    let rows = taken.query(&sql, &[&after, &wall, &read::integer(limit)]).await?;
    let mut unpacker = Unpacker::new()?;
    let mut items = Vec::with_capacity(rows.len());
    for row in &rows {
        let stored = Stored::read_row(row)?;
        let scope = Scope { tenant: column(row, 13)?, user: column(row, 14)?, session: None, agent: None };
        let parent = match &stored.parent {
            Some(parent) => self::row(taken, stored.thread, &stored.namespace, parent).await?,
            None => None,
        };
        let above = parent.filter(|parent| parent.number < stored.number).map(|parent| parent.channels);
        let own: Vec<_> = channels::own(&stored.channels, above.as_ref()).collect();
        let wanted = own.iter().map(|(_, Channel(_, _, value))| (stored.thread, *value)).collect();
        let values = checkpoint_values::read(taken, &wanted).await?;
        let channels = own.into_iter().map(|(name, Channel(_, encoding, value))| {
            let data = values.get(&(stored.thread, *value)).cloned().unwrap_or_default();
            (name.clone(), Encoded::new(encoding, data))
        });
        let checkpoint = NewCheckpoint {
            scope,
            channels: channels.collect(),
            run_id: column(row, 12)?,
            body: Encoded::new(stored.encoding, unpacker.unpack(&stored.body)?),
            versions: stored.channels.into_iter().map(|(name, Channel(version, ..))| (name, version)).collect(),
            thread: stored.name,
            namespace: stored.namespace,
            id: stored.id,
            parent: stored.parent,
            metadata: stored.metadata,
            deltas: stored.deltas,
        };
        let kept = KeptCheckpoint { checkpoint, created_at: stored.created_at };
        items.push((stored.number.to_string(), Item::Checkpoint(Box::new(kept))));
    }
    Ok(pages::page(items, limit))
}

/// Returns the writes of one thread, the next after this one.
pub(super) async fn kept_writes(taken: &Taken, wall: Option<i64>, after: i64) -> Result<ItemPage> {
    let sql = "SELECT t.thread, t.name, w.tenant, w.\"user\" FROM checkpoint_threads AS t JOIN walls AS w USING (wall) \
               WHERE t.thread > $1 AND ($2::bigint IS NULL OR w.wall = $2) ORDER BY t.thread LIMIT 1";
    let Some(row) = taken.query_opt(sql, &[&after, &wall]).await? else { return Ok(ItemPage::default()) };
    let (thread, name): (i64, String) = (column(&row, 0)?, column(&row, 1)?);
    let scope = Scope { tenant: column(&row, 2)?, user: column(&row, 3)?, session: None, agent: None };
    let sql = "SELECT namespace, id, task, path, channel, idx, encoding, data FROM checkpoint_writes \
               WHERE thread = $1 ORDER BY namespace, id, task, idx";
    let rows = taken.query(sql, &[&thread]).await?;
    let mut unpacker = Unpacker::new()?;
    let writes = rows.iter().map(|row| {
        let new = NewWrites {
            scope: scope.clone(),
            thread: name.clone(),
            namespace: column(row, 0)?,
            id: column(row, 1)?,
            task: column(row, 2)?,
            path: column(row, 3)?,
            writes: Vec::new(),
        };
        let value = Encoded::new(column::<String>(row, 6)?, unpacker.unpack(column(row, 7)?)?);
        Ok((new, NewWrite { channel: column(row, 4)?, index: column(row, 5)?, value }))
    });
    Ok(ItemPage { items: pages::by_task(writes.collect::<Result<_>>()?), next: Some(thread.to_string()) })
}

/// Keeps a checkpoint that is not there.
pub(super) async fn keep(taken: &Taken, kept: KeptCheckpoint) -> Result<Outcome> {
    let KeptCheckpoint { checkpoint, created_at } = kept;
    let thread = make_thread(taken, &checkpoint.scope, &checkpoint.thread).await?;
    if row(taken, thread, &checkpoint.namespace, &checkpoint.id).await?.is_some() {
        return Ok(Outcome::Unchanged);
    }
    put(taken, &checkpoint, created_at).await?;
    Ok(Outcome::Added)
}

/// Keeps what a task wrote where nothing of that task is there.
pub(super) async fn keep_writes(taken: &Taken, new: &NewWrites) -> Result<Outcome> {
    let thread = make_thread(taken, &new.scope, &new.thread).await?;
    let sql = "SELECT EXISTS (SELECT 1 FROM checkpoint_writes WHERE thread = $1 AND namespace = $2 AND id = $3 AND task = $4)";
    if taken.query_value(sql, &[&thread, &new.namespace, &new.id, &new.task]).await? {
        return Ok(Outcome::Unchanged);
    }
    put_writes(taken, new).await?;
    Ok(Outcome::Added)
}

/// Removes all threads of a wall; returns how many checkpoints they had.
pub(super) async fn forget(taken: &Taken, wall: i64) -> Result<u64> {
    let sql =
        "SELECT count(*) FROM checkpoints WHERE thread IN (SELECT thread FROM checkpoint_threads WHERE wall = $1)";
    let count: i64 = taken.query_value(sql, &[&wall]).await?;
    taken.execute("DELETE FROM checkpoint_threads WHERE wall = $1", &[&wall]).await?;
    Ok(count.unsigned_abs())
}

async fn find_thread(taken: &Taken, scope: &Scope, name: &str) -> Result<Option<i64>> {
    let sql = "SELECT thread FROM checkpoint_threads JOIN walls USING (wall) WHERE key = $1 AND name = $2";
    taken.query_opt(sql, &[&scope.wall(), &name]).await?.map(|row| column(&row, 0)).transpose()
}

/// Finds a thread, and holds it for changes until the transaction ends.
async fn hold_thread(taken: &Taken, scope: &Scope, name: &str) -> Result<Option<i64>> {
    let sql = "SELECT thread FROM checkpoint_threads WHERE wall = (SELECT wall FROM walls WHERE key = $1) AND name = $2 \
               FOR UPDATE";
    taken.query_opt(sql, &[&scope.wall(), &name]).await?.map(|row| column(&row, 0)).transpose()
}

/// Finds or makes a thread, and holds it for changes until the transaction ends.
pub(super) async fn make_thread(taken: &Taken, scope: &Scope, name: &str) -> Result<i64> {
    loop {
        if let Some(thread) = hold_thread(taken, scope, name).await? {
            return Ok(thread);
        }
        let wall = filter::make_wall(taken, scope).await?;
        let sql = "INSERT INTO checkpoint_threads (wall, tenant, name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        taken.execute(sql, &[&wall, &scope.tenant, &name]).await?;
    }
}

async fn row(taken: &Taken, thread: i64, namespace: &str, id: &str) -> Result<Option<Stored>> {
    let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE c.thread = $1 AND c.namespace = $2 AND c.id = $3");
    taken.query_opt(&sql, &[&thread, &namespace, &id]).await?.map(|row| Stored::read_row(&row)).transpose()
}

async fn last(taken: &Taken, thread: i64, namespace: &str) -> Result<Option<Stored>> {
    let sql =
        format!("SELECT {COLUMNS} FROM {FROM} WHERE c.thread = $1 AND c.namespace = $2 ORDER BY c.id DESC LIMIT 1");
    taken.query_opt(&sql, &[&thread, &namespace]).await?.map(|row| Stored::read_row(&row)).transpose()
}

/// What names a checkpoint: thread, namespace, identifier.
type Key = (i64, String, String);

/// Returns the writes of checkpoints, in their order.
async fn writes(taken: &Taken, stored: &[Stored]) -> Result<HashMap<Key, Vec<PendingWrite>>> {
    let threads: Vec<i64> = stored.iter().map(|stored| stored.thread).collect();
    let namespaces: Vec<&str> = stored.iter().map(|stored| stored.namespace.as_str()).collect();
    let ids: Vec<&str> = stored.iter().map(|stored| stored.id.as_str()).collect();
    let sql = "SELECT w.thread, w.namespace, w.id, w.task, w.channel, w.encoding, w.data FROM checkpoint_writes AS w \
               JOIN unnest($1::bigint[], $2::text[], $3::text[]) AS of (thread, namespace, id) \
               ON w.thread = of.thread AND w.namespace = of.namespace COLLATE \"C\" AND w.id = of.id COLLATE \"C\" \
               ORDER BY w.path, w.task, w.idx";
    let mut unpacker = Unpacker::new()?;
    let mut found: HashMap<Key, Vec<PendingWrite>> = HashMap::new();
    for row in &taken.query(sql, &[&threads, &namespaces, &ids]).await? {
        let value = Encoded::new(column::<String>(row, 5)?, unpacker.unpack(column(row, 6)?)?);
        let write = PendingWrite { task: column(row, 3)?, channel: column(row, 4)?, value };
        found.entry((column(row, 0)?, column(row, 1)?, column(row, 2)?)).or_default().push(write);
    }
    Ok(found)
}

/// Reads checkpoints whole.
async fn read(taken: &Taken, stored: Vec<Stored>) -> Result<Vec<Checkpoint>> {
    if stored.is_empty() {
        return Ok(Vec::new());
    }
    let mut writes = writes(taken, &stored).await?;
    let wanted =
        stored.iter().flat_map(|stored| stored.channels.values().map(|Channel(_, _, value)| (stored.thread, *value)));
    let values = checkpoint_values::read(taken, &wanted.collect()).await?;
    let mut unpacker = Unpacker::new()?;
    stored
        .into_iter()
        .map(|stored| {
            let writes = writes.remove(&stored.key()).unwrap_or_default();
            let channels = stored.channels.into_iter().map(|(name, Channel(_, encoding, value))| {
                let data = values.get(&(stored.thread, value)).cloned().unwrap_or_default();
                (name, Encoded::new(encoding, data))
            });
            Ok(Checkpoint {
                channels: channels.collect(),
                body: Encoded::new(stored.encoding, unpacker.unpack(&stored.body)?),
                thread: stored.name,
                namespace: stored.namespace,
                id: stored.id,
                parent: stored.parent,
                metadata: stored.metadata,
                writes,
                created_at: stored.created_at,
            })
        })
        .collect()
}

/// A row, without the values that it names.
struct Stored {
    number: i64,
    thread: i64,
    name: String,
    namespace: String,
    id: String,
    parent: Option<String>,
    encoding: String,
    body: Vec<u8>,
    metadata: Map<String, Json>,
    channels: Channels,
    created_at: Timestamp,
    deltas: Vec<String>,
}

impl Stored {
    fn read_row(row: &Row) -> Result<Stored> {
        Ok(Stored {
            number: column(row, 0)?,
            thread: column(row, 1)?,
            name: column(row, 2)?,
            namespace: column(row, 3)?,
            id: column(row, 4)?,
            parent: column(row, 5)?,
            encoding: column(row, 6)?,
            body: column(row, 7)?,
            metadata: read_json(column(row, 8)?)?,
            channels: read_json(column(row, 9)?)?,
            created_at: timestamp(column(row, 10)?),
            deltas: read_json(column(row, 11)?)?,
        })
    }

    fn key(&self) -> Key {
        (self.thread, self.namespace.clone(), self.id.clone())
    }
}
