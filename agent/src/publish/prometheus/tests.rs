//! Encoded metrics.

use std::{collections::BTreeMap, net::SocketAddr};

use super::*;
use crate::publish::LatencyHistograms;
use crate::publish::LoadReport;
use forebay_agent_ebpf::{
    histogram::{BUCKETS, bucket},
    maps::Histogram,
};
use forebay_telemetry::v1::{
    EndpointKey, EngineLoad, Gpu, KernelLoad, Latency, Liveness, LivenessReason, LivenessState, Model,
};

#[test]
fn metrics_have_names_labels_and_units() {
    let publisher = Arc::new(Publisher::new(Node { name: "n".into(), ..Node::default() }));
    let address: SocketAddr = "10.0.0.1:8000".parse().unwrap();
    let key = EndpointKey { namespace: "a".into(), pod: "p\"q".into(), port: 8000, ..EndpointKey::default() };
    publisher.set_endpoints(BTreeMap::from([(address, key)]));
    let ttft = Some(Latency { count: 2, sum_ns: 3_000_000_000, p50_ns: 1_000_000_000, ..Latency::default() });
    let load = KernelLoad {
        measured_boottime_ns: 5_000_000_000,
        oldest_request_boottime_ns: Some(2_500_000_000),
        started: 7,
        bytes_in: 9,
        waiting_request_bytes: 5,
        ttft,
        ..KernelLoad::default()
    };
    publisher.set_kernel(address, "", LoadReport::Measured(load));
    publisher.set_liveness(|_, _, _| {
        let (state, reason) = (LivenessState::Stalled.into(), LivenessReason::NoProgress.into());
        Some(Liveness { state, reason, since_boottime_ns: 1 })
    });
    publisher.set_drop_counters(DropCounters { no_slot: 4, ..DropCounters::default() });
    let gpu = Gpu { uuid: "GPU-0".into(), xid_errors: 2, power_mw: Some(1500), ..Gpu::default() };
    publisher.set_gpus(vec![gpu], &BTreeMap::new(), None);

    let text = text(&registry(publisher, MetricsOptions::default())).unwrap();
    let labels = r#"{namespace="a",pod="p\"q",port="8000"}"#;
    for line in [
        r#"forebay_agent_info{version="",node="n"} 1"#,
        "forebay_kernel_up 1",
        "forebay_kernel_unknown_cgroup_segments_total 4",
        "# TYPE forebay_requests_started counter",
        &format!("forebay_requests_started_total{labels} 7"),
        "# UNIT forebay_received_bytes bytes",
        &format!("forebay_received_bytes_total{labels} 9"),
        "# TYPE forebay_waiting_request_bytes gauge",
        &format!("forebay_waiting_request_bytes{labels} 5"),
        r#"forebay_liveness{namespace="a",pod="p\"q",port="8000",state="stalled",reason="no_progress"} 1"#,
        &format!("forebay_oldest_request_seconds{labels} 2.5"),
        r#"forebay_ttft_seconds{namespace="a",pod="p\"q",port="8000",quantile="0.5"} 1.0"#,
        &format!("forebay_ttft_window_sum_seconds{labels} 3.0"),
        &format!("forebay_ttft_window_count{labels} 2"),
        &format!("forebay_engine_up{labels} 0"),
        r#"forebay_gpu_power_watts{gpu="0",uuid="GPU-0",name=""} 1.5"#,
        r#"forebay_gpu_xid_errors_total{gpu="0",uuid="GPU-0",name=""} 2"#,
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    for name in
        ["forebay_engine_requests_running{", "forebay_silent_seconds{", "forebay_requests_with_response{"]
    {
        assert!(!text.contains(name), "{name} is not measured");
    }
    assert!(text.ends_with("# EOF\n"));
}

fn measured(publisher: &Publisher, address: SocketAddr) {
    let key = EndpointKey {
        namespace: "a".into(),
        pod: "p".into(),
        ip: address.ip().to_string(),
        port: address.port().into(),
        ..EndpointKey::default()
    };
    publisher.set_endpoints(BTreeMap::from([(address, key)]));
    publisher.set_kernel(address, "", LoadReport::Measured(KernelLoad::default()));
}

fn serves(publisher: &Publisher, address: SocketAddr, models: &[&str]) {
    let models = models.iter().map(|id| Model { id: (*id).to_owned(), ..Model::default() }).collect();
    publisher.set_engine(address, "", LoadReport::Measured(EngineLoad { models, ..EngineLoad::default() }));
}

fn set_histograms(publisher: &Publisher, address: SocketAddr, durations_ns: &[u64]) {
    let mut histogram = Histogram { sum_ns: durations_ns.iter().sum(), counts: [0; BUCKETS as usize] };
    for duration in durations_ns {
        histogram.counts[bucket(*duration) as usize] += 1;
    }
    publisher.set_latency_histograms(address, "", LatencyHistograms::new([histogram; 3]));
}

fn lines(publisher: &Arc<Publisher>, options: MetricsOptions, name: &str) -> Vec<String> {
    let text = text(&registry(Arc::clone(publisher), options)).unwrap();
    text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
}

#[test]
fn kernel_histograms_have_the_names_and_bounds_of_opentelemetry() {
    let publisher = Arc::new(Publisher::new(Node::default()));
    let address: SocketAddr = "10.0.0.1:8000".parse().unwrap();
    measured(&publisher, address);
    serves(&publisher, address, &["m"]);
    set_histograms(&publisher, address, &[30_000_000, 30_000_000, 300_000_000_000]);
    let text = lines(&publisher, MetricsOptions::default(), "gen_ai_server_time_to_first_token_seconds");
    let labels = r#"namespace="a",pod="p",port="8000",gen_ai_request_model="m""#;
    for (series, value) in [
        (format!(r#"_bucket{{le="0.02",{labels}}}"#), "0"),
        (format!(r#"_bucket{{le="0.04",{labels}}}"#), "2"),
        (format!(r#"_bucket{{le="160.0",{labels}}}"#), "2"),
        (format!(r#"_bucket{{le="+Inf",{labels}}}"#), "3"),
        (format!("_sum{{{labels}}}"), "300.06"),
        (format!("_count{{{labels}}}"), "3"),
    ] {
        let line = format!("gen_ai_server_time_to_first_token_seconds{series} {value}");
        assert!(text.contains(&line), "{line}\n{text:#?}");
    }
    for name in ["gen_ai_server_time_per_output_token_seconds", "gen_ai_server_request_duration_seconds"] {
        assert_eq!(lines(&publisher, MetricsOptions::default(), &format!("{name}_count")).len(), 1, "{name}");
    }
}

#[test]
fn model_label_is_the_only_model_and_stays_while_the_engine_is_silent() {
    let publisher = Arc::new(Publisher::new(Node::default()));
    let address: SocketAddr = "10.0.0.1:8000".parse().unwrap();
    measured(&publisher, address);
    let has_model = |expected: bool| {
        set_histograms(&publisher, address, &[1]);
        let lines =
            lines(&publisher, MetricsOptions::default(), "gen_ai_server_request_duration_seconds_count");
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].contains(r#"gen_ai_request_model="m""#), expected, "{lines:?}");
    };
    has_model(false);
    serves(&publisher, address, &["m"]);
    has_model(true);
    publisher.set_engine(address, "", LoadReport::Off("timeout".into()));
    has_model(true);
    serves(&publisher, address, &["m", "adapter"]);
    has_model(false);
    // What the kernel cannot see has no histogram.
    publisher.set_kernel(address, "", LoadReport::Off("TLS".into()));
    assert!(
        lines(&publisher, MetricsOptions::default(), "gen_ai_server_request_duration_seconds").is_empty()
    );
}

#[test]
fn histograms_of_a_replaced_pod_are_gone() {
    let publisher = Arc::new(Publisher::new(Node::default()));
    let address: SocketAddr = "10.0.0.1:8000".parse().unwrap();
    measured(&publisher, address);
    set_histograms(&publisher, address, &[1]);
    let key = EndpointKey { uid: "new".into(), ip: "10.0.0.1".into(), port: 8000, ..EndpointKey::default() };
    publisher.set_endpoints(BTreeMap::from([(address, key)]));
    publisher.set_kernel(address, "new", LoadReport::Measured(KernelLoad::default()));
    set_histograms(&publisher, address, &[1]);
    assert!(
        lines(&publisher, MetricsOptions::default(), "gen_ai_server_request_duration_seconds").is_empty()
    );
}

#[test]
fn dcgm_names_have_the_labels_and_units_of_dcgm_exporter() {
    let publisher = Arc::new(Publisher::new(Node { name: "node-1".into(), ..Node::default() }));
    let address: SocketAddr = "10.0.0.1:8000".parse().unwrap();
    measured(&publisher, address);
    let gpu = Gpu {
        uuid: "GPU-0".into(),
        index: 3,
        name: "NVIDIA H100".into(),
        utilization_percent: Some(40),
        memory_used_bytes: Some(3 << 20),
        power_mw: Some(1500),
        last_xid: Some(79),
        ..Gpu::default()
    };
    publisher.set_gpus(vec![gpu], &BTreeMap::from([(address, vec!["GPU-0".to_owned()])]), None);
    let labels = r#"{gpu="3",UUID="GPU-0",device="nvidia3",modelName="NVIDIA H100",Hostname="node-1",namespace="a",pod="p"}"#;
    let exported = lines(&publisher, MetricsOptions { dcgm: true }, "DCGM_");
    let expected = [
        format!("DCGM_FI_DEV_GPU_UTIL{labels} 40.0"),
        format!("DCGM_FI_DEV_FB_USED{labels} 3.0"),
        format!("DCGM_FI_DEV_POWER_USAGE{labels} 1.5"),
        format!("DCGM_FI_DEV_XID_ERRORS{labels} 79.0"),
    ];
    assert_eq!(exported, expected, "values that are not measured are absent");
    assert!(lines(&publisher, MetricsOptions::default(), "DCGM_").is_empty(), "off by default");
}

#[test]
fn gpu_of_several_pods_has_one_dcgm_series() {
    let publisher = Arc::new(Publisher::new(Node::default()));
    let addresses: [SocketAddr; 2] = ["10.0.0.1:8000", "10.0.0.2:8000"].map(|it| it.parse().unwrap());
    let key = |pod: &str| EndpointKey { pod: pod.into(), ..EndpointKey::default() };
    publisher.set_endpoints(BTreeMap::from([(addresses[0], key("p")), (addresses[1], key("q"))]));
    let gpu = Gpu { uuid: "GPU-0".into(), utilization_percent: Some(40), ..Gpu::default() };
    let users = addresses.map(|address| (address, vec!["GPU-0".to_owned()]));
    publisher.set_gpus(vec![gpu], &users.into(), None);
    let exported = lines(&publisher, MetricsOptions { dcgm: true }, "DCGM_FI_DEV_GPU_UTIL");
    assert_eq!(exported.len(), 1, "{exported:?}");
    assert!(!exported[0].contains("pod="), "{exported:?}");
}

#[test]
fn throttle_reasons_are_series() {
    let publisher = Arc::new(Publisher::new(Node::default()));
    let throttle_reasons = vec!["hw_thermal_slowdown".to_owned()];
    let gpu = Gpu { uuid: "GPU-0".into(), throttle_reasons, ..Gpu::default() };
    publisher.set_gpus(vec![gpu], &BTreeMap::new(), None);
    let expected =
        r#"forebay_gpu_throttle_reason{gpu="0",uuid="GPU-0",name="",reason="hw_thermal_slowdown"} 1"#;
    assert_eq!(lines(&publisher, MetricsOptions::default(), "forebay_gpu_throttle_reason"), [expected]);
}
