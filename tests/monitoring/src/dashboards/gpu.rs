//! The GPUs.

use crate::{Dashboard, Panel, Unit, Variable};

/// The selected GPUs, in the metric `name`.
fn of_gpus(name: &str) -> String {
    format!("{name}{{uuid=~\"$uuid\"}}")
}

pub(super) fn dashboard() -> Dashboard {
    let legend = "{{instance}} GPU {{gpu}}";
    let used = of_gpus("forebay_gpu_memory_used_bytes");
    Dashboard {
        uid: "forebay-gpu",
        title: "Forebay / GPU",
        description: "GPUs of the nodes with an agent, read through NVML.",
        variables: vec![Variable { label: "uuid", metric: "forebay_gpu_health" }],
        panels: vec![
            Panel::new("Health", Unit::Count, "0 unknown, 1 ok, 2 degraded, 3 lost.")
                .query(legend, of_gpus("forebay_gpu_health")),
            Panel::new(
                "Throttled",
                Unit::Count,
                "1 for each reason why the clocks are below their maximum. sw_power_cap and gpu_idle are normal.",
            )
            .query("{{instance}} GPU {{gpu}} {{reason}}", of_gpus("forebay_gpu_throttle_reason"))
            .may_be_empty(),
            Panel::new("XID errors", Unit::Count, "In the last 10 minutes.")
                .query(legend, format!("increase({}[10m])", of_gpus("forebay_gpu_xid_errors_total"))),
            Panel::new("Utilization", Unit::Ratio, "Share of time in which a kernel ran.")
                .query(legend, of_gpus("forebay_gpu_utilization_ratio")),
            Panel::new("Memory", Unit::Ratio, "Share in use.")
                .query(legend, format!("{used} / {}", of_gpus("forebay_gpu_memory_total_bytes"))),
            Panel::new("SM clock", Unit::Hertz, "The maximum is the highest clock of any selected GPU.")
                .query(legend, of_gpus("forebay_gpu_sm_clock_hertz"))
                .query("maximum", format!("max({})", of_gpus("forebay_gpu_sm_clock_max_hertz"))),
            Panel::new("Power", Unit::Watts, "Draw and limit.")
                .query(legend, of_gpus("forebay_gpu_power_watts"))
                .query("{{instance}} GPU {{gpu}} limit", of_gpus("forebay_gpu_power_limit_watts")),
            Panel::new("Temperature", Unit::Celsius, "Of the GPU.")
                .query(legend, of_gpus("forebay_gpu_temperature_celsius")),
            Panel::new("Driver", Unit::Count, "1 if NVML works on the node.")
                .query("{{instance}}", "forebay_gpu_driver_up"),
        ],
    }
}
