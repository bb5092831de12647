//! The branches of a block: whole, for the first token only, gated, sliced and repeated.

use super::{affine, check, compare, differentiate, full, on_tape, values};
use crate::tensor::{
    Weight,
    ops::{Affine, Branch, Core, Gate, Norm, Rows, naive, pre_norm},
};
use candle_core::{DType, Device, Result, Tensor};

/// Scale and shift, then weight and bias of the two linear layers of a branch.
pub(super) fn branch_weights(width: usize, first: usize, inner: usize) -> Vec<Tensor> {
    [vec![width], vec![width], vec![first, width], vec![first], vec![width, inner], vec![width]]
        .iter()
        .enumerate()
        .map(|(i, dims)| (values(dims, 50 + i as u32) * if dims.len() == 2 { 0.2 } else { 1.0 }).unwrap())
        .collect()
}

/// Norm, first and last layer of [`branch_weights`].
pub(super) fn layers(w: &[Weight]) -> [Affine; 3] {
    [affine(&w[0], &w[1]), affine(&w[2], &w[3]), affine(&w[4], &w[5])]
}

/// An attention branch for all tokens or only the first.
pub(super) fn attended(
    x: &Tensor,
    [norm, qkv, proj]: &[Affine; 3],
    heads: usize,
    rows: Rows,
    gate: &Gate,
) -> Result<Tensor> {
    let core = Core::Attention { qkv, proj, heads, rows, keys: None };
    pre_norm(x, &Branch { norm: Norm { affine: norm, eps: 1e-6 }, core, gate })
}

/// An MLP branch.
pub(super) fn hidden(x: &Tensor, [norm, fc1, fc2]: &[Affine; 3], gate: &Gate) -> Result<Tensor> {
    let core = Core::Gelu { fc1, fc2 };
    pre_norm(x, &Branch { norm: Norm { affine: norm, eps: 1e-6 }, core, gate })
}

/// A branch composed of the oracles: `x + g ∘ (W_o (h ∘ a) + b_o)`, with `w` as from [`branch_weights`].
pub(super) fn naive_branch(
    x: &Tensor,
    w: &[Tensor],
    gate: &Gate,
    inner: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut a = inner(&naive::linear(&naive::layer_norm(x, &w[0], &w[1], 1e-6)?, &w[2], &w[3])?)?;
    if let Some(h) = &gate.inner {
        let each = a.dim(2)? / h.dim(2)?;
        let columns = (0..a.dim(2)?).map(|channel| h.narrow(2, channel / each, 1));
        a = a.broadcast_mul(&Tensor::cat(&columns.collect::<Result<Vec<_>>>()?, 2)?)?;
    }
    let branch = naive::linear(&a, &w[4], &w[5])?;
    match &gate.out {
        None => x + branch,
        Some(g) => x + branch.broadcast_mul(g)?,
    }
}

/// The gates to compare: open, with factors per image, per token and per group, and with both kinds of factors.
fn gates(batch: usize, tokens: usize, groups: usize) -> Vec<Gate> {
    let factors: Vec<f64> = (0..batch).map(|image| [1.25, 0.0, 1.5][image % 3]).collect();
    let images = Tensor::from_vec(factors, (batch, 1, 1), &Device::Cpu).unwrap();
    let (each, of_groups) = (values(&[batch, tokens, 1], 60), values(&[1, tokens, groups], 61));
    let gate =
        |out: Option<&Tensor>, inner: Option<&Tensor>| Gate { out: out.cloned(), inner: inner.cloned() };
    vec![
        Gate::default(),
        gate(Some(&images), None),
        gate(Some(&each), None),
        gate(None, Some(&of_groups)),
        gate(Some(&images), Some(&values(&[batch, 1, groups], 62))),
    ]
}

/// `gate` in `dtype`. Its values are exact in f32.
fn cast(gate: &Gate, dtype: DType) -> Gate {
    let cast = |t: &Option<Tensor>| {
        t.as_ref().map(|t| t.to_dtype(DType::F32).and_then(|t| t.to_dtype(dtype)).unwrap())
    };
    Gate { out: cast(&gate.out), inner: cast(&gate.inner) }
}

#[test]
fn branches_match_the_oracle() {
    for (batch, tokens, heads, head_dim, units) in
        [(1, 1, 1, 8, 5usize), (2, 17, 3, 16, 192), (3, 50, 2, 12, 33), (5, 7, 1, 24, 96)]
    {
        let width = heads * head_dim;
        let x = [values(&[batch, tokens, width], 40)];
        for gate in gates(batch, tokens, heads) {
            let (single, exact) = (cast(&gate, DType::F32), cast(&gate, DType::F64));
            let what = format!("{batch}x{tokens}x{width}, {heads} heads, hidden {units}, {gate:?}");
            let weights = branch_weights(width, 3 * width, width);
            for rows in [Rows::All, Rows::First] {
                check(
                    &format!("attention branch of {rows:?} {what}"),
                    &x,
                    &weights,
                    &[],
                    &|t, w| attended(&t[0], &layers(w), heads, rows, &single),
                    &|t, w| {
                        let whole = naive_branch(&t[0], w, &exact, |p| full(p, heads))?;
                        if rows == Rows::First { whole.narrow(1, 0, 1) } else { Ok(whole) }
                    },
                );
            }
        }
        for gate in gates(batch, tokens, if units.is_multiple_of(3) { 3 } else { units }) {
            let (single, exact) = (cast(&gate, DType::F32), cast(&gate, DType::F64));
            check(
                &format!("mlp branch {batch}x{tokens}x{width}, hidden {units}, {gate:?}"),
                &x,
                &branch_weights(width, units, units),
                &[],
                &|t, w| hidden(&t[0], &layers(w), &single),
                &|t, w| naive_branch(&t[0], w, &exact, naive::gelu),
            );
        }
    }
}

/// A learned gate gets its gradient, and the weights of the branch still get theirs.
#[test]
fn learned_gates_match_the_oracle() {
    let (heads, width, units) = (2, 10, 12);
    let x = values(&[3, 5, width], 40);
    let inputs = |groups: usize| [x.clone(), values(&[3, 5, 1], 63), values(&[3, 1, groups], 64)];
    let gate = |t: &[Tensor]| Gate { out: Some(t[1].clone()), inner: Some(t[2].clone()) };
    for rows in [Rows::All, Rows::First] {
        compare(
            &format!("gated attention of {rows:?}"),
            &inputs(heads),
            &branch_weights(width, 3 * width, width),
            &[],
            &|t, w| attended(&t[0], &layers(w), heads, rows, &gate(t)),
            &|t, w| {
                let whole = naive_branch(&t[0], w, &gate(t), |p| full(p, heads))?;
                if rows == Rows::First { whole.narrow(1, 0, 1) } else { Ok(whole) }
            },
        );
    }
    compare(
        "gated mlp",
        &inputs(3),
        &branch_weights(width, units, units),
        &[],
        &|t, w| hidden(&t[0], &layers(w), &gate(t)),
        &|t, w| naive_branch(&t[0], w, &gate(t), naive::gelu),
    );
}

type Run<'a> = &'a dyn Fn(&Tensor, &[Weight], &Gate) -> Result<Tensor>;

#[test]
fn a_gate_of_ones_changes_no_bit() {
    let (batch, tokens, heads, width, units) = (3, 17, 4, 32, 48);
    let single = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
    let x = [single(&values(&[batch, tokens, width], 40))];
    let ones = |dims: [usize; 3]| Some(Tensor::ones(&dims[..], DType::F32, &Device::Cpu).unwrap());
    let open = [
        Gate { out: ones([batch, 1, 1]), inner: None },
        Gate { out: ones([1, tokens, 1]), inner: None },
        Gate { out: None, inner: ones([batch, tokens, heads]) },
        Gate { out: ones([batch, tokens, 1]), inner: ones([1, 1, heads]) },
    ];
    let bits = |t: &Tensor| -> Vec<u32> {
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    };
    let branches: [(usize, usize, Run<'_>); 3] = [
        (3 * width, width, &|x, w, gate| attended(x, &layers(w), heads, Rows::All, gate)),
        (3 * width, width, &|x, w, gate| attended(x, &layers(w), heads, Rows::First, gate)),
        (units, units, &|x, w, gate| hidden(x, &layers(w), gate)),
    ];
    for (first, inner, branch) in branches {
        let weights: Vec<_> = branch_weights(width, first, inner).iter().map(single).collect();
        for recompute in [false, true] {
            let run = |gate: &Gate| {
                let (y, gradients) = on_tape(&x, &weights, recompute, &|t, w| branch(&t[0], w, gate));
                let gradients = gradients.iter().map(|g| bits(g.as_ref().unwrap()));
                std::iter::once(bits(&y)).chain(gradients).collect::<Vec<_>>()
            };
            let plain = run(&Gate::default());
            for gate in &open {
                assert!(run(gate) == plain, "recompute {recompute}, {gate:?}");
            }
        }
        // A gate of zeros leaves the input unchanged.
        let closed =
            Gate { out: Some(Tensor::zeros((1, 1, 1), DType::F32, &Device::Cpu).unwrap()), inner: None };
        let plain: Vec<_> = weights.iter().map(|w| Weight::new(w).unwrap()).collect();
        let (y, _) = differentiate(&x, &|t| branch(&t[0], &plain, &closed));
        assert_eq!(bits(&y), bits(&x[0].narrow(1, 0, y.dim(1).unwrap()).unwrap()));
    }
}

#[test]
fn gates_that_do_not_fit_are_refused() {
    let x = values(&[2, 3, 8], 40).to_dtype(DType::F32).unwrap();
    let weights: Vec<_> = branch_weights(8, 12, 12)
        .iter()
        .map(|w| Weight::new(&w.to_dtype(DType::F32).unwrap()).unwrap())
        .collect();
    let tensor = |dims: &[usize]| Some(values(dims, 1).to_dtype(DType::F32).unwrap());
    let fits = |out: Option<Tensor>, inner: Option<Tensor>| {
        hidden(&x, &layers(&weights), &Gate { out, inner }).is_ok()
    };
    assert!(fits(tensor(&[2, 3, 1]), tensor(&[1, 1, 4])));
    for (out, inner) in [
        (tensor(&[3, 1, 1]), None),
        (tensor(&[2, 2, 1]), None),
        (tensor(&[2, 1, 2]), None),
        (tensor(&[2]), None),
        (None, tensor(&[2, 3, 5])),
        (None, tensor(&[2, 3, 0])),
        (None, tensor(&[3, 3, 4])),
    ] {
        assert!(!fits(out.clone(), inner.clone()), "{out:?} {inner:?}");
    }
}

/// Half of a wider network: whole heads of q, k and v, prefixes of everything else, used twice in a row.
#[test]
fn slices_and_repeated_layers_match_the_oracle() {
    let (heads, head_dim, wide, units) = (2, 5, 20, 32);
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
            let layers = [norm, qkv, proj];
            let branch = |x: &Tensor, rows| attended(x, &layers, heads, rows, &Gate::default());
            let x = branch(&t[0], Rows::All)?;
            Tensor::cat(&[branch(&x, Rows::All)?, branch(&x, Rows::First)?], 1)
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
            let branch = |x: &Tensor| naive_branch(x, &w, &Gate::default(), |p| full(p, heads));
            let twice = branch(&branch(&t[0])?)?;
            Tensor::cat(&[&twice, &twice.narrow(1, 0, 1)?], 1)
        },
    );
    check(
        "narrow mlp, twice",
        std::slice::from_ref(&x),
        &branch_weights(wide, 2 * units, 2 * units),
        &[],
        &|t, w| {
            let norm = affine(&prefix(&w[0], width)?, &prefix(&w[1], width)?);
            let fc1 = affine(&w[2].rectangle(0..units, 0..width)?, &prefix(&w[3], units)?);
            let fc2 = affine(&w[4].rectangle(0..width, 0..units)?, &prefix(&w[5], width)?);
            let layers = [norm, fc1, fc2];
            let branch = |x: &Tensor| hidden(x, &layers, &Gate::default());
            branch(&branch(&t[0])?)
        },
        &|t, w| {
            let w = [
                w[0].narrow(0, 0, width)?,
                w[1].narrow(0, 0, width)?,
                cut(&w[2], units, width)?,
                w[3].narrow(0, 0, units)?,
                cut(&w[4], width, units)?,
                w[5].narrow(0, 0, width)?,
            ];
            let branch = |x: &Tensor| naive_branch(x, &w, &Gate::default(), naive::gelu);
            branch(&branch(&t[0])?)
        },
    );
}
