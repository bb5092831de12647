//! `Gene` and [`GeneSummary`].

use crate::{bank::GeneSummary, gene::Quality, proto};

use super::header::{metric_from_proto, metric_to_proto};

/// A gene as a message.
pub(crate) fn to_proto(gene: GeneSummary) -> proto::Gene {
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
        metric,
        dimension,
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
        quality: quality.into_iter().map(quality_to_proto).collect(),
        default,
        metric: metric.map_or(proto::Metric::Unspecified, metric_to_proto).into(),
        dimension,
    }
}

/// What a message says about a gene.
pub(crate) fn from_proto(gene: proto::Gene) -> GeneSummary {
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
        metric,
        dimension,
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
        quality: quality.into_iter().map(quality_from_proto).collect(),
        default,
        metric: metric_from_proto(metric),
        dimension,
    }
}

fn quality_to_proto(quality: Quality) -> proto::Quality {
    let Quality { depth, width, tuning_epochs, value, items } = quality;
    proto::Quality { depth: depth as u32, width: width as u32, tuning_epochs, value, items }
}

fn quality_from_proto(quality: proto::Quality) -> Quality {
    let proto::Quality { depth, width, tuning_epochs, value, items } = quality;
    Quality { depth: depth as usize, width: width as usize, tuning_epochs, value, items }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::blueprint::Metric;

    fn qualities() -> impl Strategy<Value = Quality> {
        let figure = |(depth, width, tuning_epochs, value, items): (u32, u32, u32, f64, Option<u64>)| {
            Quality { depth: depth as usize, width: width as usize, tuning_epochs, value, items }
        };
        any::<(u32, u32, u32, f64, Option<u64>)>().prop_map(figure)
    }

    proptest! {
        #[test]
        fn a_gene_comes_back(
            [name, digest, family, licence, data, teacher, recipe] in any::<[String; 7]>(),
            [trained_depth, trained_width, head_dim, min_depth, max_depth] in any::<[u32; 5]>(),
            [image_size, patch_size, channels] in any::<[u32; 3]>(),
            [stages, trained_widths] in any::<[Vec<u32>; 2]>(),
            labels in vec(any::<String>(), 0..4),
            size_bytes in any::<u64>(),
            quality in vec(qualities(), 0..4),
            [default, metric] in any::<[bool; 2]>(),
            dimension in any::<u32>(),
        ) {
            let gene = GeneSummary {
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
                metric: metric.then_some(Metric::Spearman),
                dimension,
            };
            prop_assert_eq!(from_proto(to_proto(gene.clone())), gene);
        }
    }
}
