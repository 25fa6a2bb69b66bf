//! What a value looks like in Redis: one line about it, then its JSON. Scripts and people can read it.
//!
//! `V2 <generation> <epoch> <fresh until> <kept until> <cost> <tags>\n<json>`: times in microseconds since 1970, the cost in
//! milliseconds, tags as a JSON array, `-` where there is none. `T1 <token>` says that the key was changed a moment ago.

use std::{fmt::Write, sync::Arc};

use jiff::Timestamp;

use super::tier::{KvEntry, KvValue};

/// What was found under a name.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// A value, written in this generation and epoch.
    Value { generation: u64, epoch: u64, entry: KvEntry },
    /// It was changed a moment ago; who wants to know asks a farther tier.
    Changed,
}

/// Writes a value, from its epoch on; the script that sets it knows the generation.
pub(super) fn write(epoch: u64, entry: &KvEntry, value: &KvValue) -> Vec<u8> {
    let mut line = String::with_capacity(64 + value.json().len());
    let time = |time: Option<Timestamp>| time.map_or("-".to_owned(), |time| time.as_microsecond().to_string());
    let cost = entry.cost_ms.map_or("-".to_owned(), |cost| cost.to_string());
    let tags = serde_json::to_string(&entry.tags).unwrap_or_else(|_| "[]".to_owned());
    // Writing into a String cannot fail.
    let _ =
        write!(line, "{epoch} {} {} {cost} {tags}\n{}", time(entry.expires_at), time(entry.stale_until), value.json());
    line.into_bytes()
}

/// Reads what was found; `None` where it is not in this form.
pub(super) fn read(bytes: Vec<u8>) -> Option<Found> {
    let text = String::from_utf8(bytes).ok()?;
    if text.starts_with("T1 ") {
        return Some(Found::Changed);
    }
    let (line, json) = text.split_once('\n')?;
    let mut parts = line.strip_prefix("V2 ")?.splitn(6, ' ');
    let generation = parts.next()?.parse().ok()?;
    let epoch = parts.next()?.parse().ok()?;
    let expires_at = time(parts.next()?)?;
    let stale_until = time(parts.next()?)?;
    let cost = parts.next()?;
    let cost_ms = if cost == "-" { None } else { Some(cost.parse().ok()?) };
    let tags = match parts.next()? {
        "[]" => Vec::new(),
        tags => serde_json::from_str(tags).ok()?,
    };
    let value = Some(Arc::new(KvValue::from_json(json).ok()?));
    Some(Found::Value { generation, epoch, entry: KvEntry { value, expires_at, stale_until, cost_ms, tags } })
}

fn time(text: &str) -> Option<Option<Timestamp>> {
    match text {
        "-" => Some(None),
        text => Timestamp::from_microsecond(text.parse().ok()?).ok().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn entry(value: Value, tags: Vec<String>, times: Option<(i64, i64)>, cost_ms: Option<u32>) -> KvEntry {
        let at = |micros: i64| Timestamp::from_microsecond(micros).ok();
        let mut entry = KvEntry::new(KvValue::new(value));
        (entry.tags, entry.cost_ms) = (tags, cost_ms);
        (entry.expires_at, entry.stale_until) =
            times.map_or((None, None), |(fresh, stale)| (at(fresh), at(fresh.saturating_add(stale))));
        entry
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            text in any::<String>(),
            tags in proptest::collection::vec(any::<String>(), 0..3),
            times in proptest::option::of((0..4_000_000_000_000_000_i64, 0..1_000_000_000_i64)),
            cost in proptest::option::of(any::<u32>()),
            epoch in any::<u64>(),
        ) {
            let entry = entry(json!({"text": text, "n": [1, null]}), tags, times, cost);
            let value = entry.value.clone().unwrap();
            let read = read([b"V2 7 ".to_vec(), write(epoch, &entry, &value)].concat());
            prop_assert_eq!(read, Some(Found::Value { generation: 7, epoch, entry }));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(bytes.clone());
            let _ = read([b"V2 ".to_vec(), bytes].concat());
        }
    }

    #[test]
    fn a_mark_of_a_change_is_no_value() {
        assert_eq!(read(b"T1 018f".to_vec()), Some(Found::Changed));
        assert_eq!(read(b"something else".to_vec()), None);
    }
}
