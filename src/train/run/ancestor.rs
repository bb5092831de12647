//! Trains a model with untied weights: an ancestor, a control or a descendant.

use std::sync::atomic::AtomicBool;

use crate::{
    blueprint::{Blueprint, record},
    error::Result,
    nn::Vit,
    train::{
        Decay, Model,
        classify::Classification,
        learn_gene::{Distillation, StageSharing},
        measure::{check_data, check_labels},
        model::training_data,
    },
};

use super::{Run, RunEvent, Task};

impl Run<'_> {
    /// Trains `model` untied, by ordinary classification: an ancestor, a scratch control or a descendant.
    ///
    /// # Errors
    /// Those of [`crate::train::Trainer::run`].
    pub fn classify(
        &self,
        model: Model,
        cancel: &AtomicBool,
        report: &mut dyn FnMut(RunEvent),
    ) -> Result<Model> {
        let Model { info, weights } = model;
        let config = *info.config.vit()?;
        check_data(&self.data.train, &config)?;
        check_labels(&self.data.train, &info.labels)?;
        let task = Task {
            objective: &Classification::new(config, &self.recipe.optim, self.recipe.seed),
            network: &|weights| Vit::new(config, weights),
            decay: Decay::of(config.schema().specs()),
            identity: self.identity(&record::write(&info), &weights)?,
            initial: weights.to_device(&self.device)?,
            preprocessing: &info.preprocessing,
            config,
        };
        drop(weights);
        let weights = self.train(task, cancel, report)?;
        let mut info = info;
        info.trained_on(training_data(&self.data.train));
        info.training.push(self.note());
        Ok(Model { info, weights })
    }

    /// Trains `model` untied, by distillation from `teacher` with weight `α` (`τ = 1`): a control for a learned gene
    /// that shares no stage.
    ///
    /// # Errors
    /// [`crate::error::Error::Invalid`] if teacher and data do not fit; those of [`crate::train::Trainer::run`].
    pub fn distil(
        &self,
        model: Model,
        teacher: &Model,
        alpha: f64,
        cancel: &AtomicBool,
        report: &mut dyn FnMut(RunEvent),
    ) -> Result<Model> {
        let Model { mut info, weights } = model;
        check_data(&self.data.train, teacher.info.config.vit()?)?;
        if alpha < 1.0 {
            check_labels(&self.data.train, &info.labels)?;
        }
        let (config, optim) = (*info.config.vit()?, &self.recipe.optim);
        let distillation = Distillation { alpha, temperature: 1.0, label_smoothing: optim.label_smoothing };
        let task = Task {
            objective: &StageSharing {
                auxiliary: Blueprint::whole(info.clone()),
                teacher: self.teacher(teacher, &config, cancel)?,
                distillation,
                drop_path: optim.drop_path,
                seed: self.recipe.seed,
                dtype: optim.dtype(),
            },
            network: &|weights| Vit::new(config, weights),
            decay: Decay::of(config.schema().specs()),
            identity: self.identity(&self.identity(&record::write(&info), &weights)?, &teacher.weights)?,
            initial: weights.to_device(&self.device)?,
            preprocessing: &teacher.info.preprocessing,
            config,
        };
        drop(weights);
        let weights = self.train(task, cancel, report)?;
        info.preprocessing = teacher.info.preprocessing.clone();
        info.trained_on(training_data(&self.data.train));
        info.training.push(self.note());
        Ok(Model { info, weights })
    }
}
