//! Spans, and whose child each is.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    exporter::Otel,
    names,
    wire::{AttributeValue, Message},
};
use crate::Error;

/// Where a span stands in a trace, as `traceparent` says it (W3C Trace Context).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpanContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    is_sampled: bool,
}

impl SpanContext {
    /// Reads a `traceparent`. `None` for one that is none: a new trace begins then.
    pub fn parse(text: &str) -> Option<SpanContext> {
        let mut parts = text.trim().split('-');
        let version: [u8; 1] = unhex(parts.next()?)?;
        let (trace_id, span_id): ([u8; 16], [u8; 8]) = (unhex(parts.next()?)?, unhex(parts.next()?)?);
        let [flags]: [u8; 1] = unhex(parts.next()?)?;
        // Later versions may say more.
        let is_known = version == [0] && parts.next().is_none();
        let is_later = !matches!(version, [0] | [0xff]);
        let is_valid = trace_id != [0; 16] && span_id != [0; 8];
        ((is_known || is_later) && is_valid).then_some(SpanContext { trace_id, span_id, is_sampled: flags & 1 == 1 })
    }

    /// Writes it as `traceparent`.
    pub fn traceparent(&self) -> String {
        let mut text = String::from("00-");
        for byte in self.trace_id {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push('-');
        for byte in self.span_id {
            let _ = write!(text, "{byte:02x}");
        }
        text.push_str(if self.is_sampled { "-01" } else { "-00" });
        text
    }

    /// Begins a trace, or goes on with the one of `parent`.
    fn child_of(parent: Option<SpanContext>) -> SpanContext {
        let own = *uuid::Uuid::now_v7().as_bytes();
        // Its second half is random.
        let span_id = [own[8], own[9], own[10], own[11], own[12], own[13], own[14], own[15]];
        match parent {
            Some(parent) => SpanContext { span_id, ..parent },
            None => SpanContext { trace_id: *uuid::Uuid::now_v7().as_bytes(), span_id, is_sampled: true },
        }
    }
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let is_hex = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
    if digits.len() != 2 * N || !digits.iter().all(is_hex) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// What a span stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Work in this process.
    Internal = 1,
    /// A call to somebody else.
    Client = 3,
}

/// A span under way. It ends when it is told to, or as cancelled when it is dropped.
#[derive(Debug)]
pub(crate) struct Span {
    otel: Otel,
    context: SpanContext,
    start: Instant,
    /// `None` where it is not sampled, or was sent.
    data: Option<SpanData>,
}

/// What is sent of a span.
#[derive(Debug)]
pub(super) struct SpanData {
    context: SpanContext,
    parent: Option<SpanContext>,
    name: String,
    kind: Kind,
    begins: Timestamp,
    took: Duration,
    attributes: Vec<(&'static str, AttributeValue)>,
    error: Option<&'static str>,
}

impl Span {
    pub(super) fn begin(otel: Otel, name: String, kind: Kind, parent: Option<SpanContext>, begins: Timestamp) -> Span {
        let context = SpanContext::child_of(parent);
        let data = context.is_sampled.then(|| SpanData {
            context,
            parent,
            name,
            kind,
            begins,
            took: Duration::ZERO,
            attributes: Vec::new(),
            error: None,
        });
        Span { otel, context, start: Instant::now(), data }
    }

    /// Sends one that is over already.
    pub(super) fn past(
        otel: Otel,
        name: String,
        parent: Option<SpanContext>,
        begins: Timestamp,
        took: Duration,
        attributes: Vec<(&'static str, AttributeValue)>,
        error: Option<&'static str>,
    ) {
        let mut span = Span::begin(otel, name, Kind::Internal, parent, begins);
        if let Some(mut data) = span.data.take() {
            data.attributes = attributes;
            data.attributes.extend(error.map(|code| (names::ERROR_TYPE, code.into())));
            span.otel.push(SpanData { took, error, ..data });
        }
    }

    /// Returns where it stands, for its children.
    pub fn context(&self) -> SpanContext {
        self.context
    }

    /// Returns how long it has lasted.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Says something about it.
    pub fn set(&mut self, name: &'static str, value: impl Into<AttributeValue>) {
        if let Some(data) = &mut self.data {
            data.attributes.push((name, value.into()));
        }
    }

    /// Says something about it, if it is known.
    pub fn set_known(&mut self, name: &'static str, value: Option<impl Into<AttributeValue>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// Says something about it that takes work to say.
    pub fn set_with<V: Into<AttributeValue>>(&mut self, name: &'static str, value: impl FnOnce() -> Option<V>) {
        if self.data.is_some() {
            self.set_known(name, value());
        }
    }

    /// Ends it well.
    pub fn end(&mut self) {
        self.send(None);
    }

    /// Ends it with an error. Of that only the code is told: a message may quote what was asked.
    pub fn fail(&mut self, error: &Error) {
        self.send(Some(error.code()));
    }

    fn send(&mut self, error: Option<&'static str>) {
        let Some(mut data) = self.data.take() else { return };
        data.took = self.start.elapsed();
        data.error = error;
        data.attributes.extend(error.map(|code| (names::ERROR_TYPE, code.into())));
        self.otel.push(data);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.send(Some(crate::ErrorKind::Cancelled.code()));
    }
}

impl SpanData {
    pub(super) fn encoded(&self) -> Message {
        /// The status code of what failed.
        const ERROR: u64 = 2;
        let begins = nanos(self.begins);
        let mut span = Message::default();
        span.bytes(1, &self.context.trace_id).bytes(2, &self.context.span_id);
        if let Some(parent) = self.parent {
            span.bytes(4, &parent.span_id);
        }
        span.bytes(5, self.name.as_bytes()).int(6, self.kind as u64);
        span.fixed(7, begins).fixed(8, begins + u64::try_from(self.took.as_nanos()).unwrap_or(0));
        for (name, value) in &self.attributes {
            span.attribute(9, name, value);
        }
        if let Some(error) = self.error {
            let mut status = Message::default();
            status.bytes(2, error.as_bytes()).int(3, ERROR);
            span.message(15, status);
        }
        span
    }
}

pub(super) fn nanos(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written() {
        let context = SpanContext::parse(PARENT).unwrap();
        assert!(context.is_sampled && context.traceparent() == PARENT);
        assert!(!SpanContext::parse(&PARENT.replace("-01", "-00")).unwrap().is_sampled);
        assert!(SpanContext::parse(&(PARENT.replacen("00", "01", 1) + "-more")).is_some(), "a later version");
        let child = SpanContext::child_of(Some(context));
        assert_eq!((child.trace_id, child.is_sampled), (context.trace_id, true));
        assert_ne!(child.span_id, context.span_id);
        assert_ne!(SpanContext::child_of(None).span_id, SpanContext::child_of(None).span_id);
    }

    #[test]
    fn what_is_no_traceparent_begins_a_trace_of_its_own() {
        for wrong in [
            "",
            "00",
            &PARENT.to_uppercase(),
            &PARENT.replacen("00", "ff", 1),
            &format!("{PARENT}-more"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ] {
            assert_eq!(SpanContext::parse(wrong), None, "{wrong}");
        }
    }
}
