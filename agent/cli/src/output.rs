//! Output formats.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table.
    Table,
    /// One JSON document.
    Json,
}

/// Format of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListOutput {
    /// A table.
    Table,
    /// A table with more columns.
    Wide,
    /// One JSON document; with --watch one per line.
    Json,
    /// One YAML document; with --watch one each second.
    Yaml,
}
