//! Learning a gene of text encoders whose models all answer in the ancestor's vector space.
//!
//! In step `t` the sizes `z_1 > … > z_K` are drawn as in [`super::nested`]. `f_z` is the blueprint of `z` over the gene's
//! variables, and its vectors have the ancestor's dimension. With `v_i = f_z(x_i) / ‖f_z(x_i)‖`, `g_i` the ancestor's
//! vector of the same text, and `a_j` its vectors of other texts, the anchors of the step, all of length 1:
//!
//! ```text
//! L = Σ_k λ_k D(z_k) / Σ_k λ_k
//! D = (1 - α) mean_i (1 - ⟨v_i, g_i⟩) + α mean_i KL( p_i ‖ q_i )
//! p_i = softmax_j( ⟨g_i, a_j⟩ / τ ),   q_i = softmax_j( ⟨v_i, a_j⟩ / τ )
//! ```
//!
//! | symbol | here | shape |
//! | --- | --- | --- |
//! | `g` | `teacher` | `[texts, dimension]` |
//! | `v` | `vectors` | `[texts, dimension]` |
//! | `a` | `anchors` | `[anchors, dimension]` |
//! | `α`, `τ` | `alpha`, `temperature` | |
//!
//! The first term treats all directions alike. A narrow model cannot follow in all of them, and the second says in which
//! it must: an index that the ancestor filled has to rank its texts in the same order.
//!
//! Source of the first term: Reimers & Gurevych 2020 (arXiv 2004.09813, section 3), with the cosine in place of the
//! squared distance. Source of the second: Passalis & Tefas 2018 (arXiv 1803.10837, section 3), with the ancestor's
//! vectors on both sides. The teacher gets no gradient.

use candle_core::{DType, Device, Tensor};

use crate::{
    blueprint::expand,
    error::{Context, Result},
    gene::GeneMeta,
    nn::{Gates, bert::Bert},
    tensor::{Weights, ops, rng},
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
    /// Anchors of a step.
    anchors: usize,
    seed: u64,
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
        let (sizes, anchors, dtype) = (Sizes::new(meta, nested, seed)?, gene.anchors, optim.dtype());
        Ok(Self { sizes, teacher, agreement, anchors, seed, dtype })
    }

    /// The anchors of `step`, the same for all shards.
    fn anchors(&self, step: u64, device: &Device) -> Result<Tensor> {
        let mut random = rng::stream(self.seed, &format!("anchors/{step}"));
        let texts = self.teacher.len() as u64;
        let items: Vec<u32> = (0..self.anchors).map(|_| random.below(texts) as u32).collect();
        unit(&self.teacher.of(&items, device)?).context("anchors")
    }
}

impl Objective for VectorSharing {
    fn loss(&self, weights: &Weights, shard: &Shard) -> Result<Tensor> {
        let teacher = self.teacher.of(&shard.items, shard.device())?;
        let wanted = self.agreement.alpha > 0.0;
        let anchors = wanted.then(|| self.anchors(shard.step, shard.device())).transpose()?;
        let sizes = self.sizes.of(shard.step);
        let all: f64 = sizes.iter().map(|(_, lambda)| lambda).sum();
        let mut loss = Tensor::zeros((), DType::F32, shard.device()).context("loss")?;
        for (size, lambda) in sizes {
            let blueprint = self.sizes.blueprint(size)?;
            let weights = expand(&blueprint, weights, shard.device())?.to_dtype(self.dtype)?;
            let config = *blueprint.info.config.bert()?;
            let open = vec![Gates::default(); size.depth];
            let vectors = Bert::new(config, &weights)?.forward_gated(shard.texts()?, &open);
            let term = vectors.and_then(|vectors| self.agreement.loss(&vectors, &teacher, anchors.as_ref()));
            loss = term.and_then(|term| loss + (term * (lambda / all))?).context("loss")?;
        }
        Ok(loss)
    }

    fn samples(&self) -> bool {
        true
    }
}

impl Agreement {
    /// `D` of the header. Without anchors there is only the first term.
    ///
    /// # Shapes
    /// `vectors`, `teacher`: `[texts, dimension]`, of any length; `anchors`: `[anchors, dimension]`, of length 1.
    ///
    /// # Errors
    /// A candle error if the shapes differ.
    pub fn loss(
        &self,
        vectors: &Tensor,
        teacher: &Tensor,
        anchors: Option<&Tensor>,
    ) -> candle_core::Result<Tensor> {
        let (v, g) = (unit(vectors)?, unit(teacher)?);
        let apart = ((&v * &g)?.sum(1)?.neg()? + 1.0)?.mean_all()?;
        let Some(anchors) = anchors else { return Ok(apart) };
        let similarities = |x: &Tensor| x.matmul(&anchors.t()?);
        // The temperature of the function multiplies the divergence by τ².
        let tau = self.temperature;
        let divergence = (ops::kl_divergence(&similarities(&g)?, &similarities(&v)?, tau)? / (tau * tau))?;
        (apart * (1.0 - self.alpha))? + (divergence * self.alpha)?
    }
}

/// Rows of length 1.
fn unit(x: &Tensor) -> candle_core::Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.sum_keepdim(1)? + 1e-12)?.sqrt()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_the_one_computed_by_hand() {
        let rows = |rows: [[f32; 2]; 2]| Tensor::new(&rows, &Device::Cpu).unwrap();
        // The teacher's vectors are at 0° and 60°, the student's at 0° and 90°, the anchors at 0° and 90°.
        let (half, root) = (0.5, 0.75f32.sqrt());
        let (teacher, student) = (rows([[2.0, 0.0], [half, root]]), rows([[1.0, 0.0], [0.0, 3.0]]));
        let anchors = rows([[1.0, 0.0], [0.0, 1.0]]);
        let loss = |alpha, anchors| {
            let agreement = Agreement { alpha, temperature: 0.5 };
            let loss = agreement.loss(&student, &teacher, anchors).unwrap();
            f64::from(loss.to_scalar::<f32>().unwrap())
        };
        // Only the second vector is apart, by 30°.
        let apart = (1.0 - 0.75f64.sqrt()) / 2.0;
        // Its similarities to the anchors over τ are (1, √3) for the teacher and (0, 2) for the student.
        let softmax = |z: [f64; 2]| z.map(|x| x.exp() / (z[0].exp() + z[1].exp()));
        let (p, q) = (softmax([1.0, 3f64.sqrt()]), softmax([0.0, 2.0]));
        let similar = (0..2).map(|i| p[i] * (p[i] / q[i]).ln()).sum::<f64>() / 2.0;
        for (alpha, expected) in [(1.0, similar), (0.3, 0.7 * apart + 0.3 * similar)] {
            let found = loss(alpha, Some(&anchors));
            assert!((found - expected).abs() < 1e-6, "{alpha}: {found} is not {expected}");
        }
        assert!((loss(0.0, None) - apart).abs() < 1e-6);
    }
}
