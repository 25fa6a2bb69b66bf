//! What all four capabilities use to live with dependencies that fail.
//!
//! | to | open |
//! |---|---|
//! | stop asking what is broken | [`breaker`] |
//! | wait between tries | [`backoff`] |
//! | give up in time | [`deadline`] |
//! | ask many at once, and give up in time | [`check_all`] |
//! | do at most so many things at once | [`limiter`] |
//! | do the same thing once for all who ask | [`single_flight`] |

pub mod backoff;
pub mod breaker;
pub mod check_all;
pub mod deadline;
pub(crate) mod jitter;
pub mod limiter;
pub mod single_flight;

pub use backoff::Backoff;
pub use breaker::{BreakerConfig, BreakerSnapshot, BreakerState, CircuitBreaker};
pub use check_all::CheckAll;
pub use deadline::Deadline;
pub use limiter::{Limiter, Permit};
pub use single_flight::{Flown, Role, SingleFlight, abandoned};
