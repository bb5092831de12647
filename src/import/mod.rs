//! Brings checkpoints of other libraries into this program: a folder as `save_pretrained`, timm's `save_for_hf` or a
//! download leaves it, or a bare safetensors file.
//!
//! An import reads `config.json` into the shape of a network, and finds each of its parameters under the name that the
//! library gives it ([`crate::export::names`], read backwards). It says what it renamed, folded and left out, and refuses
//! what the network cannot express: a tensor that is silently dropped would make another function.

mod bert;
mod checkpoint;
mod report;
mod settings;
mod vit;

use std::path::Path;

use bytes::Bytes;

use crate::{
    blueprint::{Ancestor, record::TOKENIZER_KEY},
    error::Result,
    tensor::{TensorFile, codec},
};

pub use checkpoint::Checkpoint;
pub use report::{Folded, Report};
pub use settings::Hints;

/// A checkpoint in the form of this program.
#[derive(Debug, Clone)]
pub struct Import {
    /// The model.
    pub ancestor: Ancestor,
    /// Its file.
    pub bytes: Bytes,
    /// What was done.
    pub report: Report,
}

/// Imports the folder or file at `path`.
///
/// # Errors
/// [`crate::error::Error::Io`]; [`crate::error::Error::Corrupt`] for files that break their format;
/// [`crate::error::Error::Invalid`] naming the key or tensor that the network cannot express.
pub fn import(path: &Path, hints: &Hints) -> Result<Import> {
    let checkpoint = Checkpoint::read(path)?;
    let (info, weights, report, tokenizer) = if bert::is_bert(&checkpoint, hints) {
        bert::import(&checkpoint, hints)?
    } else {
        let (info, weights, report) = vit::import(&checkpoint, hints)?;
        (info, weights, report, None)
    };
    let mut metadata = info.metadata();
    metadata.extend(tokenizer.map(|json| (TOKENIZER_KEY.to_owned(), json)));
    let bytes = codec::render(&metadata, &weights.to_bytes(crate::tensor::Dtype::F32)?);
    let file = TensorFile::from_bytes(bytes.clone(), &checkpoint.origin)?;
    Ok(Import { ancestor: Ancestor::from_file(file, &checkpoint.origin)?, bytes, report })
}

/// The model at `path`: a file of this program, or a checkpoint that is imported.
///
/// # Errors
/// Those of [`Ancestor::open`] and [`import`].
pub fn ancestor(path: &Path) -> Result<(Ancestor, Option<Report>)> {
    if path.is_dir() {
        return import(path, &Hints::default()).map(|import| (import.ancestor, Some(import.report)));
    }
    Ancestor::open(path).map(|ancestor| (ancestor, None))
}
