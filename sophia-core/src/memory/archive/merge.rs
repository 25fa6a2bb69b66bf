//! What becomes of an item that is written where one of its name is, the same for every store. Pure functions.

use super::store::{KeptRecord, Outcome};
use crate::{
    Error, ErrorKind, Result,
    memory::{Entity, Fact, Record},
};

const OPERATION: &str = "memory.import";

/// What takes the place of a record; what was there becomes a version of it.
pub(in crate::memory) struct Replacement {
    /// The record, with its number and version here.
    pub record: Record,
    /// Its former versions, in place of all that are there; `None` where these stay.
    pub versions: Option<Vec<Record>>,
}

/// Returns what takes the place of a record; `None` where it is the same, or newer.
///
/// # Errors
/// Conflict where it belongs to another session or agent.
pub(in crate::memory) fn record(old: &Record, kept: KeptRecord) -> Result<Option<Replacement>> {
    let KeptRecord { mut record, versions, is_undated, .. } = kept;
    if old.scope != record.scope {
        let message = "the id belongs to a record of another session or agent of this user";
        return Err(Error::new(ErrorKind::Conflict, OPERATION, message).with("id", &record.id));
    }
    record.seq = old.seq;
    let is_same =
        Record { version: old.version, created_at: old.created_at, updated_at: old.updated_at, ..record.clone() }
            == *old;
    if is_same || is_undated || old.updated_at >= record.updated_at {
        return Ok(None);
    }
    // A record of another tool counts from one: it becomes the next version of what is there.
    if record.version > old.version && versions.len() as i64 + 1 == record.version {
        return Ok(Some(Replacement { record, versions: Some(versions) }));
    }
    record.version = old.version + 1;
    Ok(Some(Replacement { record, versions: None }))
}

/// Returns what becomes of an entity; what is there may be one that only facts name.
pub(in crate::memory) fn entity(old: &Entity, new: &Entity) -> Outcome {
    match old.created_at {
        None => Outcome::Added,
        Some(_) if old == new || old.updated_at >= new.updated_at => Outcome::Unchanged,
        Some(_) => Outcome::Updated,
    }
}

/// Greatest number of a record that is taken over: the greatest that JavaScript holds exactly. Stores count on from it, and
/// could not from the greatest of all.
pub(in crate::memory) const MAX_NUMBER: i64 = (1 << 53) - 1;

/// Where a fact is, and when it was ended: microseconds since 1970.
pub(in crate::memory) type Known = (i64, Option<i64>);

/// Returns what becomes of a fact of a wall: one that is there can only have ended since.
///
/// # Errors
/// Conflict where it belongs to another wall.
pub(in crate::memory) fn fact(old: Option<Known>, wall: i64, new: &Fact) -> Result<Outcome> {
    match old {
        None => Ok(Outcome::Added),
        Some((theirs, _)) if theirs != wall => {
            let message = "the id belongs to a fact of somebody else";
            Err(Error::new(ErrorKind::Conflict, OPERATION, message).with("id", &new.id))
        }
        Some((_, None)) if new.expired_at.is_some() => Ok(Outcome::Updated),
        Some(_) => Ok(Outcome::Unchanged),
    }
}
