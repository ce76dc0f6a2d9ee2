//! `forebay certificates`: Secrets with the certificates of all components, for installations whose manifests are rendered
//! without a cluster and without cert-manager.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use forebay_service::tls::{AGENT_NAME, CLI_NAME, GATEWAY_NAME, picker_name};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

/// Name of the Secret with the certificate of a namespace's pickers.
const PICKER_SECRET: &str = "forebay-epp-tls";
/// Certificates are valid from now on for clocks that are late by this time.
const CLOCK_SKEW: Duration = Duration::hours(1);

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Namespace of the forebay release.
    #[arg(long, default_value = "forebay-system")]
    namespace: String,
    /// Namespaces of InferencePools: their pickers get a certificate each (Secret forebay-epp-tls).
    #[arg(long = "pool-namespace", value_delimiter = ',')]
    pool_namespaces: Vec<String>,
    /// Validity in days.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=36500))]
    days: u16,
}

pub(crate) fn print(options: &Options) -> anyhow::Result<()> {
    if io::stdout().is_terminal() {
        bail!(
            "the output contains private keys: pipe it to `kubectl apply -f -`, or to the tool that seals your Secrets"
        );
    }
    let mut out = io::stdout().lock();
    for secret in secrets(options, OffsetDateTime::now_utc())? {
        writeln!(out, "---\n{}", serde_yaml_ng::to_string(&secret).context("cannot write YAML")?)?;
    }
    Ok(())
}

/// All Secrets. The CA's private key exists only in this function: more certificates need a new CA, and so new Secrets.
fn secrets(options: &Options, now: OffsetDateTime) -> anyhow::Result<Vec<Value>> {
    let validity = (now - CLOCK_SKEW, now + Duration::days(options.days.into()));
    let key = KeyPair::generate()?;
    let mut params = params("forebay", validity);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);

    let own = [AGENT_NAME, GATEWAY_NAME, CLI_NAME]
        .map(|name| (options.namespace.as_str(), format!("{name}-tls"), name.to_owned()));
    let pools = options.pool_namespaces.iter();
    let pools = pools.map(|namespace| (namespace.as_str(), PICKER_SECRET.to_owned(), picker_name(namespace)));
    own.into_iter()
        .chain(pools)
        .map(|(namespace, secret, name)| {
            let (certificate, key) = issue(&issuer, &name, validity)?;
            Ok(json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {
                    "name": secret,
                    "namespace": namespace,
                    "labels": { "app.kubernetes.io/part-of": "forebay" },
                },
                "type": "kubernetes.io/tls",
                "stringData": { "ca.crt": authority, "tls.crt": certificate, "tls.key": key },
            }))
        })
        .collect()
}

/// Certificate and key, PEM.
fn issue(
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    validity: (OffsetDateTime, OffsetDateTime),
) -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut params = params(name, validity);
    params.subject_alt_names = CertificateParams::new([name.to_owned()])
        .with_context(|| format!("{name:?} is not a DNS name; is the namespace correct?"))?
        .subject_alt_names;
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}

fn params(name: &str, (not_before, not_after): (OffsetDateTime, OffsetDateTime)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (not_before, not_after);
    params
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use forebay_service::tls::{Identity, Texts};

    use super::*;

    #[test]
    fn makes_a_usable_secret_for_each_component_without_the_ca_key() {
        let options = Options {
            namespace: "infra".into(),
            pool_namespaces: vec!["team-a".into(), "team-b".into()],
            days: 90,
        };
        let secrets = secrets(&options, OffsetDateTime::now_utc()).unwrap();
        let names: Vec<String> = secrets
            .iter()
            .map(|it| {
                let text = |part: &str, name: &str| it[part][name].as_str().unwrap().to_owned();
                let file = |name: &str| text("stringData", name).into_bytes();
                let texts =
                    Texts { certificate: file("tls.crt"), key: file("tls.key"), authority: file("ca.crt") };
                Identity::from_texts(&texts, "test").unwrap();
                assert_eq!(it["stringData"]["ca.crt"], secrets[0]["stringData"]["ca.crt"], "one CA");
                assert_eq!(text("stringData", "tls.key").matches("PRIVATE KEY").count(), 2);
                format!("{}/{}", text("metadata", "namespace"), text("metadata", "name"))
            })
            .collect();
        assert_eq!(
            names,
            [
                "infra/forebay-agent-tls",
                "infra/forebay-gateway-tls",
                "infra/forebay-cli-tls",
                "team-a/forebay-epp-tls",
                "team-b/forebay-epp-tls"
            ]
        );
        let invalid = Options { pool_namespaces: vec!["ä".into()], ..options };
        let error = super::secrets(&invalid, OffsetDateTime::now_utc()).unwrap_err();
        assert!(error.to_string().contains("is the namespace correct?"), "{error}");
    }
}
