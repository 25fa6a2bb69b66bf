//! What a stored checkpoint says of its channels, and what is asked of it, the same for every store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::NewCheckpoint;
use crate::{Error, Result};

/// A page ends when its values have reached this size.
pub(in crate::memory) const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// The values of a checkpoint's channels.
pub(in crate::memory) type Channels = BTreeMap<String, Channel>;

/// Where the value of a channel is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::memory) struct Channel(
    /** Version. */ pub String,
    /** Encoding. */ pub String,
    /** Number of the value. */ pub i64,
);

/// Returns the channels of a checkpoint that its parent, where that was written before it, does not have as they are: what it
/// has is not repeated where a checkpoint is carried.
pub(in crate::memory) fn own<'a>(
    channels: &'a Channels,
    parent: Option<&'a Channels>,
) -> impl Iterator<Item = (&'a String, &'a Channel)> {
    channels.iter().filter(move |(name, channel)| parent.and_then(|parent| parent.get(*name)) != Some(*channel))
}

/// The channels of a new checkpoint that have a version and no new value: looked for in earlier ones.
#[derive(Debug)]
pub(in crate::memory) struct Wanted<'a> {
    new: &'a NewCheckpoint,
    wanted: BTreeMap<&'a String, &'a String>,
    pub found: Channels,
}

impl<'a> Wanted<'a> {
    pub fn of(new: &'a NewCheckpoint) -> Wanted<'a> {
        let wanted = new.versions.iter().filter(|(name, _)| !new.channels.contains_key(*name)).collect();
        Wanted { new, wanted, found: Channels::new() }
    }

    /// Returns whether there is nothing left to look for.
    pub fn is_done(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Takes the values that are of the wanted versions.
    pub fn take(&mut self, channels: Channels) {
        for (name, channel) in channels {
            if self.wanted.get(&name).is_some_and(|version| **version == channel.0) {
                self.wanted.remove(&name);
                self.found.insert(name, channel);
            }
        }
    }

    /// Takes those of its parent; returns whether it is worth to look further.
    ///
    /// At a step with new versions, what has none at its parent was emptied: looking through the thread for it would find
    /// nothing, slowly. A step without may be a copy, whose values are those of another checkpoint.
    pub fn take_of_parent(&mut self, channels: Channels) -> bool {
        self.take(channels);
        !self.new.channels.keys().any(|name| self.new.versions.contains_key(name))
    }
}

/// Writes the place after which the next page begins.
pub(in crate::memory) fn place(number: i64, id: &str) -> String {
    format!("{number}:{id}")
}

/// Reads the place after which a page begins.
pub(in crate::memory) fn read_place(after: &str) -> Result<(i64, &str)> {
    after
        .split_once(':')
        .and_then(|(number, id)| Some((number.parse().ok()?, id)))
        .ok_or_else(|| Error::invalid("memory.checkpoints.list", "after", "must be the `next` of the page before"))
}

/// Returns whether all wanted facts are there. 1 and 1.0 are the same number, as they are to those who ask.
pub(in crate::memory) fn has_all(metadata: &Map<String, Value>, wanted: &Map<String, Value>) -> bool {
    wanted.iter().all(|(key, wanted)| match (metadata.get(key), wanted) {
        (Some(Value::Number(have)), Value::Number(want)) => have == want || have.as_f64() == want.as_f64(),
        (have, want) => have.unwrap_or(&Value::Null) == want,
    })
}

/// The error where a thread that is copied to has checkpoints already.
pub(in crate::memory) fn is_taken(target: &str) -> Error {
    let message = format!("`{target}` has checkpoints already: delete that thread first, or name another");
    Error::new(crate::ErrorKind::Conflict, "memory.checkpoints.copy_thread", message).with("field", "target")
}
