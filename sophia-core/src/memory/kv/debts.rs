//! [`Debts`]: that a tier is owed changes, where a crash would forget it.
//!
//! While a shared tier is away, what it misses is noted in memory. A process that dies then takes its notes with it, and the
//! tier would come back with what was deleted. So the first change that is owed makes a file in the data directory, locked
//! for as long as the process lives. Whoever finds such a file unlocked clears the tier.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use uuid::Uuid;

/// What the names of the files begin with.
const START: &str = "l2-owed-";

/// That a tier is owed changes, by this process or by one that died.
#[derive(Debug)]
pub(crate) struct Debts {
    directory: PathBuf,
    own: Mutex<Option<Debt>>,
    inherited: Mutex<Vec<Debt>>,
}

/// A file, locked until it is dropped.
#[derive(Debug)]
struct Debt {
    path: PathBuf,
    _locked: File,
}

impl Debts {
    pub fn new(directory: &Path) -> Debts {
        Debts { directory: directory.to_owned(), own: Mutex::default(), inherited: Mutex::default() }
    }

    /// Notes that changes are owed. Where the directory cannot be written, nothing durable was changed either.
    pub fn owe(&self) {
        let mut own = self.own.lock();
        if own.is_none() {
            let _ = fs::create_dir_all(&self.directory);
            let path = self.directory.join(format!("{START}{}", Uuid::now_v7()));
            *own = lock(&path, File::create(&path));
        }
    }

    /// Notes that the tier has all changes, those of the dead too.
    pub fn settle(&self) {
        let own = self.own.lock().take();
        for debt in own.into_iter().chain(self.inherited.lock().drain(..)) {
            let _ = fs::remove_file(&debt.path);
        }
    }

    /// Takes over what the dead have left; returns whether there was anything.
    pub fn inherit(&self) -> bool {
        let Ok(entries) = fs::read_dir(&self.directory) else { return false };
        let mut inherited = self.inherited.lock();
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            let is_debt = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(START));
            if is_debt && let Some(debt) = lock(&path, File::open(&path)) {
                inherited.push(debt);
            }
        }
        !inherited.is_empty()
    }
}

/// Locks a file, unless somebody who lives has it locked.
fn lock(path: &Path, file: std::io::Result<File>) -> Option<Debt> {
    let file = file.ok()?;
    file.try_lock().ok()?;
    Some(Debt { path: path.to_owned(), _locked: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_debts_of_the_dead_are_inherited_and_those_of_the_living_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (Debts::new(directory.path()), Debts::new(directory.path()));
        one.owe();
        one.owe();
        assert!(!two.inherit());
        drop(one);
        assert!(two.inherit());
        two.settle();
        assert!(!Debts::new(directory.path()).inherit());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
