//! The HTTP surface, written once; `sophia serve`, ASGI and Node are its hosts. Feature `http-server`.
//!
//! | to | open |
//! |---|---|
//! | set address, keys, hosts and limits | [`ServerConfig`] (`config.rs`) |
//! | answer a request, or open a live connection | `Surface` (`surface.rs`, `body.rs`, `peer.rs`) |
//! | see who may call, and in which scope | `guard.rs`, `caller.rs`, `scopes.rs` |
//! | add a route | `routes.rs`; `exposed.rs` lists the operations that HTTP offers |
//! | see how an operation is called and answered | `call.rs`, `reply.rs`, `sse.rs` |
//! | speak another dialect | `chat.rs`, `openai.rs`, `responses.rs` (what it keeps: `conversations.rs`), `anthropic.rs` |
//! | feed dashboards | `live.rs`, `ai_memory.rs` |
//! | describe it all | `openapi.rs` |
//! | listen on a socket | `serve` (`host.rs`, `patience.rs`) |

mod config;

#[cfg(feature = "http-server")]
mod ai_memory;
#[cfg(feature = "http-server")]
mod anthropic;
#[cfg(feature = "http-server")]
mod body;
#[cfg(feature = "http-server")]
mod call;
#[cfg(feature = "http-server")]
mod caller;
#[cfg(feature = "http-server")]
mod chat;
#[cfg(feature = "http-server")]
mod conversations;
#[cfg(feature = "http-server")]
mod exposed;
#[cfg(feature = "http-server")]
mod guard;
#[cfg(feature = "http-server")]
mod host;
#[cfg(feature = "http-server")]
mod live;
#[cfg(feature = "http-server")]
mod openai;
#[cfg(feature = "http-server")]
mod openapi;
#[cfg(feature = "http-server")]
mod patience;
#[cfg(feature = "http-server")]
mod peer;
#[cfg(feature = "http-server")]
mod reply;
#[cfg(feature = "http-server")]
mod responses;
#[cfg(feature = "http-server")]
mod routes;
#[cfg(feature = "http-server")]
mod scopes;
#[cfg(feature = "http-server")]
mod sse;
#[cfg(feature = "http-server")]
mod surface;

pub use config::{ApiKey, ServerConfig};

#[cfg(feature = "http-server")]
pub use self::{
    body::Body,
    host::{bind, serve},
    live::Live,
    peer::Peer,
    surface::{Response, Surface, headers},
};
#[cfg(feature = "http-server")]
pub use axum::http::HeaderMap as Headers;
