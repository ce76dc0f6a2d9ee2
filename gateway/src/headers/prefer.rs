use forebay_grpc::prefers_reservation;
use http::{HeaderMap, HeaderName};

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// Removes the preferences of a client that asks which endpoint would be picked: no picker may obey it without the gateway.
/// Returns whether it asks.
pub(crate) fn take_reservation(headers: &mut HeaderMap) -> bool {
    let values = headers.get_all(PREFER).into_iter().filter_map(|value| value.to_str().ok());
    let asks = prefers_reservation(values);
    if asks {
        headers.remove(PREFER);
    }
    asks
}
