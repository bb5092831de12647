//! Learns a gene from a teacher.

use std::sync::atomic::AtomicBool;

use candle_core::Device;

use crate::{
    blueprint::{Metric, expand},
    error::{Error, Result},
    gene::{self, GeneMeta, Learngene, Probe, SizeRequest, meta, store},
    nn::Vit,
    train::{
        Decay, Model, Objective, learn_gene::StageSharing, model::model_info, nested::NestedSharing,
        recipe::GeneRecipe,
    },
};

use super::{Run, RunEvent, Task};

impl Run<'_> {
    /// Learns the gene `recipe` from `teacher` by SWS; returns the gene and its file.
    ///
    /// # Errors
    /// [`Error::Invalid`] if teacher, recipe and data do not fit; those of [`crate::train::Trainer::run`].
    pub fn learn(
        &self,
        recipe: &GeneRecipe,
        teacher: &Model,
        cancel: &AtomicBool,
        report: &mut dyn FnMut(RunEvent),
    ) -> Result<(Learngene, bytes::Bytes)> {
        let (meta, device) = (self.gene_meta(recipe, teacher)?, &self.device);
        let first =
            gene::first_values(&meta, recipe.from_teacher.then_some(teacher.info.config), self.recipe.seed)?;
        let initial = expand::entries(&first, &teacher.weights, &Device::Cpu)?;
        let auxiliary = store::blueprint(&meta, &SizeRequest::default())?;
        let json = store::record(&meta);
        let identity = self.identity(&json, &teacher.weights)?;
        let config = *meta.config.vit()?;
        let (vit, optim) = (self.teacher(teacher, &config, cancel)?, &self.recipe.optim);
        let objective: Box<dyn Objective> = match &recipe.nested {
            None => Box::new(StageSharing::new(auxiliary.clone(), vit, recipe, optim, self.recipe.seed)),
            Some(nested) => {
                Box::new(NestedSharing::new(&meta, nested, vit, recipe, optim, self.recipe.seed)?)
            }
        };
        let task = Task {
            network: &|weights| Vit::new(config, &expand(&auxiliary, weights, device)?),
            decay: Decay::of(meta.specs()),
            initial: initial.to_device(device)?,
            identity,
            preprocessing: &teacher.info.preprocessing,
            config,
            objective: objective.as_ref(),
        };
        let weights = self.train(task, cancel, report)?;
        store::render(meta, &weights.to_device(&Device::Cpu)?, self.recipe.seed)
    }

    fn gene_meta(&self, gene: &GeneRecipe, teacher: &Model) -> Result<GeneMeta> {
        meta::check_name(&gene.name)?;
        let info = model_info(self.recipe, &self.data.train, teacher.info.preprocessing.clone())?;
        let [taught, classes] = [teacher.info.config.vit()?.classes(), info.config.vit()?.classes()];
        if taught != classes {
            let reason = format!("teacher has {taught} classes, data {classes}");
            return Err(Error::invalid("gene.teacher", reason));
        }
        let meta = GeneMeta {
            name: gene.name.clone(),
            config: info.config,
            stages: gene.stages.clone(),
            trained_widths: gene
                .nested
                .as_ref()
                .map_or_else(|| vec![info.config.width()], |n| n.widths.clone()),
            width_norms: gene.nested.as_ref().is_some_and(|nested| nested.width_norms),
            depth_range: gene.depth_range,
            preprocessing: info.preprocessing,
            labels: info.labels,
            licence: info.licence,
            weights_licence: gene.licence.clone(),
            data: info.data,
            teacher: teacher.info.training.join("; "),
            recipe: self.note(),
            probe: Probe { seed: 0, batch: 1, logits: vec![0.0; classes] },
            metric: Metric::Accuracy,
            quality: Vec::new(),
        };
        meta.check().map_err(|reason| Error::invalid(format!("recipe of gene \"{}\"", gene.name), reason))?;
        Ok(meta)
    }
}
