//! From token ids to the sequence of a text encoder, Devlin et al. 2018, section 3.2, arXiv 1810.04805.
//!
//! `e_t = word[id_t] + kind[0] + position[t]`; backward, with `g = ∂L/∂e`: each `g_t` is added to the rows that made it.

use super::node::{self, Kernel};
use super::parameter::Values;
use super::{fused, naive};
use crate::tensor::{Weight, matrix_view};
use candle_core::{DType, Device, Result, Shape, Tensor, bail};

/// The tables of an embedding.
#[derive(Debug, Clone)]
pub struct Tables {
    /// `[vocabulary, width]`.
    pub words: Weight,
    /// `[positions, width]`.
    pub positions: Weight,
    /// `[kinds, width]`. Only the first row is used: a text of one segment has only tokens of the first kind.
    pub kinds: Weight,
}

/// `word[id] + kind[0] + position`
///
/// # Shapes
/// - `ids`: `[batch, tokens]`, u32; result: `[batch, tokens, width]`
///
/// # Errors
/// If the shapes or devices do not fit, an id has no row, or there are more tokens than positions.
pub fn embedding(ids: &Tensor, tables: &Tables) -> Result<Tensor> {
    let (batch, tokens) = ids.dims2()?;
    let Tables { words, positions, kinds } = tables;
    let [vocabulary, width] = matrix_view(words.dims());
    let [longest, other] = matrix_view(positions.dims());
    let [kinds_count, kinds_width] = matrix_view(kinds.dims());
    if other != width || kinds_width != width || tokens > longest || kinds_count == 0 {
        let dims = [words, positions, kinds].map(Weight::dims);
        bail!("embedding: ids {:?} and tables {dims:?} do not fit", ids.dims());
    }
    let rows: Vec<u32> = ids.flatten_all()?.to_vec1()?;
    if let Some(id) = rows.iter().find(|id| **id as usize >= vocabulary) {
        bail!("embedding: id {id} is beyond a vocabulary of {vocabulary}");
    }
    let weights = [words, positions, kinds];
    if !fused(&[], &weights) {
        return naive::embedding(ids, &words.tensor()?, &positions.tensor()?, &kinds.tensor()?);
    }
    // Ids have no gradient, so the node hangs on an input without content.
    let x = Tensor::zeros((batch, tokens), DType::F32, &Device::Cpu)?;
    node::apply(&x, node::tape(&weights).as_ref(), Embedding { ids: rows, tables: tables.clone() })
}

struct Embedding {
    ids: Vec<u32>,
    tables: Tables,
}

impl Kernel for Embedding {
    const NAME: &'static str = "embedding";

    fn forward(&self, _: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)> {
        let (batch, tokens) = shape.dims2()?;
        let (words, positions, kinds) =
            (self.tables.words.values(), self.tables.positions.values(), self.tables.kinds.values());
        let (words, positions, kinds) = (words.matrices()?, positions.matrices()?, kinds.matrices()?);
        let kind = Values::row(&kinds, 0);
        let mut out = Vec::with_capacity(batch * tokens * kind.len());
        for (at, id) in self.ids.iter().enumerate() {
            let (word, position) = (Values::row(&words, *id as usize), Values::row(&positions, at % tokens));
            out.extend(
                word.iter().zip(kind).zip(position).map(|((word, kind), position)| word + kind + position),
            );
        }
        Ok((out, Shape::from((batch, tokens, kind.len()))))
    }

    fn backward(&self, _: &[f32], shape: &Shape, grad: &[f32], _: bool) -> Result<Vec<f32>> {
        let (_, tokens) = shape.dims2()?;
        let Tables { words, positions, kinds } = &self.tables;
        let ids = self.ids.iter().map(|id| *id as usize);
        words.add_rows(ids, grad)?;
        positions.add_rows((0..self.ids.len()).map(|at| at % tokens), grad)?;
        kinds.add_rows(self.ids.iter().map(|_| 0), grad)?;
        Ok(Vec::new())
    }
}
