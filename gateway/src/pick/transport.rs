//! How pickers are reached: with TLS, or without.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forebay_service::tls::{self, Identity, Stream};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

/// A TCP connection, and again a handshake, may take this long.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether pickers speak TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PickerTls {
    /// TLS where the picker speaks it, plain text otherwise.
    #[default]
    Auto,
    /// TLS only.
    Required,
    /// Plain text only.
    Off,
}

/// What is needed to reach pickers.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PickerTlsFlags {
    /// Whether endpoint pickers speak TLS. Without --epp-tls-ca their certificates are not checked: by convention they sign their own
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub epp_tls: PickerTls,
    /// Checks endpoint pickers' certificates against this authority; TLS is then required
    #[arg(long, value_name = "FILE")]
    pub epp_tls_ca: Option<PathBuf>,
    /// Name that endpoint pickers' certificates must carry
    #[arg(long, value_name = "NAME", default_value = tls::PICKER_NAME, requires = "epp_tls_ca")]
    pub epp_tls_name: String,
    /// Certificate to show to endpoint pickers
    #[arg(long, value_name = "FILE", requires_all = ["epp_tls_key", "epp_tls_ca"])]
    pub epp_tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "epp_tls_cert")]
    pub epp_tls_key: Option<PathBuf>,
}

/// Why pickers cannot be reached as the flags say.
#[derive(Debug, thiserror::Error)]
pub enum PickerTlsError {
    #[error("--epp-tls-ca, --epp-tls-cert, --epp-tls-key: {0}")]
    Files(#[from] tls::Error),
    #[error("--epp-tls-name {0:?} is no name that a certificate can carry")]
    Name(String),
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
    #[error("--epp-tls off and --epp-tls-ca exclude each other")]
    OffWithAuthority,
}

/// Opens connections to pickers.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    name: ServerName<'static>,
    mode: Mode,
}

#[derive(Clone, Debug)]
enum Mode {
    Plain,
    /// Nothing is checked.
    Unchecked {
        config: Arc<ClientConfig>,
        or_plain: bool,
    },
    Checked(Arc<ClientConfig>),
    /// With a certificate of our own, read again when it changes.
    Mutual(Arc<Identity>),
}

impl Transport {
    pub(crate) fn new(flags: &PickerTlsFlags) -> Result<Self, PickerTlsError> {
        // What a caller made without the command line may leave the name empty.
        let name = if flags.epp_tls_name.is_empty() { tls::PICKER_NAME } else { &flags.epp_tls_name };
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|_| PickerTlsError::Name(flags.epp_tls_name.clone()))?;
        let mode = match (&flags.epp_tls_ca, flags.epp_tls) {
            (Some(_), PickerTls::Off) => return Err(PickerTlsError::OffWithAuthority),
            (Some(authority), _) => {
                let files = (flags.epp_tls_cert.clone(), flags.epp_tls_key.clone());
                match files {
                    (Some(certificate), Some(key)) => {
                        let authority = Some(authority.clone());
                        Mode::Mutual(Identity::load(tls::Files { certificate, key, authority })?)
                    }
                    _ => Mode::Checked(tls::trusting(authority)?),
                }
            }
            (None, PickerTls::Off) => Mode::Plain,
            (None, mode) => Mode::Unchecked { config: unchecked()?, or_plain: mode == PickerTls::Auto },
        };
        Ok(Self { name: server_name, mode })
    }

    pub(super) async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        let config = match &self.mode {
            Mode::Plain => return Ok(Stream::Plain(dial(address).await?)),
            Mode::Unchecked { config, .. } | Mode::Checked(config) => config.clone(),
            Mode::Mutual(identity) => identity.client(),
        };
        let handshake = TlsConnector::from(config).connect(self.name.clone(), dial(address).await?);
        match tokio::time::timeout(CONNECT_TIMEOUT, handshake).await {
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
            Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(TlsStream::Client(stream)))),
            Ok(Err(error)) if self.may_be_plain(&error) => Ok(Stream::Plain(dial(address).await?)),
            Ok(Err(error)) => Err(error),
        }
    }

    /// Servers without TLS answer a handshake with something that is none, or hang up.
    fn may_be_plain(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, InvalidData, UnexpectedEof};
        matches!(self.mode, Mode::Unchecked { or_plain: true, .. })
            && matches!(error.kind(), InvalidData | UnexpectedEof | ConnectionReset | BrokenPipe)
    }
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
    let stream = connecting.await.map_err(|_| io::ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

const H2: &[u8] = b"h2";

fn unchecked() -> Result<Arc<ClientConfig>, PickerTlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let unchecked = Arc::new(Unchecked(provider.clone()));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(PickerTlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(unchecked)
        .with_no_client_auth();
    config.alpn_protocols = vec![H2.to_vec()];
    Ok(Arc::new(config))
}

/// Takes any certificate, as the Endpoint Picker Protocol's gateways do: it keeps out who listens, not who lies.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
