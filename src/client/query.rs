//! A request as a path and a query of HTTP, and what the server says of it.

use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    bank::{ModelRequest, ModelSummary},
    error::{Error, Result},
    export::Layout,
    gene::{Method, Size, Start, Target},
};

use super::{
    Client, Event,
    http::{Connection, Http},
    retry::{Interrupted, patiently},
};

/// Longest path with its query, bytes: what servers and proxies take.
const MAX_TARGET_BYTES: usize = 16 << 10;
/// Longest answer about one model, bytes.
const MAX_SUMMARY_BYTES: usize = 1 << 20;
/// Longest list of genes, bytes.
const MAX_GENES_BYTES: usize = 8 << 20;

/// A file that a server has.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) http: Http,
    /// Path and query of the file; the query is not empty.
    pub(super) target: String,
    pub(super) model: ModelSummary,
}

/// What the digests of a file are.
#[derive(Debug, Deserialize)]
pub(super) struct Digests {
    pub(super) identity: String,
    #[serde(default)]
    pub(super) manifest: String,
    #[serde(default)]
    pub(super) sha256: String,
}

/// What of a gene decides the size of a request that names none.
#[derive(Debug, Deserialize)]
struct Gene {
    name: String,
    default: bool,
    trained_depth: u32,
    trained_width: u32,
}

impl Client {
    /// The file of `request`, without a call of gRPC.
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
        let Size { depth, width, .. } = request.size;
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

    /// The file of `request`, whose gene and size are known.
    pub(super) async fn offer_of(
        &self,
        request: &ModelRequest,
        gene: &str,
        depth: impl Into<u64>,
        width: impl Into<u64>,
    ) -> Result<Offer, Interrupted> {
        let (http, target) = (self.http()?, target(request, gene, depth.into(), width.into())?);
        let model: ModelSummary = get(&http, &format!("{target}&summary"), MAX_SUMMARY_BYTES).await?;
        self.check(&model)?;
        Ok(Offer { http, target, model })
    }

    /// The server without gRPC.
    pub(super) fn http(&self) -> Result<Http> {
        Http::new(&self.url, self.token.as_ref())
    }
}

impl Offer {
    /// The digests of the file, which the server reads for it.
    pub(super) async fn digests(&self) -> Result<Digests, Interrupted> {
        get(&self.http, &format!("{}&digest", self.target), MAX_SUMMARY_BYTES).await
    }
}

async fn get<T: DeserializeOwned>(http: &Http, target: &str, limit: usize) -> Result<T, Interrupted> {
    let mut connection = Connection::open(http).await?;
    connection.json(target, limit).await
}

/// `/v1/models/{gene}/d{depth}-w{width}.safetensors` with everything else in the query.
fn target(request: &ModelRequest, gene: &str, depth: u64, width: u64) -> Result<String> {
    let ModelRequest { gene: _, size, target, start: Start { method, seed }, layout, tune: _ } = request;
    let Size { depth: _, width: _, rule, dtype, allow_untrained_width } = size;
    let Target { image_size, patch_size, head } = target;
    // A space is a plus sign in queries alone.
    let gene = form_urlencoded::byte_serialize(gene.as_bytes()).collect::<String>().replace('+', "%20");
    let path = format!("/v1/models/{gene}/d{depth}-w{width}.safetensors?");
    let start = path.len();
    let mut query = form_urlencoded::Serializer::for_suffix(path, start);
    query.append_pair("dtype", &dtype.to_string());
    query.append_pair("rule", &rule.to_string());
    if *layout != Layout::default() {
        query.append_pair("layout", &layout.to_string());
    }
    if *allow_untrained_width {
        query.append_pair("allow_untrained_width", "true");
    }
    for (name, pixels) in [("image_size", image_size), ("patch_size", patch_size)] {
        if let Some(pixels) = pixels {
            query.append_pair(name, &pixels.to_string());
        }
    }
    if let Some(head) = head {
        let labels = serde_json::Value::from(head.labels.as_slice()).to_string();
        query.append_pair("labels", &labels).append_pair("head_seed", &head.seed.to_string());
    }
    if *method != Method::default() || *seed != 0 {
        query.append_pair("method", &method.to_string()).append_pair("method_seed", &seed.to_string());
    }
    let target = query.finish();
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
    use crate::gene::Head;

    #[test]
    fn every_field_is_in_the_query() {
        let plain = target(&ModelRequest::default(), "a b", 3, 24).unwrap();
        assert_eq!(plain, "/v1/models/a%20b/d3-w24.safetensors?dtype=f32&rule=trained");
        let head = |labels: usize| Some(Head { labels: vec!["a&b".to_owned(); labels], seed: 4 });
        let mut request = ModelRequest {
            size: Size { allow_untrained_width: true, ..Size::default() },
            target: Target { image_size: Some(8), patch_size: Some(2), head: head(2) },
            start: Start { method: Method::Scratch, seed: 5 },
            layout: Layout::Transformers,
            ..ModelRequest::default()
        };
        let full = target(&request, "g", 3, 24).unwrap();
        let expected = "layout=transformers&allow_untrained_width=true&image_size=8&patch_size=2\
            &labels=%5B%22a%26b%22%2C%22a%26b%22%5D&head_seed=4&method=scratch&method_seed=5";
        assert!(full.ends_with(expected), "{full}");
        request.target.head = head(10_000);
        assert!(target(&request, "g", 3, 24).unwrap_err().to_string().contains("use grpc"));
    }
}
