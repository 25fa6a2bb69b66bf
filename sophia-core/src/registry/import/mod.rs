//! Reads the configurations in which people keep their servers.
//!
//! | to | open |
//! |---|---|
//! | read a file: JSON, JSON with comments, YAML | [`file`] |
//! | tell which form a document has, and find its entries | [`dialect`] |
//! | turn one entry into a server | [`entry`] |
//! | merge the servers of several documents | [`load`] |

pub(crate) mod dialect;
pub(crate) mod entry;
pub(crate) mod file;
pub(crate) mod load;

pub use load::{Load, LoadError, LoadReport};
