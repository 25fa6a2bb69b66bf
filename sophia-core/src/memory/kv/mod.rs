//! Values under keys, in tiers: in this process, shared, durable.
//!
//! | to see | open |
//! |---|---|
//! | what a tier must do | `tier.rs` |
//! | how tiers work together | `tiered.rs` |
//! | the tier in this process | `moka.rs`, `seal.rs` |
//! | the tier that processes share | `redis.rs`, `wire.rs`; that it may be away: `far.rs`, `debts.rs` |
//! | what users call | `handle.rs` |
//! | how one process makes a value for all | `alone.rs` |
//! | that a key is changed while its value is made | `loads.rs` |
//! | which keys there are | `keys.rs` |

mod alone;
mod debts;
mod far;
mod handle;
mod keys;
mod loads;
mod moka;
#[cfg(feature = "redis")]
mod redis;
mod seal;
mod tier;
mod tiered;
#[cfg(feature = "redis")]
mod wire;

pub(crate) use alone::Alone;
pub use handle::{Kv, KvDelete, KvFound, KvGet, KvInvalidate, KvLookUp, KvOptions, KvSet};
#[cfg(feature = "http-server")]
pub(crate) use keys::{CONVERSATION_KEYS, narrow_name, narrow_tags};
pub(crate) use keys::{EMBEDDING_KEYS, is_reserved, narrow_tag};
pub use keys::{KvIndex, KvKeys};
pub use moka::MokaTier;
#[cfg(feature = "redis")]
pub use redis::RedisTier;
pub use tier::{Elsewhere, Invalidation, KvEntry, KvKey, KvKeyRef, KvTier, KvValue, Ticket};
pub use tiered::{Looked, TieredKv, Truth};
