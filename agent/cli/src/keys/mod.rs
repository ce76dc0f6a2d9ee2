//! `forebay keys`: API keys in the Secrets that `AgentgatewayPolicy` `apiKeyAuthentication` names.
//!
//! A key exists only in the memory of the process that makes it, and in what `create` and `rotate` print. Secrets get its
//! SHA-256. No error, message or list contains a key, or the value of an entry.

mod change;
mod create;
mod delivery;
mod entry;
mod expiry;
mod key;
mod list;
mod revoke;
mod rotate;
mod secret;

use std::process::ExitCode;

use clap::Subcommand;
use forebay_resources::ObjectKey;

use crate::forward::Access;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a key, and store its hash. Prints the key on stdout, once.
    Create(create::Options),
    /// List the keys of a Secret.
    List(list::ListOptions),
    /// Show one key: all of its metadata.
    Show(list::ShowOptions),
    /// Replace a key, and keep its metadata. Prints the new key on stdout, once.
    Rotate(rotate::Options),
    /// Remove a key, and what earlier rotations kept of it.
    Revoke(revoke::Options),
}

#[derive(clap::Args, Debug)]
#[group(skip)]
struct In {
    /// Secret with the keys, as NAMESPACE/NAME.
    #[arg(long, env = "FOREBAY_KEYS_SECRET", value_name = "NAMESPACE/NAME")]
    secret: ObjectKey,
}

pub(crate) async fn run(command: &Command, access: &Access) -> anyhow::Result<ExitCode> {
    match command {
        Command::Create(options) => create::run(options, access).await?,
        Command::List(options) => list::list(options, access).await?,
        Command::Show(options) => list::show(options, access).await?,
        Command::Rotate(options) => rotate::run(options, access).await?,
        Command::Revoke(options) => revoke::run(options, access).await?,
    }
    Ok(ExitCode::SUCCESS)
}
