//! Element types that genebank stores and serves.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, VariantArray};

use crate::error::Error;

/// Element type of a stored or served tensor.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    VariantArray,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", parse_err_ty = Error, parse_err_fn = unknown)]
pub enum Dtype {
    /// IEEE 754 binary32, the reference.
    #[default]
    F32,
    /// IEEE 754 binary16, a cast of the reference.
    F16,
    /// bfloat16, a cast of the reference.
    Bf16,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The name in a safetensors header.
    pub const fn safetensors_name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// candle's name for this type.
    pub const fn to_candle(self) -> candle_core::DType {
        match self {
            Self::F32 => candle_core::DType::F32,
            Self::F16 => candle_core::DType::F16,
            Self::Bf16 => candle_core::DType::BF16,
        }
    }

    /// Appends `values`, cast to this type, as little-endian bytes.
    pub fn write(self, values: impl Iterator<Item = f32>, out: &mut Vec<u8>) {
        match self {
            Self::F32 => values.for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
            Self::F16 => values.for_each(|v| out.extend_from_slice(&f16::from_f32(v).to_le_bytes())),
            Self::Bf16 => values.for_each(|v| out.extend_from_slice(&bf16::from_f32(v).to_le_bytes())),
        }
    }

    /// Reads little-endian elements, upcast exactly to f32. Trailing bytes of an incomplete element are ignored.
    pub fn read(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Self::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Self::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        }
    }
}

fn unknown(text: &str) -> Error {
    Error::not_one_of::<Dtype>("dtype", text)
}
