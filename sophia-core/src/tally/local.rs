//! [`LocalTallies`]: numbers of this process alone.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;

use super::store::{Applied, TallyChange, TallyStore};
use crate::{Clock, Result};

/// Most groups: they are named by callers. Those that come later share one.
pub(crate) const MAX_GROUPS: usize = 65_536;

/// Numbers of this process alone, gone at its end. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct LocalTallies(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    groups: Mutex<HashMap<String, Group>>,
}

#[derive(Debug)]
struct Group {
    numbers: HashMap<String, f64>,
    expires_at: Timestamp,
}

impl LocalTallies {
    /// Creates an empty store.
    pub fn new(clock: Arc<dyn Clock>) -> LocalTallies {
        LocalTallies(Arc::new(Inner { clock, groups: Mutex::default() }))
    }

    /// Does what [`TallyStore::apply`] does, at once.
    pub fn apply_now(&self, changes: &[TallyChange]) -> Applied {
        let now = self.0.clock.now();
        let mut groups = self.0.groups.lock();
        let known = |change: &TallyChange| {
            let group = groups.get(&change.group).filter(|group| group.expires_at > now);
            group.or_else(|| (groups.len() >= MAX_GROUPS).then(|| groups.get(""))?)?.numbers.get(&change.field).copied()
        };
        let numbers: Vec<_> = changes.iter().map(|change| change.of(known(change))).collect();
        let applied = changes.iter().zip(&numbers).all(|(change, number)| change.allows(*number));
        if applied {
            let written = changes.iter().zip(&numbers).filter(|(change, _)| !change.only_looks());
            written.for_each(|(change, number)| set(&mut groups, now, change, *number));
        }
        Applied { applied, numbers }
    }

    /// Takes over what the numbers of these changes are somewhere else.
    pub(crate) fn take_over(&self, changes: &[TallyChange], numbers: &[f64]) {
        let now = self.0.clock.now();
        let mut groups = self.0.groups.lock();
        changes.iter().zip(numbers).for_each(|(change, number)| set(&mut groups, now, change, *number));
    }

    /// Does what [`TallyStore::read`] does, at once.
    pub fn read_now(&self, group: &str) -> Vec<(String, f64)> {
        let now = self.0.clock.now();
        let groups = self.0.groups.lock();
        let group = groups.get(group).filter(|group| group.expires_at > now);
        group.into_iter().flat_map(|group| &group.numbers).map(|(field, number)| (field.clone(), *number)).collect()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.groups.lock().len()
    }
}

fn set(groups: &mut HashMap<String, Group>, now: Timestamp, change: &TallyChange, number: f64) {
    let mut name = change.group.as_str();
    if groups.len() >= MAX_GROUPS && !groups.contains_key(name) {
        groups.retain(|_, group| group.expires_at > now);
        if groups.len() >= MAX_GROUPS {
            name = "";
        }
    }
    let new = || Group { numbers: HashMap::new(), expires_at: change.expires_at };
    let group = match groups.get_mut(name) {
        Some(group) => group,
        None => groups.entry(name.to_owned()).or_insert_with(new),
    };
    if group.expires_at <= now {
        group.numbers.clear();
    }
    group.expires_at = group.expires_at.max(change.expires_at);
    match group.numbers.get_mut(&change.field) {
        Some(own) => *own = number,
        None => {
            group.numbers.insert(change.field.clone(), number);
        }
    }
}

#[async_trait]
impl TallyStore for LocalTallies {
    async fn apply(&self, changes: &[TallyChange]) -> Result<Applied> {
        Ok(self.apply_now(changes))
    }

    async fn read(&self, group: &str) -> Result<Vec<(String, f64)>> {
        Ok(self.read_now(group))
    }
}
