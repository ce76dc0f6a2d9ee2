//! Certificates of clients (`spec.tls.frontend` of Gateways).

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forebay_test_certificates::{Authority, Issued};
use forebay_usage::{Database, Dimension, Report};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, SanType};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::harness::{Harness, LISTENER, QWEN, gateway};
use crate::support::tls::{Certificate, authorities};
use crate::support::upstream::Upstream;
use crate::support::{until, within};

const HOST: &str = "models.example";
const TARGET: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway}";

/// A gateway with one TLS listener, and its certificate.
struct Tls {
    certificate: Certificate,
    web: Upstream,
}

impl Tls {
    async fn new() -> Self {
        Self { certificate: Certificate::of(HOST), web: Upstream::bind().await }
    }

    /// `trusted`: PEM of the ConfigMap. `more`: further documents.
    fn manifests(&self, mode: &str, trusted: &str, more: &str) -> Harness {
        let frontend = format!(
            "  tls: {{frontend: {{default: {{validation: {{mode: {mode}, caCertificateRefs: [{{group: '', kind: ConfigMap, name: ca}}]}}}}}}}}\n"
        );
        let listener = format!(
            "  - {{name: https, protocol: HTTPS, port: {LISTENER}, allowedRoutes: {{namespaces: {{from: All}}}}, tls: {{certificateRefs: [{{name: web}}]}}}}\n"
        );
        let mut manifests = gateway(&[("plain", LISTENER + 1)]) + &listener + &frontend;
        write!(manifests, "---\n{more}").unwrap();
        Harness { manifests }
            .pool("qwen", QWEN, &[self.web.port()], None)
            .with(&self.certificate.secret("web"))
            .with(&authorities("agentgateway-system", "ca", trusted))
    }
}

fn params(name: &str, more: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    more(&mut params);
    params
}

fn issued(authority: &Authority, name: &str) -> Issued {
    authority.issue(params(name, |_| {})).unwrap()
}

fn expired(authority: &Authority) -> Issued {
    let expires = rcgen::date_time_ymd(2020, 1, 1);
    authority.issue(params("late", |it| it.not_after = expires)).unwrap()
}

/// Shows a certificate, also one whose key it does not have.
#[derive(Debug)]
struct Shows(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// The certificate, and the key that signs the handshake.
fn with_key(certificate: &Issued, key: &Issued) -> Shows {
    let chain = vec![CertificateDer::from_pem_slice(certificate.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.key.as_bytes()).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    Shows(Some(Arc::new(CertifiedKey::new(chain, key))))
}

fn own(certificate: &Issued) -> Shows {
    with_key(certificate, certificate)
}

/// Sends a request on a connection of its own, with headers.
async fn ask(
    address: SocketAddr,
    server: &Certificate,
    shows: Shows,
    protocol: &str,
) -> Result<(u16, String), Box<dyn std::error::Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(server.der.clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(shows));
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = within("the gateway to accept", TcpStream::connect(address)).await?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = within("a handshake", connector.connect(ServerName::try_from(HOST)?, stream)).await?;
    let body = format!(r#"{{"model":"{QWEN}","messages":[]}}"#);
    let request = hyper::Request::post(format!("https://{HOST}/v1/chat/completions"))
        .header("host", HOST)
        .header("content-type", "application/json")
        .body(Full::<bytes::Bytes>::from(body))?;
    let (response, connection) = if protocol == "h2" {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        (within("a response", sender.send_request(request)).await, connection)
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        (within("a response", sender.send_request(request)).await, connection)
    };
    let response = response?;
    let status = response.status().as_u16();
    let body = within("the body", response.into_body().collect()).await?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// The status, or 0 if there is no connection.
async fn status(address: SocketAddr, server: &Certificate, shows: Shows, protocol: &str) -> u16 {
    match ask(address, server, shows, protocol).await {
        Ok((status, _)) => status,
        Err(error) => {
            // The client learns of it after its own part of the handshake: a closed connection is not always an alert.
            let is_refused = error.is::<io::Error>() || error.is::<hyper::Error>();
            assert!(is_refused, "{error}");
            0
        }
    }
}

/// Answers all requests.
fn serve(web: Upstream) -> tokio_util::task::AbortOnDropHandle<()> {
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok(mut connection) = web.accept_any().await {
            tokio::spawn(async move {
                while connection.next_request().await.is_some() {
                    connection.respond(200, "{}").await;
                }
            });
        }
    }))
}

fn policy(fields: &str) -> String {
    format!(
        "apiVersion: agentgateway.dev/v1alpha1\nkind: AgentgatewayPolicy\nmetadata: {{name: door, namespace: agentgateway-system}}\n\
         spec: {{targetRefs: [{TARGET}], traffic: {{{fields}}}}}\n"
    )
}

#[tokio::test]
async fn only_clients_with_a_valid_certificate_are_served() {
    let (authority, other) = (Authority::new("ca").unwrap(), Authority::new("other").unwrap());
    let alice = issued(&authority, "alice");
    let tls = Tls::new().await;
    let large = authority.issue(params("large", |it| {
        let name = |at: u32| SanType::DnsName(Ia5String::try_from(format!("{at:0>60}.example")).unwrap());
        it.subject_alt_names = (0..400).map(name).collect();
    }));
    let server_only =
        authority.issue(params("x", |it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]));
    for (mode, refused) in [("AllowValidOnly", 0), ("AllowInsecureFallback", 403)] {
        let rule = policy(
            r#"authorization: {action: Require, policy: {matchExpressions: ["source.subjectCn == 'alice'"]}}"#,
        );
        let running = tls.manifests(mode, authority.pem(), &rule).start().await;
        let address = running.address();
        let upstream = &tls.web;
        for protocol in ["http/1.1", "h2"] {
            let asking = status(address, &tls.certificate, own(&alice), protocol);
            let (answered, _) = tokio::join!(asking, upstream.answer_one("{}"));
            assert_eq!(answered, 200, "{mode} {protocol}");
            for (what, shows) in [
                ("none", Shows(None)),
                ("another authority", own(&issued(&other, "alice"))),
                ("expired", own(&expired(&authority))),
                ("for servers", own(server_only.as_ref().unwrap())),
                ("too large", own(large.as_ref().unwrap())),
            ] {
                let status = status(address, &tls.certificate, shows, protocol).await;
                assert_eq!(status, refused, "{mode} {protocol}: {what}");
            }
            // A certificate without its key proves nothing, in both modes.
            let stolen = with_key(&alice, &issued(&authority, "mallory"));
            assert_eq!(status(address, &tls.certificate, stolen, protocol).await, 0, "{mode} {protocol}");
        }
    }
}

#[tokio::test]
async fn the_certificate_is_who_the_caller_is() {
    let authority = Authority::new("ca").unwrap();
    let workload = authority.issue(params("batch", |it| {
        let uri = Ia5String::try_from("spiffe://cluster.local/ns/jobs/sa/batch").unwrap();
        it.subject_alt_names = vec![SanType::URI(uri)];
    }));
    let workload = workload.unwrap();
    let (alice, bob) = (issued(&authority, "alice"), issued(&authority, "bob"));
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("usage.db").display());
    let rule = r#"authorization: {action: Require, policy: {matchExpressions: ["source.subjectCn in ['alice', 'bob'] && source.issuer == 'CN=ca' || source.identity.namespace == 'jobs' && source.subjectAltNames == ['spiffe://cluster.local/ns/jobs/sa/batch']"]}}"#;
    let quota = format!(
        "apiVersion: forebay.dev/v1alpha1\nkind: Quota\nmetadata: {{name: each, namespace: agentgateway-system}}\n\
         spec: {{targetRefs: [{TARGET}], per: source.subject, limits: [{{requests: 1, window: Month}}]}}\n"
    );
    let tls = Tls::new().await;
    let manifests = tls.manifests("AllowInsecureFallback", authority.pem(), &policy(rule)).with(&quota);
    let running = manifests.start_with(|config| config.usage_db = Some(url.clone())).await;
    let Tls { certificate, web } = tls;
    let (address, _serving) = (running.address(), serve(web));
    for certificate_of_client in [&alice, &bob, &workload] {
        for expected in [200, 429] {
            let status = status(address, &certificate, own(certificate_of_client), "http/1.1").await;
            assert_eq!(status, expected, "each has a budget of its own");
        }
    }
    assert_eq!(status(address, &certificate, own(&issued(&authority, "carol")), "http/1.1").await, 403);
    let by = vec![Dimension::Key];
    let report = Report { by, since: UNIX_EPOCH, until: SystemTime::now() + Duration::from_secs(60) };
    let database = Database::for_reports(&url).unwrap();
    until("the records", || async {
        let rows = database.report(&report).await.ok()?;
        let mut keys: Vec<String> = rows.iter().filter_map(|row| row.values[0].clone()).collect();
        keys.sort();
        (keys == ["alice", "bob", "spiffe://cluster.local/ns/jobs/sa/batch"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn another_authority_applies_to_the_next_connection() {
    let (old, new) = (Authority::new("old").unwrap(), Authority::new("new").unwrap());
    let (by_old, by_new) = (issued(&old, "alice"), issued(&new, "alice"));
    let tls = Tls::new().await;
    let manifests = |pem: &str| tls.manifests("AllowValidOnly", pem, "");
    let [first, second] = [old.pem(), new.pem()].map(|pem| manifests(pem).manifests);
    let both = manifests(&format!("{}{}", old.pem(), new.pem())).manifests;
    let running = Harness { manifests: first }.start().await;
    let Tls { certificate, web } = tls;
    let (address, _serving) = (running.address(), serve(web));
    let ask = async |shows: Shows| Box::pin(status(address, &certificate, shows, "h2")).await;
    assert_eq!((ask(own(&by_old)).await, ask(own(&by_new)).await), (200, 0));
    running.write(&both);
    until("both", || async { (ask(own(&by_new)).await == 200).then_some(()) }).await;
    assert_eq!(ask(own(&by_old)).await, 200);
    running.write(&second);
    until("the new one only", || async { (ask(own(&by_old)).await == 0).then_some(()) }).await;
    assert_eq!(ask(own(&by_new)).await, 200);
}
