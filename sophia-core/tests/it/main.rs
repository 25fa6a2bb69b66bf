//! Integration tests, in one binary: linking is slower than running.

#[cfg(feature = "http-server")]
mod http;
