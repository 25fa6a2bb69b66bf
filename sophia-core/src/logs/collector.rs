//! Hears the engine's events, and nobody else's.

use std::sync::Arc;

use tracing::{Event, Metadata, Subscriber, subscriber::Interest};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, SubscriberExt},
};

use super::{Entry, Filter};

/// Gives each event of the engine that `filter` takes to `sink`, in the whole process and for as long as it runs. Returns
/// false where somebody else hears the events of this process already, as the command line does.
///
/// For hosts that are not Rust: a Rust application has a subscriber of its own.
///
/// `sink` runs where the event is made: on a thread that may hold locks of the engine, or drive an event loop. It must neither
/// wait nor call back.
pub fn install(filter: Arc<Filter>, sink: impl Fn(Entry) + Send + Sync + 'static) -> bool {
    tracing::subscriber::set_global_default(subscriber(filter, sink)).is_ok()
}

fn subscriber(
    filter: Arc<Filter>,
    sink: impl Fn(Entry) + Send + Sync + 'static,
) -> impl Subscriber + Send + Sync + 'static {
    Registry::default().with(Collector { filter, sink })
}

struct Collector<F> {
    filter: Arc<Filter>,
    sink: F,
}

impl<S: Subscriber, F: Fn(Entry) + 'static> Layer<S> for Collector<F> {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Asked each time, since the filter changes. Others are never asked again: what they say may hold payloads.
        if is_ours(metadata) { Interest::sometimes() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        is_ours(metadata) && self.filter.takes(metadata)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        (self.sink)(Entry::of(event));
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.is_event() && metadata.target().starts_with("sophia")
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;

    /// Runs `work` and returns what it logged where `directives` are asked for.
    fn heard(directives: &str, work: impl FnOnce(&Filter)) -> Vec<Entry> {
        let (filter, entries) = (Arc::new(Filter::default()), Arc::new(Mutex::new(Vec::new())));
        filter.set(directives).unwrap();
        let sink = entries.clone();
        let subscriber = subscriber(filter.clone(), move |entry| sink.lock().push(entry));
        tracing::subscriber::with_default(subscriber, || work(&filter));
        std::mem::take(&mut *entries.lock())
    }

    #[test]
    fn an_event_is_told_with_its_capability_its_message_and_its_fields() {
        let heard = heard("warn", |_| {
            tracing::warn!(
                target: "sophia_core::memory::kv::far", tier = "l2", left = 3, late = true, error = %"a b", none = "", "away"
            );
        });
        let [entry] = &heard[..] else { panic!("{heard:?}") };
        assert_eq!((entry.level, &*entry.target, &*entry.message), ("warn", "sophia.memory", "away"));
        assert_eq!(json!(entry.fields), json!({"tier": "l2", "left": 3, "late": true, "error": "a b", "none": ""}));
        assert_eq!(entry.to_string(), r#"away tier=l2 left=3 late=true error="a b" none="""#);
        assert!(entry.place.0.ends_with("collector.rs") && entry.place.1 > 0);
    }

    #[test]
    fn what_is_not_asked_for_is_not_even_formatted() {
        struct Unformatted;
        impl fmt::Debug for Unformatted {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("nobody asked")
            }
        }
        let heard = heard("warn,sophia.memory=debug", |filter| {
            let debug = |value| {
                tracing::debug!(target: "sophia_core::chat", ?value, "of chat");
                tracing::debug!(target: "sophia_core::memory::store", "of memory");
            };
            debug(&Unformatted as &dyn fmt::Debug);
            filter.set("off").unwrap();
            debug(&Unformatted);
            filter.set("sophia=debug").unwrap();
            debug(&"shown");
        });
        let messages: Vec<_> = heard.iter().map(|entry| &*entry.message).collect();
        assert_eq!(messages, ["of memory", "of chat", "of memory"]);
    }

    #[test]
    fn what_other_crates_log_is_not_told() {
        let heard = heard("trace", |_| {
            tracing::error!(target: "rmcp::service", body = "a payload", "received");
            let span = tracing::error_span!(target: "sophia_core::chat", "a span");
            assert!(span.is_disabled());
        });
        assert_eq!(heard, []);
    }

    #[test]
    fn directives_that_cannot_be_read_change_nothing() {
        let heard = heard("info", |filter| {
            let error = filter.set("sophia.memory=loud").unwrap_err();
            assert!(error.message().contains("SOPHIA_LOG"), "{error}");
            tracing::info!("still heard");
        });
        assert_eq!(heard.len(), 1);
    }
}
