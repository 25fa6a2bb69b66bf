//! What those who implement a trait of this crate run against their implementation.
