//! From the threads that log to the one that tells.

use parking_lot::Mutex;
use tracing::Level;

use super::Entry;

/// Most entries that wait: seconds of trouble, and less than a megabyte.
const MOST_WAITING: usize = 1024;

/// Entries that wait for the thread that tells them. Those that do not fit are counted.
#[derive(Debug, Default)]
pub struct Queue(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    entries: Vec<Entry>,
    dropped: u64,
}

impl Queue {
    /// Adds an entry. Returns whether it is the first that waits: then the thread that tells has to be woken.
    pub fn push(&self, entry: Entry) -> bool {
        let mut waiting = self.0.lock();
        if waiting.entries.len() == MOST_WAITING {
            waiting.dropped += 1;
            return false;
        }
        waiting.entries.push(entry);
        waiting.entries.len() == 1
    }

    /// Takes all that wait, and behind them an entry that says how many did not fit.
    #[must_use]
    pub fn take(&self) -> Vec<Entry> {
        let Waiting { mut entries, dropped } = std::mem::take(&mut *self.0.lock());
        if dropped > 0 {
            let message = "more was logged than could be told, and is dropped".to_owned();
            let mut entry = Entry::new(&Level::WARN, "sophia.logs".to_owned(), message);
            entry.fields.insert("dropped".to_owned(), dropped.into());
            entries.push(entry);
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_wakes_and_what_does_not_fit_is_counted() {
        let queue = Queue::default();
        let entry = || Entry::new(&Level::INFO, "sophia".to_owned(), "again".to_owned());
        let woken = (0..MOST_WAITING + 7).filter(|_| queue.push(entry())).count();
        assert_eq!(woken, 1);
        let taken = queue.take();
        assert_eq!(taken.len(), MOST_WAITING + 1);
        assert!(taken.last().is_some_and(|last| last.to_string().ends_with("dropped=7")));
        assert_eq!(queue.take(), []);
        assert!(queue.push(entry()));
    }
}
