//! The GPU monitor of the agent with the fake NVML library.
//!
//! The library is built by cargo when the tests start, and loaded like that of the driver. It reads the path of its
//! scenario from an environment variable, so every test with a scenario runs again in a separate process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use forebay_agent::gpu::{GpuMeasurement, GpuMonitor, GpuOff, GpuReport, MonitorOptions, pod_of_process};
use forebay_telemetry::v1::{Gpu, GpuHealth};
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::watch, time::timeout};

const SCENARIO: &str = "FOREBAY_NVML_SCENARIO";
/// Set in the process of a test: path of the library.
const LIBRARY: &str = "FOREBAY_TEST_NVML_LIBRARY";
/// Maximum wait for a condition.
const DEADLINE: Duration = Duration::from_secs(20);
/// A short sampling interval.
const OFTEN: Duration = Duration::from_millis(10);
/// A long interval: no second sample during a test.
const NEVER: Duration = Duration::from_secs(3600);

/// Builds the fake NVML library. Returns its path.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--package", "forebay-nvml-sim", "--message-format", "json"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo starts");
        assert!(
            output.status.success(),
            "the fake NVML library does not build: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let artifacts = String::from_utf8(output.stdout).unwrap();
        artifacts
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|message| Some(message.get("filenames")?.as_array()?.clone()))
            .flatten()
            .filter_map(|file| file.as_str().map(PathBuf::from))
            .find(|file| file.file_name().is_some_and(|name| name == "libnvidia_ml.so"))
            .expect("cargo reports libnvidia_ml.so")
    })
}

/// A scenario file and the library that replays it.
struct Harness {
    scenario: PathBuf,
    library: PathBuf,
}

/// Runs one test in a process with the scenario `Harness::scenario`.
fn in_own_process(name: &str, test: impl FnOnce(&Harness)) {
    if let Some(library) = env::var_os(LIBRARY) {
        return test(&Harness { scenario: env::var_os(SCENARIO).unwrap().into(), library: library.into() });
    }
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(SCENARIO, folder.path().join("gpus.json"))
        .env(LIBRARY, library())
        .output()
        .unwrap();
    let output_text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && output_text.contains("1 passed"),
        "{name} in a separate process:\n{output_text}"
    );
}

impl Harness {
    fn write_scenario(&self, gpus: &Value) {
        let new = self.scenario.with_extension("new");
        fs::write(&new, gpus.to_string()).unwrap();
        fs::rename(&new, &self.scenario).unwrap();
    }

    fn watch(&self, interval: Duration) -> Watch {
        Watch::start(vec![self.library.clone()], interval)
    }
}

struct Watch {
    monitor: GpuMonitor,
    reports: watch::Receiver<GpuReport>,
    runtime: Runtime,
}

impl Watch {
    fn start(libraries: Vec<PathBuf>, interval: Duration) -> Self {
        let monitor = GpuMonitor::start(MonitorOptions { libraries, interval }).unwrap();
        let reports = monitor.reports();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { monitor, reports, runtime }
    }

    /// Waits for a report that satisfies the condition.
    fn report(&mut self, condition: impl Fn(&GpuReport) -> bool) -> GpuReport {
        let found = self.runtime.block_on(async {
            let report = timeout(DEADLINE, self.reports.wait_for(condition)).await.ok()?;
            Some(report.unwrap().clone())
        });
        found.unwrap_or_else(|| {
            panic!("no report satisfied the condition; last report: {:#?}", *self.reports.borrow())
        })
    }

    fn measurements(&mut self, condition: impl Fn(&[GpuMeasurement]) -> bool) -> Vec<GpuMeasurement> {
        let report = self
            .report(|report| matches!(report, GpuReport::Measured(measurements) if condition(measurements)));
        let GpuReport::Measured(measurements) = report else {
            unreachable!("the condition requires measurements")
        };
        measurements
    }

    fn off(&mut self) -> GpuOff {
        let GpuReport::Off(off) = self.report(|report| *report != GpuReport::Pending) else {
            panic!("a library was loaded")
        };
        off
    }
}

fn full() -> Value {
    json!({
        "uuid": "GPU-1", "name": "NVIDIA H100 80GB HBM3", "utilization_percent": 87,
        "memory_used_bytes": 64_000_000_000_u64, "memory_total_bytes": 85_520_809_984_u64,
        "temperature_celsius": 61, "power_mw": 412_000, "power_limit_mw": 700_000,
        "sm_clock_mhz": 1755, "sm_clock_max_mhz": 1980, "throttle_reason_bits": 4,
        "processes": [4711, 4712], "xids": [],
    })
}

fn with(mut gpu: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        gpu[name] = value.clone();
    }
    gpu
}

fn named(uuid: &str, changes: &Value) -> Value {
    with(with(full(), &json!({ "uuid": uuid })), changes)
}

fn health(measurement: &GpuMeasurement) -> (GpuHealth, &str) {
    (measurement.gpu.health(), &measurement.gpu.health_reason)
}

const OK: (GpuHealth, &str) = (GpuHealth::Ok, "");

#[test]
fn reports_all_values() {
    in_own_process("reports_all_values", |harness| {
        harness.write_scenario(&json!([named("GPU-0", &json!({"processes": []})), full()]));
        let mut watch = harness.watch(OFTEN);
        let measurements = watch.measurements(|_| true);
        assert_eq!(
            measurements.iter().map(|it| it.gpu.uuid.as_str()).collect::<Vec<_>>(),
            ["GPU-0", "GPU-1"]
        );
        assert!(measurements[0].processes.is_empty());
        let expected = Gpu {
            measured_boottime_ns: measurements[1].gpu.measured_boottime_ns,
            uuid: "GPU-1".into(),
            index: 1,
            name: "NVIDIA H100 80GB HBM3".into(),
            health: GpuHealth::Ok.into(),
            utilization_percent: Some(87),
            memory_used_bytes: Some(64_000_000_000),
            memory_total_bytes: Some(85_520_809_984),
            temperature_celsius: Some(61),
            power_mw: Some(412_000),
            power_limit_mw: Some(700_000),
            sm_clock_mhz: Some(1755),
            sm_clock_max_mhz: Some(1980),
            throttle_reasons: vec!["sw_power_cap".into()],
            ..Gpu::default()
        };
        assert_eq!(
            measurements[1],
            GpuMeasurement { gpu: expected, throttle_bits: Some(4), processes: vec![4711, 4712] }
        );

        harness.write_scenario(&json!([named("GPU-0", &json!({"utilization_percent": 3})), full()]));
        let later = watch.measurements(|it| it[0].gpu.utilization_percent == Some(3));
        assert!(later[0].gpu.measured_boottime_ns > measurements[0].gpu.measured_boottime_ns);
    });
}

#[test]
fn unsupported_values_are_absent() {
    in_own_process("unsupported_values_are_absent", |harness| {
        let idle = json!({"uuid": "GPU-0", "name": "A", "utilization_percent": 0, "power_mw": 0,
            "throttle_reason_bits": 0});
        harness.write_scenario(&json!([idle, {"uuid": "GPU-1", "name": "B"}]));
        let measurements = harness.watch(OFTEN).measurements(|_| true);
        assert_eq!(
            (measurements[0].gpu.utilization_percent, measurements[0].gpu.power_mw),
            (Some(0), Some(0))
        );
        assert_eq!(measurements[0].throttle_bits, Some(0));
        let gpu = Gpu {
            measured_boottime_ns: measurements[1].gpu.measured_boottime_ns,
            uuid: "GPU-1".into(),
            index: 1,
            name: "B".into(),
            health: GpuHealth::Ok.into(),
            ..Gpu::default()
        };
        assert_eq!(measurements[1], GpuMeasurement { gpu, throttle_bits: None, processes: vec![] });
    });
}

#[test]
fn reports_fatal_xid_before_the_next_sample() {
    in_own_process("reports_fatal_xid_before_the_next_sample", |harness| {
        // A GPU without XID events must not prevent events of other GPUs.
        let silent = json!({"uuid": "GPU-S", "name": "without XID events"});
        harness.write_scenario(&json!([silent, full(), named("GPU-2", &json!({"xids": [79]}))]));
        let mut watch = harness.watch(NEVER);
        let first = watch.measurements(|_| true);
        assert_eq!(
            first.iter().map(health).collect::<Vec<_>>(),
            [OK; 3],
            "XIDs from before the start are ignored"
        );

        harness.write_scenario(&json!([
            silent,
            named("GPU-1", &json!({"xids": [79]})),
            named("GPU-2", &json!({"xids": [79]}))
        ]));
        let after = watch.measurements(|it| it[1].gpu.xid_errors == 1);
        assert_eq!(health(&after[1]), (GpuHealth::Lost, "XID 79"));
        assert_eq!(after[1].gpu.last_xid, Some(79));
        assert!(after[1].gpu.last_xid_boottime_ns.unwrap() > first[1].gpu.measured_boottime_ns);
        assert_eq!((health(&after[0]), health(&after[2])), (OK, OK));
    });
}

#[test]
fn gpu_off_the_bus_is_lost_and_keeps_its_processes() {
    in_own_process("gpu_off_the_bus_is_lost_and_keeps_its_processes", |harness| {
        harness.write_scenario(&json!([full()]));
        let mut watch = harness.watch(NEVER);
        watch.measurements(|it| health(&it[0]) == OK);
        // The driver reports XID 79 and then returns errors for this GPU.
        harness.write_scenario(&json!([with(full(), &json!({"xids": [79], "lost": true}))]));
        let measurements = watch.measurements(|it| it[0].gpu.health() == GpuHealth::Lost);
        assert_eq!(health(&measurements[0]), (GpuHealth::Lost, "XID 79"));
        assert_eq!(measurements[0].gpu.xid_errors, 1);
        assert_eq!(measurements[0].gpu.utilization_percent, None);
        assert_eq!(measurements[0].gpu.name, "NVIDIA H100 80GB HBM3");
        assert_eq!(
            measurements[0].processes,
            [4711, 4712],
            "the pods of these processes must get no requests"
        );
    });
}

#[test]
fn lost_gpu_stays_reported_and_others_stay_healthy() {
    in_own_process("lost_gpu_stays_reported_and_others_stay_healthy", |harness| {
        harness.write_scenario(&json!([named("GPU-0", &json!({})), full()]));
        let mut watch = harness.watch(OFTEN);
        watch.measurements(|it| it.len() == 2);
        harness.write_scenario(&json!([named("GPU-0", &json!({"lost": true})), full()]));
        let measurements = watch.measurements(|it| it[0].gpu.health() != GpuHealth::Ok);
        assert_eq!(health(&measurements[0]), (GpuHealth::Lost, "the driver reports the GPU as lost"));
        assert_eq!((health(&measurements[1]), measurements[1].gpu.power_mw), (OK, Some(412_000)));

        // Also if the driver no longer lists it. XIDs of other GPUs are still reported.
        harness.write_scenario(&json!([with(full(), &json!({"xids": [94]}))]));
        let measurements = watch.measurements(|it| it[1].gpu.health() != GpuHealth::Ok);
        assert_eq!(health(&measurements[0]).0, GpuHealth::Lost);
        assert_eq!(measurements[0].processes, [4711, 4712]);
        assert_eq!(health(&measurements[1]), (GpuHealth::Degraded, "XID 94"));
    });
}

#[test]
fn recoverable_xid_degrades_and_application_xid_does_not() {
    in_own_process("recoverable_xid_degrades_and_application_xid_does_not", |harness| {
        harness.write_scenario(&json!([full()]));
        let mut watch = harness.watch(NEVER);
        watch.measurements(|_| true);
        harness.write_scenario(&json!([with(full(), &json!({"xids": [31]}))]));
        assert_eq!(health(&watch.measurements(|it| it[0].gpu.last_xid == Some(31))[0]), OK);
        harness.write_scenario(&json!([with(full(), &json!({"xids": [31, 94]}))]));
        let measurements = watch.measurements(|it| it[0].gpu.last_xid == Some(94));
        assert_eq!(health(&measurements[0]), (GpuHealth::Degraded, "XID 94"));
        // A later application XID does not replace the reason.
        harness.write_scenario(&json!([with(full(), &json!({"xids": [31, 94, 13]}))]));
        let measurements = watch.measurements(|it| it[0].gpu.last_xid == Some(13));
        assert_eq!(health(&measurements[0]), (GpuHealth::Degraded, "XID 94"));
        assert_eq!(measurements[0].gpu.xid_errors, 3);
    });
}

#[test]
fn the_recovery_action_decides_about_a_fatal_xid() {
    in_own_process("the_recovery_action_decides_about_a_fatal_xid", |harness| {
        let gpus = |changes: &Value| json!([with(full(), changes)]);
        harness.write_scenario(&gpus(&json!({"recovery_action": 0})));
        let mut watch = harness.watch(OFTEN);
        assert_eq!(health(&watch.measurements(|_| true)[0]), OK);
        harness.write_scenario(&gpus(&json!({"recovery_action": 1, "xids": [95, 154]})));
        let measurements = watch.measurements(|it| it[0].gpu.last_xid == Some(154));
        let reset = "the driver's recovery action is GPU reset (XID 95)";
        assert_eq!(health(&measurements[0]), (GpuHealth::Lost, reset));
        // After the reset. The error itself is still recent.
        harness.write_scenario(&gpus(&json!({"recovery_action": 0, "xids": [95, 154, 154]})));
        let measurements = watch.measurements(|it| it[0].gpu.health() != GpuHealth::Lost);
        assert_eq!(health(&measurements[0]), (GpuHealth::Degraded, "XID 95"));
    });
}

#[test]
fn thermal_throttling_degrades_until_it_ends() {
    in_own_process("thermal_throttling_degrades_until_it_ends", |harness| {
        harness.write_scenario(&json!([full()]));
        let mut watch = harness.watch(OFTEN);
        assert_eq!(health(&watch.measurements(|_| true)[0]), OK, "a power cap is a configured limit");
        // SW power cap 0x4 and HW thermal slowdown 0x40 (nvml.h).
        harness.write_scenario(&json!([with(full(), &json!({"throttle_reason_bits": 0x44}))]));
        let measurements = watch.measurements(|it| it[0].throttle_bits == Some(0x44));
        assert_eq!(health(&measurements[0]), (GpuHealth::Degraded, "throttled: hw_thermal_slowdown"));
        assert_eq!(measurements[0].gpu.throttle_reasons, ["sw_power_cap", "hw_thermal_slowdown"]);
        harness.write_scenario(&json!([full()]));
        assert_eq!(health(&watch.measurements(|it| it[0].throttle_bits == Some(4))[0]), OK);
    });
}

#[test]
fn missing_library_error_lists_all_paths() {
    let folder = tempfile::tempdir().unwrap();
    let paths =
        [PathBuf::from("libforebay-is-nowhere.so.1"), folder.path().join("a.so"), folder.path().join("b.so")];
    let off = Watch::start(paths.to_vec(), NEVER).off();
    assert_eq!(off, GpuOff::NoLibrary { tried: paths.to_vec() });
    for path in &paths {
        assert!(off.to_string().contains(path.to_str().unwrap()), "{off}");
    }
}

#[test]
fn library_init_failure_is_reported_and_ends_the_search() {
    in_own_process("library_init_failure_is_reported_and_ends_the_search", |harness| {
        // Without a scenario the library loads, but its initialisation fails.
        let off = harness.watch(NEVER).off();
        let GpuOff::NotStarted { path, reason } = &off else { panic!("{off}") };
        assert_eq!((path, reason.as_str()), (&harness.library, "NVIDIA driver is not loaded"));

        harness.write_scenario(&json!([full()]));
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("libnvidia-ml.so.1");
        fs::write(&broken, "no library").unwrap();
        let off = Watch::start(vec![broken.clone(), harness.library.clone()], NEVER).off();
        let GpuOff::NotStarted { path, reason } = &off else { panic!("{off}") };
        assert_eq!(path, &broken);
        assert!(reason.contains("libnvidia-ml.so.1"), "{reason}");

        // A missing file does not end the search.
        let absent = folder.path().join("absent.so");
        let mut watch = Watch::start(vec![absent, harness.library.clone()], NEVER);
        assert_eq!(watch.measurements(|_| true).len(), 1);
    });
}

fn nvml_threads() -> usize {
    fs::read_dir("/proc/self/task")
        .unwrap()
        // The thread may have ended since the folder was read.
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .filter(|name| name.trim_end() == "nvml")
        .count()
}

#[test]
fn thread_ends_when_the_monitor_is_dropped() {
    in_own_process("thread_ends_when_the_monitor_is_dropped", |harness| {
        harness.write_scenario(&json!([full()]));
        let mut waiting_for_events = harness.watch(NEVER);
        waiting_for_events.measurements(|_| true);
        let mut waiting_to_retry = Watch::start(vec!["/nowhere".into()], NEVER);
        waiting_to_retry.off();
        assert_eq!(nvml_threads(), 2);
        drop(waiting_to_retry.monitor);
        assert_eq!(nvml_threads(), 1);
        drop(waiting_for_events.monitor);
        assert_eq!(nvml_threads(), 0);
        assert!(waiting_for_events.reports.has_changed().is_err(), "the channel is closed");
    });
}

#[test]
fn attributes_gpu_processes_to_pods() {
    in_own_process("attributes_gpu_processes_to_pods", |harness| {
        harness.write_scenario(&json!([with(full(), &json!({"processes": [11, 12, 13, 14, 15]}))]));
        let proc = tempfile::tempdir().unwrap();
        let cgroup = |pid: u32, text: &str| {
            let folder = proc.path().join(pid.to_string());
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("cgroup"), text).unwrap();
        };
        let uid = "6b3b1f2e-7a0c-4a57-9d0e-0123456789ab";
        let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
        cgroup(
            11,
            &format!("0::/kubepods.slice/kubepods-burstable.slice/{slice}/cri-containerd-0a1b.scope\n"),
        );
        cgroup(12, &format!("12:memory:/kubepods/besteffort/pod{uid}/0a1b\n1:name=systemd:/init.scope\n"));
        cgroup(13, "0::/system.slice/sshd.service\n");
        cgroup(14, "");
        let measurements = harness.watch(NEVER).measurements(|_| true);
        let pods: Vec<_> =
            measurements[0].processes.iter().map(|pid| pod_of_process(proc.path(), *pid)).collect();
        assert_eq!(pods, [Some(uid.to_owned()), Some(uid.to_owned()), None, None, None]);
    });
}
