//! [`Seals`]: what tells a near copy that its key was changed elsewhere.
//!
//! Others name a changed key by its hash only. So hashes fall into stripes that count changes, and a copy carries the
//! count that its stripe had before the value was read: once they differ, the copy is not served any more. A change makes
//! one copy in [`STRIPES`] suspect by mistake; no list of hashes has to be kept, and a look costs two loads.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Counters of changes: one mistake in so many.
const STRIPES: usize = 1 << 14;

/// Counts of changes elsewhere.
#[derive(Debug)]
pub(crate) struct Seals {
    /// Whether no copy may be served while nobody says what others change.
    needs_ears: AtomicBool,
    hears: AtomicBool,
    everything: AtomicU32,
    stripes: Box<[AtomicU32]>,
}

/// The counts at the moment before a value was read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Seal {
    everything: u32,
    stripe: u32,
    count: u32,
}

impl Default for Seals {
    fn default() -> Self {
        Seals {
            needs_ears: AtomicBool::new(false),
            hears: AtomicBool::new(false),
            everything: AtomicU32::new(0),
            stripes: (0..STRIPES).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "nothing is shared in this build"))]
impl Seals {
    /// Takes the counts of a key. To be called before its value is read.
    pub fn seal(&self, hash: u64) -> Seal {
        let stripe = (hash % STRIPES as u64) as u32;
        Seal {
            everything: self.everything.load(Ordering::Acquire),
            stripe,
            count: self.stripes[stripe as usize].load(Ordering::Acquire),
        }
    }

    /// Returns whether nothing has changed since.
    pub fn holds(&self, seal: Seal) -> bool {
        (self.hears.load(Ordering::Acquire) || !self.needs_ears.load(Ordering::Relaxed))
            && self.everything.load(Ordering::Acquire) == seal.everything
            && self.stripes[seal.stripe as usize].load(Ordering::Acquire) == seal.count
    }

    /// Lets no copy be served while nobody says what others change.
    pub fn need_ears(&self) {
        self.needs_ears.store(true, Ordering::Relaxed);
    }

    /// Takes note of whether changes are heard.
    pub fn hear(&self, hears: bool) {
        self.hears.store(hears, Ordering::Release);
    }

    /// Takes note of a change of the key with this hash.
    pub fn break_one(&self, hash: u64) {
        self.stripes[(hash % STRIPES as u64) as usize].fetch_add(1, Ordering::AcqRel);
    }

    /// Takes note that any key may have changed.
    pub fn break_all(&self) {
        self.everything.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_breaks_the_seals_of_its_key_that_are_older() {
        let seals = Seals::default();
        let (old, other) = (seals.seal(7), seals.seal(8));
        seals.break_one(7);
        assert!(!seals.holds(old) && seals.holds(other) && seals.holds(seals.seal(7)));
        seals.break_all();
        assert!(!seals.holds(other) && seals.holds(seals.seal(8)));
    }

    #[test]
    fn where_ears_are_needed_nothing_holds_without_them() {
        let seals = Seals::default();
        let seal = seals.seal(1);
        seals.need_ears();
        assert!(!seals.holds(seal));
        seals.hear(true);
        assert!(seals.holds(seal));
    }
}
