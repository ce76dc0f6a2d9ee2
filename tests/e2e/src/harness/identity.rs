//! Certificates for the parts of a harness, as the chart makes them for a cluster.

use std::{fs, path::Path};

use anyhow::Result;
use forebay_test_certificates::Authority;

/// `ca.crt`, and `<part>.crt` and `<part>.key` for each of these.
pub(super) const PARTS: &[&str] = &["forebay-agent", "forebay-epp", "forebay-gateway"];

pub(super) fn write(folder: &Path) -> Result<()> {
    fs::create_dir(folder)?;
    let authority = Authority::new("forebay-test-ca")?;
    fs::write(folder.join("ca.crt"), authority.pem())?;
    for part in PARTS {
        let issued = authority.issue_for(part)?;
        fs::write(folder.join(format!("{part}.crt")), issued.certificate)?;
        fs::write(folder.join(format!("{part}.key")), issued.key)?;
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
