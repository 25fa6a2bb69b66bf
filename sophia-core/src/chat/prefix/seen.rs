//! Which beginnings of requests were sent lately: what was sent twice is likely to be sent again.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;

/// How long a provider keeps what it read, counted from its last use (Anthropic's default; OpenAI's is 5 to 10 minutes).
const LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Most beginnings of one generation; two are kept.
const MAX_SEEN: usize = 8192;

/// A beginning of a request, by its hash.
pub(super) type Beginning = [u8; 16];

/// The beginnings that were sent lately.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Beginning, Duration>,
    old: HashMap<Beginning, Duration>,
}

impl Seen {
    /// Notes that these beginnings are sent now, and returns which of them the provider should still know.
    pub fn send(&self, beginnings: &[Beginning], now: Duration) -> Vec<bool> {
        let mut seen = self.0.lock();
        let is_known = |at: Option<&Duration>| at.is_some_and(|at| now.saturating_sub(*at) < LIFETIME);
        let known = beginnings
            .iter()
            .map(|beginning| is_known(seen.young.get(beginning)) || is_known(seen.old.get(beginning)))
            .collect();
        if seen.young.len() + beginnings.len() > MAX_SEEN {
            seen.old = std::mem::take(&mut seen.young);
        }
        seen.young.extend(beginnings.iter().take(MAX_SEEN).map(|beginning| (*beginning, now)));
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_known_while_the_provider_keeps_it() {
        let seen = Seen::default();
        let at = Duration::from_secs;
        assert_eq!(seen.send(&[[1; 16], [2; 16]], at(0)), [false, false]);
        assert_eq!(seen.send(&[[1; 16]], at(299)), [true]);
        assert_eq!(seen.send(&[[1; 16], [2; 16]], at(598)), [true, false]);
    }

    #[test]
    fn no_more_than_two_generations_are_remembered() {
        let seen = Seen::default();
        for index in 0..5 * MAX_SEEN as u128 {
            seen.send(&[index.to_le_bytes()], Duration::ZERO);
        }
        let generations = seen.0.lock();
        assert!(generations.young.len() <= MAX_SEEN && generations.old.len() <= MAX_SEEN);
    }
}
