//! Resident memory over requests that all differ.

use crate::{Gene, Outcome, clients::Connection, server::Server};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    gene: Gene,
    /// Number of requests.
    #[arg(long, default_value_t = 10_000)]
    requests: usize,
    /// Size of the server's cache, MiB.
    #[arg(long, default_value_t = 64)]
    cache_mib: u64,
}

/// The path of request `index`. Depth, width, element type, layout and classes are the digits of a mixed-radix number,
/// so no request repeats.
fn request(gene: &serde_json::Value, index: usize) -> Outcome<String> {
    let number = |name: &str| gene[name].as_u64().ok_or_else(|| format!("no {name}"));
    let widths = gene["trained_widths"].as_array().ok_or("no widths")?;
    let (least, most) = (number("min_depth")?, number("max_depth")?);
    let (mut rest, depths) = (index as u64, most - least + 1);
    let mut digit = |base: u64| {
        let digit = rest % base;
        rest /= base;
        digit
    };
    let depth = least + digit(depths);
    let width = &widths[digit(widths.len() as u64) as usize];
    let dtype = ["f32", "f16", "bf16"][digit(3) as usize];
    let layout = ["timm", "transformers"][digit(2) as usize];
    let name = gene["name"].as_str().ok_or("no name")?;
    // The last digit encodes a non-empty set of the gene's classes.
    let known = gene["labels"].as_array().ok_or("no labels")?;
    let set = rest + 1;
    if set >> known.len() != 0 {
        return Err(format!("the gene has no more than {index} distinct requests of this kind").into());
    }
    let chosen: Vec<_> =
        known.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1).map(|(_, label)| label).collect();
    let labels =
        form_urlencoded::byte_serialize(serde_json::to_string(&chosen)?.as_bytes()).collect::<String>();
    Ok(format!(
        "/v1/models/{name}/d{depth}-w{width}.safetensors?dtype={dtype}&layout={layout}&labels={labels}"
    ))
}

pub(crate) fn run(options: &Options) -> Outcome<()> {
    let server = Server::start(&options.gene.models, &["--cache-mib", &options.cache_mib.to_string()])?;
    let mut connection = Connection::open(&server.address)?;
    let (mut body, mut total) = (Vec::new(), 0);
    let (gene, stored) = connection.gene(&options.gene.gene)?;
    let before = server.resident()?;
    let (mut most, mut at) = (before, 0);
    for index in 0..options.requests {
        connection.get(&request(&gene, index)?, &mut body)?;
        total += body.len() as u64;
        if index % 50 == 0 || index + 1 == options.requests {
            let now = server.resident()?;
            if now > most {
                (most, at) = (now, index);
            }
        }
    }
    let limit = stored + (options.cache_mib << 20) + 100_000_000;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "{} distinct requests, {:.1} GB: resident memory {:.1} MB at first, at most {:.1} MB (request {at}), {:.1} MB at \
         last; genes {:.1} MB + cache {:.1} MB + 100 MB = {:.1} MB: {}",
        options.requests,
        total as f64 / 1e9,
        mb(before),
        mb(most),
        mb(server.resident()?),
        mb(stored),
        mb(options.cache_mib << 20),
        mb(limit),
        if most <= limit { "within" } else { "BEYOND" }
    );
    Ok(())
}
