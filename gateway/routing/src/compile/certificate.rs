//! Certificates from Secrets, chosen by server name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use forebay_resources::{ObjectKey, Secret, Snapshot};
use gateway_api::gateways::GatewayListenersTlsCertificateRefs as CertificateRef;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::authority;
use super::clients::ClientAuthorities;
use super::grants::is_granted;
use crate::condition::{ConditionStatus, reason};
use crate::names::GATEWAY_GROUP;
use crate::table::{ClientVerifier, Hostname, ListenerPort, PortTls};

type Key = Arc<CertifiedKey>;
/// Certificates of a port's listeners by hostname.
type Keys = Vec<(Hostname, Vec<Key>)>;

/// Cache of parsed Secrets and TLS settings. Unchanged ones are reused by the next table.
#[derive(Debug)]
pub struct Certificates {
    provider: Arc<CryptoProvider>,
    by_secret: HashMap<ObjectKey, (Arc<Secret>, Result<Key, &'static str>)>,
    by_port: BTreeMap<ListenerPort, (Keys, Option<ClientAuthorities>, Arc<PortTls>)>,
}

impl Default for Certificates {
    fn default() -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Self { provider, by_secret: HashMap::new(), by_port: BTreeMap::new() }
    }
}

impl Certificates {
    /// Certificates that a listener of `gateway` refers to, and its condition `ResolvedRefs`.
    pub(super) fn resolve(
        &mut self,
        snapshot: &Snapshot,
        gateway: &ObjectKey,
        references: &[CertificateRef],
    ) -> (Vec<Key>, ConditionStatus) {
        let mut status = match references {
            [] => {
                ConditionStatus::unmet(reason::INVALID_CERTIFICATE_REF, "the listener has no certificateRef")
            }
            _ => ConditionStatus::met(reason::RESOLVED_REFS),
        };
        let mut keys = Vec::new();
        for reference in references {
            match self.one(snapshot, gateway, reference) {
                Ok(key) => keys.push(key),
                Err((reason, message)) => {
                    let message = format!("certificateRef {}: {message}", reference.name);
                    status = ConditionStatus::unmet(reason, message);
                }
            }
        }
        (keys, status)
    }

    fn one(
        &mut self,
        snapshot: &Snapshot,
        gateway: &ObjectKey,
        reference: &CertificateRef,
    ) -> Result<Key, (&'static str, &'static str)> {
        let invalid = |message| (reason::INVALID_CERTIFICATE_REF, message);
        let kind = (reference.group.as_deref().unwrap_or(""), reference.kind.as_deref().unwrap_or("Secret"));
        if kind != ("", "Secret") {
            return Err(invalid("only Secrets are supported"));
        }
        let namespace = reference.namespace.as_deref().unwrap_or(&gateway.namespace);
        let key = ObjectKey::new(namespace, &reference.name);
        let from = (GATEWAY_GROUP, "Gateway", gateway.namespace.as_str());
        if namespace != gateway.namespace && !is_granted(snapshot, from, ("", "Secret"), &key) {
            return Err((
                reason::REF_NOT_PERMITTED,
                "no ReferenceGrant allows the Gateway to refer to this Secret",
            ));
        }
        let secret = snapshot.secrets.get(&key).ok_or(invalid("the Secret does not exist"))?;
        if let Some((known, parsed)) = self.by_secret.get(&key)
            && Arc::ptr_eq(known, secret)
        {
            return parsed.clone().map_err(invalid);
        }
        let parsed = parse(secret, &self.provider);
        self.by_secret.insert(key, (secret.clone(), parsed.clone()));
        parsed.map_err(invalid)
    }

    /// TLS settings of a port; the same object as before if its certificates and authorities are unchanged. `clients`: whose
    /// certificates of clients it accepts.
    pub(super) fn config(
        &mut self,
        port: &ListenerPort,
        keys: Keys,
        clients: Option<ClientAuthorities>,
    ) -> Option<Arc<PortTls>> {
        if let Some((known, known_clients, tls)) = self.by_port.get(port)
            && is_same(known, &keys)
            && *known_clients == clients
        {
            return Some(tls.clone());
        }
        let tls = self.build(&keys, clients.as_ref());
        let tls = Arc::new(tls.inspect_err(|error| tracing::error!(error, "cannot configure TLS")).ok()?);
        self.by_port.insert(port.clone(), (keys, clients, tls.clone()));
        Some(tls)
    }

    fn build(&self, keys: &Keys, clients: Option<&ClientAuthorities>) -> Result<PortTls, String> {
        let builder = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let verifier = clients.map(|clients| {
            let roots = authority::roots([&*clients.pem])?;
            let verifier = ClientVerifier::new(roots, clients.is_optional, self.provider.clone());
            Ok::<_, String>(Arc::new(verifier.map_err(|error| error.to_string())?))
        });
        let verifier = verifier.transpose()?;
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByServerName(keys.clone())));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if verifier.is_some() {
            // The certificate is verified for every connection, so no session is resumed.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(PortTls::new(Arc::new(config), verifier))
    }

    /// Drops entries that `snapshot` and the open ports do not need.
    pub(super) fn retain(&mut self, snapshot: &Snapshot, is_open: impl Fn(&ListenerPort) -> bool) {
        self.by_secret.retain(|key, _| snapshot.secrets.contains_key(key));
        self.by_port.retain(|port, _| is_open(port));
    }
}

fn is_same(one: &Keys, other: &Keys) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|((name, keys), (other_name, other_keys))| {
            name == other_name
                && keys.len() == other_keys.len()
                && keys.iter().zip(other_keys).all(|(key, other)| Arc::ptr_eq(key, other))
        })
}

fn parse(secret: &Secret, provider: &CryptoProvider) -> Result<Key, &'static str> {
    let certificate = secret.get("tls.crt").ok_or("the Secret has no tls.crt")?;
    let key = secret.get("tls.key").ok_or("the Secret has no tls.key")?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|_| "tls.crt is not PEM")?;
    if chain.is_empty() {
        return Err("tls.crt contains no certificate");
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "tls.key contains no private key")?;
    let key = CertifiedKey::from_der(chain, key, provider)
        .map_err(|_| "tls.crt and tls.key do not match, or their type is not supported")?;
    Ok(Arc::new(key))
}

/// Chooses by SNI; the more specific hostname first.
#[derive(Debug)]
struct ByServerName(Keys);

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Key> {
        let name = hello.server_name();
        let (_, keys) = self.0.iter().find(|(hostname, _)| match name {
            Some(name) => hostname.matches(name),
            None => *hostname == Hostname::Any,
        })?;
        keys.iter().find(|key| key.key.choose_scheme(hello.signature_schemes()).is_some()).cloned()
    }
}
