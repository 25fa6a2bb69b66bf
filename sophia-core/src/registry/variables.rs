//! `${VAR}`, `${VAR:-default}`, `${env:VAR}` and `${input:id}`, replaced at use.

use crate::{Error, ErrorKind, Result};

/// Replaces every variable in `text`; `find` gives the value of a name.
///
/// An input asks a person in an editor. Here it is read from the environment, as its id in capitals with `_`.
///
/// # Errors
/// The names that have no value and no default.
pub(crate) fn expand(text: &str, find: impl Fn(&str) -> Option<String>) -> Result<String, Vec<String>> {
    let (mut out, mut missing, mut rest) = (String::with_capacity(text.len()), Vec::new(), text);
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else { break };
        out.push_str(&rest[..start]);
        let inside = &rest[start + 2..start + length];
        rest = &rest[start + length + 1..];
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let variable = variable(name);
        match find(&variable).or(default.map(str::to_owned)) {
            Some(value) => out.push_str(&value),
            None => missing.push(variable),
        }
    }
    out.push_str(rest);
    if missing.is_empty() { Ok(out) } else { Err(missing) }
}

/// Returns the environment variable that `env:VAR`, `input:id` or `VAR` is read from.
fn variable(name: &str) -> String {
    match name.split_once(':') {
        Some(("input", id)) => id.to_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_"),
        Some(("env", name)) => name.to_owned(),
        _ => name.to_owned(),
    }
}

/// Replaces variables from the environment of this process.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`], naming the variables that are not set.
pub(crate) fn from_environment(operation: &'static str, field: &str, text: &str) -> Result<String> {
    expand(text, |name| std::env::var(name).ok()).map_err(|missing| {
        let names = missing.join("`, `");
        Error::new(
            ErrorKind::InvalidConfig,
            operation,
            format!("`{field}` needs the variable `{names}`, which is not set"),
        )
        .with("field", field)
    })
}

/// Returns the variables in `text` that are not set and have no default.
pub(crate) fn unset(text: &str) -> Vec<String> {
    expand(text, |name| std::env::var(name).ok()).err().unwrap_or_default()
}

/// Returns the variable and the default of a text such as `${VAR:-default}`.
pub(crate) fn default(text: &str) -> Option<(&str, &str)> {
    text.trim().strip_prefix("${")?.strip_suffix('}')?.split_once(":-")
}

/// Returns whether all of the value comes from variables, so that writing it down gives nothing away.
pub(crate) fn is_reference(text: &str) -> bool {
    let (_, rest) = scheme(text.trim());
    rest.starts_with("${") && rest.ends_with('}') && !rest.contains(":-") && rest.matches("${").count() == 1
}

/// Splits a header's value where its scheme ends, which is no secret.
pub(crate) fn scheme(value: &str) -> (&str, &str) {
    const SCHEMES: [&str; 5] = ["bearer", "basic", "token", "apikey", "api-key"];
    match value.split_once(' ') {
        Some((scheme, _)) if SCHEMES.contains(&scheme.to_lowercase().as_str()) => value.split_at(scheme.len() + 1),
        _ => ("", value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str) -> Option<String> {
        matches!(name, "HOST" | "API_KEY").then(|| format!("<{name}>"))
    }

    #[test]
    fn every_form_is_replaced() {
        let cases = [
            ("plain", "plain"),
            ("http://${HOST}/x", "http://<HOST>/x"),
            ("${env:HOST}:${PORT:-80}", "<HOST>:80"),
            ("${HOST:-other}", "<HOST>"),
            ("${input:api-key}", "<API_KEY>"),
            ("${EMPTY:-}", ""),
            ("${unclosed", "${unclosed"),
            ("$HOST", "$HOST"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, find).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_set_is_named() {
        assert_eq!(expand("${A}-${HOST}-${env:B}", find), Err(vec!["A".to_owned(), "B".to_owned()]));
    }
}
