//! The GPUs of the node.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::{Labels, counter, family, gauge, sample};
use forebay_telemetry::{
    signals::{MetricKind, Value},
    v1::Gpu,
};

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, gpus: &[Gpu]) -> fmt::Result {
    type Read = fn(&Gpu) -> Option<f64>;
    let gauges: [(&str, Option<&str>, &str, Read); 9] = [
        ("forebay_gpu_health", None, "0 unknown, 1 ok, 2 degraded, 3 lost.", |gpu| Some(gpu.health.into())),
        ("forebay_gpu_utilization_ratio", Some("ratio"), "Share of time in which a GPU kernel ran.", |gpu| {
            Some(f64::from(gpu.utilization_percent?) / 100.0)
        }),
        ("forebay_gpu_memory_used_bytes", Some("bytes"), "Framebuffer in use.", |gpu| {
            gpu.memory_used_bytes.map(|bytes| bytes as f64)
        }),
        ("forebay_gpu_memory_total_bytes", Some("bytes"), "Framebuffer size.", |gpu| {
            gpu.memory_total_bytes.map(|bytes| bytes as f64)
        }),
        ("forebay_gpu_temperature_celsius", Some("celsius"), "GPU temperature.", |gpu| {
            gpu.temperature_celsius.map(f64::from)
        }),
        ("forebay_gpu_power_watts", Some("watts"), "Power draw.", |gpu| Some(gpu.power_mw? as f64 / 1000.0)),
        ("forebay_gpu_power_limit_watts", Some("watts"), "Power limit that is enforced.", |gpu| {
            Some(gpu.power_limit_mw? as f64 / 1000.0)
        }),
        ("forebay_gpu_sm_clock_hertz", Some("hertz"), "SM clock.", |gpu| {
            Some(f64::from(gpu.sm_clock_mhz?) * 1e6)
        }),
        ("forebay_gpu_sm_clock_max_hertz", Some("hertz"), "Maximum SM clock.", |gpu| {
            Some(f64::from(gpu.sm_clock_max_mhz?) * 1e6)
        }),
    ];
    for (name, unit, help, read) in gauges {
        family(encoder, &gauge(name, unit, help), |encoder| {
            each_gpu(gpus, |gpu, labels| match read(gpu) {
                Some(value) => encoder.encode_family(labels)?.encode_gauge(&value),
                None => Ok(()),
            })
        })?;
    }
    let xid_errors = counter("forebay_gpu_xid_errors_total", "XID errors since the agent started.");
    family(encoder, &xid_errors, |encoder| {
        each_gpu(gpus, |gpu, labels| {
            sample(&mut encoder.encode_family(labels)?, xid_errors.kind, Value::Integer(gpu.xid_errors))
        })
    })?;
    encode_throttling(encoder, gpus)
}

/// The series of the current reasons only.
fn encode_throttling(encoder: &mut DescriptorEncoder<'_>, gpus: &[Gpu]) -> fmt::Result {
    let help = "1 for each reason why the clocks of the GPU are below their maximum, as NVML names it.";
    family(encoder, &gauge("forebay_gpu_throttle_reason", None, help), |encoder| {
        each_gpu(gpus, |gpu, labels| {
            gpu.throttle_reasons.iter().try_for_each(|reason| {
                let labels = [labels.as_slice(), &[("reason", reason.as_str())]].concat();
                sample(&mut encoder.encode_family(&labels)?, MetricKind::Gauge, Value::Integer(1))
            })
        })
    })
}

fn each_gpu(gpus: &[Gpu], mut encode: impl FnMut(&Gpu, &Labels<'_>) -> fmt::Result) -> fmt::Result {
    for gpu in gpus {
        let index = gpu.index.to_string();
        encode(gpu, &vec![("gpu", &index), ("uuid", &gpu.uuid), ("name", &gpu.name)])?;
    }
    Ok(())
}
