//! [`RedisTallies`]: numbers that processes share in Redis.

use std::sync::LazyLock;

use async_trait::async_trait;
use jiff::Timestamp;
use redis::cmd;

use super::store::{Applied, TallyChange, TallyStore};
use crate::{
    Clock, Result,
    redis::{Area, Redis, Script},
};

/// Longest that the name of a batch is known, in milliseconds: an hour. What is in doubt for longer may count twice.
const KNOWN_FOR: i64 = 3_600_000;

/// KEYS a group for each change, and the batch if it has a name; ARGV for each change: field, floor, amount, at most or nothing,
/// and how long it is needed; the time of the caller in µs; with a name, how long that is known. Times are told by the clock of
/// the caller, and kept by that of the server. A batch that is known adds nothing.
static APPLY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local said, applied, changes = {}, 1, math.floor(#ARGV / 5) \
         local batch, time = KEYS[changes + 1], redis.call('TIME') \
         local ahead = time[1] * 1000000 + time[2] - ARGV[changes * 5 + 1] \
         local known = batch and redis.call('EXISTS', batch) == 1 \
         for i = 1, changes do \
           local a, floor, number = i * 5 - 4, tonumber(ARGV[i * 5 - 3]), tonumber(redis.call('HGET', KEYS[i], ARGV[i * 5 - 4])) \
           if number and floor > 0 then number = math.min(number - ahead, floor + ARGV[a + 4] * 1000) end \
           number = math.max(number or floor, floor) \
           if not known then number = number + tonumber(ARGV[a + 2]) end \
           if not known and ARGV[a + 3] ~= '' and number > tonumber(ARGV[a + 3]) then applied = 0 end \
           said[i] = string.format('%.17g', number) \
         end \
         if known or applied == 0 then return {applied, said} end \
         for i = 1, changes do \
           local a = i * 5 - 4 \
           local number, is_time = said[i], tonumber(ARGV[a + 1]) > 0 \
           if is_time then number = string.format('%.17g', number + ahead) end \
           if not is_time or tonumber(ARGV[a + 2]) ~= 0 then \
             redis.call('HSET', KEYS[i], ARGV[a], number) \
             if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[a + 4]) then redis.call('PEXPIRE', KEYS[i], ARGV[a + 4]) end \
           end \
         end \
         if batch then redis.call('SET', batch, '', 'PX', ARGV[#ARGV]) end \
         return {applied, said}",
    )
});

/// Numbers that processes share in Redis: a hash for each group, all of them in one slot of a Cluster.
#[derive(Debug)]
pub(crate) struct RedisTallies {
    redis: Redis,
    area: Area,
    clock: std::sync::Arc<dyn Clock>,
}

impl RedisTallies {
    pub fn new(redis: &Redis, clock: std::sync::Arc<dyn Clock>) -> RedisTallies {
        RedisTallies { redis: redis.clone(), area: redis.area("tally"), clock }
    }

    async fn run(&self, batch: Option<&str>, changes: &[TallyChange]) -> Result<Applied> {
        let now = self.clock.now();
        let mut call = APPLY.call().keys(changes.iter().map(|change| self.key(&change.group)));
        for change in changes {
            call = call
                .arg(change.field.as_str())
                .arg(change.floor.to_string())
                .arg(change.amount.to_string())
                .arg(change.at_most.map(|most| most.to_string()).unwrap_or_default())
                .int(millis_until(change.expires_at, now));
        }
        call = call.int(now.as_microsecond());
        if let Some(batch) = batch {
            // No longer than what it added is needed: many are calls that count for a minute.
            let added = changes.iter().filter(|change| change.amount != 0.0);
            let needed = added.map(|change| millis_until(change.expires_at, now)).max();
            call = call.key(self.key(batch)).int(needed.unwrap_or(1).min(KNOWN_FOR));
        }
        let (applied, numbers): (i64, Vec<f64>) = self.redis.run("chat.tally", &APPLY, &call).await?;
        Ok(Applied { applied: applied == 1, numbers })
    }

    fn key(&self, name: &str) -> String {
        // Hashed, so that a listing of names tells nothing.
        self.area.wall(None, None).key(&blake3::hash(name.as_bytes()).to_hex()[..32])
    }
}

fn millis_until(at: Timestamp, now: Timestamp) -> i64 {
    /// A century: what is longer would overflow the time of the server.
    const LONGEST: i128 = 100 * 365 * 24 * 3_600 * 1_000;
    at.duration_since(now).as_millis().clamp(1, LONGEST) as i64
}

#[async_trait]
impl TallyStore for RedisTallies {
    async fn apply(&self, changes: &[TallyChange]) -> Result<Applied> {
        self.run(None, changes).await
    }

    async fn apply_once(&self, batch: &str, changes: &[TallyChange]) -> Result<Applied> {
        self.run(Some(batch), changes).await
    }

    async fn read(&self, group: &str) -> Result<Vec<(String, f64)>> {
        let mut command = cmd("HGETALL");
        command.arg(self.key(group));
        self.redis.query("chat.tally", &command).await
    }
}
