//! The engine's own log as plain entries, for a host that is not Rust.
//!
//! A Rust application reads the engine's `tracing` events with a subscriber of its own, and needs nothing of this.
//!
//! | to | open |
//! |---|---|
//! | see what an event becomes | [`Entry`] |
//! | choose which events are made | [`Filter`] |
//! | hear them | [`install`] |
//! | hand them to another thread | [`Queue`] |

mod collector;
mod entry;
mod filter;
mod queue;

pub use collector::install;
pub use entry::Entry;
pub use filter::{Filter, asked};
pub use queue::Queue;
