//! Everything at a glance.

use crate::{Dashboard, Panel, Unit};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "forebay-fleet",
        title: "Forebay / Fleet",
        description: "Traffic, latency and health of all models, pods and GPUs.",
        variables: Vec::new(),
        panels: vec![
            Panel::new("Requests", Unit::PerSecond, "Requests at the gateway, by model.")
                .query("{{model}}", "sum by (model) (rate(forebay_gateway_requests_total[$__rate_interval]))"),
            Panel::new("Failed requests", Unit::Ratio, "Share of responses with status 5xx.").query(
                "5xx",
                "sum(rate(forebay_gateway_requests_total{code=~\"5..\"}[$__rate_interval]) or 0 * rate(forebay_gateway_requests_total[$__rate_interval])) / sum(rate(forebay_gateway_requests_total[$__rate_interval]))",
            ),
            Panel::new("Time to first token", Unit::Seconds, "As clients of the gateway see it.")
                .quantiles("forebay_gateway_time_to_first_token_seconds_bucket"),
            Panel::new("Tokens", Unit::PerSecond, "Tokens that engines report in usage.")
                .query("{{type}}", "sum by (type) (rate(forebay_gateway_tokens_total[$__rate_interval]))"),
            Panel::new(
                "Requests in the pods",
                Unit::Count,
                "Counted in the kernel, so of all clients, and requests in the queues of the engines.",
            )
            .query("in flight", "sum(forebay_requests_in_flight)")
            .query("queued in engines", "sum(forebay_engine_requests_waiting)"),
            Panel::new("Ready endpoints", Unit::Count, "By pool.")
                .query("{{name}}", "max by (namespace, name) (llm_d_epp_ready_endpoints)"),
            Panel::new("Engines", Unit::Count, "By the agent's verdict.")
                .query("{{state}}", "count by (state) (forebay_liveness)"),
            Panel::new("GPUs", Unit::Count, "By health: 0 unknown, 1 ok, 2 degraded, 3 lost.")
                .query("health {{health}}", "count_values(\"health\", forebay_gpu_health)"),
            Panel::new("GPU utilization", Unit::Ratio, "Mean and least utilised GPU.")
                .query("mean", "avg(forebay_gpu_utilization_ratio)")
                .query("least", "min(forebay_gpu_utilization_ratio)"),
            Panel::new("GPU power", Unit::Watts, "Of all GPUs, and their limits.")
                .query("draw", "sum(forebay_gpu_power_watts)")
                .query("limit", "sum(forebay_gpu_power_limit_watts)"),
        ],
    }
}
