//! Facts that know when they were true, and when that was known.
//!
//! | to see | open |
//! |---|---|
//! | what a fact is, and what is asked | `fact.rs` |
//! | what turns text into facts | `extract.rs` |
//! | entities with observations, as `server-memory` has them | `nodes.rs` |
//! | what a technology must do | `store.rs` |
//! | what users call | `handle.rs` |
//! | what becomes of what was believed before | `believe.rs` |
//! | what becomes of entities with observations | `stored.rs` |

pub(super) mod believe;
mod extract;
mod fact;
mod handle;
mod nodes;
mod store;
pub(super) mod stored;

pub use extract::{Extract, Extracted, Extraction, Extractor, FoundEntity, FoundFact};
pub use fact::{Entity, Fact, FactQuery, Neighbor, NeighborQuery, NewEntity, NewFact, PathQuery};
pub use handle::Graph;
pub(super) use handle::check_change;
pub use nodes::{Node, NodeChange, NodeSelection, Nodes, NodesAdded, Observations, Relation};
pub use store::GraphStore;
