//! Rotary position embedding, Su et al. 2021, arXiv 2104.09864, eq. (34).
//!
//! With `φ = m θ^(-2i/d)` at position `m`, each pair of channels is turned: `y₁ = x₁ cos φ - x₂ sin φ`,
//! `y₂ = x₂ cos φ + x₁ sin φ`. The backward pass turns the gradient by `-φ`. Deviation: pair `i` consists of the
//! channels `i` and `i + d/2` of a head, as in Llama, not of `2i` and `2i + 1`.

use super::node::{self, Kernel};
use super::rotary::Rotary;
use super::{fused, naive, simd};
use candle_core::{Result, Shape, Tensor, bail};

/// Turns the first `heads` heads of each token by its position; the channels after them are copied.
///
/// On packed queries, keys and values, `heads` is the number of query and key heads together.
///
/// # Shapes
/// - `x` and the result: `[batch, tokens, channels]`, with `channels >= heads * head_dim`
///
/// # Errors
/// If `x` has fewer channels, or more tokens than `rotary`.
pub fn rope(x: &Tensor, heads: usize, rotary: &Rotary) -> Result<Tensor> {
    let (_, tokens, channels) = x.dims3()?;
    if tokens > rotary.tokens || heads.checked_mul(rotary.head_dim).is_none_or(|turned| turned > channels) {
        bail!(
            "rope: {:?} is not {heads} heads of {} for up to {} tokens",
            x.dims(),
            rotary.head_dim,
            rotary.tokens
        );
    }
    if !fused(&[x], &[]) {
        return naive::rope(x, heads, rotary);
    }
    node::apply(x, None, Rope { heads, rotary: rotary.clone() })
}

struct Rope {
    heads: usize,
    rotary: Rotary,
}

impl Rope {
    fn turned(&self, x: &[f32], shape: &Shape, direction: f32) -> Result<Vec<f32>> {
        let (_, tokens, channels) = shape.dims3()?;
        let mut out = x.to_vec();
        turn(&self.rotary, tokens, channels, self.heads, direction, &mut out);
        Ok(out)
    }
}

impl Kernel for Rope {
    const NAME: &'static str = "rope";

    fn forward(&self, x: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)> {
        Ok((self.turned(x, shape, 1.0)?, shape.clone()))
    }

    fn backward(&self, _: &[f32], shape: &Shape, grad: &[f32], _: bool) -> Result<Vec<f32>> {
        self.turned(grad, shape, -1.0)
    }
}

simd::kernel! {
    /// Turns the heads of `x`, `[images, tokens, channels]`, in place: forwards if `direction` is 1, back if it is -1.
    fn turn<'a>(
        rotary: &'a Rotary,
        tokens: usize,
        channels: usize,
        heads: usize,
        direction: f32,
        x: &'a mut [f32],
    ) {
        let (head_dim, half) = (rotary.head_dim, rotary.head_dim / 2);
        let angles = rotary.table.chunks_exact(head_dim).take(tokens).cycle();
        for (x, angles) in x.chunks_exact_mut(channels.max(1)).zip(angles) {
            let (cos, sin) = angles.split_at(half);
            for head in x.chunks_exact_mut(head_dim).take(heads) {
                let (first, second) = head.split_at_mut(half);
                for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                    let (x, y, sin) = (*a, *b, direction * sin);
                    (*a, *b) = (x.mul_add(*cos, -(y * sin)), y.mul_add(*cos, x * sin));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_continues_at_the_first_position_and_turns_by_radians() {
        let (all, late) = (Rotary::new(9, 6, 100.0, 0).unwrap(), Rotary::new(4, 6, 100.0, 5).unwrap());
        assert_eq!(all.table[5 * 6..], *late.table);
        // Position 0 turns nothing, and the first pair turns by one radian for each position.
        assert_eq!(all.table[..6], [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!((all.table[2 * 6], all.table[2 * 6 + 3]), (2.0_f64.cos() as f32, 2.0_f64.sin() as f32));
        assert!(Rotary::new(1, 5, 100.0, 0).is_err() && Rotary::new(1, 4, f64::NAN, 0).is_err());
    }
}
