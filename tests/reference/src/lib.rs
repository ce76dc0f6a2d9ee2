//! Reference files: flags, metrics and error codes of a program, generated from its code, and values of charts.
//!
//! A test of each program generates the text and compares it with the file in its folder. `UPDATE_REFERENCE=1 cargo test
//! --workspace reference` writes the files.

mod chart_values;
mod metrics;

use std::{fmt::Write as _, fs, path::Path};

pub use chart_values::chart_values;
pub use metrics::{Bound, metrics};

/// Compares `text` with the file, or writes the file if `UPDATE_REFERENCE` is set.
///
/// # Panics
/// If they differ, or the file cannot be read or written.
pub fn check(file: &Path, text: &str) {
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(file, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
        return;
    }
    let known = fs::read_to_string(file).unwrap_or_default();
    assert!(
        known == text,
        "{} is outdated; `UPDATE_REFERENCE=1 cargo test --workspace reference` writes it.\n{text}",
        file.display()
    );
}

/// A table of the flags of a command and of its subcommands.
pub fn flags(command: clap::Command) -> String {
    let mut text = String::new();
    let mut command = command;
    command.build();
    write_flags(&command, &mut text);
    text
}

fn write_flags(command: &clap::Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = write!(
        text,
        "## `{name}`\n\n{about}\n\n| flag | environment | default | meaning |\n|---|---|---|---|\n"
    );
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let flag = match (argument.get_long(), argument.get_short()) {
            (Some(long), _) => format!("--{long}"),
            (None, Some(short)) => format!("-{short}"),
            (None, None) => argument.get_id().to_string().to_uppercase(),
        };
        let environment =
            argument.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
        let defaults: Vec<_> =
            argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let default = if defaults.is_empty() { String::new() } else { format!("`{}`", defaults.join(",")) };
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
        let _ = writeln!(text, "| `{flag}` | {environment} | {default} | {} |", one_line(&help));
    }
    text.push('\n');
    for subcommand in command.get_subcommands().filter(|it| it.get_name() != "help") {
        write_flags(subcommand, text);
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
