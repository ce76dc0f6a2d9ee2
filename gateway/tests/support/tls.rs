use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use forebay_test_certificates::Authority;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::task::AbortOnDropHandle;

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

/// Accepts TLS, and forwards to a server without it. It ends with the test.
pub struct TlsFront {
    pub port: u16,
    /// Of the handshakes that succeeded.
    names: Arc<Mutex<Vec<String>>>,
    _serving: AbortOnDropHandle<()>,
}

impl TlsFront {
    pub async fn start(certificate: &Certificate, protocol: &str, server: u16) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let chain = vec![certificate.der.clone()];
        let mut config = builder.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let names = Arc::<Mutex<Vec<String>>>::default();
        let seen = names.clone();
        let serving = async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), seen.clone());
                connections.spawn(async move {
                    let Ok(mut client) = acceptor.accept(stream).await else { return };
                    seen.lock().unwrap().push(client.get_ref().1.server_name().unwrap_or("-").to_owned());
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        };
        Self { port, names, _serving: AbortOnDropHandle::new(tokio::spawn(serving)) }
    }

    /// The last server name that a client asked for.
    pub fn server_name(&self) -> Option<String> {
        self.names.lock().unwrap().last().cloned()
    }
}

/// A ConfigMap with certificates of authorities.
pub fn authorities(namespace: &str, name: &str, certificates: &str) -> String {
    let indented = certificates.trim().replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata:\n  ca.crt: |\n    {indented}\n"
    )
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
