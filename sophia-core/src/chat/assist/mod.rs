//! With memory and tools: what happens around a question before and after it goes through the stages.
//!
//! | to see | open |
//! |---|---|
//! | what is recalled for a question, and what is kept of it | [`UseMemory`], [`Recalled`]: `recall.rs` |
//! | which tools a model may call, and how they are called | [`ToolBox`], [`ToolStep`]: `tools.rs` |
//! | the rounds of a conversation with tools | `rounds.rs` |
//! | the methods | `methods.rs` |

mod methods;
mod recall;
mod rounds;
mod tools;

pub use recall::{Recalled, UseMemory};
pub(super) use recall::{UseMemoryForm, read as read_memory};
pub use rounds::Assistance;
pub(crate) use rounds::Assistants;
pub use tools::{CallbackTools, ToolAsk, ToolBox, ToolStep};
pub(super) use tools::{REGISTRY, names_of_boxes};
