//! `ModelHeader` and [`ModelSummary`]; `TuningProgress` and [`Progress`].

use crate::{
    bank::{ModelSummary, Progress},
    blueprint::{Inheritance, Metric},
    proto,
};

/// A model and its manifest as the header of a stream. The manifest is empty while tuning has yet to run.
pub(crate) fn to_proto(model: ModelSummary, manifest: String) -> proto::ModelHeader {
    let ModelSummary {
        gene,
        depth,
        width,
        identity,
        size_bytes,
        parameters,
        macs,
        stage_layers,
        inheritance,
        untrained_width,
        expected,
        image_size,
        patch_size,
        classes,
        fresh_classes,
        metric,
    } = model;
    proto::ModelHeader {
        gene,
        depth,
        width,
        identity,
        manifest,
        size_bytes,
        parameters,
        macs,
        stage_layers,
        inheritance: Some(inheritance_to_proto(inheritance)),
        untrained_width,
        expected,
        image_size,
        patch_size,
        classes,
        fresh_classes,
        metric: metric.map_or(proto::Metric::Unspecified, metric_to_proto).into(),
    }
}

/// What the header of a stream says about the model, and its manifest.
pub(crate) fn from_proto(header: proto::ModelHeader) -> (ModelSummary, String) {
    let proto::ModelHeader {
        gene,
        depth,
        width,
        identity,
        manifest,
        size_bytes,
        parameters,
        macs,
        stage_layers,
        inheritance,
        untrained_width,
        expected,
        image_size,
        patch_size,
        classes,
        fresh_classes,
        metric,
    } = header;
    let model = ModelSummary {
        gene,
        depth,
        width,
        identity,
        size_bytes,
        parameters,
        macs,
        stage_layers,
        inheritance: inheritance_from_proto(inheritance.unwrap_or_default()),
        untrained_width,
        expected,
        image_size,
        patch_size,
        classes,
        fresh_classes,
        metric: metric_from_proto(metric),
    };
    (model, manifest)
}

const fn inheritance_to_proto(inheritance: Inheritance) -> proto::Inheritance {
    let Inheritance { copied, repeated, sliced, resized, mixed, fresh } = inheritance;
    // No source of values maps a tensor yet.
    proto::Inheritance { copied, repeated, sliced, resized, mapped: 0, fresh, mixed }
}

const fn inheritance_from_proto(inheritance: proto::Inheritance) -> Inheritance {
    let proto::Inheritance { copied, repeated, sliced, resized, mapped: _, fresh, mixed } = inheritance;
    Inheritance { copied, repeated, sliced, resized, mixed, fresh }
}

/// A metric as a value of the protocol.
pub(super) const fn metric_to_proto(metric: Metric) -> proto::Metric {
    match metric {
        Metric::Accuracy => proto::Metric::Accuracy,
        Metric::BitsPerByte => proto::Metric::BitsPerByte,
        Metric::Spearman => proto::Metric::Spearman,
        Metric::NearestNeighbour => proto::Metric::NearestNeighbour,
    }
}

/// The metric that a server names: absent if it names none, or one that is unknown here.
pub(super) fn metric_from_proto(value: i32) -> Option<Metric> {
    match proto::Metric::try_from(value) {
        Ok(proto::Metric::Accuracy) => Some(Metric::Accuracy),
        Ok(proto::Metric::BitsPerByte) => Some(Metric::BitsPerByte),
        Ok(proto::Metric::Spearman) => Some(Metric::Spearman),
        Ok(proto::Metric::NearestNeighbour) => Some(Metric::NearestNeighbour),
        Ok(proto::Metric::Unspecified) | Err(_) => None,
    }
}

/// Progress of a tuning as a message.
pub(crate) const fn progress_to_proto(progress: Progress) -> proto::TuningProgress {
    let Progress { step, total_steps, loss } = progress;
    proto::TuningProgress { step, total_steps, loss }
}

/// What a message says about the progress of a tuning.
pub(crate) const fn progress_from_proto(progress: proto::TuningProgress) -> Progress {
    let proto::TuningProgress { step, total_steps, loss } = progress;
    Progress { step, total_steps, loss }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_model_and_its_manifest_come_back(
            [gene, identity, manifest] in any::<[String; 3]>(),
            [depth, width, image_size, patch_size, classes, fresh_classes] in any::<[u32; 6]>(),
            [size_bytes, parameters, macs] in any::<[u64; 3]>(),
            stage_layers in any::<Vec<u32>>(),
            [copied, repeated, sliced, resized, mixed, fresh] in any::<[u32; 6]>(),
            untrained_width in any::<bool>(),
            expected in any::<Option<f64>>(),
            metric in proptest::option::of(proptest::sample::select(vec![
                Metric::Accuracy,
                Metric::BitsPerByte,
                Metric::Spearman,
                Metric::NearestNeighbour,
            ])),
        ) {
            let model = ModelSummary {
                gene,
                depth,
                width,
                identity,
                size_bytes,
                parameters,
                macs,
                stage_layers,
                inheritance: Inheritance { copied, repeated, sliced, resized, mixed, fresh },
                untrained_width,
                expected,
                image_size,
                patch_size,
                classes,
                fresh_classes,
                metric,
            };
            prop_assert_eq!(from_proto(to_proto(model.clone(), manifest.clone())), (model, manifest));
        }

        #[test]
        fn progress_comes_back([step, total_steps] in any::<[u64; 2]>(), loss in any::<f64>()) {
            let progress = Progress { step, total_steps, loss };
            prop_assert_eq!(progress_from_proto(progress_to_proto(progress)), progress);
        }
    }
}
