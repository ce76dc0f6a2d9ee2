//! The gateways.

use crate::{Dashboard, Panel, Unit};

fn rate(by: &str, metric: &str) -> String {
    format!("sum by ({by}) (rate({metric}[$__rate_interval]))")
}

pub(super) fn dashboard() -> Dashboard {
    let mut panels = requests();
    panels.extend(resources());
    panels.extend(faults());
    Dashboard {
        uid: "forebay-gateway",
        title: "Forebay / Gateway",
        description: "Requests, decisions, connections and memory of the gateways.",
        variables: Vec::new(),
        panels,
    }
}

fn requests() -> Vec<Panel> {
    vec![
        Panel::new("Requests", Unit::PerSecond, "By status. 499: the client closed the request.")
            .query("{{code}}", rate("code", "forebay_gateway_requests_total")),
        Panel::new("Operations", Unit::PerSecond, "Requests of the OpenAI API, by operation.").query(
            "{{gen_ai_operation_name}}",
            rate("gen_ai_operation_name", "gen_ai_client_operation_duration_seconds_count"),
        ),
        Panel::new("Picks", Unit::PerSecond, "By pool and result.")
            .query("{{pool}} {{result}}", rate("pool, result", "forebay_gateway_picks_total")),
        Panel::new("Time until the decision", Unit::Seconds, "Wait for the picker.")
            .quantiles("forebay_gateway_pick_duration_seconds_bucket"),
        Panel::new(
            "Time that the gateway adds",
            Unit::Seconds,
            "Without waits for client, picker and connections.",
        )
        .quantiles("forebay_gateway_processing_duration_seconds_bucket"),
        Panel::new(
            "Time at the endpoint",
            Unit::Seconds,
            "From sending the request to the end of the response.",
        )
        .quantiles("forebay_gateway_upstream_duration_seconds_bucket"),
    ]
}

fn resources() -> Vec<Panel> {
    vec![
        Panel::new("Requests in flight", Unit::Count, "By gateway.")
            .query("{{instance}}", "forebay_gateway_active_requests"),
        Panel::new("Client connections", Unit::Count, "Open ones.")
            .query("{{instance}}", "forebay_gateway_client_connections"),
        Panel::new("Memory of bodies", Unit::Bytes, "Held request bodies, and responses that clients have not taken.")
            .query("{{instance}} held", "forebay_gateway_hold_bytes")
            .query("{{instance}} unsent", "forebay_gateway_client_unsent_bytes"),
        Panel::new(
            "Evicted connections and dropped log lines",
            Unit::PerSecond,
            "Connections without a request that were closed for new ones; lines that the reader of the log was too slow for.",
        )
        .query("evicted", "sum(rate(forebay_gateway_client_connections_evicted_total[$__rate_interval]))")
        .query("dropped lines", "sum(rate(forebay_gateway_access_log_dropped_lines_total[$__rate_interval]))"),
    ]
}

fn faults() -> Vec<Panel> {
    let panel = |title, description, label: &'static str, legend, metric: &str| {
        Panel::new(title, Unit::PerSecond, description).query(legend, rate(label, metric)).may_be_empty()
    };
    vec![
        panel("Errors", "By error code.", "code", "{{code}}", "forebay_gateway_errors_total"),
        panel("Retries", "By reason.", "reason", "{{reason}}", "forebay_gateway_retries_total"),
        panel(
            "Rate limits",
            "Rejected requests, by policy.",
            "policy",
            "{{policy}}",
            "forebay_gateway_rate_limited_total",
        ),
        panel("Mirrors", "By result.", "result", "{{result}}", "forebay_gateway_mirrors_total"),
        panel(
            "Picker failures in responses",
            "While a picker relayed a response body, by outcome.",
            "outcome",
            "{{outcome}}",
            "forebay_gateway_picker_response_failures_total",
        ),
    ]
}
