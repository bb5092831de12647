//! `/v1/models/{gene}/d{depth}-w{width}.safetensors?…` and [`ModelRequest`]: what HTTP asks for, and how it is
//! answered.

use serde::{Deserialize, Serialize};

use crate::{
    bank::{ModelRequest, size_name},
    error::{Error, Result},
    export::Layout,
    gene::{Head, Method, SizeRequest, Start, Target},
};

/// What is wanted of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Its file.
    File,
    /// What it is, as a [`crate::bank::ModelSummary`].
    Summary,
    /// The digests of its file, as [`FileDigests`].
    Digests,
}

/// The digests of a file, hex; an empty one was not announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileDigests {
    /// Name of the request.
    pub(crate) identity: String,
    /// SHA-256 of the file's header and its tensors' digests.
    #[serde(default)]
    pub(crate) manifest: String,
    /// SHA-256 of the file.
    #[serde(default)]
    pub(crate) sha256: String,
    /// Length of the file, bytes.
    #[serde(default)]
    pub(crate) size_bytes: u64,
}

/// The query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelQuery {
    dtype: Option<String>,
    layout: Option<String>,
    rule: Option<String>,
    #[serde(default)]
    allow_untrained_width: bool,
    digest: Option<String>,
    summary: Option<String>,
    image_size: Option<u64>,
    patch_size: Option<u64>,
    /// A JSON array of strings: a label may hold any character.
    labels: Option<String>,
    head_seed: Option<u64>,
    method: Option<String>,
    #[serde(default)]
    method_seed: u64,
}

/// Path and query of the file of `request`, whose gene and size are those given. The query is not empty.
pub(crate) fn render(request: &ModelRequest, gene: &str, depth: u64, width: u64) -> String {
    // HTTP tunes nothing.
    let ModelRequest { gene: _, size, target, start: Start { method, seed }, layout, tune: _ } = request;
    let SizeRequest { depth: _, width: _, rule, dtype, allow_untrained_width } = size;
    let Target { image_size, patch_size, head } = target;
    // A plus sign means a space in queries, but not in paths.
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
    if let Some(Head { labels, seed }) = head {
        let labels = serde_json::Value::from(labels.as_slice()).to_string();
        query.append_pair("labels", &labels).append_pair("head_seed", &seed.to_string());
    }
    if *method != Method::default() || *seed != 0 {
        query.append_pair("method", &method.to_string()).append_pair("method_seed", &seed.to_string());
    }
    query.finish()
}

impl Wanted {
    /// `target`, as [`render`] made it, with this as what is wanted.
    pub(crate) fn of(self, target: &str) -> String {
        match self {
            Self::File => target.to_owned(),
            Self::Summary => format!("{target}&summary"),
            Self::Digests => format!("{target}&digest"),
        }
    }
}

/// What the path's `gene` and `file` and the query ask for.
///
/// # Errors
/// [`Error::NotFound`] for another form of `file`, [`Error::Invalid`] for a value that a key cannot have.
pub(crate) fn parse(gene: &str, file: &str, query: &ModelQuery) -> Result<(ModelRequest, Wanted)> {
    let ModelQuery {
        dtype,
        layout,
        rule,
        allow_untrained_width,
        digest,
        summary,
        image_size,
        patch_size,
        labels,
        head_seed,
        method,
        method_seed,
    } = query;
    let (depth, width) = file.strip_suffix(".safetensors").and_then(size_name::parse).ok_or_else(|| {
        let known = "d{depth}-w{width}.safetensors with numbers up to 2^64".to_owned();
        Error::NotFound { what: "file", name: format!("{file:.80}"), known }
    })?;
    let size = SizeRequest {
        depth: Some(depth),
        width: Some(width),
        rule: rule.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
        dtype: dtype.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
        allow_untrained_width: *allow_untrained_width,
    };
    let head = head(labels.as_deref(), *head_seed)?;
    let target = Target { image_size: *image_size, patch_size: *patch_size, head };
    let method = method.as_deref().map(str::parse).transpose()?.unwrap_or_default();
    let start = Start { method, seed: *method_seed };
    let layout = layout.as_deref().map(str::parse).transpose()?.unwrap_or_default();
    let wanted = if is_given("summary", summary.as_deref())? {
        Wanted::Summary
    } else if is_given("digest", digest.as_deref())? {
        Wanted::Digests
    } else {
        Wanted::File
    };
    Ok((ModelRequest { gene: gene.to_owned(), size, target, start, layout, tune: None }, wanted))
}

/// Other classes, where the query names them.
fn head(labels: Option<&str>, seed: Option<u64>) -> Result<Option<Head>> {
    let Some(labels) = labels else {
        let alone = seed.map(|_| Error::invalid("head_seed", "it draws rows of labels; give labels too"));
        return alone.map_or(Ok(None), Err);
    };
    let labels = serde_json::from_str(labels).map_err(|error| {
        let reason =
            format!("use a JSON array of strings, percent-encoded, for example [\"a\",\"b\"]: {error}");
        Error::invalid("labels", reason)
    })?;
    Ok(Some(Head { labels, seed: seed.unwrap_or(0) }))
}

/// Whether the query has the flag called `name`: bare, or as `true`. It has no other value.
fn is_given(name: &str, value: Option<&str>) -> Result<bool> {
    match value {
        None => Ok(false),
        Some("" | "true") => Ok(true),
        Some(other) => Err(Error::invalid(name, format!("\"{other:.80}\" is not a value of a flag"))),
    }
}

#[cfg(test)]
mod tests {
    use axum::{extract::Query, http::Uri};
    use proptest::prelude::*;

    use super::{super::request::tests::requests, *};

    /// What a server makes of `target`.
    fn read(target: &str) -> Result<(ModelRequest, Wanted)> {
        let uri: Uri = target.parse().unwrap();
        let (gene, file) = uri.path().strip_prefix("/v1/models/").unwrap().split_once('/').unwrap();
        let gene = format!("gene={gene}");
        let (_, gene) = form_urlencoded::parse(gene.as_bytes()).next().unwrap();
        let Query(query) = Query::try_from_uri(&uri).unwrap();
        parse(&gene, file, &query)
    }

    proptest! {
        #[test]
        fn a_request_comes_back(
            request in requests(),
            [depth, width] in any::<[u64; 2]>(),
        ) {
            let target = render(&request, &request.gene, depth, width);
            let size = SizeRequest { depth: Some(depth), width: Some(width), ..request.size };
            let request = ModelRequest { size, ..request };
            for wanted in [Wanted::File, Wanted::Summary, Wanted::Digests] {
                prop_assert_eq!(read(&wanted.of(&target)).unwrap(), (request.clone(), wanted));
            }
        }
    }

    #[test]
    fn every_field_is_in_the_query() {
        let plain = render(&ModelRequest::default(), "a b", 3, 24);
        assert_eq!(plain, "/v1/models/a%20b/d3-w24.safetensors?dtype=f32&rule=trained");
        let request = ModelRequest {
            size: SizeRequest { allow_untrained_width: true, ..SizeRequest::default() },
            target: Target {
                image_size: Some(8),
                patch_size: Some(2),
                head: Some(Head { labels: vec!["a&b".to_owned(); 2], seed: 4 }),
            },
            start: Start { method: Method::Scratch, seed: 5 },
            layout: Layout::Transformers,
            ..ModelRequest::default()
        };
        let full = render(&request, "g", 3, 24);
        let expected = "layout=transformers&allow_untrained_width=true&image_size=8&patch_size=2\
            &labels=%5B%22a%26b%22%2C%22a%26b%22%5D&head_seed=4&method=scratch&method_seed=5";
        assert!(full.ends_with(expected), "{full}");
    }
}
