//! Certificates of clients.

use std::sync::Arc;

use cel::common::types::{CelList, CelMap, CelMapKey, CelString};
use cel::common::value::Val;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// The certificate of a client, which was verified when its connection was opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    subject: String,
    common_name: Option<String>,
    issuer: String,
    /// DNS names, URIs, mail addresses and IP addresses.
    names: Vec<String>,
    spiffe: Option<Spiffe>,
}

/// The parts of `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
#[derive(Debug, PartialEq, Eq)]
struct Spiffe {
    trust_domain: String,
    namespace: String,
    service_account: String,
}

impl ClientCertificate {
    /// `None` if it cannot be read.
    pub fn parse(der: &[u8]) -> Option<Arc<Self>> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let alternatives = certificate.subject_alternative_name().ok()?;
        let alternatives = alternatives.iter().flat_map(|it| &it.value.general_names);
        let names: Vec<String> = alternatives.filter_map(name).collect();
        let subject = certificate.subject();
        let common_name = subject.iter_common_name().next().and_then(|name| name.as_str().ok());
        Some(Arc::new(Self {
            subject: subject.to_string(),
            common_name: common_name.map(str::to_owned),
            issuer: certificate.issuer().to_string(),
            spiffe: names.iter().find_map(|name| Spiffe::parse(name)),
            names,
        }))
    }

    /// Who it is, for records: the first of its alternative names that is a URI, else the common name, else any alternative
    /// name, else the subject.
    pub fn name(&self) -> &str {
        let uri = self.names.iter().find(|name| name.contains("://"));
        uri.or(self.common_name.as_ref()).or(self.names.first()).unwrap_or(&self.subject)
    }

    /// Members of the variable `source`: one for each attribute that the certificate has.
    pub(super) fn add_to<'v>(&'v self, source: &mut Vec<(&'static str, Box<dyn Val + 'v>)>) {
        let text = |text: &'v str| Box::new(CelString::from(text)) as Box<dyn Val + 'v>;
        source.push(("subject", text(&self.subject)));
        source.push(("issuer", text(&self.issuer)));
        source.extend(self.common_name.as_deref().map(|name| ("subjectCn", text(name))));
        let names: Vec<Box<dyn Val + 'v>> = self.names.iter().map(|name| text(name)).collect();
        source.push(("subjectAltNames", Box::new(CelList::from(names))));
        if let Some(Spiffe { trust_domain, namespace, service_account }) = &self.spiffe {
            let members = [
                ("trustDomain", trust_domain),
                ("namespace", namespace),
                ("serviceAccount", service_account),
            ];
            let members = members.map(|(name, value)| (CelMapKey::from(name), text(value)));
            let map: std::collections::HashMap<_, _> = members.into_iter().collect();
            source.push(("identity", Box::new(CelMap::from(map))));
        }
    }
}

impl Spiffe {
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("spiffe://")?.split('/');
        let trust_domain = parts.next()?;
        let ("ns", namespace, "sa", service_account) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?)
        else {
            return None;
        };
        parts.next().is_none().then(|| Self {
            trust_domain: trust_domain.to_owned(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
        })
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(text) | GeneralName::URI(text) | GeneralName::RFC822Name(text) => {
            Some((*text).to_owned())
        }
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(std::net::Ipv4Addr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
            16 => Some(std::net::Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common_name: Option<&str>, names: Vec<SanType>) -> Arc<ClientCertificate> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
            params.distinguished_name.push(DnType::OrganizationName, "Labs");
        }
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        ClientCertificate::parse(params.self_signed(&key).unwrap().der()).unwrap()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(Ia5String::try_from(text).unwrap())
    }

    #[test]
    fn names_are_read() {
        let dns = SanType::DnsName(Ia5String::try_from("a.example").unwrap());
        let ip = SanType::IpAddress("10.0.0.1".parse().unwrap());
        let all = certificate(Some("alice"), vec![dns.clone(), ip, uri("spiffe://td/ns/infra/sa/batch")]);
        assert_eq!(all.names, ["a.example", "10.0.0.1", "spiffe://td/ns/infra/sa/batch"]);
        assert_eq!((all.common_name.as_deref(), all.subject.as_str()), (Some("alice"), "CN=alice, O=Labs"));
        assert_eq!(all.issuer, all.subject);
        let spiffe = all.spiffe.as_ref().unwrap();
        let parts = [&spiffe.trust_domain, &spiffe.namespace, &spiffe.service_account];
        assert_eq!(parts, ["td", "infra", "batch"]);
        for (certificate, name) in [
            (all, "spiffe://td/ns/infra/sa/batch"),
            (certificate(Some("alice"), vec![dns.clone()]), "alice"),
            (certificate(None, vec![dns]), "a.example"),
            (certificate(None, vec![]), ""),
        ] {
            assert_eq!(certificate.name(), name);
        }
        assert_eq!(ClientCertificate::parse(b"no certificate"), None);
    }

    #[test]
    fn other_uris_are_no_identity_of_a_workload() {
        for uri in [
            "spiffe://td",
            "spiffe://td/ns/a/sa",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/x/a/sa/b",
            "https://td/ns/a/sa/b",
        ] {
            assert_eq!(Spiffe::parse(uri), None, "{uri}");
        }
    }
}
