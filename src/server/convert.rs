//! Messages to domain types and back. Messages are taken apart field by field, so that a new field does not
//! compile until someone decides about it.

use crate::{
    bank::{GeneSummary, Length, ModelRequest, ModelSummary, Progress, Tune},
    blueprint::Inheritance,
    error::{Error, Result},
    export::Layout,
    gene::{DepthRule, Head, Method, Quality, Size, Start, Target},
    proto,
    tensor::{Dtype, is_digest},
};

use super::download::Part;

/// Limits of a chunk, bytes: above the cost of a message, below the 4 MiB that clients accept by default.
const CHUNK_BYTES: (usize, usize) = (64 << 10, 3 << 20);
/// Chunk of a request that names none, bytes.
const DEFAULT_CHUNK_BYTES: usize = 1 << 20;

/// What a call for a model asks for, and the largest chunk that it wants, bytes.
pub(super) fn model_request(message: proto::InitModelRequest) -> Result<(ModelRequest, usize)> {
    let proto::InitModelRequest {
        gene,
        depth,
        width,
        dtype,
        depth_rule,
        allow_untrained_width,
        max_chunk_bytes,
        fine_tune,
        image_size,
        patch_size,
        head,
        method,
        method_seed,
        layout,
    } = message;
    let size = Size {
        depth: depth.map(u64::from),
        width: width.map(u64::from),
        rule: rule(depth_rule)?,
        dtype: element_type(dtype)?,
        allow_untrained_width,
    };
    let chunk_bytes = match max_chunk_bytes {
        0 => DEFAULT_CHUNK_BYTES,
        bytes => (bytes as usize).clamp(CHUNK_BYTES.0, CHUNK_BYTES.1),
    };
    let target = Target {
        image_size: image_size.map(u64::from),
        patch_size: patch_size.map(u64::from),
        head: head.map(|proto::Head { labels, seed }| Head { labels, seed }),
    };
    let start = Start { method: start_method(method)?, seed: method_seed };
    let (layout, tune) = (model_layout(layout)?, fine_tune.map(tune).transpose()?);
    Ok((ModelRequest { gene, size, target, start, layout, tune }, chunk_bytes))
}

/// What a call for the rest of a model asks for.
pub(super) fn download_request(message: proto::DownloadModelRequest) -> Result<(ModelRequest, Part)> {
    let proto::DownloadModelRequest { model, identity, offset } = message;
    let model = model.ok_or_else(|| Error::invalid("model", "give the request that began the download"))?;
    if !is_digest(&identity) {
        let reason = "must be the 64 hexadecimal digits of ModelHeader.identity";
        return Err(Error::invalid("identity", reason));
    }
    let (request, chunk_bytes) = model_request(model)?;
    Ok((request, Part { chunk_bytes, offset, identity: Some(identity) }))
}

pub(super) fn element_type(value: i32) -> Result<Dtype> {
    match proto::Dtype::try_from(value) {
        Ok(proto::Dtype::Unspecified | proto::Dtype::F32) => Ok(Dtype::F32),
        Ok(proto::Dtype::F16) => Ok(Dtype::F16),
        Ok(proto::Dtype::Bf16) => Ok(Dtype::Bf16),
        Err(_) => Err(Error::invalid("dtype", format!("{value} is not a value of genebank.v1.Dtype"))),
    }
}

fn start_method(value: i32) -> Result<Method> {
    match proto::Method::try_from(value) {
        Ok(proto::Method::Unspecified | proto::Method::Gene) => Ok(Method::Gene),
        Ok(proto::Method::Scratch) => Ok(Method::Scratch),
        Ok(proto::Method::FirstLayers) => Ok(Method::FirstLayers),
        Ok(proto::Method::Uniform) => Ok(Method::Uniform),
        Err(_) => Err(Error::invalid("method", format!("{value} is not a value of genebank.v1.Method"))),
    }
}

fn model_layout(value: i32) -> Result<Layout> {
    match proto::Layout::try_from(value) {
        Ok(proto::Layout::Unspecified | proto::Layout::Timm) => Ok(Layout::Timm),
        Ok(proto::Layout::Transformers) => Ok(Layout::Transformers),
        Err(_) => Err(Error::invalid("layout", format!("{value} is not a value of genebank.v1.Layout"))),
    }
}

fn rule(value: i32) -> Result<DepthRule> {
    match proto::DepthRule::try_from(value) {
        Ok(proto::DepthRule::Unspecified | proto::DepthRule::Trained) => Ok(DepthRule::Trained),
        Ok(proto::DepthRule::Cyclic) => Ok(DepthRule::Cyclic),
        Err(_) => {
            Err(Error::invalid("depth_rule", format!("{value} is not a value of genebank.v1.DepthRule")))
        }
    }
}

fn tune(message: proto::FineTune) -> Result<Tune> {
    let proto::FineTune { dataset, learning_rate_e9, seed, length } = message;
    let length = match length {
        Some(proto::fine_tune::Length::Steps(steps)) => Length::Steps(steps),
        Some(proto::fine_tune::Length::Epochs(epochs)) => Length::Epochs(epochs),
        None => return Err(Error::invalid("fine_tune.length", "give steps or epochs")),
    };
    let learning_rate_e9 = (learning_rate_e9 != 0).then_some(learning_rate_e9);
    Ok(Tune { dataset, length, learning_rate_e9, seed })
}

/// A gene as a message.
pub(super) fn gene(gene: GeneSummary) -> proto::Gene {
    let GeneSummary {
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
    proto::Gene {
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
        quality: quality.into_iter().map(quality_figure).collect(),
        default,
    }
}

fn quality_figure(quality: Quality) -> proto::Quality {
    let Quality { depth, width, tuning_epochs, accuracy } = quality;
    proto::Quality { depth: depth as u32, width: width as u32, tuning_epochs, accuracy }
}

/// The first message of a stream.
pub(super) fn header(model: ModelSummary, manifest: String) -> proto::ModelHeader {
    let ModelSummary {
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
        expected_accuracy,
        image_size,
        patch_size,
        classes,
        fresh_classes,
    } = model;
    // Nothing maps a tensor yet.
    let inheritance = proto::Inheritance { copied, repeated, sliced, resized, mapped: 0, fresh, mixed };
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
        inheritance: Some(inheritance),
        untrained_width,
        expected_accuracy,
        image_size,
        patch_size,
        classes,
        fresh_classes,
    }
}

/// Progress as a message.
pub(super) const fn progress(progress: Progress) -> proto::TuningProgress {
    let Progress { step, total_steps, loss } = progress;
    proto::TuningProgress { step, total_steps, loss }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn absent_fields_are_the_trained_ones() {
        let (request, chunk_bytes) = model_request(proto::InitModelRequest::default()).unwrap();
        assert_eq!(request, ModelRequest::default());
        assert_eq!(chunk_bytes, DEFAULT_CHUNK_BYTES);
    }

    #[test]
    fn unknown_values_are_refused_and_chunks_are_clamped() {
        let refused = [
            proto::InitModelRequest { dtype: 99, ..Default::default() },
            proto::InitModelRequest { depth_rule: -1, ..Default::default() },
            proto::InitModelRequest { layout: 3, ..Default::default() },
            proto::InitModelRequest { fine_tune: Some(proto::FineTune::default()), ..Default::default() },
        ];
        for message in refused {
            assert_eq!(model_request(message).unwrap_err().kind(), Kind::Invalid);
        }
        for (asked, given) in [(1, 64 << 10), (u32::MAX, 3 << 20), (100_000, 100_000)] {
            let message = proto::InitModelRequest { max_chunk_bytes: asked, ..Default::default() };
            assert_eq!(model_request(message).unwrap().1, given);
        }
    }
}
