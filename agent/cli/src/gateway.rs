//! Connections to a listener of a gateway, plain or over TLS.

use std::{fmt, path::Path, str::FromStr, sync::Arc};

use anyhow::{Context as _, bail};
use forebay_service::tls::{self, Stream};
use http::uri::Authority;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

const HTTPS_PORT: u16 = 443;

/// `ADDRESS:PORT` or `https://ADDRESS[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gateway {
    authority: Authority,
    port: u16,
    is_tls: bool,
}

impl FromStr for Gateway {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (is_tls, rest) = match text.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("http://").unwrap_or(text)),
        };
        let wrong = || "must be ADDRESS:PORT, or https://ADDRESS:PORT".to_owned();
        let authority: Authority = rest.trim_end_matches('/').parse().map_err(|_| wrong())?;
        let port = authority.port_u16().or(is_tls.then_some(HTTPS_PORT)).ok_or_else(wrong)?;
        Ok(Self { authority, port, is_tls })
    }
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.authority.fmt(f)
    }
}

impl Gateway {
    /// Default value of the Host header.
    pub(crate) fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// Connects, over TLS with server name `host` for an `https://` address. `trusted`: file with a certificate authority
    /// to use instead of the machine's.
    pub(crate) async fn connect(&self, host: &str, trusted: Option<&Path>) -> anyhow::Result<Stream> {
        if trusted.is_some() && !self.is_tls {
            bail!("a certificate authority needs a TLS listener: use https://{self}");
        }
        let address = (without_brackets(self.authority.host()), self.port);
        let tcp = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {self}"))?;
        if !self.is_tls {
            return Ok(Stream::Plain(tcp));
        }
        let host: Authority = host.parse().context("the host must be a hostname")?;
        let name = without_brackets(host.host()).to_owned();
        let server = ServerName::try_from(name.clone())
            .with_context(|| format!("{name:?} is not a valid server name"))?;
        let handshake = TlsConnector::from(config(trusted)?).connect(server, tcp);
        let stream = handshake.await.with_context(|| {
            format!("TLS handshake with {self} as {name:?} failed; name its certificate authority (--tls-ca; of the dashboard --gateway-ca) and its host (--host; --gateway-host)")
        })?;
        Ok(Stream::Tls(Box::new(TlsStream::Client(stream))))
    }
}

fn config(trusted: Option<&Path>) -> anyhow::Result<Arc<ClientConfig>> {
    let mut config = match trusted {
        Some(authority) => ClientConfig::clone(&*tls::trusting(authority)?),
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots)
                .with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_gateway_addresses() {
        for (text, authority, port, is_tls) in [
            ("10.0.0.1:8080", "10.0.0.1:8080", 8080, false),
            ("http://gateway.example:80/", "gateway.example:80", 80, false),
            ("https://[::1]:8443", "[::1]:8443", 8443, true),
            ("https://gateway.example", "gateway.example", 443, true),
        ] {
            let gateway: Gateway = text.parse().unwrap();
            assert_eq!(
                (gateway.authority(), gateway.port, gateway.is_tls),
                (authority, port, is_tls),
                "{text}"
            );
        }
        for bad in ["", "gateway.example", "https://", "ftp://a:1", "a:1/path"] {
            assert!(bad.parse::<Gateway>().is_err(), "{bad}");
        }
    }
}
