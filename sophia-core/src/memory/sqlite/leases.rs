//! The right to do something alone, among all processes that have the file open.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{internal, micros};
use crate::Result;

/// Takes, prolongs or, for a time of zero, gives up; returns whether `holder` could.
pub(super) fn take(connection: &Connection, name: &str, holder: &str, lasts: Duration, now: Timestamp) -> Result<bool> {
    let lasts = i64::try_from(lasts.as_micros()).unwrap_or(i64::MAX);
    let now = micros(now);
    connection
        .prepare_cached(
            "INSERT INTO leases (name, holder, until) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE \
             SET holder = excluded.holder, until = excluded.until WHERE holder = excluded.holder OR until <= ?4",
        )
        .and_then(|mut statement| statement.execute(params![name, holder, now.saturating_add(lasts), now]))
        .map(|changed| changed > 0)
        .map_err(internal("memory.lease"))
}
