//! What must hold when processes are killed, disks are full, files are damaged, and many write at once.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Lines, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sophia_core::{
    Config, ErrorKind, Scope, Sophia,
    memory::{
        AppendMessage, Delete, Encoded, FactQuery, ForgetRequest, GetCheckpoint, GetRecord, History, KvOptions, Mode,
        NewCheckpoint, NewFact, NewRecord, Query, TierStatus, Update, store::Atomicity,
    },
};

mod damage;
mod disk;
mod forgetting;
mod input;
mod killed;
mod processes;
mod walls;

/// Tells a child where the data is.
const FOLDER: &str = "SOPHIA_TEST_FAULTS_FOLDER";
/// Tells a child which one it is.
const PART: &str = "SOPHIA_TEST_FAULTS_PART";
/// Longest wait for what must come about; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

fn ada() -> Scope {
    Scope::new().tenant("acme").user("ada")
}

fn bob() -> Scope {
    Scope::new().tenant("acme").user("bob")
}

async fn engine(directory: &Path) -> Sophia {
    Sophia::builder().config(Config::default().with_data_dir(directory)).start().await.unwrap()
}

fn text(text: impl Into<String>) -> Encoded {
    Encoded::new("json", json!(text.into()).to_string())
}

/// This program once more, with the part of a child, and what it says.
struct Part {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Part {
    fn start(test: &str, folder: &Path, part: &str) -> Part {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture"])
            .env(FOLDER, folder)
            .env(PART, part)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Part { child, lines }
    }

    /// Returns the next thing that it says; `None` when it is gone.
    fn hear(&mut self) -> Option<String> {
        self.lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("SAYS ").map(|(_, said)| said.to_owned()))
    }

    /// SIGKILL: it has no chance to flush anything. Returns what it had said before.
    fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        let said = std::iter::from_fn(|| self.hear()).collect();
        self.child.wait().unwrap();
        said
    }

    /// Waits for its end.
    fn end(mut self) -> Vec<String> {
        let said = std::iter::from_fn(|| self.hear()).collect();
        assert!(self.child.wait().unwrap().success());
        said
    }
}

/// What a child says. One write, so that nothing else comes between.
fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("SAYS {what}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// The folder and the part that a child was given; nothing where it was started by hand.
fn given() -> Option<(PathBuf, String)> {
    let read = |name: &str| -> Option<OsString> { std::env::var_os(name) };
    Some((read(FOLDER)?.into(), read(PART)?.into_string().unwrap()))
}

/// Random numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // Marsaglia, Xorshift RNGs, 2003.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Waits up to so many microseconds: not for something, but to end at a moment that nobody chose.
    fn moment(&mut self, most_us: u64) {
        let until = Instant::now() + Duration::from_micros(self.below(most_us));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    }
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// What SQLite says of a file that nobody has open.
fn integrity(folder: &Path) -> String {
    let connection = rusqlite::Connection::open(folder.join("sophia.db")).unwrap();
    connection.execute_batch("INSERT INTO record_words (record_words) VALUES ('integrity-check')").unwrap();
    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}
