//! Compares the values and gradients of every operation with the stock composition in `f64`, and the gradients of that
//! composition with finite differences.
//!
//! This file changes only when an operation is added or its contract changes. It holds the checks of single operations
//! and the few functions that compare; the modules below test subjects that span several operations.

mod branches;
mod encoder;
mod masks;
mod strided;

use super::attention::Geometry;
use super::{
    Affine, Gate, Rotary, Rows, attention, cross_entropy, gelu, kl_divergence, layer_norm, linear, naive,
    rms_norm, rope, sequence, silu, swiglu,
};
use crate::tensor::{Params, Weight, Weights};
use candle_core::{DType, Device, Result, Tensor, Var};
use std::sync::Arc;

/// Largest accepted relative distance from the `f64` oracle; the worst seen is below 1e-6.
const TOLERANCE: f64 = 1e-5;

/// An operation on tensors and weights, and its oracle on tensors alone.
type Operation<'a> = &'a dyn Fn(&[Tensor], &[Weight]) -> Result<Tensor>;
type Oracle<'a> = &'a dyn Fn(&[Tensor], &[Tensor]) -> Result<Tensor>;

/// Reproducible values in about `-2..2`; each seed gives another sequence.
fn values(dims: &[usize], seed: u32) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f64::from(state) / f64::from(u32::MAX) * 4.0 - 2.0
    };
    let data: Vec<f64> = (0..dims.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(data, dims, &Device::Cpu).unwrap()
}

/// Rows of probabilities.
fn probabilities(dims: &[usize], seed: u32) -> Tensor {
    let weights = values(dims, seed).exp().unwrap();
    weights.broadcast_div(&weights.sum_keepdim(1).unwrap()).unwrap()
}

/// The result, and the gradient of its scalar product with fixed weights with respect to each input.
#[expect(clippy::disallowed_methods, reason = "the graph of one operation is shallow")]
fn differentiate(
    inputs: &[Tensor],
    operation: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) -> (Tensor, Vec<Option<Tensor>>) {
    let vars: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let out = operation(&tensors).unwrap();
    let weights = values(out.dims(), 77).to_dtype(out.dtype()).unwrap();
    let grads = (&out * weights).unwrap().sum_all().unwrap().backward().unwrap();
    (out, vars.iter().map(|var| grads.get(var).cloned()).collect())
}

/// Like [`differentiate`], with the gradients of `weights` from a tape.
fn on_tape(
    inputs: &[Tensor],
    weights: &[Tensor],
    recompute: bool,
    operation: Operation<'_>,
) -> (Tensor, Vec<Option<Tensor>>) {
    let named: Weights =
        weights.iter().enumerate().map(|(i, w)| (format!("{i:02}"), Weight::new(w).unwrap())).collect();
    let params = Params::new(&named).unwrap();
    let tape = params.tape(recompute, Arc::default()).unwrap();
    let learned = params.weights(&tape).unwrap();
    let learned: Vec<Weight> = learned.iter().map(|(_, weight)| weight.clone()).collect();
    // Run twice, because leftovers in the memory of the tape must not matter.
    let mut result = differentiate(inputs, &|inputs| operation(inputs, &learned));
    tape.gradients().clear();
    result = (result.0, differentiate(inputs, &|inputs| operation(inputs, &learned)).1);
    let gradients = tape.gradients();
    result.1.extend(
        params
            .iter()
            .map(|(_, shape, span)| Some(Tensor::from_slice(&gradients[span], shape, &Device::Cpu).unwrap())),
    );
    result
}

fn norm(x: &Tensor) -> f64 {
    x.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
}

fn assert_close(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let difference = norm(&(found.to_dtype(DType::F64).unwrap() - expected).unwrap());
    let relative = difference / norm(expected).max(f64::MIN_POSITIVE);
    // An exact zero leaves only an absolute measure: attention with one token has no gradient for its scores.
    let ok = relative <= TOLERANCE || (norm(expected) < 1e-12 && difference < 1e-6);
    assert!(ok, "{what}: off by {relative:e}");
}

/// What [`compare`] computed in f32: inputs, weights, result and gradients.
struct Compared {
    inputs: Vec<Tensor>,
    weights: Vec<Tensor>,
    result: Tensor,
    gradients: Vec<Option<Tensor>>,
}

/// Compares the value and all gradients; inputs listed in `constants` must get none.
fn compare(
    what: &str,
    inputs: &[Tensor],
    weights: &[Tensor],
    constants: &[usize],
    fast: Operation<'_>,
    oracle: Oracle<'_>,
) -> Compared {
    let cast = |tensors: &[Tensor], dtype| -> Vec<Tensor> {
        tensors.iter().map(|tensor| tensor.to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap()).collect()
    };
    let (single, single_weights) = (cast(inputs, DType::F32), cast(weights, DType::F32));
    let exact = cast(&[inputs, weights].concat(), DType::F64);
    let (expected, expected_grads) =
        differentiate(&exact, &|all| oracle(&all[..inputs.len()], &all[inputs.len()..]));
    let (found, found_grads) = on_tape(&single, &single_weights, false, fast);
    assert_close(what, &found, &expected);
    for (i, (found, expected)) in found_grads.iter().zip(&expected_grads).enumerate() {
        if constants.contains(&i) {
            assert!(found.is_none(), "{what}: input {i} is a constant");
            continue;
        }
        let (Some(found), Some(expected)) = (found, expected) else {
            panic!("{what}: no gradient to input {i}");
        };
        assert!(norm(found) > 0.0, "{what}: the gradient to input {i} is zero");
        assert_close(&format!("{what}, gradient to input {i}"), found, expected);
    }
    Compared { inputs: single, weights: single_weights, result: found, gradients: found_grads }
}

/// Like [`compare`], and also checks that neither recomputing nor a missing tape changes a bit.
fn check(
    what: &str,
    inputs: &[Tensor],
    weights: &[Tensor],
    constants: &[usize],
    fast: Operation<'_>,
    oracle: Oracle<'_>,
) {
    let Compared { inputs: single, weights: single_weights, result: found, gradients: found_grads } =
        compare(what, inputs, weights, constants, fast, oracle);
    let (again, again_grads) = on_tape(&single, &single_weights, true, fast);
    let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(bits(&again), bits(&found), "{what}: recomputing changes the result");
    for (again, found) in again_grads.iter().flatten().zip(found_grads.iter().flatten()) {
        assert_eq!(bits(again), bits(found), "{what}: recomputing changes a gradient");
    }
    let plain: Vec<Weight> = single_weights.iter().map(|w| Weight::new(w).unwrap()).collect();
    assert_eq!(bits(&fast(&single, &plain).unwrap()), bits(&found), "{what}: a tape changes the result");
}

/// Compares the oracle's gradients with central differences along one direction per input.
fn check_oracle(
    what: &str,
    inputs: &[Tensor],
    constants: &[usize],
    oracle: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) {
    let (out, grads) = differentiate(inputs, oracle);
    let weights = values(out.dims(), 77);
    for (i, grad) in grads.iter().enumerate().filter(|(i, _)| !constants.contains(i)) {
        let direction = values(inputs[i].dims(), 99);
        let along = |step: f64| {
            let mut moved = inputs.to_vec();
            moved[i] = (&inputs[i] + (&direction * step).unwrap()).unwrap();
            let out = oracle(&moved).unwrap();
            (out * &weights).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
        };
        let difference = (along(1e-5) - along(-1e-5)) / 2e-5;
        let exact =
            (grad.as_ref().unwrap() * &direction).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
        let relative = (difference - exact).abs() / exact.abs().max(1.0);
        assert!(relative < 1e-7, "{what}, input {i}: difference {difference}, gradient {exact}");
    }
}

fn affine(weight: &Weight, bias: &Weight) -> Affine {
    Affine { weight: weight.clone(), bias: bias.clone() }
}

#[test]
fn sequence_matches_the_oracle() {
    for (batch, patches, width) in [(1, 1, 1), (3, 16, 20), (2, 49, 33)] {
        let x = values(&[batch, patches, width], 42);
        let weights = [values(&[1, 1, width], 43), values(&[1, patches + 1, width], 44)];
        check(
            &format!("sequence {batch}x{patches}x{width}"),
            &[x],
            &weights,
            &[],
            &|t, w| sequence(&t[0], &w[0], &w[1]),
            &|t, w| naive::sequence(&t[0], &w[0], &w[1]),
        );
    }
}

#[test]
fn linear_matches_the_oracle() {
    for (dims, outputs) in [
        (vec![1, 1], 1),
        (vec![1, 7], 5),
        (vec![3, 13], 1),
        (vec![2, 5, 17], 33),
        (vec![4, 50, 96], 288),
        (vec![2, 3, 5, 24], 10),
    ] {
        let inputs = *dims.last().unwrap();
        let weights = [values(&[outputs, inputs], 2), values(&[outputs], 3)];
        let what = format!("linear {dims:?} to {outputs}");
        check(
            &what,
            &[values(&dims, 1)],
            &weights,
            &[],
            &|t, w| linear(&t[0], &affine(&w[0], &w[1])),
            &|t, w| naive::linear(&t[0], &w[0], &w[1]),
        );
    }
}

#[test]
fn layer_norm_matches_the_oracle() {
    for dims in [vec![1, 3], vec![3, 7], vec![5, 16], vec![2, 3, 33], vec![4, 50, 96], vec![2, 2, 3, 100]] {
        let width = *dims.last().unwrap();
        let what = format!("layer_norm {dims:?}");
        check(
            &what,
            &[(values(&dims, 4) + 0.5).unwrap()],
            &[values(&[width], 5), values(&[width], 6)],
            &[],
            &|t, w| layer_norm(&t[0], &affine(&w[0], &w[1]), 1e-6),
            &|t, w| naive::layer_norm(&t[0], &w[0], &w[1], 1e-6),
        );
    }
}

#[test]
fn gelu_matches_the_oracle() {
    for (dims, scale) in [(vec![1], 1.0), (vec![3, 7], 1e-3), (vec![2, 50, 97], 1.0), (vec![1000], 6.0)] {
        let tensors = [(values(&dims, 7) * scale).unwrap()];
        check(&format!("gelu {dims:?}"), &tensors, &[], &[], &|t, _| gelu(&t[0]), &|t, _| naive::gelu(&t[0]));
    }
}

/// The stock composition of bidirectional attention with as many key heads as query heads.
fn full(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (_, tokens, packed) = qkv.dims3()?;
    let head_dim = packed / (3 * heads);
    naive::attention(qkv, Geometry { tokens, heads, kv_heads: heads, head_dim, causal: false }, None)
}

#[test]
fn rms_norm_matches_the_oracle() {
    for dims in [vec![1, 3], vec![3, 7], vec![5, 16], vec![2, 3, 33], vec![4, 50, 96], vec![2, 2, 3, 100]] {
        check(
            &format!("rms_norm {dims:?}"),
            &[(values(&dims, 50) + 0.5).unwrap()],
            &[values(&[*dims.last().unwrap()], 51)],
            &[],
            &|t, w| rms_norm(&t[0], &w[0], 1e-5),
            &|t, w| naive::rms_norm(&t[0], &w[0], 1e-5),
        );
    }
}

#[test]
fn gated_units_match_the_oracle() {
    for (dims, scale) in
        [(vec![1, 2], 1.0), (vec![3, 14], 1e-3), (vec![2, 50, 66], 1.0), (vec![1000], 6.0), (vec![34], 100.0)]
    {
        let tensors = [(values(&dims, 52) * scale).unwrap()];
        check(&format!("silu {dims:?}"), &tensors, &[], &[], &|t, _| silu(&t[0]), &|t, _| naive::silu(&t[0]));
        check(&format!("swiglu {dims:?}"), &tensors, &[], &[], &|t, _| swiglu(&t[0]), &|t, _| {
            naive::swiglu(&t[0])
        });
    }
    let far = Tensor::new(&[-1e38_f32, -200.0, -88.5, 0.0, 200.0, 1e38], &Device::Cpu).unwrap();
    assert_eq!(silu(&far).unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0, 0.0, 0.0, 200.0, 1e38]);
}

#[test]
fn rope_matches_the_oracle() {
    for (batch, tokens, heads, head_dim, rest) in
        [(1, 1, 1, 2, 0), (2, 5, 3, 6, 0), (3, 17, 2, 64, 64), (1, 50, 4, 24, 7)]
    {
        let rotary = Rotary::new(tokens + 2, head_dim, 10_000.0, 3).unwrap();
        let tensors = [values(&[batch, tokens, heads * head_dim + rest], 53)];
        let what = format!("rope of {tokens} tokens, {heads} heads of {head_dim} and {rest}, batch {batch}");
        check(&what, &tensors, &[], &[], &|t, _| rope(&t[0], heads, &rotary), &|t, _| {
            naive::rope(&t[0], heads, &rotary)
        });
    }
}

#[test]
fn a_rotated_product_depends_on_the_distance_only() {
    let single = |seed| values(&[1, 1, 12], seed).to_dtype(DType::F32).unwrap();
    let (q, k) = (single(54), single(55));
    let product = |m: usize, n: usize| {
        let at = |x: &Tensor, position| rope(x, 1, &Rotary::new(1, 12, 50.0, position).unwrap()).unwrap();
        (at(&q, m) * at(&k, n)).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()
    };
    assert!((product(3, 1) - product(9, 7)).abs() < 1e-5);
    assert!((product(3, 1) - product(9, 8)).abs() > 1e-3);
}

#[test]
fn attention_matches_the_oracle() {
    for tokens in [1, 2, 17, 50, 63] {
        for (heads, head_dim) in [(1, 24), (3, 5), (4, 24), (2, 64), (1, 1), (3, 16)] {
            for batch in [1, 3] {
                let qkv = values(&[batch, tokens, 3 * heads * head_dim], 8);
                let what =
                    format!("attention of {tokens} tokens, {heads} heads of {head_dim}, batch {batch}");
                check(&what, &[qkv], &[], &[], &|t, _| attention(&t[0], heads), &|t, _| full(&t[0], heads));
            }
        }
    }
}

#[test]
fn losses_match_the_oracle() {
    for (batch, classes) in [(1, 2), (3, 10), (32, 10), (5, 101)] {
        let dims = [batch, classes];
        let what = format!("loss over {dims:?}");
        let tensors = [(values(&dims, 9) * 3.0).unwrap(), probabilities(&dims, 10)];
        check(&what, &tensors, &[], &[1], &|t, _| cross_entropy(&t[0], &t[1]), &|t, _| {
            naive::cross_entropy(&t[0], &t[1])
        });
        for temperature in [1.0, 4.0] {
            let tensors = [(values(&dims, 11) * 3.0).unwrap(), (values(&dims, 12) * 3.0).unwrap()];
            check(&what, &tensors, &[], &[0], &|t, _| kl_divergence(&t[0], &t[1], temperature), &|t, _| {
                naive::kl_divergence(&t[0], &t[1], temperature)
            });
        }
    }
}

#[test]
fn the_oracle_matches_finite_differences() {
    let parameters = |width: usize| (values(&[width], 21), values(&[width], 22));
    let (weight, bias) = parameters(7);
    check_oracle("layer_norm", &[values(&[3, 7], 23), weight, bias.clone()], &[], &|t| {
        naive::layer_norm(&t[0], &t[1], &t[2], 1e-6)
    });
    check_oracle("linear", &[values(&[2, 3, 5], 24), values(&[7, 5], 25), bias], &[], &|t| {
        naive::linear(&t[0], &t[1], &t[2])
    });
    check_oracle("gelu", &[values(&[4, 9], 26)], &[], &|t| naive::gelu(&t[0]));
    check_oracle("rms_norm", &[values(&[3, 7], 64), values(&[7], 65)], &[], &|t| {
        naive::rms_norm(&t[0], &t[1], 1e-6)
    });
    check_oracle("silu", &[values(&[4, 9], 66)], &[], &|t| naive::silu(&t[0]));
    check_oracle("swiglu", &[values(&[4, 10], 67)], &[], &|t| naive::swiglu(&t[0]));
    let rotary = Rotary::new(5, 4, 10.0, 2).unwrap();
    check_oracle("rope", &[values(&[2, 5, 9], 68)], &[], &|t| naive::rope(&t[0], 2, &rotary));
    check_oracle("attention", &[values(&[2, 5, 18], 27)], &[], &|t| full(&t[0], 2));
    let logits = [values(&[3, 6], 28), probabilities(&[3, 6], 29)];
    check_oracle("cross_entropy", &logits, &[1], &|t| naive::cross_entropy(&t[0], &t[1]));
    check_oracle("kl_divergence", &logits, &[0], &|t| naive::kl_divergence(&t[0], &t[1], 3.0));
}

#[test]
fn other_dtypes_take_the_stock_composition() {
    let x = values(&[2, 3, 12], 30);
    let weight = |dims: &[usize], seed| Weight::new(&values(dims, seed)).unwrap();
    let out = linear(&x, &affine(&weight(&[5, 12], 31), &weight(&[5], 32))).unwrap();
    assert_eq!(out.dtype(), DType::F64);
    assert_eq!(attention(&x, 2).unwrap().dtype(), DType::F64);
    assert_eq!(gelu(&x).unwrap().dtype(), DType::F64);
}

#[test]
fn the_same_inputs_give_the_same_bits() {
    let qkv = values(&[4, 50, 288], 33).to_dtype(DType::F32).unwrap();
    let bits = || {
        let (out, grads) = differentiate(std::slice::from_ref(&qkv), &|t| gelu(&attention(&t[0], 4)?));
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        (values(&out), values(grads[0].as_ref().unwrap()))
    };
    let expected = bits();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(bits)).collect();
        for thread in threads {
            assert!(thread.join().unwrap() == expected);
        }
    });
}

/// Without a tape the stock composition carries the gradient. It is slower, but the gradient is never silently lost.
#[test]
#[expect(clippy::disallowed_methods, reason = "the graph of two operations is shallow")]
fn a_weight_that_candle_tracks_gets_its_gradient_from_candle() {
    let single = |dims: &[usize], seed| values(dims, seed).to_dtype(DType::F32).unwrap();
    let (x, weight) = (single(&[3, 8], 34), Var::from_tensor(&single(&[5, 8], 35)).unwrap());
    let layer = affine(&Weight::new(weight.as_tensor()).unwrap(), &Weight::new(&single(&[5], 36)).unwrap());
    let grads = linear(&x, &layer).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(weight.as_tensor()).is_some());
    assert!(grads.get(&x).is_none());
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let x = values(&[2, 3, 12], 37).to_dtype(DType::F32).unwrap();
    let matrix = values(&[5, 11], 39).to_dtype(DType::F32).unwrap();
    let weight = |dims: &[usize]| Weight::new(&values(dims, 38).to_dtype(DType::F32).unwrap()).unwrap();
    let pair = |first: &[usize], second: usize| affine(&weight(first), &weight(&[second]));
    assert!(linear(&x, &pair(&[5, 11], 5)).is_err());
    assert!(linear(&x, &pair(&[5, 12], 4)).is_err());
    assert!(layer_norm(&x, &pair(&[11], 11), 1e-6).is_err());
    let norm = pair(&[12], 12);
    let attend = |qkv: Affine, heads| {
        let layers = [norm.clone(), qkv, pair(&[12, 12], 12)];
        branches::attended(&x, &layers, heads, Rows::All, &Gate::default())
    };
    assert!(attend(pair(&[36, 12], 36), 3).is_ok());
    assert!(attend(pair(&[36, 12], 36), 5).is_err() && attend(pair(&[24, 12], 24), 2).is_err());
    let hide = |fc2: Affine| branches::hidden(&x, &[norm.clone(), pair(&[7, 12], 7), fc2], &Gate::default());
    assert!(hide(pair(&[12, 7], 12)).is_ok());
    assert!(hide(pair(&[12, 8], 12)).is_err() && hide(pair(&[11, 7], 11)).is_err());
    assert!(sequence(&x, &weight(&[1, 1, 12]), &weight(&[1, 3, 12])).is_err());
    assert!(attention(&x, 0).is_err() && attention(&x, 5).is_err());
    assert!(rms_norm(&x, &weight(&[11]), 1e-6).is_err() && swiglu(&matrix).is_err());
    let rotary = Rotary::new(2, 4, 100.0, 0).unwrap();
    assert!(rope(&x, 3, &rotary).is_err() && rope(&x.narrow(1, 0, 2).unwrap(), 4, &rotary).is_err());
    assert!(cross_entropy(&matrix, &matrix.t().unwrap()).is_err());
}
