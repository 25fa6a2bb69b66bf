//! Live messages for dashboards: the report when it changes, alerts as they come.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::http::HeaderMap;
use futures::{Stream, StreamExt, stream::BoxStream};
use serde::Serialize;
use serde_json::json;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};

use super::guard::protocols;
use crate::{
    Sophia, Timestamp,
    health::{EventKind, HealthEvent},
};

/// Subprotocol that is agreed on where a client offers any: one that carries a key must not be echoed.
const PROTOCOL: &str = "sophia.v1";
/// How often the report is sent although nothing changed.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How long changes are gathered into one report: what belongs together comes within a moment.
const GATHER: Duration = Duration::from_millis(200);

/// What is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feed {
    UnifiedHealth,
    SystemAlerts,
}

/// An open WebSocket's messages: JSON texts of the form `{"type", "data", "timestamp"}`. Dropping it closes the feed.
pub struct Live {
    protocol: Option<&'static str>,
    messages: BoxStream<'static, String>,
}

impl Live {
    /// Returns the subprotocol to answer the handshake with, if any.
    pub fn protocol(&self) -> Option<&'static str> {
        self.protocol
    }
}

impl Stream for Live {
    type Item = String;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<String>> {
        self.messages.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

/// Opens a feed, which holds its place as long as it is open.
pub(super) fn open(sophia: &Sophia, feed: Feed, headers: &HeaderMap, permit: OwnedSemaphorePermit) -> Live {
    // Listening starts before the first report is made: nothing falls between them.
    let watch = Watch { sophia: sophia.clone(), events: sophia.health().subscribe().boxed(), begun: false };
    let messages = match feed {
        Feed::UnifiedHealth => futures::stream::unfold(watch, |mut watch| async {
            let message = watch.next_report().await?;
            Some((message, watch))
        })
        .boxed(),
        Feed::SystemAlerts => futures::stream::unfold(watch, |mut watch| async {
            let message = watch.next_alert().await?;
            Some((message, watch))
        })
        .boxed(),
    };
    let messages = messages.map(move |message| {
        let _ = &permit;
        message
    });
    let protocol = protocols(headers).any(|offered| offered == PROTOCOL).then_some(PROTOCOL);
    Live { protocol, messages: messages.boxed() }
}

struct Watch {
    sophia: Sophia,
    events: BoxStream<'static, HealthEvent>,
    begun: bool,
}

impl Watch {
    /// The report: at once, after changes, and after every heartbeat. Ends with the engine.
    async fn next_report(&mut self) -> Option<String> {
        if std::mem::replace(&mut self.begun, true)
            && let Ok(event) = timeout(HEARTBEAT, self.events.next()).await
        {
            event?;
            sleep(GATHER).await;
            while let Some(Some(_)) = futures::FutureExt::now_or_never(self.events.next()) {}
        }
        // Unknown is null: a feed outlives a report that fails.
        let report = self.sophia.health().unified().await;
        let report = report.inspect_err(|error| tracing::warn!(code = error.code(), "a live report failed")).ok();
        Some(message("unified_health", &report))
    }

    /// The alerts that hold at once, and then what happens to them. Ends with the engine.
    async fn next_alert(&mut self) -> Option<String> {
        if !std::mem::replace(&mut self.begun, true) {
            return Some(self.alerts());
        }
        loop {
            let event = self.events.next().await?;
            match event.kind {
                EventKind::AlertOpened(_) | EventKind::AlertChanged(_) | EventKind::AlertResolved(_) => {
                    return serde_json::to_string(&event).ok();
                }
                EventKind::Missed(_) => return Some(self.alerts()),
                EventKind::ReportChanged(_) | EventKind::Action(_) => {}
            }
        }
    }

    fn alerts(&self) -> String {
        message("alerts", &self.sophia.health().alerts(None))
    }
}

fn message(kind: &str, data: &impl Serialize) -> String {
    json!({"type": kind, "data": data, "timestamp": Timestamp::now()}).to_string()
}
