//! A [`Segment`] as a file: read in a fraction of the time that making it anew takes.
//!
//! It is read whole, not mapped: a file that another process cuts short is a failed read then, and not a signal that ends
//! the process. What is not exactly as it was written is refused, and made anew from the truth.

use std::io::{self, Read, Write};

use super::segment::{Row, Segment};
use crate::vectors::{ByteVectors, PLANES, pages};

const MAGIC: &[u8; 8] = b"SOPHBLK4";
const HEADER_BYTES: usize = 64;
const ROW_BYTES: usize = 32;
/// Bytes that are read or written at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// Most rows and dimensions that are believed before the checksum is known.
const MAX_ROWS: u64 = u32::MAX as u64;
const MAX_DIMENSIONS: u32 = 1 << 16;

/// What a file says of itself beside its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    pub wall: i64,
    pub model: i64,
    /// Last change of the wall that it holds.
    pub change: i64,
    /// Made anew with every file.
    pub generation: [u8; 16],
}

/// Writes a segment. Rows that were removed are left out.
pub(crate) fn write(segment: &Segment, label: &Label, to: &mut impl Write) -> io::Result<()> {
    let mut to = Hashing { inner: to, hasher: blake3::Hasher::new() };
    let places = || (0..segment.places()).filter(|place| segment.is_there(*place));
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&(segment.dimensions() as u32).to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&(segment.len() as u64).to_le_bytes());
    for number in [label.wall, label.model, label.change] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    header.extend_from_slice(&label.generation);
    to.write_all(&header)?;
    let mut buffer = Vec::with_capacity(CHUNK_BYTES + ROW_BYTES);
    for place in places() {
        let row = segment.row(place);
        buffer.extend_from_slice(&row.seq.to_le_bytes());
        buffer.extend_from_slice(&row.expires_at.to_le_bytes());
        buffer.extend_from_slice(&row.session.to_le_bytes());
        buffer.extend_from_slice(&row.words.to_le_bytes());
        buffer.extend_from_slice(&u32::from(row.archived).to_le_bytes());
        to.flush_over(&mut buffer, CHUNK_BYTES)?;
    }
    for place in places() {
        buffer.extend_from_slice(&segment.vectors().scale(place as usize).to_le_bytes());
        to.flush_over(&mut buffer, CHUNK_BYTES)?;
    }
    for plane in 0..PLANES {
        for place in places() {
            buffer.extend_from_slice(segment.vectors().parts(place as usize)[plane]);
            to.flush_over(&mut buffer, CHUNK_BYTES)?;
        }
    }
    to.flush_over(&mut buffer, 0)?;
    let checksum = to.hasher.finalize();
    to.inner.write_all(checksum.as_bytes())
}

/// Reads a segment that has this label, but for the change.
///
/// # Errors
/// `InvalidData` for a file that is not exactly as it was written, or is another one.
pub(crate) fn read(expected: &Label, from: &mut impl Read) -> io::Result<(Segment, i64)> {
    let mut from = Hashing { inner: from, hasher: blake3::Hasher::new() };
    let mut header = [0; HEADER_BYTES];
    from.read_exact(&mut header)?;
    let number = |at: usize| i64::from_le_bytes(array(&header[at..]));
    let dimensions = u32::from_le_bytes(array(&header[8..]));
    let rows = number(16) as u64;
    let label = Label { wall: number(24), model: number(32), change: number(40), generation: array(&header[48..]) };
    let is_meant = Label { change: expected.change, ..label } == *expected;
    if &header[..8] != MAGIC || !is_meant || rows > MAX_ROWS || dimensions > MAX_DIMENSIONS {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not the file that is meant"));
    }
    let (rows, dimensions) = (rows as usize, dimensions as usize);
    let mut known = Vec::new();
    from.read_chunks(rows, ROW_BYTES, |bytes| {
        reserve(&mut known, rows);
        known.extend(bytes.chunks_exact(ROW_BYTES).map(row));
    })?;
    let mut scales = Vec::new();
    from.read_chunks(rows, size_of::<f32>(), |bytes| {
        reserve(&mut scales, rows);
        scales.extend(bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(array(bytes))));
    })?;
    let mut planes = [const { Vec::new() }; PLANES];
    for (plane, width) in planes.iter_mut().zip(ByteVectors::widths(dimensions)) {
        from.read_chunks(rows, width, |bytes| {
            reserve(plane, rows * width);
            plane.extend_from_slice(bytes);
        })?;
    }
    let mut checksum = [0; blake3::OUT_LEN];
    from.inner.read_exact(&mut checksum)?;
    if from.hasher.finalize() != checksum {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "damaged"));
    }
    Ok((Segment::from_parts(known, ByteVectors::from_parts(dimensions, scales, planes)), label.change))
}

/// Makes room for all items with the first ones: not before, so that a wrong number takes no memory that is not there.
fn reserve<T>(items: &mut Vec<T>, count: usize) {
    if items.is_empty() {
        pages::reserve(items, count);
    }
}

fn row(bytes: &[u8]) -> Row {
    Row {
        seq: i64::from_le_bytes(array(bytes)),
        expires_at: i64::from_le_bytes(array(&bytes[8..])),
        session: u64::from_le_bytes(array(&bytes[16..])),
        words: u32::from_le_bytes(array(&bytes[24..])),
        archived: bytes[28] != 0,
    }
}

/// Copies the first bytes of a slice that has enough of them.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

/// Hashes what passes through.
struct Hashing<'a, T> {
    inner: &'a mut T,
    hasher: blake3::Hasher,
}

impl<T: Write> Hashing<'_, T> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.inner.write_all(bytes)
    }

    /// Writes a buffer that is longer than `bytes`, and empties it.
    fn flush_over(&mut self, buffer: &mut Vec<u8>, bytes: usize) -> io::Result<()> {
        if buffer.len() > bytes {
            self.write_all(buffer)?;
            buffer.clear();
        }
        Ok(())
    }
}

impl<T: Read> Hashing<'_, T> {
    fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.read_exact(bytes)?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Reads `count` items of `size` bytes, as many at a time as are worth it.
    fn read_chunks(&mut self, count: usize, size: usize, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        if size == 0 {
            return Ok(());
        }
        let at_a_time = (CHUNK_BYTES / size).max(1);
        let mut buffer = vec![0; at_a_time.min(count) * size];
        let mut left = count;
        while left > 0 {
            let bytes = &mut buffer[..at_a_time.min(left) * size];
            self.read_exact(bytes)?;
            take(bytes);
            left -= bytes.len() / size;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::segment::{Keep, Needle};

    const LABEL: Label = Label { wall: 7, model: 1, change: 12, generation: [9; 16] };

    fn segment() -> Segment {
        let mut segment = Segment::new(3);
        for seq in 1..=5 {
            let row = Row { seq, archived: seq == 4, expires_at: seq * 100, session: 3, words: seq as u32 };
            segment.put(row, (seq != 5).then_some(&[0.6, 0.0, 0.8]));
        }
        segment.put(Row { seq: 6, archived: false, expires_at: 600, session: 3, words: 6 }, Some(&[0.0; 3]));
        segment.remove(2);
        segment
    }

    fn written(segment: &Segment) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(segment, &LABEL, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let (read, change) = read(&Label { change: 0, ..LABEL }, &mut written(&segment()).as_slice()).unwrap();
        assert_eq!((read.len(), read.missing(), read.dimensions(), change), (5, 1, 3, 12));
        let row = *read.row(read.find(4).unwrap());
        assert_eq!(row, Row { seq: 4, archived: true, expires_at: 400, session: 3, words: 4 });
        let near = read.scan(&Needle::new(&[0.6, 0.0, 0.8]), 9, &Keep::Active(0)).near;
        assert_eq!(near.iter().map(|near| read.row(near.place).seq).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(written(&read), written(&segment()));
        assert_eq!(read.neighbors(&Keep::Active(0), 0), [None, Some(1)]);
    }

    #[test]
    fn another_file_is_refused() {
        let bytes = written(&segment());
        for other in [Label { wall: 8, ..LABEL }, Label { model: 2, ..LABEL }, Label { generation: [8; 16], ..LABEL }] {
            assert_eq!(read(&other, &mut bytes.as_slice()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    proptest! {
        #[test]
        fn a_changed_or_cut_file_is_refused(at in 0_usize..1_000, flip in 1_u8.., cut in any::<bool>()) {
            let mut bytes = written(&segment());
            let at = at % bytes.len();
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= flip;
            }
            // The change is not compared; the checksum covers it.
            prop_assert!(read(&LABEL, &mut bytes.as_slice()).is_err());
        }
    }
}
