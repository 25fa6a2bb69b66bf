//! Vectors side by side in memory, as bytes, and which of them are nearest to another.
//!
//! | to | open |
//! |---|---|
//! | see how they are kept and compared | `bytes.rs` |
//! | see how the nearest are found | `nearest.rs` |
//! | see the loop that the time is spent in | `kernel.rs` |
//! | see what memory they lie in | `pages.rs`, `bits.rs` |

mod bits;
mod bytes;
mod kernel;
mod nearest;
pub(crate) mod pages;

pub(crate) use bits::Bits;
pub(crate) use bytes::{ByteVectors, Needle, PLANES};
pub(crate) use nearest::{Near, Scan};
