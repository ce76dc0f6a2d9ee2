use forebay_grpc::names::{DESTINATION_ENDPOINT_SUBSET, MODEL_NAME_REWRITE, MODEL_NAME_REWRITE_ALIAS};
use http::{HeaderMap, HeaderName, header};

use crate::Error;

/// What clients of trusted listeners may say, spelt exactly so: the model and the endpoints to take, and
/// whether the choice is to be explained.
const TRUSTED: [&str; 4] =
    [MODEL_NAME_REWRITE_ALIAS, MODEL_NAME_REWRITE, DESTINATION_ENDPOINT_SUBSET, "x-forebay-explain"];
/// Internal headers by their whole name, in lower case with dashes.
const INTERNAL: [&str; 5] = [
    "x-forebay-explain",
    "x-prefiller-host-port",
    "x-encoder-hosts-ports",
    "x-data-parallel-host-port",
    "x-kv-cache-source-host-port",
];
/// Of the headers with these prefixes, those about destinations and models are the gateway's and the
/// picker's; objectives, fairness ids and SLOs are the client's to set.
const INTERNAL_PREFIXES: [&str; 2] = ["x-gateway-", "x-llm-d-"];
const INTERNAL_WORDS: [&str; 5] = ["destination", "served", "subset", "model-name", "rewrite"];

/// Checks and cleans a request's headers before anything else looks at them: what belongs to the
/// client's connection goes no further.
pub(crate) fn sanitise(headers: &mut HeaderMap) -> Result<(), Error> {
    let (mut has_encoding, mut has_length, mut has_upgrade, mut has_expect) = (false, false, false, false);
    // Once over the names: most requests have none of these but a length.
    for name in headers.keys() {
        match name.as_str() {
            "transfer-encoding" => has_encoding = true,
            "content-length" => has_length = true,
            "upgrade" => has_upgrade = true,
            "expect" => has_expect = true,
            _ => {}
        }
    }
    // A request with both is the classic way to smuggle another one past a proxy (RFC 9112, 6.1).
    if has_encoding && has_length {
        return Err(Error::AmbiguousLength);
    }
    let asks_for = |protocol: &[u8]| {
        let upgrades = headers.get_all(header::UPGRADE);
        upgrades
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .any(|asked| asked.trim_ascii().eq_ignore_ascii_case(protocol))
    };
    // A server may go on as if it had not been asked, which suits `h2c`; who asks for a WebSocket has no use
    // for anything else.
    if has_upgrade && asks_for(b"websocket") {
        return Err(Error::UpgradeUnsupported);
    }
    remove_hop_by_hop(headers);
    // The body's first bytes are asked for by reading them; the length is set anew from the body.
    if has_expect {
        headers.remove(header::EXPECT);
    }
    if has_length {
        headers.remove(header::CONTENT_LENGTH);
    }
    Ok(())
}

/// Removes what only gateways and pickers may say.
pub(crate) fn remove_internal(headers: &mut HeaderMap, is_trusted: bool) {
    let must_go =
        |name: &&HeaderName| is_internal(name.as_str()) && !(is_trusted && TRUSTED.contains(&name.as_str()));
    let internal: Vec<HeaderName> = headers.keys().filter(must_go).cloned().collect();
    for name in internal {
        headers.remove(name);
    }
}

/// Removes the headers of RFC 9110, 7.6.1, and those that `Connection` names.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // Naming the host would leave the request without one.
            .filter(|name| *name != header::HOST)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    // Most messages have none of them, or one: looking is cheaper than removing each by its name.
    while let Some(name) = headers.keys().find(|name| is_hop_by_hop(name)).cloned() {
        headers.remove(name);
    }
}

/// RFC 9110, 7.6.1; asked for every header of every message.
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Servers that turn dashes into underscores (CGI, WSGI) make no difference between the two.
fn is_internal(name: &str) -> bool {
    let may_be = name.as_bytes().get(..2).is_some_and(|start| start == b"x-" || start == b"x_");
    if !may_be {
        return false;
    }
    let name = name.replace('_', "-");
    INTERNAL.contains(&name.as_str())
        || INTERNAL_PREFIXES
            .iter()
            .filter_map(|prefix| name.strip_prefix(prefix))
            .any(|rest| INTERNAL_WORDS.iter().any(|word| rest.contains(word)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(names: &[&'static str]) -> HeaderMap {
        names.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1"))).collect()
    }

    #[test]
    fn hop_by_hop_is_what_is_removed() {
        let of_a_connection = headers(&[
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authenticate",
            "proxy-authorization",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ]);
        assert!(of_a_connection.keys().all(is_hop_by_hop));
        let mut removed = of_a_connection;
        remove_hop_by_hop(&mut removed);
        assert!(removed.is_empty());
        let others = headers(&["connection2", "host", "content-length", "upgrades", "tes"]);
        assert!(!others.keys().any(is_hop_by_hop));
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn internal_headers_go_in_every_spelling() {
        let mut all = headers(&[
            "x-gateway-model-name",
            "x_gateway_base_model_name",
            "x-gateway-base_model-name",
            "x-gateway-model-name-rewrite",
            "x-gateway-destination-endpoint",
            "x-gateway-destination-endpoint-subset",
            "x-gateway-destination-endpoint-served",
            "x-llm-d-model-name-rewrite",
            "x-llm-d-destination-endpoint",
            "x-prefiller-host-port",
            "x_encoder_hosts_ports",
            "x-data-parallel-host-port",
            "x-kv-cache-source-host-port",
            "x-forebay-explain",
            "x-forebay_explain",
            "x-gateway-inference-objective",
            "x-llm-d-inference-fairness-id",
            "x-request-id",
            "authorization",
        ]);
        remove_internal(&mut all, false);
        assert_eq!(
            names(&all),
            [
                "authorization",
                "x-gateway-inference-objective",
                "x-llm-d-inference-fairness-id",
                "x-request-id"
            ]
        );
    }

    #[test]
    fn trusted_clients_may_say_which_model_and_endpoints_to_take_and_no_more() {
        let may_say = [
            "x-forebay-explain",
            "x-gateway-destination-endpoint-subset",
            "x-gateway-model-name-rewrite",
            "x-llm-d-model-name-rewrite",
        ];
        let may_not = [
            "x-gateway-model-name",
            "x-gateway-base-model-name",
            "x_gateway_model_name_rewrite",
            "x-gateway-destination-endpoint",
            "x-gateway-destination-endpoint_subset",
            "x-gateway-destination-endpoint-served",
            "x-prefiller-host-port",
        ];
        let mut all = headers(&[&may_say[..], &may_not[..]].concat());
        remove_internal(&mut all, true);
        assert_eq!(names(&all), may_say);
    }

    #[test]
    fn what_belongs_to_the_connection_stays_there() {
        let mut all = headers(&["host", "te", "upgrade", "x-mine", "x-kept", "expect", "keep-alive"]);
        all.insert(header::CONNECTION, HeaderValue::from_static("x-mine, Host"));
        sanitise(&mut all).unwrap();
        assert_eq!(names(&all), ["host", "x-kept"]);
    }

    #[test]
    fn websockets_are_refused_and_other_upgrades_left_out() {
        let mut all = headers(&["host"]);
        all.insert(header::UPGRADE, HeaderValue::from_static("h2c"));
        sanitise(&mut all).unwrap();
        assert_eq!(names(&all), ["host"]);
        all.insert(header::UPGRADE, HeaderValue::from_static("h2c, WebSocket"));
        assert!(matches!(sanitise(&mut all), Err(Error::UpgradeUnsupported)));
    }

    #[test]
    fn two_lengths_are_refused() {
        let mut all = headers(&["content-length", "transfer-encoding"]);
        assert!(matches!(sanitise(&mut all), Err(Error::AmbiguousLength)));
    }
}
