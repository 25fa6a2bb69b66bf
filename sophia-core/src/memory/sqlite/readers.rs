//! The connections that read: whoever reads takes one, and gives it back.

use std::path::PathBuf;

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use super::open;
use crate::Result;

/// The connections to one file that read.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Connections that nobody uses. The last one was used last, and has most in its cache.
    free: Vec<Connection>,
    /// How many more may be opened.
    unopened: usize,
    is_closed: bool,
}

impl Readers {
    /// At most `count` connections; opens none of them.
    pub(super) fn new(path: PathBuf, count: usize) -> Readers {
        let state = State { free: Vec::new(), unopened: count, is_closed: false };
        Readers { path, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Takes a connection that is free.
    pub(super) fn try_take(&self) -> Option<Connection> {
        self.state.lock().free.pop()
    }

    /// Takes a connection that is free, opens one, or waits for one.
    pub(super) fn take(&self) -> Result<Connection> {
        let mut state = self.state.lock();
        loop {
            if let Some(connection) = state.free.pop() {
                return Ok(connection);
            }
            if state.is_one_to_open() {
                drop(state);
                return self.open();
            }
            self.changed.wait(&mut state);
        }
    }

    pub(super) fn give_back(&self, connection: Connection) {
        let mut state = self.state.lock();
        if !state.is_closed {
            state.free.push(connection);
            self.changed.notify_one();
        }
    }

    /// Opens one more connection, if there is one to open, so that nobody waits for it later.
    pub(super) fn open_ahead(&self) {
        if self.state.lock().is_one_to_open() {
            // What fails is tried again by those who read: most often there were no file descriptors left.
            self.open().into_iter().for_each(|connection| self.give_back(connection));
        }
    }

    /// Closes those that are free, and each other one when it is given back.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.free.clear();
    }

    fn open(&self) -> Result<Connection> {
        let opened = open::open_reader(&self.path);
        if opened.is_err() {
            self.state.lock().unopened += 1;
            self.changed.notify_one();
        }
        opened
    }
}

impl State {
    /// Returns whether the caller is to open one more.
    fn is_one_to_open(&mut self) -> bool {
        let is_one = self.unopened > 0;
        self.unopened -= usize::from(is_one);
        is_one
    }
}
