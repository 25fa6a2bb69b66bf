//! The time: the system's, or one that a test moves by hand.

use std::{
    fmt::Debug,
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use jiff::Timestamp;

/// Where capabilities read the time, so that tests and replays never sleep.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Returns the time of day, UTC.
    fn now(&self) -> Timestamp;

    /// Returns the time since an arbitrary start; it never goes back.
    fn monotonic(&self) -> Duration;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that stands still until it is moved.
///
/// ```
/// use std::time::Duration;
/// use sophia_core::{Clock, ManualClock};
///
/// let clock = ManualClock::default();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now().duration_since(before).as_secs(), 60);
/// ```
#[derive(Debug)]
pub struct ManualClock {
    start: Timestamp,
    elapsed_us: AtomicI64,
}

impl ManualClock {
    /// Creates a clock that shows `start`.
    pub fn new(start: Timestamp) -> ManualClock {
        ManualClock { start, elapsed_us: AtomicI64::new(0) }
    }

    /// Moves the clock forward, to the microsecond.
    pub fn advance(&self, by: Duration) {
        self.elapsed_us.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    fn elapsed_us(&self) -> i64 {
        self.elapsed_us.load(Ordering::SeqCst)
    }
}

impl Default for ManualClock {
    /// Starts at 2026-01-01T00:00:00Z.
    fn default() -> Self {
        ManualClock::new(Timestamp::constant(1_767_225_600, 0))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        // Saturates at the end of representable time.
        self.start.saturating_add(jiff::SignedDuration::from_micros(self.elapsed_us())).unwrap_or(Timestamp::MAX)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.elapsed_us().unsigned_abs())
    }
}
