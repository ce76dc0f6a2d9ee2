//! An HTTPS proxy that serves the downloads of the README from files, because the cluster network has no internet access.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use forebay_test_certificates::Authority;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

/// The impersonated host.
const SERVER: &str = "github.com";

/// The running proxy. Drop stops it.
#[derive(Debug)]
pub struct Downloads {
    address: SocketAddr,
    task: AbortHandle,
}

impl Downloads {
    /// Serves the files below `folder` under the paths of their URLs. Writes its CA certificate to `authority`; clients
    /// must trust it. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// When the certificate or the listener cannot be created.
    pub async fn serve(folder: PathBuf, authority: &Path) -> Result<Self> {
        let signer = Authority::new("downloads")?;
        std::fs::write(authority, signer.pem()).context("cannot write the CA certificate")?;
        let issued = signer.issue_for(SERVER)?;
        let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            // One download at a time.
            while let Ok((stream, _)) = listener.accept().await {
                // The client reports the error.
                let _ = respond(stream, &acceptor, &folder).await;
            }
        });
        Ok(Self { address, task: task.abort_handle() })
    }

    /// Value for `HTTPS_PROXY`.
    pub fn proxy(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Downloads {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn respond(stream: TcpStream, acceptor: &TlsAcceptor, folder: &Path) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let request = head(&mut stream).await?;
    if !request.starts_with(&format!("CONNECT {SERVER}:443 ")) {
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await?;
        return Ok(());
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    let mut stream = BufReader::new(acceptor.accept(stream).await?);
    let request = head(&mut stream).await?;
    let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let (status, body) = match std::fs::read(folder.join(path)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), &body].concat()).await?;
    stream.shutdown().await?;
    Ok(())
}

/// Reads a request head. Returns its first line.
async fn head(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<String> {
    let mut first = String::new();
    stream.read_line(&mut first).await?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? <= 2 {
            return Ok(first);
        }
    }
}
