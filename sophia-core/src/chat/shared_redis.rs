//! The shared cache in Redis.
//!
//! An answer is stored with its labels and the time of the server at which it was asked for, and listed under its user, so
//! that it can be found when the user is forgotten. Invalidations are a short log beside it: an answer that was asked for
//! before an invalidation that means it is not there any more; nor is one of the next second, where there are several servers
//! with a clock each; nor is any that is older than the log, which may have been evicted. Every process hears of changes of the
//! log, and takes them over into its own cache, however long Redis takes to tell them. What this process could not write into the
//! log, because Redis was away, keeps it from reading answers until it is written.

use std::{
    sync::{Arc, LazyLock, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redis::cmd;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::{
    cache::{AnswerCache, Filter, Invalidate, Payload},
    config::ChatConfig,
    dialect::Envelope,
    key::Key,
    provider::Keeping,
    response::{Answer, Delta, Found, Usage},
    shared::{Kept, Turn},
};
use crate::{
    Result, Scope,
    context::Context,
    redis::{Area, Lease, Leases, Listener, Redis, Script, Taken},
    resilience::{BreakerConfig, CircuitBreaker, Deadline},
};

/// Tier in which these answers are.
const TIER: &str = "l2";
/// Invalidations that the log holds; the oldest become one of everything before them.
const LOG_LENGTH: i64 = 256;
/// How long the log outlives the last answer that it speaks of, in seconds: what takes longer to answer is not shared.
const LOG_SLACK_S: u64 = 600;
/// How long the log is remembered. Who reads it keeps it from being evicted, and from expiring while there are answers.
const LOG_REMEMBERED: Duration = Duration::from_secs(60);
/// Digits of the hash of a user in the name of a list.
const LIST_DIGITS: usize = 32;
/// Answers of a list that are looked at together.
const ERASED_AT_ONCE: usize = 256;
/// Bytes of an answer by which it is told from the next one: most of them are the time at which it was stored.
const STAMP_BYTES: usize = 24;
/// First and longest wait before the log is written again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// By how much the clocks of several servers may differ, in microseconds.
const CLOCK_SKEW_US: u64 = 1_000_000;

/// KEYS answer, lease; ARGV owner, how long a lease lasts, how an answer begins that does not count. Gives the answer and how
/// long it is there yet in milliseconds; or else takes the lease, or says who holds it, and the time in microseconds.
static TURN: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local answer = redis.call('GET', KEYS[1]) or '' \
         if answer ~= '' and (ARGV[3] == '' or string.sub(answer, 1, #ARGV[3]) ~= ARGV[3]) then return {1, answer, redis.call('PTTL', KEYS[1])} end \
         local now = redis.call('TIME') \
         local us = now[1] * 1000000 + now[2] \
         if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return {0, '', us} end \
         return {2, redis.call('GET', KEYS[2]), us}",
    )
});
/// KEYS answer, and the lease if there is one; ARGV answer, ttl, and the owner of the lease. Gives the lease up as well. What was
/// asked for later stays.
static KEEP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local asked_at = function(answer) return tonumber(string.match(answer, '^(%d+)\\n') or 0) end \
         if asked_at(redis.call('GETRANGE', KEYS[1], 0, 23)) <= asked_at(ARGV[1]) then \
           redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) \
         end \
         if KEYS[2] and redis.call('GET', KEYS[2]) == ARGV[3] then redis.call('DEL', KEYS[2]) end return 1",
    )
});
/// KEYS list; ARGV name of an answer, ttl. Drops those that have expired.
static LIST: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local now = tonumber(redis.call('TIME')[1]) \
         redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1]) \
         redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now) \
         if redis.call('TTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('EXPIRE', KEYS[1], ARGV[2]) end return 1",
    )
});
/// Who a log says it began by.
const BEGIN: &str = "begin";
/// Adds to the log. Its times grow, also where the clock is set back. One that is not there was lost, or never was: it begins
/// with an invalidation of everything that is shared.
const LOGGING: &str = "local function add(origin, which) \
       local now = redis.call('TIME') \
       local former = string.match(redis.call('LINDEX', KEYS[1], 0) or '', '^%d+') or -1 \
       local us = string.format('%.0f', math.max(now[1] * 1000000 + now[2], former + 1)) \
       redis.call('LPUSH', KEYS[1], us .. ' ' .. origin .. ' ' .. which) \
     end \
     if redis.call('EXISTS', KEYS[1]) == 0 then add('begin', '{\"all\":true}') end ";
/// KEYS log; ARGV length, ttl, origin, invalidation.
static INVALIDATE: LazyLock<Script> = LazyLock::new(|| {
    Script::of(&[
        LOGGING,
        "add(ARGV[3], ARGV[4]) \
         if redis.call('LLEN', KEYS[1]) > tonumber(ARGV[1]) then \
           redis.call('RPOP', KEYS[1]) \
           local last = redis.call('LINDEX', KEYS[1], -1) \
           redis.call('LSET', KEYS[1], -1, string.match(last, '^%d+') .. ' - {\"all\":true}') \
         end \
         redis.call('EXPIRE', KEYS[1], ARGV[2]) return 1",
    ])
});
/// KEYS log; ARGV ttl, below which it is set again. Gives what is logged.
static READ_LOG: LazyLock<Script> = LazyLock::new(|| {
    Script::of(&[
        LOGGING,
        "if redis.call('TTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('EXPIRE', KEYS[1], ARGV[1]) end \
         return redis.call('LRANGE', KEYS[1], 0, -1)",
    ])
});

/// Answers that processes share. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct SharedCache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    redis: Redis,
    answers: Area,
    lists: Area,
    leases: Leases,
    turns: Area,
    budget: Duration,
    /// By how much the clock that stamps answers may be ahead of that of the log.
    skew_us: u64,
    log_ttl_s: u64,
    log_key: String,
    /// Tells the invalidations of this process from those of others.
    origin: String,
    breaker: CircuitBreaker,
    cache: AnswerCache,
    log: Mutex<Log>,
    unwritten: Mutex<Unwritten>,
}

/// What is known of the log.
#[derive(Debug, Default)]
struct Log {
    entries: Option<(Arc<Vec<Logged>>, Instant)>,
    /// How often it was heard to change.
    changes: u64,
    /// Time of the last one of others that was taken over.
    taken_over_us: u64,
    is_taking_over: bool,
}

#[derive(Debug)]
struct Logged {
    at_us: u64,
    origin: String,
    filter: Filter,
}

/// Removals that are still to be written into the log.
#[derive(Debug, Default)]
struct Unwritten {
    removals: Vec<Due>,
    is_writing: bool,
}

/// A removal, and how thorough it is.
#[derive(Debug, Clone, PartialEq)]
enum Due {
    /// What is meant is not given any more, and expires.
    Invalidate(Invalidate),
    /// Nor is it there any more.
    Forget(Invalidate),
}

impl Due {
    fn which(&self) -> &Invalidate {
        match self {
            Due::Invalidate(which) | Due::Forget(which) => which,
        }
    }
}

impl Unwritten {
    fn push(&mut self, due: Due) {
        if self.removals.len() >= LOG_LENGTH as usize {
            self.removals.retain(|due| matches!(due, Due::Forget(_)));
            self.removals.push(Due::Invalidate(Invalidate::all()));
        }
        self.removals.push(due);
    }

    fn done(&mut self, due: &Due) {
        // It may have been replaced by one of everything meanwhile.
        if let Some(at) = self.removals.iter().position(|other| other == due) {
            self.removals.remove(at);
        }
    }
}

/// What a look comes to.
enum Looked {
    Kept(Kept),
    /// And the time of the server.
    Turn(Taken, u64),
}

/// Our turn to ask.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// While it lasts.
    lease: Option<Lease>,
    /// When it began, by the time of the server and by ours. Not known where Redis was stepped over: what is asked then is
    /// not shared.
    asked: Option<(u64, Instant)>,
}

impl Held {
    pub async fn end(self, operation: &'static str) {
        if let Some(lease) = self.lease {
            lease.end(operation).await;
        }
    }
}

/// What stands in Redis, behind the time of the server.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    ttl_s: u64,
    /// Whether that is a time of its own, and not by rule.
    #[serde(default)]
    has_own_ttl: bool,
    scope: Scope,
    context: String,
    tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<StoredAnswer>,
}

/// An answer with all that its public form leaves out.
#[derive(Debug, Serialize, Deserialize)]
struct StoredAnswer {
    text: String,
    message: Map<String, Value>,
    model: String,
    provider: String,
    usage: Usage,
    cost_usd: Option<f64>,
    finish_reason: Option<String>,
    tool_calls: Vec<Value>,
    envelope: Envelope,
    deltas: Vec<StoredDelta>,
    terminated: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredDelta {
    text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    extra: Map<String, Value>,
}

impl SharedCache {
    /// Sets the cache up, where the configuration asks for it. Connects to nobody.
    pub fn new(config: &ChatConfig, context: &Context, cache: &AnswerCache) -> Option<SharedCache> {
        let redis = context.redis.as_ref().filter(|_| config.cache.enabled && config.cache.l2.enabled)?;
        context.signals.depends("chat", "redis");
        let budget = config.cache.l2.timeout;
        let logs = redis.area("chatlog");
        let breaker = BreakerConfig {
            consecutive_failures: 3,
            // A look costs the whole budget, and a shared cache is worth having back soon.
            open_for: Duration::from_millis(500),
            max_open: Duration::from_secs(5),
            ..BreakerConfig::default()
        };
        let inner = Arc::new(Inner {
            answers: redis.area("chat"),
            lists: redis.area("chatlist"),
            leases: Leases::new(redis, "chatlease", budget),
            turns: redis.area("chatlease"),
            budget,
            skew_us: if redis.has_several_clocks() { CLOCK_SKEW_US } else { 0 },
            log_ttl_s: config.ttl.max + LOG_SLACK_S,
            log_key: logs.key("invalidations"),
            origin: Uuid::now_v7().simple().to_string(),
            breaker: CircuitBreaker::new("chat.l2", breaker, context.clock.clone()),
            cache: cache.clone(),
            log: Mutex::default(),
            unwritten: Mutex::default(),
            redis: redis.clone(),
        });
        redis.listen(logs.start(), Arc::new(Ears(Arc::downgrade(&inner))));
        Some(SharedCache(inner))
    }

    /// Looks for an answer, and waits while another process asks for it.
    pub async fn turn(&self, operation: &'static str, keeping: &Keeping, deadline: Deadline) -> Turn {
        let away = || Turn::Ours(Held::default(), Found { degraded: true, ..Found::default() });
        let (tenant, hex) = (keeping.scope.tenant.as_deref(), keeping.key.to_hex());
        // In one slot of a Cluster, so that one script sees both.
        let (answer, turn) = (self.0.answers.single(tenant, &hex), self.0.turns.single(tenant, &hex));
        let waiter = self.0.leases.wait(&turn);
        let mut former: Option<String> = None;
        loop {
            let (taken, asked_us) = match self.look(operation, keeping, &answer, &turn).await {
                Some(Looked::Kept(kept)) => return Turn::Kept(kept),
                Some(Looked::Turn(taken, at_us)) => (taken, at_us),
                None => return away(),
            };
            let asked = Some((asked_us, Instant::now()));
            let ours = |lease| Turn::Ours(Held { lease, asked }, Found::default());
            match taken {
                Taken::Ours(lease) => return ours(Some(lease)),
                // The one that was waited for kept nothing. Who waits for the next, and the next, waits for ever.
                Taken::Theirs(holder) if former.as_ref().is_some_and(|former| *former != holder) => return ours(None),
                Taken::Theirs(_) if deadline.remaining().is_zero() => return ours(None),
                Taken::Theirs(holder) => former = Some(holder),
            }
            waiter.ended().await;
        }
    }

    /// Begins to ask without a look.
    pub async fn unlooked(&self, operation: &'static str) -> Held {
        let now = async {
            self.begin_log(operation).await?;
            let time = cmd("TIME");
            self.ask(self.0.redis.query_within::<(u64, u64)>(operation, self.0.budget, &time)).await
        };
        let asked = now.await.map(|(s, us)| (s * 1_000_000 + us, Instant::now()));
        Held { lease: None, asked }
    }

    /// Tries once more to write what is not in the log.
    pub async fn close(&self) {
        loop {
            let next = self.0.unwritten.lock().removals.first().cloned();
            let Some(due) = next else { return };
            if !self.try_to_remove(&due).await {
                return;
            }
        }
    }

    /// Shares an answer, and gives our turn up. A failure is nobody's trouble: it is asked for again.
    pub async fn keep(
        &self,
        operation: &'static str,
        keeping: &Keeping,
        payload: &Payload,
        ttl_s: u64,
        Held { lease, asked }: Held,
    ) {
        let slack = Duration::from_secs(LOG_SLACK_S);
        let asked_us = asked.filter(|(_, at)| at.elapsed() < slack && self.is_in_step()).map(|(at_us, _)| at_us);
        // What is held ends when it is dropped.
        let Some(asked_us) = asked_us else { return };
        let (value, answer) = match payload {
            Payload::Value(value) => (Some(Value::clone(value)), None),
            Payload::Answer(answer) => (None, Some(StoredAnswer::of(answer))),
        };
        let stored = Stored {
            ttl_s,
            has_own_ttl: keeping.ttl.is_some(),
            scope: keeping.scope.clone(),
            context: keeping.context.clone(),
            tags: keeping.tags.clone(),
            value,
            answer,
        };
        let mut bytes = format!("{asked_us}\n").into_bytes();
        if serde_json::to_writer(&mut bytes, &stored).is_err() {
            return;
        }
        let name = self.0.answers.single(keeping.scope.tenant.as_deref(), &keeping.key.to_hex());
        let ttl_s = ttl_s.to_string();
        let list = LIST.call().key(self.0.list(keeping.scope.user.as_deref())).arg(name.clone()).arg(ttl_s.clone());
        // Before the answer is there: what is not listed cannot be forgotten.
        if self.ask(self.0.redis.run_within::<i64>(operation, self.0.budget, &LIST, &list)).await.is_none() {
            return;
        }
        let call = KEEP.call().key(name.clone()).arg(bytes).arg(ttl_s);
        let call = lease.as_ref().map_or_else(|| call.clone(), |lease| lease.write(call.clone()));
        let kept = self.ask(self.0.redis.run_within::<i64>(operation, self.0.budget, &KEEP, &call)).await;
        if kept.is_none() {
            return;
        }
        lease.into_iter().for_each(Lease::left);
        // One or two commands with a deadline. Nobody is given what was removed meanwhile, but nor may it lie there.
        let (inner, labels) = (self.0.clone(), (keeping.key, stored.scope, stored.context, stored.tags));
        tokio::spawn(async move { inner.erase_removed(asked_us, &name, labels).await });
    }

    /// Removes answers for all processes; from the call on, this process reads none until it is done. Returns whether it is
    /// done; if not, it is tried until it is.
    pub fn invalidate(&self, which: Invalidate) -> impl Future<Output = bool> + Send + use<> {
        self.remove(Due::Invalidate(which))
    }

    /// Does what [`SharedCache::invalidate`] does, so that Redis does not have them any more.
    pub fn forget(&self, which: Invalidate) -> impl Future<Output = bool> + Send + use<> {
        self.remove(Due::Forget(which))
    }

    fn remove(&self, due: Due) -> impl Future<Output = bool> + Send + use<> {
        self.0.unwritten.lock().push(due.clone());
        let shared = self.clone();
        async move {
            let is_done = shared.try_to_remove(&due).await;
            if !is_done {
                shared.write_log();
            }
            is_done
        }
    }

    async fn try_to_remove(&self, due: &Due) -> bool {
        let is_done = self.ask(self.0.remove(due)).await.is_some();
        if is_done {
            self.0.unwritten.lock().done(due);
        }
        is_done
    }

    /// Returns what is kept, or else whose turn it is to ask; `None` where Redis is stepped over.
    async fn look(&self, operation: &'static str, keeping: &Keeping, answer: &str, turn: &str) -> Option<Looked> {
        if !self.is_in_step() {
            return None;
        }
        self.begin_log(operation).await?;
        let mut invalid = Vec::new();
        loop {
            let claim = self.0.leases.claim(turn);
            let call = claim.write(TURN.call().key(answer).key(turn)).arg(std::mem::take(&mut invalid));
            let look = self.0.redis.run_within::<(i64, Vec<u8>, i64)>(operation, self.0.budget, &TURN, &call);
            let (found, mut bytes, number) = self.ask(look).await?;
            match found {
                0 => return Some(Looked::Turn(Taken::Ours(claim.granted()), number.unsigned_abs())),
                2 => {
                    let holder = String::from_utf8_lossy(&bytes).into_owned();
                    return Some(Looked::Turn(Taken::Theirs(holder), number.unsigned_abs()));
                }
                _ => {}
            }
            if let Some((at_us, stored)) = Stored::read(&bytes) {
                let log = self.ask(self.0.log(operation, self.0.budget)).await?;
                let means_it =
                    |filter: &Filter| filter.matches(&keeping.key, &stored.scope, &stored.context, &stored.tags);
                if !log.iter().any(|logged| self.0.is_later(logged, at_us) && means_it(&logged.filter))
                    && let Some(kept) = self.0.bring_up(keeping, stored, number)
                {
                    return Some(Looked::Kept(kept));
                }
            }
            // What stands there is no answer any more: the next one takes its place, which may be there by now.
            bytes.truncate(STAMP_BYTES);
            invalid = bytes;
        }
    }

    /// Lets the log begin before anything is asked for: what was asked for before it began does not count.
    async fn begin_log(&self, operation: &'static str) -> Option<()> {
        self.ask(self.0.log(operation, self.0.budget)).await.map(drop)
    }

    /// Returns whether all that this process invalidated is in the log; goes on writing it where it is not.
    fn is_in_step(&self) -> bool {
        let is_in_step = {
            let unwritten = self.0.unwritten.lock();
            unwritten.removals.is_empty() && !unwritten.is_writing
        };
        if !is_in_step {
            self.write_log();
        }
        is_in_step
    }

    fn write_log(&self) {
        // Without a runtime, the next look begins to write.
        let Ok(runtime) = Handle::try_current() else { return };
        {
            let mut unwritten = self.0.unwritten.lock();
            if unwritten.is_writing || unwritten.removals.is_empty() {
                return;
            }
            unwritten.is_writing = true;
        }
        runtime.spawn(write(Writing(Arc::downgrade(&self.0))));
    }

    async fn ask<T>(&self, work: impl Future<Output = Result<T>>) -> Option<T> {
        let call = self.0.breaker.acquire("chat.l2").ok()?;
        match work.await {
            Ok(value) => {
                call.success();
                Some(value)
            }
            Err(error) => {
                tracing::debug!(code = error.code(), "stepped over the shared cache");
                call.failure();
                None
            }
        }
    }
}

/// Ends the writing of the log, also when its task is aborted.
struct Writing(Weak<Inner>);

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.unwritten.lock().is_writing = false;
        }
    }
}

async fn write(writing: Writing) {
    let mut wait = RETRY.0;
    loop {
        let Some(inner) = writing.0.upgrade() else { return };
        let next = {
            let mut unwritten = inner.unwritten.lock();
            let next = unwritten.removals.first().cloned();
            // Under the lock: who looks now either sees more to write or that all is written.
            unwritten.is_writing = next.is_some();
            next
        };
        let Some(due) = next else { return };
        match inner.remove(&due).await {
            Ok(()) => {
                inner.unwritten.lock().done(&due);
                wait = RETRY.0;
            }
            Err(_) => {
                drop(inner);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
        }
    }
}

impl Inner {
    /// Returns the key of what lists the answers of a user.
    fn list(&self, user: Option<&str>) -> String {
        match user {
            Some(user) => self.lists.key(&blake3::hash(user.as_bytes()).to_hex()[..LIST_DIGITS]),
            None => self.lists.key("-"),
        }
    }

    /// Tells all processes that answers are removed, and removes them if it is to be thorough.
    async fn remove(&self, due: &Due) -> Result<()> {
        const OPERATION: &str = "chat.invalidate";
        // Text and numbers: what was read as JSON can be written.
        let text = serde_json::to_string(due.which()).unwrap_or_default();
        let call = INVALIDATE.call().key(self.log_key.clone()).int(LOG_LENGTH).arg(self.log_ttl_s.to_string());
        let call = call.arg(self.origin.clone()).arg(text);
        self.redis.run::<i64>(OPERATION, &INVALIDATE, &call).await?;
        self.forget_log();
        let Due::Forget(which) = due else { return Ok(()) };
        match (&which.subject, &which.scope) {
            (Some(user), _) => self.erase(OPERATION, Some(user), None).await,
            (None, scope) => {
                let (tenant, user) =
                    scope.as_ref().map_or((None, None), |scope| (scope.tenant.as_deref(), scope.user.as_deref()));
                let name = self.answers.single(tenant, "");
                self.erase(OPERATION, user, Some(name.trim_end_matches('}'))).await
            }
        }
    }

    /// Removes the answers that are listed for a user, or those of them whose names begin so.
    async fn erase(&self, operation: &'static str, user: Option<&str>, start: Option<&str>) -> Result<()> {
        let (list, mut others) = (self.list(user), 0);
        loop {
            let mut page = cmd("ZRANGE");
            page.arg(&list).arg(others).arg(others + ERASED_AT_ONCE - 1);
            let names: Vec<String> = self.redis.query(operation, &page).await?;
            if names.is_empty() {
                return Ok(());
            }
            for name in names {
                if start.is_some_and(|start| !name.starts_with(start)) {
                    others += 1;
                    continue;
                }
                // One by one: in a Cluster each is in a slot of its own.
                self.redis.query::<i64>(operation, cmd("DEL").arg(&name)).await?;
                self.redis.query::<i64>(operation, cmd("ZREM").arg(&list).arg(&name)).await?;
            }
        }
    }

    /// Puts an answer into the cache of this process.
    fn bring_up(&self, keeping: &Keeping, stored: Stored, left_ms: i64) -> Option<Kept> {
        let left_s = u64::try_from(left_ms).ok()? / 1_000;
        if left_s == 0 {
            return None;
        }
        let payload = match (stored.answer, stored.value) {
            (Some(answer), _) => Payload::Answer(Arc::new(answer.into())),
            (None, Some(value)) => Payload::Value(Arc::new(value)),
            (None, None) => return None,
        };
        let age = Duration::from_secs(stored.ttl_s).saturating_sub(Duration::from_millis(left_ms.unsigned_abs()));
        let ttl = stored.has_own_ttl.then_some(left_s);
        let keeping = Keeping { context: stored.context, tags: stored.tags, ttl, ..keeping.clone() };
        self.cache.put_older(&keeping, payload.clone(), left_s, age);
        let found = Found { tier: Some(TIER), age_s: Some(age.as_secs_f64()), degraded: false };
        Some(Kept { payload, ttl_s: stored.ttl_s, found })
    }

    /// Removes an answer that was removed while it was asked for.
    async fn erase_removed(
        &self,
        asked_us: u64,
        name: &str,
        (key, scope, context, tags): (Key, Scope, String, Vec<String>),
    ) -> Result<()> {
        const OPERATION: &str = "chat.invalidate";
        // As it is there: of a change one hears late.
        let mut newest = cmd("LINDEX");
        newest.arg(&self.log_key).arg(0);
        let newest: Option<String> = self.redis.query(OPERATION, &newest).await?;
        // Mostly it is older, and the only one to be read.
        let newest = newest.as_deref().and_then(Logged::read);
        if newest.is_some_and(|logged| !self.is_later(&logged, asked_us)) {
            return Ok(());
        }
        self.forget_log();
        let log = self.log(OPERATION, self.redis.timeout()).await?;
        let means_it = |filter: &Filter| filter.matches(&key, &scope, &context, &tags);
        if log.iter().any(|logged| self.is_later(logged, asked_us) && means_it(&logged.filter)) {
            self.redis.query::<i64>(OPERATION, cmd("DEL").arg(name)).await?;
        }
        Ok(())
    }

    /// Returns whether an entry may speak of what was asked for at a time.
    fn is_later(&self, logged: &Logged, asked_us: u64) -> bool {
        logged.at_us + self.skew_us >= asked_us
    }

    /// Returns what is logged, and remembers it for a while where a change of it is heard. Removes from the cache of this
    /// process what others have invalidated.
    async fn log(&self, operation: &'static str, budget: Duration) -> Result<Arc<Vec<Logged>>> {
        let changes = {
            let log = self.log.lock();
            if let Some((entries, at)) = &log.entries
                && at.elapsed() < LOG_REMEMBERED
            {
                return Ok(entries.clone());
            }
            log.changes
        };
        let watching = self.redis.is_watching();
        let refreshed_s = self.log_ttl_s - LOG_SLACK_S / 2;
        let call = READ_LOG.call().key(self.log_key.clone()).arg(self.log_ttl_s.to_string());
        let call = call.arg(refreshed_s.to_string());
        let said: Vec<String> = self.redis.run_within(operation, budget, &READ_LOG, &call).await?;
        let entries: Arc<Vec<_>> = Arc::new(said.iter().filter_map(|line| Logged::read(line)).collect());
        let since = {
            let mut log = self.log.lock();
            // Only where none was heard meanwhile.
            if watching && log.changes == changes {
                log.entries = Some((entries.clone(), Instant::now()));
            }
            let newest = entries.iter().map(|logged| logged.at_us).max().unwrap_or(0);
            let since = log.taken_over_us;
            log.taken_over_us = newest.max(since);
            since
        };
        // What is asked for now is not older than the first log that is read.
        if since > 0 || !self.cache.is_empty() {
            // Not those again that were taken over: what was asked since then is as new as can be.
            let by_others = |logged: &&Logged| ![self.origin.as_str(), BEGIN].contains(&logged.origin.as_str());
            for logged in entries.iter().filter(|logged| logged.at_us > since).filter(by_others) {
                self.cache.remove(logged.filter.clone());
            }
        }
        Ok(entries)
    }

    fn forget_log(&self) {
        let mut log = self.log.lock();
        log.entries = None;
        log.changes += 1;
    }

    /// Begins to take over what the log says, unless that is done already.
    fn begin_taking_over(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else { return };
        if !std::mem::replace(&mut self.log.lock().is_taking_over, true) {
            runtime.spawn(take_over(TakingOver(Arc::downgrade(self))));
        }
    }
}

/// Ends the taking over of the log, also when its task is aborted.
struct TakingOver(Weak<Inner>);

impl Drop for TakingOver {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.log.lock().is_taking_over = false;
        }
    }
}

/// Reads the log, and so takes it over, until it has not changed since.
async fn take_over(taking_over: TakingOver) {
    let mut wait = RETRY.0;
    loop {
        let Some(inner) = taking_over.0.upgrade() else { return };
        let changes = inner.log.lock().changes;
        if inner.log("chat.invalidate", inner.redis.timeout()).await.is_ok() {
            let mut log = inner.log.lock();
            // Under the lock: who hears of a change now either is heard here or begins anew.
            log.is_taking_over = log.changes != changes;
            if !log.is_taking_over {
                return;
            }
            wait = RETRY.0;
            continue;
        }
        drop(inner);
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

/// Hears of changes of the log.
#[derive(Debug)]
struct Ears(Weak<Inner>);

impl Listener for Ears {
    fn changed(&self, _: &[u8]) {
        self.missed();
    }

    fn missed(&self) {
        let Some(inner) = self.0.upgrade() else { return };
        inner.forget_log();
        inner.begin_taking_over();
    }

    fn lost(&self) {
        self.0.upgrade().iter().for_each(|inner| inner.forget_log());
    }
}

impl Logged {
    fn read(line: &str) -> Option<Logged> {
        let mut parts = line.splitn(3, ' ');
        let at_us = parts.next()?.parse().ok()?;
        let origin = parts.next()?.to_owned();
        let which: Invalidate = serde_json::from_str(parts.next()?).ok()?;
        Some(Logged { at_us, origin, filter: which.filter().ok()? })
    }
}

impl Stored {
    /// Reads what stands in Redis, and the time of the server at which it was stored.
    fn read(bytes: &[u8]) -> Option<(u64, Stored)> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let at_us = std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()?;
        Some((at_us, serde_json::from_slice(&bytes[end + 1..]).ok()?))
    }
}

impl StoredAnswer {
    fn of(answer: &Answer) -> StoredAnswer {
        let delta = |delta: &Delta| StoredDelta {
            text: delta.text.clone(),
            reasoning: delta.reasoning.clone(),
            tool_calls: delta.tool_calls.clone(),
            extra: delta.extra.clone(),
        };
        StoredAnswer {
            text: answer.text.clone(),
            message: answer.message.clone(),
            model: answer.model.clone(),
            provider: answer.provider.clone(),
            usage: answer.usage,
            cost_usd: answer.cost_usd,
            finish_reason: answer.finish_reason.clone(),
            tool_calls: answer.tool_calls.clone(),
            envelope: answer.envelope.clone(),
            deltas: answer.deltas.iter().map(delta).collect(),
            terminated: answer.terminated,
        }
    }
}

impl From<StoredAnswer> for Answer {
    fn from(stored: StoredAnswer) -> Answer {
        let delta = |delta: StoredDelta| Delta {
            text: delta.text,
            reasoning: delta.reasoning,
            tool_calls: delta.tool_calls,
            extra: delta.extra,
        };
        Answer {
            text: stored.text,
            message: stored.message,
            model: stored.model,
            provider: stored.provider,
            usage: stored.usage,
            cost_usd: stored.cost_usd,
            finish_reason: stored.finish_reason,
            tool_calls: stored.tool_calls,
            envelope: stored.envelope,
            deltas: stored.deltas.into_iter().map(delta).collect(),
            terminated: stored.terminated,
        }
    }
}
