//! Protocols, in both directions: what a provider says becomes an [`Answer`](super::Answer), and what a client of ours
//! says becomes a [`ChatRequest`](super::ChatRequest).

pub mod openai;
