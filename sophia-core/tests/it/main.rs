//! Integration tests of the core, in one binary, one module for each capability.

mod health;
#[cfg(feature = "http-server")]
mod http;
mod registry;
