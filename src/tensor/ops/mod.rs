//! Differentiable operations of transformers, with hand-written backward passes.
//!
//! On the CPU in `f32`, each operation is one node of candle's graph. Its kernels are single-threaded, choose their
//! instruction set at run time, and read transposes through strides. On other devices and in other dtypes, the same
//! function is composed of stock operations. Both give gradients to every tracked input except the targets of a loss.
//!
//! Parallelism belongs to the caller (one shard of a batch per thread): the result of an operation has the same bits
//! whatever the number of threads.
#![expect(
    clippy::inline_always,
    reason = "a kernel has the caller's instruction set only where it is inlined"
)]

mod adamw;
mod attention;
mod branch;
mod embedding;
mod gelu;
mod gemm;
mod layer_norm;
mod linear;
mod loss;
mod multiply;
mod naive;
mod node;
mod parameter;
mod rms_norm;
mod rope;
mod rotary;
mod sequence;
mod simd;
mod swiglu;
#[cfg(test)]
mod tests;
mod transpose;

pub use adamw::{Rates, adamw, add_to, square_sum};
pub use attention::{AttentionShape, Mask, attention, attention_with};
pub use branch::{Branch, Core, Gate, Norm, Rows, post_norm, pre_norm};
pub use embedding::{Tables, embedding};
pub use gelu::gelu;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use loss::{cross_entropy, kl_divergence};
pub use parameter::Affine;
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use rotary::Rotary;
pub use sequence::sequence;
pub use swiglu::{silu, swiglu};

use crate::tensor::Weight;
use candle_core::{CpuStorage, DType, Device, Layout, Result, Shape, Storage, Tensor, bail};

/// Whether the kernels of this module can take these tensors and weights.
fn fused(tensors: &[&Tensor], weights: &[&Weight]) -> bool {
    tensors.iter().all(|tensor| tensor.device().is_cpu() && tensor.dtype() == DType::F32)
        && weights.iter().all(|weight| weight.fused())
}

/// The values of a contiguous tensor's storage.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("a kernel was given a strided layout {layout:?}");
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// The values of a contiguous tensor on the CPU.
fn values<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => slice(storage, layout),
        Storage::Cuda(_) | Storage::Metal(_) => bail!("a kernel was given a tensor of another device"),
    }
}

/// A tensor on the CPU over `values`.
fn new_tensor(values: Vec<f32>, shape: &Shape) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}
