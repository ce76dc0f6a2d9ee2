//! Metadata and pseudo-headers that a gateway sends.

use std::net::SocketAddr;

use crate::schedule::Subset;
use forebay_grpc::names::{
    DESTINATION_ENDPOINT_SERVED, DESTINATION_ENDPOINT_SUBSET, METADATA_LB, METADATA_SUBSET_HINT,
};
use forebay_grpc::proto::{HttpHeaders, Kind, Metadata};

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

/// The endpoint that produced the response.
pub(super) fn served(metadata: Option<&Metadata>) -> Option<SocketAddr> {
    match value(metadata?, METADATA_LB, DESTINATION_ENDPOINT_SERVED)? {
        Kind::StringValue(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The `:status` of response headers. Envoy sends it in `raw_value`.
pub(super) fn status(headers: &HttpHeaders) -> Option<u16> {
    let header = headers.headers.as_ref()?.headers.iter().find(|header| header.key == ":status")?;
    let text = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn value<'a>(metadata: &'a Metadata, namespace: &str, key: &str) -> Option<&'a Kind> {
    // The key exists, but the value has no kind.
    const NULL: &Kind = &Kind::NullValue(0);
    let value = metadata.filter_metadata.get(namespace)?.fields.get(key)?;
    Some(value.kind.as_ref().unwrap_or(NULL))
}
