//! A value that is never shown.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// What stands for a credential wherever it would be shown.
const MASK: &str = "***";

/// A credential. Debug and serialization show `***`; only [`Secret::expose`] gives the value.
///
/// ```
/// let key = sophia_core::Secret::new("sk-1234");
/// assert_eq!(format!("{key:?}"), "***");
/// ```
#[derive(Clone, Default, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct Secret(String);

impl Secret {
    /// Wraps a credential.
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }

    /// Returns the credential, to be sent to whom it belongs and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // What was shown is not what it stands for: sent on, it would take the place of the secret.
        match String::deserialize(deserializer)? {
            text if text == MASK => {
                Err(D::Error::custom("`***` stands for a secret that is not shown: give the secret"))
            }
            text => Ok(Secret(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_is_not_read_as_the_secret() {
        let secret: Secret = serde_json::from_str("\"sk-1\"").unwrap();
        assert_eq!(secret.expose(), "sk-1");
        let shown = serde_json::to_string(&secret).unwrap();
        assert!(serde_json::from_str::<Secret>(&shown).unwrap_err().to_string().contains("give the secret"));
    }
}
