//! Delays between tries: exponential, jittered, bounded.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// How long to wait before each further try.
///
/// Delays double from `first` to `max`; each is jittered, so that those who failed together do not return together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Delay before the second try.
    pub first: Duration,
    /// Longest delay.
    pub max: Duration,
    /// Tries after the first one.
    pub retries: usize,
}

impl Default for Backoff {
    /// 100 ms, doubling to 5 s, two retries.
    fn default() -> Self {
        Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5), retries: 2 }
    }
}

impl Backoff {
    /// Returns the delays, one for each retry.
    pub fn delays(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        let max = self.max;
        ExponentialBuilder::new()
            .with_min_delay(self.first)
            .with_max_delay(self.max)
            .with_max_times(self.retries)
            .with_jitter()
            .build()
            // Jitter is added on top of the cap.
            .map(move |delay| delay.min(max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_stay_below_the_maximum() {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1), retries: 8 };
        let delays: Vec<_> = backoff.delays().collect();
        assert_eq!(delays.len(), 8);
        assert!(delays[0] >= Duration::from_millis(100) && delays[0] <= Duration::from_millis(200));
        assert!(delays.iter().all(|delay| *delay <= Duration::from_secs(1)));
    }
}
