//! `docs/results/any-size.md`, the card of `fashion-any`, and its figures in the README.

use std::path::Path;

use genebank::gene::{Forecasts, Learngene, Quality};

use super::{
    Row, error, grouped, least_and_most, mean, page::Page, percent, points, rows, sampling, seeds, spread,
};

const WIDTHS: [usize; 4] = [24, 48, 72, 96];
/// Depth and width of the sizes that were also made in other ways.
const COMPARED: [[usize; 2]; 4] = [[16, 24], [6, 48], [10, 72], [3, 96]];
/// Depths that were drawn while the gene was learned.
const DRAWN: std::ops::RangeInclusive<usize> = 3..=16;
const SERVED: &str = "gene, as served";
const GRID: &str = "| depth | width 24 | 48 | 72 | 96 |\n| ---: | ---: | ---: | ---: | ---: |";

fn gene() -> Learngene {
    Learngene::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fashion-any.safetensors")).unwrap()
}

fn served(rows: &[Row], depth: usize, width: usize) -> f64 {
    mean(&seeds(rows, SERVED, [depth, width], 0))
}

/// Accuracy by depth, one column for each width.
fn grid(rows: &[Row]) -> Vec<String> {
    let row = |depth| {
        let cells: Vec<_> = WIDTHS.iter().map(|width| percent(served(rows, depth, *width))).collect();
        format!("| {depth} | {} |", cells.join(" | "))
    };
    (1..=24).map(row).collect()
}

/// The models of an arm that has three seeds at some sizes, and a second arm of one seed at the others.
fn both(rows: &[Row], arm: &str, size: [usize; 2], epochs: u32) -> Vec<f64> {
    [seeds(rows, arm, size, epochs), seeds(rows, &format!("{arm}, one seed"), size, epochs)].concat()
}

/// The mean, with the standard error over seeds where there are several.
fn with_spread(values: &[f64]) -> String {
    let mean = percent(mean(values));
    if values.len() > 1 { format!("{mean} ± {}", percent(spread(values))) } else { mean }
}

fn alone(rows: &[Row], size: [usize; 2]) -> Vec<f64> {
    both(rows, "learned alone", size, 20)
}

pub(super) fn page() -> Page {
    let mut page = Page::open("docs/results/any-size.md");
    let rows = rows("any-size");
    statements(&mut page, &rows);
    compared(&mut page, &rows);
    stage_sharing(&mut page, &rows);
    transfer(&mut page);
    forecast(&mut page, &rows);
    cost(&mut page, &rows);
    for fact in [
        "(1.5e-3, 3e-3, 6e-3)",
        "28x28 pixels in patches of 7.",
        "(Xu et al. 2024, arXiv 2311.18823).",
        "held-out accuracy 89.98.",
    ] {
        page.fact(fact);
    }
    page
}

fn stored(page: &mut Page, rows: &[Row]) {
    let gene = gene();
    let parameters: u64 = gene.file().tensors().map(|(_, t)| t.shape.iter().product::<usize>() as u64).sum();
    let apart: u64 = rows.iter().filter(|row| row.arm == SERVED).map(|row| row.parameters).sum();
    page.states(
        "Stored separately, the {} models of the table would hold {} parameters: {} times as",
        &[
            rows.iter().filter(|row| row.arm == SERVED).count().to_string(),
            grouped(apart),
            (apart / parameters).to_string(),
        ],
    );
}

fn statements(page: &mut Page, rows: &[Row]) {
    page.table(GRID, &grid(rows));
    let at = |depth, width| served(rows, depth, width);
    let within = WIDTHS.map(|width| {
        let (least, most) = least_and_most((6..=16).map(|depth| at(depth, width)));
        most - least
    });
    page.states(
        "At every width, depths 6 to 16 lie within {} points of each other.",
        &[points(within.into_iter().fold(0.0, f64::max))],
    );
    let far = |width| (17..=24).map(|depth| at(depth, width)).fold(f64::INFINITY, f64::min);
    page.states(
        "Depths 17 to 24 were never drawn; the worst of them is {} points below depth 16 at width 24 and {} at width 96.",
        &[points(at(16, 24) - far(24)), points(at(16, 96) - far(96))],
    );
    page.states("Depths 1 and 2 are not usable as served: {} to {} per cent.", &{
        let (least, most) = least_and_most(WIDTHS.iter().flat_map(|w| [at(1, *w), at(2, *w)]));
        [percent(least), percent(most)]
    });
    page.states(
        "At depth 8, width 24 is {} points below width 96 and needs 1/{} of the multiply-accumulates.",
        &[points(at(8, 96) - at(8, 24)), {
            let macs = |width| {
                rows.iter().find(|r| r.arm == SERVED && [r.depth, r.width] == [8, width]).unwrap().macs
            };
            format!("{:.0}", macs(96) as f64 / macs(24) as f64)
        }],
    );
    page.states("The ancestor (depth 16, width 96) has 89.06.", &[]);
    let (least, most) = least_and_most(WIDTHS.iter().map(|width| at(8, *width) - at(3, *width)));
    page.states(
        "Depth 3 drops five of the eight stages and is {} to {} points below depth 8.",
        &[points(least), points(most)],
    );
    page.states(
        "the standard error of one accuracy on 10,000 images is {} points.",
        &[points(sampling(0.89))],
    );
    let gene_bytes = gene().file().bytes().len() as f64 / 1e6;
    page.states("The gene is one file of {} million bytes.", &[format!("{gene_bytes:.1}")]);
    let wide: Vec<_> = rows.iter().filter(|r| r.arm == SERVED && r.width >= 48 && r.depth >= 3).collect();
    page.states(
        "{} of the {} models of widths 48 and more and depths 3 to 24 are at least as accurate as the ancestor.",
        &[wide.iter().filter(|row| row.test >= 0.8906).count().to_string(), wide.len().to_string()],
    );
    stored(page, rows);
}

fn compared(page: &mut Page, rows: &[Row]) {
    let row = |[depth, width]: [usize; 2], cells: &[String]| {
        format!("| {width} | {depth} | {} |", cells.join(" | "))
    };
    let figure = |arm, size, epochs| percent(mean(&seeds(rows, arm, size, epochs)));
    let selections = COMPARED.map(|size| {
        row(
            size,
            &[figure(SERVED, size, 0), figure("first layers", size, 0), figure("uniform selection", size, 0)],
        )
    });
    page.table("| width | depth | gene, as served | first layers | uniform selection |\n| ---: | ---: | ---: | ---: | ---: |", &selections);

    let gaps = COMPARED.map(|size| {
        let (gene, alone) = (seeds(rows, SERVED, size, 0), alone(rows, size));
        (size, mean(&alone) - mean(&gene), error(&gene, &alone), alone)
    });
    let table = gaps.clone().map(|(size, gap, error, alone)| {
        row(
            size,
            &[
                figure(SERVED, size, 0),
                with_spread(&alone),
                alone.len().to_string(),
                format!("{} ± {}", percent(gap), percent(error)),
            ],
        )
    });
    page.table(
        "| width | depth | gene, as served | learned alone | seeds | gap |\n| ---: | ---: | ---: | ---: | ---: | ---: |",
        &table,
    );
    let all: Vec<_> = gaps.iter().map(|(_, gap, ..)| *gap).collect();
    page.states(
        "One gene for all sizes costs {} points on average over the four sizes.",
        &[percent(mean(&all))],
    );

    let pairs =
        COMPARED.map(|size| (size, seeds(rows, "gene, tuned", size, 1), both(rows, "scratch", size, 10)));
    let table = pairs.clone().map(|(size, gene, scratch)| {
        let (difference, error) = (mean(&gene) - mean(&scratch), error(&gene, &scratch));
        row(
            size,
            &[
                with_spread(&gene),
                with_spread(&scratch),
                gene.len().min(scratch.len()).to_string(),
                format!("{:+.2} ± {}", difference * 100.0, percent(error)),
            ],
        )
    });
    page.table(
        "| width | depth | gene, 1 epoch | scratch, 10 epochs | seeds | difference |\n| ---: | ---: | ---: | ---: | ---: | ---: |",
        &table,
    );
    let results =
        pairs.iter().filter(|(_, gene, scratch)| mean(gene) - mean(scratch) > 2.0 * error(gene, scratch));
    let ahead = pairs.iter().filter(|(_, gene, scratch)| mean(gene) > mean(scratch));
    page.states(
        "One epoch from the gene is ahead of ten from scratch at {} of the four sizes. The difference is more than two standard errors at {} of them.",
        &[ahead.count().to_string(), results.count().to_string()],
    );
    page.states(
        "At depth 6 and width 48, fifteen epochs from scratch have {} (one seed); at depth 16 and width 24, twenty have {}.",
        &[figure("scratch, half as long again", [6, 48], 15), figure("scratch, longer", [16, 24], 20)],
    );
}

fn stage_sharing(page: &mut Page, any: &[Row]) {
    let plain = rows("any-size/plain");
    let sizes = [[8, 96], [3, 96], [4, 96], [12, 96], [16, 96], [10, 72], [6, 48], [16, 24]];
    let table = sizes.map(|[depth, width]: [usize; 2]| {
        let trained = if [depth, width] == [8, 96] { " (trained)" } else { "" };
        let alone = mean(&seeds(&plain, "plain stage sharing", [depth, width], 0));
        format!(
            "| {width} | {depth}{trained} | {} | {} |",
            percent(served(any, depth, width)),
            percent(alone)
        )
    });
    page.table(
        "| width | depth | this gene, as served | plain stage sharing |\n| ---: | ---: | ---: | ---: |",
        &table,
    );
}

fn transfer(page: &mut Page) {
    for (folder, sizes) in [("groups", &COMPARED[..]), ("grey", &COMPARED[..2])] {
        let rows = rows(&format!("transfer/{folder}"));
        // The arms of one comparison have several names, because lengths have rates of their own.
        let of = |gene: bool, size: [usize; 2], epochs| {
            let found = rows.iter().filter(|row| {
                row.arm.starts_with("gene") == gene && [row.depth, row.width] == size && row.epochs == epochs
            });
            mean(&found.map(|row| row.test).collect::<Vec<_>>())
        };
        let table: Vec<_> = sizes
            .iter()
            .map(|size| {
                let cells: Vec<_> = [3, 10, 30]
                    .iter()
                    .map(|epochs| {
                        let [gene, scratch] = [true, false].map(|gene| of(gene, *size, *epochs));
                        format!("{} | {} | {}", percent(gene), percent(scratch), points(gene - scratch))
                    })
                    .collect();
                format!("| {} | {} | {} |", size[1], size[0], cells.join(" | "))
            })
            .collect();
        page.table(
            &format!(
                "| width | depth | {folder}: gene 3 epochs | scratch 3 | gain | gene 10 | scratch 10 | gain | gene 30 | scratch 30 | gain |\n| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
            ),
            &table,
        );
        if folder == "groups" {
            let spans = rows.iter().filter(|row| row.epochs > 0).map(|row| {
                let same = |other: &&Row| {
                    (&other.arm, other.depth, other.width, other.epochs)
                        == (&row.arm, row.depth, row.width, row.epochs)
                };
                let (least, most) = least_and_most(rows.iter().filter(same).map(|row| row.test));
                most - least
            });
            page.states(
                "has the spread: at most {} points between the least and the greatest.",
                &[points(spans.fold(0.0, f64::max))],
            );
            assert!(sizes.iter().all(|size| of(true, *size, 3) > of(false, *size, 30)));
            page.fact("Three epochs from the gene beat thirty from scratch at every size.");
        } else {
            assert!(sizes.iter().all(|size| of(true, *size, 10) > of(false, *size, 30)));
            page.fact("Ten epochs from the gene beat thirty from scratch");
        }
    }
}

/// The odd depths from 5 to 15, forecast from the others.
fn forecast(page: &mut Page, rows: &[Row]) {
    let left_out = |q: &Quality| q.depth % 2 == 1 && (5..=15).contains(&q.depth);
    let grid: Vec<_> = rows
        .iter()
        .filter(|row| row.arm == SERVED && DRAWN.contains(&row.depth))
        .map(|row| Quality {
            depth: row.depth,
            width: row.width,
            tuning_epochs: 0,
            value: row.test,
            items: Some(10_000),
        })
        .collect();
    let (out, kept): (Vec<_>, Vec<_>) = grid.into_iter().partition(left_out);
    let forecasts = Forecasts::of(&kept, genebank::blueprint::Metric::Accuracy).unwrap();
    let found: Vec<_> = out.iter().map(|q| (q, forecasts.at(q.depth, q.width).unwrap())).collect();
    let differences: Vec<_> = found.iter().map(|(q, f)| (q.value - f.value).abs()).collect();
    let inside = found.iter().filter(|(q, f)| (f.low..=f.high).contains(&q.value)).count();
    let widths: Vec<_> = found.iter().map(|(_, f)| (f.high - f.low) / 2.0).collect();
    page.states(
        "Of these {} forecasts the largest difference is {} points and the mean {}. The stated interval held the measurement in {} cases; on average it extends {} points to each side.",
        &[
            found.len().to_string(),
            percent(differences.iter().copied().fold(0.0, f64::max)),
            percent(mean(&differences)),
            inside.to_string(),
            percent(mean(&widths)),
        ],
    );
}

/// Expected cost of `draws` widths that are drawn from `left` without repetition.
fn drawn(
    left: &[usize],
    draws: usize,
    share: &dyn Fn(usize, &[usize]) -> f64,
    cost: &dyn Fn(usize) -> f64,
) -> f64 {
    if draws == 0 {
        return 0.0;
    }
    let one = |width: &usize| {
        let others: Vec<_> = left.iter().copied().filter(|other| other != width).collect();
        share(*width, left) * (cost(*width) + drawn(&others, draws - 1, share, cost))
    };
    left.iter().map(one).sum()
}

/// Multiply-accumulates of learning. A step counts as three forward passes; the ancestor answers once for every image
/// and its mirror image.
fn cost(page: &mut Page, rows: &[Row]) {
    const TRAINING: f64 = 55_000.0;
    const DRAWS: usize = 3;
    let macs = |depth: usize, width: usize| {
        rows.iter().find(|row| row.arm == SERVED && [row.depth, row.width] == [depth, width]).unwrap().macs
            as f64
    };
    // Widths are drawn without repetition and depths with it, each in proportion to 1 / size.
    let share =
        |n: usize, among: &[usize]| (1.0 / n as f64) / among.iter().map(|n| 1.0 / *n as f64).sum::<f64>();
    let depths: Vec<_> = DRAWN.collect();
    let of_width =
        |width: usize| depths.iter().map(|depth| share(*depth, &depths) * macs(*depth, width)).sum::<f64>();
    let ancestor = 3.0 * 12.0 * TRAINING * macs(16, 96);
    let answers = 2.0 * TRAINING * macs(16, 96);
    let passes = 3.0 * 20.0 * TRAINING;
    let gene = answers + passes * (macs(8, 96) + macs(3, 24) + drawn(&WIDTHS, DRAWS, &share, &of_width));
    let mean_macs = mean(&COMPARED.map(|[depth, width]| macs(depth, width)));
    let alone = answers + passes * mean_macs;
    let tera = |macs: f64| format!("{:.1}", macs / 1e12);
    page.table(
        "| | 10^12 |\n| --- | ---: |",
        &[
            format!("| ancestor, 12 epochs | {} |", tera(ancestor)),
            format!("| gene, 20 epochs, every size | {} |", tera(gene)),
            format!("| one size alone, 20 epochs, mean of the four | {} |", tera(alone)),
        ],
    );
    let untaught = passes * mean_macs;
    page.states(
        "The gene pays off from {} such sizes on, or from {} if the models learned alone need no ancestor.",
        &[format!("{:.0}", (gene / alone).ceil()), format!("{:.0}", ((ancestor + gene) / untaught).ceil())],
    );
}

pub(super) fn card() -> Page {
    let mut page = Page::open("models/fashion-any.md");
    let rows = rows("any-size");
    page.table(GRID, &grid(&rows));
    page.states("| digest | `{}` |", &[gene().digest().to_owned()]);
    page.fact("| ancestor | `recipes/fashion-any-ancestor.toml` | 10 | 12 | `models/ancestors/fashion-any.safetensors` | 89.98 |");
    page.fact("| gene | `recipes/fashion-any.toml` | 11 | 20 | `models/fashion-any.safetensors` | 90.88 |");
    page.fact("The ancestor has 89.06.");
    stored(&mut page, &rows);
    page
}

/// The README as far as its figures are those of this gene and of `fashion-s`. Its other figures are output of the
/// program.
pub(super) fn readme() -> Page {
    let mut page = Page::open("README.md").of_statements();
    let rows = rows("any-size");
    let row = |width: &usize| {
        let cells = [3, 6, 8, 12, 16].map(|depth| percent(served(&rows, depth, *width)));
        format!("| {width} | {} |", cells.join(" | "))
    };
    page.table(
        "| width | depth 3 | depth 6 | depth 8 | depth 12 | depth 16 |\n| ---: | ---: | ---: | ---: | ---: | ---: |",
        &WIDTHS.iter().map(row).collect::<Vec<_>>(),
    );
    let (least, most) = least_and_most(
        COMPARED.iter().map(|size| mean(&alone(&rows, *size)) - served(&rows, size[0], size[1])),
    );
    page.states("one size alone is {} to {} points more accurate", &[points(least), points(most)]);
    page.states("At four sizes it is {} to {} points below models", &[points(least), points(most)]);
    page.table(
        "| depth | as served | one epoch of tuning | from scratch, five epochs |\n| ---: | ---: | ---: | ---: |",
        &super::sws::readme_rows(),
    );
    page
}
