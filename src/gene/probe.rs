//! The self-test of a gene.

use candle_core::{Device, Tensor};

use crate::{
    error::{Context as _, Result},
    nn::{Config, Input, bert::Texts},
    tensor::rng,
};

/// A self-test: what the auxiliary model answers to a seeded input.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Seed of the input.
    pub seed: u64,
    /// Number of images or texts in the input.
    pub batch: usize,
    /// Expected logits or vectors, `[batch, outputs]` in row-major order.
    pub logits: Vec<f32>,
}

impl Probe {
    /// Largest accepted difference, relative to the largest logit.
    pub const TOLERANCE: f32 = 1e-3;
    /// Largest number of images or texts in a probe.
    pub const MAX_BATCH: usize = 16;
    /// Largest number of values in the input of a probe.
    pub const MAX_VALUES: usize = 1 << 22;

    /// Checks that the probe fits the network `config` and the limits.
    pub(super) fn check(&self, config: &Config) -> std::result::Result<(), String> {
        let values = match config {
            Config::Vit(config) => config.image_values(),
            Config::Bert(config) => config.raw().positions.min(Self::TOKENS),
        };
        let holds = (1..=Self::MAX_BATCH).contains(&self.batch)
            && self.batch * values <= Self::MAX_VALUES
            && self.logits.len() == self.batch * config.outputs()
            && self.logits.iter().all(|logit| logit.is_finite());
        if holds {
            return Ok(());
        }
        Err(format!(
            "probe of {} items with {} finite logits: at most {} items, {} values, {} logits each",
            self.batch,
            self.logits.len(),
            Self::MAX_BATCH,
            Self::MAX_VALUES,
            config.outputs()
        ))
    }

    /// Length of the texts in a probe, tokens; fewer if there are fewer positions.
    pub const TOKENS: usize = 16;

    /// The input for the network `config`. For images, uniform values in `[-1, 1)`: exact arithmetic on ChaCha bits
    /// gives the same on every machine. For texts, uniform ids; each text is a token shorter than the one before.
    ///
    /// # Errors
    /// [`crate::error::Error::Tensor`] if it cannot be made.
    pub fn input(seed: u64, batch: usize, config: &Config) -> Result<Input> {
        let mut stream = rng::stream(seed, "probe");
        match config {
            Config::Vit(config) => {
                let values =
                    (0..batch * config.image_values()).map(|_| 2.0 * stream.unit_f32() - 1.0).collect();
                let side = config.image_size();
                let images = Tensor::from_vec(values, (batch, config.channels(), side, side), &Device::Cpu);
                images.map(Input::Images).context("probe")
            }
            Config::Bert(config) => {
                let raw = config.raw();
                let tokens = raw.positions.min(Self::TOKENS);
                let ids = (0..batch * tokens).map(|_| stream.below(raw.vocabulary as u64) as u32).collect();
                let seen = |at: usize| f32::from(at % tokens + (at / tokens) % tokens < tokens);
                let mask = (0..batch * tokens).map(seen).collect();
                let ids = Tensor::from_vec(ids, (batch, tokens), &Device::Cpu).context("probe")?;
                let mask = Tensor::from_vec(mask, (batch, tokens), &Device::Cpu).context("probe")?;
                Ok(Input::Texts(Texts { ids, mask }))
            }
        }
    }
}
