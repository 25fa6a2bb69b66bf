//! Live messages for dashboards: the report when it changes, alerts as they come.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::http::HeaderMap;
use futures::{Stream, StreamExt, stream::BoxStream};
use serde_json::{Value, json};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Interval, MissedTickBehavior, interval},
};

use super::{exposed, guard::protocols};
use crate::{Sophia, Timestamp};

/// Subprotocol that is agreed on where a client offers any: one that carries a key must not be echoed.
const PROTOCOL: &str = "sophia.v1";
/// How often the report is sent although nothing changed.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How often it is looked whether something changed.
const LOOK: Duration = Duration::from_secs(1);

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
    let messages = match feed {
        Feed::UnifiedHealth => changes(sophia.clone(), "health.unified", "unified_health", Some(HEARTBEAT)).boxed(),
        Feed::SystemAlerts => changes(sophia.clone(), "health.alerts", "system_alerts", None).boxed(),
    };
    let messages = messages.map(move |message| {
        let _ = &permit;
        message
    });
    Live {
        protocol: protocols(headers).any(|offered| offered == PROTOCOL).then_some(PROTOCOL),
        messages: messages.boxed(),
    }
}

/// What an operation answers: at once, when it changes, and after every `heartbeat`.
fn changes(
    sophia: Sophia,
    operation: &'static str,
    kind: &'static str,
    heartbeat: Option<Duration>,
) -> impl Stream<Item = String> + Send {
    let watch = Watch { sophia, operation, heartbeat, ticks: None, last: None };
    futures::stream::unfold(watch, move |mut watch| async move {
        let data = watch.next().await;
        Some((message(kind, data), watch))
    })
}

struct Watch {
    sophia: Sophia,
    operation: &'static str,
    heartbeat: Option<Duration>,
    /// Made at the first poll: the feed may be opened outside of a runtime.
    ticks: Option<Interval>,
    last: Option<(Value, Instant)>,
}

impl Watch {
    async fn next(&mut self) -> Value {
        loop {
            let ticks = self.ticks.get_or_insert_with(|| {
                let mut ticks = interval(LOOK);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                ticks
            });
            ticks.tick().await;
            let data = self.ask().await;
            let essence = without_times(&data);
            let due = match &self.last {
                None => true,
                Some((last, _)) if *last != essence => true,
                Some((_, sent)) => self.heartbeat.is_some_and(|heartbeat| sent.elapsed() >= heartbeat),
            };
            if due {
                self.last = Some((essence, Instant::now()));
                return data;
            }
        }
    }

    /// Unknown is null: a feed outlives a report that fails.
    async fn ask(&self) -> Value {
        let Some(exposed) = exposed::find(self.operation) else { return Value::Null };
        let reply = async { exposed.operation.begin(&self.sophia, json!({}))?.await };
        match reply.await {
            Ok(reply) => serde_json::to_value(&reply).unwrap_or_default(),
            Err(error) => {
                tracing::warn!(operation = self.operation, code = error.code(), "a live report failed");
                Value::Null
            }
        }
    }
}

/// Returns what must differ for a report to count as changed: times always do.
fn without_times(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| {
                !matches!(name.as_str(), "timestamp" | "checked_at" | "last_check" | "uptime_s" | "took_ms")
            })
            .map(|(name, value)| (name.clone(), without_times(value)))
            .collect(),
        Value::Array(values) => values.iter().map(without_times).collect(),
        value => value.clone(),
    }
}

fn message(kind: &str, data: Value) -> String {
    json!({"type": kind, "data": data, "timestamp": Timestamp::now()}).to_string()
}
