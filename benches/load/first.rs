//! Time to the first byte of models that nobody has requested before, of HEAD, and of the list of files with digests.

use crate::{
    Gene, Outcome, Size,
    clients::{Connection, ask},
    quartiles,
    server::Server,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    gene: Gene,
    /// The gene's full width.
    #[arg(long)]
    width: u32,
    /// Narrower widths to measure.
    #[arg(long, value_delimiter = ',')]
    widths: Vec<u32>,
    /// Largest depth to request; all depths from 1 are requested.
    #[arg(long, default_value_t = 40)]
    depths: u32,
    /// Number of fresh servers for each narrower width.
    #[arg(long, default_value_t = 5)]
    servers: usize,
}

pub(crate) fn run(options: &Options) -> Outcome<()> {
    let (gene, models) = (&options.gene, &options.gene.models);
    let (mut heads, mut bytes) = (Vec::new(), Vec::new());
    let server = Server::start(models, &[])?;
    // The list of genes warms the server up without making a model.
    let warm = |server: &Server| ask(&server.address, "GET", "/v1/genes", true).map(drop);
    warm(&server)?;
    for depth in 1..=options.depths {
        let path = gene.path(&Size { depth, width: options.width });
        // Each depth gets only one request, HEAD or GET, so it is always new.
        if depth % 2 == 0 {
            heads.push(ask(&server.address, "HEAD", &path, false)?.last.as_secs_f64() * 1e3);
        } else {
            bytes.push(ask(&server.address, "GET", &path, false)?.first.as_secs_f64() * 1e3);
        }
    }
    show("first byte of a new depth", &mut bytes);
    show("HEAD of a new depth", &mut heads);

    for width in &options.widths {
        let (mut times, mut heads, mut made) = (Vec::new(), Vec::new(), 0);
        for _ in 0..options.servers {
            let server = Server::start(models, &[])?;
            warm(&server)?;
            let size = |depth| gene.path(&Size { depth, width: *width });
            heads.push(ask(&server.address, "HEAD", &size(2), false)?.last.as_secs_f64() * 1e3);
            let (facts, _) = Connection::open(&server.address)?.gene(&gene.gene)?;
            let stages = u32::try_from(facts["stages"].as_array().ok_or("no stages")?.len())?;
            let answer = ask(&server.address, "GET", &size(stages), false)?;
            times.push(answer.first.as_secs_f64() * 1e3);
            // A model with as many layers as stages holds each new slice once.
            made = answer.length;
        }
        let limit = 50.0 + 1.5 * made as f64 / 1e6;
        show(
            &format!(
                "first byte of new width {width}, {:.1} MB of new slices, limit {limit:.0} ms",
                made as f64 / 1e6
            ),
            &mut times,
        );
        show(&format!("HEAD of new width {width}"), &mut heads);
    }

    let mut trees = Vec::new();
    for depth in [options.depths + 1, options.depths + 2, options.depths + 3] {
        let repository = format!("/api/models/genebank/{}-d{depth}-w{}/tree/main", gene.gene, options.width);
        trees.push(ask(&server.address, "GET", &repository, true)?.last.as_secs_f64() * 1e3);
    }
    let size = ask(
        &server.address,
        "HEAD",
        &gene.path(&Size { depth: options.depths + 3, width: options.width }),
        false,
    )?;
    show(&format!("list of files with SHA-256 of a new size, {} MB", size.length / 1_000_000), &mut trees);
    Ok(())
}

fn show(what: &str, milliseconds: &mut [f64]) {
    let [low, median, high] = quartiles(milliseconds);
    println!(
        "{what}: median {median:.2} ms, quartiles {low:.2} and {high:.2}, {} requests",
        milliseconds.len()
    );
}
