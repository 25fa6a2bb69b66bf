//! The bytes of OTLP: the few messages of its protocol buffers that are sent.
//!
//! Field numbers are those of <https://github.com/open-telemetry/opentelemetry-proto>.

/// Writes the fields of one message.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

/// How the value of a field is written.
#[derive(Debug, Clone, Copy)]
enum Form {
    Varint = 0,
    Fixed64 = 1,
    Length = 2,
}

impl Message {
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Writes a field of texts, bytes or a packed list. One that is empty is left out, as the protocol does.
    pub fn bytes(&mut self, field: u32, value: &[u8]) -> &mut Message {
        if !value.is_empty() {
            self.key(field, Form::Length);
            self.varint(value.len() as u64);
            self.0.extend_from_slice(value);
        }
        self
    }

    /// Writes a message inside this one, also where it is empty.
    pub fn message(&mut self, field: u32, value: Message) -> &mut Message {
        self.key(field, Form::Length);
        self.varint(value.0.len() as u64);
        self.0.extend(value.0);
        self
    }

    pub fn int(&mut self, field: u32, value: u64) -> &mut Message {
        self.key(field, Form::Varint);
        self.varint(value);
        self
    }

    pub fn fixed(&mut self, field: u32, value: u64) -> &mut Message {
        self.key(field, Form::Fixed64);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn double(&mut self, field: u32, value: f64) -> &mut Message {
        self.fixed(field, value.to_bits())
    }

    fn key(&mut self, field: u32, form: Form) {
        self.varint(u64::from((field << 3) | form as u32));
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AttributeValue {
    Text(String),
    Texts(Vec<String>),
    Int(i64),
    Float(f64),
    Bool(bool),
}

impl From<&str> for AttributeValue {
    fn from(value: &str) -> Self {
        AttributeValue::Text(value.to_owned())
    }
}

impl From<String> for AttributeValue {
    fn from(value: String) -> Self {
        AttributeValue::Text(value)
    }
}

impl From<u64> for AttributeValue {
    fn from(value: u64) -> Self {
        AttributeValue::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<f64> for AttributeValue {
    fn from(value: f64) -> Self {
        AttributeValue::Float(value)
    }
}

impl AttributeValue {
    fn encoded(&self) -> Message {
        let mut any = Message::default();
        match self {
            AttributeValue::Text(text) => any.text(1, text),
            AttributeValue::Bool(value) => any.int(2, u64::from(*value)),
            AttributeValue::Int(value) => any.int(3, value.cast_unsigned()),
            AttributeValue::Float(value) => any.double(4, *value),
            AttributeValue::Texts(texts) => {
                let mut list = Message::default();
                for text in texts {
                    list.message(1, AttributeValue::Text(text.clone()).encoded());
                }
                any.message(5, list)
            }
        };
        any
    }
}

impl Message {
    /// Writes a text that is one of several choices, so that it stands there also where it is empty.
    fn text(&mut self, field: u32, value: &str) -> &mut Message {
        self.key(field, Form::Length);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value.as_bytes());
        self
    }

    /// Writes an attribute.
    pub fn attribute(&mut self, field: u32, name: &str, value: &AttributeValue) -> &mut Message {
        let mut pair = Message::default();
        pair.bytes(1, name.as_bytes()).message(2, value.encoded());
        self.message(field, pair)
    }
}

/// Wraps what is sent of one signal: who sends it, and with what.
pub(super) fn export(resource: &[(String, String)], items: Vec<Message>) -> Vec<u8> {
    const NAME: &str = "sophia";
    let mut sender = Message::default();
    for (name, value) in resource {
        sender.attribute(1, name, &AttributeValue::Text(value.clone()));
    }
    let mut scope = Message::default();
    scope.bytes(1, NAME.as_bytes()).bytes(2, env!("CARGO_PKG_VERSION").as_bytes());
    let mut of_scope = Message::default();
    of_scope.message(1, scope);
    for item in items {
        of_scope.message(2, item);
    }
    let mut of_resource = Message::default();
    of_resource.message(1, sender).message(2, of_scope);
    let mut request = Message::default();
    request.message(1, of_resource);
    request.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_protocol_buffers() {
        let mut message = Message::default();
        message.int(1, 300).bytes(2, b"testing").fixed(3, 1).double(16, 1.0);
        let expected = [
            &[0x08, 0xac, 0x02, 0x12, 0x07][..],
            b"testing",
            &[0x19, 1, 0, 0, 0, 0, 0, 0, 0],
            &[0x81, 0x01, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f],
        ];
        assert_eq!(message.into_bytes(), expected.concat());
        assert_eq!(AttributeValue::Int(-1).encoded().into_bytes().len(), 11, "a negative number takes ten bytes");
    }
}
