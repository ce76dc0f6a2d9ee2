//! Hands a new key to the user: on stdout, or in a file. Everything else is on stderr.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use forebay_resources::ObjectKey;

use super::{change::Change, key::Key};

/// Where the key and the entry go.
#[derive(clap::Args, Debug)]
#[group(skip)]
pub(super) struct Options {
    /// Write the key into this new file, readable by its owner only, instead of to stdout.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Print a manifest with the hash for `kubectl apply --server-side -f -`, and change nothing in the cluster.
    #[arg(long, requires = "key_file")]
    pub(super) dry_run: bool,
    /// Format of the manifest [default: yaml].
    #[arg(short, long, value_enum, requires = "dry_run")]
    output: Option<Format>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One YAML document.
    Yaml,
    /// One JSON document.
    Json,
}

/// The place for a key, opened before anything is changed. Its file is removed again unless the key has been delivered.
pub(super) struct Delivery {
    file: Option<(PathBuf, File)>,
}

impl Options {
    pub(super) fn open(&self) -> anyhow::Result<Delivery> {
        let Some(path) = &self.key_file else { return Ok(Delivery { file: None }) };
        let file = File::options().write(true).create_new(true).mode(0o600).open(path);
        let file = file.with_context(|| format!("cannot create --key-file {}", path.display()))?;
        Ok(Delivery { file: Some((path.clone(), file)) })
    }

    pub(super) fn print_manifest(&self, change: &Change, secret: &ObjectKey) -> anyhow::Result<()> {
        let manifest = change.manifest(secret);
        let text = match self.output {
            None | Some(Format::Yaml) => {
                format!("---\n{}", serde_yaml_ng::to_string(&manifest).context("cannot write YAML")?)
            }
            Some(Format::Json) => format!("{manifest:#}\n"),
        };
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }
}

impl Delivery {
    /// The hash is in use by now, so an error says how to make another key.
    pub(super) fn deliver(mut self, key: &Key, name: &str, secret: &ObjectKey) -> anyhow::Result<()> {
        let line = format!("{}\n", key.reveal());
        let written = match self.file.take() {
            Some((_, mut file)) => file.write_all(line.as_bytes()).and_then(|()| file.sync_all()),
            None => {
                let mut out = io::stdout().lock();
                out.write_all(line.as_bytes()).and_then(|()| out.flush())
            }
        };
        // Not an io::Error: a closed pipe is a failure here.
        written.map_err(|error| {
            anyhow!(
                "the key {name} of Secret {secret} is lost, because it could not be written ({error}): make another one with \
                 `forebay keys rotate {name} --secret {secret}`"
            )
        })
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some((path, _)) = self.file.take() {
            let _ = fs::remove_file(path);
        }
    }
}

/// A message for the user.
pub(super) fn say(message: &str) -> io::Result<()> {
    writeln!(io::stderr(), "forebay: {message}")
}
