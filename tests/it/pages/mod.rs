//! Every figure of the pages of results, computed again from the committed tables and genes.
//!
//! ```text
//! cargo test --test it pages::                       # fails where a page and its data differ
//! cargo test --test it -- --ignored write_the_pages  # writes what the data say
//! ```

mod any_size;
mod minilm;
mod page;
mod sws;

use std::path::Path;

use page::Page;

/// A row of a study's table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    arm: String,
    depth: usize,
    width: usize,
    epochs: u32,
    test: f64,
    parameters: u64,
    macs: u64,
}

/// The rows of `docs/results/{folder}/table.csv`.
fn rows(folder: &str) -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/results").join(folder).join("table.csv");
    let text = std::fs::read_to_string(path).unwrap();
    let row = |line: &str| {
        let (arm, rest) = line.strip_prefix('"').unwrap().split_once("\",").unwrap();
        let cells: Vec<_> = rest.split(',').collect();
        let [_, depth, width, epochs, _, _, _, test, parameters, macs, _] = cells[..] else {
            panic!("{line}")
        };
        Row {
            arm: arm.to_owned(),
            depth: depth.parse().unwrap(),
            width: width.parse().unwrap(),
            epochs: epochs.parse().unwrap(),
            test: test.parse().unwrap(),
            parameters: parameters.parse().unwrap(),
            macs: macs.parse().unwrap(),
        }
    };
    text.lines().skip(1).map(row).collect()
}

/// Number of test images of Fashion-MNIST.
const IMAGES: f64 = 10_000.0;

/// The accuracies of one size and length in an arm, one for each seed.
fn seeds(rows: &[Row], arm: &str, [depth, width]: [usize; 2], epochs: u32) -> Vec<f64> {
    let of = |row: &&Row| row.arm == arm && [row.depth, row.width] == [depth, width] && row.epochs == epochs;
    rows.iter().filter(of).map(|row| row.test).collect()
}

fn mean(values: &[f64]) -> f64 {
    assert!(!values.is_empty());
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard error of the mean over seeds; 0 of one.
fn spread(values: &[f64]) -> f64 {
    let (n, mean) = (values.len() as f64, mean(values));
    if values.len() < 2 {
        return 0.0;
    }
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt()
}

/// Standard error of a share of the test images.
fn sampling(p: f64) -> f64 {
    (p * (1.0 - p) / IMAGES).sqrt()
}

/// Standard error of the difference of two means: seeds and test images of both. It takes the test images as drawn
/// twice; they are the same ones, so the true error is smaller.
fn error(a: &[f64], b: &[f64]) -> f64 {
    [spread(a), spread(b), sampling(mean(a)), sampling(mean(b))].iter().map(|e| e * e).sum::<f64>().sqrt()
}

/// Per cent, two decimals.
fn percent(share: f64) -> String {
    format!("{:.2}", share * 100.0)
}

/// Points, one decimal.
fn points(share: f64) -> String {
    format!("{:.1}", share * 100.0)
}

/// A number with commas as thousands separators.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> =
        digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap()).collect();
    groups.join(",")
}

fn least_and_most(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), value| (a.min(value), b.max(value)))
}

fn pages() -> Vec<Page> {
    vec![any_size::page(), any_size::card(), any_size::readme(), minilm::card(), sws::page(), sws::card()]
}

#[test]
fn every_figure_of_the_pages_follows_from_the_data() {
    pages().into_iter().for_each(Page::check);
}

#[test]
#[ignore = "writes the pages"]
fn write_the_pages() {
    pages().iter().for_each(Page::write);
}
