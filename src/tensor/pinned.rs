//! Values from a CUDA device through two page-locked buffers: one is filled while the other is read.
//!
//! A copy to ordinary memory goes through the driver's own small buffer and returns when it is over; a copy to
//! page-locked memory is queued, and this thread reads the one before it meanwhile.

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

/// Values of a buffer: 4 MiB, beyond which copies gain nothing.
const BUFFER: usize = 1 << 20;

/// The f32 values of each of `tensors`, which are on `device`, in row-major order.
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

/// A copy under way.
struct Copy {
    buffer: usize,
    tensor: usize,
    values: usize,
}

impl Copy {
    /// Waits for it and appends what it brought.
    fn take(self, buffers: &[PinnedHostSlice<f32>; 2], out: &mut [Vec<f32>]) -> Result<()> {
        let values = buffers[self.buffer].as_slice().w()?;
        out[self.tensor].extend_from_slice(&values[..self.values]);
        Ok(())
    }
}

fn buffer(context: &std::sync::Arc<CudaContext>) -> Result<PinnedHostSlice<f32>> {
    // Not write-combined: the processor reads it.
    // SAFETY: it is given `BUFFER` values of any bytes; every one of them is written in the next statement, through the
    // pointer to its start, before a reference to one exists.
    unsafe {
        let mut buffer = context.alloc_pinned_with_flags::<f32>(BUFFER, CU_MEMHOSTALLOC_PORTABLE).w()?;
        buffer.as_mut_ptr().w()?.write_bytes(0, BUFFER);
        Ok(buffer)
    }
}
