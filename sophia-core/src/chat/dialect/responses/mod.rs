//! OpenAI's Responses: a client's request (`inbound.rs`), a request for a provider (`outbound.rs`), what a provider says
//! (`answer.rs`, `assembler.rs`), and what a client hears (`client.rs`).

mod answer;
mod assembler;
mod client;
mod inbound;
mod outbound;

pub(crate) use answer::{answer, replay};
pub(crate) use assembler::Assembler;
pub use client::{FrameWriter, write_response};
#[cfg(feature = "http-server")]
pub(crate) use inbound::read_further_request;
pub use inbound::{Inbound, read_request};
pub(crate) use outbound::write_request;
