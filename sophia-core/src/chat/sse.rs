//! Server-sent events, read from bytes that may be split anywhere.
//!
//! The format is that of the WHATWG HTML standard, section 9.2.6. Only `data` is kept, and whether the event is named `error`,
//! since no protocol that is spoken here needs the other fields. Bytes that are not UTF-8 are an error instead of a replacement character: an answer that
//! was garbled must not be taken for the answer.

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SseEvent {
    pub data: String,
    /// Whether it is named `error`: some servers say it nowhere else.
    pub is_error: bool,
}

/// Reads events out of bytes as they come.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    /// The line under way.
    line: Vec<u8>,
    /// Data of the event under way.
    data: Vec<u8>,
    has_data: bool,
    is_error: bool,
    /// The last byte was a carriage return, so that a line feed now belongs to it.
    after_cr: bool,
    seen_line: bool,
    max_event_bytes: usize,
}

/// Why events cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SseError {
    /// An event is larger than allowed.
    TooLarge,
    /// An event is not UTF-8.
    NotUtf8,
}

impl SseParser {
    pub fn new(max_event_bytes: usize) -> SseParser {
        SseParser { max_event_bytes, ..SseParser::default() }
    }

    /// Takes bytes, and appends every event that is complete with them to `events`.
    pub fn push(&mut self, mut bytes: &[u8], events: &mut Vec<SseEvent>) -> Result<(), SseError> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + self.data.len() + part.len() > self.max_event_bytes {
                return Err(SseError::TooLarge);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { return Ok(()) };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line(events)?;
        }
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<SseEvent>) -> Result<(), SseError> {
        const BOM: &[u8] = "\u{feff}".as_bytes();
        let mut line = self.line.as_slice();
        if !std::mem::replace(&mut self.seen_line, true) {
            line = line.strip_prefix(BOM).unwrap_or(line);
        }
        if line.is_empty() {
            let is_error = std::mem::take(&mut self.is_error);
            if std::mem::take(&mut self.has_data) {
                let data = String::from_utf8(std::mem::take(&mut self.data)).map_err(|_| SseError::NotUtf8)?;
                events.push(SseEvent { data, is_error });
            }
        } else if let Some(value) = value_of(line, b"data") {
            if std::mem::replace(&mut self.has_data, true) {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value);
        } else if let Some(name) = value_of(line, b"event") {
            self.is_error = name == b"error";
        }
        self.line.clear();
        Ok(())
    }
}

/// Returns the value of a field, where the line is of that field.
fn value_of<'a>(line: &'a [u8], field: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(field)? {
        value @ [] | [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        // Another field that begins alike.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(parts: &[&[u8]]) -> Result<Vec<String>, SseError> {
        let (mut parser, mut events) = (SseParser::new(1 << 20), Vec::new());
        for part in parts {
            parser.push(part, &mut events)?;
        }
        Ok(events.into_iter().map(|event| event.data).collect())
    }

    #[test]
    fn an_event_that_is_named_error_is_known_for_one() {
        let (mut parser, mut events) = (SseParser::new(1 << 20), Vec::new());
        let text =
            b"event: error\ndata: a\n\ndata: b\n\ndata: c\nevent:error\n\nevent: error\n\nevent: errors\ndata: d\n\n";
        parser.push(text, &mut events).unwrap();
        let read: Vec<_> = events.iter().map(|event| (event.data.as_str(), event.is_error)).collect();
        assert_eq!(read, [("a", true), ("b", false), ("c", true), ("d", false)]);
    }

    #[test]
    fn line_ends_comments_other_fields_and_a_byte_order_mark_are_understood() {
        let text =
            "\u{feff}data: a\r\n\r\n: ping\n\nevent: x\nid: 1\ndata:b\ndata: c\r\rdatax: no\n\ndata\n\ndata:  d\n\n";
        assert_eq!(parse(&[text.as_bytes()]).unwrap(), ["a", "b\nc", "", " d"]);
    }

    #[test]
    fn an_event_without_its_blank_line_is_not_an_event() {
        assert!(parse(&[b"data: half\n"]).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_utf8_or_without_end_is_an_error() {
        assert_eq!(parse(&[b"data: \xff\n\n"]), Err(SseError::NotUtf8));
        let mut parser = SseParser::new(10);
        assert_eq!(parser.push(b"data: 0123456789", &mut Vec::new()), Err(SseError::TooLarge));
        let mut lines = SseParser::new(10);
        assert_eq!(lines.push(b"data: 012\ndata: 345\ndata: 678", &mut Vec::new()), Err(SseError::TooLarge));
    }

    /// Reads what there is, and says how it ended.
    fn read(parts: &[&[u8]], max_bytes: usize) -> (Vec<SseEvent>, Option<SseError>) {
        let (mut parser, mut events) = (SseParser::new(max_bytes), Vec::new());
        for part in parts {
            if let Err(error) = parser.push(part, &mut events) {
                return (events, Some(error));
            }
            assert!(parser.line.len() + parser.data.len() <= max_bytes + 1, "more is held than allowed");
        }
        (events, None)
    }

    fn split<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect()
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_split_are_read_alike_and_within_the_bound(
            bytes in proptest::collection::vec(
                prop_oneof![
                    4 => Just(b"data: ".to_vec()),
                    3 => prop_oneof![Just(b"\n".to_vec()), Just(b"\r".to_vec()), Just(b"\r\n".to_vec()), Just(b"\n\n".to_vec())],
                    2 => proptest::collection::vec(any::<u8>(), 0..12),
                    1 => Just("\u{feff}".as_bytes().to_vec()),
                    1 => prop_oneof![Just(b"event: x\n".to_vec()), Just(b"event: error\n".to_vec())],
                ],
                0..40,
            ),
            cuts in proptest::collection::vec(any::<usize>(), 0..12),
            max_bytes in 1usize..64,
        ) {
            let bytes = bytes.concat();
            let whole = read(&[&bytes], max_bytes);
            prop_assert_eq!(&read(&split(&bytes, &cuts), max_bytes), &whole);
            let single: Vec<_> = bytes.chunks(1).collect();
            prop_assert_eq!(&read(&single, max_bytes), &whole);
        }

        #[test]
        fn it_does_not_matter_where_the_bytes_are_split(
            texts in proptest::collection::vec("[^\r\n\u{feff}]{0,12}", 1..6),
            end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
            cuts in proptest::collection::vec(0usize..400, 0..8),
        ) {
            let whole: String = texts.iter().map(|text| format!(": c\u{e9}{end}data: {text}{end}{end}")).collect();
            prop_assert_eq!(parse(&split(whole.as_bytes(), &cuts)).unwrap(), texts);
        }
    }
}
