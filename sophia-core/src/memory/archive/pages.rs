//! How a store gives its items page by page, the same for every store.

use super::store::{Item, ItemPage};
use crate::{
    Error, Result,
    memory::{NewWrite, NewWrites},
};

/// Checkpoints of a page: each may be as large as the state of a workflow.
pub(in crate::memory) const CHECKPOINTS: usize = 16;

/// Makes a page of items that carry their cursors.
pub(in crate::memory) fn page(items: Vec<(String, Item)>, limit: usize) -> ItemPage {
    let next = (items.len() == limit).then(|| items.last().map(|(cursor, _)| cursor.clone())).flatten();
    ItemPage { items: items.into_iter().map(|(_, item)| item).collect(), next }
}

/// Reads the cursor of rows that have a number.
pub(in crate::memory) fn number(after: &str) -> Result<i64> {
    let wrong = |_| Error::invalid("memory.export", "after", "must be the `next` of the page before");
    if after.is_empty() { Ok(0) } else { after.parse().map_err(wrong) }
}

/// Returns the cursor of a row that is known by its wall and a name.
pub(in crate::memory) fn place(wall: i64, name: &str) -> String {
    format!("{wall}:{name}")
}

/// Reads the cursor of rows that are known by their wall and a name.
pub(in crate::memory) fn wall_and_name(after: &str) -> Result<(i64, &str)> {
    let (wall, name) = after.split_once(':').unwrap_or_default();
    Ok((number(wall)?, name))
}

/// Returns the writes of a thread by who wrote them; those of a task come one after the other.
pub(in crate::memory) fn by_task(writes: Vec<(NewWrites, NewWrite)>) -> Vec<Item> {
    let mut tasks: Vec<NewWrites> = Vec::new();
    for (task, write) in writes {
        match tasks.last_mut().filter(|last| NewWrites { writes: Vec::new(), ..(*last).clone() } == task) {
            Some(last) => last.writes.push(write),
            None => tasks.push(NewWrites { writes: vec![write], ..task }),
        }
    }
    tasks.into_iter().map(|writes| Item::Writes(Box::new(writes))).collect()
}
