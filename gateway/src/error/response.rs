//! Turns an [`Error`] into a response.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::{Error, ErrorSource};
use crate::auth;
use crate::limit::Standing;
use crate::pick;

/// The error object of the OpenAI API.
#[derive(Serialize)]
struct Envelope<'a> {
    error: Object<'a>,
}

#[derive(Serialize)]
struct Object<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'static str>,
    code: &'a str,
}

/// The response for `error`: JSON in the format of the OpenAI API, with `Retry-After` if a client may retry.
///
/// The response of a picker (`ImmediateResponse`) is passed through. Only if its body is empty, the gateway adds one.
pub(crate) fn render(error: &Error) -> Response<Bytes> {
    let status = error.status();
    let rejection = match error {
        Error::Pick(pick::Error::Rejected(rejection)) => Some(rejection),
        _ => None,
    };
    let mut response = match rejection {
        Some(rejection) if !rejection.body.is_empty() => {
            let mut response = Response::new(rejection.body.clone());
            *response.headers_mut() = rejection.headers.clone();
            response
        }
        _ => {
            let mut response = Response::new(object(error, status));
            if let Some(rejection) = rejection {
                *response.headers_mut() = rejection.headers.clone();
            }
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
    };
    *response.status_mut() = status;
    if let Error::Auth(error) = error
        && status == StatusCode::UNAUTHORIZED
    {
        // RFC 9110 §15.5.2 requires a challenge.
        let challenge = HeaderValue::from_static(challenge(error));
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    Standing::set_headers(error.standings(), response.headers_mut());
    if let Some(after) = error.retry_after() {
        response
            .headers_mut()
            .entry(header::RETRY_AFTER)
            .or_insert_with(|| HeaderValue::from((after.as_secs_f64().ceil() as u64).max(1)));
    }
    response
}

/// Only a request with a token gets a code (RFC 6750 §3.1).
fn challenge(error: &auth::Error) -> &'static str {
    use auth::Error::{ExpiredToken, InvalidToken, SeveralTokens};
    match error {
        InvalidToken { .. } | ExpiredToken { .. } | SeveralTokens { .. } => r#"Bearer error="invalid_token""#,
        _ => "Bearer",
    }
}

fn object(error: &Error, status: StatusCode) -> Bytes {
    let r#type = match (error.source_of_failure(), status) {
        (_, StatusCode::TOO_MANY_REQUESTS) => "rate_limit_error",
        (_, StatusCode::SERVICE_UNAVAILABLE) => "service_unavailable_error",
        (ErrorSource::Client, _) => "invalid_request_error",
        (ErrorSource::Picker, _) if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    };
    let message = error.to_string();
    let envelope =
        Envelope { error: Object { message: &message, r#type, param: error.param(), code: error.code() } };
    serde_json::to_vec(&envelope).map_or_else(|_| Bytes::new(), Bytes::from)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use serde_json::{Value, json};

    use super::*;
    use crate::hold;
    use crate::pick::Rejection;
    use forebay_openai::BodyError;

    fn body(response: &Response<Bytes>) -> Value {
        serde_json::from_slice(response.body()).unwrap()
    }

    #[test]
    fn an_invalid_body_is_a_400_with_the_parameter() {
        let response = render(&hold::Error::from(BodyError::ModelMissing).into());
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(
            body(&response),
            json!({"error": {
                "message": "you must provide a 'model' field",
                "type": "invalid_request_error",
                "param": "model",
                "code": "invalid_model",
            }})
        );
        assert!(!response.headers().contains_key("retry-after"));
    }

    #[test]
    fn unavailability_has_retry_after() {
        let response = render(&pick::Error::NoReadyEndpoint.into());
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(body(&response)["error"]["param"], Value::Null);
    }

    #[test]
    fn passes_the_response_of_a_picker_through() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_static("7"));
        let rejected = |body| {
            let rejection = Rejection {
                status: StatusCode::TOO_MANY_REQUESTS,
                headers: headers.clone(),
                body: Bytes::from_static(body),
            };
            Error::from(pick::Error::Rejected(Box::new(rejection)))
        };
        let response = render(&rejected(b"shed"));
        assert_eq!((response.status().as_u16(), response.body().as_ref()), (429, b"shed".as_ref()));
        assert_eq!(response.headers()["retry-after"], "7");
        let response = render(&rejected(b""));
        assert_eq!(body(&response)["error"]["type"], "rate_limit_error");
    }
}
