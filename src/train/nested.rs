//! Learning a gene that serves every depth and several widths: stage-wise weight sharing over nested widths.
//!
//! Source: stage sharing as in [`super::learn_gene`] (Xia et al. 2024, arXiv 2404.16897). Each step trains several
//! widths of one set of weights, and wider ones teach narrower ones, as in Zhang et al. 2024 (Scala, arXiv 2412.04786,
//! section 3) and Yu & Huang 2019 (arXiv 1903.05134, sections 3.1 and 3.2: largest, smallest and drawn sizes).
//!
//! In step `t` the sizes `z_1 > … > z_K` are the trained size (in one step of `full_every`), the smallest size and
//! `draws` drawn sizes. `f_z` is the blueprint of `z` over the gene's variables:
//!
//! ```text
//! L = Σ_k λ_k [ β D(g, f_{z_k}) + (1 - β) D(f_{z_{k-1}}, f_{z_k}) ] / Σ_k λ_k,   f_{z_0} = g
//! D(t, s) = (1 - α) CE(y, s) + α τ² KL( softmax(t(x) / τ) ‖ softmax(s(x) / τ) )
//! ```
//!
//! | symbol | here | meaning |
//! | --- | --- | --- |
//! | `z_k` | `super::sizes` | depth and width; wider first, then deeper |
//! | `g` | `teacher` | the ancestor |
//! | `β` | `ancestor_share` | 0: the next larger size teaches each size; 1: the ancestor teaches each size |
//! | `λ_k` | `full_weight`, `smallest_weight`, 1 | weights of the sizes |
//! | `p` | `toward_small` | a depth or width `n` is drawn with probability proportional to `n⁻ᵖ` |
//!
//! Teachers get no gradient. Differs from Scala in four points: whole heads are dropped and the head dimension stays,
//! every width is a prefix, depth varies by how often a stage repeats, and the ancestor may teach every size.

use candle_core::{DType, Tensor};

use crate::{
    blueprint::expand,
    error::{Context, Result},
    gene::GeneMeta,
    tensor::Weights,
};

use super::{
    Objective, Optim, Shard,
    learn_gene::Distillation,
    objective::{draw_gates, network},
    recipe::{GeneRecipe, Nested},
    sizes::Sizes,
    teacher::Teacher,
};

/// The nested objective over a gene's variables.
#[derive(Debug)]
pub struct NestedSharing {
    sizes: Sizes,
    ancestor_share: f64,
    teacher: Teacher,
    distillation: Distillation,
    drop_path: f64,
    seed: u64,
    dtype: DType,
}

impl NestedSharing {
    /// The objective of a recipe for the gene `meta`.
    ///
    /// # Errors
    /// Those of the blueprints of its sizes.
    pub fn new(
        meta: &GeneMeta,
        nested: &Nested,
        teacher: Teacher,
        gene: &GeneRecipe,
        optim: &Optim,
        seed: u64,
    ) -> Result<Self> {
        Ok(Self {
            sizes: Sizes::new(meta, nested, seed)?,
            ancestor_share: nested.ancestor_share,
            teacher,
            distillation: Distillation::new(gene, optim),
            drop_path: optim.drop_path,
            seed,
            dtype: optim.dtype(),
        })
    }
}

impl Objective for NestedSharing {
    fn loss(&self, weights: &Weights, shard: &Shard) -> Result<Tensor> {
        let (sizes, beta) = (self.sizes.of(shard.step), self.ancestor_share);
        let ancestor = self.teacher.logits(shard)?;
        let mut larger = ancestor.clone();
        let mut terms = Vec::with_capacity(2 * sizes.len());
        for (k, (size, lambda)) in sizes.iter().enumerate() {
            let blueprint = self.sizes.blueprint(*size)?;
            let config = *blueprint.info.config.vit()?;
            let weights = expand(&blueprint, weights, shard.device())?;
            let model = network(config, &weights, self.dtype)?;
            let gates = draw_gates(self.seed, self.drop_path, config.depth(), shard)?;
            let logits = model.forward_gated(shard.images()?, &gates).context("auxiliary model")?;
            // f_{z_0} = g, so the two terms of the largest size are equal and one suffices.
            let beta = if k == 0 { 1.0 } else { beta };
            for (teacher, share) in [(&ancestor, beta), (&larger, 1.0 - beta)] {
                if share > 0.0 {
                    let loss = self.distillation.loss(&logits, teacher, shard)?;
                    terms.push((loss * (lambda * share)).context("loss")?);
                }
            }
            larger = logits.detach();
        }
        let all: f64 = sizes.iter().map(|(_, lambda)| lambda).sum();
        let sum = terms.into_iter().map(Ok).reduce(|a, b| a? + b?);
        (sum.unwrap_or_else(|| Err(candle_core::Error::Msg("no size".into()))).context("loss")? / all)
            .context("loss")
    }

    fn samples(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gene::Synthetic,
        nn::{Input, Size, Spec, Vit, VitConfig, vit::RawVitConfig},
        tensor::{Init, Weight},
    };
    use candle_core::Device;

    fn gene() -> GeneMeta {
        let raw = RawVitConfig {
            image_size: 4,
            patch_size: 2,
            channels: 1,
            classes: 3,
            depth: 3,
            width: 8,
            heads: 2,
            mlp_ratio: 1,
        };
        let synthetic = Synthetic {
            name: "g".to_owned(),
            config: VitConfig::try_from(raw).unwrap(),
            stages: 2,
            widths: vec![4],
            seed: 0,
        };
        synthetic.render().unwrap().0.meta().clone()
    }

    /// Seeded values that are large enough for distinct answers.
    fn weights(specs: impl IntoIterator<Item = Spec>, config: &crate::nn::Config, seed: u64) -> Weights {
        let init = Init::TruncNormal { std_e9: 500_000_000 };
        let tensor = |spec: &Spec| {
            let shape = spec.shape(&config.dims());
            let values = init.values(seed, &spec.name, shape.iter().product());
            Weight::new(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
        };
        specs.into_iter().map(|spec| (spec.name.clone(), tensor(&spec))).collect()
    }

    /// The header's sum at β = 0.3 and λ = (2, 1, 3), with each `D` computed separately.
    #[test]
    fn the_loss_is_the_sum_computed_by_hand() {
        let meta = gene();
        let nested = Nested {
            widths: vec![4, 8],
            depths: [1, 3],
            draws: 1,
            ancestor_share: 0.3,
            full_weight: 2.0,
            smallest_weight: 3.0,
            full_every: 1,
            full_only_steps: 5,
            toward_small: 0.0,
            width_norms: false,
        };
        let ancestor = weights(meta.config.schema().specs(), &meta.config, 1);
        let ancestor = Vit::new(*meta.config.vit().unwrap(), &ancestor).unwrap();
        let shared = weights(meta.specs(), &meta.config, 2);
        let distillation = Distillation { alpha: 0.6, temperature: 2.0, label_smoothing: 0.1 };
        let objective = NestedSharing {
            sizes: Sizes::new(&meta, &nested, 0).unwrap(),
            ancestor_share: nested.ancestor_share,
            teacher: Teacher::Network(Box::new(ancestor)),
            distillation,
            drop_path: 0.0,
            seed: 0,
            dtype: DType::F32,
        };
        let pixels = Init::TruncNormal { std_e9: 1_000_000_000 }.values(3, "pixels", 2 * 16);
        let shard = |step| Shard {
            input: Input::Images(Tensor::from_vec(pixels.clone(), (2, 1, 4, 4), &Device::Cpu).unwrap()),
            labels: vec![0, 2],
            items: vec![0, 1],
            views: vec![0, 0],
            step,
            first: 0,
        };
        let scalar = |loss: Tensor| loss.to_scalar::<f32>().unwrap();
        let logits = |size: Size| {
            let blueprint = objective.sizes.blueprint(size).unwrap();
            let own = expand(&blueprint, &shared, &Device::Cpu).unwrap();
            Vit::new(*blueprint.info.config.vit().unwrap(), &own)
                .unwrap()
                .forward(shard(0).images().unwrap())
                .unwrap()
        };
        let d = |teacher: &Tensor, student: &Tensor| {
            scalar(distillation.loss(student, teacher, &shard(0)).unwrap())
        };
        let answers = objective.teacher.logits(&shard(0)).unwrap();
        let near = |found: f32, expected: f32| {
            assert!((found - expected).abs() < 1e-5 * expected, "{found} is not {expected}");
        };

        // At first only the trained size learns, whatever its weight.
        assert_eq!(objective.sizes.of(4), [(Size { width: 8, depth: 3 }, 2.0)]);
        let largest = logits(Size { width: 8, depth: 3 });
        near(scalar(objective.loss(&shared, &shard(4)).unwrap()), d(&answers, &largest));

        let step = (5..99).find(|step| objective.sizes.of(*step).len() == 3).unwrap();
        let sizes = objective.sizes.of(step);
        assert_eq!(sizes.iter().map(|(_, lambda)| *lambda).collect::<Vec<_>>(), [2.0, 1.0, 3.0]);
        assert_eq!((sizes[0].0, sizes[2].0), (Size { width: 8, depth: 3 }, Size { width: 4, depth: 1 }));
        let (drawn, smallest) = (logits(sizes[1].0), logits(sizes[2].0));
        let expected = (2.0 * d(&answers, &largest)
            + (0.3 * d(&answers, &drawn) + 0.7 * d(&largest, &drawn))
            + 3.0 * (0.3 * d(&answers, &smallest) + 0.7 * d(&drawn, &smallest)))
            / 6.0;
        near(scalar(objective.loss(&shared, &shard(step)).unwrap()), expected);
    }
}
