//! [`Encoded`]: bytes of the caller's own, and by which encoding they were made.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A value as its owner encoded it. It comes back byte for byte.
///
/// Bytes cross to Python as `bytes`. In JSON they are text where they are valid UTF-8, and `{"base64": "…"}` else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Encoded {
    /// By what it is read, such as `"msgpack"` or `"json"`. Lists of these two are kept item by item.
    pub encoding: String,
    /// The bytes.
    #[serde(with = "bytes")]
    #[schemars(schema_with = "bytes::schema")]
    pub data: Vec<u8>,
}

impl Encoded {
    /// Creates a value from its bytes.
    pub fn new(encoding: impl Into<String>, data: impl Into<Vec<u8>>) -> Encoded {
        Encoded { encoding: encoding.into(), data: data.into() }
    }
}

/// Bytes as each host has them best.
mod bytes {
    use std::fmt;

    use schemars::{Schema, SchemaGenerator, json_schema};
    use serde::{
        Deserializer, Serializer,
        de::{Error, MapAccess, Visitor},
        ser::SerializeMap,
    };

    use super::{BASE64, Engine};

    const BASE64_KEY: &str = "base64";

    pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The bytes: text where they are UTF-8, else as base64.",
            "format": "bytes",
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {BASE64_KEY: {"type": "string"}},
                    "required": [BASE64_KEY],
                    "additionalProperties": false
                }
            ]
        })
    }

    pub(super) fn serialize<S: Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return serializer.serialize_bytes(data);
        }
        if let Ok(text) = std::str::from_utf8(data) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(BASE64_KEY, &BASE64.encode(data))?;
        map.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        // Asked for "any" value, since JSON has no bytes to ask for.
        deserializer.deserialize_any(Bytes)
    }

    struct Bytes;

    impl<'de> Visitor<'de> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes, text, or {\"base64\": \"…\"}")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<u8>, E> {
            Ok(text.as_bytes().to_vec())
        }

        fn visit_string<E: Error>(self, text: String) -> Result<Vec<u8>, E> {
            Ok(text.into_bytes())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<u8>, A::Error> {
            let Some((key, text)) = map.next_entry::<String, String>()? else {
                return Err(A::Error::missing_field(BASE64_KEY));
            };
            if key != BASE64_KEY {
                return Err(A::Error::unknown_field(&key, &[BASE64_KEY]));
            }
            BASE64.decode(text).map_err(|error| A::Error::custom(format!("not base64: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bytes_are_text_in_json_where_they_can_be() {
        for (data, written) in [
            (&b"[\"\xc3\xa9\"]"[..], json!({"encoding": "json", "data": "[\"é\"]"})),
            (&b"\xff\x00"[..], json!({"encoding": "json", "data": {"base64": "/wA="}})),
        ] {
            let value = Encoded::new("json", data);
            assert_eq!(serde_json::to_value(&value).unwrap(), written);
            assert_eq!(serde_json::from_value::<Encoded>(written).unwrap(), value);
        }
        assert!(serde_json::from_value::<Encoded>(json!({"encoding": "json", "data": 5})).is_err());
        assert!(serde_json::from_value::<Encoded>(json!({"encoding": "json", "data": {"hex": "ff"}})).is_err());
    }
}
