use forebay_grpc::names::{DESTINATION_ENDPOINT_SUBSET, MODEL_NAME_REWRITE, MODEL_NAME_REWRITE_ALIAS};
use http::{HeaderMap, HeaderName};

use super::forwarded::is_forwarding;

/// Headers that clients of trusted listeners may set, in exactly this spelling: the model, the candidate endpoints, and
/// the request for an explanation.
const TRUSTED: [&str; 4] =
    [MODEL_NAME_REWRITE_ALIAS, MODEL_NAME_REWRITE, DESTINATION_ENDPOINT_SUBSET, "x-forebay-explain"];
const TRACE_CONTEXT: [&str; 2] = ["traceparent", "tracestate"];
/// Prefixes of internal headers, in lower case with dashes, each with the program that obeys the header. A client that sets
/// one could choose the host that a pod connects to, or the engine that runs the request.
///
/// | prefix | obeyed by |
/// |---|---|
/// | `x-forebay-explain` | this gateway |
/// | `x-prefiller-` | routing sidecar of llm-d: host of the prefill pod |
/// | `x-encoder-` | routing sidecar of llm-d: hosts of the encode pods |
/// | `x-data-parallel-` | vLLM (`x-data-parallel-rank`: engine of the pod), routing sidecar of llm-d (`…-host-port`) |
/// | `x-kv-cache-source-` | routing sidecar of llm-d: host to read a KV cache from |
const INTERNAL: [&str; 5] =
    ["x-forebay-explain", "x-prefiller-", "x-encoder-", "x-data-parallel-", "x-kv-cache-source-"];
/// Headers with one of these prefixes and one of the words are internal. Others with these prefixes (objectives,
/// fairness ids, SLOs) belong to the client.
const INTERNAL_PREFIXES: [&str; 2] = ["x-gateway-", "x-llm-d-"];
const INTERNAL_WORDS: [&str; 5] = ["destination", "served", "subset", "model-name", "rewrite"];

/// Removes headers that only the gateway and pickers may set. `is_trusted`: the listener is trusted. `may_trace`: the
/// client may decide which requests are traced (W3C Trace Context).
pub(crate) fn remove_internal(headers: &mut HeaderMap, is_trusted: bool, may_trace: bool) {
    let is_removed = |name: &&HeaderName| {
        let is_allowed = |name: &str| is_trusted && (TRUSTED.contains(&name) || is_forwarding(name));
        let name = name.as_str();
        is_internal(name) && !is_allowed(name) || !may_trace && TRACE_CONTEXT.contains(&name)
    };
    let removed: Vec<HeaderName> = headers.keys().filter(is_removed).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
}

/// Underscores count as dashes: CGI and WSGI servers do not distinguish them.
fn is_internal(name: &str) -> bool {
    let may_be = name.as_bytes().get(..2).is_some_and(|start| start == b"x-" || start == b"x_");
    if !may_be {
        // RFC 7239. Removed from trusted clients' requests too: it would contradict what is appended to X-Forwarded-For.
        return name == "forwarded";
    }
    let name = name.replace('_', "-");
    is_forwarding(&name)
        || INTERNAL.iter().any(|prefix| name.starts_with(prefix))
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

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn removes_internal_headers_in_every_spelling() {
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
            "x-data-parallel-rank",
            "x_data_parallel_rank",
            "x-prefiller-hosts",
            "x-kv-cache-source-host-port",
            "x-forebay-explain",
            "x-forebay_explain",
            "forwarded",
            "x-forwarded-for",
            "x_forwarded_proto",
            "x-real-ip",
            "x-gateway-inference-objective",
            "x-llm-d-inference-fairness-id",
            "x-request-id",
            "authorization",
        ]);
        remove_internal(&mut all, false, true);
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
    fn trusted_clients_may_set_only_the_trusted_headers() {
        let allowed = [
            "x-forebay-explain",
            "x-gateway-destination-endpoint-subset",
            "x-gateway-model-name-rewrite",
            "x-llm-d-model-name-rewrite",
        ];
        let forbidden = [
            "x-gateway-model-name",
            "x-gateway-base-model-name",
            "x_gateway_model_name_rewrite",
            "x-gateway-destination-endpoint",
            "x-gateway-destination-endpoint_subset",
            "x-gateway-destination-endpoint-served",
            "x-prefiller-host-port",
        ];
        let mut all = headers(&[&allowed[..], &forbidden[..]].concat());
        remove_internal(&mut all, true, true);
        assert_eq!(names(&all), allowed);
    }

    #[test]
    fn a_client_that_may_not_trace_has_no_trace_context() {
        for (may_trace, expected) in
            [(true, &["traceparent", "traceparents", "tracestate"][..]), (false, &["traceparents"])]
        {
            let mut all = headers(&["traceparent", "tracestate", "traceparents"]);
            remove_internal(&mut all, false, may_trace);
            assert_eq!(names(&all), expected);
        }
    }
}
