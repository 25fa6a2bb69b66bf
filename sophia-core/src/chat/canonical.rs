//! Canonical JSON by RFC 8785: one text for all texts that mean the same.
//!
//! Key order and number form do not matter; array order and strings do, byte for byte. Integers beyond 2^53 are written
//! exactly instead of being rounded to a double, so that two different ones never become one.

use serde_json::{Map, Number, Value};

use crate::{Error, Result};

/// Deepest nesting: what serde_json reads by default, and far from the end of the stack.
const MAX_DEPTH: usize = 128;
/// Fields of an object that are sorted without an allocation: those of nearly every message.
const FEW: usize = 8;
/// Up to here a double holds every integer (2^53).
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Writes canonical JSON into `out`.
pub(crate) struct Canonical<'a> {
    pub out: &'a mut Vec<u8>,
    operation: &'static str,
}

impl<'a> Canonical<'a> {
    pub fn new(operation: &'static str, out: &'a mut Vec<u8>) -> Self {
        Canonical { out, operation }
    }

    pub fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::invalid(self.operation, "messages", format!("is nested more than {MAX_DEPTH} deep")));
        }
        match value {
            Value::Null => self.out.extend_from_slice(b"null"),
            Value::Bool(true) => self.out.extend_from_slice(b"true"),
            Value::Bool(false) => self.out.extend_from_slice(b"false"),
            Value::Number(number) => self.number(number),
            Value::String(text) => self.string(text),
            Value::Array(values) => {
                self.array(values, |this, value| this.value(value, depth + 1))?;
            }
            Value::Object(fields) => self.object(fields, &[], depth)?,
        }
        Ok(())
    }

    pub fn array<T>(&mut self, values: &[T], mut write: impl FnMut(&mut Self, &T) -> Result<()>) -> Result<()> {
        self.out.push(b'[');
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            write(self, value)?;
        }
        self.out.push(b']');
        Ok(())
    }

    /// Writes an object without the fields named in `except`.
    pub fn object(&mut self, fields: &Map<String, Value>, except: &[&str], depth: usize) -> Result<()> {
        let kept = fields.iter().filter(|(name, _)| !except.contains(&name.as_str()));
        let mut few = [("", &Value::Null); FEW];
        let mut many;
        let sorted = if fields.len() <= FEW {
            let mut count = 0;
            for (place, (name, value)) in few.iter_mut().zip(kept) {
                *place = (name.as_str(), value);
                count += 1;
            }
            &mut few[..count]
        } else {
            many = kept.map(|(name, value)| (name.as_str(), value)).collect::<Vec<_>>();
            many.as_mut_slice()
        };
        sorted.sort_unstable_by(|a, b| by_utf16(a.0, b.0));
        self.out.push(b'{');
        for (index, (name, value)) in sorted.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.string(name);
            self.out.push(b':');
            self.value(value, depth + 1)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    pub fn string(&mut self, text: &str) {
        self.out.push(b'"');
        let mut rest = text.as_bytes();
        loop {
            let (clean, dirty) = rest.split_at(clean_prefix(rest));
            self.out.extend_from_slice(clean);
            let Some((byte, after)) = dirty.split_first() else { break };
            self.escape(*byte);
            rest = after;
        }
        self.out.push(b'"');
    }

    fn escape(&mut self, byte: u8) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let short: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            0x08 => b"\\b",
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            0x0c => b"\\f",
            b'\r' => b"\\r",
            _ => {
                self.out.extend_from_slice(b"\\u00");
                &[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]
            }
        };
        self.out.extend_from_slice(short);
    }

    pub fn number(&mut self, number: &Number) {
        if number.is_f64() {
            self.double(number.as_f64().unwrap_or_default());
        } else {
            self.out.extend_from_slice(number.to_string().as_bytes());
        }
    }

    /// Writes a finite double as ECMAScript does: the shortest digits that read back, exponents outside 1e-6..1e21.
    pub fn double(&mut self, value: f64) {
        if value.fract() == 0.0 && value.abs() <= EXACT {
            // Exact by the range; this also makes -0 a 0.
            return self.out.extend_from_slice((value as i64).to_string().as_bytes());
        }
        let magnitude = value.abs();
        let text = if (1e-6..1e21).contains(&magnitude) { format!("{value}") } else { format!("{value:e}") };
        match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => {
                self.out.extend_from_slice(format!("{digits}e+{exponent}").as_bytes());
            }
            _ => self.out.extend_from_slice(text.as_bytes()),
        }
    }
}

/// Returns how many bytes at the beginning are written as they are.
fn clean_prefix(bytes: &[u8]) -> usize {
    // As wide as the vectors that the compiler makes of it; a branch for each byte would cost more than all the rest.
    const CHUNK: usize = 32;
    let is_clean = |chunk: &[u8; CHUNK]| chunk.iter().fold(0, |found, byte| found | u8::from(is_escaped(*byte))) == 0;
    let clean = CHUNK * bytes.as_chunks().0.iter().take_while(|chunk| is_clean(chunk)).count();
    let rest = &bytes[clean..];
    clean + rest.iter().position(|byte| is_escaped(*byte)).unwrap_or(rest.len())
}

fn is_escaped(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Compares names by UTF-16 code units, as RFC 8785 asks; they differ from bytes only beyond the basic plane.
pub(crate) fn by_utf16(a: &str, b: &str) -> std::cmp::Ordering {
    if a.is_ascii() && b.is_ascii() { a.cmp(b) } else { a.encode_utf16().cmp(b.encode_utf16()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn canonical(value: &Value) -> String {
        let mut out = Vec::new();
        Canonical::new("test", &mut out).value(value, 0).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn text(json: &str) -> String {
        canonical(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn the_examples_of_the_rfc_come_out_as_printed() {
        // RFC 8785, sections 3.2.2 and 3.2.3.
        let example = r#"{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"#;
        assert_eq!(
            text(example),
            "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
             \"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
        );
        let names = r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}"#;
        assert_eq!(text(names), "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"ö\":7,\"€\":1,\"😀\":5,\"\u{fb33}\":3}");
    }

    #[test]
    fn number_form_does_not_matter_but_the_number_does() {
        for same in ["1", "1.0", "1e0", "10e-1"] {
            assert_eq!(text(same), "1");
        }
        assert_eq!(
            (text("-0.0"), text("1e21"), text("1e-7"), text("0.1")),
            ("0".into(), "1e+21".into(), "1e-7".into(), "0.1".into())
        );
        assert_ne!(text("9007199254740993"), text("9007199254740992"));
        assert_ne!(text("1"), text("\"1\""));
    }

    #[test]
    fn what_is_nested_too_deep_is_refused_instead_of_overflowing() {
        let deep = (0..100_000).fold(json!(0), |inner, _| Value::Array(vec![inner]));
        let error = Canonical::new("test", &mut Vec::new()).value(&deep, 0).unwrap_err();
        assert_eq!(error.code(), "INVALID_INPUT");
        // Dropping it recursively would overflow the stack of the test itself.
        std::mem::forget(deep);
    }

    #[test]
    fn escapes_are_found_wherever_they_stand() {
        for length in 0..100 {
            for at in 0..length {
                for (byte, escape) in
                    [('"', "\\\""), ('\\', "\\\\"), ('\n', "\\n"), ('\u{1f}', "\\u001f"), ('\u{7f}', "\u{7f}")]
                {
                    let mut text = "x".repeat(length);
                    text.replace_range(at..=at, &byte.to_string());
                    assert_eq!(canonical(&json!(text)), format!("\"{}\"", text.replace(byte, escape)));
                }
            }
        }
    }

    #[test]
    fn names_are_sorted_whether_they_are_few_or_many() {
        for count in [0, 1, FEW, FEW + 1, 30] {
            let names: Vec<_> = (0..count).map(|index| format!("n{index:02}")).collect();
            let fields: Map<_, _> = names.iter().rev().map(|name| (name.clone(), json!(1))).collect();
            let expected: Vec<_> = names.iter().map(|name| format!("\"{name}\":1")).collect();
            assert_eq!(canonical(&Value::Object(fields)), format!("{{{}}}", expected.join(",")));
        }
    }

    proptest! {
        #[test]
        fn it_reads_back_as_the_same_value(value in values()) {
            let text = canonical(&value);
            let back: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(canonical(&back), text);
        }

        #[test]
        fn different_strings_stay_different(a in ".{0,8}", b in ".{0,8}") {
            prop_assert_eq!(canonical(&json!(a)) == canonical(&json!(b)), a == b);
        }

        #[test]
        fn every_double_reads_back_exactly(value in proptest::num::f64::NORMAL) {
            let mut out = Vec::new();
            Canonical::new("test", &mut out).double(value);
            let back: f64 = std::str::from_utf8(&out).unwrap().parse().unwrap();
            prop_assert_eq!(back, value);
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((".{0,4}", inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }
}
