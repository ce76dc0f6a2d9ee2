//! TLS to servers that policies name: their certificates are verified as [`ServerTls`] says.

use std::io;
use std::sync::Arc;

use forebay_routing::{Authorities, ServerTls, SubjectName};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use webpki::EndEntityCert;

use crate::tls_verifier::{Acceptance, client_config};

/// Why a server cannot be connected to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Invalid(String),
    #[error("the system has no trusted certificates; name them in caCertificateRefs")]
    NoSystemAuthorities,
}

/// Opens TLS connections to one server.
#[derive(Clone)]
pub(crate) struct Connector {
    connector: TlsConnector,
    name: ServerName<'static>,
    text: Arc<str>,
}

impl Connector {
    /// `protocols`: for ALPN.
    pub(crate) fn new(tls: &ServerTls, protocols: &[&[u8]]) -> Result<Self, Error> {
        let invalid = |error: &dyn std::fmt::Display| Error::Invalid(error.to_string());
        let name = |name: &str| ServerName::try_from(name.to_owned()).map_err(|error| invalid(&error));
        let names = tls.names.iter().map(|it| match it {
            SubjectName::Dns(dns) => Ok(Name::Dns(name(dns)?)),
            SubjectName::Uri(uri) => Ok(Name::Uri(uri.clone())),
        });
        let names = names.collect::<Result<_, Error>>()?;
        let acceptance = Verified { roots: roots(&tls.authorities)?, names };
        let config = client_config(acceptance, protocols).map_err(|error| invalid(&error))?;
        let text = Arc::from(tls.server_name.as_str());
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name: name(&tls.server_name)?, text })
    }

    /// The name of the server.
    pub(crate) fn name(&self) -> &str {
        &self.text
    }

    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

fn roots(authorities: &Authorities) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Authorities::System => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(Error::NoSystemAuthorities);
            }
        }
        Authorities::Pem(text) => {
            for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
                let certificate = certificate.map_err(|error| Error::Invalid(error.to_string()))?;
                roots.add(certificate).map_err(|error| Error::Invalid(error.to_string()))?;
            }
        }
    }
    Ok(roots)
}

#[derive(Debug)]
enum Name {
    Dns(ServerName<'static>),
    Uri(String),
}

/// A valid chain, and one of the names.
#[derive(Debug)]
struct Verified {
    roots: RootCertStore,
    names: Vec<Name>,
}

impl Verified {
    fn has_name(&self, der: &CertificateDer<'_>, certificate: &ParsedCertificate<'_>) -> bool {
        self.names.iter().any(|name| match name {
            Name::Dns(name) => verify_server_name(certificate, name).is_ok(),
            Name::Uri(uri) => {
                EndEntityCert::try_from(der).is_ok_and(|it| it.valid_uri_names().any(|name| name == uri))
            }
        })
    }
}

impl Acceptance for Verified {
    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        algorithms: WebPkiSupportedAlgorithms,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms.all)?;
        match self.has_name(certificate, &parsed) {
            true => Ok(()),
            false => Err(CertificateError::NotValidForName.into()),
        }
    }
}
