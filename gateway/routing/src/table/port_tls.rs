//! TLS of a port, and the certificates of its clients.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
};

use super::access::ClientCertificate;

/// Maximum size of the certificate of a client. The whole chain is at most 64 KiB, the maximum of a handshake message.
const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;

/// TLS of a port.
#[derive(Debug)]
pub struct PortTls {
    config: Arc<ServerConfig>,
    /// `None`: clients are not asked for a certificate.
    clients: Option<Arc<ClientVerifier>>,
}

impl PortTls {
    pub(crate) fn new(config: Arc<ServerConfig>, clients: Option<Arc<ClientVerifier>>) -> Self {
        Self { config, clients }
    }

    /// The settings of handshakes.
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Whether clients are asked for a certificate.
    pub fn asks_clients(&self) -> bool {
        self.clients.is_some()
    }

    /// The certificate of a client, if it has a valid one. `chain`: that of the handshake.
    pub fn client(&self, chain: Option<&[CertificateDer<'_>]>) -> Option<Arc<ClientCertificate>> {
        let (first, others) = chain?.split_first()?;
        let clients = self.clients.as_ref()?;
        // The handshake succeeds also with an invalid one where clients may have none.
        clients.check(first, others, UnixTime::now()).ok()?;
        ClientCertificate::parse(first)
    }
}

/// Verifies the certificates of clients.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    verifier: Arc<dyn ClientCertVerifier>,
    /// A client without a valid certificate may connect.
    is_optional: bool,
}

impl ClientVerifier {
    pub(crate) fn new(
        roots: RootCertStore,
        is_optional: bool,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(Self { verifier, is_optional })
    }

    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if certificate.len() > MAX_CERTIFICATE_BYTES {
            return Err(CertificateError::BadEncoding.into());
        }
        self.verifier.verify_client_cert(certificate, others, now)
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.is_optional
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match self.check(certificate, others, now) {
            Err(error) if self.is_optional => {
                tracing::debug!(%error, "the certificate of a client is not valid; it is anonymous");
                Ok(ClientCertVerified::assertion())
            }
            result => result,
        }
    }

    // Never optional: a certificate without its key proves nothing.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
