//! What may be the name of a service, a metric or a person.

use crate::{Error, Result};

/// Longest name, in bytes: names are labels of metrics and keys of maps.
const MAX_NAME_BYTES: usize = 256;

/// Returns whether `name` can be the name of a service or a metric.
pub(super) fn is_name(name: &str) -> bool {
    !name.trim().is_empty() && name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control)
}

/// Refuses what cannot be a name.
pub(super) fn check_name(operation: &'static str, field: &str, name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    let why = match name {
        name if name.trim().is_empty() => "is empty: name it".to_owned(),
        name if name.len() > MAX_NAME_BYTES => format!("is longer than {MAX_NAME_BYTES} bytes"),
        _ => "holds a control character".to_owned(),
    };
    Err(Error::invalid(operation, field, why))
}
