//! Output formats.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Human-readable, one line per object.
    Table,
    /// One JSON document; with --watch one per line.
    Json,
}
