//! The one place where an [`Error`] becomes a response.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::{Error, Source};

/// OpenAI's error object.
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

/// The response for `error`: JSON as OpenAI shapes it, with `Retry-After` where trying again makes sense.
///
/// What a picker said in its immediate response is passed on as it is; only if it gave no body, ours is used.
pub fn render(error: &Error) -> Response<Bytes> {
    let status = error.status();
    let mut response = match error {
        Error::PickerRejected(rejection) if !rejection.body.is_empty() => {
            let mut response = Response::new(rejection.body.clone());
            *response.headers_mut() = rejection.headers.clone();
            response
        }
        _ => {
            let mut response = Response::new(object(error, status));
            if let Error::PickerRejected(rejection) = error {
                *response.headers_mut() = rejection.headers.clone();
            }
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
    };
    *response.status_mut() = status;
    if let Some(after) = error.retry_after() {
        response
            .headers_mut()
            .entry(header::RETRY_AFTER)
            .or_insert_with(|| HeaderValue::from(after.as_secs().max(1)));
    }
    response
}

fn object(error: &Error, status: StatusCode) -> Bytes {
    let r#type = match (error.source_of_failure(), status) {
        (_, StatusCode::TOO_MANY_REQUESTS) => "rate_limit_error",
        (_, StatusCode::SERVICE_UNAVAILABLE) => "service_unavailable_error",
        (Source::Client, _) => "invalid_request_error",
        (Source::Picker, _) if status.is_client_error() => "invalid_request_error",
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
    use crate::Rejection;
    use forebay_openai::BodyError;

    fn body(response: &Response<Bytes>) -> Value {
        serde_json::from_slice(response.body()).unwrap()
    }

    #[test]
    fn a_bad_body_is_a_400_that_names_the_parameter() {
        let response = render(&Error::Body(BodyError::ModelMissing));
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
    fn unavailability_says_when_to_try_again() {
        let response = render(&Error::NoReadyEndpoint);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(body(&response)["error"]["param"], Value::Null);
    }

    #[test]
    fn what_the_picker_said_is_passed_on() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_static("7"));
        let rejected = |body| {
            Error::PickerRejected(Box::new(Rejection {
                status: StatusCode::TOO_MANY_REQUESTS,
                headers: headers.clone(),
                body: Bytes::from_static(body),
            }))
        };
        let response = render(&rejected(b"shed"));
        assert_eq!((response.status().as_u16(), response.body().as_ref()), (429, b"shed".as_ref()));
        assert_eq!(response.headers()["retry-after"], "7");
        let response = render(&rejected(b""));
        assert_eq!(body(&response)["error"]["type"], "rate_limit_error");
    }
}
