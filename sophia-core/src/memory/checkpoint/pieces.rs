//! Cutting an encoded list into runs of items, so that a list which grew shares most runs with the one that it grew from.
//!
//! The encoding is cut, not decoded: the items between their separators, put together again, are the same bytes. Where a
//! run ends hangs on the items alone (content-defined chunking, as in LBFS, Muthitacharoen et al., SOSP 2001), so an item
//! that is put in or taken out changes the runs around it, and no others.

/// Lists that are shorter are kept whole: cutting them saves nothing.
const MIN_BYTES: usize = 512;
/// One item in so many ends a run, on average.
const MEAN_ITEMS: u8 = 32;
/// Most items of a run.
const MAX_ITEMS: usize = 128;
/// A run of so many bytes is ended.
const RUN_BYTES: usize = 32 * 1024;

/// How the items of a list follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::memory) enum Format {
    /// A MessagePack array: a header with the count, and the items.
    MessagePack,
    /// A JSON array: items between commas, in brackets.
    Json,
}

impl Format {
    pub(in crate::memory) fn code(self) -> u8 {
        match self {
            Format::MessagePack => 1,
            Format::Json => 2,
        }
    }

    pub(in crate::memory) fn from_code(code: u8) -> Option<Format> {
        match code {
            1 => Some(Format::MessagePack),
            2 => Some(Format::Json),
            _ => None,
        }
    }

    /// Puts the runs of a list of `count` items together.
    pub(in crate::memory) fn join<'a>(self, count: u32, runs: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        match self {
            Format::MessagePack => {
                let mut bytes = array_header(count);
                runs.for_each(|run| bytes.extend_from_slice(run));
                bytes
            }
            Format::Json => {
                let mut bytes = vec![b'['];
                for (place, run) in runs.enumerate() {
                    if place > 0 {
                        bytes.push(b',');
                    }
                    bytes.extend_from_slice(run);
                }
                bytes.push(b']');
                bytes
            }
        }
    }
}

/// A list that was cut.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::memory) struct Cut<'a> {
    pub format: Format,
    pub count: u32,
    /// Runs that are ended, and after them the items of the last one, which is not, each by itself.
    pub runs: Vec<&'a [u8]>,
}

/// Cuts a list; `None` for what is no list, or a short one.
pub(in crate::memory) fn cut<'a>(encoding: &str, data: &'a [u8]) -> Option<Cut<'a>> {
    if data.len() < MIN_BYTES {
        return None;
    }
    let (format, items) = match encoding {
        "msgpack" => (Format::MessagePack, message_pack_items(data)?),
        "json" => (Format::Json, json_items(data)?),
        _ => return None,
    };
    let count = u32::try_from(items.len()).ok()?;
    let mut runs = Vec::new();
    let mut start = 0;
    for (place, item) in items.iter().enumerate() {
        let run = between(data, items[start], item);
        let ends = blake3::hash(item).as_bytes()[0] < u8::MAX / MEAN_ITEMS + 1;
        if ends || place + 1 - start == MAX_ITEMS || run.len() >= RUN_BYTES {
            runs.push(run);
            start = place + 1;
        }
    }
    runs.extend_from_slice(&items[start..]);
    Some(Cut { format, count, runs })
}

/// Returns the bytes from the start of one slice of `data` to the end of another.
fn between<'a>(data: &'a [u8], first: &[u8], last: &[u8]) -> &'a [u8] {
    let offset = |part: &[u8]| part.as_ptr() as usize - data.as_ptr() as usize;
    &data[offset(first)..offset(last) + last.len()]
}

/// Returns the items of a MessagePack array that is all of `data`.
fn message_pack_items(data: &[u8]) -> Option<Vec<&[u8]>> {
    let (count, mut at) = match *data.first()? {
        tag @ 0x90..=0x9f => (u32::from(tag & 0x0f), 1),
        0xdc => (number(data, 1, 2)?, 3),
        0xdd => (number(data, 1, 4)?, 5),
        _ => return None,
    };
    // Another header of the same count would not come back as it was.
    if count == 0 || !data.starts_with(&array_header(count)) || count as usize > data.len() {
        return None;
    }
    let mut items = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let end = message_pack_end(data, at)?;
        items.push(data.get(at..end)?);
        at = end;
    }
    (at == data.len()).then_some(items)
}

/// Returns where the MessagePack value ends that begins at `at`.
pub(in crate::memory) fn message_pack_end(data: &[u8], mut at: usize) -> Option<usize> {
    let mut left = 1_u64;
    while left > 0 {
        let tag = *data.get(at)?;
        let length = |width: usize| number(data, at + 1, width).map(|length| (length as usize, 1 + width));
        // Bytes of the value itself, and how many values stand inside it.
        let (bytes, inside) = match tag {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (1, 0),
            0x80..=0x8f => (1, 2 * u64::from(tag & 0x0f)),
            0x90..=0x9f => (1, u64::from(tag & 0x0f)),
            0xa0..=0xbf => (1 + usize::from(tag & 0x1f), 0),
            0xc1 => return None,
            0xc4 | 0xd9 => length(1).map(|(length, head)| (head + length, 0))?,
            0xc5 | 0xda => length(2).map(|(length, head)| (head + length, 0))?,
            0xc6 | 0xdb => length(4).map(|(length, head)| (head + length, 0))?,
            0xc7 => length(1).map(|(length, head)| (head + 1 + length, 0))?,
            0xc8 => length(2).map(|(length, head)| (head + 1 + length, 0))?,
            0xc9 => length(4).map(|(length, head)| (head + 1 + length, 0))?,
            0xcc | 0xd0 => (2, 0),
            0xcd | 0xd1 | 0xd4 => (3, 0),
            0xd5 => (4, 0),
            0xca | 0xce | 0xd2 => (5, 0),
            0xd6 => (6, 0),
            0xcb | 0xcf | 0xd3 => (9, 0),
            0xd7 => (10, 0),
            0xd8 => (18, 0),
            0xdc => length(2).map(|(count, head)| (head, count as u64))?,
            0xdd => length(4).map(|(count, head)| (head, count as u64))?,
            0xde => length(2).map(|(count, head)| (head, 2 * count as u64))?,
            0xdf => length(4).map(|(count, head)| (head, 2 * count as u64))?,
        };
        at = at.checked_add(bytes)?;
        left = left - 1 + inside;
    }
    (at <= data.len()).then_some(at)
}

fn number(data: &[u8], at: usize, width: usize) -> Option<u32> {
    Some(data.get(at..at.checked_add(width)?)?.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
}

/// Returns the shortest header of a MessagePack array.
fn array_header(count: u32) -> Vec<u8> {
    match count {
        0..=0x0f => vec![0x90 | count as u8],
        0x10..=0xffff => [&[0xdc][..], &(count as u16).to_be_bytes()].concat(),
        _ => [&[0xdd][..], &count.to_be_bytes()].concat(),
    }
}

/// Returns what stands between the commas of a JSON array that is all of `data`.
fn json_items(data: &[u8]) -> Option<Vec<&[u8]>> {
    let inner = data.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let (mut items, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    let (mut in_text, mut escaped) = (false, false);
    for (place, byte) in inner.iter().enumerate() {
        if in_text {
            in_text = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => {
                items.push(&inner[start..place]);
                start = place + 1;
            }
            _ => {}
        }
    }
    items.push(&inner[start..]);
    (depth == 0 && !in_text).then_some(items)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn joined(cut: &Cut<'_>) -> Vec<u8> {
        cut.format.join(cut.count, cut.runs.iter().copied())
    }

    fn messages(count: usize) -> Vec<u8> {
        let messages: Vec<_> =
            (0..count).map(|n| json!({"role": "user", "content": format!("[{n}] \"a\\,b\" {{")})).collect();
        serde_json::to_vec(&messages).unwrap()
    }

    #[test]
    fn a_list_that_grew_shares_all_runs_but_the_last() {
        let (short, long) = (messages(1_000), messages(1_001));
        let (short, long) = (cut("json", &short).unwrap(), cut("json", &long).unwrap());
        let shared = short.runs.iter().filter(|run| long.runs.contains(run)).count();
        assert!(shared + 1 >= short.runs.len().min(long.runs.len()), "{shared} of {}", short.runs.len());
        assert!(short.runs.len() < 200, "{}", short.runs.len());
    }

    #[test]
    fn a_list_that_lost_its_first_item_shares_most_runs() {
        let long = messages(1_000);
        let list: Vec<Value> = serde_json::from_slice(&long).unwrap();
        let trimmed = serde_json::to_vec(&list[1..]).unwrap();
        let (long, trimmed) = (cut("json", &long).unwrap(), cut("json", &trimmed).unwrap());
        let shared = trimmed.runs.iter().filter(|run| long.runs.contains(run)).count();
        assert!(shared + 3 >= trimmed.runs.len(), "{shared} of {}", trimmed.runs.len());
    }

    #[test]
    fn what_is_no_list_is_not_cut() {
        let long = "x".repeat(MIN_BYTES);
        for text in
            [format!("\"{long}\""), format!("{{\"a\":\"{long}\"}}"), format!("[\"{long}"), format!("[]]{long}]")]
        {
            assert_eq!(cut("json", text.as_bytes()), None, "{text}");
            assert_eq!(cut("msgpack", text.as_bytes()), None, "{text}");
        }
        assert_eq!(cut("pickle", &messages(100)), None);
        // One item more than there are, and one less.
        for count in [2, 4] {
            let data =
                [&[0x90 | count][..], &[0xc5, 0x01, 0x00], &[0; 256], &[0xc5, 0x01, 0x00], &[0; 256], &[0xc0]].concat();
            assert_eq!(cut("msgpack", &data), None);
        }
    }

    proptest! {
        #[test]
        fn what_was_cut_is_joined_to_the_same_bytes(items in items()) {
            let text = serde_json::to_vec(&items).unwrap();
            if let Some(cut) = cut("json", &text) {
                prop_assert_eq!(joined(&cut), text.as_slice());
                prop_assert_eq!(cut.count as usize, items.len());
            }
            let packed = pack(&Value::Array(items.clone()));
            match cut("msgpack", &packed) {
                Some(cut) => {
                    prop_assert_eq!(joined(&cut), packed.as_slice());
                    prop_assert_eq!(cut.count as usize, items.len());
                }
                None => prop_assert!(items.is_empty() || packed.len() < MIN_BYTES),
            }
        }

        #[test]
        fn any_bytes_are_cut_or_left(data in proptest::collection::vec(any::<u8>(), MIN_BYTES..2_000), encoding in "json|msgpack") {
            if let Some(cut) = cut(&encoding, &data) {
                prop_assert_eq!(joined(&cut), data.as_slice());
            }
        }
    }

    fn items() -> impl Strategy<Value = Vec<Value>> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,80}".prop_map(Value::from),
            "[a\"\\\\,\\[{]{200,400}".prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(3, 24, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::hash_map(".{0,6}", inner, 0..6).prop_map(|map| map.into_iter().collect()),
            ]
        });
        proptest::collection::vec(value, 0..60)
    }

    fn pack(value: &Value) -> Vec<u8> {
        let text = |text: &str| {
            let mut bytes = match text.len() {
                length @ 0..=31 => vec![0xa0 | length as u8],
                length @ 32..=255 => vec![0xd9, length as u8],
                length => [&[0xda][..], &(length as u16).to_be_bytes()].concat(),
            };
            bytes.extend_from_slice(text.as_bytes());
            bytes
        };
        match value {
            Value::Null => vec![0xc0],
            Value::Bool(flag) => vec![if *flag { 0xc3 } else { 0xc2 }],
            Value::Number(number) => match number.as_i64() {
                Some(small @ 0..=127) => vec![small as u8],
                Some(number) => [&[0xd3][..], &number.to_be_bytes()].concat(),
                None => [&[0xcb][..], &number.as_f64().unwrap_or_default().to_be_bytes()].concat(),
            },
            Value::String(string) => text(string),
            Value::Array(items) => {
                let mut bytes = array_header(items.len() as u32);
                items.iter().for_each(|item| bytes.extend(pack(item)));
                bytes
            }
            Value::Object(map) => {
                let mut bytes = vec![0x80 | map.len() as u8];
                for (key, value) in map {
                    bytes.extend(text(key));
                    bytes.extend(pack(value));
                }
                bytes
            }
        }
    }
}
