//! Asks over HTTP what the file of a request will be.

use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    bank::{ModelRequest, ModelSummary},
    error::{Error, Result},
    gene::SizeRequest,
    wire::query::{self, FileDigests, Wanted},
};

use super::{
    Client, Event,
    http::{Connection, Http},
    retry::{Interrupted, patiently},
};

/// Longest path with its query in bytes. Servers and proxies take no longer ones.
const MAX_TARGET_BYTES: usize = 16 << 10;
/// Longest answer about one model in bytes.
const MAX_SUMMARY_BYTES: usize = 1 << 20;
/// Longest list of genes in bytes.
const MAX_GENES_BYTES: usize = 8 << 20;

/// A file that a server offers.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) http: Http,
    /// Path and query of the file. The query is not empty.
    pub(super) target: String,
    pub(super) model: ModelSummary,
}

/// The fields of a gene that decide the size of a request without one.
#[derive(Debug, Deserialize)]
struct Gene {
    name: String,
    default: bool,
    trained_depth: u32,
    trained_width: u32,
}

impl Client {
    /// The file of `request`, without a gRPC call.
    pub(super) async fn offer(
        &self,
        request: &ModelRequest,
        on_event: &mut impl FnMut(Event),
    ) -> Result<Offer> {
        if request.tune.is_some() {
            return Err(Error::invalid("transport", "http is for models that are not tuned; use grpc"));
        }
        let on_retry = |reason, pause| on_event(Event::Retry { reason, pause });
        let offer = patiently(self.retries, on_retry, || self.try_offer(request)).await;
        offer.map_err(Interrupted::into_error)
    }

    async fn try_offer(&self, request: &ModelRequest) -> Result<Offer, Interrupted> {
        let SizeRequest { depth, width, .. } = request.size;
        let (gene, depth, width) = match (request.gene.as_str(), depth, width) {
            (gene, Some(depth), Some(width)) if !gene.is_empty() => (gene.to_owned(), depth, width),
            (gene, depth, width) => {
                let http = self.http()?;
                let genes: Vec<Gene> = get(&http, "/v1/genes", MAX_GENES_BYTES).await?;
                let found = genes
                    .iter()
                    .find(|known| if gene.is_empty() { known.default } else { known.name == gene });
                let known = || genes.iter().map(|gene| gene.name.as_str()).collect::<Vec<_>>().join(", ");
                let found = found.ok_or_else(|| Error::NotFound {
                    what: "gene",
                    name: gene.to_owned(),
                    known: known(),
                })?;
                let (depth, width) = (
                    depth.unwrap_or(found.trained_depth.into()),
                    width.unwrap_or(found.trained_width.into()),
                );
                (found.name.clone(), depth, width)
            }
        };
        self.offer_of(request, &gene, depth, width).await
    }

    /// The file of `request`, with a gene and a size that are already known.
    pub(super) async fn offer_of(
        &self,
        request: &ModelRequest,
        gene: &str,
        depth: impl Into<u64>,
        width: impl Into<u64>,
    ) -> Result<Offer, Interrupted> {
        let (http, target) = (self.http()?, target(request, gene, depth.into(), width.into())?);
        let model: ModelSummary = get(&http, &Wanted::Summary.of(&target), MAX_SUMMARY_BYTES).await?;
        self.check(&model)?;
        Ok(Offer { http, target, model })
    }

    /// The server as an HTTP client sees it.
    pub(super) fn http(&self) -> Result<Http> {
        Http::new(&self.url, self.token.as_ref())
    }
}

impl Offer {
    /// The digests of the file. The server has to read the whole file to answer.
    pub(super) async fn digests(&self) -> Result<FileDigests, Interrupted> {
        get(&self.http, &Wanted::Digests.of(&self.target), MAX_SUMMARY_BYTES).await
    }
}

async fn get<T: DeserializeOwned>(http: &Http, target: &str, limit: usize) -> Result<T, Interrupted> {
    let mut connection = Connection::open(http).await?;
    connection.json(target, limit).await
}

/// Path and query of the file of `request`, if they are short enough for HTTP.
fn target(request: &ModelRequest, gene: &str, depth: u64, width: u64) -> Result<String> {
    let target = query::render(request, gene, depth, width);
    if target.len() > MAX_TARGET_BYTES {
        let reason =
            format!("a request of {} bytes is beyond the {MAX_TARGET_BYTES} of HTTP; use grpc", target.len());
        return Err(Error::invalid("transport", reason));
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gene::{Head, Target};

    #[test]
    fn a_request_that_http_does_not_take_is_refused() {
        let labels = |labels: usize| ModelRequest {
            target: Target {
                head: Some(Head { labels: vec!["a&b".to_owned(); labels], seed: 4 }),
                ..Target::default()
            },
            ..ModelRequest::default()
        };
        target(&labels(2), "g", 3, 24).unwrap();
        assert!(target(&labels(10_000), "g", 3, 24).unwrap_err().to_string().contains("use grpc"));
    }
}
