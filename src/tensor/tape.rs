//! Where the backward pass of one shard adds up the gradients of the parameters.
//!
//! candle gives every use of a parameter a gradient tensor of its own and then adds it to zeros. The fused operations
//! add to a tape instead, in place: a stage that is used by several layers, or a rectangle of a wider layer, costs the
//! products and nothing else. The first addition of a step overwrites. The gradient of an activation still flows
//! through candle's graph.

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut, Range},
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
    gradients: Mutex<Gradients>,
    pool: Arc<Scratch>,
}

/// The values of a tape, one behind the other, and which parameters they are of.
#[derive(Debug)]
pub struct Gradients {
    values: Vec<f32>,
    /// Of each parameter, in ascending order, without gaps.
    spans: Vec<Range<usize>>,
    /// Whether something was added to it in this step; what it holds before that has no meaning.
    touched: Vec<bool>,
}

/// Memory that is used again: by the next operation, shard and step.
#[derive(Debug, Default)]
pub struct Scratch(Mutex<BTreeMap<usize, Vec<Vec<f32>>>>);

impl Tape {
    /// A tape for the parameters that lie at `spans`, which follow one another. With `recompute`, an operation keeps
    /// only its input for the backward pass and computes the rest again: less memory, one more forward pass.
    ///
    /// # Errors
    /// candle's, where it cannot make a scalar.
    pub fn new(spans: Vec<Range<usize>>, recompute: bool, pool: Arc<Scratch>) -> Result<Self> {
        let anchor = Var::zeros((), DType::F32, &Device::Cpu)?;
        let values = vec![0.0; spans.last().map_or(0, |span| span.end)];
        let gradients = Mutex::new(Gradients { values, touched: vec![false; spans.len()], spans });
        Ok(Self { anchor, recompute, gradients, pool })
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
    pub fn gradients(&self) -> MutexGuard<'_, Gradients> {
        self.gradients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gradients {
    /// Begins a step: every gradient is zero until something is added to it.
    pub fn clear(&mut self) {
        self.touched.fill(false);
    }

    /// Ends a step: says of each parameter whether something was added to it, and fills the others with zeros.
    pub fn finish(&mut self) -> &[bool] {
        for (span, touched) in self.spans.iter().zip(&self.touched) {
            if !touched {
                self.values[span.clone()].fill(0.0);
            }
        }
        &self.touched
    }

    /// The values from `start` on, for a piece of `len` values of the parameter that lies there, and whether the piece
    /// is to be overwritten instead of added to.
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

/// Memory of an operation, which goes back to the pool of its tape when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    values: Vec<f32>,
    home: Option<Arc<Scratch>>,
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
