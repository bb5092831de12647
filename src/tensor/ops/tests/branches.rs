//! The branches of a block: whole, of the class token, sliced and repeated.

use super::{affine, check, full, values};
use crate::tensor::{
    Weight,
    ops::{attention_branch, class_attention_branch, mlp_branch, naive},
};
use candle_core::{DType, Device, Result, Tensor};

/// Scale, shift, and the two linear layers of a branch.
pub(super) fn branch_weights(width: usize, first: usize, inner: usize) -> Vec<Tensor> {
    [vec![width], vec![width], vec![first, width], vec![first], vec![width, inner], vec![width]]
        .iter()
        .enumerate()
        .map(|(i, dims)| (values(dims, 50 + i as u32) * if dims.len() == 2 { 0.2 } else { 1.0 }).unwrap())
        .collect()
}

/// The branches as compositions of the oracles; `w` as of [`branch_weights`].
pub(super) fn naive_branch(
    x: &Tensor,
    w: &[Tensor],
    keep: Option<&Tensor>,
    inner: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let p = naive::linear(&naive::layer_norm(x, &w[0], &w[1], 1e-6)?, &w[2], &w[3])?;
    naive::residual(x, &naive::linear(&inner(&p)?, &w[4], &w[5])?, keep)
}

#[test]
fn branches_match_the_oracle() {
    for (batch, tokens, heads, head_dim, hidden) in
        [(1, 1, 1, 8, 5), (2, 17, 3, 16, 192), (3, 50, 2, 12, 33), (5, 7, 1, 24, 96)]
    {
        let width = heads * head_dim;
        let x = values(&[batch, tokens, width], 40);
        let factors: Vec<f64> = (0..batch).map(|image| [1.25, 0.0, 1.5][image % 3]).collect();
        let factors = Tensor::from_vec(factors, (batch, 1, 1), &Device::Cpu).unwrap();
        for keep in [None, Some(&factors)] {
            let single = keep.map(|keep| keep.to_dtype(DType::F32).unwrap());
            let what =
                format!("{batch}x{tokens}x{width}, {heads} heads, hidden {hidden}, keep {}", keep.is_some());
            check(
                &format!("attention branch {what}"),
                std::slice::from_ref(&x),
                &branch_weights(width, 3 * width, width),
                &[],
                &|t, w| {
                    let layers = [&affine(&w[2], &w[3]), &affine(&w[4], &w[5])];
                    attention_branch(&t[0], &affine(&w[0], &w[1]), 1e-6, layers, heads, single.as_ref())
                },
                &|t, w| naive_branch(&t[0], w, keep, |p| full(p, heads)),
            );
            check(
                &format!("class attention branch {what}"),
                std::slice::from_ref(&x),
                &branch_weights(width, 3 * width, width),
                &[],
                &|t, w| {
                    let layers = [&affine(&w[2], &w[3]), &affine(&w[4], &w[5])];
                    class_attention_branch(&t[0], &affine(&w[0], &w[1]), 1e-6, layers, heads, single.as_ref())
                },
                &|t, w| naive_branch(&t[0], w, keep, |p| full(p, heads))?.narrow(1, 0, 1),
            );
            check(
                &format!("mlp branch {what}"),
                std::slice::from_ref(&x),
                &branch_weights(width, hidden, hidden),
                &[],
                &|t, w| {
                    let layers = [&affine(&w[2], &w[3]), &affine(&w[4], &w[5])];
                    mlp_branch(&t[0], &affine(&w[0], &w[1]), 1e-6, layers, single.as_ref())
                },
                &|t, w| naive_branch(&t[0], w, keep, naive::gelu),
            );
        }
    }
}

/// Half of a wider network: whole heads of q, k and v, prefixes of everything else, used twice in a row.
#[test]
fn slices_and_repeated_layers_match_the_oracle() {
    let (heads, head_dim, wide, hidden) = (2, 5, 20, 32);
    let width = heads * head_dim;
    let x = values(&[3, 9, width], 41);
    let cut = |w: &Tensor, rows: usize, cols: usize| w.narrow(0, 0, rows)?.narrow(1, 0, cols)?.contiguous();
    let groups = |w: &Tensor, of: usize, n: usize| -> Result<Tensor> {
        let parts = [0, 1, 2].map(|g| w.narrow(0, g * of, n));
        let [q, k, v] = parts;
        Tensor::cat(&[q?, k?, v?], 0)
    };
    let prefix = |w: &Weight, n: usize| Weight::stack(&[n], vec![w.rectangle(0..n, 0..1)?]);
    let fused = |w: &Weight, cols: usize, shape: &[usize]| {
        let pieces = [0, 1, 2].map(|g| w.rectangle(g * wide..g * wide + width, 0..cols));
        Weight::stack(shape, pieces.into_iter().collect::<Result<_>>()?)
    };
    check(
        "narrow attention, twice",
        std::slice::from_ref(&x),
        &branch_weights(wide, 3 * wide, wide),
        &[],
        &|t, w| {
            let norm = affine(&prefix(&w[0], width)?, &prefix(&w[1], width)?);
            let qkv = affine(&fused(&w[2], width, &[3 * width, width])?, &fused(&w[3], 1, &[3 * width])?);
            let proj = affine(&w[4].rectangle(0..width, 0..width)?, &prefix(&w[5], width)?);
            let x = attention_branch(&t[0], &norm, 1e-6, [&qkv, &proj], heads, None)?;
            let class = class_attention_branch(&x, &norm, 1e-6, [&qkv, &proj], heads, None)?;
            Tensor::cat(&[attention_branch(&x, &norm, 1e-6, [&qkv, &proj], heads, None)?, class], 1)
        },
        &|t, w| {
            let w = [
                w[0].narrow(0, 0, width)?,
                w[1].narrow(0, 0, width)?,
                groups(&w[2], wide, width)?.narrow(1, 0, width)?.contiguous()?,
                groups(&w[3], wide, width)?,
                cut(&w[4], width, width)?,
                w[5].narrow(0, 0, width)?,
            ];
            let branch = |x: &Tensor| naive_branch(x, &w, None, |p| full(p, heads));
            let twice = branch(&branch(&t[0])?)?;
            Tensor::cat(&[&twice, &twice.narrow(1, 0, 1)?], 1)
        },
    );
    check(
        "narrow mlp, twice",
        std::slice::from_ref(&x),
        &branch_weights(wide, 2 * hidden, 2 * hidden),
        &[],
        &|t, w| {
            let norm = affine(&prefix(&w[0], width)?, &prefix(&w[1], width)?);
            let fc1 = affine(&w[2].rectangle(0..hidden, 0..width)?, &prefix(&w[3], hidden)?);
            let fc2 = affine(&w[4].rectangle(0..width, 0..hidden)?, &prefix(&w[5], width)?);
            let branch = |x: &Tensor| mlp_branch(x, &norm, 1e-6, [&fc1, &fc2], None);
            branch(&branch(&t[0])?)
        },
        &|t, w| {
            let w = [
                w[0].narrow(0, 0, width)?,
                w[1].narrow(0, 0, width)?,
                cut(&w[2], hidden, width)?,
                w[3].narrow(0, 0, hidden)?,
                cut(&w[4], width, hidden)?,
                w[5].narrow(0, 0, width)?,
            ];
            let branch = |x: &Tensor| naive_branch(x, &w, None, naive::gelu);
            branch(&branch(&t[0])?)
        },
    );
}
