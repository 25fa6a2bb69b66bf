//! Anthropic's Messages: a client's request (`inbound.rs`), a request for a provider (`outbound.rs`), what a provider says
//! (`answer.rs`, `assembler.rs`), what a client hears (`client.rs`), and contents in both directions (`parts.rs`).

mod answer;
mod assembler;
mod client;
mod inbound;
mod outbound;
mod parts;

pub(crate) use answer::{answer, replay};
pub(crate) use assembler::Assembler;
pub use client::{FrameWriter, write_error, write_response};
pub(crate) use inbound::is_said_beside;
pub use inbound::read_request;
pub(crate) use outbound::{Outbound, write_request};
