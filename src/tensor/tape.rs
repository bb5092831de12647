//! The gradients of the parameters, added up during the backward pass of one shard.
//!
//! For every use of a parameter, candle allocates a gradient tensor and then adds it to zeros. The fused operations add
//! to a tape in place instead: a stage shared by several layers, or a rectangle of a wider layer, costs only the
//! products. The first addition in a step overwrites. Gradients of activations still flow through candle's graph.
//!
//! A table that is looked up has a gradient only in the rows of a batch. Those rows are noted, and the others are left
//! alone: a vocabulary is larger than everything else in a small text encoder.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    /// How much of each parameter's gradient was written in this step; the rest is stale.
    written: Vec<Written>,
}

/// How much of a gradient was written in a step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Written {
    /// Nothing.
    #[default]
    Nothing,
    /// These rows of a table.
    Rows(TableRows),
    /// Everything.
    Whole,
}

/// Rows of a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TableRows {
    /// Values in a row.
    pub cols: usize,
    /// Indices of the rows.
    pub rows: BTreeSet<usize>,
}

impl Written {
    /// What was written by one or the other.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        match (self, other) {
            (Self::Nothing, other) => other.clone(),
            (one, Self::Nothing) => one,
            (Self::Rows(mut one), Self::Rows(other)) => {
                one.rows.extend(&other.rows);
                Self::Rows(one)
            }
            (Self::Whole, _) | (_, Self::Whole) => Self::Whole,
        }
    }
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
        let gradients = Mutex::new(Gradients { values, written: vec![Written::Nothing; spans.len()], spans });
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
        self.written.fill(Written::Nothing);
    }

    /// How much of each parameter's gradient was written in this step.
    pub fn written(&self) -> &[Written] {
        &self.written
    }

    /// Ends a step: fills with zeros what was not `written` here but in another shard, or in none.
    pub fn finish(&mut self, written: &[Written]) {
        for ((span, own), all) in self.spans.iter().zip(&mut self.written).zip(written) {
            let values = &mut self.values[span.clone()];
            match (&*own, all) {
                (Written::Whole, _) => {}
                (Written::Rows(own), Written::Rows(all)) => {
                    for row in all.rows.difference(&own.rows) {
                        values[row * all.cols..][..all.cols].fill(0.0);
                    }
                }
                (Written::Nothing, Written::Rows(all)) => {
                    for row in &all.rows {
                        values[row * all.cols..][..all.cols].fill(0.0);
                    }
                }
                (Written::Rows(own), _) => fill_others(values, own),
                (Written::Nothing, _) => values.fill(0.0),
            }
            own.clone_from(all);
        }
    }

    /// The parameter that the value at `start` belongs to.
    fn parameter(&self, start: usize) -> usize {
        self.spans.partition_point(|span| span.end <= start)
    }

    /// The values from `start` on, and whether the caller must overwrite its piece of `len` values there instead of
    /// adding to it.
    pub(super) fn piece(&mut self, start: usize, len: usize) -> (&mut [f32], bool) {
        let index = self.parameter(start);
        let mut overwrite = false;
        if let (Some(span), Some(written)) = (self.spans.get(index), self.written.get_mut(index)) {
            let values = &mut self.values[span.clone()];
            match std::mem::replace(written, Written::Whole) {
                Written::Whole => {}
                Written::Nothing if values.len() == len => overwrite = true,
                Written::Nothing => values.fill(0.0),
                Written::Rows(rows) => fill_others(values, &rows),
            }
        }
        (&mut self.values[start..], overwrite)
    }

    /// The values to add to for row `row` of a piece that begins at `start`, has `len` columns, and whose rows lie
    /// `cols` values apart.
    pub(super) fn row(&mut self, start: usize, row: usize, [len, cols]: [usize; 2]) -> &mut [f32] {
        let (index, at) = (self.parameter(start), start + row * cols);
        if let (Some(span), Some(written)) = (self.spans.get(index), self.written.get_mut(index)) {
            if *written == Written::Nothing {
                *written = Written::Rows(TableRows { cols, rows: BTreeSet::new() });
            }
            let row = (at - span.start) / cols;
            if let Written::Rows(rows) = written
                && rows.rows.insert(row)
            {
                self.values[span.start + row * cols..][..cols].fill(0.0);
            }
        }
        &mut self.values[at..][..len]
    }
}

/// Fills the other rows with zeros.
fn fill_others(values: &mut [f32], written: &TableRows) {
    for (row, values) in values.chunks_mut(written.cols.max(1)).enumerate() {
        if !written.rows.contains(&row) {
            values.fill(0.0);
        }
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
            let written = gradients.written().to_vec();
            assert_eq!(written, [Written::Whole, Written::Whole, Written::Nothing]);
            gradients.finish(&written);
            assert_eq!(**gradients, [1.0, 1.0, 0.0, 7.0, 0.0, 0.0]);
            gradients.fill(9.0);
        }
    }

    #[test]
    fn rows_of_a_table_are_zero_before_their_first_addition_and_the_others_stale() {
        let tape = Tape::new(vec![0..1, 1..9], false, Arc::default()).unwrap();
        let mut gradients = tape.gradients();
        gradients.fill(9.0);
        // The first column of four rows of two.
        gradients.row(1, 2, [1, 2])[0] += 5.0;
        gradients.row(1, 2, [1, 2])[0] += 1.0;
        let rows =
            |rows: &[usize]| Written::Rows(TableRows { cols: 2, rows: rows.iter().copied().collect() });
        assert_eq!(gradients.written(), [Written::Nothing, rows(&[2])]);
        assert_eq!(gradients[1..], [9.0, 9.0, 9.0, 9.0, 6.0, 0.0, 9.0, 9.0]);
        // Another shard wrote row 0 too.
        gradients.finish(&[Written::Nothing, rows(&[0]).or(&rows(&[2]))]);
        assert_eq!(**gradients, [0.0, 0.0, 0.0, 9.0, 9.0, 6.0, 0.0, 9.0, 9.0]);
        // Another shard wrote everything.
        gradients.clear();
        gradients.row(1, 1, [2, 2])[1] += 3.0;
        gradients.finish(&[Written::Nothing, rows(&[1]).or(&Written::Whole)]);
        assert_eq!(**gradients, [0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0]);
        // A piece of the same table follows.
        gradients.fill(9.0);
        gradients.clear();
        gradients.row(1, 0, [2, 2])[0] += 4.0;
        assert!(!gradients.piece(1, 8).1);
        assert_eq!(gradients[1..], [4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        // What no shard wrote is zero.
        gradients.fill(9.0);
        gradients.clear();
        gradients.finish(&[Written::Nothing, Written::Nothing]);
        assert_eq!(**gradients, [0.0; 9]);
    }
}
