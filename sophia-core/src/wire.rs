//! Reading what a user wrote, and saying what is wrong with it: the field, and the fix.

use serde::{Deserializer, de::DeserializeOwned};

use crate::{Error, ErrorKind, Result, error::shortened};

/// Longest message that quotes what is wrong, in bytes.
const MAX_QUOTED_BYTES: usize = 240;
/// Field whose fields are passed on to a provider.
const PASSED_ON: &str = "provider_fields";
/// Furthest edit distance at which another name is worth suggesting.
const MAX_SUGGESTION_DISTANCE: usize = 3;

/// Reads a `T`; an error names the path of the field, what is wrong, and the nearest known name.
pub(crate) fn read<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    kind: ErrorKind,
    operation: &'static str,
    deserializer: D,
) -> Result<T> {
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        explain(kind, operation, &path, &error.into_inner().to_string())
    })
}

/// Turns a deserializer's message about `path` into an error of ours.
fn explain(kind: ErrorKind, operation: &'static str, path: &str, message: &str) -> Error {
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown_field = message.starts_with("unknown field");
    let missing_field = message.starts_with("missing field");
    let mut field = path.to_owned();
    if (unknown_field || missing_field)
        && let Some(name) = names.next()
        && field.rsplit('.').next() != Some(name)
    {
        field = if path == "." { name.to_owned() } else { format!("{path}.{name}") };
    }
    let field = if field == "." { "arguments".to_owned() } else { shortened(field, MAX_QUOTED_BYTES) };
    let text = if unknown_field {
        let known: Vec<_> = names.collect();
        let own = field.rsplit('.').next().unwrap_or(&field);
        match nearest(own, &known) {
            Some(name) => format!("is not a known field; did you mean `{name}`?"),
            None => {
                let own = if known.contains(&PASSED_ON) {
                    "; what is for the provider goes into provider_fields"
                } else {
                    ""
                };
                format!("is not a known field; known are {}{own}", known.join(", "))
            }
        }
    } else if missing_field {
        "is required".to_owned()
    } else {
        format!("is wrong: {}", shortened(plain(message), MAX_QUOTED_BYTES))
    };
    Error::new(kind, operation, format!("`{field}` {text}")).with("field", field)
}

/// Says in the words of JSON what a deserializer says in those of Rust.
fn plain(message: &str) -> String {
    const WORDS: [(&str, &str); 14] = [
        ("expected usize", "expected a whole number of at least 0"),
        ("expected u64", "expected a whole number of at least 0"),
        ("expected u32", "expected a whole number of at least 0"),
        ("expected u16", "expected a whole number from 0 to 65535"),
        ("expected u8", "expected a whole number from 0 to 255"),
        ("expected i64", "expected a whole number"),
        ("expected i32", "expected a whole number"),
        ("expected f64", "expected a number"),
        ("expected f32", "expected a number"),
        ("expected a sequence", "expected a list"),
        ("expected a map", "expected an object"),
        ("invalid type: sequence", "invalid type: list"),
        ("invalid type: map", "invalid type: object"),
        ("invalid type: unit value", "invalid type: null"),
    ];
    // What follows them is the name of a type.
    const NAMED: [(&str, &str); 2] = [
        ("expected struct ", "expected an object"),
        ("expected internally tagged enum ", "expected an object with its `kind`"),
    ];
    let mut message = WORDS.iter().fold(message.to_owned(), |message, (theirs, ours)| message.replace(theirs, ours));
    for (theirs, ours) in NAMED {
        if let Some((before, named)) = message.split_once(theirs) {
            message = format!("{before}{ours}{}", named.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'));
        }
    }
    // Only times are said so.
    if ["failed to ", "parsed "].iter().any(|start| message.starts_with(start)) {
        message += ": write a time as RFC 3339 does, such as 2026-01-31T12:00:00Z";
    }
    message
}

/// Returns the known name that `name` is most likely a misspelling of.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // Of a short name, most must be right: nearly every one is three letters from some other.
    within((name.chars().count() / 3).clamp(1, MAX_SUGGESTION_DISTANCE), name, known)
}

/// Returns the nearest of the known names that are at most `distance` edits away.
pub(crate) fn within<'a>(distance: usize, name: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.replace(['-', '_'], "").to_lowercase();
    known
        .iter()
        .map(|candidate| (strsim::osa_distance(&plain(name), &plain(candidate)), *candidate))
        .min()
        .filter(|(found, _)| *found <= distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        inner: Inner,
        #[serde(default)]
        list: Vec<Inner>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        max_size: u32,
    }

    fn error(value: Value) -> Error {
        read::<Outer, _>(ErrorKind::InvalidInput, "test", value).unwrap_err()
    }

    #[test]
    fn an_unknown_field_is_named_with_its_path_and_the_nearest_known_one() {
        let error = error(json!({"inner": {"max_size": 1, "maxsize": 2}}));
        assert_eq!(error.message(), "`inner.maxsize` is not a known field; did you mean `max_size`?");
        assert_eq!(error.get("field"), Some("inner.maxsize"));
    }

    #[test]
    fn a_field_of_a_provider_is_shown_its_place_and_is_no_misspelling() {
        let read = |value| read::<crate::chat::ChatRequest, _>(ErrorKind::InvalidInput, "test", value).unwrap_err();
        let error = read(json!({"top_p": 1}));
        assert!(error.message().ends_with("; what is for the provider goes into provider_fields"), "{error}");
        assert!(read(json!({"scop": {}})).message().ends_with("did you mean `scope`?"));
    }

    #[test]
    fn a_wrong_type_and_a_missing_field_are_named_with_their_path() {
        let wrong = error(json!({"inner": {"max_size": 1}, "list": [{"max_size": "x"}]}));
        assert!(wrong.message().starts_with("`list[0].max_size` is wrong: invalid type: string"), "{wrong}");
        assert!(wrong.message().ends_with("expected a whole number of at least 0"), "{wrong}");
        let wrong = error(json!({"inner": 5}));
        assert_eq!(wrong.message(), "`inner` is wrong: invalid type: integer `5`, expected an object");
        for written in ["yesterday", "2026-01-31", "2026-02-31T00:00:00Z"] {
            let query = json!({"query": "x", "since": written});
            let wrong = read::<crate::memory::Query, _>(ErrorKind::InvalidInput, "test", query).unwrap_err();
            assert!(wrong.message().contains("RFC 3339"), "{wrong}");
        }
        let wrong = error(json!({"inner": {"max_size": 1}, "list": null}));
        assert_eq!(wrong.message(), "`list` is wrong: invalid type: null, expected a list");
        assert_eq!(error(json!({"inner": {}})).message(), "`inner.max_size` is required");
    }
}
