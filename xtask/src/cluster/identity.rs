//! Certificates and kubeconfigs of the programs of the cluster.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context as _, Result};
use forebay_test_certificates::Authority;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, SanType};

use super::network::{API_SERVICE, NODE};

/// File name, common name, organisation.
const CLIENTS: &[(&str, &str, &str)] = &[
    ("admin", "admin", "system:masters"),
    ("kubelet", "system:node:node-0", "system:nodes"),
    ("controllers", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("proxy", "system:kube-proxy", ""),
    ("apiserver-kubelet", "apiserver-kubelet", "system:masters"),
];

/// Writes `pki/` and one kubeconfig per client below `state`.
pub(super) fn make(state: &Path) -> Result<()> {
    let pki = state.join("pki");
    let authority = Authority::new("forebay-test-ca")?;
    write(&pki.join("ca.crt"), authority.pem())?;
    // Service account tokens are signed with RS or ES algorithms; the same key signs and verifies.
    let accounts = KeyPair::generate()?;
    write(&pki.join("sa.key"), &accounts.serialize_pem())?;
    write(&pki.join("sa.pub"), &accounts.public_key_pem())?;

    let mut server =
        CertificateParams::new(["localhost", "node-0", "kubernetes.default.svc"].map(String::from))?;
    for address in [NODE, API_SERVICE, "127.0.0.1"] {
        server.subject_alt_names.push(SanType::IpAddress(address.parse::<IpAddr>()?));
    }
    server.distinguished_name = name("kube-apiserver", "");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    issue(&pki, "server", server, &authority)?;
    for (file, common_name, organisation) in CLIENTS {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(common_name, organisation);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        issue(&pki, file, params, &authority)?;
        let pki = pki.display();
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: cluster\n\
             clusters: [{{name: cluster, cluster: {{server: \"https://{NODE}:6443\", certificate-authority: {pki}/ca.crt}}}}]\n\
             users: [{{name: user, user: {{client-certificate: {pki}/{file}.crt, client-key: {pki}/{file}.key}}}}]\n\
             contexts: [{{name: cluster, context: {{cluster: cluster, user: user}}}}]\n"
        );
        // admin.conf marks the cluster as running; `up` renames this file at the end.
        let file = if *file == "admin" { "admin.conf.new".to_owned() } else { format!("{file}.conf") };
        write(&state.join(file), &config)?;
    }
    Ok(())
}

fn issue(pki: &Path, file: &str, params: CertificateParams, authority: &Authority) -> Result<()> {
    let issued = authority.issue(params)?;
    write(&pki.join(format!("{file}.crt")), &issued.certificate)?;
    write(&pki.join(format!("{file}.key")), &issued.key)
}

fn name(common_name: &str, organisation: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if !organisation.is_empty() {
        name.push(DnType::OrganizationName, organisation);
    }
    name
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
