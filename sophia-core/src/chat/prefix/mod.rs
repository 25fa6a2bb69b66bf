//! The prefix optimiser: makes the provider's own prompt cache hit, and says what broke it.
//!
//! A provider reads again for a tenth of the price what it read before, if the beginning of a request is the same to the
//! byte. So nothing is re-ordered or rewritten here; only marks are added that say where the beginning ends
//! (`cache_control`, as Anthropic takes it) or which server knows it (`prompt_cache_key`, as OpenAI takes it). Neither is
//! part of the cache key.
//!
//! | to | open |
//! |---|---|
//! | see where it stands: around each provider | [`Prefixed`]: `stage.rs` |
//! | see where marks are set, and when they pay | `marks.rs`, over what was seen: `seen.rs` |
//! | see how the first byte that differs is found | `diagnosis.rs` |
//! | configure it | [`PrefixConfig`]: `config.rs` |

mod config;
mod diagnosis;
mod marks;
mod seen;
mod stage;

pub use config::{PrefixConfig, PromptCacheKey};
pub(crate) use stage::{Form, Prefixed};
