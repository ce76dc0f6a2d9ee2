//! `forebay keys create`.

use std::collections::BTreeMap;

use anyhow::bail;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{
    In,
    change::{Change, entries},
    delivery::{self, say},
    entry::{self, CREATED_AT, EXPIRES_AT, Entry, GROUPS, MODELS, NAME, OWNER, ROTATED_AT},
    expiry::{Expires, Timestamp},
    key::Key,
    secret::Keys,
};
use crate::forward::Access;

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Name of the key: an entry of the Secret, and `apiKey.name` in rules.
    #[arg(value_parser = entry::new_name)]
    name: String,
    #[command(flatten)]
    target: In,
    /// Whom the key is for: `apiKey.owner` in rules.
    #[arg(long, value_name = "TEXT")]
    owner: Option<String>,
    /// Groups of the owner: `apiKey.groups`. Can be repeated.
    #[arg(long = "group", value_name = "NAME", value_delimiter = ',')]
    groups: Vec<String>,
    /// Models that the key is for: `apiKey.models`. A rule of the policy must ask for it. Can be repeated.
    #[arg(long = "model", value_name = "NAME", value_delimiter = ',')]
    models: Vec<String>,
    /// When the key expires: from now, such as 30d, or a time such as 2027-01-31T00:00:00Z [default: never].
    #[arg(long, value_name = "TIME")]
    expires: Option<Expires>,
    /// More metadata, a string: `apiKey.NAME` in rules. Can be repeated.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    assignments: Vec<(String, String)>,
    /// Labels of the Secret if it is created, for `secretSelector`. Can be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = pair, default_value = "forebay.dev/api-keys=true")]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    delivery: delivery::Options,
}

pub(super) async fn run(options: &Options, access: &Access) -> anyhow::Result<()> {
    let (name, secret) = (&options.name, &options.target.secret);
    let metadata = options.metadata(OffsetDateTime::now_utc())?;
    let labels: BTreeMap<_, _> = options.labels.iter().cloned().collect();
    let key = Key::generate()?;
    let entry = Entry::new(key.hash(), metadata);
    let change = || Change {
        set: BTreeMap::from([(name.clone(), entry.clone())]),
        labels: Some(labels.clone()),
        ..Change::default()
    };
    if options.delivery.dry_run {
        let place = options.delivery.open()?;
        options.delivery.print_manifest(&change(), secret)?;
        return place.deliver(&key, name, secret);
    }
    let keys = Keys::connect(secret, access).await?;
    let place = options.delivery.open()?;
    let made = keys
        .change(|before| {
            if before.is_some_and(|secret| entries(secret).any(|(entry, _)| entry == name)) {
                bail!(
                    "Secret {secret} already has a key {name}: give it a new key with \
                     `forebay keys rotate {name} --secret {secret}`, or choose another name"
                );
            }
            let labels = before.is_none().then(|| labels.clone());
            Ok(Change { labels, ..change() })
        })
        .await?;
    place.deliver(&key, name, secret)?;
    if let Some(labels) = &made.labels {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        say(&format!("created Secret {secret} with the label {}", labels.join(",")))?;
    }
    let expires = made.set[name].expires_at().ok().flatten();
    let until = expires.map_or_else(|| "does not expire".into(), |at| format!("expires at {at}"));
    Ok(say(&format!("created key {name} in Secret {secret}; it {until}. It is not shown again"))?)
}

impl Options {
    fn metadata(&self, now: OffsetDateTime) -> anyhow::Result<Map<String, Value>> {
        let mut metadata = Map::new();
        for (name, value) in &self.assignments {
            if metadata.insert(name.clone(), json!(value)).is_some() {
                bail!("--set {name} is given twice");
            }
        }
        if let Some(owner) = &self.owner {
            metadata.insert(OWNER.into(), json!(owner));
        }
        for (name, values) in [(GROUPS, &self.groups), (MODELS, &self.models)] {
            if !values.is_empty() {
                metadata.insert(name.into(), json!(values));
            }
        }
        metadata.insert(CREATED_AT.into(), json!(Timestamp::new(now)?.to_string()));
        if let Some(at) = self.expires.map(|expires| expires.resolve(now)).transpose()?.flatten() {
            metadata.insert(EXPIRES_AT.into(), json!(at.to_string()));
        }
        Ok(metadata)
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE".into()),
    }
}

/// Metadata that has no flag of its own.
fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = pair(text)?;
    let flag = match name.as_str() {
        OWNER => "--owner",
        GROUPS => "--group",
        MODELS => "--model",
        EXPIRES_AT => "--expires",
        NAME | CREATED_AT | ROTATED_AT => return Err(format!("{name} is set by forebay")),
        _ => return Ok((name, value)),
    };
    Err(format!("{name} is set by {flag}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn metadata_with_a_flag_cannot_be_set_otherwise() {
        assert_eq!(assignment("tier=a=b").unwrap(), ("tier".into(), "a=b".into()));
        for (text, why) in [
            ("expiresAt=never", "--expires"),
            ("models=x", "--model"),
            ("name=x", "set by forebay"),
            ("=x", "NAME=VALUE"),
            ("x", "NAME=VALUE"),
        ] {
            let error = assignment(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
