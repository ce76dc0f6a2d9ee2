use std::{fs, path::Path, sync::Arc};

use futures_util::StreamExt as _;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes a part's three files.
    fn issue(&self, name: &str, folder: &Path) -> Files {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = Files {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
            authority: Some(folder.join("ca.crt")),
        };
        fs::create_dir_all(folder).unwrap();
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        fs::write(folder.join("ca.crt"), &self.pem).unwrap();
        files
    }
}

/// One connection: what the client sends must come back, if both trust each other.
async fn talk(server: &Arc<Identity>, client: Option<&Identity>, name: &'static str) -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let incoming = accept(listener, Some(Arc::clone(server)));
    let serving = tokio::spawn(async move {
        let mut incoming = std::pin::pin!(incoming);
        let mut stream = incoming.next().await.unwrap().unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        stream.write_all(&word).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let result = async {
        let mut stream = connect(address, client, name).await?;
        stream.write_all(b"word").await?;
        let mut echoed = [0; 4];
        stream.read_exact(&mut echoed).await?;
        // In plain text it is the server's alert that comes back.
        if &echoed == b"word" { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
    }
    .await;
    serving.abort();
    result
}

#[tokio::test]
async fn parts_of_one_authority_trust_each_other_by_name_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(), Authority::new());
    let load = |authority: &Authority, name: &str, below: &str| {
        Identity::load(authority.issue(name, &folder.path().join(below))).unwrap()
    };
    let agent = load(&authority, AGENT_NAME, "agent");
    let picker = load(&authority, PICKER_NAME, "picker");
    let stranger = load(&other, PICKER_NAME, "stranger");
    talk(&agent, Some(&picker), AGENT_NAME).await.unwrap();
    assert!(talk(&agent, Some(&picker), PICKER_NAME).await.is_err(), "another part's certificate");
    assert!(talk(&agent, Some(&stranger), AGENT_NAME).await.is_err(), "another authority's certificate");
    assert!(talk(&agent, None, AGENT_NAME).await.is_err(), "plain text");
}

#[tokio::test]
async fn renewed_files_are_used_and_broken_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let at = folder.path().join("agent");
    let agent = Identity::load(old.issue(AGENT_NAME, &at)).unwrap();
    let of_old = Identity::load(old.issue(PICKER_NAME, &folder.path().join("old"))).unwrap();
    let of_new = Identity::load(new.issue(PICKER_NAME, &folder.path().join("new"))).unwrap();
    talk(&agent, Some(&of_old), AGENT_NAME).await.unwrap();

    fs::write(at.join("tls.crt"), "nonsense").unwrap();
    agent.reload();
    talk(&agent, Some(&of_old), AGENT_NAME).await.unwrap();

    new.issue(AGENT_NAME, &at);
    agent.reload();
    talk(&agent, Some(&of_new), AGENT_NAME).await.unwrap();
    assert!(talk(&agent, Some(&of_old), AGENT_NAME).await.is_err());
}

#[test]
fn what_is_wrong_with_files_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let files = Authority::new().issue(AGENT_NAME, folder.path());
    let said = |files: &Files| Identity::load(files.clone()).unwrap_err().to_string();
    let missing = Files { key: folder.path().join("none"), ..files.clone() };
    assert!(said(&missing).contains("none"), "{}", said(&missing));
    fs::write(folder.path().join("ca.crt"), "").unwrap();
    assert!(said(&files).contains("ca.crt has no certificate"), "{}", said(&files));
    let half = Identity::from_flags(Some(files.certificate), None, None, "--tls-cert and --tls-key");
    assert_eq!(half.unwrap_err().to_string(), "give all of --tls-cert and --tls-key or none");
}
