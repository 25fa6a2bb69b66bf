//! Our own file: lines of JSON, the first of which says so.

use std::path::Path;

use serde::Deserialize;

use super::{BATCH, Batch, Found, Take, for_each_line, unknown, wrong_line};
use crate::{
    Error, ErrorKind, Result,
    memory::archive::{Item, export::FORMAT},
};

#[derive(Deserialize)]
struct Header {
    r#type: String,
    format: u64,
}

pub(super) fn read(path: &Path, take: Take<'_>) -> Result<()> {
    let mut items = Vec::new();
    let mut header = None;
    let total = std::fs::metadata(path).map_or(0, |file| file.len());
    for_each_line(path, |number, line, done| {
        if header.is_none() {
            let read: Header = serde_json::from_str(line).map_err(|error| wrong_line(path, number, &error))?;
            if read.r#type != "sophia" {
                return Err(unknown(path, "its first line is not that of an export of Sophia"));
            }
            if read.format > FORMAT {
                let message =
                    format!("was written by a newer version: its format is {}, this build reads {FORMAT}", read.format);
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    super::OPERATION,
                    format!("`{}` {message}", path.display()),
                ));
            }
            header = Some(read);
            return Ok(true);
        }
        items.push((number, serde_json::from_str::<Item>(line).map_err(|error| wrong_line(path, number, &error))?));
        if items.len() < BATCH {
            return Ok(true);
        }
        Ok(take(Batch { found: Found::Items(std::mem::take(&mut items)), done, total }))
    })?;
    take(Batch { found: Found::Items(items), done: total, total });
    Ok(())
}
