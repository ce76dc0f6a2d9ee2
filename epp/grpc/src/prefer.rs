use crate::names::RESERVE_ENDPOINT;

/// Whether a client asks which endpoint would be picked. `values`: those of its headers `Prefer`, which are lists of
/// preferences with optional values and parameters (RFC 7240 §2).
pub fn prefers_reservation<'a>(values: impl IntoIterator<Item = &'a str>) -> bool {
    values.into_iter().flat_map(|value| value.split(',')).any(|preference| {
        let name = preference.split([';', '=']).next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case(RESERVE_ENDPOINT)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_preference_in_any_list() {
        let cases: [(&[&str], bool); 6] = [
            (&["reserve-endpoint"], true),
            (&["respond-async, Reserve-Endpoint; a=b"], true),
            (&["wait=10", "reserve-endpoint=1"], true),
            (&["reserve-endpoints", "if-available"], false),
            (&["x;reserve-endpoint"], false),
            (&[], false),
        ];
        for (values, expected) in cases {
            assert_eq!(prefers_reservation(values.iter().copied()), expected, "{values:?}");
        }
    }
}
