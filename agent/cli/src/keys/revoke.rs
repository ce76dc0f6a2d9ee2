//! `forebay keys revoke`.

use super::{
    In,
    change::{Change, entries, value},
    delivery::say,
    entry::{self, is_previous},
    secret::Keys,
};
use crate::forward::Access;

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Name of the key.
    #[arg(value_parser = entry::name)]
    name: String,
    #[command(flatten)]
    target: In,
}

pub(super) async fn run(options: &Options, access: &Access) -> anyhow::Result<()> {
    let (name, secret) = (&options.name, &options.target.secret);
    let keys = Keys::connect(secret, access).await?;
    let made = keys
        .change(|before| {
            let before = before.ok_or_else(|| keys.missing())?;
            value(before, name, secret)?;
            let is_of_key = |entry: &str| entry == name || is_previous(entry, name);
            let remove = entries(before).map(|(entry, _)| entry).filter(|entry| is_of_key(entry));
            Ok(Change { remove: remove.map(str::to_owned).collect(), ..Change::default() })
        })
        .await?;
    for removed in &made.remove {
        say(&format!("revoked key {removed} of Secret {secret}"))?;
    }
    Ok(())
}
