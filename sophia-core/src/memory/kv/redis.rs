//! [`RedisTier`]: values that processes share, in Redis.
//!
//! Redis is never the truth, and several processes write at once. So a write comes in two steps around that of the durable
//! tier: first a mark takes the place of the value, then the value replaces the mark of its own writer and no other. Where
//! two writers met, the mark stays, and readers ask the durable tier. What a reader brings up from there is taken only if
//! nothing was there and nothing was invalidated since it began to read. A crash in between leaves a mark, which expires.
//!
//! Only where each process has a durable tier of its own, Redis decides what is kept of a load: it is noted before the load,
//! each write removes the note, and invalidations are listed for as long as they may mean what is not there yet.
//!
//! Each wall has an index by name, another by expiry, and one for each tag, with a list of those: invalidating reads them, and
//! nothing is scanned. All keys of a wall are in one slot of a Cluster.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::cmd;
use uuid::Uuid;

use super::{
    seal::Seals,
    tier::{Invalidation, KvEntry, KvKey, KvTier, Ticket},
    tiered::TieredKv,
    wire::{self, Found},
};
use crate::{
    Clock, Error, NoSignals, Result,
    memory::health::{TierHealth, TierStatus},
    redis::{Area, Listener, Redis, RedisConfig, Script, Wall},
};

/// How long the mark of a write under way stays, in seconds: longer than the durable tier waits for a lock.
const WRITING_S: i64 = 35;
/// How long the mark of a change stays, in seconds: longer than anyone may take to bring up what they read before it.
const CHANGED_S: i64 = 10;
/// Oldest read that may be brought up.
const OLDEST_READ: Duration = Duration::from_secs(5);
/// How long the index of a wall outlives its last value, in seconds.
const INDEX_SLACK_S: i64 = 3_600;
/// Keys that one step of an invalidation removes: a millisecond or so of Redis.
const BATCH: usize = 256;
/// Most steps of one invalidation: a million keys. What is set meanwhile is not pursued for ever.
const MAX_BATCHES: usize = 4_096;
/// Longest load whose value is kept, in seconds: what was invalidated before that is not known any more.
const LONGEST_LOAD_S: i64 = 3_600;
/// Invalidations of a wall that are listed; what was noted before the oldest of more is not kept.
const MOST_INVALIDATIONS: i64 = 10_000;
/// Digits of the hash of a tag.
const TAG_DIGITS: usize = 32;

/// Takes expired members out of an index, so that it does not outgrow what it lists: two for each one that is added.
const PURGE: &str = "local function purge(names, times) \
     local now = redis.call('TIME')[1] \
     for _, name in ipairs(redis.call('ZRANGEBYSCORE', times, '-inf', now, 'LIMIT', 0, 2)) do \
       redis.call('ZREM', names, name) redis.call('ZREM', times, name) \
     end end \
     local function keep(value, ttl, first_tag, name, index_ttl) \
       redis.call('SET', KEYS[1], value, 'EX', ttl) \
       local now = redis.call('TIME')[1] \
       local until_s = now + ttl \
       redis.call('ZADD', KEYS[2], 0, name) redis.call('ZADD', KEYS[3], until_s, name) \
       redis.call('EXPIRE', KEYS[2], index_ttl) redis.call('EXPIRE', KEYS[3], index_ttl) \
       for i = first_tag, #KEYS do \
         redis.call('ZADD', KEYS[i], until_s, name) redis.call('EXPIRE', KEYS[i], index_ttl) \
         redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now) \
         redis.call('ZADD', KEYS[first_tag - 1], until_s, KEYS[i]) \
       end \
       if #KEYS >= first_tag then \
         redis.call('EXPIRE', KEYS[first_tag - 1], index_ttl) \
         redis.call('ZREMRANGEBYSCORE', KEYS[first_tag - 1], '-inf', now) \
       end \
       purge(KEYS[2], KEYS[3]) \
     end ";

/// KEYS value, note of a load; ARGV token, seconds that it stays, now in µs, epoch; says whether a living value was there.
static BEGIN: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local line = redis.call('GETRANGE', KEYS[1], 0, 127) \
         redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) redis.call('DEL', KEYS[2]) \
         local epoch, stale = string.match(line, '^V1 (%d+) %S+ (%S+) ') \
         if epoch == ARGV[4] and (stale == '-' or tonumber(stale) > tonumber(ARGV[3])) then return 1 end \
         return 0",
    )
});
/// KEYS value, names, times, note of a load, list of tags, tags…; ARGV token, value, ttl, name, ttl of the index, seconds that
/// a mark stays.
static COMMIT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(with_functions(
        "redis.call('DEL', KEYS[4]) \
         if redis.call('GET', KEYS[1]) ~= ARGV[1] then \
           redis.call('SET', KEYS[1], 'T1 -', 'EX', ARGV[6]) return 0 \
         end \
         keep(ARGV[2], ARGV[3], 6, ARGV[4], ARGV[5]) return 1",
    ))
});
/// KEYS value, note of a load; ARGV seconds that a mark stays.
static COMMIT_ABSENT: LazyLock<Script> = LazyLock::new(|| {
    Script::new("redis.call('DEL', KEYS[2]) redis.call('SET', KEYS[1], 'T1 -', 'EX', ARGV[1]) return 1")
});
/// KEYS note of a load; ARGV seconds that it stays; returns the time in µs, which it holds.
static NOTE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local now = redis.call('TIME') local at = string.format('%.0f', now[1] * 1000000 + now[2]) \
         redis.call('SET', KEYS[1], at, 'EX', ARGV[1]) return at",
    )
});
/// KEYS value, names, times, note of the load, invalidations, list of tags, tags…; ARGV value, ttl, name, ttl of the index,
/// what the note must hold, most invalidations that are listed, key, tag…; says whether it was set. A mark that is not `-` is of
/// a write under way, which comes later.
static SET_UNCHANGED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(with_functions(
        "if redis.call('GET', KEYS[4]) ~= ARGV[5] then return 0 end \
         redis.call('DEL', KEYS[4]) \
         local start = redis.call('GETRANGE', KEYS[1], 0, 3) \
         if string.sub(start, 1, 3) == 'T1 ' and start ~= 'T1 -' then return 0 end \
         local oldest = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')[2] \
         if oldest and tonumber(oldest) > tonumber(ARGV[5]) \
           and redis.call('ZCARD', KEYS[5]) >= tonumber(ARGV[6]) then return 0 end \
         local tags = {} \
         for i = 8, #ARGV do tags['t' .. redis.sha1hex(ARGV[i])] = true end \
         for _, what in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], ARGV[5], '+inf')) do \
           local length, hash = string.match(what, '^p(%d+) (.*)$') \
           if tags[what] then return 0 end \
           if length and redis.sha1hex(string.sub(ARGV[7], 1, tonumber(length))) == hash then return 0 end \
         end \
         keep(ARGV[1], ARGV[2], 7, ARGV[3], ARGV[4]) return 1",
    ))
});
/// KEYS value, names, times, invalidated, list of tags, tags…; ARGV value, ttl, name, ttl of the index, age of the read in ms.
static PROMOTE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(with_functions(
        "if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end \
         local at = redis.call('GET', KEYS[4]) \
         if at then \
           local now = redis.call('TIME') \
           if tonumber(at) + tonumber(ARGV[5]) >= now[1] * 1000 + now[2] / 1000 - 1 then return 0 end \
         end \
         keep(ARGV[1], ARGV[2], 6, ARGV[3], ARGV[4]) return 1",
    ))
});
/// KEYS invalidated, invalidations; ARGV seconds that the first stays, seconds that the second lists, how many, then `p` and a
/// prefix or `t` and a tag, for each. They are listed by their hashes, which do not tell whose names they are.
static INVALIDATED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local now = redis.call('TIME') \
         redis.call('SET', KEYS[1], string.format('%.0f', now[1] * 1000 + now[2] / 1000), 'EX', ARGV[1]) \
         local at = now[1] * 1000000 + now[2] \
         for i = 4, #ARGV do \
           local what = string.sub(ARGV[i], 2) \
           local hash = redis.sha1hex(what) \
           if string.sub(ARGV[i], 1, 1) == 'p' then what = 'p' .. #what .. ' ' .. hash else what = 't' .. hash end \
           redis.call('ZADD', KEYS[2], string.format('%.0f', at), what) \
         end \
         redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', at - ARGV[2] * 1000000)) \
         redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[3]) \
         redis.call('EXPIRE', KEYS[2], ARGV[2]) return 1",
    )
});
/// KEYS names, times, listed by, value…; ARGV now in µs, epoch, tag or nothing, seconds that a mark stays, name…
static REMOVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local removed = 0 \
         for i = 4, #KEYS do \
           local name, value = ARGV[i + 1], redis.call('GETRANGE', KEYS[i], 0, 2047) \
           if string.sub(value, 1, 3) == 'V1 ' and not string.find(value, '\\n', 1, true) then \
             value = redis.call('GET', KEYS[i]) \
           end \
           redis.call('ZREM', KEYS[3], name) \
           local gone = true \
           if string.sub(value, 1, 3) == 'V1 ' then \
             local epoch, stale, tags = string.match(value, '^V1 (%d+) %S+ (%S+) %S+ ([^\\n]*)\\n') \
             local meant = ARGV[3] == '' \
             if not meant then \
               for _, tag in ipairs(cjson.decode(tags)) do meant = meant or tag == ARGV[3] end \
             end \
             if meant then \
               if epoch == ARGV[2] and (stale == '-' or tonumber(stale) > tonumber(ARGV[1])) then \
                 removed = removed + 1 \
               end \
             else gone = false end \
           end \
           if gone then \
             if value ~= '' then redis.call('SET', KEYS[i], 'T1 -', 'EX', ARGV[4]) end \
             redis.call('ZREM', KEYS[1], name) redis.call('ZREM', KEYS[2], name) \
           end \
         end \
         return removed",
    )
});
/// KEYS epoch; makes another one: the time in ms, so that it grows.
static NEXT_EPOCH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local now = redis.call('TIME') \
         local epoch = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000)) \
         redis.call('SET', KEYS[1], epoch) return epoch",
    )
});

/// Values that processes share, in Redis. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RedisTier(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    redis: Redis,
    values: Area,
    indexes: Area,
    ttl_s: i64,
    clock: Arc<dyn Clock>,
    hits: AtomicU64,
    look_ups: AtomicU64,
    shared: Arc<Shared>,
}

/// What the listener and the tier share.
#[derive(Debug)]
struct Shared {
    seals: Arc<Seals>,
    epoch_key: String,
    epoch: Mutex<Epoch>,
}

/// What was written in another epoch is not there.
#[derive(Debug, Default)]
struct Epoch {
    /// `None` where it has to be asked; 0 before the first.
    known: Option<u64>,
    /// How often it became unknown.
    changes: u64,
}

impl Shared {
    fn forget_epoch(&self) {
        let mut epoch = self.epoch.lock();
        epoch.known = None;
        epoch.changes += 1;
    }
}

impl RedisTier {
    /// Sets a tier up at the servers of a configuration, in which a value stays for `ttl` at most. Connects with its first use.
    ///
    /// # Errors
    /// InvalidConfig where the configuration names no server, or one that cannot be.
    pub fn open(config: &RedisConfig, ttl: Duration, clock: Arc<dyn Clock>) -> Result<RedisTier> {
        config.validate()?;
        match Redis::new(config, Arc::new(NoSignals))? {
            Some(redis) => Ok(RedisTier::new(&redis, ttl, clock)),
            None => Err(Error::invalid_config("redis.url", "or `redis.urls` must name a server")),
        }
    }

    /// Sets a tier up in which a value stays for `ttl` at most. Connects to nobody.
    pub(crate) fn new(redis: &Redis, ttl: Duration, clock: Arc<dyn Clock>) -> RedisTier {
        let (values, indexes) = (redis.area("kv"), redis.area("kvi"));
        let epoch_key = values.key("epoch");
        let shared = Arc::new(Shared { seals: Arc::default(), epoch_key, epoch: Mutex::default() });
        redis.listen(values.start(), shared.clone());
        RedisTier(Arc::new(Inner {
            redis: redis.clone(),
            values,
            indexes,
            ttl_s: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX / 4).max(1),
            clock,
            hits: AtomicU64::new(0),
            look_ups: AtomicU64::new(0),
            shared,
        }))
    }

    /// Lets the near one of these tiers know what others change.
    pub(crate) fn over(self, tiers: TieredKv) -> TieredKv {
        tiers.with_seals(self.0.shared.seals.clone(), stripe_of)
    }

    async fn epoch(&self, operation: &'static str) -> Result<u64> {
        let changes = {
            let epoch = self.0.shared.epoch.lock();
            if let Some(known) = epoch.known {
                return Ok(known);
            }
            epoch.changes
        };
        let watching = self.0.redis.is_watching();
        let said: Option<u64> = self.0.redis.query(operation, cmd("GET").arg(&self.0.shared.epoch_key)).await?;
        let said = said.unwrap_or(0);
        let mut epoch = self.0.shared.epoch.lock();
        // Remembered only where a change of it is heard, and none was heard meanwhile.
        if watching && epoch.changes == changes {
            epoch.known = Some(said);
        }
        Ok(said)
    }

    /// Returns how long Redis keeps an entry, in seconds, which is longer than it is served: while it is there, nothing
    /// older is brought up over it.
    fn keep_s(&self, entry: &KvEntry) -> i64 {
        let lives = entry.stale_until.map_or(self.0.ttl_s, |until| {
            let left = until.duration_since(self.0.clock.now());
            (left.as_secs() + 1).clamp(1, self.0.ttl_s)
        });
        lives + CHANGED_S
    }

    fn place(&self, key: &KvKey) -> Place {
        let parts = key.borrowed();
        let hash = hash(key);
        Place {
            value: self.0.values.wall(parts.tenant, parts.user).key(&hash),
            note: self.0.indexes.wall(parts.tenant, parts.user).key(&format!("load:{hash}")),
            index: Index(self.0.indexes.wall(parts.tenant, parts.user)),
            name: [key.key().as_bytes(), b"\0", hash.as_bytes()].concat(),
        }
    }

    async fn remove_listed(&self, operation: &'static str, what: &Invalidation, by: By<'_>, epoch: u64) -> Result<u64> {
        let (tenant, user) = (what.scope.tenant.as_deref(), what.scope.user.as_deref());
        let (values, index) = (self.0.values.wall(tenant, user), Index(self.0.indexes.wall(tenant, user)));
        let (listed_by, list, tag) = match by {
            By::Prefix(prefix) => {
                let mut list = cmd("ZRANGEBYLEX");
                let (from, to) = ([b"[", prefix.as_bytes()].concat(), [b"(", prefix.as_bytes(), b"\xff"].concat());
                list.arg(index.names()).arg(from);
                // Every name is below 0xff: text is UTF-8.
                list.arg(to).arg("LIMIT").arg(0).arg(BATCH);
                (index.names(), list, "")
            }
            By::Tag(tag) => {
                let mut list = cmd("ZRANGE");
                list.arg(index.tag(tag)).arg(0).arg(BATCH - 1);
                (index.tag(tag), list, tag)
            }
        };
        let mut removed = 0;
        for _ in 0..MAX_BATCHES {
            let names: Vec<Vec<u8>> = self.0.redis.query(operation, &list).await?;
            if names.is_empty() {
                break;
            }
            let call = REMOVE.call().key(index.names()).key(index.times()).key(listed_by.clone());
            let call = call.keys(names.iter().map(|name| values.key(hash_of(name))));
            let call = call.int(self.0.clock.now().as_microsecond()).arg(epoch.to_string()).arg(tag).int(CHANGED_S);
            let call = names.iter().fold(call, |call, name| call.arg(name.clone()));
            removed += self.0.redis.run::<u64>(operation, &REMOVE, &call).await?;
        }
        Ok(removed)
    }

    /// Removes the indexes of all tags of a wall: they hold names of keys.
    async fn remove_tags(&self, operation: &'static str, index: &Index) -> Result<()> {
        let mut list = cmd("ZRANGE");
        list.arg(index.tags()).arg(0).arg(BATCH - 1);
        for _ in 0..MAX_BATCHES {
            let tags: Vec<String> = self.0.redis.query(operation, &list).await?;
            if tags.is_empty() {
                break;
            }
            self.0.redis.query::<i64>(operation, cmd("DEL").arg(&tags)).await?;
            self.0.redis.query::<i64>(operation, cmd("ZREM").arg(index.tags()).arg(&tags)).await?;
        }
        Ok(())
    }
}

/// What an invalidation goes by.
#[derive(Debug, Clone, Copy)]
enum By<'a> {
    Prefix(&'a str),
    Tag(&'a str),
}

/// Where a value is, and what lists it.
struct Place {
    value: String,
    /// Where it is noted that a value is being made.
    note: String,
    index: Index,
    /// Name in the index: the key, and the hash that its value is found under.
    name: Vec<u8>,
}

/// The indexes of a wall.
struct Index(Wall);

impl Index {
    fn names(&self) -> String {
        self.0.key("names")
    }

    fn times(&self) -> String {
        self.0.key("times")
    }

    fn invalidated(&self) -> String {
        self.0.key("invalidated")
    }

    fn invalidations(&self) -> String {
        self.0.key("invalidations")
    }

    fn tags(&self) -> String {
        self.0.key("tags")
    }

    fn tag(&self, tag: &str) -> String {
        self.0.key(&format!("tag:{}", &blake3::hash(tag.as_bytes()).to_hex()[..TAG_DIGITS]))
    }
}

/// Returns the wall and the name of a key in another area.
pub(super) fn name_in(area: &Area, key: &KvKey) -> (Wall, String) {
    let parts = key.borrowed();
    (area.wall(parts.tenant, parts.user), hash(key))
}

/// Returns the hash of a key in its wall, in hexadecimal.
fn hash(key: &KvKey) -> String {
    digest(key).to_hex().to_string()
}

fn digest(key: &KvKey) -> blake3::Hash {
    let parts = key.borrowed();
    let mut hasher = blake3::Hasher::new();
    for part in [parts.tenant, parts.user] {
        // Its length first, so that no choice of names can imitate another.
        hasher.update(&part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
        hasher.update(part.unwrap_or_default().as_bytes());
    }
    hasher.update(key.key().as_bytes());
    hasher.finalize()
}

/// Returns the hash that stands at the end of a name in an index.
fn hash_of(name: &[u8]) -> &str {
    const DIGITS: usize = 64;
    name.len().checked_sub(DIGITS).and_then(|at| std::str::from_utf8(&name[at..]).ok()).unwrap_or_default()
}

/// Returns the number by which a near copy of a key hears of changes.
fn stripe_of(key: &KvKey) -> u64 {
    let bytes = digest(key);
    u64::from_be_bytes(bytes.as_bytes()[..8].try_into().unwrap_or_default())
}

/// The same, of the hexadecimal digits at the end of a key in Redis.
fn stripe_of_key(key: &[u8]) -> Option<u64> {
    let digits = hash_of(key).get(..16)?;
    u64::from_str_radix(digits, 16).ok()
}

fn with_functions(rest: &str) -> &'static str {
    // Once for each script, which lives as long as the program.
    Box::leak(format!("{PURGE}{rest}").into_boxed_str())
}

impl Listener for Shared {
    fn changed(&self, key: &[u8]) {
        if key == self.epoch_key.as_bytes() {
            self.forget_epoch();
            self.seals.break_all();
            return;
        }
        match stripe_of_key(key) {
            Some(stripe) => self.seals.break_one(stripe),
            None => self.seals.break_all(),
        }
    }

    fn missed(&self) {
        self.forget_epoch();
        self.seals.break_all();
        self.seals.hear(true);
    }

    fn lost(&self) {
        self.forget_epoch();
        self.seals.hear(false);
    }
}

#[async_trait]
impl KvTier for RedisTier {
    async fn get(&self, key: &KvKey) -> Result<Option<Arc<KvEntry>>> {
        const OPERATION: &str = "memory.kv.get";
        let epoch = self.epoch(OPERATION).await?;
        let parts = key.borrowed();
        let name = self.0.values.wall(parts.tenant, parts.user).key(&hash(key));
        let said: Option<Vec<u8>> = self.0.redis.query(OPERATION, cmd("GET").arg(name)).await?;
        self.0.look_ups.fetch_add(1, Ordering::Relaxed);
        // What cannot be read was not written by us: as good as nothing.
        let Some(Found::Value { epoch: written, entry }) = said.and_then(wire::read) else { return Ok(None) };
        if written != epoch || entry.is_dead(self.0.clock.now()) {
            return Ok(None);
        }
        self.0.hits.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Arc::new(entry)))
    }

    async fn set(&self, key: &KvKey, entry: Arc<KvEntry>) -> Result<()> {
        let ticket = self.begin(key).await?;
        self.commit(key, Some(entry), ticket).await
    }

    async fn delete(&self, key: &KvKey) -> Result<bool> {
        let ticket = self.begin(key).await?;
        self.commit(key, None, ticket).await?;
        Ok(ticket.found)
    }

    async fn invalidate(&self, what: &Invalidation) -> Result<u64> {
        const OPERATION: &str = "memory.kv.invalidate";
        let epoch = self.epoch(OPERATION).await?;
        let index = Index(self.0.indexes.wall(what.scope.tenant.as_deref(), what.scope.user.as_deref()));
        // First, so that what was read before is not brought up behind our back.
        let call = INVALIDATED.call().key(index.invalidated()).key(index.invalidations()).int(2 * CHANGED_S);
        let call = call.int(LONGEST_LOAD_S).int(MOST_INVALIDATIONS);
        let call = what.prefix.iter().fold(call, |call, prefix| call.arg(format!("p{prefix}")));
        let call = what.tags.iter().fold(call, |call, tag| call.arg(format!("t{tag}")));
        self.0.redis.run::<i64>(OPERATION, &INVALIDATED, &call).await?;
        let mut removed = 0;
        if let Some(prefix) = &what.prefix {
            removed += self.remove_listed(OPERATION, what, By::Prefix(prefix), epoch).await?;
            if prefix.is_empty() {
                self.remove_tags(OPERATION, &index).await?;
            }
        }
        for tag in &what.tags {
            removed += self.remove_listed(OPERATION, what, By::Tag(tag), epoch).await?;
        }
        Ok(removed)
    }

    async fn health(&self) -> TierHealth {
        let start = Instant::now();
        let answer = self.0.redis.query::<String>("memory.health", &cmd("PING")).await;
        let (hits, look_ups) = (self.0.hits.load(Ordering::Relaxed), self.0.look_ups.load(Ordering::Relaxed));
        let status = match (&answer, self.0.redis.is_watching()) {
            (Ok(_), true) => TierStatus::Healthy,
            (Ok(_), false) => TierStatus::Degraded,
            (Err(_), _) => TierStatus::Unhealthy,
        };
        let detail = match &answer {
            Ok(_) => self.0.redis.describe(),
            Err(error) => format!("{}; {}", self.0.redis.describe(), error.message()),
        };
        TierHealth {
            latency_ms: answer.is_ok().then(|| start.elapsed().as_secs_f64() * 1e3),
            hit_ratio: (look_ups > 0).then(|| hits as f64 / look_ups as f64),
            ..TierHealth::new(status).detail(detail)
        }
    }

    async fn begin(&self, key: &KvKey) -> Result<Ticket> {
        const OPERATION: &str = "memory.kv.set";
        let epoch = self.epoch(OPERATION).await?;
        let token = Uuid::now_v7().as_u128();
        let mark = format!("T1 {token:032x}");
        let place = self.place(key);
        let call = BEGIN.call().key(place.value).key(place.note).arg(mark).int(WRITING_S);
        let call = call.int(self.0.clock.now().as_microsecond()).arg(epoch.to_string());
        let found = self.0.redis.run::<i64>(OPERATION, &BEGIN, &call).await? == 1;
        Ok(Ticket { token, found })
    }

    async fn commit(&self, key: &KvKey, entry: Option<Arc<KvEntry>>, ticket: Ticket) -> Result<()> {
        const OPERATION: &str = "memory.kv.set";
        let place = self.place(key);
        let Some((entry, value)) = entry.as_ref().and_then(|entry| Some((entry, entry.value.as_ref()?))) else {
            let call = COMMIT_ABSENT.call().key(place.value).key(place.note).int(CHANGED_S);
            return self.0.redis.run::<i64>(OPERATION, &COMMIT_ABSENT, &call).await.map(drop);
        };
        let epoch = self.epoch(OPERATION).await?;
        let call = COMMIT.call().key(place.value).key(place.index.names()).key(place.index.times());
        let call = call.key(place.note).key(place.index.tags());
        let call = call.keys(entry.tags.iter().map(|tag| place.index.tag(tag)));
        let mark = format!("T1 {:032x}", ticket.token);
        let call = call.arg(mark).arg(wire::write(epoch, entry, value)).int(self.keep_s(entry)).arg(place.name);
        let call = call.int(self.0.ttl_s + INDEX_SLACK_S).int(CHANGED_S);
        self.0.redis.run::<i64>(OPERATION, &COMMIT, &call).await.map(drop)
    }

    async fn promote(&self, key: &KvKey, entry: Arc<KvEntry>, read_for: Duration) -> Result<()> {
        const OPERATION: &str = "memory.kv.get";
        let Some(value) = entry.value.as_ref().filter(|_| read_for < OLDEST_READ) else { return Ok(()) };
        let (place, epoch) = (self.place(key), self.epoch(OPERATION).await?);
        let call = PROMOTE.call().key(place.value).key(place.index.names()).key(place.index.times());
        let call = call.key(place.index.invalidated()).key(place.index.tags());
        let call = call.keys(entry.tags.iter().map(|tag| place.index.tag(tag)));
        let call = call.arg(wire::write(epoch, &entry, value)).int(self.keep_s(&entry)).arg(place.name);
        let age = i64::try_from(read_for.as_millis()).unwrap_or(i64::MAX) + 1;
        let call = call.int(self.0.ttl_s + INDEX_SLACK_S).int(age);
        self.0.redis.run::<i64>(OPERATION, &PROMOTE, &call).await.map(drop)
    }

    async fn version(&self, key: &KvKey) -> Result<i64> {
        const OPERATION: &str = "memory.kv.get_or_set";
        let call = NOTE.call().key(self.place(key).note).int(LONGEST_LOAD_S);
        self.0.redis.run(OPERATION, &NOTE, &call).await
    }

    async fn set_unchanged(&self, key: &KvKey, entry: Arc<KvEntry>, version: i64) -> Result<bool> {
        const OPERATION: &str = "memory.kv.get_or_set";
        let epoch = self.epoch(OPERATION).await?;
        // An epoch is the time in ms at which it began.
        let is_of_epoch = i64::try_from(epoch).is_ok_and(|epoch| epoch.saturating_mul(1_000) < version);
        let Some(value) = entry.value.as_ref().filter(|_| is_of_epoch) else { return Ok(false) };
        let place = self.place(key);
        let call = SET_UNCHANGED.call().key(place.value).key(place.index.names()).key(place.index.times());
        let call = call.key(place.note).key(place.index.invalidations()).key(place.index.tags());
        let call = call.keys(entry.tags.iter().map(|tag| place.index.tag(tag)));
        let call = call.arg(wire::write(epoch, &entry, value)).int(self.keep_s(&entry)).arg(place.name);
        let call = call.int(self.0.ttl_s + INDEX_SLACK_S).int(version).int(MOST_INVALIDATIONS).arg(key.key());
        let call = entry.tags.iter().fold(call, |call, tag| call.arg(tag.as_str()));
        Ok(self.0.redis.run::<i64>(OPERATION, &SET_UNCHANGED, &call).await? == 1)
    }

    async fn clear(&self) -> Result<()> {
        let call = NEXT_EPOCH.call().key(self.0.shared.epoch_key.clone());
        self.0.redis.run::<String>("memory.kv.clear", &NEXT_EPOCH, &call).await?;
        // Also where it is not heard: what this process dropped it does not read again.
        self.0.shared.forget_epoch();
        self.0.shared.seals.break_all();
        Ok(())
    }
}
