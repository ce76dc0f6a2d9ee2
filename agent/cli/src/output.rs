//! How something is shown.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people: a line for each thing.
    Table,
    /// For programs: one document; with --watch one a line.
    Json,
}
