//! Where requests have their credentials.

use http::{HeaderMap, HeaderName, header};

/// A header with a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialLocation {
    /// The header. It is removed from requests.
    pub header: HeaderName,
    /// Text before the credential, compared without regard to case (RFC 9110 §11.1).
    pub(crate) prefix: String,
}

/// `Authorization: Bearer …`
impl Default for CredentialLocation {
    fn default() -> Self {
        Self { header: header::AUTHORIZATION, prefix: "Bearer ".to_owned() }
    }
}

/// What a request has in the header of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    /// No header, or one with another prefix.
    Missing,
    /// More than one header: servers disagree on which one counts.
    Ambiguous,
    /// The key or token.
    Given(&'a [u8]),
}

impl CredentialLocation {
    /// The credential of a request.
    pub fn credential<'a>(&self, headers: &'a HeaderMap) -> Credential<'a> {
        let mut values = headers.get_all(&self.header).iter();
        let value = match (values.next(), values.next()) {
            (None, _) => return Credential::Missing,
            (Some(value), None) => value.as_bytes(),
            (Some(_), Some(_)) => return Credential::Ambiguous,
        };
        match value.split_at_checked(self.prefix.len()) {
            Some((prefix, credential)) if prefix.eq_ignore_ascii_case(self.prefix.as_bytes()) => {
                Credential::Given(credential.trim_ascii())
            }
            _ => Credential::Missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn takes_the_credential_of_exactly_one_header_with_the_prefix() {
        let mut location = CredentialLocation::default();
        let credential = |location: &CredentialLocation, values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("authorization", HeaderValue::from_static(value));
            }
            match location.credential(&headers) {
                Credential::Given(key) => String::from_utf8(key.to_vec()).unwrap(),
                other => format!("{other:?}"),
            }
        };
        for (values, expected) in [
            (&["Bearer k-1"][..], "k-1"),
            (&["bearer  k-1 "], "k-1"),
            (&["Basic k-1"], "Missing"),
            (&["k-1"], "Missing"),
            (&["Bearer"], "Missing"),
            (&[], "Missing"),
            (&["Bearer k-1", "Bearer k-2"], "Ambiguous"),
            (&["Bearer k-1", "Basic x"], "Ambiguous"),
        ] {
            assert_eq!(credential(&location, values), expected, "{values:?}");
        }
        location.prefix.clear();
        assert_eq!(credential(&location, &["k-1"]), "k-1");
    }
}
