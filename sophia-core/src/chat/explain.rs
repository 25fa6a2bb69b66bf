//! What each stage did for one call, for callers who ask: `explain` of a request.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// Most notes of one call; a provider that is tried again and again leaves one each time.
const MAX_NOTES: usize = 64;
/// Stages that each caller passes for itself.
const OWN: [&str; 3] = ["key", "l1", "flight"];

/// What each stage did, in the order in which they were done with.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Explanation {
    /// The stages that the call passed.
    pub stages: Vec<StageNote>,
}

/// What one stage did.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct StageNote {
    /// `"key"`, `"l1"`, `"flight"`, `"l2"`, `"semantic"`, `"admission"`, `"prefix"`, `"router"` or `"keep"`.
    pub stage: &'static str,
    /// What came of it, such as `"hit"`, `"miss"`, `"joined"` or `"kept"`.
    pub outcome: &'static str,
    /// How long it took, in milliseconds. A router takes as long as its providers, a flight as long as all that is in it.
    pub took_ms: f64,
    /// What else there is to know; null where there is nothing.
    pub detail: Option<Value>,
}

/// Takes notes, where they are asked for. Cheap to clone; all clones write on the same page.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace(Option<Arc<Mutex<Vec<StageNote>>>>);

impl Trace {
    /// Creates one that takes notes where the caller asks for an explanation.
    pub fn new(is_asked_for: bool) -> Trace {
        Trace(is_asked_for.then(Arc::default))
    }

    /// Returns when a stage begins; `None` where nobody asked, so that nothing is spent on the clock.
    pub fn start(&self) -> Option<Instant> {
        self.0.as_ref().map(|_| Instant::now())
    }

    /// Notes what a stage did since [`Trace::start`].
    pub fn note(&self, stage: &'static str, outcome: &'static str, start: Option<Instant>) {
        self.note_with(stage, outcome, start, || None);
    }

    /// Notes what a stage did since [`Trace::start`], with a detail that is made only where somebody asked.
    pub fn note_with(
        &self,
        stage: &'static str,
        outcome: &'static str,
        start: Option<Instant>,
        detail: impl FnOnce() -> Option<Value>,
    ) {
        let (Some(notes), Some(start)) = (&self.0, start) else { return };
        let took_ms = start.elapsed().as_secs_f64() * 1000.0;
        let detail = detail();
        let mut notes = notes.lock();
        if notes.len() < MAX_NOTES {
            notes.push(StageNote { stage, outcome, took_ms, detail });
        }
    }

    /// Adds what was noted by the flight that this call joined: the stages of the flight, not those of its leader.
    pub fn take_in(&self, flight: &Trace) {
        let (Some(own), Some(flight)) = (&self.0, &flight.0) else { return };
        if Arc::ptr_eq(own, flight) {
            return;
        }
        let shared: Vec<_> = flight.lock().iter().filter(|note| !OWN.contains(&note.stage)).cloned().collect();
        own.lock().extend(shared);
    }

    /// Returns what was noted; `None` where nobody asked.
    pub fn explanation(&self) -> Option<Explanation> {
        self.0.as_ref().map(|notes| Explanation { stages: notes.lock().clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_taken_only_where_they_are_asked_for_and_are_bounded() {
        let (off, on) = (Trace::new(false), Trace::new(true));
        off.note_with("key", "made", off.start(), || panic!("made for nobody"));
        assert_eq!(off.explanation(), None);
        (0..100).for_each(|_| on.clone().note("key", "made", on.start()));
        assert_eq!(on.explanation().unwrap().stages.len(), MAX_NOTES);
    }
}
