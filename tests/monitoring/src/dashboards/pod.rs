//! What a pod does.

use crate::{Dashboard, Panel, Unit, Variable};

/// The selected pods, in the metric `name`.
fn of_pods(name: &str) -> String {
    format!("{name}{{namespace=~\"$namespace\", pod=~\"$pod\"}}")
}

/// Rate by pod.
fn rate(name: &str) -> String {
    format!("sum by (namespace, pod) (rate({}[$__rate_interval]))", of_pods(name))
}

pub(super) fn dashboard() -> Dashboard {
    let [namespace, pod] =
        ["namespace", "pod"].map(|label| Variable { label, metric: "forebay_requests_in_flight" });
    let mut panels = requests();
    panels.extend(engine());
    Dashboard {
        uid: "forebay-pod",
        title: "Forebay / Pod",
        description: "Requests of model server pods, measured in the kernel, and metrics of their engines.",
        variables: vec![namespace, pod],
        panels,
    }
}

fn requests() -> Vec<Panel> {
    vec![
        Panel::new("In flight", Unit::Count, "Requests in flight, and those of them that have content of a response.")
            .query("{{pod}}", of_pods("forebay_requests_in_flight"))
            .query("{{pod}} with response", of_pods("forebay_requests_with_response")),
        Panel::new("Requests", Unit::PerSecond, "Started, complete and aborted.")
            .query("{{pod}} started", rate("forebay_requests_started_total"))
            .query("{{pod}} finished", rate("forebay_requests_finished_total"))
            .query("{{pod}} aborted", rate("forebay_requests_aborted_total")),
        Panel::new("Responses", Unit::PerSecond, "By class of the status.")
            .query("{{pod}} 2xx", rate("forebay_responses_2xx_total"))
            .query("{{pod}} 4xx", rate("forebay_responses_4xx_total"))
            .query("{{pod}} 5xx", rate("forebay_responses_5xx_total")),
        Panel::new("Time to first token", Unit::Seconds, "First request byte to first content byte.")
            .quantiles(&of_pods("gen_ai_server_time_to_first_token_seconds_bucket")),
        Panel::new("Time per output token", Unit::Seconds, "Between two chunks of one response.")
            .quantiles(&of_pods("gen_ai_server_time_per_output_token_seconds_bucket")),
        Panel::new("Duration", Unit::Seconds, "First request byte to last response byte.")
            .quantiles(&of_pods("gen_ai_server_request_duration_seconds_bucket")),
        Panel::new(
            "Oldest request and silence",
            Unit::Seconds,
            "Age of the oldest request in flight, and time since content was sent. Both grow when an engine hangs.",
        )
        .query("{{pod}} silent", of_pods("forebay_silent_seconds"))
        .query("{{pod}} oldest", of_pods("forebay_oldest_request_seconds"))
        .may_be_empty(),
        Panel::new("Traffic", Unit::BytesPerSecond, "TCP payload.")
            .query("{{pod}} received", rate("forebay_received_bytes_total"))
            .query("{{pod}} sent", rate("forebay_sent_bytes_total")),
        Panel::new("Request bytes that wait", Unit::Bytes, "Of requests without a response byte.")
            .query("{{pod}}", of_pods("forebay_waiting_request_bytes")),
    ]
}

fn engine() -> Vec<Panel> {
    vec![
        Panel::new("State", Unit::Count, "1 for the agent's verdict on the engine, and the reason.")
            .query("{{pod}} {{state}} {{reason}}", of_pods("forebay_liveness")),
        Panel::new("Engine responds", Unit::Count, "1 if the last scrape of the engine worked.")
            .query("{{pod}}", of_pods("forebay_engine_up")),
        Panel::new("Requests in the engine", Unit::Count, "As the engine reports them.")
            .query("{{pod}} running", of_pods("forebay_engine_requests_running"))
            .query("{{pod}} waiting", of_pods("forebay_engine_requests_waiting")),
        Panel::new("KV cache", Unit::Ratio, "Share in use.")
            .query("{{pod}}", of_pods("forebay_engine_kv_cache_usage_ratio")),
        Panel::new(
            "Steps",
            Unit::PerSecond,
            "Steps of the engine. An engine without steps makes no progress.",
        )
        .query("{{pod}}", rate("forebay_engine_steps_total")),
    ]
}
