//! Where the backward pass of one shard adds up the gradients of the parameters.
//!
//! candle gives every use of a parameter a gradient tensor of its own and then adds it to zeros. The fused operations
//! add to a tape instead, in place: a stage that is used by several layers, or a rectangle of a wider layer, costs the
//! products and nothing else. The gradient of an activation still flows through candle's graph.

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use candle_core::{DType, Device, Result, Tensor, Var};

/// Gradients of all parameters of a flat store, in its order.
///
/// A tape and its pool belong to one thread at a time; their locks are never waited for.
#[derive(Debug)]
pub struct Tape {
    anchor: Var,
    recompute: bool,
    gradients: Mutex<Vec<f32>>,
    pool: Arc<Pool>,
}

/// Memory that is used again: by the next operation, shard and step.
#[derive(Debug, Default)]
pub struct Pool(Mutex<BTreeMap<usize, Vec<Vec<f32>>>>);

impl Tape {
    /// A tape for `len` parameters. With `recompute`, an operation keeps only its input for the backward pass and
    /// computes the rest again: less memory, one more forward pass.
    ///
    /// # Errors
    /// candle's, where it cannot make a scalar.
    pub fn new(len: usize, recompute: bool, pool: Arc<Pool>) -> Result<Self> {
        let anchor = Var::zeros((), DType::F32, &Device::Cpu)?;
        Ok(Self { anchor, recompute, gradients: Mutex::new(vec![0.0; len]), pool })
    }

    /// A variable without meaning: an operation that reads it is part of candle's graph, whatever else it reads.
    pub(super) fn anchor(&self) -> &Tensor {
        &self.anchor
    }

    /// Whether operations keep nothing but their input.
    pub(super) const fn recompute(&self) -> bool {
        self.recompute
    }

    /// The gradients, to read or to add to.
    pub fn gradients(&self) -> MutexGuard<'_, Vec<f32>> {
        self.gradients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets every gradient to zero.
    pub fn clear(&self) {
        self.gradients().fill(0.0);
    }
}

impl Pool {
    fn free(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<Vec<f32>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory of an operation, which goes back to the pool of its tape when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    values: Vec<f32>,
    home: Option<Arc<Pool>>,
}

impl Buffer {
    /// `len` values of no particular meaning: zeros, or what an earlier operation left behind.
    pub(super) fn new(tape: Option<&Arc<Tape>>, len: usize) -> Self {
        let home = tape.map(|tape| Arc::clone(&tape.pool));
        let old = home.as_ref().and_then(|pool| {
            let mut free = pool.free();
            // Not from much larger ones: a request must not hold many times its size.
            let (&capacity, _) = free.range(len..=len.saturating_mul(2)).next()?;
            let stack = free.get_mut(&capacity)?;
            let values = stack.pop();
            if stack.is_empty() {
                free.remove(&capacity);
            }
            values
        });
        let mut values = old.unwrap_or_default();
        values.resize(len, 0.0);
        Self { values, home }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = &self.home {
            let values = std::mem::take(&mut self.values);
            pool.free().entry(values.capacity()).or_default().push(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_and_is_used_again_where_it_fits() {
        let tape = Arc::new(Tape::new(1, false, Arc::default()).unwrap());
        let address = |buffer: &Buffer| buffer.as_ptr();
        let first = Buffer::new(Some(&tape), 100);
        let at = address(&first);
        drop(first);
        assert_ne!(address(&Buffer::new(Some(&tape), 40)), at, "far too large");
        let shorter = Buffer::new(Some(&tape), 70);
        assert_eq!((address(&shorter), shorter.len()), (at, 70));
        assert_ne!(address(&Buffer::new(Some(&tape), 70)), at, "in use");
        drop(shorter);
        assert_eq!(address(&Buffer::new(Some(&tape), 100)), at);
    }
}
