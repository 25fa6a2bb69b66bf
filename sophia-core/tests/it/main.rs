//! Every integration test of the crate, in one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a failed test panics")]

mod health;
mod memory;
mod registry;
//! Everything together, against real servers and files.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests may panic as the tests do")]

mod chat;
