//! camelCase and milliseconds on the outside, snake_case and durations on the inside.
//!
//! Two serde adapters. They rename the fields of *structs*, which are ours, and leave the keys of *maps* alone, which are
//! the user's: serde says which is which. A field that the caller writes as `xMs` and that the struct knows as `x` is a
//! duration in milliseconds, and is handed on in seconds.
//!
//! serde buffers what it reads for `flatten`, `untagged` and internally tagged types, and no longer says that the keys are
//! those of a struct: such a type takes its own names only. A struct with `flatten` is written as a map of unknown length,
//! and no map of a user is: its keys are renamed as well.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    marker::PhantomData,
    sync::{LazyLock, RwLock},
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor},
    ser,
};

/// Milliseconds in a second.
const MILLIS: f64 = 1_000.0;

/// The name by which serde_json asks for, and gives, JSON text as it stands.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

/// Reads what a JavaScript caller wrote.
pub fn reading<'de, D: Deserializer<'de>>(deserializer: D) -> impl Deserializer<'de, Error = D::Error> {
    Reader { inner: deserializer, millis: false }
}

/// Writes `value` as a JavaScript caller reads it.
pub fn writing<T: Serialize + ?Sized>(value: &T) -> impl Serialize {
    Written(value)
}

/// Returns the camelCase form of a snake_case name.
pub fn camel(name: &str) -> Cow<'_, str> {
    if !name.contains('_') {
        return Cow::Borrowed(name);
    }
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for letter in name.chars() {
        match letter {
            '_' if !out.is_empty() => upper = true,
            letter if upper => {
                out.extend(letter.to_uppercase());
                upper = false;
            }
            letter => out.push(letter),
        }
    }
    Cow::Owned(out)
}

/// Returns whether `name` is the camelCase form of `field`, without building it.
fn is_camel(name: &str, field: &str) -> bool {
    let mut name = name.chars();
    let mut upper = false;
    for letter in field.chars() {
        if letter == '_' {
            upper = true;
            continue;
        }
        let wanted = if upper { letter.to_ascii_uppercase() } else { letter };
        upper = false;
        if name.next() != Some(wanted) {
            return false;
        }
    }
    name.next().is_none()
}

/// Finds the field that a caller's key names, and whether its value is in milliseconds.
fn find_field(key: &str, fields: &[&'static str]) -> Option<(&'static str, bool)> {
    if let Some(field) = fields.iter().find(|field| **field == key || is_camel(key, field)) {
        return Some((field, false));
    }
    let name = key.strip_suffix("Ms")?;
    let field = fields.iter().find(|field| is_camel(name, field))?;
    Some((field, true))
}

/// A deserializer, and what its values are handed to. `millis` says that a number stands for milliseconds.
struct Reader<T> {
    inner: T,
    millis: bool,
}

/// A visitor, and the fields of the struct that it visits, if it visits one.
struct Receiver<V> {
    inner: V,
    fields: &'static [&'static str],
    millis: bool,
}

impl<T> Reader<T> {
    fn receiver<V>(&self, visitor: V) -> Receiver<V> {
        Receiver { inner: visitor, fields: &[], millis: self.millis }
    }
}

macro_rules! read_through {
    ($($method:ident($($argument:ident: $Type:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(self, $($argument: $Type,)* visitor: V) -> Result<V::Value, D::Error> {
            let visitor = self.receiver(visitor);
            self.inner.$method($($argument,)* visitor)
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Reader<D> {
    type Error = D::Error;

    read_through! {
        deserialize_any() deserialize_bool()
        deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64() deserialize_i128()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128()
        deserialize_f32() deserialize_f64() deserialize_char()
        deserialize_str() deserialize_string() deserialize_bytes() deserialize_byte_buf()
        deserialize_option() deserialize_unit() deserialize_unit_struct(name: &'static str)
        deserialize_seq() deserialize_tuple(len: usize) deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_map() deserialize_enum(name: &'static str, variants: &'static [&'static str])
        deserialize_identifier() deserialize_ignored_any()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        if name == RAW_VALUE {
            return self.inner.deserialize_newtype_struct(name, visitor);
        }
        let visitor = self.receiver(visitor);
        self.inner.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_struct(name, fields, Receiver { inner: visitor, fields, millis: false })
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visit_through {
    ($($method:ident($($Type:ty)?))*) => {$(
        fn $method<E: de::Error>(self, $(value: $Type)?) -> Result<V::Value, E> {
            visit_through!(@ self, $method, $(value: $Type)?)
        }
    )*};
    (@ $self:ident, $method:ident, $value:ident: $Type:ty) => { $self.inner.$method($value) };
    (@ $self:ident, $method:ident,) => { $self.inner.$method() };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Receiver<V> {
    type Value = V::Value;

    visit_through! {
        visit_bool(bool) visit_i128(i128) visit_u128(u128) visit_char(char)
        visit_bytes(&[u8]) visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>) visit_none() visit_unit()
    }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<V::Value, E> {
        if self.millis { self.inner.visit_f64(value as f64 / MILLIS) } else { self.inner.visit_i64(value) }
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<V::Value, E> {
        match (self.millis, value.is_multiple_of(MILLIS as u64)) {
            (false, _) => self.inner.visit_u64(value),
            // Whole seconds also suit a field that takes no fraction.
            (true, true) => self.inner.visit_u64(value / MILLIS as u64),
            (true, false) => self.inner.visit_f64(value as f64 / MILLIS),
        }
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<V::Value, E> {
        self.inner.visit_f64(if self.millis { value / MILLIS } else { value })
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<V::Value, E> {
        self.check_text(value)?;
        self.inner.visit_str(value)
    }

    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<V::Value, E> {
        self.check_text(value)?;
        self.inner.visit_borrowed_str(value)
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<V::Value, E> {
        self.check_text(&value)?;
        self.inner.visit_string(value)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Reader { inner: deserializer, millis: self.millis })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Reader { inner: deserializer, millis: self.millis })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Reader { inner: items, millis: self.millis })
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Entries { inner: entries, fields: self.fields, millis: self.millis, field_millis: false })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Reader { inner: variant, millis: false })
    }
}

impl<V> Receiver<V> {
    /// A field named in milliseconds takes a number, and not text with a unit of its own.
    fn check_text<E: de::Error>(&self, value: &str) -> Result<(), E> {
        if self.millis {
            return Err(E::invalid_type(de::Unexpected::Str(value), &"a number of milliseconds"));
        }
        Ok(())
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Reader<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Reader { inner: deserializer, millis: self.millis })
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Reader<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_element_seed(Reader { inner: seed, millis: self.millis })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Reader<A> {
    type Error = A::Error;
    type Variant = Reader<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        let (value, variant) = self.inner.variant_seed(seed)?;
        Ok((value, Reader { inner: variant, millis: false }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Reader<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.newtype_variant_seed(Reader { inner: seed, millis: false })
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        let visitor = self.receiver(visitor);
        self.inner.tuple_variant(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner.struct_variant(fields, Receiver { inner: visitor, fields, millis: false })
    }
}

/// The entries of a struct or of a map.
struct Entries<A> {
    inner: A,
    /// Of the struct; none for a map.
    fields: &'static [&'static str],
    /// The map stands in a field named in milliseconds, and so do its values.
    millis: bool,
    /// The field whose key was read last is named in milliseconds.
    field_millis: bool,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Entries<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        if self.fields.is_empty() {
            return self.inner.next_key_seed(seed);
        }
        let Some(Key(key)) = self.inner.next_key()? else { return Ok(None) };
        let field = find_field(&key, self.fields);
        self.field_millis = field.is_some_and(|(_, millis)| millis);
        match field {
            Some((field, _)) => seed.deserialize(de::value::BorrowedStrDeserializer::new(field)),
            None => seed.deserialize(key.into_deserializer()),
        }
        .map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(Reader { inner: seed, millis: self.millis || self.field_millis })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// A key as the caller wrote it, borrowed where the text allows.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor<'de>(PhantomData<&'de ()>);

        impl<'de> Visitor<'de> for KeyVisitor<'de> {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a field")
            }

            fn visit_borrowed_str<E: de::Error>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E: de::Error>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }

            fn visit_string<E: de::Error>(self, key: String) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key)))
            }
        }

        deserializer.deserialize_identifier(KeyVisitor(PhantomData))
    }
}

/// A value whose structs are written in camelCase.
struct Written<'a, T: ?Sized>(&'a T);

impl<T: Serialize + ?Sized> Serialize for Written<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(Writer(serializer))
    }
}

struct Writer<S>(S);

macro_rules! write_through {
    ($($method:ident($($argument:ident: $Type:ty),*))*) => {$(
        fn $method(self, $($argument: $Type),*) -> Result<S::Ok, S::Error> {
            self.0.$method($($argument),*)
        }
    )*};
}

macro_rules! write_compound {
    ($($method:ident($($argument:ident: $Type:ty),*) -> $Compound:ident)*) => {$(
        fn $method(self, $($argument: $Type),*) -> Result<Self::$Compound, S::Error> {
            self.0.$method($($argument),*).map(Writer)
        }
    )*};
}

impl<S: Serializer> Serializer for Writer<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Writer<S::SerializeSeq>;
    type SerializeTuple = Writer<S::SerializeTuple>;
    type SerializeTupleStruct = Writer<S::SerializeTupleStruct>;
    type SerializeTupleVariant = Writer<S::SerializeTupleVariant>;
    type SerializeMap = WriterEntries<S::SerializeMap>;
    type SerializeStruct = Writer<S::SerializeStruct>;
    type SerializeStructVariant = Writer<S::SerializeStructVariant>;

    write_through! {
        serialize_bool(value: bool)
        serialize_i8(value: i8) serialize_i16(value: i16) serialize_i32(value: i32) serialize_i64(value: i64)
        serialize_i128(value: i128)
        serialize_u8(value: u8) serialize_u16(value: u16) serialize_u32(value: u32) serialize_u64(value: u64)
        serialize_u128(value: u128)
        serialize_f32(value: f32) serialize_f64(value: f64) serialize_char(value: char)
        serialize_str(value: &str) serialize_bytes(value: &[u8])
        serialize_none() serialize_unit() serialize_unit_struct(name: &'static str)
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str)
    }

    write_compound! {
        serialize_seq(len: Option<usize>) -> SerializeSeq
        serialize_tuple(len: usize) -> SerializeTuple
        serialize_tuple_struct(name: &'static str, len: usize) -> SerializeTupleStruct
        serialize_tuple_variant(name: &'static str, index: u32, variant: &'static str, len: usize) -> SerializeTupleVariant
        serialize_struct(name: &'static str, len: usize) -> SerializeStruct
        serialize_struct_variant(name: &'static str, index: u32, variant: &'static str, len: usize) -> SerializeStructVariant
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.serialize_some(&Written(value))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_struct(name, &Written(value))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_variant(name, index, variant, &Written(value))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        Ok(WriterEntries { inner: self.0.serialize_map(len)?, flattened: len.is_none() })
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

macro_rules! write_items {
    ($($Trait:ident::$method:ident)*) => {$(
        impl<S: ser::$Trait> ser::$Trait for Writer<S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
                self.0.$method(&Written(value))
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.0.end()
            }
        }
    )*};
}

write_items! {
    SerializeSeq::serialize_element
    SerializeTuple::serialize_element
    SerializeTupleStruct::serialize_field
    SerializeTupleVariant::serialize_field
}

macro_rules! write_fields {
    ($($Trait:ident)*) => {$(
        impl<S: ser::$Trait> ser::$Trait for Writer<S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), S::Error> {
                self.0.serialize_field(written_field(key), &Written(value))
            }

            fn skip_field(&mut self, key: &'static str) -> Result<(), S::Error> {
                self.0.skip_field(written_field(key))
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.0.end()
            }
        }
    )*};
}

write_fields! { SerializeStruct SerializeStructVariant }

/// The entries of a map, or of a struct with flattened fields.
struct WriterEntries<S> {
    inner: S,
    flattened: bool,
}

impl<S: ser::SerializeMap> ser::SerializeMap for WriterEntries<S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        if self.flattened { self.inner.serialize_key(&FieldName(key)) } else { self.inner.serialize_key(key) }
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        self.inner.serialize_value(&Written(value))
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.inner.end()
    }
}

/// The name of a flattened field.
struct FieldName<'a, T: ?Sized>(&'a T);

impl<T: Serialize + ?Sized> Serialize for FieldName<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serde_json::to_value(self.0) {
            Ok(serde_json::Value::String(name)) => serializer.serialize_str(&camel(&name)),
            _ => self.0.serialize(serializer),
        }
    }
}

/// Returns the name under which a field is written.
///
/// serde asks for a name that lives as long as the program, so each is built once and kept: there are as many as there
/// are fields in the source.
fn written_field(name: &'static str) -> &'static str {
    static NAMES: LazyLock<RwLock<HashMap<&'static str, &'static str>>> = LazyLock::new(RwLock::default);
    // `$` marks serde_json's own names.
    if !name.contains('_') || name.starts_with('$') {
        return name;
    }
    let known = NAMES.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(name).copied();
    known.unwrap_or_else(|| {
        let mut names = NAMES.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        names.entry(name).or_insert_with(|| Box::leak(camel(name).into_owned().into_boxed_str()))
    })
}
