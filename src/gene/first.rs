//! The initial values of a gene before learning.

use candle_core::{DType, Device, Tensor};

use crate::{
    blueprint::{Ancestor, Entry, Source, expand},
    error::{Context as _, Error, Result},
    nn::{Config, Role},
    tensor::{Weight, Weights, matrix_view},
};

use super::{GeneMeta, meta::stage_name};

/// Every tensor of the gene `meta`: fresh without a `teacher`, otherwise the teacher's values. Shared tensors are
/// copied unchanged, and stage `s` of `M` copies the teacher's layer `⌊s (L - 1) / (M - 1)⌉` of `L`. Norms of narrower
/// widths are always fresh.
///
/// # Errors
/// [`Error::Invalid`] for a teacher whose shape differs in more than depth.
pub fn first_values(meta: &GeneMeta, teacher: Option<Config>, seed: u64) -> Result<Vec<Entry>> {
    let dims = meta.config.dims();
    let mut entries: Vec<_> = meta.specs().into_iter().map(|spec| Entry::fresh(spec, &dims, seed)).collect();
    let Some(teacher) = teacher else { return Ok(entries) };
    if teacher.resized(meta.config.depth(), teacher.width())? != meta.config {
        return Err(other_shape());
    }
    let (schema, stages) = (teacher.schema(), meta.stages.len());
    let shared = schema.shared().map(|spec| (spec.name.clone(), spec.name.clone()));
    let stage = |s: usize| {
        let layer = layer_of(s, stages, teacher.depth());
        let schema = &schema;
        let names = schema.layers[layer].iter();
        names.map(move |spec| (stage_name(s, &spec.name), schema.layer_name(layer, &spec.name)))
    };
    let taken: std::collections::BTreeMap<_, _> = shared.chain((0..stages).flat_map(stage)).collect();
    for entry in &mut entries {
        if let Some(from) = taken.get(&entry.name) {
            let inherited = Entry::whole(from.clone(), entry.shape.clone());
            entry.source = inherited.source;
        }
    }
    Ok(entries)
}

/// The values of `teacher` with its channels, heads and hidden units in the order of importance
/// ([`crate::blueprint::importance`]), so that a narrower model begins with the most important ones. The vector of a
/// text encoder keeps the order of its components: the projection undoes that of the channels. Norms and projections of
/// narrower widths begin as the first part of those of the full width.
///
/// # Errors
/// [`Error::Invalid`] for a teacher whose shape differs in more than depth; [`Error::Tensor`].
pub fn ordered_values(meta: &GeneMeta, teacher: &Ancestor) -> Result<Weights> {
    let (own, order) = (teacher.info().config, teacher.order()?);
    let (dims, schema) = (own.dims(), own.schema());
    let mut weights = Weights::from_file(teacher.file(), &Device::Cpu)?;
    let stored = meta.stored();
    let projection = stored.iter().map(|stored| &stored.parameter).find(|spec| spec.role == Role::Projection);
    if let Some(spec) = projection
        && weights.get(&spec.name).is_err()
    {
        let same = Tensor::eye(dims.width, DType::F32, &Device::Cpu).and_then(|eye| Weight::new(&eye));
        weights.insert(spec.name.clone(), same.context(&spec.name)?);
    }
    let values = stored.into_iter().zip(meta.specs()).map(|(stored, named)| {
        let layer = stored.stage.map(|stage| layer_of(stage, meta.stages.len(), dims.depth));
        let width = stored.width.unwrap_or(meta.config.width());
        let target = meta.config.resized(meta.config.depth(), width)?.dims();
        let [rows, cols] = order.kept(&stored.parameter, layer, [&dims, &target]);
        let name = layer.map_or_else(
            || stored.parameter.name.clone(),
            |layer| schema.layer_name(layer, &stored.parameter.name),
        );
        let (of, shape) = (matrix_view(&stored.parameter.shape(&dims)), stored.parameter.shape(&target));
        if matrix_view(weights.get(&name)?.dims()) != of {
            return Err(other_shape());
        }
        let entry = Entry::whole(named.name, shape);
        Ok(Entry { source: Source::Selected { tensor: name, of, rows, cols }, ..entry })
    });
    expand::entries(&values.collect::<Result<Vec<_>>>()?, &weights, &Device::Cpu)
}

/// The layer of a teacher of `layers` layers that stage `stage` of `stages` begins with.
fn layer_of(stage: usize, stages: usize, layers: usize) -> usize {
    (2 * stage * (layers - 1) + (stages - 1)) / (2 * (stages - 1).max(1))
}

fn other_shape() -> Error {
    Error::invalid("gene.from_teacher", "the teacher's shape differs in more than depth")
}
