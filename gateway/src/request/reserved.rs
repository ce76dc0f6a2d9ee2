//! A request that asks only which endpoint would be picked (`Prefer: reserve-endpoint`).

use bytes::Bytes;
use forebay_grpc::names::{RESERVE_ENDPOINT, RESERVED_ENDPOINT};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use super::forwarded::{Decided, decide};
use super::prepared::Prepared;
use crate::error::Error;
use crate::pick;

/// Which preferences the response respects (RFC 7240 §3).
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Picks an endpoint and responds with 204 and its address. Nothing is sent to the endpoint.
///
/// A picker of another vendor makes a decision as for any request. It is told that the request has ended.
pub(super) async fn answer_reservation(mut prepared: Prepared<'_>) -> Result<Response<Bytes>, Error> {
    let Decided { decision, at, .. } = decide(&mut prepared).await?;
    prepared.context.observe_sending(&decision.endpoints, decision.chosen_by, decision.body_share, at);
    let endpoint = decision.endpoints.first().map(ToString::to_string);
    let address = endpoint.and_then(|endpoint| HeaderValue::from_maybe_shared(Bytes::from(endpoint)).ok());
    let Some(address) = address else { return Err(pick::Error::NoReadyEndpoint.into()) };
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(RESERVED_ENDPOINT, address);
    response.headers_mut().insert(PREFERENCE_APPLIED, HeaderValue::from_static(RESERVE_ENDPOINT));
    Ok(response)
}
