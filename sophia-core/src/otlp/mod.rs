//! OpenTelemetry: spans and metrics of calls to models, sent to a collector by OTLP over HTTP.
//!
//! | to see | open |
//! |---|---|
//! | what can be set, and the variables of the environment | [`OtlpConfig`]: `config.rs` |
//! | names of attributes and metrics | `names.rs` |
//! | spans, and whose child each is | `span.rs` |
//! | sums and histograms | `metrics.rs` |
//! | how they are sent: in the background, bounded | `exporter.rs` |
//! | the bytes of the protocol | `wire.rs` |
//!
//! Nothing waits for a collector. One that is away costs a queue of bounded length.

mod config;
mod exporter;
mod metrics;
pub(crate) mod names;
mod span;
mod wire;

pub use config::{OtlpConfig, TelemetryConfig};
pub(crate) use exporter::Otel;
pub(crate) use span::{Kind, Span, SpanContext};
pub(crate) use wire::AttributeValue;
