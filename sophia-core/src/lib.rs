//! The embeddable core of an AI backend: memory, cached chat, an MCP registry and health correlation in one engine.
//!
//! | to | open |
//! |---|---|
//! | start an engine | [`Sophia`], [`Config`] |
//! | remember and find | [`memory`] |
//! | ask a model, or cache any coroutine | [`chat`] |
//! | call tools of MCP servers | [`registry`] |
//! | know what is wrong, and why | [`health`] |
//! | serve it all over HTTP | [`http`] |
//! | share it between processes | [`redis`], [`tally`] |
//! | handle failures | [`Error`], [`resilience`] |
//! | call anything by name, as the bindings do | [`operations`] |
//! | hear its log, as the bindings do | [`logs`] |

mod clock;
mod config;
mod context;
mod duration;
mod error;
mod here;
mod http_client;
#[cfg(all(feature = "mcp", feature = "cli"))]
mod mcp_server;
mod names_map;
mod otlp;
mod scope;
mod secret;
mod signal;
mod sophia;
mod toolset;
mod vectors;
mod wire;

pub mod chat;
#[cfg(feature = "cli")]
pub mod cli;
pub mod health;
pub mod http;
#[cfg(feature = "logs")]
pub mod logs;
pub mod memory;
pub mod operations;
pub mod redis;
pub mod registry;
pub mod resilience;
pub mod tally;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use clock::{Clock, ManualClock, SystemClock};
pub use config::Config;
pub use error::{Error, ErrorKind, Result};
pub use jiff::Timestamp;
pub use otlp::{OtlpConfig, TelemetryConfig};
pub use scope::Scope;
pub use secret::Secret;
pub use signal::{Direction, NoSignals, Signal, SignalSink, Signals};
pub use sophia::{Builder, Sophia};
