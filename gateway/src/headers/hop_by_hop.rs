use http::{HeaderMap, HeaderName, header};

/// Removes hop-by-hop headers and the headers that `Connection` names (RFC 9110 §7.6.1).
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // A request must keep its Host (RFC 9112 §3.2).
            .filter(|name| *name != header::HOST)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    // Most messages have at most one. One scan is cheaper than a lookup for each name.
    while let Some(name) = headers.keys().find(|name| is_hop_by_hop(name)).cloned() {
        headers.remove(name);
    }
}

/// Whether the header is hop-by-hop (RFC 9110 §7.6.1). Called for every header of every message.
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(names: &[&'static str]) -> HeaderMap {
        names.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1"))).collect()
    }

    #[test]
    fn removes_exactly_the_hop_by_hop_headers() {
        let hop_by_hop = headers(&[
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
        assert!(hop_by_hop.keys().all(is_hop_by_hop));
        let mut removed = hop_by_hop;
        remove_hop_by_hop(&mut removed);
        assert!(removed.is_empty());
        let others = headers(&["connection2", "host", "content-length", "upgrades", "tes"]);
        assert!(!others.keys().any(is_hop_by_hop));
    }
}
