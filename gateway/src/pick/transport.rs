//! Connections to endpoint pickers, with or without TLS.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forebay_service::tls::{self, Identity, Stream};
use rustls::ClientConfig;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use crate::tls_verifier::{Acceptance, client_config};

const NAMESPACE: &str = "{namespace}";
const DEFAULT_NAME: &str = "forebay-epp.{namespace}";

/// Maximum time for a TCP connect, and for a TLS handshake.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether connections to pickers use TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PickerTls {
    /// TLS if the picker supports it, plain text otherwise.
    #[default]
    Auto,
    /// TLS only.
    Required,
    /// Plain text only.
    Off,
}

/// Command line flags for connections to pickers.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PickerTlsFlags {
    /// Use TLS for connections to endpoint pickers. Without --epp-tls-ca their certificates are not verified: pickers use self-signed certificates by convention
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub epp_tls: PickerTls,
    /// CA certificates (PEM) that verify endpoint pickers. Implies --epp-tls required
    #[arg(long, value_name = "FILE")]
    pub epp_tls_ca: Option<PathBuf>,
    /// DNS name that the certificates of endpoint pickers must contain. `{namespace}` is replaced by the pool's namespace
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAME, requires = "epp_tls_ca")]
    pub epp_tls_name: String,
    /// Client certificate (PEM) for endpoint pickers
    #[arg(long, value_name = "FILE", requires_all = ["epp_tls_key", "epp_tls_ca"])]
    pub epp_tls_cert: Option<PathBuf>,
    /// Private key (PEM) of the client certificate
    #[arg(long, value_name = "FILE", requires = "epp_tls_cert")]
    pub epp_tls_key: Option<PathBuf>,
}

/// Why the TLS flags for pickers are invalid.
#[derive(Debug, thiserror::Error)]
pub enum PickerTlsError {
    /// A certificate or key file cannot be used.
    #[error("--epp-tls-ca, --epp-tls-cert, --epp-tls-key: {0}")]
    Files(#[from] tls::Error),
    /// `--epp-tls-name` is not a DNS name or IP address.
    #[error("--epp-tls-name {0:?} is not a valid DNS name or IP address")]
    Name(String),
    /// The TLS configuration was rejected.
    #[error("cannot set up TLS for endpoint pickers: {0}")]
    Setup(rustls::Error),
    /// `--epp-tls off` with `--epp-tls-ca`.
    #[error("--epp-tls off cannot be combined with --epp-tls-ca")]
    OffWithAuthority,
}

/// Opens connections to pickers.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    /// With `{namespace}` in place of the pool's namespace.
    name: Arc<str>,
    mode: Mode,
}

#[derive(Clone, Debug)]
enum Mode {
    Plain,
    /// Certificates are not verified.
    Unchecked {
        config: Arc<ClientConfig>,
        or_plain: bool,
    },
    Checked(Arc<ClientConfig>),
    /// With a client certificate, which is reloaded when its file changes.
    Mutual(Arc<Identity>),
}

impl Transport {
    pub(crate) fn new(flags: &PickerTlsFlags) -> Result<Self, PickerTlsError> {
        // The name is empty if the flags were not parsed from a command line.
        let name = if flags.epp_tls_name.is_empty() { DEFAULT_NAME } else { &flags.epp_tls_name };
        if server_name(name, "namespace").is_none() {
            return Err(PickerTlsError::Name(flags.epp_tls_name.clone()));
        }
        let mode = match (&flags.epp_tls_ca, flags.epp_tls) {
            (Some(_), PickerTls::Off) => return Err(PickerTlsError::OffWithAuthority),
            (Some(authority), _) => {
                let files = (flags.epp_tls_cert.clone(), flags.epp_tls_key.clone());
                match files {
                    (Some(certificate), Some(key)) => {
                        let authority = Some(authority.clone());
                        let clients = Vec::new();
                        Mode::Mutual(Identity::load(tls::Files { certificate, key, authority, clients })?)
                    }
                    _ => Mode::Checked(tls::trusting(authority)?),
                }
            }
            (None, PickerTls::Off) => Mode::Plain,
            (None, mode) => Mode::Unchecked { config: unchecked()?, or_plain: mode == PickerTls::Auto },
        };
        Ok(Self { name: name.into(), mode })
    }

    /// Connects to a picker of a pool in `namespace`: its certificate must name this namespace, so that a picker of one
    /// tenant cannot decide for another.
    pub(super) async fn connect(&self, address: SocketAddr, namespace: &str) -> io::Result<Stream> {
        let config = match &self.mode {
            Mode::Plain => return Ok(Stream::Plain(dial(address).await?)),
            Mode::Unchecked { config, .. } | Mode::Checked(config) => config.clone(),
            Mode::Mutual(identity) => identity.client(),
        };
        let name = server_name(&self.name, namespace).ok_or(io::ErrorKind::InvalidInput)?;
        let handshake = TlsConnector::from(config).connect(name, dial(address).await?);
        match tokio::time::timeout(CONNECT_TIMEOUT, handshake).await {
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
            Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(TlsStream::Client(stream)))),
            Ok(Err(error)) if self.may_be_plain(&error) => Ok(Stream::Plain(dial(address).await?)),
            Ok(Err(error)) => Err(error),
        }
    }

    /// Servers without TLS reply to a handshake with invalid data, or close the connection.
    fn may_be_plain(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, InvalidData, UnexpectedEof};
        matches!(self.mode, Mode::Unchecked { or_plain: true, .. })
            && matches!(error.kind(), InvalidData | UnexpectedEof | ConnectionReset | BrokenPipe)
    }
}

fn server_name(pattern: &str, namespace: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(pattern.replace(NAMESPACE, namespace)).ok()
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
    let stream = connecting.await.map_err(|_| io::ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

const H2: &[u8] = b"h2";

fn unchecked() -> Result<Arc<ClientConfig>, PickerTlsError> {
    client_config(Unchecked, &[H2]).map(Arc::new).map_err(PickerTlsError::Setup)
}

/// Accepts any certificate, as gateways of the Endpoint Picker Protocol do. Encrypts without authenticating the server:
/// no protection against a man in the middle.
#[derive(Debug)]
struct Unchecked;

impl Acceptance for Unchecked {
    fn check(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: WebPkiSupportedAlgorithms,
        _: UnixTime,
    ) -> Result<(), rustls::Error> {
        Ok(())
    }
}
