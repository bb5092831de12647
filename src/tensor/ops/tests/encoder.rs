//! What a text encoder adds: embeddings, norms after the sum, and masked keys.

use super::branches::{branch_weights, layers};
use super::*;
use crate::tensor::ops::{Branch, Core, Norm, Tables, embedding, post_norm};

const EPS: f64 = 1e-6;

/// Norm after `x + W_o inner(W x + b) + b_o`, composed of the oracles, with `w` as from [`branch_weights`].
fn naive_post_norm(
    x: &Tensor,
    w: &[Tensor],
    out: Option<&Tensor>,
    inner: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let branch = naive::linear(&inner(&naive::linear(x, &w[2], &w[3])?)?, &w[4], &w[5])?;
    let branch = out.map_or(Ok(branch.clone()), |g| branch.broadcast_mul(g))?;
    naive::layer_norm(&(x + branch)?, &w[0], &w[1], EPS)
}

fn post(x: &Tensor, norm: &Affine, core: Core<'_>, gate: &Gate) -> Result<Tensor> {
    post_norm(x, &Branch { norm: Norm { affine: norm, eps: EPS }, core, gate })
}

/// A mask that hides the last tokens of every image but the first.
fn lengths(batch: usize, tokens: usize) -> Tensor {
    let seen = |at: usize| u8::from(at % tokens < (tokens - (at / tokens).min(tokens - 1)));
    Tensor::from_vec((0..batch * tokens).map(seen).collect(), (batch, tokens), &Device::Cpu).unwrap()
}

#[test]
fn post_norm_branches_match_the_oracle() {
    for (batch, tokens, heads, head_dim, units) in
        [(1, 1, 1, 8, 5usize), (2, 17, 3, 16, 192), (3, 5, 2, 12, 33)]
    {
        let width = heads * head_dim;
        let x = [values(&[batch, tokens, width], 40)];
        let factors = values(&[batch, 1, 1], 60).to_dtype(DType::F32).unwrap();
        let gates = [Gate::default(), Gate { out: Some(factors), inner: None }];
        for gate in &gates {
            let out = gate.out.as_ref().map(|g| g.to_dtype(DType::F64).unwrap());
            for keys in [None, Some(lengths(batch, tokens))] {
                let geometry = Geometry { tokens, heads, kv_heads: heads, head_dim, causal: false };
                check(
                    &format!("attention before a norm, {batch}x{tokens}x{width}, {keys:?}, {gate:?}"),
                    &x,
                    &branch_weights(width, 3 * width, width),
                    &[],
                    &|t, w| {
                        let [norm, qkv, proj] = &layers(w);
                        let core = Core::Attention { qkv, proj, heads, rows: Rows::All, keys: keys.as_ref() };
                        post(&t[0], norm, core, gate)
                    },
                    &|t, w| {
                        naive_post_norm(&t[0], w, out.as_ref(), |p| {
                            naive::attention(p, geometry, keys.as_ref())
                        })
                    },
                );
            }
            check(
                &format!("attention of the first token before a norm, {batch}x{tokens}x{width}"),
                &x,
                &branch_weights(width, 3 * width, width),
                &[],
                &|t, w| {
                    let [norm, qkv, proj] = &layers(w);
                    let core = Core::Attention { qkv, proj, heads, rows: Rows::First, keys: None };
                    post(&t[0], norm, core, gate)
                },
                &|t, w| naive_post_norm(&t[0], w, out.as_ref(), |p| full(p, heads))?.narrow(1, 0, 1),
            );
            check(
                &format!("mlp before a norm, {batch}x{tokens}x{width}, hidden {units}"),
                &x,
                &branch_weights(width, units, units),
                &[],
                &|t, w| {
                    let [norm, fc1, fc2] = &layers(w);
                    post(&t[0], norm, Core::Gelu { fc1, fc2 }, gate)
                },
                &|t, w| naive_post_norm(&t[0], w, out.as_ref(), naive::gelu),
            );
        }
    }
}

/// A learned gate takes the composed form, which sees the same keys.
#[test]
fn a_learned_gate_keeps_the_mask_and_the_norm() {
    let (batch, tokens, heads, head_dim) = (3, 5, 2, 6);
    let (width, keys) = (heads * head_dim, lengths(batch, tokens));
    let geometry = Geometry { tokens, heads, kv_heads: heads, head_dim, causal: false };
    compare(
        "gated attention before a norm",
        &[values(&[batch, tokens, width], 40), values(&[batch, tokens, 1], 63)],
        &branch_weights(width, 3 * width, width),
        &[],
        &|t, w| {
            let [norm, qkv, proj] = &layers(w);
            let core = Core::Attention { qkv, proj, heads, rows: Rows::All, keys: Some(&keys) };
            post(&t[0], norm, core, &Gate { out: Some(t[1].clone()), inner: None })
        },
        &|t, w| naive_post_norm(&t[0], w, Some(&t[1]), |p| naive::attention(p, geometry, Some(&keys))),
    );
}

#[test]
fn a_hidden_token_changes_no_other() {
    let (heads, width) = (2, 8);
    let weights: Vec<_> = branch_weights(width, 3 * width, width)
        .iter()
        .map(|w| Weight::new(&w.to_dtype(DType::F32).unwrap()).unwrap())
        .collect();
    let [norm, qkv, proj] = &layers(&weights);
    let keys = Tensor::new(&[[1u8, 1, 1, 0, 0]], &Device::Cpu).unwrap();
    let short = values(&[1, 3, width], 40).to_dtype(DType::F32).unwrap();
    let run = |x: &Tensor, keys| {
        let core = Core::Attention { qkv, proj, heads, rows: Rows::All, keys };
        post(x, norm, core, &Gate::default())
    };
    for seed in [1, 2] {
        let more = values(&[1, 2, width], seed).to_dtype(DType::F32).unwrap();
        let long = run(&Tensor::cat(&[&short, &more], 1).unwrap(), Some(&keys)).unwrap();
        assert_close(
            "padding",
            &long.narrow(1, 0, 3).unwrap(),
            &run(&short, None).unwrap().to_dtype(DType::F64).unwrap(),
        );
    }
    for (keys, rows) in [(&keys, Rows::All), (&keys.narrow(1, 0, 3).unwrap(), Rows::First)] {
        let core = Core::Attention { qkv, proj, heads, rows, keys: Some(keys) };
        let refused = post(&short, norm, core, &Gate::default()).unwrap_err().to_string();
        assert!(refused.contains("the mask"), "{refused}");
    }
}

#[test]
fn embeddings_match_the_oracle() {
    for (batch, tokens, width) in [(1, 1, 1), (3, 4, 20), (2, 7, 33)] {
        let ids: Vec<u32> = (0..batch * tokens).map(|at| (at * 5 % 6) as u32).collect();
        let ids = Tensor::from_vec(ids, (batch, tokens), &Device::Cpu).unwrap();
        let weights = [values(&[6, width], 45), values(&[7, width], 46), values(&[2, width], 47)];
        let tables =
            |w: &[Weight]| Tables { words: w[0].clone(), positions: w[1].clone(), kinds: w[2].clone() };
        check(
            &format!("embedding {batch}x{tokens}x{width}"),
            &[],
            &weights,
            &[],
            &|_, w| embedding(&ids, &tables(w)),
            &|_, w| naive::embedding(&ids, &w[0], &w[1], &w[2]),
        );
    }
}

/// The first channels of a wider table, used twice, as by two sizes of a gene.
#[test]
fn slices_of_a_table_get_their_gradients() {
    let ids = Tensor::new(&[[0u32, 3, 1], [5, 5, 0]], &Device::Cpu).unwrap();
    let weights = [values(&[6, 12], 45), values(&[7, 12], 46), values(&[2, 12], 47)];
    check(
        "narrow embedding, twice",
        &[],
        &weights,
        &[],
        &|_, w| {
            let cut = |w: &Weight| w.rectangle(0..w.dims()[0], 0..5);
            let tables = Tables { words: cut(&w[0])?, positions: cut(&w[1])?, kinds: cut(&w[2])? };
            embedding(&ids, &tables)? + embedding(&ids, &tables)?
        },
        &|_, w| {
            let w: Vec<_> = w.iter().map(|w| w.narrow(1, 0, 5)?.contiguous()).collect::<Result<_>>()?;
            naive::embedding(&ids, &w[0], &w[1], &w[2])? * 2.0
        },
    );
}

#[test]
fn ids_and_lengths_beyond_the_tables_are_refused() {
    let table =
        |rows: usize| Weight::new(&Tensor::zeros((rows, 4), DType::F32, &Device::Cpu).unwrap()).unwrap();
    let tables = Tables { words: table(6), positions: table(3), kinds: table(2) };
    let ids = |ids: &[u32]| Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    embedding(&ids(&[0, 5, 1]), &tables).unwrap();
    let refused = |tokens: &[u32]| embedding(&ids(tokens), &tables).unwrap_err().to_string();
    assert!(refused(&[0, 6]).contains("id 6 is beyond a vocabulary of 6"));
    assert!(refused(&[0, 1, 2, 3]).contains("do not fit"));
}
