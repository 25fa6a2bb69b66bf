//! [`Leases`]: one process does something, the others wait for it.
//!
//! A lease ends by itself, so that a process that died holds nobody up for long; its holder prolongs it while it works.
//! Each carries a token of its own, the fence: a holder that was away for too long finds out before it writes.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Notify, task::AbortHandle, time::timeout};
use uuid::Uuid;

use super::{
    link::Redis,
    script::{Call, Script},
    watch::Listener,
};
use crate::Result;

/// How long a lease lasts if it is not prolonged: as long as a holder that died holds the others up.
const LASTS: Duration = Duration::from_secs(3);
/// How often a holder prolongs its lease; two may fail.
const PROLONGED_EVERY: Duration = Duration::from_secs(1);
/// How often to look whether a lease ended, where its end is heard.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often to look where it is not heard.
const LOOK_OFTEN_EVERY: Duration = Duration::from_millis(25);

static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return '' end \
         return redis.call('GET', KEYS[1])",
    )
});
static PROLONG: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end \
         return redis.call('PEXPIRE', KEYS[1], ARGV[2])",
    )
});
static END: LazyLock<Script> = LazyLock::new(|| {
    Script::new("if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('DEL', KEYS[1])")
});

/// Leases of one part of the product. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    redis: Redis,
    budget: Duration,
    waiting: Arc<Waiting>,
}

/// What came of asking for a lease.
#[derive(Debug)]
pub(crate) enum Taken {
    Ours(Lease),
    /// Another holder has it; the text tells holders apart.
    Theirs(String),
}

/// The right to do something alone. Given up when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    redis: Redis,
    budget: Duration,
    key: String,
    owner: String,
    prolonging: AbortHandle,
    ended: bool,
}

/// Those who wait for the end of a lease, by its key.
#[derive(Debug, Default)]
struct Waiting(Mutex<HashMap<Vec<u8>, Queue>>);

/// Those who wait for the end of one lease.
#[derive(Debug, Default)]
struct Queue {
    ended: Arc<Notify>,
    length: usize,
}

/// One who waits.
#[derive(Debug)]
pub(crate) struct Waiter {
    redis: Redis,
    waiting: Arc<Waiting>,
    key: Vec<u8>,
    ended: Arc<Notify>,
}

impl Leases {
    /// Sets leases up, about which Redis must answer within `budget`. To be called before its first use.
    pub fn new(redis: &Redis, area: &str, budget: Duration) -> Leases {
        let waiting = Arc::new(Waiting::default());
        redis.listen(redis.area(area).start(), waiting.clone());
        Leases { redis: redis.clone(), budget, waiting }
    }

    /// Takes the lease of this name, if nobody has it.
    ///
    /// # Errors
    /// What Redis says.
    pub async fn take(&self, operation: &'static str, key: &str) -> Result<Taken> {
        let claim = self.claim(key);
        let call = claim.write(TAKE.call().key(key));
        let holder: Option<String> = self.redis.run_within(operation, self.budget, &TAKE, &call).await?;
        match holder.filter(|holder| !holder.is_empty()) {
            Some(holder) => Ok(Taken::Theirs(holder)),
            None => Ok(Taken::Ours(claim.granted())),
        }
    }

    /// Prepares to take the lease of this key inside a script of somebody else.
    pub fn claim(&self, key: &str) -> Claim {
        let owner = Uuid::now_v7().to_string();
        Claim { redis: self.redis.clone(), budget: self.budget, key: key.to_owned(), owner }
    }

    /// Takes a place among those who are told when the lease of this key ends.
    pub fn wait(&self, key: &str) -> Waiter {
        let key = key.as_bytes().to_vec();
        let mut waiting = self.waiting.0.lock();
        let queue = waiting.entry(key.clone()).or_default();
        queue.length += 1;
        Waiter { redis: self.redis.clone(), waiting: self.waiting.clone(), ended: queue.ended.clone(), key }
    }
}

/// A lease that is asked for.
#[derive(Debug)]
pub(crate) struct Claim {
    redis: Redis,
    budget: Duration,
    key: String,
    owner: String,
}

impl Claim {
    /// Adds what a script takes that sets it: its owner, and how long it lasts in milliseconds.
    pub fn write(&self, call: Call) -> Call {
        call.arg(self.owner.as_str()).int(millis(LASTS))
    }

    /// Holds what the script has taken.
    pub fn granted(self) -> Lease {
        let Claim { redis, budget, key, owner } = self;
        let prolonging = tokio::spawn(prolong(redis.clone(), key.clone(), owner.clone())).abort_handle();
        Lease { redis, budget, key, owner, prolonging, ended: false }
    }
}

impl Lease {
    /// Adds what a script takes that gives it up: its key and its owner.
    pub fn write(&self, call: Call) -> Call {
        call.key(self.key.as_str()).arg(self.owner.as_str())
    }

    /// Leaves it: a script of somebody else has given it up.
    pub fn left(mut self) {
        self.ended = true;
        self.prolonging.abort();
    }

    /// Returns whether it is still held; asks Redis.
    pub async fn is_held(&self, operation: &'static str) -> bool {
        let call = PROLONG.call().key(self.key.clone()).arg(self.owner.clone()).int(millis(LASTS));
        self.redis.run_within::<i64>(operation, self.budget, &PROLONG, &call).await.is_ok_and(|held| held == 1)
    }

    /// Gives it up.
    pub async fn end(mut self, operation: &'static str) {
        self.ended = true;
        self.prolonging.abort();
        let call = END.call().key(self.key.clone()).arg(self.owner.clone());
        // Where it cannot be given up, it ends by itself.
        let _ = self.redis.run_within::<i64>(operation, self.budget, &END, &call).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.prolonging.abort();
        if self.ended {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let (redis, call) = (self.redis.clone(), END.call().key(self.key.clone()).arg(self.owner.clone()));
        // One command with a deadline.
        runtime.spawn(async move { redis.run::<i64>("redis.lease", &END, &call).await });
    }
}

async fn prolong(redis: Redis, key: String, owner: String) {
    let call = PROLONG.call().key(key).arg(owner).int(millis(LASTS));
    loop {
        tokio::time::sleep(PROLONGED_EVERY).await;
        if matches!(redis.run::<i64>("redis.lease", &PROLONG, &call).await, Ok(0)) {
            return;
        }
    }
}

impl Waiter {
    /// Returns when the lease may have ended: at once when that is heard, and every now and then.
    pub async fn ended(&self) {
        let limit = if self.redis.is_watching() { LOOK_EVERY } else { LOOK_OFTEN_EVERY };
        let _ = timeout(limit, self.ended.notified()).await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.waiting.0.lock();
        if let Some(queue) = waiting.get_mut(&self.key) {
            queue.length -= 1;
            if queue.length == 0 {
                waiting.remove(&self.key);
            }
        }
    }
}

impl Queue {
    fn tell(&self) {
        // Those who wait, and the next who does: it must not miss what happened while it was about to.
        self.ended.notify_waiters();
        self.ended.notify_one();
    }
}

impl Listener for Waiting {
    fn changed(&self, key: &[u8]) {
        if let Some(queue) = self.0.lock().get(key) {
            queue.tell();
        }
    }

    fn missed(&self) {
        self.0.lock().values().for_each(Queue::tell);
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
