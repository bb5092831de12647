//! Many simultaneous first requests for a model cause only one render.

use std::{collections::BTreeSet, sync::Arc};

use axum::http::{Method, Version};
use genebank::{
    digest::{hex, sha256},
    server::Limits,
};
use tonic::transport::Endpoint;

use crate::{
    support::Server,
    ways::{Asked, GOOD, sha256_of},
};

const REQUESTS: usize = 1_000;

/// The number of renders in the server's metrics.
async fn rendered(server: &Server) -> String {
    let text = String::from_utf8(server.get("/metrics").await.body).unwrap();
    text.lines().find_map(|line| line.strip_prefix("genebank_renders_total ")).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_first_requests_are_one_render() {
    let server = Arc::new(Server::of(Limits::default(), 1).await);
    assert_eq!(rendered(&server).await, "0");
    let asked = Asked { depth: 9, ..GOOD };
    // gRPC calls share connections, as its clients do. HTTP opens one connection for each request.
    let channels: Vec<_> = (0..4).map(|_| Endpoint::new(server.url()).unwrap().connect_lazy()).collect();
    let together = Arc::new(tokio::sync::Barrier::new(REQUESTS));
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..REQUESTS {
        let (server, together, channel) = (server.clone(), together.clone(), channels[i % 4].clone());
        calls.spawn(async move {
            together.wait().await;
            let path = match i % 5 {
                0 => "/v1/models/tiny/d9-w24.safetensors",
                1 => "/genebank/tiny-d9-w24/resolve/main/model.safetensors",
                _ => return sha256_of(channel, asked.message()).await,
            };
            let version = if i % 2 == 0 { Version::HTTP_2 } else { Version::HTTP_11 };
            let reply = server.call(version, Method::GET, path, &[], Vec::new()).await;
            assert_eq!(reply.status, 200);
            hex(&sha256(&reply.body))
        });
    }
    let digests: BTreeSet<_> = calls.join_all().await.into_iter().collect();
    assert_eq!(digests.len(), 1, "{digests:?}");
    assert_eq!(rendered(&server).await, "1");

    // Another model needs another render, but a model that exists already does not.
    server.get("/v1/models/tiny/d8-w24.safetensors").await;
    server.get("/v1/models/tiny/d9-w24.safetensors").await;
    assert_eq!(rendered(&server).await, "2");
}
