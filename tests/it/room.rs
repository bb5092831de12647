//! Memory for what is made: it is reserved before the work, counts until its last reader is gone, and is given back when
//! a caller leaves.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use genebank::{
    bank::{self, Bank, Delivery, ModelRequest, Quote},
    blueprint::Artifact,
    error::{Kind, Result},
    gene::{Head, Method, SizeRequest, Start, Target},
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::timeout};

use crate::support::{self, bank_config, gene_bytes, models};

/// Long enough for whatever is not held up.
const LONG: Duration = Duration::from_mins(1);
/// Long enough to see that something waits.
const SHORT: Duration = Duration::from_millis(200);

/// A bank without a cache, with `request_bytes` of room.
fn bank(request_bytes: u64, renders: usize) -> (Arc<Bank>, TempDir) {
    let models = models(&gene_bytes());
    let config = bank_config(models.path());
    let config = bank::Config { cache_bytes: 0, request_bytes, renders, ..config };
    (Arc::new(Bank::open(config).unwrap()), models)
}

/// A model from scratch. Every value of it is made: about 28 KB for each layer.
fn scratch(depth: u64, seed: u64) -> ModelRequest {
    let size = SizeRequest { depth: Some(depth), ..SizeRequest::default() };
    ModelRequest { size, start: Start { method: Method::Scratch, seed }, ..ModelRequest::default() }
}

/// A head with `count` fresh classes: 96 bytes each at width 24.
fn classes(count: usize, seed: u64) -> ModelRequest {
    let labels = (0..count).map(|i| format!("class {i}")).collect();
    let target = Target { head: Some(Head { labels, seed }), ..Target::default() };
    ModelRequest { target, ..ModelRequest::default() }
}

async fn deliver(bank: &Arc<Bank>, quote: &Quote) -> Result<Arc<Artifact>> {
    match bank.deliver(quote).await? {
        Delivery::Ready(artifact) => Ok(artifact),
        Delivery::Tuning(_) => panic!("nothing to tune"),
    }
}

/// Waits until nothing is in use.
async fn all_is_given_back(bank: &Bank) {
    let empty = async {
        while bank.bytes_in_use() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, empty).await.unwrap_or_else(|_| panic!("{} bytes are still in use", bank.bytes_in_use()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_keeps_its_room_and_others_wait_or_are_refused() {
    let (bank, _models) = bank(1 << 20, 4);
    let [a, b] = [1, 2].map(|seed| support::plan(&bank, &scratch(20, seed)).unwrap());
    assert!((500_000..900_000).contains(&a.size_bytes()), "{}", a.size_bytes());
    let first = deliver(&bank, &a).await.unwrap();
    assert!(bank.bytes_in_use() as u64 >= a.size_bytes());
    let refused = deliver(&bank, &b).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Overloaded);
    assert_eq!(bank.rendered(), 1, "the refusal comes before the work");
    let waiting = bank.fetch(&b);
    tokio::pin!(waiting);
    timeout(SHORT, &mut waiting).await.unwrap_err();
    // A part of it that somebody still reads is enough to keep the room of that part only.
    let last = first.parts().last().unwrap().clone();
    drop(first);
    let second = timeout(LONG, waiting).await.unwrap().unwrap();
    drop(second);
    assert!(bank.bytes_in_use() > 0);
    drop(last);
    all_is_given_back(&bank).await;
}

#[tokio::test]
async fn what_never_has_room_is_refused_with_the_limit() {
    let (bank, _models) = bank(100_000, 4);
    let quote = support::plan(&bank, &scratch(20, 1)).unwrap();
    for error in [deliver(&bank, &quote).await.unwrap_err(), bank.fetch(&quote).await.unwrap_err()] {
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        assert!(error.to_string().contains("0..=100000, see --request-mib"), "{error}");
    }
    let many = classes(20_000, 1);
    let error = bank.plan_any(bank.owner().admit("").unwrap(), many).await.unwrap_err();
    assert!(error.to_string().contains("0..=100000"), "{error}");
    assert_eq!((bank.rendered(), bank.bytes_in_use()), (0, 0));
}

/// A runtime whose one thread for blocking work is held until the sender is dropped.
fn gated() -> (Runtime, mpsc::Sender<()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let (gate, held) = mpsc::channel::<()>();
    runtime.spawn_blocking(move || held.recv());
    (runtime, gate)
}

#[test]
fn work_stops_when_its_caller_leaves() {
    let (bank, _models) = bank(1 << 20, 4);
    let (runtime, gate) = gated();
    runtime.block_on(async {
        let quote = support::plan(&bank, &scratch(20, 1)).unwrap();
        timeout(SHORT, bank.fetch(&quote)).await.unwrap_err();
        assert!(bank.bytes_in_use() > 0, "the work that waits has its room");
        drop(gate);
        all_is_given_back(&bank).await;
        assert_eq!(bank.rendered(), 0, "nobody waits for it");
        timeout(LONG, bank.fetch(&quote)).await.unwrap().unwrap();
        assert_eq!(bank.rendered(), 1);
    });
}

#[test]
fn large_requests_leave_the_workers_and_small_ones_do_not_wait_for_them() {
    let (bank, _models) = bank(256 << 20, 1);
    let (runtime, gate) = gated();
    runtime.block_on(async {
        let admitted = || bank.owner().admit("").unwrap();
        let small = support::plan(&bank, &scratch(1, 1)).unwrap();
        timeout(SHORT, bank.plan_any(admitted(), classes(20_000, 1))).await.unwrap_err();
        timeout(LONG, bank.plan_any(admitted(), classes(10, 1))).await.unwrap().unwrap();

        let [large, other] = [1, 2].map(|seed| support::plan(&bank, &classes(100_000, seed)).unwrap());
        let rendering = bank.deliver(&large);
        tokio::pin!(rendering);
        timeout(SHORT, &mut rendering).await.unwrap_err();
        assert_eq!(bank.deliver(&other).await.unwrap_err().kind(), Kind::Overloaded);
        let small = bank.deliver(&small);
        tokio::pin!(small);
        timeout(SHORT, &mut small).await.unwrap_err();
        drop(gate);
        timeout(LONG, small).await.unwrap().unwrap();
        timeout(LONG, rendering).await.unwrap().unwrap();
    });
}

#[tokio::test]
async fn labels_keep_their_room_as_long_as_the_quote() {
    let (bank, _models) = bank(64 << 20, 1);
    let quote = bank.plan_any(bank.owner().admit("").unwrap(), classes(20_000, 1)).await.unwrap();
    assert!(bank.bytes_in_use() > 20_000 * 48);
    drop(quote);
    assert_eq!(bank.bytes_in_use(), 0);
}
