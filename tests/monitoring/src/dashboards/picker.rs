//! The endpoint pickers, and the telemetry that they get.

use crate::{Dashboard, Panel, Unit};

fn rate(by: &str, metric: &str) -> String {
    format!("sum by ({by}) (rate({metric}[$__rate_interval]))")
}

pub(super) fn dashboard() -> Dashboard {
    let mut panels = picks();
    panels.extend(endpoints());
    Dashboard {
        uid: "forebay-picker",
        title: "Forebay / Picker",
        description: "Decisions of the endpoint pickers, and what they know of endpoints.",
        variables: Vec::new(),
        panels,
    }
}

fn picks() -> Vec<Panel> {
    vec![
        Panel::new("Picks", Unit::PerSecond, "By result: ok, or the error code.")
            .query("{{pool}} {{result}}", rate("pool, result", "forebay_epp_picks_total")),
        Panel::new("Duration of a pick", Unit::Seconds, "Inside the picker.")
            .quantiles("forebay_epp_pick_duration_seconds_bucket"),
        Panel::new("Age of load at a pick", Unit::Seconds, "Of loads that the kernel measured.")
            .quantiles("forebay_epp_load_age_at_pick_seconds_bucket"),
        Panel::new(
            "Share of the body that was read before the pick",
            Unit::Ratio,
            "Of picks that read the prompt.",
        )
        .quantiles("forebay_epp_body_share_at_pick_bucket"),
        Panel::new("Responses", Unit::PerSecond, "That gateways reported, by class of the status.")
            .query("{{pool}} {{class}}", rate("pool, class", "forebay_epp_responses_total")),
        Panel::new("Open picks and streams", Unit::Count, "Requests whose response has not ended.")
            .query("{{pool}} {{state}}", "sum by (pool, state) (forebay_epp_open_picks)")
            .query("{{pool}} streams", "sum by (pool) (forebay_epp_open_streams)"),
    ]
}

fn endpoints() -> Vec<Panel> {
    vec![
        Panel::new(
            "Endpoints by source of their load",
            Unit::Count,
            "kernel is the best source, local the worst.",
        )
        .query("{{pool}} {{state}}", "sum by (pool, state) (forebay_epp_endpoints)"),
        Panel::new("Endpoints by state of their engine", Unit::Count, "The verdict of the agents.")
            .query("{{pool}} {{state}}", "sum by (pool, state) (forebay_epp_endpoint_liveness)"),
        Panel::new("Queues of the engines", Unit::Count, "Requests that wait in each engine.")
            .query("{{model_server_endpoint}}", "llm_d_epp_per_endpoint_queue_size"),
        Panel::new("Mean KV cache usage", Unit::Ratio, "By pool.")
            .query("{{name}}", "llm_d_epp_average_kv_cache_utilization"),
        Panel::new(
            "Prefix cache hits",
            Unit::BytesPerSecond,
            "Expected by the prefix index, and counted by the engines.",
        )
        .query("expected", "sum(rate(forebay_epp_prefix_hit_predicted_bytes_total[$__rate_interval]))")
        .query("counted", "sum(rate(forebay_epp_prefix_hit_measured_bytes_total[$__rate_interval]))"),
        Panel::new("Belief in the prefix index", Unit::Ratio, "Share of expected hits that picks count on.")
            .query("{{pod}}", "forebay_epp_prefix_belief_ratio"),
        Panel::new("Telemetry streams", Unit::Count, "1 if the stream of the agent is open.")
            .query("{{agent}}", "min by (agent) (forebay_epp_agent_connected)"),
        Panel::new("Age of telemetry", Unit::Seconds, "Time since the newest frame of an agent.")
            .query("{{agent}}", "max by (agent) (forebay_epp_agent_frame_age_seconds)"),
    ]
}
