//! Callers can rely on the same behaviour over every transport. Each behaviour is one function, which is called for
//! each way to a model.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use genebank::{
    client::Client,
    error::Kind,
    server::{Access, Limits},
};

use crate::{
    support::{GENE, Server, TOKEN, private},
    ways::{ALL, Asked, GOOD, Places, Transport, Way},
};

/// Runs `behaviour` over every way to servers with `access`, and reports each failure with the name of the way.
async fn over_every_way<F>(name: &str, access: Access, behaviour: impl Fn(Way) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Places::start(access).await);
    let mut failures = String::new();
    for transport in ALL {
        let way = Way { transport, places: places.clone(), token: None };
        let run = tokio::time::timeout(Duration::from_mins(2), tokio::spawn(behaviour(way))).await;
        let reason = match run {
            Ok(Ok(())) => continue,
            Ok(Err(panicked)) => {
                let payload = panicked.into_panic();
                let text = payload.downcast_ref::<String>().cloned();
                text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
            }
            Err(_) => "it does not end".to_owned(),
        };
        writeln!(failures, "{transport:?}: {name}: {reason}").unwrap();
    }
    assert!(failures.is_empty(), "\n{failures}");
}

/// Makes one test for each behaviour, with the access of the servers.
macro_rules! behaviours {
    ($($name:ident: $access:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            over_every_way(stringify!($name), $access, behaviour::$name).await;
        }
    )*};
}

behaviours! {
    a_good_request_gives_the_same_bytes_and_digest: Access::default();
    a_repeated_request_gives_the_same_bytes: Access::default();
    other_labels_and_images_give_the_same_bytes: Access::default();
    the_rest_from_an_offset_is_that_of_the_whole: Access::default();
    an_offset_beyond_the_file_is_refused: Access::default();
    an_unknown_gene_is_refused: Access::default();
    an_empty_name_is_the_default_gene: Access::default();
    sizes_beyond_the_limits_are_refused: Access::default();
    an_unknown_dtype_is_refused: Access::default();
    an_unknown_layout_is_refused: Access::default();
    impossible_labels_and_images_are_refused: Access::default();
    a_caller_that_leaves_harms_nobody: Access::default();
    genes_are_listed: Access::default();
    a_token_that_nobody_asked_for_is_ignored: Access::default();
    a_private_gene_needs_a_token: private();
    a_private_gene_is_not_listed_without_a_token: private();
}

mod behaviour {
    use super::*;

    /// Requests `asked` if the way can express it, and compares the result with the embedded model.
    async fn agrees(way: &Way, asked: Asked) {
        if way.can_say(asked) {
            let expected = way.places.embedded(asked).await.unwrap().checked();
            let got = way.ask(asked).await.unwrap_or_else(|kind| panic!("{kind:?} for {asked:?}"));
            assert!(got == expected, "other bytes for {asked:?}");
        }
    }

    async fn is_refused(way: &Way, asked: Asked, kind: Kind) {
        if way.can_say(asked) {
            assert_eq!(way.ask(asked).await.err(), Some(way.kind(kind)), "{asked:?}");
        }
    }

    pub(super) async fn a_good_request_gives_the_same_bytes_and_digest(way: Way) {
        for asked in [
            GOOD,
            Asked { depth: 1, ..GOOD },
            Asked { depth: 64, dtype: "bf16", ..GOOD },
            Asked { width: 8, ..GOOD },
            Asked { dtype: "f16", ..GOOD },
            Asked { width: 16, dtype: "f16", untrained: true, ..GOOD },
            Asked { layout: "transformers", ..GOOD },
            Asked { layout: "transformers", width: 8, dtype: "bf16", ..GOOD },
        ] {
            agrees(&way, asked).await;
        }
    }

    pub(super) async fn a_repeated_request_gives_the_same_bytes(way: Way) {
        let first = way.ask(GOOD).await.unwrap().checked();
        for _ in 0..3 {
            assert!(way.ask(GOOD).await.unwrap() == first);
        }
    }

    pub(super) async fn other_labels_and_images_give_the_same_bytes(way: Way) {
        agrees(&way, Asked { labels: Some(&["a", "é, \"x\"", "c"]), ..GOOD }).await;
        agrees(&way, Asked { image_size: Some(16), ..GOOD }).await;
        agrees(&way, Asked { labels: Some(&["z"]), image_size: Some(12), width: 8, ..GOOD }).await;
    }

    pub(super) async fn the_rest_from_an_offset_is_that_of_the_whole(way: Way) {
        if way.has_offsets() {
            let whole = way.places.embedded(GOOD).await.unwrap().bytes;
            for offset in [0, 1, 7, 65_536, 65_537, whole.len() - 1] {
                let rest = way.rest(GOOD, offset as u64).await.unwrap();
                assert!(rest == whole[offset..], "from {offset}");
            }
        }
    }

    pub(super) async fn an_offset_beyond_the_file_is_refused(way: Way) {
        if way.has_offsets() {
            let size = way.places.embedded(GOOD).await.unwrap().bytes.len() as u64;
            for offset in [size + 1, u64::MAX] {
                assert_eq!(way.rest(GOOD, offset).await.err(), Some(Kind::Invalid), "from {offset}");
            }
        }
    }

    pub(super) async fn an_unknown_gene_is_refused(way: Way) {
        for gene in ["nobody", "TINY", "tiny-d5-w24"] {
            is_refused(&way, Asked { gene, ..GOOD }, Kind::NotFound).await;
        }
    }

    pub(super) async fn an_empty_name_is_the_default_gene(way: Way) {
        let empty = Asked { gene: "", ..GOOD };
        if way.transport == Transport::Hub {
            // A repository's name contains the gene, so there is no default.
            is_refused(&way, empty, Kind::NotFound).await;
        } else {
            agrees(&way, empty).await;
        }
    }

    pub(super) async fn sizes_beyond_the_limits_are_refused(way: Way) {
        for asked in [
            Asked { depth: 0, ..GOOD },
            Asked { depth: 65, ..GOOD },
            Asked { depth: 1_000_000_000, ..GOOD },
            Asked { depth: u64::MAX, ..GOOD },
            Asked { width: 0, ..GOOD },
            Asked { width: 16, ..GOOD },
            Asked { width: u64::MAX, ..GOOD },
            Asked { width: 12, untrained: true, ..GOOD },
            Asked { width: 1_000_000_000, untrained: true, ..GOOD },
        ] {
            is_refused(&way, asked, Kind::Invalid).await;
        }
    }

    pub(super) async fn an_unknown_dtype_is_refused(way: Way) {
        for dtype in ["f64", "F16", "int8"] {
            is_refused(&way, Asked { dtype, ..GOOD }, Kind::Invalid).await;
        }
    }

    pub(super) async fn an_unknown_layout_is_refused(way: Way) {
        is_refused(&way, Asked { layout: "keras", ..GOOD }, Kind::Invalid).await;
        is_refused(&way, Asked { layout: "transformers", labels: Some(&["z"]), ..GOOD }, Kind::Invalid).await;
    }

    pub(super) async fn impossible_labels_and_images_are_refused(way: Way) {
        for asked in [
            Asked { labels: Some(&[]), ..GOOD },
            Asked { labels: Some(&[""]), ..GOOD },
            Asked { labels: Some(&["a", "a"]), ..GOOD },
            Asked { image_size: Some(0), ..GOOD },
            Asked { image_size: Some(9), ..GOOD },
            Asked { image_size: Some(4096), ..GOOD },
        ] {
            is_refused(&way, asked, Kind::Invalid).await;
        }
    }

    pub(super) async fn a_caller_that_leaves_harms_nobody(way: Way) {
        for depth in 55..=64 {
            // The models are large, so that much is left to send. Each is different, so that each is rendered.
            way.leave(Asked { depth, ..GOOD }).await;
        }
        agrees(&way, GOOD).await;
        agrees(&way, Asked { depth: 64, ..GOOD }).await;
    }

    pub(super) async fn genes_are_listed(way: Way) {
        assert_eq!(way.genes().await.unwrap(), [GENE]);
    }

    pub(super) async fn a_token_that_nobody_asked_for_is_ignored(way: Way) {
        agrees(&Way { token: Some("hf_of_another_hub"), ..way }, GOOD).await;
    }

    pub(super) async fn a_private_gene_needs_a_token(way: Way) {
        if way.has_tokens() {
            let with = |token| Way { token, ..way.clone() };
            for asked in [GOOD, Asked { depth: 65, ..GOOD }] {
                // The check of the token comes before the check of the request.
                assert_eq!(with(None).ask(asked).await.err(), Some(Kind::NoToken));
                assert_eq!(with(Some("hf_other")).ask(asked).await.err(), Some(Kind::BadToken));
            }
            if way.transport != Transport::Hub {
                // Asking for the default gene does not avoid the check.
                let default = Asked { gene: "", ..GOOD };
                assert_eq!(with(None).ask(default).await.err(), Some(Kind::NoToken));
            }
            agrees(&with(Some(TOKEN)), GOOD).await;
            is_refused(&with(Some(TOKEN)), Asked { depth: 65, ..GOOD }, Kind::Invalid).await;
        }
    }

    pub(super) async fn a_private_gene_is_not_listed_without_a_token(way: Way) {
        if way.has_tokens() {
            let with = |token| Way { token, ..way.clone() };
            assert!(with(None).genes().await.unwrap().is_empty());
            assert_eq!(with(Some("hf_other")).genes().await.err(), Some(Kind::BadToken));
            assert_eq!(with(Some(TOKEN)).genes().await.unwrap(), [GENE]);
        }
    }
}

#[tokio::test]
async fn genes_are_the_same_over_both_protocols() {
    let server = Server::start().await;
    let genes = Client::connect(&server.url()).await.unwrap().genes().await.unwrap();
    assert_eq!(server.get("/v1/genes").await.json(), serde_json::to_value(&genes).unwrap());
    let gene = &genes[0];
    assert_eq!((gene.name.as_str(), gene.default, gene.trained_quality()), (GENE, true, Some(0.5)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_downloads_than_permits_are_all_answered() {
    let server = Arc::new(Server::of(Limits::default(), 1).await);
    let mut downloads = tokio::task::JoinSet::new();
    for depth in 1..=60 {
        let server = server.clone();
        let path = format!("/v1/models/tiny/d{depth}-w24.safetensors?dtype=bf16");
        downloads.spawn(async move { server.get(&path).await.status });
    }
    let all = async { downloads.join_all().await };
    let statuses = tokio::time::timeout(Duration::from_mins(1), all).await.expect("waiters wake one another");
    assert_eq!(statuses, [200; 60]);
}

#[tokio::test]
async fn overload_is_refused_before_any_byte_and_an_accepted_get_waits() {
    let server = Server::of(Limits::default(), 0).await;
    let folder = tempfile::tempdir().unwrap();
    let client = Client::connect(&server.url()).await.unwrap().with_retries(0);
    let request = GOOD.request().unwrap();
    let refused = client.init_model(&request, &folder.path().join("m"), |_| {}).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Overloaded);
    assert!(crate::support::entries(folder.path()).is_empty());
    let path = "/v1/models/tiny/d5-w24.safetensors";
    // A request that needs no render is still answered.
    assert_eq!(server.http("HEAD", path, "").await.status, 200);
    // The GET of the same file waits for a render, and here it waits for ever.
    assert!(tokio::time::timeout(Duration::from_millis(300), server.get(path)).await.is_err());
}
