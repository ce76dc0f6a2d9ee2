//! Output formats.

use forebay_usage::Dimension;
use serde_json::{Map, Value, json};
use time::{Date, Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    prices::Prices,
    summary::{Summary, total},
};
use crate::{format::or_dash, json::API_VERSION, table::align};

/// Columns of CSV. In JSON as [`json_name`].
pub(crate) const COUNTS: [&str; 7] = [
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

/// One document of the kind `UsageReport`.
pub(super) fn document(
    by: &[Dimension],
    rows: &[Summary],
    prices: Option<&Prices>,
    since: OffsetDateTime,
    until: OffsetDateTime,
) -> anyhow::Result<Value> {
    let row = |it: &Summary| {
        let names = by.iter().map(|by| by.name()).chain(COUNTS).map(json_name);
        let values = values(by, it).map(Value::from).chain(counts(it).map(Value::from));
        let mut members: Map<String, Value> = names.zip(values).collect();
        members.insert("durationSeconds".to_owned(), it.row.duration_seconds.into());
        let cost = prices.filter(|_| is_priced(it)).map(|_| it.cost);
        members.insert("cost".to_owned(), cost.into());
        members.insert("costIsComplete".to_owned(), prices.map(|_| !it.has_unpriced).into());
        Value::Object(members)
    };
    Ok(json!({
        "apiVersion": API_VERSION,
        "kind": "UsageReport",
        "since": since.format(&Rfc3339)?,
        "until": until.format(&Rfc3339)?,
        "by": by.iter().map(|by| json_name(by.name())).collect::<Vec<_>>(),
        "currency": prices.and_then(|prices| prices.currency.as_deref()),
        "items": rows.iter().map(row).collect::<Vec<_>>(),
    }))
}

/// The name of a column in documents, where names are in camel case.
pub(crate) fn json_name(column: &str) -> String {
    let mut words = column.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (initial, rest) = word.split_at(word.len().min(1));
        name + &initial.to_uppercase() + rest
    })
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

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;
    use forebay_usage::ReportRow;

    use super::*;
    use crate::json_schema::validate;

    fn summary(cost: f64, has_unpriced: bool) -> Summary {
        let values =
            Dimension::value_variants().iter().map(|by| (*by == Dimension::Day).then(|| "20454".into()));
        Summary { row: ReportRow { values: values.collect(), ..ReportRow::default() }, cost, has_unpriced }
    }

    #[test]
    fn a_document_has_the_members_of_the_schema() {
        let rows = [summary(2.5, true), summary(0.0, true)];
        let prices: Prices = serde_yaml_ng::from_str("{currency: EUR, models: {}}").unwrap();
        let of = |by, prices| {
            let (since, until) = (OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH + Duration::DAY);
            document(by, &rows, prices, since, until).unwrap()
        };
        let all = of(Dimension::value_variants(), Some(&prices));
        assert_eq!(validate(&all), Ok(()), "{all:#}");
        let (first, second) = (&all["items"][0], &all["items"][1]);
        assert_eq!((&first["day"], &first["baseModel"]), (&json!("2026-01-01"), &Value::Null));
        assert_eq!((&first["cost"], &second["cost"]), (&json!(2.5), &Value::Null), "unknown is not zero");
        assert_eq!(first["costIsComplete"], false);
        let without_prices = of(&[Dimension::Key], None);
        assert_eq!(validate(&without_prices), Ok(()), "{without_prices:#}");
        assert_eq!(without_prices["items"][0]["cost"], Value::Null);
        let mut other = all.clone();
        other["items"][0]["prompt_tokens"] = json!(1);
        assert!(validate(&other).unwrap_err().starts_with("/items/0: "));
    }
}
