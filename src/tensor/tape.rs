//! The gradients of the parameters, added up during the backward pass of one shard.
//!
//! For every use of a parameter, candle allocates a gradient tensor and then adds it to zeros. The fused operations add
//! to a tape in place instead: a stage shared by several layers, or a rectangle of a wider layer, costs only the
//! products. The first addition in a step overwrites. Gradients of activations still flow through candle's graph.

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut, Range},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use candle_core::{DType, Device, Result, Tensor, Var};

/// Gradients of all parameters in a flat store, in the order of the store.
///
/// A tape and its pool belong to one thread at a time, so nothing ever waits for their locks.
#[derive(Debug)]
pub struct Tape {
    anchor: Var,
    recompute: bool,
    gradients: Mutex<Gradients>,
    pool: Arc<Scratch>,
}

/// The gradients on a tape in one flat vector, with the span of each parameter.
#[derive(Debug)]
pub struct Gradients {
    values: Vec<f32>,
    /// One span per parameter, in ascending order, without gaps.
    spans: Vec<Range<usize>>,
    /// Whether each parameter's gradient was written in this step; until then its values are stale.
    touched: Vec<bool>,
}

/// Memory that later operations, shards and steps reuse.
#[derive(Debug, Default)]
pub struct Scratch(Mutex<BTreeMap<usize, Vec<Vec<f32>>>>);

impl Tape {
    /// A tape for the parameters at `spans`, which must follow one another. With `recompute`, an operation keeps only
    /// its input for the backward pass and computes the rest again. This saves memory at the cost of a second forward
    /// pass.
    ///
    /// # Errors
    /// A candle error if no scalar can be created.
    pub fn new(spans: Vec<Range<usize>>, recompute: bool, pool: Arc<Scratch>) -> Result<Self> {
        let anchor = Var::zeros((), DType::F32, &Device::Cpu)?;
        let values = vec![0.0; spans.last().map_or(0, |span| span.end)];
        let gradients = Mutex::new(Gradients { values, touched: vec![false; spans.len()], spans });
        Ok(Self { anchor, recompute, gradients, pool })
    }

    /// A dummy variable: an operation that reads it joins candle's graph even if none of its other inputs is tracked.
    pub(super) fn anchor(&self) -> &Tensor {
        &self.anchor
    }

    /// Whether operations keep only their input for the backward pass.
    pub(super) const fn recompute(&self) -> bool {
        self.recompute
    }

    /// The gradients, to read or to add to.
    pub fn gradients(&self) -> MutexGuard<'_, Gradients> {
        self.gradients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gradients {
    /// Begins a step: every gradient is zero until something is added to it.
    pub fn clear(&mut self) {
        self.touched.fill(false);
    }

    /// Ends a step: fills the gradients that nothing was added to with zeros, and tells for each parameter whether
    /// something was added.
    pub fn finish(&mut self) -> &[bool] {
        for (span, touched) in self.spans.iter().zip(&self.touched) {
            if !touched {
                self.values[span.clone()].fill(0.0);
            }
        }
        &self.touched
    }

    /// The values from `start` on, and whether the caller must overwrite its piece of `len` values there instead of
    /// adding to it.
    pub(super) fn piece(&mut self, start: usize, len: usize) -> (&mut [f32], bool) {
        let index = self.spans.partition_point(|span| span.end <= start);
        let mut overwrite = false;
        if let (Some(span), Some(touched)) = (self.spans.get(index), self.touched.get_mut(index))
            && !std::mem::replace(touched, true)
        {
            overwrite = span.len() == len;
            if !overwrite {
                self.values[span.clone()].fill(0.0);
            }
        }
        (&mut self.values[start..], overwrite)
    }
}

impl Deref for Gradients {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl DerefMut for Gradients {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

impl Scratch {
    fn free(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<Vec<f32>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory of an operation. It returns to the pool of its tape when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    values: Vec<f32>,
    home: Option<Arc<Scratch>>,
}

impl Buffer {
    /// `len` arbitrary values: zeros, or the leftovers of an earlier operation.
    pub(super) fn new(tape: Option<&Arc<Tape>>, len: usize) -> Self {
        let home = tape.map(|tape| Arc::clone(&tape.pool));
        let old = home.as_ref().and_then(|pool| {
            let mut free = pool.free();
            // Much larger buffers are not used: a request must not hold many times its size.
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
        let tape = Arc::new(Tape::new(Vec::new(), false, Arc::default()).unwrap());
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

    #[test]
    fn what_an_earlier_step_left_behind_does_not_matter() {
        let tape = Tape::new(vec![0..2, 2..5, 5..6], false, Arc::default()).unwrap();
        for _ in 0..2 {
            let mut gradients = tape.gradients();
            gradients.clear();
            let (whole, overwrite) = gradients.piece(0, 2);
            assert!(overwrite);
            whole[..2].fill(1.0);
            assert!(!gradients.piece(0, 2).1, "the second time it is added");
            let (part, overwrite) = gradients.piece(3, 1);
            assert!(!overwrite, "a part lies among zeros");
            part[0] += 7.0;
            assert_eq!(gradients.finish(), [true, true, false]);
            assert_eq!(**gradients, [1.0, 1.0, 0.0, 7.0, 0.0, 0.0]);
            gradients.fill(9.0);
        }
    }
}
