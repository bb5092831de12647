//! What a size costs: parameters, multiply-accumulates, bytes of the file and memory, without a weight.

use serde::Serialize;

use crate::{
    error::Result,
    gene::{Learngene, SizeRequest},
    nn::{Config, Size},
    tensor::Dtype,
};

/// Largest batch for an estimate of memory.
pub const MAX_BATCH: u32 = 65_536;

/// What one size costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Number of parameters.
    pub parameters: u64,
    /// Multiply-accumulates of one forward pass of one image or text.
    pub macs: u64,
    /// Length of the file, bytes.
    pub size_bytes: u64,
    /// Memory of one forward pass of one batch in f32, bytes: [`memory_bytes`].
    pub memory_bytes: u64,
}

impl Cost {
    /// The cost of a size that `gene` serves.
    ///
    /// # Errors
    /// Those of [`Learngene::blueprint`].
    pub fn of(gene: &Learngene, size: Size, dtype: Dtype, batch: u32) -> Result<Self> {
        let config = gene.meta().config.resized(size.depth, size.width)?;
        Ok(Self {
            parameters: config.schema().parameters(),
            macs: config.macs(),
            size_bytes: size_bytes(gene, size, dtype)?,
            memory_bytes: memory_bytes(&config, batch),
        })
    }
}

/// Length of the file, bytes. The header names every tensor, so this makes the blueprint.
///
/// # Errors
/// Those of [`Learngene::blueprint`].
pub fn size_bytes(gene: &Learngene, size: Size, dtype: Dtype) -> Result<u64> {
    let Size { width, depth } = size;
    let request =
        SizeRequest { depth: Some(depth as u64), width: Some(width as u64), dtype, ..SizeRequest::default() };
    let blueprint = gene.blueprint(&request)?;
    Ok(blueprint.header().len() as u64 + blueprint.parameters() * dtype.size_bytes() as u64)
}

/// Memory of one forward pass of `batch` images in f32, bytes: the weights and the largest set of activations that are
/// held at once, if every operation writes a new array and an array is freed after its last reader:
///
/// `4 (P + B max(stem, attention, mlp))` with, for `n` tokens of width `d`, `h` heads and an MLP of `r d` units,
/// - stem: `2 c s² + 2 n d`: the image, its patches, the projected patches, the sequence; of a text, the embedding and
///   its norm
/// - attention: `5 n d + 2 h n²`: the residual stream, `q`, `k`, `v`, the result, the products and their softmax
/// - mlp: `n d + 2 n r d`: the residual stream and the hidden units before and after GELU
///
/// A text has [`crate::nn::network::COSTED_TOKENS`] tokens. Depth adds weights and no activations. A runtime with fused attention needs less; an allocator may hold more.
pub fn memory_bytes(config: &Config, batch: u32) -> u64 {
    let dims = config.dims();
    let [d, h, hidden] = [dims.width, dims.heads, dims.hidden].map(|n| n as u64);
    let [n, stem] = [config.tokens(), config.stem_values()].map(|n| n as u64);
    let attention = 5 * n * d + 2 * h * n * n;
    let mlp = n * d + 2 * n * hidden;
    4 * (config.schema().parameters() + u64::from(batch) * stem.max(attention).max(mlp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{VitConfig, vit::RawVitConfig};

    fn config(depth: usize, width: usize) -> Config {
        let raw = RawVitConfig {
            image_size: 28,
            patch_size: 4,
            channels: 1,
            classes: 10,
            depth,
            width,
            heads: width / 24,
            mlp_ratio: 4,
        };
        VitConfig::try_from(raw).unwrap().into()
    }

    #[test]
    fn memory_is_weights_and_the_largest_set() {
        let config = config(7, 96);
        // 50 tokens: attention 5·50·96 + 2·4·50² = 44,000; mlp 9·50·96 = 43,200.
        assert_eq!(memory_bytes(&config, 1), 4 * (config.schema().parameters() + 44_000));
        assert_eq!(memory_bytes(&config, 3), 4 * (config.schema().parameters() + 3 * 44_000));
    }
}
