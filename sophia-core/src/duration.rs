//! Durations as people write them: seconds as a number, or `"90s"`, `"15m"`, `"1h30m"`.
//!
//! `#[serde(with = "crate::duration")]` on a `Duration`, `#[serde(with = "crate::duration::option")]` on an
//! `Option<Duration>`, with `#[schemars(with = "…")]` for the schema.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serializer, de};

/// What a duration looks like on the wire, for its JSON Schema.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "read by the schema only")]
pub(crate) enum DurationSchema {
    /// Seconds.
    Seconds(f64),
    /// A number with a unit: `500ms`, `90s`, `15m`, `2h`, `1d`.
    Text(String),
}

/// Parses `"500ms"`, `"90s"`, `"15m"`, `"1h30m"`, `"2d"`, or bare seconds.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{text}` is not a duration: write seconds, or a number with ms, s, m, h or d, such as \"15m\"");
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<f64>() {
        return from_seconds(seconds);
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match rest[..letters].trim() {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(wrong()),
        };
        total += number * unit;
        rest = &rest[letters..];
    }
    if text.trim().is_empty() { Err(wrong()) } else { from_seconds(total) }
}

fn from_seconds(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| format!("{seconds} is not a duration in seconds: it must be finite and not negative"))
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration: seconds, or text such as \"15m\"")
    }

    fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Duration, E> {
        from_seconds(seconds).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Duration, E> {
        Ok(Duration::from_secs(seconds))
    }

    fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Duration, E> {
        self.visit_f64(seconds as f64)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).map_err(E::custom)
    }
}

/// Reads a duration.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_any(Visitor)
}

/// Writes a duration as seconds.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// The same for an `Option<Duration>`.
pub mod option {
    use super::*;

    /// Reads a duration, or nothing.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        #[derive(Deserialize)]
        struct Wrapped(#[serde(with = "super")] Duration);
        Ok(Option::<Wrapped>::deserialize(deserializer)?.map(|wrapped| wrapped.0))
    }

    /// Writes seconds, or nothing.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.serialize_f64(duration.as_secs_f64()),
            None => serializer.serialize_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_durations_in_many_ways() {
        for (text, ms) in
            [("15m", 900_000), ("1h30m", 5_400_000), ("500ms", 500), ("0.5", 500), ("60", 60_000), ("2d", 172_800_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_says_so() {
        for text in ["", "m", "15 parsecs", "-1", "-1s", "NaN", "inf", "1e400", "99999999999999999999d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
