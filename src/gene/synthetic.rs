//! Untrained genes with seeded values in any shape, for measuring a server.

use bytes::Bytes;
use candle_core::Device;

use crate::{
    blueprint::{Metric, Preprocessing, expand, model::NO_DATA},
    error::{Error, Result},
    nn::VitConfig,
    tensor::{Weights, codec},
};

use super::{GeneMeta, Learngene, Probe, first_values, meta::MAX_DEPTH, store};

/// Shape of a synthetic gene.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synthetic {
    /// Name.
    pub name: String,
    /// Shape of the auxiliary model.
    pub config: VitConfig,
    /// Number of stages; layers are spread evenly over them.
    pub stages: usize,
    /// Narrower widths to serve as well.
    pub widths: Vec<usize>,
    /// Seed of the values.
    pub seed: u64,
}

impl Synthetic {
    /// The gene and its file.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a file that is too large; [`Error::Invalid`] if the shape breaks a rule of genes.
    pub fn render(&self) -> Result<(Learngene, Bytes)> {
        let Self { name, config, stages, widths, seed } = self;
        let config = *config;
        let layers = |stage: usize| config.depth() * (stage + 1) / stages - config.depth() * stage / stages;
        let mut trained_widths = [widths.as_slice(), &[config.width()]].concat();
        trained_widths.sort_unstable();
        trained_widths.dedup();
        let meta = GeneMeta {
            name: name.clone(),
            config: config.into(),
            stages: (0..*stages).map(layers).collect(),
            trained_widths,
            width_norms: false,
            depth_range: [1, (4 * config.depth()).min(MAX_DEPTH)],
            preprocessing: Preprocessing {
                mean: vec![0.5; config.channels()],
                std: vec![0.5; config.channels()],
            },
            labels: (0..config.classes()).map(|class| format!("class {class}")).collect(),
            licence: "CC0-1.0".to_owned(),
            weights_licence: None,
            data: NO_DATA.to_owned(),
            teacher: "none".to_owned(),
            recipe: format!("seeded values, seed {seed}: nothing was learned"),
            probe: Probe { seed: 0, batch: 1, logits: vec![0.0; config.classes()] },
            metric: Metric::Accuracy,
            quality: Vec::new(),
        };
        meta.check().map_err(|reason| Error::invalid(format!("synthetic gene \"{name}\""), reason))?;
        let entries = first_values(&meta, None, *seed)?;
        let bytes = entries.iter().map(|entry| 4 * entry.shape.iter().product::<usize>() as u64).sum();
        if bytes > codec::MAX_FILE_BYTES {
            let limit = format!("up to {}", codec::MAX_FILE_BYTES);
            return Err(Error::OutOfRange {
                what: "bytes",
                found: bytes,
                of: format!("gene \"{name}\""),
                limit,
            });
        }
        let weights = expand::entries(&entries, &Weights::default(), &Device::Cpu)?;
        store::render(meta, &weights, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::vit::RawVitConfig;

    #[test]
    fn a_synthetic_gene_is_a_gene() {
        let raw = RawVitConfig {
            image_size: 8,
            patch_size: 4,
            channels: 1,
            classes: 3,
            depth: 7,
            width: 24,
            heads: 3,
            mlp_ratio: 4,
        };
        let config = VitConfig::try_from(raw).unwrap();
        let synthetic = |stages, widths: &[usize]| Synthetic {
            name: "s".into(),
            config,
            stages,
            widths: widths.into(),
            seed: 1,
        };
        let (gene, bytes) = synthetic(3, &[8]).render().unwrap();
        assert_eq!(
            (gene.meta().stages.as_slice(), gene.meta().trained_widths.as_slice()),
            (&[2, 2, 3][..], &[8, 24][..])
        );
        assert_eq!(bytes, synthetic(3, &[8]).render().unwrap().1);
        for wrong in [synthetic(0, &[]), synthetic(8, &[]), synthetic(2, &[9])] {
            wrong.render().unwrap_err();
        }
    }
}
