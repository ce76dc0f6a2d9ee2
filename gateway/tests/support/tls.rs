use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use forebay_test_certificates::Authority;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::within;

/// A self-signed certificate.
pub struct Certificate {
    pub certificate: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

impl Certificate {
    pub fn of(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let der = certificate.der().clone();
        Self { certificate: certificate.pem(), key: key.serialize_pem(), der }
    }

    /// Signed by `authority`.
    pub fn issued(authority: &Authority, name: &str) -> Self {
        let issued = authority.issue_for(name).unwrap();
        let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        Self { certificate: issued.certificate, key: issued.key, der }
    }

    /// Writes it to files, without a CA.
    pub fn write(&self, folder: &Path) -> forebay_service::tls::Files {
        let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        std::fs::write(&certificate, &self.certificate).unwrap();
        std::fs::write(&key, &self.key).unwrap();
        forebay_service::tls::Files { certificate, key, authority: None, clients: Vec::new() }
    }

    /// A Secret in the namespace of the Gateway.
    pub fn secret(&self, name: &str) -> String {
        secret(name, &self.certificate, &self.key)
    }
}

pub fn secret(name: &str, certificate: &str, key: &str) -> String {
    let indented = |text: &str| text.trim().replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: agentgateway-system}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        indented(certificate),
        indented(key)
    )
}

/// A handshake with server name `name` that trusts only `trusted`.
pub async fn connect(
    address: SocketAddr,
    name: &str,
    trusted: &Certificate,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = within("the gateway to accept", TcpStream::connect(address)).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    within("a TLS handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}
