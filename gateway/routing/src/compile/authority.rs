//! Certificate authorities in ConfigMaps.

use forebay_resources::{ObjectKey, Snapshot};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Key of the certificates in a ConfigMap (Gateway API).
const KEY: &str = "ca.crt";
/// Of one ConfigMap, and of one listener or server.
const MAX_CERTIFICATES: usize = 256;

/// The certificates in PEM. The error is the end of a sentence about the ConfigMap.
pub(super) fn bundle<'s>(snapshot: &'s Snapshot, key: &ObjectKey) -> Result<&'s str, String> {
    let config_map = snapshot
        .config_maps
        .get(key)
        .ok_or_else(|| format!("the ConfigMap {key} does not exist, or the gateway may not read it"))?;
    let text = config_map.data.as_ref().and_then(|data| data.get(KEY));
    let text = text.ok_or_else(|| format!("the ConfigMap {key} has no {KEY}"))?;
    roots([text.as_str()]).map_err(|why| format!("{KEY} of the ConfigMap {key} {why}"))?;
    Ok(text)
}

/// The certificates of bundles in PEM.
pub(super) fn roots<'p>(bundles: impl IntoIterator<Item = &'p str>) -> Result<RootCertStore, &'static str> {
    let mut roots = RootCertStore::empty();
    for bundle in bundles {
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            if roots.len() == MAX_CERTIFICATES {
                return Err("has more than 256 certificates");
            }
            let certificate = certificate.map_err(|_| "is not PEM")?;
            roots.add(certificate).map_err(|_| "contains a certificate that cannot be read")?;
        }
        if roots.len() == before {
            return Err("contains no certificate");
        }
    }
    Ok(roots)
}
