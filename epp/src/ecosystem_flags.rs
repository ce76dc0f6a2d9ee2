//! Flags of other endpoint pickers (llm-d-router, the Gateway API Inference Extension), so that their manifests start this
//! picker unchanged.

use std::{path::PathBuf, time::Duration};

const HEADING: &str = "Flags of other endpoint pickers";

#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = HEADING)]
pub(crate) struct EcosystemFlags {
    /// Port of --grpc-listen
    #[arg(long, value_name = "PORT", conflicts_with = "grpc_listen")]
    pub(crate) grpc_port: Option<u16>,
    /// Port of --health-listen
    #[arg(long, value_name = "PORT", conflicts_with = "health_listen")]
    pub(crate) grpc_health_port: Option<u16>,
    /// Port of --http-listen
    #[arg(long, value_name = "PORT", conflicts_with = "http_listen")]
    pub(crate) metrics_port: Option<u16>,
    /// Folder with tls.crt and tls.key, for --tls-cert and --tls-key
    #[arg(long, value_name = "DIR", conflicts_with = "tls_cert")]
    cert_path: Option<PathBuf>,
    /// Serve ext_proc with TLS. Needs --cert-path or --tls-cert: this picker makes no certificates
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    secure_serving: Option<bool>,
    /// API group of the InferencePool. Both groups are read
    #[arg(long, value_name = "GROUP", value_parser = ["inference.networking.k8s.io", "inference.networking.x-k8s.io"])]
    pool_group: Option<String>,
    /// No effect: all replicas pick
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ha_enable_leader_election: Option<bool>,
    /// No effect: certificates are always reloaded on change
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_cert_reload: Option<bool>,
    /// No effect: RUST_LOG selects what is logged
    #[arg(long, short = 'v', value_name = "LEVEL")]
    v: Option<String>,
    /// No effect: RUST_LOG selects what is logged
    #[arg(long, value_name = "LEVEL")]
    zap_log_level: Option<String>,
    /// No effect: the log is text
    #[arg(long, value_name = "FORMAT")]
    zap_encoder: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "--secure-serving needs a certificate: add --cert-path with a folder that has tls.crt and tls.key, or --tls-cert and \
         --tls-key"
    )]
    NoCertificate,
    #[error("--secure-serving=false and {0} contradict each other; remove one")]
    Contradiction(&'static str),
}

impl EcosystemFlags {
    /// Certificate and key of `--cert-path`. `has_certificate`: `--tls-cert` is set.
    pub(crate) fn certificate(&self, has_certificate: bool) -> Result<Option<(PathBuf, PathBuf)>, Error> {
        match (self.secure_serving, &self.cert_path) {
            (Some(true), None) if !has_certificate => Err(Error::NoCertificate),
            (Some(false), Some(_)) => Err(Error::Contradiction("--cert-path")),
            (Some(false), None) if has_certificate => Err(Error::Contradiction("--tls-cert")),
            (_, folder) => Ok(folder.as_ref().map(|folder| (folder.join("tls.crt"), folder.join("tls.key")))),
        }
    }

    pub(crate) fn log_without_effect(&self) {
        let flags = [
            ("--ha-enable-leader-election", self.ha_enable_leader_election == Some(true)),
            ("--enable-cert-reload=false", self.enable_cert_reload == Some(false)),
            ("-v", self.v.is_some()),
            ("--zap-log-level", self.zap_log_level.is_some()),
            ("--zap-encoder", self.zap_encoder.is_some()),
        ];
        for (flag, _) in flags.into_iter().filter(|(_, is_given)| *is_given) {
            tracing::info!("{flag} has no effect in this picker");
        }
    }
}

/// Seconds, as `10` or in Go's format: `30s`, `1m`, `500ms`.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let unit = match unit {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("unknown unit {other:?}; use seconds, or ms, s, m, h")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
    Duration::try_from_secs_f64(number * unit).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_needs_a_certificate_and_no_contradiction() {
        let flags = |secure_serving, cert_path: Option<&str>| EcosystemFlags {
            secure_serving,
            cert_path: cert_path.map(PathBuf::from),
            ..EcosystemFlags::default()
        };
        assert!(matches!(flags(Some(true), None).certificate(false), Err(Error::NoCertificate)));
        assert!(matches!(flags(Some(true), None).certificate(true), Ok(None)));
        assert!(matches!(
            flags(Some(false), None).certificate(true),
            Err(Error::Contradiction("--tls-cert"))
        ));
        assert!(matches!(
            flags(Some(false), Some("/c")).certificate(false),
            Err(Error::Contradiction("--cert-path"))
        ));
        assert!(matches!(flags(Some(false), None).certificate(false), Ok(None)));
        let files = flags(None, Some("/c")).certificate(false).unwrap();
        assert_eq!(files, Some((PathBuf::from("/c/tls.crt"), PathBuf::from("/c/tls.key"))));
    }

    #[test]
    fn reads_seconds_and_durations_of_go() {
        let read = |text| seconds(text).map(|duration| duration.as_millis());
        assert_eq!(
            [read("10"), read("30s"), read("1.5m"), read("500ms")].map(Result::unwrap),
            [10_000, 30_000, 90_000, 500]
        );
        for wrong in ["", "s", "-1", "1d", "1m30s"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
