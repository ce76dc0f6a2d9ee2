//! Certificates for the parts of a stage, as the chart makes them for a cluster.

use std::{fs, path::Path};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// `ca.crt`, and `<part>.crt` and `<part>.key` for each of these.
pub(super) const PARTS: &[&str] = &["forebay-agent", "forebay-epp", "forebay-gateway"];

pub(super) fn write(folder: &Path) -> Result<()> {
    fs::create_dir(folder)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    fs::write(folder.join("ca.crt"), params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    for part in PARTS {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([(*part).to_owned()])?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        fs::write(folder.join(format!("{part}.crt")), params.signed_by(&key, &issuer)?.pem())?;
        fs::write(folder.join(format!("{part}.key")), key.serialize_pem())?;
    }
    Ok(())
}

/// Flags that name a part's files: `--<prefix>cert`, `--<prefix>key`, `--<prefix><authority>`.
pub(super) fn flags(folder: &Path, part: &str, prefix: &str, authority: &str) -> Vec<String> {
    let file = |name: String| folder.join(name).display().to_string();
    vec![
        format!("--{prefix}cert"),
        file(format!("{part}.crt")),
        format!("--{prefix}key"),
        file(format!("{part}.key")),
        format!("--{prefix}{authority}"),
        file("ca.crt".into()),
    ]
}
