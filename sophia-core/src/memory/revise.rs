//! What becomes of a record that is changed, the same for every store. Pure functions.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    record::{PINNED, Record, Status, Update},
    validate,
};
use crate::{Error, ErrorKind, Result};

/// Version of a record that there is not.
pub(crate) const NO_VERSION: i64 = 0;

/// A record before and after a change.
#[derive(Debug)]
pub(crate) struct Revision {
    pub old: Record,
    pub new: Record,
}

impl Revision {
    /// Returns whether the content has changed, and with it the vector.
    pub fn is_of_content(&self) -> bool {
        self.old.content != self.new.content
    }
}

/// Changes what was found under the id in the wall of the scope. `NotFound` where the scope does not have it, `Conflict` where
/// its version is another.
pub(crate) fn revise(found: Option<Record>, update: Update, now: Timestamp) -> Result<Revision> {
    let absent = || {
        Error::new(ErrorKind::NotFound, "memory.update", "there is no record of this id in this scope")
            .with("id", &update.id)
    };
    let old = found
        .filter(|record| update.scope.covers(&record.scope))
        .filter(|record| record.expires_at.is_none_or(|expires_at| expires_at > now))
        .filter(|record| record.status == Status::Active || update.status == Some(Status::Active))
        .ok_or_else(absent)?;
    check_version("memory.update", &update.id, update.if_version, old.version)?;
    let (own_ttl, retention_ttl) = (update.ttl, update.retention_ttl);
    let mut new = patched(&old, update);
    let is_new_version = own_ttl.is_none() || new != old;
    match (own_ttl, retention_ttl) {
        (Some(ttl), _) => new.expires_at = validate::expiry("memory.update", now, ttl)?,
        (None, Some(ttl)) => new.expires_at = expiry(&old, new.importance, ttl, now),
        (None, None) => {}
    }
    if is_new_version {
        new.version = next_version("memory.update", &old)?;
        new.updated_at = now;
    }
    Ok(Revision { old, new })
}

fn check_version(operation: &'static str, id: &str, expected: Option<i64>, found: i64) -> Result<()> {
    match expected.filter(|expected| *expected != found) {
        None => Ok(()),
        Some(expected) => Err(Error::new(ErrorKind::Conflict, operation, "the record has changed meanwhile")
            .with("id", id)
            .with("expected", expected)
            .with("found", found)),
    }
}

/// Returns when a record ends whose importance is changed: no rule drops what is pinned, and one drops what no longer is. What
/// the caller said stays.
fn expiry(old: &Record, importance: f64, ttl: Duration, now: Timestamp) -> Option<Timestamp> {
    let by_rule = |since: Timestamp| since.checked_add(ttl).ok();
    match (old.importance >= PINNED, importance >= PINNED) {
        (false, true) => old.expires_at.filter(|ends| Some(*ends) != by_rule(old.created_at)),
        (true, false) => old.expires_at.or_else(|| by_rule(now)),
        _ => old.expires_at,
    }
}

/// Lets a record be stored under its id. `Conflict` where one is there of another session or agent, or where the caller knows
/// of another version. What is hidden or has expired is no version that anybody knows of.
pub(crate) fn check(existing: Option<&Record>, new: &Record, if_version: Option<i64>) -> Result<()> {
    if existing.is_some_and(|existing| !new.scope.covers(&existing.scope)) {
        let message = "the id belongs to a record of another session or agent of this user";
        return Err(Error::new(ErrorKind::Conflict, "memory.store", message).with("id", &new.id));
    }
    let has_ended = |record: &&Record| record.expires_at.is_some_and(|expires_at| expires_at <= new.updated_at);
    let found = existing.filter(|record| record.status == Status::Active && !has_ended(record));
    check_version("memory.store", &new.id, if_version, found.map_or(NO_VERSION, |record| record.version))
}

/// Puts a record that is stored under the id of an existing one in its place. `Conflict` as in [`check`].
pub(crate) fn replace(existing: &Record, mut new: Record, if_version: Option<i64>) -> Result<Record> {
    check(Some(existing), &new, if_version)?;
    new.seq = existing.seq;
    new.version = next_version("memory.store", existing)?;
    new.created_at = existing.created_at;
    Ok(new)
}

/// Hides a record. One that is at the last version stays at that: what hides many is not held up by one.
pub(crate) fn archive(old: &Record, now: Timestamp) -> Record {
    Record { status: Status::Archived, version: old.version.saturating_add(1), updated_at: now, ..old.clone() }
}

/// Returns the version after that of a record. A file that was imported by an older release may hold the last one.
fn next_version(operation: &'static str, old: &Record) -> Result<i64> {
    old.version.checked_add(1).ok_or_else(|| {
        let message =
            "the record is at the last version that there can be: store it under another id, and delete this one";
        Error::new(ErrorKind::Conflict, operation, message).with("id", &old.id).with("version", old.version)
    })
}

/// Returns what equal contents have in common.
pub(crate) fn content_hash(content: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(content.as_bytes()).as_bytes()[..16]);
    short
}

fn patched(old: &Record, update: Update) -> Record {
    let mut new = old.clone();
    if let Some(content) = update.content {
        new.content = content;
    }
    if let Some(category) = update.category {
        new.category = category;
    }
    if let Some(tags) = update.tags {
        new.tags = tags.unwrap_or_default();
    }
    match update.metadata {
        None => {}
        Some(None) => new.metadata.clear(),
        Some(Some(facts)) => {
            for (key, value) in facts {
                if value.is_null() {
                    new.metadata.shift_remove(&key);
                } else {
                    new.metadata.insert(key, value);
                }
            }
        }
    }
    new.priority = update.priority.unwrap_or(old.priority);
    new.importance = update.importance.unwrap_or(old.importance);
    new.importance = update.importance.unwrap_or(old.importance);
    if let Some(summary) = update.summary {
        new.summary = summary;
    }
    new.status = update.status.unwrap_or(old.status);
    new
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_at_the_last_version_is_not_changed_and_says_why_and_can_be_hidden() {
        let record = json!({"id": "r", "seq": 1, "version": i64::MAX, "content": "x", "kind": "note", "category": null,
            "tags": [], "metadata": {}, "summary": null, "source": null, "role": null, "importance": 0.5,
            "priority": "medium", "status": "active", "scope": {}, "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z", "expires_at": null});
        let record: Record = serde_json::from_value(record).unwrap();
        let now = record.updated_at;
        let changed = revise(Some(record.clone()), Update::new("r").content("y"), now).unwrap_err();
        let replaced = replace(&record, record.clone(), None).unwrap_err();
        for error in [changed, replaced] {
            assert_eq!((error.code(), error.get("id")), ("CONFLICT", Some("r")));
        }
        assert_eq!(revise(Some(record.clone()), Update::new("r").ttl(None), now).unwrap().new.version, i64::MAX);
        let hidden = archive(&record, now);
        assert_eq!((hidden.version, hidden.status), (i64::MAX, Status::Archived));
    }
}
