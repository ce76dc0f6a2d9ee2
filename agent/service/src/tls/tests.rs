use std::{fs, path::Path, sync::Arc};

use forebay_test_certificates::Authority;
use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

/// A part's three files.
fn issue(authority: &Authority, name: &str, folder: &Path) -> Files {
    let issued = authority.issue_for(name).unwrap();
    let files = Files {
        certificate: folder.join("tls.crt"),
        key: folder.join("tls.key"),
        authority: Some(folder.join("ca.crt")),
    };
    fs::create_dir_all(folder).unwrap();
    fs::write(&files.certificate, issued.certificate).unwrap();
    fs::write(&files.key, issued.key).unwrap();
    fs::write(folder.join("ca.crt"), authority.pem()).unwrap();
    files
}

fn authority() -> Authority {
    Authority::new("forebay-test-ca").unwrap()
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
    let (authority, other) = (authority(), authority());
    let load = |authority: &Authority, name: &str, below: &str| {
        Identity::load(issue(authority, name, &folder.path().join(below))).unwrap()
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
    let (old, new) = (authority(), authority());
    let at = folder.path().join("agent");
    let agent = Identity::load(issue(&old, AGENT_NAME, &at)).unwrap();
    let of_old = Identity::load(issue(&old, PICKER_NAME, &folder.path().join("old"))).unwrap();
    let of_new = Identity::load(issue(&new, PICKER_NAME, &folder.path().join("new"))).unwrap();
    talk(&agent, Some(&of_old), AGENT_NAME).await.unwrap();

    fs::write(at.join("tls.crt"), "nonsense").unwrap();
    agent.reload();
    talk(&agent, Some(&of_old), AGENT_NAME).await.unwrap();

    issue(&new, AGENT_NAME, &at);
    agent.reload();
    talk(&agent, Some(&of_new), AGENT_NAME).await.unwrap();
    assert!(talk(&agent, Some(&of_old), AGENT_NAME).await.is_err());
}

#[test]
fn what_is_wrong_with_files_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let files = issue(&authority(), AGENT_NAME, folder.path());
    let said = |files: &Files| Identity::load(files.clone()).unwrap_err().to_string();
    let missing = Files { key: folder.path().join("none"), ..files.clone() };
    assert!(said(&missing).contains("none"), "{}", said(&missing));
    fs::write(folder.path().join("ca.crt"), "").unwrap();
    assert!(said(&files).contains("ca.crt has no certificate"), "{}", said(&files));
    let half = Identity::from_flags(Some(files.certificate), None, None, "--tls-cert and --tls-key");
    assert_eq!(half.unwrap_err().to_string(), "give all of --tls-cert and --tls-key or none");
}
