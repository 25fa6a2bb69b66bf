//! A map whose keys are several names, which are looked up without making a key of them.

use std::{
    borrow::Borrow,
    hash::{Hash, Hasher},
};

use dashmap::DashMap;
use foldhash::fast::RandomState;

/// Values by several names each. Clones of a value should be cheap.
#[derive(Debug)]
pub(crate) struct NamesMap<V>(DashMap<Key, V, RandomState>);

impl<V> Default for NamesMap<V> {
    fn default() -> NamesMap<V> {
        NamesMap(DashMap::default())
    }
}

impl<V: Clone> NamesMap<V> {
    pub fn get<const N: usize>(&self, names: [&str; N]) -> Option<V> {
        self.with(names, V::clone)
    }

    /// Does something with what is there under these names, in place: a clone of a shared value costs two writes to what all
    /// threads share.
    pub fn with<T, const N: usize>(&self, names: [&str; N], work: impl FnOnce(&V) -> T) -> Option<T> {
        self.0.get(&names as &dyn Names).map(|value| work(&value))
    }

    /// Returns what is there under these names, which is `value` if nothing was.
    pub fn get_or_insert<const N: usize>(&self, names: [&str; N], value: V) -> V {
        self.0.entry(Key(names.map(Box::from).into())).or_insert(value).clone()
    }

    /// Keeps those that `keep` says to.
    pub fn retain(&self, mut keep: impl FnMut(&V) -> bool) {
        self.0.retain(|_, value| keep(value));
    }

    pub fn values(&self) -> impl Iterator<Item = V> {
        self.0.iter().map(|entry| entry.value().clone())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[derive(Debug)]
struct Key(Box<[Box<str>]>);

/// Names, owned or not.
trait Names {
    fn name(&self, index: usize) -> Option<&str>;
}

impl Names for Key {
    fn name(&self, index: usize) -> Option<&str> {
        self.0.get(index).map(|name| &**name)
    }
}

impl<const N: usize> Names for [&str; N] {
    fn name(&self, index: usize) -> Option<&str> {
        self.get(index).copied()
    }
}

fn all<'a>(names: &'a (dyn Names + 'a)) -> impl Iterator<Item = &'a str> {
    (0..).map_while(|index| names.name(index))
}

impl<'a> Borrow<dyn Names + 'a> for Key {
    fn borrow(&self) -> &(dyn Names + 'a) {
        self
    }
}

impl Hash for dyn Names + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        all(self).for_each(|name| name.hash(state));
    }
}

impl PartialEq for dyn Names + '_ {
    fn eq(&self, other: &Self) -> bool {
        all(self).eq(all(other))
    }
}

impl Eq for dyn Names + '_ {}

// The same as for what it borrows as, or nothing would be found.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self as &dyn Names).hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self as &dyn Names == other as &dyn Names
    }
}

impl Eq for Key {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_by_where_each_ends() {
        let map = NamesMap::default();
        assert_eq!(map.get_or_insert(["ab", "c"], 1), 1);
        assert_eq!(map.get_or_insert(["ab", "c"], 2), 1);
        assert_eq!((map.get(["ab", "c"]), map.get(["a", "bc"]), map.get(["ab", "c", ""])), (Some(1), None, None));
        assert_eq!(map.len(), 1);
    }
}
