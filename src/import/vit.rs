//! Vision transformers of timm and transformers: ViT, DeiT without its distilled token, and DINOv2 without registers.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use crate::{
    blueprint::{Blueprint, Entry, ModelInfo, Piece, Source, expand},
    error::{Context, Error, Result},
    export::names::{DINOV2, Names, TIMM, VIT},
    gene::meta::MAX_DEPTH,
    nn::{Role, Spec, VitConfig, vit::RawVitConfig},
    tensor::{Init, TensorBytes, Weight, Weights},
};

use super::{
    Checkpoint, Folded, Report,
    settings::{Hints, Settings, number, only},
};

/// Heads of timm's sizes, whose number stands in no file unless it was changed.
const HEADS: [(&str, usize); 7] =
    [("tiny", 3), ("small", 6), ("medium", 8), ("base", 12), ("large", 16), ("huge", 16), ("giant", 16)];

/// Arguments of timm's constructor that do not change the function at inference, or are read from the tensors.
const HARMLESS_ARGUMENTS: [&str; 20] = [
    "img_size",
    "patch_size",
    "in_chans",
    "num_classes",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "qkv_bias",
    "init_values",
    "drop_rate",
    "pos_drop_rate",
    "patch_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "weight_init",
    "fix_init",
    "dynamic_img_size",
    "strict_img_size",
];

/// Parts of names of tensors that this network cannot express, and why.
const UNSUPPORTED: [(&str, &str); 12] = [
    ("fc_norm.", "a norm after mean pooling (fc_norm); only the class token is classified"),
    ("attn_pool.", "attention pooling; only the class token is classified"),
    ("norm_pre.", "a norm before the blocks (norm_pre, as in CLIP)"),
    ("dist_token", "a distilled token (dist_token)"),
    ("distillation_token", "a distilled token (distillation_token)"),
    ("head_dist.", "a head of a distilled token (head_dist)"),
    ("reg_token", "register tokens (reg_token)"),
    ("register_tokens", "register tokens (register_tokens)"),
    ("q_norm.", "norms of queries and keys (q_norm, k_norm)"),
    ("k_norm.", "norms of queries and keys (q_norm, k_norm)"),
    ("mlp.weights_in.", "a gated MLP (SwiGLU)"),
    ("mlp.w12_", "a gated MLP (SwiGLU)"),
];

/// Parts of names of tensors that are no part of the function, and why.
const UNUSED: [(&str, &str); 3] = [
    ("position_ids", "numbers of positions"),
    ("mask_token", "replaces masked patches while pretraining"),
    ("pooler.", "a pooler, which the classifier does not read"),
];

/// The model in `checkpoint`.
pub(super) fn import(checkpoint: &Checkpoint, hints: &Hints) -> Result<(ModelInfo, Weights, Report)> {
    let names = library(checkpoint, hints)?;
    let found = Found { checkpoint, names };
    found.refuse_settings()?;
    let config = found.config(hints)?;
    let mut report = Report { architecture: names.what.to_owned(), ..Report::default() };
    let settings = Settings::read(checkpoint, config.channels(), config.classes(), &mut report)?;
    let schema = config.schema();
    let mut used = BTreeSet::new();
    let entries: Vec<_> = schema
        .specs()
        .iter()
        .map(|spec| found.entry(spec, &config, &mut used, &mut report))
        .collect::<Result<_>>()?;
    let scales: Vec<_> = entries.iter().filter_map(|entry| found.scale(&entry.name, &mut used)).collect();
    found.account_for_the_rest(&used, &mut report)?;

    let stored = found.weights(&used)?;
    let mut what = names.what.to_owned();
    if let Some(architecture) = found.architecture(hints) {
        what = format!("{what} {architecture}");
    }
    let info = settings.info(checkpoint, config.into(), &what);
    let blueprint = Blueprint { entries, ..Blueprint::whole(info) };
    report.parameters = blueprint.parameters();
    let mut weights = expand(&blueprint, &stored, &Device::Cpu)?;
    for (own, scale) in scales {
        let folded = fold(weights.get(&own)?, stored.get(&scale)?, &own)?;
        weights.insert(own.clone(), folded);
        report.folded.push(Folded { scale, into: own });
    }
    Ok((blueprint.info, weights, report))
}

/// The library whose names the tensors have.
fn library(checkpoint: &Checkpoint, hints: &Hints) -> Result<&'static Names> {
    let kind = checkpoint.config.as_ref().and_then(|config| config.get("model_type")).and_then(Value::as_str);
    let kind = hints.architecture.as_deref().or(kind);
    let has = |name: &str| checkpoint.tensors.contains_key(name);
    let named = |names: &Names| {
        has(names.class_token()) || names.class_token().strip_prefix(names.base).is_some_and(has)
    };
    let table = match kind {
        Some("dinov2") => &DINOV2,
        Some("vit") => &VIT,
        Some(other) if checkpoint.config.as_ref().is_some_and(|c| c.get("model_type").is_some()) => {
            let reason =
                format!("\"{other}\" is not a kind that is imported (vit, dinov2, bert, and timm's models)");
            return Err(Error::invalid("config.json: model_type", reason));
        }
        _ => &TIMM,
    };
    if named(table) {
        return Ok(table);
    }
    let reason = if kind.is_none() && (named(&VIT) || named(&DINOV2)) {
        "it has no config.json beside it: say what it is with --arch vit or --arch dinov2, and --heads"
            .to_owned()
    } else {
        format!("no tensor \"{}\": it is no vision transformer with a class token", table.class_token())
    };
    Err(Error::invalid(checkpoint.origin.clone(), reason))
}

/// A checkpoint in the names of a library.
struct Found<'a> {
    checkpoint: &'a Checkpoint,
    names: &'static Names,
}

impl Found<'_> {
    fn json(&self) -> Option<&Value> {
        self.checkpoint.config.as_ref()
    }

    /// timm's name of the architecture.
    fn architecture<'b>(&'b self, hints: &'b Hints) -> Option<&'b str> {
        let named = || self.json()?.get("architecture")?.as_str();
        hints
            .architecture
            .as_deref()
            .filter(|name| name.starts_with("vit_") || name.starts_with("deit"))
            .or_else(named)
    }

    /// The stored tensor of this full name of the library, in a model with or without a head.
    fn tensor(&self, name: &str) -> Option<(&str, &TensorBytes)> {
        let tensors = &self.checkpoint.tensors;
        let entry = |name: &str| tensors.get_key_value(name);
        let found = entry(name).or_else(|| entry(name.strip_prefix(self.names.base)?));
        found.map(|(name, tensor)| (name.as_str(), tensor))
    }

    fn shape(&self, own: &str) -> Result<&[usize]> {
        let names = self.names.of(own).unwrap_or_default();
        let name = names.first().map_or(own, String::as_str);
        let missing = || Error::MissingTensor { name: name.to_owned() };
        self.tensor(name).map(|(_, tensor)| tensor.shape.as_slice()).ok_or_else(missing)
    }

    /// Refuses what `config.json` says and no tensor shows.
    fn refuse_settings(&self) -> Result<()> {
        let json = self.json();
        only(json, "global_pool", &[json!("token"), json!("")], "pools otherwise than by the class token")?;
        only(json, "hidden_act", &[json!("gelu")], "is another activation than the erf-GELU")?;
        only(json, "act_layer", &[json!("gelu")], "is another activation than the erf-GELU")?;
        only(json, "use_swiglu_ffn", &[json!(false)], "is a gated MLP (SwiGLU)")?;
        only(json, "num_register_tokens", &[json!(0)], "register tokens cannot be expressed")?;
        only(json, "class_token", &[json!(true)], "leaves out the class token")?;
        only(json, "no_embed_class", &[json!(false)], "gives the class token no position")?;
        if let Some(architecture) = json.and_then(|json| json.get("architecture")).and_then(Value::as_str)
            && (architecture.contains("quickgelu") || architecture.contains("siglip"))
        {
            let reason = format!("{architecture} has another activation or pooling than ViT");
            return Err(Error::invalid("config.json: architecture", reason));
        }
        let arguments = json.and_then(|json| json.get("model_args")).and_then(Value::as_object);
        let checked = ["global_pool", "act_layer", "class_token", "no_embed_class"];
        let strange = arguments
            .into_iter()
            .flat_map(serde_json::Map::keys)
            .find(|key| !HARMLESS_ARGUMENTS.contains(&key.as_str()) && !checked.contains(&key.as_str()));
        strange.map_or(Ok(()), |key| {
            let reason = format!("\"{key}\" may change the function in a way that is not known here");
            Err(Error::invalid("config.json: model_args", reason))
        })
    }

    /// The shape of the network, from the shapes of its tensors; no tensor shows the number of heads.
    fn config(&self, hints: &Hints) -> Result<VitConfig> {
        use crate::nn::{
            schema::weight_of,
            vit::schema::{FC1, HEAD, PATCHES, POSITIONS, in_block},
        };
        let wrong = |name: &str, shape: &[usize], expected: &str| {
            Error::invalid(
                self.checkpoint.origin.clone(),
                format!("{name} has shape {shape:?}, not {expected}"),
            )
        };
        let kernel = self.shape(&weight_of(PATCHES))?;
        let [width, channels, patch_size, across] = *kernel else {
            return Err(wrong("the patch projection", kernel, "[width, channels, patch, patch]"));
        };
        if patch_size != across || patch_size == 0 {
            return Err(wrong("the patch projection", kernel, "one of square patches"));
        }
        let positions = self.shape(POSITIONS)?;
        let [1, tokens, _] = *positions else {
            return Err(wrong("the position embedding", positions, "[1, tokens, width]"));
        };
        let side = libm::sqrt(tokens.saturating_sub(1) as f64) as usize;
        if tokens != 1 + side * side || side == 0 {
            return Err(wrong("the position embedding", positions, "a class token and a square of patches"));
        }
        let depth = self.depth();
        let hidden = self.shape(&weight_of(&in_block(0, FC1)))?;
        let mlp_ratio = match hidden {
            [hidden, _] if width > 0 && hidden.is_multiple_of(width) => hidden / width,
            other => return Err(wrong("the MLP", other, "[a multiple of the width, width]")),
        };
        let classes = self.shape(&weight_of(HEAD)).ok().and_then(|shape| shape.first().copied());
        let raw = RawVitConfig {
            image_size: side.saturating_mul(patch_size),
            patch_size,
            channels,
            classes: classes.unwrap_or(0),
            depth,
            width,
            heads: self.heads(hints, width)?,
            mlp_ratio,
        };
        VitConfig::try_from(raw)?.with_norm_eps_e12(self.norm_eps()?)
    }

    /// Number of blocks.
    fn depth(&self) -> usize {
        let block = |index: usize| {
            let prefix = self.names.block_prefix(index);
            let bare = prefix.strip_prefix(self.names.base).unwrap_or(&prefix).to_owned();
            move |name: &String| name.starts_with(&prefix) || name.starts_with(&bare)
        };
        let tensors = &self.checkpoint.tensors;
        // One more than a network may have, so that the limit is named.
        (0..=MAX_DEPTH).take_while(|index| tensors.keys().any(block(*index))).count()
    }

    fn heads(&self, hints: &Hints, width: usize) -> Result<usize> {
        let json = self.json();
        let written = number(json, "num_heads").or_else(|| number(json, "num_attention_heads"));
        let by_name = || {
            let (_, rest) = self.architecture(hints)?.split_once('_')?;
            HEADS.iter().find(|(size, _)| rest.starts_with(size)).map(|(_, heads)| *heads)
        };
        let heads = hints.heads.or(written).or_else(by_name).ok_or_else(|| {
            Error::invalid("heads", "no file says how many attention heads there are; give --heads")
        })?;
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(Error::invalid("heads", format!("width {width} has no {heads} equal heads")));
        }
        Ok(heads)
    }

    /// Epsilon of the norms in units of 1e-12.
    fn norm_eps(&self) -> Result<u64> {
        let written = self.json().and_then(|json| json.get("layer_norm_eps"));
        let Some(written) = written.filter(|value| !value.is_null()) else {
            // transformers' default for ViT is 1e-12; timm's and DINOv2's is 1e-6.
            return Ok(if std::ptr::eq(self.names, &VIT) { 1 } else { 1_000_000 });
        };
        let eps = written.as_f64().filter(|eps| (1e-12..=1e-3).contains(eps));
        let eps = eps.ok_or_else(|| {
            Error::invalid("config.json: layer_norm_eps", format!("{written} is beyond 1e-12..=1e-3"))
        })?;
        Ok(libm::round(eps * 1e12) as u64)
    }

    /// The entry of parameter `spec`, made of tensors of the checkpoint.
    fn entry(
        &self,
        spec: &Spec,
        config: &VitConfig,
        used: &mut BTreeSet<String>,
        report: &mut Report,
    ) -> Result<Entry> {
        let shape = spec.shape(&config.dims());
        let names = self.names.of(&spec.name).unwrap_or_default();
        let parts: Vec<_> = names.iter().map(|name| self.tensor(name)).collect();
        let is_bias = matches!(spec.role, Role::Bias | Role::HeadBias);
        if is_bias && !names.is_empty() && parts.iter().all(Option::is_none) {
            report.zero.push(spec.name.clone());
            return Ok(zeros(spec, shape));
        }
        let mut pieces = Vec::with_capacity(parts.len());
        let mut expected = shape.clone();
        if let (Some(rows), count @ 2..) = (expected.first_mut(), names.len()) {
            *rows /= count;
        }
        for (name, part) in names.iter().zip(parts) {
            let Some((stored, tensor)) = part else {
                return Err(Error::MissingTensor { name: name.clone() });
            };
            if tensor.shape != expected {
                let (name, found) = (stored.to_owned(), tensor.shape.clone());
                return Err(Error::ShapeMismatch { name, expected, found });
            }
            pieces.push(Piece::whole(stored, &tensor.shape));
            used.insert(stored.to_owned());
            if stored == spec.name {
                report.taken += 1;
            } else {
                report.renamed.push(format!("{stored} -> {}", spec.name));
            }
        }
        let source = Source::Pieces(pieces);
        Ok(Entry { name: spec.name.clone(), shape, dtype: crate::tensor::Dtype::F32, source })
    }

    /// The parameter `own` and the stored LayerScale that multiplies its rows.
    fn scale(&self, own: &str, used: &mut BTreeSet<String>) -> Option<(String, String)> {
        let (stored, _) = self.tensor(&self.names.scale(own)?)?;
        used.insert(stored.to_owned());
        Some((own.to_owned(), stored.to_owned()))
    }

    /// Names what the function does not read, and refuses what it would have to.
    fn account_for_the_rest(&self, used: &BTreeSet<String>, report: &mut Report) -> Result<()> {
        let floats = self.checkpoint.tensors.keys().map(|name| (name, None));
        let others = self.checkpoint.others.iter().map(|(name, dtype)| (name, Some(dtype)));
        for (name, dtype) in floats.chain(others).filter(|(name, _)| !used.contains(*name)) {
            if let Some((_, why)) = UNUSED.iter().find(|(part, _)| name.contains(part)) {
                report.ignored.push(format!("{name}: {why}"));
                continue;
            }
            let known = UNSUPPORTED.iter().find(|(part, _)| name.contains(part));
            let why = match (known, dtype) {
                (Some((_, why)), _) => format!("it has {why}"),
                (None, Some(dtype)) => format!("it has dtype {dtype}, which no weight of this network has"),
                (None, None) => "it is no part of a vision transformer".to_owned(),
            };
            return Err(Error::invalid(format!("tensor \"{name}\""), why));
        }
        Ok(())
    }

    /// The tensors `used` in f32.
    fn weights(&self, used: &BTreeSet<String>) -> Result<Weights> {
        let tensors: BTreeMap<_, _> =
            self.checkpoint.tensors.iter().filter(|(name, _)| used.contains(*name)).collect();
        let weight = |(name, tensor): (&String, &TensorBytes)| {
            let values = tensor.dtype.read(&tensor.bytes);
            let tensor = Tensor::from_vec(values, tensor.shape.as_slice(), &Device::Cpu);
            Ok((name.clone(), tensor.and_then(|tensor| Weight::new(&tensor)).context(name)?))
        };
        tensors.into_iter().map(weight).collect()
    }
}

fn zeros(spec: &Spec, shape: Vec<usize>) -> Entry {
    let source = Source::Fresh { init: Init::Zeros, seed: 0 };
    Entry { name: spec.name.clone(), shape, dtype: crate::tensor::Dtype::F32, source }
}

/// `diag(scale) W`, in f64 and rounded once. As `x + γ ∘ (W a + b) = x + (diag(γ) W a + γ ∘ b)`, LayerScale (Touvron et
/// al. 2021, arXiv 2103.17239, eq. 3) is a part of the projection before it.
fn fold(weight: &Weight, scale: &Weight, name: &str) -> Result<Weight> {
    let values = |weight: &Weight| weight.tensor()?.flatten_all()?.to_vec1::<f32>();
    let (mut folded, scale) = (values(weight).context(name)?, values(scale).context(name)?);
    let rows = weight.dims().first().copied().unwrap_or_default();
    if scale.len() != rows || rows == 0 {
        let (expected, found) = (vec![rows], vec![scale.len()]);
        return Err(Error::ShapeMismatch { name: format!("the scale of {name}"), expected, found });
    }
    let columns = folded.len() / rows;
    for (row, scale) in folded.chunks_exact_mut(columns.max(1)).zip(&scale) {
        for value in row {
            *value = (f64::from(*value) * f64::from(*scale)) as f32;
        }
    }
    Tensor::from_vec(folded, weight.dims(), &Device::Cpu)
        .and_then(|tensor| Weight::new(&tensor))
        .context(name)
}
