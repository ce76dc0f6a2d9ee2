//! `forebay completions` and `forebay man`: made from the flags.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::Command;

#[derive(clap::Args, Debug)]
#[group(skip)]
pub(crate) struct CompletionOptions {
    /// Shell of the script.
    shell: clap_complete::Shell,
}

#[derive(clap::Args, Debug)]
#[group(skip)]
pub(crate) struct ManOptions {
    /// Folder for the pages. It is created if it does not exist.
    dir: PathBuf,
}

/// Prints a completion script.
pub(crate) fn completions(options: &CompletionOptions, mut command: Command) -> anyhow::Result<()> {
    // The generator panics if a write fails, so it writes into memory.
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, "forebay", &mut script);
    Ok(io::stdout().lock().write_all(&script)?)
}

/// Writes a page for the program and one for each command.
pub(crate) fn man(options: &ManOptions, command: Command) -> anyhow::Result<()> {
    let dir = &options.dir;
    let context = || format!("cannot write the pages into {}", dir.display());
    fs::create_dir_all(dir).with_context(context)?;
    clap_mangen::generate_to(command.disable_help_subcommand(true), dir).with_context(context)
}
