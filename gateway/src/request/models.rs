//! `GET /v1/models` and `GET /v1/models/{id}`, answered by the gateway.

use bytes::Bytes;
use forebay_routing::BeforeBody;
use http::{HeaderValue, Method, Response, header};
use percent_encoding::percent_decode_str;

use super::received::Received;
use crate::error::Error;
use crate::models::{find_model, list_models};

const MODELS_PATH: &str = "/v1/models";

/// The response with the models of the listener's pools. `None` for other requests, and if a route sends the path to a
/// backend that is not a pool.
pub(super) async fn models(received: &Received<'_>) -> Option<Result<Response<Bytes>, Error>> {
    if received.head.method != Method::GET {
        return None;
    }
    let id = model_id(received.head.uri.path())?;
    if let BeforeBody::Decided(matched) = received.before_body
        && matched.rule.backends.pools().next().is_none()
    {
        return None;
    }
    let pools = received.listener.pools(received.host());
    let models = received.context.proxy.models.of_pools(&pools).await;
    if id.is_empty() {
        return Some(Ok(json(list_models(&models))));
    }
    let id = percent_decode_str(id).decode_utf8_lossy();
    Some(match find_model(&models, &id) {
        Some(model) => Ok(json(model)),
        None => Err(Error::UnknownModelInPath(id.into_owned())),
    })
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
