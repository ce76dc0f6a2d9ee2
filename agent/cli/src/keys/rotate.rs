//! `forebay keys rotate`.

use std::collections::BTreeMap;

use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::{
    In,
    change::{Change, entries, value},
    delivery::{self, say},
    entry::{self, Entry, NAME, ROTATED_AT, State, is_previous},
    expiry::{Expires, Timestamp},
    key::Key,
    secret::Keys,
};
use crate::{duration::duration, forward::Access};

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Name of the key.
    #[arg(value_parser = entry::new_name)]
    name: String,
    #[command(flatten)]
    target: In,
    /// How long the present key remains valid, such as 24h [default: all earlier keys end at once].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    grace: Option<Duration>,
    /// When the new key expires: from now, such as 30d, a time such as 2027-01-31T00:00:00Z, or never [default: as before].
    #[arg(long, value_name = "TIME")]
    expires: Option<Expires>,
    #[command(flatten)]
    delivery: delivery::Options,
}

pub(super) async fn run(options: &Options, access: &Access) -> anyhow::Result<()> {
    let (name, secret) = (&options.name, &options.target.secret);
    let keys = Keys::connect(secret, access).await?;
    let key = Key::generate()?;
    let now = OffsetDateTime::now_utc();
    let decide = |before: &Secret| options.change(before, &key, now);
    if options.delivery.dry_run {
        let change = decide(&keys.existing().await?)?;
        let place = options.delivery.open()?;
        options.delivery.print_manifest(&change, secret)?;
        if !change.remove.is_empty() {
            say(&format!(
                "a manifest removes no entries; remove these as well: {}",
                change.remove.join(", ")
            ))?;
        }
        return place.deliver(&key, name, secret);
    }
    let place = options.delivery.open()?;
    let made = keys.change(|before| decide(before.ok_or_else(|| keys.missing())?)).await?;
    place.deliver(&key, name, secret)?;
    for (kept, entry) in made.set.iter().filter(|(entry, _)| *entry != name) {
        let until = entry.expires_at().ok().flatten();
        let until = until.map_or_else(String::new, |at| format!(" until {at}"));
        say(&format!("the key before remains valid{until}, as {kept}"))?;
    }
    for removed in &made.remove {
        say(&format!("removed {removed}"))?;
    }
    Ok(say(&format!("key {name} in Secret {secret} is a new one. It is not shown again"))?)
}

impl Options {
    fn change(&self, before: &Secret, key: &Key, now: OffsetDateTime) -> anyhow::Result<Change> {
        let (name, secret) = (&self.name, &self.target.secret);
        let old = Entry::read(value(before, name, secret)?).map_err(|why| {
            anyhow!("key {name} of Secret {secret} cannot be read: {why}. Revoke it, and create it again")
        })?;
        let mut new = Entry::new(key.hash(), old.metadata.clone());
        new.metadata.insert(ROTATED_AT.into(), json!(Timestamp::new(now)?.to_string()));
        if let Some(expires) = self.expires {
            new.set_expires_at(expires.resolve(now)?);
        } else if new.state(now) == Ok(State::Expired) {
            bail!(
                "key {name} of Secret {secret} has expired, and so would the new one: say until when with --expires"
            );
        }
        let mut set = BTreeMap::from([(name.clone(), new)]);
        if let Some(grace) = self.grace
            && old.state(now) == Ok(State::Valid)
        {
            let (kept, entry) = self.kept(old, grace, now)?;
            set.insert(kept, entry);
        }
        // Those of earlier rotations keep their time of grace, if this one gives some.
        let is_over = |entry: &[u8]| Entry::read(entry).and_then(|it| it.state(now)) != Ok(State::Valid);
        let remove = entries(before)
            .filter(|(it, entry)| is_previous(it, name) && (self.grace.is_none() || is_over(entry)))
            .map(|(it, _)| it.to_owned());
        Ok(Change { remove: remove.collect(), set, labels: None })
    }

    /// The entry of the present key, until the end of its time of grace, with the name that rules read.
    fn kept(&self, mut old: Entry, grace: Duration, now: OffsetDateTime) -> anyhow::Result<(String, Entry)> {
        let end = Timestamp::after(now, grace)?;
        let end = old.expires_at().ok().flatten().map_or(end, |at| at.min(end));
        old.set_expires_at(Some(end));
        old.metadata.entry(NAME).or_insert_with(|| json!(self.name));
        Ok((old.previous_name(&self.name), old))
    }
}
