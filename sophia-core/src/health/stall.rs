//! Self-doubt: whether the prober itself was well while it looked.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::Clock;

/// Time between two beats.
pub(super) const BEAT: Duration = Duration::from_millis(250);
/// Least lateness that counts: a busy machine is a little late all the time.
const NOTICEABLE: Duration = Duration::from_millis(100);

/// Adds up the time for which our own timers did not fire.
///
/// A process that was stopped, swapped out or blocked sees every timer fire at once afterwards, and every answer that waited
/// meanwhile as one that never came. What it saw then says nothing about the services.
#[derive(Debug)]
pub(super) struct StallWatch {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Duration,
    lost: Duration,
}

impl StallWatch {
    pub fn new(clock: Arc<dyn Clock>) -> StallWatch {
        let last = clock.monotonic();
        StallWatch { clock, state: Mutex::new(State { last, lost: Duration::ZERO }) }
    }

    /// To be called every [`BEAT`] while anything is watched.
    pub fn beat(&self) {
        self.lost();
    }

    /// To be called when beats begin again after a pause that was meant.
    pub fn restart(&self) {
        self.state.lock().last = self.clock.monotonic();
    }

    /// Returns the time lost so far, to the moment.
    pub fn lost(&self) -> Duration {
        let mut state = self.state.lock();
        let now = self.clock.monotonic();
        let late = now.saturating_sub(state.last).saturating_sub(BEAT);
        if late >= NOTICEABLE {
            state.lost += late;
            state.last = now;
        } else if now.saturating_sub(state.last) >= BEAT {
            state.last = now;
        }
        state.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;

    #[test]
    fn time_without_beats_is_lost() {
        let clock = Arc::new(ManualClock::default());
        let watch = StallWatch::new(Arc::clone(&clock) as Arc<dyn Clock>);
        for _ in 0..100 {
            clock.advance(BEAT);
            watch.beat();
        }
        assert_eq!(watch.lost(), Duration::ZERO);
        clock.advance(Duration::from_secs(60));
        assert!(watch.lost() > Duration::from_secs(59));
    }
}
