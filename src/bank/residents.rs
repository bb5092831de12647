//! Genes on the device that tunes.

use std::collections::BTreeMap;

use candle_core::Device;

use crate::{
    blueprint::{Blueprint, Resident, expand},
    error::Result,
    tensor::Weights,
};

use super::{Registry, quote::Stored};

/// The device that tunes, and copies of the genes on it. The CPU reads genes in place and needs no copy.
#[derive(Debug)]
pub(super) struct Residents {
    device: Device,
    /// By digest.
    genes: BTreeMap<String, Resident>,
}

impl Residents {
    /// Puts every gene of `registry` on `device`.
    ///
    /// # Errors
    /// [`crate::error::Error::Tensor`] where the device refuses.
    pub(super) fn new(registry: &Registry, device: Device) -> Result<Self> {
        let genes = registry.iter().filter(|_| !device.is_cpu());
        let genes = genes.map(|gene| Ok((gene.digest().to_owned(), gene.resident(&device)?)));
        Ok(Self { genes: genes.collect::<Result<_>>()?, device })
    }

    /// Where tuning computes.
    pub(super) const fn device(&self) -> &Device {
        &self.device
    }

    /// The tensors of `blueprint`, which takes its values from `stored`, on the device.
    ///
    /// # Errors
    /// Those of [`expand`].
    pub(super) fn expand(&self, blueprint: &Blueprint, stored: &Stored) -> Result<Weights> {
        match self.genes.get(&stored.digest) {
            Some(gene) => gene.materialize(blueprint),
            // An ancestor. Baselines are requested too rarely to keep it there.
            None => expand(blueprint, &Weights::from_file(&stored.file, &self.device)?, &self.device),
        }
    }
}
