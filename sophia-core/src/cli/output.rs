//! Tables for people, JSON for programs.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use crate::{Error, ErrorKind, Result};

/// Widest column of a table on a terminal, in characters: wider than an identifier, narrower than a screen.
const MAX_COLUMN: usize = 60;

/// Where results go, and in which form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    pub json: bool,
}

impl Output {
    /// Writes a value: as JSON for programs, as `render` says for people.
    ///
    /// # Errors
    /// `Internal` where it cannot be written.
    pub fn show(self, value: &Value, render: impl FnOnce(&Value) -> String) -> Result<()> {
        if self.json { self.line(&format!("{value:#}")) } else { self.line(render(value).trim_end()) }
    }

    fn line(self, text: &str) -> Result<()> {
        let text = if io::stdout().is_terminal() { visible(text) } else { text.to_owned() };
        writeln!(Results, "{text}").and_then(|()| Results.flush()).map_err(|error| {
            Error::new(ErrorKind::Internal, "cli", format!("the result cannot be written: {error}")).with_source(error)
        })
    }
}

/// The standard output. A reader that has gone, such as `head`, is no failure of ours.
#[derive(Debug)]
pub(super) struct Results;

impl Write for Results {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match io::stdout().lock().write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(bytes.len()),
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match io::stdout().lock().flush() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            flushed => flushed,
        }
    }
}

/// Writes a line beside the results.
pub(super) fn note(text: &str) {
    let text = if io::stderr().is_terminal() { visible(text) } else { text.to_owned() };
    // There is nowhere left to say that it failed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Returns a text in which nothing is a command to a terminal: what is stored may come from anyone.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => shown.push(c),
        }
    }
    shown
}

/// Draws rows under their headings.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let is_terminal = io::stdout().is_terminal();
    let cut = |cell: &str| {
        let line: String = cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if is_terminal && line.chars().count() > MAX_COLUMN {
            line.chars().take(MAX_COLUMN - 1).chain(['…']).collect()
        } else {
            line
        }
    };
    let mut lines: Vec<[String; N]> = vec![headings.map(str::to_uppercase)];
    lines.extend(rows.iter().map(|row| {
        let mut row = row.clone();
        // The last column may be as long as it is: nothing stands behind it.
        for cell in row.iter_mut().take(N.saturating_sub(1)) {
            *cell = cut(cell);
        }
        row
    }));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..N).map(width).collect();
    let draw = |line: &[String; N]| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(draw).collect::<Vec<_>>().join("\n")
}

/// Shows a value in a cell: unknown is a dash.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => format!("{float:.3}"),
            _ => number.to_string(),
        },
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(", "),
        value => value.to_string(),
    }
}

/// Draws a tree of values as `path  value` lines.
pub(super) fn tree(value: &Value) -> String {
    fn walk(path: &str, value: &Value, rows: &mut Vec<[String; 2]>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (name, value) in fields {
                    walk(&if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, rows);
                }
            }
            value => rows.push([path.to_owned(), cell(value)]),
        }
    }
    let mut rows = Vec::new();
    walk("", value, &mut rows);
    table(["what", "value"], &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let drawn = table(["id", "status"], &[["a".into(), "ok".into()], ["longer\nname".into(), "down".into()]]);
        assert_eq!(drawn, "ID           STATUS\na            ok\nlonger name  down");
    }

    #[test]
    fn what_is_stored_is_no_command_to_a_terminal() {
        assert_eq!(visible("a\u{1b}[2J\u{9b}31m\tb\r\nü"), "a\\u001b[2J\\u009b31m\tb\\u000d\nü");
    }

    #[test]
    fn unknown_is_a_dash() {
        assert_eq!(tree(&json!({"a": {"b": null, "c": 1}})), "WHAT  VALUE\na.b   -\na.c   1");
    }
}
