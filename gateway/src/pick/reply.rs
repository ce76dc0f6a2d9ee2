//! What a picker's replies say.

use std::net::SocketAddr;

use bytes::Bytes;
use forebay_grpc::names::{DESTINATION_ENDPOINT, METADATA_FOREBAY, METADATA_LB, RESPONSE_UNCHANGED};
use forebay_grpc::proto::{
    BodyMutation, BodySendMode, CommonResponse, HeaderAppendAction, HeaderMutation, HeaderSendMode,
    HeaderValue as RawHeader, ImmediateResponse, Kind, ProcessingResponse, Struct, body_mutation::Mutation,
    common_response::ResponseStatus,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::accept::is_hop_by_hop;
use crate::{Error, Rejection};

/// Most endpoints of one list that are looked at.
const MAX_ENDPOINTS: usize = 16;

/// `ip:port[,ip:port…]`, best first; what is no address is left out.
pub(super) fn parse_endpoints(list: &str) -> Vec<SocketAddr> {
    list.split(',').take(MAX_ENDPOINTS).filter_map(|endpoint| endpoint.trim().parse().ok()).collect()
}

/// The destination in a reply's dynamic metadata.
pub(super) fn destination_in_metadata(metadata: &Struct) -> Option<&str> {
    let Kind::StructValue(namespace) = metadata.fields.get(METADATA_LB)?.kind.as_ref()? else { return None };
    match namespace.fields.get(DESTINATION_ENDPOINT)?.kind.as_ref()? {
        Kind::StringValue(list) => Some(list),
        _ => None,
    }
}

/// Whether a picker of ours has said that it only listens to the response.
pub(super) fn leaves_response(metadata: &Struct) -> bool {
    let namespace = metadata.fields.get(METADATA_FOREBAY).and_then(|namespace| namespace.kind.as_ref());
    matches!(namespace, Some(Kind::StructValue(namespace)) if namespace.fields.contains_key(RESPONSE_UNCHANGED))
}

/// Whether the picker says, by the protocol, that it answers to nothing of the response.
pub(super) fn skips_response(reply: &ProcessingResponse) -> bool {
    reply.mode_override.as_ref().is_some_and(|mode| mode.response_header_mode() == HeaderSendMode::Skip)
}

/// Whether the picker says, by the protocol, that it wants nothing of the response's body.
pub(super) fn leaves_response_body(reply: &ProcessingResponse) -> bool {
    reply.mode_override.as_ref().is_some_and(|mode| mode.response_body_mode() == BodySendMode::None)
}

/// What the status of a reply means for the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The phases go on.
    Continue,
    /// It stays as it is, and the picker wants to see no more of it.
    Leave,
    /// This stands in place of all of it, and the picker wants to see no more of it.
    Replace(Bytes),
}

/// Envoy's `CONTINUE_AND_REPLACE`: the body of the mutation, if there is one, replaces the whole body, and nothing more
/// of this request or response is sent to the picker. Of a body that is sent back in pieces the status says nothing,
/// and headers have no pieces; the error says that.
pub(super) fn verdict(common: Option<&CommonResponse>) -> Result<Verdict, &'static str> {
    let Some(common) = common.filter(|common| common.status() == ResponseStatus::ContinueAndReplace) else {
        return Ok(Verdict::Continue);
    };
    let mutation = common.body_mutation.as_ref().and_then(|BodyMutation { mutation }| mutation.as_ref());
    match mutation {
        Some(Mutation::Body(instead)) => Ok(Verdict::Replace(instead.clone())),
        Some(Mutation::ClearBody(true)) => Ok(Verdict::Replace(Bytes::new())),
        Some(Mutation::ClearBody(false)) | None => Ok(Verdict::Leave),
        Some(Mutation::StreamedResponse(_)) => {
            Err("its reply to headers has the status CONTINUE_AND_REPLACE with a streamed_response; \
             a body that replaces another must be whole: body, or clear_body")
        }
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

/// Changes `headers` as told. Pseudo headers, hop-by-hop headers and the length are the gateway's own.
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
        // On the wire APPEND_IF_EXISTS_OR_ADD is the absent value, and in ext_proc absent means overwrite.
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

/// Ends the request with what the picker answers; a status that is none is a 500, as Envoy has it.
pub(super) fn immediate(reply: ImmediateResponse) -> Error {
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
    Error::PickerRejected(Box::new(Rejection { status, headers, body: reply.body }))
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
    fn a_list_is_taken_in_order_without_what_is_no_address() {
        let endpoints = parse_endpoints(" 10.0.0.1:8000, pod.example:8000,[::1]:8000,,10.0.0.2");
        let expected: Vec<SocketAddr> = vec!["10.0.0.1:8000".parse().unwrap(), "[::1]:8000".parse().unwrap()];
        assert_eq!(endpoints, expected);
    }

    #[test]
    fn mutations_overwrite_by_default_and_spare_what_is_the_gateways() {
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
    fn an_immediate_response_keeps_a_real_status_only() {
        for (code, expected) in [(429, 429), (0, 500), (100, 500), (70_000, 500)] {
            let reply =
                ImmediateResponse { status: Some(HttpStatus { code }), ..ImmediateResponse::default() };
            assert_eq!(immediate(reply).status().as_u16(), expected, "{code}");
        }
    }
}
