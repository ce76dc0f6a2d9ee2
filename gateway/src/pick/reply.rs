//! Reads the replies of a picker.

use std::net::SocketAddr;

use bytes::Bytes;
use forebay_grpc::names::{
    DESTINATION_ENDPOINT, EXPLANATION, METADATA_FOREBAY, METADATA_LB, PROMPT_VERSION, RESPONSE_UNCHANGED,
    TAKES_PROMPT,
};
use forebay_grpc::proto::{
    BodyMutation, BodySendMode, CommonResponse, HeaderAppendAction, HeaderMutation, HeaderSendMode,
    HeaderValue as RawHeader, ImmediateResponse, Kind, ProcessingResponse, Struct, Value,
    body_mutation::Mutation, common_response::ResponseStatus,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::error::Rejection;
use crate::headers::is_hop_by_hop;

/// Maximum endpoints read from one list.
const MAX_ENDPOINTS: usize = 16;

/// Parses `ip:port[,ip:port…]`, best first. Invalid addresses are skipped.
pub(super) fn parse_endpoints(list: &str) -> Vec<SocketAddr> {
    list.split(',').take(MAX_ENDPOINTS).filter_map(|endpoint| endpoint.trim().parse().ok()).collect()
}

/// The destination in the dynamic metadata of a reply.
pub(super) fn destination_in_metadata(metadata: &Struct) -> Option<&str> {
    let Kind::StructValue(namespace) = metadata.fields.get(METADATA_LB)?.kind.as_ref()? else { return None };
    match namespace.fields.get(DESTINATION_ENDPOINT)?.kind.as_ref()? {
        Kind::StringValue(list) => Some(list),
        _ => None,
    }
}

/// Whether a Forebay picker has announced that it does not change the response.
pub(super) fn leaves_response(metadata: &Struct) -> bool {
    hint(metadata, RESPONSE_UNCHANGED).is_some()
}

/// Whether a Forebay picker has announced that it takes prompts in messages of this version.
pub(super) fn takes_prompts(metadata: &Struct) -> bool {
    let version = hint(metadata, TAKES_PROMPT).and_then(|version| version.kind.as_ref());
    matches!(version, Some(Kind::NumberValue(version)) if *version == f64::from(PROMPT_VERSION))
}

/// What a Forebay picker says of its decision to a gateway that asks for it.
pub(super) fn explanation(metadata: &Struct) -> Option<&str> {
    match hint(metadata, EXPLANATION)?.kind.as_ref()? {
        Kind::StringValue(json) => Some(json),
        _ => None,
    }
}

fn hint<'a>(metadata: &'a Struct, name: &str) -> Option<&'a Value> {
    match metadata.fields.get(METADATA_FOREBAY)?.kind.as_ref()? {
        Kind::StructValue(hints) => hints.fields.get(name),
        _ => None,
    }
}

/// Whether the picker skips the response (`mode_override`).
pub(super) fn skips_response(reply: &ProcessingResponse) -> bool {
    reply.mode_override.as_ref().is_some_and(|mode| mode.response_header_mode() == HeaderSendMode::Skip)
}

/// Whether the picker skips the response body (`mode_override`).
pub(super) fn skips_response_body(reply: &ProcessingResponse) -> bool {
    reply.mode_override.as_ref().is_some_and(|mode| mode.response_body_mode() == BodySendMode::None)
}

/// What a reply means for the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BodyAction {
    /// Processing continues.
    Continue,
    /// The body stays unchanged. The picker wants no more of it.
    Keep,
    /// These bytes replace the whole body. The picker wants no more of it.
    Replace(Bytes),
}

/// Reads `CONTINUE_AND_REPLACE` (Envoy `ext_proc`): the body of the mutation, if any, replaces the whole body, and the
/// picker is sent no more of this request or response. Fails if it comes with a `streamed_response`.
pub(super) fn body_action(common: Option<&CommonResponse>) -> Result<BodyAction, &'static str> {
    let Some(common) = common.filter(|common| common.status() == ResponseStatus::ContinueAndReplace) else {
        return Ok(BodyAction::Continue);
    };
    let mutation = common.body_mutation.as_ref().and_then(|BodyMutation { mutation }| mutation.as_ref());
    match mutation {
        Some(Mutation::Body(replacement)) => Ok(BodyAction::Replace(replacement.clone())),
        Some(Mutation::ClearBody(true)) => Ok(BodyAction::Replace(Bytes::new())),
        Some(Mutation::ClearBody(false)) | None => Ok(BodyAction::Keep),
        Some(Mutation::StreamedResponse(_)) => Err(
            "reply with CONTINUE_AND_REPLACE and streamed_response; a replacement must be complete: use body or \
             clear_body",
        ),
    }
}

/// The destination among the headers that a reply sets.
pub(super) fn destination_in_headers(common: &CommonResponse) -> Option<String> {
    let set = &common.header_mutation.as_ref()?.set_headers;
    let header = set
        .iter()
        .filter_map(|option| option.header.as_ref())
        .find(|header| header.key.eq_ignore_ascii_case(DESTINATION_ENDPOINT))?;
    String::from_utf8(value(header).to_vec()).ok()
}

/// Applies a mutation. Pseudo headers, hop-by-hop headers, Host and Content-Length are not changed.
pub(super) fn mutate(headers: &mut HeaderMap, mutation: &HeaderMutation) {
    for name in &mutation.remove_headers {
        if let Some(name) = header_name(name) {
            headers.remove(name);
        }
    }
    for option in &mutation.set_headers {
        let Some(raw) = &option.header else { continue };
        let Some(name) = header_name(&raw.key) else { continue };
        let Ok(value) = HeaderValue::from_maybe_shared(value(raw)) else { continue };
        // APPEND_IF_EXISTS_OR_ADD is the default value of the enum, and in ext_proc the default is to overwrite.
        let append = option.append.is_some_and(|append| append);
        match HeaderAppendAction::try_from(option.append_action) {
            Ok(HeaderAppendAction::AddIfAbsent) if headers.contains_key(&name) => {}
            Ok(HeaderAppendAction::OverwriteIfExists) if !headers.contains_key(&name) => {}
            Ok(HeaderAppendAction::AppendIfExistsOrAdd) if append => {
                headers.append(name, value);
            }
            _ => {
                headers.insert(name, value);
            }
        }
    }
}

/// The response that the picker sends itself. An invalid status becomes 500, as in Envoy.
pub(super) fn rejection(reply: ImmediateResponse) -> Box<Rejection> {
    let status = reply
        .status
        .and_then(|status| u16::try_from(status.code).ok())
        .and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|status| !status.is_informational())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut headers = HeaderMap::new();
    if let Some(mutation) = &reply.headers {
        mutate(&mut headers, mutation);
    }
    Box::new(Rejection { status, headers, body: reply.body })
}

fn header_name(name: &str) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    (!is_hop_by_hop(&name) && name != header::CONTENT_LENGTH && name != header::HOST).then_some(name)
}

fn value(header: &RawHeader) -> Bytes {
    if header.raw_value.is_empty() {
        Bytes::copy_from_slice(header.value.as_bytes())
    } else {
        header.raw_value.clone()
    }
}

#[cfg(test)]
mod tests {
    use forebay_grpc::proto::{HeaderValueOption, HttpStatus};

    use super::*;

    fn set(key: &str, value: &str, append_action: HeaderAppendAction) -> HeaderValueOption {
        HeaderValueOption {
            header: Some(RawHeader {
                key: key.into(),
                raw_value: value.to_owned().into(),
                ..RawHeader::default()
            }),
            append_action: append_action.into(),
            ..HeaderValueOption::default()
        }
    }

    #[test]
    fn parses_endpoints_in_order_and_skips_invalid_ones() {
        let endpoints = parse_endpoints(" 10.0.0.1:8000, pod.example:8000,[::1]:8000,,10.0.0.2");
        let expected: Vec<SocketAddr> = vec!["10.0.0.1:8000".parse().unwrap(), "[::1]:8000".parse().unwrap()];
        assert_eq!(endpoints, expected);
    }

    #[test]
    fn mutations_overwrite_by_default_and_keep_protected_headers() {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_static("1"));
        headers.insert("x-gone", HeaderValue::from_static("1"));
        headers.insert("content-length", HeaderValue::from_static("5"));
        use HeaderAppendAction::*;
        let mutation = HeaderMutation {
            set_headers: vec![
                set("x-a", "2", AppendIfExistsOrAdd),
                set("x-a", "3", AddIfAbsent),
                set("x-b", "4", OverwriteIfExists),
                set(":path", "/evil", AppendIfExistsOrAdd),
                set("transfer-encoding", "chunked", AppendIfExistsOrAdd),
                set("Content-Length", "7", OverwriteIfExistsOrAdd),
                set("x-c", "bad\nvalue", AppendIfExistsOrAdd),
            ],
            remove_headers: vec!["X-Gone".into(), "content-length".into()],
        };
        mutate(&mut headers, &mutation);
        let got: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(got, [("x-a", "2"), ("content-length", "5")]);
    }

    #[test]
    fn an_immediate_response_with_an_invalid_status_is_a_500() {
        for (code, expected) in [(429, 429), (0, 500), (100, 500), (70_000, 500)] {
            let reply =
                ImmediateResponse { status: Some(HttpStatus { code }), ..ImmediateResponse::default() };
            assert_eq!(rejection(reply).status.as_u16(), expected, "{code}");
        }
    }
}
