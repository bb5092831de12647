//! What a branch is made of, and whether its parts fit.

use candle_core::{Result, Tensor, bail};

use crate::tensor::{Weight, matrix_view, ops::Affine};

/// Factors of a residual branch. Absent factors count as 1 and cost nothing. Tracked factors receive gradients.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    /// `g`, for the whole branch: `[batch or 1, tokens or 1, 1]`.
    pub out: Option<Tensor>,
    /// `h`, for equal groups of channels of `a` (heads, or experts of an MLP): `[batch or 1, tokens or 1, groups]`.
    pub inner: Option<Tensor>,
}

/// Scale, shift and epsilon of the LayerNorm before or after a branch.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// Scale and shift, `[width]`.
    pub affine: &'a Affine,
    /// Added to the variance.
    pub eps: f64,
}

/// Which tokens of a branch are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Every token.
    All,
    /// Only the first, for the last block of a network whose head reads one token.
    First,
}

/// What a branch computes before its last layer.
#[derive(Debug, Clone, Copy)]
pub enum Core<'a> {
    /// Softmax attention over all tokens.
    Attention {
        /// `[3 * inner, width]`; rows are `(3, heads, head_dim)`, as in timm.
        qkv: &'a Affine,
        /// `[width, inner]`.
        proj: &'a Affine,
        /// Heads.
        heads: usize,
        /// Tokens whose results are needed.
        rows: Rows,
        /// Keys that are seen, those that are not zero here: `[batch, tokens]`, a constant of any dtype. Without it,
        /// all are seen. Only with [`Rows::All`].
        keys: Option<&'a Tensor>,
    },
    /// A hidden layer with an erf-GELU.
    Gelu {
        /// `[hidden, width]`.
        fc1: &'a Affine,
        /// `[width, hidden]`.
        fc2: &'a Affine,
    },
}

/// A residual branch.
#[derive(Debug, Clone, Copy)]
pub struct Branch<'a> {
    /// The norm before or after it.
    pub norm: Norm<'a>,
    /// What it computes.
    pub core: Core<'a>,
    /// Its factors.
    pub gate: &'a Gate,
}

impl Gate {
    /// Whether any factor is tracked. The fused operation treats gates as constants.
    pub(super) fn is_learned(&self) -> bool {
        self.factors().any(Tensor::track_op)
    }

    fn factors(&self) -> impl Iterator<Item = &Tensor> {
        self.out.iter().chain(&self.inner)
    }
}

impl<'a> Core<'a> {
    /// The first and the last layer.
    pub(super) const fn layers(&self) -> [&'a Affine; 2] {
        match self {
            Self::Attention { qkv, proj, .. } => [qkv, proj],
            Self::Gelu { fc1, fc2 } => [fc1, fc2],
        }
    }

    /// Tokens whose results are needed.
    pub(super) const fn rows(&self) -> Rows {
        match self {
            Self::Attention { rows, .. } => *rows,
            Self::Gelu { .. } => Rows::All,
        }
    }
}

impl<'a> Branch<'a> {
    pub(super) fn weights(&self) -> Vec<&'a Weight> {
        let [first, last] = self.core.layers();
        [self.norm.affine, first, last].into_iter().flat_map(Affine::weights).collect()
    }

    pub(super) fn check(&self, x: &Tensor) -> Result<()> {
        let (batch, tokens, width) = x.dims3()?;
        let [first, last] = self.core.layers();
        let [[outputs, inputs], [written, inner]] =
            [first, last].map(|layer| matrix_view(layer.weight.dims()));
        match self.core {
            Core::Attention { heads, rows, keys, .. } => {
                if let Some(keys) = keys
                    && (keys.dims() != [batch, tokens] || rows == Rows::First)
                {
                    bail!("attention: the mask {:?} is not one of the keys of {:?}", keys.dims(), x.dims());
                }
                if heads == 0 || inner == 0 || outputs != 3 * inner || !inner.is_multiple_of(heads) {
                    bail!(
                        "attention: {outputs} rows of qkv and {inner} columns of proj do not make {heads} heads"
                    );
                }
            }
            Core::Gelu { .. } if outputs != inner => {
                bail!("mlp: {outputs} rows of fc1 and {inner} columns of fc2 do not fit");
            }
            Core::Gelu { .. } => {}
        }
        if self.core.rows() == Rows::First && tokens == 0 {
            bail!("attention: {:?} has no first token", x.dims());
        }
        let norm = self.norm.affine;
        let biases = first.bias.dims() == [outputs] && last.bias.dims() == [written];
        let fits = inputs == width
            && written == width
            && norm.weight.dims() == [width]
            && norm.bias.dims() == [width]
            && biases;
        if !fits {
            let dims = [norm, first, last].map(|affine| affine.weight.dims());
            bail!("branch: x {:?} and weights {dims:?} of norm, first and last layer do not fit", x.dims());
        }
        let broadcasts = |gate: &Tensor, groups: usize| match gate.dims() {
            [b, t, n] => {
                (*b == 1 || *b == batch) && (*t == 1 || *t == tokens) && (groups == 0 || *n == groups)
            }
            _ => false,
        };
        let groups = |gate: &Tensor| gate.dims().last().is_some_and(|n| *n > 0 && inner.is_multiple_of(*n));
        let Gate { out, inner: parts } = self.gate;
        if out.as_ref().is_some_and(|out| !broadcasts(out, 1))
            || parts.as_ref().is_some_and(|parts| !broadcasts(parts, 0) || !groups(parts))
        {
            let dims: Vec<_> = self.gate.factors().map(Tensor::dims).collect();
            bail!("branch: gates {dims:?} do not fit x {:?} and {inner} inner channels", x.dims());
        }
        Ok(())
    }
}
