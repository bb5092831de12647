//! Grouped heads and masks, on tensors and on slices.

use super::*;
use crate::tensor::ops::attention::{Geometry, backward, forward};
use crate::tensor::ops::{AttentionShape, Mask, attention_with};

/// The stock composition for `shape`.
fn composed(qkv: &Tensor, shape: &AttentionShape) -> Result<Tensor> {
    let AttentionShape { heads, kv_heads, head_dim, ref mask } = *shape;
    let geometry = Geometry { tokens: qkv.dim(1)?, heads, kv_heads, head_dim, causal: mask.causal };
    naive::attention(qkv, geometry, mask.keys.as_ref())
}

/// A mask that hides about a third of the keys, among them the first key of image 0 and, with several images, every key
/// of the last image.
fn some_keys(batch: usize, tokens: usize) -> Tensor {
    let visible = |at: usize| at != 0 && at * 7 % 3 != 1 && (batch == 1 || at < (batch - 1) * tokens);
    let keys: Vec<u8> = (0..batch * tokens).map(|at| u8::from(visible(at))).collect();
    Tensor::from_vec(keys, (batch, tokens), &Device::Cpu).unwrap()
}

#[test]
fn grouped_heads_and_masks_match_the_oracle() {
    for (batch, tokens) in [(1, 3), (2, 9), (3, 17), (2, 33), (1, 65)] {
        for (heads, kv_heads, head_dim) in [(4, 2, 8), (3, 1, 5), (2, 2, 64), (6, 3, 24)] {
            let qkv = values(&[batch, tokens, (heads + 2 * kv_heads) * head_dim], 40);
            for causal in [false, true] {
                for keys in [None, Some(some_keys(batch, tokens))] {
                    let mask = Mask { causal, keys };
                    let shape = AttentionShape { heads, kv_heads, head_dim, mask };
                    let what = format!("{tokens} tokens, batch {batch}, {shape:?}");
                    check(
                        &what,
                        std::slice::from_ref(&qkv),
                        &[],
                        &[],
                        &|t, _| attention_with(&t[0], &shape),
                        &|t, _| composed(&t[0], &shape),
                    );
                }
            }
        }
    }
}

#[test]
fn strided_grouped_attention_and_strided_masks_are_understood() {
    let keys = some_keys(11, 2).t().unwrap();
    let mask = Mask { causal: true, keys: Some(keys) };
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 5, mask };
    let qkv = [values(&[11, 2, 40], 41)];
    check(
        "strided grouped attention",
        &qkv,
        &[],
        &[],
        &|t, _| attention_with(&t[0].transpose(0, 1)?, &shape)?.transpose(1, 2),
        &|t, _| composed(&t[0].transpose(0, 1)?.contiguous()?, &shape)?.transpose(1, 2),
    );
}

#[test]
fn the_masked_oracle_matches_finite_differences() {
    for (causal, keys) in [(true, None), (false, Some(some_keys(2, 5))), (true, Some(some_keys(2, 5)))] {
        let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 3, mask: Mask { causal, keys } };
        check_oracle("masked attention", &[values(&[2, 5, 24], 42)], &[], &|t| composed(&t[0], &shape));
    }
}

#[test]
fn a_token_that_sees_no_key_gives_zero_and_gets_no_gradient() {
    let (batch, tokens, heads, head_dim) = (2, 19, 2, 8);
    let mask = Mask { causal: true, keys: Some(some_keys(batch, tokens)) };
    let shape = AttentionShape { heads, kv_heads: heads, head_dim, mask };
    // A hidden key may hold any finite value.
    let qkv =
        (values(&[batch, tokens, 3 * heads * head_dim], 43) * 1e3).unwrap().to_dtype(DType::F32).unwrap();
    let (out, grads) = differentiate(&[qkv], &|t| attention_with(&t[0], &shape));
    let out = out.to_vec3::<f32>().unwrap();
    assert!(out[0][0].iter().all(|y| *y == 0.0) && out[1].iter().flatten().all(|y| *y == 0.0));
    assert!(out[0][2].iter().any(|y| *y != 0.0));
    let grad = grads[0].as_ref().unwrap().to_vec3::<f32>().unwrap();
    assert!(grad[1].iter().flatten().all(|g| *g == 0.0));
    assert!(grad.iter().flatten().flatten().all(|g| g.is_finite()));
}

#[test]
fn a_later_token_changes_no_earlier_result() {
    let mask = Mask { causal: true, keys: None };
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 8, mask };
    let qkv = values(&[1, 40, 32], 44).to_dtype(DType::F32).unwrap();
    let whole = attention_with(&qkv, &shape).unwrap().to_vec3::<f32>().unwrap();
    for tokens in [1, 7, 16, 33] {
        let part = attention_with(&qkv.narrow(1, 0, tokens).unwrap(), &shape).unwrap();
        let part = part.to_vec3::<f32>().unwrap();
        for (part, whole) in part[0].iter().flatten().zip(whole[0].iter().flatten()) {
            assert!((part - whole).abs() <= 1e-6);
        }
    }
}

#[test]
fn the_slices_are_overwritten() {
    let geometry = Geometry { tokens: 9, heads: 4, kv_heads: 2, head_dim: 5, causal: true };
    let single = |dims: &[usize], seed| {
        let values = values(dims, seed).to_dtype(DType::F32).unwrap();
        values.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let (qkv, grad) = (single(&[2, 9, geometry.packed()], 45), single(&[2, 9, geometry.width()], 46));
    let run = |before: f32| {
        let (mut out, mut dqkv) = (vec![before; grad.len()], vec![before; qkv.len()]);
        forward(geometry, &qkv, None, &mut out);
        backward(geometry, &qkv, None, &grad, &mut dqkv);
        (out, dqkv)
    };
    assert!(run(0.0) == run(f32::NAN));
}

#[test]
fn heads_and_masks_that_do_not_fit_are_refused() {
    let qkv = values(&[2, 3, 24], 47).to_dtype(DType::F32).unwrap();
    let shape = |heads, kv_heads, head_dim, keys| {
        attention_with(
            &qkv,
            &AttentionShape { heads, kv_heads, head_dim, mask: Mask { causal: false, keys } },
        )
    };
    assert!(shape(4, 2, 3, Some(some_keys(2, 3))).is_ok());
    assert!(shape(4, 2, 3, Some(some_keys(3, 2))).is_err());
    assert!(shape(4, 0, 6, None).is_err() && shape(2, 3, 3, None).is_err() && shape(4, 2, 4, None).is_err());
    assert!(shape(usize::MAX, 1, 3, None).is_err());
}
