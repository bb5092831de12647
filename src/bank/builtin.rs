//! The gene inside the program, so that a single file is enough to try it.

use std::time::SystemTime;

use bytes::Bytes;

use crate::{
    error::{Error, Result},
    tensor::TensorFile,
};

/// Its name.
pub const NAME: &str = "fashion-any";
/// Its file. The ancestor is left out, because it is twice as large.
static FILE: &[u8] = include_bytes!("../../models/fashion-any.safetensors");

/// The file of the gene.
///
/// # Errors
/// [`Error::Corrupt`] if the program was built with a damaged file.
pub fn file() -> Result<TensorFile> {
    TensorFile::from_bytes(Bytes::from_static(FILE), NAME)
}

/// When the program was written to this machine.
pub(super) fn modified() -> Result<SystemTime> {
    let time = std::env::current_exe().and_then(|path| path.metadata()?.modified());
    time.map_err(Error::io("the program's own file"))
}
