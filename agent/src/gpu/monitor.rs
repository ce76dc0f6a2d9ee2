//! NVML blocks, so it has a thread of its own, which ends with its owner.

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
    sample::{GpuReading, Identity, ends_the_watch, identify, lost, read, unidentified},
};
use crate::kernel::boottime_ns;

/// After a failure the library is tried again this often: a driver may be installed
/// or restarted under a running agent.
const RETRY: Duration = Duration::from_secs(30);
/// GPUs that were not there are looked for this often.
const LOOK: Duration = Duration::from_secs(5);
/// Between two samples that XIDs cause: a GPU in trouble may report thousands.
const SHORTEST: Duration = Duration::from_millis(20);
/// Between two log lines on the same XID of the same GPU.
const LOG_PAUSE: Duration = Duration::from_secs(60);
/// A call to a sick GPU may never return; the agent ends without its thread then.
const LONGEST_END: Duration = Duration::from_secs(2);
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
            let deadline = Instant::now() + LONGEST_END;
            while !thread.is_finished() {
                if Instant::now() > deadline {
                    tracing::warn!("a call to NVML does not return; it is left behind");
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
    // Errors are remembered beyond the driver's own restart.
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
    let mut next_look = Instant::now();
    while !stop.is_set() {
        if Instant::now() >= next_look {
            next_look = Instant::now() + LOOK;
            if look(nvml, &mut identities, &mut silent)? {
                events = subscribe(nvml, &identities).unwrap_or_else(|error| {
                    tracing::warn!(%error, "XID errors cannot be watched");
                    None
                });
            }
        }
        let now_ns = boottime_ns();
        let readings = identities
            .iter_mut()
            .map(|identity| read(nvml, identity, errors.of(&identity.uuid), now_ns))
            .collect::<Result<_, _>>()?;
        reports.send_replace(GpuReport::On(readings));
        await_events(events.as_ref(), interval, errors, stop);
    }
    Ok(())
}

/// Which GPUs there are. Those known before stay, answering or not; one that is lost
/// and not known is known by its index alone, until it answers. Says whether there is
/// a GPU that was not known.
fn look(nvml: &Nvml, identities: &mut Vec<Identity>, silent: &mut BTreeSet<u32>) -> Result<bool, NvmlError> {
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
            Err(error) if ends_the_watch(&error) => return Err(error),
            Err(error) => {
                if silent.insert(index) {
                    tracing::warn!(index, %error, "a GPU does not answer");
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

/// All GPUs' memories of their errors, and what was said of them.
#[derive(Default)]
struct Errors {
    histories: BTreeMap<String, History>,
    /// Of each GPU and XID: when it was last logged, and how many came since.
    said: BTreeMap<(String, u64), (Instant, u64)>,
}

impl Errors {
    fn of(&mut self, uuid: &str) -> &History {
        self.histories.entry(uuid.to_owned()).or_default()
    }

    fn record(&mut self, uuid: String, xid: u64) {
        self.histories.entry(uuid.clone()).or_default().record(xid, boottime_ns());
        let now = Instant::now();
        let mut silent = 0;
        self.said.retain(|(of, which), (said, since)| {
            let recent = now.duration_since(*said) < LOG_PAUSE;
            if (of, *which) == (&uuid, xid) {
                if recent {
                    *since += 1;
                } else {
                    silent = *since;
                }
            }
            recent
        });
        if !self.said.contains_key(&(uuid.clone(), xid)) {
            tracing::warn!(%uuid, xid, not_logged_before = silent, "the GPU reported an XID error");
            self.said.insert((uuid, xid), (now, 0));
        }
    }
}

/// Waits until the next sample is due. An XID makes one due at once, but not sooner
/// than [`SHORTEST`] after the last one.
fn await_events(events: Option<&XidEvents<'_>>, interval: Duration, errors: &mut Errors, stop: &Stop) {
    let sampled = Instant::now();
    let mut next = sampled + interval;
    let Some(events) = events else {
        return stop.sleep(interval);
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
                errors.record(uuid, xid);
                next = next.min(sampled + SHORTEST);
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
