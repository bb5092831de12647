//! `GET /api/models`: the list, its filters and its pages.

use std::cmp::Reverse;

use axum::{
    Json,
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, Uri, header, uri::Authority},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use crate::{
    bank::{
        quantity,
        repository::{Listed, OWNER},
    },
    error::{Error, Result},
    server::{
        request::{short, truth},
        status::HubProblem,
    },
};

use super::{info, state::Hub};

/// Models on a page, unless the request names a number.
const DEFAULT_PAGE: usize = 50;
/// Most models on a page.
const MAX_PAGE: usize = 500;
/// Orders by date, as old and new clients name them; the newest comes first.
const DATES: [&str; 4] = ["createdAt", "created_at", "lastModified", "last_modified"];
/// Filters on properties that no model here has.
const NEVER: [&str; 3] = ["apps", "inference", "inference_provider"];

/// What a request wants to see of the list.
#[derive(Debug, PartialEq, Eq)]
struct Search {
    author: Option<String>,
    /// Part of the name, lower case.
    text: Option<String>,
    /// Tags that a model must have.
    tags: Vec<String>,
    parameters: [u64; 2],
    newest_first: bool,
    nothing: bool,
    limit: usize,
    /// Number of models on earlier pages.
    cursor: usize,
}

/// The models of a page, and where the next one begins.
pub(super) async fn list(
    State(hub): State<Hub>,
    RawQuery(query): RawQuery,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, HubProblem> {
    let query = query.unwrap_or_default();
    let search = Search::read(&query)?;
    let (page, next) = search.page(hub.state.bank.catalog(hub.state.guard(&headers)?));
    let mut response = Json(page).into_response();
    if let Some(link) = next.and_then(|next| link(&uri, &headers, &query, next)) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

impl Search {
    /// Reads a query. Keys that choose fields are ignored, and every field is given. An order other than that of dates is
    /// ignored too: all models have the same number of downloads and likes.
    fn read(query: &str) -> Result<Self> {
        let mut search = Self {
            author: None,
            text: None,
            tags: Vec::new(),
            parameters: [0, u64::MAX],
            newest_first: false,
            nothing: false,
            limit: DEFAULT_PAGE,
            cursor: 0,
        };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match key.as_ref() {
                "author" => search.author = Some(value.into_owned()),
                "search" => search.text = Some(value.to_lowercase()),
                "filter" | "pipeline_tag" => {
                    search.tags.extend(value.split(',').map(ToOwned::to_owned));
                }
                "num_parameters" => search.parameters = range(&value)?,
                "sort" => search.newest_first = DATES.contains(&value.as_ref()),
                "gated" => search.nothing |= truth("gated", &value)?,
                "limit" => match number("limit", &value)? {
                    0 => return Err(Error::invalid("limit", format!("0 is beyond 1..={MAX_PAGE}"))),
                    limit => search.limit = limit.min(MAX_PAGE),
                },
                "cursor" => search.cursor = number("cursor", &value)?,
                key => search.nothing |= NEVER.contains(&key),
            }
        }
        Ok(search)
    }

    /// One page of the models that it finds, and where the next page begins.
    fn page(&self, listed: impl Iterator<Item = Listed>) -> (Vec<Value>, Option<usize>) {
        let found = listed.filter(|listed| self.finds(listed));
        let found: Box<dyn Iterator<Item = Listed>> = if self.newest_first {
            let mut all: Vec<_> = found.collect();
            all.sort_by_key(|listed| Reverse(listed.modified));
            Box::new(all.into_iter())
        } else {
            Box::new(found)
        };
        let mut found = found.skip(self.cursor);
        let page: Vec<_> = found.by_ref().take(self.limit).map(|listed| info::summary(&listed)).collect();
        let next = found.next().map(|_| self.cursor + page.len());
        (page, next)
    }

    fn finds(&self, listed: &Listed) -> bool {
        let [least, most] = self.parameters;
        let id = || format!("{OWNER}/{}", listed.name).to_lowercase();
        !self.nothing
            && (least..=most).contains(&listed.parameters)
            && self.author.as_ref().is_none_or(|author| author == OWNER)
            && self.text.as_ref().is_none_or(|text| id().contains(text))
            && (self.tags.is_empty() || {
                let known = info::tags(listed);
                self.tags.iter().all(|tag| known.contains(tag))
            })
    }
}

/// Reads `min:1M,max:6M`, or one half of it.
fn range(text: &str) -> Result<[u64; 2]> {
    let wrong = |reason: String| Error::invalid("num_parameters", format!("\"{}\": {reason}", short(text)));
    let (mut least, mut most) = (0, u64::MAX);
    for part in text.split(',') {
        match part.split_once(':') {
            Some(("min", number)) => least = quantity::hub_parameters(number).map_err(wrong)?,
            Some(("max", number)) => most = quantity::hub_parameters(number).map_err(wrong)?,
            _ => return Err(wrong("use min:NUMBER, max:NUMBER, or both with a comma".to_owned())),
        }
    }
    Ok([least, most])
}

fn number(field: &str, text: &str) -> Result<usize> {
    text.parse()
        .map_err(|_| Error::invalid(field, format!("\"{}\" is no number up to 2^64 - 1", short(text))))
}

/// The address of the page that begins after `cursor` models. It is absolute, because clients use it as it is.
fn link(uri: &Uri, headers: &HeaderMap, query: &str, cursor: usize) -> Option<HeaderValue> {
    let host = headers.get(header::HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let secure = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let origin = uri
        .authority()
        .cloned()
        .or(host)
        .map_or_else(String::new, |host| format!("{}://{host}", if secure { "https" } else { "http" }));
    let mut next = form_urlencoded::Serializer::new(String::new());
    next.extend_pairs(form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key != "cursor"));
    let next = next.append_pair("cursor", &cursor.to_string()).finish();
    HeaderValue::try_from(format!("<{origin}{}?{next}>; rel=\"next\"", uri.path())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_clients_write_them() {
        let search = Search::read(
            "search=Fashion&author=genebank&filter=timm&filter=depth%3A7&num_parameters=min%3A1.5K%2Cmax%3A6M&limit=7&sort=lastModified",
        )
        .unwrap();
        let expected = Search {
            author: Some("genebank".to_owned()),
            text: Some("fashion".to_owned()),
            tags: vec!["timm".to_owned(), "depth:7".to_owned()],
            parameters: [1_500, 6_000_000],
            newest_first: true,
            nothing: false,
            limit: 7,
            cursor: 0,
        };
        assert_eq!(search, expected);
        assert!(!Search::read("sort=likes").unwrap().newest_first);
        assert_eq!(Search::read("limit=99999").unwrap().limit, MAX_PAGE);
        assert!(Search::read("gated=True").unwrap().nothing);
        assert!(Search::read("apps=vllm").unwrap().nothing);
        for query in
            ["limit=0", "limit=-1", "limit=x", "cursor=99999999999999999999", "num_parameters=6M", "gated=y"]
        {
            Search::read(query).unwrap_err();
        }
    }

    #[test]
    fn a_range_of_parameters_may_be_open() {
        assert_eq!(range("min:6B").unwrap(), [6_000_000_000, u64::MAX]);
        assert_eq!(range("max:128").unwrap(), [0, 128]);
        for text in ["", "6M", "min", "min:", "min:-1", "mid:1", "min:1,max:1e3"] {
            range(text).unwrap_err();
        }
    }
}
