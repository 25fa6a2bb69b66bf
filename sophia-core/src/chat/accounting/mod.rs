//! What calls cost, who spent it, and how much they may.
//!
//! | to see | open |
//! |---|---|
//! | what a token costs | [`Price`]: `prices.rs` |
//! | what was used and saved, by day | [`Costs`]: `ledger.rs` |
//! | what a scope may use | [`LimitConfig`]: `limits.rs` |
//! | where it is counted, for one process or several | `counts.rs` |
//! | a call on its way through all of it | `accounts.rs` |

mod accounts;
mod counts;
mod ledger;
mod limits;
mod prices;

pub(crate) use accounts::{Accounts, EMBEDDINGS};
pub(crate) use ledger::Account;
pub use ledger::{CostGroup, CostQuery, CostRow, Costs};
pub(crate) use limits::is_over_limit;
pub use limits::{LimitConfig, LimitKind, LimitStatus};
pub use prices::Price;
