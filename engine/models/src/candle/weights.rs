//! A safetensors file: its header for checks, its tensors for loading.

use candle_core::safetensors::SliceSafetensors;
use candle_core::{DType, Device, Tensor};
use engine_base::Code;
use engine_base::codes::model as codes;
use engine_spec::Files;
use safetensors::tensor::{Dtype, Metadata};
use safetensors::{SafeTensorError, SafeTensors};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Why a file is no weights. The message goes on from the file's name.
pub(super) struct Problem {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) help: String,
}

/// What the header says of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorInfo {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
}

/// A safetensors file whose header is sound.
pub(super) struct Weights {
    bytes: Arc<[u8]>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Weights {
    /// Reads the file and its header.
    pub(super) fn read(path: &Path, files: &dyn Files) -> Result<Weights, Problem> {
        let bytes = files.read(path).map_err(|error| {
            let message = match error.kind() {
                io::ErrorKind::NotFound => "is not there".to_owned(),
                io::ErrorKind::PermissionDenied => "can't be read: permission denied".to_owned(),
                io::ErrorKind::IsADirectory => "is a folder, not a file".to_owned(),
                _ => format!("can't be read: {error}"),
            };
            Problem { code: codes::WEIGHTS_UNREADABLE, message, help: "a path is relative to the card".to_owned() }
        })?;
        let tensors = header(&bytes)?;
        Ok(Weights { bytes: bytes.into(), tensors })
    }

    /// The whole file.
    pub(super) fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// The tensor of that name.
    pub(super) fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The names of all tensors, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor as f32.
    pub(super) fn load(&self, name: &str) -> candle_core::Result<Tensor> {
        as_f32(&SliceSafetensors::new(&self.bytes)?, name)
    }
}

/// Whether a tensor of this type can be read as f32.
pub(super) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64)
}

/// The named tensors of a safetensors file, as f32.
pub(super) fn tensors(bytes: &[u8], names: &BTreeSet<String>) -> candle_core::Result<HashMap<String, Tensor>> {
    let file = SliceSafetensors::new(bytes)?;
    names.iter().map(|name| Ok((name.clone(), as_f32(&file, name)?))).collect()
}

fn as_f32(file: &SliceSafetensors<'_>, name: &str) -> candle_core::Result<Tensor> {
    file.load(name, &Device::Cpu)?.to_dtype(DType::F32)
}

fn header(bytes: &[u8]) -> Result<BTreeMap<String, TensorInfo>, Problem> {
    let not_safetensors = |reason: String| Problem {
        code: codes::NOT_SAFETENSORS,
        message: format!("is not a safetensors file: {reason}"),
        help: "PyTorch: `safetensors.torch.save_file(model.state_dict(), path)`; candle-nn: `VarMap::save`".to_owned(),
    };
    let truncated = |message: String| Problem {
        code: codes::WEIGHTS_TRUNCATED,
        message,
        help: "it was cut short or appended to: copy it again (a Git LFS pointer must be pulled first)".to_owned(),
    };
    match SafeTensors::deserialize(bytes) {
        Ok(file) => Ok(file
            .iter()
            .map(|(name, view)| (name.to_owned(), TensorInfo { dtype: view.dtype(), shape: view.shape().to_vec() }))
            .collect()),
        Err(_) if bytes.is_empty() => Err(truncated("is empty".to_owned())),
        Err(_) if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(&[0x80, 0x02]) => {
            Err(not_safetensors("it looks like a PyTorch checkpoint".to_owned()))
        }
        Err(_) if bytes.starts_with(b"version https://git-lfs") => {
            Err(not_safetensors("it is a Git LFS pointer; run `git lfs pull`".to_owned()))
        }
        Err(SafeTensorError::MetadataIncompleteBuffer) => Err(truncated(match expected_len(bytes) {
            Some(want) => format!("should have {want} bytes by its header and has {}", bytes.len()),
            None => "is not as long as its header says".to_owned(),
        })),
        Err(SafeTensorError::InvalidHeaderLength) if looks_like_header(bytes) => {
            Err(truncated("ends within its header".to_owned()))
        }
        Err(SafeTensorError::HeaderTooSmall) => Err(not_safetensors("it has less than eight bytes".to_owned())),
        Err(error) => Err(not_safetensors(error.to_string())),
    }
}

/// Whether what should be the header's JSON starts like it.
fn looks_like_header(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&b'{')
}

/// The length that the header of a file implies.
fn expected_len(bytes: &[u8]) -> Option<usize> {
    let header_len = usize::try_from(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?)).ok()?;
    let header: Metadata = serde_json::from_slice(bytes.get(8..header_len.checked_add(8)?)?).ok()?;
    header_len.checked_add(8)?.checked_add(header.data_len())
}
