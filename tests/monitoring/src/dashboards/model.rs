//! What the users of a model get.

use crate::{Dashboard, Panel, Unit, Variable};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "forebay-model",
        title: "Forebay / Model",
        description: "Traffic, latency and tokens of models, as clients of the gateway see them.",
        variables: vec![Variable { label: "model", metric: "forebay_gateway_requests_total" }],
        panels: vec![
            Panel::new("Requests", Unit::PerSecond, "By status. 499: the client closed the request.").query(
                "{{code}}",
                "sum by (code) (rate(forebay_gateway_requests_total{model=~\"$model\"}[$__rate_interval]))",
            ),
            Panel::new("Tokens", Unit::PerSecond, "Tokens that engines report in usage.").query(
                "{{type}}",
                "sum by (type) (rate(forebay_gateway_tokens_total{model=~\"$model\"}[$__rate_interval]))",
            ),
            Panel::new(
                "Time to first token",
                Unit::Seconds,
                "From the arrival of the request at the gateway to the first event of the response.",
            )
            .quantiles("forebay_gateway_time_to_first_token_seconds_bucket{model=~\"$model\"}"),
            Panel::new("Inter-token latency", Unit::Seconds, "Between two events of a response.")
                .quantiles("forebay_gateway_inter_token_latency_seconds_bucket{model=~\"$model\"}"),
            Panel::new("Duration", Unit::Seconds, "From the arrival of the request to the end of the response.")
                .quantiles("gen_ai_client_operation_duration_seconds_bucket{gen_ai_request_model=~\"$model\"}"),
            Panel::new(
                "Time to first token at the pods",
                Unit::Seconds,
                "Measured in the kernel, of all clients. Pods that serve several models are not included.",
            )
            .quantiles("gen_ai_server_time_to_first_token_seconds_bucket{gen_ai_request_model=~\"$model\"}"),
            Panel::new("Prompt tokens", Unit::Count, "Per request.").quantiles(
                "gen_ai_client_token_usage_bucket{gen_ai_request_model=~\"$model\", gen_ai_token_type=\"input\"}",
            ),
            Panel::new("Generated tokens", Unit::Count, "Per request.").quantiles(
                "gen_ai_client_token_usage_bucket{gen_ai_request_model=~\"$model\", gen_ai_token_type=\"output\"}",
            ),
            Panel::new("Errors inside streams", Unit::PerSecond, "Errors of engines after status 200.")
                .query(
                    "{{pool}}",
                    "sum by (pool) (rate(forebay_gateway_stream_errors_total{model=~\"$model\"}[$__rate_interval]))",
                )
                .may_be_empty(),
        ],
    }
}
