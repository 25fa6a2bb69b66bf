//! What happens, for those who listen.

use futures::Stream;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};

use super::{ActionResult, Alert, Status};

/// Events that a slow listener may be behind before it misses some.
pub(super) const BACKLOG: usize = 1_024;

/// What happened, as it goes over a WebSocket: `{type, data, timestamp}`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct HealthEvent {
    /// What happened, and to what.
    #[serde(flatten)]
    pub kind: EventKind,
    /// When.
    pub timestamp: Timestamp,
}

/// What happened, and to what.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// An alert is new, or still holds, under the same id, when the cooldown after its end is over.
    AlertOpened(Alert),
    /// An alert got worse or better, lists other services, or was acknowledged.
    AlertChanged(Alert),
    /// An alert no longer holds.
    AlertResolved(Alert),
    /// The report changed, since services did.
    ReportChanged(Vec<StatusChange>),
    /// A healing action was requested, approved, refused or executed.
    Action(ActionResult),
    /// This listener was too slow and missed so many events: it should read the report and the alerts again.
    Missed(u64),
}

/// A service whose status changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct StatusChange {
    /// The service.
    pub service: String,
    /// How it was.
    pub from: Status,
    /// How it is.
    pub to: Status,
}

/// Turns a receiver into a stream that ends with the engine; without one it has ended.
pub(super) fn stream(
    receiver: Option<broadcast::Receiver<HealthEvent>>,
    now: impl Fn() -> Timestamp + Send + 'static,
) -> impl Stream<Item = HealthEvent> + Send + 'static {
    futures::stream::unfold((receiver, now), |(receiver, now)| async move {
        let mut receiver = receiver?;
        let event = match receiver.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(missed)) => HealthEvent { kind: EventKind::Missed(missed), timestamp: now() },
            Err(RecvError::Closed) => return None,
        };
        Some((event, (Some(receiver), now)))
    })
}
