//! Reads values from a CUDA device through two page-locked buffers: one is filled while the other is read.
//!
//! A copy to ordinary memory goes through a small buffer of the driver and blocks until it is complete. A copy to
//! page-locked memory is only queued, so this thread can read the previous copy in the meantime.

#![expect(
    unsafe_code,
    reason = "page-locked memory comes without values; it is zeroed before anyone can read it"
)]

use candle_core::{
    CudaDevice, Result, Storage, Tensor,
    cuda_backend::{
        WrapErr as _,
        cudarc::driver::{CudaContext, PinnedHostSlice, sys::CU_MEMHOSTALLOC_PORTABLE},
    },
};

/// Number of values in a buffer: 4 MiB. Larger buffers do not speed up copies.
const BUFFER: usize = 1 << 20;

/// The f32 values of each tensor in `tensors`, in row-major order. All of them lie on `device`.
pub(super) fn read(device: &CudaDevice, tensors: &[Tensor]) -> Result<Vec<Vec<f32>>> {
    let stream = device.cuda_stream();
    let mut buffers = [buffer(stream.context())?, buffer(stream.context())?];
    let mut out: Vec<Vec<f32>> = tensors.iter().map(|t| Vec::with_capacity(t.elem_count())).collect();
    let mut queued: Option<Copy> = None;
    let mut turn = 0;
    for (tensor, values) in tensors.iter().enumerate() {
        let values = values.contiguous()?;
        let (storage, layout) = values.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            candle_core::bail!("a tensor of another device");
        };
        let (slice, first) = (storage.as_cuda_slice::<f32>()?, layout.start_offset());
        let end = first + layout.shape().elem_count();
        for from in (first..end).step_by(BUFFER) {
            let to = end.min(from + BUFFER);
            stream.memcpy_dtoh(&slice.slice(from..to), &mut buffers[turn]).w()?;
            if let Some(copy) = queued.replace(Copy { buffer: turn, tensor, values: to - from }) {
                copy.take(&buffers, &mut out)?;
            }
            turn = 1 - turn;
        }
    }
    queued.map_or(Ok(()), |copy| copy.take(&buffers, &mut out))?;
    Ok(out)
}

/// A queued copy.
struct Copy {
    buffer: usize,
    tensor: usize,
    values: usize,
}

impl Copy {
    /// Waits for the copy and appends its values to those of its tensor.
    fn take(self, buffers: &[PinnedHostSlice<f32>; 2], out: &mut [Vec<f32>]) -> Result<()> {
        let values = buffers[self.buffer].as_slice().w()?;
        out[self.tensor].extend_from_slice(&values[..self.values]);
        Ok(())
    }
}

fn buffer(context: &std::sync::Arc<CudaContext>) -> Result<PinnedHostSlice<f32>> {
    // Not write-combined, because the CPU reads it.
    // SAFETY: the allocation holds `BUFFER` uninitialised values. The next statement writes every one of them through
    // the pointer to its start, before any reference to them exists.
    unsafe {
        let mut buffer = context.alloc_pinned_with_flags::<f32>(BUFFER, CU_MEMHOSTALLOC_PORTABLE).w()?;
        buffer.as_mut_ptr().w()?.write_bytes(0, BUFFER);
        Ok(buffer)
    }
}
