//! The agent's GPU monitor on an NVML that plays scenarios.
//!
//! The stand-in is built by cargo when the tests start, so it is never an old one, and
//! loaded as the driver's library is. It finds its scenario through an environment
//! variable, so every test that plays one runs again in a process of its own.

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
/// Set for a test's own process: the library to load.
const LIBRARY: &str = "FOREBAY_TEST_NVML_LIBRARY";
/// Past this a condition is taken not to come.
const DEADLINE: Duration = Duration::from_secs(20);
/// Samples follow each other quickly.
const OFTEN: Duration = Duration::from_millis(10);
/// After the first sample none is due while a test runs.
const NEVER: Duration = Duration::from_secs(3600);

/// Builds the stand-in and tells where it is.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--package", "forebay-nvml-standin", "--message-format", "json"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo, to build the NVML stand-in");
        assert!(output.status.success(), "no NVML stand-in: {}", String::from_utf8_lossy(&output.stderr));
        let artifacts = String::from_utf8(output.stdout).unwrap();
        artifacts
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|message| Some(message.get("filenames")?.as_array()?.clone()))
            .flatten()
            .filter_map(|file| file.as_str().map(PathBuf::from))
            .find(|file| file.file_name().is_some_and(|name| name == "libnvidia_ml.so"))
            .expect("cargo names libnvidia_ml.so among what it built")
    })
}

/// A scenario file and the library that plays it.
struct Harness {
    scenario: PathBuf,
    library: PathBuf,
}

/// Runs one test in a process whose NVML plays `Harness::scenario`.
fn on_stage(name: &str, test: impl FnOnce(&Harness)) {
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
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{name} in its own process:\n{said}");
}

impl Harness {
    fn play(&self, gpus: &Value) {
        let beside = self.scenario.with_extension("new");
        fs::write(&beside, gpus.to_string()).unwrap();
        fs::rename(&beside, &self.scenario).unwrap();
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

    /// The first report, now or later, that a condition holds for.
    fn report(&mut self, condition: impl Fn(&GpuReport) -> bool) -> GpuReport {
        let found = self.runtime.block_on(async {
            let report = timeout(DEADLINE, self.reports.wait_for(condition)).await.ok()?;
            Some(report.unwrap().clone())
        });
        found.unwrap_or_else(|| panic!("waited in vain; the last report is {:#?}", *self.reports.borrow()))
    }

    fn readings(&mut self, condition: impl Fn(&[GpuMeasurement]) -> bool) -> Vec<GpuMeasurement> {
        let report =
            self.report(|report| matches!(report, GpuReport::Measured(readings) if condition(readings)));
        let GpuReport::Measured(readings) = report else { unreachable!("it was asked for") };
        readings
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

fn health(reading: &GpuMeasurement) -> (GpuHealth, &str) {
    (reading.gpu.health(), &reading.gpu.health_reason)
}

const OK: (GpuHealth, &str) = (GpuHealth::Ok, "");

#[test]
fn all_values_arrive() {
    on_stage("all_values_arrive", |harness| {
        harness.play(&json!([named("GPU-0", &json!({"processes": []})), full()]));
        let mut watch = harness.watch(OFTEN);
        let readings = watch.readings(|_| true);
        assert_eq!(readings.iter().map(|it| it.gpu.uuid.as_str()).collect::<Vec<_>>(), ["GPU-0", "GPU-1"]);
        assert!(readings[0].processes.is_empty());
        let expected = Gpu {
            measured_boottime_ns: readings[1].gpu.measured_boottime_ns,
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
            readings[1],
            GpuMeasurement { gpu: expected, throttle_bits: Some(4), processes: vec![4711, 4712] }
        );

        harness.play(&json!([named("GPU-0", &json!({"utilization_percent": 3})), full()]));
        let later = watch.readings(|it| it[0].gpu.utilization_percent == Some(3));
        assert!(later[0].gpu.measured_boottime_ns > readings[0].gpu.measured_boottime_ns);
    });
}

#[test]
fn what_a_gpu_does_not_support_is_absent_and_not_zero() {
    on_stage("what_a_gpu_does_not_support_is_absent_and_not_zero", |harness| {
        let idle = json!({"uuid": "GPU-0", "name": "A", "utilization_percent": 0, "power_mw": 0,
            "throttle_reason_bits": 0});
        harness.play(&json!([idle, {"uuid": "GPU-1", "name": "B"}]));
        let readings = harness.watch(OFTEN).readings(|_| true);
        assert_eq!((readings[0].gpu.utilization_percent, readings[0].gpu.power_mw), (Some(0), Some(0)));
        assert_eq!(readings[0].throttle_bits, Some(0));
        let gpu = Gpu {
            measured_boottime_ns: readings[1].gpu.measured_boottime_ns,
            uuid: "GPU-1".into(),
            index: 1,
            name: "B".into(),
            health: GpuHealth::Ok.into(),
            ..Gpu::default()
        };
        assert_eq!(readings[1], GpuMeasurement { gpu, throttle_bits: None, processes: vec![] });
    });
}

#[test]
fn a_fatal_xid_is_reported_without_waiting_for_the_next_sample() {
    on_stage("a_fatal_xid_is_reported_without_waiting_for_the_next_sample", |harness| {
        // One without XID events must not keep the others' from being watched.
        let silent = json!({"uuid": "GPU-S", "name": "without XID events"});
        harness.play(&json!([silent, full(), named("GPU-2", &json!({"xids": [79]}))]));
        let mut watch = harness.watch(NEVER);
        let first = watch.readings(|_| true);
        assert_eq!(first.iter().map(health).collect::<Vec<_>>(), [OK; 3], "an XID before our time is past");

        harness.play(&json!([
            silent,
            named("GPU-1", &json!({"xids": [79]})),
            named("GPU-2", &json!({"xids": [79]}))
        ]));
        let after = watch.readings(|it| it[1].gpu.xid_errors == 1);
        assert_eq!(health(&after[1]), (GpuHealth::Lost, "XID 79"));
        assert_eq!(after[1].gpu.last_xid, Some(79));
        assert!(after[1].gpu.last_xid_boottime_ns.unwrap() > first[1].gpu.measured_boottime_ns);
        assert_eq!((health(&after[0]), health(&after[2])), (OK, OK));
    });
}

#[test]
fn a_gpu_that_falls_off_the_bus_is_lost_with_its_xid_and_its_processes() {
    on_stage("a_gpu_that_falls_off_the_bus_is_lost_with_its_xid_and_its_processes", |harness| {
        harness.play(&json!([full()]));
        let mut watch = harness.watch(NEVER);
        watch.readings(|it| health(&it[0]) == OK);
        // As it happens: the driver says XID 79, and from then on answers nothing about it.
        harness.play(&json!([with(full(), &json!({"xids": [79], "lost": true}))]));
        let readings = watch.readings(|it| it[0].gpu.health() == GpuHealth::Lost);
        assert_eq!(health(&readings[0]), (GpuHealth::Lost, "XID 79"));
        assert_eq!(readings[0].gpu.xid_errors, 1);
        assert_eq!(readings[0].gpu.utilization_percent, None);
        assert_eq!(readings[0].gpu.name, "NVIDIA H100 80GB HBM3");
        assert_eq!(readings[0].processes, [4711, 4712], "whose pods must get no request");
    });
}

#[test]
fn a_lost_gpu_is_reported_and_not_forgotten_and_the_others_stay_well() {
    on_stage("a_lost_gpu_is_reported_and_not_forgotten_and_the_others_stay_well", |harness| {
        harness.play(&json!([named("GPU-0", &json!({})), full()]));
        let mut watch = harness.watch(OFTEN);
        watch.readings(|it| it.len() == 2);
        harness.play(&json!([named("GPU-0", &json!({"lost": true})), full()]));
        let readings = watch.readings(|it| it[0].gpu.health() != GpuHealth::Ok);
        assert_eq!(health(&readings[0]), (GpuHealth::Lost, "the driver reports the GPU as lost"));
        assert_eq!((health(&readings[1]), readings[1].gpu.power_mw), (OK, Some(412_000)));

        // Also one that the driver no longer lists, and XIDs of others still come.
        harness.play(&json!([with(full(), &json!({"xids": [94]}))]));
        let readings = watch.readings(|it| it[1].gpu.health() != GpuHealth::Ok);
        assert_eq!(health(&readings[0]).0, GpuHealth::Lost);
        assert_eq!(readings[0].processes, [4711, 4712]);
        assert_eq!(health(&readings[1]), (GpuHealth::Degraded, "XID 94"));
    });
}

#[test]
fn a_recoverable_xid_degrades_and_an_applications_does_not() {
    on_stage("a_recoverable_xid_degrades_and_an_applications_does_not", |harness| {
        harness.play(&json!([full()]));
        let mut watch = harness.watch(NEVER);
        watch.readings(|_| true);
        harness.play(&json!([with(full(), &json!({"xids": [31]}))]));
        assert_eq!(health(&watch.readings(|it| it[0].gpu.last_xid == Some(31))[0]), OK);
        harness.play(&json!([with(full(), &json!({"xids": [31, 94]}))]));
        let readings = watch.readings(|it| it[0].gpu.last_xid == Some(94));
        assert_eq!(health(&readings[0]), (GpuHealth::Degraded, "XID 94"));
        // A later one of an application is not what degraded it.
        harness.play(&json!([with(full(), &json!({"xids": [31, 94, 13]}))]));
        let readings = watch.readings(|it| it[0].gpu.last_xid == Some(13));
        assert_eq!(health(&readings[0]), (GpuHealth::Degraded, "XID 94"));
        assert_eq!(readings[0].gpu.xid_errors, 3);
    });
}

#[test]
fn throttling_that_is_a_fault_degrades_and_passes() {
    on_stage("throttling_that_is_a_fault_degrades_and_passes", |harness| {
        harness.play(&json!([full()]));
        let mut watch = harness.watch(OFTEN);
        assert_eq!(health(&watch.readings(|_| true)[0]), OK, "a power cap is a set limit");
        // SW power cap 0x4 and HW thermal slowdown 0x40 (nvml.h).
        harness.play(&json!([with(full(), &json!({"throttle_reason_bits": 0x44}))]));
        let readings = watch.readings(|it| it[0].throttle_bits == Some(0x44));
        assert_eq!(health(&readings[0]), (GpuHealth::Degraded, "throttled: hw_thermal_slowdown"));
        assert_eq!(readings[0].gpu.throttle_reasons, ["sw_power_cap", "hw_thermal_slowdown"]);
        harness.play(&json!([full()]));
        assert_eq!(health(&watch.readings(|it| it[0].throttle_bits == Some(4))[0]), OK);
    });
}

#[test]
fn without_a_library_the_error_names_every_path_tried() {
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
fn a_library_that_does_not_start_says_why_and_ends_the_search() {
    on_stage("a_library_that_does_not_start_says_why_and_ends_the_search", |harness| {
        // No scenario is played: the library loads, and finds no driver.
        let off = harness.watch(NEVER).off();
        let GpuOff::NotStarted { path, reason } = &off else { panic!("{off}") };
        assert_eq!((path, reason.as_str()), (&harness.library, "NVIDIA driver is not loaded"));

        harness.play(&json!([full()]));
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("libnvidia-ml.so.1");
        fs::write(&broken, "no library").unwrap();
        let off = Watch::start(vec![broken.clone(), harness.library.clone()], NEVER).off();
        let GpuOff::NotStarted { path, reason } = &off else { panic!("{off}") };
        assert_eq!(path, &broken);
        assert!(reason.contains("libnvidia-ml.so.1"), "{reason}");

        // One that is not there does not end it.
        let absent = folder.path().join("absent.so");
        let mut watch = Watch::start(vec![absent, harness.library.clone()], NEVER);
        assert_eq!(watch.readings(|_| true).len(), 1);
    });
}

fn nvml_threads() -> usize {
    fs::read_dir("/proc/self/task")
        .unwrap()
        // A thread that ends between the two looks has no name any more.
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .filter(|name| name.trim_end() == "nvml")
        .count()
}

#[test]
fn the_thread_ends_with_its_monitor() {
    on_stage("the_thread_ends_with_its_monitor", |harness| {
        harness.play(&json!([full()]));
        let mut waiting_for_events = harness.watch(NEVER);
        waiting_for_events.readings(|_| true);
        let mut waiting_to_retry = Watch::start(vec!["/nowhere".into()], NEVER);
        waiting_to_retry.off();
        assert_eq!(nvml_threads(), 2);
        drop(waiting_to_retry.monitor);
        assert_eq!(nvml_threads(), 1);
        drop(waiting_for_events.monitor);
        assert_eq!(nvml_threads(), 0);
        assert!(waiting_for_events.reports.has_changed().is_err(), "and says so");
    });
}

#[test]
fn the_processes_of_a_gpu_lead_to_their_pods() {
    on_stage("the_processes_of_a_gpu_lead_to_their_pods", |harness| {
        harness.play(&json!([with(full(), &json!({"processes": [11, 12, 13, 14, 15]}))]));
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
        let readings = harness.watch(NEVER).readings(|_| true);
        let pods: Vec<_> =
            readings[0].processes.iter().map(|pid| pod_of_process(proc.path(), *pid)).collect();
        assert_eq!(pods, [Some(uid.to_owned()), Some(uid.to_owned()), None, None, None]);
    });
}
