use std::{fs, path::Path, sync::Arc};

use forebay_test_certificates::Authority;
use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::{incoming::accept, places::Limits};

/// Writes the three files of a component.
fn issue(authority: &Authority, name: &str, folder: &Path) -> Files {
    let issued = authority.issue_for(name).unwrap();
    let files = Files {
        certificate: folder.join("tls.crt"),
        key: folder.join("tls.key"),
        authority: Some(folder.join("ca.crt")),
        clients: [GATEWAY_NAME, "forebay-epp.*"].map(|name| name.parse().unwrap()).into(),
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

/// Sends and receives over one connection. Fails unless both sides trust each other.
async fn exchange(
    server: &Arc<Identity>,
    client: Option<&Identity>,
    name: &'static str,
) -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let incoming = accept("test", listener, Some(Arc::clone(server)), Limits { total: 8, per_peer: 8 });
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
        // A plain text client receives the server's alert.
        if &echoed == b"word" { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
    }
    .await;
    serving.abort();
    result
}

#[tokio::test]
async fn accepts_only_the_right_name_of_the_same_authority() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, other) = (authority(), authority());
    let load = |authority: &Authority, name: &str, below: &str| {
        Identity::load(issue(authority, name, &folder.path().join(below))).unwrap()
    };
    let agent = load(&authority, AGENT_NAME, "agent");
    let name = picker_name("team-a");
    let picker = load(&authority, &name, "picker");
    let stranger = load(&other, &name, "stranger");
    exchange(&agent, Some(&picker), AGENT_NAME).await.unwrap();
    exchange(&agent, Some(&load(&authority, GATEWAY_NAME, "gateway")), AGENT_NAME).await.unwrap();
    assert!(exchange(&agent, Some(&picker), GATEWAY_NAME).await.is_err(), "another component's certificate");
    for name in [AGENT_NAME, CLI_NAME, PICKER_NAME, "forebay-epp.a.b", "other"] {
        let client = load(&authority, name, "client");
        let refused = exchange(&agent, Some(&client), AGENT_NAME).await;
        assert!(refused.is_err(), "{name} is of the authority but has no accepted name");
    }
    assert!(exchange(&agent, Some(&stranger), AGENT_NAME).await.is_err(), "another authority's certificate");
    assert!(exchange(&agent, None, AGENT_NAME).await.is_err(), "plain text");
}

#[tokio::test]
async fn reloads_renewed_files_and_ignores_broken_ones() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (authority(), authority());
    let at = folder.path().join("agent");
    let agent = Identity::load(issue(&old, AGENT_NAME, &at)).unwrap();
    let of_old = Identity::load(issue(&old, &picker_name("a"), &folder.path().join("old"))).unwrap();
    let of_new = Identity::load(issue(&new, &picker_name("a"), &folder.path().join("new"))).unwrap();
    exchange(&agent, Some(&of_old), AGENT_NAME).await.unwrap();

    fs::write(at.join("tls.crt"), "nonsense").unwrap();
    agent.reload();
    exchange(&agent, Some(&of_old), AGENT_NAME).await.unwrap();

    issue(&new, AGENT_NAME, &at);
    agent.reload();
    exchange(&agent, Some(&of_new), AGENT_NAME).await.unwrap();
    assert!(exchange(&agent, Some(&of_old), AGENT_NAME).await.is_err());
}

#[test]
fn errors_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let files = issue(&authority(), AGENT_NAME, folder.path());
    let error = |files: &Files| Identity::load(files.clone()).unwrap_err().to_string();
    let missing = Files { key: folder.path().join("none"), ..files.clone() };
    assert!(error(&missing).contains("none"), "{}", error(&missing));
    fs::write(folder.path().join("ca.crt"), "").unwrap();
    assert!(error(&files).contains("ca.crt has no certificate"), "{}", error(&files));
    let half = Identity::from_flags(Some(files.certificate), None, None, &[], "--tls-cert and --tls-key");
    assert_eq!(half.unwrap_err().to_string(), "set all of --tls-cert and --tls-key or none");
}
