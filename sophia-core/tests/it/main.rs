//! Every integration test of the crate, in one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a failed test panics")]

mod chat;
mod health;
mod memory;
mod registry;
