//! Reading `model.safetensors`: the length of a header of JSON, the header, the values.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use serde::Deserialize;
use serde_json::Value;

/// Longest accepted header: some hundred bytes for each of some thousand tensors.
const MAX_HEADER_BYTES: u64 = 1 << 20;

type Outcome<T> = std::result::Result<T, String>;

/// An open file of weights.
pub(super) struct Weights {
    file: File,
    /// Where the values begin.
    start: u64,
    tensors: HashMap<String, Tensor>,
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl Weights {
    pub fn open(path: &Path) -> Outcome<Weights> {
        let broken = |error: std::io::Error| format!("its weights cannot be read: {error}");
        let mut file = File::open(path).map_err(broken)?;
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(broken)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER_BYTES {
            return Err("its weights are not in the format safetensors".to_owned());
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(broken)?;
        let header: HashMap<String, Value> =
            serde_json::from_slice(&header).map_err(|_| "its weights are not in the format safetensors".to_owned())?;
        let tensors = header.into_iter().filter_map(|(name, tensor)| {
            // Some write every name with the name of the model before it.
            let name = name.strip_prefix("bert.").map(str::to_owned).unwrap_or(name);
            Some((name, serde_json::from_value(tensor).ok()?))
        });
        Ok(Weights { tensors: tensors.collect(), start: 8 + length, file })
    }

    /// Reads a tensor of this shape.
    pub fn read(&mut self, name: &str, shape: &[usize]) -> Outcome<Vec<f32>> {
        let tensor = self.tensors.get(name).ok_or_else(|| format!("its weights have no `{name}`"))?;
        if tensor.shape != shape || tensor.dtype != "F32" {
            return Err(format!(
                "`{name}` in its weights is {:?} of {}; {shape:?} of F32 is expected",
                tensor.shape, tensor.dtype
            ));
        }
        let count: usize = shape.iter().product();
        let (from, to) = tensor.data_offsets;
        if to.checked_sub(from) != Some(4 * count as u64) {
            return Err(format!("`{name}` in its weights has another length than its shape"));
        }
        let mut bytes = vec![0; 4 * count];
        let read = self.file.seek(SeekFrom::Start(self.start + from)).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(|error| format!("its weights end too early: {error}"))?;
        Ok(bytes.chunks_exact(4).map(|value| f32::from_le_bytes([value[0], value[1], value[2], value[3]])).collect())
    }
}
