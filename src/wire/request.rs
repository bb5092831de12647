//! `InitModelRequest` and `DownloadModelRequest`: [`ModelRequest`], and which bytes of the model are wanted.

use prost::Message as _;

use crate::{
    bank::{Length, ModelRequest, Tune},
    digest::Digest,
    error::{Error, Result},
    gene::{Head, SizeRequest, Start, Target},
    proto,
};

use super::choice::{
    depth_rule_from_proto, depth_rule_to_proto, dtype_from_proto, dtype_to_proto, layout_from_proto,
    layout_to_proto, method_from_proto, method_to_proto,
};

/// Limits of a chunk, bytes: above the cost of a message, below the 4 MiB that clients accept by default.
const CHUNK_BYTES: (usize, usize) = (64 << 10, 3 << 20);
/// Chunk of a request that names none, bytes.
const DEFAULT_CHUNK_BYTES: usize = 1 << 20;

/// Which bytes of a model are wanted, and in what chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Largest chunk, bytes.
    pub(crate) chunk_bytes: usize,
    /// First byte.
    pub(crate) offset: u64,
    /// What the model must be, for a client that has the bytes before `offset`.
    pub(crate) identity: Option<String>,
}

/// A request as a message. It leaves the length of chunks to the server.
///
/// # Errors
/// [`Error::Invalid`] for a number that the message cannot hold, and for a message that no server takes.
pub(crate) fn to_proto(request: &ModelRequest) -> Result<proto::InitModelRequest> {
    let ModelRequest { gene, size, target, start: Start { method, seed }, layout, tune } = request;
    let SizeRequest { depth, width, rule, dtype, allow_untrained_width } = size;
    let Target { image_size, patch_size, head } = target;
    let message = proto::InitModelRequest {
        gene: gene.clone(),
        depth: number("depth", *depth)?,
        width: number("width", *width)?,
        dtype: dtype_to_proto(*dtype).into(),
        depth_rule: depth_rule_to_proto(*rule).into(),
        allow_untrained_width: *allow_untrained_width,
        max_chunk_bytes: 0,
        fine_tune: tune.clone().map(tune_to_proto),
        image_size: number("image_size", *image_size)?,
        patch_size: number("patch_size", *patch_size)?,
        head: head.clone().map(|Head { labels, seed }| proto::Head { labels, seed }),
        method: method_to_proto(*method).into(),
        method_seed: *seed,
        layout: layout_to_proto(*layout).into(),
    };
    let (found, limit) = (message.encoded_len(), proto::MAX_REQUEST_BYTES);
    if found > limit {
        let reason = format!("{found} bytes are beyond the {limit} that a server takes");
        return Err(Error::invalid("request", reason));
    }
    Ok(message)
}

fn number(field: &str, value: Option<u64>) -> Result<Option<u32>> {
    let fits = |value| {
        u32::try_from(value).map_err(|_| Error::invalid(field, format!("{value} is beyond 2^32 - 1")))
    };
    value.map(fits).transpose()
}

/// What a message asks for: a model, and all of its bytes.
///
/// # Errors
/// [`Error::Invalid`] for a value that the protocol does not know, and for tuning without a length.
pub(crate) fn from_proto(message: proto::InitModelRequest) -> Result<(ModelRequest, Part)> {
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
    let size = SizeRequest {
        depth: depth.map(u64::from),
        width: width.map(u64::from),
        rule: depth_rule_from_proto(depth_rule)?,
        dtype: dtype_from_proto(dtype)?,
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
    let start = Start { method: method_from_proto(method)?, seed: method_seed };
    let layout = layout_from_proto(layout)?;
    let tune = fine_tune.map(tune_from_proto).transpose()?;
    let request = ModelRequest { gene, size, target, start, layout, tune };
    Ok((request, Part { chunk_bytes, offset: 0, identity: None }))
}

/// The rest of the model called `identity`, which `model` began, from byte `offset` on.
pub(crate) const fn rest_to_proto(
    model: proto::InitModelRequest,
    identity: String,
    offset: u64,
) -> proto::DownloadModelRequest {
    proto::DownloadModelRequest { model: Some(model), identity, offset }
}

/// What a message asks for: a model, and those of its bytes that the client does not have.
///
/// # Errors
/// Those of [`from_proto`]; [`Error::Invalid`] without a model, and for an identity that is not one.
pub(crate) fn rest_from_proto(message: proto::DownloadModelRequest) -> Result<(ModelRequest, Part)> {
    let proto::DownloadModelRequest { model, identity, offset } = message;
    let model = model.ok_or_else(|| Error::invalid("model", "give the request that began the download"))?;
    if identity.parse::<Digest>().is_err() {
        let reason = "must be the 64 hexadecimal digits of ModelHeader.identity";
        return Err(Error::invalid("identity", reason));
    }
    let (request, part) = from_proto(model)?;
    Ok((request, Part { offset, identity: Some(identity), ..part }))
}

fn tune_to_proto(tune: Tune) -> proto::FineTune {
    let Tune { dataset, length, learning_rate_e9, seed } = tune;
    let length = match length {
        Length::Steps(steps) => proto::fine_tune::Length::Steps(steps),
        Length::Epochs(epochs) => proto::fine_tune::Length::Epochs(epochs),
    };
    // 0 is the recipe's rate.
    let learning_rate_e9 = learning_rate_e9.unwrap_or(0);
    proto::FineTune { dataset, learning_rate_e9, seed, length: Some(length) }
}

fn tune_from_proto(message: proto::FineTune) -> Result<Tune> {
    let proto::FineTune { dataset, learning_rate_e9, seed, length } = message;
    let length = match length {
        Some(proto::fine_tune::Length::Steps(steps)) => Length::Steps(steps),
        Some(proto::fine_tune::Length::Epochs(epochs)) => Length::Epochs(epochs),
        None => return Err(Error::invalid("fine_tune.length", "give steps or epochs")),
    };
    let learning_rate_e9 = (learning_rate_e9 != 0).then_some(learning_rate_e9);
    Ok(Tune { dataset, length, learning_rate_e9, seed })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{collection::vec, option, prelude::*, sample::select};
    use strum::VariantArray as _;

    use super::*;
    use crate::{
        error::Kind,
        export::Layout,
        gene::{DepthRule, Method},
        tensor::Dtype,
    };

    fn tunes() -> impl Strategy<Value = Tune> {
        let length = prop_oneof![any::<u32>().prop_map(Length::Steps), any::<u32>().prop_map(Length::Epochs)];
        let rate = option::of(1..=u64::MAX);
        (any::<String>(), length, rate, any::<u64>()).prop_map(|(dataset, length, learning_rate_e9, seed)| {
            Tune { dataset, length, learning_rate_e9, seed }
        })
    }

    fn numbers() -> impl Strategy<Value = Option<u64>> {
        option::of(any::<u32>().prop_map(u64::from))
    }

    /// Any request without tuning that a message can hold.
    pub(in crate::wire) fn requests() -> impl Strategy<Value = ModelRequest> {
        let size = (
            numbers(),
            numbers(),
            select(vec![DepthRule::Trained, DepthRule::Cyclic]),
            select(Dtype::VARIANTS.to_vec()),
            any::<bool>(),
        );
        let size = size.prop_map(|(depth, width, rule, dtype, allow_untrained_width)| SizeRequest {
            depth,
            width,
            rule,
            dtype,
            allow_untrained_width,
        });
        let head =
            (vec(any::<String>(), 0..4), any::<u64>()).prop_map(|(labels, seed)| Head { labels, seed });
        let target = (numbers(), numbers(), option::of(head));
        let target =
            target.prop_map(|(image_size, patch_size, head)| Target { image_size, patch_size, head });
        let start = (select(Method::VARIANTS.to_vec()), any::<u64>());
        let start = start.prop_map(|(method, seed)| Start { method, seed });
        (any::<String>(), size, target, start, select(Layout::VARIANTS.to_vec())).prop_map(
            |(gene, size, target, start, layout)| ModelRequest {
                gene,
                size,
                target,
                start,
                layout,
                tune: None,
            },
        )
    }

    proptest! {
        #[test]
        fn a_request_comes_back(
            request in requests(),
            tune in option::of(tunes()),
            identity in "[0-9a-f]{64}",
            offset in any::<u64>(),
        ) {
            let request = ModelRequest { tune, ..request };
            let message = to_proto(&request).unwrap();
            let whole = Part { chunk_bytes: DEFAULT_CHUNK_BYTES, offset: 0, identity: None };
            prop_assert_eq!(from_proto(message.clone()).unwrap(), (request.clone(), whole.clone()));
            let rest = Part { offset, identity: Some(identity.clone()), ..whole };
            prop_assert_eq!(rest_from_proto(rest_to_proto(message, identity, offset)).unwrap(), (request, rest));
        }
    }

    #[test]
    fn absent_fields_are_the_trained_ones() {
        let (request, part) = from_proto(proto::InitModelRequest::default()).unwrap();
        assert_eq!(request, ModelRequest::default());
        assert_eq!(part.chunk_bytes, DEFAULT_CHUNK_BYTES);
    }

    #[test]
    fn unknown_values_are_refused_and_chunks_are_clamped() {
        let refused = [
            proto::InitModelRequest { dtype: 99, ..Default::default() },
            proto::InitModelRequest { depth_rule: -1, ..Default::default() },
            proto::InitModelRequest { method: 6, ..Default::default() },
            proto::InitModelRequest { layout: 3, ..Default::default() },
            proto::InitModelRequest { fine_tune: Some(proto::FineTune::default()), ..Default::default() },
        ];
        for message in refused {
            assert_eq!(from_proto(message).unwrap_err().kind(), Kind::Invalid);
        }
        for (asked, given) in [(1, 64 << 10), (u32::MAX, 3 << 20), (100_000, 100_000)] {
            let message = proto::InitModelRequest { max_chunk_bytes: asked, ..Default::default() };
            assert_eq!(from_proto(message).unwrap().1.chunk_bytes, given);
        }
    }

    #[test]
    fn what_no_message_holds_and_no_server_takes_is_refused() {
        let deep = SizeRequest { depth: Some(1 << 32), ..SizeRequest::default() };
        let error = to_proto(&ModelRequest { size: deep, ..ModelRequest::default() }).unwrap_err();
        assert!(error.to_string().contains("2^32 - 1"), "{error}");
        let gene = "x".repeat(proto::MAX_REQUEST_BYTES);
        let error = to_proto(&ModelRequest { gene, ..ModelRequest::default() }).unwrap_err();
        assert!(error.to_string().contains("that a server takes"), "{error}");
    }
}
