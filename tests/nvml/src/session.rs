//! What lies between `nvmlInit_v2` and `nvmlShutdown`: handles, event sets, and the
//! rules of who may ask what when.

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
    files::{ScenarioFile, complain},
    scenario::{Gpu, MOST_GPUS},
};

/// How often a blocked wait looks for a changed scenario.
const LOOK: Duration = Duration::from_millis(5);
/// Handles live as long as the session, also those of GPUs that a scenario dropped.
const MOST_HANDLES: usize = 4 * MOST_GPUS;
const MOST_EVENT_SETS: usize = 64;

/// An `nvmlDevice_t`: 1 + the place of its UUID among those seen. Never an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Handle(pub(crate) usize);

/// An `nvmlEventSet_t`. Never an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SetId(pub(crate) usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XidEvent {
    pub(crate) device: Handle,
    pub(crate) xid: u64,
}

#[derive(Debug)]
pub(crate) struct Session {
    /// `nvmlInit_v2` counts, and as many `nvmlShutdown` end it.
    users: u32,
    file: ScenarioFile,
    uuids: Vec<String>,
    sets: BTreeMap<SetId, EventSet>,
    last_set: usize,
}

/// For each GPU, how many of its XIDs are past.
type EventSet = BTreeMap<Handle, usize>;

static SESSION: Mutex<Option<Session>> = Mutex::new(None);

/// `nvmlInit_v2`.
pub(crate) fn begin() -> Result<(), Failure> {
    let mut session = SESSION.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(session) = session.as_mut() {
        session.users = session.users.saturating_add(1);
        return Ok(());
    }
    let opened = env::var_os(SCENARIO)
        .ok_or_else(|| format!("{SCENARIO} names no scenario"))
        .and_then(|path| Session::open(path.into()));
    *session = Some(opened.map_err(|problem| {
        complain(&problem);
        Failure(nvml::nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED)
    })?);
    Ok(())
}

/// `nvmlShutdown`.
pub(crate) fn end() -> Result<(), Failure> {
    let mut session = SESSION.lock().unwrap_or_else(PoisonError::into_inner);
    let users = &mut session.as_mut().ok_or(UNINITIALIZED)?.users;
    *users -= 1;
    if *users == 0 {
        *session = None;
    }
    Ok(())
}

/// Asks the session, if there is one.
pub(crate) fn ask<T>(question: impl FnOnce(&mut Session) -> Result<T, Failure>) -> Result<T, Failure> {
    let mut session = SESSION.lock().unwrap_or_else(PoisonError::into_inner);
    question(session.as_mut().ok_or(UNINITIALIZED)?)
}

/// `nvmlEventSetWait_v2`: blocks the caller, and nobody else.
pub(crate) fn wait(set: SetId, timeout: Duration) -> Result<XidEvent, Failure> {
    let until = Instant::now() + timeout;
    loop {
        if let Some(event) = ask(|session| session.next_event(set))? {
            return Ok(event);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure(nvml::nvmlReturn_enum_NVML_ERROR_TIMEOUT));
        }
        thread::sleep(left.min(LOOK));
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
        if self.uuids.len() == MOST_HANDLES {
            return Err(NO_MEMORY);
        }
        self.uuids.push(uuid);
        Ok(Handle(self.uuids.len()))
    }

    /// The GPU behind a handle. One that the scenario no longer has is lost as well.
    pub(crate) fn gpu(&mut self, handle: Handle) -> Result<&Gpu, Failure> {
        let place = handle.0.checked_sub(1).ok_or(INVALID_ARGUMENT)?;
        let uuid = self.uuids.get(place).ok_or(INVALID_ARGUMENT)?;
        let gpu = self.file.gpus().iter().find(|gpu| gpu.uuid == *uuid);
        gpu.filter(|gpu| !gpu.lost).ok_or(GPU_IS_LOST)
    }

    pub(crate) fn create_set(&mut self) -> Result<SetId, Failure> {
        if self.sets.len() == MOST_EVENT_SETS {
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

    /// XIDs up to now are past: only later ones are delivered.
    pub(crate) fn register(&mut self, handle: Handle, events: u64, id: SetId) -> Result<(), Failure> {
        let past = self.gpu(handle)?.xids.as_ref().ok_or(NOT_SUPPORTED)?.len();
        if events != u64::from(nvml::nvmlEventTypeXidCriticalError) {
            return Err(NOT_SUPPORTED);
        }
        self.sets.get_mut(&id).ok_or(INVALID_ARGUMENT)?.entry(handle).or_insert(past);
        Ok(())
    }

    /// What is there to deliver comes before the news that a watched GPU is lost.
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

    /// A session without the process-wide one, and how to change its scenario.
    struct Stage {
        folder: tempfile::TempDir,
        session: Session,
    }

    fn write(folder: &tempfile::TempDir, json: &str) -> PathBuf {
        let path = folder.path().join("gpus.json");
        let beside = folder.path().join("new");
        fs::write(&beside, json).unwrap();
        fs::rename(&beside, &path).unwrap();
        path
    }

    fn stage(json: &str) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let session = Session::open(write(&folder, json)).unwrap();
        Stage { folder, session }
    }

    const XID: u64 = nvml::nvmlEventTypeXidCriticalError as u64;

    /// Makes a session the process-wide one, for the only test that asks the exports.
    pub(crate) fn begin_with(json: &str) -> tempfile::TempDir {
        let Stage { folder, session } = stage(json);
        *SESSION.lock().unwrap() = Some(session);
        folder
    }

    #[test]
    fn handles_stay_with_their_gpu_when_the_list_changes() {
        let Stage { folder, mut session } =
            stage(r#"[{"uuid": "a", "name": "A"}, {"uuid": "b", "name": "B"}]"#);
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
    fn each_new_xid_comes_once_and_before_the_news_of_a_lost_gpu() {
        let Stage { folder, mut session } = stage(
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
        assert_eq!(session.next_event(set), Ok(None), "what was there before registration is past");

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
