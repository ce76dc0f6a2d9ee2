//! Samples all GPUs on a thread: NVML calls block.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use forebay_agent_ebpf::maps::MAX_GPUS;
use nvml_wrapper::{
    Device, EventSet, Nvml, bitmasks::event::EventTypes, enums::event::XidError, error::NvmlError,
};
use tokio::sync::watch;

use super::{
    health::History,
    library::{GpuOff, open},
    sample::{GpuMeasurement, Identity, identify, lost, needs_reload, read, unidentified},
};
use crate::kernel::boottime_ns;

/// Pause before the library is loaded again after a failure: a driver may be installed or restarted while the agent
/// runs.
const RETRY: Duration = Duration::from_secs(30);
/// Interval of searches for new GPUs.
const SEARCH_INTERVAL: Duration = Duration::from_secs(5);
/// Minimum interval of samples caused by XIDs: a broken GPU may report thousands.
const MIN_INTERVAL: Duration = Duration::from_millis(20);
/// Minimum interval of log lines for the same XID of the same GPU.
const LOG_PAUSE: Duration = Duration::from_secs(60);
/// Maximum time for the thread to end. A call to a broken GPU may never return; the agent then ends without it.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum wait for events, after which the thread checks whether it must stop.
const MAX_WAIT: Duration = Duration::from_millis(200);

/// Options of [`GpuMonitor`].
#[derive(Clone, Debug)]
pub struct MonitorOptions {
    /// Libraries to try, in order.
    pub libraries: Vec<PathBuf>,
    /// Interval of samples.
    pub interval: Duration,
}

/// The newest sample of all GPUs.
#[derive(Clone, Debug, PartialEq)]
pub enum GpuReport {
    /// No sample yet.
    Pending,
    /// The values of each GPU.
    Measured(Vec<GpuMeasurement>),
    /// Why there are none.
    Off(GpuOff),
}

/// A thread that samples all GPUs until this value is dropped.
#[derive(Debug)]
pub struct GpuMonitor {
    reports: watch::Receiver<GpuReport>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl GpuMonitor {
    /// Starts the thread.
    pub fn start(options: MonitorOptions) -> std::io::Result<Self> {
        let (sender, reports) = watch::channel(GpuReport::Pending);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let stop = Stop(Arc::clone(&stop));
            thread::Builder::new().name("nvml".into()).spawn(move || run(&options, &sender, &stop))?
        };
        Ok(Self { reports, stop, thread: Some(thread) })
    }

    /// Returns a receiver of the newest report.
    pub fn reports(&self) -> watch::Receiver<GpuReport> {
        self.reports.clone()
    }
}

impl Drop for GpuMonitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let deadline = Instant::now() + STOP_TIMEOUT;
            while !thread.is_finished() {
                if Instant::now() > deadline {
                    tracing::warn!("an NVML call does not return; stopping without its thread");
                    return;
                }
                thread::sleep(Duration::from_millis(1));
            }
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

    /// Sleeps, or returns early if the thread must stop.
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
    // Kept across reloads of the library.
    let mut errors = Errors::default();
    while !stop.is_set() {
        let off = match open(&options.libraries) {
            Ok((nvml, path)) => {
                tracing::info!(library = %path.display(), "reading GPUs through NVML");
                match watch_gpus(&nvml, options.interval, &mut errors, reports, stop) {
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
    errors: &mut Errors,
    reports: &watch::Sender<GpuReport>,
    stop: &Stop,
) -> Result<(), NvmlError> {
    let mut identities = Vec::new();
    let mut silent = BTreeSet::new();
    let mut events = None;
    let mut next_search = Instant::now();
    while !stop.is_set() {
        if Instant::now() >= next_search {
            next_search = Instant::now() + SEARCH_INTERVAL;
            if search(nvml, &mut identities, &mut silent)? {
                events = subscribe(nvml, &identities).unwrap_or_else(|error| {
                    tracing::warn!(%error, "cannot subscribe to XID errors; they are not reported");
                    None
                });
            }
        }
        let now_ns = boottime_ns();
        let measurements = identities
            .iter_mut()
            .map(|identity| read(nvml, identity, errors.of(&identity.uuid), now_ns))
            .collect::<Result<_, _>>()?;
        reports.send_replace(GpuReport::Measured(measurements));
        await_events(events.as_ref(), interval, errors, stop);
    }
    Ok(())
}

/// Updates the list of GPUs. Known GPUs stay, even if they do not respond. A lost GPU that is not known is listed by its
/// index until it responds. Returns whether a GPU is new.
fn search(
    nvml: &Nvml,
    identities: &mut Vec<Identity>,
    silent: &mut BTreeSet<u32>,
) -> Result<bool, NvmlError> {
    let mut any_new = false;
    for index in 0..nvml.device_count()?.min(MAX_GPUS) {
        match nvml.device_by_index(index).and_then(|device| identify(&device, index)) {
            Ok(identity) => {
                silent.remove(&index);
                identities.retain(|known| known.uuid != unidentified(index).uuid);
                let is_free = identities.iter().all(|known| known.index != index);
                match identities.iter_mut().find(|known| known.uuid == identity.uuid) {
                    Some(known) if is_free => known.index = index,
                    Some(_) => {}
                    None => {
                        identities.push(identity);
                        any_new = true;
                    }
                }
            }
            Err(error) if needs_reload(&error) => return Err(error),
            Err(error) => {
                if silent.insert(index) {
                    tracing::warn!(index, %error, "GPU does not respond");
                }
                if lost(&error).is_some() && identities.iter().all(|known| known.index != index) {
                    identities.push(unidentified(index));
                }
            }
        }
    }
    identities.sort_by_key(|identity| identity.index);
    Ok(any_new)
}

/// XID errors of all GPUs.
#[derive(Default)]
struct Errors {
    histories: BTreeMap<String, History>,
    /// By GPU and XID: time of the last log line, and number of errors since.
    logged: BTreeMap<(String, u64), (Instant, u64)>,
}

impl Errors {
    fn of(&mut self, uuid: &str) -> &History {
        self.histories.entry(uuid.to_owned()).or_default()
    }

    fn record(&mut self, uuid: String, xid: u64) {
        self.histories.entry(uuid.clone()).or_default().record(xid, boottime_ns());
        let now = Instant::now();
        let mut suppressed = 0;
        self.logged.retain(|(of, which), (logged_at, since)| {
            let recent = now.duration_since(*logged_at) < LOG_PAUSE;
            if (of, *which) == (&uuid, xid) {
                if recent {
                    *since += 1;
                } else {
                    suppressed = *since;
                }
            }
            recent
        });
        if !self.logged.contains_key(&(uuid.clone(), xid)) {
            tracing::warn!(%uuid, xid, suppressed, "GPU reported an XID error");
            self.logged.insert((uuid, xid), (now, 0));
        }
    }
}

/// Waits until the next sample is due. After an XID it is due [`MIN_INTERVAL`] after the last sample.
fn await_events(events: Option<&XidEvents<'_>>, interval: Duration, errors: &mut Errors, stop: &Stop) {
    let sampled = Instant::now();
    let mut next = sampled + interval;
    let Some(events) = events else {
        return stop.sleep(interval);
    };
    while !stop.is_set() {
        let left = next.saturating_duration_since(Instant::now()).min(MAX_WAIT);
        if left.is_zero() {
            return;
        }
        match events.set.wait(left.as_millis().max(1) as u32) {
            Ok(event) => {
                let Some(XidError::Value(xid)) = event.event_data else { continue };
                let Some(uuid) = events.uuid(&event.device) else { continue };
                errors.record(uuid, xid);
                next = next.min(sampled + MIN_INTERVAL);
            }
            Err(NvmlError::Timeout) => {}
            // A GPU has left the bus. Sampling continues.
            Err(_) => stop.sleep(left),
        }
    }
}

/// Subscription to XID events.
struct XidEvents<'nvml> {
    set: EventSet<'nvml>,
    /// By address of the NVML handle.
    uuids: BTreeMap<usize, String>,
}

impl XidEvents<'_> {
    /// Looks the UUID up by handle: a GPU that is not on the bus cannot be queried.
    fn uuid(&self, device: &Device<'_>) -> Option<String> {
        self.uuids.get(&address(device)).cloned().or_else(|| device.uuid().ok())
    }
}

fn address(device: &Device<'_>) -> usize {
    // SAFETY: the handle is compared, never dereferenced.
    unsafe { device.handle() }.addr()
}

/// Returns `None` if no GPU supports XID events.
fn subscribe<'nvml>(
    nvml: &'nvml Nvml,
    identities: &[Identity],
) -> Result<Option<XidEvents<'nvml>>, NvmlError> {
    let mut set = nvml.create_event_set()?;
    let mut uuids = BTreeMap::new();
    for Identity { uuid, .. } in identities {
        let Ok(device) = nvml.device_by_uuid(uuid.as_str()) else { continue };
        // Some drivers report missing support as an error. Other GPUs must still be subscribed.
        if device.supported_event_types().is_ok_and(|types| types.contains(EventTypes::CRITICAL_XID_ERROR)) {
            set = device.register_events(EventTypes::CRITICAL_XID_ERROR, set).map_err(|error| error.error)?;
            uuids.insert(address(&device), uuid.clone());
        }
    }
    Ok((!uuids.is_empty()).then_some(XidEvents { set, uuids }))
}
