//! Learning a gene of text encoders whose models all answer in the ancestor's vector space.
//!
//! In step `t` the sizes `z_1 > … > z_K` are drawn as in [`super::nested`]. `f_z` is the blueprint of `z` over the gene's
//! variables, and its vectors have the ancestor's dimension. With `v_i = f_z(x_i) / ‖f_z(x_i)‖`, `g_i` the ancestor's
//! vector of length 1, and the texts `x_1 … x_n` of a shard:
//!
//! ```text
//! L = Σ_k λ_k D(z_k) / Σ_k λ_k
//! D = (1 - α) mean_i (1 - ⟨v_i, g_i⟩) + α mean_i KL( p_i ‖ q_i )
//! p_i = softmax_{j≠i}( ⟨g_i, g_j⟩ / τ ),   q_i = softmax_{j≠i}( ⟨v_i, v_j⟩ / τ )
//! ```
//!
//! | symbol | here | shape |
//! | --- | --- | --- |
//! | `g` | `teacher` | `[texts, dimension]` |
//! | `v` | `vectors` | `[texts, dimension]` |
//! | `α`, `τ` | `alpha`, `temperature` | |
//!
//! Source of the first term: Reimers & Gurevych 2020 (arXiv 2004.09813, section 3), with the cosine in place of the
//! squared distance. Source of the second: Passalis & Tefas 2018 (arXiv 1803.10837, section 3). The teacher gets no
//! gradient.

use candle_core::{DType, Tensor};

use crate::{
    blueprint::expand,
    error::{Context, Result},
    gene::GeneMeta,
    nn::{Gates, bert::Bert},
    tensor::{Weights, ops},
};

use super::{
    Objective, Optim, Shard,
    recipe::{GeneRecipe, Nested},
    sizes::Sizes,
    vectors::Vectors,
};

/// The objective over a gene's variables.
#[derive(Debug)]
pub struct VectorSharing {
    sizes: Sizes,
    teacher: Vectors,
    agreement: Agreement,
    dtype: DType,
}

/// How far vectors are from a teacher's.
#[derive(Debug, Clone, Copy)]
pub struct Agreement {
    /// Weight of the similarities, `α`.
    pub alpha: f64,
    /// Temperature of the similarities, `τ`.
    pub temperature: f64,
}

impl VectorSharing {
    /// The objective of a recipe for the gene `meta`.
    ///
    /// # Errors
    /// Those of the blueprints of its sizes.
    pub fn new(
        meta: &GeneMeta,
        nested: &Nested,
        teacher: Vectors,
        gene: &GeneRecipe,
        optim: &Optim,
        seed: u64,
    ) -> Result<Self> {
        let agreement = Agreement { alpha: gene.alpha, temperature: gene.temperature };
        Ok(Self { sizes: Sizes::new(meta, nested, seed)?, teacher, agreement, dtype: optim.dtype() })
    }
}

impl Objective for VectorSharing {
    fn loss(&self, weights: &Weights, shard: &Shard) -> Result<Tensor> {
        let teacher = self.teacher.of(&shard.items, shard.device())?;
        let sizes = self.sizes.of(shard.step);
        let all: f64 = sizes.iter().map(|(_, lambda)| lambda).sum();
        let mut loss = Tensor::zeros((), DType::F32, shard.device()).context("loss")?;
        for (size, lambda) in sizes {
            let blueprint = self.sizes.blueprint(size)?;
            let weights = expand(&blueprint, weights, shard.device())?.to_dtype(self.dtype)?;
            let config = *blueprint.info.config.bert()?;
            let open = vec![Gates::default(); size.depth];
            let vectors = Bert::new(config, &weights)?.forward_gated(shard.texts()?, &open);
            let term = vectors.and_then(|vectors| self.agreement.loss(&vectors, &teacher));
            loss = term.and_then(|term| loss + (term * (lambda / all))?).context("loss")?;
        }
        Ok(loss)
    }

    fn samples(&self) -> bool {
        true
    }
}

impl Agreement {
    /// `D` of the header.
    ///
    /// # Shapes
    /// `vectors`, `teacher`: `[texts, dimension]`; the vectors of the teacher have any length.
    ///
    /// # Errors
    /// A candle error if the shapes differ.
    pub fn loss(&self, vectors: &Tensor, teacher: &Tensor) -> candle_core::Result<Tensor> {
        let (v, g) = (unit(vectors)?, unit(teacher)?);
        let apart = ((&v * &g)?.sum(1)?.neg()? + 1.0)?.mean_all()?;
        if self.alpha == 0.0 || v.dim(0)? < 2 {
            return Ok(apart);
        }
        let similarities = |x: &Tensor| others(&x.matmul(&x.t()?)?);
        // The temperature of the function multiplies the divergence by τ².
        let tau = self.temperature;
        let divergence = (ops::kl_divergence(&similarities(&g)?, &similarities(&v)?, tau)? / (tau * tau))?;
        (apart * (1.0 - self.alpha))? + (divergence * self.alpha)?
    }
}

/// The entries of the square matrix `x` outside the diagonal, row by row, `[n, n - 1]`.
fn others(x: &Tensor) -> candle_core::Result<Tensor> {
    // Without its first entry, the matrix read in order is n - 1 rows of n others and one of the diagonal.
    let n = x.dim(0)?;
    let rest = x.flatten_all()?.narrow(0, 1, n * n - 1)?.reshape((n - 1, n + 1))?;
    rest.narrow(1, 0, n)?.contiguous()?.reshape((n, n - 1))
}

/// Rows of length 1.
fn unit(x: &Tensor) -> candle_core::Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.sum_keepdim(1)? + 1e-12)?.sqrt()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_loss_is_the_one_computed_by_hand() {
        let rows = |rows: [[f32; 2]; 3]| Tensor::new(&rows, &Device::Cpu).unwrap();
        // Unit vectors at 0°, 60° and 90° for the teacher; at 0°, 90° and 90° for the student, of other lengths.
        let (half, root) = (0.5, 0.75f32.sqrt());
        let (teacher, student) =
            (rows([[2.0, 0.0], [half, root], [0.0, 1.0]]), rows([[1.0, 0.0], [0.0, 3.0], [0.0, 0.1]]));
        let loss = |alpha| {
            let agreement = Agreement { alpha, temperature: 0.5 };
            f64::from(agreement.loss(&student, &teacher).unwrap().to_scalar::<f32>().unwrap())
        };
        // Only the second vector is apart, by 30°.
        let apart = (1.0 - 0.75f64.sqrt()) / 3.0;
        // Similarities to the others, over τ: teacher (1, 0), (1, √3), (0, √3); student (0, 0), (0, 2), (0, 2).
        let root3 = 3f64.sqrt();
        let divergence = |p: [f64; 2], q: [f64; 2]| {
            let softmax = |z: [f64; 2]| z.map(|x| x.exp() / (z[0].exp() + z[1].exp()));
            let (p, q) = (softmax(p), softmax(q));
            (0..2).map(|i| p[i] * (p[i] / q[i]).ln()).sum::<f64>()
        };
        let similar = (divergence([1.0, 0.0], [0.0, 0.0])
            + divergence([1.0, root3], [0.0, 2.0])
            + divergence([0.0, root3], [0.0, 2.0]))
            / 3.0;
        for (alpha, expected) in [(0.0, apart), (1.0, similar), (0.3, 0.7 * apart + 0.3 * similar)] {
            assert!((loss(alpha) - expected).abs() < 1e-6, "{alpha}: {} is not {expected}", loss(alpha));
        }
    }

    #[test]
    fn the_diagonal_is_left_out() {
        let x = Tensor::arange(0f32, 9.0, &Device::Cpu).unwrap().reshape((3, 3)).unwrap();
        let found = others(&x).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(found, [[1.0, 2.0], [3.0, 5.0], [6.0, 7.0]]);
    }
}
