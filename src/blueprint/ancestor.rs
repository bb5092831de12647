//! A trained model file that has passed its checks. It can teach a gene, be a source of baselines, be tuned, and be
//! measured.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use candle_core::Device;

use crate::{
    digest::Digest,
    error::Result,
    tensor::{TensorFile, Weights, weights::check_schema},
};

use super::{Blueprint, ModelInfo, expand, importance::Order, record::TOKENIZER_KEY};

/// A trained model file. Cloning shares the memory.
#[derive(Debug, Clone)]
pub struct Ancestor {
    blueprint: Arc<Blueprint>,
    file: TensorFile,
    digest: String,
    order: Arc<OnceLock<Order>>,
}

impl Ancestor {
    /// Reads and checks the model file at `path`.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`]; [`crate::error::Error::Corrupt`] and the schema errors if the file is not a model
    /// of this program.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_file(TensorFile::open(path)?, &path.display().to_string())
    }

    /// Checks a model file in memory; `origin` names it in errors.
    ///
    /// # Errors
    /// [`crate::error::Error::Corrupt`] and the schema errors if the file is not a model of this program.
    pub fn from_file(file: TensorFile, origin: &str) -> Result<Self> {
        let info = ModelInfo::from_file(&file, origin)?;
        check_schema(file.shapes(), info.config.schema().shapes())?;
        file.check_finite(origin)?;
        let digest = Digest::of(file.bytes()).to_string();
        Ok(Self { blueprint: Arc::new(Blueprint::whole(info)), digest, file, order: Arc::default() })
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.blueprint.info
    }

    /// A blueprint that takes every parameter from the stored tensor of the same name.
    pub fn blueprint(&self) -> &Blueprint {
        &self.blueprint
    }

    /// The file.
    pub const fn file(&self) -> &TensorFile {
        &self.file
    }

    /// The `tokenizer.json` of a text encoder, if the file has one.
    pub fn tokenizer(&self) -> Option<&str> {
        self.file.metadata(TOKENIZER_KEY)
    }

    /// The order of its channels, heads and hidden units by importance. The first call reads every weight.
    ///
    /// # Errors
    /// Those of [`Order::of`].
    pub fn order(&self) -> Result<&Order> {
        if let Some(order) = self.order.get() {
            return Ok(order);
        }
        let order = Order::of(&self.info().config.schema(), &self.file)?;
        Ok(self.order.get_or_init(|| order))
    }

    /// Whether the order is known already.
    pub fn is_ordered(&self) -> bool {
        self.order.get().is_some()
    }

    /// SHA-256 of the file, hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Its parameters in f32 on `device`.
    ///
    /// # Errors
    /// [`crate::error::Error::Tensor`] if the device refuses.
    pub fn weights(&self, device: &Device) -> Result<Weights> {
        expand(&self.blueprint, &Weights::from_file(&self.file, device)?, device)
    }
}
