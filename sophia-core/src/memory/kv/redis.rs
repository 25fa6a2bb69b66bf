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
//! nothing is scanned. All keys of a wall are in one slot of a Cluster. Redis may evict any of them: a value counts only while
//! the generation of its wall is the one that it was written in, and that ends when an index is found to be missing.

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
/// How long the epoch is remembered: asking keeps it from being evicted.
const EPOCH_REMEMBERED: Duration = Duration::from_secs(60);
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
/// Digits of the hash of a key.
const DIGITS: usize = 64;
/// Digits of the hash of a tag.
const TAG_DIGITS: usize = 32;

/// Makes an epoch: the time in ms, so that it grows.
const MAKE_EPOCH: &str = "local now = redis.call('TIME') \
     local epoch = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000)) \
     redis.call('SET', KEYS[1], epoch) return epoch";
/// Where the indexes of a wall are among KEYS, and what goes by them. Each has a member that stays, and so is there as long as
/// the values are: one that is not was evicted, and then no value counts that it may have listed. Values count in their
/// generation alone; `lost` tells those who have near copies.
const INDEX: &str = "local names, times, tags, generation, lost = KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6] \
     local function is_whole(first_tag) \
       if redis.call('EXISTS', names, times, tags) < 3 then return false end \
       local now = tonumber(redis.call('TIME')[1]) \
       for i = first_tag, #KEYS do \
         local until_s = tonumber(redis.call('ZSCORE', tags, KEYS[i]) or now) \
         if until_s > now and redis.call('EXISTS', KEYS[i]) == 0 then return false end \
       end \
       return true \
     end \
     local function current(first_tag) \
       local known = redis.call('GET', generation) \
       if not known or is_whole(first_tag) then return known end \
       for _, tag in ipairs(redis.call('ZRANGE', tags, 0, -1)) do redis.call('DEL', tag) end \
       redis.call('DEL', names, times, tags, generation) redis.call('SET', lost, '', 'EX', 1) \
       return false \
     end ";
/// Sets a value and lists it. Takes two expired ones out of the indexes, so that they do not outgrow what they list.
const KEEP: &str = "local function begin() \
       redis.call('DEL', names, times, tags) \
       redis.call('ZADD', names, 0, '\\255') \
       redis.call('ZADD', times, '+inf', '\\255') \
       redis.call('ZADD', tags, '+inf', '') \
       local now = redis.call('TIME') \
       local known = string.format('%.0f', now[1] * 1000000 + now[2]) \
       redis.call('SET', generation, known) \
       return known \
     end \
     local function keep(value, ttl, first_tag, name, index_ttl) \
       local known = current(first_tag) or begin() \
       redis.call('SET', KEYS[1], 'V2 ' .. known .. ' ' .. value, 'EX', ttl) \
       local now = redis.call('TIME')[1] \
       local until_s = now + ttl \
       redis.call('ZADD', names, 0, name) redis.call('ZADD', times, until_s, name) \
       for i = first_tag, #KEYS do \
         redis.call('ZADD', KEYS[i], until_s, name) redis.call('EXPIRE', KEYS[i], index_ttl) \
         redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now) \
         redis.call('ZADD', tags, until_s, KEYS[i]) \
       end \
       for i = 2, 5 do redis.call('EXPIRE', KEYS[i], index_ttl) end \
       redis.call('ZREMRANGEBYSCORE', tags, '-inf', now) \
       for _, old in ipairs(redis.call('ZRANGEBYSCORE', times, '-inf', now, 'LIMIT', 0, 2)) do \
         redis.call('ZREM', names, old) redis.call('ZREM', times, old) \
       end \
     end ";

/// KEYS value, note of a load, generation; ARGV token, seconds that it stays, now in µs, epoch; says whether a living value was
/// there.
static BEGIN: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local line = redis.call('GETRANGE', KEYS[1], 0, 127) \
         redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) redis.call('DEL', KEYS[2]) \
         local of, epoch, stale = string.match(line, '^V2 (%d+) (%d+) %S+ (%S+) ') \
         if of and of == redis.call('GET', KEYS[3]) and epoch == ARGV[4] \
           and (stale == '-' or tonumber(stale) > tonumber(ARGV[3])) then return 1 end \
         return 0",
    )
});
/// KEYS value, indexes, note of a load, tags…; ARGV token, value, ttl, name, ttl of the index, seconds that a mark stays.
static COMMIT: LazyLock<Script> = LazyLock::new(|| {
    Script::of(&[
        INDEX,
        KEEP,
        "redis.call('DEL', KEYS[7]) \
         if redis.call('GET', KEYS[1]) ~= ARGV[1] then \
           redis.call('SET', KEYS[1], 'T1 -', 'EX', ARGV[6]) return 0 \
         end \
         keep(ARGV[2], ARGV[3], 8, ARGV[4], ARGV[5]) return 1",
    ])
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
/// KEYS value, indexes, note of the load, invalidations, tags…; ARGV value, ttl, name, ttl of the index, what the note must
/// hold, most invalidations that are listed, key, tag…; says whether it was set. A mark that is not `-` is of a write under way,
/// which comes later.
static SET_UNCHANGED: LazyLock<Script> = LazyLock::new(|| {
    Script::of(&[
        INDEX,
        KEEP,
        "if redis.call('GET', KEYS[7]) ~= ARGV[5] then return 0 end \
         redis.call('DEL', KEYS[7]) \
         local start = redis.call('GETRANGE', KEYS[1], 0, 3) \
         if string.sub(start, 1, 3) == 'T1 ' and start ~= 'T1 -' then return 0 end \
         local oldest = redis.call('ZRANGE', KEYS[8], 0, 0, 'WITHSCORES')[2] \
         if oldest and tonumber(oldest) > tonumber(ARGV[5]) \
           and redis.call('ZCARD', KEYS[8]) >= tonumber(ARGV[6]) then return 0 end \
         local meant = {} \
         for i = 8, #ARGV do meant['t' .. redis.sha1hex(ARGV[i])] = true end \
         for _, what in ipairs(redis.call('ZRANGEBYSCORE', KEYS[8], ARGV[5], '+inf')) do \
           local length, hash = string.match(what, '^p(%d+) (.*)$') \
           if meant[what] then return 0 end \
           if length and redis.sha1hex(string.sub(ARGV[7], 1, tonumber(length))) == hash then return 0 end \
         end \
         keep(ARGV[1], ARGV[2], 9, ARGV[3], ARGV[4]) return 1",
    ])
});
/// KEYS value, indexes, invalidated, tags…; ARGV value, ttl, name, ttl of the index, age of the read in ms, epoch.
static PROMOTE: LazyLock<Script> = LazyLock::new(|| {
    Script::of(&[
        INDEX,
        KEEP,
        "local line = redis.call('GETRANGE', KEYS[1], 0, 63) \
         local of, epoch = string.match(line, '^V2 (%d+) (%d+) ') \
         if line ~= '' and not of or of and of == redis.call('GET', generation) and epoch == ARGV[6] then return 0 end \
         local at = redis.call('GET', KEYS[7]) \
         if at then \
           local now = redis.call('TIME') \
           if tonumber(at) + tonumber(ARGV[5]) >= now[1] * 1000 + now[2] / 1000 - 1 then return 0 end \
         end \
         keep(ARGV[1], ARGV[2], 8, ARGV[3], ARGV[4]) return 1",
    ])
});
/// KEYS invalidated, indexes, invalidations, tags…; ARGV seconds that the first stays, seconds that the second lists, how many,
/// then `p` and a prefix or `t` and a tag, for each. They are listed by their hashes, which do not tell whose names they are.
static INVALIDATED: LazyLock<Script> = LazyLock::new(|| {
    Script::of(&[
        INDEX,
        "current(8) \
         local now = redis.call('TIME') \
         redis.call('SET', KEYS[1], string.format('%.0f', now[1] * 1000 + now[2] / 1000), 'EX', ARGV[1]) \
         local at = now[1] * 1000000 + now[2] \
         for i = 4, #ARGV do \
           local what = string.sub(ARGV[i], 2) \
           local hash = redis.sha1hex(what) \
           if string.sub(ARGV[i], 1, 1) == 'p' then what = 'p' .. #what .. ' ' .. hash else what = 't' .. hash end \
           redis.call('ZADD', KEYS[7], string.format('%.0f', at), what) \
         end \
         redis.call('ZREMRANGEBYSCORE', KEYS[7], '-inf', string.format('%.0f', at - ARGV[2] * 1000000)) \
         redis.call('ZREMRANGEBYRANK', KEYS[7], 0, -1 - ARGV[3]) \
         redis.call('EXPIRE', KEYS[7], ARGV[2]) return 1",
    ])
});
/// KEYS listed by, indexes, value…; ARGV now in µs, epoch, tag or nothing, seconds that a mark stays, name…
static REMOVE: LazyLock<Script> = LazyLock::new(|| {
    Script::of(&[
        INDEX,
        "local removed, known = 0, redis.call('GET', generation) \
         for i = 7, #KEYS do \
           local name, value = ARGV[i - 2], redis.call('GETRANGE', KEYS[i], 0, 2047) \
           if string.sub(value, 1, 3) == 'V2 ' and not string.find(value, '\\n', 1, true) then \
             value = redis.call('GET', KEYS[i]) \
           end \
           redis.call('ZREM', KEYS[1], name) \
           local gone = true \
           if string.sub(value, 1, 3) == 'V2 ' then \
             local of, epoch, stale, tags_of = string.match(value, '^V2 (%d+) (%d+) %S+ (%S+) %S+ ([^\\n]*)\\n') \
             local meant = ARGV[3] == '' \
             if not meant then \
               for _, tag in ipairs(cjson.decode(tags_of)) do meant = meant or tag == ARGV[3] end \
             end \
             if meant then \
               if of == known and epoch == ARGV[2] and (stale == '-' or tonumber(stale) > tonumber(ARGV[1])) then \
                 removed = removed + 1 \
               end \
             else gone = false end \
           end \
           if gone then \
             if value ~= '' then redis.call('SET', KEYS[i], 'T1 -', 'EX', ARGV[4]) end \
             redis.call('ZREM', names, name) redis.call('ZREM', times, name) \
           end \
         end \
         if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('ZREM', tags, KEYS[1]) end \
         return removed",
    ])
});
/// KEYS anything, indexes. Ends them where they list nothing.
static END: LazyLock<Script> = LazyLock::new(|| {
    Script::of(&[
        INDEX,
        "if redis.call('ZCARD', names) <= 1 then redis.call('DEL', names, times, tags, generation) end return 1",
    ])
});
/// KEYS epoch; gives it, and makes one where there is none: it was evicted, or never was.
static EPOCH: LazyLock<Script> = LazyLock::new(|| {
    Script::of(&["local known = redis.call('GET', KEYS[1]) if known then return known end ", MAKE_EPOCH])
});
/// KEYS epoch; makes another one.
static NEXT_EPOCH: LazyLock<Script> = LazyLock::new(|| Script::new(MAKE_EPOCH));

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
    /// And when it was asked; `None` where it has to be.
    known: Option<(u64, Instant)>,
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
            if let Some((known, at)) = epoch.known
                && at.elapsed() < EPOCH_REMEMBERED
            {
                return Ok(known);
            }
            epoch.changes
        };
        let watching = self.0.redis.is_watching();
        let call = EPOCH.call().key(self.0.shared.epoch_key.clone());
        let said = self.0.redis.run::<u64>(operation, &EPOCH, &call).await?;
        let mut epoch = self.0.shared.epoch.lock();
        // Remembered only where a change of it is heard, and none was heard meanwhile.
        if watching && epoch.changes == changes {
            epoch.known = Some((said, Instant::now()));
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
        let (hash, index) = (hash(key), self.index(parts.tenant, parts.user));
        Place {
            value: index.values.key(&hash),
            note: index.own.key(&format!("load:{hash}")),
            name: [key.key().as_bytes(), b"\0", hash.as_bytes()].concat(),
            index,
        }
    }

    fn index(&self, tenant: Option<&str>, user: Option<&str>) -> Index {
        Index { own: self.0.indexes.wall(tenant, user), values: self.0.values.wall(tenant, user) }
    }

    async fn remove_listed(&self, operation: &'static str, index: &Index, by: By<'_>, epoch: u64) -> Result<u64> {
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
            let call = REMOVE.call().key(listed_by.clone()).keys(index.keys());
            let call = call.keys(names.iter().map(|name| index.values.key(hash_of(name))));
            let call = call.int(self.0.clock.now().as_microsecond()).arg(epoch.to_string()).arg(tag).int(CHANGED_S);
            let call = names.iter().fold(call, |call, name| call.arg(name.clone()));
            removed += self.0.redis.run::<u64>(operation, &REMOVE, &call).await?;
        }
        Ok(removed)
    }

    /// Removes the indexes of all tags of a wall, which hold names of keys, and all others where nothing was set meanwhile.
    async fn remove_indexes(&self, operation: &'static str, index: &Index) -> Result<()> {
        let mut list = cmd("ZRANGEBYSCORE");
        list.arg(index.tags()).arg("-inf").arg("(+inf").arg("LIMIT").arg(0).arg(BATCH);
        for _ in 0..MAX_BATCHES {
            let tags: Vec<String> = self.0.redis.query(operation, &list).await?;
            if tags.is_empty() {
                break;
            }
            self.0.redis.query::<i64>(operation, cmd("DEL").arg(&tags)).await?;
            self.0.redis.query::<i64>(operation, cmd("ZREM").arg(index.tags()).arg(&tags)).await?;
        }
        let call = END.call().key(index.names()).keys(index.keys());
        self.0.redis.run::<i64>(operation, &END, &call).await.map(drop)
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
struct Index {
    own: Wall,
    values: Wall,
}

impl Index {
    /// Returns them as scripts take them.
    fn keys(&self) -> [String; 5] {
        // Who has near copies hears of changes of what stands among the values.
        [self.names(), self.own.key("times"), self.tags(), self.generation(), self.values.key("lost")]
    }

    fn names(&self) -> String {
        self.own.key("names")
    }

    fn tags(&self) -> String {
        self.own.key("tags")
    }

    fn tag(&self, tag: &str) -> String {
        self.own.key(&format!("tag:{}", &blake3::hash(tag.as_bytes()).to_hex()[..TAG_DIGITS]))
    }

    fn generation(&self) -> String {
        self.own.key("generation")
    }

    fn invalidated(&self) -> String {
        self.own.key("invalidated")
    }

    fn invalidations(&self) -> String {
        self.own.key("invalidations")
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
    name.len().checked_sub(DIGITS).and_then(|at| std::str::from_utf8(&name[at..]).ok()).unwrap_or_default()
}

/// Returns the number by which a near copy of a key hears of changes.
fn stripe_of(key: &KvKey) -> u64 {
    let bytes = digest(key);
    u64::from_be_bytes(bytes.as_bytes()[..8].try_into().unwrap_or_default())
}

/// The same, of the hexadecimal digits at the end of a key in Redis.
fn stripe_of_key(key: &[u8]) -> Option<u64> {
    let digits = key.rsplit(|byte| *byte == b':').next().filter(|digits| digits.len() == DIGITS)?;
    u64::from_str_radix(std::str::from_utf8(&digits[..16]).ok()?, 16).ok()
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
        let index = self.index(parts.tenant, parts.user);
        let mut both = cmd("MGET");
        both.arg(index.values.key(&hash(key))).arg(index.generation());
        let (said, generation): (Option<Vec<u8>>, Option<u64>) = self.0.redis.query(OPERATION, &both).await?;
        self.0.look_ups.fetch_add(1, Ordering::Relaxed);
        // What cannot be read was not written by us: as good as nothing.
        let Some(Found::Value { generation: of, epoch: written, entry }) = said.and_then(wire::read) else {
            return Ok(None);
        };
        if generation != Some(of) || written != epoch || entry.is_dead(self.0.clock.now()) {
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
        let index = self.index(what.scope.tenant.as_deref(), what.scope.user.as_deref());
        // First, so that what was read before is not brought up behind our back.
        let call = INVALIDATED.call().key(index.invalidated()).keys(index.keys()).key(index.invalidations());
        let call = call.keys(what.tags.iter().map(|tag| index.tag(tag))).int(2 * CHANGED_S);
        let call = call.int(LONGEST_LOAD_S).int(MOST_INVALIDATIONS);
        let call = what.prefix.iter().fold(call, |call, prefix| call.arg(format!("p{prefix}")));
        let call = what.tags.iter().fold(call, |call, tag| call.arg(format!("t{tag}")));
        self.0.redis.run::<i64>(OPERATION, &INVALIDATED, &call).await?;
        let mut removed = 0;
        if let Some(prefix) = &what.prefix {
            removed += self.remove_listed(OPERATION, &index, By::Prefix(prefix), epoch).await?;
            if prefix.is_empty() {
                self.remove_indexes(OPERATION, &index).await?;
            }
        }
        for tag in &what.tags {
            removed += self.remove_listed(OPERATION, &index, By::Tag(tag), epoch).await?;
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
        let call = BEGIN.call().key(place.value).key(place.note).key(place.index.generation()).arg(mark).int(WRITING_S);
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
        let call = COMMIT.call().key(place.value).keys(place.index.keys()).key(place.note);
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
        let call = PROMOTE.call().key(place.value).keys(place.index.keys()).key(place.index.invalidated());
        let call = call.keys(entry.tags.iter().map(|tag| place.index.tag(tag)));
        let call = call.arg(wire::write(epoch, &entry, value)).int(self.keep_s(&entry)).arg(place.name);
        let age = i64::try_from(read_for.as_millis()).unwrap_or(i64::MAX) + 1;
        let call = call.int(self.0.ttl_s + INDEX_SLACK_S).int(age).arg(epoch.to_string());
        self.0.redis.run::<i64>(OPERATION, &PROMOTE, &call).await.map(drop)
    }

    async fn version(&self, key: &KvKey) -> Result<i64> {
        const OPERATION: &str = "memory.kv.get_or_set";
        // There before the note, so that the epoch did not begin after it.
        self.epoch(OPERATION).await?;
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
        let call = SET_UNCHANGED.call().key(place.value).keys(place.index.keys()).key(place.note);
        let call = call.key(place.index.invalidations());
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
