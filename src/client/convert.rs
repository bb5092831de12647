//! Requests to messages, and messages to what they say.

use prost::Message as _;

use crate::{
    bank::{GeneSummary, Length, ModelRequest, ModelSummary},
    blueprint::Inheritance,
    error::{Error, Result},
    export::Layout,
    gene::{DepthRule, Head, Method, Quality, Size, Start, Target},
    proto,
    tensor::Dtype,
};

/// A request as a message.
pub(super) fn message(request: &ModelRequest) -> Result<proto::InitModelRequest> {
    let ModelRequest { gene, size, target, start: Start { method, seed }, layout, tune } = request;
    let Size { depth, width, rule, dtype, allow_untrained_width } = size;
    let Target { image_size, patch_size, head } = target;
    let number = |field: &str, value: &Option<u64>| {
        let fits = |value| {
            u32::try_from(value).map_err(|_| Error::invalid(field, format!("{value} is beyond 2^32 - 1")))
        };
        value.map(fits).transpose()
    };
    let fine_tune = tune.as_ref().map(|tune| proto::FineTune {
        dataset: tune.dataset.clone(),
        learning_rate_e9: tune.learning_rate_e9.unwrap_or(0),
        seed: tune.seed,
        length: Some(match tune.length {
            Length::Steps(steps) => proto::fine_tune::Length::Steps(steps),
            Length::Epochs(epochs) => proto::fine_tune::Length::Epochs(epochs),
        }),
    });
    let message = proto::InitModelRequest {
        gene: gene.clone(),
        depth: number("depth", depth)?,
        width: number("width", width)?,
        dtype: element_type(*dtype).into(),
        depth_rule: match rule {
            DepthRule::Trained => proto::DepthRule::Trained,
            DepthRule::Cyclic => proto::DepthRule::Cyclic,
        }
        .into(),
        allow_untrained_width: *allow_untrained_width,
        max_chunk_bytes: 0,
        fine_tune,
        image_size: number("image_size", image_size)?,
        patch_size: number("patch_size", patch_size)?,
        head: head.clone().map(|Head { labels, seed }| proto::Head { labels, seed }),
        method: match method {
            Method::Gene => proto::Method::Gene,
            Method::Scratch => proto::Method::Scratch,
            Method::FirstLayers => proto::Method::FirstLayers,
            Method::Uniform => proto::Method::Uniform,
        }
        .into(),
        method_seed: *seed,
        layout: match layout {
            Layout::Timm => proto::Layout::Timm,
            Layout::Transformers => proto::Layout::Transformers,
        }
        .into(),
    };
    let (found, limit) = (message.encoded_len(), proto::MAX_REQUEST_BYTES);
    if found > limit {
        let reason = format!("{found} bytes are beyond the {limit} that a server takes");
        return Err(Error::invalid("request", reason));
    }
    Ok(message)
}

pub(super) const fn element_type(dtype: Dtype) -> proto::Dtype {
    match dtype {
        Dtype::F32 => proto::Dtype::F32,
        Dtype::F16 => proto::Dtype::F16,
        Dtype::Bf16 => proto::Dtype::Bf16,
    }
}

pub(super) fn model_summary(header: proto::ModelHeader) -> (ModelSummary, String) {
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
        expected_accuracy,
        image_size,
        patch_size,
        classes,
        fresh_classes,
    } = header;
    let proto::Inheritance { copied, repeated, sliced, resized, mapped: _, fresh, mixed } =
        inheritance.unwrap_or_default();
    let inheritance = Inheritance { copied, repeated, sliced, resized, mixed, fresh };
    let model = ModelSummary {
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
        expected_accuracy,
        image_size,
        patch_size,
        classes,
        fresh_classes,
    };
    (model, manifest)
}

pub(super) fn gene(gene: proto::Gene) -> GeneSummary {
    let proto::Gene {
        name,
        digest,
        family,
        trained_depth,
        trained_width,
        stages,
        head_dim,
        trained_widths,
        min_depth,
        max_depth,
        image_size,
        patch_size,
        channels,
        labels,
        licence,
        data,
        teacher,
        recipe,
        size_bytes,
        quality,
        default,
    } = gene;
    GeneSummary {
        name,
        digest,
        family,
        trained_depth,
        trained_width,
        stages,
        head_dim,
        trained_widths,
        min_depth,
        max_depth,
        image_size,
        patch_size,
        channels,
        labels,
        licence,
        data,
        teacher,
        recipe,
        size_bytes,
        quality: quality.into_iter().map(figure).collect(),
        default,
    }
}

fn figure(quality: proto::Quality) -> Quality {
    let proto::Quality { depth, width, tuning_epochs, accuracy } = quality;
    Quality { depth: depth as usize, width: width as usize, tuning_epochs, accuracy }
}
