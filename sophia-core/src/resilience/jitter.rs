//! A little chance, so that what began together does not end together.

use std::hash::{BuildHasher, RandomState};

/// Returns a number of 0..1; nothing depends on its quality.
pub(crate) fn random() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}
