//! Errors with the path of the field.

use std::{fmt, io, path::PathBuf};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The document is neither YAML nor JSON.
    #[error("the configuration is neither YAML nor JSON: {0}")]
    Syntax(serde_yaml_ng::Error),
    /// A field is invalid.
    #[error("the configuration is invalid: {path}: {reason}")]
    Field {
        /// Where it is, for example `schedulingProfiles[0].plugins[1].weight`.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    pub(super) fn field(path: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::Field { path: path.to_string(), reason: reason.to_string() }
    }

    /// An error of a value at `path`.
    pub(super) fn value(path: &str, error: &serde_path_to_error::Error<serde_yaml_ng::Error>) -> Self {
        let within = error.path().to_string();
        let reason = error.inner().to_string();
        // The deserializer repeats a part of the path.
        let reason = reason.strip_prefix(&format!("{within}: ")).unwrap_or(&reason);
        match (path, within.as_str()) {
            ("", ".") => Self::field("document", reason),
            ("", within) => Self::field(within, reason),
            (path, ".") => Self::field(path, reason),
            (path, within) if within.starts_with('[') => Self::field(format_args!("{path}{within}"), reason),
            (path, within) => Self::field(format_args!("{path}.{within}"), reason),
        }
    }
}
