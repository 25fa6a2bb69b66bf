//! Values as stores keep them: packed, and lists as the numbers of their runs.

use std::io;

use super::pieces::Format;
use crate::{Error, ErrorKind, Result};

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
const LIST: u8 = 2;
/// The level that zstd itself takes by default: about 400 MB/s.
const ZSTD_LEVEL: i32 = 3;
/// What is shorter does not become shorter.
const MIN_ZSTD_BYTES: usize = 64;
/// Largest value that is read: far above what can be written, so only a damaged file has it.
const MAX_PLAIN_BYTES: u64 = 1 << 30;
/// Sets the hash of a list of runs apart from that of the same bytes as a value.
const LIST_CONTEXT: &str = "sophia memory.checkpoints 2026 list of runs";

/// Returns what equal values have in common.
pub(in crate::memory) fn hash_of_bytes(bytes: &[u8]) -> blake3::Hash {
    blake3::hash(bytes)
}

/// Returns what equal lists of runs have in common: their items, whatever numbers the runs have.
pub(in crate::memory) fn hash_of_list(
    format: Format,
    count: u32,
    runs: impl Iterator<Item = blake3::Hash>,
) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key(LIST_CONTEXT);
    hasher.update(&[format.code()]).update(&count.to_le_bytes());
    for run in runs {
        hasher.update(run.as_bytes());
    }
    hasher.finalize()
}

/// A list as it is kept.
pub(in crate::memory) struct List {
    pub format: Format,
    pub count: u32,
    pub runs: Vec<i64>,
}

impl List {
    /// Reads a list; `None` for what is another value.
    pub(in crate::memory) fn read(data: &[u8]) -> Option<List> {
        let [LIST, code, numbers @ ..] = data else { return None };
        let mut numbers = numbers.iter();
        let format = Format::from_code(*code)?;
        let count = u32::try_from(next_number(&mut numbers)?).ok()?;
        let mut runs = Vec::new();
        while let Some(run) = next_number(&mut numbers) {
            runs.push(run as i64);
        }
        Some(List { format, count, runs })
    }

    /// Writes it as it is kept.
    pub(in crate::memory) fn write(&self) -> Vec<u8> {
        let mut data = vec![LIST, self.format.code()];
        push_number(&mut data, u64::from(self.count));
        self.runs.iter().for_each(|run| push_number(&mut data, run.unsigned_abs()));
        data
    }
}

/// Appends a number: seven bits in each byte, the lowest first, the highest bit where more follow (LEB128).
fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn next_number<'a>(bytes: &mut impl Iterator<Item = &'a u8>) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = *bytes.next()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    Some(number)
}

/// Packs values.
pub(in crate::memory) struct Packer(zstd::bulk::Compressor<'static>);

impl Packer {
    pub(in crate::memory) fn new() -> Result<Packer> {
        zstd::bulk::Compressor::new(ZSTD_LEVEL).map(Packer).map_err(damaged)
    }

    pub(in crate::memory) fn pack(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        if bytes.len() >= MIN_ZSTD_BYTES {
            let packed = self.0.compress(bytes).map_err(damaged)?;
            if packed.len() < bytes.len() {
                return Ok([&[ZSTD], packed.as_slice()].concat());
            }
        }
        Ok([&[PLAIN], bytes].concat())
    }
}

/// Unpacks values.
pub(in crate::memory) struct Unpacker(zstd::bulk::Decompressor<'static>);

impl Unpacker {
    pub(in crate::memory) fn new() -> Result<Unpacker> {
        zstd::bulk::Decompressor::new().map(Unpacker).map_err(damaged)
    }

    pub(in crate::memory) fn unpack(&mut self, data: &[u8]) -> Result<Vec<u8>> {
        match data {
            [PLAIN, bytes @ ..] => Ok(bytes.to_vec()),
            [ZSTD, packed @ ..] => match zstd::zstd_safe::get_frame_content_size(packed) {
                Ok(Some(size)) if size <= MAX_PLAIN_BYTES => self.0.decompress(packed, size as usize).map_err(damaged),
                _ => Err(damaged(io::Error::other("a compressed value has no size"))),
            },
            _ => Err(damaged(io::Error::other("a value is packed in an unknown way"))),
        }
    }
}

fn damaged(error: io::Error) -> Error {
    Error::new(ErrorKind::Internal, "memory.checkpoints", "a value cannot be packed or unpacked").with_source(error)
}
