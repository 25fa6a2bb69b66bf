//! Integers that no number here holds.
//!
//! An integer beyond 64 bits is read as a double: its last digits are lost, and many of them are one. Such a number must not make
//! two questions the same, nor reach a tool as another one.

use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::{Error, Result};

/// Digits of the smallest integer that may not fit (2^63 has 19).
const DIGITS: usize = 19;

/// Refuses a body with such an integer, by the name of the field that it is in.
///
/// # Errors
/// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput), naming the field.
pub(crate) fn refuse(body: &[u8]) -> Result<()> {
    if inexact(body).is_none() {
        return Ok(());
    }
    let fields: HashMap<String, &RawValue> = serde_json::from_slice(body).unwrap_or_default();
    let found = fields.iter().find_map(|(name, value)| Some((name, inexact(value.get().as_bytes())?)));
    match found {
        Some((name, integer)) => {
            let message = format!("holds the integer {integer}, which is beyond 64 bits: write it as a text");
            Err(Error::invalid("http", name, message))
        }
        None => Ok(()),
    }
}

/// Returns the first integer of a JSON text that a number does not hold.
pub(crate) fn inexact(json: &[u8]) -> Option<&str> {
    if !has_long_run(json) {
        return None;
    }
    let mut rest = json;
    while let Some(byte) = rest.first() {
        let is_number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
        let length = match byte {
            b'"' => string_length(rest),
            b'-' | b'0'..=b'9' => rest.iter().position(|byte| !is_number(byte)).unwrap_or(rest.len()),
            _ => 1,
        };
        let (literal, after) = rest.split_at(length);
        if length >= DIGITS
            && *byte != b'"'
            && let Ok(text) = str::from_utf8(literal)
            && text.strip_prefix('-').unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit())
            && text.parse::<u64>().is_err()
            && text.parse::<i64>().is_err()
        {
            return Some(text);
        }
        rest = after;
    }
    None
}

/// Returns whether that many digits follow each other anywhere: one of them is where every so many bytes are looked at.
fn has_long_run(json: &[u8]) -> bool {
    let is_long = |at: usize| {
        let after = json[at..].iter().take_while(|byte| byte.is_ascii_digit()).take(DIGITS).count();
        let before = json[..at].iter().rev().take_while(|byte| byte.is_ascii_digit()).take(DIGITS).count();
        after > 0 && before + after >= DIGITS
    };
    (DIGITS - 1..json.len()).step_by(DIGITS).any(is_long)
}

/// Returns how long a string is that begins here, with its quotes.
fn string_length(json: &[u8]) -> usize {
    let mut is_escaped = false;
    for (index, byte) in json.iter().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn integers_beyond_64_bits_are_found_and_nothing_else_is() {
        let found = |text: &str| inexact(text.as_bytes()).map(str::to_owned);
        for held in [
            "18446744073709551615",
            "-9223372036854775808",
            "1e400",
            "123456789012345678901.5",
            "1.7976931348623157e308",
        ] {
            assert_eq!(found(&format!("{{\"a\": [{held}]}}")), None, "{held}");
            assert_eq!(found(held), None);
        }
        for lost in ["18446744073709551616", "-9223372036854775809", "100000000000000000000001"] {
            assert_eq!(found(&format!("{{\"a\": [{lost}]}}")).as_deref(), Some(lost));
            assert_eq!(found(lost).as_deref(), Some(lost));
        }
        let said = json!({"a": "100000000000000000000001", "b\"": "\\\" 100000000000000000000001"});
        assert_eq!(found(&said.to_string()), None);
    }

    #[test]
    fn a_body_is_refused_by_the_name_of_its_field() {
        let error = refuse(br#"{"model": "m", "seed": 100000000000000000001}"#).unwrap_err();
        assert_eq!((error.code(), error.get("field")), ("INVALID_INPUT", Some("seed")));
        refuse(br#"{"model": "m", "seed": 7, "user": "100000000000000000001"}"#).unwrap();
    }

    proptest! {
        #[test]
        fn it_is_found_wherever_it_stands(before in "[a-z]{0,60}", number in any::<u128>()) {
            let text = format!("{{\"{before}\": {number}}}");
            let is_held = serde_json::from_str::<Value>(&text).unwrap()[&before].is_u64();
            prop_assert_eq!(inexact(text.as_bytes()).is_none(), is_held);
        }
    }
}
