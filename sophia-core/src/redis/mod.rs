//! Redis: the one connection that everything shared between processes goes over.
//!
//! | to see | open |
//! |---|---|
//! | what can be set | [`RedisConfig`]: `config.rs` |
//! | how commands are sent: one server, Sentinel or Cluster | `link.rs`, `target.rs` |
//! | how changes by others are heard | `watch.rs` |
//! | how a key is named | `names.rs` |
//! | how only one process does something | `lease.rs` |
//!
//! Plain commands and Lua only, no modules. Every call has a deadline; a failure is the caller's to step over.

mod config;
#[cfg(feature = "redis")]
mod lease;
#[cfg(feature = "redis")]
mod link;
#[cfg(feature = "redis")]
mod names;
#[cfg(feature = "redis")]
mod script;
#[cfg(feature = "redis")]
mod target;
#[cfg(feature = "redis")]
mod watch;

pub use config::RedisConfig;
#[cfg(feature = "redis")]
pub(crate) use {
    lease::{Lease, Leases, Taken},
    link::Redis,
    names::{Area, Wall},
    script::Script,
    watch::Listener,
};
