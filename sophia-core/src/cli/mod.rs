//! The command line `sophia`, callable from the binary, from `python -m sophia` and from `npx sophia-ai`. Feature `cli`.
//!
//! | to | open |
//! |---|---|
//! | see or add a command | `arguments.rs` |
//! | see how a command is run | [`run`] (`run.rs`) |
//! | see what it does | `serve.rs`, `check.rs`, `mcp.rs`, `memory.rs`, `eval.rs` |
//! | change how results look | `output.rs`, `progress.rs` |

mod arguments;
mod check;
mod eval;
mod mcp;
mod memory;
mod output;
mod progress;
mod run;
mod serve;
#[cfg(feature = "mcp")]
mod streams;

pub use run::run;
