//! TLS between the client and the proxies.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use forebay_test_certificates::{Authority, Issued};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, pem::PemObject as _},
    },
};

/// DNS name in the certificate.
pub(crate) const HOST: &str = "models.example";

/// The certificate of all proxies and a client that trusts it.
pub(crate) struct Tls {
    issued: Issued,
    pub(crate) connector: TlsConnector,
}

impl Tls {
    pub(crate) fn new() -> Result<Self> {
        let authority = Authority::new("forebay-bench-ca")?;
        let issued = authority.issue_for(HOST)?;
        let mut trusted = RootCertStore::empty();
        trusted.add(CertificateDer::from_pem_slice(authority.pem().as_bytes())?)?;
        let config = ClientConfig::builder().with_root_certificates(trusted).with_no_client_auth();
        Ok(Self { issued, connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Writes the certificate and its key. Returns their paths.
    pub(crate) fn write(&self, folder: &Path) -> Result<(PathBuf, PathBuf)> {
        let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        fs::write(&certificate, &self.issued.certificate).context("cannot write a certificate")?;
        fs::write(&key, &self.issued.key).context("cannot write a key")?;
        Ok((certificate, key))
    }

    /// A manifest of a TLS Secret with certificate and key.
    pub(crate) fn secret(&self, name: &str, namespace: &str) -> String {
        let indented = |text: &str| text.trim_end().replace('\n', "\n    ");
        format!(
            "apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: {namespace}}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
    {}
  tls.key: |
    {}
",
            indented(&self.issued.certificate),
            indented(&self.issued.key)
        )
    }
}
