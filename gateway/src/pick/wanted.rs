//! What a request asks of a picker.

use std::fmt;
use std::net::SocketAddr;

use forebay_epp::schedule::Subset;
use forebay_grpc::names::DESTINATION_ENDPOINT_SUBSET;
use http::HeaderMap;

/// What a request asks for besides an endpoint, and what the picker said to it.
#[derive(Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// Restricts the endpoints.
    pub(crate) hint: Option<&'a SubsetHint>,
    /// How the endpoint is chosen.
    pub(crate) explains: bool,
    /// Only the name of an endpoint: the request is not sent to it.
    pub(crate) reserves: bool,
    /// The picker's explanation: a JSON document.
    pub(crate) explanation: Option<String>,
    /// A picker may choose a pod that joined while the body arrived.
    pub(crate) joined: Option<Joined<'a>>,
}

/// Whether an endpoint has become a ready member of the pool since the request was routed.
#[derive(Clone, Copy)]
pub(crate) struct Joined<'a>(&'a (dyn Fn(&SocketAddr) -> bool + Sync));

impl<'a> Joined<'a> {
    pub(crate) fn new(is_member: &'a (dyn Fn(&SocketAddr) -> bool + Sync)) -> Self {
        Self(is_member)
    }

    pub(super) fn has(self, endpoint: &SocketAddr) -> bool {
        (self.0)(endpoint)
    }
}

impl fmt::Debug for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined").finish_non_exhaustive()
    }
}

/// The endpoints to which a request is restricted (`x-gateway-destination-endpoint-subset`).
#[derive(Debug)]
pub(crate) struct SubsetHint {
    pub(super) subset: Subset,
    /// The value of the header: `ip:port[,ip:port…]`.
    pub(super) text: String,
}

impl SubsetHint {
    /// Removes the hint from a request's headers. A hint that cannot be parsed matches no endpoint.
    pub(crate) fn take(headers: &mut HeaderMap) -> Option<Self> {
        if !headers.contains_key(DESTINATION_ENDPOINT_SUBSET) {
            return None;
        }
        let values: Vec<&str> = headers
            .get_all(DESTINATION_ENDPOINT_SUBSET)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        let hint = Self { subset: Subset::parse(values.iter().copied()), text: values.join(",") };
        headers.remove(DESTINATION_ENDPOINT_SUBSET);
        Some(hint)
    }
}
