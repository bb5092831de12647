//! Laws of blueprints: the two executors agree bit for bit, and every size gives the model that it announces.

use std::sync::Arc;

use candle_core::{CpuStorage, Device, Storage, Tensor};
use genebank::{
    blueprint::{
        Blueprint, Entry, Identity, Inheritance, ModelInfo, Piece, Resident, Resize, Row, Slices, Source,
        Span, assemble::assemble, expand,
    },
    gene::{DepthRule, Learngene, SizeRequest, meta},
    nn::Vit,
    tensor::{Dtype, Init, TensorFile, Weights, matrix_view},
};
use proptest::prelude::*;
use strum::VariantArray as _;

use crate::support;

fn gene() -> Learngene {
    let file = TensorFile::from_bytes(support::gene_bytes().into(), "test").unwrap();
    Learngene::from_file(file, "test").unwrap()
}

/// The assembled file of `blueprint`, and its tensors by name.
fn assembled(blueprint: &Blueprint, file: &TensorFile) -> TensorFile {
    let artifact = assemble(blueprint, &Slices::new(file.clone(), 24)).unwrap();
    let bytes: Vec<u8> = artifact.parts().flat_map(|part| part.to_vec()).collect();
    assert_eq!(bytes.len() as u64, artifact.size_bytes());
    TensorFile::from_bytes(bytes.into(), "assembled").unwrap()
}

/// Asserts that both executors give the same bytes.
fn assert_executors_agree(blueprint: &Blueprint, file: &TensorFile) {
    let assembled = assembled(blueprint, file);
    let expanded = expand(blueprint, &Weights::from_file(file, &Device::Cpu).unwrap(), &Device::Cpu).unwrap();
    assert_weights(blueprint, &expanded, &assembled);
    assert_weights(blueprint, &materialized(blueprint, file, &Device::Cpu), &assembled);
}

fn materialized(blueprint: &Blueprint, file: &TensorFile, device: &Device) -> Weights {
    Resident::new(file, device, meta::stage_of).unwrap().materialize(blueprint).unwrap()
}

fn assert_weights(blueprint: &Blueprint, expanded: &Weights, assembled: &TensorFile) {
    assert_eq!(expanded.len(), blueprint.entries.len());
    for entry in &blueprint.entries {
        let tensor = expanded.get(&entry.name).unwrap();
        assert_eq!(tensor.dtype(), entry.dtype.to_candle());
        // If the other executor cast the value from f32, the upcast is exact, and casting again gives the same bits.
        let single: Weights = [(entry.name.clone(), tensor.clone())].into_iter().collect();
        let (_, bytes) = single.to_bytes(entry.dtype).unwrap().pop().unwrap();
        let other = assembled.tensor(&entry.name).unwrap();
        assert_eq!(bytes.shape, other.shape, "{}", entry.name);
        assert_eq!(bytes.bytes, other.bytes, "{}", entry.name);
    }
}

fn dtype() -> impl Strategy<Value = Dtype> {
    prop::sample::select(Dtype::VARIANTS.to_vec())
}

fn span(length: usize) -> impl Strategy<Value = Span> {
    (0..length).prop_flat_map(move |start| (start + 1..=length).prop_map(move |end| Span::new(start, end)))
}

/// A random tensor of the test gene, from each kind of source.
fn entry(index: usize) -> impl Strategy<Value = Entry> {
    let gene = gene();
    let stored: Vec<(String, Vec<usize>)> =
        gene.file().shapes().map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect();
    let pieces = prop::sample::select(stored.clone()).prop_flat_map(|(tensor, shape)| {
        let of = matrix_view(&shape);
        (prop::collection::vec(span(of[0]), 1..4), span(of[1])).prop_map(move |(rows, cols)| {
            let piece = |rows| Piece { tensor: tensor.clone(), of, rows, cols };
            let pieces: Vec<_> = rows.into_iter().map(piece).collect();
            let rows = pieces.iter().map(|piece| piece.rows.len()).sum();
            (vec![rows, cols.len()], Source::Pieces(pieces))
        })
    });
    let selected = prop::sample::select(stored.clone()).prop_flat_map(|(tensor, shape)| {
        let of = matrix_view(&shape);
        let indices = |of: usize| prop::collection::vec(0..of as u32, 1..5);
        (indices(of[0]), indices(of[1])).prop_map(move |(rows, cols)| {
            (vec![rows.len(), cols.len()], Source::Selected { tensor: tensor.clone(), of, rows, cols })
        })
    });
    let fresh =
        (1usize..9, 1usize..9, any::<u64>(), 1u32..1_000_000_000).prop_map(|(rows, cols, seed, std_e9)| {
            (vec![rows, cols], Source::Fresh { init: Init::TruncNormal { std_e9 }, seed })
        });
    let mixed = prop::sample::select(stored).prop_flat_map(|(tensor, shape)| {
        let of = matrix_view(&shape);
        let row = prop_oneof![(0..of[0]).prop_map(Row::Kept), "[a-d]".prop_map(Row::Fresh)];
        let parts = (prop::collection::vec(row, 1..6), span(of[1]), any::<u64>(), 1u32..1_000_000_000);
        parts.prop_map(move |(rows, cols, seed, std_e9)| {
            let piece = Piece { cols, ..Piece::whole(&tensor, &shape) };
            let shape = vec![rows.len(), cols.len()];
            (shape, Source::Rows { piece, rows, init: Init::TruncNormal { std_e9 }, seed })
        })
    });
    // The test gene has 2 x 2 patches of 4 x 4 pixels.
    let positions = (span(24), 1usize..5).prop_map(|(cols, to)| {
        let piece = Piece { cols, ..Piece::whole("pos_embed", &[1, 5, 24]) };
        let resize = Resize::Positions { from: 2, to };
        (vec![1, 1 + to * to, cols.len()], Source::Resized { piece, resize })
    });
    let kernels = (span(24), 1usize..9).prop_map(|(rows, to)| {
        let piece = Piece { rows, ..Piece::whole("patch_embed.proj.weight", &[24, 1, 4, 4]) };
        (vec![rows.len(), 1, to, to], Source::Resized { piece, resize: Resize::Kernels { from: 4, to } })
    });
    let sources =
        prop_oneof![4 => pieces, 1 => selected, 1 => fresh, 1 => mixed, 1 => positions, 1 => kernels];
    (sources, dtype()).prop_map(move |((shape, source), dtype)| Entry {
        name: format!("tensor.{index}"),
        shape,
        dtype,
        source,
    })
}

fn info() -> ModelInfo {
    gene().blueprint(&SizeRequest::default()).unwrap().info
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn executors_agree_on_random_blueprints(entries in (entry(0), entry(1), entry(2), entry(3))) {
        let entries = vec![entries.0, entries.1, entries.2, entries.3];
        let blueprint = Blueprint { identity: Identity::form("test").into(), info: info(), entries, has_record: true };
        assert_executors_agree(&blueprint, gene().file());
    }

    #[test]
    fn executors_agree_on_every_size(depth in 1u64..=20, width in 1u64..=3, dtype in dtype(), cyclic in any::<bool>()) {
        let rule = if cyclic { DepthRule::Cyclic } else { DepthRule::Trained };
        let size = SizeRequest { depth: Some(depth), width: Some(8 * width), rule, dtype, allow_untrained_width: true };
        let gene = gene();
        let blueprint = gene.blueprint(&size).unwrap();
        assert_executors_agree(&blueprint, gene.file());
        // Names and shapes match the schema, and the file's record describes the model.
        let config = blueprint.info.config;
        let found: Vec<_> = blueprint.entries.iter().map(|e| (e.name.clone(), e.shape.clone())).collect();
        prop_assert_eq!(config.schema().shapes(), found);
        let file = assembled(&blueprint, gene.file());
        prop_assert_eq!(ModelInfo::from_file(&file, "test").unwrap(), blueprint.info);
    }
}

#[test]
fn fresh_models_agree_too() {
    assert_executors_agree(&Blueprint::fresh(info(), 3), gene().file());
}

/// Logits of the model as served: assembled, and read back from its bytes.
fn served_logits(gene: &Learngene, size: &SizeRequest, images: &Tensor) -> Vec<f32> {
    let blueprint = gene.blueprint(size).unwrap();
    let weights = Weights::from_file(&assembled(&blueprint, gene.file()), &Device::Cpu).unwrap();
    logits(&Vit::new(*blueprint.info.config.vit().unwrap(), &weights).unwrap(), images)
}

fn logits(model: &Vit, images: &Tensor) -> Vec<f32> {
    model.forward(images).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn images(gene: &Learngene) -> Tensor {
    match genebank::gene::Probe::input(99, 5, &gene.meta().config).unwrap() {
        genebank::nn::Input::Images(images) => images,
        genebank::nn::Input::Texts(_) => panic!("the gene is one of images"),
    }
}

#[test]
fn the_trained_depth_is_the_auxiliary_model_bit_for_bit() {
    let gene = gene();
    let images = images(&gene);
    let auxiliary = genebank::gene::store::blueprint(gene.meta(), &SizeRequest::default()).unwrap();
    // Over variables, as in training, the graph must not change a bit either.
    let params =
        genebank::tensor::Params::new(&Weights::from_file(gene.file(), &Device::Cpu).unwrap()).unwrap();
    let tape = params.tape(false, std::sync::Arc::default()).unwrap();
    let learned = expand(&auxiliary, &params.weights(&tape).unwrap(), &Device::Cpu).unwrap();
    let expected = logits(&Vit::new(*auxiliary.info.config.vit().unwrap(), &learned).unwrap(), &images);
    let served = served_logits(&gene, &SizeRequest::default(), &images);
    assert_eq!(
        served.iter().map(|l| l.to_bits()).collect::<Vec<_>>(),
        expected.iter().map(|l| l.to_bits()).collect::<Vec<_>>()
    );
    assert_ne!(
        served_logits(&gene, &SizeRequest { depth: Some(4), ..SizeRequest::default() }, &images),
        expected
    );
}

#[test]
fn depth_costs_no_memory() {
    let gene = gene();
    let slices = Slices::new(gene.file().clone(), 24);
    let memory = gene.file().bytes().as_ptr_range();
    for depth in 1..=20 {
        let blueprint =
            gene.blueprint(&SizeRequest { depth: Some(depth), ..SizeRequest::default() }).unwrap();
        let artifact = assemble(&blueprint, &slices).unwrap();
        for part in artifact.parts().skip(1) {
            assert!(memory.contains(&part.as_ptr()), "a tensor was copied at depth {depth}");
        }
    }
}

#[test]
fn a_narrower_tensor_is_a_slice_of_the_wider() {
    let gene = gene();
    let blueprint = gene
        .blueprint(&SizeRequest { width: Some(8), allow_untrained_width: true, ..SizeRequest::default() })
        .unwrap();
    let narrow = Weights::from_file(&assembled(&blueprint, gene.file()), &Device::Cpu).unwrap();
    let wide = Weights::from_file(gene.file(), &Device::Cpu).unwrap();
    let rows = |w: &Weights, name: &str| w.tensor(name).unwrap().to_vec2::<f32>().unwrap();
    let (narrow, wide) = (rows(&narrow, "blocks.1.attn.qkv.weight"), rows(&wide, "stages.1.attn.qkv.weight"));
    for (i, row) in narrow.iter().enumerate() {
        // q, k and v are three groups of 24 rows. The first 8 rows of each are kept.
        assert_eq!(row[..], wide[(i / 8) * 24 + i % 8][..8]);
    }
}

#[test]
fn the_report_counts_every_tensor_once() {
    let gene = gene();
    let report = |depth, width| {
        let size = SizeRequest {
            depth: Some(depth),
            width: Some(width),
            allow_untrained_width: true,
            ..SizeRequest::default()
        };
        Inheritance::of(&gene.blueprint(&size).unwrap())
    };
    assert_eq!(report(3, 24), Inheritance { copied: 8 + 3 * 12, ..Inheritance::default() });
    assert_eq!(report(4, 24), Inheritance { copied: 8 + 2 * 12, repeated: 2 * 12, ..Inheritance::default() });
    // The head's bias has the same length at every width, and a trained width has its own norms.
    let own = 2 + 3 * 4;
    assert_eq!(
        report(3, 8),
        Inheritance { copied: 1 + own, sliced: 7 + 3 * 12 - own, ..Inheritance::default() }
    );
    assert_eq!(report(3, 16), Inheritance { copied: 1, sliced: 7 + 3 * 12, ..Inheritance::default() });
}

#[test]
fn chunks_give_back_the_file_at_any_size_and_offset() {
    let gene = gene();
    let blueprint = gene.blueprint(&SizeRequest { depth: Some(5), ..SizeRequest::default() }).unwrap();
    let artifact = Arc::new(assemble(&blueprint, &Slices::new(gene.file().clone(), 24)).unwrap());
    let whole: Vec<u8> = artifact.parts().flat_map(|part| part.to_vec()).collect();
    for (start, end, size) in
        [(0, u64::MAX, 1000), (17, 5000, 1), (whole.len() as u64 - 1, u64::MAX, 7), (40, 40, 9)]
    {
        let mut at = start;
        let mut bytes = Vec::new();
        for (offset, chunk) in artifact.clone().chunks(start..end, size) {
            assert_eq!(offset, at);
            assert!((1..=size).contains(&chunk.len()));
            at += chunk.len() as u64;
            bytes.extend_from_slice(&chunk);
        }
        assert_eq!(bytes, whole[start as usize..(end.min(whole.len() as u64)) as usize]);
    }
}

#[test]
fn a_gpu_gives_the_same_bytes() {
    let Some(device) = support::gpu() else { return };
    let gene = gene();
    for (depth, width, dtype) in
        [(8, 24, Dtype::F32), (5, 16, Dtype::F32), (11, 8, Dtype::Bf16), (3, 24, Dtype::F16)]
    {
        let size = SizeRequest {
            depth: Some(depth),
            width: Some(width),
            dtype,
            allow_untrained_width: true,
            ..SizeRequest::default()
        };
        let blueprint = gene.blueprint(&size).unwrap();
        let weights = materialized(&blueprint, gene.file(), &device);
        assert_weights(&blueprint, &weights, &assembled(&blueprint, gene.file()));
    }
}

/// The addresses of the allocation that holds a tensor's values.
fn memory(tensor: &Tensor) -> std::ops::Range<*const f32> {
    let (storage, _) = tensor.storage_and_layout();
    let Storage::Cpu(CpuStorage::F32(values)) = &*storage else {
        panic!("the values are not f32 on the CPU")
    };
    values.as_ptr_range()
}

/// A copy that shared the gene's memory would change the gene when it is trained in place.
#[test]
fn a_model_of_a_resident_gene_shares_no_memory_with_it() {
    let gene = gene();
    let resident = gene.resident(&Device::Cpu).unwrap();
    let all = |depth| {
        let size = SizeRequest { depth: Some(depth), ..SizeRequest::default() };
        let weights = resident.materialize(&gene.blueprint(&size).unwrap()).unwrap();
        let tensors: Vec<_> =
            weights.iter().map(|(name, w)| (name.to_owned(), w.tensor().unwrap())).collect();
        tensors
    };
    // Memory that two models share is the gene's.
    let (first, second) = (all(5), all(5));
    for ((name, a), (other, b)) in first.iter().flat_map(|a| second.iter().map(move |b| (a, b))) {
        let (a, b) = (memory(a), memory(b));
        assert!(a.end <= b.start || b.end <= a.start, "{name} and {other} share memory");
    }
}
