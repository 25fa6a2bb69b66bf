//! OpenAI's chat completions: bodies and stream events, what a provider is asked (`outbound.rs`), what it says (`answer.rs`),
//! and what a client says and hears (`client.rs`).

mod answer;
mod client;
mod outbound;
mod whole;

pub(crate) use answer::{Assembler, DONE, answer, body_of, gives_values, replay, usage};
pub use client::{
    Encoding, FrameWriter, Inbound, InboundEmbed, read_embed, read_request, write_embeddings, write_error, write_model,
    write_models, write_response,
};
pub(crate) use outbound::write_request;
pub(crate) use whole::read as read_whole;
