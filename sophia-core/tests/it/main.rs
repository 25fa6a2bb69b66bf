//! Integration tests of the core, one module for each capability.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should say where")]

mod health;
