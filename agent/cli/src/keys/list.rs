//! `forebay keys list` and `show`.

use std::io::{self, Write as _};

use forebay_resources::ObjectKey;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{
    In,
    change::{entries, value},
    entry::{self, CREATED_AT, EXPIRES_AT, Entry, GROUPS, MODELS, OWNER, State},
    secret::Keys,
};
use crate::{
    forward::Access,
    json::API_VERSION,
    output::Output,
    table::{align, header},
};

#[derive(clap::Args, Debug)]
pub(crate) struct ListOptions {
    #[command(flatten)]
    target: In,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(clap::Args, Debug)]
pub(crate) struct ShowOptions {
    /// Name of the key.
    #[arg(value_parser = entry::name)]
    name: String,
    #[command(flatten)]
    target: In,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// What is shown of an entry. It has no hash: that is of no use to a reader.
struct Row {
    name: String,
    metadata: Map<String, Value>,
    state: Result<State, &'static str>,
}

pub(super) async fn list(options: &ListOptions, access: &Access) -> anyhow::Result<()> {
    let secret = &options.target.secret;
    let found = Keys::connect(secret, access).await?.existing().await?;
    let now = OffsetDateTime::now_utc();
    let rows: Vec<Row> = entries(&found).map(|(name, value)| Row::new(name, value, now)).collect();
    print(&match options.output {
        Output::Table => table(&rows),
        Output::Json => {
            let items: Vec<Value> = rows.iter().map(|row| row.json(secret)).collect();
            format!("{:#}\n", json!({ "apiVersion": API_VERSION, "kind": "ApiKeyList", "items": items }))
        }
    })
}

pub(super) async fn show(options: &ShowOptions, access: &Access) -> anyhow::Result<()> {
    let (name, secret) = (&options.name, &options.target.secret);
    let found = Keys::connect(secret, access).await?.existing().await?;
    let row = Row::new(name, value(&found, name, secret)?, OffsetDateTime::now_utc());
    print(&match options.output {
        Output::Table => row.lines(secret),
        Output::Json => {
            let mut document = row.json(secret);
            document["apiVersion"] = json!(API_VERSION);
            document["kind"] = json!("ApiKey");
            format!("{document:#}\n")
        }
    })
}

impl Row {
    fn new(name: &str, value: &[u8], now: OffsetDateTime) -> Self {
        let entry = Entry::read(value);
        let state = entry.as_ref().map_err(|why| *why).and_then(|entry| entry.state(now));
        let metadata = entry.map(|entry| entry.metadata).unwrap_or_default();
        Self { name: name.to_owned(), metadata, state }
    }

    fn text(&self, name: &str) -> String {
        self.metadata.get(name).map_or_else(|| "-".to_owned(), shown)
    }

    fn state(&self) -> String {
        self.state.map_or_else(|why| format!("unreadable: {why}"), |state| state.name().to_owned())
    }

    fn json(&self, secret: &ObjectKey) -> Value {
        let get = |name: &str| self.metadata.get(name).cloned().unwrap_or_default();
        json!({
            "name": self.name,
            "secret": secret.to_string(),
            "owner": get(OWNER),
            "groups": get(GROUPS),
            "models": get(MODELS),
            "createdAt": get(CREATED_AT),
            "expiresAt": get(EXPIRES_AT),
            "state": self.state.map_or("unreadable", State::name),
            "problem": self.state.err(),
            "metadata": self.metadata,
        })
    }

    /// One line for each value.
    fn lines(&self, secret: &ObjectKey) -> String {
        let line = |name: &str, value: String| vec![format!("{name}:"), value];
        let mut rows = vec![line("name", self.name.clone()), line("secret", secret.to_string())];
        rows.push(line("state", self.state()));
        rows.extend(self.metadata.iter().map(|(name, value)| line(&printable(name), shown(value))));
        align(&rows)
    }
}

fn table(rows: &[Row]) -> String {
    let mut lines = vec![header(&["NAME", "OWNER", "GROUPS", "MODELS", "CREATED", "EXPIRES", "STATE"])];
    for row in rows {
        let mut line = vec![row.name.clone()];
        line.extend([OWNER, GROUPS, MODELS, CREATED_AT, EXPIRES_AT].map(|name| row.text(name)));
        line.push(row.state());
        lines.push(line);
    }
    align(&lines)
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(","),
        other => printable(&other.to_string()),
    }
}

/// Others may have written the text; it must not control the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|it| if it.is_control() { '\u{fffd}' } else { it }).collect()
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_contains_no_value_of_an_entry_and_no_control_characters() {
        let rows = [
            ("a", r#"{"key": "SECRET", "metadata": {"owner": "x\u001b[2Jy", "groups": ["g", 7], "expiresAt": "2020-01-01T00:00:00Z"}}"#),
            ("b", "SECRET"),
            ("c", r#"{"key": "SECRET", "#),
        ]
        .map(|(name, value)| Row::new(name, value.as_bytes(), OffsetDateTime::UNIX_EPOCH + time::Duration::days(36_500)));
        let table = table(&rows);
        let expected = "\
NAME   OWNER    GROUPS   MODELS   CREATED   EXPIRES                STATE
a      x\u{fffd}[2Jy   g,7      -        -         2020-01-01T00:00:00Z   expired
b      -        -        -        -         -                      valid
c      -        -        -        -         -                      unreadable: it starts as a JSON object and is not one
";
        assert_eq!(table, expected);
        for row in &rows {
            let mut document = row.json(&ObjectKey::new("ns", "keys"));
            document["apiVersion"] = json!(API_VERSION);
            document["kind"] = json!("ApiKey");
            assert_eq!(crate::json_schema::validate(&document), Ok(()));
        }
    }
}
