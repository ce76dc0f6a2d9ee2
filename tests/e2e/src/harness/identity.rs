//! Certificates of the programs, as the chart generates them.

use std::{fs, path::Path};

use anyhow::Result;
use forebay_service::tls::picker_name;
use forebay_test_certificates::Authority;

use super::NAMESPACE;

/// Programs with a certificate: `PROGRAM.crt` and `PROGRAM.key`, next to `ca.crt`.
pub(super) const PROGRAMS: &[&str] = &["forebay-agent", "forebay-epp", "forebay-gateway"];

pub(super) fn write(folder: &Path) -> Result<()> {
    fs::create_dir(folder)?;
    let authority = Authority::new("forebay-test-ca")?;
    fs::write(folder.join("ca.crt"), authority.pem())?;
    for program in PROGRAMS {
        // A picker's certificate names the namespace of its pools.
        let name = if *program == "forebay-epp" { picker_name(NAMESPACE) } else { (*program).to_owned() };
        let issued = authority.issue_for(&name)?;
        fs::write(folder.join(format!("{program}.crt")), issued.certificate)?;
        fs::write(folder.join(format!("{program}.key")), issued.key)?;
    }
    Ok(())
}

/// Flags with the files of a program: `--PREFIXcert`, `--PREFIXkey`, `--PREFIXAUTHORITY`.
pub(super) fn flags(folder: &Path, program: &str, prefix: &str, authority: &str) -> Vec<String> {
    let file = |name: String| folder.join(name).display().to_string();
    vec![
        format!("--{prefix}cert"),
        file(format!("{program}.crt")),
        format!("--{prefix}key"),
        file(format!("{program}.key")),
        format!("--{prefix}{authority}"),
        file("ca.crt".into()),
    ]
}
