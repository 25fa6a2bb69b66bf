//! An event as a host is told of it.

use std::{fmt, time::SystemTime};

use serde_json::{Map, Value};
use tracing::{
    Event, Level, Metadata,
    field::{Field, Visit},
};

/// What the modules of this crate are called in the targets of events.
const CRATE: &str = "sophia_core::";

/// One event of the engine. Displayed, it is its message with the fields behind: `circuit opened breaker=github failures=5`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Entry {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: &'static str,
    /// Which part of the engine it is about, such as `sophia.memory`.
    pub target: String,
    /// What happened; the same text each time it does.
    pub message: String,
    /// To what, and how: texts, numbers and booleans by name.
    pub fields: Map<String, Value>,
    /// When.
    pub at: SystemTime,
    /// The file of the source, and the line in it.
    pub place: (&'static str, u32),
}

impl Entry {
    pub(super) fn of(event: &Event<'_>) -> Entry {
        let metadata = event.metadata();
        let mut entry = Entry::new(metadata.level(), target(metadata), String::new());
        entry.place = (metadata.file().unwrap_or_default(), metadata.line().unwrap_or_default());
        event.record(&mut entry);
        entry
    }

    pub(super) fn new(level: &Level, target: String, message: String) -> Entry {
        let level = match *level {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        Entry { level, target, message, fields: Map::new(), at: SystemTime::now(), place: ("", 0) }
    }

    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        match (field.name(), value.into()) {
            ("message", Value::String(message)) => self.message = message,
            (name, value) => drop(self.fields.insert(name.to_owned(), value)),
        }
    }
}

/// Names the capability, and not the file in it: files are moved, and nobody's settings should break.
fn target(metadata: &Metadata<'_>) -> String {
    let module = metadata.target().strip_prefix(CRATE).and_then(|path| path.split("::").next());
    module.map_or_else(|| "sophia".to_owned(), |module| format!("sophia.{module}"))
}

/// Reads what a user wrote of such targets as the targets that events have.
pub(super) fn as_written(directives: &str) -> String {
    directives.replace("sophia.", CRATE)
}

impl Visit for Entry {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for (name, value) in &self.fields {
            match value {
                Value::String(text) if is_plain(text) => write!(f, " {name}={text}")?,
                // Quoted, and in one line whatever is in it.
                value => write!(f, " {name}={value}")?,
            }
        }
        Ok(())
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(|letter: char| letter.is_whitespace() || letter.is_control())
}
