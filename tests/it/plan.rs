//! Budgets: every interface gives the same sizes, all sizes are within the budget, and invalid budgets are refused.

use std::{
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

use genebank::{
    bank::{Bank, Budget, Choices, Latency, LatencyBudget, LatencyTable, ModelRequest, budget::choose, cost},
    client::Client,
    error::{Error, Kind},
    gene::{GeneMeta, Learngene, Quality, SizeRequest, store},
    nn::Size,
    server::Limits,
    tensor::{Dtype, codec::write_atomic},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{self, GENE, Server, bank_config, meta, models, weights};

/// Depths 2 to 8 of both widths, except the odd depths of the narrow width. Accuracy rises with depth up to 6.
fn quality() -> Vec<Quality> {
    let cell =
        |depth: usize, width, value| Quality { depth, width, tuning_epochs: 0, value, items: Some(10_000) };
    let wide = [(2, 0.70), (3, 0.80), (4, 0.84), (5, 0.86), (6, 0.87), (7, 0.865), (8, 0.86)];
    let narrow = [(2, 0.60), (4, 0.72), (6, 0.74), (8, 0.735)];
    let tuned = Quality { depth: 20, width: 24, tuning_epochs: 1, value: 0.99, items: None };
    let cells = wide.map(|(d, y)| cell(d, 24, y)).into_iter().chain(narrow.map(|(d, y)| cell(d, 8, y)));
    cells.chain([tuned]).collect()
}

fn with(quality: Vec<Quality>) -> GeneMeta {
    GeneMeta { quality, ..meta() }
}

fn folder(meta: &GeneMeta) -> TempDir {
    models(&store::render(meta.clone(), &weights(meta), 7).unwrap().1)
}

fn gene(quality: Vec<Quality>) -> Learngene {
    let meta = with(quality);
    store::render(meta.clone(), &weights(&meta), 7).unwrap().0
}

async fn server() -> Server {
    let models = folder(&with(quality()));
    let bank = bank_config(models.path());
    Server::on(Limits::default(), models, bank).await
}

fn macs(most: u64) -> Budget {
    Budget { macs: Some(most), ..Budget::default() }
}

/// Multiply-accumulates of a size of the test gene.
fn macs_of(depth: usize, width: usize) -> u64 {
    meta().config.resized(depth, width).unwrap().macs()
}

fn sizes(choices: &Choices) -> Vec<(u32, u32)> {
    choices.sizes.iter().map(|choice| (choice.depth, choice.width)).collect()
}

#[test]
fn the_most_accurate_size_within_the_budget_is_first() {
    let gene = gene(quality());
    let all = choose(&gene, &macs(u64::MAX), 100).unwrap();
    assert_eq!(all.sizes.len(), 100);
    assert_eq!(sizes(&all)[..3], [(6, 24), (7, 24), (5, 24)]);
    // At the same accuracy, the size with fewer multiply-accumulates comes first.
    let at = |size| sizes(&all).iter().position(|s| *s == size).unwrap();
    assert!(at((5, 24)) < at((8, 24)));
    assert_eq!(all.reach.iter().map(|r| (r.width, r.depth)).collect::<Vec<_>>(), [(8, 64), (24, 64)]);

    let tight = choose(&gene, &macs(macs_of(4, 24)), 3).unwrap();
    assert_eq!(sizes(&tight), [(4, 24), (3, 24), (6, 8)]);
    assert_eq!(tight.reach[1].depth, 4);
    let measured = tight.sizes[0].forecast.unwrap();
    assert!(measured.measured && measured.value == 0.84 && measured.is_bounded());
    // The budget is one multiply-accumulate too small for depth 4.
    assert_eq!(choose(&gene, &macs(macs_of(4, 24) - 1), 1).unwrap().sizes[0].depth, 3);
}

#[test]
fn beyond_measurements_there_is_no_figure_and_the_size_comes_last() {
    let choices = choose(&gene(quality()), &macs(u64::MAX), 100).unwrap();
    let of = |depth, width| choices.sizes.iter().find(|c| (c.depth, c.width) == (depth, width)).unwrap();
    let between = of(5, 8).forecast.unwrap();
    assert!(!between.measured);
    assert!((0.72..=0.74).contains(&between.value), "{between:?}");
    let beyond = of(9, 24);
    assert_eq!(beyond.forecast, None);
    assert!(beyond.warning.as_ref().unwrap().contains("2..=8 of width 24"), "{beyond:?}");
    let first = choices.sizes.iter().position(|c| c.forecast.is_none()).unwrap();
    assert_eq!(first, 7 + 7);
    assert!(choices.sizes[first..].iter().all(|c| c.forecast.is_none() && c.warning.is_some()));
    assert!(choices.sizes[..first].iter().all(|c| c.warning.is_none()));
    let only = choose(&gene(quality()), &macs(macs_of(1, 24)), 9).unwrap();
    assert_eq!(sizes(&only).last(), Some(&(1, 8)));
}

#[test]
fn a_gene_without_measurements_offers_the_largest_and_warns() {
    let choices = choose(&gene(vec![]), &macs(macs_of(4, 24)), 3).unwrap();
    assert_eq!(choices.sizes[0].depth, 4);
    let parameters: Vec<_> = choices.sizes.iter().map(|c| c.cost.parameters).collect();
    assert!(parameters.is_sorted_by(|a, b| a >= b), "{parameters:?}");
    assert!(choices.sizes.iter().all(|c| c.forecast.is_none() && c.warning.is_some()));
}

#[tokio::test]
async fn what_a_choice_costs_is_what_the_model_has() {
    let models = folder(&with(quality()));
    let bank = Arc::new(Bank::open(bank_config(models.path())).unwrap());
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let budget = Budget { bytes: Some(200_000), dtype, ..Budget::default() };
        for choice in bank.choose(&bank.owner().admit(GENE).unwrap(), budget.clone(), 20).await.unwrap().sizes
        {
            let size = SizeRequest {
                depth: Some(choice.depth.into()),
                width: Some(choice.width.into()),
                dtype,
                ..SizeRequest::default()
            };
            let plan = support::plan(&bank, &ModelRequest { size, ..ModelRequest::default() }).unwrap();
            assert_eq!(choice.cost.size_bytes, plan.size_bytes());
            assert_eq!(choice.cost.parameters, plan.blueprint.parameters());
            assert_eq!(choice.cost.macs, plan.blueprint.info.config.macs());
            assert!(choice.cost.size_bytes <= 200_000);
        }
    }
}

#[test]
fn every_budget_is_kept_and_its_edge_is_exact() {
    let gene = gene(quality());
    let config = |depth, width| meta().config.resized(depth, width).unwrap();
    let budgets = [
        Budget { parameters: Some(config(7, 24).schema().parameters()), ..Budget::default() },
        macs(macs_of(7, 24)),
        Budget {
            bytes: Some(cost::size_bytes(&gene, Size { width: 24, depth: 7 }, Dtype::F16).unwrap()),
            dtype: Dtype::F16,
            ..Budget::default()
        },
        Budget { memory: Some(cost::memory_bytes(&config(7, 24), 4)), batch: 4, ..Budget::default() },
        Budget { latency: Some(latency(2.0)), batch: 1, ..Budget::default() },
    ];
    for budget in budgets {
        let choices = choose(&gene, &budget, 100).unwrap();
        let reach = choices.reach.iter().find(|reach| reach.width == 24).unwrap();
        assert_eq!(reach.depth, 7, "{budget:?}");
        assert!(choices.sizes.iter().all(|c| c.width == 8 || c.depth <= 7), "{budget:?}");
    }
}

/// A latency budget. Its table has 1 ms at depth 2 and 3 ms at depth 12 of width 24, and no rows for width 8.
fn latency(milliseconds: f64) -> LatencyBudget {
    let row = |depth, milliseconds| Latency { depth, width: 24, batch: 1, milliseconds };
    LatencyBudget { milliseconds, table: LatencyTable::new(vec![row(2, 1.0), row(12, 3.0)]).unwrap() }
}

#[test]
fn a_latency_budget_speaks_of_what_its_table_encloses() {
    let gene = gene(quality());
    let budget = |milliseconds| Budget { latency: Some(latency(milliseconds)), ..Budget::default() };
    let choices = choose(&gene, &budget(2.0), 100).unwrap();
    // Depth 1 and width 8 are left out, because the table has no latency for them.
    assert_eq!(choices.sizes.len(), 6);
    assert_eq!(sizes(&choices)[0], (6, 24));
    assert!((choices.sizes[0].milliseconds.unwrap() - 1.8).abs() < 1e-12);
    let refused = |budget: &Budget| choose(&gene, budget, 5).unwrap_err();
    assert!(refused(&budget(0.5)).to_string().contains("depth 2 width 24, has 1 ms"));
    for milliseconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(refused(&budget(milliseconds)).kind(), Kind::Invalid);
    }
    let batch = Budget { batch: 2, ..budget(2.0) };
    assert!(refused(&batch).to_string().contains("no rows of batch 2"));
    let other = Budget {
        parameters: Some(meta().config.resized(1, 24).unwrap().schema().parameters()),
        ..budget(2.0)
    };
    assert_eq!(refused(&other).kind(), Kind::Invalid);
}

#[test]
fn impossible_budgets_name_the_smallest_size() {
    let gene = gene(quality());
    let smallest = meta().config.resized(1, 8).unwrap();
    let least = |value: u64| format!("depth 1 width 8, has {value}");
    let bytes = cost::size_bytes(&gene, Size { width: 8, depth: 1 }, Dtype::F32).unwrap();
    for (budget, value) in [
        (Budget { parameters: Some(0), ..Budget::default() }, smallest.schema().parameters()),
        (macs(smallest.macs() - 1), smallest.macs()),
        (Budget { bytes: Some(bytes - 1), ..Budget::default() }, bytes),
        (Budget { memory: Some(1), ..Budget::default() }, cost::memory_bytes(&smallest, 1)),
    ] {
        let error = choose(&gene, &budget, 5).unwrap_err();
        assert!(error.to_string().contains(&least(value)), "{error}");
        assert!(error.to_string().contains("\"tiny\""), "{error}");
        assert_eq!(error.kind(), Kind::Invalid);
    }
    for (budget, limit) in [
        (Budget::default(), 5),
        (macs(u64::MAX), 0),
        (macs(u64::MAX), 101),
        (Budget { batch: 0, ..macs(u64::MAX) }, 5),
        (Budget { batch: u32::MAX, ..macs(u64::MAX) }, 5),
    ] {
        assert_eq!(choose(&gene, &budget, limit).unwrap_err().kind(), Kind::Invalid, "{budget:?}");
    }
}

#[tokio::test]
async fn every_way_gives_the_same_choices() {
    let server = server().await;
    let client = Client::connect(&server.url()).await.unwrap();
    let bank = Bank::open(bank_config(&server.models())).unwrap();
    let budget = Budget { macs: Some(macs_of(9, 24)), memory: Some(1 << 20), batch: 2, ..Budget::default() };
    let near = bank.choose(&bank.owner().admit("").unwrap(), budget.clone(), 30).await.unwrap();
    assert_eq!(client.plan_model(GENE, &budget, 30).await.unwrap(), near);
    let query = format!("max_macs={}&max_memory_bytes={}&batch=2&limit=30", macs_of(9, 24), 1 << 20);
    let far = server.get(&format!("/v1/plan?gene={GENE}&{query}")).await;
    // Compare the text, because parsing a number may lose its last bit.
    assert_eq!((far.status, far.body), (200, serde_json::to_vec(&near).unwrap()));
    let timed = Budget { latency: Some(latency(2.0)), dtype: Dtype::Bf16, ..Budget::default() };
    assert_eq!(
        client.plan_model(GENE, &timed, 3).await.unwrap(),
        bank.choose(&bank.owner().admit(GENE).unwrap(), timed.clone(), 3).await.unwrap()
    );
    let bare = client.plan_model("", &macs(macs_of(2, 8)), 1).await.unwrap();
    assert_eq!((bare.gene.as_str(), sizes(&bare)), (GENE, vec![(2, 8)]));
}

#[tokio::test]
async fn every_way_refuses_with_the_same_kind() {
    let server = server().await;
    let client = Client::connect(&server.url()).await.unwrap();
    for (gene, budget, limit, kind) in [
        ("nobody", macs(u64::MAX), 5, Kind::NotFound),
        (GENE, Budget::default(), 5, Kind::Invalid),
        (GENE, macs(0), 5, Kind::Invalid),
        (GENE, macs(u64::MAX), 0, Kind::Invalid),
        (GENE, macs(u64::MAX), 101, Kind::Invalid),
        (GENE, Budget { latency: Some(latency(f64::NAN)), ..Budget::default() }, 5, Kind::Invalid),
    ] {
        let refused = client.plan_model(gene, &budget, limit).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{budget:?}");
        assert!(!matches!(refused, Error::Remote { .. }) || refused.to_string().contains(&server.url()));
    }
    for (query, status) in [
        ("", 400),
        ("?gene=tiny", 400),
        ("?gene=nobody&max_macs=1000000", 404),
        ("?max_macs=0", 400),
        ("?max_macs=-1", 400),
        ("?max_macs=1e6", 400),
        ("?max_macs=nan", 400),
        ("?max_macs=18446744073709551616", 400),
        ("?max_macs=1000000&max_macs=1000000", 400),
        ("?max_mac=1000000", 400),
        ("?max_macs=1000000&dtype=f64", 400),
        ("?max_macs=1000000&limit=0", 400),
        ("?max_macs=1000000&limit=101", 400),
        ("?max_macs=1000000&batch=0", 400),
        ("?max_macs=18446744073709551615", 200),
    ] {
        let answer = server.get(&format!("/v1/plan{query}")).await;
        assert_eq!(answer.status, status, "{query}");
        let json = if status == 200 { "application/json" } else { "application/problem+json" };
        assert_eq!(answer.header("content-type"), Some(json), "{query}");
    }
    assert_eq!(server.http("POST", "/v1/plan", "content-length: 0\r\n").await.status, 405);
}

fn plan(models: &Path, more: &[&str]) -> Output {
    let all = ["plan", "--models", models.to_str().unwrap()];
    Command::new(env!("CARGO_BIN_EXE_genebank"))
        .args([&all, more].concat())
        .env_remove("GENEBANK_MODELS")
        .env_remove("GENEBANK_SERVER")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_prints_the_best_first_and_draws_the_map() {
    let server = server().await;
    let (url, models, out) = (server.url(), server.models(), tempfile::tempdir().unwrap());
    let run = move || {
        let svg = out.path().join("map.svg");
        let said = plan(&models, &[GENE, "--macs", "1G", "--limit", "15", "--plot", svg.to_str().unwrap()]);
        assert!(said.status.success(), "{said:?}");
        let lines: Vec<_> = text(&said.stdout).lines().collect();
        assert_eq!(lines.len(), 16);
        assert!(lines[0].starts_with("SIZE"), "{lines:?}");
        assert!(lines[1].starts_with("d6-w24") && lines[1].contains("87.00 %"), "{lines:?}");
        for (line, basis) in [(1, " measured "), (8, " interpolated "), (15, " not measured ")] {
            assert!(lines[line].contains(basis), "{line}: {lines:?}");
        }
        assert!(text(&said.stderr).contains("is beyond the measured depths 2..=8 of width 24"), "{said:?}");
        let drawn = std::fs::read_to_string(&svg).unwrap();
        for part in ["<svg", "depth (transformer blocks)", "width (embedding dimension)", "accuracy, %", "≤"]
        {
            assert!(drawn.contains(part), "{part}");
        }

        let json = |more: &[&str]| -> Value {
            let said = plan(&models, &[&[GENE, "--parameters", "20k", "--json"], more].concat());
            serde_json::from_slice(&said.stdout).unwrap()
        };
        let near = json(&[]);
        assert_eq!(near, json(&["--server", &url]));
        assert_eq!(near["gene"], GENE);

        let table = out.path().join("latencies.toml");
        let rows = "[[row]]\ndepth = 1\nwidth = 24\nmilliseconds = 1\n\n\
                    [[row]]\ndepth = 9\nwidth = 24\nmilliseconds = 9\n";
        write_atomic(&table, [rows.as_bytes()]).unwrap();
        let timed = ["--latency", "4.5", "--latency-table", table.to_str().unwrap()];
        for more in [&timed[..], &[&timed[..], &["--server", &url]].concat()] {
            let said = plan(&models, &[&[GENE], more].concat());
            assert!(text(&said.stdout).lines().nth(1).unwrap().starts_with("d4-w24"), "{said:?}");
            assert!(text(&said.stdout).contains("4.000"), "{said:?}");
            assert!(text(&said.stderr).contains("for batches of 1: widths 8"), "{said:?}");
            assert!(!text(&said.stderr).contains("the default"), "{said:?}");
        }
    };
    tokio::task::spawn_blocking(run).await.unwrap();
}

#[test]
fn exit_codes_follow_the_table() {
    let (models, out) = (folder(&with(quality())), tempfile::tempdir().unwrap());
    let png = out.path().join("map.png");
    for (more, exit) in [
        (&[GENE][..], 2),
        (&["nobody", "--macs", "1M"], 3),
        (&[GENE, "--macs", "0"], 2),
        (&[GENE, "--macs=-1"], 2),
        (&[GENE, "--macs", "nan"], 2),
        (&[GENE, "--macs", "99999999999999999999"], 2),
        (&[GENE, "--parameters", "1KiB"], 2),
        (&[GENE, "--bytes", "1"], 2),
        (&[GENE, "--latency", "1"], 2),
        (&[GENE, "--macs", "1M", "--latency-table", "x"], 2),
        (&[GENE, "--latency", "NaN", "--latency-table", "/dev/null"], 2),
        (&[GENE, "--latency", "1", "--latency-table", "/nowhere.toml"], 1),
        (&[GENE, "--macs", "1M", "--limit", "0"], 2),
        (&[GENE, "--macs", "1M", "--limit", "101"], 2),
        (&[GENE, "--macs", "1M", "--batch", "0"], 2),
        (&[GENE, "--macs", "1M", "--dtype", "f64"], 2),
        (&[GENE, "--macs", "1M", "--plot", png.to_str().unwrap()], 2),
        (&[GENE, "--macs", "1M", "--server", "http://127.0.0.1:1"], 1),
        (&["--macs", "1M"], 0),
    ] {
        let said = plan(models.path(), more);
        assert_eq!(said.status.code(), Some(exit), "{more:?} {said:?}");
        assert_eq!(said.stdout.is_empty(), exit != 0, "{more:?}");
        let named = text(&said.stderr).contains(&format!("gene {GENE} (the default)"));
        assert_eq!(named, exit == 0, "{more:?} {said:?}");
    }
    assert!(crate::support::entries(out.path()).is_empty());
}
