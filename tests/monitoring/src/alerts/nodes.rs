//! Pods and GPUs, from the metrics of the agents.

use super::Alert;

pub(super) const ALERTS: &[Alert] = &[
    Alert {
        name: "ForebayEngineStalled",
        expression: "max by (namespace, pod, port, reason) (forebay_liveness{state=\"stalled\"}) == 1",
        duration: "1m",
        severity: "critical",
        summary: "The engine of {{ $labels.namespace }}/{{ $labels.pod }} does not work ({{ $labels.reason }})",
        description: "The agent sees that the engine makes no progress. Pickers send it no requests while other endpoints work. Restart the pod if it does not recover.",
        fires: &[(
            r#"forebay_liveness{namespace="llm-d",pod="qwen-0",port="8000",state="stalled",reason="no_progress"}"#,
            "1x30",
        )],
        quiet: &[(
            r#"forebay_liveness{namespace="llm-d",pod="qwen-0",port="8000",state="alive",reason=""}"#,
            "1x30",
        )],
        labels: &[("namespace", "llm-d"), ("pod", "qwen-0"), ("port", "8000"), ("reason", "no_progress")],
    },
    Alert {
        name: "ForebayEngineSuspect",
        expression: "max by (namespace, pod, port, reason) (forebay_liveness{state=\"suspect\"}) == 1",
        duration: "5m",
        severity: "warning",
        summary: "The engine of {{ $labels.namespace }}/{{ $labels.pod }} may not work ({{ $labels.reason }})",
        description: "Pickers prefer other endpoints. Look at the log of the pod.",
        fires: &[(
            r#"forebay_liveness{namespace="llm-d",pod="qwen-0",port="8000",state="suspect",reason="scrapes_fail"}"#,
            "1x30",
        )],
        // A pod that starts is suspect for a short time.
        quiet: &[(
            r#"forebay_liveness{namespace="llm-d",pod="qwen-0",port="8000",state="suspect",reason="not_scraped"}"#,
            "_x16 1x3 stale",
        )],
        labels: &[("namespace", "llm-d"), ("pod", "qwen-0"), ("port", "8000"), ("reason", "scrapes_fail")],
    },
    Alert {
        name: "ForebayTimeToFirstTokenHigh",
        expression: "histogram_quantile(0.99, sum by (namespace, pod, le) (rate(gen_ai_server_time_to_first_token_seconds_bucket[5m]))) > 10",
        duration: "10m",
        severity: "warning",
        summary: "Time to first token of {{ $labels.namespace }}/{{ $labels.pod }} is above 10 s (p99)",
        description: "Measured in the kernel at the pod. The pod is overloaded, its prompts are very long, or its GPU is slow.",
        fires: &[
            (
                r#"gen_ai_server_time_to_first_token_seconds_bucket{namespace="llm-d",pod="qwen-0",le="10.0"}"#,
                "0x30",
            ),
            (
                r#"gen_ai_server_time_to_first_token_seconds_bucket{namespace="llm-d",pod="qwen-0",le="20.0"}"#,
                "0+60x30",
            ),
            (
                r#"gen_ai_server_time_to_first_token_seconds_bucket{namespace="llm-d",pod="qwen-0",le="+Inf"}"#,
                "0+60x30",
            ),
        ],
        quiet: &[
            (
                r#"gen_ai_server_time_to_first_token_seconds_bucket{namespace="llm-d",pod="qwen-0",le="10.0"}"#,
                "0+60x30",
            ),
            (
                r#"gen_ai_server_time_to_first_token_seconds_bucket{namespace="llm-d",pod="qwen-0",le="+Inf"}"#,
                "0+60x30",
            ),
        ],
        labels: &[("namespace", "llm-d"), ("pod", "qwen-0")],
    },
    Alert {
        name: "ForebayGpuLost",
        expression: "forebay_gpu_health == 3",
        duration: "1m",
        severity: "critical",
        summary: "GPU {{ $labels.gpu }} of {{ $labels.instance }} is lost ({{ $labels.uuid }})",
        description: "The GPU is not on the bus, needs a reset, or reported a fatal XID. Its pods get no requests. Drain the node.",
        fires: &[(r#"forebay_gpu_health{instance="node-1",gpu="3",uuid="GPU-3",name="H100"}"#, "3x30")],
        quiet: &[(r#"forebay_gpu_health{instance="node-1",gpu="3",uuid="GPU-3",name="H100"}"#, "2x30")],
        labels: &[("instance", "node-1"), ("gpu", "3"), ("uuid", "GPU-3"), ("name", "H100")],
    },
    Alert {
        name: "ForebayGpuThrottled",
        expression: "forebay_gpu_throttle_reason{reason=~\"hw_slowdown|hw_thermal_slowdown|hw_power_brake_slowdown|sw_thermal_slowdown\"} == 1",
        duration: "5m",
        severity: "warning",
        summary: "GPU {{ $labels.gpu }} of {{ $labels.instance }} is throttled ({{ $labels.reason }})",
        description: "Its clocks are reduced, so its pods are slower than others. Check cooling and power supply of the node.",
        fires: &[(
            r#"forebay_gpu_throttle_reason{instance="node-1",gpu="3",uuid="GPU-3",name="H100",reason="hw_thermal_slowdown"}"#,
            "1x30",
        )],
        quiet: &[(
            r#"forebay_gpu_throttle_reason{instance="node-1",gpu="3",uuid="GPU-3",name="H100",reason="sw_power_cap"}"#,
            "1x30",
        )],
        labels: &[
            ("instance", "node-1"),
            ("gpu", "3"),
            ("uuid", "GPU-3"),
            ("name", "H100"),
            ("reason", "hw_thermal_slowdown"),
        ],
    },
    Alert {
        name: "ForebayGpuXid",
        expression: "increase(forebay_gpu_xid_errors_total[10m]) > 0",
        duration: "0m",
        severity: "warning",
        summary: "GPU {{ $labels.gpu }} of {{ $labels.instance }} reported an XID error ({{ $labels.uuid }})",
        description: "The log of the agent has the number of the error; `forebay gpus` shows the last one and whether the GPU is usable.",
        fires: &[(
            r#"forebay_gpu_xid_errors_total{instance="node-1",gpu="3",uuid="GPU-3",name="H100"}"#,
            "0x14 1x15",
        )],
        quiet: &[(
            r#"forebay_gpu_xid_errors_total{instance="node-1",gpu="3",uuid="GPU-3",name="H100"}"#,
            "1x30",
        )],
        labels: &[("instance", "node-1"), ("gpu", "3"), ("uuid", "GPU-3"), ("name", "H100")],
    },
    Alert {
        name: "ForebayKernelMeasurementOff",
        expression: "forebay_kernel_up == 0",
        duration: "10m",
        severity: "warning",
        summary: "The agent at {{ $labels.instance }} does not count requests in the kernel",
        description: "Pickers use the metrics of the engines, which are older. `forebay nodes` shows the reason. If the node cannot do it, set agent.kernel=off and silence this alert.",
        fires: &[(r#"forebay_kernel_up{instance="node-1"}"#, "0x30")],
        quiet: &[(r#"forebay_kernel_up{instance="node-1"}"#, "1x30")],
        labels: &[("instance", "node-1")],
    },
    Alert {
        name: "ForebayConnectionsUntracked",
        expression: "rate(forebay_kernel_connections_untracked_total[5m]) > 0",
        duration: "5m",
        severity: "warning",
        summary: "The kernel programs at {{ $labels.instance }} do not follow all connections",
        description: "The table of connections is full. Traffic is not affected, but counts of requests are too low.",
        fires: &[(r#"forebay_kernel_connections_untracked_total{instance="node-1"}"#, "0+5x30")],
        quiet: &[(r#"forebay_kernel_connections_untracked_total{instance="node-1"}"#, "5x30")],
        labels: &[("instance", "node-1")],
    },
];
