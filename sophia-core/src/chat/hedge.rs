//! When a slow call is asked a second time elsewhere, and how often at most.
//!
//! After Dean and Barroso, *The Tail at Scale* (CACM, 2013): the second request goes once the first has outlasted the 95th
//! percentile, so that it is rare; a budget keeps it rare when everything is slow.

use std::{collections::VecDeque, time::Duration};

use dashmap::DashMap;
use parking_lot::Mutex;

use super::{config::HedgeConfig, provider::ProviderCall};

/// Answers over which the percentile is taken.
const WINDOW: usize = 128;
/// Answers before which nothing is known about a model.
const MIN_ANSWERS: usize = 20;
/// Percentile after which a call is slow.
const SLOW: f64 = 0.95;
/// Hedges that may be saved up: a short hiccup is bridged, an outage is not doubled.
const MAX_SAVED: f64 = 10.0;
/// Most models that are watched; they are named by callers.
const MAX_WATCHED: usize = 4096;

/// Decides when to hedge.
#[derive(Debug)]
pub(crate) struct Hedger {
    config: HedgeConfig,
    pace: DashMap<Watched, Mutex<Pace>>,
    /// Hedges that are paid for.
    saved: Mutex<f64>,
}

/// A provider, a model, and whether its answers are whole or streamed: the latter take until the first part.
type Watched = (String, String, &'static str);

/// How long the last answers took.
#[derive(Debug, Default)]
struct Pace {
    last: VecDeque<Duration>,
}

impl Hedger {
    pub fn new(config: HedgeConfig) -> Hedger {
        Hedger { config, pace: DashMap::new(), saved: Mutex::new(0.0) }
    }

    /// Takes one call, of which a share pays for a hedge.
    pub fn called(&self) {
        if self.config.enabled {
            let mut saved = self.saved.lock();
            *saved = (*saved + self.config.budget).min(MAX_SAVED);
        }
    }

    /// Takes how long an answer took.
    pub fn answered(&self, provider: &str, call: &ProviderCall, took: Duration) {
        if !self.config.enabled {
            return;
        }
        let key = watched(provider, call);
        if self.pace.len() >= MAX_WATCHED && !self.pace.contains_key(&key) {
            return;
        }
        let pace = self.pace.entry(key).or_default();
        let mut pace = pace.lock();
        if pace.last.len() == WINDOW {
            pace.last.pop_front();
        }
        pace.last.push_back(took);
    }

    /// Returns how long to wait for an answer before it is asked for elsewhere too; `None` where it never is.
    pub fn patience(&self, provider: &str, call: &ProviderCall) -> Option<Duration> {
        if !self.config.enabled {
            return None;
        }
        let pace = self.pace.get(&watched(provider, call))?;
        let mut took: Vec<_> = pace.lock().last.iter().copied().collect();
        if took.len() < MIN_ANSWERS {
            return None;
        }
        let rank = (SLOW * took.len() as f64).ceil() as usize - 1;
        Some(*took.select_nth_unstable(rank).1)
    }

    /// Pays for a hedge. Returns whether there was enough.
    pub fn pay(&self) -> bool {
        // What many small additions may be short of.
        const ROUNDING: f64 = 1e-9;
        let mut saved = self.saved.lock();
        let enough = *saved + ROUNDING >= 1.0;
        if enough {
            *saved = (*saved - 1.0).max(0.0);
        }
        enough
    }
}

fn watched(provider: &str, call: &ProviderCall) -> Watched {
    (provider.to_owned(), call.model.clone(), call.operation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{chat::provider::SharedDeadline, resilience::Deadline};

    fn call() -> ProviderCall {
        ProviderCall {
            operation: "chat.complete",
            model: "m".into(),
            body: serde_json::Map::new(),
            dialect: crate::chat::dialect::Dialect::default(),
            deadline: SharedDeadline::new(Deadline::after(Duration::from_secs(1))),
            keeping: None,
            context: "default".into(),
            scope: crate::Scope::new(),
            trace: crate::chat::explain::Trace::default(),
            asked_of: Default::default(),
            pass: Default::default(),
            parent: None,
        }
    }

    fn hedger() -> Hedger {
        Hedger::new(HedgeConfig { enabled: true, ..HedgeConfig::default() })
    }

    #[test]
    fn patience_ends_at_the_95th_percentile_once_enough_is_known() {
        let (hedger, call) = (hedger(), call());
        for ms in 1..MIN_ANSWERS as u64 {
            hedger.answered("p", &call, Duration::from_millis(ms));
        }
        assert_eq!(hedger.patience("p", &call), None);
        for ms in MIN_ANSWERS as u64..=100 {
            hedger.answered("p", &call, Duration::from_millis(ms));
        }
        assert_eq!(hedger.patience("p", &call), Some(Duration::from_millis(95)));
        assert_eq!(hedger.patience("q", &call), None);
        assert_eq!(hedger.patience("p", &ProviderCall { operation: "chat.stream", ..call.clone() }), None);
        for _ in 0..WINDOW {
            hedger.answered("p", &call, Duration::from_millis(7));
        }
        assert_eq!(hedger.patience("p", &call), Some(Duration::from_millis(7)), "what is old is forgotten");
    }

    #[test]
    fn one_call_of_twenty_pays_for_a_hedge_and_few_are_saved_up() {
        let hedger = hedger();
        let mut paid = 0;
        for _ in 0..1000 {
            hedger.called();
            paid += u32::from(hedger.pay());
        }
        assert_eq!(paid, 50);
        (0..10_000).for_each(|_| hedger.called());
        assert_eq!((0..100).filter(|_| hedger.pay()).count(), MAX_SAVED as usize);
    }

    #[test]
    fn nothing_is_hedged_unless_it_is_asked_for() {
        let (hedger, call) = (Hedger::new(HedgeConfig::default()), call());
        for _ in 0..100 {
            hedger.called();
            hedger.answered("p", &call, Duration::from_millis(1));
        }
        assert_eq!((hedger.patience("p", &call), hedger.pay()), (None, false));
    }
}
