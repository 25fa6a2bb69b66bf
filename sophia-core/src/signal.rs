//! What every capability tells health about itself, without anyone wiring it.

use std::{borrow::Cow, fmt::Debug, sync::Arc};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which way is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// A fall is bad, as for a hit ratio.
    HigherIsBetter,
    /// A rise is bad, as for a latency.
    LowerIsBetter,
    /// Any change of level is worth a look, as for traffic.
    Both,
}

/// One measured point of one service.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Signal {
    /// Who was measured, such as `"chat"` or `"registry.github"`.
    pub service: Cow<'static, str>,
    /// What was measured, with its unit in the name, such as `"latency_ms"`.
    pub metric: &'static str,
    /// The value, finite.
    pub value: f64,
    /// Which way is bad.
    pub direction: Direction,
    /// When it was measured; `None` is now.
    pub at: Option<Timestamp>,
}

impl Signal {
    /// Creates a duration in milliseconds (`latency_ms`); lower is better.
    pub fn latency_ms(service: impl Into<Cow<'static, str>>, value: f64) -> Signal {
        Signal::new(service, "latency_ms", value, Direction::LowerIsBetter)
    }

    /// Creates an outcome (`error_ratio`): 1 for a failure, 0 for a success; its mean is the ratio.
    pub fn outcome(service: impl Into<Cow<'static, str>>, failed: bool) -> Signal {
        Signal::new(service, "error_ratio", f64::from(u8::from(failed)), Direction::LowerIsBetter)
    }

    /// Creates a cache look-up (`cache_hit_ratio`): 1 for a hit, 0 for a miss; its mean is the ratio.
    pub fn cache(service: impl Into<Cow<'static, str>>, hit: bool) -> Signal {
        Signal::new(service, "cache_hit_ratio", f64::from(u8::from(hit)), Direction::HigherIsBetter)
    }

    /// Creates a point of any metric.
    pub fn new(
        service: impl Into<Cow<'static, str>>,
        metric: &'static str,
        value: f64,
        direction: Direction,
    ) -> Signal {
        Signal { service: service.into(), metric, value, direction, at: None }
    }
}

/// Where signals go.
pub trait SignalSink: Debug + Send + Sync + 'static {
    /// Takes one point. Never blocks and never fails: a signal is not worth an answer.
    fn signal(&self, signal: Signal);

    /// Takes several points that were measured together, which may cost less than one by one.
    fn signals(&self, signals: &[Signal]) {
        signals.iter().for_each(|signal| self.signal(signal.clone()));
    }

    /// Says that `service` calls `dependency`.
    fn depends(&self, service: &str, dependency: &str);
}

/// A shared sink.
pub type Signals = Arc<dyn SignalSink>;

/// A sink that keeps nothing, for a capability used by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSignals;

impl SignalSink for NoSignals {
    fn signal(&self, _: Signal) {}

    fn depends(&self, _: &str, _: &str) {}
}
