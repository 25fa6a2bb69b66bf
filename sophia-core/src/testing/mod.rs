//! What those who implement a trait of this crate run against their implementation.

#![allow(clippy::expect_used, clippy::panic, reason = "a suite speaks by panicking")]

pub mod archive;
pub mod checkpoint;
pub mod graph;
pub mod memory;
pub mod mock_provider;
#[cfg(unix)]
mod postgres;
#[cfg(unix)]
mod redis;
pub mod retention;
pub mod tally;

pub use mock_provider::{Fault, MockProvider};
#[cfg(unix)]
pub use postgres::{PostgresServer, SilentServer};
#[cfg(unix)]
pub use redis::{RedisCluster, RedisServer};
