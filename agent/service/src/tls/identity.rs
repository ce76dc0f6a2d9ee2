//! A part's certificate, its key, and the authority it trusts.

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

/// How long files may have changed before a new connection notices.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
const H2: &[u8] = b"h2";

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The part's own certificate, and those between it and the authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// What the other side's certificate must be of. A server without it takes
    /// clients without a certificate.
    pub authority: Option<PathBuf>,
}

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{path} has no certificate in it")]
    NoCertificate { path: PathBuf },
    #[error("certificate {certificate} and key {key} cannot be used: {source}")]
    Unusable { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("authority {path} cannot be used: {reason}")]
    Authority { path: PathBuf, reason: String },
    #[error("give all of {0} or none")]
    Incomplete(&'static str),
}

/// PEM texts, from where there are no files.
#[derive(Clone)]
pub struct Texts {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
    pub authority: Vec<u8>,
}

/// A certificate and key, and what was last read of them.
pub struct Identity {
    /// What to look at for changes.
    files: Option<Files>,
    current: ArcSwap<Loaded>,
    next_look: Mutex<Instant>,
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
    pub fn load(files: Files) -> Result<Arc<Self>, Error> {
        let loaded = Loaded::read(&files)?;
        Ok(Arc::new(Self {
            files: Some(files),
            current: ArcSwap::from_pointee(loaded),
            next_look: Mutex::new(Instant::now() + LOOK_INTERVAL),
        }))
    }

    /// One that does not change. `source` names it in errors.
    pub fn from_texts(texts: &Texts, source: &str) -> Result<Arc<Self>, Error> {
        let path = |name: &str| PathBuf::from(format!("{source} {name}"));
        let files =
            Files { certificate: path("certificate"), key: path("key"), authority: Some(path("authority")) };
        let loaded = Loaded::new(&files, &texts.certificate, &texts.key, Some(&texts.authority))?;
        let next_look = Mutex::new(Instant::now());
        Ok(Arc::new(Self { files: None, current: ArcSwap::from_pointee(loaded), next_look }))
    }

    /// From flags: all three, or certificate and key if `authority` may be left out.
    pub fn from_flags(
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
        authority: Option<PathBuf>,
        flags: &'static str,
    ) -> Result<Option<Arc<Self>>, Error> {
        match (certificate, key, authority) {
            (None, None, None) => Ok(None),
            (Some(certificate), Some(key), authority) => {
                Self::load(Files { certificate, key, authority }).map(Some)
            }
            _ => Err(Error::Incomplete(flags)),
        }
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        self.look();
        Arc::clone(&self.current.load().server)
    }

    /// For dialling another part.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.look();
        Arc::clone(&self.current.load().client)
    }

    /// Reads the files again if they have changed. What is in use stays so when the
    /// new ones are no good.
    fn look(&self) {
        {
            let mut next_look = self.next_look.lock().unwrap_or_else(PoisonError::into_inner);
            if Instant::now() < *next_look {
                return;
            }
            *next_look = Instant::now() + LOOK_INTERVAL;
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
                tracing::warn!(%error, "the certificate was changed and cannot be used; the old one stays");
                // Said once, until the files change again.
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

    /// `files` only names them in errors.
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
            Some(roots) => server.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider))
                    .build()
                    .map_err(|error| authority(&error))?,
            ),
        };
        let mut server = server.with_single_cert(chain.clone(), key.clone_key()).map_err(unusable)?;
        server.alpn_protocols = vec![H2.to_vec()];

        // A part without an authority only serves; dialling, it trusts nobody.
        let client =
            client(provider, roots.unwrap_or_else(|| Arc::new(RootCertStore::empty()))).map_err(unusable)?;
        let mut client = client.with_client_auth_cert(chain, key).map_err(unusable)?;
        client.alpn_protocols = vec![H2.to_vec()];
        Ok(Self { seen: Vec::new(), server: Arc::new(server), client: Arc::new(client) })
    }
}

/// For dialling a server whose certificate must be of this authority, without showing one.
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

/// When each file was last written. A mounted Secret's files are links that move on.
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
