//! The body in which a provider gave an answer, which few look into.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

use super::Dialect;
use crate::chat::response::map_weight;

/// A provider's body, without the message where it is a chat completion. Cheap to clone where it came whole.
#[derive(Clone)]
pub(crate) struct Envelope {
    dialect: Dialect,
    /// How many answers the provider gave.
    choices: usize,
    body: Body,
}

#[derive(Clone)]
enum Body {
    /// As it came, message included: JSON that is known to be sound.
    Text(Bytes),
    Fields(Map<String, Value>),
}

impl Envelope {
    /// Takes the text of a chat completion.
    pub fn unread(text: Bytes, choices: usize) -> Envelope {
        Envelope { dialect: Dialect::Chat, choices, body: Body::Text(text) }
    }

    /// Takes what was read.
    pub fn of(fields: Map<String, Value>) -> Envelope {
        let dialect = Dialect::of(fields.get("type"), fields.get("object"));
        let choices = match dialect {
            Dialect::Chat => fields.get("choices").and_then(Value::as_array).map_or(0, Vec::len),
            Dialect::Messages | Dialect::Responses => 1,
        };
        Envelope { dialect, choices, body: Body::Fields(fields) }
    }

    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub fn choices(&self) -> usize {
        self.choices
    }

    /// Returns the fields, for who looks for one of them: none where they cannot be read.
    pub fn fields(&self) -> Cow<'_, Map<String, Value>> {
        self.read_fields().unwrap_or_default()
    }

    /// Returns the fields, which have to be read where the body came whole.
    ///
    /// # Errors
    /// Where the body is none. It was read before, in another way: who has nothing else to give must say so.
    pub fn read_fields(&self) -> serde_json::Result<Cow<'_, Map<String, Value>>> {
        Ok(match &self.body {
            Body::Fields(fields) => Cow::Borrowed(fields),
            Body::Text(text) => {
                let mut fields: Map<String, Value> = serde_json::from_slice(text)?;
                let choice = fields.get_mut("choices").and_then(|choices| choices.get_mut(0));
                if let Some(message) = choice.and_then(|choice| choice.get_mut("message")) {
                    *message = Value::Null;
                }
                Cow::Owned(fields)
            }
        })
    }

    /// Returns about how much memory it takes, in bytes.
    pub fn weight(&self) -> usize {
        match &self.body {
            Body::Text(text) => text.len(),
            Body::Fields(fields) => map_weight(fields),
        }
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fields().fmt(f)
    }
}

impl PartialEq for Envelope {
    fn eq(&self, other: &Envelope) -> bool {
        self.fields() == other.fields()
    }
}

impl Serialize for Envelope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Without the message, which is kept beside it.
        self.read_fields().map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Envelope, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let Kind { kind, object, choices } = serde_json::from_str(text.get()).map_err(Error::custom)?;
        let dialect = Dialect::of(Some(&kind), Some(&object));
        let choices = if dialect == Dialect::Chat { choices.len() } else { 1 };
        let text: Box<str> = text.into();
        Ok(Envelope { dialect, choices, body: Body::Text(Bytes::from(Vec::from(text.into_boxed_bytes()))) })
    }
}

/// Declares a type that is read out of an object: the fields that are named, the last one of a name, and of all others only
/// that they are sound JSON.
macro_rules! object {
    ($(#[$doc:meta])* $type:ident { $($name:literal => $field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Default)]
        pub(super) struct $type {
            $(pub $field: $kind,)*
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                struct Fields;

                impl<'de> serde::de::Visitor<'de> for Fields {
                    type Value = $type;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut fields: A) -> Result<$type, A::Error> {
                        let mut read = $type::default();
                        while let Some(name) = fields.next_key::<$crate::chat::dialect::envelope::Name<'de>>()? {
                            match &*name.0 {
                                $($name => read.$field = fields.next_value()?,)*
                                _ => {
                                    fields.next_value::<$crate::chat::dialect::envelope::Sound>()?;
                                }
                            }
                        }
                        Ok(read)
                    }
                }

                deserializer.deserialize_map(Fields)
            }
        }
    };
}
pub(super) use object;

object! {
    /// What a body says of itself.
    Kind {
        "type" => kind: Value,
        "object" => object: Value,
        "choices" => choices: Vec<Sound>,
    }
}

/// Name by which serde_json knows its own raw text: where it comes first in an object, a [`Value`] is read of the text behind it.
const RAW: &str = "$serde_json::private::RawValue";

/// Name of a field. One that means something else to the reader of values is refused.
pub(super) struct Name<'a>(pub Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name<'de>, D::Error> {
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

        let Text(name) = Text::deserialize(deserializer)?;
        if name == RAW { Err(D::Error::custom("a name of serde_json's own")) } else { Ok(Name(name)) }
    }
}

/// Sound JSON, of which nothing is kept.
pub(super) struct Sound;

impl<'de> Deserialize<'de> for Sound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Sound, D::Error> {
        deserializer.deserialize_any(Sound)
    }
}

impl<'de> Visitor<'de> for Sound {
    type Value = Sound;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Sound, E> {
        Ok(Sound)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Sound, E> {
        Ok(Sound)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Sound, E> {
        Ok(Sound)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Sound, E> {
        Ok(Sound)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Sound, E> {
        Ok(Sound)
    }

    fn visit_str<E>(self, _: &str) -> Result<Sound, E> {
        Ok(Sound)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Sound, A::Error> {
        while items.next_element::<Sound>()?.is_some() {}
        Ok(Sound)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Sound, A::Error> {
        while fields.next_entry::<Name<'de>, Sound>()?.is_some() {}
        Ok(Sound)
    }
}
