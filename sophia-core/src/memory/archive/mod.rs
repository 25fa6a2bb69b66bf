//! Taking what is remembered out of a store and putting it in: export, import, backup, check.
//!
//! | to see | open |
//! |---|---|
//! | what is carried, and what a technology must do | `store.rs` |
//! | writing a file | `export.rs` |
//! | reading a file, whoever wrote it | `import.rs`, `formats/` |
//! | backup and check | `upkeep.rs` |
//! | what stores share: pages, and what becomes of what is there | `pages.rs`, `merge.rs` |

mod export;
pub(super) mod formats;
mod import;
pub(super) mod merge;
pub(super) mod pages;
mod store;
mod upkeep;

pub use export::{Export, ExportReceipt};
pub use import::{Import, ImportFormat, ImportReceipt};
pub use store::{
    Archive, Item, ItemPage, KeptCheckpoint, KeptEntity, KeptFact, KeptKey, KeptRecord, Outcome, Part, Progress,
};
pub use upkeep::{Backup, BackupReceipt, Check, CheckReport, Problem, Repair};
