//! Genes on the device that tunes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::Device;

use crate::{
    blueprint::{Blueprint, Resident, expand},
    error::Result,
    gene::Learngene,
    tensor::Weights,
};

use super::Quote;

/// The device that tunes, and copies of the genes on it that were tuned. The CPU reads genes in place and needs no copy.
#[derive(Debug)]
pub(super) struct Residents {
    device: Device,
    /// By digest.
    genes: Mutex<BTreeMap<String, Arc<Resident>>>,
}

impl Residents {
    /// None yet on `device`.
    pub(super) fn new(device: Device) -> Self {
        Self { device, genes: Mutex::default() }
    }

    /// Where tuning computes.
    pub(super) const fn device(&self) -> &Device {
        &self.device
    }

    /// The tensors of `blueprint`, which takes its values from where `quote` does, on the device.
    ///
    /// # Errors
    /// Those of [`expand`], and [`crate::error::Error::Tensor`] where the device refuses.
    pub(super) fn expand(&self, blueprint: &Blueprint, quote: &Quote) -> Result<Weights> {
        // Baselines, which take their values from an ancestor, are requested too rarely to keep it there.
        if self.device.is_cpu() || quote.stored.digest != quote.gene.digest() {
            return expand(blueprint, &Weights::from_file(&quote.stored.file, &self.device)?, &self.device);
        }
        self.resident(&quote.gene)?.materialize(blueprint)
    }

    fn resident(&self, gene: &Learngene) -> Result<Arc<Resident>> {
        let mut genes = self.genes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resident) = genes.get(gene.digest()) {
            return Ok(resident.clone());
        }
        let resident = Arc::new(gene.resident(&self.device)?);
        genes.insert(gene.digest().to_owned(), resident.clone());
        Ok(resident)
    }
}
