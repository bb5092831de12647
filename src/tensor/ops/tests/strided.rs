//! Inputs and gradients that are not contiguous.

use super::{
    affine,
    branches::{branch_weights, hidden, layers, naive_branch},
    check, full, values,
};
use crate::tensor::ops::{
    Gate, Rotary, attention, cross_entropy, gelu, kl_divergence, layer_norm, linear, naive, rms_norm, rope,
    silu, swiglu,
};
use candle_core::Tensor;

#[test]
fn strided_inputs_and_gradients_are_understood() {
    let x = values(&[3, 4, 10, 24], 13);
    let swap = |t: &Tensor| t.transpose(1, 2);
    // The operation reads a strided input, and the transpose after it hands it a strided gradient.
    check(
        "strided linear",
        std::slice::from_ref(&x),
        &[values(&[8, 24], 14), values(&[8], 15)],
        &[],
        &|t, w| swap(&linear(&swap(&t[0])?, &affine(&w[0], &w[1]))?),
        &|t, w| swap(&naive::linear(&swap(&t[0])?, &w[0], &w[1])?),
    );
    check(
        "strided layer_norm",
        std::slice::from_ref(&x),
        &[values(&[24], 16), values(&[24], 17)],
        &[],
        &|t, w| swap(&layer_norm(&swap(&t[0])?, &affine(&w[0], &w[1]), 1e-5)?),
        &|t, w| swap(&naive::layer_norm(&swap(&t[0])?, &w[0], &w[1], 1e-5)?),
    );
    let tokens = values(&[7, 2, 24], 45);
    check(
        "strided mlp branch",
        &[tokens],
        &branch_weights(24, 10, 10),
        &[],
        &|t, w| hidden(&t[0].transpose(0, 1)?, &layers(w), &Gate::default())?.transpose(0, 1),
        &|t, w| naive_branch(&t[0].transpose(0, 1)?, w, &Gate::default(), naive::gelu)?.transpose(0, 1),
    );
    check("strided gelu", &[x], &[], &[], &|t, _| swap(&gelu(&swap(&t[0])?)?), &|t, _| {
        swap(&naive::gelu(&swap(&t[0])?)?)
    });
    let x = values(&[3, 4, 10, 24], 59);
    let one = std::slice::from_ref(&x);
    check(
        "strided rms_norm",
        one,
        &[values(&[24], 60)],
        &[],
        &|t, w| swap(&rms_norm(&swap(&t[0])?, &w[0], 1e-5)?),
        &|t, w| swap(&naive::rms_norm(&swap(&t[0])?, &w[0], 1e-5)?),
    );
    check("strided silu", one, &[], &[], &|t, _| swap(&silu(&swap(&t[0])?)?), &|t, _| {
        swap(&naive::silu(&swap(&t[0])?)?)
    });
    check("strided swiglu", one, &[], &[], &|t, _| swap(&swiglu(&swap(&t[0])?)?), &|t, _| {
        swap(&naive::swiglu(&swap(&t[0])?)?)
    });
    let rotary = Rotary::new(7, 6, 100.0, 0).unwrap();
    check(
        "strided rope",
        &[values(&[7, 2, 24], 61)],
        &[],
        &[],
        &|t, _| rope(&t[0].transpose(0, 1)?, 4, &rotary)?.transpose(1, 2),
        &|t, _| naive::rope(&t[0].transpose(0, 1)?, 4, &rotary)?.transpose(1, 2),
    );
    let narrow = |t: &Tensor| t.transpose(0, 1)?.narrow(1, 1, 9);
    let qkv = [values(&[11, 2, 36], 18)];
    check(
        "strided attention",
        &qkv,
        &[],
        &[],
        &|t, _| attention(&narrow(&t[0])?, 3)?.transpose(1, 2),
        &|t, _| full(&narrow(&t[0])?.contiguous()?, 3)?.transpose(1, 2),
    );
    let logits = [values(&[10, 4], 19), values(&[10, 4], 20)];
    check(
        "strided cross_entropy",
        &logits,
        &[],
        &[1],
        &|t, _| cross_entropy(&t[0].t()?, &t[1].t()?),
        &|t, _| naive::cross_entropy(&t[0].t()?, &t[1].t()?),
    );
    check(
        "strided kl_divergence",
        &logits,
        &[],
        &[0],
        &|t, _| kl_divergence(&t[0].t()?, &t[1].t()?, 2.0),
        &|t, _| naive::kl_divergence(&t[0].t()?, &t[1].t()?, 2.0),
    );
}
