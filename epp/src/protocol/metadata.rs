//! Metadata and pseudo-headers that a gateway sends.

use std::net::SocketAddr;

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::schedule::{Headers, PromptReader, Subset};
use forebay_grpc::names::{
    DESTINATION_ENDPOINT_SERVED, DESTINATION_ENDPOINT_SUBSET, EXPLAIN, METADATA_FOREBAY, METADATA_LB,
    METADATA_SUBSET_HINT, MODEL_NAME, MODEL_NAME_REWRITE, MODEL_NAME_REWRITE_ALIAS, POOL, RESERVE,
};
use forebay_grpc::prefers_reservation;
use forebay_grpc::proto::{self, Any, HttpHeaders, Kind, Metadata};

/// The subset hint. It is binding if the key exists, whatever the value: an invalid hint allows no endpoint, not the
/// whole pool.
pub(super) fn subset(metadata: Option<&Metadata>) -> Option<Subset> {
    let kind = value(metadata?, METADATA_SUBSET_HINT, DESTINATION_ENDPOINT_SUBSET)?;
    Some(match kind {
        Kind::StringValue(text) => Subset::parse([text.as_str()]),
        Kind::ListValue(list) => Subset::parse(list.values.iter().filter_map(|value| match &value.kind {
            Some(Kind::StringValue(text)) => Some(text.as_str()),
            _ => None,
        })),
        _ => Subset::default(),
    })
}

/// The InferencePool that Forebay's gateway asks for.
pub(super) fn pool(metadata: &Metadata) -> Option<&str> {
    match value(metadata, METADATA_FOREBAY, POOL)? {
        Kind::StringValue(text) => Some(text),
        // Not a pool, and not nothing.
        _ => Some(""),
    }
}

/// What Forebay's gateway asks for besides a decision.
pub(super) fn wishes(metadata: Option<&Metadata>) -> Wishes {
    let is_set =
        |name| metadata.is_some_and(|it| value(it, METADATA_FOREBAY, name) == Some(&Kind::BoolValue(true)));
    Wishes { explains: is_set(EXPLAIN), reserves: is_set(RESERVE) }
}

/// What Forebay's gateway asks for besides a decision.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wishes {
    /// How the endpoint is chosen.
    pub(super) explains: bool,
    /// Only the name of the endpoint: no request will be sent to it.
    pub(super) reserves: bool,
}

/// Whether the client asks which endpoint would be picked.
pub(super) fn asks_for_reservation(headers: &HttpHeaders) -> bool {
    let headers = headers.headers.iter().flat_map(|headers| &headers.headers);
    let values = headers.filter(|header| header.key.eq_ignore_ascii_case("prefer")).map(raw);
    prefers_reservation(values.filter_map(|value| str::from_utf8(value).ok()))
}

/// The endpoint that produced the response.
pub(super) fn served(metadata: Option<&Metadata>) -> Option<SocketAddr> {
    match value(metadata?, METADATA_LB, DESTINATION_ENDPOINT_SERVED)? {
        Kind::StringValue(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A part of the prompt, from Forebay's gateway.
pub(super) fn prompt(metadata: &Metadata) -> Option<&Any> {
    metadata.typed_filter_metadata.get(METADATA_FOREBAY)
}

/// Reads the prompt from the body of a request with these headers. `None` if the body has none that can be read.
pub(super) fn prompt_reader(headers: &HttpHeaders) -> Option<PromptReader> {
    let path = str::from_utf8(header(headers, ":path")?).ok()?;
    let names = [
        CONTENT_TYPE.as_str(),
        CONTENT_ENCODING.as_str(),
        CONTENT_LENGTH.as_str(),
        MODEL_NAME,
        MODEL_NAME_REWRITE,
        MODEL_NAME_REWRITE_ALIAS,
    ];
    PromptReader::new(path, &http_headers(headers, &names))
}

/// The headers with these names, which must be lower case.
pub(super) fn http_headers(headers: &HttpHeaders, names: &[&'static str]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for header in headers.headers.iter().flat_map(|headers| &headers.headers) {
        let Some(name) = names.iter().find(|name| header.key.eq_ignore_ascii_case(name)) else { continue };
        if let Ok(value) = HeaderValue::from_bytes(raw(header)) {
            map.append(HeaderName::from_static(name), value);
        }
    }
    map
}

impl Headers for HttpHeaders {
    fn get(&self, name: &str) -> Option<&str> {
        let header = self.headers.as_ref()?.headers.iter().find(|header| header.key == name)?;
        if header.raw_value.is_empty() {
            Some(&header.value)
        } else {
            std::str::from_utf8(&header.raw_value).ok()
        }
    }
}

/// The `:status` of response headers.
pub(super) fn status(headers: &HttpHeaders) -> Option<u16> {
    str::from_utf8(header(headers, ":status")?).ok()?.parse().ok()
}

fn header<'a>(headers: &'a HttpHeaders, name: &str) -> Option<&'a [u8]> {
    headers.headers.as_ref()?.headers.iter().find(|header| header.key == name).map(raw)
}

/// Envoy sends values in `raw_value`.
fn raw(header: &proto::HeaderValue) -> &[u8] {
    if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value }
}

fn value<'a>(metadata: &'a Metadata, namespace: &str, key: &str) -> Option<&'a Kind> {
    // The key exists, but the value has no kind.
    const NULL: &Kind = &Kind::NullValue(0);
    let value = metadata.filter_metadata.get(namespace)?.fields.get(key)?;
    Some(value.kind.as_ref().unwrap_or(NULL))
}
