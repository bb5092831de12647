//! Baselines that a gene has to beat: other sources of a model's first values, behind the interface of a gene.
//!
//! `FirstLayers` and `Uniform` select from the ancestor. Source of `Uniform`: Xu et al. 2024, "Initializing Models with
//! Larger Ones" (arXiv 2311.18823), section 3. It takes the first `L` layers and evenly spaced elements of every axis:
//! every `(D / d)`-th element if `d` divides `D`, otherwise `round(linspace(0, D - 1, d))`.
//!
//! | symbol | here | meaning |
//! | --- | --- | --- |
//! | `L`, `d` | `depth`, `width` of the size | the requested size |
//! | `D` | width of the ancestor | |
//!
//! `Importance` takes the most important elements of every axis ([`crate::blueprint::importance`]). It keeps the first
//! layer, the last, and those that halve the widest gap, because neighbouring layers are the most alike.
//!
//! Differs from the official code in two points. Queries, keys and values are selected separately, so that no row of
//! one becomes a row of another. The head is inherited as far as the classes are the same.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, VariantArray};

use crate::{
    blueprint::{Ancestor, Blueprint, Entry, Identity, ModelInfo, Piece, Source, model::NO_DATA, record},
    error::{Error, Result},
    nn::{Axis, Dims, Spec},
    tensor::{matrix_view, row_axes},
};

use super::{DepthRule, GeneMeta, SizeRequest, Target, target::Own, width};

/// Where the first values of a model come from.
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
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", parse_err_ty = Error, parse_err_fn = unknown)]
pub enum Method {
    /// The gene.
    #[default]
    Gene,
    /// Seeded random values; nothing is inherited.
    Scratch,
    /// The first layers of the ancestor, and the first elements of every axis.
    FirstLayers,
    /// The first layers of the ancestor, and evenly spaced elements of every axis.
    Uniform,
    /// Layers of the ancestor that lie apart, and the most important channels, heads and hidden units
    /// ([`crate::blueprint::importance`]).
    Importance,
}

impl Method {
    /// Whether it selects from the gene's ancestor.
    pub const fn selects(self) -> bool {
        matches!(self, Self::FirstLayers | Self::Uniform | Self::Importance)
    }
}

fn unknown(text: &str) -> Error {
    Error::not_one_of::<Method>("method", text)
}

/// A method, and the seed of the values that it draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Start {
    /// Where first values come from.
    pub method: Method,
    /// Seed of fresh values; must be 0 for methods that draw none.
    pub seed: u64,
}

impl Start {
    /// Checks that only a method that draws values has a seed.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check(&self) -> Result<()> {
        if self.seed != 0 && self.method != Method::Scratch {
            let reason = format!("{} for method \"{}\", which draws nothing", self.seed, self.method);
            return Err(Error::invalid("method_seed", reason));
        }
        Ok(())
    }
}

/// The model of `size` for `target` that `method` selects from `ancestor`. Absent values mean the ancestor's.
///
/// # Errors
/// [`Error::OutOfRange`] for a size beyond the ancestor's, [`Error::Invalid`] for a method that selects nothing, and for
/// other images with chosen elements.
pub fn select(ancestor: &Ancestor, method: Method, size: &SizeRequest, target: &Target) -> Result<Blueprint> {
    let info = ancestor.info();
    let (own, of) = (&info.config, Own { config: &info.config, labels: &info.labels });
    let within = |what, asked: Option<u64>, most: usize| match asked.unwrap_or(most as u64) {
        found if (1..=most as u64).contains(&found) => Ok(found as usize),
        found => {
            let (of, limit) = ("the ancestor".to_owned(), format!("1..={most}"));
            Err(Error::OutOfRange { what, found, of, limit })
        }
    };
    let depth = within("depth", size.depth, own.depth())?;
    let sized = own.resized(depth, within("width", size.width, own.width())?)?;
    let config = target.config(sized)?;
    if method != Method::FirstLayers && config.images() != own.images() {
        let reason = format!("method \"{method}\" gives the ancestor's images alone");
        return Err(Error::invalid("image_size, patch_size", reason));
    }
    let (dims, schema) = (own.dims(), sized.schema());
    let order = if method == Method::Importance { Some(ancestor.order()?) } else { None };
    let entry = |spec: &Spec, name: String, stored: &str, layer: Option<usize>| {
        let source = match (method, order) {
            (Method::FirstLayers, _) => Source::Pieces(width::pieces(spec, stored, &dims, &schema.dims)),
            (Method::Uniform, _) => chosen(spec, stored, &dims, uniform(spec, &dims, &schema.dims)),
            (Method::Importance, Some(order)) => {
                chosen(spec, stored, &dims, order.kept(spec, layer, [&dims, &schema.dims]))
            }
            _ => {
                return Err(Error::invalid(
                    "method",
                    format!("\"{method}\" selects nothing from an ancestor"),
                ));
            }
        };
        Ok(Entry { name, shape: spec.shape(&schema.dims), dtype: size.dtype, source })
    };
    let shared = |spec: &Spec| entry(spec, spec.name.clone(), &spec.name, None);
    let whole = own.schema();
    let layers = kept_layers(method, own.depth(), depth).into_iter().zip(&schema.layers).enumerate();
    let layers = layers.flat_map(|(at, (layer, specs))| {
        let of_layer = |spec: &Spec| {
            let stored = whole.layer_name(layer, &spec.name);
            entry(spec, schema.layer_name(at, &spec.name), &stored, Some(layer))
        };
        specs.iter().map(of_layer).collect::<Vec<_>>()
    });
    let entries = schema.stem.iter().map(shared).chain(layers).chain(schema.tail.iter().map(shared));
    let mut entries = entries.collect::<Result<Vec<_>>>()?;
    target.apply(&mut entries, of, &config);
    let form = Identity::form("genebank.selection")
        .text(ancestor.digest())
        .text(&method.to_string())
        .integer(sized.depth() as u64)
        .integer(sized.width() as u64)
        .text(&size.dtype.to_string());
    let identity = target.canonical(form, of, &config).into();
    let info = ModelInfo { config, labels: target.labels(of), origin: None, ..info.clone() };
    Ok(Blueprint { identity, info, entries, has_record: true })
}

/// A network with seeded values that inherits nothing. It has a size of the gene `meta` and is for `target`.
///
/// # Errors
/// [`Error::OutOfRange`] or [`Error::Invalid`] for a size or target that the gene does not allow.
pub fn scratch(meta: &GeneMeta, size: &SizeRequest, target: &Target, seed: u64) -> Result<Blueprint> {
    let shape = super::learngene::blueprint_of(meta, "", size, target)?;
    let (data, licence) = (NO_DATA.to_owned(), NO_DATA.to_owned());
    let mut blueprint = Blueprint::fresh(ModelInfo { origin: None, data, licence, ..shape.info }, seed);
    blueprint.entries.iter_mut().for_each(|entry| entry.dtype = size.dtype);
    let config = blueprint.info.config;
    blueprint.identity = config
        .canonical(Identity::form("genebank.scratch"))
        .text(&record::write(&blueprint.info))
        .text(&size.dtype.to_string())
        .integer(seed)
        .into();
    Ok(blueprint)
}

/// The layers of an ancestor of `own` layers that a model of `depth` keeps.
fn kept_layers(method: Method, own: usize, depth: usize) -> Vec<usize> {
    if method != Method::Importance {
        return (0..depth).collect();
    }
    let counts = DepthRule::Trained.layers(depth, &vec![1; own]);
    counts.into_iter().enumerate().flat_map(|(layer, count)| std::iter::repeat_n(layer, count)).collect()
}

/// Rows and columns of the tensor `stored`, the parameter `spec` of a network of the sizes `own`.
fn chosen(spec: &Spec, stored: &str, own: &Dims, [rows, cols]: [Vec<u32>; 2]) -> Source {
    let (shape, all) = (spec.shape(own), |kept: &[u32], of: usize| kept.iter().copied().eq(0..of as u32));
    let of = matrix_view(&shape);
    if all(&rows, of[0]) && all(&cols, of[1]) {
        return Source::Pieces(vec![Piece::whole(stored, &shape)]);
    }
    Source::Selected { tensor: stored.to_owned(), of, rows, cols }
}

/// Evenly spaced rows and columns of the ancestor's tensor.
fn uniform(spec: &Spec, own: &Dims, target: &Dims) -> [Vec<u32>; 2] {
    let (rows, cols) = spec.axes.split_at(row_axes(spec.axes.len()));
    [rows, cols].map(|axes| axes.iter().fold(vec![0], |before, axis| product(&before, *axis, own, target)))
}

/// Extends the row-major indices `before` by one more axis.
fn product(before: &[u32], axis: Axis, own: &Dims, target: &Dims) -> Vec<u32> {
    let (mut along, mut first) = (Vec::new(), 0);
    for (stored, kept) in axis.parts(own).into_iter().zip(axis.parts(target)) {
        along.extend(evenly_spaced(stored, kept).into_iter().map(|i| (first + i) as u32));
        first += stored;
    }
    let len = first as u32;
    before.iter().flat_map(|outer| along.iter().map(move |inner| outer * len + inner)).collect()
}

/// `small` of `large` indices: every `(large / small)`-th if that is whole, otherwise points of a line from the first
/// to the last index, rounded to the nearest.
fn evenly_spaced(large: usize, small: usize) -> Vec<usize> {
    if large.is_multiple_of(small.max(1)) {
        let step = large / small.max(1);
        return (0..small).map(|i| i * step).collect();
    }
    // i (large - 1) / (small - 1) in integers, with halves rounded to even as torch.round does.
    let (rise, run) = (large - 1, small - 1);
    let nearest = |i: usize| {
        let (whole, rest) = (i * rise / run, i * rise % run);
        match (2 * rest).cmp(&run) {
            std::cmp::Ordering::Less => whole,
            std::cmp::Ordering::Greater => whole + 1,
            std::cmp::Ordering::Equal => whole + whole % 2,
        }
    };
    (0..small).map(nearest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_those_of_the_official_code() {
        assert_eq!(evenly_spaced(8, 4), [0, 2, 4, 6]);
        assert_eq!(evenly_spaced(6, 6), [0, 1, 2, 3, 4, 5]);
        // torch.round(torch.linspace(0, 95, 72))[:8] and its end; linspace(0, 5, 3) has a half at 2.5.
        let found = evenly_spaced(96, 72);
        assert_eq!(found[..8], [0, 1, 3, 4, 5, 7, 8, 9]);
        assert_eq!((found.len(), found[71]), (72, 95));
        assert_eq!(evenly_spaced(7, 5), [0, 2, 3, 4, 6]);
    }

    #[test]
    fn importance_keeps_both_ends_and_the_others_the_first_layers() {
        assert_eq!(kept_layers(Method::Importance, 6, 3), [0, 2, 5]);
        assert_eq!(kept_layers(Method::Importance, 6, 1), [0]);
        assert_eq!(kept_layers(Method::Importance, 4, 4), [0, 1, 2, 3]);
        assert_eq!(kept_layers(Method::Uniform, 6, 2), [0, 1]);
    }

    #[test]
    fn names_of_methods_are_read_back() {
        for &method in Method::VARIANTS {
            assert_eq!(method.to_string().parse::<Method>().unwrap(), method);
        }
        "nothing".parse::<Method>().unwrap_err();
    }
}
