//! What those who implement a trait of this crate run against their implementation.

pub mod mock_provider;

pub use mock_provider::{Fault, MockProvider};
