//! TLS to servers that policies name: their certificates are verified as [`ServerTls`] says.

use std::io;
use std::sync::Arc;

use forebay_routing::{Authorities, ServerTls, SubjectName};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use webpki::EndEntityCert;

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
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let names = tls.names.iter().map(|it| match it {
            SubjectName::Dns(dns) => Ok(Name::Dns(name(dns)?)),
            SubjectName::Uri(uri) => Ok(Name::Uri(uri.clone())),
        });
        let verifier = Verifier {
            roots: roots(&tls.authorities)?,
            names: names.collect::<Result<_, Error>>()?,
            algorithms: provider.signature_verification_algorithms,
        };
        let mut config = config(provider, verifier).map_err(|error| invalid(&error))?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
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

fn config(provider: Arc<CryptoProvider>, verifier: Verifier) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
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

/// Verifies the chain, and that the certificate has one of the names.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    names: Vec<Name>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn has_name(&self, der: &CertificateDer<'_>, certificate: &ParsedCertificate<'_>) -> bool {
        self.names.iter().any(|name| match name {
            Name::Dns(name) => verify_server_name(certificate, name).is_ok(),
            Name::Uri(uri) => {
                EndEntityCert::try_from(der).is_ok_and(|it| it.valid_uri_names().any(|name| name == uri))
            }
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        match self.has_name(end_entity, &certificate) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
