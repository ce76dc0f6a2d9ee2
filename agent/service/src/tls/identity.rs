//! A component's certificate, its key, and the authority that it trusts.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, ServerConfig,
    client::WantsClientCert,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

use super::clients::{ClientName, NamedClients};

/// Interval of checks whether the files changed.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
const H2: &[u8] = b"h2";

/// Paths of PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The component's certificate, followed by intermediate certificates.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The authority of the other side's certificate. A server without it accepts clients without a certificate.
    pub authority: Option<PathBuf>,
    /// As a server: the names of which a client's certificate must have one. Without names, and with an authority, no
    /// client is accepted.
    pub clients: Vec<ClientName>,
}

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or is not PEM.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file has no certificate.
    #[error("{path} has no certificate")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not match, or have an unsupported type.
    #[error("cannot use certificate {certificate} with key {key}: {source}")]
    Unusable {
        /// File of the certificate.
        certificate: PathBuf,
        /// File of the key.
        key: PathBuf,
        /// Cause.
        source: rustls::Error,
    },
    /// The authority's certificate is invalid.
    #[error("cannot use authority {path}: {reason}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// Cause.
        reason: String,
    },
    /// Only some of the flags are set.
    #[error("set all of {0} or none")]
    Incomplete(&'static str),
}

/// PEM texts, as in a Secret that is not mounted.
#[derive(Clone)]
pub struct Texts {
    /// See [`Files::certificate`].
    pub certificate: Vec<u8>,
    /// See [`Files::key`].
    pub key: Vec<u8>,
    /// See [`Files::authority`].
    pub authority: Vec<u8>,
}

/// A certificate and key with the TLS configurations made from them.
pub struct Identity {
    /// Checked for changes.
    files: Option<Files>,
    current: ArcSwap<Loaded>,
    next_check: Mutex<Instant>,
}

#[derive(Clone)]
struct Loaded {
    seen: Vec<Option<SystemTime>>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Identity {
    /// Loads the files. They are read again when they change.
    pub fn load(files: Files) -> Result<Arc<Self>, Error> {
        let loaded = Loaded::read(&files)?;
        Ok(Arc::new(Self {
            files: Some(files),
            current: ArcSwap::from_pointee(loaded),
            next_check: Mutex::new(Instant::now() + CHECK_INTERVAL),
        }))
    }

    /// An identity that does not change. `source` names it in errors.
    pub fn from_texts(texts: &Texts, source: &str) -> Result<Arc<Self>, Error> {
        let path = |name: &str| PathBuf::from(format!("{source} {name}"));
        let files = Files {
            certificate: path("certificate"),
            key: path("key"),
            authority: Some(path("authority")),
            clients: Vec::new(),
        };
        let loaded = Loaded::new(&files, &texts.certificate, &texts.key, Some(&texts.authority))?;
        let next_check = Mutex::new(Instant::now());
        Ok(Arc::new(Self { files: None, current: ArcSwap::from_pointee(loaded), next_check }))
    }

    /// Loads the files that flags name. `None` without any of them. `clients`: see [`Files::clients`]. `flags` names them
    /// in the error if only some are set.
    pub fn from_flags(
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
        authority: Option<PathBuf>,
        clients: &[ClientName],
        flags: &'static str,
    ) -> Result<Option<Arc<Self>>, Error> {
        match (certificate, key, authority) {
            (None, None, None) => Ok(None),
            (Some(certificate), Some(key), authority) => {
                Self::load(Files { certificate, key, authority, clients: clients.to_vec() }).map(Some)
            }
            _ => Err(Error::Incomplete(flags)),
        }
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.check_files();
        Arc::clone(&self.current.load().server)
    }

    /// Configuration for connecting to another component.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.check_files();
        Arc::clone(&self.current.load().client)
    }

    /// Reads the files again if they changed. If the new ones are invalid, the current identity stays in use.
    fn check_files(&self) {
        {
            let mut next_check = self.next_check.lock().unwrap_or_else(PoisonError::into_inner);
            if Instant::now() < *next_check {
                return;
            }
            *next_check = Instant::now() + CHECK_INTERVAL;
        }
        self.reload();
    }

    pub(super) fn reload(&self) {
        let Some(files) = &self.files else { return };
        let current = self.current.load();
        if changed(files) == current.seen {
            return;
        }
        match Loaded::read(files) {
            Ok(loaded) => {
                tracing::info!(certificate = %files.certificate.display(), "certificate renewed");
                self.current.store(Arc::new(loaded));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot use the changed certificate; keeping the current one");
                // Logged once per change of the files.
                let loaded = Loaded { seen: changed(files), ..Loaded::clone(&current) };
                self.current.store(Arc::new(loaded));
            }
        }
    }
}

impl Loaded {
    fn read(files: &Files) -> Result<Self, Error> {
        let seen = changed(files);
        let authority = files.authority.as_deref().map(read).transpose()?;
        let loaded = Self::new(files, &read(&files.certificate)?, &read(&files.key)?, authority.as_deref())?;
        Ok(Self { seen, ..loaded })
    }

    /// `files` names the texts in errors.
    fn new(files: &Files, certificate: &[u8], key: &[u8], authority: Option<&[u8]>) -> Result<Self, Error> {
        let chain = certificates(&files.certificate, certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|source| Error::Read { path: files.key.clone(), source: source.into() })?;
        let unusable = |source| Error::Unusable {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            source,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let authority_path = files.authority.clone().unwrap_or_default();
        let roots = authority.map(|text| roots(&authority_path, text)).transpose()?;
        let authority = |reason: &dyn fmt::Display| Error::Authority {
            path: authority_path.clone(),
            reason: reason.to_string(),
        };

        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let server = match &roots {
            None => server.with_no_client_auth(),
            Some(roots) => {
                let inner =
                    WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider))
                        .build()
                        .map_err(|error| authority(&error))?;
                let names = files.clients.clone();
                server.with_client_cert_verifier(Arc::new(NamedClients { inner, names }))
            }
        };
        let mut server = server.with_single_cert(chain.clone(), key.clone_key()).map_err(unusable)?;
        server.alpn_protocols = vec![H2.to_vec()];

        // Without an authority every server certificate is rejected: the identity is for serving only.
        let client =
            client(provider, roots.unwrap_or_else(|| Arc::new(RootCertStore::empty()))).map_err(unusable)?;
        let mut client = client.with_client_auth_cert(chain, key).map_err(unusable)?;
        client.alpn_protocols = vec![H2.to_vec()];
        Ok(Self { seen: Vec::new(), server: Arc::new(server), client: Arc::new(client) })
    }
}

/// Configuration for connecting to servers with a certificate of this authority, without a client certificate.
pub fn trusting(authority: &Path) -> Result<Arc<ClientConfig>, Error> {
    let unusable =
        |source: rustls::Error| Error::Authority { path: authority.to_owned(), reason: source.to_string() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = roots(authority, &read(authority)?)?;
    let mut config = client(provider, roots).map_err(unusable)?.with_no_client_auth();
    config.alpn_protocols = vec![H2.to_vec()];
    Ok(Arc::new(config))
}

fn client(
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source: source.into() })
}

fn roots(path: &Path, text: &[u8]) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, text)? {
        roots
            .add(certificate)
            .map_err(|error| Error::Authority { path: path.to_owned(), reason: error.to_string() })?;
    }
    Ok(Arc::new(roots))
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| Error::Read { path: path.to_owned(), source: source.into() })?;
    if all.is_empty() { Err(Error::NoCertificate { path: path.to_owned() }) } else { Ok(all) }
}

/// Returns when each file was last written. The files of a mounted Secret are links whose targets change.
fn changed(files: &Files) -> Vec<Option<SystemTime>> {
    let modified = |path: &Path| fs::metadata(path).and_then(|it| it.modified()).ok();
    [Some(&files.certificate), Some(&files.key), files.authority.as_ref()]
        .into_iter()
        .map(|path| path.and_then(|path| modified(path)))
        .collect()
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}
