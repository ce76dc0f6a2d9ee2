//! Which client certificates a server accepts.

use std::{fmt, str::FromStr, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::EndEntityCert;

/// A DNS subject alternative name that a client certificate must contain. `forebay-epp.*` matches any one label in
/// place of `*`, which must be the last label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientName(String);

impl ClientName {
    fn matches(&self, presented: &str) -> bool {
        match self.0.strip_suffix('*') {
            None => presented.eq_ignore_ascii_case(&self.0),
            Some(parent) => presented
                .split_at_checked(parent.len())
                .is_some_and(|(start, label)| start.eq_ignore_ascii_case(parent) && is_label(label)),
        }
    }
}

/// A certificate that is itself for a wildcard (`forebay-epp.*`) does not name one namespace.
fn is_label(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

impl FromStr for ClientName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix(".*").unwrap_or(text);
        if name.split('.').all(is_label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("{text:?} is not a DNS name; only the last label may be *"))
        }
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Verifies the chain by `inner`, then the name: a certificate of the authority alone proves no role.
#[derive(Debug)]
pub(super) struct NamedClients {
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    pub(super) names: Vec<ClientName>,
}

impl ClientCertVerifier for NamedClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let invalid = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let certificate = EndEntityCert::try_from(end_entity).map_err(invalid)?;
        let mut presented = certificate.valid_dns_names();
        if presented.any(|presented| self.names.iter().any(|name| name.matches(presented))) {
            return Ok(verified);
        }
        let presented: Vec<_> = certificate.valid_dns_names().take(4).collect();
        tracing::warn!(?presented, accepted = ?self.names, "client certificate refused: it has none of the accepted names");
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_exactly_or_by_one_last_label() {
        for (name, presented, expected) in [
            ("forebay-gateway", "forebay-gateway", true),
            ("forebay-gateway", "Forebay-Gateway", true),
            ("forebay-gateway", "forebay-gateway.a", false),
            ("forebay-gateway", "forebay-epp.a", false),
            ("forebay-epp.*", "forebay-epp.team-a", true),
            ("forebay-epp.*", "forebay-epp.", false),
            ("forebay-epp.*", "forebay-epp", false),
            ("forebay-epp.*", "forebay-epp.*", false),
            ("forebay-epp.*", "forebay-epp.a.b", false),
            ("forebay-epp.*", "xforebay-epp.a", false),
        ] {
            let name: ClientName = name.parse().unwrap();
            assert_eq!(name.matches(presented), expected, "{name} {presented}");
        }
        for invalid in ["", "*", "a..b", "*.a", "a.*.b", "a b", "a.*x"] {
            assert!(invalid.parse::<ClientName>().is_err(), "{invalid}");
        }
    }
}
