//! Postgres is the truth in place of the SQLite file: for more than one machine.
//!
//! | to see | open |
//! |---|---|
//! | what is configured | `config.rs` |
//! | the tables, and which are refused | `schema.sql`, `migrate.rs` |
//! | connections, TLS, deadlines | `link.rs`, `tls.rs` |
//! | records: write, read, search | `write.rs`, `read.rs`, `search.rs`, `near.rs`, `filter.rs` |
//! | vectors, and those that are to be made anew | `vectors.rs`, `stale.rs` |
//! | keys and values, and what others change | `kv.rs`, `listen.rs` |
//! | the graph, and as `server-memory` sees it | `graph.rs`, `nodes.rs` |
//! | checkpoints | `checkpoints.rs`, `checkpoint_values.rs` |
//! | forgetting | `forget.rs` |
//! | export and import, check and repair | `archive.rs`, `check.rs` |

mod config;

#[cfg(feature = "postgres")]
mod archive;
#[cfg(feature = "postgres")]
mod check;
#[cfg(feature = "postgres")]
mod checkpoint_values;
#[cfg(feature = "postgres")]
mod checkpoints;
#[cfg(feature = "postgres")]
mod filter;
#[cfg(feature = "postgres")]
mod forget;
#[cfg(feature = "postgres")]
mod graph;
#[cfg(feature = "postgres")]
mod kv;
#[cfg(feature = "postgres")]
mod link;
#[cfg(feature = "postgres")]
mod listen;
#[cfg(feature = "postgres")]
mod migrate;
#[cfg(feature = "postgres")]
mod near;
#[cfg(feature = "postgres")]
mod nodes;
#[cfg(feature = "postgres")]
mod read;
#[cfg(feature = "postgres")]
mod search;
#[cfg(feature = "postgres")]
mod stale;
#[cfg(feature = "postgres")]
mod store;
#[cfg(feature = "postgres")]
mod tls;
#[cfg(feature = "postgres")]
mod vectors;
#[cfg(feature = "postgres")]
mod write;

pub use config::PostgresConfig;
#[cfg(feature = "postgres")]
pub use store::PostgresStore;
#[cfg(feature = "postgres")]
use store::{json, micros, read_json, timestamp};
