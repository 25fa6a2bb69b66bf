//! One SQLite file is the only truth: records, their words and vectors, keys and facts, in one transaction.
//!
//! | to see | open |
//! |---|---|
//! | the tables | `schema.sql` |
//! | how a file is opened, and which are refused | `open.rs` |
//! | who runs the statements | `threads.rs` |
//! | records: write, read, search | `write.rs`, `read.rs`, `search.rs`, `filter.rs` |
//! | vectors in memory, kept up to date | `vectors.rs` |
//! | keys and values | `kv.rs` |
//! | the graph | `graph.rs` |
//! | forgetting | `forget.rs` |

mod filter;
mod forget;
mod graph;
mod kv;
mod open;
mod read;
mod search;
mod store;
mod threads;
mod vectors;
mod write;

pub use store::{SqliteBuilder, SqliteStore};
use store::{internal, micros, timestamp};
