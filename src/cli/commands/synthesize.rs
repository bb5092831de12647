//! `genebank synthesize`: writes a gene of seeded values.

use crate::{
    cli::{args, output},
    error::{Error, Result},
    gene::Synthetic,
    nn::{VitConfig, vit::RawVitConfig},
    tensor::codec,
};

pub(in crate::cli) fn run(options: &args::Synthesize) -> Result<()> {
    let stem = options.output.file_stem().and_then(|stem| stem.to_str());
    let Some(name) = stem.filter(|_| options.output.extension().is_some_and(|end| end == "safetensors"))
    else {
        let reason = format!("{} is not NAME.safetensors", options.output.display());
        return Err(Error::invalid("OUTPUT", reason));
    };
    let args::Synthesize { image_size, patch_size, channels, classes, depth, width, heads, .. } = *options;
    let raw = RawVitConfig { image_size, patch_size, channels, classes, depth, width, heads, mlp_ratio: 4 };
    let synthetic = Synthetic {
        name: name.to_owned(),
        config: VitConfig::try_from(raw)?,
        stages: options.stages,
        widths: options.widths.clone(),
        seed: options.seed,
    };
    let (gene, bytes) = synthetic.render()?;
    codec::write_atomic(&options.output, [bytes.as_ref()])?;
    output::talk(format_args!("{}: {} bytes of seeded values, sha256 {}", name, bytes.len(), gene.digest()));
    Ok(())
}
