//! Numbers that outlive a process and that processes share: what limits and costs are counted in.
//!
//! | to see | open |
//! |---|---|
//! | what a technology must do | [`TallyStore`]: `store.rs` |
//! | numbers of this process alone | [`LocalTallies`]: `local.rs` |
//! | in Redis | `redis.rs` |
//! | in the data file | `memory/sqlite/tallies.rs` |

mod local;
#[cfg(feature = "redis")]
mod redis;
mod store;

pub use local::LocalTallies;
#[cfg(test)]
pub(crate) use local::MAX_GROUPS;
#[cfg(feature = "redis")]
pub(crate) use redis::RedisTallies;

use std::sync::Arc;

use crate::{context::Context, memory::Memory};

/// Returns where processes count together: in Redis, or else in the data file of the memory. `None` where nothing is shared.
pub(crate) fn shared(context: &Context, memory: &Memory) -> Option<Arc<dyn TallyStore>> {
    #[cfg(feature = "redis")]
    if let Some(redis) = &context.redis {
        return Some(Arc::new(RedisTallies::new(redis, context.clock.clone())));
    }
    let _ = context;
    memory.tallies()
}

pub use store::{Applied, TallyChange, TallyStore};
