//! Python values in and out of serde, with no text between.
//!
//! In: None, bool, int, float, str, bytes, mappings, sequences, sets, views, generators, dataclasses, models of pydantic, paths and
//! datetime (as RFC 3339). What has `tolist()` (a numpy array) is read as that list. Whatever else can be iterated over is refused:
//! a file, a cursor or a row is not meant as a list. Out: the plain types; a struct becomes a dict.

use std::fmt;

use pyo3::{
    IntoPyObjectExt,
    exceptions::{PyOverflowError, PyUnicodeEncodeError},
    intern,
    prelude::*,
    sync::PyOnceLock,
    types::{IntoPyDict, PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple, PyType},
};
use serde::{
    de::{self, DeserializeSeed, Deserializer as _, IntoDeserializer, Visitor},
    ser::{self, Serialize},
};

/// What does not fit between Python and serde.
#[derive(Debug)]
pub struct Mismatch(String);

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mismatch {}

impl de::Error for Mismatch {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Mismatch(message.to_string())
    }
}

impl ser::Error for Mismatch {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Mismatch(message.to_string())
    }
}

impl From<PyErr> for Mismatch {
    fn from(error: PyErr) -> Self {
        Python::attach(|py| {
            if error.is_instance_of::<PyUnicodeEncodeError>(py) {
                Mismatch("the text holds a lone surrogate, which is not valid Unicode".into())
            } else if error.is_instance_of::<PyOverflowError>(py) {
                Mismatch("the integer does not fit into 64 bits".into())
            } else {
                Mismatch(error.to_string())
            }
        })
    }
}

/// Deepest nesting that is read: as deep as JSON is, and far from the end of the stack.
const MAX_DEPTH: usize = 128;

/// Reads a Python value.
pub struct Reader<'a, 'py> {
    value: &'a Bound<'py, PyAny>,
    place: Place,
}

/// Where a value stands.
#[derive(Clone, Copy)]
struct Place {
    depth: usize,
    nulls: Nulls,
}

/// What becomes of the fields of a model that are null.
#[derive(Clone, Copy)]
enum Nulls {
    Kept,
    LeftOut,
}

impl<'a, 'py> Reader<'a, 'py> {
    pub fn new(value: &'a Bound<'py, PyAny>) -> Reader<'a, 'py> {
        Reader { value, place: Place { depth: 0, nulls: Nulls::Kept } }
    }

    /// Leaves out the fields of models that are null.
    pub fn without_nulls(value: &'a Bound<'py, PyAny>) -> Reader<'a, 'py> {
        Reader { value, place: Place { depth: 0, nulls: Nulls::LeftOut } }
    }

    /// Reads a value in place of this one, or inside it.
    fn inside(value: &'a Bound<'py, PyAny>, place: Place) -> Result<Reader<'a, 'py>, Mismatch> {
        if place.depth == MAX_DEPTH {
            return Err(Mismatch(format!("the value is nested deeper than {MAX_DEPTH}, or holds itself")));
        }
        Ok(Reader { value, place: Place { depth: place.depth + 1, ..place } })
    }

    fn read_object<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        let Reader { value, place } = self;
        let py = value.py();
        if value.is_instance_of::<PyType>() {
            Err(refused(value)?)
        } else if let Some(fields) = value.getattr_opt(intern!(py, "__dataclass_fields__"))? {
            visitor.visit_map(Entries { entries: fields_of(value, &fields)?.iter(), value: None, place })
        } else if let Some(dump) = value.getattr_opt(intern!(py, "model_dump"))? {
            Reader::inside(&dumped(&dump, place.nulls)?, place)?.deserialize_any(visitor)
        } else if value.hasattr(intern!(py, "__fspath__"))? {
            Reader::inside(&value.call_method0(intern!(py, "__fspath__"))?, place)?.deserialize_any(visitor)
        } else if value.hasattr(intern!(py, "isoformat"))? {
            visitor.visit_string(rfc3339(value)?)
        } else if value.hasattr(intern!(py, "total_seconds"))? {
            Err(Mismatch(
                "a timedelta is written as its seconds, `.total_seconds()`, or as text such as \"15m\"".into(),
            ))
        } else if value.hasattr(intern!(py, "tolist"))? {
            Reader::inside(&value.call_method0(intern!(py, "tolist"))?, place)?.deserialize_any(visitor)
        } else if is_list(value)? {
            visitor.visit_seq(Items { items: value.try_iter()?, place })
        } else {
            Err(refused(value)?)
        }
    }
}

impl<'de> de::Deserializer<'de> for Reader<'_, '_> {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        let Reader { value, place } = self;
        if value.is_none() {
            visitor.visit_unit()
        } else if let Ok(text) = value.cast::<PyString>() {
            visitor.visit_str(&text.to_cow()?)
        } else if let Ok(flag) = value.cast::<PyBool>() {
            visitor.visit_bool(flag.is_true())
        } else if value.is_instance_of::<PyInt>() {
            match value.extract::<i64>() {
                Ok(number) => visitor.visit_i64(number),
                Err(_) => visitor.visit_u64(value.extract()?),
            }
        } else if let Ok(number) = value.cast::<PyFloat>() {
            let number = number.value();
            // What is kept as JSON would silently become null.
            if !number.is_finite() {
                return Err(Mismatch(format!("must be a finite number, not {number}")));
            }
            visitor.visit_f64(number)
        } else if let Ok(dict) = value.cast::<PyDict>() {
            visitor.visit_map(Entries { entries: dict.iter(), value: None, place })
        } else if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
            visitor.visit_seq(Items { items: value.try_iter()?, place })
        } else if let Ok(bytes) = value.cast::<PyBytes>() {
            visitor.visit_bytes(bytes.as_bytes())
        } else if let Ok(mapping) = value.cast::<PyMapping>() {
            let dict = PyDict::new(value.py());
            dict.update(mapping)?;
            visitor.visit_map(Entries { entries: dict.iter(), value: None, place })
        } else {
            self.read_object(visitor)
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        if self.value.is_none() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        if let Ok(text) = self.value.cast::<PyString>() {
            let text = text.to_cow()?.into_owned();
            return visitor.visit_enum(text.into_deserializer());
        }
        // An enum with data is rare: it goes by way of a JSON value.
        let value: serde_json::Value = de::Deserialize::deserialize(self)?;
        de::Deserializer::deserialize_enum(value, name, variants, visitor).map_err(de::Error::custom)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

/// Reads a mapping as a layer of configuration.
pub fn config_layer(mapping: &Bound<'_, PyAny>) -> sophia_core::Result<serde_json::Value> {
    use sophia_core::{Error, ErrorKind};
    sophia_core::operations::read("config", Reader::new(mapping)).map_err(|error: Error| {
        let field = error.get("field").unwrap_or("config");
        Error::new(ErrorKind::InvalidConfig, "config", error.message()).with("field", field)
    })
}

/// A datetime as RFC 3339; one without a zone is refused, since nobody can know what it means.
fn rfc3339(value: &Bound<'_, PyAny>) -> Result<String, Mismatch> {
    let py = value.py();
    if value.getattr(intern!(py, "tzinfo")).is_ok_and(|zone| zone.is_none()) {
        return Err(Mismatch("the datetime has no time zone: use datetime.now(timezone.utc)".into()));
    }
    Ok(value.call_method0(intern!(py, "isoformat"))?.extract()?)
}

/// Says of what type a value is that cannot be read.
fn refused(value: &Bound<'_, PyAny>) -> PyResult<Mismatch> {
    let kind = value.get_type().fully_qualified_name()?;
    Ok(Mismatch(format!("a value of type `{kind}` cannot be read: give it as a dict, a list, text or a number")))
}

/// Dumps a model of pydantic.
fn dumped<'py>(dump: &Bound<'py, PyAny>, nulls: Nulls) -> PyResult<Bound<'py, PyAny>> {
    let py = dump.py();
    let options = [("mode", "json")].into_py_dict(py)?;
    if matches!(nulls, Nulls::LeftOut) {
        options.set_item("exclude_none", true)?;
    }
    dump.call((), Some(&options))
}

/// Returns the fields of a dataclass, also where they are slots, and nothing else that was set on it.
fn fields_of<'py>(value: &Bound<'py, PyAny>, fields: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    static FIELDS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    let set = value.getattr_opt(intern!(py, "__dict__"))?.and_then(|set| set.cast_into::<PyDict>().ok());
    let known = fields.cast::<PyDict>()?;
    if let Some(set) = set.filter(|set| set.len() == known.len())
        && set.iter().all(|(name, _)| known.contains(name).unwrap_or(false))
    {
        return Ok(set);
    }
    let dict = PyDict::new(py);
    for field in FIELDS.import(py, "dataclasses", "fields")?.call1((value,))?.try_iter()? {
        let name = field?.getattr(intern!(py, "name"))?.cast_into::<PyString>()?;
        if let Some(value) = value.getattr_opt(&name)? {
            dict.set_item(name, value)?;
        }
    }
    Ok(dict)
}

/// Whether a value is meant as a list. A row of a database passes for a sequence, but has names for what is in it.
fn is_list(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    static LISTS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    Ok(value.is_instance(LISTS.import(py, "sophia._wire", "LISTS")?)? && !value.hasattr(intern!(py, "keys"))?)
}

struct Entries<'py> {
    entries: pyo3::types::dict::BoundDictIterator<'py>,
    value: Option<Bound<'py, PyAny>>,
    place: Place,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mismatch> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some(value);
        let key = key.cast::<PyString>().map_err(|_| Mismatch(format!("the key `{key}` must be a string")))?;
        seed.deserialize(key.to_cow()?.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mismatch> {
        let value = self.value.take().ok_or_else(|| Mismatch("a value without its key".into()))?;
        seed.deserialize(Reader::inside(&value, self.place)?)
    }
}

struct Items<'py> {
    items: Bound<'py, pyo3::types::PyIterator>,
    place: Place,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Mismatch;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mismatch> {
        match self.items.next() {
            Some(item) => seed.deserialize(Reader::inside(&item?, self.place)?).map(Some),
            None => Ok(None),
        }
    }
}

/// Writes a Python value.
#[derive(Clone, Copy)]
pub struct Writer<'py>(pub Python<'py>);

/// Turns anything that serde can write into plain Python objects.
pub fn to_python<'py, T: Serialize + ?Sized>(py: Python<'py>, value: &T) -> PyResult<Bound<'py, PyAny>> {
    value.serialize(Writer(py)).map_err(|mismatch| pyo3::exceptions::PyValueError::new_err(mismatch.0))
}

type Written<'py> = Result<Bound<'py, PyAny>, Mismatch>;

impl<'py> Writer<'py> {
    fn write<T: IntoPyObject<'py>>(self, value: T) -> Written<'py> {
        value.into_bound_py_any(self.0).map_err(Mismatch::from)
    }

    fn tagged(self, variant: &'static str, value: Bound<'py, PyAny>) -> Written<'py> {
        let dict = PyDict::new(self.0);
        dict.set_item(variant, value)?;
        Ok(dict.into_any())
    }
}

impl<'py> ser::Serializer for Writer<'py> {
    type Ok = Bound<'py, PyAny>;
    type Error = Mismatch;
    type SerializeSeq = List<'py>;
    type SerializeTuple = List<'py>;
    type SerializeTupleStruct = List<'py>;
    type SerializeTupleVariant = List<'py>;
    type SerializeMap = Dict<'py>;
    type SerializeStruct = Dict<'py>;
    type SerializeStructVariant = Dict<'py>;

    /// Bytes stay bytes here, where JSON would need text.
    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, value: bool) -> Written<'py> {
        Ok(PyBool::new(self.0, value).to_owned().into_any())
    }

    fn serialize_i8(self, value: i8) -> Written<'py> {
        self.write(value)
    }

    fn serialize_i16(self, value: i16) -> Written<'py> {
        self.write(value)
    }

    fn serialize_i32(self, value: i32) -> Written<'py> {
        self.write(value)
    }

    fn serialize_i64(self, value: i64) -> Written<'py> {
        self.write(value)
    }

    fn serialize_u8(self, value: u8) -> Written<'py> {
        self.write(value)
    }

    fn serialize_u16(self, value: u16) -> Written<'py> {
        self.write(value)
    }

    fn serialize_u32(self, value: u32) -> Written<'py> {
        self.write(value)
    }

    fn serialize_u64(self, value: u64) -> Written<'py> {
        self.write(value)
    }

    fn serialize_f32(self, value: f32) -> Written<'py> {
        self.write(value)
    }

    fn serialize_f64(self, value: f64) -> Written<'py> {
        self.write(value)
    }

    fn serialize_char(self, value: char) -> Written<'py> {
        self.write(value)
    }

    fn serialize_str(self, value: &str) -> Written<'py> {
        self.write(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Written<'py> {
        Ok(PyBytes::new(self.0, value).into_any())
    }

    fn serialize_none(self) -> Written<'py> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Written<'py> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Written<'py> {
        Ok(self.0.None().into_bound(self.0))
    }

    fn serialize_unit_struct(self, _: &'static str) -> Written<'py> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Written<'py> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Written<'py> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Written<'py> {
        self.tagged(variant, value.serialize(self)?)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<List<'py>, Mismatch> {
        Ok(List { writer: self, items: Vec::with_capacity(len.unwrap_or(0)), variant: None })
    }

    fn serialize_tuple(self, len: usize) -> Result<List<'py>, Mismatch> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<List<'py>, Mismatch> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<List<'py>, Mismatch> {
        Ok(List { variant: Some(variant), ..self.serialize_seq(Some(len))? })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Dict<'py>, Mismatch> {
        Ok(Dict { writer: self, dict: PyDict::new(self.0), key: None, variant: None })
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Dict<'py>, Mismatch> {
        self.serialize_map(None)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Dict<'py>, Mismatch> {
        Ok(Dict { variant: Some(variant), ..self.serialize_map(None)? })
    }
}

/// A list under way.
pub struct List<'py> {
    writer: Writer<'py>,
    items: Vec<Bound<'py, PyAny>>,
    variant: Option<&'static str>,
}

impl<'py> List<'py> {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Mismatch> {
        self.items.push(value.serialize(self.writer)?);
        Ok(())
    }

    fn finish(self) -> Written<'py> {
        let list = PyList::new(self.writer.0, self.items)?.into_any();
        match self.variant {
            Some(variant) => self.writer.tagged(variant, list),
            None => Ok(list),
        }
    }
}

/// A dict under way.
pub struct Dict<'py> {
    writer: Writer<'py>,
    dict: Bound<'py, PyDict>,
    key: Option<Bound<'py, PyAny>>,
    variant: Option<&'static str>,
}

impl<'py> Dict<'py> {
    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Mismatch> {
        let value = value.serialize(self.writer)?;
        // Field names recur in every answer: interned, they are made once.
        self.dict.set_item(PyString::intern(self.writer.0, name), value)?;
        Ok(())
    }

    fn finish(self) -> Written<'py> {
        match self.variant {
            Some(variant) => self.writer.tagged(variant, self.dict.into_any()),
            None => Ok(self.dict.into_any()),
        }
    }
}

macro_rules! list {
    ($($trait:ident $method:ident),*) => {$(
        impl<'py> ser::$trait for List<'py> {
            type Ok = Bound<'py, PyAny>;
            type Error = Mismatch;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Mismatch> {
                self.push(value)
            }

            fn end(self) -> Written<'py> {
                self.finish()
            }
        }
    )*};
}
list!(SerializeSeq serialize_element, SerializeTuple serialize_element, SerializeTupleStruct serialize_field, SerializeTupleVariant serialize_field);

macro_rules! dict {
    ($($trait:ident),*) => {$(
        impl<'py> ser::$trait for Dict<'py> {
            type Ok = Bound<'py, PyAny>;
            type Error = Mismatch;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Mismatch> {
                self.field(name, value)
            }

            fn end(self) -> Written<'py> {
                self.finish()
            }
        }
    )*};
}
dict!(SerializeStruct, SerializeStructVariant);

impl<'py> ser::SerializeMap for Dict<'py> {
    type Ok = Bound<'py, PyAny>;
    type Error = Mismatch;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Mismatch> {
        self.key = Some(key.serialize(self.writer)?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Mismatch> {
        let key = self.key.take().ok_or_else(|| Mismatch("a value without its key".into()))?;
        self.dict.set_item(key, value.serialize(self.writer)?)?;
        Ok(())
    }

    fn end(self) -> Written<'py> {
        self.finish()
    }
}
