//! Values under keys, in tiers: in this process, shared, durable.
//!
//! | to see | open |
//! |---|---|
//! | what a tier must do | `tier.rs` |
//! | how tiers work together | `tiered.rs` |
//! | the tier in this process | `moka.rs` |
//! | what users call | `handle.rs` |

mod handle;
mod moka;
mod tier;
mod tiered;

pub use handle::{Kv, KvDelete, KvGet, KvInvalidate, KvOptions, KvSet};
pub use moka::MokaTier;
pub use tier::{Elsewhere, Invalidation, KvEntry, KvKey, KvKeyRef, KvTier, KvValue};
pub use tiered::TieredKv;
