//! NVML blocks, so it has a thread of its own, which ends with its owner.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nvml_wrapper::{
    Device, EventSet, Nvml, bitmasks::event::EventTypes, enums::event::XidError, error::NvmlError,
};
use tokio::sync::watch;

use super::{
    health::History,
    library::{GpuOff, open},
    sample::{GpuReading, Identity, identify, read},
};
use crate::kernel::boottime_ns;

/// After a failure the library is tried again this often: a driver may be installed
/// or restarted under a running agent.
const RETRY: Duration = Duration::from_secs(30);
/// How soon the thread sees that it is to end.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

#[derive(Clone, Debug)]
pub struct MonitorOptions {
    /// Libraries to try, in order.
    pub libraries: Vec<PathBuf>,
    pub interval: Duration,
}

/// The newest look at all GPUs.
#[derive(Clone, Debug, PartialEq)]
pub enum GpuReport {
    /// Nothing was tried yet.
    Pending,
    On(Vec<GpuReading>),
    Off(GpuOff),
}

/// Samples until it is dropped.
#[derive(Debug)]
pub struct GpuMonitor {
    reports: watch::Receiver<GpuReport>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl GpuMonitor {
    pub fn start(options: MonitorOptions) -> std::io::Result<Self> {
        let (sender, reports) = watch::channel(GpuReport::Pending);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let stop = Stop(Arc::clone(&stop));
            thread::Builder::new().name("nvml".into()).spawn(move || run(&options, &sender, &stop))?
        };
        Ok(Self { reports, stop, thread: Some(thread) })
    }

    pub fn reports(&self) -> watch::Receiver<GpuReport> {
        self.reports.clone()
    }
}

impl Drop for GpuMonitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the NVML thread panicked");
            }
        }
    }
}

struct Stop(Arc<AtomicBool>);

impl Stop {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Sleeps, or less if it is time to end.
    fn sleep(&self, duration: Duration) {
        let until = Instant::now() + duration;
        while !self.is_set() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }
}

fn run(options: &MonitorOptions, reports: &watch::Sender<GpuReport>, stop: &Stop) {
    while !stop.is_set() {
        let off = match open(&options.libraries) {
            Ok((nvml, path)) => {
                tracing::info!(library = %path.display(), "reading GPUs through NVML");
                match watch_gpus(&nvml, options.interval, reports, stop) {
                    Ok(()) => return,
                    Err(error) => GpuOff::Failing(error.to_string()),
                }
            }
            Err(off) => off,
        };
        reports.send_replace(GpuReport::Off(off));
        stop.sleep(RETRY);
    }
}

fn watch_gpus(
    nvml: &Nvml,
    interval: Duration,
    reports: &watch::Sender<GpuReport>,
    stop: &Stop,
) -> Result<(), NvmlError> {
    let mut identities = Vec::new();
    for index in 0..nvml.device_count()? {
        match nvml.device_by_index(index).and_then(|device| identify(&device, index)) {
            Ok(identity) => identities.push(identity),
            Err(error) => tracing::warn!(index, %error, "a GPU does not answer"),
        }
    }
    let events = subscribe(nvml, &identities).unwrap_or_else(|error| {
        tracing::warn!(%error, "XID errors cannot be watched");
        None
    });
    let mut histories = BTreeMap::<String, History>::new();
    while !stop.is_set() {
        let now_ns = boottime_ns();
        let readings = identities
            .iter_mut()
            .map(|identity| {
                let history = histories.entry(identity.uuid.clone()).or_default();
                read(nvml, identity, history, now_ns)
            })
            .collect();
        reports.send_replace(GpuReport::On(readings));
        let next = Instant::now() + interval;
        await_events(events.as_ref(), next, &mut histories, stop);
    }
    Ok(())
}

/// Waits until the next sample is due, or until an XID makes one due at once.
fn await_events(
    events: Option<&XidEvents<'_>>,
    next: Instant,
    histories: &mut BTreeMap<String, History>,
    stop: &Stop,
) {
    let Some(events) = events else {
        return stop.sleep(next.saturating_duration_since(Instant::now()));
    };
    while !stop.is_set() {
        let left = next.saturating_duration_since(Instant::now()).min(LONGEST_WAIT);
        if left.is_zero() {
            return;
        }
        match events.set.wait(left.as_millis().max(1) as u32) {
            Ok(event) => {
                let Some(XidError::Value(xid)) = event.event_data else { continue };
                let Some(uuid) = events.uuid(&event.device) else { continue };
                tracing::warn!(%uuid, xid, "the GPU reported an XID error");
                histories.entry(uuid).or_default().record(xid, boottime_ns());
                return;
            }
            Err(NvmlError::Timeout) => {}
            // Waiting itself fails (a GPU fell off the bus): the samples go on.
            Err(_) => stop.sleep(left),
        }
    }
}

/// XID events, and whose they are.
struct XidEvents<'nvml> {
    set: EventSet<'nvml>,
    /// By NVML's handle.
    uuids: BTreeMap<usize, String>,
}

impl XidEvents<'_> {
    /// By handle, since a GPU that fell off the bus no longer tells its UUID.
    fn uuid(&self, device: &Device<'_>) -> Option<String> {
        self.uuids.get(&address(device)).cloned().or_else(|| device.uuid().ok())
    }
}

fn address(device: &Device<'_>) -> usize {
    // SAFETY: the handle is only compared with others, never used.
    unsafe { device.handle() }.addr()
}

/// None where no GPU has XID events.
fn subscribe<'nvml>(
    nvml: &'nvml Nvml,
    identities: &[Identity],
) -> Result<Option<XidEvents<'nvml>>, NvmlError> {
    let mut set = nvml.create_event_set()?;
    let mut uuids = BTreeMap::new();
    for Identity { uuid, .. } in identities {
        let Ok(device) = nvml.device_by_uuid(uuid.as_str()) else { continue };
        // One without them (which some drivers say with an error) must not hide the others'.
        if device.supported_event_types().is_ok_and(|types| types.contains(EventTypes::CRITICAL_XID_ERROR)) {
            set = device.register_events(EventTypes::CRITICAL_XID_ERROR, set).map_err(|error| error.error)?;
            uuids.insert(address(&device), uuid.clone());
        }
    }
    Ok((!uuids.is_empty()).then_some(XidEvents { set, uuids }))
}
