//! OpenAI's chat completions: bodies and stream events, read from a provider (`answer.rs`) and written for a client
//! (`client.rs`).

mod answer;
mod client;

pub(crate) use answer::{Assembler, DONE, answer, body_of, replay, usage};
pub use client::{
    Encoding, FrameWriter, Inbound, InboundEmbed, read_embed, read_request, write_embeddings, write_error,
    write_models, write_response,
};
