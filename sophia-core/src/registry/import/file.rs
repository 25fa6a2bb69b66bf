//! Text to values: JSON, JSON with comments and trailing commas, YAML.

use std::path::Path;

use serde_json::Value;

use crate::{Error, ErrorKind, Result};

/// Largest accepted configuration, in bytes.
const MAX_BYTES: usize = 10 << 20;

/// Reads a `.json`, `.jsonc`, `.yaml` or `.yml` file; another ending is tried as JSON, then as YAML.
pub(crate) fn read(operation: &'static str, path: &Path) -> Result<Value> {
    let shown = path.display().to_string();
    let kind = |error: &std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::InvalidInput,
    };
    let refuse = |error: std::io::Error| {
        Error::new(kind(&error), operation, format!("`{shown}` cannot be read: {error}")).with_source(error)
    };
    if std::fs::metadata(path).map_err(refuse)?.len() > MAX_BYTES as u64 {
        return Err(too_large(operation, &shown));
    }
    let text = std::fs::read_to_string(path).map_err(refuse)?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => yaml(operation, &text, &shown),
        Some("json" | "jsonc" | "code-workspace") => json(operation, &text, &shown),
        _ => json(operation, &text, &shown).or_else(|_| yaml(operation, &text, &shown)),
    }
}

/// Reads JSON; comments and trailing commas are let pass, as editors do.
pub(crate) fn json(operation: &'static str, text: &str, place: &str) -> Result<Value> {
    if text.len() > MAX_BYTES {
        return Err(too_large(operation, place));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(text).or_else(|_| serde_json::from_str(&plain(text))).map_err(|error| {
        Error::invalid(operation, "config", format!("in {place} is not JSON: {error}")).with_source(error)
    })
}

fn yaml(operation: &'static str, text: &str, place: &str) -> Result<Value> {
    serde_saphyr::from_str(text)
        .map_err(|error| Error::invalid(operation, "config", format!("in {place} is not YAML: {error}")))
}

fn too_large(operation: &'static str, place: &str) -> Error {
    Error::invalid(operation, "config", format!("in {place} must not be larger than {MAX_BYTES} bytes"))
}

/// Blanks comments and trailing commas, keeping every line and column where it was.
fn plain(text: &str) -> String {
    let mut out: Vec<char> = text.chars().collect();
    let (mut at, mut in_string, mut comma) = (0, false, None);
    while at < out.len() {
        match (out[at], out.get(at + 1)) {
            ('\\', _) if in_string => at += 1,
            ('"', _) => {
                in_string = !in_string;
                comma = None;
            }
            _ if in_string => {}
            ('/', Some('/')) => {
                while at < out.len() && out[at] != '\n' {
                    out[at] = ' ';
                    at += 1;
                }
                continue;
            }
            ('/', Some('*')) => {
                let end = (at + 2..out.len().saturating_sub(1)).find(|&i| out[i] == '*' && out[i + 1] == '/');
                let end = end.map_or(out.len(), |end| end + 2);
                for c in &mut out[at..end] {
                    if *c != '\n' {
                        *c = ' ';
                    }
                }
                at = end;
                continue;
            }
            (',', _) => comma = Some(at),
            ('}' | ']', _) => {
                if let Some(comma) = comma.take() {
                    out[comma] = ' ';
                }
            }
            (c, _) if c.is_whitespace() => {}
            _ => comma = None,
        }
        at += 1;
    }
    out.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn comments_and_trailing_commas_are_let_pass() {
        let text = "// servers\n{\"a\": [1, 2, /* three */], \"b\": \"// no, \\\" comment,]\", // end\n}";
        assert_eq!(json("test", text, "x").unwrap(), json!({"a": [1, 2], "b": "// no, \" comment,]"}));
    }

    #[test]
    fn yaml_becomes_the_same_values() {
        let text = "servers:\n  - name: github\n    port: 9007\n    capabilities: [code, \"no\"]\n    on: true\n";
        let expected =
            json!({"servers": [{"name": "github", "port": 9007, "capabilities": ["code", "no"], "on": true}]});
        assert_eq!(yaml("test", text, "x").unwrap(), expected);
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let last = level - 1;
            text += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{last}"); 10].join(", "));
        }
        assert_eq!(yaml("test", &text, "x").unwrap_err().code(), "INVALID_INPUT");
    }

    #[test]
    fn a_document_that_is_not_json_says_where() {
        let error = json("test", "{\n  \"a\": 1\n  \"b\": 2\n}", "x.json").unwrap_err();
        assert!(error.message().contains("x.json") && error.message().contains("line 3"), "{error}");
    }
}
