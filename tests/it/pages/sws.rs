//! `docs/results/sws/README.md` and the card of `fashion-s`.

use std::path::Path;

use genebank::gene::Learngene;

use super::{Row, grouped, least_and_most, mean, page::Page, percent, points, rows, sampling, seeds};

const WIDTH: usize = 96;
const SERVED: &str = "gene, as served";

fn figure(rows: &[Row], arm: &str, depth: usize, epochs: u32) -> Option<f64> {
    Some(seeds(rows, arm, [depth, WIDTH], epochs)).filter(|found| !found.is_empty()).map(|found| mean(&found))
}

fn shown(figure: Option<f64>) -> String {
    figure.map_or_else(String::new, |figure| format!("{} ", percent(figure)))
}

pub(super) fn readme_rows() -> Vec<String> {
    let rows = rows("sws");
    let name = |depth: usize| if depth == 8 { "8, the trained depth".to_owned() } else { depth.to_string() };
    let row = |depth: usize| {
        let cells = [(SERVED, 0), ("gene, tuned", 1), ("scratch", 5)];
        let cells = cells.map(|(arm, epochs)| percent(figure(&rows, arm, depth, epochs).unwrap()));
        format!("| {} | {} |", name(depth), cells.join(" | "))
    };
    [4, 8, 12].into_iter().map(row).collect()
}

pub(super) fn page() -> Page {
    let mut page = Page::open("docs/results/sws/README.md");
    let rows = rows("sws");
    let row = |depth: usize| {
        let cells = [(SERVED, 0), ("gene, tuned", 1), ("scratch", 1), ("scratch", 5)];
        let cells = cells.map(|(arm, epochs)| format!(" {}|", shown(figure(&rows, arm, depth, epochs))));
        format!("| {depth} |{}", cells.concat())
    };
    page.table(
        "| depth | gene, as served | gene, tuned, 1 epoch | scratch, 1 epoch | scratch, 5 epochs |\n| ---: | ---: | ---: | ---: | ---: |",
        &(1..=24).map(row).collect::<Vec<_>>(),
    );
    let served = |depth| figure(&rows, SERVED, depth, 0).unwrap();
    let tuned = |depth| figure(&rows, "gene, tuned", depth, 1).unwrap();
    let scratch = |depth| figure(&rows, "scratch", depth, 5).unwrap();
    let ancestor = 0.8947;
    page.fact("The ancestor has 89.47.");
    let worst = (5..=11).map(|depth| (served(depth) - ancestor).abs()).fold(0.0, f64::max);
    page.states(
        "depths 5 to 11 lie within {} points of the ancestor (89.47); the trained depth, 8, is {} points above it.",
        &[points(worst), points(served(8) - ancestor)],
    );
    let (least, most) = least_and_most((4..=12).map(tuned));
    page.states("every depth from 4 to 12 has {} to {}.", &[percent(least), percent(most)]);
    let (low, high) = least_and_most([4, 8, 12].into_iter().map(scratch));
    let behind = [4, 8, 12].map(|depth| points(tuned(depth) - scratch(depth)));
    let numbers = [vec![points(low), points(high)], behind.to_vec()].concat();
    page.states("reach {} to {}: {}, {} and {} points less at depths 4, 8 and 12.", &numbers);
    page.states(
        "As served, depth 4 is {} points below depth 8, depth 3 is {} points below, and depths 1 and 2 are {} and {}.",
        &[points(served(8) - served(4)), points(served(8) - served(3)), points(served(8) - served(1)), points(served(8) - served(2))],
    );
    let (least, most) = least_and_most((12..=19).map(|depth| served(8) - served(depth)));
    let (far_least, far_most) = least_and_most((20..=24).map(|depth| served(8) - served(depth)));
    page.states(
        "where the middle stages repeat three times instead of two, models are {} to {} points below depth 8 as served, and from depth 20 on {} to {} points.",
        &[points(least), points(most), points(far_least), points(far_most)],
    );
    let (least, most) = least_and_most((7..=11).map(|depth| tuned(depth) - served(depth)));
    page.states(
        "at depths 7 to 11 one epoch changes accuracy by {} to {} points,",
        &[points(least), format!("{:+.1}", most * 100.0)],
    );
    page.states("error of one accuracy on 10,000 images is {} points.", &[points(sampling(0.89))]);
    page.fact("after 17 epochs, has 89.47.");
    page.fact("weight decay 0.05, clipping at 1 and label smoothing 0.1.");
    page
}

pub(super) fn card() -> Page {
    let mut page = Page::open("models/fashion-s.md");
    let rows = rows("sws");
    let row = |depth: usize| {
        let cells = [(SERVED, 0), ("gene, tuned", 1), ("scratch", 5)];
        let cells = cells.map(|(arm, epochs)| format!(" {}|", shown(figure(&rows, arm, depth, epochs))));
        format!("| {depth} |{}", cells.concat())
    };
    page.table(
        "| depth | as served | one epoch of tuning | scratch, five epochs |\n| ---: | ---: | ---: | ---: |",
        &(1..=24).map(row).collect::<Vec<_>>(),
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fashion-s.safetensors");
    let gene = Learngene::open(&path).unwrap();
    page.states("| digest | `{}` |", &[gene.digest().to_owned()]);
    let parameters: u64 = gene.file().tensors().map(|(_, t)| t.shape.iter().product::<usize>() as u64).sum();
    let apart: u64 = rows.iter().filter(|row| row.arm == SERVED).map(|row| row.parameters).sum();
    page.states(
        "Stored separately, the models of depths 1 to 24 would hold {} parameters: {} times as many as the gene.",
        &[grouped(apart), (apart / parameters).to_string()],
    );
    page.fact("The teacher has 89.47.");
    page.fact("accuracy after each step: 87.84, 89.76 and 89.90 per cent.");
    page
}
