//! The semantic tier: the answer to a question that means the same, where that is safe.
//!
//! Off unless it is asked for. A question is compared only with those of the same wall: scope as far as it is shared,
//! providers, model, system prompt and every other field of the body. The nearest ones by embedding are read word by word;
//! what changes the meaning (a number, a sign, a name, a negation, who does what …) is a veto, whatever the embedding says. What is left is served
//! above a threshold that labels of this very wall have earned, and watched from then on.
//!
//! | to | open |
//! |---|---|
//! | see where it stands among the stages | [`Semantic`]: `stage.rs` |
//! | see what is decided, and what is learned from it | [`SemanticTier`]: `tier.rs` |
//! | find the nearest | `block.rs` |
//! | know when two questions ask the same | `verdict.rs` and `order.rs`, over `reading.rs`, `sign.rs` and `lexicon.rs` |
//! | see pairs that are served, and pairs that never are | `hits.txt`, `misses.txt` |
//! | know when two answers say the same | `answers.rs` |
//! | see how a threshold is earned | `calibration.rs` |
//! | configure it | [`SemanticConfig`]: `config.rs` |
//! | read what it did | [`SemanticReport`]: `report.rs` |

mod answers;
mod block;
mod calibration;
mod config;
mod lexicon;
mod order;
mod question;
mod reading;
mod report;
mod sign;
mod stage;
mod tier;
mod verdict;

pub use config::{SemanticConfig, SemanticMode, SemanticProfile};
pub(crate) use question::{Question, is_instruction};
pub use report::{SemanticDecision, SemanticFeedback, SemanticGroup, SemanticReport, SemanticVerdict};
pub(crate) use stage::Semantic;
pub(crate) use tier::{SemanticTier, Served};
