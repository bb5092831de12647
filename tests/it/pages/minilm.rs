//! The card of `minilm`.

use std::path::Path;

use genebank::gene::Learngene;

use super::{Page, grouped, percent, rows};

const SERVED: &str = "gene, as served";
const WIDTHS: [usize; 4] = [96, 192, 288, 384];

pub(super) fn card() -> Page {
    let mut page = Page::open("models/minilm.md");
    let rows = rows("minilm");
    let figure = |arm: &str, depth: usize, width: usize| {
        let row = rows.iter().find(|row| row.arm == arm && [row.depth, row.width] == [depth, width]);
        percent(row.unwrap_or_else(|| panic!("{arm} d{depth}-w{width}")).test)
    };
    let row = |depth: usize| {
        let cells: String =
            WIDTHS.iter().map(|width| format!(" {} |", figure(SERVED, depth, *width))).collect();
        format!("| {depth} |{cells}")
    };
    page.table(
        "| depth | width 96 | 192 | 288 | 384 |\n| ---: | ---: | ---: | ---: | ---: |",
        &(1..=12).map(row).collect::<Vec<_>>(),
    );
    let chosen = [[3, 384], [6, 288], [6, 192], [3, 192], [2, 96]].map(|[depth, width]| {
        let arms = [SERVED, "first layers", "uniform selection", "importance"];
        let cells: String = arms.iter().map(|arm| format!(" {} |", figure(arm, depth, width))).collect();
        format!("| {depth}, {width} |{cells}")
    });
    page.table(
        "| depth, width | this gene | first layers | uniform selection | importance |\n| ---: | ---: | ---: | ---: | ---: |",
        &chosen,
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/minilm.safetensors");
    let gene = Learngene::open(&path).unwrap();
    page.states("| digest | `{}` |", &[gene.digest().to_owned()]);
    let parameters: u64 = gene.file().tensors().map(|(_, t)| t.shape.iter().product::<usize>() as u64).sum();
    page.states("| stored | {} parameters, f16 |", &[grouped(parameters)]);
    page.fact("The ancestor has 82.03.");
    page.fact("| 242,934 | Tatoeba, English | CC BY 2.0 |");
    page.fact("| 48,755 | Common Voice, English prompts | CC0 1.0 |");
    page.fact("| 15,310 | English Web Treebank | CC BY-SA 4.0 |");
    page.fact("(Apache-2.0), its");
    page.fact("Licence of the weights: Apache-2.0, that of the ancestor.");
    page.fact("in 92.4 % of cases at depth 3, width 192, and in 79.7 % at depth 2, width 96.");
    page.fact("88.0 % of cases for the ancestor, 82.4 % and 65.3 % for these two.");
    page
}
