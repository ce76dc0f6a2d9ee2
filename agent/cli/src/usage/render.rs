//! Output formats.

use forebay_usage::Dimension;
use serde_json::{Map, Value, json};
use time::{Date, Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    prices::Prices,
    summary::{Summary, total},
};
use crate::{format::or_dash, table::align};

/// Of the JSON document.
const VERSION: u32 = 1;

const COUNTS: [&str; 7] = [
    "requests",
    "failed",
    "without_usage",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
];

fn counts(it: &Summary) -> [u64; 7] {
    let row = &it.row;
    [
        row.requests,
        row.failed,
        row.without_usage,
        row.prompt_tokens,
        row.cached_tokens,
        row.completion_tokens,
        row.reasoning_tokens,
    ]
}

/// The value of a dimension. `None`: the requests have none.
fn value(by: Dimension, text: Option<&str>) -> Option<String> {
    let text = text?;
    match by {
        Dimension::Day => {
            let days: i64 = text.parse().ok()?;
            let date: Date = (OffsetDateTime::UNIX_EPOCH.checked_add(Duration::days(days))?).date();
            Some(date.to_string())
        }
        _ => Some(text.to_owned()),
    }
}

fn values<'r>(by: &'r [Dimension], it: &'r Summary) -> impl Iterator<Item = Option<String>> + 'r {
    by.iter().zip(&it.row.values).map(|(by, text)| value(*by, text.as_deref()))
}

fn is_priced(it: &Summary) -> bool {
    it.cost > 0.0 || !it.has_unpriced
}

/// Four digits are enough for one request.
fn cost(it: &Summary) -> Option<String> {
    is_priced(it).then(|| format!("{:.4}{}", it.cost, if it.has_unpriced { "+" } else { "" }))
}

pub(super) fn table(by: &[Dimension], rows: &[Summary], prices: Option<&Prices>) -> String {
    let mut header: Vec<String> = by.iter().map(|by| by.name().to_uppercase().replace('_', "-")).collect();
    header.extend(COUNTS.map(|name| name.to_uppercase().replace("_TOKENS", "").replace('_', "-")));
    if let Some(prices) = prices {
        header.push(prices.currency.as_ref().map_or("COST".to_owned(), |it| format!("COST ({it})")));
    }
    let line = |mut cells: Vec<String>, it: &Summary| {
        cells.extend(counts(it).map(|count| count.to_string()));
        cells.extend(prices.map(|_| or_dash(cost(it))));
        cells
    };
    let mut lines = vec![header];
    lines.extend(rows.iter().map(|it| line(values(by, it).map(or_dash).collect(), it)));
    if rows.len() > 1 {
        let mut cells = vec![String::new(); by.len()];
        cells[0] = "TOTAL".to_owned();
        lines.push(line(cells, &total(rows)));
    }
    let mut text = align(&lines);
    if prices.is_some() && rows.iter().any(|it| it.has_unpriced) {
        text.push_str("+, -: tokens of models without a price are not in the cost\n");
    }
    text
}

pub(super) fn json(
    by: &[Dimension],
    rows: &[Summary],
    prices: Option<&Prices>,
    since: OffsetDateTime,
    until: OffsetDateTime,
) -> anyhow::Result<String> {
    let row = |it: &Summary| {
        let mut members = Map::new();
        members.extend(by.iter().map(|by| by.name().to_owned()).zip(values(by, it).map(Value::from)));
        members.extend(COUNTS.map(str::to_owned).into_iter().zip(counts(it).map(Value::from)));
        members.insert("duration_seconds".to_owned(), it.row.duration_seconds.into());
        if prices.is_some() {
            members.insert("cost".to_owned(), is_priced(it).then_some(it.cost).into());
            members.insert("cost_is_complete".to_owned(), (!it.has_unpriced).into());
        }
        Value::Object(members)
    };
    let document = json!({
        "version": VERSION,
        "since": since.format(&Rfc3339)?,
        "until": until.format(&Rfc3339)?,
        "currency": prices.and_then(|prices| prices.currency.as_deref()),
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

pub(super) fn csv(by: &[Dimension], rows: &[Summary], prices: Option<&Prices>) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let names = by.iter().map(|by| by.name()).chain(COUNTS);
    writer.write_record(names.chain(prices.map(|_| "cost")))?;
    for it in rows {
        let cells = values(by, it).map(Option::unwrap_or_default);
        let cells = cells.chain(counts(it).map(|count| count.to_string()));
        // An empty cell: no price is known for some of the tokens.
        let cost = prices.map(|_| if it.has_unpriced { String::new() } else { it.cost.to_string() });
        writer.write_record(cells.chain(cost))?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}
