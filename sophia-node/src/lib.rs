//! The native half of the npm package `sophia-ai`.
//!
//! It converts types, errors, cancellation and streams, and decides nothing. One class, `engine::Engine`, calls every
//! operation of the core by name: the arguments and the result are JSON text. What is ready at once is returned at once;
//! what is not is settled through the mailbox.
//!
//! | to | open |
//! |---|---|
//! | call operations | `engine.rs` |
//! | see how an answer comes back later | `mailbox.rs`, `runtime.rs` |
//! | call a function of JavaScript | `callback.rs` |
//! | see what is no operation: what takes a function or gives a stream | `methods.rs` |
//! | answer HTTP | `http.rs` |
//! | follow a line of the log | `logs.rs` |
//! | run the command line | `command_line.rs` |
//! | read a stream | `stream.rs` |
//! | see the schemas from which the facade's types are made | `schemas.rs` |
//! | see how errors and names are written | `failure.rs`, `case.rs` |
#![cfg_attr(test, allow(dead_code, reason = "what is exported to Node is not called from Rust"))]

mod callback;
mod case;
mod command_line;
mod engine;
mod failure;
mod http;
mod logs;
mod mailbox;
mod methods;
mod runtime;
mod schemas;
mod stream;
