//! State between `nvmlInit_v2` and `nvmlShutdown`: handles, event sets, and the order of events.

use std::{
    collections::BTreeMap,
    env,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nvml_wrapper_sys::bindings as nvml;

use crate::{
    Failure, SCENARIO,
    files::{ScenarioFile, report},
    scenario::{Gpu, MAX_GPUS},
};

/// Interval at which a blocked wait checks for a changed scenario.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Maximum handles of a session. Handles of removed GPUs are kept.
const MAX_HANDLES: usize = 4 * MAX_GPUS;
const MAX_EVENT_SETS: usize = 64;

/// An `nvmlDevice_t`: index of the UUID plus 1. Not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Handle(pub(crate) usize);

/// An `nvmlEventSet_t`. Not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SetId(pub(crate) usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XidEvent {
    pub(crate) device: Handle,
    pub(crate) xid: u64,
}

#[derive(Debug)]
pub(crate) struct Session {
    /// Number of `nvmlInit_v2` calls without a matching `nvmlShutdown`.
    users: u32,
    file: ScenarioFile,
    uuids: Vec<String>,
    sets: BTreeMap<SetId, EventSet>,
    last_set: usize,
}

/// For each GPU, the number of XIDs that were delivered or preceded the registration.
type EventSet = BTreeMap<Handle, usize>;

static SESSION: Mutex<Option<Session>> = Mutex::new(None);

/// `nvmlInit_v2`.
pub(crate) fn init() -> Result<(), Failure> {
    let mut session = SESSION.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(session) = session.as_mut() {
        session.users = session.users.saturating_add(1);
        return Ok(());
    }
    let opened = env::var_os(SCENARIO)
        .ok_or_else(|| format!("{SCENARIO} is not set"))
        .and_then(|path| Session::open(path.into()));
    *session = Some(opened.map_err(|problem| {
        report(&problem);
        Failure(nvml::nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED)
    })?);
    Ok(())
}

/// `nvmlShutdown`.
pub(crate) fn shutdown() -> Result<(), Failure> {
    let mut session = SESSION.lock().unwrap_or_else(PoisonError::into_inner);
    let users = &mut session.as_mut().ok_or(UNINITIALIZED)?.users;
    *users -= 1;
    if *users == 0 {
        *session = None;
    }
    Ok(())
}

/// Calls `call` with the session. Fails without `nvmlInit_v2`.
pub(crate) fn with_session<T>(call: impl FnOnce(&mut Session) -> Result<T, Failure>) -> Result<T, Failure> {
    let mut session = SESSION.lock().unwrap_or_else(PoisonError::into_inner);
    call(session.as_mut().ok_or(UNINITIALIZED)?)
}

/// `nvmlEventSetWait_v2`. Does not hold the lock while it waits.
pub(crate) fn wait(set: SetId, timeout: Duration) -> Result<XidEvent, Failure> {
    let until = Instant::now() + timeout;
    loop {
        if let Some(event) = with_session(|session| session.next_event(set))? {
            return Ok(event);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure(nvml::nvmlReturn_enum_NVML_ERROR_TIMEOUT));
        }
        thread::sleep(left.min(POLL_INTERVAL));
    }
}

pub(crate) const UNINITIALIZED: Failure = Failure(nvml::nvmlReturn_enum_NVML_ERROR_UNINITIALIZED);
pub(crate) const INVALID_ARGUMENT: Failure = Failure(nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
pub(crate) const NOT_SUPPORTED: Failure = Failure(nvml::nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
const NOT_FOUND: Failure = Failure(nvml::nvmlReturn_enum_NVML_ERROR_NOT_FOUND);
const GPU_IS_LOST: Failure = Failure(nvml::nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST);
const NO_MEMORY: Failure = Failure(nvml::nvmlReturn_enum_NVML_ERROR_MEMORY);

impl Session {
    fn open(path: PathBuf) -> Result<Self, String> {
        let file = ScenarioFile::open(path)?;
        Ok(Self { users: 1, file, uuids: Vec::new(), sets: BTreeMap::new(), last_set: 0 })
    }

    pub(crate) fn count(&mut self) -> usize {
        self.file.gpus().len()
    }

    pub(crate) fn handle_at(&mut self, index: usize) -> Result<Handle, Failure> {
        let gpu = self.file.gpus().get(index).ok_or(INVALID_ARGUMENT)?;
        if gpu.lost {
            return Err(GPU_IS_LOST);
        }
        let uuid = gpu.uuid.clone();
        self.handle(uuid)
    }

    pub(crate) fn handle_of(&mut self, uuid: &str) -> Result<Handle, Failure> {
        let gpu = self.file.gpus().iter().find(|gpu| gpu.uuid == uuid).ok_or(NOT_FOUND)?;
        if gpu.lost {
            return Err(GPU_IS_LOST);
        }
        self.handle(uuid.to_owned())
    }

    fn handle(&mut self, uuid: String) -> Result<Handle, Failure> {
        if let Some(known) = self.uuids.iter().position(|known| *known == uuid) {
            return Ok(Handle(known + 1));
        }
        if self.uuids.len() == MAX_HANDLES {
            return Err(NO_MEMORY);
        }
        self.uuids.push(uuid);
        Ok(Handle(self.uuids.len()))
    }

    /// The GPU of a handle. A GPU that was removed from the scenario is lost.
    pub(crate) fn gpu(&mut self, handle: Handle) -> Result<&Gpu, Failure> {
        let index = handle.0.checked_sub(1).ok_or(INVALID_ARGUMENT)?;
        let uuid = self.uuids.get(index).ok_or(INVALID_ARGUMENT)?;
        let gpu = self.file.gpus().iter().find(|gpu| gpu.uuid == *uuid);
        gpu.filter(|gpu| !gpu.lost).ok_or(GPU_IS_LOST)
    }

    pub(crate) fn create_set(&mut self) -> Result<SetId, Failure> {
        if self.sets.len() == MAX_EVENT_SETS {
            return Err(NO_MEMORY);
        }
        self.last_set += 1;
        let id = SetId(self.last_set);
        self.sets.insert(id, EventSet::new());
        Ok(id)
    }

    pub(crate) fn free_set(&mut self, id: SetId) -> Result<(), Failure> {
        self.sets.remove(&id).map(drop).ok_or(INVALID_ARGUMENT)
    }

    /// Registers XID events. Only later XIDs are delivered.
    pub(crate) fn register(&mut self, handle: Handle, events: u64, id: SetId) -> Result<(), Failure> {
        let past = self.gpu(handle)?.xids.as_ref().ok_or(NOT_SUPPORTED)?.len();
        if events != u64::from(nvml::nvmlEventTypeXidCriticalError) {
            return Err(NOT_SUPPORTED);
        }
        self.sets.get_mut(&id).ok_or(INVALID_ARGUMENT)?.entry(handle).or_insert(past);
        Ok(())
    }

    /// Pending events are delivered before the error that a registered GPU is lost.
    fn next_event(&mut self, id: SetId) -> Result<Option<XidEvent>, Failure> {
        let set = self.sets.get_mut(&id).ok_or(INVALID_ARGUMENT)?;
        let gpus = self.file.gpus();
        let mut lost = false;
        for (&device, past) in set {
            let uuid = &self.uuids[device.0 - 1];
            let Some(gpu) = gpus.iter().find(|gpu| gpu.uuid == *uuid) else {
                lost = true;
                continue;
            };
            let xids = gpu.xids.as_deref().unwrap_or_default();
            if let Some(&xid) = xids.get(*past) {
                *past += 1;
                return Ok(Some(XidEvent { device, xid }));
            }
            *past = xids.len();
            lost |= gpu.lost;
        }
        if lost { Err(GPU_IS_LOST) } else { Ok(None) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;

    /// A separate session and the folder of its scenario.
    struct Fixture {
        folder: tempfile::TempDir,
        session: Session,
    }

    fn write(folder: &tempfile::TempDir, json: &str) -> PathBuf {
        let path = folder.path().join("gpus.json");
        let new = folder.path().join("new");
        fs::write(&new, json).unwrap();
        fs::rename(&new, &path).unwrap();
        path
    }

    fn fixture(json: &str) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let session = Session::open(write(&folder, json)).unwrap();
        Fixture { folder, session }
    }

    const XID: u64 = nvml::nvmlEventTypeXidCriticalError as u64;

    /// Sets the session of the process. Only for the test of the exported functions.
    pub(crate) fn init_with(json: &str) -> tempfile::TempDir {
        let Fixture { folder, session } = fixture(json);
        *SESSION.lock().unwrap() = Some(session);
        folder
    }

    #[test]
    fn handle_keeps_its_gpu_when_the_list_changes() {
        let Fixture { folder, mut session } =
            fixture(r#"[{"uuid": "a", "name": "A"}, {"uuid": "b", "name": "B"}]"#);
        let b = session.handle_at(1).unwrap();
        assert_eq!(session.handle_of("b"), Ok(b));
        assert_eq!(session.handle_at(2), Err(INVALID_ARGUMENT));
        assert_eq!(session.handle_of("c"), Err(NOT_FOUND));
        write(&folder, r#"[{"uuid": "b", "name": "B"}]"#);
        assert_eq!(session.gpu(b).unwrap().name, "B");
        assert_eq!(session.handle_at(0), Ok(b));
        write(&folder, "[]");
        assert_eq!(session.gpu(b).unwrap_err(), GPU_IS_LOST);
        assert_eq!(session.gpu(Handle(0)).unwrap_err(), INVALID_ARGUMENT);
        assert_eq!(session.gpu(Handle(9)).unwrap_err(), INVALID_ARGUMENT);
    }

    #[test]
    fn delivers_each_xid_once_and_before_a_lost_gpu() {
        let Fixture { folder, mut session } = fixture(
            r#"[{"uuid": "a", "name": "A", "xids": [13]}, {"uuid": "b", "name": "B", "xids": []},
                {"uuid": "c", "name": "C"}]"#,
        );
        let [a, b, c] = [0, 1, 2].map(|index| session.handle_at(index).unwrap());
        let set = session.create_set().unwrap();
        session.register(a, XID, set).unwrap();
        session.register(b, XID, set).unwrap();
        assert_eq!(session.register(c, XID, set), Err(NOT_SUPPORTED));
        assert_eq!(session.register(a, XID | 1, set), Err(NOT_SUPPORTED));
        assert_eq!(session.register(a, XID, SetId(7)), Err(INVALID_ARGUMENT));
        assert_eq!(session.next_event(set), Ok(None), "XIDs from before the registration are not delivered");

        let scenario = r#"[{"uuid": "a", "name": "A", "xids": [13, 31, 31]},
            {"uuid": "b", "name": "B", "xids": [79], "lost": true}]"#;
        write(&folder, scenario);
        for (device, xid) in [(a, 31), (a, 31), (b, 79)] {
            assert_eq!(session.next_event(set), Ok(Some(XidEvent { device, xid })));
        }
        assert_eq!(session.next_event(set), Err(GPU_IS_LOST));
        write(&folder, &scenario.replace("true", "false"));
        assert_eq!(session.next_event(set), Ok(None));
        session.free_set(set).unwrap();
        assert_eq!(session.next_event(set), Err(INVALID_ARGUMENT));
        assert_eq!(session.free_set(set), Err(INVALID_ARGUMENT));
    }
}
