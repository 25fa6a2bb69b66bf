//! Refusing what cannot be stored or searched, before anything is touched.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// Longest name: of a record, kind, category, tag, source, key, entity or predicate. Bytes.
pub(crate) const MAX_NAME_BYTES: usize = 1024;
/// Most tags of one record or key.
const MAX_TAGS: usize = 256;
/// Most hits of one search, records of one history, and so on.
pub(crate) const MAX_LIMIT: usize = 1_000;
/// Furthest page of a search.
pub(crate) const MAX_OFFSET: usize = 10_000;
/// Most items of one batch.
pub(crate) const MAX_ITEMS: usize = 10_000;
/// Deepest nesting of a value: what is kept is read back as JSON, inside other JSON, which is read to a depth of 128.
const MAX_NESTING: usize = 100;
/// Most values of one filter, and most scopes of one search.
const MAX_FILTER: usize = 256;
/// Longest vector.
pub(crate) const MAX_DIMENSIONS: usize = 8_192;

/// Refuses content that is empty, too long, or holds what a store would cut.
pub(crate) fn content(operation: &'static str, field: &str, content: &str, max_bytes: u64) -> Result<()> {
    if content.trim().is_empty() {
        return Err(Error::invalid(operation, field, "is empty: there is nothing to remember"));
    }
    if content.len() as u64 > max_bytes {
        let message = format!(
            "is {} bytes; at most {max_bytes} are stored: cut it into passages, or raise `memory.max_content_bytes`",
            content.len()
        );
        return Err(Error::invalid(operation, field, message).with("limit", max_bytes));
    }
    text(operation, field, content)
}

/// Refuses NUL, which stores cut or reject.
pub(crate) fn text(operation: &'static str, field: &str, text: &str) -> Result<()> {
    match text.find('\0') {
        Some(at) => Err(Error::invalid(operation, field, format!("holds a NUL character at byte {at}: remove it"))),
        None => Ok(()),
    }
}

/// Refuses a name that is empty, too long, or holds NUL.
pub(crate) fn name(operation: &'static str, field: &str, name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid(operation, field, "is empty: leave it out, or name it"));
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(Error::invalid(operation, field, format!("is longer than {MAX_NAME_BYTES} bytes")));
    }
    text(operation, field, name)
}

/// Refuses an optional name that is set and cannot be one.
pub(crate) fn optional_name(operation: &'static str, field: &str, value: Option<&String>) -> Result<()> {
    value.map_or(Ok(()), |value| name(operation, field, value))
}

/// Returns labels sorted and without repetition.
pub(crate) fn tags(operation: &'static str, mut tags: Vec<String>) -> Result<Vec<String>> {
    tags.sort();
    tags.dedup();
    labels(operation, &tags)?;
    Ok(tags)
}

/// Refuses labels that are too many, or cannot be names.
pub(crate) fn labels(operation: &'static str, tags: &[String]) -> Result<()> {
    if tags.len() > MAX_TAGS {
        return Err(Error::invalid(operation, "tags", format!("are more than {MAX_TAGS}")));
    }
    tags.iter().try_for_each(|tag| name(operation, "tags", tag))
}

/// Refuses a filter by more values than a statement can hold.
pub(crate) fn filter(operation: &'static str, field: &str, count: usize) -> Result<()> {
    if count > MAX_FILTER {
        return Err(Error::invalid(
            operation,
            field,
            format!("are {count}; at most {MAX_FILTER} are looked for at once"),
        ));
    }
    Ok(())
}

/// Refuses a value that is nested too deeply.
pub(crate) fn nesting(operation: &'static str, field: &str, value: &Value) -> Result<()> {
    fn fits(value: &Value, left: usize) -> bool {
        match value {
            Value::Array(items) => left > 0 && items.iter().all(|item| fits(item, left - 1)),
            Value::Object(fields) => left > 0 && fields.values().all(|item| fits(item, left - 1)),
            _ => true,
        }
    }
    if fits(value, MAX_NESTING) {
        return Ok(());
    }
    Err(Error::invalid(
        operation,
        field,
        format!("is nested deeper than {MAX_NESTING}: flatten it, or keep it as text"),
    ))
}

/// Refuses facts that are too long together, or hold NUL.
pub(crate) fn metadata(operation: &'static str, metadata: &Map<String, Value>, max_bytes: u64) -> Result<()> {
    if metadata.is_empty() {
        return Ok(());
    }
    metadata.values().try_for_each(|value| nesting(operation, "metadata", value))?;
    let json = serde_json::to_string(metadata).unwrap_or_default();
    if json.len() as u64 > max_bytes {
        return Err(Error::invalid(operation, "metadata", format!("is longer than {max_bytes} bytes as JSON")));
    }
    // JSON writes NUL as an escape, in a key as in a text.
    if json.contains("\\u0000") {
        return Err(Error::invalid(operation, "metadata", "holds a NUL character: remove it"));
    }
    Ok(())
}

/// Refuses a ratio that is none.
pub(crate) fn ratio(operation: &'static str, field: &str, value: f64) -> Result<()> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(operation, field, format!("is {value}; it must be from 0 to 1")))
}

/// Returns when something that lives for `ttl` from `now` expires.
pub(crate) fn expiry(operation: &'static str, now: Timestamp, ttl: Option<Duration>) -> Result<Option<Timestamp>> {
    let Some(ttl) = ttl else { return Ok(None) };
    if ttl.is_zero() {
        return Err(Error::invalid(operation, "ttl", "is zero: leave it out to keep it for ever"));
    }
    let expires_at = now.checked_add(ttl).map_err(|_| Error::invalid(operation, "ttl", "ends after the year 9999"))?;
    Ok(Some(whole_micros(expires_at)))
}

/// Returns how many are wanted.
pub(crate) fn limit(operation: &'static str, limit: Option<usize>, default: usize) -> Result<usize> {
    match limit.unwrap_or(default) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        other => Err(Error::invalid(operation, "limit", format!("is {other}; it must be from 1 to {MAX_LIMIT}"))),
    }
}

/// Returns a vector at length one. Refuses another length than `dimensions`, and what is not a number.
pub(crate) fn vector(operation: &'static str, mut vector: Vec<f32>, dimensions: Option<usize>) -> Result<Vec<f32>> {
    const FIELD: &str = "embedding";
    match dimensions {
        Some(dimensions) if vector.len() != dimensions => {
            let message = format!(
                "has {} dimensions; the embedder's model has {dimensions}. To bring vectors of your own model, set \
                 `memory.embedder` to \"none\", or give the engine its embedder",
                vector.len()
            );
            return Err(Error::invalid(operation, FIELD, message));
        }
        _ if vector.is_empty() || vector.len() > MAX_DIMENSIONS => {
            return Err(Error::invalid(operation, FIELD, format!("must have from 1 to {MAX_DIMENSIONS} dimensions")));
        }
        _ => {}
    }
    if let Some(at) = vector.iter().position(|value| !value.is_finite()) {
        return Err(Error::invalid(
            operation,
            FIELD,
            format!("holds {} at {at}: every value must be finite", vector[at]),
        ));
    }
    // In double precision, since the square of a large value is infinite in single precision.
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if length == 0.0 {
        return Err(Error::invalid(operation, FIELD, "is zero everywhere: it has no direction"));
    }
    for value in &mut vector {
        *value = (f64::from(*value) / length) as f32;
    }
    Ok(vector)
}

/// Cuts a time to the microseconds that stores keep.
pub(crate) fn whole_micros(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}
