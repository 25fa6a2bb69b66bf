//! [`Loads`]: values that are being made, and whether their key was changed meanwhile.
//!
//! A write does not wait for a load of its key and does not stop it: who waits for it gets what it makes. But that is of the
//! time before the write, so it is not kept, and who asks after the write begins a load of their own.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::{
    seal::Seal,
    tier::{Invalidation, KvKey},
};

/// Values that are being made in this process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Loads(Arc<Mutex<Running>>);

#[derive(Debug, Default)]
struct Running {
    next_id: u64,
    /// Oldest first.
    loads: HashMap<KvKey, Vec<Load>>,
}

#[derive(Debug)]
struct Load {
    id: u64,
    tags: Vec<String>,
    seal: Seal,
    places: usize,
    /// Whether the key was changed since it began.
    is_changed: bool,
    /// Whether it is not joined any more: the key was changed, maybe only before it began.
    is_left: bool,
}

/// A place on a load, which is over when the last one is dropped.
#[derive(Debug)]
pub(super) struct Loading {
    loads: Loads,
    key: KvKey,
    id: u64,
}

impl Loads {
    /// Takes a place on the load of a key, or on a new one where the key was changed since the last one began.
    pub fn join(&self, key: &KvKey, tags: &[String], seal: Seal) -> Loading {
        let mut running = self.0.lock();
        let next_id = running.next_id;
        let loads = running.loads.entry(key.clone()).or_default();
        let id = match loads.last_mut().filter(|last| !last.is_left && last.seal == seal) {
            Some(last) => {
                last.places += 1;
                last.id
            }
            None => {
                let tags = tags.to_vec();
                loads.push(Load { id: next_id, tags, seal, places: 1, is_changed: false, is_left: false });
                running.next_id += 1;
                next_id
            }
        };
        Loading { loads: self.clone(), key: key.clone(), id }
    }

    /// Takes note that a key was set or removed.
    pub fn changed(&self, key: &KvKey) {
        if let Some(loads) = self.0.lock().loads.get_mut(key) {
            loads.iter_mut().for_each(|load| (load.is_changed, load.is_left) = (true, true));
        }
    }

    /// Takes note that another process has set or removed a key, some time ago: the tiers know whether a load is older.
    pub fn changed_elsewhere(&self, key: &KvKey) {
        if let Some(loads) = self.0.lock().loads.get_mut(key) {
            loads.iter_mut().for_each(|load| load.is_left = true);
        }
    }

    /// Takes note that keys were invalidated.
    pub fn invalidated(&self, what: &Invalidation) {
        for (key, loads) in &mut self.0.lock().loads {
            for load in loads.iter_mut().filter(|load| what.means(key, &load.tags)) {
                (load.is_changed, load.is_left) = (true, true);
            }
        }
    }
}

impl Loading {
    /// Returns what tells this load of the key from others.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns whether the key was changed since it began.
    pub fn is_changed(&self) -> bool {
        let running = self.loads.0.lock();
        let loads = running.loads.get(&self.key).map_or(&[][..], Vec::as_slice);
        loads.iter().any(|load| load.id == self.id && load.is_changed)
    }

    /// Returns whether an older load of the key is still under way, from before a change.
    pub fn overtakes(&self) -> bool {
        let running = self.loads.0.lock();
        let loads = running.loads.get(&self.key).map_or(&[][..], Vec::as_slice);
        loads.iter().any(|load| load.id < self.id && load.is_left)
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        let mut running = self.loads.0.lock();
        let Some(loads) = running.loads.get_mut(&self.key) else { return };
        if let Some(load) = loads.iter_mut().find(|load| load.id == self.id) {
            load.places -= 1;
        }
        loads.retain(|load| load.places > 0);
        if loads.is_empty() {
            running.loads.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scope;

    #[test]
    fn a_load_is_joined_until_its_key_is_changed_and_nothing_is_left_of_it() {
        let (loads, scope) = (Loads::default(), Scope::new().user("ada"));
        let (key, other) = (KvKey::new(&scope, "a/1"), KvKey::new(&scope, "b"));
        let join = |key: &KvKey| loads.join(key, &["tag".to_owned()], Seal::default());
        let (one, same, apart) = (join(&key), join(&key), join(&other));
        assert_eq!(one.id(), same.id());
        loads.changed(&key);
        assert!(one.is_changed() && same.is_changed() && !apart.is_changed());
        let next = join(&key);
        assert!(next.id() != one.id() && next.overtakes() && !next.is_changed());
        for (what, is_meant) in [
            (Invalidation::tags(&scope, ["another"]), false),
            (Invalidation::prefix(&Scope::new(), ""), false),
            (Invalidation::prefix(&scope, "a/"), true),
        ] {
            loads.invalidated(&what);
            assert_eq!((next.is_changed(), apart.is_changed()), (is_meant, false), "{what:?}");
        }
        loads.changed_elsewhere(&other);
        assert!(!apart.is_changed() && join(&other).id() != apart.id());
        loads.invalidated(&Invalidation::tags(&scope, ["tag"]));
        assert!(apart.is_changed());
        drop((one, same));
        assert!(!next.overtakes());
        drop((next, apart));
        assert!(loads.0.lock().loads.is_empty());
    }
}
