//! `GET /v1/models` and `GET /v1/models/{id}`, answered by the gateway.

use std::ops::ControlFlow;

use bytes::Bytes;
use forebay_routing::BeforeBody;
use http::{HeaderValue, Method, Response, header};
use percent_encoding::percent_decode_str;

use super::received::Received;
use super::usable::retain_usable;
use crate::error::Error;
use crate::forward;

const MODELS_PATH: &str = "/v1/models";
/// Endpoints that list no model.
const EMPTY_LIST: Bytes = Bytes::from_static(br#"{"object":"list","data":[]}"#);

/// Whether [`answer_models`] may answer the request.
pub(super) fn asks_for_models(received: &Received<'_>) -> bool {
    requested_id(received).is_some()
}

/// Breaks with the models of the listener's pools, if the request asks for them and no route sends it to a backend that is
/// not a pool.
pub(super) async fn answer_models(
    received: Received<'_>,
) -> Result<ControlFlow<Response<Bytes>, Received<'_>>, Error> {
    let Some(id) = requested_id(&received) else { return Ok(ControlFlow::Continue(received)) };
    let pools = received.listener.pools(received.host());
    if pools.is_empty() {
        return Ok(ControlFlow::Continue(received));
    }
    let mut listed = received.context.proxy.models.of_pools(&pools).await;
    retain_usable(&mut listed, &received).await?;
    let id = percent_decode_str(id).decode_utf8_lossy();
    let found = if id.is_empty() { listed.list() } else { listed.find(&id) };
    match (found, listed.failure()) {
        (Some(found), _) => Ok(ControlFlow::Break(json(found))),
        // What is missing may exist.
        (None, Some(failure)) => Err(Error::ModelsUnavailable(failure.to_string())),
        (None, None) if !listed.has_endpoint() => Err(forward::Error::NoEndpoint.into()),
        (None, None) if id.is_empty() => Ok(ControlFlow::Break(json(EMPTY_LIST))),
        (None, None) => Err(Error::UnknownModelInPath(id.into_owned())),
    }
}

/// The model id in the path of a request that the gateway answers. Empty for the list.
fn requested_id<'a>(received: &'a Received<'_>) -> Option<&'a str> {
    if received.head.method != Method::GET {
        return None;
    }
    let id = model_id(received.head.uri.path())?;
    match received.before_body {
        BeforeBody::Decided(matched) if matched.rule.backends.pools().next().is_none() => None,
        _ => Some(id),
    }
}

/// The part after `/v1/models/`. Empty for the list. `None` for other paths.
fn model_id(path: &str) -> Option<&str> {
    let rest = path.strip_prefix(MODELS_PATH)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

fn json(body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_ids_may_contain_slashes() {
        assert_eq!(model_id("/v1/models"), Some(""));
        assert_eq!(model_id("/v1/models/Qwen/Qwen3"), Some("Qwen/Qwen3"));
        assert_eq!(model_id("/v1/modelsx"), None);
    }
}
