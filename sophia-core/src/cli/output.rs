//! Tables for people, JSON for programs.

use std::io::{self, Write};

use serde_json::Value;

/// Widest column of a table, in characters: wider than an identifier, narrower than a screen.
const MAX_COLUMN: usize = 60;

/// Where results go, and in which form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    pub json: bool,
}

impl Output {
    /// Writes a value: as JSON for programs, as `render` says for people.
    pub fn show(self, value: &Value, render: impl FnOnce(&Value) -> String) {
        if self.json { self.line(&format!("{value:#}")) } else { self.line(render(value).trim_end()) }
    }

    /// Writes a line.
    pub fn line(self, text: &str) {
        // A reader that has gone, such as `head`, is no failure of ours.
        let _ = writeln!(io::stdout().lock(), "{text}");
    }
}

/// Writes a line beside the results.
pub(super) fn note(text: &str) {
    // As above.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Draws rows under their headings.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let cut = |cell: &str| {
        let line: String = cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if line.chars().count() <= MAX_COLUMN {
            line
        } else {
            line.chars().take(MAX_COLUMN - 1).chain(['…']).collect()
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
    fn unknown_is_a_dash() {
        assert_eq!(tree(&json!({"a": {"b": null, "c": 1}})), "WHAT  VALUE\na.b   -\na.c   1");
    }
}
