//! Device choice. A device is opened once and then passed by reference.

use candle_core::Device;

use crate::error::{Context, Error, Result};

/// Opens `cpu` or `cuda:N`.
///
/// # Errors
/// [`Error::Invalid`] for any other name, for CUDA in a build without it, and if the driver or one of its libraries is
/// missing; [`Error::Tensor`] if the device cannot be opened.
pub fn open(name: &str) -> Result<Device> {
    match name.split_once(':') {
        None if name == "cpu" => Ok(Device::Cpu),
        Some(("cuda", ordinal)) => {
            let ordinal = ordinal
                .parse()
                .map_err(|_| Error::invalid("device", format!("\"{ordinal}\" is not a device number")))?;
            if !cfg!(feature = "cuda") {
                return Err(Error::invalid("device", "this build has no CUDA; build with --features cuda"));
            }
            // The driver's bindings panic if a library is missing.
            let quiet = std::panic::take_hook();
            std::panic::set_hook(Box::new(|_| ()));
            #[expect(clippy::disallowed_methods, reason = "the one place where a device is opened")]
            let opened = std::panic::catch_unwind(|| Device::new_cuda(ordinal));
            std::panic::set_hook(quiet);
            let missing = "the CUDA driver or one of its libraries (cuBLAS, cuRAND) is not installed here";
            opened.map_err(|_| Error::invalid("device", missing))?.context("opening the CUDA device")
        }
        _ => Err(Error::invalid("device", format!("\"{name}\" is not cpu or cuda:N"))),
    }
}
