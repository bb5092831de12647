//! The initial values of a gene before learning, as entries of a blueprint.

use crate::{
    blueprint::Entry,
    error::{Error, Result},
    nn::Config,
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
        return Err(Error::invalid("gene.from_teacher", "the teacher's shape differs in more than depth"));
    }
    let (schema, layers, stages) = (teacher.schema(), teacher.depth(), meta.stages.len());
    let shared = schema.shared().map(|spec| (spec.name.clone(), spec.name.clone()));
    let stage = |s: usize| {
        let layer = (2 * s * (layers - 1) + (stages - 1)) / (2 * (stages - 1).max(1));
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
