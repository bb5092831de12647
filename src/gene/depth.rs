//! Depth rules: how many layers of a model each stage of the gene provides.
//!
//! Source of `Cyclic`: Xia et al. 2024 (SWS, arXiv 2404.16897), the published example of 12 layers in five stages,
//! `count(s) = ⌊L / M⌋ + [s < L mod M]`.
//!
//! Differs from the paper in: the default, `Trained`, apportions layers in proportion to the trained layers of each
//! stage (Sainte-Laguë). The cyclic rule does not in general reproduce the trained network at the trained depth.
//!
//! | symbol | here | meaning |
//! | --- | --- | --- |
//! | `L` | `depth` | layers of the model |
//! | `M` | `stages.len()` | stages of the gene |
//! | `v(s)` | `stages[s]` | layers of stage `s` while the gene was learned |

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, VariantArray};

use crate::error::Error;

/// How layers are distributed over stages.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    VariantArray,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", parse_err_ty = Error, parse_err_fn = unknown)]
pub enum DepthRule {
    /// In proportion to the trained layers of each stage. The trained depth gives the trained network, and depth
    /// `d + 1` contains depth `d`.
    #[default]
    Trained,
    /// One layer to each stage in turn, as published.
    Cyclic,
}

impl DepthRule {
    /// Layers of each stage in a model of `depth` layers; they add up to `depth`.
    ///
    /// If there are fewer layers than stages, the first stage gets one, then the last, then the middle of the widest
    /// gap.
    pub fn layers(self, depth: usize, stages: &[usize]) -> Vec<usize> {
        if depth < stages.len() {
            return spread(depth, stages.len());
        }
        match self {
            Self::Trained => sainte_lague(depth, stages),
            Self::Cyclic => {
                let (each, rest) = (depth / stages.len(), depth % stages.len());
                (0..stages.len()).map(|s| each + usize::from(s < rest)).collect()
            }
        }
    }
}

/// Each stage gets one layer. Each further layer goes to the stage with the largest `v(s) / (2 n(s) + 1)`, where `n(s)`
/// counts the stage's layers so far; ties go to the earlier stage.
fn sainte_lague(depth: usize, stages: &[usize]) -> Vec<usize> {
    let mut layers = vec![1; stages.len()];
    for _ in stages.len()..depth {
        // Compares v(a) / (2 n(a) + 1) with v(b) / (2 n(b) + 1) exactly, by cross-multiplication.
        let quotient =
            |a: usize, b: usize| (stages[a] * (2 * layers[b] + 1)).cmp(&(stages[b] * (2 * layers[a] + 1)));
        let next = (1..stages.len())
            .fold(0, |best, s| if quotient(s, best) == Ordering::Greater { s } else { best });
        layers[next] += 1;
    }
    layers
}

/// Gives one layer each to `depth` of `stages` stages: the first, the last, then the middle of the widest gap, where
/// the earlier gap wins a tie.
fn spread(depth: usize, stages: usize) -> Vec<usize> {
    let mut taken: Vec<usize> = [0, stages - 1].into_iter().take(depth).collect();
    while taken.len() < depth {
        let (at, _) = (1..taken.len())
            .map(|i| (i, taken[i] - taken[i - 1]))
            .fold((0, 0), |widest, gap| if gap.1 > widest.1 { gap } else { widest });
        taken.insert(at, usize::midpoint(taken[at - 1], taken[at]));
    }
    (0..stages).map(|s| usize::from(taken.contains(&s))).collect()
}

fn unknown(text: &str) -> Error {
    Error::not_one_of::<DepthRule>("depth rule", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rules_give_the_published_tables() {
        let stages = [3, 3, 4, 3, 3];
        assert_eq!(DepthRule::Cyclic.layers(12, &stages), [3, 3, 2, 2, 2]);
        assert_eq!(DepthRule::Cyclic.layers(16, &stages), [4, 3, 3, 3, 3]);
        assert_eq!(DepthRule::Trained.layers(16, &stages), [3, 3, 4, 3, 3]);
        assert_eq!(DepthRule::Trained.layers(6, &stages), [1, 1, 2, 1, 1]);
        assert_eq!(DepthRule::Trained.layers(2, &stages), [1, 0, 0, 0, 1]);
        assert_eq!(DepthRule::Trained.layers(4, &stages), [1, 1, 1, 0, 1]);
    }

    proptest! {
        #[test]
        fn the_trained_depth_gives_the_trained_layers(stages in prop::collection::vec(1usize..9, 1..9)) {
            prop_assert_eq!(DepthRule::Trained.layers(stages.iter().sum(), &stages), stages);
        }

        #[test]
        fn a_deeper_model_contains_the_shallower(stages in prop::collection::vec(1usize..9, 1..9), depth in 1usize..64) {
            let shallow = DepthRule::Trained.layers(depth, &stages);
            let deep = DepthRule::Trained.layers(depth + 1, &stages);
            prop_assert_eq!(shallow.iter().sum::<usize>(), depth);
            prop_assert!(shallow.iter().zip(&deep).all(|(a, b)| a <= b), "{shallow:?} in {deep:?}");
        }

        #[test]
        fn cyclic_adds_up(stages in prop::collection::vec(1usize..9, 1..9), depth in 1usize..64) {
            prop_assert_eq!(DepthRule::Cyclic.layers(depth, &stages).iter().sum::<usize>(), depth);
        }
    }
}
