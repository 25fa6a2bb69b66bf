//! Health: what is wrong, what caused it, and what may be done about it.
//!
//! | to | open |
//! |---|---|
//! | use it | [`Health`] (`health.rs`), [`HealthConfig`] |
//! | look after a service | [`Registration`], [`Probe`], [`ProbeSpec`], [`CallbackProbe`] (`probe.rs`, `probes/`) |
//! | know how looks are weighed, timed and doubted | `service.rs`, `prober.rs`, `stall.rs` |
//! | report points | [`Observation`] (`observe.rs`), kept in `series.rs`, `window.rs`, `sketch.rs` |
//! | say what is an alert | [`Rule`] (`rules.rs`) |
//! | follow alerts | [`Alert`] (`alerts.rs`), [`HealthEvent`] (`events.rs`) |
//! | read the report | [`SystemHealth`] (`report.rs`, `advice.rs`, `trends.rs`), [`UnifiedHealth`] (`unified.rs`), [`SeriesView`] (`history.rs`) |
//! | know how it concludes | `analysis.rs`, then `detector.rs`, `anomaly.rs`, `correlation.rs`, `causes.rs`, `forecast.rs` |
//! | heal, and ask first | [`Action`] (`actions.rs`: the gate; `healing.rs`: the deed), [`Healer`], [`CallbackHealer`] |
//! | call it by name | `operations.rs` |

mod actions;
mod advice;
mod alerts;
mod analysis;
mod anomaly;
mod causes;
mod config;
mod correlation;
mod detector;
mod engine;
mod events;
mod forecast;
mod graph;
mod healer;
mod healing;
#[allow(clippy::module_inception, reason = "the handle is named as the capability")]
mod health;
mod history;
mod names;
mod observe;
mod operations;
mod probe;
mod prober;
mod probes;
mod report;
mod rules;
mod series;
mod service;
mod sketch;
mod stall;
mod status;
mod trends;
mod unified;
mod window;

pub use crate::resilience::CheckAll;
pub use actions::{Action, ActionResult, ActionStatus, Trigger};
pub use advice::{Incident, Recommendation, Risk};
pub use alerts::{Alert, AlertMatch, AlertState, Severity};
pub use anomaly::{Anomaly, AnomalyKind};
pub use causes::RootCause;
pub use config::HealthConfig;
pub use correlation::{Correlation, SignalName};
pub use events::{EventKind, HealthEvent, StatusChange};
pub use forecast::Prediction;
pub use graph::EdgeSource;
pub use healer::{CallbackHealer, Effect, Healer};
pub use health::Health;
pub use history::{SeriesPoint, SeriesQuery, SeriesView};
pub use observe::Observation;
pub use probe::{CallbackProbe, Probe, ProbeSpec, Registration};
pub use probes::{HttpProbe, TcpProbe};
pub use report::{Dependency, Overall, OverallStatus, Quantiles, ServiceHealth, Source, SystemHealth};
pub use rules::Rule;
pub use service::ServiceCheck;
pub use status::{ProbeOutcome, Status};
pub use trends::{Kpis, Trends};
pub use unified::{Section, UnifiedHealth};

pub(crate) use operations::OPERATIONS;
