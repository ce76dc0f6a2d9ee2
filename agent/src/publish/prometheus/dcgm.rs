//! The GPUs under the names of NVIDIA's dcgm-exporter, for dashboards and pickers that read those.
//!
//! A value that the agent does not measure is absent: the name of the container, the PCI address, and the free memory,
//! which is not the total less what is used.

use std::fmt;

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};

use forebay_telemetry::v1::{EndpointKey, Gpu, Snapshot};

type Read = fn(&Gpu) -> Option<f64>;

/// Name, help and value, in the units of dcgm-exporter.
const METRICS: [(&str, &str, Read); 7] = [
    ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %)", |gpu| gpu.utilization_percent.map(f64::from)),
    ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB)", |gpu| mebibytes(gpu.memory_used_bytes?)),
    ("DCGM_FI_DEV_FB_TOTAL", "Framebuffer memory (in MiB)", |gpu| mebibytes(gpu.memory_total_bytes?)),
    ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W)", |gpu| Some(gpu.power_mw? as f64 / 1000.0)),
    ("DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz)", |gpu| gpu.sm_clock_mhz.map(f64::from)),
    ("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C)", |gpu| gpu.temperature_celsius.map(f64::from)),
    (
        "DCGM_FI_DEV_XID_ERRORS",
        "Value of the last XID error, 0 if there was none since the agent started",
        |gpu| Some(gpu.last_xid.unwrap_or_default() as f64),
    ),
];

fn mebibytes(bytes: u64) -> Option<f64> {
    Some((bytes >> 20) as f64)
}

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let node = snapshot.node.as_ref().map_or("", |node| node.name.as_str());
    for (name, help, read) in METRICS {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for gpu in &snapshot.gpus {
            let Some(value) = read(gpu) else { continue };
            let (index, device) = (gpu.index.to_string(), format!("nvidia{}", gpu.index));
            let mut labels = vec![
                ("gpu", index.as_str()),
                ("UUID", gpu.uuid.as_str()),
                ("device", &device),
                ("modelName", &gpu.name),
                ("Hostname", node),
            ];
            if let Some(pod) = only_user(snapshot, &gpu.uuid) {
                labels.extend([("namespace", pod.namespace.as_str()), ("pod", &pod.pod)]);
            }
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
    }
    Ok(())
}

/// The pod that uses the GPU. `None` if there are several: one series per pod would count the GPU more than once.
fn only_user<'a>(snapshot: &'a Snapshot, uuid: &str) -> Option<&'a EndpointKey> {
    let uses = snapshot.endpoints.iter().filter(|it| it.gpu_uuids.iter().any(|used| used == uuid));
    let mut pods = uses.filter_map(|endpoint| endpoint.key.as_ref());
    let first = pods.next()?;
    pods.all(|pod| (&pod.namespace, &pod.pod) == (&first.namespace, &first.pod)).then_some(first)
}
