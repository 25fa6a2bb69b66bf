//! Facts that know when they were true, and when that was known.
//!
//! | to see | open |
//! |---|---|
//! | what a fact is, and what is asked | `fact.rs` |
//! | what a technology must do | `store.rs` |
//! | what users call | `handle.rs` |
//! | what becomes of what was believed before | `believe.rs` |

pub(super) mod believe;
mod fact;
mod handle;
mod store;

pub use fact::{Entity, Fact, FactQuery, Neighbor, NeighborQuery, NewEntity, NewFact, PathQuery};
pub use handle::Graph;
pub use store::GraphStore;
