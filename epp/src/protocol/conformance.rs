//! Headers of the conformance suite of the Gateway API Inference Extension. Its tests need a picker that picks the
//! endpoints that the client names and tells the client which endpoint served the request (`pkg/lwepp` there). Off by
//! default: a client could choose its endpoint.

use forebay_grpc::proto::{HttpHeaders, Metadata};

use super::metadata;
use crate::schedule::{Headers as _, Subset};

/// Request header: a list of `ip` and `ip:port`. It has precedence over the gateway's subset hint.
const SELECTION: &str = "test-epp-endpoint-selection";
/// Response header: the endpoint that produced the response, as the gateway's metadata says.
const SERVED: &str = "x-conformance-test-served-endpoint";

/// Endpoints that the client names. `None` without the header.
pub(super) fn selection(headers: &HttpHeaders) -> Option<Subset> {
    headers.get(SELECTION).map(|list| Subset::parse([list]))
}

/// The response header.
pub(super) fn served(metadata: Option<&Metadata>) -> (String, String) {
    let served = metadata::served(metadata);
    let value = served.map_or_else(
        || "fail: the gateway sent no valid served endpoint".to_owned(),
        |address| address.to_string(),
    );
    (SERVED.to_owned(), value)
}
