//! Everything together, against real servers and files.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests may panic as the tests do")]

mod chat;
