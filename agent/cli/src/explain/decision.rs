//! The table of the endpoints that the picker compared.

use serde_json::Value;

use super::show;
use crate::table::{align, header};

/// `decision`: as the picker sent it.
pub(super) fn table(decision: &Value) -> String {
    let scorers = list(&decision["scorers"]);
    let mut names = header(&["ENDPOINT", "POD", "SCORE"]);
    names.extend(scorers.iter().map(|it| format!("{} x{}", show(&it["name"]), number(&it["weight"]))));
    names.extend(header(&["IN-FLIGHT", "SOURCE", "CACHED", "ADDED-WAITING", "LIVENESS", "EXCLUDED BY"]));
    let mut rows = vec![names];
    rows.extend(list(&decision["endpoints"]).iter().map(|it| row(it, scorers.len())));
    let mut text = align(&rows);
    if let Some(more @ 1..) = decision["moreEndpoints"].as_u64() {
        text += &format!("and {more} more endpoints\n");
    }
    text
}

fn row(endpoint: &Value, scorers: usize) -> Vec<String> {
    let mut row = vec![show(&endpoint["address"]), show(&endpoint["pod"]), number(&endpoint["total"])];
    row.extend((0..scorers).map(|index| number(&endpoint["scores"][index])));
    row.push(number(&endpoint["inFlight"]));
    row.push(show(&endpoint["loadSource"]));
    row.push(endpoint["cachedBytes"].as_u64().map_or_else(unknown, |bytes| format!("{bytes} B")));
    row.push(endpoint["addedWaitingSeconds"].as_f64().map_or_else(unknown, |it| format!("{it:.3} s")));
    let liveness = &endpoint["liveness"];
    row.push(match liveness["reason"].as_str() {
        Some(reason) => format!("{}: {reason}", show(&liveness["state"])),
        None => show(&liveness["state"]),
    });
    row.push(show(&endpoint["excludedBy"]));
    row
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn unknown() -> String {
    "-".to_owned()
}

/// At most three digits after the point.
fn number(value: &Value) -> String {
    let Some(number) = value.as_f64() else { return unknown() };
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shows_scores_verdicts_and_reasons() {
        let decision = json!({
            "promptBytes": 5,
            "scorers": [{ "name": "queue-scorer", "weight": 2.0 }, { "name": "prefix", "weight": 0.5 }],
            "endpoints": [
                {
                    "address": "10.0.0.1:8000", "pod": "llm-d/a", "total": 2.25, "scores": [1.0, 0.5], "inFlight": 3.0,
                    "loadSource": "kernel", "cachedBytes": 512, "addedWaitingSeconds": 0.01,
                    "liveness": { "state": "suspect", "reason": "scrapes_fail" },
                },
                {
                    "address": "10.0.0.2:8000", "pod": "llm-d/b", "excludedBy": "stalled engine", "inFlight": 0.0,
                    "cachedBytes": 0, "addedWaitingSeconds": 0.0,
                },
            ],
            "moreEndpoints": 7,
        });
        let expected = "\
ENDPOINT       POD      SCORE  queue-scorer x2  prefix x0.5  IN-FLIGHT  SOURCE  CACHED  ADDED-WAITING  LIVENESS         EXCLUDED BY
10.0.0.1:8000  llm-d/a  2.25   1                0.5          3          kernel  512 B   0.010 s  suspect: scrapes_fail  -
10.0.0.2:8000  llm-d/b  -      -                -            0          -       0 B     0.000 s  -                      stalled engine
and 7 more endpoints
";
        let table = table(&decision);
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&table), words(expected));
    }
}
