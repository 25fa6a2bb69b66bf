//! [`Alone`]: one process makes a value, the others wait for it.

use std::sync::Arc;

use super::{
    tier::{KvEntry, KvKey},
    tiered::{Baseline, TieredKv},
};
use crate::Result;
#[cfg(feature = "redis")]
use crate::redis::{Area, Lease, Leases, Redis, Taken};

/// Finds out whose turn it is. Without Redis it is always ours: flights in this process are one already.
#[derive(Debug, Default)]
pub(crate) struct Alone {
    #[cfg(feature = "redis")]
    shared: Option<(Leases, Area)>,
}

/// Whose turn it is.
pub(super) enum Turn {
    /// Ours, while the lease lasts; with what was known of the key before.
    Ours(Held, Baseline),
    /// Another has made it.
    Made(Arc<KvEntry>),
}

/// A lease, or none where there is nobody to share with.
#[derive(Default)]
pub(super) struct Held {
    #[cfg(feature = "redis")]
    lease: Option<Lease>,
}

impl Alone {
    /// Shares turns with every process that uses the same Redis. To be called before its first use.
    #[cfg(feature = "redis")]
    pub(crate) fn shared(redis: &Redis) -> Alone {
        const AREA: &str = "kvlease";
        Alone { shared: Some((Leases::new(redis, AREA, redis.timeout()), redis.area(AREA))) }
    }

    /// Waits until it is our turn, or another has made the value. Where Redis is away it is our turn: twice made is better
    /// than not at all.
    #[cfg(feature = "redis")]
    pub(super) async fn turn(
        &self,
        operation: &'static str,
        key: &KvKey,
        tiers: &TieredKv,
        is_made: impl Fn(&KvEntry) -> bool,
    ) -> Result<Turn> {
        let Some((leases, area)) = &self.shared else { return Turn::now(key, tiers, is_made).await };
        let (wall, name) = super::redis::name_in(area, key);
        let name = wall.key(&name);
        let waiter = leases.wait(&name);
        loop {
            if !tiers.away().is_empty() {
                return Turn::now(key, tiers, is_made).await;
            }
            let lease = leases.take(operation, &name).await;
            // Not while another has it: what a tier notes for its load is one for each key.
            let baseline = match lease {
                Ok(Taken::Theirs(_)) => None,
                _ => Some(tiers.baseline(key).await?),
            };
            // Looked at after the lease was asked for: its former holder had written before it gave it up.
            if let Some(entry) = tiers.look_far(key).await?.entry.filter(|entry| is_made(entry)) {
                return Ok(Turn::Made(entry));
            }
            match (lease, baseline) {
                (Ok(Taken::Ours(lease)), Some(baseline)) => {
                    return Ok(Turn::Ours(Held { lease: Some(lease) }, baseline));
                }
                (_, Some(baseline)) => return Ok(Turn::Ours(Held::default(), baseline)),
                (_, None) => waiter.ended().await,
            }
        }
    }

    #[cfg(not(feature = "redis"))]
    pub(super) async fn turn(
        &self,
        _: &'static str,
        key: &KvKey,
        tiers: &TieredKv,
        is_made: impl Fn(&KvEntry) -> bool,
    ) -> Result<Turn> {
        Turn::now(key, tiers, is_made).await
    }
}

impl Turn {
    /// Takes the turn without asking the others.
    pub(super) async fn now(key: &KvKey, tiers: &TieredKv, is_made: impl Fn(&KvEntry) -> bool) -> Result<Turn> {
        let baseline = tiers.baseline(key).await?;
        let known = match tiers.get_now(key.borrowed()) {
            Some(entry) => Some(entry),
            None => tiers.look_far(key).await?.entry,
        };
        Ok(match known.filter(|entry| is_made(entry)) {
            Some(entry) => Turn::Made(entry),
            None => Turn::Ours(Held::default(), baseline),
        })
    }
}

impl Held {
    /// Returns whether it is still our turn, as far as can be known.
    #[cfg(feature = "redis")]
    pub async fn is_held(&self, operation: &'static str) -> bool {
        match &self.lease {
            Some(lease) => lease.is_held(operation).await,
            None => true,
        }
    }

    /// Lets the others have their turn.
    #[cfg(feature = "redis")]
    pub async fn end(self, operation: &'static str) {
        if let Some(lease) = self.lease {
            lease.end(operation).await;
        }
    }

    #[cfg(not(feature = "redis"))]
    pub async fn is_held(&self, _: &'static str) -> bool {
        true
    }

    #[cfg(not(feature = "redis"))]
    pub async fn end(self, _: &'static str) {}
}
