//! Integration tests of the core, in one binary, one module for each capability.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a failed test panics")]

mod chat;
#[cfg(feature = "cli")]
mod cli;
mod embedders;
mod faults;
mod health;
#[cfg(feature = "http-server")]
mod http;
mod kv_loading;
mod memory;
#[cfg(all(feature = "postgres", unix))]
mod postgres;
mod registry;
mod searching;
#[cfg(all(feature = "redis", unix))]
mod shared;
