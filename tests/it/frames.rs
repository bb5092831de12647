//! The server's own gRPC framing gives the same responses as the generated service, from any byte on.

use genebank::proto::{
    DownloadModelRequest, InitModelRequest, InitModelResponse, gene_bank_client::GeneBankClient,
    init_model_response::Event,
};
use tonic::{Code, Request, Status, Streaming, transport::Channel};
use tonic_types::StatusExt as _;

use crate::support::{GENE, Server};

/// Metadata key that selects the generated service.
const FRAMES: &str = "genebank-frames";

async fn client(server: &Server) -> GeneBankClient<Channel> {
    GeneBankClient::connect(server.url()).await.unwrap()
}

fn model(width: u32) -> InitModelRequest {
    InitModelRequest {
        gene: GENE.to_owned(),
        depth: Some(40),
        width: Some(width),
        max_chunk_bytes: 64 << 10,
        ..Default::default()
    }
}

fn framed<M>(message: M, generated: bool) -> Request<M> {
    let mut request = Request::new(message);
    if generated {
        request.metadata_mut().insert(FRAMES, "generated".parse().unwrap());
    }
    request
}

async fn messages(mut stream: Streaming<InitModelResponse>) -> Result<Vec<Event>, Status> {
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await? {
        messages.push(message.event.unwrap());
    }
    assert!(stream.trailers().await.unwrap().is_some());
    Ok(messages)
}

fn bytes(events: &[Event]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events {
        if let Event::Chunk(chunk) = event {
            bytes.extend_from_slice(&chunk.data);
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_framings_say_the_same_from_any_byte() {
    let server = Server::start().await;
    let mut client = client(&server).await;
    for width in [8, 24] {
        let mut answers = Vec::new();
        for generated in [false, true] {
            let answer = client.init_model(framed(model(width), generated)).await.unwrap();
            assert_eq!(answer.metadata().get("content-type").unwrap(), "application/grpc");
            answers.push(messages(answer.into_inner()).await.unwrap());
        }
        assert_eq!(answers[0], answers[1]);
        let all = bytes(&answers[0]);
        let Event::Header(header) = &answers[0][0] else { panic!("a header comes first") };
        assert_eq!(header.size_bytes, all.len() as u64);
        for offset in [0, 1, 7, 65_536, all.len() - 1, all.len()] {
            let mut rests = Vec::new();
            for generated in [false, true] {
                let message = DownloadModelRequest {
                    model: Some(model(width)),
                    identity: header.identity.clone(),
                    offset: offset as u64,
                };
                let answer = client.download_model(framed(message, generated)).await.unwrap();
                rests.push(messages(answer.into_inner()).await.unwrap());
            }
            assert_eq!(rests[0], rests[1]);
            assert!(bytes(&rests[0]) == all[offset..], "from {offset}");
            assert_eq!((rests[0].first(), rests[0].last()), (answers[0].first(), answers[0].last()));
        }
    }
}

#[tokio::test]
async fn a_rest_that_there_is_not_is_refused() {
    let server = Server::start().await;
    let mut client = client(&server).await;
    let whole = client.init_model(model(24)).await.unwrap().into_inner();
    let Event::Header(header) = messages(whole).await.unwrap().remove(0) else {
        panic!("a header comes first")
    };
    let good = DownloadModelRequest { model: Some(model(24)), identity: header.identity, offset: 0 };
    for (message, code, word) in [
        (
            DownloadModelRequest { offset: header.size_bytes + 1, ..good.clone() },
            Code::InvalidArgument,
            "offset",
        ),
        (DownloadModelRequest { offset: u64::MAX, ..good.clone() }, Code::InvalidArgument, "offset"),
        (DownloadModelRequest { model: Some(model(8)), ..good.clone() }, Code::NotFound, "model"),
        (
            DownloadModelRequest { identity: "x".repeat(64), ..good.clone() },
            Code::InvalidArgument,
            "identity",
        ),
        (DownloadModelRequest { identity: String::new(), ..good.clone() }, Code::InvalidArgument, "identity"),
        (DownloadModelRequest { model: None, ..good.clone() }, Code::InvalidArgument, "model"),
    ] {
        for generated in [false, true] {
            let refused = match client.download_model(framed(message.clone(), generated)).await {
                Ok(answer) => messages(answer.into_inner()).await.unwrap_err(),
                Err(refused) => refused,
            };
            assert_eq!(refused.code(), code, "{refused}");
            assert!(refused.message().contains(word), "{refused}");
            let details = refused.get_error_details();
            assert_eq!(details.error_info().unwrap().domain, "genebank");
            let violation = details.bad_request().map(|request| request.field_violations[0].field.as_str());
            let resource = details.resource_info().map(|resource| resource.resource_type.as_str());
            assert_eq!(violation.or(resource), Some(word), "{refused}");
        }
    }
}
