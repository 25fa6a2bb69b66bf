//! Every integration test of the crate, in one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a failed test panics")]
//! Integration tests of the core, one module for each capability.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should say where")]

mod health;
mod memory;
mod registry;
//! Everything together, against real servers and files.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests may panic as the tests do")]

mod chat;
